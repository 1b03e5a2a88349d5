"""Cached functions with a shared cache, a bound on bytes or time, and results on disk."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import functools
import gc
import operator
import pathlib
import re
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfopt._code_identity import code_identity
from perfopt.cache import PerformanceCache, cache_result

# ---- a shared cache -----------------------------------------------------------------------------------------------------------


def test_functions_that_share_a_cache_never_meet() -> None:
    cache = PerformanceCache(100)
    one = cache_result(cache=cache)(lambda x: ("one", x))
    two = cache_result(cache=cache)(lambda x: ("two", x))
    cache.set(1, "by hand")
    assert [one(1), two(1), one(1), cache.get(1)] == [("one", 1), ("two", 1), ("one", 1), "by hand"]
    assert len(cache) == 3
    first, second = one.cache_info(), two.cache_info()
    assert (first.hits, first.misses, first.currsize, first.maxsize) == (1, 1, 1, 100)
    assert (second.hits, second.misses, second.currsize) == (0, 1, 1)
    assert one.invalidate(1) is True
    assert one.invalidate(1) is False
    assert two(1) == ("two", 1)
    one(1)
    one(2)
    one.cache_clear()
    assert one.cache_info()[:6] == (0, 0, 0, 0, 0, 0)
    assert two.cache_info().currsize == 1
    assert cache.get(1) == "by hand"


def test_evictions_and_expirations_count_for_their_function() -> None:
    cache = PerformanceCache(4, max_bytes=100_000)
    one = cache_result(cache=cache)(lambda x: x)
    two = cache_result(cache=cache, ttl=1000)(lambda x: bytes(x))
    for x in range(6):
        one(x)
    two(10)
    assert (one.cache_info().evictions, two.cache_info().evictions) == (3, 0)
    assert one.cache_info().bytes + two.cache_info().bytes == cache.get_stats()["bytes"]
    assert two.cache_info().bytes > 0
    brief = cache_result(cache=cache, ttl=0.02)(lambda x: bytes(x))
    brief(10)
    time.sleep(0.03)
    brief(10)
    assert [f.cache_info().expirations for f in (one, two, brief)] == [0, 0, 1]
    two(200_000)
    assert (one.cache_info().rejects, two.cache_info().rejects) == (0, 1)


def test_a_function_that_goes_takes_its_entries_along() -> None:
    cache = PerformanceCache()

    class Value:
        pass

    @cache_result(cache=cache)
    def function(x: int) -> Any:
        return Value()

    gone = weakref.ref(function(1)), weakref.ref(function)
    del function
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert len(cache) == 0

    @cache_result(cache=cache)
    def loop(x: int) -> Any:
        return loop  # noqa: F821

    loop(1)
    gone2 = weakref.ref(loop)
    del loop, cache
    gc.collect()
    assert gone2() is None


def test_methods_in_a_shared_cache() -> None:
    cache = PerformanceCache()

    class Thing:
        @cache_result(cache=cache)
        def method(self, x: int) -> int:
            return x

        @staticmethod
        @cache_result(cache=cache)
        def static(x: int) -> int:
            return -x

    thing = Thing()
    assert [thing.method(1), thing.static(1), thing.method(1)] == [1, -1, 1]
    assert len(cache) == 2
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None
    assert len(cache) == 1


def test_options_that_are_the_shared_caches() -> None:
    cache = PerformanceCache()
    for options in (
        {"max_size": 5},
        {"max_bytes": 5},
        {"policy": "fifo"},
        {"cache_dir": "x"},
        {"allow_pickle": b"k" * 16},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            cache_result(cache=cache, **options)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="cache must be a PerformanceCache, not dict"):
        cache_result(cache={})  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="has no cache_dir"):
        cache_result(cache=cache, persist=True)
    with pytest.raises(ValueError, match="persist=True needs a place"):
        cache_result(persist=True)
    for wrong, name in (({"persist": 1}, "persist"), ({"cache_if": 1}, "cache_if"), ({"version": 1.5}, "version")):
        with pytest.raises(TypeError, match=name):
            cache_result(**wrong)  # type: ignore[call-overload]

    async def never_false(result: Any) -> bool:
        return False

    with pytest.raises(TypeError, match="coroutine function"):
        cache_result(cache_if=never_false)
    with pytest.raises(ValueError, match="ttl"):
        cache_result(ttl=-1)(len)


def test_a_closed_shared_cache_keeps_nothing() -> None:
    cache = PerformanceCache()
    calls: list[int] = []
    function = cache_result(cache=cache)(lambda x: calls.append(x))
    function(1)
    cache.close()
    function(1)
    function(1)
    assert calls == [1, 1, 1]


# ---- bounds -------------------------------------------------------------------------------------------------------------------


def test_bytes_and_time() -> None:
    @cache_result(max_bytes=10_000, max_size=None)
    def block(x: int) -> Any:
        return np.zeros(x, np.uint8)

    block(4000)
    block(4001)
    block(4002)
    info = block.cache_info()  # type: ignore[attr-defined]
    assert (info.currsize, info.evictions, info.maxsize, info.max_bytes) == (2, 1, None, 10_000)
    assert 8000 < info.bytes <= 10_000
    assert len(block(20_000)) == 20_000
    assert block.cache_info().rejects == 1  # type: ignore[attr-defined]

    for ttl, ended in ((0.03, 1), (datetime.timedelta(milliseconds=30), 1), (datetime.timedelta(hours=1), 0)):
        calls: list[Any] = []
        function = cache_result(ttl=ttl)(lambda x, calls=calls: calls.append(x))
        function(1)
        time.sleep(0.05)
        function(1)
        assert calls == [1] * (1 + ended)
        assert function.cache_info().expirations == ended


@pytest.mark.parametrize("policy", ["lru", "fifo", "sieve", "s3fifo", "wtinylfu", "auto"])
def test_policies_by_name(policy: str) -> None:
    function = cache_result(policy=policy, max_size=10)(lambda x: [x])
    for x in range(100):
        assert function(x % 23) == [x % 23]
    info = function.cache_info()
    assert (info.currsize, info.hits + info.misses) == (10, 100)
    assert function.cache_parameters()["policy"] == policy
    with pytest.raises(ValueError, match="policy"):
        cache_result(policy="unheard of")(len)


def test_seconds() -> None:
    inside = 0.0

    @cache_result
    def function(x: Any) -> int:
        nonlocal inside
        begin = time.perf_counter()
        time.sleep(0.01)
        inside += time.perf_counter() - begin
        return 1

    begin = time.perf_counter()
    function(5)
    info = function.cache_info()  # type: ignore[attr-defined]
    assert info.hash_seconds == 0
    assert inside * 0.999 <= info.compute_seconds <= (time.perf_counter() - begin) * 1.001
    function(np.zeros(1000))
    info = function.cache_info()  # type: ignore[attr-defined]
    assert info.hash_seconds > 0
    assert inside * 0.999 <= info.compute_seconds
    assert info.compute_seconds + info.hash_seconds <= (time.perf_counter() - begin) * 1.001


# ---- disk ---------------------------------------------------------------------------------------------------------------------


def again(function: Any, **options: Any) -> tuple[Any, list[Any]]:
    """The function in a cache that a new process would have, and the list of calls that reach it."""
    calls: list[Any] = []

    @functools.wraps(function)
    def body(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return function(*args, **kwargs)

    options.setdefault("version", 1)
    return cache_result(persist=True, **options)(body), calls


def test_results_outlive_the_cache(tmp_path: pathlib.Path) -> None:
    def double(x: Any) -> Any:
        return x * 2

    first, calls = again(double, cache_dir=tmp_path)
    arrays = [np.arange(5), np.arange(50_000).reshape(100, 500)]
    for x in (1, "a", 2.5, *arrays):
        first(x)
    second, later_calls = again(double, cache_dir=tmp_path)
    for x in (1, "a", 2.5):
        assert second(x) == x * 2
    for x in arrays:
        result = second(x)
        np.testing.assert_array_equal(result, x * 2)
        assert not result.flags.writeable
    assert (len(calls), len(later_calls)) == (5, 0)
    info = second.cache_info()
    assert (info.hits, info.misses) == (5, 0)
    assert info.load_seconds > 0
    assert info.compute_seconds == 0


def test_private_copies_from_disk(tmp_path: pathlib.Path) -> None:
    again(lambda x: np.zeros(x), name="zeros", cache_dir=tmp_path)[0](10_000)
    function, calls = again(lambda x: np.zeros(x), name="zeros", cache_dir=tmp_path, copy=True)
    function(10_000)[:] = 1
    function(10_000)[:] = 2
    assert function(10_000).sum() == 0
    assert calls == []


def test_invalidate_and_clear_reach_the_disk(tmp_path: pathlib.Path) -> None:
    function, _ = again(lambda x: x, name="one", cache_dir=tmp_path)
    other, _ = again(lambda x: x, name="two", cache_dir=tmp_path)
    for x in range(3):
        function(x)
        other(x)
    assert function.invalidate(0) is True
    assert function.invalidate(0) is False
    assert again(lambda x: x, name="one", cache_dir=tmp_path)[0].invalidate(1) is True, "only on disk"
    function, calls = again(lambda x: x, name="one", cache_dir=tmp_path)
    assert [function(x) for x in range(3)] == [0, 1, 2]
    assert calls == [(0,), (1,)]
    function.cache_clear()
    function, calls = again(lambda x: x, name="one", cache_dir=tmp_path)
    other, other_calls = again(lambda x: x, name="two", cache_dir=tmp_path)
    for x in range(3):
        function(x)
        other(x)
    assert (len(calls), len(other_calls)) == (3, 0), "another function's entries stay"


def test_what_is_invalidated_while_it_is_computed_does_not_reach_the_disk(tmp_path: pathlib.Path) -> None:
    @cache_result("late", persist=True, cache_dir=tmp_path, version=1)
    def function(x: int) -> int:
        function.invalidate(x)  # type: ignore[attr-defined]
        return x

    assert function(1) == 1
    later, calls = again(lambda x: x, name="late", cache_dir=tmp_path)
    later(1)
    assert calls == [(1,)]


def test_versions_and_names(tmp_path: pathlib.Path) -> None:
    for version in (1, 2, "1", 1):
        again(lambda x: x, name="f", cache_dir=tmp_path, version=version)[0](5)
    for options, expected in (({"version": 1}, 0), ({"version": 3}, 1), ({"version": 1, "name": "g"}, 1)):
        function, calls = again(lambda x: x, cache_dir=tmp_path, **{"name": "f", **options})
        function(5)
        assert len(calls) == expected


def test_clear_reaches_all_of_its_own_on_disk_and_nothing_else(tmp_path: pathlib.Path) -> None:
    names = ["f", "f()", "f\0", "f\0()", "n" * 200, "n" * 199 + "é", "n" * 250, "n" * 251, "n" * 178 + "()", "f)"]
    cache = PerformanceCache(cache_dir=tmp_path)
    for name in names:
        for key in (name, name + "()"):
            cache.set(key, "by hand", persist=True)
    for cleared in names:
        functions = {name: again(lambda x: x, name=name, cache_dir=tmp_path) for name in names}
        for function, _ in functions.values():
            function(1)
        functions[cleared][0].cache_clear()
        for name in names:
            function, calls = again(lambda x: x, name=name, cache_dir=tmp_path)
            function(1)
            assert len(calls) == (name == cleared), (cleared, name)
    kept = PerformanceCache(cache_dir=tmp_path)
    for name in names:
        assert [kept.get(key) for key in (name, name + "()")] == ["by hand"] * 2


def test_a_shared_cache_with_a_directory(tmp_path: pathlib.Path) -> None:
    for expected in (1, 0):
        with PerformanceCache(10, tmp_path) as cache:
            function, calls = again(lambda x: [x], name="shared", cache=cache)
            assert function(1) == [1]
            assert len(calls) == expected


def test_time_to_live_on_disk(tmp_path: pathlib.Path) -> None:
    again(lambda x: x, name="short", cache_dir=tmp_path, ttl=0.05)[0](1)
    function, calls = again(lambda x: x, name="short", cache_dir=tmp_path, ttl=0.05)
    time.sleep(0.1)
    function(1)
    assert calls == [(1,)]


def test_a_time_to_live_that_is_added_later(tmp_path: pathlib.Path) -> None:
    again(lambda x: x, name="forever", cache_dir=tmp_path)[0](1)
    time.sleep(0.02)
    shared = PerformanceCache(cache_dir=tmp_path)
    for options, expected in (({"ttl": 1000}, 0), ({"ttl": 0.01}, 1)):
        function, calls = again(lambda x: x, name="forever", cache=shared, **options)
        function(1)
        assert len(calls) == expected, options


def test_no_memory_but_disk(tmp_path: pathlib.Path) -> None:
    function, calls = again(lambda x: [x], name="disk only", cache_dir=tmp_path, max_size=0)
    assert [function(1), function(1), function(1)] == [[1]] * 3
    assert len(calls) == 1
    assert function.cache_info().currsize == 0


def test_what_cannot_be_stored(tmp_path: pathlib.Path) -> None:
    class Odd:
        pass

    function, calls = again(lambda x: Odd(), name="odd", cache_dir=tmp_path)
    with pytest.warns(RuntimeWarning, match=r"odd\(\): results of type .*Odd cannot be stored") as warned:  # noqa: PT031
        kept = function(1)
        function(2)
    assert len(warned) == 1, "once"
    assert function(1) is kept
    assert function.cache_info().rejects == 2
    assert len(calls) == 2


def test_pickles_with_a_key(tmp_path: pathlib.Path) -> None:
    for key, expected in ((b"k" * 32, 1), (b"k" * 32, 0), (b"other key, as long", 1)):
        function, calls = again(
            lambda x: re.compile("a" * x),
            name="pickles",
            cache_dir=tmp_path,
            allow_pickle=key,
        )
        assert function(2) == re.compile("aa")
        assert len(calls) == expected


@dataclasses.dataclass
class Model:
    weight: int

    def plain(self, x: int) -> int:
        return self.weight * x


class Opaque:
    def plain(self, x: int) -> int:
        return x


def method_of(cls: type, directory: pathlib.Path, calls: list[Any]) -> type:
    """A subclass with a persistent method."""
    plain = cls.plain  # type: ignore[attr-defined]

    def scaled(self: Any, x: int) -> int:
        calls.append(x)
        return int(plain(self, x))

    return type(
        cls.__name__, (cls,), {"scaled": cache_result("scaled", persist=True, cache_dir=directory, version=1)(scaled)}
    )


class Stubborn:
    """Raises what it is told to when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_what_pickling_a_value_raises_comes_out(tmp_path: pathlib.Path, error: BaseException) -> None:
    key = b"a secret of sixteen bytes or more"
    function, calls = again(lambda x: Stubborn(error), name="f", cache_dir=tmp_path, allow_pickle=key)
    for expected in (1, 2):
        with pytest.raises(type(error)):
            function(1)
        assert len(calls) == expected, "nothing was kept"
    with PerformanceCache(cache_dir=tmp_path, allow_pickle=key) as cache:
        with pytest.raises(type(error)):
            cache.set("a", Stubborn(error), persist=True)
        assert "a" not in cache


