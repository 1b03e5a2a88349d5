"""Reports on a terminal: the table of operations that ``perfopt profile`` prints and ``perfopt top`` shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from perfopt.report import text
from perfopt.report.document import Operation
from perfopt.report.view import label

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["operations_table"]


def operations_table(operations: Iterable[Operation], *, long_names: Literal["fold", "ellipsis"]) -> Table:
    """A row an operation, in the order given; ``long_names`` says whether names take several lines or are cut to one."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("operation", overflow=long_names, no_wrap=long_names == "ellipsis")
    for column in ("calls", "total", "self", "mean", "p50", "p99", "greatest"):
        table.add_column(column, justify="right")
    for row in operations:
        figures = (row.total, row.self_time, row.mean, row.p50, row.p99, row.greatest)
        name = Text(text.printable(label(row.name)))
        table.add_row(name, f"{row.count:,}", *(text.seconds(figure) for figure in figures))
    return table
