"""Advice on memory: each function looks at one thing and gives a line with the figures it rests on, or None."""

from __future__ import annotations

import gc
from typing import Any

GB = float(2**30)
MIB = 2**20


def advise_on_pressure(shares: dict[str, float], threshold: float, info: dict[str, Any]) -> str | None:
    """A share of memory that is at or above the threshold, and of what."""
    what, share = max(shares.items(), key=lambda item: item[1], default=("rss", 0.0))
    if share < threshold:
        return None
    if what == "gpu":
        return (
            f"CUDA memory is {share:.0%} full (threshold {threshold:.0%}): use a smaller batch, gradient checkpointing "
            "or a lower precision."
        )
    place = "the machine" if what == "machine" else f"the limit of {info['limit'] / GB:.2f} GB ({info['limit_source']})"
    return (
        f"Memory is {share:.0%} of {place} (threshold {threshold:.0%}; resident set {(info['rss'] or 0) / GB:.2f} GB):"
        " use smaller batches, fewer loader workers or a smaller cache, or raise the limit."
    )


def advise_on_growth(found: dict[str, Any], retained: list[int | None], limit: int | None) -> str | None:
    """found: a result of leak_verdict on the resident set; retained: heap kept by malloc at the same times."""
    if found["verdict"] != "leak":
        return None
    per_hour = found["slope_per_hour"] / MIB
    low, high = (bound / MIB for bound in found["interval"])
    evidence = found["evidence"]
    line = (
        f"The resident set rises by {per_hour:.1f} MiB/h (95 % interval {low:.1f} to {high:.1f}; "
        f"{evidence['growth_bytes'] / MIB:.1f} MiB in {evidence['seconds']:.1f} s)"
    )
    known = [value for value in retained if value is not None]
    if len(known) > 1 and known[-1] - known[0] >= 0.5 * evidence["growth_bytes"]:
        return (
            f"{line}, and at least half of it is heap that malloc keeps after free(): optimize_memory() gives it back."
        )
    if limit and found["seconds_to_limit"] is not None:
        line += f", which reaches the limit in {found['seconds_to_limit'] / 3600:.1f} h if it goes on"
    return (
        f"{line}: look for a leak (lists that grow, tensors kept with their graph, caches without a bound); "
        "attribute_growth() says how much of it garbage collection and malloc would give back."
    )


def advise_on_retained_heap(info: dict[str, Any]) -> str | None:
    """Freed heap that malloc keeps."""
    retained, rss = info["heap_retained"], info["rss"]
    if retained is None or rss is None or retained < 64 * MIB or retained < 0.2 * rss:
        return None
    return (
        f"malloc keeps {retained / MIB:.0f} MiB that the program has freed ({retained / rss:.0%} of the resident set "
        f"of {rss / MIB:.0f} MiB): optimize_memory() gives them back; this is not a leak."
    )


def advise_on_cuda_cache(devices: list[tuple[int, int, int]]) -> str | None:
    """Device memory that the allocator of torch holds unused."""
    for index, (allocated, reserved, total) in enumerate(devices):
        idle = reserved - allocated
        if total > 0 and idle > 0.2 * total:
            return (
                f"cuda:{index} holds {idle / GB:.2f} GB reserved but not allocated ({idle / total:.0%} of it): "
                "PYTORCH_ALLOC_CONF=expandable_segments:True reduces such gaps; optimize_memory() gives it back."
            )
    return None


def advise_on_faults(columns: dict[str, list[int | None]]) -> str | None:
    """Pages that are mapped anew at a high rate."""
    times, faults = columns["time_ns"], columns["minor_faults"]
    if len(times) < 10:
        return None
    t0, t1, f0, f1 = times[0], times[-1], faults[0], faults[-1]
    if t0 is None or t1 is None or f0 is None or f1 is None or t1 <= t0:
        return None
    rate = (f1 - f0) / (t1 - t0) * 1e9
    if rate < 20000:
        return None
    return (
        f"{rate:,.0f} page faults per second (about {rate * 4096 / GB:.2f} GB/s of memory mapped anew): keep freed "
        "pages with perfopt.memory.retain_heap() around the training loop."
    )


def advise_on_events(columns: dict[str, list[int | None]]) -> str | None:
    """What the kernel did to the container between the first sample held and the last."""
    said = []
    for name, text in (
        ("oom_kills", "killed {} processes for want of memory"),
        ("limit_hits", "met the limit {} times"),
        ("throttled", "throttled it {} times at memory.high"),
    ):
        known = [value for value in columns[name] if value is not None]
        if len(known) > 1 and known[-1] > known[0]:
            said.append(text.format(known[-1] - known[0]))
    if not said:
        return None
    return f"While memory was sampled the kernel {', '.join(said)}: raise the container's limit or use less."


def advise_on_garbage() -> str | None:
    """Garbage that the collector could not free."""
    if not gc.garbage:
        return None
    return (
        f"{len(gc.garbage)} objects in gc.garbage cannot be collected: look at their finalizers and reference cycles."
    )
