"""The memory profiler of the code profiler: memory by name, the garbage collector's share, leaks.

All figures of calls are of the resident set (RSS): what the kernel keeps in memory for the process, all its threads together. Two
calls at once therefore see each other's memory.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from perfopt import _core, _wrapping
from perfopt.profiling.measure import Figures, Measured
from perfopt.report.document import MemoryRecord

__all__ = ["CollectorWatch", "MemoryProfiler"]

_F = TypeVar("_F", bound=Callable[..., Any])
_INTERVAL = 0.01
_CAPACITY = 65536
_EVENTS = ("throttled", "limit_hits", "oom_kills", "major_faults")


class CollectorWatch:
    """Counts the garbage collector's runs, their time, and what they freed, while it is on (``gc.callbacks``)."""

    def __init__(self) -> None:
        self._began = 0
        self._runs = [0, 0, 0]
        self._nanoseconds = self._collected = self._uncollectable = 0

    def start(self) -> None:
        """Begins to count; nothing if it does already."""
        if self._note not in gc.callbacks:
            gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Ends counting; nothing if it did already."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)

    def clear(self) -> None:
        """Sets all counts to zero."""
        self._runs = [0, 0, 0]
        self._nanoseconds = self._collected = self._uncollectable = 0

    def _note(self, phase: str, info: dict[str, int]) -> None:
        # The collector runs one collection at a time in a process with the GIL, so start and stop come in pairs.
        if phase == "start":
            self._began = time.perf_counter_ns()
            return
        if self._began:
            self._nanoseconds += time.perf_counter_ns() - self._began
            self._began = 0
        self._runs[min(info.get("generation", 0), 2)] += 1
        self._collected += info.get("collected", 0)
        self._uncollectable += info.get("uncollectable", 0)

    def figures(self) -> dict[str, float]:
        """``collections`` and those of generations 0 to 2, ``seconds``, ``collected`` and ``uncollectable`` objects."""
        return {
            "collections": float(sum(self._runs)),
            **{f"generation_{number}": float(runs) for number, runs in enumerate(self._runs)},
            "seconds": self._nanoseconds * 1e-9,
            "collected": float(self._collected),
            "uncollectable": float(self._uncollectable),
        }


class MemoryProfiler:
    """Memory of named blocks and functions, sampled memory of the process, and the collector's work between start and stop.

    Contexts and decorated functions always run; they are recorded while the code profiler is started.
    """

    def __init__(self, profiler: _core.Profiler, figures: Figures, *, enabled: bool = True) -> None:
        self._profiler, self._figures, self._enabled = profiler, figures, enabled
        self.sampler = _core.MemorySampler(_INTERVAL, _CAPACITY)
        self.collector = CollectorWatch()

    @property
    def enabled(self) -> bool:
        """Whether memory is taken at all; a setting of the configuration."""
        return self._enabled

    def start(self) -> None:
        """Begins to sample the process and to watch the collector."""
        if self._enabled and not self.sampler.running:
            self.sampler.start()
            self.collector.start()

    def stop(self) -> None:
        """Ends what ``start`` began."""
        self.sampler.stop()
        self.collector.stop()

    def reset(self) -> None:
        """Forgets samples and counts."""
        self.sampler.clear()
        self.collector.clear()

    def measured(self, name: str) -> AbstractContextManager[Any]:
        """The block around one call of that name."""
        if not self._enabled:
            return self._profiler.profile(name)
        return Measured(self._profiler, self._figures, self.sampler, name)

    def memory_context(self, name: str) -> AbstractContextManager[Any]:
        """``with memory_context("data"):`` records time and memory of the block under that name."""
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        return self.measured(name)

    def profile_memory_usage(self, function: _F) -> _F:
        """Decorator: records time and memory of every call under the function's qualified name."""
        name = getattr(function, "__qualname__", None) or type(function).__qualname__

        def wrap(inner: Any) -> Any:
            return _wrapping.around(inner, lambda: self.measured(name))

        decorated: _F = _wrapping.decorate("profile_memory_usage decorates functions", function, wrap)
        return decorated

    def get_stats(self) -> dict[str, Any]:
        """JSON-ready: ``operations`` by name (``calls``, and bytes ``allocated``, ``freed``, ``greatest`` rise in a call and
        ``kept`` = allocated - freed), ``collector``, ``peak_rss``, and the ``leak`` verdict."""
        operations = {}
        for name in self._figures.names():
            figures = self._figures.get(name)
            if figures is not None:
                memory = figures.as_memory()
                operations[name] = {
                    "calls": figures.calls,
                    "allocated": memory["allocated"],
                    "freed": memory["freed"],
                    "greatest": memory["greatest"],
                    "kept": memory["total"],
                }
        return {
            "operations": operations,
            "collector": self.collector.figures(),
            "peak_rss": self.sampler.peak_rss,
            "leak": self.detect_leaks(),
        }

    def detect_leaks(self) -> dict[str, Any]:
        """The verdict on the samples taken so far; see :func:`perfopt.memory.leak_verdict`."""
        from perfopt.memory import leak_verdict

        samples = self.sampler.samples()
        known = [
            (at, rss)
            for at, rss in zip(samples["time_ns"], samples["rss"], strict=True)
            if at is not None and rss is not None
        ]
        begin = known[0][0] if known else 0
        limit = _core.memory_info()["limit"]
        return leak_verdict([(at - begin) * 1e-9 for at, _ in known], [float(rss) for _, rss in known], limit=limit)

    def record(self) -> MemoryRecord | None:
        """What was sampled, as a report has it; None without samples."""
        samples = self.sampler.samples()
        times = [at or 0 for at in samples.pop("time_ns")]
        if not times:
            return None
        events = {name: _growth(samples.pop(name)) for name in _EVENTS if name in samples}
        columns = {name: values for name, values in samples.items() if any(value is not None for value in values)}
        return MemoryRecord(
            seconds=[(at - times[0]) * 1e-9 for at in times],
            columns=columns,
            peak_rss=self.sampler.peak_rss,
            verdict=self.detect_leaks(),
            collector=self.collector.figures(),
            events={name: growth for name, growth in events.items() if growth is not None},
        )


def _growth(counts: list[int | None]) -> int | None:
    """By how much a counter grew over the samples; None where it was not known."""
    known = [count for count in counts if count is not None]
    return known[-1] - known[0] if known else None
