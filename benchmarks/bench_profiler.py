"""The profiler's cost: a range and a decorated call against doing nothing, torch's range and a timer written by hand."""

from __future__ import annotations

import contextlib
import cProfile
import functools
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfopt.profiler import PerformanceProfiler

ROOT = Path(__file__).resolve().parents[1]


def empty() -> None:
    pass


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """What people write by hand: count and total per name, no percentiles, not safe under threads."""
    row = [0, 0.0]

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            row[0] += 1
            row[1] += time.perf_counter() - begin

    return wrapper


def test_range(versus: Callable[..., None]) -> None:
    names = {"profiler": PerformanceProfiler(), "nullcontext": contextlib.nullcontext}
    versus(
        "profiled range",
        ours={"with profiler.profile": ('with profiler.profile("x"): pass', names)},
        peers={"with contextlib.nullcontext": ("with nullcontext(): pass", names)},
        bars={"with contextlib.nullcontext": "<=0.9"},
        note="both make one context manager a round; the profiler's also records count, sum, extremes, histogram and tree",
    )


def test_range_off(versus: Callable[..., None]) -> None:
    profiler = PerformanceProfiler()
    profiler.stop()
    names = {"profiler": profiler, "nullcontext": contextlib.nullcontext}
    versus(
        "profiled range, profiler stopped",
        ours={"with profiler.profile": ('with profiler.profile("x"): pass', names)},
        peers={"with contextlib.nullcontext": ("with nullcontext(): pass", names)},
        bars={"with contextlib.nullcontext": "<=0.9"},
    )


def test_range_traced(versus: Callable[..., None]) -> None:
    names = {"profiler": PerformanceProfiler(trace=True), "nullcontext": contextlib.nullcontext}
    versus(
        "profiled range, with spans",
        ours={"with profiler.profile": ('with profiler.profile("x"): pass', names)},
        peers={"with contextlib.nullcontext": ("with nullcontext(): pass", names)},
        bars={"with contextlib.nullcontext": "<=0.9"},
        note="each range also goes into the ring of spans, one by one",
    )


def test_range_against_torch(versus: Callable[..., None]) -> None:
    torch_profiler = pytest.importorskip("torch.profiler")
    names = {"profiler": PerformanceProfiler(), "record_function": torch_profiler.record_function}
    versus(
        "profiled range, torch",
        ours={"with profiler.profile": ('with profiler.profile("x"): pass', names)},
        peers={"torch record_function": ('with record_function("x"): pass', names)},
        bars={"torch record_function": ">=30x"},
        note="torch.profiler.record_function with no torch profiler running, its cheapest state",
    )


def test_call(versus: Callable[..., None]) -> None:
    profiler = PerformanceProfiler()
    off = PerformanceProfiler()
    off.stop()
    names = {
        "plain": empty,
        "profiled": profiler.profile_operation("call")(empty),
        "stopped": off.profile_operation("call")(empty),
        "timed": timed(empty),
    }
    versus(
        "decorated call of an empty function",
        ours={"@profile_operation": ("profiled()", names), "@profile_operation, stopped": ("stopped()", names)},
        peers={"plain call": ("plain()", names), "perf_counter by hand": ("timed()", names)},
    )


def test_range_in_c(tmp_path: Path) -> None:
    """Prints the cost of a range from C (bar: 40 ns); no row of the table, since its peer would be two clock reads."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    sources = [*ROOT.glob("csrc/base/*.c"), *ROOT.glob("csrc/profiler/*.c"), ROOT / "benchmarks/c/range_cost.c"]
    program = tmp_path / "range_cost"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-DNDEBUG", "-pthread", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program), "-ldl", "-lm"], check=True)
    print("\nns in C:", subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.strip())


def test_coroutine(versus: Callable[..., None]) -> None:
    async def nothing() -> None:
        pass

    def run(function: Callable[[], Any]) -> None:
        with contextlib.suppress(StopIteration):
            function().send(None)

    names = {"run": run, "plain": nothing, "profiled": PerformanceProfiler().profile_operation("call")(nothing)}
    versus(
        "decorated coroutine that awaits nothing",
        ours={"@profile_operation": ("run(profiled)", names)},
        peers={"plain coroutine": ("run(plain)", names)},
    )


def test_calls_against_cprofile(versus: Callable[..., None]) -> None:
    def calls(function: Callable[[], None]) -> None:
        for _ in range(1000):
            function()

    profiled = PerformanceProfiler().profile_operation("call")(empty)
    versus(
        "1000 calls of an empty function, each recorded",
        ours={"@profile_operation": lambda: calls(profiled)},
        peers={"cProfile": lambda: cProfile.Profile().runcall(calls, empty)},
    )
