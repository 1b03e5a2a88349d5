"""PerformanceCache: set, get, delete, bounds, statistics, and keys and values of every kind."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import gc
import inspect
import math
import pathlib
import threading
import time
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
def test_construction(tmp_path: pathlib.Path) -> None:
    assert PerformanceCache().max_size == 1000
    assert PerformanceCache().cache_dir is None
    directory = str(tmp_path / "cache")
    cache = PerformanceCache(max_size=5, cache_dir=directory)
    assert (cache.max_size, cache.cache_dir) == (5, directory)
    assert PerformanceCache(3, tmp_path / "a" / "b").cache_dir == str(tmp_path / "a" / "b")
    assert (cache.max_bytes, cache.policy, cache.closed) == (None, "lru", False)
    assert PerformanceCache(max_bytes=7).max_bytes == 7
    assert PerformanceCache(None).max_size is None
    assert PerformanceCache(10**30).get_stats()["memory_cache_size"] == 0
    assert repr(cache) == f"PerformanceCache(max_size=5, cache_dir={directory!r})"
    assert inspect.signature(PerformanceCache).parameters["max_size"].default == 1000
    assert inspect.signature(PerformanceCache).parameters["max_disk_bytes"].default == 10 * 2**30


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
    for bad_name in ("a\0b", "\ud800"):
        with pytest.raises(ValueError, match="cache_dir must be a name that a directory can have, not") as caught:
            PerformanceCache(cache_dir=bad_name)
        assert type(caught.value) is ValueError
        assert repr(bad_name) in str(caught.value)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="exists and is not a directory"):
        PerformanceCache(cache_dir=file)
    assert PerformanceCache(cache_dir=tmp_path).cache_dir == str(tmp_path)
    with pytest.raises(TypeError):
        PerformanceCache(size=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_bytes": -1}, ValueError, "max_bytes must be at least 0 .* not -1"),
        ({"max_bytes": 1.5}, TypeError, "max_bytes must be an int or None, not float"),
        ({"max_disk_bytes": -5}, ValueError, "max_disk_bytes must be at least 0"),
        ({"ttl": 0}, ValueError, "ttl must be a finite number of seconds above 0 .* not 0"),
        ({"ttl": -1.5}, ValueError, "ttl"),
        ({"ttl": math.inf}, ValueError, "ttl must be a finite"),
        ({"ttl": math.nan}, ValueError, "ttl must be a finite"),
        ({"ttl": 10**400}, ValueError, "ttl must be a finite"),
        ({"ttl": datetime.timedelta(0)}, ValueError, "ttl"),
        ({"ttl": True}, TypeError, "ttl must be seconds, a datetime.timedelta or None, not bool"),
        ({"ttl": "1"}, TypeError, "ttl must be seconds, a datetime.timedelta or None, not str"),
        ({"policy": "mru"}, ValueError, "policy must be one of lru.*, not 'mru'"),
        ({"policy": 3}, TypeError, "policy must be a str, not int"),
        ({"compression": "gzip"}, ValueError, "compression must be one of auto, zstd, none, not 'gzip'"),
        ({"durability": "none"}, ValueError, "durability must be one of process, power, not 'none'"),
        ({"allow_pickle": True}, ValueError, "allow_pickle=True is not enough.*secret key"),
        ({"allow_pickle": b"short"}, ValueError, "allow_pickle must be a key of at least 16 bytes, not 5"),
        ({"allow_pickle": "x" * 20}, TypeError, "allow_pickle must be a secret key .* not str"),
        ({"on_evict": 5}, TypeError, "on_evict must be callable or None, not int"),
    ],
)
def test_bad_options(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        PerformanceCache(**arguments)


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


# ---- time to live, sizes, bounds that move ----


def test_time_to_live() -> None:
    cache = PerformanceCache(ttl=datetime.timedelta(hours=1))
    cache.set("short", 1)
    cache.set("long", 2, ttl=datetime.timedelta(hours=2))
    assert (cache.get("short"), cache.get("long")) == (1, 2)
    assert "short" in cache
    assert cache.touch("short", 0.01)
    time.sleep(0.02)
    assert "short" not in cache
    assert len(cache) == 2, "what has expired leaves when it is met, swept, or in the way"
    assert cache.get("short", "gone") == "gone"
    assert len(cache) == 1
    assert cache.get("long") == 2
    stats = cache.get_stats()
    assert (stats["expirations"], stats["evictions"], stats["misses"], stats["hits"]) == (1, 0, 1, 3)
    cache.clear()
    assert cache.get_stats()["expirations"] == 0
    brief = PerformanceCache(ttl=0.01)
    brief.set("short", 1)
    brief.set("long", 1, ttl=1000)
    time.sleep(0.02)
    assert (brief.get("short"), brief.get("long"), brief.get_stats()["expirations"]) == (None, 1, 1)


def test_touch_and_expire() -> None:
    cache = PerformanceCache()
    cache.set("a", 1, ttl=1000)
    cache.set("b", 1, ttl=1000)
    cache.set("c", 1, ttl=0.02)
    cache.set((1, [2]), 1)
    assert cache.touch("a") is True, "without an end from here on: the cache has no time to live"
    assert cache.touch("b", ttl=100) is True
    assert cache.touch("missing") is False
    assert cache.touch((1, [2]), 0.02) is True
    time.sleep(0.03)
    assert cache.touch("c", 100) is False, "too late"
    assert cache.get_stats()["expirations"] == 1
    assert cache.expire() == 1
    assert cache.expire() == 0
    assert sorted(cache.keys()) == ["a", "b"]
    with pytest.raises(ValueError, match="ttl must be"):
        cache.touch("a", -1)
    with pytest.raises(TypeError, match="missing required argument 'key'"):
        cache.touch()  # type: ignore[call-arg]


def test_the_expired_leave_before_the_good() -> None:
    cache = PerformanceCache(3)
    cache.set("oldest", 1)
    cache.set("short", 1, ttl=0.01)
    cache.set("newest", 1)
    time.sleep(0.02)
    cache.set("more", 1)
    assert sorted(cache.keys()) == ["more", "newest", "oldest"]
    assert cache.get_stats()["evictions"] == 0


def test_bytes_are_measured_where_they_are_bounded() -> None:
    cache = PerformanceCache(None, max_bytes=10_000)
    array = np.zeros(1000, "u1")
    cache.set("array", array)
    assert cache.get_stats()["bytes"] == 1000
    cache.set("view", array[:10])
    assert cache.get_stats()["bytes"] == 2000, "a view keeps all of its array alive"
    cache.set("bytes", b"x" * 500)
    cache.set("text", "\u1234" * 250)
    assert cache.get_stats()["bytes"] == 3000
    cache.set("shared", {"a": array, "b": [array, array]})
    assert 4000 < cache.get_stats()["bytes"] < 5000, "what is shared counts once"
    cache.set("given", array, size=5)
    before = cache.get_stats()["bytes"]
    cache.set("given", array, size=6)
    assert cache.get_stats()["bytes"] == before + 1
    cache.set("too large", b"x" * 10_001)
    assert "too large" not in cache
    assert cache.get_stats()["rejects"] == 1
    for i in range(100):
        cache.set(i, b"x" * 999)
        assert cache.get_stats()["bytes"] <= 10_000
    for key in (1, 2.5, None, True, 1j, 10**50, object()):
        cache.set("scalar", key)
    assert cache.get_stats()["max_bytes"] == 10_000
    for bad, error in ((-1, ValueError), (1.5, TypeError), (2**63, OverflowError)):
        with pytest.raises(error, match="size"):
            cache.set("a", 1, size=bad)  # type: ignore[arg-type]


def test_views_count_for_all_that_they_keep_alive() -> None:
    def bytes_of(value: Any) -> int:
        cache = PerformanceCache(max_bytes=1 << 40)
        cache.set("k", value)
        return int(cache.get_stats()["bytes"])

    memory = bytes(100_000)
    assert bytes_of(np.frombuffer(memory, "u1", count=1)) == 100_000
    assert bytes_of(memoryview(memory)[:1]) == 100_000
    assert bytes_of(np.frombuffer(memoryview(memory)[5:], "u1", count=1)[::-1]) == 100_000
    assert bytes_of((memory, np.frombuffer(memory, "u1"))) < 100_100, "what is shared counts once"
    assert bytes_of(np.lib.stride_tricks.as_strided(np.zeros(2), shape=(10**9,), strides=(0,))) == 16
    assert bytes_of(np.broadcast_to(np.zeros(2), (10**6, 2))) == 16

    class Lying(tuple):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise AssertionError("not asked")

    assert bytes_of(Lying((memory,))) > 100_000


def test_a_value_nested_to_any_depth() -> None:
    array = np.zeros(3)
    value: Any = [array]
    for _ in range(10_000):
        value = [value]
    for cache in (PerformanceCache(), PerformanceCache(max_bytes=1 << 30)):
        cache.set("k", value)
        kept = cache.get("k")
        while isinstance(kept, list):
            kept = kept[0]
        assert not kept.flags.writeable
    assert array.flags.writeable


def test_resize() -> None:
    cache = PerformanceCache(10, max_bytes=1000)
    for i in range(10):
        cache.set(i, i, size=10)
    cache.get(0)
    cache.resize(max_size=4)
    assert sorted(cache.keys()) == [0, 7, 8, 9]
    cache.resize(max_bytes=25)
    assert sorted(cache.keys()) == [0, 9]
    assert (cache.max_size, cache.max_bytes) == (4, 25)
    cache.resize(max_size=None, max_bytes=None)
    for i in range(100):
        cache.set(i, i)
    assert len(cache) == 100
    cache.resize(max_size=0)
    assert len(cache) == 0
    with pytest.raises(ValueError, match="max_bytes must be at least 0"):
        cache.resize(max_bytes=-1)
    with pytest.raises(TypeError, match="positional"):
        cache.resize(5)  # type: ignore[misc]


# ---- keys and items ----


def test_hashable_keys_come_back_as_they_are() -> None:
    class Mine:
        pass

    keys: list[Any] = [1, "a", 2.5, b"b", None, True, 1j, Mine(), (1, ("a", 2.5)), frozenset({1, (2,)}), Mine, ()]
    cache = PerformanceCache()
    for i, key in enumerate(keys):
        cache.set(key, i)
    items = dict(cache.items())
    assert items == {key: i for i, key in enumerate(keys)}
    assert {id(key) for key in items if isinstance(key, tuple)} <= {id(key) for key in keys}
    assert cache.get_stats()["hits"] == 0


def test_content_keys_stand_for_their_entry() -> None:
    class Target:
        pass

    array = np.arange(1000)
    cache = PerformanceCache()
    keys: list[Any] = [array, [1, 2], {"a": array}, {1, 2}, (1, [2]), (np.arange(3), "x")]
    for i, key in enumerate(keys):
        cache.set(key, i)
    contents = cache.keys()
    assert [type(key).__name__ for key in contents] == ["ContentKey"] * len(keys)
    assert sorted(cache.get(key) for key in contents) == list(range(len(keys)))
    assert set(contents) == set(cache.keys()), "equal by content, hashable"
    assert contents[0] != contents[1]
    assert contents[0] != 5
    assert repr(contents[0]).startswith("<ContentKey ")
    cache.set(contents[0], "new")
    assert len(cache) == len(keys)
    assert cache.get(contents[0]) == "new"
    assert all(cache.touch(key) and cache.delete(key) and key not in cache for key in contents)
    target = Target()
    cache.set([target.__class__], 1)
    gone = weakref.ref(array)
    del array, keys, key
    gc.collect()
    assert gone() is None, "a key by content keeps nothing alive"
    with pytest.raises(TypeError, match="cannot create"):
        type(contents[0])()


# ---- get_or_compute ----


def test_get_or_compute() -> None:
    cache = PerformanceCache()
    calls = []

    def make() -> Any:
        calls.append(1)
        return np.arange(3)

    first = cache.get_or_compute("a", make)
    assert cache.get_or_compute("a", make) is first
    assert calls == [1]
    assert not first.flags.writeable, "the first caller gets what later callers get"
    assert cache.get_or_compute([1, first], lambda: None, ttl=5, size=3) is None
    assert cache.get_or_compute([1, first], make) is None, "None is a value"
    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute("b", lambda: 1 // 0)
    assert "b" not in cache
    with pytest.raises(TypeError, match="fn must be callable, not int"):
        cache.get_or_compute("b", 5)  # type: ignore[arg-type]
    assert cache.get_or_compute("outer", lambda: cache.get_or_compute("inner", lambda: 1) + 1) == 2
    assert cache.get_or_compute("same", lambda: (cache.set("same", "first"), "second")[1]) == "first"
    assert PerformanceCache(0).get_or_compute("a", lambda: 7) == 7


def test_a_thousand_threads_compute_once() -> None:
    cache = PerformanceCache()
    calls = []
    values = []

    def make() -> Any:
        calls.append(1)
        time.sleep(0.05)
        return [len(calls)]

    threads = [threading.Thread(target=lambda: values.append(cache.get_or_compute("k", make))) for _ in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    assert len(values) == 1000
    assert all(value is values[0] for value in values)


def test_a_key_deleted_while_it_is_computed_stays_deleted() -> None:
    cache = PerformanceCache()

    def changes_its_mind(forget: Any) -> Any:
        forget()
        return "stale"

    for forget in (lambda: cache.delete("k"), cache.clear):
        assert cache.get_or_compute("k", lambda forget=forget: changes_its_mind(forget)) == "stale"
        assert "k" not in cache
    assert cache.get_or_compute("k", lambda: changes_its_mind(cache.close)) == "stale"
    only = [PerformanceCache()]
    assert only[0].get_or_compute("k", lambda: (only.clear(), 5)[1]) == 5


# ---- on_evict ----


def test_reasons_to_leave() -> None:
    log: list[Any] = []
    cache = PerformanceCache(2, on_evict=lambda *event: log.append(event))
    cache.set("a", 1)
    cache.set("a", 2)
    cache.set((1, 2.5), 3, ttl=1000)
    cache.set("b", 4)
    assert cache.touch((1, 2.5), 0.01)
    time.sleep(0.02)
    cache.get((1, 2.5))
    cache.delete("b")
    cache.set("c", 5)
    cache.clear()
    assert log == [
        ("a", 1, "replaced"),
        ("a", 2, "evicted"),
        ((1, 2.5), 3, "expired"),
        ("b", 4, "deleted"),
        ("c", 5, "cleared"),
    ]
    del log[:]
    cache.set([1], 6)
    cache.close()
    assert [(type(key).__name__, value, reason) for key, value, reason in log] == [("ContentKey", 6, "cleared")]
    del cache
    assert len(log) == 1


def test_on_evict_may_use_the_cache_and_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda event: failures.append(event.exc_value))
    depth = [0]

    def on_evict(key: Any, value: Any, reason: str) -> None:
        depth[0] += 1
        assert len(cache) <= 3
        if depth[0] < 50:
            cache.set((key, depth[0]), value)
            cache.get(key)
            cache.delete("x")
        if depth[0] % 3 == 0:
            raise OSError(reason)

    cache = PerformanceCache(3, on_evict=on_evict)
    for i in range(200):
        cache.set(i, i)
        assert len(cache) <= 3
    cache.clear()
    assert len(cache) <= 3
    assert failures
    assert all(isinstance(failure, OSError) for failure in failures)
    closing = PerformanceCache(1, on_evict=lambda *_: closing.close())
    closing.set(1, 1)
    closing.set(2, 2)
    assert closing.closed
    assert len(closing) == 0


def test_a_cache_with_a_callback_is_collected() -> None:
    class Holder:
        def gone(self, *_: Any) -> None:
            raise AssertionError("destroyed caches do not report")

    holder = Holder()
    holder.cache = PerformanceCache(5, on_evict=holder.gone)  # type: ignore[attr-defined]
    holder.cache.set("a", holder)  # type: ignore[attr-defined]
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


def test_closing_inside_set_leaves_nothing_behind() -> None:
    cache = PerformanceCache()

    @dataclasses.dataclass
    class Closing:
        field: int = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "field":
                cache.close()
            return object.__getattribute__(self, name)

    cache.set("k", Closing())
    assert cache.closed
    assert len(cache) == 0


def test_close() -> None:
    with PerformanceCache() as cache:
        cache.set("a", 1)
    assert cache.closed
    cache.close()
    uses: list[Any] = [
        lambda: cache.get("a"),
        lambda: cache.get([1]),
        lambda: cache.set("a", 1),
        lambda: cache.delete("a"),
        lambda: cache.touch("a"),
        lambda: cache.get_or_compute("a", int),
        lambda: "a" in cache,
        lambda: cache.resize(max_size=1),
        *(getattr(cache, name) for name in ("clear", "expire", "keys", "items", "flush", "verify", "__enter__")),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="the cache is closed"):
            use()
    assert len(cache) == 0
    assert cache.get_stats()["memory_cache_size"] == 0


def test_a_bound_that_16_threads_and_a_watcher_see() -> None:
    cache = PerformanceCache(20, max_bytes=1000)
    wrong: list[Any] = []
    done = threading.Event()
    barrier = threading.Barrier(17)

    def watch() -> None:
        barrier.wait()
        while not done.is_set():
            stats = cache.get_stats()
            if len(cache) > 20 or stats["bytes"] > 1000 or stats["memory_cache_size"] > 20:
                wrong.append(stats)

    def work(seed: int) -> None:
        barrier.wait()
        for i in range(1500):
            key = (i * seed) % 60
            cache.set((key,) if i % 2 else key, i, size=i % 120, ttl=0.001 if i % 5 == 0 else None)
            cache.get(key)
            if i % 50 == 0:
                cache.resize(max_size=20, max_bytes=1000)
                cache.expire()
                cache.keys()

    threads = [threading.Thread(target=work, args=(2 * seed + 1,)) for seed in range(16)]
    watcher = threading.Thread(target=watch)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert wrong == []
