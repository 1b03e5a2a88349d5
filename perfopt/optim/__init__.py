"""Optimizers for torch on perfopt's kernels; importing this package imports torch."""

from __future__ import annotations

from perfopt.optim._base import StepOptions
from perfopt.optim.adagrad import Adagrad
from perfopt.optim.adam import Adam
from perfopt.optim.adamw import AdamW
from perfopt.optim.lion import Lion
from perfopt.optim.rmsprop import RMSprop
from perfopt.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lion", "RMSprop", "StepOptions"]
