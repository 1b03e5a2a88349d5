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

import functools
import gc
import math
import numbers
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from perfopt import _core, _wrapping
from perfopt import _memory_advice as advice
from perfopt._memory_cuda import cuda_bytes, device_memory, release_cuda
from perfopt._memory_pressure import PressureWatch
from perfopt._memory_retain import retain_heap
from perfopt._memory_verdict import leak_verdict

__all__ = ["MemoryOptimizer", "PressureWatch", "device_memory", "leak_verdict", "optimize_memory", "retain_heap"]

_GB = float(2**30)
_MIB = 2**20
_MINIMUM_CHANGE_SHARE = 0.005  # a trend counts when it adds up to this share of the usual value, and to a MiB
_GPU_HISTORY = 4096

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Report = dict[str, Any] | None  # of a cleaning; None where there was no pressure

# Of all optimizers together, and reentrant: a signal handler or a finalizer that stops the monitoring may run while this
# very thread starts it.
_monitor_lock = threading.RLock()


def _renew_lock() -> None:
    """In a forked child: a thread that is not in it may have held it."""
    global _monitor_lock
    _monitor_lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def _gb(value: int | None) -> float | None:
    return None if value is None else value / _GB


def _checked_threshold(threshold: object) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real):
        raise TypeError(f"threshold must be a number in (0, 1], not {type(threshold).__name__}")
    try:
        value = float(threshold)
    except OverflowError:  # an int beyond the range of float
        value = math.inf
    if not 0.0 < value <= 1.0:
        raise ValueError(f"threshold is {threshold!r}; accepted: more than 0, at most 1")
    return value


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


def _shares(info: dict[str, Any], devices: list[tuple[int, int, int]]) -> dict[str, float]:
    """Used share (0 to 1) of each limit that is known."""
    shares: dict[str, float] = {}
    if info["limit"] and info["rss"] is not None:
        shares["rss"] = info["rss"] / info["limit"]
    if info["cgroup_fullest"] is not None:
        shares["cgroup"] = info["cgroup_fullest"]
    if info["machine_total"] and info["machine_available"] is not None:
        shares["machine"] = 1.0 - info["machine_available"] / info["machine_total"]
    gpu = [allocated / total for allocated, _, total in devices if total > 0]
    if gpu:
        shares["gpu"] = max(gpu)
    return shares


def _resident() -> int | None:
    try:
        return _core.resident_bytes()
    except NotImplementedError:
        return None


def _clean() -> dict[str, Any]:
    """Collect garbage, empty torch's CUDA cache, trim the heap; see :meth:`MemoryOptimizer.optimize_memory`."""
    start = time.perf_counter()
    before = _resident()
    collected = gc.collect()
    error = None
    released = 0
    try:
        released = release_cuda()
    except RuntimeError as problem:  # a broken CUDA context must not hide the error that broke it
        error = str(problem)
    trimmed = _trim()
    report: dict[str, Any] = {
        "gc_collected": collected,
        "trimmed_bytes": trimmed,
        "rss_before": before,
        "rss_after": _resident(),
        "cuda_released_bytes": released,
        "seconds": time.perf_counter() - start,
    }
    if error is not None:
        report["cuda_error"] = error
    return report


