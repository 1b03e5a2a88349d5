"""The profiler from Python: what is counted, what passes through, what is refused, and that memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import inspect
import json
import os
import pickle
import sys
import threading
import time
import types
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from waiting import until

from perfopt import _core
from perfopt.profiler import PerformanceProfiler, default_profiler, profile_operation, range_cost_seconds


@pytest.fixture
def profiler() -> PerformanceProfiler:
    return PerformanceProfiler()


def counts(profiler: PerformanceProfiler) -> dict[str, int]:
    return {name: int(row["count"]) for name, row in profiler.get_profile_summary()["operations"].items()}


def row(profiler: PerformanceProfiler, name: str) -> dict[str, float]:
    found: dict[str, float] = profiler.get_profile_summary()["operations"][name]
    return found


# ---- ranges ----


@pytest.mark.spec("S0-38")
def test_ranges_are_counted_and_timed(profiler: PerformanceProfiler) -> None:
    for _ in range(3):
        with profiler.profile("sleep"):
            time.sleep(0.02)
    begin = time.perf_counter()
    with profiler.profile("nothing"):
        pass
    elapsed = time.perf_counter() - begin
    figures = row(profiler, "sleep")
    assert figures["count"] == 3
    assert figures["min"] >= 0.02 * 0.999
    assert figures["total"] >= 0.06 * 0.999
    assert figures["min"] <= figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["max"] <= figures["total"]
    assert figures["mean"] == pytest.approx(figures["total"] / 3)
    assert row(profiler, "nothing")["count"] == 1
    assert row(profiler, "nothing")["total"] <= elapsed * 1.001


def test_durations_agree_with_another_clock(profiler: PerformanceProfiler) -> None:
    begin = time.perf_counter()
    with profiler.profile("outer"):
        inside = time.perf_counter()
        time.sleep(0.05)
        end_inside = time.perf_counter()
    end = time.perf_counter()
    assert (end_inside - inside) * 0.999 <= row(profiler, "outer")["total"] <= (end - begin) * 1.001


@pytest.mark.spec("S0-39", "S0-42")
def test_the_summary_is_plain_numbers(profiler: PerformanceProfiler) -> None:
    empty = json.loads(json.dumps(profiler.get_profile_summary()))
    assert empty["total_operations"] == 0
    assert empty["total_duration"] == 0.0
    assert empty["operations"] == {}
    for name in ("b", "a", "b"):
        with profiler.profile(name):
            time.sleep(0.001)
    summary = profiler.get_profile_summary()
    assert json.loads(json.dumps(summary)) == summary
    assert type(summary["total_operations"]) is int
    assert type(summary["total_duration"]) is float
    assert summary["total_operations"] == 3
    assert summary["total_duration"] == pytest.approx(sum(r["total"] for r in summary["operations"].values()))
    assert summary["total_duration"] >= 0.003
    assert list(summary["operations"]) == ["b", "a"]
    for figures in summary["operations"].values():
        assert list(figures)[:8] == ["count", "total", "mean", "min", "max", "p50", "p90", "p99"]
        assert list(figures)[8:] == ["p99.9", "sd", "error", "active", "self", "memory", "callers"]
        assert all(type(v) is (int if k == "count" else float) for k, v in list(figures.items())[:13])
    assert summary["overflow_operations"] == 0
    assert summary["overflow"] is None
    assert summary["dropped_operations"] == 0
    assert summary["clock"]["source"] in ("tsc", "clock_monotonic")
    assert summary["overhead_seconds"] == pytest.approx(3 * range_cost_seconds())


def test_the_cost_of_a_range_is_that_of_the_fastest_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that the test moves: batches of 500 empty turns and 500 ranges, most of which were interrupted somewhere."""
    loops, ranges = [1_000, 90_000, 1_100, 1_000, 1_200], [800_000, 51_000, 52_000, 99_000, 51_500]
    readings = [now for empty, full in zip(loops, ranges, strict=True) for now in (0, empty, empty + full)]
    clock = types.SimpleNamespace(perf_counter_ns=iter(readings).__next__)
    monkeypatch.setattr("perfopt.profiler.time", clock)
    assert range_cost_seconds.__wrapped__() == pytest.approx((51_000 - 1_000) / 500 * 1e-9)
    clock.perf_counter_ns = iter([0, 8, 15] * 5).__next__  # the empty loop was the longer one
    assert range_cost_seconds.__wrapped__() == 0


