"""Memory: how much this process has, how much it may have, whether it grows, and giving back what is not needed.

Four figures are called "memory" and they differ; every name here says which one it is:

* **resident set (RSS)**: pages of the process that are in memory now, shared ones included. ``cpu_memory_gb`` and the
  trend.
* **cgroup usage**: what the kernel charges to the container, other processes and page cache included. The kernel takes
  inactive page cache back without asking, so pressure counts usage minus ``inactive_file`` of ``memory.stat``.
* **heap**: what malloc has handed out (in use) and what it keeps after ``free`` (retained). A process whose heap is
  retained has a large resident set and no leak.
* **device**: what torch's CUDA allocator has handed out (allocated) and holds (reserved), of the device's total.

The limit is the smallest of the machine's memory and the limits of the process's cgroup and all its ancestors, v1 or
v2. Torch is used when the program has imported it and CUDA is initialised, and is never imported from here. GB means
2**30 bytes.
"""

from __future__ import annotations

import math
import numbers
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from perfopt import _core
from perfopt import _memory_advice as advice
from perfopt._memory_clean import attribute, clean
from perfopt._memory_cuda import cuda_bytes, device_memory
from perfopt._memory_decorator import optimize_memory
from perfopt._memory_pressure import PressureWatch
from perfopt._memory_retain import retain_heap
from perfopt._memory_trend import points, trend
from perfopt._memory_usage import checked_threshold, shares_of, usage_of
from perfopt._memory_verdict import leak_verdict

__all__ = ["MemoryOptimizer", "PressureWatch", "device_memory", "leak_verdict", "optimize_memory", "retain_heap"]

_GPU_HISTORY = 4096

# Of all optimizers together, and reentrant: a signal handler or a finalizer that stops the monitoring may run while this
# very thread starts it.
_monitor_lock = threading.RLock()


def _renew_lock() -> None:
    """In a forked child: a thread that is not in it may have held it."""
    global _monitor_lock
    _monitor_lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def _checked_interval(interval: object, least: float) -> float:
    if isinstance(interval, bool) or not isinstance(interval, numbers.Real):
        raise TypeError(f"interval must be a number of seconds, not {type(interval).__name__}")
    try:
        seconds = float(interval)
    except OverflowError:  # an int beyond the range of float
        seconds = math.inf
    if not least <= seconds <= 86400.0:
        raise ValueError(f"interval is {interval!r} s; accepted: {least:g} to 86400 s")
    return seconds


