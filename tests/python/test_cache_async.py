"""Cached coroutine functions: one flight for each key and loop, cancellation, contexts, and what must not leak."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import pickle
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

import perfopt
from perfopt.cache import cache_result


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """asyncio.run() that fails where it would hang."""

    async def bounded() -> Any:
        return await asyncio.wait_for(main, 60)

    return asyncio.run(bounded())


@cache_result("at module level")
async def at_module_level(x: int) -> int:
    """What it does."""
    await asyncio.sleep(0)
    return x


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture) -> Any:
    """Nothing is logged by asyncio, and no coroutine is left un-awaited."""
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, logger="asyncio"):
        warnings.simplefilter("error")
        yield
        gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


def test_the_wrapper_is_a_coroutine_function_with_all_methods() -> None:
    assert inspect.iscoroutinefunction(at_module_level)
    assert at_module_level.__name__ == "at_module_level"
    assert at_module_level.__doc__ == "What it does."
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level
    cached: Any = at_module_level
    assert run(cached.__wrapped__(3)) == 3
    assert run(cached(3)) == 3
    assert cached.cache_info()[:2] == (0, 1)
    assert cached.cache_parameters()["name"] == "at module level"
    assert cached.invalidate(3) is True
    assert cached.invalidate(3) is False
    with pytest.raises(TypeError, match="do not fit"):
        cached.invalidate(1, 2)
    cached.cache_clear()
    assert cached.cache_info()[:2] == (0, 0)


def test_many_tasks_compute_once() -> None:
    calls = []

    @cache_result
    async def function(x: Any) -> Any:
        calls.append(x)
        await asyncio.sleep(0.01)
        return np.zeros(2)

    async def main() -> Any:
        return await asyncio.gather(*(function([1, 2]) for _ in range(1000)))

    outcomes = run(main())
    assert calls == [[1, 2]]
    assert all(outcome is outcomes[0] for outcome in outcomes)
    assert not outcomes[0].flags.writeable
    assert function.cache_info()[:2] == (999, 1)  # type: ignore[attr-defined]


def test_a_hit_makes_no_task() -> None:
    @cache_result
    async def function(x: int) -> int:
        return x

    async def main() -> None:
        await function(1)
        loop = asyncio.get_running_loop()
        made: list[Any] = []
        loop.set_task_factory(lambda *arguments, **options: made.append(1))  # type: ignore[arg-type]
        try:
            for _ in range(10):
                assert await function(1) == 1
        finally:
            loop.set_task_factory(None)
        assert made == []

    run(main())


def test_private_copies_for_all() -> None:
    @cache_result(copy=True)
    async def function(x: int) -> Any:
        await asyncio.sleep(0)
        return np.zeros(2)

    async def main() -> None:
        first, second = await asyncio.gather(function(1), function(1))
        third = await function(1)
        for at, array in enumerate((first, second, third), 1):
            array[:] = at
        assert [int(array[0]) for array in (first, second, third, await function(1))] == [1, 2, 3, 0]

    run(main())


def test_switched_off_and_without_asyncio() -> None:
    calls = []

    @cache_result(single_flight=False)
    async def free(x: int) -> list[int]:
        calls.append(x)
        await asyncio.sleep(0)
        return [x]

    async def main() -> None:
        first, second = await asyncio.gather(free(1), free(1))
        assert first == second == [1]
        assert len(calls) == 2

    run(main())

    @cache_result(single_flight=False)
    async def anywhere(x: int) -> int:
        return x

    def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:  # what trio would do
        with pytest.raises(StopIteration) as stopped:
            coroutine.send(None)
        return stopped.value.value

    assert [drive(anywhere(1)), drive(anywhere(1))] == [1, 1]

    @cache_result
    async def flying(x: int) -> int:
        return x

    with pytest.raises(RuntimeError, match=r"flying\(\).*single_flight=False"):
        flying(1).send(None)


def test_cache_if_and_invalidate_in_flight() -> None:
    source = ["old"]

    @cache_result(cache_if=lambda result: result != "bad")
    async def function(x: int) -> str:
        value = source[0]
        await asyncio.sleep(0.02)
        return value

    async def main(action: Callable[[], object]) -> None:
        source[0] = "old"
        early = [asyncio.ensure_future(function(1)) for _ in range(3)]
        await asyncio.sleep(0.005)
        source[0] = "new"
        action()
        assert await function(1) == "new"
        assert await asyncio.gather(*early) == ["old"] * 3
        assert await function(1) == "new"
        assert function.cache_info().currsize == 1  # type: ignore[attr-defined]
        function.cache_clear()  # type: ignore[attr-defined]

    for action in (lambda: function.invalidate(1), function.cache_clear):  # type: ignore[attr-defined]
        run(main(action))

    async def bad() -> None:
        source[0] = "bad"
        assert await asyncio.gather(function(2), function(2)) == ["bad"] * 2
        assert function.cache_info().misses == 1  # type: ignore[attr-defined]
        assert await function(2) == "bad"
        assert function.cache_info().misses == 2  # type: ignore[attr-defined]

    run(bad())


def test_methods_are_told_apart_and_not_kept_alive() -> None:
    class Thing:
        def __init__(self, name: str) -> None:
            self.name = name

        @cache_result
        async def method(self, x: int) -> tuple[str, int]:
            await asyncio.sleep(0)
            return self.name, x

        @classmethod
        @cache_result
        async def of_class(cls, x: int) -> tuple[str, int]:
            return cls.__name__, x

    async def main() -> weakref.ref[Thing]:
        one, two = Thing("one"), Thing("two")
        assert await asyncio.gather(one.method(1), two.method(1), one.method(1)) == [("one", 1), ("two", 1), ("one", 1)]
        assert await Thing.of_class(2) == ("Thing", 2)
        return weakref.ref(one)

    gone = run(main())
    gc.collect()
    assert gone() is None
    assert Thing.method.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_stacked_with_profiling() -> None:
    profiler = perfopt.PerformanceProfiler()
    calls = []

    @perfopt.profile_operation("outer", profiler=profiler)
    @cache_result
    @perfopt.profile_operation("inner", profiler=profiler)
    async def function(x: int) -> int:
        calls.append(x)
        return x

    async def main() -> None:
        assert [await function(1), await function(1)] == [1, 1]

    run(main())
    assert calls == [1]


# ---- exceptions and cancellation ----------------------------------------------------------------------------------------------


def test_an_exception_reaches_every_waiter_and_is_not_kept() -> None:
    calls = []

    @cache_result
    async def function(x: int) -> int:
        calls.append(x)
        await asyncio.sleep(0)
        raise ValueError(len(calls))

    async def main() -> None:
        outcomes = await asyncio.gather(*(function(1) for _ in range(5)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ValueError] * 5
        assert calls == [1]
        with pytest.raises(ValueError, match="2"):
            await function(1)

    run(main())


def test_cancelling_one_waiter_does_not_disturb_the_others() -> None:
    calls = []

    @cache_result
    async def function(x: int) -> int:
        calls.append(x)
        await asyncio.sleep(0.05)
        return x

    async def main() -> None:
        tasks = [asyncio.ensure_future(function(1)) for _ in range(10)]
        await asyncio.sleep(0.01)
        for task in tasks[:9]:  # the first caller, too
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[:9]] == [asyncio.CancelledError] * 9
        assert outcomes[9] == 1
        assert await function(1) == 1

    run(main())
    assert calls == [1]


def test_the_last_waiter_cancels_the_computation_and_sees_its_clean_up() -> None:
    events: list[str] = []

    @cache_result
    async def function(x: int) -> int:
        events.append("begun")
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.01)
            events.append("cleaned up")
        return x

    async def main() -> None:
        tasks = [asyncio.ensure_future(function(1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert events == ["begun", "cleaned up"]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(function(1), 0.02)
        assert events == ["begun", "cleaned up"] * 2
        assert len(asyncio.all_tasks()) <= 2

    run(main())
    assert function.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_an_error_while_being_cancelled_is_no_noise() -> None:
    @cache_result
    async def function(x: int) -> int:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise OSError("in clean-up") from None
        return x

    async def main() -> None:
        task = asyncio.ensure_future(function(1))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_a_function_that_cancels_itself() -> None:
    calls = []

    @cache_result
    async def function(x: int) -> int:
        calls.append(x)
        await asyncio.sleep(0.01)
        if len(calls) == 1:
            raise asyncio.CancelledError
        return x

    async def main() -> None:
        outcomes = await asyncio.gather(*(function(1) for _ in range(4)), return_exceptions=True)
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == 1
        assert outcomes.count(1) == 3

    run(main())
    assert len(calls) == 2


def test_a_storm_of_cancellations() -> None:
    generator = np.random.default_rng(0)

    @cache_result(max_size=4)
    async def function(x: int) -> int:
        await asyncio.sleep(0.002)
        return x

    async def caller(x: int) -> None:
        for _ in range(20):
            assert await function(x) == x
            function.invalidate(x)  # type: ignore[attr-defined]

    async def main() -> None:
        tasks = [asyncio.ensure_future(caller(int(generator.integers(0, 6)))) for _ in range(200)]
        for at in generator.permutation(200)[:150]:
            await asyncio.sleep(0)
            tasks[at].cancel()
            if at % 10 == 0:
                await asyncio.sleep(0.001)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
        assert len(asyncio.all_tasks()) <= 2

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() and TaskGroup need Python 3.11")
def test_timeouts_and_task_groups() -> None:
    @cache_result
    async def function(x: int) -> int:
        await asyncio.sleep(0.05 if x else 0)
        if x == 2:
            raise ValueError
        return x

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await function(1)
        patient = asyncio.ensure_future(function(1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await function(1)
        assert await patient == 1
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(function(3)) for _ in range(5)]
        assert [task.result() for task in tasks] == [3] * 5
        with pytest.raises(ExceptionGroup):  # noqa: F821, PT012
            async with asyncio.TaskGroup() as group:
                group.create_task(function(2))
                group.create_task(function(4))
        assert await function(4) == 4

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks need Python 3.12")
def test_eager_tasks() -> None:
    calls = []

    @cache_result
    async def function(x: int) -> int:
        calls.append(x)
        if x < 0:
            return x
        if x == 0:
            return await function(0) if len(calls) == 1 else 0
        await asyncio.sleep(0)
        return x

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        assert await asyncio.gather(function(0), function(-1), function(1), function(1)) == [0, -1, 1, 1]

    run(main())
    assert calls.count(1) == 1


# ---- who would wait for itself ------------------------------------------------------------------------------------------------


def test_recursion_on_the_same_key() -> None:
    depth = []

    @cache_result
    async def function(x: int) -> int:
        depth.append(x)
        await asyncio.sleep(0)
        if len(depth) < 3:
            return await function(x) + 1
        return 0

    assert run(function(1)) in (0, 1, 2)
    assert len(depth) == 3


@pytest.mark.parametrize("length", [2, 3, 6])
def test_circles_of_waiting(length: int) -> None:
    begun = []

    @cache_result
    async def function(at: int) -> int:
        begun.append(at)
        if len(begun) > length:
            return 100
        while len(begun) < length:
            await asyncio.sleep(0)
        return await function((at + 1) % length) + 1

    async def main() -> Any:
        return await asyncio.gather(*(function(at) for at in range(length)))

    assert sorted(run(main())) == list(range(100, 100 + length))
    assert len(begun) == length + 1


def test_circles_through_tasks_of_the_computation() -> None:
    entered = []

    @cache_result
    async def function(x: int) -> int:
        entered.append(x)
        await asyncio.sleep(0.005)
        if len(entered) > 2:
            return 0
        parts = await asyncio.gather(function(1 - x), asyncio.create_task(function(1 - x)))
        return sum(parts) + 1

    async def main() -> Any:
        return await asyncio.gather(function(0), function(1))

    run(main())
    assert len(entered) <= 4


def test_deep_recursion() -> None:
    @cache_result(max_size=None)
    async def fib(n: int) -> int:
        return n if n < 2 else await fib(n - 1) + await fib(n - 2)

    assert run(fib(90)) == 2880067194370816120
    assert fib.cache_info().misses == 91  # type: ignore[attr-defined]


# ---- contexts and loops -------------------------------------------------------------------------------------------------------


def test_the_first_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    @cache_result
    async def function(x: int) -> str:
        await asyncio.sleep(0)
        seen = variable.get()
        variable.set("changed inside")
        return seen

    async def caller(name: str) -> str:
        variable.set(name)
        result = await function(1)
        assert variable.get() == name
        return result

    async def main() -> Any:
        return await asyncio.gather(caller("first"), caller("second"))

    assert run(main()) == ["first", "first"]


def test_loops_in_several_threads() -> None:
    calls = []
    lock = threading.Lock()

    @cache_result
    async def function(x: int) -> list[int]:
        with lock:
            calls.append(threading.get_ident())
        await asyncio.sleep(0.05)
        return [x]

    outcomes: list[Any] = []

    async def main() -> None:
        outcomes.extend(await asyncio.gather(*(function(1) for _ in range(50))))

    threads = [threading.Thread(target=lambda: run(main())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 200
    assert all(outcome is outcomes[0] for outcome in outcomes), "what came first stays"
    assert len(calls) == len(set(calls)) <= 4, "once for each loop"


def test_loops_are_not_kept_alive() -> None:
    @cache_result
    async def function(x: int) -> int:
        await asyncio.sleep(0.001)
        return x

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(function(1)) == 1
    gone = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone() is None


def test_a_loop_that_stops_in_mid_flight(caplog: pytest.LogCaptureFixture) -> None:
    @cache_result
    async def function(x: int) -> int:
        await asyncio.sleep(1000 if x else 0)
        return x

    async def main() -> None:
        waiter = asyncio.ensure_future(function(1))
        await asyncio.sleep(0.01)
        assert not waiter.done()

    asyncio.run(main())  # cancels both tasks
    loop = asyncio.new_event_loop()
    task = loop.create_task(function(1))
    loop.run_until_complete(asyncio.sleep(0.01))
    gone = weakref.ref(loop)
    loop.close()
    del loop, task
    gc.collect()
    assert gone() is None
    caplog.clear()  # asyncio says that tasks were destroyed while they were pending, as it does without a cache
    assert run(function(0)) == 0


def test_no_cycles_after_results_and_errors() -> None:
    class Value:
        pass

    @cache_result(max_size=1)
    async def function(x: int) -> Any:
        await asyncio.sleep(0)
        if x < 0:
            raise ValueError(Value())
        return Value()

    async def main() -> None:
        gc.collect()
        gc.disable()
        try:
            gone = weakref.ref(await function(1))
            await asyncio.gather(function(2), function(2))
            await asyncio.sleep(0.01)
            assert gone() is None
            try:
                await function(-1)
            except ValueError as error:
                gone = weakref.ref(error.args[0])
            await asyncio.sleep(0.01)
            assert gone() is None, "the exception is in a cycle"
        finally:
            gc.enable()

    run(main())


def test_arguments_are_released() -> None:
    class Key:
        pass

    @cache_result(max_size=0)
    async def function(x: Any) -> int:
        await asyncio.sleep(0)
        return 1

    async def main() -> None:
        key = Key()
        gone = weakref.ref(key)
        await asyncio.gather(function((key, 1)), function((key, 1)))
        del key
        await asyncio.sleep(0.01)
        gc.collect()
        assert gone() is None

    run(main())
