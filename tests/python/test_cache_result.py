"""cache_result: the decorator, bounds, counters, values, async functions."""

from __future__ import annotations

import asyncio
import collections
import copy
import functools
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from counting import counted, figures
from hypothesis import given, settings
from hypothesis import strategies as st

from perfopt import _core
from perfopt.cache import CacheInfo, PerformanceCache, cache_result


@cache_result("by name")
def at_module_level(x: Any) -> Any:
    """What it does."""
    return [x]


class Thing:
    @cache_result
    def method(self, x: Any) -> list[Any]:
        return [x]


# ---- the decorator ------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("S0-45")
def test_every_way_to_write_it() -> None:
    def double(x: int) -> int:
        return x * 2

    for decorator in (
        cache_result,
        cache_result(),
        cache_result("label"),
        cache_result(name="label"),
        cache_result(name="label", max_size=1000),
        cache_result(max_size=None),
    ):
        cached = decorator(double)  # type: ignore[operator]
        assert [cached(4), cached(4), cached(5)] == [8, 8, 10]
        info = cached.cache_info()
        assert (info.hits, info.misses, info.evictions, info.currsize) == (1, 2, 0, 2)


def test_wrapper_looks_like_the_function() -> None:
    assert at_module_level.__name__ == "at_module_level"
    assert at_module_level.__doc__ == "What it does."
    assert at_module_level.__module__ == __name__
    assert str(inspect.signature(at_module_level)) == "(x: 'Any') -> 'Any'"
    assert at_module_level.__wrapped__(1) == [1]  # type: ignore[attr-defined]
    assert "at_module_level" in repr(at_module_level)
    assert weakref.ref(at_module_level)() is at_module_level
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level
    assert pickle.loads(pickle.dumps(Thing.method)) is Thing.method
    assert copy.copy(at_module_level) is at_module_level
    assert copy.deepcopy(at_module_level) is at_module_level
    assert at_module_level.cache_parameters() == {  # type: ignore[attr-defined]
        "name": "by name",
        "max_size": 1000,
        "max_bytes": None,
        "ttl": None,
        "policy": "lru",
        "persist": False,
        "version": None,
        "ignore": (),
        "copy": False,
        "single_flight": True,
    }
    at_module_level.own = 5  # type: ignore[attr-defined]
    assert at_module_level.own == 5  # type: ignore[attr-defined]
    info = at_module_level.cache_info()  # type: ignore[attr-defined]
    assert isinstance(info, CacheInfo)
    assert info._fields[:5] == ("hits", "misses", "evictions", "expirations", "rejects")
    assert info._fields[5:9] == ("currsize", "maxsize", "bytes", "max_bytes")
    assert info._fields[9:] == ("hash_seconds", "load_seconds", "compute_seconds")
    assert info.maxsize == 1000


def test_a_callable_with_an_odd_qualified_name() -> None:
    class Odd:
        __slots__ = ("__qualname__",)

        def __call__(self, x: Any) -> Any:
            return x

    odd = Odd()
    odd.__qualname__ = 7  # type: ignore[assignment]
    cached = cache_result(odd)
    assert repr(cached).startswith("<cached function <class")
    with pytest.raises(TypeError, match=r"Odd.*cannot be part of a cache key"):
        cached(type("Odd", (), {"__hash__": None})())


