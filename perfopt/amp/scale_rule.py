"""How a loss scale moves after an update: one rule, for numbers on the host and for tensors on a device that nobody waits for.

The rule is that of ``torch.amp.GradScaler`` with three additions: hysteresis (a back-off only at the n-th overflow in a row, then
at each further one; a clean update starts the count again, as apex's ``update_scale_hysteresis`` has it), a floor and a
ceiling that the scale does not cross by itself, and a count of overflows in a row that met the scale at its floor.
Both forms give the same float32 scale in every bit.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Counts", "ScaleRule"]

# 1 / scale is finite in float32 down to here.
SMALLEST_SCALE = 2.0**-126
LARGEST_SCALE = (2.0 - 2.0**-23) * 2.0**127


def float32(number: float) -> float:
    """The nearest float32, inf when there is none."""
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)


@dataclass(frozen=True)
class Counts:
    """What a scale remembers between updates."""

    growth: int
    """Clean updates in a row."""
    overflows_left: int
    """Overflows in a row until a back-off is due."""
    floor_hits: int
    """Overflows in a row that were due a back-off and found the scale at its floor."""


@dataclass(frozen=True)
class ScaleRule:
    """One update of a loss scale.

    Args:
        growth_factor: above 1; applied after ``growth_interval`` clean updates in a row.
        backoff_factor: below 1; applied when an update saw an overflow and hysteresis allows it.
        growth_interval: at least 1.
        hysteresis: at least 1; 1 backs off at every overflow, as torch does.
        min_scale: a back-off does not go below it, a float32.
        max_scale: growth does not go above it, a float32.
    """

    growth_factor: float
    backoff_factor: float
    growth_interval: int
    hysteresis: int = 1
    min_scale: float = SMALLEST_SCALE
    max_scale: float = LARGEST_SCALE

    def advance(self, scale: float, counts: Counts, overflow: bool) -> tuple[float, Counts]:
        """The scale and its counts after an update that saw an overflow, or none."""
        if not overflow:
            grown = counts.growth + 1
            if grown != self.growth_interval:
                return scale, Counts(grown, self.hysteresis, 0)
            larger = float32(scale * self.growth_factor)
            if math.isfinite(larger):
                scale = min(larger, max(scale, self.max_scale))
            return scale, Counts(0, self.hysteresis, 0)
        left = max(counts.overflows_left - 1, 0)
        if left > 0:
            return scale, Counts(0, left, counts.floor_hits)
        hits = counts.floor_hits + (scale <= self.min_scale)
        return max(float32(scale * self.backoff_factor), min(scale, self.min_scale)), Counts(0, 0, hits)

    def advance_on_device(self, scale: Tensor, growth: Tensor, counts: Tensor, found_inf: Tensor) -> None:
        """The same in place, on tensors of one device, without asking the device for anything.

        Args:
            scale: float32 without dimensions.
            growth: int32 without dimensions, clean updates in a row.
            counts: int32, ``[overflows_left, floor_hits]``.
            found_inf: float32 of one element, anything but 0 meaning an overflow.
        """
        overflow = found_inf.reshape(()) != 0
        before = scale.clone()
        torch._amp_update_scale_(
            scale, growth, found_inf, self.growth_factor, self.backoff_factor, self.growth_interval
        )
        scale.clamp_(min=before.clamp(max=self.min_scale), max=before.clamp(min=self.max_scale))
        left, hits = counts[0], counts[1]
        due = overflow & (left <= 1)
        scale.copy_(torch.where(overflow & ~due, before, scale))
        hits.copy_(torch.where(overflow, hits + (due & (before <= self.min_scale)), 0))
        left.copy_(torch.where(overflow, (left - 1).clamp(min=0), self.hysteresis))
