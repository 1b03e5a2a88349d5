"""Reports over time: loading them, figures of them, trends."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from perfopt.profiling import analyze_trend, load_profiling_reports
from perfopt.profiling.history import _kendall, metric_of
from perfopt.report import document


def a_report(created: int = 0, **changes: Any) -> document.Report:
    fields: dict[str, Any] = {
        "title": "run",
        "created_ns": created,
        "duration": 1.0,
        "host": document.Host(system="Linux", python="3.11"),
        "clock": document.Clock(source="tsc", nanoseconds_per_tick=0.4, read_cost_seconds=1e-8),
        "recording": document.Recording(range_cost_seconds=1e-7, overhead_seconds=0, memory_bytes=0, ranges=0),
        "operations": [],
    }
    return document.Report(**(fields | changes))


def an_operation(name: str, mean: float, count: int = 1, kind: str = "function") -> document.Operation:
    fields: dict[str, Any] = dict.fromkeys(("mean", "least", "greatest", "p50", "p90", "p99", "p999"), mean)
    total = mean * count
    return document.Operation(
        name=name,
        count=count,
        total=total,
        active=total,
        self_time=total,
        deviation=0.0,
        error=0.01,
        kind=kind,
        **fields,
    )


@pytest.mark.spec("S4-40")
def test_reports_are_loaded_oldest_first_and_others_left_out(tmp_path: Path) -> None:
    for name, created in (("a", 3), ("b", 1), ("c", 2)):
        document.save(a_report(created), tmp_path / f"{name}.json")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "other.txt").write_text("{")
    with pytest.warns(RuntimeWarning, match=r"notes\.json is not a perfopt report"):
        reports = load_profiling_reports(tmp_path)
    assert [report.created_ns for report in reports] == [1, 2, 3]
    with pytest.raises(FileNotFoundError, match="missing"):
        load_profiling_reports(tmp_path / "missing")


@pytest.mark.spec("S4-40")
def test_the_promised_metrics() -> None:
    loaders = [
        document.Loader(name=name, batches=5, wait_seconds=wait, compute_seconds=0.0)
        for name, wait in (("a", 1.0), ("b", 2.0))
    ]
    memory = document.MemoryRecord(seconds=[], columns={}, peak_rss=123)
    operations = [
        an_operation("k", 0.5, 2, "gpu"),
        an_operation("l", 0.25, 4, "gpu"),
        an_operation("load", 0.125, 8, "loading"),
    ]
    report = a_report(loaders=loaders, memory=memory, operations=operations)
    assert metric_of(report, "avg_load_time") == pytest.approx(0.3)
    assert metric_of(a_report(operations=operations), "avg_load_time") == 0.125
    assert metric_of(report, "memory_usage") == 123.0
    assert metric_of(report, "gpu_time") == 2.0
    assert metric_of(report, "duration") == 1.0
    assert metric_of(report, "load") == 0.125
    for metric in ("avg_load_time", "memory_usage", "gpu_time", "walk"):
        assert metric_of(a_report(), metric) is None


def trend(values: list[float]) -> Any:
    return analyze_trend([a_report(duration=value) for value in values], "duration")


@pytest.mark.spec("S4-40")
@pytest.mark.parametrize(
    ("values", "direction"),
    [
        ([1.0, 2.0, 3.0, 4.0], "insufficient"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], "increasing"),
        ([5.0, 4.0, 3.0, 2.0, 1.0], "decreasing"),
        ([1.0] * 10, "stable"),
        ([1.0, 1.0001, 1.0002, 1.0003, 1.0004, 1.0005], "stable"),
        ([3.0, 1.0, 2.0, 1.5, 2.5, 2.0], "stable"),
        ([], "insufficient"),
    ],
)
def test_directions(values: list[float], direction: str) -> None:
    found = trend(values)
    assert found.direction == str(found) == direction
    assert found.values == values


def test_slope_and_change_are_robust_and_in_units_a_report() -> None:
    values = [10.0 + 0.5 * number for number in range(11)]
    values[5] = 1000.0
    found = trend(values)
    assert found.direction == "increasing"
    assert found.slope == pytest.approx(0.5, rel=0.1)
    assert found.change == pytest.approx(0.5 * 10 / 13, rel=0.2)


def test_reports_without_the_figure_are_passed_over_and_none_at_all_is_an_error() -> None:
    reports = [a_report(operations=[an_operation("step", float(number))]) for number in range(1, 7)]
    reports.insert(3, a_report())
    assert analyze_trend(reports, "step").values == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    with pytest.raises(ValueError, match=r"no report has the metric 'walk'.*and the operations \['step'\]"):
        analyze_trend(reports, "walk")


def test_kendalls_p_value_is_exact_for_short_series() -> None:
    for n in (5, 6):
        orders = list(itertools.permutations(range(n)))
        scores = [sum((b > a) - (b < a) for a, b in itertools.combinations(order, 2)) for order in orders]
        for order, score in list(zip(orders, scores, strict=True))[:: len(orders) // 40]:
            exact = sum(abs(other) >= abs(score) for other in scores) / len(orders)
            assert _kendall([float(value) for value in order]) == pytest.approx(min(1.0, exact))


def test_no_trend_is_seen_in_noise_more_often_than_the_level_says() -> None:
    chance = random.Random(0)
    seen = sum(trend([chance.gauss(10, 1) for _ in range(12)]).direction != "stable" for _ in range(400))
    assert seen <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5
