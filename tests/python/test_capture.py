"""Captures: the calling-context tree, active time, spans, files and merging, seen from Python."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from perfopt import _core
from perfopt.profiler import PerformanceProfiler, load, merge


@pytest.fixture
def profiler() -> PerformanceProfiler:
    return PerformanceProfiler()


def paths(capture: _core.Capture) -> dict[str, int]:
    """Count by path, over threads: {"a/b": 3}."""
    nodes = capture.nodes()
    found: dict[str, int] = {}
    names: list[str] = []
    for node in nodes:
        above = names[node["parent"]] + "/" if node["parent"] >= 0 else ""
        names.append(above + str(node["name"]))
        found[names[-1]] = found.get(names[-1], 0) + node["count"]
    return found


def whole(seconds: float) -> int:
    return round(seconds * 1e9)


def row(capture: _core.Capture, name: str | None) -> Any:
    return next(row for row in capture.rows() if row["name"] == name)


def spin(seconds: float) -> float:
    """How long it took: as long as asked for, and longer where the machine is busy."""
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds:
        pass
    return time.perf_counter() - begin


def slept(seconds: float) -> float:
    begin = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - begin


# ---- the tree ----


@pytest.mark.spec("S0-39")
def test_the_tree_has_every_path_and_self_times_add_up(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("leaf")
    def leaf() -> None:
        spin(0.001)

    with profiler.profile("root"):
        for _ in range(3):
            with profiler.profile("step"):
                leaf()
                leaf()
        leaf()
    leaf()
    capture = profiler.capture()
    assert paths(capture) == {"root": 1, "root/step": 3, "root/step/leaf": 6, "root/leaf": 1, "leaf": 1}
    nodes = capture.nodes()
    roots = [node for node in nodes if node["parent"] < 0]
    assert sum(whole(node["self"]) for node in nodes) == sum(whole(node["total"]) for node in roots)
    for index, node in enumerate(nodes):
        inside = sum(whole(child["total"]) for child in nodes if child["parent"] == index)
        assert whole(node["total"]) == whole(node["self"]) + inside
        assert node["parent"] < index
    summary = profiler.get_profile_summary()["operations"]
    assert summary["leaf"]["callers"].keys() == {"step", "root", ""}
    assert summary["leaf"]["callers"]["step"]["count"] == 6
    assert sum(edge["count"] for edge in summary["leaf"]["callers"].values()) == summary["leaf"]["count"] == 8
    assert summary["step"]["self"] < summary["step"]["total"]


def test_recursion(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("fib")
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(10) == 55
    capture = profiler.capture()
    figures = row(capture, "fib")
    roots = [node for node in capture.nodes() if node["parent"] < 0]
    assert len(roots) == 1
    assert figures["count"] == 177 == sum(node["count"] for node in capture.nodes())
    assert figures["self"] == pytest.approx(roots[0]["total"], rel=1e-9)
    assert figures["total"] > figures["self"]


def split_work(percent: int) -> tuple[float, float]:
    """Work of which ``percent`` is done by the outer range itself, the rest by a function that it calls: the share of the
    called one in the profile, and the same by another clock, whose readings leave no moment out."""
    profiler = PerformanceProfiler()
    taken = [0.0, 0.0]

    @profiler.profile_operation("called")
    def called() -> None:
        spin(0.0003)

    last = time.perf_counter()
    with profiler.profile("outer"):
        for i in range(100):
            inlined = (i * 37) % 100 < percent
            if inlined:
                spin(0.0003)
            else:
                called()
            now = time.perf_counter()
            taken[not inlined] += now - last
            last = now
    capture = profiler.capture()
    outer, inner = row(capture, "outer"), row(capture, "called")
    assert inner["count"] == 100 - percent
    assert outer["self"] + inner["self"] == pytest.approx(outer["total"], rel=1e-6)
    return inner["self"] / outer["total"], taken[1] / sum(taken)


@pytest.mark.parametrize("percent", [5, 20, 50, 80, 95])
def test_split_work_is_reported_as_it_was_split(percent: int) -> None:
    # A thread that is put aside between a reading and an event makes the two differ; one undisturbed try shows it.
    tries = (split_work(percent) for _ in range(5))
    assert any(measured == pytest.approx(expected, abs=0.02) for measured, expected in tries)


@pytest.mark.spec("S0-58")
def test_the_profiler_reports_its_own_cost(profiler: PerformanceProfiler) -> None:
    for _ in range(200):
        with profiler.profile("work"):
            spin(0.0001)
    summary = profiler.get_profile_summary()
    assert 0 < summary["overhead_seconds"] < 0.1 * summary["total_duration"]  # 200 times 100 us or more


def test_percentiles_are_within_the_stated_error(profiler: PerformanceProfiler) -> None:
    trace = PerformanceProfiler(trace=True)
    for _ in range(3000):
        with trace.profile("x"):
            sum(range(random.randrange(2000)))
    capture = trace.capture()
    durations = sorted(span[3] for span in capture.spans())
    figures = row(capture, "x")
    assert len(durations) == figures["count"] == 3000
    for key, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)):
        exact = durations[int(-(-fraction * 3000 // 1)) - 1] * 1e-9
        assert figures[key] == pytest.approx(exact, rel=figures["error"] + 1e-3, abs=2e-9), key
    assert figures["error"] < 0.01
    assert figures["mean"] == pytest.approx(statistics.fmean(durations) * 1e-9, rel=1e-3)
    assert figures["sd"] == pytest.approx(statistics.stdev(durations) * 1e-9, rel=1e-3)


# ---- ranges that suspend ----


def test_tasks_do_not_see_each_others_time(profiler: PerformanceProfiler) -> None:
    waiting = 0

    @profiler.profile_operation("task")
    async def task(go: asyncio.Event) -> None:
        nonlocal waiting
        with profiler.profile("work"):
            spin(0.005)
        waiting += 1
        await go.wait()
        with profiler.profile("work"):
            spin(0.005)

    async def main() -> float:
        go = asyncio.Event()
        tasks = [asyncio.ensure_future(task(go)) for _ in range(4)]
        while waiting < 4:
            await asyncio.sleep(0)
        suspended = slept(0.05)
        go.set()
        await asyncio.gather(*tasks)
        return suspended

    suspended = asyncio.run(main())
    capture = profiler.capture()
    assert paths(capture) == {"task": 4, "task/work": 8}
    figures = row(capture, "task")
    assert 0.04 * 0.999 <= figures["active"] <= figures["total"] - 4 * suspended * 0.999
    root = next(node for node in capture.nodes() if node["parent"] < 0)
    assert root["total"] == pytest.approx(figures["active"], rel=1e-6)


@pytest.mark.spec("S0-43")
def test_cancelled_and_failing_coroutines(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("job")
    async def job(fail: bool) -> str:
        try:
            await asyncio.sleep(0.01 if fail else 10)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise
        raise KeyError("job")

    @profiler.profile_operation("shielded")
    async def shielded() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return "went on"
        return ""

    async def main() -> None:
        running = [asyncio.ensure_future(job(False)), asyncio.ensure_future(shielded())]
        await asyncio.sleep(0.01)
        for future in running:
            future.cancel()
        results = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1] == "went on"
        with pytest.raises(KeyError, match="job"):
            await job(True)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(job(False), 0.01)

    asyncio.run(main())
    assert paths(profiler.capture()) == {"job": 3, "shielded": 1}
    with profiler.profile("after"):
        pass
    assert paths(profiler.capture())["after"] == 1


def test_what_coroutines_and_generators_return(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("value")
    async def value(result: Any) -> Any:
        await asyncio.sleep(0)
        return result

    @profiler.profile_operation("generator")
    def generator(result: Any) -> Iterator[int]:
        yield 1
        return result

    async def main() -> None:
        for result in (None, 5, (1, 2), StopIteration(3), ValueError("a value")):
            assert await value(result) is result
            driven = generator(result)
            assert list(driven) == [1]
            with pytest.raises(StopIteration):
                next(driven)
            step = profiler.drive("direct", generator(result).__iter__())
            assert next(step) == 1
            with pytest.raises(StopIteration) as stop:
                step.send(None)
            assert stop.value.value is result

    asyncio.run(main())


def test_generators_leave_the_stack_while_they_wait(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("numbers")
    def numbers() -> Iterator[int]:
        for i in range(3):
            spin(0.002)
            yield i

    elsewhere = 0.0
    with profiler.profile("loop"):
        for _ in numbers():
            with profiler.profile("body"):
                elsewhere += spin(0.004)
    capture = profiler.capture()
    assert paths(capture) == {"loop": 1, "loop/numbers": 1, "loop/body": 3}
    figures = row(capture, "numbers")
    assert 0.006 * 0.999 <= figures["active"] <= figures["total"] - elsewhere * 0.999

    unfinished = numbers()
    next(unfinished)
    running = profiler.capture()
    assert row(running, "numbers")["count"] == 1
    assert paths(running)["numbers"] == 0, "it ran outside the loop, and has not ended"
    del unfinished
    gc.collect()
    assert row(profiler.capture(), "numbers")["count"] == 2


def test_a_generator_that_moves_between_threads(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("moving")
    def moving() -> Iterator[int]:
        yield threading.get_native_id()
        yield threading.get_native_id()

    steps = moving()
    first = next(steps)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(next, steps).result() != first
        assert pool.submit(next, steps, None).result() is None
    capture = profiler.capture()
    assert row(capture, "moving")["count"] == 1
    assert {node["thread"] for node in capture.nodes()} == {0, 1}
    with profiler.profile("alone"):
        pass
    assert paths(profiler.capture())["alone"] == 1


def test_async_generators_under_throw_and_close(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("ticks")
    async def ticks() -> AsyncIterator[int]:
        for i in range(100):
            await asyncio.sleep(0.001)
            try:
                yield i
            except KeyError:
                yield -1

    async def main() -> float:
        closed: Any = ticks()
        assert await closed.__anext__() == 0
        assert await closed.athrow(KeyError()) == -1
        elsewhere = slept(0.03)
        await closed.aclose()
        failed: Any = ticks()
        await failed.__anext__()
        with pytest.raises(ZeroDivisionError):
            await failed.athrow(ZeroDivisionError())
        with profiler.profile("alone"):
            pass
        return elsewhere

    elsewhere = asyncio.run(main())
    capture = profiler.capture()
    assert paths(capture) == {"ticks": 2, "alone": 1}
    assert row(capture, "ticks")["active"] <= row(capture, "ticks")["total"] - elsewhere * 0.999


def test_driving_by_hand_says_what_is_wrong(profiler: PerformanceProfiler) -> None:
    with pytest.raises(TypeError):
        profiler.drive("x", 5)
    with pytest.raises(TypeError, match="name must be a str"):
        profiler.drive(5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="nothing to drive"):
        profiler.drive("x").send(None)
    with pytest.raises(TypeError, match="cannot create"):
        _core.Driven()
    plain = profiler.drive("plain", [1, 2])
    assert list(plain) == [1, 2]
    assert row(profiler.capture(), "plain")["count"] == 1


class Waits:
    """Awaitable as C extensions make them: its iterator has neither throw() nor close()."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __await__(self) -> Any:
        return self.iterator


