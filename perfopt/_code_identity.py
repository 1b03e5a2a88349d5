"""What a function computes, as a value that is the same in every process: what changes a persistent key with the code.

Taken in: the byte code, its constants (those of functions and comprehensions inside it, too) and the names it uses, its
parameters and their defaults, and what its closure holds. Left out: where the code stands (file, line numbers), the docstring
of the function itself, and annotations. Not seen: the code of the functions and the values of the globals that it names, and of
extension modules; ``version=`` stands for those. Byte code belongs to a minor version of Python, which is taken in as well.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

from perfopt import _core

__all__ = ["code_identity"]

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
        if callable(value) and not _has_content(value):
            return self.function(value)
        return ("content", _core.fingerprint(value)) if _has_content(value) else ("type", *_place(type(value)))

    def function(self, function: Any) -> tuple[Any, ...]:
        if any(function is outer for outer in self._inside):
            return ("itself", *_place(function))
        self._inside.append(function)
        try:
            return self._described(function)
        finally:
            self._inside.pop()

    def _described(self, function: Any) -> tuple[Any, ...]:
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
        if wrapped is not None:
            return "wrapper", _place(type(function)), self.function(wrapped)
        call = getattr(type(function), "__call__", None)  # noqa: B004
        if isinstance(call, types.FunctionType):
            return "object", _place(type(function)), self.function(call)
        return "builtin", *_place(function)

    def _python_function(self, function: types.FunctionType) -> tuple[Any, ...]:
        keyword_defaults = sorted((function.__kwdefaults__ or {}).items())
        return (
            _code(function.__code__, function.__doc__),
            tuple(map(self.content, function.__defaults__ or ())),
            tuple((name, self.content(value)) for name, value in keyword_defaults),
            tuple(map(self._cell, function.__closure__ or ())),
        )

    def _cell(self, cell: types.CellType) -> Any:
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            return "empty"
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
