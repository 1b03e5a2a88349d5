"""Made-up memory series with a known truth, for the verdicts of ``perfopt.memory.leak_verdict``.

Three sets of generators; ``leak_workloads.py`` has a fourth. The thresholds in ``csrc/monitor`` (``leak.c``, ``kept.c``) were
chosen on ``TUNING`` and ``FRESH``, and that for hidden blocks also on other seeds of ``held_slow_leak``; the rest of ``HELD_OUT``
has the same kinds of truth made in other ways (other shapes, noise, sampling) and is there to report, not to choose
(docs/memory.md). A generator is a function of a seeded
generator and gives seconds and bytes. What is not a leak has come to its end, or slowed down to a fraction of its rate,
within the series: growth that is still linear when the series ends cannot be told from a leak by anybody.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Series = tuple[Floats, Floats]
Generator = Callable[[np.random.Generator], Series]

MB = 1e6


def _clock(rng: np.random.Generator) -> Floats:
    """10 to 60 minutes at 1 to 4 samples a second."""
    minutes, rate = rng.uniform(10, 60), rng.uniform(1, 4)
    return np.arange(int(minutes * 60 * rate)) / rate


def _noise(rng: np.random.Generator, count: int) -> Floats:
    """White jitter, and short allocations on top of some samples."""
    jitter = rng.normal(0, rng.uniform(0.2, 5) * MB, count)
    return jitter + (rng.random(count) < 0.05) * rng.exponential(50 * MB, count)


def _base(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(100 * MB), np.log(8000 * MB))))


def _rise(rng: np.random.Generator, base: float) -> float:
    return float(base * np.exp(rng.uniform(np.log(0.01), np.log(1.0))))


def stable(rng: np.random.Generator) -> Series:
    t = _clock(rng)
    return t, _base(rng) + _noise(rng, len(t))


def plateau(rng: np.random.Generator) -> Series:
    """Rises (in a line or ever slower) for 5 to 75 % of the time, then stays."""
    t = _clock(rng)
    base = _base(rng)
    end = rng.uniform(0.05, 0.75) * t[-1]
    shape = np.minimum(t / end, 1.0) if rng.random() < 0.5 else 1 - np.exp(-4 * t / end)
    return t, base + _rise(rng, base) * shape + _noise(rng, len(t))


def sawtooth(rng: np.random.Generator) -> Series:
    """3 to 200 teeth of nearly equal length."""
    t = _clock(rng)
    base = _base(rng)
    period = t[-1] / rng.uniform(3, 200)
    phase = (t / period + rng.random()) % 1.0
    return t, base + _rise(rng, base) * phase + _noise(rng, len(t))


def steps(rng: np.random.Generator) -> Series:
    """1 to 4 steps up (sometimes down), levels of at least 6 % of the time."""
    t = _clock(rng)
    base = _base(rng)
    edges = np.sort(rng.uniform(0.08, 0.9, 16))
    level = np.zeros(len(t))
    last = 0.0
    left = rng.integers(1, 5)
    for edge in edges:
        if left and edge - last > 0.06:
            level += (t > edge * t[-1]) * _rise(rng, base) * (1 if rng.random() < 0.8 else -0.5)
            last, left = edge, left - 1
    return t, base * 3 + level + _noise(rng, len(t))


def fragmentation(rng: np.random.Generator) -> Series:
    """Grows with the logarithm of time."""
    t = _clock(rng)
    base = _base(rng)
    tau = t[-1] * np.exp(rng.uniform(np.log(1 / 500), np.log(1 / 8)))
    shape = np.log1p(t / tau) / np.log1p(t[-1] / tau)
    return t, base + _rise(rng, base) * shape + _noise(rng, len(t))


def cache_fill(rng: np.random.Generator) -> Series:
    """A cache of random keys: the share of keys seen so far, up to its bound, which it reaches within 75 % of the time."""
    t = _clock(rng)
    base = _base(rng)
    full = rng.uniform(0.1, 0.75) * t[-1]
    keys = rng.uniform(1.05, 4.0)  # as many as the bound times this
    rate = -np.log(1 - 1 / keys) / full
    shape = np.minimum(keys * (1 - np.exp(-rate * t)), 1.0)
    return t, base + _rise(rng, base) * shape + _noise(rng, len(t))


def slow_leak(rng: np.random.Generator) -> Series:
    """1 MB a minute for 10 minutes on a noisy process of 1 GB, one sample a second."""
    t = np.arange(600.0)
    jitter = rng.normal(0, 2 * MB, len(t)) + (rng.random(len(t)) < 0.05) * rng.exponential(50 * MB, len(t))
    return t, 1000 * MB + MB / 60 * t + jitter


TUNING: dict[str, Generator] = {
    "stable": stable,
    "plateau": plateau,
    "sawtooth": sawtooth,
    "step": steps,
    "fragmentation": fragmentation,
    "cache fill": cache_fill,
}
TUNING_LEAKS: dict[str, Generator] = {"slow leak": slow_leak}


# -- held out --


def _other_clock(rng: np.random.Generator) -> Floats:
    """15 to 45 minutes, about two samples a second at irregular times."""
    span = rng.uniform(900, 2700)
    return np.sort(rng.uniform(0, span, int(span * 2)))


def _other_noise(rng: np.random.Generator, count: int) -> Floats:
    """Autocorrelated Laplace jitter; the caller rounds to the pages of an arena."""
    white = rng.laplace(0, rng.uniform(0.3, 3) * MB, count)
    keep = rng.uniform(0.0, 0.7)
    jitter = np.empty(count)
    state = 0.0
    for i, kick in enumerate(white):
        state = keep * state + kick
        jitter[i] = state
    return jitter


def _rounded(values: Floats) -> Floats:
    page = 262144.0
    return np.round(values / page) * page


def held_stable(rng: np.random.Generator) -> Series:
    t = _other_clock(rng)
    return t, _rounded(_base(rng) + _other_noise(rng, len(t)))


def held_plateau(rng: np.random.Generator) -> Series:
    """A logistic rise whose middle is in the first half."""
    t = _other_clock(rng)
    base = _base(rng)
    middle, width = rng.uniform(0.05, 0.45) * t[-1], rng.uniform(0.01, 0.06) * t[-1]
    return t, _rounded(base + _rise(rng, base) / (1 + np.exp(-(t - middle) / width)) + _other_noise(rng, len(t)))


def held_sawtooth(rng: np.random.Generator) -> Series:
    """Collections at random times: many that free a part, some that free all."""
    t = _other_clock(rng)
    base = _base(rng)
    height = _rise(rng, base)
    mean = t[-1] / rng.uniform(8, 120)
    level, value, due = 0.0, np.empty(len(t)), rng.gamma(4, mean / 4)
    last = 0.0
    for i, now in enumerate(t):
        level += (now - last) / mean * height
        last = now
        if now >= due:
            level *= 0.0 if rng.random() < 0.5 else rng.uniform(0.1, 0.6)
            due = now + rng.gamma(4, mean / 4)
        value[i] = level
    return t, _rounded(base + value + _other_noise(rng, len(t)))


def held_steps(rng: np.random.Generator) -> Series:
    """1 to 3 loads: each overshoots by half for some seconds, then stays."""
    t = _other_clock(rng)
    base = _base(rng)
    value = np.zeros(len(t))
    for part in range(int(rng.integers(1, 4))):
        at = (0.1 + 0.28 * part + rng.uniform(0, 0.2)) * t[-1]
        since = t - at
        value += _rise(rng, base) * (since > 0) * (1 + 0.5 * np.exp(-np.maximum(since, 0) / 10))
    return t, _rounded(base * 2 + value + _other_noise(rng, len(t)))


def held_fragmentation(rng: np.random.Generator) -> Series:
    """New heap segments ever more seldom: the k-th comes when the time has grown by a share, plus a low power of time."""
    t = _other_clock(rng)
    base = _base(rng)
    shape = (t / t[-1]) ** rng.uniform(0.1, 0.35)
    count = int(rng.integers(20, 200))
    at = t[-1] * np.exp(-rng.uniform(0, 6, count))
    shape = 0.5 * shape + 0.5 * np.searchsorted(np.sort(at), t) / count
    return t, _rounded(base + _rise(rng, base) * shape + _other_noise(rng, len(t)))


def held_cache_fill(rng: np.random.Generator) -> Series:
    """Entries of random sizes arrive at random until the bound, then evictions keep it within an entry or two."""
    t = _other_clock(rng)
    base = _base(rng)
    rise = _rise(rng, base)
    full = rng.uniform(0.15, 0.7) * t[-1]
    arrivals = rng.poisson(400 / (full / np.diff(t, prepend=t[0] - 0.5)))
    size = np.array([rng.exponential(1 / 400, n).sum() if n else 0.0 for n in arrivals])
    value = np.minimum(np.cumsum(size), 1.0)
    value -= (value >= 1.0) * rng.exponential(1 / 400, len(t))
    return t, _rounded(base + rise * value + _other_noise(rng, len(t)))


def held_slow_leak(rng: np.random.Generator) -> Series:
    """1 MB a minute in blocks at random times, 10 minutes, a process of 1 GB with autocorrelated noise, 2 samples a second."""
    t = np.arange(1200) / 2.0
    arrivals = rng.poisson(0.5 * 4 / 60, len(t))  # four blocks of a quarter of an MB a minute on average
    leak = np.cumsum([rng.exponential(0.25 * MB, n).sum() if n else 0.0 for n in arrivals])
    leak *= 10 * MB / max(leak[-1], 1.0)
    jitter = np.empty(len(t))
    state = 0.0
    for i, kick in enumerate(rng.normal(0, 1 * MB, len(t))):
        state = 0.5 * state + kick
        jitter[i] = state
    return t, _rounded(1000 * MB + leak + jitter + (rng.random(len(t)) < 0.03) * rng.exponential(80 * MB, len(t)))


HELD_OUT: dict[str, Generator] = {
    "stable": held_stable,
    "plateau": held_plateau,
    "sawtooth": held_sawtooth,
    "step": held_steps,
    "fragmentation": held_fragmentation,
    "cache fill": held_cache_fill,
}
HELD_OUT_LEAKS: dict[str, Generator] = {"slow leak": held_slow_leak}


# -- fresh --


def _fresh_clock(rng: np.random.Generator) -> Floats:
    """12 to 40 minutes, a sample every 0.4 to 2 seconds of which every tenth was lost."""
    t = np.arange(0.0, rng.uniform(720, 2400), rng.uniform(0.4, 2.0))
    return t[rng.random(len(t)) > 0.1]


def _fresh_noise(rng: np.random.Generator, t: Floats) -> Floats:
    """Jitter of Student's t with a correlation time of 1 to 10 seconds, and temporary blocks that live for 1 to 15 seconds."""
    step = float(np.median(np.diff(t)))
    keep = np.exp(-step / rng.uniform(1, 10))
    kicks = rng.standard_t(5, len(t)) * rng.uniform(0.3, 2.0) * MB * np.sqrt(1 - keep**2)
    jitter = np.empty(len(t))
    state = 0.0
    for i, kick in enumerate(kicks):
        state = keep * state + kick
        jitter[i] = state
    for begin in rng.uniform(0, t[-1], rng.poisson(t[-1] / 120)):
        jitter += ((t >= begin) & (t < begin + rng.uniform(1, 15))) * rng.uniform(5, 60) * MB
    return jitter