@pytest.mark.parametrize(
    "thrown", [(asyncio.CancelledError("why"),), (KeyError,), (KeyError, "k"), (KeyError, None, None)]
)
@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature of throw:DeprecationWarning")
def test_exceptions_go_through_iterators_without_throw(profiler: PerformanceProfiler, thrown: Any) -> None:
    async def plain() -> None:
        await Waits(iter([None, None]))

    async def driven() -> None:
        await profiler.drive("driven", Waits(iter([None, None])))

    raised = []
    for function in (plain, driven):
        coroutine: Any = function()
        coroutine.send(None)
        with pytest.raises((asyncio.CancelledError, KeyError)) as caught:
            coroutine.throw(*thrown)
        raised.append(repr(caught.value))
    assert raised[0] == raised[1]
    assert row(profiler.capture(), "driven")["count"] == 1
    with pytest.raises(TypeError, match="deriving from BaseException"):
        profiler.drive("driven", [1]).throw(5)


def test_an_await_that_gives_no_iterator_is_refused_as_await_does(profiler: PerformanceProfiler) -> None:
    with pytest.raises(TypeError, match=r"__await__\(\) returned non-iterator of type 'int'"):
        profiler.drive("x", Waits(5))


def test_closing_what_never_began_records_nothing(profiler: PerformanceProfiler) -> None:
    driven = profiler.drive("never", (i for i in range(3)))
    driven.close()
    assert list(driven) == []
    assert profiler.capture().rows() == []


