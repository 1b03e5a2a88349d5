"""The operations of a profile as lines of text; see :meth:`perfopt.profiler.PerformanceProfiler.table`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_COLUMNS = ("count", "total", "active", "self", "mean", "p50", "p99", "max")
_NAME_WIDTH = 40
_OTHERS = "(other names)"


def table(rows: Sequence[Any], sort_by: str, row_limit: int) -> str:
    """Lines of the ``row_limit`` rows of :meth:`perfopt._core.Capture.rows` with the largest ``sort_by``, a header above."""
    if sort_by not in _COLUMNS:
        raise ValueError(f"sort_by must be one of {', '.join(_COLUMNS)}, not {sort_by!r}")
    if row_limit < 1:
        raise ValueError(f"row_limit must be at least 1, not {row_limit}")
    if not rows:
        return "nothing was recorded"
    first = sorted(rows, key=lambda row: float(row[sort_by]), reverse=True)[:row_limit]
    header = ["operation", "count", *(f"{column} ms" for column in _COLUMNS[1:])]
    lines = [header, *([_shown(row["name"]), *_figures(row)] for row in first)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    if len(rows) > len(first):
        text.append(f"{len(rows) - len(first)} more")
    return "\n".join(text)


def _figures(row: Any) -> list[str]:
    return [str(row["count"]), *(f"{row[column] * 1e3:.3f}" for column in _COLUMNS[1:])]


def _shown(name: str | None) -> str:
    """One line whatever the name holds, of bounded width."""
    if name is None:
        return _OTHERS
    cut = name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in cut)
    return plain or "(unnamed)"
