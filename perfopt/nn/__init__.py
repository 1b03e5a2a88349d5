"""Modules for torch whose bias, GELU and their gradients ride on the matrix products; importing this package imports torch."""

from __future__ import annotations

from perfopt.nn.linear import FusedLinear, FusedMLP

__all__ = ["FusedLinear", "FusedMLP"]
