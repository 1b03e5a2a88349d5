"""PerformanceCache: the C type with its async face.

The async methods never block the event loop with the disk or with a plain function: those run in a thread of
``asyncio.to_thread``. What is in memory is returned at once, without a thread.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from perfopt import _core

if TYPE_CHECKING:  # whoever calls an async method has it loaded already; nobody else shall wait for it
    import asyncio
    from datetime import timedelta

__all__ = ["PerformanceCache"]

_MISSING = object()


class _Flight:
    """One computation of one key on one event loop, and the flights that it waits for itself at this moment."""

    __slots__ = ("task", "waits_for")

    def __init__(self) -> None:
        self.waits_for: list[_Flight] = []
        self.task: asyncio.Task[Any]

    def leads_to(self, other: _Flight) -> bool:
        """Whether this flight is that one, or waits for it over any number of others."""
        seen: set[_Flight] = set()
        ahead = [self]
        while ahead:
            flight = ahead.pop()
            if flight is other:
                return True
            if flight not in seen:
                seen.add(flight)
                ahead.extend(flight.waits_for)
        return False


_innermost: contextvars.ContextVar[_Flight | None] = contextvars.ContextVar("perfopt.cache.flight", default=None)
_lock = threading.Lock()  # of every cache's _flights, which loops of several threads share


async def _call(fn: Callable[[], Any]) -> Any:
    """``fn()``, awaited if it is asynchronous; a plain function runs in a thread."""
    import asyncio

    call = getattr(type(fn), "__call__", fn)  # noqa: B004
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call):
        return await fn()
    value = await asyncio.to_thread(fn)
    return await value if inspect.isawaitable(value) else value


class PerformanceCache(_core.PerformanceCache):
    __slots__ = ("_flights",)
    __doc__ = _core.PerformanceCache.__doc__

    # Running computations by event loop and key; made when first needed.
    _flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, _Flight]]

    async def aget(self, key: Any, default: Any = None) -> Any:
        """``get()`` without blocking the event loop: what is in memory comes at once, the disk is read in a thread."""
        import asyncio

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
        import asyncio

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
        fn goes to all of them and nothing is stored. Who would wait for itself, over any number of keys, computes
        anew instead.
        """
        import asyncio

        found, token = self._peek(key)
        if found:
            return token
        flights = self._flights_of(asyncio.get_running_loop())
        flight = flights.get(token)
        inside = _innermost.get()
        if flight is None:
            flight = flights[token] = _Flight()
            flight.task = asyncio.create_task(self._compute(flight, token, fn, persist, ttl, size))
            flight.task.add_done_callback(lambda task: self._land(flights, token, task))
        elif inside is not None and flight.leads_to(inside):
            return await self._compute(inside, token, fn, persist, ttl, size)  # waiting would be for ever
        if inside is None:
            return await asyncio.shield(flight.task)
        inside.waits_for.append(flight)
        try:
            return await asyncio.shield(flight.task)
        finally:
            inside.waits_for.remove(flight)

    def _flights_of(self, loop: asyncio.AbstractEventLoop) -> dict[Any, _Flight]:
        with _lock:
            if not hasattr(self, "_flights"):
                self._flights = weakref.WeakKeyDictionary()
            return self._flights.setdefault(loop, {})

    @staticmethod
    def _land(flights: dict[Any, _Flight], token: Any, task: asyncio.Task[Any]) -> None:
        del flights[token]
        if not task.cancelled():
            task.exception()  # seen, also when every waiter was cancelled

    async def _compute(
        self,
        flight: _Flight,
        token: Any,
        fn: Callable[[], Any],
        persist: bool,
        ttl: float | timedelta | None,
        size: int | None,
    ) -> Any:
        """The value on disk, else that of fn, kept; what fn asks for counts as asked by this flight."""
        import asyncio

        value = await self.aget(token, _MISSING)
        if value is not _MISSING:
            return value
        mark = _innermost.set(flight)
        try:
            value = await _call(fn)
        finally:
            _innermost.reset(mark)
        if self.cache_dir is None:
            return self._keep(token, value, persist, ttl=ttl, size=size)
        return await asyncio.to_thread(self._keep, token, value, persist, ttl=ttl, size=size)


PerformanceCache.__module__ = "perfopt.cache"
