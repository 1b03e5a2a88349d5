"""Two reports of the same code, or several of each: what became slower, and is it more than noise?

The location of an operation is the median of its wall times. An operation counts as slower only when three things agree:

* **ratio**: the median grew by more than ``fail_above``;
* **time**: the growth, times the number of calls, is at least ``least_seconds``, and a call's growth is more than the
  profiler's own cost of a range could explain;
* **significance**: the growth is outside what the noise explains. Within a run the noise of a median is its distribution-free
  interval from order statistics (ranks n/2 -+ z sqrt(n)/2; David and Nagaraja, Order Statistics, 7.1), with n divided by
  :data:`CORRELATION`, because neighbouring calls are alike, and stretched in proportion where the calls are too few for
  their range to hold it. Between runs it is the variation of the medians over the runs of a side, moderated by
  ``run_noise`` as a prior of :data:`PRIOR_RUNS` degrees of freedom, with Student's t (Smyth, 2004, with a fixed prior);
  with one run a side that variation cannot be seen, and ``run_noise`` is assumed instead. The level ``alpha`` holds for
  all operations of a comparison together (Bonferroni).

With one run a side, what all operations have in common (the median of their growths) is not held against any of them as far as
the machine may explain it, because a machine that ran slower looks the same; :mod:`perfopt.report.common` says how far that is.

So two runs of the same code disagree less often than ``alpha`` as long as the machine's speed varies by no more than
``run_noise`` from run to run; on noisier machines give several runs a side. What is *not* noticed: a change of the tail that
leaves the median alone, and a change of the number of calls (it is shown, and judged by nobody).
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence

import msgspec

from perfopt.report.common import Common, common_growth
from perfopt.report.document import Histogram, Operation, Report

__all__ = ["CORRELATION", "LEAST_CALLS", "Comparison", "Row", "compare"]

CORRELATION = 4  # calls that tell as much as one independent call
LEAST_CALLS = 20  # a side with fewer calls is not judged
PRIOR_RUNS = 8  # degrees of freedom that the assumed variation from run to run weighs beside the measured one
RANGE_COSTS = 3.0  # growth of a call below so many times the cost of its range may be the profiler's


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One operation on both sides. Medians in seconds; ``low`` and ``high`` bound the ratio at the level of the comparison."""

    name: str
    verdict: str  # slower, faster, same, few, gone, new
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    calls_before: float = 0  # a run
    calls_after: float = 0
    extra_seconds: float = 0.0  # growth of the median times the calls of a run afterwards
    reason: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, worst first, and what was asked."""

    rows: list[Row]
    runs_before: int
    runs_after: int
    fail_above: float
    least_seconds: float
    run_noise: float | None  # assumed; None where it was measured
    alpha: float
    warnings: list[str] = []

    @property
    def slower(self) -> list[Row]:
        """Operations that became slower; ``perfopt compare`` fails when there is one."""
        return [row for row in self.rows if row.verdict == "slower"]

    @property
    def judged(self) -> int:
        """Operations that both sides have in sufficient number. 0 means that nothing was compared, which is no success."""
        return sum(row.verdict in ("slower", "faster", "same") for row in self.rows)


class _Side(msgspec.Struct, frozen=True):
    """One operation on one side: the median with its interval, as logarithms."""

    center: float
    below: float  # distance to the interval's ends
    above: float
    spread: float | None  # standard deviation of the runs' medians; None with one run
    runs: int
    calls: float


def compare(
    before: Sequence[Report],
    after: Sequence[Report],
    *,
    fail_above: float = 0.05,
    least_seconds: float = 1e-3,
    run_noise: float = 0.0125,
    alpha: float = 5e-4,
) -> Comparison:
    """Compares the runs ``after`` with the runs ``before``.

    Args:
        before: reports of the baseline, one a run.
        after: reports of what is judged.
        fail_above: relative growth of the median that is tolerated.
        least_seconds: growth over all calls of a run that is tolerated.
        run_noise: relative standard deviation from run to run that is assumed where a side has one run only, and where
            there are several the prior that their own variation is joined with.
        alpha: probability that two sides of the same code give any ``slower``.

    Raises:
        ValueError: a side has no report, or a number is out of range.
    """
    for name, reports in (("before", before), ("after", after)):
        if not reports:
            raise ValueError(f"{name} must hold at least one report")
    for name, number in (("fail_above", fail_above), ("least_seconds", least_seconds), ("run_noise", run_noise)):
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name} must be a finite number from 0, not {number!r}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha!r}")
    side_before, side_after = _by_name(before), _by_name(after)
    level = alpha / max(1, len(side_before.keys() & side_after.keys()))
    range_cost = max(report.recording.range_cost_seconds for report in (*before, *after))
    rows = []
    for name in side_before | side_after:
        olds, news = side_before.get(name, []), side_after.get(name, [])
        if not olds or not news:
            where, verdict = ("before", "gone") if olds else ("after", "new")
            calls = sum(operation.count for operation in olds or news) / len(olds or news)
            rows.append(
                Row(
                    name=name,
                    verdict=verdict,
                    calls_before=calls if olds else 0,
                    calls_after=calls if news else 0,
                    reason=f"only {where}",
                )
            )
            continue
        rows.append(_judge(name, olds, news, level, fail_above, least_seconds, run_noise, range_cost))
    measured = len(before) > 1 and len(after) > 1
    warnings = _warnings(before, after, measured, run_noise)
    if not measured:
        common = common_growth([math.log(row.ratio) for row in rows if row.ratio is not None], before, after)
        if common is not None:
            rows = [_against_common(row, common, math.log1p(fail_above)) for row in rows]
            warning = common.warning(math.log1p(fail_above))
            warnings += [] if warning is None else [warning]
    order = {"slower": 0, "faster": 1, "same": 2, "few": 3, "new": 4, "gone": 5}
    rows.sort(key=lambda row: (order[row.verdict], -abs(row.extra_seconds), row.name))
    return Comparison(
        rows=rows,
        runs_before=len(before),
        runs_after=len(after),
        fail_above=fail_above,
        least_seconds=least_seconds,
        run_noise=None if measured else run_noise,
        alpha=alpha,
        warnings=warnings,
    )


def _by_name(reports: Sequence[Report]) -> dict[str, list[Operation]]:
    """The operations of one side by their names, one a run that has it."""
    operations: dict[str, list[Operation]] = {}
    for report in reports:
        for operation in report.operations:
            if operation.name is not None:
                operations.setdefault(operation.name, []).append(operation)
    return operations


def _judge(
    name: str,
    olds: list[Operation],
    news: list[Operation],
    level: float,
    fail_above: float,
    least_seconds: float,
    run_noise: float,
    range_cost: float,
) -> Row:
    calls = (
        statistics.fmean(operation.count for operation in olds),
        statistics.fmean(operation.count for operation in news),
    )
    fewest = min(operation.count for operation in (*olds, *news))
    if fewest < LEAST_CALLS or not all(
        operation.histogram and operation.histogram.counts for operation in (*olds, *news)
    ):
        reason = f"{fewest} calls, {LEAST_CALLS} are needed" if fewest < LEAST_CALLS else "saved without a histogram"
        return Row(name=name, verdict="few", calls_before=calls[0], calls_after=calls[1], reason=reason)
    z = statistics.NormalDist().inv_cdf(1 - level)
    old, new = _side(olds, z), _side(news, z)
    growth = new.center - old.center
    between = _between_runs(old, new, run_noise, level, z)
    # Each end of the interval: the sides' own ends and the variation between runs are independent.
    low = growth - math.sqrt(new.below**2 + old.above**2 + between**2)
    high = growth + math.sqrt(new.above**2 + old.below**2 + between**2)
    medians = (math.exp(old.center), math.exp(new.center))
    step = medians[1] - medians[0]
    extra = step * calls[1]
    verdict, reason = _verdict(math.exp(growth) - 1, low, high, step, extra, fail_above, least_seconds, range_cost)
    return Row(
        name=name,
        verdict=verdict,
        before=medians[0],
        after=medians[1],
        ratio=math.exp(growth),
        low=math.exp(low),
        high=math.exp(high),
        calls_before=calls[0],
        calls_after=calls[1],
        extra_seconds=extra,
        reason=reason,
    )


def _verdict(
    change: float,
    low: float,
    high: float,
    step: float,
    extra: float,
    fail_above: float,
    least_seconds: float,
    range_cost: float,
) -> tuple[str, str]:
    """The verdict, and which of the three conditions it rests on or fails."""
    if change > 0:
        far, significant = change > fail_above, low > 0
    else:
        far, significant = 1 / (1 + change) - 1 > fail_above, high < 0
    if not significant:
        return "same", "within the noise"
    if not far:
        return "same", f"a change of {change:+.1%} is tolerated"
    if abs(extra) < least_seconds or abs(step) < RANGE_COSTS * range_cost:
        return "same", f"{abs(extra):.3g} s a run is too little to count"
    return ("slower" if change > 0 else "faster"), f"{change:+.1%}, {extra:+.3g} s a run, outside the noise"


def _against_common(row: Row, common: Common, tolerated: float) -> Row:
    """Takes back a verdict that only says what all operations have in common and the machine may have caused."""
    if row.verdict not in ("slower", "faster") or row.ratio is None or row.low is None or row.high is None:
        return row
    growth = math.log(row.ratio)
    width = growth - math.log(row.low) if growth > 0 else math.log(row.high) - growth
    if common.is_beyond(growth, width, tolerated):
        return row
    reason = f"like all operations together ({math.expm1(common.growth):+.1%}), which the machine may have caused"
    return msgspec.structs.replace(row, verdict="same", reason=reason)


def _between_runs(old: _Side, new: _Side, run_noise: float, level: float, z: float) -> float:
    """Half width of the interval that the variation from run to run leaves to the difference of two sides."""
    if old.spread is None or new.spread is None:
        return z * run_noise * math.sqrt(1 / old.runs + 1 / new.runs)
    freedom = old.runs + new.runs - 2
    squares = (old.runs - 1) * old.spread**2 + (new.runs - 1) * new.spread**2 + PRIOR_RUNS * run_noise**2
    moderated = math.sqrt(squares / (freedom + PRIOR_RUNS))
    return _student(1 - level, freedom + PRIOR_RUNS) * moderated * math.sqrt(1 / old.runs + 1 / new.runs)


def _side(operations: list[Operation], z: float) -> _Side:
    """Joins the runs of one side: mean of their log medians; the intervals within runs shrink with the root of the runs."""
    centers, belows, aboves = [], [], []
    for operation in operations:
        assert operation.histogram is not None  # checked by the caller
        middle = operation.count / 2
        half = z * math.sqrt(operation.count * CORRELATION) / 2
        stretch = max(1.0, half / middle)
        half = min(half, middle)
        low, center, high = (
            math.log(_at_rank(operation.histogram, rank)) for rank in (middle - half, middle, middle + half)
        )
        centers.append(center)
        belows.append((center - low) * stretch)
        aboves.append((high - center) * stretch)
    runs = len(operations)
    return _Side(
        center=statistics.fmean(centers),
        below=math.sqrt(math.fsum(x * x for x in belows)) / runs,
        above=math.sqrt(math.fsum(x * x for x in aboves)) / runs,
        spread=statistics.stdev(centers) if runs > 1 else None,
        runs=runs,
        calls=statistics.fmean(operation.count for operation in operations),
    )


def _at_rank(histogram: Histogram, rank: float) -> float:
    """The value at a rank from 0 to the count, on a straight line within its bucket; above 0, so that it has a logarithm."""
    ranks = list(itertools.accumulate(histogram.counts))
    rank = min(max(rank, 0.0), float(ranks[-1]))
    bucket = min(bisect.bisect_left(ranks, rank), len(ranks) - 1)
    inside = (rank - (ranks[bucket] - histogram.counts[bucket])) / histogram.counts[bucket]
    value = histogram.lower[bucket] + inside * (histogram.upper[bucket] - histogram.lower[bucket])
    return max(value, 1e-12)


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution, by bisection over its distribution function."""
    low, high = 0.0, 1.0
    while _student_below(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, freedom) < probability else (low, middle)
    return high


