"""The reference loops: what they tell of the machine, and that reports carry it."""

from __future__ import annotations

import json
import time

import pytest

from perfopt.profiling import CodeProfiler, create_profiler_config
from perfopt.report import document, reference


def test_a_reading_names_its_loops_and_its_cost() -> None:
    begin = time.perf_counter()
    reading = reference.measure()
    passed = time.perf_counter() - begin
    assert reading.loops == reference.LOOPS
    for timing in (reading.interpreter, reading.memory):
        assert 0 < timing.least <= timing.upper < passed
        assert timing.least * reference.REPETITIONS < reading.cost_seconds
    assert reading.cost_seconds <= passed


def test_a_slower_clock_is_a_slower_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10**9, 250))  # a reading every 250 ns
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(ticks))
    reading = reference.measure()
    assert reading.interpreter == reading.memory
    assert (reading.memory.least, reading.memory.upper) == pytest.approx((2.5e-7, 2.5e-7))


def test_reports_that_can_be_compared_carry_a_reading() -> None:
    def report_at(level: str, **how: bool) -> document.Report:
        with CodeProfiler(create_profiler_config(level)) as profiler, profiler.profile("step"):
            pass
        return profiler.report(**how)

    made = report_at("detailed")
    assert made.reference is not None
    assert document.loads(document.dumps(made)) == made
    assert report_at("detailed", with_reference=False).reference is None


def test_documents_from_before_references_are_read() -> None:
    with CodeProfiler(create_profiler_config("detailed")) as profiler, profiler.profile("step"):
        pass
    data = json.loads(document.dumps(profiler.report()))
    assert (data["version"], data.pop("minor")) == (1, document.MINOR)
    del data["reference"]
    old = document.loads(json.dumps(data))
    assert (old.minor, old.reference) == (0, None)


@pytest.mark.parametrize("least", [0.0, -1.0, 2.0])
def test_times_that_no_loop_has_are_refused(least: float) -> None:
    with pytest.raises(ValueError, match="above 0 and in this order"):
        document.Timing(least=least, upper=1.0)
