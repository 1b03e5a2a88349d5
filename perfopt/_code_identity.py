"""What a function computes, as a value that is the same in every process: what changes a persistent key with the code.

Taken in: the byte code, its constants (those of functions and comprehensions inside it, too) and the names it uses, its
parameters and their defaults, what its closure holds, and the state of an object that is called. Objects count by their content
(:func:`perfopt.fingerprint`), functions as described here, and others by what pickle would keep of them. What has neither raises
TypeError: two functions that differ in it would take each other's results. Left out: where the code stands (file, line numbers),
the docstring of the function itself, and annotations. Not seen: the code of the functions and the values of the globals that it
names, of classes, and of extension modules; ``version=`` stands for those. Byte code belongs to a minor version of Python, which
is taken in as well.
"""

from __future__ import annotations

import copyreg
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from perfopt import _core

__all__ = ["code_identity", "module_of"]

_MAINS = ("__main__", "__mp_main__")
_SAME_FOR_ALL = ~0x4000000  # CO_HAS_DOCSTRING of Python 3.13 on


def _code(code: types.CodeType, docstring: str | None = None) -> tuple[Any, ...]:
    constants = tuple(_code(item) if isinstance(item, types.CodeType) else item for item in code.co_consts)
    if docstring is not None and constants[:1] == (docstring,):
        constants = (None, *constants[1:])
    return (
        code.co_code,
        getattr(code, "co_exceptiontable", b""),
        constants,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _SAME_FOR_ALL),
    )


def _place(value: Any) -> tuple[str, str]:
    return str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", type(value).__qualname__))


class _Reader:
    """Turns functions and the values around them into content; remembers which it is in, for those that name themselves."""

    def __init__(self) -> None:
        self._inside: list[Any] = []

    def content(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if isinstance(value, type):
            return "class", *_place(value)
        if _has_content(value):
            return "content", _core.fingerprint(value)
        return self._once(value, self._callable if callable(value) else self._state)

    def function(self, function: Any) -> tuple[Any, ...]:
        return self._once(function, self._callable)

    def _once(self, value: Any, describe: Callable[[Any], tuple[Any, ...]]) -> tuple[Any, ...]:
        if any(value is outer for outer in self._inside):
            return ("itself", *_place(value))
        self._inside.append(value)
        try:
            return describe(value)
        finally:
            self._inside.pop()

    def _callable(self, function: Any) -> tuple[Any, ...]:
        if isinstance(function, functools.partial):
            keywords = tuple((name, self.content(value)) for name, value in sorted(function.keywords.items()))
            return "partial", self.function(function.func), tuple(map(self.content, function.args)), keywords
        if isinstance(function, types.MethodType):
            return "method", self.function(function.__func__), self.content(function.__self__)
        if isinstance(function, type):
            return "class", *_place(function)
        wrapped = getattr(function, "__wrapped__", None)
        if isinstance(function, types.FunctionType):
            return ("function", *self._python_function(function), None if wrapped is None else self.function(wrapped))
        call = getattr(type(function), "__call__", None)  # noqa: B004
        if isinstance(call, types.FunctionType):
            state = ("content", _core.fingerprint(function)) if _has_content(function) else self._state(function)
            return "object", _place(type(function)), self.function(call), state
        if wrapped is not None:
            return "wrapper", _place(type(function)), self.function(wrapped)
        owner = getattr(function, "__self__", None)
        if inspect.isroutine(function) and (owner is None or isinstance(owner, types.ModuleType)):
            return "builtin", *_place(function)
        return self._state(function)

    def _state(self, value: Any) -> tuple[Any, ...]:
        """An object without content of its own: what it is made of, or what pickle would make it from again."""
        kind = type(value)
        if kind in (tuple, list):
            return (kind.__name__, *map(self.content, value))
        if kind in (set, frozenset):
            return (kind.__name__, *sorted(map(self.content, value), key=repr))
        if kind is dict and all(type(name) is str for name in value):
            return ("dict", *((name, self.content(value[name])) for name in sorted(value)))
        try:
            reduce = copyreg.dispatch_table.get(kind)
            made_of = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception as error:
            raise TypeError(
                f"cannot tell the function from one with another {kind.__module__}.{kind.__qualname__} object in its "
                "closure, defaults or attributes, because that has no content that another process could find again; "
                "pass version= to cache_result (a str or an int, to be changed whenever the results change)"
            ) from error
        if isinstance(made_of, str):
            return "global", *_place(value), made_of
        make, arguments, *rest = made_of
        parts = (list(part) if isinstance(part, Iterator) else part for part in rest)
        return "made", _place(make), self.content(arguments), tuple(map(self.content, parts))

    def _python_function(self, function: types.FunctionType) -> tuple[Any, ...]:
        keyword_defaults = sorted((function.__kwdefaults__ or {}).items())
        return (
            _code(function.__code__, function.__doc__),
            tuple(map(self.content, function.__defaults__ or ())),
            tuple((name, self.content(value)) for name, value in keyword_defaults),
            tuple(
                self._cell(function, *item)
                for item in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            ),
        )

    def _cell(self, function: types.FunctionType, name: str, cell: types.CellType) -> Any:
        try:
            value = cell.cell_contents
        except ValueError:
            if name in (function.__name__, "__class__"):  # what is being defined at this moment
                return "itself"
            raise TypeError(
                f"{function.__qualname__}() uses the variable {name!r} of the function around it, which has no value yet: "
                "give it one before, or pass version= to cache_result"
            ) from None
        return self.content(value)


def _has_content(value: Any) -> bool:
    try:
        _core.fingerprint(value)
    except TypeError:
        return False
    return True


def code_identity(function: Callable[..., Any]) -> bytes:
    """16 bytes that stand for what function computes, as far as it can be read from the function itself."""
    return _core.fingerprint(sys.version_info[:2], _Reader().function(function))


def module_of(function: Callable[..., Any]) -> tuple[str, str | None]:
    """The module that a function is of, and for ``__main__``, which means another one in every program, what tells it from those.

    That is the name of the module that ``python -m`` runs, else the path of the script, also of the ``__main__.py`` in a folder
    or an archive; None in an interactive session. It is read where the function was defined, because what runs a script for
    another purpose, as a profiler does, may be the process's ``__main__`` itself.
    A process that multiprocessing starts calls it ``__mp_main__``: that is the same module.
    """
    module = str(getattr(function, "__module__", None))
    if module not in _MAINS:
        return module, None
    names = getattr(inspect.unwrap(function), "__globals__", {})
    if names.get("__name__") not in _MAINS:
        names = getattr(sys.modules.get(module), "__dict__", {})
    spec, path = names.get("__spec__"), names.get("__file__")
    if spec is not None and spec.name != "__main__":
        return "__main__", spec.name
    return "__main__", None if path is None else os.path.realpath(path)