def _blocks(rng: np.random.Generator, t: Floats, at: Floats) -> Floats:
    """Blocks of random size that came at these times, 1 in all."""
    at = np.sort(at)
    sizes = rng.gamma(1.5, 1.0, len(at))
    return np.concatenate([[0.0], np.cumsum(sizes / sizes.sum())])[np.searchsorted(at, t, side="right")]


def fresh_stable(rng: np.random.Generator) -> Series:
    t = _fresh_clock(rng)
    return t, _base(rng) + _fresh_noise(rng, t)


def fresh_plateau(rng: np.random.Generator) -> Series:
    """Two to five ramps of random slope one after the other, all within 70 % of the time."""
    t = _fresh_clock(rng)
    base = _base(rng)
    knots = np.concatenate([[0.0], np.sort(rng.uniform(0.02, 0.7, int(rng.integers(2, 6)))) * t[-1]])
    levels = np.concatenate([[0.0], np.cumsum(rng.exponential(1.0, len(knots) - 1))])
    return t, base + _rise(rng, base) * np.interp(t, knots, levels / levels[-1]) + _fresh_noise(rng, t)


def fresh_sawtooth(rng: np.random.Generator) -> Series:
    """Garbage until a random threshold is met, then a collection that leaves a little of it."""
    t = _fresh_clock(rng)
    base = _base(rng)
    height = _rise(rng, base)
    rate = height * rng.uniform(4, 100) / t[-1]
    value, level, bound = np.empty(len(t)), 0.0, height
    for i, passed in enumerate(np.diff(t, prepend=t[0])):
        level += rate * passed
        if level >= bound:
            level, bound = rng.uniform(0.0, 0.15) * height, rng.uniform(0.7, 1.2) * height
        value[i] = level
    return t, base + value + _fresh_noise(rng, t)


