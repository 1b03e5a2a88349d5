"""Reports edited by hand or to do harm: refused with the name of the field, or shown by every reader without harm."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from report_models import operation, reference, report

from perfopt.cli import compare as compare_command
from perfopt.cli import profile as profile_command
from perfopt.cli.top import view as top_view
from perfopt.profiling import bottlenecks
from perfopt.report import confidential, document
from perfopt.report.compare import compare

numpy = pytest.importorskip("numpy")
rich_console = pytest.importorskip("rich.console")

ESCAPE = "\x1b]0;owned\x07"
TEXTS = ["", f"</script><img src=x onerror=alert(1)>{ESCAPE}[red]\u202e\r\n", "x" * 5000]
FIGURES = [None, -1, 10**30, 1e308, 5e-324]
OTHERS: list[Any] = [[], {}, [[]]]


def a_report() -> document.Report:
    values = numpy.full(100, 1e-3)
    verdict = {
        "verdict": "leak",
        "slope_per_hour": 1e9,
        "interval": [1e8, 1e10],
        "seconds_to_limit": 60.0,
        "evidence": {"model": "line"},
    }
    row = {"function": "f", "file": "x.py", "line": 3, "calls": 2000, "self": 0.9, "total": 0.9, "callers": {"g": 1}}
    memory = document.MemoryRecord(
        seconds=[0.0],
        columns={"rss": [1]},
        peak_rss=2**30,
        verdict=verdict,
        collector={"seconds": 0.5},
        events={"high": 1},
    )
    finding = document.Finding(
        rule="slow", subject="f", evidence="f is slow", advice="See f.", share=0.5, gain_bound=2.0
    )
    return report(
        {},
        host=document.Host(
            name="h", system="L", python="3", limit_bytes=2**30, accelerators=["A"], versions={"n": "1"}
        ),
        command=["job.py"],
        operations=[operation("step", values)],
        reference=reference(numpy.random.default_rng(1)),
        tree=[document.Node(parent=-1, name="step", count=1, total=1.0, self_time=1.0)],
        memory=memory,
        loaders=[document.Loader(name="l", batches=2, wait_seconds=0.5, compute_seconds=0.1, wait_p50=0.1)],
        findings=[finding],
        notes=["note"],
        extra={"call_stacks": [row], "mine": 1},
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every leaf and every branch of a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    copy = json.loads(json.dumps(value))
    part = copy
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return copy


def loaded(plain: Any) -> tuple[document.Report | None, str]:
    """The report, or why it is refused."""
    try:
        return document.loads(json.dumps(plain), source="run.json"), ""
    except ValueError as error:
        return None, str(error)


def read_by_all(hostile: document.Report, capsys: pytest.CaptureFixture[str]) -> str:
    """What every reader makes of the report; the page apart."""
    good = a_report()
    console = rich_console.Console(file=io.StringIO(), width=200)
    console.print(top_view(hostile))
    profile_command.show_operations(hostile)
    found = bottlenecks.find(hostile)
    profile_command.show_findings(document.loads(document.dumps(hostile)))
    for sides in (([good], [hostile]), ([hostile], [good])):
        compare_command._show(compare(*sides))
    document.dumps(confidential.confidential(hostile))
    return console.file.getvalue() + capsys.readouterr().out + repr(found)


def test_every_place_may_hold_anything(capsys: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(document.dumps(a_report()))
    read = 0
    for path in places(plain):
        for wrong in (*TEXTS, *FIGURES, *OTHERS):
            hostile, refusal = loaded(changed(plain, path, wrong))
            if hostile is None:
                assert refusal.startswith("run.json is ")
                assert refusal.isprintable()
                continue
            read += 1
            try:
                shown = read_by_all(hostile, capsys)
            except Exception as error:
                raise AssertionError(f"{path} = {wrong!r:.80}") from error
            assert "\x1b]" not in shown, path
            assert "\u202e" not in shown, path
    assert read > 150


def test_no_text_becomes_markup_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    plotly = pytest.importorskip("plotly.offline")
    from perfopt.report import page

    monkeypatch.setattr(plotly, "get_plotlyjs", lambda: "")
    plain = json.loads(document.dumps(a_report()))
    clean = page.render(a_report())
    read = 0
    for path in places(plain):
        for wrong in (TEXTS[1], -1, 1e308):
            hostile, _ = loaded(changed(plain, path, wrong))
            if hostile is None:
                continue
            read += 1
            try:
                shown = page.render(hostile, comparison=compare([a_report()], [hostile]))
            except Exception as error:
                raise AssertionError(f"{path} = {wrong!r:.80}") from error
            assert "<img" not in shown, path
            assert shown.count("</script>") == clean.count("</script>"), path
            assert "\x1b" not in shown, path
            assert "\u202e" not in shown, path
    assert read > 50


@pytest.mark.parametrize(
    ("path", "wrong", "says"),
    [
        (("memory", "verdict"), {}, r"memory\.verdict: object missing required field `verdict`"),
        (("memory", "verdict", "verdict"), "<b>", r"memory\.verdict\.verdict: invalid enum value '<b>'"),
        (
            ("memory", "verdict", "slope_per_hour"),
            "1",
            r"memory\.verdict\.slope_per_hour: expected `float \| null`, got `str`",
        ),
        (("memory", "verdict", "interval"), [1.0], r"memory\.verdict\.interval: expected `array` of length 2, got 1"),
        (("memory", "verdict", "evidence"), [], r"memory\.verdict\.evidence: expected `object`, got `array`"),
        (("extra", "call_stacks"), 7, r"extra\.call_stacks: expected `array`, got `int`"),
        (("extra", "call_stacks", 0, "self"), "x", r"extra\.call_stacks\[0\]\.self: expected `float`, got `str`"),
        (
            ("extra", "mine"),
            json.loads("[" * 40 + "]" * 40),
            "extra: lists and objects are nested more than 32 levels deep",
        ),
    ],
)
def test_the_field_is_named(path: tuple[Any, ...], wrong: Any, says: str) -> None:
    plain = changed(json.loads(document.dumps(a_report())), path, wrong)
    with pytest.raises(ValueError, match=f"run.json is a damaged perfopt report: {says}"):
        document.loads(json.dumps(plain), source="run.json")


def test_a_document_that_is_nested_without_end_is_refused() -> None:
    deep = b'{"schema":"perfopt.report","version":1,"extra":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    with pytest.raises(ValueError, match="perfopt report"):
        document.loads(deep)
