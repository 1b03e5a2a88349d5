"""The memory cache beside functools, cachetools, cachebox and joblib. Peers at their best settings: no locks they do not need."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfopt import _core
from perfopt.cache import PerformanceCache, cache_result

cachebox = pytest.importorskip("cachebox")
cachetools = pytest.importorskip("cachetools")
joblib = pytest.importorskip("joblib")

SIZE = 1000


def body(x: Any) -> Any:
    return x


def decorated() -> dict[str, Callable[[Any], Any]]:
    return {
        "perfopt.cache_result": cache_result(max_size=SIZE)(body),
        "functools.lru_cache": functools.lru_cache(maxsize=SIZE)(body),
        "cachetools.cached(LRUCache)": cachetools.cached(cachetools.LRUCache(SIZE))(body),
        "cachebox.cached(LRUCache)": cachebox.cached(cachebox.LRUCache(SIZE))(body),
    }


def compare(
    versus: Any, row: str, functions: dict[str, Any], statement: str, bars: dict[str, str], **names: Any
) -> None:
    candidates = {name: (statement, {"f": function, **names}) for name, function in functions.items()}
    ours = {name: candidates.pop(name) for name in list(candidates) if name.startswith("perfopt")}
    versus(row, ours=ours, peers=candidates, bars=bars)


@pytest.mark.parametrize(
    ("label", "argument"), [("one small int", 5), ("one int", 123_456_789), ("one str", "an argument")]
)
def test_hit(versus: Any, label: str, argument: Any) -> None:
    functions = decorated()
    for function in functions.values():
        for other in range(SIZE // 2):
            function(other)
        function(argument)
    compare(versus, f"cache hit, {label}", functions, "f(x)", {"functools.lru_cache": "<=1.15"}, x=argument)


def test_hit_all_over_a_full_cache(versus: Any) -> None:
    functions = decorated()
    arguments = [int(x) for x in np.random.default_rng(0).permutation(SIZE)]
    for function in functions.values():
        for x in arguments:
            function(x)
    compare(
        versus,
        f"{SIZE} cache hits in random order, ints",
        functions,
        "for x in xs: f(x)",
        {"functools.lru_cache": "<=1.15"},
        xs=arguments,
    )


def test_hit_with_three_arguments(versus: Any) -> None:
    def three(a: Any, b: Any, c: Any) -> Any:
        return a

    functions = {
        "perfopt.cache_result": cache_result(three),
        "functools.lru_cache(typed)": functools.lru_cache(maxsize=SIZE, typed=True)(three),
        "cachetools.cached(typedkey)": cachetools.cached(cachetools.LRUCache(SIZE), key=cachetools.keys.typedkey)(
            three
        ),
        "cachebox.cached(typed)": cachebox.cached(cachebox.LRUCache(SIZE), key_maker=cachebox.make_typed_key)(three),
    }
    for function in functions.values():
        function(1, "b", c=2.5)
    compare(versus, "cache hit, int, str and keyword float, typed", functions, "f(1, 'b', c=2.5)", {})


def test_hit_of_a_method(versus: Any) -> None:
    class Ours:
        @cache_result
        def method(self, x: int) -> int:
            return x

    class Theirs:
        @functools.lru_cache(maxsize=SIZE)  # noqa: B019
        def method(self, x: int) -> int:
            return x

    ours, theirs = Ours(), Theirs()
    ours.method(1)
    theirs.method(1)
    versus(
        "cache hit of a method (ours does not keep the instance alive)",
        ours={"perfopt.cache_result": ("o.method(1)", {"o": ours})},
        peers={"functools.lru_cache": ("o.method(1)", {"o": theirs})},
    )


def test_miss(versus: Any) -> None:
    functions = decorated()
    compare(
        versus,
        f"cache miss and eviction, ints, {SIZE} entries",
        functions,
        f"for x in range({2 * SIZE}): f(x)",
        {},
    )


def test_get(versus: Any) -> None:
    ours, box, tools = PerformanceCache(SIZE), cachebox.LRUCache(SIZE), cachetools.LRUCache(SIZE)
    keys = [f"key {i}" for i in range(SIZE)]
    for key in keys:
        ours.set(key, key)
        box.insert(key, key)
        tools[key] = key
    candidates = {
        "perfopt.PerformanceCache.get": ("for k in keys: get(k)", {"get": ours.get, "keys": keys}),
        "cachebox.LRUCache.get": ("for k in keys: get(k)", {"get": box.get, "keys": keys}),
        "cachetools.LRUCache[]": ("for k in keys: cache[k]", {"cache": tools, "keys": keys}),
    }
    name = "perfopt.PerformanceCache.get"
    versus(
        f"{SIZE} hits of get(key), str",
        ours={name: candidates.pop(name)},
        peers=candidates,
        bars={"cachebox.LRUCache.get": "<=1.1"},
    )


def test_set(versus: Any) -> None:
    keys = list(range(2 * SIZE))
    versus(
        f"{2 * SIZE} times set(key, value) with eviction, {SIZE} entries",
        ours={
            "perfopt.PerformanceCache.set": (
                "for k in keys: put(k, k)",
                {"put": PerformanceCache(SIZE).set, "keys": keys},
            )
        },
        peers={
            "cachebox.LRUCache.insert": (
                "for k in keys: put(k, k)",
                {"put": cachebox.LRUCache(SIZE).insert, "keys": keys},
            ),
            "cachetools.LRUCache[]": (
                "for k in keys: cache[k] = k",
                {"cache": cachetools.LRUCache(SIZE), "keys": keys},
            ),
        },
    )


def test_get_or_set(versus: Any) -> None:
    """A skewed stream of keys of which two in five or so are misses, which are then set."""
    ranks = np.random.default_rng(0).zipf(1.1, 20_000)
    keys = [int(rank) for rank in ranks[ranks < 20_000]]
    statement = "for k in keys:\n    if get(k) is None:\n        put(k, k)"
    ours, box, tools = PerformanceCache(SIZE), cachebox.LRUCache(SIZE), cachetools.LRUCache(SIZE)
    versus(
        f"{len(keys)} times get(key) and set(key) after a miss, zipf, {SIZE} entries",
        ours={"perfopt.PerformanceCache": (statement, {"get": ours.get, "put": ours.set, "keys": keys})},
        peers={
            "cachebox.LRUCache": (statement, {"get": box.get, "put": box.insert, "keys": keys}),
            "cachetools.LRUCache": (statement, {"get": tools.get, "put": tools.__setitem__, "keys": keys}),
        },
        bars={"cachebox.LRUCache": "<=1.1"},
    )


BYTES_PER_ENTRY = """
import gc
from perfopt import _core
{setup}
count = 1_000_000
keys = list(range(count))
gc.collect()
before = _core.resident_bytes()
for key in keys:
    put(key, None)
