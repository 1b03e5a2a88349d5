"""Progress: plain lines off a terminal, a bar on one, silence when asked for."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from perfopt._progress import Progress


def make_console(terminal: bool, kind: str = "xterm-256color") -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, _environ={"TERM": kind})


def run(
    total: int | None,
    steps: int,
    *,
    terminal: bool = False,
    quiet: bool = False,
    title: str = "work",
    kind: str = "xterm-256color",
) -> str:
    console = make_console(terminal, kind)
    with Progress(title, total, quiet=quiet, console=console) as progress:
        for i in range(steps):
            progress.advance(f"note {i} [/loss]")
    assert progress.done == steps
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_come_each_tenth() -> None:
    lines = run(40, 40).splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("work: 4/40")
    assert lines[-1].startswith("work: 40/40")


def test_unknown_total_and_quiet_print_nothing() -> None:
    assert run(None, 5) == ""
    assert run(5, 5, quiet=True) == ""


def test_bar_on_a_terminal() -> None:
    assert "5/5" in run(5, 5, terminal=True)


def test_plain_lines_on_a_terminal_that_cannot_draw() -> None:
    assert run(10, 10, terminal=True, kind="dumb").splitlines()[-1].startswith("work: 10/10")


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_are_text(terminal: bool) -> None:
    shown = run(3, 3, terminal=terminal, title="work [/on] [bold]it")
    assert "work [/on] [bold]it" in shown
    assert "note 2 [/loss]" in shown


def test_bar_is_stopped_by_an_error() -> None:
    progress = Progress("work", 3, console=make_console(True))

    def fail() -> None:
        with progress:
            progress.advance()
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert progress._bar is not None
    assert progress._bar.finished is False
    assert not progress._bar.live.is_started
