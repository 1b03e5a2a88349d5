"""Caching: :func:`cache_result` for functions, :class:`PerformanceCache` for key-value pairs, :func:`fingerprint` for content.

**Keys.** Every key part is typed: ``1``, ``1.0``, ``True``, ``"1"`` and ``b"1"`` are five keys. NumPy arrays, torch tensors
and containers of them are keyed by all of their content (XXH3-128), never by a sample, a ``repr`` or an ``id``. Other
hashable objects count by their own hash and equality, and objects that are only equal to themselves by identity (cached
functions hold those weakly, and their entries go when they die). Floats count by their bits: a NaN equals the same NaN, and
``-0.0`` differs from ``0.0``. Dicts and sets count without regard to order. An ``nn.Module`` counts with its classes, modes,
plain settings and state.

**Values.** NumPy arrays are kept as read-only views, so that nobody changes the cache by accident; every caller, the first
included, gets the same read-only array. The array that the function itself made is not frozen: a function that keeps it and
writes to it later changes the cached value too, so it should return a copy then. ``copy=True`` gives every caller a private,
writable copy instead. A cached tensor that was modified in place (its version counter moved) is a miss. ``None`` is a value. An
exception is not cached.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar, cast, overload

from perfopt import _core
from perfopt._core import fingerprint
from perfopt._performance_cache import PerformanceCache

__all__ = ["CacheInfo", "PerformanceCache", "cache_result", "fingerprint"]

F = TypeVar("F", bound=Callable[..., Any])


class CacheInfo(NamedTuple):
    """Counters of a cached function: calls (hits, misses) and entries (evictions, currsize, maxsize; None is unbounded)."""

    hits: int
    misses: int
    evictions: int
    currsize: int
    maxsize: int | None


def _parameter_names(function: Callable[..., Any]) -> tuple[tuple[str, ...] | None, int, int]:
    """(names, how many by position, how many by position only); names are None where they cannot stand for every argument."""
    if not isinstance(function, types.FunctionType):
        return None, 0, 0
    code = function.__code__
    if code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        return None, 0, 0
    count = code.co_argcount + code.co_kwonlyargcount
    if count > 64:  # MAX_BOUND_NAMES of cached_function_type.c
        return None, 0, 0
    return code.co_varnames[:count], code.co_argcount, code.co_posonlyargcount


def _check_ignore(ignore: str | Iterable[str], function: Callable[..., Any]) -> tuple[str, ...]:
    names = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"ignore must hold parameter names, not {name!r}")
    parameters = inspect.signature(function).parameters if names else {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return names
    for name in names:
        if name not in parameters:
            raise ValueError(f"ignore: {name!r} is no parameter of {function!r}; it has {', '.join(parameters)}")
        if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            raise ValueError(f"ignore: *{name} cannot be ignored; use key=")
    if _parameter_names(function)[0] is None and any(
        parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY for name in names
    ):
        raise ValueError(
            "ignore: with *args, or more than 64 parameters, only keyword-only parameters can be ignored; use key="
        )
    return names


def _is_method_of_a_class(function: Callable[..., Any]) -> bool:
    """Whether a function is written in a class body: behind another decorator it is not told by ``__set_name__``."""
    outer = str(getattr(function, "__qualname__", "")).rpartition(".")[0]
    names = _parameter_names(function)[0]
    return bool(outer) and not outer.endswith("<locals>") and bool(names) and names is not None and names[0] == "self"


def _async_wrapper(cached: Any, function: Callable[..., Any]) -> Any:
    """The same cache around a coroutine function: what is cached is the awaited value."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        hit, value = cached._begin(*args, **kwargs)
        if hit:
            return value
        return cached._finish(value, await function(*args, **kwargs))

    for name in ("cache_info", "cache_clear", "cache_parameters"):
        setattr(wrapper, name, getattr(cached, name))
    return wrapper


def _body_of(function: Callable[..., Any]) -> Any:
    """The function that a call runs: of an object with ``__call__``, that method."""
    if inspect.isroutine(function) or isinstance(function, (type, functools.partial)):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004


