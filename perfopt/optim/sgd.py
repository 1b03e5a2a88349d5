"""SGD for torch in two passes over memory."""

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

__all__ = ["SGD"]


class SGD(AdoptingOptimizer, torch.optim.SGD):
    """``torch.optim.SGD`` in two passes over memory, clipping included.

    The first step of a parameter makes its momentum buffer the gradient itself, without dampening, as torch does.

    Args:
        params: parameters, or dicts of parameter groups with options of their own.
        lr: learning rate, a float or a one-element tensor.
        momentum: >= 0; 0: no buffer is kept.
        dampening: of the gradient as it enters the buffer.
        weight_decay: coupled: added to the gradient, >= 0.
        nesterov: needs momentum and no dampening.
        maximize: go up instead of down.
        options: those of every optimizer here, :class:`StepOptions`.

    Raises:
        ValueError: an option out of range.
        TypeError: an option that is not known.
    """

    _operation = "sgd"
    _twin = torch.optim.SGD
    _layout = StateLayout(StateKey("momentum_buffer", option="momentum"), counts_steps=False)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        check_numbers(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
        self._start(options)
        torch.optim.SGD.__init__(self, params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize)
