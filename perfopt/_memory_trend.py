"""Trends of memory series: whether they rise or fall. The statistics are in C (trend.h)."""

from __future__ import annotations

from typing import Any

from perfopt import _core
from perfopt._memory_verdict import leak_verdict

_MIB = 2**20
_MINIMUM_CHANGE_SHARE = 0.005  # a trend counts when it adds up to this share of the usual value, and to a MiB


def points(columns: dict[str, list[int | None]], name: str) -> tuple[list[float], list[float]]:
    """Seconds and figures of the samples that have both."""
    pairs = [(t, v) for t, v in zip(columns["time_ns"], columns[name], strict=True) if t is not None and v is not None]
    return [t * 1e-9 for t, _ in pairs], [float(v) for _, v in pairs]


def trend(times: list[float], values: list[float]) -> dict[str, Any]:
    """The trend of a series of bytes over seconds, under the names of :meth:`perfopt.MemoryOptimizer.get_memory_trends`."""
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
