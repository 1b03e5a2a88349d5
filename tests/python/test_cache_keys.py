"""What is one key of a cached function and what are two."""

from __future__ import annotations

import copy
import dataclasses
import enum
import pathlib
from typing import Any

import numpy as np
import pytest
from counting import counted

from perfopt.cache import cache_result


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
