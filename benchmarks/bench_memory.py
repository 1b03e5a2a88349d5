"""The memory monitor: readings against psutil, the sampler's own cost, and what keeping freed pages gains."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfopt import _core
from perfopt.memory import MemoryOptimizer, leak_verdict

MIB = 2**20
ROOT = Path(__file__).resolve().parent.parent

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


def test_sampler_against_a_thread_that_only_sleeps(tmp_path: Path, add_row: Callable[..., None]) -> None:
    """What 100 wakes a second cost on this machine without any sample, and what the sampler adds to that."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    sources = [path for folder in ("base", "monitor") for path in ROOT.glob(f"csrc/{folder}/*.c")]
    program = tmp_path / "sampler_cost"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-DNDEBUG", "-pthread", f"-I{ROOT / 'csrc'}"]
    sources.append(ROOT / "benchmarks/c/sampler_cost.c")
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program), "-ldl", "-lm"], check=True)
    lines = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()
    floors, turns = zip(*((float(a) * 1e-9, float(b) * 1e-9) for a, b in map(str.split, lines)), strict=True)
    add_row(
        "processor time of one turn at 100 Hz",
        "the sampler's thread",
        "a C thread that only sleeps",
        list(turns),
        list(floors),
        note="0.2 % of a core at 100 Hz is 20 us a turn; where the peer alone takes more, no sampler can keep to it",
    )


def test_sampler_against_a_thread_with_psutil(add_row: Callable[..., None]) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    ours, theirs = [], []

    def sample() -> None:
        before = time.thread_time()
        for _ in range(100):
            process.memory_info()
            psutil.virtual_memory()
            time.sleep(0.01)
        theirs.append((time.thread_time() - before) / 100)

    sampler = _core.MemorySampler(0.01)
    for _ in range(7):
        thread = threading.Thread(target=sample)
        thread.start()
        thread.join()
        cpu, taken = sampler.cpu_ns or 0, sampler.taken
        with sampler:
            time.sleep(1.0)
        ours.append(((sampler.cpu_ns or 0) - cpu) * 1e-9 / (sampler.taken - taken))
    add_row(
        "processor time of one turn at 100 Hz, waking up included",
        "perfopt._core.MemorySampler",
        "a Python thread with psutil",
        ours,
        theirs,
        bar=">=10x",
        note="psutil reads resident set and machine memory; both pay the same for 100 wakes a second",
    )


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