def test_instances_count_by_content(tmp_path: pathlib.Path) -> None:
    calls: list[Any] = []
    kind = method_of(Model, tmp_path, calls)
    assert [kind(2).scaled(3), kind(2).scaled(3), kind(5).scaled(3)] == [6, 6, 15]
    model = kind(2)
    assert model.scaled(3) == 6
    model.weight = 7
    assert model.scaled(3) == 21, "changed content is another key"
    assert len(calls) == 3
    with pytest.raises(TypeError, match=r"scaled\(\): argument 'self'.*Opaque.*key=.*ignore="):
        method_of(Opaque, tmp_path, calls)().scaled(1)


def test_the_key_of_a_method_is_a_function_of_the_other_arguments(tmp_path: pathlib.Path) -> None:
    @dataclasses.dataclass
    class Model:
        weight: int

        @cache_result(persist=True, cache_dir=tmp_path, version=1, key=lambda x: x % 10)
        def scaled(self, x: int) -> int:
            return self.weight * x

    assert [Model(2).scaled(3), Model(2).scaled(13), Model(5).scaled(3)] == [6, 6, 15]


def test_what_has_no_content_names_the_argument(tmp_path: pathlib.Path) -> None:
    calls = []

    @cache_result(persist=True, cache_dir=tmp_path)
    def function(x: Any, y: Any = 0) -> int:
        calls.append(x)
        return 1

    with pytest.raises(TypeError, match=r"function\(\): argument 'y'.*Opaque"):
        function(1, y=Opaque())
    with pytest.raises(TypeError, match="argument 'x'"):
        function([Opaque()])
    assert calls == []

    by_key = cache_result(persist=True, cache_dir=tmp_path, key=lambda x: x)(lambda x: x)
    with pytest.raises(TypeError, match="what key= returned"):
        by_key(Opaque())
    ignoring = cache_result(persist=True, cache_dir=tmp_path, ignore="y")(function.__wrapped__)  # type: ignore[attr-defined]
    assert ignoring(1, Opaque()) == 1


