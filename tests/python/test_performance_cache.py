"""The async face of PerformanceCache: one computation for many tasks, cancellation, threads, and a loop that is not blocked."""

from __future__ import annotations

import asyncio
import gc
import os
import pathlib
import signal
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from perfopt import _flights
from perfopt.cache import PerformanceCache


def run(main: Any) -> Any:
    return asyncio.run(main)


@pytest.mark.spec("S1-27")
def test_get_and_set() -> None:
    async def main() -> None:
        cache = PerformanceCache(ttl=100)
        assert await cache.aget("a") is None
        assert await cache.aget([1], default=3) == 3
        await cache.aset("a", 1)
        await cache.aset([1], np.arange(3), ttl=5, size=3)
        assert await cache.aget("a") == 1
        assert (await cache.aget([1])).tolist() == [0, 1, 2]
        stats = cache.get_stats()
        assert (stats["hits"], stats["misses"]) == (2, 2)
        with pytest.raises(ValueError, match="cache_dir"):
            await cache.aset("a", 1, persist=True)
        cache.close()
        with pytest.raises(ValueError, match="the cache is closed"):
            await cache.aget("a")

    run(main())


def test_one_computation_for_many_tasks() -> None:
    async def main() -> None:
        cache = PerformanceCache()
        calls = []

        async def compute() -> list[int]:
            calls.append(1)
            await asyncio.sleep(0.02)
            return [len(calls)]

        values = await asyncio.gather(*(cache.aget_or_compute((1, "k"), compute) for _ in range(200)))
        assert calls == [1]
        assert all(value is values[0] for value in values)
        assert await cache.aget((1, "k")) is values[0]
        assert await cache.aget_or_compute((1, "k"), compute) is values[0]
        assert cache.get_stats()["misses"] == 1
        assert await cache.aget_or_compute("other", compute) == [2]

    run(main())


def test_cancelling_one_waiter_leaves_the_others() -> None:
    async def main() -> None:
        cache = PerformanceCache()
        started = asyncio.Event()

        async def compute() -> str:
            started.set()
            await asyncio.sleep(0.02)
            return "value"

        tasks = [asyncio.create_task(cache.aget_or_compute("k", compute)) for _ in range(5)]
        await started.wait()
        tasks[0].cancel()
        values = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(values[0], asyncio.CancelledError)
        assert values[1:] == ["value"] * 4

    run(main())


