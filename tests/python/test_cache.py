"""PerformanceCache: set, get, delete, bounds, statistics, and keys and values of every kind."""

from __future__ import annotations

import collections
import gc
import inspect
import pathlib
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from perfopt.cache import PerformanceCache

MISSING = object()


@pytest.mark.spec("S0-09")
def test_construction() -> None:
    assert PerformanceCache().max_size == 1000
    assert PerformanceCache().cache_dir is None
    cache = PerformanceCache(max_size=5, cache_dir="cache")
    assert (cache.max_size, cache.cache_dir) == (5, "cache")
    assert PerformanceCache(3, pathlib.Path("a") / "b").cache_dir == str(pathlib.Path("a") / "b")
    assert PerformanceCache(None).max_size is None
    assert PerformanceCache(10**30).get_stats()["memory_cache_size"] == 0
    assert repr(cache) == "PerformanceCache(max_size=5, cache_dir='cache')"
    assert inspect.signature(PerformanceCache).parameters["max_size"].default == 1000
    assert not pathlib.Path("cache").exists() or pathlib.Path("cache").is_dir()


def test_bad_arguments(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"max_size must be at least 0 .* not -1"):
        PerformanceCache(-1)
    with pytest.raises(ValueError, match="max_size must be at least 0"):
        PerformanceCache(-(10**30))
    for bad in (1.5, "7", True):
        with pytest.raises(TypeError, match=f"max_size must be an int or None, not {type(bad).__name__}"):
            PerformanceCache(bad)  # type: ignore[arg-type]
    for bad_dir in (5, b"x", ["a"]):
        with pytest.raises(TypeError, match=f"cache_dir must be a str, a path or None, not {type(bad_dir).__name__}"):
            PerformanceCache(cache_dir=bad_dir)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cache_dir must not be empty"):
        PerformanceCache(cache_dir="")
    with pytest.raises(ValueError, match="null"):
        PerformanceCache(cache_dir="a\0b")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="exists and is not a directory"):
        PerformanceCache(cache_dir=file)
    assert PerformanceCache(cache_dir=tmp_path).cache_dir == str(tmp_path)
    with pytest.raises(TypeError):
        PerformanceCache(size=3)  # type: ignore[call-arg]


@pytest.mark.spec("S0-10", "S0-11")
def test_set_and_get() -> None:
    cache = PerformanceCache(max_size=10)
    assert cache.get("a") is None
    assert cache.get("a", 5) == 5
    assert cache.get("a", default=6) == 6
    assert cache.set("a", [1]) is None
    assert cache.get("a") == [1]
    assert cache.get("a") is cache.get(key="a", default=3)
    cache.set(key="a", value=2, persist=False)
    assert cache.get("a") == 2
    cache.set("none", None)
    assert cache.get("none", 5) is None
    assert "none" in cache
    assert "other" not in cache
    assert len(cache) == 2


def test_wrong_calls() -> None:
    cache = PerformanceCache()
    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"key": 2}), ((1,), {"other": 2}), ((1, 2), {"default": 3})]:
        with pytest.raises(TypeError, match=r"get\(\)"):
            cache.get(*args, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        cache.set("a")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"key: a .*object object is neither|Unhashable"):
        cache.set(type("Unhashable", (), {"__hash__": None})(), 1)
    for method in (cache.get, cache.delete, cache.__contains__):
        with pytest.raises(TypeError, match="Odd"):
            method([type("Odd", (), {"__hash__": None})()])


def test_persist_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    for cache in (PerformanceCache(), PerformanceCache(cache_dir=tmp_path)):
        with pytest.raises(NotImplementedError, match="persist=True needs the disk tier"):
            cache.set("a", 1, persist=True)
        with pytest.raises(NotImplementedError, match="persist"):
            cache.set("a", 1, True)
        assert len(cache) == 0


def test_delete_and_clear() -> None:
    cache = PerformanceCache()
    cache.set("a", 1)
    assert cache.delete("a") is True
    assert cache.delete("a") is False
    assert cache.get("a") is None


@pytest.mark.spec("S0-18")
def test_clear() -> None:
    cache = PerformanceCache(3)
    for i in range(10):
        cache.set(i, i)
    cache.get(9)
    cache.get(0)
    cache.clear()
    assert len(cache) == 0
    assert 9 not in cache
    stats = cache.get_stats()
    assert stats.pop("max_size") == 3
    assert stats.pop("max_bytes") is None
    assert set(stats.values()) == {0}
    cache.set(1, 2)
    assert cache.get(1) == 2


@pytest.mark.spec("S0-15")
def test_statistics() -> None:
    cache = PerformanceCache(max_size=2)
    assert cache.get_stats()["cache_hit_rate"] == 0.0
    for i in range(4):
        cache.set(i, i)
    assert [cache.get(i) for i in range(4)] == [None, None, 2, 3]
    assert 3 in cache, "a membership test is no lookup"
    cache.get(3)
    stats = cache.get_stats()
    wanted = {
        "cache_hit_rate": 0.6,
        "memory_cache_size": 2,
        "hits": 3,
        "memory_hits": 3,
        "misses": 2,
        "evictions": 2,
        "expirations": 0,
        "rejects": 0,
        "bytes": 0,
        "max_size": 2,
        "max_bytes": None,
    }
    assert wanted.items() <= stats.items()
    assert {type(value) for value in stats.values() if value is not None} == {int, float}
    assert PerformanceCache(None).get_stats()["max_size"] is None


def test_least_recently_used_leaves_first() -> None:
    cache = PerformanceCache(max_size=3)
    for key in "abc":
        cache.set(key, key)
    cache.get("a")
    cache.set("b", "new")
    cache.set("d", "d")
    assert [key in cache for key in "abcd"] == [True, True, False, True]
    assert cache.get("b") == "new"


