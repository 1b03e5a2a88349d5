"""``perfopt demo``: the main job on real data, with its table and its summary file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["command"]


@click.command()
@click.option("--blocks", default=16, show_default=True, help="Alternations of the two sides.", type=click.IntRange(1))
@click.option(
    "--steps", default=25, show_default=True, help="Optimizer steps a block and side.", type=click.IntRange(1)
)
@click.option("--seed", default=1234, show_default=True, help="Seed of weights and batches.")
@click.option(
    "--output",
    default="build/demo/summary.json",
    show_default=True,
    help="Where the summary is written.",
    type=click.Path(dir_okay=False, path_type=Path),
)
@click.option("--quiet", is_flag=True, help="No progress, only the table.")
def command(blocks: int, steps: int, seed: int, output: Path, quiet: bool) -> None:
    """Train a small model on real text twice, plainly and with perfopt, and compare.

    The data is the source text of Python's own standard library. Both runs start from the same weights and see the same
    batches; they take turns in blocks of steps, so that a drift of this machine's speed hits both alike.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not quiet:
        console.print(
            "perfopt demo: a character-level transformer on the standard library's source text", highlight=False
        )
    try:
        from perfopt.cli import demo_job
    except ImportError as error:
        raise click.ClickException(f"the demo needs PyTorch (pip install 'perfopt[torch]'): {error}") from error

    from perfopt._progress import Progress

    try:  # minutes of training follow: a place that cannot be written to is told before them
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error}") from error
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise click.ClickException(f"cannot write {output}: no permission")

    size = demo_job.DemoSize(blocks, steps, seed)
    with Progress("training", 2 * size.steps, quiet=quiet, console=console) as progress:
        summary = demo_job.run(size, lambda side, loss: progress.advance(f"{side}: loss {loss:.3f}"))
    output.write_text(json.dumps(summary, indent=2) + "\n")
    show(summary, Console())
    click.echo(f"summary written to {output}")


def show(summary: dict[str, Any], console: Any) -> None:
    """The comparison as tables on ``console``, with the verdict in words."""
    console.print(_comparison(summary))
    console.print(_phases(summary))
    cache = summary["cache_stats"]
    console.print(
        f"cache: {cache['hits']} hits, {cache['misses']} misses, {cache['memory_cache_size']} entries", highlight=False
    )
    for name, decision in summary["techniques"].items():
        console.print(f"{'used' if decision['used'] else 'not used'}: {name} ({decision['reason']})", highlight=False)
    speedup, gap = summary["speedup"], summary["loss_gap"]
    middle, blocks = summary["median_block_speedup"], summary["block_speedups"]
    if speedup >= 1:
        verdict = f"perfopt trained {speedup:.2f}x as fast as the plain loop"
    else:
        verdict = f"perfopt was SLOWER here: {speedup:.2f}x the plain loop's speed"
    console.print(
        f"{verdict} (median of {len(blocks)} pairs of blocks {middle:.2f}, from {min(blocks):.2f} to {max(blocks):.2f}); "
        f"held-out loss {gap:+.4f}",
        highlight=False,
    )


def _comparison(summary: dict[str, Any]) -> Table:
    from rich.table import Table

    plain, ours = summary["plain"], summary["perfopt"]
    table = Table(title=f"{summary['parameters'] / 1e6:.1f} M parameters, {plain['steps']} optimizer steps each")
    for heading in ("", "plain PyTorch", "perfopt", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("seconds", f"{plain['seconds']:.1f}", f"{ours['seconds']:.1f}", f"{summary['speedup']:.2f}x")
    tokens = [side["tokens_per_second"] for side in (plain, ours)]
    table.add_row("tokens/s", f"{tokens[0]:.0f}", f"{tokens[1]:.0f}", f"{tokens[1] / tokens[0]:.2f}x")
    for title, key in (("final training loss", "final_loss"), ("held-out loss", "heldout_loss")):
        table.add_row(title, f"{plain[key]:.4f}", f"{ours[key]:.4f}", f"{ours[key] - plain[key]:+.4f}")
    for step, loss in plain["losses_at"].items():
        table.add_row(
            f"loss at step {step}",
            f"{loss:.4f}",
            f"{ours['losses_at'][step]:.4f}",
            f"{ours['losses_at'][step] - loss:+.4f}",
        )
    peaks = [side["peak_resident_bytes"] / 2**20 for side in (plain, ours)]
    table.add_row("peak resident MiB", *(f"{peak:.0f}" for peak in peaks), f"{peaks[1] / peaks[0]:.2f}x")
    return table


def _phases(summary: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title="perfopt's phases")
    for heading in ("phase", "count", "total s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for name, row in summary["profiling_summary"]["operations"].items():
        table.add_row(
            name, str(row["count"]), f"{row['total']:.2f}", f"{row['p50'] * 1e3:.2f}", f"{row['p99'] * 1e3:.2f}"
        )
    return table