class MemoryOptimizer:
    """Watches this process's memory against its limits and gives back what can be given back.

    threshold: the share of a limit, more than 0 and at most 1, from which :meth:`is_memory_pressure` is true.
    interval: seconds between samples of :meth:`start_monitoring` when it is not told otherwise (0.0001 to 86400).
    capacity: samples kept, 128 bytes each; older ones are overwritten.

    Every method can be called from any thread. After a fork the child's copy is not monitoring and has no samples.
    Raises TypeError or ValueError naming the argument, its value and what is accepted.
    """

    def __init__(self, threshold: float = 0.8, *, interval: float = 0.1, capacity: int = 16384) -> None:
        self.threshold = threshold
        self._sampler = _core.MemorySampler(interval, capacity)
        self._gpu_history: deque[tuple[int, int, int, int]] = deque(maxlen=_GPU_HISTORY)
        self._gpu_history_pid = os.getpid()

    def __repr__(self) -> str:
        """Show the threshold and whether the sampler runs."""
        state = "monitoring" if self.monitoring else "not monitoring"
        return f"MemoryOptimizer(threshold={self.threshold}, {state}, {len(self._sampler)} samples)"

    @property
    def threshold(self) -> float:
        """The share of a limit from which there is pressure; assigning checks it as the constructor does."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold = checked_threshold(value)

    # -- usage and pressure --

    def pressure(self) -> dict[str, float]:
        """The used share (0 to 1) of each limit that is known here.

        ``rss``: resident set over the effective limit. ``cgroup``: fullest group among the process's cgroup and its
        ancestors, inactive page cache not counted (only where one has a limit). ``machine``: memory of the machine that
        is not available to anybody. ``gpu``: allocated over total of the fullest CUDA device (only with CUDA
        initialised).
        """
        return shares_of(_core.memory_info(), self._note_gpu())

    def is_memory_pressure(self) -> bool:
        """Whether any share of :meth:`pressure` has reached the threshold."""
        return max(self.pressure().values(), default=0.0) >= self.threshold

    def get_memory_usage(self) -> dict[str, Any]:
        """Present usage; every key is there on every machine and ``json.dumps`` takes the result as it is.

        ``cpu_memory_gb`` (resident set), ``gpu_memory_gb`` (``allocated``, ``reserved``, ``total``: sums over the CUDA
        devices, 0.0 without them), ``cpu_limit_gb`` (effective limit) and ``limit_source`` (machine, cgroup v1, cgroup
        v2, unknown), ``cpu_percent`` (fullest share of :meth:`pressure` without the GPU, times 100), ``gpu_percent``,
        ``cpu_peak_gb``, ``cpu_available_gb`` (of the machine), ``cgroup_memory_gb`` (usage with page cache),
        ``cgroup_working_gb`` (without the inactive part of it), ``heap_in_use_gb``, ``heap_retained_gb``,
        ``cpu_unique_gb`` (USS: pages of this process alone), ``python_blocks`` (a count, not bytes: blocks that
        Python's small-object allocator has handed out; 0 where it is switched off), ``cgroup_events`` (counts since the
        container was made: ``throttled`` at memory.high, ``limit_hits``, ``oom_kills``). None: this system does not tell.
        """
        return usage_of(_core.memory_info(), self._note_gpu())

    # -- cleaning --

    def optimize_memory(self) -> dict[str, Any]:
        """Collect garbage, give torch's cached CUDA memory to the driver, give free heap pages to the system.

        Returns what that did: ``gc_collected`` (objects), ``trimmed_bytes`` (fall of the resident set during the trim),
        ``rss_before``, ``rss_after``, ``cuda_released_bytes``, ``seconds``; and ``cuda_error`` (text) only when CUDA
        refused. It takes milliseconds to tens of them, waits for the GPU when CUDA is initialised, and the next
        allocations pay page faults: call it between phases, not in every step.
        """
        return clean()

    def check(self) -> dict[str, Any] | None:
        """Run :meth:`optimize_memory` if there is pressure and return its report; None if there is none.

        Cheap enough (tens of microseconds) to call every few training steps.
        """
        return self.optimize_memory() if self.is_memory_pressure() else None

    # -- monitoring --

    def start_monitoring(self, interval: float | None = None) -> None:
        """Sample in the background every interval seconds (None: as given to the constructor, 0.1 by default).

        The samples are taken by a thread in C that never needs the GIL. When it runs already it goes on at the new
        interval.
        """
        wanted = None if interval is None else _checked_interval(interval, 0.0001)
        with _monitor_lock:
            if self._sampler.running:
                if wanted is None or math.isclose(wanted, self._sampler.interval):
                    return
                self._sampler.stop()
            self._sampler.start(wanted)

    def stop_monitoring(self) -> None:
        """Stop sampling; the samples are kept. Does nothing when it does not run."""
        with _monitor_lock:
            self._sampler.stop()

    @property
    def monitoring(self) -> bool:
        """Whether the sampling thread runs in this process."""
        return self._sampler.running

    @property
    def peak(self) -> int:
        """Largest resident set among all samples taken so far, in bytes; 0 without samples."""
        return self._sampler.peak_rss or 0

    def samples(self) -> dict[str, list[int | None]]:
        """The samples held, oldest first, as lists of equal length; see ``MemorySampler.samples`` for the columns."""
        return self._sampler.samples()

    def cuda_samples(self) -> dict[str, list[int | None]]:
        """CUDA's figures, oldest first: ``time_ns`` (as in :meth:`samples`), ``allocated``, ``reserved``, ``total``.

        Bytes, sums over the devices; lists of equal length, empty until CUDA is initialised. Torch's allocator can only
        be asked under the GIL, so the sampler's thread does not ask it; :meth:`samples` repeats the newest of these, with
        its time as ``cuda_time_ns``. Each call of :meth:`check`, :meth:`pressure`,
        :meth:`get_memory_usage` and :meth:`get_memory_trends` adds one, as does each look of :meth:`on_pressure`. The
        newest 4096 are kept.
        """
        with _monitor_lock:
            rows = list(self._own_gpu_history())
        names = ("time_ns", "allocated", "reserved", "total")
        return {name: [row[column] for row in rows] for column, name in enumerate(names)}

    def clear_history(self) -> None:
        """Forget all samples, also those of the GPU; monitoring goes on."""
        self._sampler.clear()
        self._gpu_history.clear()

    def sampler_stats(self) -> dict[str, Any]:
        """What the sampler has done and cost.

        ``taken``, ``held``, ``dropped`` (overwritten), ``missed`` (turns skipped because it was late), ``interval``
        (seconds), ``sample_cost_ns`` (mean wall time of one sample), ``cpu_seconds`` (processor time of its thread).
        """
        sampler = self._sampler
        cpu_ns = sampler.cpu_ns
        return {
            "taken": sampler.taken,
            "held": len(sampler),
            "dropped": sampler.dropped,
            "missed": sampler.missed,
            "interval": sampler.interval,
            "sample_cost_ns": sampler.sample_cost_ns,
            "cpu_seconds": None if cpu_ns is None else cpu_ns * 1e-9,
        }

    def get_memory_trends(self) -> dict[str, dict[str, Any]]:
        """Whether resident set and CUDA memory rise or fall, over the samples held; takes one sample now.

        ``cpu_memory_trend``, ``gpu_memory_trend`` (allocated) and ``gpu_reserved_trend`` each have ``trend``
        (``increasing``, ``decreasing`` or ``stable``; stable also with fewer than 10 samples), ``slope_bytes_per_second``
        with its 95 % ``interval`` (a list of two), ``change_bytes`` over ``seconds``, ``samples``, ``verdict`` (as trend,
        but ``insufficient`` where there are too few), and ``leak``: the whole result of :func:`leak_verdict` on the same
        series.

        The slope is the median over pairs of window minima (Theil-Sen); a rise or fall counts when the whole interval
        is on one side of zero and the change is at least 1 MiB and 0.5 % of the usual value. CPU samples come from
        :meth:`start_monitoring` and from each call of this method; CUDA samples from each call of a method that looks
        at usage. ``increasing`` says what the samples did; whether that is a leak is for ``leak`` to say, and
        :meth:`recommendations` tells it from memory that malloc keeps.
        """
        self._note_gpu()
        self._sampler.sample()
        cuda = self.cuda_samples()
        return {
            "cpu_memory_trend": trend(*points(self._sampler.samples(), "rss")),
            "gpu_memory_trend": trend(*points(cuda, "allocated")),
            "gpu_reserved_trend": trend(*points(cuda, "reserved")),
        }

    def recommendations(self) -> list[str]:
        """Advice on memory, each line with the figures it rests on; empty when nothing calls for any."""
        info = _core.memory_info()
        devices = cuda_bytes()
        columns = self._sampler.samples()
        verdict = self.leak_verdict()
        found = [
            advice.advise_on_pressure(shares_of(info, devices), self.threshold, info),
            advice.advise_on_growth(verdict, columns["heap_retained"], info["limit"]),
            advice.advise_on_retained_heap(info),
            advice.advise_on_cuda_cache(devices),
            advice.advise_on_faults(columns),
            advice.advise_on_events(columns),
            advice.advise_on_garbage(),
        ]
        return [line for line in found if line is not None]

    def leak_verdict(self) -> dict[str, Any]:
        """:func:`perfopt.memory.leak_verdict` on the resident set of the samples held, against the effective limit."""
        times, resident = points(self._sampler.samples(), "rss")
        return leak_verdict(times, resident, limit=_core.memory_info()["limit"])

    def attribute_growth(self) -> dict[str, Any]:
        """Where growth of the resident set went, found by collecting and trimming: three parts, in bytes.

        ``freed_by_gc_bytes``: garbage in reference cycles, as the fall of the heap in use (or of the resident set, if
        larger) during a collection. ``returned_by_trim_bytes``: freed before, but kept by malloc. ``growing_bytes``:
        what is left above the resident set at the start of the samples held (their lowest tenth part in time), so what
        the program still refers to, or has lost; None without samples. With ``gc_collected`` (objects), ``rss_before``,
        ``rss_after``, ``baseline_rss`` and ``seconds``.

        It collects and trims, so it takes milliseconds and costs page faults afterwards.
        """
        return attribute(points(self._sampler.samples(), "rss")[1])

    # -- pressure as events --

    def on_pressure(
        self,
        callback: Callable[[dict[str, Any]], object],
        threshold: float | None = None,
        *,
        interval: float = 1.0,
    ) -> PressureWatch:
        """Call callback when memory pressure begins, on a Python thread made for it (never on the sampler's).

        callback: gets a dict with ``reason`` (``threshold``, or ``stall`` when the kernel reports tasks that wait for
        memory), ``what`` and ``share`` (the fullest of :meth:`pressure`) and ``shares`` (all of them). It is called
        once when a share reaches the threshold and again after all were below it. An exception in it goes to
        ``sys.unraisablehook`` and the watch goes on.
        threshold: share in (0, 1]; None takes this optimizer's at the time of the call.
        interval: seconds between looks, more than 0; the kernel's stall trigger, where there is one, wakes at once.

        Returns the watch, to be closed with ``close()`` or as a context manager; a forked child's copy is closed.
        """
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        pause = _checked_interval(interval, 0.001)
        share = self.threshold if threshold is None else checked_threshold(threshold)
        return PressureWatch(callback, share, pause, self.pressure)

    def _note_gpu(self) -> list[tuple[int, int, int]]:
        """CUDA figures of now, noted for the trend and for the samples to come."""
        devices = cuda_bytes()
        if devices:
            allocated, reserved, total = (sum(figures) for figures in zip(*devices, strict=True))
            with _monitor_lock:  # or a thread that read the clock earlier could append later
                noted_ns = self._sampler.note_cuda(allocated, reserved, total)
                self._own_gpu_history().append((noted_ns, allocated, reserved, total))
        return devices

    def _own_gpu_history(self) -> deque[tuple[int, int, int, int]]:
        """Without what a parent noted before it forked this process, as the sampler has it. Called with the lock."""
        if self._gpu_history_pid != os.getpid():
            self._gpu_history.clear()
            self._gpu_history_pid = os.getpid()
        return self._gpu_history