def test_hostile_names(profiler: PerformanceProfiler) -> None:
    names = ["", 'quo"te', "nul\0byte", "emoji 🚀", "\ud800", "line\nbreak", "long" * 250_000]
    for name in names:
        with profiler.profile(name):
            pass
    assert counts(profiler) == dict.fromkeys(names, 1)
    assert json.loads(json.dumps(profiler.get_profile_summary()))["total_operations"] == len(names)


def test_equal_names_are_one_name_whatever_object(profiler: PerformanceProfiler) -> None:
    class Text(str):
        __slots__ = ()

        def __hash__(self) -> int:
            raise AssertionError("user code must not run")

        __eq__ = None  # type: ignore[assignment]

    for name in ("step", "".join(["st", "ep"]), Text("step")):
        with profiler.profile(name):
            pass
    assert counts(profiler) == {"step": 3}
    assert type(next(iter(profiler.get_profile_summary()["operations"]))) is str


def test_many_names_that_share_cache_places(profiler: PerformanceProfiler) -> None:
    names = [f"name {i}" for i in range(1000)]
    for turn in range(3):
        for i, name in enumerate(names):
            if i % 3 >= turn:
                with profiler.profile(name):
                    pass
    assert counts(profiler) == {name: i % 3 + 1 for i, name in enumerate(names)}


def test_nested_ranges_of_one_name(profiler: PerformanceProfiler) -> None:
    with profiler.profile("same"):
        with profiler.profile("same"):
            time.sleep(0.01)
        with profiler.profile("same"), profiler.profile("same"):
            pass
    figures = row(profiler, "same")
    assert figures["count"] == 4
    assert figures["total"] >= 0.02
    assert figures["min"] < figures["max"] >= 0.01


@pytest.mark.spec("S0-43")
def test_exceptions_pass_and_are_recorded(profiler: PerformanceProfiler) -> None:
    class OurError(Exception):
        pass

    error = OurError()
    with pytest.raises(OurError) as caught, profiler.profile("fails"):
        raise error
    assert caught.value is error
    assert counts(profiler) == {"fails": 1}
    with pytest.raises(KeyboardInterrupt), profiler.profile("outer"), profiler.profile("fails"):
        raise KeyboardInterrupt
    for _ in range(2):
        with contextlib.suppress(OurError), profiler.profile("retry"):
            raise error
    with profiler.profile("retry"):
        pass
    assert counts(profiler) == {"fails": 2, "outer": 1, "retry": 3}


@pytest.mark.parametrize("wrong", [1, None, b"x", 1.5, ["x"], object()])
def test_a_name_must_be_a_str(profiler: PerformanceProfiler, wrong: Any) -> None:
    for enabled in (True, False):
        profiler.enabled = enabled
        with pytest.raises(TypeError, match=f"name must be a str, not {type(wrong).__name__}"):
            profiler.profile(wrong)
        if wrong is not None:
            with pytest.raises(TypeError, match="name must be a str"):
                profile_operation(wrong)
    assert counts(profiler) == {}


def test_misused_ranges_say_so(profiler: PerformanceProfiler) -> None:
    entry = profiler.profile("x")
    with pytest.raises(RuntimeError, match="'x' is not open"):
        entry.__exit__(None, None, None)
    with entry:
        with pytest.raises(RuntimeError, match="'x' is already open"):
            entry.__enter__()
        assert repr(entry) == "<perfopt range 'x', open>"
    with pytest.raises(RuntimeError, match="'x' is not open: it was closed already"):
        entry.__exit__()
    with entry:  # closed, so it can be used again
        pass
    with pytest.raises(TypeError, match="at most 3 arguments"):
        entry.__exit__(1, 2, 3, 4)  # type: ignore[call-arg]
    assert counts(profiler) == {"x": 2}
    profiler.stop()
    with entry, pytest.raises(RuntimeError, match="already open"):
        entry.__enter__()
    with pytest.raises(RuntimeError, match="not open"):
        entry.__exit__()
    assert counts(profiler) == {"x": 2}
    with pytest.raises(TypeError, match="cannot create"):
        _core.Range()
    with pytest.raises(TypeError, match="cannot create"):
        _core.ProfiledFunction()


