"""References and objects: nothing that the profiler's C types touch is kept or lost."""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perfopt import _core
from perfopt.profiler import PerformanceProfiler, profile_operation

ROUNDS = 3000


def work(argument: object) -> object:
    return argument


def failing(argument: object) -> object:
    raise ValueError(argument)


def grown(action: Callable[[], object], watched: list[object], rounds: int = ROUNDS) -> list[int]:
    """How far the reference counts of the watched objects moved during so many actions (after a warm-up)."""
    for _ in range(300):
        action()
    gc.collect()
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(rounds):
        action()
    gc.collect()
    return [sys.getrefcount(thing) - old for thing, old in zip(watched, before, strict=True)]


@pytest.fixture
def watched() -> tuple[PerformanceProfiler, str, Any, list[object]]:
    profiler = PerformanceProfiler()
    name = "".join(["a ", "name"])
    call = profiler.wrap(work, name)
    types: list[object] = [_core.Range, _core.ProfiledFunction, PerformanceProfiler, None]
    return profiler, name, call, [profiler, name, call, work, *types]


@pytest.mark.parametrize("enabled", [True, False])
def test_ranges_keep_no_references(watched: Any, enabled: bool) -> None:
    profiler, name, _, things = watched
    profiler.enabled = enabled

    def action() -> None:
        with profiler.profile(name), profiler.profile(name):
            pass
        profiler.profile(name)  # never entered
        with contextlib.suppress(RuntimeError):
            profiler.profile(name).__exit__()
        with contextlib.suppress(RuntimeError), profiler.profile(name) as entry:
            entry.__enter__()
        with contextlib.suppress(TypeError):
            profiler.profile(things)

    assert max(map(abs, grown(action, things))) <= 5


def test_more_open_ranges_than_are_kept_for_reuse(watched: Any) -> None:
    profiler, name, _, things = watched

    def action() -> None:
        entries = [profiler.profile(name) for _ in range(100)]
        for entry in entries:
            entry.__enter__()
        for entry in entries:
            entry.__exit__()

    ranges_before = sum(type(thing) is _core.Range for thing in gc.get_objects())
    assert max(map(abs, grown(action, things))) <= 5
    assert sum(type(thing) is _core.Range for thing in gc.get_objects()) == ranges_before


@pytest.mark.parametrize("enabled", [True, False])
def test_calls_keep_no_references(watched: Any, enabled: bool) -> None:
    profiler, name, call, things = watched
    profiler.enabled = enabled
    bad = profiler.wrap(failing, name)
    argument = object()
    things.append(argument)

    class Holder:
        method = call

    holder = Holder()
    things.append(holder)

    def action() -> None:
        call(argument)
        call(argument=argument)
        holder.method()
        with contextlib.suppress(ValueError):
            bad(argument)

    assert max(map(abs, grown(action, things))) <= 5


def test_wrapping_resetting_and_reading_keep_no_references(watched: Any) -> None:
    profiler, name, call, things = watched

    def action() -> None:
        profile_operation("other", profiler=profiler)(work)(1)
        with profiler.profile(name):
            call(1)
        profiler.capture().rows()
        profiler.reset()
        with contextlib.suppress(ValueError):
            PerformanceProfiler(max_names=0)
        with contextlib.suppress(TypeError):
            profiler.wrap(work, 5)

    assert max(map(abs, grown(action, things))) <= 20  # None's count moves a little by itself


def test_profilers_are_freed_with_everything_of_theirs() -> None:
    def action() -> None:
        profiler = PerformanceProfiler(max_names=10)
        for i in range(20):
            with profiler.profile(f"name {i}"):
                pass
        profiler.wrap(work, "call")(1)

    assert max(map(abs, grown(action, [PerformanceProfiler, _core.Range, _core.ProfiledFunction, work]))) <= 5
    gc.collect()
    kept = [thing for thing in gc.get_objects() if type(thing) is PerformanceProfiler]
    assert len(kept) <= 3  # the default one, the one that measures cost, a fixture's


def test_a_cycle_through_a_profiled_function_is_collected() -> None:
    class Model:
        call: Any

    def make() -> weakref.ref[Model]:
        model = Model()
        model.call = PerformanceProfiler().profile_operation("x")(lambda: model)
        assert model.call() is model
        return weakref.ref(model)

    gone = make()
    gc.collect()
    assert gone() is None


def test_the_name_object_is_let_go_after_a_reset() -> None:
    profiler = PerformanceProfiler()
    name = "".join(["let ", "go"])
    base = sys.getrefcount(name)
    with profiler.profile(name):
        pass
    assert sys.getrefcount(name) > base
    profiler.reset()
    assert sys.getrefcount(name) == base


def test_driving_and_capturing_keep_no_references(watched: Any, tmp_path: Path) -> None:
    profiler, name, _, things = watched
    path = str(tmp_path / "capture")

    @profile_operation("generator", profiler=profiler)
    def generator() -> Iterator[object]:
        yield name

    @profile_operation("coroutine", profiler=profiler)
    async def coroutine(fail: bool) -> object:
        if fail:
            raise ValueError(name)
        return name

    def action() -> None:
        assert list(generator()) == [name]
        next(generator())  # dropped unfinished
        for fail in (False, True):
            with contextlib.suppress(StopIteration, ValueError):
                coroutine(fail).send(None)
        with contextlib.suppress(TypeError):
            profiler.drive(name, 5)

    def capturing() -> None:
        with profiler.profile(name):
            pass
        capture = profiler.capture()
        capture.spans()
        capture.nodes()
        capture.dump(path)
        _core.Capture.merge([capture, _core.Capture.load(path)]).rows()
        with contextlib.suppress(OSError):
            _core.Capture.load("/does/not/exist")
        with contextlib.suppress(TypeError):
            _core.Capture.merge([capture, 5])  # type: ignore[list-item]

    things = [*things, _core.Driven, _core.Capture, path]
    assert max(map(abs, grown(action, things, 1000))) <= 20  # None's count moves a little by itself
    assert max(map(abs, grown(capturing, things, 300))) <= 20


def test_a_cycle_through_a_driven_generator_is_collected() -> None:
    class Holder:
        steps: Any

    def make() -> weakref.ref[Holder]:
        holder = Holder()

        def numbers() -> Iterator[object]:
            yield holder
            yield holder

        holder.steps = PerformanceProfiler().drive("numbers", numbers())
        assert next(holder.steps) is holder
        return weakref.ref(holder)

    gone = make()
    gc.collect()
    assert gone() is None