def fresh_steps(rng: np.random.Generator) -> Series:
    """1 to 4 loads, each of which takes 1 to 15 seconds."""
    t = _fresh_clock(rng)
    base = _base(rng)
    value = np.zeros(len(t))
    for part in range(int(rng.integers(1, 5))):
        at = (0.08 + 0.22 * part + rng.uniform(0, 0.1)) * t[-1]
        value += _rise(rng, base) * np.clip((t - at) / rng.uniform(1, 15), 0.0, 1.0)
    return t, base * 2 + value + _fresh_noise(rng, t)


def fresh_fragmentation(rng: np.random.Generator) -> Series:
    """60 to 400 blocks whose rate falls with one over the time."""
    t = _fresh_clock(rng)
    base = _base(rng)
    tau = np.exp(rng.uniform(np.log(1 / 300), np.log(1 / 12)))
    at = t[-1] * tau * np.expm1(rng.random(int(rng.integers(60, 400))) * np.log1p(1 / tau))
    return t, base + _rise(rng, base) * _blocks(rng, t, at) + _fresh_noise(rng, t)


def fresh_cache_fill(rng: np.random.Generator) -> Series:
    """200 to 2,000 entries, ever less often a new one, until 97 % are there after 20 to 70 % of the time."""
    t = _fresh_clock(rng)
    base = _base(rng)
    at = rng.exponential(rng.uniform(0.2, 0.7) * t[-1] / 3.5, int(rng.integers(200, 2000)))
    return t, base + _rise(rng, base) * _blocks(rng, t, at) + _fresh_noise(rng, t)


def fresh_slow_leak(rng: np.random.Generator) -> Series:
    """1 MB a minute in 25 to 60 blocks, 10 minutes, a process of 1 GB, a sample a second."""
    t = np.arange(600.0)
    at = rng.uniform(0, 600, int(rng.integers(25, 61)))
    return t, 1000 * MB + 10 * MB * _blocks(rng, t, at) + _fresh_noise(rng, t)


FRESH: dict[str, Generator] = {
    "stable": fresh_stable,
    "plateau": fresh_plateau,
    "sawtooth": fresh_sawtooth,
    "step": fresh_steps,
    "fragmentation": fresh_fragmentation,
    "cache fill": fresh_cache_fill,
}
