"""Wrappers keep what their function is: each kind runs inside the block, and the block ends whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from perfopt import _wrapping
from perfopt.memory import optimize_memory
from perfopt.profiler import PerformanceProfiler


class Blocks:
    """Makes blocks that note when they begin and end."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.log.append("begin")
        try:
            yield
        finally:
            self.log.append("end")


DECORATORS: dict[str, Callable[[Any], Any]] = {
    "around": lambda function: _wrapping.around(function, Blocks()),
    "optimize_memory": optimize_memory,
    "profile_operation": PerformanceProfiler().profile_operation("x"),
}


@pytest.mark.parametrize("decorator", DECORATORS)
def test_what_types_coroutine_made_can_still_be_awaited(decorator: str) -> None:
    @DECORATORS[decorator]
    @types.coroutine
    def pause() -> Generator[None, None, int]:
        yield
        return 5

    async def main() -> int:
        return int(await pause())

    assert asyncio.run(main()) == 5


def test_an_object_that_is_called_asynchronously_runs_inside_the_block() -> None:
    blocks = Blocks()

    class Job:
        async def __call__(self, x: int) -> int:
            blocks.log.append("run")
            await asyncio.sleep(0)
            return x

    assert asyncio.run(_wrapping.around(Job(), blocks)(3)) == 3
    assert blocks.log == ["begin", "run", "end"]


def test_the_block_ends_when_an_async_generator_refuses_to_close() -> None:
    blocks = Blocks()

    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    async def main() -> None:
        iterator = _wrapping.around(stubborn, blocks)()
        assert await iterator.__anext__() == 1
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            await iterator.aclose()

    asyncio.run(main())
    assert blocks.log == ["begin", "end"]


def test_the_rule_is_told_with_what_broke_it() -> None:
    with pytest.raises(TypeError, match=r"^x takes functions, not classes: decorate the methods of int$"):
        _wrapping.decorate("x takes functions", staticmethod(int), lambda f: f)
    with pytest.raises(TypeError, match=r"^x takes functions, not str: 'no'$"):
        _wrapping.decorate("x takes functions", "no", lambda f: f)