def test_threads_load_and_compute_once(tmp_path: pathlib.Path) -> None:
    for expected in (1, 0):

        def slow(x: int) -> list[int]:
            time.sleep(0.1)
            return [x]

        function, calls = again(slow, name="slow", cache_dir=tmp_path)
        results: list[Any] = []
        threads = [threading.Thread(target=lambda f=function, r=results: r.append(f(1))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [[1]] * 20
        assert len(calls) == expected


def test_coroutine_functions(tmp_path: pathlib.Path) -> None:
    calls: list[int] = []

    def make(**options: Any) -> Any:
        @cache_result("fetch", persist=True, cache_dir=tmp_path, version=1, **options)
        async def fetch(x: int) -> list[int]:
            calls.append(x)
            await asyncio.sleep(0)
            return [x]

        return fetch

    async def main(function: Any) -> None:
        assert await asyncio.gather(*(function(1) for _ in range(10))) == [[1]] * 10

    first, second, alone = make(), make(), make(single_flight=False)
    asyncio.run(main(first))
    asyncio.run(main(second))
    asyncio.run(main(alone))
    assert calls == [1]
    assert second.cache_info()[:2] == (10, 0)
    assert second.invalidate(1) is True
    asyncio.run(main(make()))
    assert calls == [1, 1]


# ---- the identity of code -----------------------------------------------------------------------------------------------------


def compiled(text: str, file: str = "one.py") -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(compile(textwrap.dedent(text), file, "exec"), scope)
    return scope["f"]  # type: ignore[no-any-return]


def test_files_lines_and_docstrings_do_not_count() -> None:
    plain = compiled("def f(x, y=1):\n    return [i + y for i in range(x)]")
    moved = compiled('\n\n# moved\ndef f(x, y=1):\n    """Said."""\n\n    return [i + y for i in range(x)]', "two.py")
    assert code_identity(plain) == code_identity(moved)


@pytest.mark.parametrize(
    "text",
    [
        "def f(x, y=1):\n    return [i + y for i in range(x + 1)]",
        "def f(x, y=1):\n    return [i - y for i in range(x)]",
        "def f(x, y=2):\n    return [i + y for i in range(x)]",
        "def f(x, y=1.0):\n    return [i + y for i in range(x)]",
        "def f(x, *, y=1):\n    return [i + y for i in range(x)]",
        "def f(x, z=1):\n    return [i + z for i in range(x)]",
        "def f(x, y=1):\n    return {i + y for i in range(x)}",
        "def f(x, y=1):\n    return [i + y for i in reversed(x)]",
    ],
)
def test_what_a_function_does_counts(text: str) -> None:
    plain = compiled("def f(x, y=1):\n    return [i + y for i in range(x)]")
    assert code_identity(plain) != code_identity(compiled(text))


def test_closures_count_by_content() -> None:
    def make(value: Any) -> Any:
        return lambda x: (x, value)

    assert code_identity(make(np.arange(3))) == code_identity(make(np.arange(3)))
    assert code_identity(make(np.arange(3))) != code_identity(make(np.arange(4)))
    assert code_identity(make(lambda: 1)) != code_identity(make(lambda: 2))
    assert code_identity(make(math := sys)) == code_identity(make(math))

    def recursive() -> Any:
        def factorial(n: int) -> int:
            return 1 if n < 2 else n * factorial(n - 1)

        return factorial

    assert code_identity(recursive()) == code_identity(recursive())


class Scale:
    """An object that counts by identity, has a state, and can be called."""

    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __call__(self, x: Any) -> Any:
        return x * self.factor

    def method(self, x: Any) -> Any:
        return x * self.factor


@pytest.mark.parametrize(
    "make",
    [
        Scale,
        lambda factor: Scale(factor).method,
        lambda factor: (lambda held: lambda x: held(x))(Scale(factor)),
        lambda factor: (lambda held: lambda x: held[0][1](x))([(1, Scale(factor)), {"a": Scale(1)}]),
        lambda factor: functools.partial(Scale.method, Scale(factor)),
        lambda factor: (lambda held: lambda x: held)({Scale(factor), Scale(3), Scale(4)}),
        lambda factor: operator.itemgetter(factor),
        lambda factor: str(factor).join,
        lambda factor: (np.add, np.multiply)[factor - 1],
    ],
)
def test_the_state_of_what_is_called_counts(make: Callable[[int], Any]) -> None:
    assert code_identity(make(1)) == code_identity(make(1))
    assert code_identity(make(1)) != code_identity(make(2))


def test_what_nobody_can_tell_apart_is_refused(tmp_path: pathlib.Path) -> None:
    held = threading.Lock()

    def holds(x: int) -> Any:
        return held is not None

    def early() -> Any:
        def uses(x: int) -> int:
            return x * factor

        decorated = cache_result(persist=True, cache_dir=tmp_path, **options)(uses)
        factor = 2
        return decorated

    options: dict[str, Any] = {}
    with pytest.raises(TypeError, match=r"another _thread\.lock object .* pass version="):
        cache_result(persist=True, cache_dir=tmp_path)(holds)
    with pytest.raises(TypeError, match=r"uses\(\) uses the variable 'factor' .* pass version="):
        early()
    options["version"] = 1
    assert early()(3) == 6
    assert cache_result(persist=True, cache_dir=tmp_path, version=1)(holds)(1) is True

    class Base:
        def named(self) -> str:
            return "base"

    @dataclasses.dataclass
    class Derived(Base):
        number: int

        @cache_result(persist=True, cache_dir=tmp_path)
        def named(self) -> str:
            return super().named()

    assert Derived(1).named() == "base"

    @cache_result(persist=True, cache_dir=tmp_path)
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial(5) == 120


def test_other_callables() -> None:
    class Adder:
        def __call__(self, x: int) -> int:
            return x + 1

    def add(x: int, y: int) -> int:
        return x + y

    callables: list[Any] = [
        len,
        sorted,
        Adder(),
        functools.partial(add, 1),
        functools.partial(add, 2),
        cache_result(add),
        dict,
    ]
    identities = [code_identity(function) for function in callables]
    assert len(set(identities)) == len(identities)
    assert identities == [code_identity(function) for function in callables]


def test_the_same_in_another_process(tmp_path: pathlib.Path) -> None:
    text = """
        import sys
        from perfopt.cache import cache_result
        @cache_result(persist=True, cache_dir=sys.argv[1])
        def function(x, y={1, 2, 3}, z=frozenset("abc")):
            print("computed")
            return [x, len(y), x in {"p", "q", "r"}]
        assert function("p") == ["p", 3, True]
    """
    outputs = []
    for name in ("first.py", "second.py"):
        (tmp_path / name).write_text("\n" * len(outputs) + textwrap.dedent(text))
        command = [sys.executable, str(tmp_path / name), str(tmp_path / "cache")]
        outputs.append(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert outputs == ["computed\n", ""]


def test_functions_of_one_name_in_two_programs(tmp_path: pathlib.Path) -> None:
    """With version= the code does not count: what tells them apart is the program, also in the processes that it starts."""
    text = """
        import multiprocessing, sys
        from perfopt.cache import cache_result
        @cache_result(persist=True, cache_dir=sys.argv[1], version=1)
        def function(x):
            return "{answer}"
        @cache_result("given", persist=True, cache_dir=sys.argv[1], version=1)
        def named(x):
            return "{answer}"
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(function(1), named(1), pool.apply(function, (2,)), function(2), function.cache_info().misses)
    """
    (tmp_path / "again").mkdir()
    for name in ("one.py", "two.py", "again/one.py"):
        (tmp_path / name).write_text(textwrap.dedent(text).format(answer=name))

    def run(*command: str) -> str:
        arguments = [sys.executable, *command, str(tmp_path / "cache")]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        return done.stdout.strip()

    assert run("one.py") == "one.py one.py one.py one.py 1", (
        "the second result is the one that the other process stored"
    )
    assert run("two.py") == "two.py one.py two.py two.py 1"
    assert run("again/one.py") == "again/one.py one.py again/one.py again/one.py 1"
    assert run(str(tmp_path / "again" / ".." / "one.py")) == "one.py one.py one.py one.py 0"
    assert run("-m", "one") == "one.py one.py one.py one.py 1", "the name of a module that is run"
    assert run("-m", "one") == "one.py one.py one.py one.py 0"
    assert run("-m", "again.one") == "again/one.py one.py again/one.py again/one.py 1"


def test_functions_of_one_name_in_programs_that_are_folders_or_run_by_a_profiler(tmp_path: pathlib.Path) -> None:
    text = """
        import functools, sys
        from perfopt.cache import cache_result
        def plain(function):
            return functools.wraps(function)(lambda x: function(x))
        @cache_result(persist=True, cache_dir=sys.argv[1], version=1)
        @plain
        def function(x):
            return "{answer}"
        print(function(1), function.cache_info().misses)
    """
    programs = ("one", "two")
    for name in programs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__main__.py").write_text(textwrap.dedent(text).format(answer=name))

    def run(*command: str) -> str:
        arguments = [sys.executable, *command, str(tmp_path / "cache")]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        return done.stdout.partition("\n")[0]

    assert [run(name) for name in programs] == ["one 1", "two 1"]
    assert [run(name + "/__main__.py") for name in programs] == ["one 0", "two 0"]
    assert [run("-m", "cProfile", name + "/__main__.py") for name in programs] == ["one 0", "two 0"]
    assert [run("-m", name) for name in programs] == ["one 1", "two 1"]
