"""The operations of a profile as text: the right rows in the right order, on one line each whatever their names hold."""

from __future__ import annotations

import time

import pytest

from perfopt.profiler import PerformanceProfiler


@pytest.mark.spec("S3-34")
def test_the_ten_operations_that_take_longest_themselves() -> None:
    profiler = PerformanceProfiler()
    for step in range(100):
        with profiler.profile("model"):
            for layer in range(step % 15 + 1):
                with profiler.profile(f"layer {layer}"):
                    if layer == 3:
                        time.sleep(0.0005)
    lines = profiler.table().splitlines()
    rows = profiler.capture().rows()
    assert lines[0].split("  ")[0] == "operation"
    assert len(lines) == 12
    assert lines[11] == f"{len(rows) - 10} more"
    assert lines[1].startswith("layer 3 ")
    by_self = [row["name"] for row in sorted(rows, key=lambda row: row["self"], reverse=True)[:10]]
    assert [line[: len(name or "")] for line, name in zip(lines[1:11], by_self, strict=True)] == by_self
    assert len({len(line) for line in lines[:11]}) == 1


def test_other_orders_and_limits() -> None:
    profiler = PerformanceProfiler(max_names=4)
    assert profiler.table() == "nothing was recorded"
    for name, count in (("twice", 2), ("once", 1), ("thrice", 3), ("", 4), ("beyond", 5)):
        for _ in range(count):
            with profiler.profile(name):
                pass
    lines = profiler.table(sort_by="count", row_limit=5).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["(other names)", "(unnamed)", "thrice", "twice", "once"]
    assert profiler.table(sort_by="count", row_limit=1).splitlines()[2] == "4 more"
    assert "thrice" in profiler.table(sort_by="total")
    with pytest.raises(ValueError, match=r"sort_by must be one of count, .*, not 'cuda_time_total'"):
        profiler.table(sort_by="cuda_time_total")
    with pytest.raises(ValueError, match="row_limit must be at least 1, not 0"):
        profiler.table(row_limit=0)


def test_hostile_names_stay_on_their_line() -> None:
    profiler = PerformanceProfiler()
    names = ["two\nlines", "nul\0", "\x1b[31mred", "\ud800", "x" * (1 << 20), "🚀"]
    for name in names:
        with profiler.profile(name):
            pass
    text = profiler.table()
    lines = text.splitlines()
    assert len(lines) == 1 + len(names)
    assert "\x1b" not in text
    assert "\0" not in text
    text.encode()
    assert max(map(len, lines)) < 200
    assert any(line.startswith("two\\nlines") for line in lines)
