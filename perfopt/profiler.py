"""The profiler: how often and how long named ranges run, cheap enough to stay on.

Recording happens in C (:class:`perfopt._core.Profiler`); this module adds the decorators and the summary as plain
numbers; the Python wrappers that coroutine functions and generators need are those of :mod:`perfopt._wrapping`.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, overload

from perfopt import _core, _wrapping

__all__ = ["PerformanceProfiler", "default_profiler", "profile_operation"]

F = TypeVar("F", bound=Callable[..., Any])

_COST_BATCHES = 5
_RANGES_PER_BATCH = 500


class PerformanceProfiler(_core.Profiler):
    """Records named ranges of time, per thread and without locks, and sums them when asked.

    It is on from the start. A range costs less than ``with contextlib.nullcontext(): pass``; stopped, only the ``with`` itself
    is left to pay for. Memory is bounded: a histogram of bounded size for each name and thread, and at most ``max_names`` names;
    ranges under further names are counted and timed together in one overflow row. After ``os.fork()`` the child has its own
    copy of what was recorded and goes on recording.

    Args:
        max_names: how many names are recorded apart, from 1 to 16777216.

    Raises:
        TypeError: ``max_names`` is not an int.
        ValueError: ``max_names`` is out of range.

    Example:
        >>> profiler = PerformanceProfiler()
        >>> with profiler.profile("load"):
        ...     data = list(range(1000))
        >>> profiler.get_profile_summary()["operations"]["load"]["count"]
        1
    """

    __slots__ = ("__weakref__",)

    @overload
    def profile_operation(self, name: F, /) -> F: ...
    @overload
    def profile_operation(self, name: str | None = None) -> Callable[[F], F]: ...
    def profile_operation(self, name: Any = None) -> Any:
        """Decorator that records each call of a function; see :func:`perfopt.profile_operation`."""
        return profile_operation(name, profiler=self)

    def get_profile_summary(self) -> dict[str, Any]:
        """Everything recorded so far, over all threads, as a dict that ``json.dumps`` takes as it is. Times are in seconds.

        Returns:
            ``total_operations``: number of ranges recorded (int). ``total_duration``: sum of their durations (float); nested
            ranges count in each range around them. ``operations``: ``{name: {"count", "total", "mean", "min", "max", "p50",
            "p90", "p99"}}`` in order of first use; count, total, min and max are exact, percentiles are within 1 %.
            ``overflow_operations``: ranges under names beyond ``max_names`` (in the totals above), and ``overflow``: their
            common row or None. ``dropped_operations``: ranges lost because memory was out. ``overhead_seconds``: what
            recording itself has cost, as the measured cost of one range times their number. ``memory_bytes``: size of
            the recorded data. ``clock``: see :func:`perfopt._core.clock_info`.
        """
        recorded = self.read()
        operations: dict[str, dict[str, float]] = {}
        overflow: dict[str, float] | None = None
        for name, *figures in recorded["rows"]:
            row = dict(zip(("count", "total", "mean", "min", "max", "p50", "p90", "p99"), figures, strict=True))
            if name is None:
                overflow = row
            else:
                operations[name] = row
        rows = [*operations.values(), *([overflow] if overflow else [])]
        total_operations = sum(int(row["count"]) for row in rows)
        return {
            "total_operations": total_operations,
            "total_duration": float(sum(row["total"] for row in rows)),
            "operations": operations,
            "overflow_operations": int(overflow["count"]) if overflow else 0,
            "overflow": overflow,
            "dropped_operations": recorded["dropped"],
            "overhead_seconds": total_operations * range_cost_seconds(),
            "memory_bytes": recorded["memory_bytes"],
            "clock": _core.clock_info(),
        }


@functools.lru_cache(maxsize=1)
def range_cost_seconds() -> float:
    """Seconds that one ``with profiler.profile(name)`` costs on this machine: the fastest of a few batches, measured once."""
    profiler = PerformanceProfiler()
    best = float("inf")
    for _ in range(_COST_BATCHES):
        begin = time.perf_counter_ns()
        for _ in range(_RANGES_PER_BATCH):
            pass
        empty = time.perf_counter_ns()
        for _ in range(_RANGES_PER_BATCH):
            with profiler.profile("cost"):
                pass
        end = time.perf_counter_ns()
        best = min(best, (end - empty) - (empty - begin))
    return max(best, 0.0) / _RANGES_PER_BATCH * 1e-9


_default: PerformanceProfiler | None = None
_default_lock = threading.Lock()


def default_profiler() -> PerformanceProfiler:
    """The process-wide profiler that :func:`profile_operation` records into unless told otherwise."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = PerformanceProfiler()
    return _default


@overload
def profile_operation(name: F, /, *, profiler: _core.Profiler | None = None) -> F: ...
@overload
def profile_operation(name: str | None = None, *, profiler: _core.Profiler | None = None) -> Callable[[F], F]: ...
def profile_operation(name: Any = None, *, profiler: _core.Profiler | None = None) -> Any:
    """Decorator that records each call of a function as a range: ``@profile_operation`` or ``@profile_operation("name")``.

    Plain functions and methods become a C object without a Python frame of its own (:class:`perfopt._core.ProfiledFunction`),
    which keeps name, documentation and signature and pickles by qualified name. ``async def`` functions stay so and record
    the whole time of the await, suspended time included; a call that is never awaited is not recorded. Generators, plain and
    async, record from the first ``next`` to exhaustion or close. ``staticmethod`` and ``classmethod`` objects are unwrapped and
    made again. Exceptions pass through; the range is recorded all the same.

    Args:
        name: the operation's name; the function's qualified name when left out.
        profiler: records into this one instead of :func:`default_profiler`.

    Raises:
        TypeError: ``name`` is neither a str nor a function, ``profiler`` is no profiler, or a class is decorated.
    """
    if profiler is None:
        profiler = default_profiler()
    elif not isinstance(profiler, _core.Profiler):
        raise TypeError(f"profiler must be a PerformanceProfiler or None, not {type(profiler).__name__}")
    if name is None or isinstance(name, str):
        return functools.partial(_decorate, profiler, name)
    if callable(name) or isinstance(name, (staticmethod, classmethod)):
        return _decorate(profiler, None, name)
    raise TypeError(f"name must be a str, not {type(name).__name__}")


def _decorate(profiler: _core.Profiler, name: str | None, function: Any) -> Any:
    def wrap(function: Any) -> Any:
        operation = name
        if operation is None:
            operation = getattr(function, "__qualname__", None) or type(function).__qualname__
        suspending = _wrapping.around_suspending(function, functools.partial(profiler.profile, operation))
        if suspending is not None:
            return suspending
        return functools.update_wrapper(profiler.wrap(function, operation), function)

    return _wrapping.decorate("profile_operation decorates functions", function, wrap)
