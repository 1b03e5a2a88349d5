"""The fourth set of memory series with a known truth: made as workloads make them, not as curves and noise.

Written, and committed, before any verdict on it had been looked at; thresholds in ``csrc/monitor`` were never chosen on it
(``leak_series.py`` has the sets that they were chosen on, and what a generator is). Requests come in sessions that are on and
off (Markov), hold blocks of lognormal sizes for times with a heavy tail, epochs end in validation, batch sizes change,
the allocator trims, and load drifts over hours that have plateaus.
"""

from __future__ import annotations

import numpy as np
from leak_series import MB, Floats, Generator, Series


def _clock(rng: np.random.Generator) -> Floats:
    """10 to 50 minutes, a sample every 0.3 to 2 seconds, each late by what the scheduler took."""
    interval = float(np.exp(rng.uniform(np.log(0.3), np.log(2.0))))
    t = np.arange(0.0, rng.uniform(600, 3000), interval)
    return np.sort(t + rng.lognormal(-6.0, 1.5, len(t)))


def _held(t: Floats, begin: Floats, seconds: Floats, sizes: Floats) -> Floats:
    """What blocks hold that come at these times and stay for so long."""
    come, go = np.argsort(begin), np.argsort(begin + seconds)
    arrived = np.concatenate([[0.0], np.cumsum(sizes[come])])[np.searchsorted(begin[come], t, side="right")]
    left = np.concatenate([[0.0], np.cumsum(sizes[go])])[np.searchsorted((begin + seconds)[go], t, side="right")]
    held: Floats = arrived - left
    return held


def _switched(rng: np.random.Generator, t: Floats, on: float, off: float) -> Floats:
    """1 while a Markov process that stays on and off for so many seconds on average is on, from its steady state."""
    turns = rng.exponential(1.0, 2 * int(t[-1] / (on + off)) + 64)
    first = int(rng.random() < on / (on + off))
    turns[(np.arange(len(turns)) + first) % 2 == 1] *= on
    turns[(np.arange(len(turns)) + first) % 2 == 0] *= off
    return ((np.searchsorted(np.cumsum(turns), t, side="right") + first) % 2).astype(np.float64)


def _requests(rng: np.random.Generator, t: Floats) -> Floats:
    """Blocks of lognormal size (median 0.3 to 3 MB) in sessions; they live for a lognormal time (median 1 to 8 seconds)."""
    rate = rng.uniform(0.05, 0.8)
    begin = np.sort(rng.uniform(-120.0, t[-1], rng.poisson(rate * (t[-1] + 120.0))))
    kept = np.interp(begin, t, _switched(rng, t, rng.uniform(20, 90), rng.uniform(5, 60))) > 0.5
    begin = begin[kept]
    sizes = rng.lognormal(np.log(rng.uniform(0.3, 3.0) * MB), rng.uniform(0.4, 1.1), len(begin))
    return _held(t, begin, rng.lognormal(np.log(rng.uniform(1, 8)), 0.9, len(begin)), sizes)


def _validation(rng: np.random.Generator, t: Floats) -> Floats:
    """A phase at the end of every epoch that holds one size more (or, in evaluation without gradients, less)."""
    epoch, share = rng.uniform(20, 180), rng.uniform(0.05, 0.25)
    phase = ((t / epoch + rng.random()) % 1.0) < share
    held: Floats = np.asarray(
        phase * rng.lognormal(np.log(8 * MB), 0.7) * (1 if rng.random() < 0.7 else -1), dtype=np.float64
    )
    return held


def _trims(rng: np.random.Generator, t: Floats) -> Floats:
    """What malloc keeps after free grows a little and is trimmed at times: sudden falls, small beside the figures."""
    every = rng.uniform(15, 120)
    at = np.cumsum(rng.gamma(3.0, every / 3.0, int(4 * t[-1] / every) + 16))
    last = np.concatenate([[0.0], at])[np.searchsorted(at, t, side="right")]
    retained: Floats = (1.0 - np.exp(-(t - last) / every)) * rng.lognormal(np.log(1.5 * MB), 0.6)
    return retained


def _drift(rng: np.random.Generator, t: Floats) -> Floats:
    """Load that comes and goes in a wave cut flat at the top and the bottom, one to four times in the series."""
    wave = np.sin(2 * np.pi * (t / t[-1] * rng.uniform(1.0, 4.0) + rng.random()))
    load: Floats = np.clip(wave, -0.5, 0.5) * rng.lognormal(np.log(1.0 * MB), 0.5)
    return load


def _workload(rng: np.random.Generator, t: Floats) -> Floats:
    """What a process holds beside what the kinds below are about: requests always, each of the rest in half of the series."""
    figures: Floats = _requests(rng, t) + rng.normal(0, rng.uniform(0.05, 0.5) * MB, len(t))
    for part in (_validation, _trims, _drift):
        if rng.random() < 0.5:
            figures = figures + part(rng, t)
    return figures


def _base(rng: np.random.Generator) -> float:
    return float(rng.lognormal(np.log(800 * MB), 0.9))


def _rise(rng: np.random.Generator, base: float) -> float:
    return float(base * np.exp(rng.uniform(np.log(0.015), np.log(0.8))))


def _stairs(rng: np.random.Generator, t: Floats, at: Floats, sigma: float) -> Floats:
    """Lognormal blocks that come at these times and stay, 1 in all."""
    sizes = rng.lognormal(0.0, sigma, len(at))
    return _held(t, at, np.full(len(at), 2 * t[-1] + 1.0), sizes / sizes.sum())


