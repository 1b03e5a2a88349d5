"""What is taken of a call beside its time: processor time and memory, summed by name.

The time itself is the profiler's business (:class:`perfopt.PerformanceProfiler`); a :class:`Measured` block is open around it
and adds what costs more than a clock reading: the thread's processor time, the resident set before and after, and the highest
resident set in between, as far as the sampler saw it. Threads: figures are added under one lock.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from perfopt import _core
from perfopt._fork_locks import lock_of

__all__ = ["CallFigures", "Figures", "Measured"]


class CallFigures:
    """Sums over the calls of one name. Bytes are of the resident set."""

    __slots__ = ("calls", "cpu_seconds", "greatest", "grown", "least", "peak", "shrunk")

    def __init__(self) -> None:
        self.calls = 0
        self.cpu_seconds = 0.0
        self.grown = 0  # bytes, over the calls after which there was more
        self.shrunk = 0  # bytes, over those after which there was less
        self.greatest = self.least = 0  # change over a call
        self.peak = 0  # highest rise within a call

    def add(self, change: int, peak: int, cpu_seconds: float) -> None:
        """Adds a call."""
        self.greatest = max(self.greatest, change) if self.calls else change
        self.least = min(self.least, change) if self.calls else change
        self.calls += 1
        self.cpu_seconds += cpu_seconds
        self.grown += max(0, change)
        self.shrunk += max(0, -change)
        self.peak = max(self.peak, peak)

    def as_memory(self) -> dict[str, float]:
        """The memory figures as an operation of a report has them."""
        return {
            "mean": (self.grown - self.shrunk) / max(1, self.calls),
            "greatest": float(max(self.greatest, self.peak)),
            "least": float(self.least),
            "total": float(self.grown - self.shrunk),
            "allocated": float(self.grown),
            "freed": float(self.shrunk),
        }


class Figures:
    """Figures by name."""

    def __init__(self) -> None:
        self._lock = lock_of(self, "_lock", threading.Lock)
        self._by_name: dict[str, CallFigures] = {}

    def add(self, name: str, change: int, peak: int, cpu_seconds: float) -> None:
        """Adds a call of that name."""
        with self._lock:
            figures = self._by_name.get(name)
            if figures is None:
                figures = self._by_name[name] = CallFigures()
            figures.add(change, peak, cpu_seconds)

    def get(self, name: str) -> CallFigures | None:
        """The sums of a name, or None."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """All names, in order of first use."""
        with self._lock:
            return list(self._by_name)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._by_name.clear()


class Measured:
    """A block around one call: its range, its processor time and its memory."""

    __slots__ = ("_cpu", "_figures", "_name", "_range", "_recording", "_resident", "_sampler", "_since")

    def __init__(self, profiler: _core.Profiler, figures: Figures, sampler: _core.MemorySampler, name: str) -> None:
        self._recording = profiler.enabled
        self._range: Any = profiler.profile(name)
        self._figures, self._sampler, self._name = figures, sampler, name

    def __enter__(self) -> None:
        if self._recording:
            self._resident = _core.resident_bytes()
            self._since = time.monotonic_ns()
            self._cpu = time.thread_time()
        self._range.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._range.__exit__(*raised)
        if self._recording:
            cpu_seconds = time.thread_time() - self._cpu
            resident = _core.resident_bytes()
            peak = max(resident, self._sampler.peak_since(self._since) or 0)
            self._figures.add(self._name, resident - self._resident, max(0, peak - self._resident), cpu_seconds)
