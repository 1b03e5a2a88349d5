"""The comparison of reports: silent on equal code, whatever the noise, and awake when something became slower."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from report_models import measured_run, operation, program, reference, report

from perfopt.report import document
from perfopt.report.compare import LEAST_CALLS, Comparison, Row, compare

numpy = pytest.importorskip("numpy")

TRIALS = 1000 if os.environ.get("PERFOPT_PROOFS") == "full" else 25


def trials(judge: Callable[[Any], bool], seed: int) -> int:
    """How many of TRIALS seeded trials the judge says yes to."""
    return sum(judge(numpy.random.default_rng([seed, trial])) for trial in range(TRIALS))


def row_of(comparison: Comparison, name: str) -> Row:
    return next(row for row in comparison.rows if row.name == name)


def test_two_runs_of_the_same_code_raise_no_alarm() -> None:
    alarms = trials(lambda random: bool(compare([report(program(random))], [report(program(random))]).slower), seed=1)
    assert alarms == 0


def test_three_runs_a_side_of_the_same_code_raise_no_alarm() -> None:
    def alarm(random: Any) -> bool:
        sides = [[report(program(random, run_noise=0.02)) for _ in range(3)] for _ in range(2)]
        return bool(compare(*sides).slower)

    assert trials(alarm, seed=2) == 0


OPERATIONS = ["smooth", "wide", "pauses", "two modes", "drifting", "correlated", "rare", "tiny"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_ten_percent_are_found_in_one_operation_of_one_run(name: str) -> None:
    def found(random: Any) -> bool:
        before, after = program(random), program(random)
        after[name] = after[name] * 1.1
        return [row.name for row in compare([report(before)], [report(after)]).slower] == [name]

    # Two runs that differ by 1.4 % (one standard deviation) hide a growth of 10 % below the 7 to 9 % that count as noise
    # in some of a hundred trials; not more.
    assert trials(found, seed=3) / TRIALS > 0.7


def test_two_runs_with_references_of_the_same_code_raise_no_alarm() -> None:
    assert trials(lambda random: bool(compare([measured_run(random)], [measured_run(random)]).slower), seed=11) == 0


@pytest.mark.parametrize("machine", [0.7, 1.3])
def test_a_machine_of_another_speed_raises_no_alarm_with_references(machine: float) -> None:
    def alarm(random: Any) -> bool:
        return bool(compare([measured_run(random)], [measured_run(random, machine=machine)]).slower)

    assert trials(alarm, seed=12) == 0


def test_ten_percent_of_all_operations_are_found_in_one_run_with_references() -> None:
    def found(random: Any) -> bool:
        return bool(compare([measured_run(random)], [measured_run(random, code=1.1)]).slower)

    # The two references and the two runs each differ by 1.4 % (one standard deviation) on a machine whose speed is the same.
    assert trials(found, seed=13) / TRIALS > 0.6


def test_fifteen_percent_of_all_operations_are_found_in_one_run_on_a_machine_of_another_speed() -> None:
    def found(random: Any) -> bool:
        before, after = measured_run(random), measured_run(random, code=1.15, machine=1.2)
        return bool(compare([before], [after]).slower)

    assert trials(found, seed=14) / TRIALS > 0.8


@pytest.mark.parametrize("name", OPERATIONS)
def test_ten_percent_of_one_operation_are_found_with_references_as_well(name: str) -> None:
    def found(random: Any) -> bool:
        before, after = program(random), program(random)
        after[name] = after[name] * 1.1
        machine = [math.exp(random.normal(0, 0.01)) for _ in range(2)]
        sides = [
            [report(side, reference=reference(random, speed))]
            for side, speed in zip((before, after), machine, strict=True)
        ]
        return [row.name for row in compare(*sides).slower] == [name]

    assert trials(found, seed=15) / TRIALS > 0.6


def test_an_operation_too_noisy_to_judge_is_the_same_and_its_interval_says_why() -> None:
    random = numpy.random.default_rng(8)
    values = 1e-3 * random.lognormal(0, 0.8, 200)
    row = row_of(compare([report({"step": values})], [report({"step": values * 1.1})]), "step")
    assert row.verdict == "same"
    assert row.high is not None
    assert row.high > 1.5


def test_a_slower_program_is_found_in_every_trial_by_five_runs_a_side() -> None:
    def found(random: Any) -> bool:
        before = [report(program(random)) for _ in range(5)]
        after = [report(program(random, slower=1.1)) for _ in range(5)]
        return bool(compare(before, after).slower)

    few = min(TRIALS, 200)
    assert sum(found(numpy.random.default_rng([4, trial])) for trial in range(few)) == few


def test_a_faster_operation_is_no_alarm() -> None:
    random = numpy.random.default_rng(5)
    before, after = ([report(program(random, slower)) for _ in range(3)] for slower in (2.0, 1.0))
    comparison = compare(before, after)
    assert not comparison.slower
    assert {row.verdict for row in comparison.rows} == {"faster"}


def test_a_slower_machine_is_no_alarm_but_said_and_one_operation_beyond_it_is() -> None:
    random = numpy.random.default_rng(9)
    before, after = program(random), program(random, slower=1.5)
    comparison = compare([report(before)], [report(after)])
    assert not comparison.slower
    assert any(warning.startswith("all operations together changed by +5") for warning in comparison.warnings)
    assert "like all operations together" in comparison.rows[0].reason
    after["smooth"] = after["smooth"] * 1.2
    assert [row.name for row in compare([report(before)], [report(after)]).slower] == ["smooth"]
    after["smooth"] = before["smooth"]  # as fast as it was, where all others became slower: faster than they
    assert not compare([report(before)], [report(after)]).slower


def fixed_reference(interpreter: float, memory: float, spread: float = 0.01, loops: int = 1) -> document.Reference:
    def timing(seconds: float) -> document.Timing:
        return document.Timing(least=seconds, upper=seconds * (1 + spread))

    return document.Reference(loops=loops, interpreter=timing(interpreter), memory=timing(memory), cost_seconds=0.005)


def grown(
    by: float, before: document.Reference | None, after: document.Reference | None, names: str = "abcd"
) -> Comparison:
    """Operations that all took ``by`` times as long, with those references."""
    values = 1e-3 * numpy.random.default_rng(16).lognormal(0, 0.02, 2000)
    old, new = dict.fromkeys(names, values), dict.fromkeys(names, values * by)
    return compare([report(old, reference=before)], [report(new, reference=after)])


def test_what_all_operations_share_is_the_codes_where_the_machine_is_as_fast_as_before() -> None:
    comparison = grown(1.12, fixed_reference(1e-4, 2e-4), fixed_reference(1e-4, 2e-4))
    assert len(comparison.slower) == 4
    assert comparison.warnings[1] == (
        "all operations together changed by +12.0%, more than the machine explains: its reference loops changed by "
        "+0.0% to +0.0%, ± 2.9%"
    )


@pytest.mark.parametrize(("interpreter", "memory"), [(1.12e-4, 2e-4), (1e-4, 2.24e-4), (1.5e-4, 2.8e-4)])
def test_what_either_loop_explains_is_the_machines(interpreter: float, memory: float) -> None:
    comparison = grown(1.12, fixed_reference(1e-4, 2e-4), fixed_reference(interpreter, memory))
    assert not comparison.slower
    assert "+12.0%, which the machine may explain: its reference loops changed by +0.0% to" in comparison.warnings[1]
    assert comparison.rows[0].reason == "like all operations together (+12.0%), which the machine may have caused"


def test_a_part_that_the_machine_does_not_explain_is_the_codes() -> None:
    assert len(grown(1.4, fixed_reference(1e-4, 2e-4), fixed_reference(1.1e-4, 2.2e-4)).slower) == 4


def test_a_machine_whose_speed_jumps_while_it_is_looked_at_explains_more() -> None:
    steady, jumping = fixed_reference(1e-4, 2e-4), fixed_reference(1e-4, 2e-4, spread=0.3)
    assert grown(1.12, steady, steady).slower
    for sides in ((steady, jumping), (jumping, steady)):
        comparison = grown(1.12, *sides)
        assert not comparison.slower
        assert comparison.warnings[1].endswith("± 31.4%")


def test_a_faster_machine_accuses_no_operation_and_is_said() -> None:
    comparison = grown(1.0, fixed_reference(1.5e-4, 3e-4), fixed_reference(1e-4, 2e-4))
    assert {row.verdict for row in comparison.rows} == {"same"}
    assert comparison.warnings[1] == (
        "the operations did not follow the machine: its reference loops changed by -33.3% to +0.0%, ± 2.9%; measure again if "
        "that surprises"
    )
    assert len(grown(1.12, fixed_reference(1.5e-4, 3e-4), fixed_reference(1e-4, 2e-4)).slower) == 4


def test_the_machine_excuses_no_single_operation_but_is_named() -> None:
    comparison = grown(1.12, fixed_reference(1e-4, 2e-4), fixed_reference(1.12e-4, 2.24e-4), names="ab")
    assert len(comparison.slower) == 2
    assert "which the machine may explain" in comparison.warnings[1]
    assert len(grown(1.12, None, None, names="ab").warnings) == 1


def test_faster_operations_are_judged_alike() -> None:
    same, fast = fixed_reference(1e-4, 2e-4), fixed_reference(0.85e-4, 1.7e-4)
    assert {row.verdict for row in grown(0.85, same, same).rows} == {"faster"}
    assert {row.verdict for row in grown(0.85, same, fast).rows} == {"same"}


@pytest.mark.parametrize("other", [None, fixed_reference(1e-4, 2e-4, loops=2)], ids=["older report", "other loops"])
def test_references_that_cannot_be_compared_are_none(other: document.Reference | None) -> None:
    comparison = grown(1.12, fixed_reference(1e-4, 2e-4), other)
    assert not comparison.slower
    assert comparison.warnings[1] == (
        "all operations together changed by +12.0%: the machine or the code, which one run a side without reference loops "
        "cannot tell"
    )


def test_two_operations_have_nothing_in_common() -> None:
    random = numpy.random.default_rng(10)
    before = {"a": 1e-3 * random.lognormal(0, 0.05, 1000), "b": 1e-3 * random.lognormal(0, 0.05, 1000)}
    after = {name: values * 1.5 for name, values in before.items()}
    assert len(compare([report(before)], [report(after)]).slower) == 2


def test_the_interval_holds_the_ratio_and_narrows_with_more_calls() -> None:
    random = numpy.random.default_rng(6)
    widths = []
    for calls in (50, 5000):
        old, new = (report({"step": 1e-3 * random.lognormal(0, 0.2, calls)}) for _ in range(2))
        row = row_of(compare([old], [new], run_noise=0.0), "step")
        assert row.low is not None
        assert row.high is not None
        assert row.ratio is not None
        assert row.low < row.ratio < row.high
        widths.append(row.high - row.low)
    assert widths[1] < widths[0] / 5


def test_a_large_ratio_of_next_to_nothing_is_tolerated() -> None:
    values = numpy.full(100, 1e-5)
    comparison = compare([report({"step": values})], [report({"step": values * 1.5})])
    assert row_of(comparison, "step").verdict == "same"
    assert "too little to count" in row_of(comparison, "step").reason
    comparison = compare([report({"step": values})], [report({"step": values * 1.5})], least_seconds=1e-4)
    assert row_of(comparison, "step").verdict == "slower"


def test_growth_that_the_profiler_may_have_caused_is_tolerated() -> None:
    values = numpy.full(1_000_000, 1e-6)
    comparison = compare([report({"step": values})], [report({"step": values * 1.2})])
    assert row_of(comparison, "step").verdict == "same"


def test_few_calls_and_one_sided_operations_are_not_judged() -> None:
    few, many = numpy.full(LEAST_CALLS - 1, 1.0), numpy.full(LEAST_CALLS, 1.0)
    comparison = compare([report({"step": few, "old": many})], [report({"step": many * 3, "fresh": many})])
    assert {row.name: row.verdict for row in comparison.rows} == {"step": "few", "old": "gone", "fresh": "new"}
    assert comparison.judged == 0
    assert not comparison.slower


def test_reports_without_operations_judge_nothing() -> None:
    assert compare([report({})], [report({})]).judged == 0


@pytest.mark.parametrize("histogram", [None, document.Histogram(lower=[], upper=[], counts=[])])
def test_an_operation_without_histogram_is_not_judged(histogram: document.Histogram | None) -> None:
    step = operation("step", numpy.full(100, 1.0))
    bare = msgspec.structs.replace(step, histogram=histogram)
    comparison = compare([report({}, operations=[bare])], [report({}, operations=[step])])
    assert row_of(comparison, "step").verdict == "few"


def test_ranges_of_no_time_do_not_divide_by_zero() -> None:
    instant = document.Histogram(lower=[0.0], upper=[0.0], counts=[100])
    step = operation("step", numpy.full(100, 1.0))
    fields = {field: getattr(step, field) for field in step.__struct_fields__}
    zero = report({}, operations=[document.Operation(**(fields | {"histogram": instant}))])
    assert row_of(compare([zero], [zero]), "step").verdict == "same"


def test_the_overflow_row_is_left_out() -> None:
    rest = report({}, operations=[operation(None, numpy.full(100, 1.0))])
    assert compare([rest], [rest]).rows == []


def test_what_makes_a_comparison_doubtful_is_said() -> None:
    values = {"step": numpy.full(100, 1.0)}
    other = document.Host(system="Linux", python="3.12.1", processor="Q")
    lossy = document.Recording(range_cost_seconds=1e-7, overhead_seconds=0, memory_bytes=0, ranges=1, dropped_ranges=7)
    comparison = compare([report(values)], [report(values, host=other, recording=lossy)])
    assert comparison.warnings == [
        "one run a side: variation from run to run is assumed to be 1.25%; give several runs to measure it",
        "the processor differs: P before, Q after",
        "the version of Python differs: 3.11.2 before, 3.12.1 after",
        "7 ranges were lost while recording",
    ]
    assert compare([report(values)] * 2, [report(values)] * 2).warnings == []
    one_lost = msgspec.structs.replace(lossy, dropped_ranges=1)
    assert (
        "1 range was lost while recording" in compare([report(values)], [report(values, recording=one_lost)]).warnings
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"fail_above": -0.1}, "fail_above must be a finite number from 0, not -0.1"),
        ({"least_seconds": math.nan}, "least_seconds must be a finite number from 0, not nan"),
        ({"run_noise": math.inf}, "run_noise must be a finite number from 0, not inf"),
        ({"alpha": 1.0}, "alpha must be between 0 and 1, not 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        compare([report({})], [report({})], **arguments)


def test_a_side_without_reports_is_refused() -> None:
    with pytest.raises(ValueError, match="before must hold at least one report"):
        compare([], [report({})])
    with pytest.raises(ValueError, match="after must hold at least one report"):
        compare([report({})], [])


def test_students_t_agrees_with_published_quantiles() -> None:
    from perfopt.report.compare import _student

    # Abramowitz and Stegun, table 26.10
    for freedom, probability, quantile in [(1, 0.95, 6.314), (2, 0.975, 4.303), (9, 0.995, 3.250), (30, 0.9995, 3.646)]:
        assert _student(probability, freedom) == pytest.approx(quantile, abs=5e-4)
