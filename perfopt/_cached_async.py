"""Coroutine functions behind :func:`perfopt.cache_result`: what is cached is the awaited value, never a task.

A call that finds nothing takes off: one task for each key and running loop computes, and every caller waits for it. That task is
its own, so that cancelling one caller does not disturb the others; it is cancelled with its last caller, who then waits for its
clean-up, as if it had awaited the function itself. A hit makes neither a task nor a future.

Who would wait for itself computes on its own instead: a computation knows what it waits for, and the computation that a call is
made in is found through a context variable, also from tasks that it starts. Calls that other event loops make know nothing of
this loop's flights.

Nothing here keeps a loop, a task or an argument alive: flights are held by those who wait for them, and only weakly from here.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

__all__ = ["wrap_coroutine_function"]

_Landing = tuple[Any, Any, bool]  # the value as it is kept, its guard or None, and whether it came from the disk


class _Computation:
    """One computation of one key: what it waits for at this moment, and whether its key still leads to it."""

    __slots__ = ("awaits", "is_listed")

    def __init__(self) -> None:
        self.awaits: list[_Computation] = []
        self.is_listed = True

    def leads_to(self, other: _Computation | None) -> bool:
        """Whether this computation is that one, or waits for it over any number of others."""
        seen: set[_Computation] = set()
        ahead = [self] if other is not None else []
        while ahead:
            computation = ahead.pop()
            if computation is other:
                return True
            if computation not in seen:
                seen.add(computation)
                ahead.extend(computation.awaits)
        return False


_innermost: ContextVar[_Computation | None] = ContextVar("perfopt.cache.innermost", default=None)


class _Flight:
    """A computation, its task, and how many wait for it."""

    __slots__ = ("__weakref__", "computation", "task", "waiters")

    def __init__(self) -> None:
        self.computation = _Computation()
        self.waiters = 0
        self.task: asyncio.Task[_Landing]


_Listed = WeakValueDictionary[Any, _Flight]  # by pending call


def _delist(listed: _Listed, pending: Any, computation: _Computation) -> None:
    """Later callers of this key compute anew, and what this computation returns is not kept any more."""
    if computation.is_listed:
        computation.is_listed = False
        listed.pop(pending, None)


def _look_at_outcome(task: asyncio.Task[_Landing]) -> None:
    """An exception that nobody is left to see is not reported as never retrieved: it came from a cancellation."""
    if not task.cancelled():
        task.exception()


async def _landing_of(flight: _Flight, listed: _Listed, pending: Any) -> None:
    """Returns when the flight's task is done; see the module's text for what a cancellation does."""
    task, mine = flight.task, _innermost.get()
    flight.waiters += 1
    if mine is not None:
        mine.awaits.append(flight.computation)
    try:
        await asyncio.wait((task,))
    except BaseException as error:  # a cancellation, or the end of this coroutine by close()
        if flight.waiters == 1 and not task.done() and not task.get_loop().is_closed():
            _delist(listed, pending, flight.computation)
            task.cancel()
            if isinstance(error, asyncio.CancelledError):
                await asyncio.wait((task,))
        raise
    finally:
        flight.waiters -= 1
        if mine is not None:
            mine.awaits.remove(flight.computation)
        del flight, task  # an exception's traceback must not lead back to its task


class _Flights:
    """The flights of one cached coroutine function, by loop and key."""

    def __init__(self, cached: Any, function: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._cached = cached
        self._persists: bool = cached.cache_parameters()["persist"]
        self._function = function
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Listed] = WeakKeyDictionary()

    async def alone(self, pending: Any, args: Any, kwargs: Any) -> Any:
        """Computes in the caller's own task; nobody else waits for it. Without asyncio, so the disk is used in the foreground."""
        cached = self._cached
        landing: _Landing | None = None
        if self._persists:
            landing = cached._load(pending)
        if landing is None:
            cached._depart(pending)
            landing = cached._finish(pending, await self._function(*args, **kwargs), True)
        good, value = cached._share(*landing)
        return value if good else landing[0]

    async def _compute(
        self, computation: _Computation, listed: _Listed, pending: Any, args: Any, kwargs: Any
    ) -> _Landing:
        _innermost.set(computation)
        cached = self._cached
        landing: _Landing | None
        try:
            if self._persists:  # the disk must not block the loop
                landing = await asyncio.to_thread(cached._load, pending)
                if landing is not None:
                    return landing
            cached._depart(pending)
            result = await self._function(*args, **kwargs)
            if not self._persists:
                landing = cached._finish(pending, result, computation.is_listed)
            else:
                landing = await asyncio.to_thread(cached._finish, pending, result, computation.is_listed)
                if not computation.is_listed:  # delisted while it was written
                    await asyncio.to_thread(cached._forget, pending)
            return cast(_Landing, landing)
        finally:
            _delist(listed, pending, computation)

    def _take_off(
        self, loop: asyncio.AbstractEventLoop, listed: _Listed, pending: Any, args: Any, kwargs: Any
    ) -> _Flight:
        flight = _Flight()
        listed[pending] = flight  # before the task: an eager one runs at once
        flight.task = loop.create_task(self._compute(flight.computation, listed, pending, args, kwargs))
        flight.task.add_done_callback(_look_at_outcome)
        return flight

    async def join(self, pending: Any, args: Any, kwargs: Any) -> Any:
        """What a caller gets who found nothing: of the flight of its key, which it starts if there is none."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                f"{self._function.__qualname__}(): cache_result computes an async function once for all its callers under "
                "asyncio only; pass single_flight=False to run it without asyncio"
            ) from None
        listed = self._loops.setdefault(loop, WeakValueDictionary())
        while True:
            flight = listed.get(pending)
            is_first = flight is None
            if flight is None:
                flight = self._take_off(loop, listed, pending, args, kwargs)
            elif flight.computation.leads_to(_innermost.get()):
                return await self.alone(pending, args, kwargs)
            task = flight.task
            try:
                await _landing_of(flight, listed, pending)
                if is_first or not task.cancelled():
                    value, guard, is_loaded = task.result()
                    good, value = self._cached._share(value, guard, is_loaded or not is_first)
                    if good:
                        return value
                # Its own function cancelled it, or another caller has changed a tensor in the value: begin anew.
                _delist(listed, pending, flight.computation)
            finally:
                del flight, task  # an exception's traceback must not lead back to its task
            hit, value = self._cached._find(pending)
            if hit:
                return value

    def delist(self, pending: Any) -> None:
        """In every loop, what is being computed for this key is handed to those who wait, but not kept."""
        for listed in list(self._loops.values()):
            flight = listed.get(pending)
            if flight is not None:
                _delist(listed, pending, flight.computation)

    def delist_all(self) -> None:
        """The same for every key."""
        for listed in list(self._loops.values()):
            for pending, flight in list(listed.items()):
                _delist(listed, pending, flight.computation)


def wrap_coroutine_function(cached: Any, function: Any, single_flight: bool) -> Any:
    """A coroutine function that looks like function and answers from the cache."""
    flights = _Flights(cached, function)
    compute = flights.join if single_flight else flights.alone

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
