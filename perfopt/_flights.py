"""Single flight under asyncio: of all tasks of one event loop that miss one key at once, one computation serves all.

:class:`Flights` serves both async faces, cached coroutine functions and ``PerformanceCache.aget_or_compute()``. A caller that
finds nothing takes off: one task for each key and running loop computes, and every caller waits for it. That task is its own, so
that cancelling one caller does not disturb the others; it is cancelled with its last caller, who then waits for its clean-up, as
if it had awaited the computation itself.

Who would wait for itself computes on its own instead: a computation knows what it waits for, and the computation that a call is
made in is found through a context variable, also from tasks that it starts, and from threads that asyncio.to_thread() starts for
it. What threads compute takes part in the same graph (csrc/bindings/core/flight_tasks.h), so that circles through
tasks and threads are found too. Calls that other event loops make know nothing of this loop's flights.

Nothing here keeps a loop, a task or an argument alive: flights are held by those who wait for them, and only weakly from here.
Threads: loops of any number of threads may share one object, and delisting may be called from anywhere. No lock is held, because
comparing keys may run any code: tables are copied in one step (``keyrefs()``, ``valuerefs()``) before they are walked.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from perfopt import _core

__all__ = ["Computation", "Flights", "WouldWaitForItself"]


class Computation:
    """One computation of one key: what it waits for at this moment.

    around: of one that a thread does (see the end of this file) inside another computation, that other one; else None.
    """

    __slots__ = ("around", "awaits", "has_ended")

    def __init__(self, around: Computation | None = None) -> None:
        self.awaits: list[Computation] = []
        self.around = around
        self.has_ended = False

    def leads_to(self, other: Computation | None) -> bool:
        """Whether this computation is that one, or waits for it over any number of others."""
        seen: set[Computation] = set()
        ahead = [self] if other is not None else []
        while ahead:
            computation = ahead.pop()
            if computation is other:
                return True
            if computation not in seen:
                seen.add(computation)
                ahead.extend(computation.awaits)
        return False


class WouldWaitForItself(Exception):
    """The caller is part of the computation that it asks for: it is to compute anew."""


Compute = Callable[[], Coroutine[Any, Any, Any]]

_innermost: ContextVar[Computation | None] = ContextVar("perfopt.cache.innermost", default=None)


def _current() -> Computation | None:
    """What this call is made in. A task that outlives the computation of a thread where it began is in the one around that."""
    computation = _innermost.get()
    while computation is not None and computation.has_ended:
        computation = computation.around
    return computation


class _Flight:
    """A computation, its task, and how many wait for it."""

    __slots__ = ("__weakref__", "computation", "is_listed", "key", "listed", "task", "waiters")

    def __init__(self, key: Any, listed: _Listed) -> None:
        self.key = key
        self.listed = listed  # where it is found
        self.is_listed = True
        self.computation = Computation()
        self.waiters = 0
        self.task: asyncio.Task[Any]

    def delist(self) -> None:
        """Later callers of this key compute anew."""
        if self.is_listed:
            self.is_listed = False
            if self.listed.get(self.key) is self:
                self.listed.pop(self.key, None)


_Listed = WeakValueDictionary[Any, _Flight]  # by key


def _look_at_outcome(task: asyncio.Task[Any]) -> None:
    """An exception that nobody is left to see is not reported as never retrieved: it came from a cancellation."""
    if not task.cancelled():
        task.exception()


class Flights:
    """What is being computed for one cache, by loop and key (any hashable object)."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Listed] = WeakKeyDictionary()

    async def join(self, key: Any, compute: Compute) -> tuple[Any, bool] | None:
        """What the flight of this key brought, and whether this caller began it, with compute().

        None: its own function cancelled it, and who did not begin it may begin anew. Raises what compute raised,
        WouldWaitForItself, and RuntimeError where no loop of asyncio runs.
        """
        loop = asyncio.get_running_loop()
        listed = self._loops.setdefault(loop, WeakValueDictionary())
        flight = listed.get(key)
        is_first = flight is None
        if flight is None:
            flight = listed[key] = _Flight(key, listed)  # before the task: an eager one runs at once
            flight.task = loop.create_task(_fly(flight.computation, weakref.ref(flight), compute))
            flight.task.add_done_callback(_look_at_outcome)
        elif flight.computation.leads_to(_current()):
            raise WouldWaitForItself
        task = flight.task
        try:
            await _landing_of(flight)
            flight.delist()  # one that was cancelled before its first step did not
            return (task.result(), is_first) if is_first or not task.cancelled() else None
        finally:
            del flight, task  # an exception's traceback must not lead back to its task

    def delist(self, key: Any) -> None:
        """In every loop, what is being computed for this key is handed to those who wait, and later callers compute anew."""
        for listed in self._tables():
            flight = listed.get(key)
            if flight is not None:
                flight.delist()

    def delist_all(self) -> None:
        """The same for every key."""
        for listed in self._tables():
            for reference in listed.valuerefs():
                flight = reference()
                if flight is not None:
                    flight.delist()

    def _tables(self) -> list[_Listed]:
        loops = [reference() for reference in self._loops.keyrefs()]
        return [self._loops[loop] for loop in loops if loop is not None]


async def _fly(computation: Computation, reference: weakref.ref[_Flight], compute: Compute) -> Any:
    _innermost.set(computation)
    try:
        return await compute()
    finally:
        flight = reference()
        if flight is not None:
            flight.delist()
        del flight  # an exception's traceback must not lead back to its task


async def _landing_of(flight: _Flight) -> None:
    """Returns when the flight's task is done; see the module's text for what a cancellation does."""
    task, mine = flight.task, _current()
    flight.waiters += 1
    if mine is not None:
        mine.awaits.append(flight.computation)
    try:
        await asyncio.wait((task,))
    except BaseException as error:  # a cancellation, or the end of this coroutine by close()
        if flight.waiters == 1 and not task.done() and not task.get_loop().is_closed():
            flight.delist()
            task.cancel()
            if isinstance(error, asyncio.CancelledError):
                await asyncio.wait((task,))
        raise
    finally:
        flight.waiters -= 1
        if mine is not None:
            mine.awaits.remove(flight.computation)
        del flight, task  # an exception's traceback must not lead back to its task


# ---- what threads compute: called by flight_tasks.c ----------------------------------------------------------------------------


def _enter() -> Computation:
    around = _current()
    computation = Computation(around)
    if around is not None:
        around.awaits.append(computation)
    _innermost.set(computation)
    return computation


def _leave(computation: Computation) -> None:
    computation.has_ended = True
    around = computation.around
    if around is not None:
        around.awaits.remove(computation)
    _innermost.set(around)


def _begin_wait(other: Computation) -> tuple[Computation, Computation] | bool | None:
    """What _end_wait() is to end; None outside of any computation; False when this call is part of what it would wait for.

    The wait is entered before the question, so that of two that close a circle at once one sees it.
    """
    mine = _current()
    if mine is None:
        return None
    mine.awaits.append(other)
    if other.leads_to(mine):
        mine.awaits.remove(other)
        return False
    return mine, other


def _end_wait(wait: tuple[Computation, Computation]) -> None:
    mine, other = wait
    mine.awaits.remove(other)


_core._connect_flights(_enter, _leave, _begin_wait, _end_wait)
