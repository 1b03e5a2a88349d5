"""Giving memory back: garbage collection, torch's CUDA cache and malloc's heap, and what each of them gave."""

from __future__ import annotations

import gc
import time
from typing import Any

from perfopt import _core
from perfopt._memory_cuda import cuda_bytes, release_cuda
from perfopt._memory_usage import shares_of

Report = dict[str, Any] | None  # of a cleaning; None where there was no pressure


def _resident() -> int | None:
    try:
        return _core.resident_bytes()
    except NotImplementedError:
        return None


def _trim() -> int:
    """Bytes by which the resident set fell when malloc gave free pages back; 0 where it cannot."""
    try:
        return _core.trim()
    except NotImplementedError:
        return 0


def clean() -> dict[str, Any]:
    """Collect garbage, empty torch's CUDA cache, trim the heap; see :meth:`perfopt.MemoryOptimizer.optimize_memory`."""
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


def clean_under_pressure(threshold: float) -> Report:
    """:func:`clean` if the used share of some limit has reached the threshold."""
    shares = shares_of(_core.memory_info(), cuda_bytes())
    return clean() if max(shares.values(), default=0.0) >= threshold else None


def _fall(before: int | None, after: int | None) -> int:
    return 0 if before is None or after is None else max(0, before - after)


def attribute(resident: list[float]) -> dict[str, Any]:
    """The result of :meth:`perfopt.MemoryOptimizer.attribute_growth`; resident: the sets sampled, oldest first."""
    start = time.perf_counter()
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
