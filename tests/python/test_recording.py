"""What the recorder's tree and figures must be, whatever else the thread does: several profilers, forks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

from perfopt.profiler import PerformanceProfiler

MORE_THAN_A_THREAD_REMEMBERS = 9


def row(profiler: PerformanceProfiler, name: str) -> Any:
    return next(row for row in profiler.capture().rows() if row["name"] == name)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


# ---- several profilers on one thread ----


@pytest.mark.spec("S0-39")
def test_other_profilers_inside_a_range_do_not_cost_it_its_time() -> None:
    profiler = PerformanceProfiler()
    others = [PerformanceProfiler() for _ in range(MORE_THAN_A_THREAD_REMEMBERS)]

    def use_others() -> None:
        for other in others:
            with other.profile("other"):
                pass

    @profiler.profile_operation("coroutine")
    async def coroutine() -> None:
        spin(0.01)
        use_others()
        await asyncio.sleep(0)

    with profiler.profile("outer"):
        spin(0.01)
        use_others()
        with profiler.profile("inner"):
            spin(0.01)
            use_others()
        use_others()
    asyncio.run(coroutine())
    capture = profiler.capture()  # one, because each learns the rate of the clock anew
    rows = {found["name"]: found for found in capture.rows()}
    for name in ("outer", "inner", "coroutine"):
        assert rows[name]["self"] >= 0.01 * 0.999
    roots = [node["total"] for node in capture.nodes() if node["parent"] < 0]
    assert sum(roots) == pytest.approx(rows["outer"]["total"] + rows["coroutine"]["active"], rel=1e-6)


# ---- fork ----


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_childs_thread_has_its_own_id() -> None:
    profiler = PerformanceProfiler()
    with profiler.profile("before"):
        pass
    child = os.fork()
    if child == 0:
        with profiler.profile("after"):
            pass
        ids = [thread["id"] for thread in profiler.capture().threads]
        os._exit(0 if ids == [threading.get_native_id()] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