def _decorate(
    function: Any,
    *,
    name: str | None,
    max_size: int | None,
    key: Callable[..., Any] | None,
    ignore: str | Iterable[str],
    copy: bool,
) -> Any:
    if isinstance(function, (staticmethod, classmethod)):
        inner = _decorate(function.__func__, name=name, max_size=max_size, key=key, ignore=ignore, copy=copy)
        return type(function)(inner)
    if not callable(function):
        raise TypeError(f"cache_result decorates a function, not {function!r}")
    body = _body_of(function)
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise TypeError(
            f"cache_result cannot cache the generator function {body.__qualname__}(): a generator is used up by its "
            "first reader; return a list or a tuple instead"
        )
    names, positional, positional_only = _parameter_names(function)
    ignored = _check_ignore(ignore, function)
    label = name if name is not None else getattr(function, "__qualname__", type(function).__qualname__)
    parameters = {"name": label, "max_size": max_size, "policy": "lru", "copy": copy, "ignore": ignored}
    cached = _core.CachedFunction(
        function,
        max_size=max_size,
        names=names,
        positional=positional,
        positional_only=positional_only,
        ignored=ignored or None,
        key=key,
        copies=copy,
        info_type=CacheInfo,
        parameters=parameters,
    )
    if _is_method_of_a_class(function):
        cached.__set_name__(None, function.__name__)
    if inspect.iscoroutinefunction(body):
        return _async_wrapper(cached, function)
    return functools.update_wrapper(cached, function)


@overload
def cache_result(name: F, /) -> F: ...
@overload
def cache_result(
    name: str | None = None,
    *,
    max_size: int | None = 1000,
    key: Callable[..., Any] | None = None,
    ignore: str | Iterable[str] = (),
    copy: bool = False,
) -> Callable[[F], F]: ...
def cache_result(
    name: Any = None,
    *,
    max_size: int | None = 1000,
    key: Callable[..., Any] | None = None,
    ignore: str | Iterable[str] = (),
    copy: bool = False,
) -> Any:
    """Cache what a function returns, keyed by its arguments; bare, ``@cache_result("name")``, or with keywords.

    name: a label for reports; the function's qualified name if not given.
    max_size: entries kept, at least 0 (0 stores nothing); ``None`` for no bound. The least recently used one leaves first.
    key: a function of the same arguments (for a method: without ``self``) whose result is the key instead of the arguments.
    ignore: names of parameters that are no part of the key.
    copy: give every caller a private copy instead of the one kept object.

    Positional and keyword spelling of an argument are the same key, except in functions with ``*args`` or ``**kwargs`` and
    in callables written in C; a default left out and the same value written out are two keys. See the module's text for what
    counts as equal, and for arrays and tensors as values.

    Works on functions, methods, ``classmethod`` and ``staticmethod`` in either order, and ``async def`` (the awaited value is
    cached). A method's instance is held weakly, counts by identity, not by content, and its entries go when it dies. The
    wrapper has ``cache_info()``, ``cache_clear()``, ``cache_parameters()`` and ``__wrapped__``, and is pickled by its name.

    Raises TypeError for generator functions, and, when called, for an argument that can be neither hashed nor read, naming it.
    """
    if name is not None and not isinstance(name, str):
        if not (callable(name) or isinstance(name, (staticmethod, classmethod))):
            raise TypeError(f"name must be a str, not {name!r}")
        return _decorate(name, name=None, max_size=max_size, key=key, ignore=ignore, copy=copy)
    if key is not None and not callable(key):
        raise TypeError(f"key must be a function of the arguments, not {key!r}")
    if not isinstance(copy, bool):
        raise TypeError(f"copy must be True or False, not {copy!r}")
    if max_size is not None and (not isinstance(max_size, int) or isinstance(max_size, bool)):
        raise TypeError(f"max_size must be an int or None, not {type(max_size).__name__}")
    if max_size is not None and max_size < 0:
        raise ValueError(f"max_size must be at least 0 (or None for no bound), not {max_size}")

    def decorator(function: F) -> F:
        return cast(F, _decorate(function, name=name, max_size=max_size, key=key, ignore=ignore, copy=copy))

    return decorator