def test_zero_stores_nothing_and_none_is_unbounded() -> None:
    cache = PerformanceCache(0)
    cache.set("a", 1)
    assert (len(cache), cache.get("a")) == (0, None)
    cache = PerformanceCache(None)
    for i in range(10_000):
        cache.set(i, -i)
    assert len(cache) == 10_000
    assert all(cache.get(i) == -i for i in range(10_000))


class LruMachine(RuleBasedStateMachine):
    """The cache against an OrderedDict."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PerformanceCache(5)
        self.model: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self.evictions = 0

    keys = st.one_of(
        st.integers(0, 6), st.sampled_from(["a", "b", "c"]), st.tuples(st.integers(0, 2)), st.sampled_from([b"a", None])
    )

    @rule(key=keys, value=st.integers())
    def set_one(self, key: Any, value: Any) -> None:
        self.cache.set(key, value)
        self.model[key] = value
        self.model.move_to_end(key)
        if len(self.model) > 5:
            self.model.popitem(last=False)
            self.evictions += 1

    @rule(key=keys)
    def get_one(self, key: Any) -> None:
        assert self.cache.get(key, MISSING) == self.model.get(key, MISSING)
        if key in self.model:
            self.model.move_to_end(key)

    @rule(key=keys)
    def delete_one(self, key: Any) -> None:
        assert self.cache.delete(key) is (self.model.pop(key, MISSING) is not MISSING)

    @rule()
    def clear_all(self) -> None:
        self.cache.clear()
        self.model.clear()
        self.evictions = 0

    @invariant()
    def same_content(self) -> None:
        assert len(self.cache) == len(self.model)
        assert all(key in self.cache for key in self.model)
        assert self.cache.get_stats()["evictions"] == self.evictions


TestLru = LruMachine.TestCase
TestLru.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@pytest.mark.spec("S0-14")
def test_keys_by_content_and_type() -> None:
    cache = PerformanceCache()
    array = np.arange(1000.0)
    keys: list[Any] = [
        1,
        1.0,
        True,
        "1",
        b"1",
        (1,),
        [1],
        {"a": 1},
        {1},
        array,
        array.astype("f4"),
        (array, 1),
        {"x": [array]},
        None,
    ]
    for i, key in enumerate(keys):
        cache.set(key, i)
    assert len(cache) == len(keys)
    assert [cache.get(key) for key in keys] == list(range(len(keys)))
    assert cache.get(array[::-1][::-1].copy()) == 9
    assert cache.get({"x": [array.copy()]}) == 12
    array[3] = -1
    assert cache.get(array) is None
    assert array not in cache


def test_an_object_as_key_is_kept_alive_by_the_cache() -> None:
    class Key:
        pass

    cache = PerformanceCache()
    key = Key()
    cache.set(key, 1)
    gone = weakref.ref(key)
    del key
    assert len(cache) == 1
    cache.clear()
    assert gone() is None


def test_arrays_come_back_read_only() -> None:
    cache = PerformanceCache()
    array = np.arange(5)
    cache.set("a", array)
    assert cache.get("a") is cache.get("a")
    with pytest.raises(ValueError, match="read-only"):
        cache.get("a")[0] = 1
    array[0] = 7
    assert array.flags.writeable
    cache.set("b", {"x": (array,)})
    assert not cache.get("b")["x"][0].flags.writeable


def test_subclasses() -> None:
    class Mine(PerformanceCache):
        def __init__(self, max_size: int = 4) -> None:
            self.extra = 1

    cache = Mine(4)
    cache.set("a", 1)
    assert (cache.get("a"), cache.extra, cache.max_size) == (1, 1, 4)
    gone = weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is None


class Meddler:
    """Equality that uses the cache it is a key of."""

    def __init__(self, cache: PerformanceCache, number: int) -> None:
        self.cache = cache
        self.number = number

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        if self.cache.get_stats()["misses"] % 3 == 0:
            self.cache.clear()
        self.cache.get(self.number)
        return isinstance(other, Meddler) and other.number == self.number

    def __del__(self) -> None:
        self.cache.set(self.number, "buried")
        self.cache.delete(self.number + 1)


def test_keys_that_use_the_cache_while_it_works() -> None:
    cache = PerformanceCache(6)
    for i in range(400):
        try:
            cache.set(Meddler(cache, i % 9), i)
            cache.get(Meddler(cache, (i * 5) % 9))
            if i % 7 == 0:
                cache.delete(Meddler(cache, i % 5))
        except RuntimeError as error:
            assert "changed during every comparison" in str(error)  # noqa: PT017
        assert len(cache) <= 6
    cache.clear()


def test_values_whose_finalizers_use_the_cache() -> None:
    cache = PerformanceCache(3)
    log = []

    class Value:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            log.append((self.number, len(cache)))
            cache.set(f"from {self.number}", 1)

    for i in range(10):
        cache.set("same", Value(i))
    assert [number for number, _ in log] == list(range(9))
    for i in range(10, 30):
        cache.set(i, Value(i))
    cache.clear()
    assert len(log) == 30
    assert all(size <= 3 for _, size in log)
    assert len(cache) <= 3


def test_threads_never_exceed_the_bound() -> None:
    cache = PerformanceCache(16)
    wrong: list[Any] = []
    barrier = threading.Barrier(6)

    def work(seed: int) -> None:
        barrier.wait()
        for i in range(5000):
            key = (i * seed) % 50
            if i % 3:
                cache.set((key, str(key)), key)
            elif cache.get((key, str(key)), key) != key:
                wrong.append(key)
            if len(cache) > 16:
                wrong.append("bound")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 7, 11, 13, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
