"""``perfopt compare``: exit status, table and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report_models import program, report

from perfopt.cli import main
from perfopt.report import document

numpy = pytest.importorskip("numpy")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A report and one in which ``smooth`` takes half as long again and ``wide`` a tenth less."""
    random = numpy.random.default_rng(0)
    before, after = program(random, run_noise=0.0), program(random, run_noise=0.0)
    after["smooth"] = after["smooth"] * 1.5
    after["wide"] = after["wide"] * 0.8
    return (
        document.save(report(before), tmp_path / "before.json"),
        document.save(report(after), tmp_path / "after.json"),
    )


def test_a_slower_operation_fails_and_is_named(files: tuple[Path, Path]) -> None:
    result = run(*files)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[1].startswith("smooth")
    assert "slower: +" in lines[1]
    assert lines[2].startswith("wide")
    assert "faster: -" in lines[2]
    assert "1 of 8 operations became slower" in result.output
    assert "note: one run a side" in result.output


def test_a_change_within_the_noise_is_marked(files: tuple[Path, Path]) -> None:
    line = next(line for line in run(*files).output.splitlines() if line.startswith("tiny"))
    assert "~" in line
    assert "within the noise" in line


def test_the_same_report_twice_is_well(files: tuple[Path, Path]) -> None:
    result = run(files[0], files[0])
    assert result.exit_code == 0
    assert "0 of 8 operations became slower" in result.output


@pytest.mark.parametrize(
    "tolerant", [["--fail-above", "60%"], ["--fail-above", "0.6"], ["--at-least", "10 s"], ["--run-noise", "30%"]]
)
def test_what_is_tolerated_can_be_set(files: tuple[Path, Path], tolerant: list[str]) -> None:
    assert run(*files, *tolerant).exit_code == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("--fail-above", "5 %%"), ("--fail-above", "-1"), ("--fail-above", "1e"), ("--at-least", "2 min")],
)
def test_what_is_no_share_or_time_is_refused(files: tuple[Path, Path], option: str, value: str) -> None:
    result = run(*files, option, value)
    assert result.exit_code == 2
    assert f"{value!r} is not a " in result.output


def test_json(files: tuple[Path, Path]) -> None:
    result = run(*files, "--json")
    assert result.exit_code == 1
    comparison = json.loads(result.output)
    assert comparison["rows"][0]["name"] == "smooth"
    assert comparison["rows"][0]["ratio"] == pytest.approx(1.5, abs=0.05)
    assert comparison["rows"][0]["verdict"] == "slower"


def test_folders_hold_one_report_a_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    random = numpy.random.default_rng(1)
    for side, slower in (("base", 1.0), ("head", 1.1)):
        (tmp_path / side).mkdir()
        for number in range(4):
            document.save(report(program(random, slower)), tmp_path / side / f"{number}.json")
    result = run(tmp_path / "base", tmp_path / "head")
    assert result.exit_code == 1
    assert "note:" not in result.output
    assert run(tmp_path / "base", tmp_path / "base").exit_code == 0


def test_nothing_measured_is_no_success(tmp_path: Path) -> None:
    empty = document.save(report({}), tmp_path / "empty.json")
    result = run(empty, empty)
    assert result.exit_code == 2
    assert "nothing was compared" in result.output


def test_files_that_are_no_reports_are_an_error(files: tuple[Path, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    result = run(files[0], bad)
    assert result.exit_code == 2
    assert f"error: {bad} is not a perfopt report" in result.output
    (tmp_path / "none").mkdir()
    result = run(files[0], tmp_path / "none")
    assert result.exit_code == 2
    assert "holds no report" in result.output
    assert run(files[0], tmp_path / "missing.json").exit_code == 2


def test_markup_in_names_is_shown_as_it_is(tmp_path: Path) -> None:
    name = "[bold]a[/bold] [/x]"
    path = document.save(report({name: numpy.full(100, 1.0)}), tmp_path / "run.json")
    assert name in run(path, path).output


def test_names_cannot_command_the_terminal_or_fill_it(tmp_path: Path) -> None:
    samples = {"\x1b]0;title\x07\x1b[2J\n": numpy.full(100, 1.0), "a" * 1_000_000: numpy.full(100, 1.0)}
    output = run(path := document.save(report(samples), tmp_path / "run.json"), path).output
    assert "\\x1b]0;title\\x07\\x1b[2J\\n" in output
    assert "\x1b" not in output
    assert len(output.splitlines()) < 20
