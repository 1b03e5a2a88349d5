"""``perfopt bottlenecks``: run a script and say what is worth changing, or read it from a saved report."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from perfopt.cli.profile import profiled_run, show_findings
from perfopt.profiling.bottlenecks import find
from perfopt.profiling.config import LEVELS
from perfopt.report import document

__all__ = ["command"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--level", type=click.Choice(LEVELS), default="detailed", show_default=True, help="How much is taken down."
)
@click.option(
    "--stacks/--no-stacks", default=True, show_default=True, help="Record functions that are not decorated, too."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(level: str, stacks: bool, as_json: bool, script: Path, arguments: tuple[str, ...]) -> None:
    """Run SCRIPT with ARGUMENTS and say what is worth changing; SCRIPT may also be a saved report (.json).

    Each finding names what exceeds which threshold, its share of the run, the most that the run could gain, and one thing to
    do.

    Exit status: that of the script; 2 when a report cannot be read.
    """
    status = 0
    if script.suffix == ".json":
        try:
            report = document.load(script)
        except (OSError, ValueError) as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        report = msgspec.structs.replace(report, findings=find(report))
    else:
        report, status = profiled_run(script, arguments, level=level, stacks=stacks, output_dir="profiles")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report.findings), indent=2))
    else:
        show_findings(report)
    sys.exit(status)
