"""Circles of waiting through threads and tasks: who would wait for itself computes on its own, and nobody else does."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from waiting import until

from perfopt._flights import Computation
from perfopt.cache import PerformanceCache, cache_result


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


def waiting() -> list[Computation]:
    """The computations that wait for another one."""
    return [item for item in gc.get_objects() if type(item) is Computation and item.awaits]


class Keys:
    """Computations by name, from threads and from tasks, and how often each ran."""

    def __init__(self) -> None:
        self.cache = PerformanceCache()
        self.calls: list[str] = []

    def of_thread(self, key: str, body: Callable[[], Any]) -> Any:
        def compute() -> Any:
            self.calls.append(key)
            return body()

        return self.cache.get_or_compute(key, compute)

    async def of_task(self, key: str, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def compute() -> Any:
            self.calls.append(key)
            return await body()

        return await self.cache.aget_or_compute(key, compute)


class Functions(Keys):
    """The same by cached functions."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: dict[str, Callable[[], Any]] = {}

        @cache_result
        def plain(key: str) -> Any:
            self.calls.append(key)
            return self.bodies[key]()

        @cache_result
        async def coroutine(key: str) -> Any:
            self.calls.append(key)
            return await self.bodies[key]()

        self.plain, self.coroutine = plain, coroutine

    def of_thread(self, key: str, body: Callable[[], Any]) -> Any:
        self.bodies.setdefault(key, body)
        return self.plain(key)

    async def of_task(self, key: str, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        self.bodies.setdefault(key, body)
        return await self.coroutine(key)


@pytest.fixture(params=[Keys, Functions])
def keys(request: pytest.FixtureRequest) -> Keys:
    made: Keys = request.param()
    return made


@pytest.mark.parametrize("in_thread", [False, True])
def test_the_same_key_from_inside_its_own_task(in_thread: bool) -> None:
    cache, calls = PerformanceCache(), []

    async def compute() -> str:
        calls.append("task")
        ask = functools.partial(cache.get_or_compute, "k", lambda: calls.append("thread") or "inner")
        return await asyncio.to_thread(ask) if in_thread else ask()

    assert run(cache.aget_or_compute("k", compute)) == "inner"
    assert calls == ["task", "thread"]


def test_a_circle_through_two_threads_and_two_tasks(keys: Keys) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()

        async def last() -> Any:  # a task that waits for a thread that asks for what waits for the task
            return await asyncio.to_thread(keys.of_thread, "middle", lambda: "anew")

        def middle() -> Any:
            return asyncio.run_coroutine_threadsafe(keys.of_task("last", last), loop).result()

        async def first() -> Any:
            return await asyncio.to_thread(keys.of_thread, "middle", middle)

        if isinstance(keys, Functions):  # one body for one key: the second time it must end
            rounds = iter([middle, lambda: "anew"])
            keys.bodies["middle"] = lambda: next(rounds)()
        return await keys.of_task("first", first)

    assert run(main()) == "anew"
    assert keys.calls == ["first", "middle", "last", "middle"]


def test_a_circle_through_a_thread_outside_of_all_tasks(keys: Keys) -> None:
    """first waits for a thread's plain, which waits for last, which waits for first: only the last of these waits closes it."""
    asked = threading.Event()
    answers: list[Any] = []

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        depth: list[int] = []

        def plain() -> Any:
            asked.wait(60)
            return keys.of_thread("last", last)

        def last() -> Any:
            asked.set()
            until(lambda: len(waiting()) == 2)  # first for plain, and plain for this
            return asyncio.run_coroutine_threadsafe(keys.of_task("first", first), loop).result()

        async def first() -> Any:
            depth.append(1)
            return "anew" if len(depth) == 2 else await asyncio.to_thread(keys.of_thread, "plain", plain)

        thread = threading.Thread(target=lambda: answers.append(keys.of_thread("plain", plain)))
        thread.start()
        while "plain" not in keys.calls:
            await asyncio.sleep(0.001)
        asking = asyncio.ensure_future(keys.of_task("first", first))
        answer = await asyncio.to_thread(keys.of_thread, "last", last)
        await asyncio.to_thread(thread.join)
        return answer, await asking

    assert run(main()) == ("anew", "anew")
    assert answers == ["anew"]
    assert sorted(keys.calls) == ["first", "first", "last", "plain"]


def test_a_thread_that_runs_a_loop_of_its_own(keys: Keys) -> None:
    """The loop's tasks are part of what the thread computes, and ask for it from another thread."""
    depth: list[int] = []

    def outer() -> Any:
        depth.append(1)
        return "anew" if len(depth) == 2 else run(asyncio.to_thread(keys.of_thread, "outer", outer))

    assert keys.of_thread("outer", outer) == "anew"
    assert keys.calls == ["outer", "outer"]


def test_a_circle_back_to_the_first_task(keys: Keys) -> None:
    async def main() -> Any:
        loop, depth = asyncio.get_running_loop(), []

        def middle() -> Any:
            return asyncio.run_coroutine_threadsafe(keys.of_task("first", first), loop).result()

        async def first() -> Any:
            depth.append(1)
            return "anew" if len(depth) == 2 else await asyncio.to_thread(keys.of_thread, "middle", middle)

        return await keys.of_task("first", first)

    assert run(main()) == "anew"
    assert keys.calls == ["first", "middle", "first"]


def test_what_is_no_circle_is_computed_once(keys: Keys) -> None:
    """Two ways lead from one computation to another: one waits, although both come from the same task."""
    begun = threading.Event()

    async def main() -> Any:
        go = threading.Event()

        def base() -> str:
            begun.set()
            go.wait(60)
            return "base"

        async def side() -> Any:
            await asyncio.to_thread(begun.wait, 60)
            asking = asyncio.ensure_future(asyncio.to_thread(keys.of_thread, "base", base))
            await asyncio.sleep(0.05)
            go.set()
            return await asking

        async def top() -> Any:
            return await asyncio.gather(asyncio.to_thread(keys.of_thread, "base", base), keys.of_task("side", side))

        return await keys.of_task("top", top)

    assert run(main()) == ["base", "base"]
    assert sorted(keys.calls) == ["base", "side", "top"]


def test_a_task_that_outlives_the_thread_that_began_it(keys: Keys) -> None:
    async def main() -> Any:
        loop, depth = asyncio.get_running_loop(), []

        async def first() -> Any:
            depth.append(1)
            if len(depth) == 2:
                return "anew"
            begun = await asyncio.to_thread(
                keys.of_thread,
                "starter",
                lambda: [asyncio.run_coroutine_threadsafe(keys.of_task("first", first), loop)],
            )
            return await asyncio.wrap_future(begun[0])

        return await keys.of_task("first", first)

    assert run(main()) == "anew"
    assert keys.calls == ["first", "starter", "first"]


def test_failures_leave_no_waiting_behind(keys: Keys) -> None:
    async def main() -> None:
        def fails() -> None:
            raise ValueError("no")

        async def first() -> None:
            for _ in range(3):
                with pytest.raises(ValueError, match="no"):
                    await asyncio.to_thread(keys.of_thread, "fails", fails)
            assert waiting() == []

        await keys.of_task("first", first)

    run(main())
    assert keys.calls == ["first", "fails", "fails", "fails"]
