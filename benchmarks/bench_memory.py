"""The memory monitor: readings against psutil, the sampler's own cost, and what keeping freed pages gains."""

from __future__ import annotations

import mmap
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfopt import _core
from perfopt.memory import MemoryOptimizer, leak_verdict

try:
    import psutil
except ImportError:
    psutil = None

MIB = 2**20
ROOT = Path(__file__).resolve().parent.parent
needs_psutil = pytest.mark.skipif(psutil is None, reason="psutil is not installed")

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


@needs_psutil
def test_resident_set_against_psutil(versus: Callable[..., None]) -> None:
    versus(
        "one reading of the resident set",
        ours={"perfopt._core.resident_bytes": ("read()", {"read": _core.resident_bytes})},
        peers={"psutil memory_info().rss": ("read().rss", {"read": psutil.Process().memory_info})},
    )


class PsutilSampler:
    """What the sampler reads, as far as psutil knows it, into a ring: with its ages, or every figure in each sample.

    With ages nothing is older than in the sampler's. The resident set is read at each turn, as psutil has no faults to tell
    when that can be left out; those of the standard library (``getrusage``) are read when the sampler is sure to read them.
    psutil has no cgroups: usage and events of the container are not read, and the limit is the machine's. malloc's figures are
    read where this psutil has them.
    """

    def __init__(self, *, with_ages: bool = True) -> None:
        self.with_ages = with_ages
        self.process = psutil.Process()
        self.ring: deque[tuple[Any, ...]] = deque(maxlen=16384)
        self.heap_info = getattr(psutil, "heap_info", lambda: None)
        self.brisk_due = self.slow_due = self.limit_due = 0.0

    def sample(self) -> None:
        now = time.monotonic()
        if not self.with_ages:
            self.brisk_due = self.slow_due = self.limit_due = now
        if now >= self.brisk_due:
            self.faults = resource.getrusage(resource.RUSAGE_SELF)
            self.heap = self.heap_info()
            self.brisk_due = now + 0.1
        if now >= self.slow_due:
            begin = time.monotonic()
            self.uss = self.process.memory_full_info().uss
            end = time.monotonic()
            self.slow_due = end + max(1.0, 4000 * (end - begin))  # at most 0.025 % of a core, as the sampler
        if now >= self.limit_due:
            self.limit = psutil.virtual_memory().total
            self.limit_due = now + 60.0
        rss = self.process.memory_info().rss
        self.ring.append((now, rss, self.limit, self.heap, self.faults.ru_minflt, self.faults.ru_majflt, self.uss))


# The bar is "10x cheaper than psutil at the same rate and fields". Both readings of that are rows. The strict one has the bar:
# psutil is given the sampler's ages, so that it reads USS, heap and limits as seldom. The literal one, in which psutil reads each
# field at the rate and the sampler keeps its ages, compares policies as much as costs, and has none.
SAME_AGES = "psutil with the same figures at the same ages"
EACH_TIME = "psutil reading every figure each time"
EACH_TIME_NOTE = (
    "ours is the same sampler, with its ages (USS once a second at most, heap and faults every 100 ms, limits every 5 s); psutil "
    "reads all of it anew, of which USS is the dearest"
)
SAME_AGES_NOTE = (
    "ours has usage and events of the container besides, which psutil does not know; both read the resident set at each "
    "call or turn in which faults came in (psutil: at each), faults and heap every 100 ms, USS every second at most"
)


@needs_psutil
def test_sample_against_psutil(versus: Callable[..., None]) -> None:
    ours, peer = _core.MemorySampler(), PsutilSampler()
    ours.sample()  # the first one reads everything
    peer.sample()
    versus(
        "one memory sample",
        ours={"perfopt._core.MemorySampler.sample": ("sample()", {"sample": ours.sample})},
        peers={SAME_AGES: ("sample()", {"sample": peer.sample})},
        bars={SAME_AGES: ">=10x"},
        note=SAME_AGES_NOTE,
    )


@needs_psutil
def test_sample_against_psutil_without_ages(versus: Callable[..., None]) -> None:
    ours = _core.MemorySampler()
    ours.sample()
    versus(
        "one memory sample, the peer's without ages",
        ours={"perfopt._core.MemorySampler.sample": ("sample()", {"sample": ours.sample})},
        peers={EACH_TIME: ("sample()", {"sample": PsutilSampler(with_ages=False).sample})},
        note=EACH_TIME_NOTE,
    )


@needs_psutil
def test_all_figures_against_psutil(versus: Callable[..., None]) -> None:
    versus(
        "every memory figure read anew",
        ours={"perfopt._core.memory_info": ("read()", {"read": _core.memory_info})},
        peers={EACH_TIME: ("sample()", {"sample": PsutilSampler(with_ages=False).sample})},
        note="no sampler; ours also looks for the container and reads its usage, events, the limits above it, and the peak",
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


def rest_a_second() -> None:
    time.sleep(1.0)


def fault_for_a_second() -> None:
    """16 page faults every 5 ms."""
    for _ in range(200):
        with mmap.mmap(-1, 16 * mmap.PAGESIZE) as block:
            for at in range(0, len(block), mmap.PAGESIZE):
                block[at] = 1
        time.sleep(0.005)


@needs_psutil
@pytest.mark.parametrize("with_ages", [True, False], ids=["same ages", "each time"])
@pytest.mark.parametrize("program", [rest_a_second, fault_for_a_second], ids=["at rest", "page faults in each"])
def test_sampler_against_a_thread_with_psutil(
    add_row: Callable[..., None], program: Callable[[], None], with_ages: bool
) -> None:
    peer = PsutilSampler(with_ages=with_ages)
    sampler = _core.MemorySampler(0.01)
    ours, theirs = [], []

    def sample() -> None:
        due, before, turns = time.monotonic(), time.thread_time(), 0
        while not done.is_set():
            peer.sample()
            turns += 1
            due += 0.01
            time.sleep(max(0.0, due - time.monotonic()))
        theirs.append((time.thread_time() - before) / turns)

    for _ in range(11):
        done = threading.Event()
        thread = threading.Thread(target=sample)
        thread.start()
        program()
        done.set()
        thread.join()
        cpu, taken = sampler.cpu_ns or 0, sampler.taken
        with sampler:
            program()
        ours.append(((sampler.cpu_ns or 0) - cpu) * 1e-9 / (sampler.taken - taken))
    faults = ", page faults in each" if program is fault_for_a_second else ""
    note = SAME_AGES_NOTE if with_ages else EACH_TIME_NOTE
    add_row(
        f"processor time of one turn at 100 Hz, waking up included{faults}{'' if with_ages else ', the peer without ages'}",
        "perfopt._core.MemorySampler",
        f"a Python thread, {SAME_AGES if with_ages else EACH_TIME}",
        ours,
        theirs,
        bar=">=10x" if with_ages else None,
        note=note + "; both pay the same for 100 wakes a second",
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
