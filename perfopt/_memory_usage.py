"""What a process's memory figures come to: the used share of each limit, and the usage under its public names."""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

_GB = float(2**30)

Info = dict[str, Any]  # of _core.memory_info()
Devices = list[tuple[int, int, int]]  # allocated, reserved and total bytes of each CUDA device


def checked_threshold(threshold: object) -> float:
    """threshold as a float. Raises TypeError or ValueError, saying what is accepted."""
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real):
        raise TypeError(f"threshold must be a number in (0, 1], not {type(threshold).__name__}")
    try:
        value = float(threshold)
    except OverflowError:  # an int beyond the range of float
        value = math.inf
    if not 0.0 < value <= 1.0:
        raise ValueError(f"threshold is {threshold!r}; accepted: more than 0, at most 1")
    return value


def shares_of(info: Info, devices: Devices) -> dict[str, float]:
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


def _gb(value: int | None) -> float | None:
    return None if value is None else value / _GB


def usage_of(info: Info, devices: Devices) -> dict[str, Any]:
    """The result of :meth:`perfopt.MemoryOptimizer.get_memory_usage`."""
    shares = shares_of(info, devices)
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
