"""Adam for torch in two passes over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from perfopt.optim._adopted import AdoptingOptimizer
from perfopt.optim._base import StepOptions, check_numbers
from perfopt.optim._layout import StateKey, StateLayout

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ADAM_LAYOUT", "Adam"]

ADAM_LAYOUT = StateLayout(
    StateKey("exp_avg"),
    StateKey("exp_avg_sq", signed=False),
    StateKey("max_exp_avg_sq", signed=False, option="amsgrad"),
    counts_steps=True,
)


class Adam(AdoptingOptimizer, torch.optim.Adam):
    """``torch.optim.Adam`` in two passes over memory, clipping included.

    Args:
        params: parameters, or dicts of parameter groups with options of their own.
        lr: learning rate, a float or a one-element tensor.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: coupled: added to the gradient, >= 0. Decoupled: :class:`AdamW`, or ``decoupled_weight_decay``.
        amsgrad: divide by the largest second moment so far.
        maximize: go up instead of down.
        capturable: on a CUDA device every step can be captured; on the CPU a step refuses ``True``, as torch does.
        decoupled_weight_decay: as :class:`AdamW`.
        options: those of every optimizer here, :class:`StepOptions`.

    Raises:
        ValueError: an option out of range.
        TypeError: an option that is not known.
    """

    _operation = "adam"
    _twin = torch.optim.Adam
    _layout = ADAM_LAYOUT

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        capturable: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        check_numbers(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self._start(options)
        torch.optim.Adam.__init__(
            self,
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
        )
