"""Trends: whether memory rises or falls, in this process and in planted series."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from memory_tools import GB, MIB, linux, resident_block

from perfopt import _core
from perfopt.memory import MemoryOptimizer


@pytest.mark.spec("S0-23")
def test_trends_are_there_without_any_sample() -> None:
    trends = MemoryOptimizer().get_memory_trends()
    for key in ("cpu_memory_trend", "gpu_memory_trend", "gpu_reserved_trend"):
        assert trends[key]["trend"] == "stable"
        assert trends[key]["verdict"] == "insufficient"
        assert trends[key]["slope_bytes_per_second"] == 0.0
    assert trends["cpu_memory_trend"]["samples"] == 1
    json.dumps(trends, allow_nan=False)


@linux
@pytest.mark.spec("S0-23", "S0-24", "S0-54")
def test_memory_that_grows_is_increasing(grow: Callable[[int], None]) -> None:
    optimizer = MemoryOptimizer()
    for _ in range(30):
        grow(2)
        trends = optimizer.get_memory_trends()
    found = trends["cpu_memory_trend"]
    assert found["trend"] == "increasing"
    assert found["samples"] == 30
    low, high = found["interval"]
    assert 0 < low <= found["slope_bytes_per_second"] <= high
    assert found["change_bytes"] == pytest.approx(found["slope_bytes_per_second"] * found["seconds"])
    resident = [value for value in optimizer.samples()["rss"] if value is not None]
    assert resident[-1] - resident[0] == pytest.approx(58 * MIB, rel=0.2)
    json.dumps(trends, allow_nan=False)
    assert found["leak"]["verdict"] == "insufficient"  # a second of growth is no leak yet
    assert not any("look for a leak" in line for line in optimizer.recommendations())


@linux
@pytest.mark.spec("S0-23", "S0-24", "S0-54")
def test_memory_that_stays_is_stable() -> None:
    optimizer = MemoryOptimizer()
    for _ in range(30):
        trends = optimizer.get_memory_trends()
    assert trends["cpu_memory_trend"]["trend"] == "stable"
    assert trends["cpu_memory_trend"]["verdict"] == "stable"
    assert not any("look for a leak" in line for line in optimizer.recommendations())


@linux
@pytest.mark.spec("S0-23")
def test_memory_that_shrinks_is_decreasing() -> None:
    blocks = [resident_block(2) for _ in range(30)]
    optimizer = MemoryOptimizer()
    for block in blocks:
        block.close()
        trends = optimizer.get_memory_trends()
    assert trends["cpu_memory_trend"]["trend"] == "decreasing"


def test_trend_of_a_series() -> None:
    times = [0.5 * i for i in range(50)]
    rising = _core.trend(times, [3.0 * t + 7 for t in times])
    assert rising["trend"] == "increasing"
    assert rising["slope"] == pytest.approx(3.0)
    assert rising["change"] == pytest.approx(3.0 * 24.5)
    assert (rising["samples"], rising["span"]) == (50, 24.5)
    assert _core.trend(times, [3.0 * t for t in times], minimum_change=100.0)["trend"] == "stable"
    assert _core.trend(tuple(times), range(50, 0, -1))["trend"] == "decreasing"
    assert _core.trend([], [])["trend"] == "insufficient"


@pytest.mark.parametrize(
    ("times", "values", "error", "text"),
    [
        ([1, 2], [1], ValueError, "times has 2 numbers and values 1"),
        ([1, 2, 1], [1, 2, 3], ValueError, r"times\[2\] is 1 after 2"),
        ([1, math.nan], [1, 2], ValueError, "point 1"),
        ([1, 2], [math.inf, 2], ValueError, "point 0"),
        (5, [1], TypeError, "times must be a sequence of numbers, not int"),
        ([1], None, TypeError, "values must be a sequence of numbers, not NoneType"),
        (["a"], [1], TypeError, "must be real number"),
    ],
)
def test_bad_series_are_refused(times: Any, values: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _core.trend(times, values)


def test_a_minimum_change_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="minimum_change is -1"):
        _core.trend([1], [1], minimum_change=-1)


def test_a_list_that_shrinks_while_it_is_read_is_an_error_not_a_crash() -> None:
    numbers: list[Any] = [1.0] * 100

    class Shrinks:
        def __float__(self) -> float:
            numbers.clear()
            return 1.0

    numbers[0] = Shrinks()
    with pytest.raises(RuntimeError, match="times changed its length"):
        _core.trend(numbers, [1.0] * 100)


NAMES = ("heap_retained", "minor_faults", "oom_kills", "limit_hits", "throttled")


class PlantedSampler:
    """The samples of ten minutes in which the resident set grows by 6 MiB a minute."""

    def samples(self) -> dict[str, list[int | None]]:
        times: list[int | None] = [i * 10**9 for i in range(600)]
        constant: list[int | None] = [0] * 600
        resident: list[int | None] = [GB + i * MIB // 10 for i in range(600)]
        return {"time_ns": times, "rss": resident, **dict.fromkeys(NAMES, constant)}

    def sample(self) -> None: ...


@pytest.mark.spec("S0-23", "S0-24", "S0-25", "S0-54")
def test_a_leak_in_the_samples_is_in_trends_and_advice() -> None:
    optimizer = MemoryOptimizer()
    optimizer._sampler = PlantedSampler()  # type: ignore[assignment]
    trend = optimizer.get_memory_trends()["cpu_memory_trend"]
    assert trend["trend"] == "increasing"
    assert trend["leak"]["verdict"] == "leak"
    assert optimizer.leak_verdict()["slope_per_hour"] == pytest.approx(360 * MIB, rel=0.01)
    assert optimizer.leak_verdict()["seconds_to_limit"] is not None
    assert any("look for a leak" in line for line in optimizer.recommendations())
