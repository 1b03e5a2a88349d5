"""A key that is deleted while a recursive computation of it runs: what is handed out, and what is kept, in all four faces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perfopt.cache import PerformanceCache, cache_result


class Recursive:
    """A computation of one key that asks for its own key down to level 2, and forgets the key at given (moment, level)s."""

    def __init__(self, deletes: frozenset[tuple[str, int]]) -> None:
        self.deletes = deletes
        self.level = -1

    def forget_at(self, moment: str, level: int) -> None:
        if (moment, level) in self.deletes:
            self.forget()

    def body(self) -> int:
        self.level += 1
        level = self.level
        self.forget_at("before", level)
        value = 100 if level == 2 else self.ask() + 1
        self.forget_at("after", level)
        return value

    async def async_body(self) -> int:
        self.level += 1
        level = self.level
        self.forget_at("before", level)
        value = 100 if level == 2 else await self.async_ask() + 1
        self.forget_at("after", level)
        return value

    ask: Callable[[], int]
    async_ask: Callable[[], Any]
    forget: Callable[[], object]


class Model(Recursive):
    """The rule: what is there first stays, and what was begun before a delete is handed out, but not kept."""

    stored: int | None = None
    epoch = 0

    def forget(self) -> None:
        self.stored, self.epoch = None, self.epoch + 1

    def ask(self) -> int:
        if self.stored is not None:
            return self.stored
        begun = self.epoch
        value = self.body()
        if begun != self.epoch:
            return value
        self.stored = value if self.stored is None else self.stored
        return self.stored


def recursion_in_a_function(deletes: frozenset[tuple[str, int]], forget: str) -> tuple[int, int | None]:
    run = Recursive(deletes)
    cached = cache_result(lambda key: run.body())
    run.ask = lambda: cached("k")
    run.forget = cached.cache_clear if forget == "all" else lambda: cached.invalidate("k")
    result = run.ask()
    run.level, run.deletes, run.body = 2, frozenset(), lambda: -1  # type: ignore[method-assign]
    return result, run.ask()


def recursion_in_a_cache(deletes: frozenset[tuple[str, int]], forget: str) -> tuple[int, int | None]:
    run, cache = Recursive(deletes), PerformanceCache()
    run.ask = lambda: cache.get_or_compute("k", run.body)
    run.forget = cache.clear if forget == "all" else lambda: cache.delete("k")
    return run.ask(), cache.get("k", -1)


def recursion_in_a_coroutine_function(deletes: frozenset[tuple[str, int]], forget: str) -> tuple[int, int | None]:
    run = Recursive(deletes)

    @cache_result
    async def cached(key: str) -> int:
        return await run.async_body()

    run.async_ask = lambda: cached("k")
    run.forget = cached.cache_clear if forget == "all" else lambda: cached.invalidate("k")  # type: ignore[attr-defined]

    async def missing() -> int:
        return -1

    async def main() -> tuple[int, int]:
        result = await run.async_ask()
        run.async_body = missing  # type: ignore[method-assign]
        return result, await run.async_ask()

    return asyncio.run(main())


def recursion_in_async_methods(deletes: frozenset[tuple[str, int]], forget: str) -> tuple[int, int | None]:
    run, cache = Recursive(deletes), PerformanceCache()
    run.async_ask = lambda: cache.aget_or_compute("k", run.async_body)
    run.forget = cache.clear if forget == "all" else lambda: cache.delete("k")
    return asyncio.run(run.async_ask()), cache.get("k", -1)


@pytest.mark.parametrize("forget", ["one", "all"])
@pytest.mark.parametrize(
    "run",
    [recursion_in_a_function, recursion_in_a_cache, recursion_in_a_coroutine_function, recursion_in_async_methods],
)
def test_deleting_a_key_inside_a_recursive_computation_of_it(run: Any, forget: str) -> None:
    moments = [(moment, level) for moment in ("before", "after") for level in range(3)]
    for number in range(1 << len(moments)):
        deletes = frozenset(moment for i, moment in enumerate(moments) if number >> i & 1)
        model = Model(deletes)
        expected = model.ask()
        assert run(deletes, forget) == (expected, -1 if model.stored is None else model.stored), sorted(deletes)
