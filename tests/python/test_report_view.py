"""What a page shows, as data: parts that sum to the whole, a tree that loses no time, peaks that survive."""

from __future__ import annotations

import random
from typing import Any

import pytest

from perfopt.report import document, view


def an_operation(name: str | None, self_time: float, **changes: Any) -> document.Operation:
    figures = dict.fromkeys(
        ("total", "active", "mean", "least", "greatest", "p50", "p90", "p99", "p999"), self_time
    ) | {"deviation": 0.0, "error": 0.01}
    return document.Operation(**({"name": name, "count": 1, "self_time": self_time} | figures | changes))


def a_report(**changes: Any) -> document.Report:
    fields: dict[str, Any] = {
        "title": "run",
        "created_ns": 0,
        "duration": 10.0,
        "host": document.Host(system="Linux", python="3.11"),
        "clock": document.Clock(source="tsc", nanoseconds_per_tick=0.4, read_cost_seconds=1e-8),
        "recording": document.Recording(range_cost_seconds=1e-7, overhead_seconds=0, memory_bytes=0, ranges=0),
        "operations": [],
    }
    return document.Report(**(fields | changes))


def node(
    parent: int, name: str | None, self_time: float, total: float, thread: int = 0, count: int = 1
) -> document.Node:
    return document.Node(parent=parent, name=name, thread=thread, count=count, total=total, self_time=self_time)


def test_breakdown_sums_to_one_and_names_what_no_range_covers() -> None:
    report = a_report(
        operations=[an_operation("a", 2.0), an_operation("b", 5.0), an_operation(None, 1.0)],
        tree=[node(-1, "b", 5.0, 8.0), node(0, "a", 2.0, 2.0), node(0, None, 1.0, 1.0)],
    )
    slices = view.breakdown(report)
    assert [(part.name, part.seconds) for part in slices] == [
        ("b", 5.0),
        ("a", 2.0),
        (view.OVERFLOW, 1.0),
        (view.OUTSIDE, 2.0),
    ]
    assert sum(part.share for part in slices) == pytest.approx(1.0, abs=1e-12)


def test_breakdown_joins_what_is_beyond_its_number_of_slices() -> None:
    report = a_report(operations=[an_operation(str(i), float(i)) for i in range(1, 31)])
    slices = view.breakdown(report, most=5)
    assert [part.name for part in slices] == ["30", "29", "28", "27", "26", view.OTHERS]
    assert sum(part.seconds for part in slices) == pytest.approx(sum(range(1, 31)))
    assert sum(part.share for part in slices) == pytest.approx(1.0, abs=1e-12)


def test_threads_that_work_at_once_leave_no_negative_outside() -> None:
    tree = [node(-1, "a", 9.0, 9.0, thread=0), node(-1, "a", 9.0, 9.0, thread=1)]
    slices = view.breakdown(a_report(operations=[an_operation("a", 18.0)], tree=tree))
    assert [(part.name, part.seconds) for part in slices] == [("a", 18.0), (view.OUTSIDE, 1.0)]


@pytest.mark.parametrize("report", [a_report(), a_report(operations=[an_operation("a", 0.0)], duration=0.0)])
def test_breakdown_of_nothing_is_empty(report: document.Report) -> None:
    assert view.breakdown(report) == []


def test_icicle_joins_threads_and_recursion_keeps_its_levels() -> None:
    tree = [
        node(-1, "a", 1.0, 4.0, thread=0),
        node(0, "a", 3.0, 3.0, thread=0),
        node(-1, "a", 2.0, 2.0, thread=1, count=5),
    ]
    columns = view.icicle(tree)
    assert columns["labels"] == ["a", "a"]
    assert columns["parents"] == ["", "0"]
    assert columns["values"] == [3.0, 3.0]
    assert columns["totals"] == [6.0, 3.0]
    assert columns["counts"] == [6, 1]


def test_icicle_of_a_random_tree_loses_no_time_whatever_is_too_small() -> None:
    chance = random.Random(1)
    nodes: list[document.Node] = []
    for _ in range(3000):
        parent = chance.randrange(-1, len(nodes)) if nodes else -1
        nodes.append(node(parent, f"n{chance.randrange(40)}", chance.random() ** 8, 0.0))
    totals = [one.self_time for one in nodes]
    for index in reversed(range(len(nodes))):
        if nodes[index].parent >= 0:
            totals[nodes[index].parent] += totals[index]
    tree = [node(one.parent, one.name, one.self_time, total) for one, total in zip(nodes, totals, strict=True)]
    whole = sum(one.self_time for one in tree)
    for least in (0.0, 0.001, 0.1, 1.0):
        columns = view.icicle(tree, least)
        assert sum(columns["values"]) == pytest.approx(whole)
        assert len(set(columns["ids"])) == len(columns["ids"])
        assert all(
            parent == "" or int(parent) < int(own)
            for own, parent in zip(columns["ids"], columns["parents"], strict=True)
        )
    assert len(view.icicle(tree, 0.1)["ids"]) < 50


def test_a_deep_tree_needs_no_recursion() -> None:
    depth = 50_000
    tree = [node(i - 1, "f", 1.0, float(depth - i)) for i in range(depth)]
    assert len(view.icicle(tree, 0.0)["ids"]) == depth


def test_thinning_keeps_peaks_gaps_and_order() -> None:
    values: list[int | None] = [100] * 50_000
    values[12_345], values[30_000] = 10**9, 1
    values[40_000:45_000] = [None] * 5000
    seconds, thin = view.thinned([i / 10 for i in range(50_000)], values, most=1000)
    assert len(thin) <= 1002
    assert {10**9, 1, 100, None} == set(thin)
    assert seconds == sorted(seconds)
    assert seconds[thin.index(10**9)] == 1234.5


def test_a_short_series_is_left_as_it_is() -> None:
    assert view.thinned([0.0, 1.0], [1, None], most=2) == ([0.0, 1.0], [1, None])