def test_the_c_type_checks_its_counts() -> None:
    options = {
        "cache": PerformanceCache(1),
        "shared": False,
        "ttl": None,
        "identity": None,
        "ignored": None,
        "key": None,
        "copies": False,
        "keep_if": None,
        "single_flight": True,
        "info_type": tuple,
        "parameters": {},
    }
    for names, positional, positional_only in [((), 1, 0), (None, 100, 0), (("a",), -1, -1), (("a",), 0, 1)]:
        with pytest.raises(ValueError, match="positional"):
            _core.CachedFunction(len, names=names, positional=positional, positional_only=positional_only, **options)  # type: ignore[arg-type]
    fits = {"names": None, "positional": 0, "positional_only": 0}
    with pytest.raises(TypeError, match="identity"):
        _core.CachedFunction(len, **{**options, **fits, "identity": b"short"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="PerformanceCache"):
        _core.CachedFunction(len, **{**options, **fits, "cache": {}})  # type: ignore[arg-type]


def test_more_parameters_than_can_be_told_by_name() -> None:
    names = [f"p{i}" for i in range(70)]
    scope: dict[str, Any] = {}
    exec(f"def many({', '.join(names)}): return p0", scope)
    cached = cache_result(scope["many"])
    assert [cached(i, *names[1:]) for i in (1, 2, 1)] == [1, 2, 1]
    with pytest.raises(ValueError, match="more than 64 parameters"):
        cache_result(ignore="p0")(scope["many"])


def test_parameters_are_a_copy() -> None:
    function, _ = counted()
    function.cache_parameters()["name"] = "changed"
    assert function.cache_parameters()["name"] != "changed"


def test_wraps_any_callable() -> None:
    assert cache_result(len)("abc") == 3
    assert cache_result(max)(1, 5, 2) == 5
    assert cache_result(functools.partial(pow, 2))(5) == 32
    assert cache_result(int)("7") == 7


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_size": -1}, ValueError, "max_size must be at least 0"),
        ({"max_size": 1.5}, TypeError, "max_size must be an int or None, not float"),
        ({"max_size": True}, TypeError, "max_size must be an int or None, not bool"),
        ({"name": 5}, TypeError, "name must be a str"),
        ({"key": 5}, TypeError, "key must be a function"),
        ({"copy": 1}, TypeError, "copy must be True or False"),
        ({"ignore": "z"}, ValueError, "'z' is no parameter"),
        ({"ignore": (1,)}, TypeError, "parameter names"),
    ],
)
def test_bad_options(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):

        @cache_result(**arguments)
        def function(x: int) -> int:
            return x


def test_results_that_are_used_up_are_refused() -> None:
    async def coroutine() -> int:
        return 1

    def call(make: Callable[[], Any]) -> Any:
        return make()

    held = coroutine()
    with pytest.raises(TypeError, match=r"call\(\) returned a coroutine, .* decorate the async function"):
        cache_result(call)(lambda: held)
    held.close()
    with pytest.raises(TypeError, match=r"call\(\) returned a generator, .* return a list"):
        cache_result(call)(lambda: (x for x in (1, 2)))
    uncached = cache_result(cache_if=lambda result: False)(call)
    assert list(uncached(lambda: (x for x in (1, 2)))) == [1, 2]


def test_the_methods_are_those_of_the_outer_cache() -> None:
    def function(x: int) -> int:
        return x

    for name in ("cache_info", "cache_clear", "cache_parameters", "invalidate"):
        setattr(function, name, None)
    cached = cache_result(function)
    assert (cached(1), cached(1), cached.cache_info()[:2], cached.invalidate(1)) == (1, 1, (1, 1), True)  # type: ignore[attr-defined]
    cached.cache_clear()  # type: ignore[attr-defined]
    assert cached.cache_parameters()["max_size"] == 1000  # type: ignore[attr-defined]


def test_generators_are_refused() -> None:
    async def endless(x: int) -> Any:
        yield x

    with pytest.raises(TypeError, match="generator function partial"):
        cache_result(functools.partial(endless, 1))
    with pytest.raises(TypeError, match="generator function"):

        @cache_result
        def numbers() -> Any:
            yield 1

    with pytest.raises(TypeError, match="generator function"):

        @cache_result("name")
        async def more_numbers() -> Any:
            yield 1


# ---- bounds, counters, values -------------------------------------------------------------------------------------------------


@pytest.mark.spec("S0-18")
def test_clear_forgets_and_resets() -> None:
    function, calls = counted()
    function(1)
    function(1)
    function.cache_clear()
    assert figures(function) == (0, 0, 0, 0, 1000)
    function(1)
    assert len(calls) == 2


def test_least_recently_used_leaves() -> None:
    function, calls = counted(max_size=3)
    for x in (1, 2, 3, 1, 4):
        function(x)
    assert figures(function) == (1, 4, 1, 3, 3)
    function(1)
    assert len(calls) == 4
    function(2)
    assert len(calls) == 5


def test_zero_and_no_bound() -> None:
    function, calls = counted(max_size=0)
    function(1)
    function(1)
    assert len(calls) == 2
    assert figures(function) == (0, 2, 0, 0, 0)
    function, calls = counted(max_size=None)
    for x in range(5000):
        function(x)
    assert figures(function) == (0, 5000, 0, 5000, None)


