"""Checks of numbers and flags of the training kernels: each error names the argument, what it was and what is accepted."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np


def check_number(
    name: str,
    value: Any,
    *,
    least: float | None = 0.0,
    below: float | None = None,
    positive: bool = False,
    finite: bool = False,
) -> float:
    """``value`` as a float in its range: a number, or anything with ``__float__`` such as a 0-d array or a one-element tensor.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range; NaN is, unless ``least`` is None and it need not be finite.
    """
    accepted = "a finite number" if finite else "a number"
    if positive:
        accepted += " > 0"
    elif least is not None:
        accepted += f" >= {least:g}"
    if below is not None:
        accepted += f" and < {below:g}"
    try:
        number = float(value) if hasattr(type(value), "__float__") else None
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is torch's, for tensors of several elements
        number = None
    if number is None:
        raise TypeError(f"{name}={value!r}; accepted: {accepted}")
    in_range = (
        (least is None or number >= least)
        and (below is None or number < below)
        and (not positive or number > 0)
        and (not finite or math.isfinite(number))
    )
    if not in_range:
        raise ValueError(f"{name}={value!r}; accepted: {accepted}")
    return number


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as an int from ``least`` to ``most``; TypeError for what is no whole number, ValueError out of range."""
    accepted = f"a whole number >= {least}" if most is None else f"a whole number from {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}; accepted: {accepted}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name}={value!r}; accepted: {accepted}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """``value`` as a bool; TypeError for anything but ``True`` and ``False``, those of NumPy too."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={value!r}; accepted: True or False")
    return bool(value)


def check_betas(betas: Any) -> tuple[float, float]:
    """Two decay rates in [0, 1); TypeError for what is no pair of numbers, ValueError out of range."""
    try:
        first, second = betas
    except (TypeError, ValueError):
        raise TypeError(f"betas={betas!r}; accepted: two numbers >= 0 and < 1") from None
    return check_number("betas[0]", first, below=1.0), check_number("betas[1]", second, below=1.0)
