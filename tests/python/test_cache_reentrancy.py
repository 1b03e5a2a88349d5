"""cache_result called from inside itself (recursion, __eq__, __hash__, __del__, signals) and from several threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from counting import counted

from perfopt.cache import PerformanceCache, cache_result


class Value:
    """Equal by its number."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return type(other) is Value and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


# ---- re-entrancy --------------------------------------------------------------------------------------------------------------


def test_recursion() -> None:
    @cache_result
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(150) == 9969216677189303386214405760200
    assert fib.cache_info().misses == 151  # type: ignore[attr-defined]

    @cache_result(max_size=1)
    def small(n: int) -> int:
        return n if n < 2 else small(n - 1) + small(n - 2)

    assert small(12) == 144


def test_a_function_that_calls_itself_with_the_same_key() -> None:
    depth = []

    @cache_result
    def function(x: Any) -> Any:
        depth.append(1)
        return [1] if len(depth) > 1 else [*function(x), 2]

    first = function(5)
    assert first is function(5)
    assert len(depth) == 2
    assert function.cache_info().currsize == 1  # type: ignore[attr-defined]


def test_clearing_while_computing() -> None:
    """What began before a clear is handed out, but not kept: it may rest on what the clear was for."""
    state = ["old"]

    @cache_result
    def function(x: int) -> str:
        seen = state[0]
        if seen == "old":
            state[0] = "new"
            function.cache_clear()  # type: ignore[attr-defined]
        return seen

    assert function(1) == "old"
    assert function.cache_info().currsize == 0  # type: ignore[attr-defined]
    assert [function(1), function(1)] == ["new", "new"]
    assert function.cache_info().misses == 1  # type: ignore[attr-defined]


class Meddler:
    """A key whose hash and equality run code."""

    on_hash: Callable[[], None] = staticmethod(lambda: None)
    on_eq: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        Meddler.on_hash()
        return 42

    def __eq__(self, other: object) -> bool:
        Meddler.on_eq()
        return isinstance(other, Meddler) and self.number == other.number


@pytest.fixture
def meddler() -> Any:
    yield Meddler
    Meddler.on_hash = staticmethod(lambda: None)
    Meddler.on_eq = staticmethod(lambda: None)


def test_errors_in_hash_and_eq_come_through(meddler: Any) -> None:
    function, calls = counted()

    def fail() -> None:
        raise KeyError("no")

    function(meddler(1))
    meddler.on_eq = staticmethod(fail)
    with pytest.raises(KeyError):
        function(meddler(1))
    meddler.on_eq = staticmethod(lambda: None)
    meddler.on_hash = staticmethod(fail)
    with pytest.raises(KeyError):
        function(meddler(1))
    meddler.on_hash = staticmethod(lambda: None)
    assert function(meddler(1)) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("action", ["clear", "insert", "evict", "call"])
def test_eq_that_changes_the_cache(meddler: Any, action: str) -> None:
    function, _ = counted(max_size=4)
    for i in range(4):
        function(meddler(i))
    budget = [30]

    def meddle() -> None:
        if budget[0] > 0:
            budget[0] -= 1
            if action == "clear":
                function.cache_clear()
            elif action == "insert":
                function(budget[0])
            elif action == "evict":
                for i in range(5):
                    function(str(i + budget[0]))
            else:
                function(meddler(100 + budget[0]))
            gc.collect()

    meddler.on_eq = staticmethod(meddle)
    for _ in range(3):
        for i in range(5):
            function(meddler(i))
    meddler.on_eq = staticmethod(lambda: None)
    assert function.cache_info().currsize <= 4
    assert function(meddler(4)) == function(meddler(4))


def test_eq_that_always_changes_the_cache_is_an_error_not_a_hang(meddler: Any) -> None:
    function, _ = counted(max_size=None)
    function(meddler(1))
    count = [0]

    def meddle() -> None:
        count[0] += 1
        function(count[0])

    meddler.on_eq = staticmethod(meddle)
    with pytest.raises(RuntimeError, match="changed during every comparison"):
        function(meddler(1))
    meddler.on_eq = staticmethod(lambda: None)
    assert function(meddler(1)) == 1


