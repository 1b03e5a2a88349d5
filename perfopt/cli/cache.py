"""``perfopt cache``: caches from the shell.

``simulate`` replays a trace on every policy and size asked for; ``cache_directory.py`` has the commands on a directory.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import click

from perfopt.cli import cache_directory

__all__ = ["command", "run_simulation"]

CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
SUFFIXES = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
Bounds = tuple["int | None", "int | None"]


@click.group()
def command() -> None:
    """Look after a cache directory; simulate caches on a trace of requests."""


for _subcommand in (cache_directory.stats, cache_directory.ls, cache_directory.verify, cache_directory.clear):
    command.add_command(_subcommand)


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """``1000,10k,64MiB``: positive whole numbers, each with one of SUFFIXES."""
    if value is None:
        return None
    numbers = []
    for word in value.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})\s*([a-zA-Z]*)\s*", word)
        number = int(match[1]) * SUFFIXES.get(match[2].lower(), 0) if match else 0
        if not 0 < number < 2**63:
            raise click.BadParameter(
                f"{word.strip()!r} is not accepted; write whole numbers from 1 to 2^63 - 1 parted by commas, "
                "with k, M, G (thousands) or KiB, MiB, GiB"
            )
        numbers.append(number)
    return tuple(dict.fromkeys(numbers))


def _policies(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """``lru,sieve`` or ``all``."""
    from perfopt import _core

    known = _core.policy_names()
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name != "all" and name not in known:
            raise click.BadParameter(f"{name!r} is unknown; accepted: {', '.join(known)}, or all")
    return known if "all" in names else tuple(dict.fromkeys(names))


@contextlib.contextmanager
def _opened(trace: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The trace's own bytes, for how far it is read, and its text, unpacked where it is gzip."""
    with contextlib.ExitStack() as stack:
        raw: IO[bytes] = sys.stdin.buffer if trace == "-" else stack.enter_context(Path(trace).open("rb"))
        reader = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", raw))
        text: IO[bytes] = reader
        if reader.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC):
            text = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=reader)))
        yield raw, text


def run_simulation(
    trace: str, policies: tuple[str, ...], bounds: tuple[Bounds, ...], *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Replays a trace file (``-`` is standard input) once, on a simulated cache for each policy and bounds.

    ``bounds`` are pairs of entries and bytes, None for no bound. Returns one dict for each, bounds by bounds: ``policy``,
    ``max_entries``, ``max_bytes``, ``requests``, ``hits``, ``misses``, ``hit_rate`` (None without requests),
    ``bytes_requested``, ``bytes_missed``, ``evictions``. Raises ValueError for a bad line, naming it, and OSError or
    EOFError for a file that cannot be read.
    """
    from perfopt import _core
    from perfopt._progress import Progress

    caches = tuple((policy, entries, size) for entries, size in bounds for policy in policies)
    with _opened(trace) as (raw, text):
        total = None if trace == "-" else -(-Path(trace).stat().st_size // CHUNK_BYTES)
        with Progress("replaying, MiB", total, quiet=quiet) as progress:

            def read() -> bytes:
                chunk = text.read(CHUNK_BYTES)
                read_so_far = progress.done + 1 if total is None else -(-raw.tell() // CHUNK_BYTES)
                for _ in range(progress.done, read_so_far):
                    progress.advance()
                return chunk

            results = _core.simulate(read, caches)
    return [
        {
            "policy": policy,
            "max_entries": entries,
            "max_bytes": size,
            "hit_rate": result["hits"] / result["requests"] if result["requests"] else None,
            **result,
        }
        for (policy, entries, size), result in zip(caches, results, strict=True)
    ]


def _print_table(rows: list[dict[str, Any]]) -> None:
    titles = ["policy", "entries", "bytes", "requests", "hits", "misses", "hit rate", "bytes missed", "evictions"]
    lines = [titles]
    lines += [
        [
            row["policy"],
            *("any" if bound is None else str(bound) for bound in (row["max_entries"], row["max_bytes"])),
            str(row["requests"]),
            str(row["hits"]),
            str(row["misses"]),
            "none" if row["hit_rate"] is None else f"{100 * row['hit_rate']:.2f} %",
            str(row["bytes_missed"]),
            str(row["evictions"]),
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        first, *rest = line
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        click.echo("  ".join(cells))


@command.command()
@click.argument("trace")
@click.option(
    "--policy",
    "policies",
    metavar="NAME[,NAME...]",
    callback=_policies,
    default="all",
    show_default=True,
    help="Policies to compare.",
)
@click.option("--size", "sizes", metavar="N[,N...]", callback=_numbers, help="Bounds in entries, such as 1000,10k.")
@click.option("--bytes", "byte_bounds", metavar="B[,B...]", callback=_numbers, help="Bounds in bytes, such as 64MiB.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def simulate(
    trace: str,
    policies: tuple[str, ...],
    sizes: tuple[int, ...] | None,
    byte_bounds: tuple[int, ...] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Replay TRACE and print hits, misses and bytes missed of each policy and bound, exactly.

    TRACE is a text file, plain or gzip, or - for standard input: one request a line, a key or key,size with the size in
    bytes (1 without one). A key that misses is brought in; a hit leaves the size it came with. With --size and --bytes
    every pair of the two is a cache of its own.
    """
    if sizes is None and byte_bounds is None:
        raise click.UsageError("give --size, --bytes or both: without a bound nothing is ever evicted")
    bounds = tuple((size, count) for size in sizes or (None,) for count in byte_bounds or (None,))
    try:
        rows = run_simulation(trace, policies, bounds, quiet=quiet)
    except ValueError as error:
        raise click.ClickException(f"{trace}: {error}") from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(f"{trace} cannot be read: {reason}") from None
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
