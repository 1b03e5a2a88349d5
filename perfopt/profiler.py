"""The profiler: how often and how long named ranges run, cheap enough to stay on.

Recording happens in C (:class:`perfopt._core.Profiler`); this module adds the decorators and the summary as plain
numbers. Coroutine functions and generators stay functions of their kind; each call is driven by a :class:`perfopt._core.Driven`.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from perfopt import _children, _core, _profile_table, _wrapping

__all__ = ["PerformanceProfiler", "default_profiler", "load", "merge", "profile_operation", "timer"]

F = TypeVar("F", bound=Callable[..., Any])

_COST_BATCHES = 5
_RANGES_PER_BATCH = 500


class PerformanceProfiler(_core.Profiler):
    """Records named ranges of time, per thread and without locks, and sums them when asked.

    It is on from the start. A range costs less than ``with contextlib.nullcontext(): pass``; stopped, only the ``with`` itself
    is left to pay for. Memory is bounded: a histogram of bounded size for each name and thread, a calling-context tree of at
    most 32768 nodes a thread, and at most ``max_names`` names; ranges under further names are counted and timed together in one
    overflow row. After ``os.fork()`` the child has its own copy of what was recorded and goes on recording.

    Args:
        max_names: how many names are recorded apart, from 1 to 16777216.
        span_capacity: with ``trace``, how many of the latest ranges are kept one by one, over all threads; 32 bytes each,
            taken up as they come. From 1 to 1073741824.
        trace: keep them; an older one is overwritten by a newer one and counted as dropped.
        memory: measure by how many bytes the process's resident set changed over each range: of ``profile()`` and of
            decorated functions, coroutines and generators (two reads of about half a microsecond a range).

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``max_names`` or ``span_capacity`` is out of range.

    Example:
        >>> profiler = PerformanceProfiler()
        >>> with profiler.profile("load"):
        ...     data = list(range(1000))
        >>> profiler.get_profile_summary()["operations"]["load"]["count"]
        1
    """

    __slots__ = ("__weakref__", "_children")

    _children: Path

    def follow_children(self, key: str = "default") -> None:
        """Makes child processes report to this profiler: those started from now on, and theirs.

        Forked children begin with an empty recording (instead of a copy of this one) and write it down when they end; so do
        ``multiprocessing`` children of every start method, and PyTorch DataLoader workers. Where a child starts anew (spawn,
        forkserver), the profilers that report are :func:`default_profiler` under the key ``"default"``, and any other one
        that calls this method with its key there. ``capture(children=True)`` has what they reported, :meth:`children` says
        who did. A child that is killed (``Pool.terminate``, ``os._exit``) cannot report. The reports lie in a temporary
        directory of mode 0700 that goes when this process ends.

        Args:
            key: tells several profilers that follow apart: 1 to 64 letters, digits, ``-`` or ``_``.

        Raises:
            ValueError: ``key`` has other characters.
            OSError: there is no room for the directory.
        """
        self._children = _children.follow(self, key)

    def children(self) -> dict[str, list[int]]:
        """Pids of the followed children: ``reported``, ``running``, and ``missing``, which ended without a report.

        Raises:
            RuntimeError: :meth:`follow_children` was not called.
        """
        return _children.collect(self._followed())[1]

    def capture(self, *, children: bool = False) -> _core.Capture:
        """What was recorded so far, over all threads, as a :class:`perfopt._core.Capture`; recording goes on beside it.

        Args:
            children: merge in what followed child processes have reported so far; see :meth:`follow_children`.

        Raises:
            RuntimeError: ``children`` without :meth:`follow_children`.
            OSError: a report cannot be read, or is damaged.
        """
        own = super().capture()
        if not children:
            return own
        reports, _ = _children.collect(self._followed())
        return merge([own, *map(load, reports)])

    def dump(self, path: str | os.PathLike[str]) -> None:
        """Writes :meth:`capture` to a file, to be read by :func:`perfopt.profiler.load`. Raises OSError."""
        self.capture().dump(path)

    def export(self, format: str, file: Any, *, children: bool = False) -> None:
        """Writes :meth:`capture` for another tool: the same as ``capture(children=children).export(format, file)``.

        Args:
            format: ``chrome``, ``perfetto``, ``speedscope``, ``collapsed``, ``pstats``, ``prometheus``, ``otel`` or ``csv``;
                docs/profiler-exports.md says what each is for. The first two are made from spans: they need ``trace=True``.
            file: a path, or anything with ``write(bytes)``.
            children: with what followed child processes have reported; see :meth:`follow_children`.

        Raises:
            ValueError: there is no such format.
            TypeError: ``file`` is neither a path nor has ``write``.
            OSError: the file cannot be written, or a report not be read.
            RuntimeError: ``children`` without :meth:`follow_children`.
        """
        self.capture(children=children).export(format, file)

    def table(self, *, sort_by: str = "self", row_limit: int = 10) -> str:
        """The operations that matter most as lines of text, times in milliseconds (percentiles within the row's ``error``).

        Args:
            sort_by: the column that decides, largest first: ``count``, ``total``, ``active``, ``self``, ``mean``, ``p50``,
                ``p99`` or ``max``.
            row_limit: how many operations at most; what is left out is counted in the last line.

        Raises:
            ValueError: ``sort_by`` is no column, or ``row_limit`` is below 1.
        """
        return _profile_table.table(self.capture().rows(), sort_by, row_limit)

    def _followed(self) -> Path:
        folder: Path | None = getattr(self, "_children", None)
        if folder is None:
            raise RuntimeError("no children are followed: call follow_children() before they start")
        return folder

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
            ranges count in each range around them. ``operations``: in order of first use, ``{name: {"count", "total", "mean",
            "min", "max", "p50", "p90", "p99", "p99.9", "sd", "error", "active", "self", "memory", "callers"}}``; see
            :meth:`perfopt._core.Capture.rows`, and below for callers. ``overflow_operations``: ranges under names beyond
            ``max_names`` (in the totals above), ``overflow_names``: how many different ones there were at least, and
            ``overflow``: their common row or None. ``dropped_operations``: ranges lost because memory was out.
            ``overhead_seconds``: what recording itself has cost, as the measured cost of one range times their number.
            ``memory_bytes``: size of the recorded data. ``clock``: see :func:`perfopt._core.clock_info`.

            A nested range of the same name (recursion) counts once more in ``count`` and ``total``; ``active`` is the time in
            which the ranges ran, without what coroutines and generators were suspended; ``self`` is active time without that
            of ranges inside. ``callers``: ``{name: {"count", "total"}}`` of the ranges directly around, ``""`` for none (or one
            whose name is that) and active times; ranges beyond ``max_names`` around it are left out.
        """
        capture = self.capture()
        callers = callers_of(capture.nodes(), outside="")
        operations: dict[str, dict[str, Any]] = {}
        overflow: dict[str, Any] | None = None
        for row in capture.rows():
            figures: dict[str, Any] = dict(row)
            name = figures.pop("name")
            figures["callers"] = callers.get(name, {})
            if name is None:
                overflow = figures
            else:
                operations[name] = figures
        rows = [*operations.values(), *([overflow] if overflow else [])]
        total_operations = sum(int(row["count"]) for row in rows)
        usage = self.usage()
        return {
            "total_operations": total_operations,
            "total_duration": float(sum(row["total"] for row in rows)),
            "operations": operations,
            "overflow_operations": int(overflow["count"]) if overflow else 0,
            "overflow_names": capture.overflow_names,
            "overflow": overflow,
            "dropped_operations": capture.dropped_records,
            "overhead_seconds": total_operations * range_cost_seconds(),
            "memory_bytes": usage["memory_bytes"],
            "clock": _core.clock_info(),
        }


def load(path: str | os.PathLike[str]) -> _core.Capture:
    """The capture that :meth:`PerformanceProfiler.dump` or ``Capture.dump`` wrote.

    The whole file is checked against its checksums; spans are read from it when they are asked for.

    Raises:
        OSError: the file cannot be read, is no capture, is damaged, or was written by a later version.
    """
    return _core.Capture.load(path)


def merge(captures: Iterable[_core.Capture]) -> _core.Capture:
    """One capture of several, as if all had been recorded in one place: of threads, processes, machines or runs.

    Rows of equal names are summed; counts, totals, extremes and deviations are what recording both would have given, percentiles
    within the row's ``error``. Processes, threads, trees and spans stand side by side, times lie on one axis by the clock anchor
    that each process has.

    Raises:
        ValueError: there is no capture, or one has no clock anchor.
        TypeError: something else is among them.
    """
    return _core.Capture.merge(captures)


def callers_of(nodes: Sequence[Any], *, outside: str | None = None) -> dict[str | None, dict[str, dict[str, float]]]:
    """The edges of the calling-context tree: ``{callee: {caller: {"count", "total"}}}``.

    Ranges beyond ``max_names`` are no callers.

    Args:
        nodes: of :meth:`perfopt._core.Capture.nodes`.
        outside: stands for the caller of ranges that are in no other; they are left out without. A name of no length is a name.
    """
    callers: dict[str | None, dict[str, dict[str, float]]] = {}
    for node in nodes:
        caller = nodes[node["parent"]]["name"] if node["parent"] >= 0 else outside
        if caller is None:
            continue
        edge = callers.setdefault(node["name"], {}).setdefault(caller, {"count": 0, "total": 0.0})
        edge["count"] += node["count"]
        edge["total"] += node["total"]
    return callers


@functools.lru_cache(maxsize=1)
def range_cost_seconds() -> float:
    """Seconds that one ``with profiler.profile(name)`` costs on this machine: the fastest of a few batches, measured once."""
    profiler = PerformanceProfiler()
    loops: list[int] = []
    recordings: list[int] = []
    for _ in range(_COST_BATCHES):
        begin = time.perf_counter_ns()
        for _ in range(_RANGES_PER_BATCH):
            pass
        empty = time.perf_counter_ns()
        for _ in range(_RANGES_PER_BATCH):
            with profiler.profile("cost"):
                pass
        end = time.perf_counter_ns()
        loops.append(empty - begin)
        recordings.append(end - empty)
    # Each by its own fastest batch: the smallest difference would pick the batch whose empty loop was interrupted.
    return max(min(recordings) - min(loops), 0) / _RANGES_PER_BATCH * 1e-9


_default: PerformanceProfiler | None = None


def default_profiler() -> PerformanceProfiler:
    """The process-wide profiler that :func:`profile_operation` records into unless told otherwise."""
    global _default
    if _default is None:
        with _children.lock:  # a fork waits for it: the child has this profiler, or makes its own
            if _default is None:
                profiler = PerformanceProfiler()
                if _children.inherited():
                    profiler.follow_children()
                if _default is None:  # else a signal handler or a finalizer has made it meanwhile
                    _default = profiler
    return _default


def timer(name: str) -> _core.Range:
    """``with timer("load"):`` records a range into :func:`default_profiler`. Raises TypeError unless ``name`` is a str."""
    return default_profiler().profile(name)


@overload
def profile_operation(name: F, /, *, profiler: _core.Profiler | None = None) -> F: ...
@overload
def profile_operation(name: str | None = None, *, profiler: _core.Profiler | None = None) -> Callable[[F], F]: ...
def profile_operation(name: Any = None, *, profiler: _core.Profiler | None = None) -> Any:
    """Decorator that records each call of a function as a range: ``@profile_operation`` or ``@profile_operation("name")``.

    Plain functions and methods become a C object without a Python frame of its own (:class:`perfopt._core.ProfiledFunction`),
    which keeps name, documentation and signature and pickles by qualified name. ``async def`` functions stay so and record
    the whole time of the await as total, and without the time suspended as active; a call that is never awaited is not recorded.
    Generators, plain and async, record from the first ``next`` to exhaustion or close in the same way; one that is never
    finished is not counted, though the time it ran is in the calling-context tree. ``staticmethod`` and ``classmethod`` objects
    are unwrapped and made again. Exceptions pass through; the range is recorded all the same.

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
        kind = _wrapping.suspending_kind(function)
        if kind is not None:
            return functools.wraps(function)(_DRIVEN[kind](profiler.drive, operation, function))
        return functools.update_wrapper(profiler.wrap(function, operation), function)

    return _wrapping.decorate("profile_operation decorates functions", function, wrap)


# What runs when it is awaited or iterated: a Python function of the same kind, whose steps a _core.Driven takes.


def _driven_coroutine(drive: Callable[..., Any], operation: str, function: Any) -> Any:
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await drive(operation, function(*args, **kwargs))

    return awaited


def _driven_generator(drive: Callable[..., Any], operation: str, function: Any) -> Any:
    def generated(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from drive(operation, function(*args, **kwargs)))

    return _wrapping.like_generator(function, generated)


def _driven_async_generator(drive: Callable[..., Any], operation: str, function: Any) -> Any:
    async def generated(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        driven = drive(operation)
        inner = function(*args, **kwargs)
        step = inner.__anext__()
        try:  # what `yield from` does for a plain generator: values, sent values and thrown exceptions go through
            while True:
                try:
                    value = await driven.step(step)
                except StopAsyncIteration:
                    return
                try:
                    sent = yield value
                except GeneratorExit:
                    await driven.step(inner.aclose())
                    raise
                except BaseException as thrown:
                    step = inner.athrow(thrown)
                else:
                    step = inner.asend(sent)
        finally:
            driven.end()

    return generated


_DRIVEN = {
    "coroutine": _driven_coroutine,
    "generator": _driven_generator,
    "asyncgen": _driven_async_generator,
}