def test_ranges_may_close_in_any_order_and_thread(profiler: PerformanceProfiler) -> None:
    first, second = profiler.profile("first"), profiler.profile("second")
    assert first.__enter__() is first
    second.__enter__()
    first.__exit__(None, None, None)
    thread = threading.Thread(target=second.__exit__)
    thread.start()
    thread.join()
    assert counts(profiler) == {"first": 1, "second": 1}


def test_a_range_outlives_its_profiler() -> None:
    profiler = PerformanceProfiler()
    gone = weakref.ref(profiler)
    entry = profiler.profile("x")
    del profiler
    gc.collect()
    with entry:
        assert gone() is not None
    del entry
    assert gone() is None


# ---- on, off, reset ----


@pytest.mark.spec("S0-61")
def test_off_records_nothing(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("call")
    def work() -> int:
        return 5

    assert profiler.enabled is True
    profiler.stop()
    assert profiler.enabled is False
    with profiler.profile("x"):
        assert work() == 5
    assert profiler.get_profile_summary()["total_operations"] == 0
    profiler.start()
    with profiler.profile("x"):
        work()
    profiler.enabled = False
    work()
    assert counts(profiler) == {"x": 1, "call": 1}
    for wrong in (1, None, "on"):
        with pytest.raises(TypeError, match="enabled must be True or False"):
            profiler.enabled = wrong
    with pytest.raises(TypeError, match="enabled"):
        del profiler.enabled


def test_what_counts_is_being_on_at_the_beginning(profiler: PerformanceProfiler) -> None:
    with profiler.profile("begun on"):
        profiler.stop()
        with profiler.profile("begun off"):
            profiler.start()
    entry = profiler.profile("made on")
    profiler.stop()
    with entry:
        pass
    entry = profiler.profile("made off")
    profiler.start()
    with entry:
        pass
    assert counts(profiler) == {"begun on": 1, "made off": 1}


def test_reset_during_use(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("recursive")
    def work(depth: int) -> None:
        if depth:
            work(depth - 1)
        else:
            profiler.reset()
            with profiler.profile("fresh"):
                pass

    entry = profiler.profile("kept")
    for name in ("a", "b", "c"):
        with profiler.profile(name):
            pass
    work(3)  # all open calls began before the reset
    assert counts(profiler) == {"fresh": 1}
    work(0)
    assert counts(profiler) == {"fresh": 1}
    with entry, profiler.profile("a"):
        pass
    assert counts(profiler) == {"fresh": 1, "kept": 1, "a": 1}
    profiler.reset()
    assert profiler.get_profile_summary()["total_operations"] == 0


def test_reset_while_threads_record(profiler: PerformanceProfiler) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def record(number: int) -> None:
        call = profiler.profile_operation(f"call {number}")(lambda: None)
        try:
            while not stop.is_set():
                with profiler.profile(f"thread {number}"):
                    call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=record, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        profiler.reset()
        profiler.get_profile_summary()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    seen = counts(profiler)
    assert set(seen) <= {f"{kind} {i}" for kind in ("call", "thread") for i in range(4)}
    profiler.reset()
    with profiler.profile("after"):
        pass
    assert counts(profiler) == {"after": 1}


# ---- threads, processes ----


def test_counts_are_exact_across_threads(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("call")
    def work(n: int) -> int:
        return n

    def run(number: int) -> None:
        for i in range(500):
            with profiler.profile("all"), profiler.profile(f"own {number % 5}"):
                work(i)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(run, i) for i in range(20)]
        while not all(future.done() for future in futures):
            summary = profiler.get_profile_summary()
            assert summary["total_operations"] <= 20 * 1500
        for future in futures:
            future.result()
    assert counts(profiler) == {"all": 10000, "call": 10000, **{f"own {i}": 2000 for i in range(5)}}


def test_threads_that_end_cost_nothing_for_ever(profiler: PerformanceProfiler) -> None:
    def record() -> None:
        with profiler.profile("short life"):
            pass

    for i in range(300):
        thread = threading.Thread(target=record)
        thread.start()
        number = thread.native_id
        thread.join()
        until(lambda number=number: not os.path.exists(f"/proc/self/task/{number}"))  # it ends in C after join()
        if i == 20:
            early = profiler.usage()["memory_bytes"]
    reading = profiler.usage()
    assert counts(profiler) == {"short life": 300}
    assert reading["threads"] <= 2
    assert reading["memory_bytes"] <= early + 16384


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_goes_on_recording(profiler: PerformanceProfiler) -> None:
    stop = threading.Event()

    def record() -> None:
        while not stop.is_set():
            with profiler.profile("other thread"):
                pass

    thread = threading.Thread(target=record)
    thread.start()
    try:
        for _ in range(5):
            with profiler.profile("mine"):
                pass
        with profiler.profile("around the fork"):
            child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(7):
                    with profiler.profile("mine"):
                        pass
                inside = threading.Thread(target=lambda: profiler.wrap(len, "len")("abc"))
                inside.start()
                inside.join()
                seen = counts(profiler)
                code = 0 if (seen["mine"], seen["len"], seen["around the fork"]) == (12, 1, 1) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()
    seen = counts(profiler)
    assert seen["mine"] == 5
    assert "len" not in seen
    assert seen["other thread"] > 0


# ---- names without end ----


@pytest.mark.spec("S0-44")
def test_names_without_end_stay_in_bounded_memory() -> None:
    profiler = PerformanceProfiler(max_names=100)
    sizes = []
    for epoch in range(20):
        for batch in range(500):
            with profiler.profile(f"epoch_{epoch}_batch_{batch}"):
                pass
        sizes.append(profiler.get_profile_summary()["memory_bytes"])
    summary = profiler.get_profile_summary()
    assert len(summary["operations"]) == 100
    assert summary["total_operations"] == 10000
    assert summary["overflow_operations"] == 9900
    assert summary["overflow"]["count"] == 9900
    assert summary["total_duration"] >= summary["overflow"]["total"] > 0
    assert sizes[-1] <= sizes[1] + 8192
    assert sizes[-1] < 101 * 2048 + 8192
    with profiler.profile("epoch_0_batch_7"):  # a name from before the limit keeps its row
        pass
    assert row(profiler, "epoch_0_batch_7")["count"] == 2
    profiler.reset()
    with profiler.profile("room again"):
        pass
    assert counts(profiler) == {"room again": 1}


@pytest.mark.spec("S0-44")
def test_the_default_limit() -> None:
    profiler = PerformanceProfiler()
    assert profiler.max_names == 10000
    for i in range(10050):
        with profiler.profile(f"name {i}"):
            pass
    summary = profiler.get_profile_summary()
    assert (len(summary["operations"]), summary["overflow_operations"]) == (10000, 50)
    assert summary["memory_bytes"] < 10001 * 1024 + 262144


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("10", TypeError),
        (1.5, TypeError),
        (True, TypeError),
        (None, TypeError),
        (0, ValueError),
        (-1, ValueError),
        (2**24 + 1, ValueError),
        (2**80, ValueError),
    ],
)
def test_max_names_is_checked(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_names must be"):
        PerformanceProfiler(max_names=wrong)
    with pytest.raises(TypeError):
        PerformanceProfiler(10)  # type: ignore[call-arg]


def test_a_subclass_works() -> None:
    class Own(PerformanceProfiler):
        def __init__(self) -> None:
            self.note = "mine"

    profiler = Own()
    with profiler.profile("x"):
        pass
    assert counts(profiler) == {"x": 1}
    entry = profiler.profile("cycle")
    profiler.note = entry  # type: ignore[assignment]
    gone = weakref.ref(profiler)
    del profiler, entry
    gc.collect()
    assert gone() is None


# ---- decorated functions ----


@profile_operation
def module_level(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> tuple[Any, ...]:
    """Its documentation."""
    return a, b, rest, c, more


@pytest.mark.spec("S0-46")
def test_the_decorator_records_into_the_default_profiler() -> None:
    @profile_operation("test preprocessing")
    def preprocess(values: list[int]) -> list[int]:
        return sorted(values)

    before = default_profiler().get_profile_summary()["operations"]
    assert preprocess([2, 1]) == [1, 2]
    assert preprocess(values=[3]) == [3]
    assert module_level(1) == (1, 2, (), 3, {})
    after = default_profiler().get_profile_summary()["operations"]
    assert default_profiler() is default_profiler()

    def added(name: str) -> int:
        return int(after[name]["count"]) - int(before[name]["count"] if name in before else 0)

    assert added("test preprocessing") == 2
    assert added("module_level") == 1


def test_all_ways_of_decorating(profiler: PerformanceProfiler) -> None:
    def f() -> str:
        return "f"

    wrapped = [
        profile_operation("one", profiler=profiler)(f),
        profile_operation(name="two", profiler=profiler)(f),
        profile_operation(profiler=profiler)(f),
        profile_operation(f, profiler=profiler),
        profiler.profile_operation("three")(f),
        profiler.profile_operation(name="four")(f),
        profiler.profile_operation()(f),
        profiler.profile_operation(f),
    ]
    assert [call() for call in wrapped] == ["f"] * 8
    own = "test_all_ways_of_decorating.<locals>.f"
    assert counts(profiler) == {"one": 1, "two": 1, own: 4, "three": 1, "four": 1}
    assert wrapped[0].operation == "one"  # type: ignore[attr-defined]
    assert wrapped[0].profiler is profiler  # type: ignore[attr-defined]


def test_a_decorated_function_looks_like_itself() -> None:
    assert module_level.__name__ == "module_level"
    assert module_level.__qualname__ == "module_level"
    assert module_level.__module__ == __name__
    assert module_level.__doc__ == "Its documentation."
    assert module_level.__annotations__["b"] == "int"
    plain = module_level.__wrapped__  # type: ignore[attr-defined]
    assert inspect.isfunction(plain)
    assert inspect.signature(module_level) == inspect.signature(plain)
    assert module_level(1, 4, 5, c=6, d=7) == (1, 4, (5,), 6, {"d": 7})
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        module_level()  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    assert copy.copy(module_level) is module_level
    assert copy.deepcopy(module_level) is module_level
    assert "module_level" in repr(module_level)
    module_level.note = 5
    assert weakref.ref(module_level)() is module_level


def test_what_the_function_raises_passes(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("fails")
    def fails(n: int) -> int:
        return 1 // n

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            fails(0)
    assert fails(1) == 1
    assert counts(profiler) == {"fails": 4}


def test_recursion(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("fib")
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(12) == 144
    assert row(profiler, "fib")["count"] == 465

    @profiler.profile_operation("endless")
    def endless() -> None:
        endless()

    with pytest.raises(RecursionError):
        endless()
    assert 10 < row(profiler, "endless")["count"] <= sys.getrecursionlimit()
    assert fib(3) == 2


def test_methods_of_all_kinds(profiler: PerformanceProfiler) -> None:
    class Model:
        @profiler.profile_operation("method")
        def method(self, x: int) -> tuple[Any, ...]:
            return self, x

        @classmethod
        @profiler.profile_operation("class below")
        def class_below(cls, x: int) -> tuple[Any, ...]:
            return cls, x

        @profiler.profile_operation("class above")
        @classmethod
        def class_above(cls, x: int) -> tuple[Any, ...]:
            return cls, x

        @staticmethod
        @profiler.profile_operation("static below")
        def static_below(x: int) -> int:
            return x

        @profiler.profile_operation("static above")
        @staticmethod
        def static_above(x: int) -> int:
            return x

        @property
        @profiler.profile_operation("property")
        def prop(self) -> Model:
            return self

        @profiler.profile_operation
        def own_name(self) -> None:
            """Documented."""

    class Child(Model):
        def method(self, x: int) -> tuple[Any, ...]:
            return super().method(x)

    model, child = Model(), Child()
    bound = model.method
    assert bound(1) == model.method(1) == Model.method(model, 1) == (model, 1)
    assert bound.__self__ is model  # type: ignore[attr-defined]
    assert child.method(1) == (child, 1)
    assert model.class_below(2) == Model.class_below(2) == (Model, 2)
    assert Child.class_above(2) == (Child, 2)
    assert model.static_below(3) == Model.static_below(3) == Model.static_above(3) == child.static_above(3) == 3
    assert model.prop is model
    model.own_name()
    assert list(inspect.signature(model.method).parameters) == ["x"]
    assert inspect.getdoc(model.own_name) == "Documented."
    assert counts(profiler) == {
        "method": 4,
        "class below": 2,
        "class above": 1,
        "static below": 2,
        "static above": 2,
        "property": 1,
        "test_methods_of_all_kinds.<locals>.Model.own_name": 1,
    }


def test_other_callables(profiler: PerformanceProfiler) -> None:
    class Adder:
        def __call__(self, x: int) -> int:
            return x + 1

    assert profiler.profile_operation("len")(len)("abc") == 3
    assert profiler.profile_operation(Adder())(1) == 2
    assert profiler.profile_operation("partial")(functools.partial(int, base=2))("11") == 3
    cached = profiler.profile_operation("cached")(functools.lru_cache(lambda x: x))
    assert cached(1) == cached(1) == 1
    assert cached.__wrapped__.cache_info().hits == 1  # type: ignore[attr-defined]
    assert counts(profiler) == {"len": 1, f"{Adder.__qualname__}": 1, "partial": 1, "cached": 2}


def test_wrong_decorations_say_so(profiler: PerformanceProfiler) -> None:
    with pytest.raises(TypeError, match="not classes: decorate the methods of int"):
        profiler.profile_operation("x")(int)
    with pytest.raises(TypeError, match="not classes"):
        profiler.profile_operation(int)
    with pytest.raises(TypeError, match="decorates functions, not property"):
        profiler.profile_operation("x")(property(lambda self: 1))  # type: ignore[type-var]
    with pytest.raises(TypeError, match="profiler must be a PerformanceProfiler or None, not int"):
        profile_operation("x", profiler=5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="function must be callable, not int"):
        profiler.wrap(5, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be a str, not int"):
        profiler.wrap(len, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exactly 2 arguments"):
        profiler.wrap(len)  # type: ignore[call-arg]


# ---- coroutines and generators ----


def test_interleaved_tasks_keep_their_own_ranges(profiler: PerformanceProfiler) -> None:
    async def task(number: int) -> None:
        with profiler.profile(f"task {number}"):
            for _ in range(3):
                await asyncio.sleep(0.005 * number)
                with profiler.profile("step"):
                    pass

    async def main() -> None:
        await asyncio.gather(*(task(i) for i in range(1, 6)))

    asyncio.run(main())
    assert counts(profiler) == {**{f"task {i}": 1 for i in range(1, 6)}, "step": 15}
    for i in range(1, 6):
        assert row(profiler, f"task {i}")["total"] >= 0.015 * i * 0.9


def test_coroutine_functions_record_the_await(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("fetch")
    async def fetch(n: int) -> int:
        """Doc."""
        await asyncio.sleep(0.02)
        if n < 0:
            raise ValueError(n)
        return n

    class Service:
        @profiler.profile_operation("async method")
        async def get(self) -> Service:
            return self

    class AsyncBase:
        async def __call__(self) -> int:
            await asyncio.sleep(0.02)
            return 7

    class AsyncCallable(AsyncBase):
        pass

    assert inspect.iscoroutinefunction(fetch)
    assert fetch.__name__ == "fetch"
    assert fetch.__doc__ == "Doc."
    assert list(inspect.signature(fetch).parameters) == ["n"]
    fetch(1).close()
    assert counts(profiler) == {}, "making a coroutine is no call"
    brief: list[float] = []

    async def main() -> None:
        assert await asyncio.gather(fetch(1), fetch(2), fetch(3)) == [1, 2, 3]
        with pytest.raises(ValueError, match="-1"):
            await fetch(-1)
        begin = time.perf_counter()
        cancelled = asyncio.ensure_future(fetch(5))
        await asyncio.sleep(0)  # it begins
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        brief.append(time.perf_counter() - begin)
        service = Service()
        assert await service.get() is service
        assert await profiler.profile_operation("async callable")(AsyncCallable())() == 7

    asyncio.run(main())
    figures = row(profiler, "fetch")
    assert figures["count"] == 5
    assert figures["min"] <= brief[0] * 1.001  # the cancelled one
    assert figures["total"] >= 4 * 0.019
    assert row(profiler, "async callable")["total"] >= 0.019
    assert counts(profiler) == {"fetch": 5, "async method": 1, "async callable": 1}


def test_generators_record_from_first_next_to_the_end(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("numbers")
    def numbers(n: int) -> Iterator[int]:
        for i in range(n):
            got = yield i
            if got is not None:
                yield got * 100
        return "done"  # type: ignore[return-value]

    assert inspect.isgeneratorfunction(numbers)
    unused = numbers(3)
    time.sleep(0.02)
    assert counts(profiler) == {}
    assert next(unused) == 0
    assert counts(profiler) == {}, "still open"
    time.sleep(0.01)
    assert list(unused) == [1, 2]
    figures = row(profiler, "numbers")
    assert figures["count"] == 1
    assert figures["total"] >= 0.01

    closed = numbers(3)
    next(closed)
    closed.close()
    assert row(profiler, "numbers")["count"] == 2
    sent = numbers(3)
    next(sent)
    assert sent.send(5) == 500
    with pytest.raises(KeyError):
        sent.throw(KeyError())
    assert row(profiler, "numbers")["count"] == 3

    def outer() -> Iterator[int]:
        assert (yield from numbers(1)) == "done"  # type: ignore[func-returns-value]

    assert list(outer()) == [0]
    assert row(profiler, "numbers")["count"] == 4
    never_started = numbers(1)
    never_started.close()
    assert row(profiler, "numbers")["count"] == 4


def test_async_generators_record_from_first_next_to_the_end(profiler: PerformanceProfiler) -> None:
    log: list[str] = []

    @profiler.profile_operation("ticks")
    async def ticks(n: int) -> AsyncIterator[int]:
        try:
            for i in range(n):
                await asyncio.sleep(0.002)
                try:
                    got = yield i
                except KeyError:
                    got = 9
                if got is not None:
                    yield got * 100
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    assert inspect.isasyncgenfunction(ticks)

    async def main() -> None:
        assert [i async for i in ticks(3)] == [0, 1, 2]
        assert row(profiler, "ticks")["total"] >= 0.006 * 0.9
        sent: Any = ticks(3)
        assert await sent.__anext__() == 0
        assert await sent.asend(4) == 400
        assert await sent.__anext__() == 1
        assert await sent.athrow(KeyError()) == 900
        await sent.aclose()
        assert log == ["cleaned up"] * 2
        assert row(profiler, "ticks")["count"] == 2
        failing: Any = ticks(3)
        await failing.__anext__()
        with pytest.raises(LookupError):
            await failing.athrow(LookupError())
        assert log == ["cleaned up"] * 3
        async for _ in ticks(3):
            break
        gc.collect()
        await asyncio.sleep(0.02)  # the loop closes what was dropped
        never: Any = ticks(1)
        await never.aclose()

    asyncio.run(main())
    gc.collect()
    assert log == ["cleaned up"] * 4
    assert counts(profiler) == {"ticks": 4}