def _student_below(t: float, freedom: int) -> float:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    term, series, start = 1.0, 0.0, 1 if freedom % 2 == 0 else 2
    if freedom % 2 == 0:
        for k in range(start, freedom, 2):  # 1, 1/2 cos^2, 1*3/(2*4) cos^4, ...
            series += term
            term *= k / (k + 1) * cosine**2
        area = math.sin(angle) * series
    else:
        term = cosine
        for k in range(start, freedom, 2):  # cos, 2/3 cos^3, 2*4/(3*5) cos^5, ...
            series += term
            term *= k / (k + 1) * cosine**2
        area = 2 / math.pi * (angle + math.sin(angle) * series)
    return (1 + area) / 2


def _warnings(before: Sequence[Report], after: Sequence[Report], measured: bool, run_noise: float) -> list[str]:
    """What a reader must know before believing the table."""
    notes = []
    if not measured:
        notes.append(
            f"one run a side: variation from run to run is assumed to be {run_noise:.2%}; give several runs to measure it"
        )
    for label, text in (("processor", "processor"), ("python", "version of Python"), ("limit_bytes", "memory limit")):
        values = [{str(getattr(report.host, label)) for report in side} for side in (before, after)]
        if values[0] != values[1]:
            notes.append(f"the {text} differs: {_listed(values[0])} before, {_listed(values[1])} after")
    lost = sum(report.recording.dropped_ranges for report in (*before, *after))
    if lost:
        notes.append(f"{lost} {'range was' if lost == 1 else 'ranges were'} lost while recording")
    return notes


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values))
