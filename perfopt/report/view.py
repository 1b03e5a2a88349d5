"""What a page shows of a report: figures arranged for reading, without any HTML.

Everything here is a pure function of a report, so that what the page says can be tested as data. Times stay in seconds and
memory in bytes; the page formats them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from perfopt.report.document import Loader, Node, Operation, Report

__all__ = ["OTHERS", "OUTSIDE", "Slice", "breakdown", "icicle", "thinned"]

OUTSIDE = "(outside of any range)"
OTHERS = "(others)"
OVERFLOW = "(names beyond the limit)"
_SLICES = 12
_LEAST_SHARE = 0.0005  # of the root, for a box of the icicle of its own
_POINTS = 2000


class Slice(msgspec.Struct, frozen=True):
    """A part of the run's time; the parts of a breakdown do not overlap and their shares sum to 1."""

    name: str
    seconds: float
    share: float


def label(name: str | None) -> str:
    """How an operation is called on the page."""
    return OVERFLOW if name is None else name


def breakdown(report: Report, most: int = _SLICES) -> list[Slice]:
    """Where the time went: self times of all threads, and what of the run's duration no range of its busiest thread covers.

    At most ``most`` operations have a slice of their own, the rest share one. Empty when no time was recorded.
    """
    busiest = max(_root_seconds(report).values(), default=0.0)
    parts = sorted(((max(0.0, row.self_time), label(row.name)) for row in report.operations), reverse=True)
    slices = [(seconds, name) for seconds, name in parts[:most] if seconds > 0]
    others = sum(seconds for seconds, _ in parts[most:])
    if others > 0:
        slices.append((others, OTHERS))
    if report.tree and report.duration > busiest:
        slices.append((report.duration - busiest, OUTSIDE))
    whole = sum(seconds for seconds, _ in slices)
    return [Slice(name, seconds, seconds / whole) for seconds, name in slices] if whole > 0 else []


def _root_seconds(report: Report) -> dict[int, float]:
    """Time in ranges, a thread."""
    seconds: dict[int, float] = {}
    for node in report.tree:
        if node.parent < 0:
            seconds[node.thread] = seconds.get(node.thread, 0.0) + node.total
    return seconds


class _Box:
    """A path of names, over all threads."""

    __slots__ = ("children", "count", "name", "self_time", "total")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.total = self.self_time = 0.0
        self.children: dict[str, _Box] = {}


def icicle(tree: Sequence[Node], least_share: float = _LEAST_SHARE) -> dict[str, list[Any]]:
    """The call tree as columns ``ids``, ``parents``, ``labels``, ``values`` (self seconds), ``totals`` and ``counts``.

    Paths are joined over threads. Boxes below ``least_share`` of all time are joined into one box a parent, so that the values
    still sum to the roots' totals. Parents stand before their children.
    """
    root = _Box("")
    boxes: list[_Box] = []
    for node in tree:
        above = boxes[node.parent] if node.parent >= 0 else root
        box = above.children.setdefault(label(node.name), _Box(label(node.name)))
        box.count += node.count
        box.total += node.total
        box.self_time += node.self_time
        boxes.append(box)
    least = least_share * sum(box.total for box in root.children.values())
    columns: dict[str, list[Any]] = {key: [] for key in ("ids", "parents", "labels", "values", "totals", "counts")}

    def add(parent: str, box: _Box, name: str, seconds: float) -> str:
        identity = str(len(columns["ids"]))
        for key, value in zip(columns, (identity, parent, name, max(0.0, seconds), box.total, box.count), strict=True):
            columns[key].append(value)
        return identity

    waiting = [("", root)]
    while waiting:
        parent, above = waiting.pop()
        small = _Box(OTHERS)
        for box in sorted(above.children.values(), key=lambda box: -box.total):
            if box.total < least:
                small.total += box.total
                small.count += box.count
            else:
                waiting.append((add(parent, box, box.name, box.self_time), box))
        if small.count:
            add(parent, small, OTHERS, small.total)
    return columns


def thinned(
    seconds: Sequence[float], values: Sequence[int | None], most: int = _POINTS
) -> tuple[list[float], list[int | None]]:
    """At most about ``most`` points of a series: the least and the greatest of each stretch, so that no peak is lost."""
    if len(seconds) <= most:
        return list(seconds), list(values)
    stretch = -(-2 * len(seconds) // most)
    kept: list[int] = []
    for begin in range(0, len(seconds), stretch):
        known = [i for i in range(begin, min(begin + stretch, len(seconds))) if values[i] is not None]
        if known:
            kept.extend(sorted({min(known, key=lambda i: values[i] or 0), max(known, key=lambda i: values[i] or 0)}))
        else:
            kept.append(begin)
    return [seconds[i] for i in kept], [values[i] for i in kept]


def waiting_share(loader: Loader) -> float | None:
    """Share of its consumer's time that a loader made it wait; None when no time was measured."""
    whole = loader.wait_seconds + loader.compute_seconds
    return loader.wait_seconds / whole if whole > 0 else None


def by_total(report: Report) -> list[Operation]:
    """Operations, most time first."""
    return sorted(report.operations, key=lambda operation: -operation.total)
