"""The report document: what is saved comes back equal, and nothing else is taken for a report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from perfopt.report import document


def a_report(**changes: Any) -> document.Report:
    """A small whole report; ``changes`` replace fields of it."""
    step = document.Operation(
        name="step",
        count=3,
        total=3.5,
        active=3.25,
        self_time=1.5,
        mean=3.5 / 3,
        deviation=0.25,
        least=1.0,
        greatest=1.5,
        p50=1.0,
        p90=1.5,
        p99=1.5,
        p999=1.5,
        error=0.0078125,
        callers={"epoch": 3},
        histogram=document.Histogram(lower=[1.0, 1.5], upper=[1.015625, 1.5234375], counts=[2, 1]),
    )
    fields: dict[str, Any] = {
        "title": 'a "run" of \u2603 and \x00',
        "created_ns": 1_790_000_000_123_456_789,
        "duration": 4.0,
        "command": ["train.py", "--fast"],
        "host": document.Host(name="here", system="Linux", python="3.11.2", memory_bytes=2**40),
        "clock": document.Clock(source="tsc", nanoseconds_per_tick=0.385, read_cost_seconds=9e-9),
        "recording": document.Recording(range_cost_seconds=1e-7, overhead_seconds=3e-7, memory_bytes=4096, ranges=3),
        "operations": [step],
        "tree": [document.Node(parent=-1, name="step", count=3, total=3.25, self_time=1.5)],
        "memory": document.MemoryRecord(seconds=[0.0, 0.5], columns={"rss": [2**33, None]}, peak_rss=2**33),
        "loaders": [document.Loader(name="train", batches=2, wait_seconds=1.0, compute_seconds=3.0)],
        "findings": [
            document.Finding(
                rule="slow_functions",
                subject="step",
                evidence="step took 1.2 s a call, more than 1 s",
                figures={"mean": 1.2, "threshold": 1.0},
                share=0.8,
                gain_bound=5.0,
                advice="Cache it.",
            )
        ],
    }
    return document.Report(**(fields | changes))


def test_a_saved_report_comes_back_equal(tmp_path: Path) -> None:
    report = a_report()
    path = document.save(report, tmp_path / "run.json")
    assert document.load(path) == report


def test_self_time_is_named_self_in_the_file() -> None:
    data = json.loads(document.dumps(a_report()))
    assert data["operations"][0]["self"] == 1.5
    assert data["tree"][0]["self"] == 1.5


def test_fields_of_a_later_perfopt_are_passed_over() -> None:
    data = json.loads(document.dumps(a_report()))
    data["moon_phase"] = "full"
    data["operations"][0]["colour"] = "blue"
    assert document.loads(json.dumps(data)) == a_report()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "run.json is a report of version 2; this perfopt reads versions up to 1"),
        ({"schema": "other"}, "its schema is 'other'"),
        ({"operations": [{"name": "step"}]}, "damaged"),
        ({"duration": "long"}, "damaged"),
    ],
)
def test_what_is_no_report_of_this_version_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(document.dumps(a_report())) | change))
    with pytest.raises(ValueError, match=says):
        document.load(path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"schema": "perfopt.report"'])
def test_what_is_no_json_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a perfopt report"):
        document.loads(data)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("tree", 0, "parent"), 0),  # its own
        (("tree", 0, "parent"), -2),
        (("tree", 0, "parent"), 7),
        (("operations", 0, "histogram", "counts"), [3]),
        (("operations", 0, "histogram", "counts"), [4, -1]),
        (("operations", 0, "histogram", "counts"), [3, 0]),
        (("memory", "columns", "rss"), [1]),
        (("memory", "seconds"), [0.0, None]),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(place: tuple[Any, ...], wrong: Any) -> None:
    plain = json.loads(document.dumps(a_report()))
    part = plain
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = wrong
    with pytest.raises(ValueError, match=r"run\.json is a damaged perfopt report"):
        document.loads(json.dumps(plain), source="run.json")


def test_every_truncation_is_refused() -> None:
    data = document.dumps(a_report())
    for length in range(len(data)):
        with pytest.raises(ValueError, match="perfopt report"):
            document.loads(data[:length])


def test_a_figure_that_is_not_finite_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    path = document.save(a_report(), tmp_path / "run.json")
    with pytest.raises(ValueError, match=r"not finite.*duration"):
        document.save(a_report(duration=float("nan")), path)
    assert document.load(path) == a_report()
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = document.save(a_report(), tmp_path / "run.json")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        document.save(a_report(title="new"), path)
    assert document.load(path) == a_report()
    assert os.listdir(tmp_path) == ["run.json"]


def test_bytes_that_are_no_utf8_in_names_and_arguments_do_not_stop_a_save(tmp_path: Path) -> None:
    report = a_report(title="\udcff", command=["caf\udce9.py"], extra={"\ud800": ["\udfff", ("\udcff",)]})
    loaded = document.load(document.save(report, tmp_path / "run.json"))
    assert (loaded.title, loaded.command) == ("\\udcff", ["caf\\udce9.py"])
    assert loaded.extra == {"\\ud800": ["\\udfff", ["\\udcff"]]}
    assert loaded.operations == report.operations


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        document.save(a_report(), pipe)
        assert document.loads(os.read(reader, 2**16)) == a_report()
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_reports_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        a_report().title = "other"  # type: ignore[misc]


def test_operation_by_name() -> None:
    assert a_report().operation("step").count == 3
    with pytest.raises(KeyError, match=r"no operation 'walk'.*\['step'\]"):
        a_report().operation("walk")


def test_the_json_schema_describes_a_saved_report() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(document.dumps(a_report())), document.json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": document.SCHEMA}, document.json_schema())
