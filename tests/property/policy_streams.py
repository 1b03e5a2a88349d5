"""Families of request streams on which eviction policies differ, the same numbers in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["STREAMS", "Keys", "corda", "loop", "mixed", "recency", "scans", "trace", "zipf"]

Keys = npt.NDArray[np.int64]


def zipf(requests: int, size: int, *, keys: int | None = None, exponent: float = 0.99, seed: int = 1) -> Keys:
    """Independent draws with probability proportional to rank ** -exponent over ``keys`` keys (50 a place in the cache)."""
    count = keys or 50 * size
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    cumulated = np.cumsum(weights)
    draws = np.random.default_rng(seed).random(requests) * cumulated[-1]
    return np.searchsorted(cumulated, draws).astype(np.int64)


def loop(requests: int, size: int) -> Keys:
    """Round and round over half as many keys again as the cache has places: LRU and FIFO never hit."""
    return np.arange(requests, dtype=np.int64) % (size * 3 // 2)


def scans(requests: int, size: int, *, seed: int = 2) -> Keys:
    """Zipf, with every fifth cache size of requests followed by a scan over two cache sizes of keys never seen again."""
    base = zipf(requests, size, keys=10 * size, exponent=0.9, seed=seed)
    period, length = 7 * size, 2 * size
    position = np.arange(requests)
    inside = position % period >= period - length
    base[inside] = 1_000_000_000 + position[inside]
    return base


def recency(requests: int, size: int, *, seed: int = 3) -> Keys:
    """A random walk: keys near a centre that drifts by one place in four requests; what was used lately comes again."""
    generator = np.random.default_rng(seed)
    centre = np.arange(requests) // 4
    distance = generator.exponential(size / 2, requests).astype(np.int64)
    return (10_000_000 + centre - distance).astype(np.int64)


def corda(requests: int, size: int, *, seed: int = 4) -> Keys:
    """Every key three times: new, soon again, never after; with one-hit wonders in between. A window is needed."""
    generator = np.random.default_rng(seed)
    triples = (requests + 3) // 4
    first = np.arange(triples, dtype=np.int64)
    lag = max(1, size // 16)
    stream = np.empty((triples, 4), dtype=np.int64)
    stream[:, 0] = first
    stream[:, 1] = np.maximum(first - lag, 0)
    stream[:, 2] = np.maximum(first - 2 * lag, 0)
    stream[:, 3] = 1_000_000_000 + generator.integers(0, 2**40, triples)
    return stream.ravel()[:requests]


def mixed(requests: int, size: int) -> Keys:
    """Phases of a quarter each: skewed, looping, drifting, scanned."""
    part = requests // 4
    phases = [
        zipf(part, size),
        loop(part, size) + 100_000_000_000,
        recency(part, size) + 200_000_000_000,
        scans(requests - 3 * part, size) + 300_000_000_000,
    ]
    return np.concatenate(phases)


STREAMS: dict[str, Callable[..., Keys]] = {
    "zipf 0.99": zipf,
    "zipf 0.7": lambda requests, size: zipf(requests, size, exponent=0.7),
    "loop": loop,
    "scans": scans,
    "recency": recency,
    "corda": corda,
    "mixed": mixed,
}


def trace(keys: Any, sizes: Any = None) -> bytes:
    """The stream as the text of a trace file."""
    if sizes is None:
        return "\n".join(map(str, keys.tolist())).encode() + b"\n"
    return "".join(f"{key},{size}\n" for key, size in zip(keys.tolist(), sizes.tolist(), strict=True)).encode()