def _trend(times: list[float], values: list[float]) -> dict[str, Any]:
    """The trend of a series of bytes over seconds, under the names of :meth:`MemoryOptimizer.get_memory_trends`."""
    usual = sorted(values)[len(values) // 2] if values else 0.0
    minimum = max(float(_MIB), _MINIMUM_CHANGE_SHARE * usual)
    found = _core.trend(times, values, minimum_change=minimum)
    verdict = found["trend"]
    return {
        "trend": "stable" if verdict == "insufficient" else verdict,
        "slope_bytes_per_second": found["slope"],
        "interval": [found["low"], found["high"]],
        "change_bytes": found["change"],
        "seconds": found["span"],
        "samples": found["samples"],
        "verdict": verdict,
        "leak": leak_verdict(times, values),
    }


def _points(columns: dict[str, list[int | None]], name: str) -> tuple[list[float], list[float]]:
    """Seconds and figures of the samples that have both."""
    pairs = [(t, v) for t, v in zip(columns["time_ns"], columns[name], strict=True) if t is not None and v is not None]
    return [t * 1e-9 for t, _ in pairs], [float(v) for _, v in pairs]


def _fall(before: int | None, after: int | None) -> int:
    return 0 if before is None or after is None else max(0, before - after)


def _trim() -> int:
    """Bytes by which the resident set fell when malloc gave free pages back; 0 where it cannot."""
    try:
        return _core.trim()
    except NotImplementedError:
        return 0


class MemoryOptimizer:
    """Watches this process's memory against its limits and gives back what can be given back.

    threshold: the share of a limit, more than 0 and at most 1, from which :meth:`is_memory_pressure` is true.
    interval: seconds between samples of :meth:`start_monitoring` when it is not told otherwise (0.0001 to 86400).
    capacity: samples kept, 96 bytes each; older ones are overwritten.

    Every method can be called from any thread. After a fork the child's copy is not monitoring and has no samples.
    Raises TypeError or ValueError naming the argument, its value and what is accepted.
    """

    def __init__(self, threshold: float = 0.8, *, interval: float = 0.1, capacity: int = 16384) -> None:
        self.threshold = threshold
        self._sampler = _core.MemorySampler(interval, capacity)
        self._gpu_history: deque[tuple[int, int, int, int]] = deque(maxlen=_GPU_HISTORY)

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
        self._threshold = _checked_threshold(value)

    # -- usage and pressure --

    def pressure(self) -> dict[str, float]:
        """The used share (0 to 1) of each limit that is known here.

        ``rss``: resident set over the effective limit. ``cgroup``: fullest group among the process's cgroup and its
        ancestors, inactive page cache not counted (only where one has a limit). ``machine``: memory of the machine that
        is not available to anybody. ``gpu``: allocated over total of the fullest CUDA device (only with CUDA
        initialised).
        """
        return _shares(_core.memory_info(), self._note_gpu())

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
        info = _core.memory_info()
        devices = self._note_gpu()
        shares = _shares(info, devices)
        gpu_share = shares.pop("gpu", 0.0)
        usage, inactive = info["cgroup_usage"], info["cgroup_inactive_file"]
        return {
            "cpu_memory_gb": (info["rss"] or 0) / _GB,
            "gpu_memory_gb": {
                "allocated": sum(allocated for allocated, _, _ in devices) / _GB,
                "reserved": sum(reserved for _, reserved, _ in devices) / _GB,
                "total": sum(total for _, _, total in devices) / _GB,
            },
            "cpu_limit_gb": _gb(info["limit"]),
            "limit_source": info["limit_source"],
            "cpu_percent": 100.0 * max(shares.values(), default=0.0),
            "gpu_percent": 100.0 * gpu_share,
            "cpu_peak_gb": _gb(info["peak_rss"]),
            "cpu_available_gb": _gb(info["machine_available"]),
            "cgroup_memory_gb": _gb(usage),
            "cgroup_working_gb": None if usage is None else max(0, usage - (inactive or 0)) / _GB,
            "heap_in_use_gb": _gb(info["heap_in_use"]),
            "heap_retained_gb": _gb(info["heap_retained"]),
            "cpu_unique_gb": _gb(info["uss"]),
            "python_blocks": sys.getallocatedblocks(),
            "cgroup_events": {
                "throttled": info["cgroup_throttled"],
                "limit_hits": info["cgroup_limit_hits"],
                "oom_kills": info["cgroup_oom_kills"],
            },
        }

    # -- cleaning --

    def optimize_memory(self) -> dict[str, Any]:
        """Collect garbage, give torch's cached CUDA memory to the driver, give free heap pages to the system.

        Returns what that did: ``gc_collected`` (objects), ``trimmed_bytes`` (fall of the resident set during the trim),
        ``rss_before``, ``rss_after``, ``cuda_released_bytes``, ``seconds``; and ``cuda_error`` (text) only when CUDA
        refused. It takes milliseconds to tens of them, waits for the GPU when CUDA is initialised, and the next
        allocations pay page faults: call it between phases, not in every step.
        """
        return _clean()

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
        be asked under the GIL, so these are not of the sampler's thread: each call of :meth:`check`, :meth:`pressure`,
        :meth:`get_memory_usage` and :meth:`get_memory_trends` adds one, as does each look of :meth:`on_pressure`. The
        newest 4096 are kept.
        """
        rows = list(self._gpu_history)
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
        self._sampler.sample()
        self._note_gpu()
        cuda = self.cuda_samples()
        return {
            "cpu_memory_trend": _trend(*_points(self._sampler.samples(), "rss")),
            "gpu_memory_trend": _trend(*_points(cuda, "allocated")),
            "gpu_reserved_trend": _trend(*_points(cuda, "reserved")),
        }

    def recommendations(self) -> list[str]:
        """Advice on memory, each line with the figures it rests on; empty when nothing calls for any."""
        info = _core.memory_info()
        devices = cuda_bytes()
        columns = self._sampler.samples()
        verdict = self.leak_verdict()
        found = [
            advice.advise_on_pressure(_shares(info, devices), self.threshold, info),
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
        times, resident = _points(self._sampler.samples(), "rss")
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
        start = time.perf_counter()
        _, resident = _points(self._sampler.samples(), "rss")
        baseline = int(min(resident[: len(resident) // 10 + 1])) if resident else None
        before = _core.memory_info()
        collected = gc.collect()
        after_gc = _core.memory_info()
        trimmed = _trim()
        after = _resident()
        freed = max(_fall(before["rss"], after_gc["rss"]), _fall(before["heap_in_use"], after_gc["heap_in_use"]))
        return {
            "freed_by_gc_bytes": freed,
            "returned_by_trim_bytes": trimmed,
            "growing_bytes": None if baseline is None or after is None else max(0, after - baseline),
            "gc_collected": collected,
            "rss_before": before["rss"],
            "rss_after": after,
            "baseline_rss": baseline,
            "seconds": time.perf_counter() - start,
        }

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
        share = self.threshold if threshold is None else _checked_threshold(threshold)
        return PressureWatch(callback, share, pause, self.pressure)

    def _note_gpu(self) -> list[tuple[int, int, int]]:
        """CUDA figures of now, noted for the trend."""
        devices = cuda_bytes()
        if devices:
            allocated, reserved, total = (sum(figures) for figures in zip(*devices, strict=True))
            with _monitor_lock:  # or a thread that read the clock earlier could append later
                self._gpu_history.append((time.monotonic_ns(), allocated, reserved, total))
        return devices


# -- the decorator --


@overload
def optimize_memory(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def optimize_memory(*, threshold: float | None = None) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def optimize_memory(function: Any = None, /, *, threshold: float | None = None) -> Any:
    """Decorator: memory is optimised before and after each call, as by :meth:`MemoryOptimizer.optimize_memory`.

    Bare (``@optimize_memory``) it cleans at every call. With ``@optimize_memory(threshold=0.8)`` it cleans, before and
    after each on its own, only when there is pressure at that share of a limit. The cleaning after the call also
    happens when it raises. Works on functions, methods (also over staticmethod and classmethod), ``async def``,
    generators and async generators (there around the whole iteration). Each cleaning takes milliseconds: decorate
    phases, not inner loops.

    The function gets an attribute ``memory_reports``: a dict whose ``before`` and ``after`` are what the two cleanings of
    the last call that ended gave back, as :meth:`MemoryOptimizer.optimize_memory` reports it (None: no pressure, so none).

    Raises TypeError for something that cannot be called and for a class, ValueError for a threshold outside (0, 1].
    """
    if threshold is None:
        clean: Callable[[], _Report] = _clean
    else:
        clean = MemoryOptimizer(threshold, capacity=1).check
    if function is None:
        return functools.partial(_wrap, clean=clean)
    return _wrap(function, clean)


class _Cleaned:
    """A block with a cleaning before it and one after it, also when it raises; their reports go to the function."""

    __slots__ = ("_before", "_clean", "_reports")

    def __init__(self, clean: Callable[[], _Report], reports: dict[str, _Report]) -> None:
        self._clean = clean
        self._reports = reports

    def __enter__(self) -> None:
        self._before = self._clean()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        after: _Report
        try:
            after = self._clean()
        except RuntimeError as problem:  # looking at a broken CUDA context must not hide the error that broke it
            if error is None:
                raise
            after = {"cuda_error": str(problem)}
        self._reports.update(before=self._before, after=after)


def _wrap(function: Any, clean: Callable[[], _Report]) -> Any:
    def wrap(plain: Any) -> Any:
        reports: dict[str, _Report] = {"before": None, "after": None}
        wrapped = _wrapping.around(plain, functools.partial(_Cleaned, clean, reports))
        wrapped.memory_reports = reports
        return wrapped

    return _wrapping.decorate("optimize_memory decorates functions and methods", function, wrap)
