"""What a gradient scaler leaves on an optimizer for the time of one step, and how the step answers it.

The contract is the one of ``torch.amp.GradScaler``: ``grad_scale`` and ``found_inf`` are attributes of the optimizer while its
``step()`` runs. Anything but 0 in ``found_inf`` (torch's is a sum over devices, so 2 is possible) means that nothing may
change. What the step finds itself is added to ``found_inf`` in place, where ``perfopt.amp.GradScaler`` reads it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["LossScale"]


class LossScale(NamedTuple):
    """One step's scale; without a scaler both are None."""

    grad_scale: Tensor | float | None
    """Gradients are to be divided by it; None: they are what they are."""
    found_inf: Tensor | float | None
    """Anything but 0 skips the step; a tensor takes what the step finds."""

    @classmethod
    def of(cls, optimizer: Any) -> LossScale:
        return cls(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))

    def skips_on_host(self, device: torch.device) -> bool:
        """Whether the step is to change nothing, as far as the host knows without waiting for the parameters' device."""
        found = self.found_inf
        if found is None or (isinstance(found, Tensor) and "cpu" not in (found.device.type, device.type)):
            return False
        if float(found) != 0:
            return True
        if self.grad_scale is not None and device.type == "cpu" and not _can_divide(float(self.grad_scale)):
            self.add_overflow(1.0)
            return True
        return False

    def number(self) -> float | None:
        """The scale as a number; waits for the device that has it."""
        return None if self.grad_scale is None else float(self.grad_scale)

    def on_device(self, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Both as float32 tensors on a CUDA device."""
        return _float32_on(device, self.grad_scale), _float32_on(device, self.found_inf)

    def add_overflow(self, nonfinite: Tensor | float) -> None:
        """Tells the scaler: ``nonfinite`` is a number or a one-element tensor, anything but 0 if a gradient was inf or NaN."""
        if isinstance(self.found_inf, Tensor):
            if isinstance(nonfinite, Tensor):
                nonfinite = nonfinite.reshape(self.found_inf.shape).to(device=self.found_inf.device, non_blocking=True)
            self.found_inf.add_(nonfinite)


def _can_divide(scale: float) -> bool:
    return math.isfinite(scale) and scale != 0 and math.isfinite(1.0 / scale)


def _float32_on(device: torch.device, value: Tensor | float | None) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=torch.float32, non_blocking=True)
    return torch.full((), float(value), dtype=torch.float32, device=device)
