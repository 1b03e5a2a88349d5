"""Rules of the findings: strict thresholds, evidence, share, bound of the gain, and advice that follows the figures."""

from __future__ import annotations

from typing import Any

import pytest

from perfopt.profiling.bottlenecks import KEYS, as_bottlenecks, find
from perfopt.profiling.config import Thresholds
from perfopt.report import document


def an_operation(name: str | None, mean: float, **changes: Any) -> document.Operation:
    fields: dict[str, Any] = dict.fromkeys(("mean", "least", "greatest", "p50", "p90", "p99", "p999"), mean)
    fields |= {
        "name": name,
        "count": 1,
        "total": mean,
        "active": mean,
        "self_time": mean,
        "deviation": 0.0,
        "error": 0.01,
    }
    return document.Operation(**(fields | changes))


def a_report(*operations: document.Operation, **changes: Any) -> document.Report:
    fields: dict[str, Any] = {
        "title": "run",
        "created_ns": 0,
        "duration": 10.0,
        "host": document.Host(system="Linux", python="3.11", limit_bytes=2**33, limit_source="cgroup v2"),
        "clock": document.Clock(source="tsc", nanoseconds_per_tick=0.4, read_cost_seconds=1e-8),
        "recording": document.Recording(range_cost_seconds=1e-7, overhead_seconds=0, memory_bytes=0, ranges=0),
        "operations": list(operations),
    }
    return document.Report(**(fields | changes))


def rules(report: document.Report, **limits: float) -> list[tuple[str, str]]:
    return [(finding.rule, finding.subject) for finding in find(report, Thresholds(**limits))]


def only(report: document.Report, rule: str) -> document.Finding:
    (found,) = [finding for finding in find(report) if finding.rule == rule]
    return found


@pytest.mark.spec("S4-16", "S4-18", "S4-19", "S4-20")
@pytest.mark.parametrize(
    ("kind", "rule", "limit"),
    [
        ("function", "slow_functions", 1.0),
        ("io", "slow_functions", 1.0),
        ("loading", "slow_data_loading", 1.0),
        ("preprocessing", "slow_preprocessing", 0.5),
        ("augmentation", "slow_preprocessing", 0.5),
        ("gpu", "slow_gpu_operations", 0.1),
    ],
)
def test_a_call_must_take_more_than_the_limit(kind: str, rule: str, limit: float) -> None:
    at = a_report(an_operation("work", limit, kind=kind))
    above = a_report(an_operation("work", limit * 1.001, kind=kind))
    assert rules(at, hot_function=1.0) == []
    assert rules(above, hot_function=1.0) == [(rule, "work")]
    finding = only(above, rule)
    assert finding.figures["mean"] > finding.figures["threshold"] == limit
    assert finding.share == pytest.approx(limit * 1.001 / 10)
    assert finding.gain_bound == pytest.approx(1 / (1 - limit * 1.001 / 10))


@pytest.mark.spec("S4-17")
def test_memory_must_rise_by_more_than_the_limit() -> None:
    limit = 100 * 2**20
    for greatest, expected in ((limit, []), (limit + 1, [("memory_intensive_functions", "work")])):
        memory = {"mean": 0.0, "greatest": float(greatest), "total": 0.0}
        assert rules(a_report(an_operation("work", 0.1, memory=memory))) == expected


@pytest.mark.spec("S4-33")
@pytest.mark.parametrize(
    ("operation", "advice"),
    [
        (an_operation("f", 2.0, count=3, total=6.0, active=6.0, self_time=6.0), "cache_result"),
        (an_operation("f", 2.0, self_time=0.2), "90% of its time is in operations inside it"),
        (an_operation("f", 2.0, active=0.5, self_time=0.5), "It waits for 75% of its time"),
        (an_operation("f", 2.0), "Profile its parts"),
        (an_operation("f", 2.0, kind="augmentation"), "num_workers"),
        (an_operation("f", 2.0, kind="preprocessing"), "persist=True"),
        (an_operation("f", 2.0, kind="loading"), "CachedDataset"),
        (an_operation("f", 2.0, kind="gpu"), "autocast"),
        (an_operation("f", 2.0, kind="gpu", count=5, deviation=3.0), "synchronisation"),
    ],
)
def test_advice_follows_the_figures(operation: document.Operation, advice: str) -> None:
    finding = next(finding for finding in find(a_report(operation)) if finding.rule in KEYS)
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("kept", "advice"), [(0.0, "Work in pieces"), (150.0 * 2**20, "written into buffers|write into buffers")]
)
def test_advice_on_memory_tells_what_stays_from_what_comes_and_goes(kept: float, advice: str) -> None:
    import re

    memory = {"mean": kept, "greatest": 200.0 * 2**20, "total": kept}
    finding = only(a_report(an_operation("f", 0.1, memory=memory)), "memory_intensive_functions")
    assert re.search(advice, finding.advice)


