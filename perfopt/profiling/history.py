"""Reports over time: loading a folder of them, trends of a figure, profiling on a schedule, alerts on regressions."""

from __future__ import annotations

import functools
import logging
import math
import os
import statistics
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from perfopt.profiling import bottlenecks
from perfopt.report import document
from perfopt.report.compare import Comparison, Row, compare
from perfopt.report.document import Report

if TYPE_CHECKING:
    from perfopt.profiling.code_profiler import CodeProfiler

__all__ = ["Trend", "analyze_trend", "load_profiling_reports", "metric_of", "regressions", "scheduled_profiling"]

_R = TypeVar("_R")
_LEVEL = 0.05
_LEAST_REPORTS = 5  # below, no order of the values is unlikely enough under no trend
_LEAST_CHANGE = 0.01  # of the median, over the whole series
_EXACT_UP_TO = 60

_log = logging.getLogger("perfopt.profiling")


def load_profiling_reports(folder: str | os.PathLike[str] = "profiles") -> list[Report]:
    """All reports saved in a folder, oldest first. A JSON file that is no report is left out with a RuntimeWarning.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    directory = Path(folder)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"folder {str(directory)!r} does not exist; profiles are saved there by save_comprehensive_report()"
        )
    reports = []
    for path in sorted(directory.glob("*.json")):
        try:
            reports.append(document.load(path))
        except ValueError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    return sorted(reports, key=lambda report: report.created_ns)


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """How a figure moves over reports. ``str()`` gives the direction.

    ``direction`` is ``increasing``, ``decreasing``, ``stable`` or ``insufficient`` (fewer than five reports that have the
    figure). ``slope`` is the median of the pairwise slopes, in units a report (Theil, 1950; Sen, 1968); ``change`` is what it
    adds up to, as a share of the median; ``p_value`` is that of Kendall's test of no trend, two-sided.
    """

    metric: str
    direction: str
    values: list[float]
    slope: float = 0.0
    change: float = 0.0
    p_value: float = 1.0

    def __str__(self) -> str:
        return self.direction


def metric_of(report: Report, metric: str) -> float | None:
    """A figure of a report, None where it was not measured.

    ``avg_load_time``: mean seconds a batch was waited for, over all loaders, or of a loading operation. ``memory_usage``:
    peak resident bytes. ``gpu_time``: seconds in GPU operations. ``duration``: seconds. Any other name is an operation's, and
    the figure its mean in seconds.
    """
    if metric == "avg_load_time":
        batches = sum(loader.batches for loader in report.loaders)
        if batches:
            return sum(loader.wait_seconds for loader in report.loaders) / batches
        loads = [operation for operation in report.operations if operation.kind == "loading"]
        calls = sum(operation.count for operation in loads)
        return sum(operation.total for operation in loads) / calls if calls else None
    if metric == "memory_usage":
        return None if report.memory is None or report.memory.peak_rss is None else float(report.memory.peak_rss)
    if metric == "gpu_time":
        operations = [operation.total for operation in report.operations if operation.kind == "gpu"]
        return math.fsum(operations) if operations else None
    if metric == "duration":
        return report.duration
    return next((operation.mean for operation in report.operations if operation.name == metric), None)


def analyze_trend(reports: Sequence[Report], metric: str) -> Trend:
    """Whether a figure rises or falls from report to report; the figures are those of :func:`metric_of`.

    A direction is given when Kendall's test rejects "no trend" at 5 % and the change adds up to at least 1 % of the median.

    Raises:
        ValueError: no report has this figure.
    """
    values = [value for report in reports if (value := metric_of(report, metric)) is not None]
    if reports and not values:
        known = sorted({operation.name for report in reports for operation in report.operations if operation.name})
        raise ValueError(
            f"no report has the metric {metric!r}; accepted: avg_load_time, memory_usage, gpu_time, duration, "
            f"and the operations {known}"
        )
    if len(values) < _LEAST_REPORTS:
        return Trend(metric=metric, direction="insufficient", values=values)
    pairs = [(values[j] - values[i]) / (j - i) for i in range(len(values)) for j in range(i + 1, len(values))]
    slope = statistics.median(pairs)
    middle = statistics.median(values)
    change = slope * (len(values) - 1) / abs(middle) if middle else 0.0
    p_value = _kendall(values)
    direction = "stable"
    if p_value < _LEVEL and abs(change) >= _LEAST_CHANGE:
        direction = "increasing" if slope > 0 else "decreasing"
    return Trend(metric=metric, direction=direction, values=values, slope=slope, change=change, p_value=p_value)


def _kendall(values: Sequence[float]) -> float:
    """Two-sided p-value of Kendall's S under no trend: exact for short series without ties, else normal (Kendall, Rank
    Correlation Methods, 1975, with the correction for ties)."""
    n = len(values)
    score = sum((values[j] > values[i]) - (values[j] < values[i]) for i in range(n) for j in range(i + 1, n))
    ties = [values.count(value) for value in set(values)]
    if n <= _EXACT_UP_TO and max(ties) == 1:
        discordant = (n * (n - 1) // 2 - abs(score)) // 2
        below = math.fsum(_inversions(n)[: discordant + 1])
        return min(1.0, 2 * below)
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    if variance == 0:
        return 1.0
    z = max(0, abs(score) - 1) / math.sqrt(variance)
    return 2 * (1 - statistics.NormalDist().cdf(z))


@functools.cache
def _inversions(n: int) -> list[float]:
    """Share of the permutations of n things that have 0, 1, 2 ... inversions."""
    shares = [1.0]
    for size in range(2, n + 1):
        wider = [0.0] * (len(shares) + size - 1)
        for inversions, share in enumerate(shares):
            for more in range(size):
                wider[inversions + more] += share / size
        shares = wider
    return shares


def regressions(before: Sequence[Report], after: Sequence[Report], **limits: Any) -> list[Row]:
    """Operations that became slower; ``limits`` as for :func:`perfopt.report.compare.compare`."""
    found: Comparison = compare(before, after, **limits)
    return found.slower


def scheduled_profiling(
    profiler: CodeProfiler,
    workload: Callable[[], _R],
    *,
    runs: int = 1,
    every: float = 0.0,
    stop: threading.Event | None = None,
    logger: logging.Logger | None = None,
) -> list[_R]:
    """Profiles a workload again and again: start, run, stop, save the report, look for bottlenecks, log their number.

    Args:
        profiler: records each run; its reports go to its ``output_dir``.
        workload: what is run.
        runs: how often.
        every: seconds from the start of a run to the start of the next, which begins at once when the one before took longer.
        stop: when it is set, no further run begins.
        logger: gets a line a run, at level INFO; ``perfopt.profiling`` when left out.

    Returns:
        What the workload returned, a run. An exception of the workload ends the schedule, after the report was saved.

    Raises:
        ValueError: ``runs`` is below 1, or ``every`` is no finite number from 0.
    """
    if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
        raise ValueError(f"runs must be an int from 1, not {runs!r}")
    if not (math.isfinite(every) and every >= 0):
        raise ValueError(f"every must be a finite number of seconds from 0, not {every!r}")
    import time

    waiting = stop or threading.Event()
    results: list[_R] = []
    begin = time.monotonic()
    for run in range(runs):
        if waiting.wait(max(0.0, begin + run * every - time.monotonic())):
            break
        profiler.reset()
        profiler.start_profiling()
        try:
            results.append(workload())
        finally:
            profiler.stop_profiling(save=False)
            report = profiler.report()
            path = profiler.save_comprehensive_report(report=report)
            slow = bottlenecks.as_bottlenecks(report.findings)["slow_functions"]
            (logger or _log).info("profiling completed, %d slow functions, report in %s", len(slow), path)
    return results