def test_off_and_reset_while_a_generator_is_open(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("numbers")
    def numbers() -> Iterator[int]:
        yield from range(3)

    profiler.stop()
    unrecorded = numbers()
    next(unrecorded)
    profiler.start()
    assert list(unrecorded) == [1, 2]
    open_then_reset = numbers()
    next(open_then_reset)
    profiler.reset()
    assert list(open_then_reset) == [1, 2]
    assert profiler.capture().rows() == []
    assert list(numbers()) == [0, 1, 2]
    assert row(profiler.capture(), "numbers")["count"] == 1


# ---- threads ----


def test_threads_have_their_names_and_trees(profiler: PerformanceProfiler) -> None:
    ready = threading.Barrier(24)
    ids: dict[str, int] = {}

    def run() -> None:
        ids[threading.current_thread().name] = threading.get_native_id()
        ready.wait(30)
        for _ in range(200):
            with profiler.profile("outer"), profiler.profile("inner"):
                pass
        ready.wait(30)

    threads = [threading.Thread(target=run, name=f"worker-{i} é") for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    capture = profiler.capture()
    assert {thread["name"]: thread["id"] for thread in capture.threads} == ids
    assert paths(capture) == {"outer": 4800, "outer/inner": 4800}
    assert len(capture.nodes()) == 48
    with profiler.profile("main"):
        pass
    assert "MainThread" in {thread["name"] for thread in profiler.capture().threads}


# ---- spans ----


def test_spans_are_kept_when_asked_for(profiler: PerformanceProfiler) -> None:
    with profiler.profile("x"):
        pass
    assert profiler.capture().spans() == []
    assert profiler.tracing is False
    small = PerformanceProfiler(trace=True, span_capacity=100)
    assert small.tracing is True
    for i in range(250):
        with small.profile("even" if i % 2 == 0 else "odd"):
            pass
    capture = small.capture()
    spans = capture.spans()
    assert len(spans) == capture.span_count == 100
    assert capture.dropped_spans == 150
    assert [span[0] for span in spans[:2]] == ["even", "odd"]
    assert all(0 <= begin <= capture.taken_ns and ns >= 0 and depth == 0 for _, _, begin, ns, depth, _ in spans)
    assert spans == sorted(spans, key=lambda span: span[2] + span[3])
    assert capture.spans(3) == spans[:3]
    with pytest.raises(ValueError, match="limit"):
        capture.spans(-1)
    small.reset()
    assert small.capture().spans() == []
    for wrong in ({"span_capacity": 0}, {"span_capacity": 1 << 31}):
        with pytest.raises(ValueError, match="span_capacity must be from 1 to"):
            PerformanceProfiler(trace=True, **wrong)  # type: ignore[arg-type]
    for wrong in ({"span_capacity": "x"}, {"trace": 1}, {"memory": None}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            PerformanceProfiler(**wrong)  # type: ignore[arg-type]


# ---- memory ----


@pytest.mark.spec("S0-40")
def test_memory_of_a_range(profiler: PerformanceProfiler) -> None:
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("this system does not say how much memory is resident")
    with profiler.profile("allocates", memory=True):
        kept = bytearray(64 << 20)
    with profiler.profile("frees", memory=True):
        del kept
    with profiler.profile("unmeasured"):
        pass
    operations = profiler.get_profile_summary()["operations"]
    assert operations["allocates"]["memory"]["count"] == 1
    assert operations["allocates"]["memory"]["total"] == pytest.approx(64 << 20, rel=0.1)
    assert operations["frees"]["memory"]["min"] == pytest.approx(-(64 << 20), rel=0.1)
    assert operations["unmeasured"]["memory"] is None
    always = PerformanceProfiler(memory=True)
    with always.profile("x"):
        pass
    assert list(always.drive("y", [1])) == [1]
    assert [r["memory"]["count"] for r in always.capture().rows()] == [1, 1]  # type: ignore[index]
    with pytest.raises(TypeError, match="memory must be True or False"):
        profiler.profile("x", memory=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one keyword argument, memory"):
        profiler.profile("x", trace=True)  # type: ignore[call-arg]


@pytest.mark.spec("S0-40")
def test_memory_of_decorated_functions() -> None:
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("this system does not say how much memory is resident")
    profiler = PerformanceProfiler(memory=True)
    kept: list[bytearray] = []

    @profiler.profile_operation("allocate")
    def allocate(fail: bool = False) -> int:
        kept.append(bytearray(64 << 20))
        if fail:
            raise KeyError
        return len(kept)

    @profiler.profile_operation("reset")
    def reset() -> None:
        profiler.reset()

    assert allocate() == 1
    with pytest.raises(KeyError):
        allocate(fail=True)
    figures = profiler.get_profile_summary()["operations"]["allocate"]
    assert figures["count"] == figures["memory"]["count"] == 2
    assert figures["memory"]["total"] == pytest.approx(128 << 20, rel=0.1)
    kept.clear()
    profiler.stop()
    assert allocate() == 1
    profiler.start()
    reset()  # began before the reset: neither time nor memory is kept
    assert profiler.get_profile_summary()["operations"] == {}
    assert profiler.usage()["dropped"] == 0


# ---- names ----


@pytest.mark.spec("S0-44")
def test_the_overflow_row_says_how_many_names() -> None:
    profiler = PerformanceProfiler(max_names=3)
    for i in range(100):
        with profiler.profile(f"name {i % 50}"):
            pass
    summary = profiler.get_profile_summary()
    assert summary["overflow_operations"] == 94
    assert 45 <= summary["overflow_names"] <= 47, "a lower bound: two hashes may agree in 16 bits"
    capture = profiler.capture()
    assert capture.rows()[-1]["name"] is None
    assert len(capture.names) == 3
    profiler.reset()
    assert profiler.get_profile_summary()["overflow_names"] == 0


# ---- files, merging ----


def recorded(names: list[str], trace: bool = True) -> PerformanceProfiler:
    profiler = PerformanceProfiler(trace=trace)
    for name in names:
        with profiler.profile(name), profiler.profile("inside"):
            pass
    return profiler


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    names = ["", 'quo"te', "nul\0byte", "emoji 🚀", "line\nbreak", "long" * 250_000]
    profiler = recorded(names)
    capture = profiler.capture()
    capture.dump(tmp_path / "a.capture")
    again = load(tmp_path / "a.capture")
    assert again.rows() == capture.rows()
    assert again.nodes() == capture.nodes()
    assert again.spans() == capture.spans()
    assert again.names == capture.names
    assert again.threads == capture.threads
    assert again.processes == capture.processes
    assert (again.base_epoch_ns, again.taken_ns) == (capture.base_epoch_ns, capture.taken_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["a.capture"]
    profiler.dump(tmp_path / "a.capture")
    assert again.spans() == capture.spans(), "the replaced file is still open"
    surrogate = recorded(["\ud800"], trace=False).capture()
    surrogate.dump(tmp_path / "b.capture")
    assert surrogate.names[0] == "\ud800"
    assert load(tmp_path / "b.capture").names[0] == "\\ud800"


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot open"):
        load(tmp_path / "missing")
    (tmp_path / "text").write_text("no capture, but longer than its header would be: " * 3)
    with pytest.raises(OSError, match="is no capture"):
        load(tmp_path / "text")
    recorded(["x"]).dump(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-9])
    with pytest.raises(OSError, match="damaged"):
        load(tmp_path / "cut")
    with pytest.raises(OSError, match="cannot create"):
        recorded(["x"]).dump(tmp_path / "missing" / "file")


def test_what_a_crashed_process_left_does_not_hinder_a_dump(profiler: PerformanceProfiler, tmp_path: Path) -> None:
    path = tmp_path / "x.capture"
    for number in range(50):
        Path(f"{path}.{os.getpid()}-{number}.part").touch()
    profiler.dump(path)
    assert load(path).rows() == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs os.mkfifo")
def test_a_dump_replaces_nothing_but_files(profiler: PerformanceProfiler, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(OSError, match="it is there and no file"):
            profiler.dump(path)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_merging(tmp_path: Path) -> None:
    a, b = recorded(["x", "y", "x"]), recorded(["z", "x"])
    b.dump(tmp_path / "b")
    merged = merge([a.capture(), load(tmp_path / "b")])
    assert {r["name"]: r["count"] for r in merged.rows()} == {"x": 3, "inside": 5, "y": 1, "z": 1}
    assert len(merged.spans()) == 10
    assert len(merged.processes) == len(merged.threads) == 2
    assert sorted(name for name, *_ in merged.spans() if name) == sorted(["x"] * 3 + ["y", "z"] + ["inside"] * 5)
    assert all(begin >= 0 for _, _, begin, *_ in merged.spans())
    total = sum(r["total"] for p in (a, b) for r in p.capture().rows() if r["name"] == "x")
    assert row(merged, "x")["total"] == pytest.approx(total, rel=1e-4)
    with pytest.raises(ValueError, match="at least one capture"):
        merge([])
    with pytest.raises(TypeError, match="merge takes captures, not int"):
        merge([a.capture(), 5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="cannot create"):
        _core.Capture()


def test_captures_beside_recording_and_reset(profiler: PerformanceProfiler) -> None:
    stop = threading.Event()

    def run(number: int) -> None:
        i = 0
        while not stop.is_set():
            with profiler.profile(f"name {number} {i % 50}"), profiler.profile("inside"):
                i += 1

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for i in range(60):
            capture = profiler.capture()
            names = set(capture.names)
            assert {r["name"] for r in capture.rows()} <= names
            assert all(node["parent"] < index for index, node in enumerate(capture.nodes()))
            if i % 5 == 0:
                profiler.reset()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# ---- ends of things ----


def test_the_interpreter_may_end_while_ranges_are_open(tmp_path: Path) -> None:
    script = """
import threading, time
from perfopt.profiler import PerformanceProfiler, default_profiler

profiler = PerformanceProfiler(trace=True)

@profiler.profile_operation
def numbers():
    try:
        while True:
            yield 1
    finally:
        with profiler.profile("clean-up"):
            pass

class Late:
    def __del__(self):
        with default_profiler().profile("late"):
            pass

recorded = threading.Semaphore(0)

def record():
    while True:
        with profiler.profile("daemon"):
            time.sleep(0.0001)
        recorded.release()

late, steps, entered = Late(), numbers(), profiler.profile("never left")
next(steps)
entered.__enter__()
for _ in range(3):
    threading.Thread(target=record, daemon=True).start()
for _ in range(100):  # not a time: on a busy machine no thread may have come to the end of a range by then
    recorded.acquire()
assert profiler.capture().rows()[0]["count"] >= 100
"""
    result = subprocess.run([sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_a_range_that_is_dropped_open_leaves_the_stack(profiler: PerformanceProfiler) -> None:
    dropped = profiler.profile("dropped")
    dropped.__enter__()
    with profiler.profile("inside"):
        pass
    del dropped
    with profiler.profile("after"):
        pass
    assert paths(profiler.capture()) == {"dropped": 0, "dropped/inside": 1, "after": 1}


def test_deep_recursion_is_bounded(profiler: PerformanceProfiler) -> None:
    def deep(n: int) -> None:  # no decorated function: calls through C are limited apart, and early in Python 3.12
        with profiler.profile("deep"):
            if n:
                deep(n - 1)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        deep(3000)
    finally:
        sys.setrecursionlimit(limit)
    capture = profiler.capture()
    assert row(capture, "deep")["count"] == 3001 == sum(node["count"] for node in capture.nodes())
    assert len(capture.nodes()) == 1024 + 1
    assert [node["count"] for node in capture.nodes() if node["name"] is None] == [3001 - 1024]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_fork_while_a_range_and_a_generator_are_open(profiler: PerformanceProfiler) -> None:
    @profiler.profile_operation("numbers")
    def numbers() -> Iterator[int]:
        yield from range(3)

    steps = numbers()
    next(steps)
    with profiler.profile("around"):
        child = os.fork()
        assert list(steps) == [1, 2]
    capture = profiler.capture()
    right = {r["name"]: r["count"] for r in capture.rows()} == {"numbers": 1, "around": 1}
    if child == 0:
        os._exit(0 if right and capture.processes[0]["pid"] == os.getpid() else 1)
    assert right
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