def a_loader(**changes: Any) -> document.Loader:
    fields: dict[str, Any] = {"name": "train", "batches": 10, "wait_seconds": 2.0, "compute_seconds": 6.0}
    return document.Loader(**(fields | changes))


@pytest.mark.spec("S4-18")
@pytest.mark.parametrize(
    ("loader", "expected", "advice"),
    [
        (a_loader(wait_seconds=0.05), [], ""),
        (a_loader(), ["starved_by_loader"], "num_workers=2"),
        (a_loader(wait_seconds=10.0), ["slow_data_loading", "starved_by_loader"][1:], "num_workers=2"),
        (a_loader(wait_seconds=11.0), ["slow_data_loading", "starved_by_loader"], "num_workers=2"),
        (a_loader(workers=2), ["starved_by_loader"], "now 2"),
        (a_loader(workers=2, start_seconds=1.9), ["starved_by_loader"], "persistent_workers"),
        (a_loader(workers=2, cache_hits=1, cache_misses=9), ["starved_by_loader"], "CachedDataset"),
        (a_loader(batches=1), ["slow_data_loading"], "num_workers"),
        (a_loader(batches=0, wait_seconds=0.0, compute_seconds=0.0), [], ""),
    ],
)
def test_loaders(loader: document.Loader, expected: list[str], advice: str) -> None:
    findings = find(a_report(loaders=[loader], duration=100.0))
    assert sorted(finding.rule for finding in findings) == sorted(expected)
    assert all(advice in finding.advice for finding in findings)


def test_hot_functions_need_no_slow_call() -> None:
    hot = an_operation("inner", 1e-3, count=4000, total=4.0, active=4.0, self_time=4.0)
    outer = an_operation("outer", 5.0, self_time=1.0)
    assert ("hot_functions", "inner") in rules(a_report(hot, outer))
    assert ("hot_functions", "outer") not in rules(a_report(hot, outer))
    assert only(a_report(hot), "hot_functions").share == pytest.approx(0.4)


def test_memory_of_the_process() -> None:
    record = document.MemoryRecord(
        seconds=[0.0],
        columns={},
        peak_rss=int(0.95 * 2**33),
        verdict={"verdict": "leak", "slope_per_hour": 2.0**30, "seconds_to_limit": 7200.0},
        collector={"seconds": 1.0},
    )
    report = a_report(memory=record)
    assert {rule for rule, _ in rules(report)} == {"memory_growth", "memory_pressure", "garbage_collection"}
    assert "1,024 MB an hour" in only(report, "memory_growth").evidence
    assert "2 h" in only(report, "memory_growth").evidence
    assert "95% of the limit (cgroup v2)" in only(report, "memory_pressure").evidence
    assert rules(a_report(memory=document.MemoryRecord(seconds=[], columns={}))) == []


def test_the_recording_itself_is_a_finding_when_it_costs_too_much() -> None:
    recording = document.Recording(range_cost_seconds=1e-7, overhead_seconds=1.0, memory_bytes=0, ranges=10**7)
    assert rules(a_report(recording=recording)) == [("recording", "perfopt")]


def test_a_share_beyond_the_run_is_not_given() -> None:
    finding = only(a_report(an_operation("threads", 40.0, self_time=0.0)), "slow_functions")
    assert finding.share is None
    assert finding.gain_bound is None


def test_largest_share_first_and_those_without_last() -> None:
    report = a_report(
        an_operation("small", 1.5, self_time=0.0),
        an_operation("everywhere", 40.0, self_time=0.0),
        an_operation("large", 4.0, self_time=0.0),
    )
    assert [finding.subject for finding in find(report)] == ["large", "small", "everywhere"]


def test_the_overflow_row_and_an_empty_report_give_nothing() -> None:
    assert find(a_report(an_operation(None, 5.0))) == []
    assert find(a_report(duration=0.0)) == []
    assert as_bottlenecks([]) == {key: [] for key in KEYS}


def test_findings_of_other_rules_are_not_among_the_five() -> None:
    found = as_bottlenecks(find(a_report(an_operation("f", 5.0))))
    assert list(found) == list(KEYS)
    assert [entry["name"] for entry in found["slow_functions"]] == ["f"]
    assert set(found["slow_functions"][0]) >= {"evidence", "share", "gain_bound", "advice", "mean", "threshold"}
