"""Advice on memory: each line rests on figures."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from memory_tools import GB, MIB, info_with

from perfopt import _memory_advice as advice
from perfopt import memory
from perfopt.memory import MemoryOptimizer


@pytest.mark.spec("S0-25")
def test_recommendations_rest_on_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = MemoryOptimizer(0.8)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace())
    monkeypatch.setattr(memory._core, "memory_info", info_with())
    assert optimizer.recommendations() == []
    monkeypatch.setattr(memory._core, "memory_info", info_with(rss=9 * GB))
    (line,) = optimizer.recommendations()
    assert "90% of the limit of 10.00 GB (cgroup v2)" in line
    monkeypatch.setattr(memory._core, "memory_info", info_with(machine_available=5 * GB))
    (line,) = optimizer.recommendations()
    assert "95% of the machine" in line
    monkeypatch.setattr(memory._core, "memory_info", info_with(heap_retained=GB // 2))
    (line,) = optimizer.recommendations()
    assert "malloc keeps 512 MiB" in line
    assert "not a leak" in line


def test_what_the_kernel_did_to_the_container_is_advised_on() -> None:
    columns: dict[str, list[int | None]] = {"oom_kills": [1, 1], "limit_hits": [2, None, 7], "throttled": [None]}
    line = advice.advise_on_events(columns)
    assert line is not None
    assert "met the limit 5 times" in line
    assert "killed" not in line
    columns["limit_hits"] = [7, 7]
    assert advice.advise_on_events(columns) is None


def leak_found(seconds_to_limit: float | None) -> dict[str, Any]:
    return {
        "verdict": "leak",
        "slope_per_hour": 3600.0 * MIB,
        "interval": [3500.0 * MIB, 3700.0 * MIB],
        "seconds_to_limit": seconds_to_limit,
        "evidence": {"growth_bytes": 100.0 * MIB, "seconds": 100.0},
    }


@pytest.mark.spec("S0-24", "S0-25")
def test_growth_that_malloc_keeps_is_not_called_a_leak() -> None:
    retained: list[int | None] = [10 * MIB, None, 90 * MIB]
    line = advice.advise_on_growth(leak_found(None), retained, None)
    assert line is not None
    assert "malloc keeps" in line
    assert "leak" not in line
    retained[-1] = 11 * MIB
    line = advice.advise_on_growth(leak_found(5400.0), retained, 10 * GB)
    assert line is not None
    assert "rises by 3600.0 MiB/h (95 % interval 3500.0 to 3700.0; 100.0 MiB in 100.0 s)" in line
    assert "look for a leak" in line
    assert "reaches the limit in 1.5 h" in line
    assert advice.advise_on_growth({**leak_found(None), "verdict": "plateau"}, retained, None) is None


def test_many_page_faults_are_advised_on() -> None:
    columns: dict[str, list[int | None]] = {
        "time_ns": [i * 10**9 for i in range(20)],
        "minor_faults": [i * 100_000 for i in range(20)],
    }
    line = advice.advise_on_faults(columns)
    assert line is not None
    assert "100,000 page faults per second" in line
    columns["minor_faults"] = [i * 100 for i in range(20)]
    assert advice.advise_on_faults(columns) is None
    assert advice.advise_on_faults({"time_ns": [1], "minor_faults": [1]}) is None
