"""Reports made from given samples, and a program whose operations have the kinds of noise that programs have."""

from __future__ import annotations

import math
from typing import Any

import numpy

from perfopt.report import document
from perfopt.report.reference import LOOPS, REPETITIONS

Samples = dict[str, Any]  # name: durations in seconds


def histogram(values: Any) -> document.Histogram:
    """Buckets of 64 an octave, from 1 ns, as the profiler's."""
    ticks = numpy.maximum(numpy.round(values / 1e-9), 64)
    octave = numpy.floor(numpy.log2(ticks))
    width = 2.0 ** (octave - 6)
    lower = numpy.floor(ticks / width) * width
    edges, first, counts = numpy.unique(lower, return_index=True, return_counts=True)
    return document.Histogram(
        lower=(edges * 1e-9).tolist(), upper=((edges + width[first]) * 1e-9).tolist(), counts=counts.tolist()
    )


def operation(name: str | None, values: Any) -> document.Operation:
    p50, p90, p99, p999 = (float(figure) for figure in numpy.quantile(values, [0.5, 0.9, 0.99, 0.999]))
    total = float(values.sum())
    return document.Operation(
        name=name,
        count=len(values),
        total=total,
        active=total,
        self_time=total,
        mean=float(values.mean()),
        deviation=float(values.std()),
        least=float(values.min()),
        greatest=float(values.max()),
        p50=p50,
        p90=p90,
        p99=p99,
        p999=p999,
        error=1 / 128,
        histogram=histogram(values),
    )


def report(samples: Samples, **changes: Any) -> document.Report:
    fields: dict[str, Any] = {
        "title": "run",
        "created_ns": 0,
        "duration": 1.0,
        "host": document.Host(system="Linux", python="3.11.2", processor="P"),
        "clock": document.Clock(source="tsc", nanoseconds_per_tick=0.4, read_cost_seconds=1e-8),
        "recording": document.Recording(range_cost_seconds=1e-7, overhead_seconds=0.0, memory_bytes=0, ranges=1),
        "operations": [operation(name, values) for name, values in samples.items()],
    }
    return document.Report(**(fields | changes))


def reference(random: Any, machine: float = 1.0, spread: float = 0.01) -> document.Reference:
    """The reference loops on a machine that takes ``machine`` times as long, and whose speed moves by ``spread`` meanwhile."""

    def timing(seconds: float) -> document.Timing:
        times = numpy.sort(seconds * machine * (1 + random.exponential(spread, REPETITIONS)))
        return document.Timing(least=float(times[0]), upper=float(times[REPETITIONS * 3 // 4]))

    return document.Reference(loops=LOOPS, interpreter=timing(1e-4), memory=timing(2e-4), cost_seconds=5e-3)


def measured_run(
    random: Any, *, code: float = 1.0, machine: float = 1.0, run_noise: float = 0.01, spread: float = 0.01
) -> document.Report:
    """A run of :func:`program` with a reference. The code takes ``code`` times as long everywhere, the machine ``machine`` times;
    from run to run the machine's speed differs by ``run_noise``, and when the reference is taken, by as much again."""
    samples = program(random, code * machine, run_noise)
    after = machine * math.exp(random.normal(0, run_noise))
    return report(samples, reference=reference(random, after, spread))


def program(random: Any, slower: float = 1.0, run_noise: float = 0.01) -> Samples:
    """One run of a program of seven operations whose noise is of the kinds that programs have. ``slower`` scales them all;
    the machine's own speed in this run is another factor."""
    speed = slower * math.exp(random.normal(0, run_noise))
    drift = numpy.cumsum(random.normal(0, 1, 2000))
    drift = 0.02 * drift / max(1e-9, numpy.abs(drift).max())
    correlated = numpy.zeros(600)
    for i in range(1, 600):
        correlated[i] = 0.8 * correlated[i - 1] + random.normal(0, 0.02)
    mixed = numpy.where(random.random(3000) < 0.8, 2e-3, 9e-3)
    return {
        "smooth": speed * 5e-3 * random.lognormal(0, 0.05, 2000),
        "wide": speed * 2e-3 * random.lognormal(0, 0.2, 3000),
        "pauses": speed * (1e-3 + numpy.where(random.random(2000) < 0.02, random.exponential(0.05, 2000), 0)),
        "two modes": speed * mixed * random.lognormal(0, 0.03, 3000),
        "drifting": speed * 4e-3 * numpy.exp(drift) * random.lognormal(0, 0.02, 2000),
        "correlated": speed * 8e-3 * numpy.exp(correlated),
        "rare": speed * 0.1 * random.lognormal(0, 0.01, 40),
        "tiny": speed * 2e-5 * random.lognormal(0, 0.3, 50_000),
    }
