"""``perfopt top``: a live view of a process that publishes its figures (``perfopt.profiling.publish``)."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from perfopt.report import document
from perfopt.report.document import Operation, Report
from perfopt.report.terminal import operations_table
from perfopt.report.text import printable
from perfopt.report.text import seconds as time_text
from perfopt.report.text import size as size_text

__all__ = ["command", "view"]

_KEYS: dict[str, tuple[str, Callable[[Operation], float]]] = {
    "t": ("total", lambda row: row.total),
    "s": ("self", lambda row: row.self_time),
    "c": ("calls", lambda row: float(row.count)),
    "m": ("mean", lambda row: row.mean),
    "p": ("p99", lambda row: row.p99),
}


def view(report: Report, *, key: str = "t", rows: int = 20, paused: bool = False) -> Any:
    """The view as a rich renderable: a line about the process, a table of operations, the keys."""
    from rich.console import Group
    from rich.text import Text

    name, sort = _KEYS[key]
    age = max(0.0, time.time() - report.created_ns * 1e-9)
    memory = report.memory
    resident = (
        next((value for value in reversed(memory.columns.get("rss", [])) if value is not None), None)
        if memory
        else None
    )
    head = Text(
        f"{printable(' '.join(report.command or [report.title]), 120)}\n"
        f"{time_text(report.duration)} profiled, {report.recording.ranges:,} ranges, "
        f"recording {report.recording.overhead_seconds / report.duration if report.duration else 0:.2%}, "
        f"resident {size_text(resident)} of {size_text(report.host.limit_bytes)}, {age:.0f} s old"
        f"{', paused' if paused else ''}"
    )
    shown = sorted(report.operations, key=sort, reverse=True)
    table = operations_table(shown[:rows], long_names="ellipsis")
    more = f"{len(shown) - rows} more; " if len(shown) > rows else ""
    keys = ", ".join(f"{letter} {text}" for letter, (text, _) in _KEYS.items())
    return Group(
        head, Text(), table, Text(), Text(f"{more}sorted by {name} ({keys}), space pauses, q quits", style="dim")
    )


@contextlib.contextmanager
def _single_keys() -> Iterator[bool]:
    """Has the terminal give keys at once; False where the input is no terminal."""
    if not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _key(wait: float, keys: bool) -> str:
    """The key pressed within so many seconds, or ``""``."""
    if not keys:
        time.sleep(wait)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], wait)
    return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""


def _watch(path: Path, every: float) -> str:
    """Shows the file until q is pressed or it is gone; why it ended."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    key, paused = "t", False
    report = document.load(path)
    with _single_keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view(report, key=key, rows=max(3, console.height - 8), paused=paused), refresh=True)
            pressed = _key(every, keys)
            if pressed == "q":
                return ""
            key = pressed if pressed in _KEYS else key
            paused = not paused if pressed == " " else paused
            try:
                report = report if paused else document.load(path)
            except FileNotFoundError:
                return f"{path} is gone: the process has ended or publishes no more"


@click.command()
@click.argument("target")
@click.option(
    "--every", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Seconds between updates."
)
@click.option("--once", is_flag=True, help="Print the figures once and end; so also where the output is no terminal.")
def command(target: str, every: float, once: bool) -> None:
    """Watch TARGET, the id of a process that called perfopt.profiling.publish(), or the file it publishes to.

    Keys: t, s, c, m, p sort by total, self, calls, mean, p99; space pauses; q quits.

    Exit status: 0, or 2 when there is nothing to watch.
    """
    from perfopt.profiling.publish import published_file

    try:
        path = published_file(int(target)) if target.isdecimal() and not Path(target).exists() else Path(target)
        if once or not sys.stdout.isatty():
            from rich.console import Console

            Console(width=None if sys.stdout.isatty() else 160).print(view(document.load(path), rows=1000))
            return
        ended = _watch(path, every)
    except FileNotFoundError:
        click.echo(f"error: nothing is published by {target}: call perfopt.profiling.publish(profiler) in it", err=True)
        sys.exit(2)
    except (OSError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        return
    if ended:
        click.echo(ended)
