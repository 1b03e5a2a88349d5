"""Adagrad for torch in two passes over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from perfopt.optim._adopted import AdoptingOptimizer
from perfopt.optim._base import StepOptions, check_numbers
from perfopt.optim._layout import StateKey, StateLayout
from perfopt.optim._small_state import StateBuffers

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Adagrad"]


class Adagrad(AdoptingOptimizer, torch.optim.Adagrad):
    """``torch.optim.Adagrad`` in two passes over memory, clipping included.

    As in torch, the state of all parameters given to the constructor exists from the start; that of groups added later comes with
    their first gradient.

    Args:
        params: parameters, or dicts of parameter groups with options of their own.
        lr: learning rate, a float or a one-element tensor.
        lr_decay: the learning rate of step t is ``lr / (1 + (t - 1) * lr_decay)``, >= 0.
        weight_decay: coupled: added to the gradient, >= 0.
        initial_accumulator_value: what the sums of squares begin with, >= 0.
        eps: added to the denominator, >= 0.
        maximize: go up instead of down.
        options: those of every optimizer here, :class:`StepOptions`.

    Raises:
        ValueError: an option out of range.
        TypeError: an option that is not known.
    """

    _operation = "adagrad"
    _twin = torch.optim.Adagrad
    _layout = StateLayout(StateKey("sum", signed=False, start="initial_accumulator_value"), counts_steps=True)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        check_numbers(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        self._start(options)
        torch.optim.Adagrad.__init__(
            self, params, lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize=maximize
        )
        buffers = StateBuffers([param for param, _ in self._params()])
        for param, group in self._params():  # torch has made it in its own form, and by the default's first value
            self.state[param] = self._layout.missing(param, group, {}, buffers, ema=self._ema is not None)
