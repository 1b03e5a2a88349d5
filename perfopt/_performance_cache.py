"""PerformanceCache: the C type with its async face.

The async methods never block the event loop with the disk or with a plain function: those run in a thread of
``asyncio.to_thread``. What is in memory is returned at once, without a thread.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from perfopt import _core

if TYPE_CHECKING:  # asyncio: whoever calls an async method has it loaded already; nobody else shall wait for it
    from datetime import timedelta

    from perfopt._flights import Flights

__all__ = ["PerformanceCache"]

_MISSING = object()
_making = threading.Lock()  # of any cache's _flights, which loops of several threads share


def _renew_lock() -> None:
    """In a forked child: a thread that is not in it may have held it."""
    global _making
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


async def _call(fn: Callable[[], Any]) -> Any:
    """``fn()``, awaited if it is asynchronous; a plain function runs in a thread."""
    import asyncio

    call = getattr(type(fn), "__call__", fn)  # noqa: B004
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call):
        return await fn()
    value = await asyncio.to_thread(fn)
    return await value if inspect.isawaitable(value) else value


class PerformanceCache(_core.PerformanceCache):
    __slots__ = ()
    __doc__ = _core.PerformanceCache.__doc__

    _flights: (
        Flights  # the slot is the C type's, whose delete() and clear() ask for it; made with the first computation
    )

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
        wait for the key at the same time; its exception goes to all of them, and nothing is stored. Cancelling one of them leaves
        the others and the computation alone; it is cancelled with the last of them (a thread cannot be: what it returns is then
        dropped). Who would wait for itself, over any number of keys, computes anew instead. If the key is deleted or the
        cache cleared meanwhile, the value is returned and not stored.
        """
        from perfopt._flights import Flights, WouldWaitForItself

        found, token = self._begin(key, fn, persist, ttl=ttl, size=size)
        if found:
            return token
        with _making:
            if not hasattr(self, "_flights"):
                self._flights = Flights()
        compute = functools.partial(self._compute, token, fn, persist, ttl, size)
        while True:
            try:
                landed = await self._flights.join(token, compute)
            except WouldWaitForItself:
                break
            if landed is not None:
                return landed[0]
        return await compute()

    async def _compute(
        self,
        token: Any,
        fn: Callable[[], Any],
        persist: bool,
        ttl: float | timedelta | None,
        size: int | None,
    ) -> Any:
        """The value on disk, else that of fn, kept unless the key was deleted meanwhile."""
        import asyncio

        value = await self.aget(token, _MISSING)
        if value is not _MISSING:
            return value
        departure = self._depart(token)
        value = await _call(fn)
        if self.cache_dir is None:
            return self._keep(departure, token, value, persist, ttl=ttl, size=size)
        return await asyncio.to_thread(self._keep, departure, token, value, persist, ttl=ttl, size=size)


PerformanceCache.__module__ = "perfopt.cache"
