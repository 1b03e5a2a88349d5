"""What every decorator of functions needs: a block of the caller's around each call, whatever kind of function it is.

``enclose`` below is called once a call and gives the context manager that is open while the call runs: around the whole
await of a coroutine, and from the first ``next`` of a generator to its end or close. Exceptions pass through it.
"""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["around", "around_suspending", "decorate", "like_generator", "suspending_kind"]

Enclose = Callable[[], "AbstractContextManager[Any]"]

_ITERABLE_COROUTINE = 0x100  # inspect.CO_ITERABLE_COROUTINE: made by types.coroutine(), so that it can be awaited


def decorate(rule: str, function: Any, wrap: Callable[[Any], Any]) -> Any:
    """``wrap(function)``, inside staticmethod and classmethod objects too; TypeError, begun with rule, for no function."""
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(decorate(rule, function.__func__, wrap))
    if isinstance(function, type):
        raise TypeError(f"{rule}, not classes: decorate the methods of {function.__name__}")
    if not callable(function):
        raise TypeError(f"{rule}, not {type(function).__name__}: {function!r}")
    return wrap(function)


def around(function: Any, enclose: Enclose) -> Any:
    """A function of the same kind as function whose calls run inside ``enclose()``."""
    suspending = around_suspending(function, enclose)
    if suspending is not None:
        return suspending

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with enclose():
            return function(*args, **kwargs)

    return called


def suspending_kind(function: Any) -> str | None:
    """``"coroutine"``, ``"generator"`` or ``"asyncgen"`` for what runs only when awaited or iterated; None for the rest."""
    import inspect  # milliseconds that only a program which decorates should pay

    call = inspect.getattr_static(type(function), "__call__", None)  # of an object whose __call__ is one of them
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        return "coroutine"
    if inspect.isgeneratorfunction(function) or inspect.isgeneratorfunction(call):
        return "generator"
    if inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(call):
        return "asyncgen"
    return None


def like_generator(function: Any, wrapper: Any) -> Any:
    """The wrapper of a generator function, awaitable if that is (``types.coroutine``)."""
    if getattr(getattr(function, "__code__", None), "co_flags", 0) & _ITERABLE_COROUTINE:
        return types.coroutine(wrapper)
    return wrapper


def around_suspending(function: Any, enclose: Enclose) -> Any:
    """The same for what runs only when it is awaited or iterated; None for a function that runs when it is called."""
    kind = suspending_kind(function)
    if kind == "coroutine":
        return _around_coroutine(function, enclose)
    if kind == "generator":
        return _around_generator(function, enclose)
    return _around_async_generator(function, enclose) if kind == "asyncgen" else None


def _around_coroutine(function: Any, enclose: Enclose) -> Any:
    @functools.wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        with enclose():
            return await function(*args, **kwargs)

    return awaited


def _around_generator(function: Any, enclose: Enclose) -> Any:
    @functools.wraps(function)
    def generated(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with enclose():
            return (yield from function(*args, **kwargs))

    return like_generator(function, generated)


def _around_async_generator(function: Any, enclose: Enclose) -> Any:
    @functools.wraps(function)
    async def generated(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with enclose():
            inner = function(*args, **kwargs)
            # What `yield from` does for a plain generator: values, sent values and thrown exceptions go through.
            step = inner.__anext__()
            while True:
                try:
                    value = await step
                except StopAsyncIteration:
                    return
                try:
                    sent = yield value
                except GeneratorExit:
                    await inner.aclose()
                    raise
                except BaseException as thrown:
                    step = inner.athrow(thrown)
                else:
                    step = inner.asend(sent)

    return generated
