"""PerformanceCache against a naive model, step by step: bounds by entries and bytes, resizing, deleting, reasons to leave.

Times to live need a clock that the test moves; tests/c/test_store.c and test_expiry.c do that, against the same kind of list.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from perfopt.cache import PerformanceCache

MISSING = object()
UNBOUNDED = 1 << 62

keys = st.one_of(
    st.integers(0, 9),
    st.sampled_from(["a", "b", 1.0, True, None, b"a"]),
    st.tuples(st.integers(0, 2), st.sampled_from(["x", 1.5])),
)
bounds = st.one_of(st.none(), st.integers(0, 12))
byte_bounds = st.one_of(st.none(), st.integers(0, 60))


def typed(key: Any) -> tuple[Any, ...]:
    """Keys of the cache are typed; keys of a dict are not."""
    return (tuple, *map(typed, key)) if isinstance(key, tuple) else (type(key), key)


class StoreMachine(RuleBasedStateMachine):
    """An OrderedDict from the oldest entry to the youngest, and every event in order."""

    @initialize(max_size=bounds, max_bytes=byte_bounds)
    def make(self, max_size: int | None, max_bytes: int | None) -> None:
        self.events: list[Any] = []
        self.cache = PerformanceCache(
            max_size,
            max_bytes=max_bytes,
            on_evict=lambda key, value, reason: self.events.append((typed(key), value, reason)),
        )
        self.max_size = UNBOUNDED if max_size is None else max_size
        self.max_bytes = UNBOUNDED if max_bytes is None else max_bytes
        self.model: OrderedDict[Any, tuple[Any, int, Any]] = OrderedDict()
        self.expected: list[Any] = []
        self.counts = {"hits": 0, "misses": 0, "evictions": 0, "rejects": 0}
        self.number = 0

    def leave(self, key: Any, reason: str) -> None:
        value, _, _ = self.model.pop(key)
        self.expected.append((key, value, reason))
        self.counts["evictions"] += reason == "evicted"

    def make_room(self, entries: int, size: int) -> None:
        def total() -> int:
            return sum(entry[1] for entry in self.model.values())

        while self.model and (len(self.model) + entries > self.max_size or total() + size > self.max_bytes):
            self.leave(next(iter(self.model)), "evicted")

    @rule(key=keys, size=st.integers(0, 30))
    def put(self, key: Any, size: int) -> None:
        self.number += 1
        self.cache.set(key, self.number, size=size)
        name = typed(key)
        if name in self.model:
            self.leave(name, "replaced")
        elif self.max_size == 0:
            return
        if size > self.max_bytes:
            self.counts["rejects"] += 1
            return
        self.make_room(1, size)
        self.model[name] = (self.number, size, key)

    @rule(key=keys)
    def get(self, key: Any) -> None:
        found = self.cache.get(key, MISSING)
        name = typed(key)
        if name in self.model:
            assert found == self.model[name][0]
            self.model.move_to_end(name)
            self.counts["hits"] += 1
        else:
            assert found is MISSING
            self.counts["misses"] += 1

    @rule(key=keys)
    def get_or_compute(self, key: Any) -> None:
        name = typed(key)
        if name in self.model:
            self.model.move_to_end(name)
            self.counts["hits"] += 1
            assert self.cache.get_or_compute(key, lambda: MISSING) == self.model[name][0]
            return
        self.number += 1
        assert self.cache.get_or_compute(key, lambda: self.number, size=5) == self.number
        self.counts["misses"] += 1
        if self.max_size == 0:
            return
        if self.max_bytes < 5:
            self.counts["rejects"] += 1
            return
        self.make_room(1, 5)
        self.model[name] = (self.number, 5, key)

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        name = typed(key)
        assert self.cache.delete(key) is (name in self.model)
        if name in self.model:
            self.leave(name, "deleted")

    @rule(max_size=bounds, max_bytes=byte_bounds)
    def resize(self, max_size: int | None, max_bytes: int | None) -> None:
        self.cache.resize(max_size=max_size, max_bytes=max_bytes)
        self.max_size = UNBOUNDED if max_size is None else max_size
        self.max_bytes = UNBOUNDED if max_bytes is None else max_bytes
        self.make_room(0, 0)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.events.sort(key=lambda event: event[1])
        for name in sorted(self.model, key=lambda name: self.model[name][0]):
            self.leave(name, "cleared")
        self.expected.sort(key=lambda event: event[1])
        self.counts = dict.fromkeys(self.counts, 0)

    @invariant()
    def same(self) -> None:
        assert self.events == self.expected
        self.events.clear()
        self.expected.clear()
        stats = self.cache.get_stats()
        assert {name: stats[name] for name in self.counts} == self.counts
        assert stats["bytes"] == sum(entry[1] for entry in self.model.values())
        assert len(self.cache) == len(self.model) <= self.max_size
        assert stats["bytes"] <= self.max_bytes
        content = {typed(key): value for key, value in self.cache.items()}
        assert content == {name: entry[0] for name, entry in self.model.items()}
        assert {typed(key) for key in self.cache.keys()} == set(self.model)  # noqa: SIM118


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