def test_finalizers_that_use_the_cache() -> None:
    revived = []

    @cache_result(max_size=3)
    def function(x: Any) -> int:
        return 1

    class Final:
        def __init__(self, number: int) -> None:
            self.number = number

        def __hash__(self) -> int:
            return hash(self.number)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Final) and other.number == self.number

        def __del__(self) -> None:
            function(self.number)
            function("x")
            revived.append(self.number)
            if self.number % 5 == 0:
                function.cache_clear()  # type: ignore[attr-defined]

    for i in range(50):
        function(Final(i))
    function.cache_clear()  # type: ignore[attr-defined]
    assert sorted(revived) == list(range(50))
    assert function.cache_info().currsize <= 3  # type: ignore[attr-defined]


def test_values_with_finalizers_on_clear_and_deletion() -> None:
    log = []

    class Result:
        def __init__(self, cache: Any) -> None:
            self.cache = cache

        def __del__(self) -> None:
            log.append(self.cache().cache_info().currsize if self.cache() is not None else "gone")

    @cache_result(max_size=2)
    def make(x: int) -> Result:
        return Result(weakref.ref(make))  # noqa: F821

    for i in range(4):
        make(i)
    assert log == [2, 2]
    make.cache_clear()  # type: ignore[attr-defined]
    assert log == [2, 2, 0, 0]
    make(1)
    del make
    gc.collect()
    assert log[4:] == ["gone"]


def test_a_function_that_deletes_its_own_cache() -> None:
    holder: dict[str, Any] = {}

    def function(x: int) -> list[int]:
        holder.clear()
        gc.collect()
        return [x]

    holder["f"] = cache_result(function)
    assert holder["f"](3) == [3]


# ---- threads ------------------------------------------------------------------------------------------------------------------


def test_threads_share_one_cache() -> None:
    barrier = threading.Barrier(4)
    failures: list[Any] = []

    @cache_result(max_size=20)
    def identity(x: Any, y: Any = 0) -> Any:
        return (x, y)

    def work(seed: int) -> None:
        barrier.wait()
        for i in range(4000):
            x: Any = (i * 7 + seed) % 60
            x = [x, str(x), Value(x), (x, [x])][i % 4]
            if identity(x, y=i % 2) != (x, i % 2):
                failures.append(x)
            if identity.cache_info().currsize > 20:  # type: ignore[attr-defined]
                failures.append("bound")
            if i % 500 == 0:
                identity.cache_clear()  # type: ignore[attr-defined]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_two_threads_computing_one_key_agree_afterwards() -> None:
    started = threading.Barrier(2)

    @cache_result(single_flight=False)
    def slow(x: int) -> list[int]:
        started.wait(timeout=10)
        return [x]

    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(slow(1))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] is results[1] is slow(1)
    assert slow.cache_info().currsize == 1  # type: ignore[attr-defined]


def test_a_key_that_is_deleted_while_its_value_is_measured_is_not_kept() -> None:
    class Value(list[Any]):
        forget: ClassVar[Callable[[], object]]

        def __sizeof__(self) -> int:
            type(self).forget()
            return 100

    cache = PerformanceCache(max_bytes=10_000)

    for forget in (lambda: cache.delete("k"), cache.clear):
        Value.forget = forget
        assert cache.get_or_compute("k", Value) == []
        assert asyncio.run(cache.aget_or_compute("k", Value)) == []
        assert len(cache) == 0

    async def make_later(x: int) -> Value:
        return Value()

    for single_flight in (True, False):
        function: Any = cache_result(max_bytes=10_000, single_flight=single_flight)(lambda x: Value())
        later: Any = cache_result(max_bytes=10_000, single_flight=single_flight)(make_later)
        for cached, call in ((function, function), (later, lambda x, later=later: asyncio.run(later(x)))):
            for forget in (lambda cached=cached: cached.invalidate(1), cached.cache_clear):
                Value.forget = forget
                assert call(1) == []
                info = cached.cache_info()
                assert (info.currsize, info.bytes, info.rejects) == (0, 0, 0)

    def replace() -> None:
        cache.delete("k")
        cache.set("k", "newer")

    Value.forget = replace
    assert cache.get_or_compute("k", Value) == "newer", "what was there first stays"
    assert cache.get("k") == "newer"
