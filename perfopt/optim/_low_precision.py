"""Low-precision copies of float32 weights, which steps write while they have the new weight at hand (``low_precision_copy=``).

A copy is made of its parameter when it is asked for or with the first step, and stays the same tensor from then on, through
skipped steps and ``load_state_dict()``. Beside other state it lies in the parameter's entry, where the plan finds it, and in no
checkpoint; a parameter that has not stepped has no entry for it, as torch's classes take any entry for that of a stepped one.

A step moves torch's version counters of parameter and copy by one each. So what their difference was when the copy was right
tells whether anything else has written to either since. A copy therefore has a counter of its own, and no shared buffer's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["COPY_KEY", "WeightCopies", "wants_copy"]

COPY_KEY = "low_precision_copy"


def wants_copy(param: Tensor, group: dict[str, Any]) -> bool:
    """Whether a parameter has a copy: only float32 does, what has 16 bits is its own."""
    is_there = not torch.nn.parameter.is_lazy(param) and param.layout == torch.strided
    return group.get(COPY_KEY) is not None and is_there and param.dtype == torch.float32


class WeightCopies:
    """The copies of one optimizer's parameters, and which of them are right."""

    def __init__(self) -> None:
        self._copies: dict[Tensor, Tensor] = {}
        self._marks: dict[Tensor, tuple[int, int] | None] = {}  # of each parameter, when its copy was right

    def held(self, param: Tensor, group: dict[str, Any]) -> Tensor | None:
        """The parameter's copy; None where there is none, or not of the form that is wanted now."""
        copy = self._copies.get(param)
        if copy is None or not wants_copy(param, group):
            return None
        as_wanted = copy.dtype == group[COPY_KEY] and copy.device == param.device and copy.shape == param.shape
        return copy if as_wanted and copy.stride() == param.stride() else None

    def of(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        """The parameter's copy, made where there is none. pre: ``wants_copy(param, group)``."""
        copy = self.held(param, group)
        if copy is None:
            with torch.inference_mode(False):  # or it would have no version counter
                copy = torch.empty_like(param, dtype=group[COPY_KEY], requires_grad=False)
            self._copies[param] = copy
            self.write(param)
        return copy

    def write(self, param: Tensor) -> None:
        """Makes the copy right, rounded to nearest."""
        copy = self._copies[param]
        with torch.inference_mode(False), torch.no_grad():
            copy.copy_(param)
        self._marks[param] = _mark(param, copy)

    def is_right(self, param: Tensor) -> bool:
        """Whether steps alone have written to parameter and copy since the copy was right."""
        mark = self._marks[param]
        return mark is not None and mark == _mark(param, self._copies[param])

    def forget_all_but(self, params: Iterable[Tensor]) -> None:
        """Lets go of parameters that the optimizer no longer has."""
        self._copies = {param: self._copies[param] for param in params if param in self._copies}
        self._marks = {param: self._marks[param] for param in self._copies}


def _mark(param: Tensor, copy: Tensor) -> tuple[int, int] | None:
    """None where nobody can tell: a parameter made under ``torch.inference_mode()`` has no version counter."""
    return None if param.is_inference() else (param._version - copy._version, param.data_ptr())
