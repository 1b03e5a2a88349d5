"""The memory monitor: readings against psutil, the sampler's own cost, and what keeping freed pages gains."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from perfopt import _core
from perfopt.memory import MemoryOptimizer, leak_verdict

MIB = 2**20

# Runs in a process of its own, because malloc does not go back to its self-adjusting defaults once they were touched.
ALLOCATIONS = """
import sys
from perfopt import _core
import torch
if sys.argv[1] == "retained":
    _core.heap_retain(True)
size = int(sys.argv[2])
torch.set_num_threads(1)
for line in sys.stdin:
    for _ in range(int(line)):
        torch.empty(size, dtype=torch.uint8).fill_(1)
    print("done", flush=True)
"""


def test_resident_set_against_psutil(versus: Callable[..., None]) -> None:
    psutil = pytest.importorskip("psutil")
    versus(
        "one reading of the resident set",
        ours={"perfopt._core.resident_bytes": ("read()", {"read": _core.resident_bytes})},
        peers={"psutil memory_info().rss": ("read().rss", {"read": psutil.Process().memory_info})},
    )


def test_sample_against_psutil(versus: Callable[..., None]) -> None:
    psutil = pytest.importorskip("psutil")
    names = {"process": psutil.Process().memory_info, "machine": psutil.virtual_memory}
    versus(
        "one memory sample",
        ours={"perfopt._core.MemorySampler.sample": ("sample()", {"sample": _core.MemorySampler().sample})},
        peers={"psutil memory_info + virtual_memory": ("process(); machine()", names)},
        bars={"psutil memory_info + virtual_memory": ">=10x"},
        note="ours has resident set, cgroup usage, limit and events, heap in use and kept, page faults, USS; all but the "
        "resident set are up to 50 ms (limit, events, USS: 1 s) old; psutil has no cgroups",
    )


def test_leak_verdict(benchmark: Any) -> None:
    """Ten minutes at 10 Hz; no peer has such a verdict, so not in the table."""
    seconds = [0.1 * i for i in range(6000)]
    figures = [1e9 + 1e6 / 60 * t + 1e6 * ((i * 7919) % 13) for i, t in enumerate(seconds)]
    assert benchmark(leak_verdict, seconds, figures)["evidence"]["samples"] == 6000


@pytest.mark.parametrize("interval", [0.01, 0.001])
def test_cost_of_a_running_sampler(benchmark: Any, interval: float) -> None:
    """Share of a core that the sampling thread takes, waking up included; no comparison, so not in the table."""
    optimizer = MemoryOptimizer(interval=interval)

    def run() -> None:
        optimizer.start_monitoring()
        time.sleep(1.0)
        optimizer.stop_monitoring()

    benchmark.pedantic(run, rounds=3, iterations=1)
    stats = optimizer.sampler_stats()
    benchmark.extra_info.update(stats, share_of_a_core=stats["cpu_seconds"] / 3.0)


@pytest.mark.parametrize("size", [16 * MIB, 64 * MIB], ids=["16 MB", "64 MB"])
def test_allocations_of_tensors(versus: Callable[..., None], size: int) -> None:
    pytest.importorskip("torch")
    workers = {
        mode: subprocess.Popen(
            [sys.executable, "-c", ALLOCATIONS, mode, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mode in ("retained", "default")
    }

    def allocate(mode: str) -> Callable[[], None]:
        worker = workers[mode]
        assert worker.stdin is not None
        assert worker.stdout is not None
        stdin, stdout = worker.stdin, worker.stdout

        def run() -> None:
            stdin.write("20\n")
            stdin.flush()
            assert stdout.readline() == "done\n"

        return run

    try:
        versus(
            f"20 times torch.empty({size // MIB} MB).fill_()",
            ours={"heap_retain(True)": allocate("retained")},
            peers={"glibc's default": allocate("default")},
            note="each in a process of its own, turns interleaved; glibc maps blocks above 32 MB anew each time",
        )
    finally:
        for worker in workers.values():
            worker.communicate()
