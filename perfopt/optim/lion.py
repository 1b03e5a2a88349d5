"""Lion for torch in two passes over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from perfopt.optim._base import PlannedOptimizer, StepOptions, check_numbers
from perfopt.optim._layout import StateKey, StateLayout

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Lion"]


class Lion(PlannedOptimizer):
    """Lion in two passes over memory, clipping included.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, algorithm 2. torch has no Lion; state and
    options are named as by the authors (``exp_avg``).

    Args:
        params: parameters, or dicts of parameter groups with options of their own.
        lr: learning rate, a float or a one-element tensor, >= 0; 3 to 10 times smaller than AdamW's.
        betas: of the step's direction and of the moment that is kept, each in [0, 1).
        weight_decay: decoupled, >= 0; 3 to 10 times larger than AdamW's.
        maximize: go up instead of down.
        options: those of every optimizer here, :class:`StepOptions`.

    Raises:
        ValueError: an option out of range.
        TypeError: an option that is not known.
    """

    _operation = "lion"
    _layout = StateLayout(StateKey("exp_avg"), counts_steps=False)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        check_numbers(lr=lr, betas=betas, weight_decay=weight_decay)
        self._start(options)
        defaults: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        torch.optim.Optimizer.__init__(self, params, defaults)
