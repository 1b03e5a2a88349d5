"""RMSprop for torch in two passes over memory."""

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

__all__ = ["RMSprop"]


class RMSprop(AdoptingOptimizer, torch.optim.RMSprop):
    """``torch.optim.RMSprop`` in two passes over memory, clipping included.

    Args:
        params: parameters, or dicts of parameter groups with options of their own.
        lr: learning rate, a float or a one-element tensor.
        alpha: decay rate of the averages, in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: coupled: added to the gradient, >= 0.
        momentum: >= 0; 0: no buffer is kept.
        centered: divide by the estimated deviation, which needs the gradient's average.
        capturable: on a CUDA device every step can be captured; on the CPU a step refuses ``True``, as torch does.
        maximize: go up instead of down.
        options: those of every optimizer here, :class:`StepOptions`.

    Raises:
        ValueError: an option out of range.
        TypeError: an option that is not known.
    """

    _operation = "rmsprop"
    _twin = torch.optim.RMSprop
    _layout = StateLayout(
        StateKey("square_avg", signed=False),
        StateKey("momentum_buffer", option="momentum"),
        StateKey("grad_avg", option="centered"),
        counts_steps=True,
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        check_numbers(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        self._start(options)
        torch.optim.RMSprop.__init__(
            self, params, lr, alpha, eps, weight_decay, momentum, centered, capturable, maximize=maximize
        )