@given(st.lists(st.integers(0, 12), max_size=80), st.integers(0, 8))
@settings(max_examples=80, deadline=None)
def test_agrees_with_functools(arguments: list[int], max_size: int) -> None:
    ours, _ = counted(max_size=max_size)
    theirs = functools.lru_cache(maxsize=max_size)(lambda x: x)
    for x in arguments:
        ours(x)
        theirs(x)
    info = theirs.cache_info()
    assert (info.hits, info.misses, info.currsize) == (*ours.cache_info()[:2], ours.cache_info().currsize)


def test_none_is_a_value_and_an_exception_is_not() -> None:
    calls = []

    @cache_result
    def function(x: int) -> None:
        calls.append(x)
        if x:
            raise ValueError(x)

    assert function(0) is None
    assert function(0) is None
    assert calls == [0]
    for _ in range(2):
        with pytest.raises(ValueError, match="1"):
            function(1)
    assert calls == [0, 1, 1]
    assert function.cache_info().currsize == 1  # type: ignore[attr-defined]


def test_arrays_come_back_read_only_from_the_first_call_on() -> None:
    originals = []

    @cache_result
    def make(n: int) -> Any:
        originals.append(np.arange(n))
        return originals[-1]

    first, second = make(5), make(5)
    assert first is second
    assert not first.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 9
    assert originals[0].flags.writeable, "the function's own array is not frozen"
    assert np.shares_memory(first, originals[0])


def test_arrays_inside_containers_are_read_only_too() -> None:
    @cache_result
    def make() -> Any:
        return (np.zeros(2), {"a": [np.ones(3), "text"]}, inspect.Parameter.empty)

    first, second = make(), make()
    assert first is second
    assert not first[0].flags.writeable
    assert not first[1]["a"][0].flags.writeable
    assert first[1]["a"][1] == "text"


def test_subclasses_and_read_only_arrays_keep_their_class() -> None:
    frozen = np.arange(3)
    frozen.flags.writeable = False
    assert cache_result(lambda: frozen)() is frozen
    masked = cache_result(lambda: np.ma.array([1, 2], mask=[0, 1]))()
    assert isinstance(masked, np.ma.MaskedArray)
    assert masked.mask.tolist() == [False, True]


def test_values_that_contain_themselves_come_back_whole_and_read_only() -> None:
    cache = PerformanceCache()
    array = np.zeros(2)
    loop: list[Any] = [array, array]
    loop.append((loop, {"up": loop}))
    through: tuple[Any, ...] = ([array],)
    through[0].append(through)
    cache.set("loop", loop)
    cache.set("through", through)
    kept = cache.get("loop")
    assert kept[2][0] is kept[2][1]["up"] is kept
    assert kept[0] is kept[1]
    assert not kept[0].flags.writeable
    kept = cache.get("through")
    assert kept[0][1] is kept
    assert not kept[0][0].flags.writeable
    assert array.flags.writeable
    assert loop[0] is array


def test_values_that_contain_themselves_or_share_their_members() -> None:
    @cache_result
    def loop(copies: bool) -> Any:
        value: list[Any] = [np.zeros(1)]
        value.append(value)
        return value

    value = loop(False)
    assert loop(False) is value
    assert not value[0].flags.writeable
    wide: Any = [1]
    for _ in range(200):
        wide = [wide, wide]
    assert cache_result(lambda: wide)() is wide
    private = cache_result(copy=True)(lambda: loop(False))
    private()
    other = private()
    assert other is not value
    assert other[0].flags.writeable


def test_ordered_and_default_dicts_hold_read_only_arrays() -> None:
    for make in (collections.OrderedDict, lambda items: collections.defaultdict(list, items)):
        given = make({"a": np.zeros(2), "b": 1})
        kept = cache_result(lambda value: value[0], key=len)((given,))
        assert type(kept) is type(given)
        assert list(kept) == ["a", "b"]
        assert not kept["a"].flags.writeable
        assert given["a"].flags.writeable


