"""PerformanceCache: the C type with its async face.

The async methods never block the event loop with the disk or with a plain function: those run in a thread of
``asyncio.to_thread``. What is in memory is returned at once, without a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import weakref
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from perfopt import _core

__all__ = ["PerformanceCache"]

_MISSING = object()

# The keys whose values the current task is computing: a function that asks for its own key shall not wait for itself.
_computing: contextvars.ContextVar[tuple[tuple[int, Any], ...]] = contextvars.ContextVar("_computing", default=())


async def _call(fn: Callable[[], Any]) -> Any:
    """``fn()``, awaited if it is asynchronous; a plain function runs in a thread."""
    call = getattr(type(fn), "__call__", fn)  # noqa: B004
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call):
        return await fn()
    value = await asyncio.to_thread(fn)
    return await value if inspect.isawaitable(value) else value


class PerformanceCache(_core.PerformanceCache):
    __slots__ = ("_flights",)
    __doc__ = _core.PerformanceCache.__doc__

    # Running computations by event loop and key; made when first needed.
    _flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, asyncio.Task[Any]]]

    async def aget(self, key: Any, default: Any = None) -> Any:
        """``get()`` without blocking the event loop: what is in memory comes at once, the disk is read in a thread."""
        found, value = self._peek(key)
        if found:
            return value
        if self.cache_dir is None:
            return self.get(value, default)
        return await asyncio.to_thread(self.get, value, default)

    async def aset(
        self,
        key: Any,
        value: Any,
        persist: bool = False,
        *,
        ttl: float | timedelta | None = None,
        size: int | None = None,
    ) -> None:
        """``set()`` without blocking the event loop: a cache with a directory works in a thread."""
        if self.cache_dir is None:
            self.set(key, value, persist, ttl=ttl, size=size)
        else:
            await asyncio.to_thread(self.set, key, value, persist, ttl=ttl, size=size)

    async def aget_or_compute(
        self,
        key: Any,
        fn: Callable[[], Any] | Callable[[], Awaitable[Any]],
        persist: bool = False,
        *,
        ttl: float | timedelta | None = None,
        size: int | None = None,
    ) -> Any:
        """The value stored under key; if there is none, that of ``fn()``, which is then stored as ``set()`` would.

        fn: a coroutine function, or a plain one, which runs in a thread. It runs once for all tasks of this event loop that
        wait for the key at the same time. Cancelling one of them leaves the others and the computation alone; the exception of
        fn goes to all of them and nothing is stored. A fn that asks for its own key computes it anew instead of waiting for
        itself.
        """
        found, token = self._peek(key)
        if found:
            return token
        flight = (id(self), token)
        if flight in _computing.get():
            return await self._compute(token, fn, persist, ttl, size)
        loop = asyncio.get_running_loop()
        if not hasattr(self, "_flights"):
            self._flights = weakref.WeakKeyDictionary()
        flights = self._flights.setdefault(loop, {})
        task = flights.get(token)
        if task is None:
            task = loop.create_task(self._compute(token, fn, persist, ttl, size))
            flights[token] = task

            def land(task: asyncio.Task[Any]) -> None:
                del flights[token]
                if not task.cancelled():
                    task.exception()  # seen, also when every waiter was cancelled

            task.add_done_callback(land)
        return await asyncio.shield(task)

    async def _compute(
        self,
        token: Any,
        fn: Callable[[], Any],
        persist: bool,
        ttl: float | timedelta | None,
        size: int | None,
    ) -> Any:
        """The value on disk, else that of fn, kept. Runs as a task of its own, or inside the one that computes the same key."""
        value = await self.aget(token, _MISSING)
        if value is not _MISSING:
            return value
        mark = _computing.set((*_computing.get(), (id(self), token)))
        try:
            value = await _call(fn)
        finally:
            _computing.reset(mark)
        if self.cache_dir is None:
            return self._keep(token, value, persist, ttl=ttl, size=size)
        return await asyncio.to_thread(self._keep, token, value, persist, ttl=ttl, size=size)


PerformanceCache.__module__ = "perfopt.cache"
