"""Every policy in C against its naive model, operation by operation: the same hits, the same evictions in the same order.

What is left at the end is drained by a bound of 0 entries, so the order of all that was never evicted is compared too.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_models import POLICIES, Cache
from policy_streams import STREAMS, trace

from perfopt import _core

BOUNDS: list[tuple[int | None, int | None]] = [
    (1, None),
    (2, None),
    (10, None),
    (37, None),
    (None, 0),
    (None, 60),
    (None, 1000),
    (12, 60),
    (0, None),
    (None, None),
]


Answers = list[tuple[bool, list[int]]]


def run_both(
    policy: str, bounds: tuple[int | None, int | None], operations: list[tuple[Any, ...]]
) -> tuple[Answers, Answers]:
    """What the C policy and its model answer to each operation: (hit, evicted hashes in order)."""
    operations = [*operations, ("resize", 0, None)]
    model = Cache(POLICIES[policy], bounds)
    return _core.simulate_operations(policy, *bounds, operations), [model.run(operation) for operation in operations]


def random_operations(seed: int, count: int, keys: int, largest: int) -> list[tuple[Any, ...]]:
    """Skewed requests for the most part; then sets, deletes, and now and then new bounds or nothing left."""
    generator = random.Random(seed)
    operations: list[tuple[Any, ...]] = []
    for _ in range(count):
        key = int(keys * generator.random() ** 3) * (2**61 - 1) % 2**64
        size = generator.randrange(largest + 1)
        kind = generator.random()
        if kind < 0.85:
            operations.append(("request", key, size))
        elif kind < 0.93:
            operations.append(("set", key, size))
        elif kind < 0.995:
            operations.append(("delete", key))
        elif kind < 0.9985:
            operations.append(("resize", generator.choice([1, 5, 30, None]), generator.choice([50, 300, None])))
        else:
            operations.append(("clear",))
    return operations


def test_every_policy_has_a_model() -> None:
    assert list(POLICIES) == list(_core.policy_names())


operation = st.one_of(
    st.tuples(st.just("request"), st.integers(0, 12), st.integers(0, 9)),
    st.tuples(st.just("set"), st.integers(0, 12), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.integers(0, 12)),
    st.tuples(
        st.just("resize"),
        st.one_of(st.none(), st.integers(0, 9)),
        st.one_of(st.none(), st.integers(0, 30)),
    ),
    st.just(("clear",)),
)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    bounds=st.tuples(st.one_of(st.none(), st.integers(0, 9)), st.one_of(st.none(), st.integers(0, 30))),
    operations=st.lists(operation, max_size=80),
)
def test_short_sequences(policy: str, bounds: tuple[int | None, int | None], operations: list[tuple[Any, ...]]) -> None:
    answers, expected = run_both(policy, bounds, operations)
    assert answers == expected


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("policy", POLICIES)
def test_long_sequences(policy: str, bounds: tuple[int | None, int | None]) -> None:
    answers, expected = run_both(policy, bounds, random_operations(7, 3000, keys=150, largest=20))
    assert answers == expected
    assert sum(len(evicted) for _, evicted in answers) > 10


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("policy", POLICIES)
def test_streams(policy: str, stream: str) -> None:
    """Long enough for the sketch to age, the window to climb, and ``auto`` to judge, pause and switch."""
    keys = STREAMS[stream](24000, 40)
    answers, expected = run_both(policy, (40, None), [("request", int(key), 1) for key in keys])
    assert answers == expected


def test_auto_on_two_streams() -> None:
    keys = (*STREAMS["mixed"](24000, 40), *STREAMS["zipf 0.99"](24000, 40))
    answers, expected = run_both("auto", (40, None), [("request", int(key), 1) for key in keys])
    assert answers == expected


@pytest.mark.parametrize("policy", POLICIES)
def test_scaled_shadows_and_bytes(policy: str) -> None:
    """More entries than a shadow holds, bounded by bytes: ``auto`` samples, and its scale follows the number of entries."""
    keys = [int(key) for stream in ("zipf 0.99", "loop") for key in STREAMS[stream](6000, 300)]
    answers, expected = run_both(policy, (None, 3000), [("request", key, key * 7919 % 19 + 1) for key in keys])
    assert answers == expected


def test_auto_judges_pauses_and_switches_in_these_tests() -> None:
    """What the comparisons above cover: without a switch and a pause they would prove little about ``auto``."""
    model = Cache(POLICIES["auto"], (40, None))
    phases, active = set(), set()
    for key in (*STREAMS["mixed"](24000, 40), *STREAMS["zipf 0.99"](24000, 40)):
        model.request(int(key), 1)
        phases.add(model.policy.phase)  # type: ignore[attr-defined]
        active.add(model.policy.active_index)  # type: ignore[attr-defined]
    assert phases == {"off", "round", "pause"}
    assert len(active) >= 2


@pytest.mark.parametrize("size", [100, 1000])
@pytest.mark.parametrize("stream", STREAMS)
def test_auto_is_within_a_point_of_the_best(stream: str, size: int) -> None:
    keys = STREAMS[stream](500_000, size)
    chunks = iter([trace(keys), b""])
    caches = tuple((policy, size, None) for policy in POLICIES)
    results = _core.simulate(lambda: next(chunks), caches)
    *fixed, auto = (100 * result["hits"] / result["requests"] for result in results)
    assert auto >= max(fixed) - 1
