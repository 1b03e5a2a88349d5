"""Coroutine functions behind :func:`perfopt.cache_result`: what is cached is the awaited value, never a task.

Callers that find nothing join the flight of their key (perfopt._flights). A hit makes neither a task nor a future.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, cast

from perfopt._flights import Flights, WouldWaitForItself

__all__ = ["wrap_coroutine_function"]

_Landing = tuple[Any, Any, bool]  # the value as it is kept, its guard or None, and whether it came from the disk


class _Misses:
    """What callers of one cached coroutine function do who found nothing."""

    def __init__(self, cached: Any, function: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._cached = cached
        self._persists: bool = cached.cache_parameters()["persist"]
        self._function = function
        self.flights = Flights()

    async def alone(self, pending: Any, args: Any, kwargs: Any) -> Any:
        """Computes in the caller's own task; nobody else waits for it. Without asyncio, so the disk is used in the foreground."""
        cached = self._cached
        landing: _Landing | None = None
        if self._persists:
            landing = cached._load(pending)
        if landing is None:
            cached._depart(pending)
            result = await self._function(*args, **kwargs)
            landing = cached._finish(pending, result)
        good, value = cached._share(*landing)
        return value if good else landing[0]

    async def _compute(self, pending: Any, args: Any, kwargs: Any) -> _Landing:
        cached = self._cached
        landing: _Landing | None
        if self._persists:  # the disk must not block the loop
            landing = await asyncio.to_thread(cached._load, pending)
            if landing is not None:
                return landing
        cached._depart(pending)
        result = await self._function(*args, **kwargs)
        if not self._persists:
            landing = cached._finish(pending, result)
        else:
            landing = await asyncio.to_thread(cached._finish, pending, result)
        return cast(_Landing, landing)

    async def join(self, pending: Any, args: Any, kwargs: Any) -> Any:
        """What a caller gets of the flight of its key, which it starts if there is none."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                f"{self._function.__qualname__}(): cache_result computes an async function once for all its callers under "
                "asyncio only; pass single_flight=False to run it without asyncio"
            ) from None
        compute = functools.partial(self._compute, pending, args, kwargs)
        while True:
            try:
                landed = await self.flights.join(pending, compute)
            except WouldWaitForItself:
                break
            if landed is not None:
                (value, guard, is_loaded), is_first = landed
                good, value = self._cached._share(value, guard, is_loaded or not is_first)
                if good:
                    return value
            # Its own function cancelled it, or another caller has changed a tensor in the value: begin anew.
            hit, value = self._cached._find(pending)
            if hit:
                return value
        return await self.alone(pending, args, kwargs)


def wrap_coroutine_function(cached: Any, function: Any, single_flight: bool) -> Any:
    """A coroutine function that looks like function and answers from the cache."""
    misses = _Misses(cached, function)
    flights = misses.flights
    compute = misses.join if single_flight else misses.alone

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        hit, value = cached._begin(*args, **kwargs)
        if hit:
            return value
        if value is None:  # the arguments do not fit: the function's own TypeError
            return await function(*args, **kwargs)
        return await compute(value, args, kwargs)

    @functools.wraps(cached.invalidate)
    def invalidate(*args: Any, **kwargs: Any) -> bool:
        flights.delist(cached._pending(*args, **kwargs))
        return bool(cached.invalidate(*args, **kwargs))

    @functools.wraps(cached.cache_clear)
    def cache_clear() -> None:
        flights.delist_all()
        cached.cache_clear()

    methods = {
        "cache_info": cached.cache_info,
        "cache_parameters": cached.cache_parameters,
        "cache_clear": cache_clear,
        "invalidate": invalidate,
    }
    for name, method in methods.items():
        setattr(wrapper, name, method)
    return wrapper
