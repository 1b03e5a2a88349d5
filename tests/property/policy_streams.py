"""Families of request streams on which eviction policies differ, the same numbers in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HELD_OUT", "STREAMS", "Keys", "corda", "loop", "mixed", "recency", "scans", "trace", "zipf"]

Keys = npt.NDArray[np.int64]


def zipf(requests: int, size: int, *, keys: int | None = None, exponent: float = 0.99, seed: int = 1) -> Keys:
    """Independent draws with probability proportional to rank ** -exponent over ``keys`` keys (50 a place in the cache)."""
    count = keys or 50 * size
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    cumulated = np.cumsum(weights)
    draws = np.random.default_rng(seed).random(requests) * cumulated[-1]
    return np.searchsorted(cumulated, draws).astype(np.int64)


def loop(requests: int, size: int, *, ratio: float = 1.5) -> Keys:
    """Round and round over ``ratio`` times as many keys as the cache has places: above 1, LRU and FIFO never hit."""
    return np.arange(requests, dtype=np.int64) % int(size * ratio)


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


def phases(requests: int, *parts: Callable[[int], Keys]) -> Keys:
    """One stream after the other, of disjoint keys, an equal share of the requests each."""
    share = -(-requests // len(parts))
    streams = [part(share) + (number << 50) for number, part in enumerate(parts)]
    return np.concatenate(streams)[:requests]


def looping_and_skewed(requests: int, size: int, *, ratio: float, seed: int) -> Keys:
    """Every other request from a loop, the rest skewed."""
    stream = np.empty((-(-requests // 2), 2), dtype=np.int64)
    stream[:, 0] = loop(len(stream), size, ratio=ratio) + (1 << 50)
    stream[:, 1] = zipf(len(stream), size, keys=20 * size, exponent=0.9, seed=seed)
    return stream.ravel()[:requests]


def loop_of(ratio: float) -> Callable[..., Keys]:
    return lambda requests, size: loop(requests, size, ratio=ratio)


# Never look at these while a policy's parameters are chosen: they say how it does on what it was not made for.
HELD_OUT: dict[str, Callable[..., Keys]] = {
    **{f"loop over {ratio} times the entries": loop_of(ratio) for ratio in (1.05, 1.3, 1.7, 2.5, 4, 8)},
    "zipf 0.8": lambda requests, size: zipf(requests, size, keys=30 * size, exponent=0.8, seed=11),
    "zipf 1.2": lambda requests, size: zipf(requests, size, keys=100 * size, exponent=1.2, seed=12),
    "scans": lambda requests, size: scans(requests, size, seed=13),
    "recency": lambda requests, size: recency(requests, size, seed=14),
    "corda": lambda requests, size: corda(requests, size, seed=15),
    "loop 1.7 and zipf 0.9, every other request": lambda requests, size: looping_and_skewed(
        requests, size, ratio=1.7, seed=16
    ),
    "phases: zipf 0.8, loop 2.5, recency, corda, loop 1.3": lambda requests, size: phases(
        requests,
        lambda part: zipf(part, size, exponent=0.8, seed=17),
        lambda part: loop(part, size, ratio=2.5),
        lambda part: recency(part, size, seed=18),
        lambda part: corda(part, size, seed=19),
        lambda part: loop(part, size, ratio=1.3),
    ),
    "phases: recency, loop 4, scans, zipf 1.1": lambda requests, size: phases(
        requests,
        lambda part: recency(part, size, seed=20),
        lambda part: loop(part, size, ratio=4),
        lambda part: scans(part, size, seed=21),
        lambda part: zipf(part, size, exponent=1.1, seed=22),
    ),
}


def trace(keys: Any, sizes: Any = None) -> bytes:
    """The stream as the text of a trace file."""
    if sizes is None:
        return "\n".join(map(str, keys.tolist())).encode() + b"\n"
    return "".join(f"{key},{size}\n" for key, size in zip(keys.tolist(), sizes.tolist(), strict=True)).encode()
