"""The eviction policies side by side: hit rates on families of streams, and what a request costs each of them beside ``lru``.

Hit rates are exact and the same on every machine; they go to ``benchmarks/results/policies.md``, those of streams that no
parameter was chosen by to ``benchmarks/results/policies_held_out.md``.
``PERFOPT_BENCH_REQUESTS`` scales the streams (1,000,000 requests, half of it for the held-out ones).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from policy_streams import HELD_OUT, HELD_OUT_AGAIN, STREAMS, Keys, trace, zipf

from perfopt import _core

REQUESTS = int(os.environ.get("PERFOPT_BENCH_REQUESTS", "1000000"))
SIZES = (100, 1000, 10_000)
HELD_OUT_SIZES = (128, 300, 700, 1000, 5000)
HELD_OUT_AGAIN_SIZES = (64, 200, 500, 2000, 5000)
PUBLISHED_KEYS = 1_000_000
RESULTS = Path(__file__).resolve().parent / "results"
NAMES = _core.policy_names()


def hit_rates(keys: Keys, size: int) -> list[float]:
    chunks = iter([trace(keys), b""])
    results = _core.simulate(lambda: next(chunks), tuple((name, size, None) for name in NAMES))
    return [100 * result["hits"] / result["requests"] for result in results]


def row_of(label: str, size: int, rates: list[float]) -> str:
    *fixed, auto = rates
    cells = [f"**{rate:.2f}**" if rate == max(fixed) else f"{rate:.2f}" for rate in fixed]
    return f"| {label} | {size} | {' | '.join(cells)} | {auto:.2f} | {auto - max(fixed):+.2f} |"


def heading(title: str) -> list[str]:
    return [
        f"# {title}",
        "",
        "`make bench BENCH=benchmarks/bench_policies.py`; exact, and the same on every machine. The best fixed policy is "
        "bold; the last column is `auto` against it.",
        "",
        f"| stream | entries | {' | '.join(NAMES)} | auto - best |",
        "|---|---|" + "---|" * (len(NAMES) + 1),
    ]


def write(name: str, lines: list[str]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text("\n".join(lines) + "\n")


def test_hit_rates(benchmark: Any) -> None:
    rows = heading(f"Hit rates of the eviction policies in percent, {REQUESTS} requests a stream")

    def measure() -> None:
        for name, stream in STREAMS.items():
            rows.extend(row_of(name, size, hit_rates(stream(REQUESTS, size), size)) for size in SIZES)
        size = PUBLISHED_KEYS // 1000
        keys = zipf(REQUESTS, size, keys=PUBLISHED_KEYS)
        rows.append(row_of(f"zipf 0.99, {PUBLISHED_KEYS} keys", size, hit_rates(keys, size)))

    benchmark.pedantic(measure, rounds=1, iterations=1)
    write("policies.md", rows)


def test_hit_rates_on_held_out_streams(benchmark: Any) -> None:
    requests = REQUESTS // 2
    rows = heading(f"Hit rates on held-out streams in percent, {requests} requests a stream")

    def measure() -> None:
        for name, stream in HELD_OUT.items():
            rows.extend(row_of(name, size, hit_rates(stream(requests, size), size)) for size in HELD_OUT_SIZES)

    benchmark.pedantic(measure, rounds=1, iterations=1)
    write("policies_held_out.md", rows)


def test_hit_rates_on_streams_held_out_again(benchmark: Any) -> None:
    requests = REQUESTS // 2
    rows = heading(f"Hit rates on further held-out streams in percent, {requests} requests a stream")

    def measure() -> None:
        for name, stream in HELD_OUT_AGAIN.items():
            rows.extend(row_of(name, size, hit_rates(stream(requests, size), size)) for size in HELD_OUT_AGAIN_SIZES)

    benchmark.pedantic(measure, rounds=1, iterations=1)
    write("policies_held_out_again.md", rows)


def replaying(policy: str, text: bytes, size: int) -> Callable[[], object]:
    def run() -> object:
        chunks = iter([text, b""])
        return _core.simulate(lambda: next(chunks), ((policy, size, None),))

    return run


@pytest.mark.parametrize("size", [100, 1000, 10_000])
def test_cost_of_a_request(versus: Any, size: int) -> None:
    """Parsing and hashing a line is part of each, so the ratios say less than the differences."""
    text = trace(zipf(200_000, size))
    versus(
        f"200000 requests replayed, zipf 0.99, {size} entries",
        ours={name: replaying(name, text, size) for name in NAMES if name != "lru"},
        peers={"lru": replaying("lru", text, size)},
        rounds=9,
    )


def test_cost_of_a_hit(versus: Any) -> None:
    """A full cache, hit at random: nothing is evicted once it is full, so ``auto`` pays a branch."""
    text = trace(zipf(200_000, 1000, keys=1000))
    versus(
        "200000 requests replayed, all hits but the first, 1000 entries",
        ours={name: replaying(name, text, 1000) for name in NAMES if name != "lru"},
        peers={"lru": replaying("lru", text, 1000)},
        rounds=9,
    )
