"""Optimizers for torch on perfopt's kernels; importing this package imports torch."""

from __future__ import annotations

from perfopt.optim.adamw import AdamW

__all__ = ["AdamW"]
