"""Checks of the parts of a report that have no type of their own: the leak verdict, and what is in ``extra``.

A report may have been edited by hand or made to do harm. What a page, a terminal or a rule reads of these parts is checked here
when a report is made or read, so that each of them can take it as it is. Errors are ValueErrors that name the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

__all__ = ["check_extra", "check_verdict"]

DEEPEST = 32  # levels of lists and objects in one of them


class _Verdict(msgspec.Struct):
    """What :func:`perfopt.memory.leak_verdict` returns."""

    verdict: Literal["leak", "stable", "plateau", "step", "sawtooth", "insufficient"]
    slope_per_hour: float | None = None
    interval: tuple[float, float] | None = None
    seconds_to_limit: float | None = None
    evidence: dict[str, Any] = {}


class _CallStack(msgspec.Struct):
    """What :meth:`perfopt.profiling.CallStacks.top` returns, a row."""

    function: str
    file: str
    line: int
    calls: int
    self: float
    total: float
    callers: dict[str, int]


def check_verdict(verdict: Mapping[str, Any] | None) -> None:
    """Refuses a ``memory.verdict`` that is no leak verdict."""
    if verdict is not None:
        _check_depth(verdict, "memory.verdict")
        _check(verdict, _Verdict, "memory.verdict")


def check_extra(extra: Mapping[str, Any]) -> None:
    """Refuses an ``extra`` that is nested too deeply, or whose ``call_stacks``, the one name that perfopt reads, are none."""
    _check_depth(extra, "extra")
    if "call_stacks" in extra:
        _check(extra["call_stacks"], list[_CallStack], "extra.call_stacks")


def _check(value: Any, shape: Any, field: str) -> None:
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        raise ValueError(f"{field}{place.rstrip('`')}: {reason[:1].lower()}{reason[1:]}") from error


def _check_depth(value: Any, field: str) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (Mapping, list, tuple))
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        if not level:
            return
    raise ValueError(f"{field}: lists and objects are nested more than {DEEPEST} levels deep")
