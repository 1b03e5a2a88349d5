"""Optimizers for torch on perfopt's kernels; importing this package imports torch."""

from __future__ import annotations

import torch

from perfopt.optim._adopted import AdoptingOptimizer
from perfopt.optim._base import PlannedOptimizer, StepOptions
from perfopt.optim.adagrad import Adagrad
from perfopt.optim.adam import Adam
from perfopt.optim.adamw import AdamW
from perfopt.optim.lion import Lion
from perfopt.optim.rmsprop import RMSprop
from perfopt.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lion", "PlannedOptimizer", "RMSprop", "StepOptions", "adopt"]

_TWINS: tuple[type[AdoptingOptimizer], ...] = (AdamW, Adam, SGD, Adagrad, RMSprop)


def adopt(optimizer: torch.optim.Optimizer, *, max_grad_norm: float | None = None) -> AdoptingOptimizer:
    """The optimizer of this package that steps for a torch optimizer in use, by its class; see ``AdamW.adopt``.

    Args:
        optimizer: exactly a ``torch.optim.AdamW``, ``Adam``, ``SGD``, ``Adagrad`` or ``RMSprop``.
        max_grad_norm: clip the norm of all gradients to this, >= 0; None: do not clip.

    Raises:
        TypeError, ValueError: as the class's ``adopt``; ValueError also for an optimizer of another class.
    """
    for ours in _TWINS:
        if type(optimizer) is ours._twin:
            return ours.adopt(optimizer, max_grad_norm=max_grad_norm)
    kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    names = ", ".join(ours._twin.__name__ for ours in _TWINS)
    raise ValueError(f"optimizer is a {kind}; accepted: exactly one of torch.optim's {names}")
