"""Puts the rows of the last benchmark run into docs/performance.md: those with a bar, and those where perfopt loses.

Reads benchmarks/results/results.json. What stands outside the markers of the page is written by hand and stays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- rows: make bench writes what stands here -->", "<!-- end of rows -->"


def figure(row: dict[str, Any], side: str) -> str:
    """Seconds in a fitting unit, or the figure with the row's own unit."""
    if "unit" in row:
        return f"{row[f'{side}_figure']:.3g} {row['unit']}"
    seconds = row[f"{side}_seconds"]
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def against(row: dict[str, Any]) -> str:
    """The ratio in words; a ratio is perfopt's time over the peer's."""
    ratio = row["ratio"]
    word = "less" if "unit" in row else "faster"
    more = "more" if "unit" in row else "slower"
    return f"{1 / ratio:.2f}x {word}" if ratio < 1 else f"{ratio:.2f}x {more}"


def table(rows: list[dict[str, Any]], bars: bool) -> list[str]:
    lines = ["| row | perfopt | peer | perfopt is |" + (" bar | |" if bars else "")]
    lines.append("|---|---|---|---|" + ("---|---|" if bars else ""))
    for row in rows:
        ours, peer = f"{row['ours']} {figure(row, 'ours')}", f"{row['peer']} {figure(row, 'peer')}"
        end = f" {row['bar']} | {row['verdict']} |" if bars else ""
        lines.append(f"| {row['row']} | {ours} | {peer} | {against(row)} |{end}")
    return lines


def render(results: dict[str, Any]) -> str:
    machine, rows = results["machine"], results["rows"]
    with_bar = [row for row in rows if row["bar"]]
    lost = [row for row in rows if row["ratio"] > 1 and not row["bar"]]
    processors = machine["perfopt_cpu"]
    lines = [f"Measured on {machine['cpu']}, variant {processors['variant']}, Python {machine['python']}.", ""]
    lines += ["### Rows with a bar", "", *table(with_bar, True), ""]
    lines += ["### Rows without a bar where perfopt loses", "", *table(lost, False)]
    return "\n".join(lines)


def main() -> int:
    results = json.loads((ROOT / "benchmarks" / "results" / "results.json").read_text())
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"{PAGE} lacks its markers", file=sys.stderr)
        return 1
    PAGE.write_text(f"{before}{BEGIN}\n\n{render(results)}\n\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
