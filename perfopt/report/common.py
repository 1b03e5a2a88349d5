"""What all operations of a comparison have in common: is it the code, or is it the machine?

With one run a side, a machine that ran slower looks like code that became slower everywhere. Reports carry the times of
two reference loops (:mod:`perfopt.report.reference`) that no change of the program can touch. Operations are a mix of what the
loops do, so the machine explains anything between "nothing" and what either loop changed by. Of the common growth (the median
over the operations), that much is held against none of them; the rest is the code's. How far the loops' own times were apart on
both sides, and :data:`READING_ERROR` for each, is the error of that, independent of the noise of the operations. The reference
only excuses: a machine that looks faster accuses no operation.

Fewer than :data:`LEAST_COMMON` operations have nothing in common, and one that changed by more than the others counts in any
case. Where a report has no reference (it is older), the machine may explain all that the operations have in common.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

import msgspec

from perfopt.report.document import Reference, Report, Timing

__all__ = ["LEAST_COMMON", "Common", "Machine", "common_growth"]

LEAST_COMMON = 3  # operations from which on what they have in common is told apart
READING_ERROR = 0.01  # by which two readings differ on a machine whose speed is the same


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Growths of times that the machine explains, as logarithms: from ``least`` to ``greatest``, 0 among them, ± ``error``."""

    least: float
    greatest: float
    error: float

    def __str__(self) -> str:
        ends = f"{math.expm1(self.least):+.1%} to {math.expm1(self.greatest):+.1%}"
        return f"its reference loops changed by {ends}, ± {math.expm1(self.error):.1%}"


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """The median of the operations' growths, as a logarithm, and what is known of the machine."""

    growth: float
    operations: int
    machine: Machine | None

    def is_beyond(self, growth: float, width: float, tolerated: float) -> bool:
        """Whether an operation's growth is more than is tolerated beyond what all have in common, or beyond what the machine
        explains of that. ``width`` is the half width of its interval; all are logarithms."""
        sign = math.copysign(1.0, growth)
        if self.operations < LEAST_COMMON or sign * (growth - self.growth) > max(tolerated, width):
            return True
        if self.machine is None:
            return False
        return sign * (growth - self._excused(self.machine)) > max(tolerated, math.hypot(width, self.machine.error))

    def _excused(self, machine: Machine) -> float:
        return min(max(self.growth, machine.least), machine.greatest)

    def warning(self, tolerated: float) -> str | None:
        """What is to be said of it; None where there is next to nothing in common. ``tolerated`` is a logarithm."""
        changed = f"all operations together changed by {math.expm1(self.growth):+.1%}"
        machine = self.machine
        if machine is None:
            unknown = f"{changed}: the machine or the code, which one run a side without reference loops cannot tell"
            return unknown if abs(self.growth) > tolerated else None
        if abs(self.growth) > tolerated:
            beyond = abs(self.growth - self._excused(machine)) > max(tolerated, machine.error)
            return f"{changed}, {'more than the machine explains' if beyond else 'which the machine may explain'}: {machine}"
        if max(-machine.least, machine.greatest) > tolerated + machine.error:
            return f"the operations did not follow the machine: {machine}; measure again if that surprises"
        return None


def common_growth(growths: Sequence[float], before: Sequence[Report], after: Sequence[Report]) -> Common | None:
    """What the operations of two sides have in common, from the logarithms of their growths; None where that cannot be told."""
    machine = _machine(before, after)
    if not growths or (machine is None and len(growths) < LEAST_COMMON):
        return None
    return Common(growth=statistics.median(growths), operations=len(growths), machine=machine)


def _machine(before: Sequence[Report], after: Sequence[Report]) -> Machine | None:
    references = [report.reference for report in (*before, *after)]
    known = [reference for reference in references if reference is not None]
    if len(known) < len(references) or len({reference.loops for reference in known}) != 1:
        return None
    changes, errors = [0.0], []
    for old, new in zip(_loops(known[: len(before)]), _loops(known[len(before) :]), strict=True):
        changes.append(math.log(new.least / old.least))
        errors.append(math.hypot(_spread(old), _spread(new)))
    return Machine(least=min(changes), greatest=max(changes), error=max(errors))


def _spread(timing: Timing) -> float:
    return math.log(timing.upper / timing.least) + READING_ERROR


def _loops(references: Sequence[Reference]) -> Iterator[Timing]:
    """Each loop over the runs of a side."""
    for name in ("interpreter", "memory"):
        timings = [getattr(reference, name) for reference in references]
        yield Timing(
            least=min(timing.least for timing in timings),
            upper=max(timing.upper for timing in timings),
        )