def test_a_failure_goes_to_all_and_nothing_is_kept() -> None:
    async def main() -> None:
        cache = PerformanceCache()

        async def fail() -> None:
            await asyncio.sleep(0.001)
            raise OSError("no")

        results = await asyncio.gather(*(cache.aget_or_compute("k", fail) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [OSError] * 3
        assert "k" not in cache
        lonely = asyncio.create_task(cache.aget_or_compute("k", fail))
        await asyncio.sleep(0)
        lonely.cancel()
        await asyncio.sleep(0.02)
        gc.collect()  # nothing is reported as never retrieved
        assert await cache.aget_or_compute("k", lambda: 5) == 5

    run(main())


def test_plain_functions_run_in_a_thread() -> None:
    async def main() -> None:
        cache = PerformanceCache()
        here = threading.get_ident()
        assert await cache.aget_or_compute("k", threading.get_ident) != here

        async def later() -> int:
            return threading.get_ident()

        assert await cache.aget_or_compute("l", later) == here
        assert await cache.aget_or_compute("m", lambda: later()) == here

        class Callable:
            async def __call__(self) -> int:
                return threading.get_ident()

        assert await cache.aget_or_compute("n", Callable()) == here

    run(main())


def test_a_computation_that_asks_for_its_own_key() -> None:
    async def main() -> None:
        cache = PerformanceCache()

        async def inner() -> str:
            return "inner"

        async def outer() -> str:
            return "outer around " + await cache.aget_or_compute("k", inner)

        async def through_another_key() -> str:
            return await cache.aget_or_compute("between", outer)

        assert await asyncio.wait_for(cache.aget_or_compute("k", through_another_key), 60) == "inner"
        assert cache.get("between") == "outer around inner"

    run(main())


def test_computations_that_wait_for_each_other() -> None:
    async def main() -> None:
        cache = PerformanceCache()

        async def ask(mine: str, other: str) -> str:
            await asyncio.sleep(0.01)

            async def last() -> str:
                return f"{other} for {mine}"

            return await cache.aget_or_compute(other, last)

        both = [cache.aget_or_compute(mine, lambda m=mine, o=other: ask(m, o)) for mine, other in ("ab", "ba")]
        values = await asyncio.wait_for(asyncio.gather(*both), 60)
        assert set(values) <= {"a for b", "b for a"}

    run(main())


def test_many_event_loops_on_one_cache() -> None:
    cache = PerformanceCache()
    values: list[Any] = []

    def work(cache: PerformanceCache = cache) -> None:
        async def main() -> Any:
            async def compute() -> object:
                await asyncio.sleep(0.01)
                return object()

            return await asyncio.gather(*(cache.aget_or_compute("k", compute) for _ in range(10)))

        values.append(run(main()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(value) for batch in values for value in batch}) == 1, "what was kept first stays"
    gone = weakref.ref(cache)
    del cache, work, threads, thread
    gc.collect()
    assert gone() is None


def test_the_disk_does_not_block_the_loop(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        array = np.arange(100_000.0)
        with PerformanceCache(cache_dir=tmp_path) as cache:
            await cache.aset("a", array, persist=True)
            assert await cache.aget_or_compute("b", lambda: [1], persist=True) == [1]
        with PerformanceCache(cache_dir=tmp_path) as cache:
            assert (await cache.aget("a")).tolist() == array.tolist()
            assert await cache.aget_or_compute("b", lambda: [2]) == [1]
            assert cache.get_stats()["disk_hits"] == 2
            assert await cache.aget([5], "none") == "none"

    run(main())


def test_closing_while_it_computes_still_gives_the_value() -> None:
    async def main() -> None:
        cache = PerformanceCache()

        async def compute() -> int:
            cache.close()
            return 5

        assert await cache.aget_or_compute("k", compute) == 5

    run(main())


def test_the_last_waiter_cancels_the_computation() -> None:
    async def main() -> None:
        cache = PerformanceCache()
        events: list[str] = []

        async def compute() -> None:
            events.append("begun")
            try:
                await asyncio.sleep(30)
            finally:
                events.append("cleaned up")

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(cache.aget_or_compute("k", compute), 0.01)
        assert events == ["begun", "cleaned up"]
        assert "k" not in cache

    run(main())


@pytest.mark.parametrize("how", ["delete", "clear", "delete and set"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_deleted_while_it_is_computed_is_not_stored(tmp_path: pathlib.Path, how: str, on_disk: bool) -> None:
    async def main() -> None:
        cache = PerformanceCache(cache_dir=tmp_path if on_disk else None)
        source = ["old"]
        started = asyncio.Event()

        async def compute() -> tuple[str, Any]:
            started.set()
            value = source[0]
            await asyncio.sleep(0.01)
            return value, np.zeros(2)

        early = [asyncio.create_task(cache.aget_or_compute([1], compute, on_disk)) for _ in range(3)]
        await started.wait()
        source[0] = "new"
        if how == "clear":
            cache.clear()
        else:
            cache.delete([1])
        if how == "delete and set":
            cache.set([1], ("set", np.zeros(2)))
        late = await cache.aget_or_compute([1], compute, on_disk)
        assert late[0] == ("set" if how == "delete and set" else "new")
        for value, array in await asyncio.gather(*early):
            assert value == "old"
            assert not array.flags.writeable
        assert cache.get([1])[0] == late[0]
        cache.close()

    run(main())


def test_a_loop_that_ended_early_is_not_kept_alive() -> None:
    cache = PerformanceCache()

    async def forever() -> None:
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    task = loop.create_task(cache.aget_or_compute("k", forever))
    loop.run_until_complete(asyncio.sleep(0.01))
    gone = weakref.ref(loop)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    for other in asyncio.all_tasks(loop):
        other._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    del loop, task, other
    gc.collect()
    assert gone() is None
    assert cache.get("k") is None


def test_what_every_cache_pays_for_is_written_in_c() -> None:
    for name in ("get", "set", "get_or_compute", "delete", "clear", "touch"):
        assert name not in vars(PerformanceCache), f"{name}() costs a Python frame"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"ttl": -1}, ValueError, "ttl"),
        ({"ttl": "long"}, TypeError, "ttl"),
        ({"size": -1}, ValueError, "size"),
        ({"persist": True}, ValueError, "cache_dir"),
        ({"fn": 3}, TypeError, "fn must be callable, not int"),
        ({"key": object.__new__(type("Unhashable", (), {"__hash__": None}))}, TypeError, "key"),
        ({"other": 3}, TypeError, r"aget_or_compute\(\).*other"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_computed(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    cache, calls = PerformanceCache(), []
    given = {"key": "k", "fn": lambda: calls.append(1), **arguments}

    async def main() -> None:
        with pytest.raises(error, match=text):
            await cache.aget_or_compute(**given)

    run(main())
    assert calls == []


def test_deleting_and_clearing_after_async_methods_were_used() -> None:
    cache = PerformanceCache()

    async def main() -> None:
        assert await cache.aget_or_compute("a", lambda: 1) == 1
        assert await cache.aget_or_compute([2], lambda: 2) == 2

    run(main())
    assert [cache.delete("a"), cache.delete("a"), cache.delete([2]), cache.delete("none")] == [True, False, True, False]
    cache.set("b", 1)
    cache.clear()
    assert len(cache) == 0
    cache.close()
    for method in (lambda: cache.delete("a"), cache.clear):
        with pytest.raises(ValueError, match="the cache is closed"):
            method()


def test_an_error_of_the_hook_stops_delete_and_clear() -> None:
    """Nobody may believe a key gone that is being computed and will be kept."""

    class Broken:
        def delist(self, key: Any) -> None:
            raise RuntimeError(f"delist {type(key).__name__}")

        def delist_all(self) -> None:
            raise RuntimeError("delist_all")

    cache = PerformanceCache()
    cache.set("a", 1)
    cache._flights = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="delist ContentKey"):
        cache.delete("a")
    with pytest.raises(RuntimeError, match="delist_all"):
        cache.clear()
    assert cache.get("a") == 1
    del cache._flights
    assert cache.delete("a")


def test_a_hook_that_closes_the_cache() -> None:
    class Closing:
        def delist(self, key: Any) -> None:
            del cache._flights
            cache.close()

    cache = PerformanceCache()
    cache.set("a", 1)
    cache._flights = Closing()  # type: ignore[assignment]
    assert cache.delete("a") is False
    assert cache.closed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_within_a_first_computation_is_not_locked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()
    flights = _flights.Flights

    def wait() -> Any:
        inside.set()
        assert go_on.wait(60)
        return flights()

    async def compute() -> int:
        return 5

    def ask() -> int:
        value = asyncio.run(PerformanceCache().aget_or_compute("key", compute))
        return int(value)

    monkeypatch.setattr(_flights, "Flights", wait)
    thread = threading.Thread(target=ask)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that waits for ever
        go_on.set()
        os._exit(0 if ask() == 5 else 1)
    status = os.waitpid(child, 0)[1]
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
