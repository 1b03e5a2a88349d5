"""``perfopt compare``: what became slower between two reports, as a table and as an exit status for CI."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from perfopt.report import document, text
from perfopt.report.compare import Comparison, Row, compare

__all__ = ["command"]

_SHARE = re.compile(r"\s*([0-9.eE+-]+)\s*(%?)\s*")
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_TIME = re.compile(r"\s*([0-9.eE+-]+)\s*(s|ms|us|µs|ns)?\s*")
_STYLES = {"slower": "bold red", "faster": "green", "same": "", "few": "dim", "gone": "dim", "new": "dim"}


def _number(pattern: re.Pattern[str], units: dict[str, float], accepted: str) -> Callable[..., float]:
    """A callback that reads a number from 0 with a unit."""

    def convert(context: click.Context, parameter: click.Parameter, value: str) -> float:
        match = pattern.fullmatch(value)
        try:
            number = float(match[1]) * units[match[2] or ""] if match else math.nan
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise click.BadParameter(f"{value!r} is not {accepted}", context, parameter)
        return number

    return convert


_share = _number(_SHARE, {"": 1.0, "%": 0.01}, "a share such as 5% or 0.05")
_seconds = _number(_TIME, {"": 1.0, **_UNITS}, "a time such as 2ms or 0.002")


def _reports(path: Path) -> list[document.Report]:
    """The report at path, or those of a folder: every ``*.json`` in it."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no report (*.json)")
    return [document.load(file) for file in files]


def _change(row: Row) -> str:
    if row.ratio is None:
        return ""
    mark = "" if row.verdict in ("slower", "faster") else "~ "
    return f"{mark}{row.ratio - 1:+.1%}"


def _show(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("operation", overflow="fold")
    for heading in ("before", "after", "change", "interval", "calls", "a run"):
        table.add_column(heading, justify="right")
    table.add_column("verdict", overflow="fold")
    for row in comparison.rows:
        interval = "" if row.low is None or row.high is None else f"{row.low - 1:+.1%} … {row.high - 1:+.1%}"
        calls = f"{row.calls_before:.6g}" + ("" if row.calls_before == row.calls_after else f" → {row.calls_after:.6g}")
        extra = (
            ""
            if row.ratio is None
            else f"{'-' if row.extra_seconds < 0 else '+'}{text.seconds(abs(row.extra_seconds))}"
        )
        cells = [
            text.printable(row.name),
            text.seconds(row.before),
            text.seconds(row.after),
            _change(row),
            interval,
            calls,
            extra,
        ]
        verdict = row.reason if row.verdict == "same" else f"{row.verdict}: {row.reason}"
        table.add_row(*(Text(cell) for cell in (*cells, verdict)), style=_STYLES[row.verdict])
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for warning in comparison.warnings:
        console.print(Text(f"note: {text.printable(warning, 1000)}"))


@click.command()
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(exists=True, path_type=Path))
@click.option("--fail-above", callback=_share, default="5%", show_default=True, help="Tolerated growth of a median.")
@click.option(
    "--at-least", callback=_seconds, default="1ms", show_default=True, help="Tolerated growth in a whole run."
)
@click.option("--run-noise", callback=_share, default="1.25%", show_default=True, help="Variation from run to run.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def command(before: Path, after: Path, fail_above: float, at_least: float, run_noise: float, as_json: bool) -> None:
    """Say what became slower from BEFORE to AFTER, two reports or two folders of reports, one a run.

    An operation counts as slower when the median of its times grew by more than --fail-above, by more than --at-least over a
    run, and by more than the noise explains, all three. A change within the noise is marked with ~.

    Exit status: 0 nothing is slower, 1 something is, 2 nothing could be compared or a file is no report.
    """
    try:
        comparison = compare(
            _reports(before), _reports(after), fail_above=fail_above, least_seconds=at_least, run_noise=run_noise
        )
    except (OSError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(comparison), indent=2))
    else:
        _show(comparison)
    if comparison.judged == 0:
        click.echo("error: nothing was compared: no operation has enough calls on both sides", err=True)
        sys.exit(2)
    slower = comparison.slower
    if not as_json:
        click.echo(f"{len(slower)} of {comparison.judged} operations became slower")
    sys.exit(1 if slower else 0)
