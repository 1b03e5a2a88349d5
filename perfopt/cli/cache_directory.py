"""``perfopt cache stats|ls|verify|clear``: looking after the directory of a cache's disk tier. None of them makes a directory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from perfopt._core import DiskStore
from perfopt.report.text import size

__all__ = ["clear", "ls", "stats", "verify"]

directory_argument = click.argument("directory", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")


def _open(directory: Path) -> DiskStore:
    """The cache in a directory, or what is wrong with it in one line and exit status 1."""
    if not directory.exists():
        raise click.ClickException(f"{directory} does not exist")
    if not directory.is_dir():
        raise click.ClickException(f"{directory} is no directory")
    try:
        # No bound: looking after a cache shrinks nothing.
        return DiskStore(str(directory), max_disk_bytes=2**62, must_exist=True)
    except (RuntimeError, OSError) as error:  # a newer format; no cache, or one that cannot be read
        raise click.ClickException(f"{directory}: {error}") from error


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _print_json(facts: Any) -> None:
    click.echo(json.dumps(facts, indent=2))


def _print_rows(title: str, headings: list[str], rows: list[list[str]]) -> None:
    """A table on a terminal; elsewhere one line a row, its cells apart by tabs."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        for row in rows:
            click.echo("\t".join(row))
        return
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("key", "kind", "label", "") else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


@click.command()
@directory_argument
@json_option
def stats(directory: Path, as_json: bool) -> None:
    """Show how much a cache directory holds."""
    figures = _open(directory).stats()
    facts = {name: figures[name] for name in ("entries", "bytes", "payload_files", "segments", "garbage_bytes")}
    if as_json:
        _print_json({"directory": str(directory), **facts})
        return
    rows = [
        ["entries", str(facts["entries"])],
        ["size", size(facts["bytes"])],
        ["payload files", str(facts["payload_files"])],
        ["segments", str(facts["segments"])],
        ["garbage", size(facts["garbage_bytes"])],
    ]
    _print_rows(str(directory), ["", "figure"], rows)


_ORDERS = {
    "size": lambda entry: (-entry["bytes"], entry["label"]),
    "age": lambda entry: (entry["stored_ns"], entry["label"]),
    "key": lambda entry: (entry["label"], entry["key"]),
}


@click.command()
@directory_argument
@click.option(
    "--sort",
    "order",
    type=click.Choice(sorted(_ORDERS)),
    default="key",
    show_default=True,
    help="Largest first, oldest first, or by name.",
)
@click.option("--limit", type=click.IntRange(1), help="At most so many entries.")
@json_option
def ls(directory: Path, order: str, limit: int | None, as_json: bool) -> None:
    """List the entries of a cache directory."""
    entries = [{**entry, "key": entry["key"].hex()} for entry in _open(directory).entries()]
    entries.sort(key=_ORDERS[order])
    shown = entries[:limit]
    if as_json:
        _print_json(shown)
        return
    now = time.time_ns()
    rows = [
        [
            entry["label"] or entry["key"],
            entry["kind"],
            size(entry["bytes"]),
            _duration((now - entry["stored_ns"]) / 1e9),
            _duration((entry["expires_ns"] - now) / 1e9) if entry["expires_ns"] else "never",
        ]
        for entry in shown
    ]
    _print_rows(f"{len(shown)} of {len(entries)} entries", ["key", "kind", "size", "age", "expires in"], rows)


@click.command()
@directory_argument
@click.option("--repair", is_flag=True, help="Remove what is damaged or belongs to nothing.")
@json_option
@click.pass_context
def verify(context: click.Context, directory: Path, repair: bool, as_json: bool) -> None:
    """Read and check every entry; exit status 1 when damage was found and is still there."""
    cache = _open(directory)
    try:
        report = cache.verify(repair)
        left = cache.verify()["damaged"] if repair else report["damaged"]
    except OSError as error:
        raise click.ClickException(f"{directory}: {error}") from error
    if as_json:
        _print_json({"directory": str(directory), **report})
    else:
        rows = [
            ["checked", str(report["checked"])],
            ["damaged", str(report["damaged"])],
            ["orphans", f"{report['orphans']} ({size(report['orphan_bytes'])})"],
            ["repaired", str(report["repaired"])],
            ["index", "rebuilt" if report["index_rebuilt"] else "good"],
        ]
        _print_rows(str(directory), ["", "figure"], rows)
    context.exit(1 if left else 0)


@click.command()
@directory_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def clear(directory: Path, yes: bool, as_json: bool) -> None:
    """Remove every entry of a cache directory."""
    cache = _open(directory)
    facts = cache.stats()
    if not yes:
        question = f"remove {facts['entries']} entries ({size(facts['bytes'])}) from {directory}?"
        click.confirm(question, abort=True, err=True)
    try:
        cache.clear()
    except OSError as error:  # a failing disk, or no write permission
        raise click.ClickException(f"{directory}: {error}") from error
    if as_json:
        _print_json({"directory": str(directory), "removed": facts["entries"]})
    else:
        click.echo(f"removed {facts['entries']} entries from {directory}")
