"""From figures to findings: what in a report is worth changing, what that rests on, and what it could gain at most.

Each rule reads a report and yields findings. A finding names the figure and the limit that it exceeds (strictly), the
subject's share of the run, and Amdahl's bound of the gain: if the subject took no time at all, the run would be
``1 / (1 - share)`` times as fast (Amdahl, 1967). The advice is one thing to do, chosen by the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from perfopt.profiling.config import Thresholds
from perfopt.report.document import Finding, Loader, Operation, Report
from perfopt.report.text import seconds as time_text

__all__ = ["KEYS", "as_bottlenecks", "find"]

KEYS = (
    "slow_functions",
    "memory_intensive_functions",
    "slow_data_loading",
    "slow_preprocessing",
    "slow_gpu_operations",
)
_MB = 2**20
_OFTEN = 1000  # calls
_OWN = 0.5  # of its time: from there on a function's own code is what to look at


def find(report: Report, thresholds: Thresholds | None = None) -> list[Finding]:
    """All findings, largest share first; those without a share last. Empty when nothing exceeds its limit."""
    limits = thresholds or Thresholds()
    findings = [finding for rule in _RULES for finding in rule(report, limits)]
    return sorted(findings, key=lambda finding: 0.0 if finding.share is None else -finding.share)


def as_bottlenecks(findings: list[Finding]) -> dict[str, list[dict[str, Any]]]:
    """The findings of the five promised keys as plain dicts; every key is there, with an empty list when nothing was found.

    Each dict has ``name``, ``evidence``, ``share``, ``gain_bound``, ``advice`` and the figures it rests on.
    """
    lists: dict[str, list[dict[str, Any]]] = {key: [] for key in KEYS}
    for finding in findings:
        if finding.rule in lists:
            plain = msgspec.to_builtins(finding)
            lists[finding.rule].append({"name": plain.pop("subject"), **plain.pop("figures"), **plain})
    return lists


def _share(seconds: float, report: Report) -> float | None:
    """Share of the run; None where it has no duration or several threads make it meaningless."""
    share = seconds / report.duration if report.duration > 0 else 2.0
    return share if share <= 1.0 else None


def _finding(rule: str, subject: str, evidence: str, advice: str, share: float | None, **figures: float) -> Finding:
    bound = None if share is None or share >= 1 else 1 / (1 - share)
    return Finding(
        rule=rule, subject=subject, evidence=evidence, advice=advice, share=share, gain_bound=bound, figures=figures
    )


def _named(report: Report, *kinds: str) -> Iterator[tuple[str, Operation]]:
    """The operations of those kinds, without the ranges of loaders, which have rules of their own."""
    loaders = {f"{loader.name}.{part}" for loader in report.loaders for part in ("start", "wait")}
    for operation in report.operations:
        name = operation.name
        if name is not None and name not in loaders and operation.kind in kinds and operation.count:
            yield name, operation


def _calls(operation: Operation) -> str:
    return "1 call" if operation.count == 1 else f"{operation.count:,} calls"


def _slow_calls(
    rule: str, kinds: tuple[str, ...], limit: Callable[[Thresholds], float], advise: Callable[[Operation], str]
) -> Callable[[Report, Thresholds], Iterator[Finding]]:
    """A rule: the mean of a call is above a limit."""

    def judge(report: Report, limits: Thresholds) -> Iterator[Finding]:
        for name, operation in _named(report, *kinds):
            threshold = limit(limits)
            if operation.mean > threshold:
                evidence = (
                    f"{name} takes {time_text(operation.mean)} a call, more than {time_text(threshold)} "
                    f"({_calls(operation)}, {time_text(operation.total)} in all, p99 {time_text(operation.p99)})"
                )
                share = _share(operation.active, report)
                figures = {"mean": operation.mean, "total": operation.total, "count": operation.count}
                yield _finding(rule, name, evidence, advise(operation), share, **figures, threshold=threshold)

    return judge


def _advise_function(operation: Operation) -> str:
    waited = operation.total - operation.active
    if waited > operation.total * _OWN:
        return f"It waits for {waited / operation.total:.0%} of its time: start what it waits for earlier or several at once."
    if operation.active > 0 and operation.self_time < operation.active * _OWN:
        below = 1 - operation.self_time / operation.active
        return f"{below:.0%} of its time is in operations inside it: look at those first."
    if operation.count > 1:
        return "Look inside with `with profiler.profile(...)`; if its arguments repeat, @perfopt.cache_result saves the call."
    return "Profile its parts: put `with profiler.profile(...)` around its steps to see which one takes the time."


def _advise_preprocessing(operation: Operation) -> str:
    if operation.kind == "augmentation":
        return "Run it in the loader's workers (num_workers above 0), or on whole batches on the device."
    return "Compute it once: cache its result with @perfopt.cache_result(persist=True), or store the prepared data."


def _advise_gpu(operation: Operation) -> str:
    if operation.count > 1 and operation.deviation > operation.mean:
        return "Its times vary widely: look for synchronisation (.item(), .cpu(), print of a tensor) inside it."
    return "Use autocast with a gradient scaler and larger batches; overlap transfers with pinned memory and non_blocking=True."


def _advise_loading(operation: Operation) -> str:
    return "Read larger pieces, keep decoded samples with perfopt.data.CachedDataset, or load in workers (num_workers above 0)."


def _memory_intensive(report: Report, limits: Thresholds) -> Iterator[Finding]:
    for operation in report.operations:
        if operation.name is None or not operation.memory:
            continue
        greatest = operation.memory.get("greatest", 0.0)
        if greatest > limits.memory_intensive:
            kept = operation.memory.get("mean", 0.0) > greatest * _OWN
            advice = (
                "What it allocates stays: return views, or write into buffers that are made once (perfopt.profiling.MemoryPool)."
                if kept
                else "Work in pieces: smaller batches, generators instead of lists, numpy.memmap for what is read once."
            )
            evidence = (
                f"{operation.name} raises memory by up to {greatest / _MB:,.0f} MB in a call, more than "
                f"{limits.memory_intensive / _MB:,.0f} MB ({_calls(operation)})"
            )
            figures = {"greatest_bytes": greatest, "count": operation.count, "threshold": limits.memory_intensive}
            yield _finding("memory_intensive_functions", operation.name, evidence, advice, None, **figures)


def _slow_loaders(report: Report, limits: Thresholds) -> Iterator[Finding]:
    for loader in report.loaders:
        if loader.batches and loader.wait_seconds / loader.batches > limits.slow_data_loading:
            wait = loader.wait_seconds / loader.batches
            evidence = (
                f"{loader.name} makes its consumer wait {time_text(wait)} for a batch, more than "
                f"{time_text(limits.slow_data_loading)} ({loader.batches:,} batches, {time_text(loader.wait_seconds)} in all)"
            )
            figures = {"mean_wait": wait, "batches": loader.batches, "threshold": limits.slow_data_loading}
            share = _share(loader.wait_seconds, report)
            yield _finding("slow_data_loading", loader.name, evidence, _advise_loader(loader), share, **figures)


def _starved(report: Report, limits: Thresholds) -> Iterator[Finding]:
    for loader in report.loaders:
        whole = loader.wait_seconds + loader.compute_seconds
        if loader.batches > 1 and whole > 0 and loader.wait_seconds / whole > limits.loader_wait:
            evidence = (
                f"the consumer of {loader.name} waits {loader.wait_seconds / whole:.1%} of its time for data, more than "
                f"{limits.loader_wait:.0%} ({loader.batches:,} batches, {loader.workers} workers)"
            )
            figures = {
                "wait_share": loader.wait_seconds / whole,
                "workers": loader.workers,
                "threshold": limits.loader_wait,
            }
            share = _share(loader.wait_seconds, report)
            yield _finding("starved_by_loader", loader.name, evidence, _advise_loader(loader), share, **figures)


def _advise_loader(loader: Loader) -> str:
    if loader.workers == 0:
        return "Load in workers: num_workers=2 or more, with persistent_workers=True and prefetch_factor=2."
    if loader.cache_misses and loader.cache_hits is not None and loader.cache_misses > loader.cache_hits:
        return "Most samples are computed anew: give perfopt.data.CachedDataset a size that holds the data set."
    started = loader.start_seconds or 0.0
    if started > loader.wait_seconds * _OWN:
        return f"Most of it is the workers' start ({time_text(started)}): keep them with persistent_workers=True."
    return f"Add workers (now {loader.workers}) while processors are free, and move work from the samples into preparation."


def _hot(report: Report, limits: Thresholds) -> Iterator[Finding]:
    # Samples may be loaded in workers, where they cost the run what its consumer waits, and the loaders tell that.
    loading = () if report.loaders else ("loading",)
    for name, operation in _named(report, "function", "preprocessing", "augmentation", "io", "gpu", *loading):
        share = _share(operation.self_time, report)
        if share is not None and share > limits.hot_function:
            evidence = (
                f"{name}'s own code takes {share:.1%} of the run, more than {limits.hot_function:.0%} "
                f"({_calls(operation)}, {time_text(operation.mean)} each)"
            )
            figures = {"self_seconds": operation.self_time, "count": operation.count, "threshold": limits.hot_function}
            yield _finding("hot_functions", name, evidence, _advise_function(operation), share, **figures)


def _hot_undecorated(report: Report, limits: Thresholds) -> Iterator[Finding]:
    """The same for functions that nobody decorated, where call stacks were recorded."""
    for row in report.extra.get("call_stacks", ()):
        share = _share(row["self"], report)
        if share is not None and share > limits.hot_function:
            where = f"{row['function']} ({row['file']}:{row['line']})" if row["line"] else row["function"]
            evidence = (
                f"{where} takes {share:.1%} of the run itself, more than {limits.hot_function:.0%} "
                f"({row['calls']:,} calls, {time_text(row['self'] / max(1, row['calls']))} each; recording stacks adds to it)"
            )
            caller = max(row["callers"].items(), key=lambda pair: pair[1], default=("", 0))[0]
            advice = (
                f"Call it less often from {caller}, or do its work for many elements at once."
                if row["calls"] > _OFTEN and caller
                else "Put @perfopt.profile_operation over it and its parts to see exactly where the time goes."
            )
            figures = {"self_seconds": row["self"], "count": row["calls"], "threshold": limits.hot_function}
            yield _finding("hot_functions", where, evidence, advice, share, **figures)


def _memory(report: Report, limits: Thresholds) -> Iterator[Finding]:
    memory = report.memory
    if memory is None:
        return
    if memory.verdict and memory.verdict.get("verdict") == "leak":
        slope = float(memory.verdict.get("slope_per_hour") or 0.0)
        left = memory.verdict.get("seconds_to_limit")
        until = "" if left is None else f"; the limit is reached in {left / 3600:.3g} h"
        evidence = f"memory grows by {slope / _MB:,.0f} MB an hour without coming back{until}"
        advice = "Compare what lives at two moments (tracemalloc snapshots) and look for containers that only grow."
        yield _finding("memory_growth", "process", evidence, advice, None, slope_per_hour=slope)
    limit = report.host.limit_bytes
    if memory.peak_rss and limit and memory.peak_rss / limit > limits.memory_limit:
        share = memory.peak_rss / limit
        evidence = (
            f"memory peaked at {share:.0%} of the limit ({report.host.limit_source}), above {limits.memory_limit:.0%}"
        )
        advice = "Lower the batch size, or use gradient checkpointing, before the kernel ends the process."
        yield _finding(
            "memory_pressure", "process", evidence, advice, None, limit_share=share, threshold=limits.memory_limit
        )
    spent = (memory.collector or {}).get("seconds", 0.0)
    collecting = _share(spent, report)
    if collecting is not None and collecting > limits.collector:
        evidence = f"garbage collection takes {collecting:.1%} of the run ({time_text(spent)}), more than {limits.collector:.0%}"
        advice = "Call gc.freeze() once the model and the data are loaded, and raise gc.set_threshold() for the loop."
        yield _finding("garbage_collection", "process", evidence, advice, collecting, threshold=limits.collector)


def _overhead(report: Report, limits: Thresholds) -> Iterator[Finding]:
    share = _share(report.recording.overhead_seconds, report)
    if share is not None and share > limits.overhead:
        evidence = (
            f"recording itself takes {share:.1%} of the run ({report.recording.ranges:,} ranges), more than "
            f"{limits.overhead:.0%}: the shortest operations look longer than they are"
        )
        advice = "Take the decorator off the operations that are called most, or profile their callers."
        yield _finding("recording", "perfopt", evidence, advice, share, threshold=limits.overhead)


_RULES: tuple[Callable[[Report, Thresholds], Iterator[Finding]], ...] = (
    _slow_calls("slow_functions", ("function", "io"), lambda limits: limits.slow_function, _advise_function),
    _memory_intensive,
    _slow_loaders,
    _slow_calls("slow_data_loading", ("loading",), lambda limits: limits.slow_data_loading, _advise_loading),
    _slow_calls(
        "slow_preprocessing",
        ("preprocessing", "augmentation"),
        lambda limits: limits.slow_preprocessing,
        _advise_preprocessing,
    ),
    _slow_calls("slow_gpu_operations", ("gpu",), lambda limits: limits.slow_gpu_operation, _advise_gpu),
    _starved,
    _hot,
    _hot_undecorated,
    _memory,
    _overhead,
)