def test_copy_gives_everyone_a_private_one() -> None:
    @cache_result(copy=True)
    def make(n: int) -> Any:
        return np.arange(n)

    first, second, third = make(3), make(3), make(3)
    first[:] = 7
    second[:] = 8
    assert third.tolist() == [0, 1, 2]
    assert make(3).tolist() == [0, 1, 2]
    assert make.cache_info().hits == 3  # type: ignore[attr-defined]

    @cache_result(copy=True)
    def nested() -> Any:
        return {"a": [np.zeros(2), [1]], "b": (np.array([[1]], object),)}

    value = nested()
    value["a"][0][0] = 5
    value["a"][1].append(2)
    value["b"][0][0, 0] = 9
    again = nested()
    assert again["a"][0].tolist() == [0, 0]
    assert again["a"][1] == [1]
    assert again["b"][0].tolist() == [[1]]
    again["a"][1].append(3)
    assert nested()["a"][1] == [1]


# ---- async --------------------------------------------------------------------------------------------------------------------


def test_async_functions_cache_the_awaited_value() -> None:
    calls = []

    @cache_result("async", max_size=10)
    async def fetch(x: int, *, y: int = 0) -> Any:
        calls.append(x)
        await asyncio.sleep(0)
        return np.full(2, x)

    async def main() -> None:
        first, second = await fetch(1), await fetch(x=1)
        assert first is second
        assert not first.flags.writeable
        await fetch(2)
        with pytest.raises(TypeError, match="unexpected"):
            await fetch(z=1)

    asyncio.run(main())
    asyncio.run(main())  # another event loop: values, not tasks, are kept
    assert calls == [1, 2]
    assert inspect.iscoroutinefunction(fetch)
    assert figures(fetch) == (4, 2, 0, 2, 10)  # type: ignore[attr-defined]
    fetch.cache_clear()  # type: ignore[attr-defined]
    assert fetch.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_objects_whose_call_is_async_or_a_generator() -> None:
    class Fetch:
        async def __call__(self, x: int) -> int:
            return x

    class Count:
        def __call__(self) -> Any:
            yield 1

    fetch = cache_result(Fetch())

    async def main() -> list[int]:
        return [await fetch(1), await fetch(1)]

    assert asyncio.run(main()) == [1, 1]
    assert fetch.cache_info()[:2] == (1, 1)
    with pytest.raises(TypeError, match="generator function"):
        cache_result(Count())


def test_async_exceptions_and_methods() -> None:
    calls = []

    class Client:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        @cache_result
        async def get(self, x: int) -> int:
            calls.append(x)
            if x < 0:
                raise ValueError(x)
            return x

    async def main() -> None:
        one, two = Client(), Client()
        assert [await one.get(1), await one.get(1), await two.get(1)] == [1, 1, 1]
        for _ in range(2):
            with pytest.raises(ValueError, match="-1"):
                await one.get(-1)

    asyncio.run(main())
    assert calls == [1, 1, -1, -1]
    gc.collect()
    assert Client.get.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_tuples_of_plain_values_are_kept_as_they_are_and_others_are_looked_into() -> None:
    array = np.zeros(2)
    values: list[tuple[Any, ...]] = [
        (),
        (1, "a", None, 2.5, b"b", True, 1j),
        (1,) * 17,
        ((1,),),
        (1, array),
        ((array,),),
    ]
    for copies in (False, True):
        cached = cache_result(copy=copies)(lambda index: values[index])
        for index, value in enumerate(values):
            cached(index)
            assert (cached(index) is value) == (index < 4)
    shared = cache_result(lambda: (1, array))
    assert not shared()[1].flags.writeable
    assert not shared()[1].flags.writeable
    assert array.flags.writeable


def test_a_value_computed_while_the_cache_changed_meets_what_is_there_first() -> None:
    """The short way for plain values is only taken when nothing changed since the search."""
    fresh = iter(range(1, 100))

    @cache_result(max_size=2)
    def inner(x: int) -> int:
        number = next(fresh)
        if number == 1:
            assert inner(x) == 2  # the same key, computed inside, is kept first
        elif number == 3:
            inner(10), inner(11)  # the cache is full of others
        elif number == 6:
            inner.cache_clear()
        return number

    assert inner(0) == 2
    assert inner(0) == 2
    assert inner(1) == 3
    assert inner(1) == 3
    assert inner.cache_info().currsize == 2
    assert inner(2) == 6  # begun before the cache was cleared: handed out, not kept
    assert inner.cache_info().currsize == 0
    assert inner(2) == 7
