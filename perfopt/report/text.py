"""Figures as people read them: three digits and the unit that fits."""

from __future__ import annotations

import math

__all__ = ["count", "digits", "percent", "printable", "seconds", "size"]

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZE_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
UNKNOWN = "–"


def seconds(value: float | None) -> str:
    """A time: ``1.20 ms``, ``3.00 h``."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 3600:
        return f"{digits(value / 3600)} h"
    for scale, unit in _TIME_UNITS:
        if abs(value) >= scale * 0.9995:
            return f"{digits(value / scale)} {unit}"
    return "0" if abs(value) < 1e-11 else f"{digits(value / 1e-9)} ns"  # no clock here tells hundredths of a nanosecond


def digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    value = float(f"{value:.3g}")  # first, so that 99.96 becomes 100 and not 100.0
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def size(value: float | None) -> str:
    """A size in bytes: ``1.50 GiB``."""
    if value is None:
        return UNKNOWN
    for scale, unit in _SIZE_UNITS:
        if abs(value) >= scale:
            return f"{digits(value / scale)} {unit}"
    return f"{value:.0f} B"


def percent(value: float | None, places: int = 1) -> str:
    """A share: ``12.5%``."""
    return UNKNOWN if value is None else f"{value:.{places}%}"


def printable(words: str, most: int = 200) -> str:
    """Words of somebody else's as a terminal or a table can show them.

    What is not printable (escape sequences, line ends, marks that turn the direction of writing, lone surrogates) stands as a
    backslash escape, and beyond ``most`` characters the middle is left out.
    """
    if len(words) > most:
        words = f"{words[: most - most // 2]}…{words[len(words) - most // 2 :]}"
    if words.isprintable():
        return words
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)


def count(value: float | None) -> str:
    """A number of things: ``1,234``."""
    return UNKNOWN if value is None else f"{value:,.6g}" if value < 1e6 else f"{value:,.0f}"
