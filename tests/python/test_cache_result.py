"""cache_result: keys, values, methods, async functions, re-entrancy and threads."""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import enum
import functools
import gc
import inspect
import pathlib
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfopt
from perfopt import _core
from perfopt.cache import CacheInfo, PerformanceCache, cache_result


def counted(**options: Any) -> tuple[Any, list[Any]]:
    """A cached function of anything, and the list of calls that reached it."""
    calls: list[Any] = []

    @cache_result(**options)
    def function(*args: Any, **kwargs: Any) -> int:
        calls.append((args, kwargs))
        return len(calls)

    return function, calls


def figures(function: Any) -> tuple[int, int, int, int, int | None]:
    """hits, misses, evictions, currsize, maxsize"""
    info = function.cache_info()
    return info.hits, info.misses, info.evictions, info.currsize, info.maxsize


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


# ---- keys ---------------------------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Value:
    """Equal by its number."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return type(other) is Value and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


@dataclasses.dataclass
class Settings:
    rate: float
    layers: list[int]


@dataclasses.dataclass(frozen=True)
class Frozen:
    items: Any


TYPED = [
    *(
        1,
        1.0,
        True,
        "1",
        b"1",
        1 + 0j,
        None,
        False,
        0,
        0.0,
        -0.0,
        "",
        b"",
        (),
        [],
        {},
        set(),
        frozenset(),
        ...,
        float("nan"),
    ),
    *(
        (1,),
        (1.0,),
        (True,),
        [1],
        ["1"],
        (1, 2),
        ((1,), 2),
        {1: 2},
        {1.0: 2},
        {1},
        {1.0},
        frozenset({1}),
        bytearray(b"1"),
    ),
    *(
        Color.RED,
        Color.BLUE,
        Value(1),
        Value(2),
        Settings(1.0, [1]),
        Settings(1.0, [2]),
        Frozen((1,)),
        Frozen([1]),
        Frozen([1.0]),
    ),
    *(
        pathlib.PurePosixPath("1"),
        np.float64(1),
        np.float32(1),
        np.int64(1),
        np.array([1]),
        np.array(1),
        np.array([1.0]),
        2**80,
    ),
    *(
        (Value(1), 1),
        (Value(1), 1.0),
        [Value(1), 1],
        {"a": Value(1)},
        {"a": Value(2)},
        {"b": Value(1)},
        int,
        float,
        len,
    ),
    *("1" * 300, [1] * 300, 2**64, -(2**64), -1, -2),
]


@pytest.mark.spec("S0-14")
def test_keys_are_typed() -> None:
    function, calls = counted(max_size=None)
    for value in TYPED:
        function(value)
    assert len(calls) == len(TYPED)
    for value in TYPED:
        function(copy.deepcopy(value))
    assert len(calls) == len(TYPED), "equal objects of equal types are one key"


def test_hash_collisions_are_told_apart() -> None:
    function, _calls = counted()
    modulus = 2**61 - 1
    values = [0, modulus, 2 * modulus, -1, -2, 5, 5 + modulus]
    assert len({hash(value) for value in values}) < len(values)
    assert [function(value) for value in values] == [1, 2, 3, 4, 5, 6, 7]
    assert [function(value) for value in values] == [1, 2, 3, 4, 5, 6, 7]
    same_hash = [Value(1), Value(1 + modulus), 1]
    assert [function(value) for value in same_hash] == [8, 9, 10]


def test_spelling_of_arguments_does_not_matter() -> None:
    calls = []

    @cache_result
    def function(a: int, /, b: int, c: int = 3, *, d: int = 4) -> int:
        calls.append(1)
        return a + b * 10 + c * 100 + d * 1000

    assert {
        function(1, 2, 5, d=6),
        function(1, 2, d=6, c=5),
        function(1, c=5, d=6, b=2),
        function(1, d=6, b=2, c=5),
    } == {6521}
    assert len(calls) == 1
    assert function(1, 2) == 4321
    assert function(1, b=2) == 4321
    assert len(calls) == 2
    assert function(1, 2, d=6) == 6321
    assert function(1, 2, 6) == 4621
    assert len(calls) == 4
    name = "".join(["b"])
    assert function(1, **{name: 2}) == 4321
    assert len(calls) == 4


def test_one_argument_by_name_is_the_fast_key_too() -> None:
    calls = []

    @cache_result
    def function(x: Any) -> int:
        calls.append(x)
        return len(calls)

    assert function(5) == function(x=5) == function("a") - 1 == function(x="a") - 1
    assert len(calls) == 2


def test_keywords_of_open_functions() -> None:
    function, calls = counted()
    function(1, a=2, b=3)
    function(1, b=3, a=2)
    assert len(calls) == 1
    function(1, 2, b=3)
    function(1, "a", 2, b=3)
    function((1, 2), b=3)
    function(1)
    function()
    function(a=1)
    function("=", "a", 1)
    assert len(calls) == 8


def test_wrong_calls_raise_the_functions_own_error() -> None:
    @cache_result
    def function(a: int, /, b: int) -> int:
        return a + b

    for args, kwargs in [((1,), {}), ((1, 2, 3), {}), ((1, 2), {"b": 3}), ((1, 2), {"c": 3}), ((), {"a": 1, "b": 2})]:
        with pytest.raises(TypeError, match=r"function\(\)"):
            function(*args, **kwargs)
    assert function.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_what_cannot_be_keyed_names_the_argument() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

    @cache_result
    def function(first: Any, second: Any = None) -> None: ...

    with pytest.raises(TypeError, match=r"function\(\): argument 'second' .* Unhashable object .* key= .* ignore="):
        function(1, Unhashable())
    with pytest.raises(TypeError, match=r"argument 'first' .* Unhashable object"):
        function(first=[1, {"a": (Unhashable(),)}])
    with pytest.raises(TypeError, match=r"argument 'first' .* Unhashable object"):
        function(np.array([Unhashable()], dtype=object))
    open_function, calls = counted()
    with pytest.raises(TypeError, match=r"argument 2 cannot"):
        open_function(1, Unhashable())
    with pytest.raises(TypeError, match=r"argument 'word' cannot"):
        open_function(1, word=Unhashable())
    assert calls == []


def test_a_loop_in_an_argument() -> None:
    function, calls = counted()
    loop: list[Any] = [Value(1)]
    loop.append(loop)
    with pytest.raises(RecursionError, match="contain itself"):
        function(loop)
    assert calls == []


def test_dicts_and_sets_without_regard_to_order() -> None:
    function, calls = counted()
    marker = Value(7)
    function({"a": 1, "b": [2]}, {1, 2, 3}, {"x": marker, "y": 1})
    function({"b": [2], "a": 1}, {3, 2, 1}, {"y": 1, "x": Value(7)})
    assert len(calls) == 1
    with pytest.raises(TypeError, match="Value"):
        function({marker})


def test_classes_of_one_name_are_two() -> None:
    def make() -> Any:
        @dataclasses.dataclass
        class Local:
            x: int

        return Local

    function, calls = counted()
    first, second = make(), make()
    assert first.__qualname__ == second.__qualname__
    function(first(1))
    function(second(1))
    function([first(1)])
    function([second(1)])
    assert len(calls) == 4
    function(first(1))
    function([second(1)])
    assert len(calls) == 4


@pytest.mark.spec("S0-14")
def test_arrays_by_content() -> None:
    function, calls = counted()
    base = np.arange(20_000.0).reshape(100, 200)
    function(base)
    function(base.copy())
    function(np.asfortranarray(base))
    function(np.repeat(base, 2, axis=1)[:, ::2])
    assert len(calls) == 1
    base[50, 50] += 1
    function(base)
    assert len(calls) == 2
    function(base, (base, {"a": base}))
    function(base.copy(), (base.copy(), {"a": base.copy()}))
    function(x=base)
    assert len(calls) == 4


def test_key_option() -> None:
    calls = []

    @cache_result(key=lambda path, **_: path.lower())
    def load(path: str, verbose: bool = False) -> str:
        calls.append(path)
        return path

    assert load("A") == load("a", verbose=True) == "A"
    assert calls == ["A"]

    class Reader:
        @cache_result(key=lambda x: x % 10)
        def read(self, x: int) -> int:
            return x

    one, two = Reader(), Reader()
    assert one.read(5) == one.read(15) == 5
    assert two.read(15) == 15

    @cache_result(key=lambda x: object.__new__(type("Odd", (), {"__hash__": None})))
    def odd(x: int) -> int:
        return x

    with pytest.raises(TypeError, match="key= returned a Odd object"):
        odd(1)

    @cache_result(key=lambda x: 1 // x)
    def failing(x: int) -> int:
        return x

    with pytest.raises(ZeroDivisionError):
        failing(0)


def test_ignore_option() -> None:
    calls = []

    @cache_result(ignore=("log", "b"))
    def function(a: Any, b: Any = 0, *, log: Any = None) -> int:
        calls.append(a)
        return len(calls)

    assert function(1, 2, log=[].append) == function(1, 3, log=print) == function(1, b=object()) == 1
    assert function(2, 2) == 2
    assert function.cache_parameters()["ignore"] == ("log", "b")  # type: ignore[attr-defined]

    @cache_result(ignore="first")
    def single(first: Any) -> int:
        calls.append(first)
        return len(calls)

    assert single(1) == single(2) == single("x")

    @cache_result(ignore=("log",))
    def open_function(*args: Any, **kwargs: Any) -> int:
        calls.append(args)
        return len(calls)

    assert open_function(1, log=1) == open_function(1, log=2) == open_function(1)
    assert open_function(2, log=1) != open_function(1)


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


# ---- methods ------------------------------------------------------------------------------------------------------------------


def test_methods_count_per_instance() -> None:
    one, two = Thing(), Thing()
    assert one.method(1) is one.method(1)
    assert one.method(1) is not two.method(1)
    assert Thing.method(one, 1) is one.method(1)
    bound = one.method
    assert bound(1) is one.method(1)
    assert one.method(x=1) is one.method(1)


def test_a_function_that_is_also_an_attribute_of_a_class() -> None:
    @cache_result
    def total(x: Any, y: int = 0) -> float:
        return float(np.sum(x)) + y

    class Owner:
        kept = total

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        @cache_result
        def named(x: Any) -> Any:  # type: ignore[misc]
            return x

    assert total(5) == Owner.kept(5) == 5
    assert Owner.named("a") == "a"
    array = np.ones(3)
    assert (total(array), total(x=array, y=1)) == (3, 4)
    array[:] = 5
    assert (total(array), total(x=array, y=1)) == (15, 16), "other first arguments still count by content"
    size = total.cache_info().currsize  # type: ignore[attr-defined]
    owner = Owner()
    gone = weakref.ref(owner)
    with pytest.raises(TypeError, match=r"unsupported operand|must be|float"):
        owner.kept()
    assert owner.named() is owner
    del owner
    Owner.named.cache_clear()  # type: ignore[attr-defined]
    assert gone() is None
    assert total.cache_info().currsize == size  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="owner must be a class or None, not int"):
        total.__set_name__(3, "x")  # type: ignore[attr-defined]


def test_the_classes_of_a_method_are_held_weakly() -> None:
    @cache_result
    def shared(self: Any) -> int:
        return 1

    def use() -> weakref.ref[type]:
        owner = type("Owner", (), {"m": shared, "__eq__": lambda *_: True})
        one, two = owner(), owner()
        assert [one.m(), two.m(), one.m()] == [1, 1, 1]
        return weakref.ref(owner)

    owners = [use(), use()]
    assert shared.cache_info()[:2] == (2, 4)  # type: ignore[attr-defined]
    gc.collect()
    assert [owner() for owner in owners] == [None, None]
    assert shared.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_an_instance_is_not_kept_alive() -> None:
    Thing.method.cache_clear()  # type: ignore[attr-defined]
    thing, other = Thing(), Thing()
    for x in range(10):
        thing.method(x)
        other.method(x)
    assert Thing.method.cache_info().currsize == 20  # type: ignore[attr-defined]
    gone = weakref.ref(thing)
    del thing
    assert gone() is None
    assert Thing.method.cache_info().currsize == 10  # type: ignore[attr-defined]
    assert Thing.method.cache_info().evictions == 0  # type: ignore[attr-defined]
    del other
    assert Thing.method.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_a_new_instance_at_an_old_address_is_another() -> None:
    seen = set()
    for i in range(200):
        thing = Thing()
        thing.tag = i  # type: ignore[attr-defined]
        result = thing.method(0)
        assert result == [0]
        result.append(i)
        assert thing.method(0) == [0, i]
        seen.add(id(thing))
        del thing, result
    if len(seen) == 200:
        pytest.skip("no address was used again (a sanitizer's allocator keeps them back)")


def test_an_instance_with_its_own_equality_counts_by_identity() -> None:
    class Same:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        @cache_result
        def method(self) -> list[int]:
            return []

    one, two = Same(), Same()
    assert one.method() is one.method()
    assert one.method() is not two.method()
    gone = weakref.ref(one)
    del one
    assert gone() is None
    assert Same.method.cache_info().currsize == 1  # type: ignore[attr-defined]


def test_slots_without_weak_references_are_refused() -> None:
    class Tight:
        __slots__ = ()

        @cache_result
        def method(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"Tight cannot be weakly referenced; add '__weakref__'"):
        Tight().method()


def test_identity_objects_as_plain_arguments_are_held_weakly() -> None:
    class Session:
        pass

    function, calls = counted()
    session, other = Session(), Session()
    function(session, 1)
    function(session, 1)
    function([other, session], {"a": session})
    assert len(calls) == 2
    calls.clear()
    del session
    assert function.cache_info().currsize == 0
    function(other)
    assert function.cache_info().currsize == 1


def test_class_and_static_methods_in_either_order() -> None:
    calls = []

    class Tool:
        @classmethod
        @cache_result
        def a(cls, x: int) -> str:
            calls.append("a")
            return cls.__name__

        @cache_result
        @classmethod
        def b(cls, x: int) -> str:
            calls.append("b")
            return cls.__name__

        @staticmethod
        @cache_result
        def c(x: int) -> int:
            calls.append("c")
            return x

        @cache_result("d", max_size=3)
        @staticmethod
        def d(x: int) -> int:
            calls.append("d")
            return x

    class Sub(Tool):
        pass

    for _ in range(2):
        assert [Tool.a(1), Tool().a(1), Sub.a(1), Tool.b(1), Sub().b(1)] == ["Tool", "Tool", "Sub", "Tool", "Sub"]  # type: ignore[operator]
        assert [Tool.c(1), Tool().c(1), Tool.d(1), Sub().d(1)] == [1, 1, 1, 1]
    assert sorted(calls) == ["a", "a", "b", "b", "c", "d"]


def test_a_method_whose_value_dies_with_its_instance() -> None:
    log = []

    class Noisy:
        def __del__(self) -> None:
            log.append("value")

    class Owner:
        @cache_result
        def make(self) -> Noisy:
            return Noisy()

    owner = Owner()
    owner.make()
    assert log == []
    del owner
    assert log == ["value"]


def test_the_cache_may_go_before_the_instance() -> None:
    def scope() -> Thing:
        class Local:
            @cache_result
            def method(self, x: int) -> int:
                return x

        local = Local()
        local.method(1)
        function, _ = counted()
        thing = Thing()
        function(thing)
        return thing

    thing = scope()
    gc.collect()
    del thing
    gc.collect()


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


@pytest.mark.parametrize(
    "outer", [perfopt.profile_operation("outer"), perfopt.optimize_memory], ids=["profile", "memory"]
)
def test_a_method_behind_another_decorator_is_still_a_method(outer: Any) -> None:
    """An instance counts by identity and is held weakly, also where its class defines equality."""

    class Model:
        def __init__(self, weight: int) -> None:
            self.weight = weight

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

        @outer
        @cache_result("scaled")
        def scaled(self, factor: int) -> int:
            return self.weight * factor

    first, second = Model(2), Model(3)
    assert [first.scaled(10), second.scaled(10), first.scaled(10)] == [20, 30, 20]
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