def _pages(figures: Floats) -> Floats:
    return np.round(figures / 4096.0) * 4096.0


def workload_stable(rng: np.random.Generator) -> Series:
    t = _clock(rng)
    return t, _pages(_base(rng) + _workload(rng, t))


def workload_plateau(rng: np.random.Generator) -> Series:
    """Imports, a model and its optimizer state: 10 to 300 blocks, all within 10 to 70 % of the time, early ones more often."""
    t = _clock(rng)
    base = _base(rng)
    at = rng.uniform(0.1, 0.7) * t[-1] * rng.beta(rng.uniform(0.6, 1.0), 1.0, int(np.exp(rng.uniform(2.3, 5.7))))
    return t, _pages(base + _rise(rng, base) * _stairs(rng, t, at, 0.8) + _workload(rng, t))


def workload_sawtooth(rng: np.random.Generator) -> Series:
    """Results kept until the end of an epoch; 4 to 60 epochs of lognormal length, some results stay until the next."""
    t = _clock(rng)
    base = _base(rng)
    lengths = rng.lognormal(0.0, rng.uniform(0.05, 0.5), int(rng.integers(4, 61)))
    ends = np.cumsum(lengths) / lengths.sum() * t[-1]
    before = np.concatenate([[0.0], ends])[np.minimum(np.searchsorted(ends, t, side="right"), len(ends))]
    rate = _rise(rng, base) / float(np.median(np.diff(ends)))
    return t, _pages(base + rate * (t - before) + _workload(rng, t))


def workload_steps(rng: np.random.Generator) -> Series:
    """1 to 4 changes of the batch size by a half, two or four times, up more often than down."""
    t = _clock(rng)
    base = _base(rng)
    batch = _rise(rng, base)
    value = np.full(len(t), batch)
    for part in range(int(rng.integers(1, 5))):
        at = (0.08 + 0.22 * part + rng.uniform(0, 0.12)) * t[-1]
        batch = float(np.clip(batch * rng.choice([0.5, 2.0, 2.0, 4.0]), 0.002 * base, 2.0 * base))
        value[t >= at] = batch
    return t, _pages(base + value + _workload(rng, t))


def workload_fragmentation(rng: np.random.Generator) -> Series:
    """The highest use so far is what a heap holds: the running maximum of stationary use, less a share of it when trimmed."""
    t = _clock(rng)
    base = _base(rng)
    keep = np.exp(-1.0 / rng.uniform(5, 60))
    use = np.empty(len(t))
    state = float(rng.normal())
    for i, kick in enumerate(rng.normal(0, np.sqrt(1 - keep**2), len(t))):
        state = keep * state + kick
        use[i] = state
    highest = np.maximum.accumulate(use)
    highest = (highest - highest[0]) / max(highest[-1] - highest[0], 0.5)
    return t, _pages(base + _rise(rng, base) * highest + _workload(rng, t))


def workload_cache_fill(rng: np.random.Generator) -> Series:
    """A bounded cache of keys by Zipf's law and lognormal entries: full after 15 to 70 % of the time, then an eviction each."""
    t = _clock(rng)
    base = _base(rng)
    universe = int(rng.integers(500, 5000))
    weights = 1.0 / np.arange(1, universe + 1) ** rng.uniform(0.6, 1.1)
    full = rng.uniform(0.15, 0.7)
    keys = rng.choice(universe, 3000, p=weights / weights.sum())
    _, first = np.unique(keys, return_index=True)
    at = np.sort(first) / 3000.0
    sizes = rng.lognormal(0.0, 0.7, len(at))
    bound = sizes[at < full].sum()
    held = np.minimum(np.concatenate([[0.0], np.cumsum(sizes)])[np.searchsorted(at * t[-1], t, side="right")], bound)
    held -= (held >= bound) * rng.exponential(float(sizes.mean()), len(t))
    return t, _pages(base + _rise(rng, base) * held / bound + _workload(rng, t))


def workload_slow_leak(rng: np.random.Generator) -> Series:
    """1 MB a minute, 10 minutes, a process of 1 GB, a sample a second: 100 to 2,000 lognormal objects that nobody frees."""
    t = np.arange(600.0)
    at = rng.uniform(0, 600, int(np.exp(rng.uniform(np.log(100), np.log(2000)))))
    return t, _pages(1000 * MB + 10 * MB * _stairs(rng, t, at, 0.8) + _workload(rng, t))


def workload_leak_of_an_hour(rng: np.random.Generator) -> Series:
    """2 MB a minute for an hour, a sample every 2 seconds, in 60 to 2,000 lognormal blocks: what more samples are worth."""
    t = np.arange(0.0, 3600.0, 2.0)
    at = rng.uniform(0, 3600, int(np.exp(rng.uniform(np.log(60), np.log(2000)))))
    return t, _pages(1000 * MB + 120 * MB * _stairs(rng, t, at, 0.8) + _workload(rng, t))


WORKLOADS: dict[str, Generator] = {
    "stable": workload_stable,
    "plateau": workload_plateau,
    "sawtooth": workload_sawtooth,
    "step": workload_steps,
    "fragmentation": workload_fragmentation,
    "cache fill": workload_cache_fill,
}
WORKLOAD_LEAKS: dict[str, Generator] = {
    "slow leak": workload_slow_leak,
    "leak of an hour": workload_leak_of_an_hour,
}
