"""The GPU profiler of the code profiler: CUDA operations timed on the device, without making the host wait.

Two events are recorded on the current stream around an operation; nothing is synchronised until somebody reads the figures
(:meth:`GPUProfiler.get_stats`), so a profiled loop overlaps with the device as before. Torch is used when the program has
imported it and is never imported from here. Where CUDA is not available contexts and decorators pass through, and ``reason``
says why.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec

from perfopt import _core, _wrapping
from perfopt._fork_locks import lock_of
from perfopt.report.build import operations_of
from perfopt.report.document import Operation

__all__ = ["GPUProfiler"]

_F = TypeVar("_F", bound=Callable[..., Any])
_PENDING = 4096  # pairs of events; from there on finished ones are read, and at twice as many the oldest are waited for
_WAITS = frozenset({"cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize"})


class _Timed(NamedTuple):
    """An operation whose events may not have happened yet."""

    name: str
    begin: Any
    end: Any
    memory: int


class GPUProfiler:
    """Times CUDA operations by events; see the module's text. Safe to use from threads."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._recording = False
        self._since = 0.0
        self._recorded_seconds = 0.0
        self._lock = lock_of(self, "_lock", threading.Lock)
        self._pending: list[_Timed] = []
        self._device_times = _core.Profiler()  # device seconds, put in when events are read
        self._memory: dict[str, dict[str, float]] = {}

    @property
    def reason(self) -> str | None:
        """Why nothing is timed here; None when it is."""
        if not self._enabled:
            return "switched off by enable_gpu_profiler=False"
        torch = sys.modules.get("torch")
        if torch is None:
            return "torch is not imported"
        if not torch.cuda.is_available():
            return "CUDA is not available to torch"
        return None

    @property
    def available(self) -> bool:
        """Whether CUDA operations are timed."""
        return self.reason is None

    def start(self) -> None:
        """Begins to record; nothing if it does already."""
        if self._enabled and not self._recording:
            self._recording, self._since = True, time.perf_counter()

    def stop(self) -> None:
        """Ends recording; what was recorded stays."""
        if self._recording:
            self._recording = False
            self._recorded_seconds += time.perf_counter() - self._since

    def reset(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._pending.clear()
            self._memory.clear()
            self._device_times.reset()
            self._recorded_seconds, self._since = 0.0, time.perf_counter()

    @contextmanager
    def cuda_context(self, name: str) -> Iterator[None]:
        """``with cuda_context("inference"):`` times what the block does on the current stream of the current device."""
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        if not (self._recording and self.available):
            yield
            return
        cuda = sys.modules["torch"].cuda
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        before = cuda.memory_allocated()
        begin.record()
        try:
            yield
        finally:
            end.record()
            self._keep(_Timed(name, begin, end, cuda.memory_allocated() - before))

    def profile_cuda_operation(self, function: _F) -> _F:
        """Decorator: times every call on the device under the function's qualified name."""
        name = getattr(function, "__qualname__", None) or type(function).__qualname__

        def wrap(inner: Any) -> Any:
            return _wrapping.around(inner, lambda: self.cuda_context(name))

        decorated: _F = _wrapping.decorate("profile_cuda_operation decorates functions", function, wrap)
        return decorated

    def _keep(self, timed: _Timed) -> None:
        with self._lock:
            self._pending.append(timed)
            if len(self._pending) >= _PENDING:
                self._settle(wait=len(self._pending) >= 2 * _PENDING)

    def _settle(self, *, wait: bool) -> None:
        """Reads finished events, all of them with ``wait``; called with the lock held."""
        left = []
        for timed in self._pending:
            if wait:
                timed.end.synchronize()
            elif not timed.end.query():
                left.append(timed)
                continue
            self._device_times.record(timed.name, timed.begin.elapsed_time(timed.end) * 1e-3)
            memory = self._memory.setdefault(timed.name, {"greatest": float(timed.memory), "total": 0.0})
            memory["greatest"] = max(memory["greatest"], float(timed.memory))
            memory["total"] += timed.memory
        self._pending = left

    def operations(self) -> list[Operation]:
        """The operations timed so far, of kind ``gpu``; waits for those that still run on the device."""
        with self._lock:
            self._settle(wait=True)
            capture = self._device_times.capture()
            memory = {name: dict(figures) for name, figures in self._memory.items()}
        kinds = dict.fromkeys(capture.names, "gpu")
        return [
            msgspec.structs.replace(operation, memory=_with_mean(memory.get(operation.name or ""), operation.count))
            for operation in operations_of(capture, kinds=kinds)
        ]

    def get_stats(self) -> dict[str, Any]:
        """The figures as a JSON-ready dict. Waits for the device.

        Returns:
            ``available`` and ``reason``; ``busy_share``: device seconds of the operations as a share of the recorded time (above
            1 where streams overlap, None without any); ``operations`` by name: ``calls``; device seconds ``total``, ``mean``,
            ``p50``, ``p99`` and ``greatest``; bytes ``memory_total`` and ``memory_greatest`` that calls left allocated.
        """
        operations = {
            operation.name: {
                "calls": operation.count,
                "total": operation.total,
                "mean": operation.mean,
                "p50": operation.p50,
                "p99": operation.p99,
                "greatest": operation.greatest,
                "memory_total": (operation.memory or {}).get("total"),
                "memory_greatest": (operation.memory or {}).get("greatest"),
            }
            for operation in self.operations()
        }
        recorded = self._recorded_seconds + (time.perf_counter() - self._since if self._recording else 0.0)
        busy = sum(float(row["total"] or 0.0) for row in operations.values())
        share = busy / recorded if operations and recorded > 0 else None
        return {"available": self.available, "reason": self.reason, "busy_share": share, "operations": operations}

    @contextmanager
    def trace_transfers(self) -> Iterator[dict[str, float]]:
        """``with trace_transfers() as found:`` counts copies between host and device, and waits of the host, in the block.

        Torch's own profiler counts, which makes the block slower. ``found`` is filled at the end: ``copies``,
        ``copy_seconds``, ``waits``, ``wait_seconds``; it stays empty where CUDA is not available."""
        found: dict[str, float] = {}
        if not self.available:
            yield found
            return
        profiler = sys.modules["torch"].profiler
        with profiler.profile(activities=[profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA]) as trace:
            yield found
        found.update(copies=0.0, copy_seconds=0.0, waits=0.0, wait_seconds=0.0)
        for event in trace.key_averages():
            if event.key.startswith("Memcpy"):
                found["copies"] += event.count
                found["copy_seconds"] += event.device_time_total * 1e-6
            elif event.key in _WAITS:
                found["waits"] += event.count
                found["wait_seconds"] += event.cpu_time_total * 1e-6


def _with_mean(memory: dict[str, float] | None, count: int) -> dict[str, float] | None:
    return None if memory is None else {"mean": memory["total"] / max(1, count), **memory}