print((_core.resident_bytes() - before) / count)
"""


def test_metadata_per_entry(figures: Any) -> None:
    """Growth of resident memory beside keys and values, which exist before, in a process of its own for each."""
    setups = {
        "perfopt.PerformanceCache": "from perfopt import PerformanceCache; put = PerformanceCache(None).set",
        "perfopt.PerformanceCache, ttl": "from perfopt import PerformanceCache; put = PerformanceCache(None, ttl=1e6).set",
        "cachebox.LRUCache": "import cachebox; put = cachebox.LRUCache(1_000_000).insert",
        "cachetools.LRUCache": "import cachetools; put = cachetools.LRUCache(1_000_000).__setitem__",
    }
    measured = {}
    for name, setup in setups.items():
        command = [sys.executable, "-c", BYTES_PER_ENTRY.format(setup=setup)]
        measured[name] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ours = {name: measured.pop(name) for name in list(measured) if name.startswith("perfopt")}
    figures(
        "memory beside key and value, a million int keys",
        ours=ours,
        peers=measured,
        unit="B an entry",
        note=f"bar 160 B an entry: {'met' if max(ours.values()) <= 160 else 'missed'}",
    )


BYTES_PER_ENTRY_OF_FULL_CACHES = """
import gc
import cachetools
from perfopt import PerformanceCache, _core
entries, count = {entries}, 1_000_000 // {entries}
keys = list(range(5 * entries // 2))
caches = [{cache} for _ in range(count)]
gc.collect()
before = _core.resident_bytes()
for cache in caches:
    for key in keys:
        cache.{put}(key, None)
print((_core.resident_bytes() - before) / (entries * count))
"""


@pytest.mark.parametrize("entries", [500, 1_000, 10_000, 1_000_000])
def test_metadata_per_entry_of_full_caches(figures: Any, entries: int) -> None:
    """Growth of resident memory, a million entries in all. ``auto`` is in its first round, with all its shadows."""

    def measure(cache: str, put: str) -> float:
        program = BYTES_PER_ENTRY_OF_FULL_CACHES.format(entries=entries, cache=cache, put=put)
        command = [sys.executable, "-c", program]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    ours = {name: measure(f"PerformanceCache(entries, policy={name!r})", "set") for name in _core.policy_names()}
    missed = ", ".join(name for name, each in ours.items() if each > 160) or "none"
    figures(
        f"memory beside key and value, full caches of {entries} int keys",
        ours={f"perfopt.PerformanceCache, {name}": each for name, each in ours.items()},
        peers={"cachetools.LRUCache": measure("cachetools.LRUCache(entries)", "__setitem__")},
        unit="B an entry",
        note=f"bar 160 B an entry, missed by: {missed}",
    )


@pytest.mark.parametrize(
    ("label", "count", "bar"), [("10 kB", 2_500, ">=100x"), ("1 MB", 250_000, ">=50x"), ("64 MB", 16_000_000, ">=35x")]
)
def test_array_argument(versus: Any, tmp_path: Path, label: str, count: int, bar: str) -> None:
    def first(x: Any) -> float:
        return float(x[0])

    functions = {
        "perfopt.cache_result": cache_result(first),
        "joblib.Memory": joblib.Memory(tmp_path, verbose=0).cache(first),
    }
    array = np.random.default_rng(0).random(count, dtype=np.float32)
    for function in functions.values():
        function(array)
    compare(versus, f"cache hit, one float32 array of {label}", functions, "f(x)", {"joblib.Memory": bar}, x=array)
