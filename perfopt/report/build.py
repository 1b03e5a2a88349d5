"""From recordings to the report document: the one place that reads the profiler, the monitor and the machine for it."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from perfopt import _core
from perfopt._version import __version__
from perfopt.profiler import callers_of, range_cost_seconds
from perfopt.report import reference
from perfopt.report.document import (
    Clock,
    Finding,
    Histogram,
    Host,
    Loader,
    MemoryRecord,
    Node,
    Operation,
    Recording,
    Report,
)

__all__ = ["host_facts", "operations_of", "report_of", "tree_of"]

_VERSIONS = ("numpy", "torch")


def host_facts() -> Host:
    """The machine as this process sees it now. Nothing is imported for it: accelerators are those of a torch that is loaded."""
    memory = _core.memory_info()
    torch = sys.modules.get("torch")
    accelerators: list[str] = []
    if torch is not None and torch.cuda.is_available():
        accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    versions = {"perfopt": __version__}
    for name in _VERSIONS:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            versions[name] = str(version)
    return Host(
        name=platform.node() or None,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        processor=_processor(),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_bytes=memory["machine_total"],
        limit_bytes=memory["limit"],
        limit_source=memory["limit_source"],
        accelerators=accelerators,
        versions=versions,
    )


def _processor() -> str | None:
    """The model's name as the kernel tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def operations_of(
    capture: _core.Capture,
    *,
    kinds: Mapping[str, str] | None = None,
    histograms: bool = True,
    nodes: Sequence[Any] | None = None,
) -> list[Operation]:
    """The rows of a capture.

    Args:
        capture: what the profiler recorded.
        kinds: kind of an operation by its name; ``"function"`` otherwise.
        histograms: with histograms.
        nodes: those of the capture, where the caller has read them already.
    """
    callers = callers_of(capture.nodes() if nodes is None else nodes)
    operations = []
    for index, row in enumerate(capture.rows()):
        name, memory = row["name"], row["memory"]
        histogram = None
        if histograms:
            lower, upper, counts = capture.buckets(index)
            histogram = Histogram(lower=lower, upper=upper, counts=counts)
        operations.append(
            Operation(
                name=name,
                count=row["count"],
                total=row["total"],
                active=row["active"],
                self_time=row["self"],
                mean=row["mean"],
                deviation=row["sd"],
                least=row["min"],
                greatest=row["max"],
                p50=row["p50"],
                p90=row["p90"],
                p99=row["p99"],
                p999=row["p99.9"],
                error=row["error"],
                kind=(kinds or {}).get(name or "", "function"),
                callers={caller: int(edge["count"]) for caller, edge in callers.get(name, {}).items()},
                memory=None if not memory else _memory(memory),
                histogram=histogram,
            )
        )
    return operations


def _memory(change: Any) -> dict[str, float]:
    count = max(1, change["count"])
    return {
        "mean": change["total"] / count,
        "greatest": float(change["max"]),
        "least": float(change["min"]),
        "total": float(change["total"]),
    }


def tree_of(nodes: Sequence[Any]) -> list[Node]:
    """The calling-context tree, from the nodes of a capture."""
    return [
        Node(
            parent=node["parent"],
            name=node["name"],
            thread=node["thread"],
            count=node["count"],
            total=node["total"],
            self_time=node["self"],
        )
        for node in nodes
    ]


def report_of(
    capture: _core.Capture,
    *,
    title: str,
    duration: float,
    kinds: Mapping[str, str] | None = None,
    memory: MemoryRecord | None = None,
    loaders: Sequence[Loader] = (),
    findings: Sequence[Finding] = (),
    notes: Sequence[str] = (),
    memory_bytes: int = 0,
    missing_processes: int = 0,
    detailed: bool = True,
    with_reference: bool = True,
) -> Report:
    """A report of a capture, with what else was measured in the same run.

    Args:
        capture: what the profiler recorded.
        title: of the report.
        duration: seconds of wall time that the capture covers.
        kinds: kind of an operation by its name; see :class:`perfopt.report.document.Operation`.
        memory: what the memory monitor saw.
        loaders: data loaders.
        findings: what is worth changing.
        notes: what was not measured, and why.
        memory_bytes: size of the recorded data.
        missing_processes: children that ended without reporting.
        detailed: with histograms and the call tree; without, the report cannot be compared with another.
        with_reference: measure the machine's own speed (2 to 3 ms on a quiet machine), so that a comparison can tell a slower
            machine from slower code; only where ``detailed``.
    """
    nodes = capture.nodes()
    operations = operations_of(capture, kinds=kinds, histograms=detailed, nodes=nodes)
    ranges = sum(operation.count for operation in operations)
    clock = _core.clock_info()
    cost = range_cost_seconds()
    return Report(
        title=title,
        created_ns=time.time_ns(),
        duration=duration,
        command=list(sys.orig_argv),
        host=host_facts(),
        clock=Clock(
            source=clock["source"],
            nanoseconds_per_tick=clock["nanoseconds_per_tick"],
            read_cost_seconds=clock["read_cost_ns"] * 1e-9,
        ),
        recording=Recording(
            range_cost_seconds=cost,
            overhead_seconds=cost * ranges,
            memory_bytes=memory_bytes,
            ranges=ranges,
            spans=capture.span_count,
            dropped_ranges=capture.dropped_records,
            dropped_spans=capture.dropped_spans,
            overflow_ranges=sum(operation.count for operation in operations if operation.name is None),
            missing_processes=missing_processes,
        ),
        reference=reference.measure() if detailed and with_reference else None,
        operations=operations,
        tree=tree_of(nodes) if detailed else [],
        memory=memory,
        loaders=list(loaders),
        findings=list(findings),
        notes=list(notes),
    )
