"""References and memory: what the cache takes it gives back, and cycles through it are collected."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pathlib
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfopt import _core
from perfopt.cache import PerformanceCache, cache_result, fingerprint


class Key:
    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.number == other.number


class Plain:
    pass


def live_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def steady(operation: Callable[[], object], rounds: int = 2000) -> None:
    """Neither objects nor bytes grow with the number of rounds. A leak grows in both halves, a table that doubles once in one."""
    tracemalloc.start()
    for _ in range(200):  # everything that is kept is replaced by something traced
        operation()
    grown = []
    objects = live_objects()
    for _ in range(2):
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(rounds):
            operation()
        gc.collect()
        grown.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert live_objects() - objects < 50
    assert min(grown) < 12_000 + 20 * rounds, f"{grown} bytes, each in {rounds} rounds"


def test_references_of_keys_and_values() -> None:
    marker, value = Key(123456), ["value"]
    text = "".join(["a", "key"])
    number = 10**9 + 7
    before = [sys.getrefcount(item) for item in (marker, value, text, number)]
    cache = PerformanceCache(3)

    @cache_result(max_size=3)
    def function(*args: Any, **kwargs: Any) -> Any:
        return value

    for i in range(1000):
        for key in (marker, text, number, (marker, text), [marker, number], {"a": marker}, i):
            cache.set(key, value)
            cache.get(key)
            function(key)
            function(key)
            function(key, word=marker)
            function(word=key)
        if i % 10 == 0:
            cache.delete(marker)
            cache.clear()
            function.cache_clear()  # type: ignore[attr-defined]
    cache.clear()
    function.cache_clear()  # type: ignore[attr-defined]
    assert [sys.getrefcount(item) for item in (marker, value, text, number)] == before
    del cache, function, key
    gc.collect()
    after = [sys.getrefcount(item) for item in (marker, value, text, number)]
    assert after[0] == before[0]
    assert after[2:] == before[2:]


@pytest.mark.parametrize("size", [0, 1, 4, None])
def test_calls_do_not_leak(size: int | None) -> None:
    @cache_result(max_size=size)
    def function(x: Any, y: Any = None, *, z: Any = 0) -> Any:
        return [x]

    array = np.arange(100)
    count = [0]

    def operation() -> None:
        count[0] += 1
        i = count[0] % 7
        function(i)
        function(str(i))
        function(Key(i), y=[i, Key(i)])
        function(array, z=(i, {"a": {i}}))
        function(Plain(), i)
        with pytest.raises(TypeError):
            function(type)(1, 2, 3)
        with pytest.raises(TypeError):
            function(1, 2, 3)
        if i == 0:
            function.cache_clear()  # type: ignore[attr-defined]

    steady(operation, 600)


def test_errors_do_not_leak() -> None:
    class Bad:
        __hash__ = None  # type: ignore[assignment]

    class Raises:
        def __hash__(self) -> int:
            raise OSError

    cache = PerformanceCache(4)

    @cache_result
    def function(x: Any) -> Any:
        raise ValueError

    loop: list[Any] = []
    loop.append((loop,))

    def operation() -> None:
        for key, error in ((Bad(), TypeError), ([1, Bad()], TypeError), (Raises(), OSError), (loop, RecursionError)):
            with pytest.raises(error):
                function(key)
            with pytest.raises(error):
                cache.set(key, 1)
            with pytest.raises((error, TypeError)):
                fingerprint(key)
        with pytest.raises(ValueError):  # noqa: PT011
            function(5)
        with pytest.raises(ValueError, match="cache_dir"):
            cache.set(1, 1, persist=True)
        for use in (lambda: cache.set(1, 1, ttl=-1), lambda: cache.set(1, 1, size="a"), lambda: cache.touch(1, "x")):
            with pytest.raises((TypeError, ValueError)):
                use()
        for arguments in ((-1,), ("a",), (1, 5), (1, "")):
            with pytest.raises((TypeError, ValueError)):
                PerformanceCache(*arguments)  # type: ignore[arg-type]

    steady(operation, 200)


def test_making_and_dropping_caches_does_not_leak() -> None:
    def operation() -> None:
        cache = PerformanceCache(5, on_evict=lambda *_: cache.get(1))
        cache.set(Key(1), cache)  # a cycle through the value
        cache.set((Key(2), [1]), [cache])

        @cache_result(ignore=("y",), key=None)
        def function(x: Any, y: Any = 0) -> Any:
            return function  # a cycle through the value

        function(1)
        function(Plain())
        function(operation)
        function((function, 1))

        class Local:
            @cache_result(key=lambda: 1)
            def method(self) -> Any:
                return Local

        Local().method()
        local = Local()
        local.method()

    steady(operation, 300)


def test_cycles_are_collected() -> None:
    class Node:
        def __hash__(self) -> int:
            return 5

        def __eq__(self, other: object) -> bool:
            return self is other

    node = Node()
    cache = PerformanceCache()
    cache.set(node, cache)
    node.cache = cache  # type: ignore[attr-defined]
    gone = weakref.ref(cache), weakref.ref(node)
    del cache, node
    gc.collect()
    assert [reference() for reference in gone] == [None, None]

    @cache_result
    def function(x: Any) -> Any:
        return function  # noqa: F821

    node = Node()
    node.function = function  # type: ignore[attr-defined]
    function(node)
    function((node, 1))
    gone2 = weakref.ref(function), weakref.ref(node)
    del function, node
    gc.collect()
    assert [reference() for reference in gone2] == [None, None]


def test_dead_instances_leave_nothing() -> None:
    class Thing:
        @cache_result(max_size=None)
        def method(self, x: Any) -> Any:
            return [x]

    def operation() -> None:
        things = [Thing() for _ in range(5)]
        for thing in things:
            for x in range(3):
                thing.method(x)
        things[0].loop = things  # type: ignore[attr-defined]

    steady(operation, 500)
    assert Thing.method.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_evictions_with_arrays_keep_memory_flat() -> None:
    cache = PerformanceCache(3)

    @cache_result(max_size=2)
    def function(x: Any) -> Any:
        return np.full(5000, x[0])

    count = [0]

    def operation() -> None:
        count[0] += 1
        array = np.full(3000, count[0])
        cache.set(array, np.zeros(4000))
        cache.get(array)
        function(array)
        function(array)
        fingerprint(
            array[::2], [array], {"a": np.array([(1, 2.0)], [("x", "i4"), ("y", "f8")])}, np.array(["a", 1], object)
        )

    steady(operation, 300)


def test_async_calls_do_not_leak() -> None:
    @cache_result(max_size=3)
    async def function(x: Any) -> Any:
        if x == 0:
            raise ValueError
        return [x]

    count = [0]

    async def main() -> None:
        for _ in range(20):
            count[0] += 1
            for key in (Key(count[0] % 5), [count[0] % 3], 0):
                with contextlib.suppress(ValueError):
                    await function(key)
        pending = function((Key(1), 2))
        pending.close()

    steady(lambda: asyncio.run(main()), 30)


def test_fingerprints_of_large_arrays_keep_the_reference_count() -> None:
    array = np.arange(2_000_000)
    before = sys.getrefcount(array)
    for _ in range(20):
        fingerprint(array, array[::3], memoryview(array))
    assert sys.getrefcount(array) == before
    array.resize(10, refcheck=False)  # no buffer is still exported
    assert _core.fingerprint(array) == fingerprint(np.arange(10))


def test_keys_items_and_deadlines_do_not_leak() -> None:
    cache = PerformanceCache(20, max_bytes=10**6)
    log: list[Any] = []

    def operation() -> None:
        for i in range(10):
            cache.set((i, Key(i)), [i], ttl=0.0001 if i % 2 else None)
            cache.set([i], np.zeros(10), size=5)
            cache.get_or_compute((i, "made"), lambda: [1])
        for key, value in cache.items():
            assert value is not None
            cache.touch(key, 5)
            hash(key)
        cache.expire()
        cache.resize(max_size=20)

    steady(operation, 100)
    callback = PerformanceCache(2, on_evict=lambda *event: log.append(event))

    def with_callback() -> None:
        for i in range(5):
            callback.set([i], Key(i))
        callback.clear()
        log.clear()

    steady(with_callback, 200)


def test_resident_memory_stays_flat() -> None:
    """PERFOPT_RSS_OPERATIONS=10000000 for the long run."""
    operations = int(os.environ.get("PERFOPT_RSS_OPERATIONS", "300000"))
    cache = PerformanceCache(1000, max_bytes=200_000)

    def run(count: int) -> None:
        for i in range(count):
            key = (i * 7919) % 5000
            if i % 3 == 0:
                cache.set(key, i, size=i % 300)
            elif i % 11 == 0:
                cache.set((key, "t"), [i], ttl=0.001)
            elif cache.get(key) is None and i % 5 == 0:
                cache.delete(key)

    run(operations // 3)
    before = _core.resident_bytes()
    run(operations)
    assert _core.resident_bytes() - before < 4 << 20


def test_shared_caches_do_not_leak() -> None:
    cache = PerformanceCache(8)
    array = np.arange(50)

    def operation() -> None:
        @cache_result(cache=cache, ttl=100)
        def function(x: Any, y: Any = None) -> Any:
            return [x]

        for key in (1, "a", Key(2), [Key(3)], array, Plain()):
            function(key)
            function(key, y=1)
        function.invalidate(1)  # type: ignore[attr-defined]
        function.cache_info()  # type: ignore[attr-defined]

        @cache_result(cache=cache)
        def looped(x: Any) -> Any:
            return looped

        looped(1)

    steady(operation, 200)
    gc.collect()
    assert len(cache) == 1, "a function that is its own value is held by the cache, as any value is"


def test_flights_do_not_leak() -> None:
    """Those that land, fail, give up, go stale and are waited for."""
    count = [0]

    @cache_result(max_size=3, cache_if=lambda result: result != [0])
    def function(x: Any) -> Any:
        count[0] += 1
        if count[0] % 5 == 0:
            raise ValueError(x)
        if count[0] % 5 == 1:
            function.invalidate(x)  # type: ignore[attr-defined]
        if count[0] % 5 == 2:
            function.cache_clear()  # type: ignore[attr-defined]
        if count[0] % 7 == 0:
            raise KeyboardInterrupt
        return [count[0] % 5]

    def call(x: Any) -> None:
        with contextlib.suppress(ValueError, KeyboardInterrupt):
            function(x)

    def operation() -> None:
        key = Key(count[0] % 4)
        threads = [threading.Thread(target=call, args=(key,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for x in ([1, key], (key, 2), count[0] % 6):
            call(x)

    steady(operation, 150)


def test_cancelled_async_calls_do_not_leak() -> None:
    @cache_result(max_size=3)
    async def function(x: Any) -> Any:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [x]

    count = [0]

    async def main() -> None:
        for _ in range(5):
            count[0] += 1
            tasks = [asyncio.ensure_future(function(Key(count[0] % 9))) for _ in range(4)]
            await asyncio.sleep(0)
            for task in tasks[: count[0] % 5]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            function.invalidate(Key(0))  # type: ignore[attr-defined]

    steady(lambda: asyncio.run(main()), 30)


def test_results_on_disk_do_not_leak(tmp_path: pathlib.Path) -> None:
    array = np.arange(20_000)
    count = [0]

    @cache_result("leak", persist=True, cache_dir=tmp_path, version=1, max_size=2)
    def function(x: Any) -> Any:
        return {"x": x, "array": array}

    def operation() -> None:
        count[0] += 1
        for key in (count[0] % 5, [1, "a"], array):
            function(key)
        with pytest.raises(TypeError):
            function(Plain())
        if count[0] % 10 == 0:
            function.cache_clear()  # type: ignore[attr-defined]
        function.invalidate(3)  # type: ignore[attr-defined]

    steady(operation, 100)


def test_deleting_beside_async_flights_does_not_leak() -> None:
    cache = PerformanceCache()

    async def compute() -> int:
        await asyncio.sleep(0)
        return 1

    async def one() -> None:
        task = asyncio.ensure_future(cache.aget_or_compute(("a", 1), compute))
        await asyncio.sleep(0)
        cache.delete(("a", 1))
        cache.clear()
        await task
        with contextlib.suppress(ValueError):
            await cache.aget_or_compute("a", compute, ttl=-1)

    loop = asyncio.new_event_loop()
    steady(lambda: loop.run_until_complete(one()), rounds=300)
    loop.close()


def test_threads_inside_tasks_do_not_leak() -> None:
    cache = PerformanceCache()
    done = threading.Event()

    def compute() -> int:
        done.wait(10)
        return 1

    def fail() -> int:
        raise KeyError(1)

    async def outer() -> None:
        for _ in range(20):
            done.clear()
            both = [asyncio.to_thread(cache.get_or_compute, "inner", compute) for _ in range(2)]
            tasks = [asyncio.ensure_future(one) for one in both]
            await asyncio.sleep(0)
            done.set()
            await asyncio.gather(*tasks)
            cache.get_or_compute("k", lambda: cache.get_or_compute("k", lambda: 2))
            with contextlib.suppress(KeyError):
                cache.get_or_compute("fails", fail)
            cache.clear()

    async def main() -> None:
        await cache.aget_or_compute("outer", outer)
        cache.clear()

    loop = asyncio.new_event_loop()
    steady(lambda: loop.run_until_complete(main()), rounds=10)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_a_cycle_through_the_async_flights_is_collected() -> None:
    cache = PerformanceCache()
    flights = Plain()
    flights.cache = cache  # type: ignore[attr-defined]
    cache._flights = flights  # type: ignore[assignment]
    gone = weakref.ref(cache)
    del cache, flights
    gc.collect()
    assert gone() is None
