"""The optimize_memory decorator: on functions of each kind, around exceptions, and what it refuses."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from memory_tools import Cleanings, Node

from perfopt.memory import MemoryOptimizer, optimize_memory


@pytest.mark.spec("S0-47")
def test_bare_decorator_cleans_before_and_after(cleanings: Cleanings) -> None:
    seen: list[int] = []

    @optimize_memory
    def work(a: int, *, b: int = 2) -> int:
        """Doc."""
        seen.append(cleanings.count)
        return a * b

    assert cleanings.count == 0
    assert work(21) == 42
    assert seen == [1]
    assert cleanings.count == 2
    assert work(1, b=5) == 5
    assert cleanings.count == 4
    assert (work.__name__, work.__doc__) == ("work", "Doc.")
    assert list(inspect.signature(work).parameters) == ["a", "b"]


@pytest.mark.spec("S0-47")
def test_decorator_cleans_after_an_exception(cleanings: Cleanings) -> None:
    @optimize_memory
    def fails() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        fails()
    assert cleanings.count == 2


def test_decorator_with_a_threshold_cleans_only_under_pressure(cleanings: Cleanings) -> None:
    share = max(MemoryOptimizer().pressure().values())

    @optimize_memory(threshold=1e-9)
    def pressed() -> str:
        return "pressed"

    @optimize_memory(threshold=min(1.0, share + 0.3))
    def easy() -> str:
        return "easy"

    @optimize_memory()
    def always() -> str:
        return "always"

    assert easy() == "easy"
    assert cleanings.count == 0
    assert pressed() == "pressed"
    assert cleanings.count == 2
    assert always() == "always"
    assert cleanings.count == 4


def test_decorator_on_methods(cleanings: Cleanings) -> None:
    class Thing:
        factor = 3

        @optimize_memory
        def plain(self, x: int) -> int:
            return self.factor * x

        @optimize_memory
        @classmethod
        def of_class(cls, x: int) -> int:
            return cls.factor * x

        @classmethod
        @optimize_memory
        def of_class_inside(cls, x: int) -> int:
            return cls.factor * x

        @optimize_memory
        @staticmethod
        def static(x: int) -> int:
            return x

    thing = Thing()
    assert (thing.plain(2), thing.of_class(2), Thing.of_class(2), thing.of_class_inside(2)) == (6, 6, 6, 6)
    assert (thing.static(5), Thing.static(5)) == (5, 5)
    assert cleanings.count == 12


def test_decorator_on_async_functions_cleans_after_the_await(cleanings: Cleanings) -> None:
    seen: list[int] = []

    @optimize_memory
    async def work(x: int) -> int:
        seen.append(cleanings.count)
        await asyncio.sleep(0)
        seen.append(cleanings.count)
        if x < 0:
            raise ValueError("negative")
        return x + 1

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(work(1)) == 2
    assert seen == [1, 1]
    assert cleanings.count == 2
    with pytest.raises(ValueError, match="negative"):
        asyncio.run(work(-1))
    assert cleanings.count == 4


def test_decorator_on_generators_cleans_around_the_iteration(cleanings: Cleanings) -> None:
    @optimize_memory
    def numbers() -> Any:
        got = yield 1
        try:
            yield got
        except KeyError:
            yield "caught"
        return "end"

    assert inspect.isgeneratorfunction(numbers)
    iterator = numbers()
    assert cleanings.count == 0
    assert next(iterator) == 1
    assert cleanings.count == 1
    assert iterator.send("sent") == "sent"
    assert iterator.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(iterator)
    assert stop.value.value == "end"
    assert cleanings.count == 2
    early = numbers()
    next(early)
    early.close()
    assert cleanings.count == 4


def test_decorator_on_async_generators(cleanings: Cleanings) -> None:
    closed: list[bool] = []

    @optimize_memory
    async def numbers() -> Any:
        try:
            got = yield 1
            try:
                yield got
            except KeyError:
                yield "caught"
        finally:
            closed.append(True)

    async def use() -> None:
        iterator = numbers()
        assert cleanings.count == 0
        assert await iterator.__anext__() == 1
        assert cleanings.count == 1
        assert await iterator.asend("sent") == "sent"
        assert await iterator.athrow(KeyError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await iterator.__anext__()
        assert cleanings.count == 2
        assert [x async for x in numbers()] == [1, None]
        assert cleanings.count == 4
        early = numbers()
        await early.__anext__()
        await early.aclose()
        assert cleanings.count == 6
        failing = numbers()
        await failing.__anext__()
        with pytest.raises(ValueError, match="mine"):
            await failing.athrow(ValueError("mine"))
        assert cleanings.count == 8

    assert inspect.isasyncgenfunction(numbers)
    asyncio.run(use())
    assert closed == [True] * 4


@pytest.mark.parametrize("thing", [5, "x", int, Node, [1]])
def test_decorator_refuses_what_is_no_function(thing: Any) -> None:
    with pytest.raises(TypeError, match="optimize_memory decorates functions and methods, not"):
        optimize_memory(thing)


@pytest.mark.parametrize(("threshold", "error"), [(2, ValueError), (0, ValueError), ("0.5", TypeError)])
def test_decorator_checks_its_threshold(threshold: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="threshold"):
        optimize_memory(threshold=threshold)
