"""The verdict on a memory series: does it grow without end, or does it only look so? The statistics are in C (leak.h)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

from perfopt import _core

__all__ = ["leak_verdict"]

_HOUR = 3600.0
_LARGEST = 1e100  # as a figure may be: its quotient by any slope is finite, too


def _checked_limit(limit: object) -> float | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, numbers.Real):
        raise TypeError(f"limit must be a number of bytes or None, not {type(limit).__name__}")
    try:
        value = float(limit)
    except OverflowError:  # an int beyond the range of float
        value = math.inf
    if not 0.0 < value <= _LARGEST:
        raise ValueError(f"limit is {limit!r}; accepted: a finite number of bytes above 0, at most 1e100, or None")
    return value


def leak_verdict(seconds: Sequence[float], bytes: Sequence[float], limit: float | None = None) -> dict[str, Any]:
    """Whether a series of memory figures is a leak, told from what only looks like one.

    Args:
        seconds: times of the samples, in seconds of any clock; they do not decrease. Lists, tuples, 1-D arrays.
        bytes: as many figures of one kind (resident set, heap in use, CUDA allocated), finite numbers of bytes.
        limit: bytes at which the process is killed or refused memory; for ``seconds_to_limit``.

    Returns a dict that ``json.dumps`` takes as it is:
        ``verdict``: ``leak`` (grows at a steady rate, and no other explanation is about as good), ``stable``, ``plateau``
        (growth that has ended or slows down: a warm-up, a cache that fills, fragmentation), ``step`` (levels that
        change at single moments), ``sawtooth`` (rises and falls back at least three times, and its feet are not
        seen to rise), ``insufficient`` (fewer than 24 samples, less than 30 seconds, growth that began late or that more
        samples must judge).
        ``slope_per_hour``: bytes an hour as of now, beside steps; after a plateau that of its last third.
        ``interval``: its 95 % interval, widened for autocorrelation, a list of two.
        ``seconds_to_limit``: for a leak and a limit, how long it takes from the last sample at that slope (0.0 if it is
        reached); else None.
        ``evidence``: what the verdict rests on: ``model`` (the best explanation), ``margin`` (by how much a line is
        better than the best other model, in units of the Bayesian information criterion; ``csrc/monitor/leak.h`` says
        what a leak needs), ``growth_bytes`` and ``minimum_growth_bytes`` (below it nothing is worth a verdict: 1 MiB and
        0.75 % of the level), ``level_bytes``, ``noise_bytes``, ``correlation``, ``steps``, ``releases``, ``teeth``,
        ``warm_up_seconds`` (cut at the start), ``seconds``, ``samples``, ``windows``.

    Raises ValueError for lengths that differ, numbers that are not finite or beyond 1e100, times that decrease and a
    limit that is not above 0 or is beyond 1e100; TypeError for what is not a sequence of numbers.

    Source: Theil-Sen slope within segments (Sen 1968; Hirsch, Slack and Smith 1982), Potts segmentation (Auger and Lawrence
    1989), model choice by the Bayesian information criterion (Schwarz 1978); ``docs/memory.md`` has the error rates.
    """
    checked = _checked_limit(limit)
    found = _core.leak(seconds, bytes)
    verdict = found["verdict"]
    slope = found["slope"]
    remaining = None
    if verdict == "leak" and checked is not None:
        remaining = max(0.0, checked - found["last"]) / slope
    return {
        "verdict": verdict,
        "slope_per_hour": slope * _HOUR,
        "interval": [found["low"] * _HOUR, found["high"] * _HOUR],
        "seconds_to_limit": remaining,
        "evidence": {
            "model": found["model"],
            "margin": found["margin"],
            "growth_bytes": found["growth"],
            "minimum_growth_bytes": found["minimum"],
            "level_bytes": found["level"],
            "noise_bytes": found["noise"],
            "correlation": found["correlation"],
            "steps": found["steps"],
            "releases": found["releases"],
            "teeth": found["teeth"],
            "warm_up_seconds": found["warm_up"],
            "seconds": found["span"],
            "samples": found["samples"],
            "windows": found["windows"],
        },
    }
