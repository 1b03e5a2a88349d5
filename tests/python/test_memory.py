"""perfopt.memory: usage, limits, pressure, cleaning, monitoring, trends, advice and the decorator; no torch here."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import inspect
import json
import math
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perfopt import _core, memory
from perfopt import _memory_advice as advice
from perfopt.memory import MemoryOptimizer, optimize_memory, retain_heap

GB = 2**30
MIB = 2**20
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own files")
glibc = pytest.mark.skipif("glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="glibc's malloc")


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether condition came true; the time limit only keeps a broken build from hanging."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


class Cleanings:
    """Counts full garbage collections, with which every cleaning starts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            self.count += 1


@pytest.fixture
def cleanings() -> Iterator[Cleanings]:
    counter = Cleanings()
    was_enabled = gc.isenabled()
    gc.disable()  # automatic collections would be counted too
    gc.callbacks.append(counter)
    yield counter
    gc.callbacks.remove(counter)
    if was_enabled:
        gc.enable()


def resident_block(mebibytes: int) -> mmap.mmap:
    """So many MiB outside any heap, every page touched."""
    block = mmap.mmap(-1, mebibytes * MIB)
    for at in range(0, len(block), mmap.PAGESIZE):
        block[at] = 1
    return block


@pytest.fixture
def grow() -> Iterator[Callable[[int], None]]:
    """``grow(n)`` makes n more MiB of this process resident; all of it goes when the test ends."""
    blocks: list[mmap.mmap] = []
    yield lambda mebibytes: blocks.append(resident_block(mebibytes))
    for block in blocks:
        block.close()


def c_heap() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    return libc


def write_tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


# -- construction --


@pytest.mark.spec("S0-19")
@pytest.mark.parametrize("threshold", [0.8, 0.7, 0.9, 1, 1.0, 1e-9])
def test_threshold_is_kept(threshold: float) -> None:
    assert MemoryOptimizer(threshold=threshold).threshold == threshold
    assert MemoryOptimizer(threshold).threshold == threshold
    assert MemoryOptimizer().threshold == 0.8


@pytest.mark.spec("S0-19")
@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.0001, 80, 10**400, math.inf, math.nan])
def test_threshold_outside_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold is .*accepted: more than 0, at most 1"):
        MemoryOptimizer(threshold=threshold)
    optimizer = MemoryOptimizer()
    with pytest.raises(ValueError, match="threshold"):
        optimizer.threshold = threshold
    assert optimizer.threshold == 0.8


@pytest.mark.parametrize("threshold", ["0.8", None, True, [0.8], 0.8j])
def test_threshold_of_a_wrong_type_is_refused(threshold: Any) -> None:
    with pytest.raises(TypeError, match="threshold must be a number"):
        MemoryOptimizer(threshold=threshold)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"interval": 0}, ValueError, "interval is 0 s; accepted: 0.0001 to 86400"),
        ({"interval": -1.0}, ValueError, "interval"),
        ({"interval": 1e9}, ValueError, "interval"),
        ({"interval": math.nan}, ValueError, "interval"),
        ({"interval": 10**400}, ValueError, "interval is 1000.* s; accepted"),
        ({"interval": "1"}, TypeError, "interval must be a number of seconds, not str"),
        ({"interval": True}, TypeError, "interval"),
        ({"capacity": 0}, ValueError, "capacity is 0; accepted: 1 to"),
        ({"capacity": -5}, ValueError, "capacity"),
        ({"capacity": 2**40}, ValueError, "capacity"),
        ({"capacity": 2**80}, ValueError, f"capacity is {2**80}; accepted: 1 to 16777216"),
        ({"capacity": 1.5}, TypeError, "cannot be interpreted as an integer"),
        ({"capacity": True}, TypeError, "capacity must be an int"),
    ],
)
def test_sampler_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        MemoryOptimizer(**arguments)
    with pytest.raises(error, match=text):
        _core.MemorySampler(**arguments)


# -- usage --


@pytest.mark.spec("S0-20")
def test_usage_has_every_key_and_is_json_without_a_gpu() -> None:
    usage = MemoryOptimizer().get_memory_usage()
    assert isinstance(usage["cpu_memory_gb"], float)
    assert usage["gpu_memory_gb"].keys() == {"allocated", "reserved", "total"}
    assert all(isinstance(value, float) for value in usage["gpu_memory_gb"].values())
    assert f"{usage['cpu_memory_gb']:.2f} {usage['gpu_memory_gb']['allocated']:.2f}"
    assert usage["limit_source"] in {"machine", "cgroup v1", "cgroup v2", "unknown"}
    assert 0.0 <= usage["cpu_percent"] <= 100.0
    assert usage["python_blocks"] >= 0
    assert usage["cgroup_events"].keys() == {"throttled", "limit_hits", "oom_kills"}
    assert json.loads(json.dumps(usage, allow_nan=False)) == usage


@linux
@pytest.mark.spec("S0-20")
def test_resident_set_agrees_with_the_kernel_and_follows_growth(grow: Callable[[int], None]) -> None:
    def kernel() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    optimizer = MemoryOptimizer()
    before = optimizer.get_memory_usage()["cpu_memory_gb"] * GB
    assert before == pytest.approx(kernel(), abs=4 * MIB)
    grow(64)
    after = optimizer.get_memory_usage()["cpu_memory_gb"] * GB
    assert after - before == pytest.approx(64 * MIB, abs=8 * MIB)
    assert _core.resident_bytes() == pytest.approx(kernel(), abs=4 * MIB)
    assert optimizer.get_memory_usage()["cpu_peak_gb"] * GB >= after - 4 * MIB


def test_figures_agree_with_psutil() -> None:
    psutil = pytest.importorskip("psutil")
    assert _core.resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, abs=4 * MIB)
    assert _core.memory_info()["uss"] == pytest.approx(psutil.Process().memory_full_info().uss, abs=4 * MIB)
    machine = psutil.virtual_memory()
    info = _core.memory_info()
    assert info["machine_total"] == pytest.approx(machine.total, rel=0.01)
    assert info["limit"] <= machine.total


@linux
@glibc
def test_heap_in_use_follows_malloc() -> None:
    libc = c_heap()
    before = _core.memory_info()["heap_in_use"]
    block = libc.malloc(50 * MIB)
    during = _core.memory_info()["heap_in_use"]
    libc.free(block)
    assert during - before == pytest.approx(50 * MIB, abs=2 * MIB)
    assert _core.memory_info()["heap_in_use"] == pytest.approx(before, abs=2 * MIB)


V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
MEMINFO = "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n"


@linux
@pytest.mark.spec("S0-20", "S0-21")
def test_limit_of_a_v2_container_over_all_ancestors(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/pod/box\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/pod/memory.max": f"{2 * GB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{GB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"inactive_file {GB // 2}\n",
            "sys/fs/cgroup/pod/box/memory.max": "max\n",
            "sys/fs/cgroup/pod/box/memory.current": "1000000\n",
            "sys/fs/cgroup/pod/box/memory.events": "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\n",
            "sys/fs/cgroup/pod/box/memory.stat": "anon 5\ninactive_file 400000\n",
        },
    )
    info = _core.memory_info(root)
    assert (info["cgroup_version"], info["limit"], info["limit_source"]) == (2, 2 * GB, "cgroup v2")
    assert (info["cgroup_usage"], info["cgroup_inactive_file"]) == (1000000, 400000)
    assert info["cgroup_fullest"] == pytest.approx(0.25)
    assert (info["cgroup_throttled"], info["cgroup_limit_hits"], info["cgroup_oom_kills"]) == (1, 2, 4)
    assert (info["machine_total"], info["machine_available"]) == (8 * GB, 6 * GB)


@linux
@pytest.mark.parametrize(
    ("limit", "effective", "source"),
    [(GB, GB, "cgroup v1"), (9223372036854771712, 8 * GB, "machine"), (64 * GB, 8 * GB, "machine")],
)
def test_limit_of_a_v1_container(tmp_path: Path, limit: int, effective: int, source: str) -> None:
    root = write_tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/box\n0::/\n",
            "proc/self/mountinfo": V1_MOUNT,
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{limit}\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "4096\n",
        },
    )
    info = _core.memory_info(root=root)
    assert (info["limit"], info["limit_source"], info["cgroup_usage"]) == (effective, source, 4096)


@linux
def test_without_any_of_the_files_nothing_is_known_and_nothing_fails(tmp_path: Path) -> None:
    info = _core.memory_info(str(tmp_path))
    assert (info["cgroup_version"], info["limit"], info["limit_source"]) == (0, None, "unknown")


# -- pressure --


@pytest.mark.spec("S0-19", "S0-21")
def test_pressure_depends_on_the_threshold() -> None:
    assert MemoryOptimizer(threshold=1e-9).is_memory_pressure() is True
    share = max(MemoryOptimizer().pressure().values())
    assert 0.0 < share < 1.0
    assert MemoryOptimizer(threshold=min(1.0, share + 0.3)).is_memory_pressure() is False
    assert MemoryOptimizer(threshold=share * 0.5).is_memory_pressure() is True


REAL_INFO = _core.memory_info()


def info_with(**changes: Any) -> Callable[[], dict[str, Any]]:
    """A stand-in for memory_info(): 1 of 10 GB used on an idle machine, and the changes."""
    info = {
        **REAL_INFO,
        "rss": GB,
        "limit": 10 * GB,
        "limit_source": "cgroup v2",
        "cgroup_fullest": None,
        "machine_total": 100 * GB,
        "machine_available": 99 * GB,
        "heap_retained": 0,
        **changes,
    }
    return lambda: info


@pytest.mark.spec("S0-21")
@pytest.mark.parametrize(
    ("changes", "what", "share"),
    [
        ({"rss": 9 * GB}, "rss", 0.9),
        ({"cgroup_fullest": 0.85}, "cgroup", 0.85),
        ({"machine_available": 5 * GB}, "machine", 0.95),
    ],
)
def test_each_limit_can_press(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], what: str, share: float
) -> None:
    optimizer = MemoryOptimizer(0.8)
    monkeypatch.setattr(memory._core, "memory_info", info_with())
    assert not optimizer.is_memory_pressure()
    assert optimizer.check() is None
    monkeypatch.setattr(memory._core, "memory_info", info_with(**changes))
    assert optimizer.is_memory_pressure()
    assert optimizer.pressure()[what] == pytest.approx(share)
    assert optimizer.get_memory_usage()["cpu_percent"] == pytest.approx(100 * share)
    assert optimizer.check() is not None


def test_there_is_no_pressure_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory._core, "memory_info", lambda: dict.fromkeys(REAL_INFO))
    optimizer = MemoryOptimizer(1e-9)
    assert not any(name != "gpu" for name in optimizer.pressure())
    assert optimizer.get_memory_usage()["cpu_memory_gb"] == 0.0
    json.dumps(optimizer.get_memory_usage(), allow_nan=False)


# -- cleaning --


class Node:
    """A reference cycle of its own."""

    payload: bytearray

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.spec("S0-22")
def test_cleaning_collects_cycles_and_reports(cleanings: Cleanings) -> None:
    gc.collect()
    for _ in range(1000):
        Node()
    before = cleanings.count
    report = MemoryOptimizer().optimize_memory()
    assert cleanings.count == before + 1
    assert report["gc_collected"] >= 1000
    assert report["cuda_released_bytes"] == 0
    assert report["trimmed_bytes"] >= 0
    assert report["seconds"] > 0
    assert "cuda_error" not in report
    json.dumps(report)


@linux
@glibc
@pytest.mark.spec("S0-22")
def test_cleaning_gives_retained_heap_back() -> None:
    libc = c_heap()
    blocks = [libc.malloc(100_000) for _ in range(600)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
        libc.free(block)
    assert _core.memory_info()["heap_retained"] >= 40 * MIB
    report = MemoryOptimizer().optimize_memory()
    libc.free(blocks[-1])
    assert report["trimmed_bytes"] >= 40 * MIB
    assert report["rss_before"] - report["rss_after"] >= 40 * MIB


def test_check_cleans_only_under_pressure(cleanings: Cleanings) -> None:
    share = max(MemoryOptimizer().pressure().values())
    assert MemoryOptimizer(min(1.0, share + 0.3)).check() is None
    assert cleanings.count == 0
    assert MemoryOptimizer(1e-9).check() is not None
    assert cleanings.count == 1


def test_where_malloc_has_no_trim_the_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise NotImplementedError("this C library has none")

    for name in ("trim", "heap_retain", "resident_bytes"):
        monkeypatch.setattr(memory._core, name, refuse)
    report = MemoryOptimizer().optimize_memory()
    assert (report["trimmed_bytes"], report["rss_before"]) == (0, None)
    with retain_heap() as available:
        assert available is False


# -- torch is used, never imported --


class FakeCuda:
    """Two devices of 8 GB; the second holds 3 GB in its cache until empty_cache()."""

    def __init__(self, *, initialized: bool = True, broken: bool = False) -> None:
        self.initialized = initialized
        self.broken = broken
        self.allocated = [1 * GB, 2 * GB]
        self.reserved = [1 * GB, 5 * GB]

    def is_initialized(self) -> bool:
        return self.initialized

    def device_count(self) -> int:
        assert self.initialized, "would initialise CUDA"
        return 2

    def memory_allocated(self, device: int) -> int:
        return self.allocated[device]

    def memory_reserved(self, device: int) -> int:
        return self.reserved[device]

    def get_device_properties(self, device: int) -> Any:
        return types.SimpleNamespace(total_memory=8 * GB)

    def empty_cache(self) -> None:
        assert self.initialized, "would initialise CUDA"
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        self.reserved = list(self.allocated)


def install(monkeypatch: pytest.MonkeyPatch, cuda: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))


@pytest.mark.spec("S0-20", "S0-22")
def test_cuda_is_counted_and_its_cache_released(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda())
    optimizer = MemoryOptimizer(0.8)
    usage = optimizer.get_memory_usage()
    assert usage["gpu_memory_gb"] == {"allocated": 3.0, "reserved": 6.0, "total": 16.0}
    assert usage["gpu_percent"] == pytest.approx(25.0)
    assert any("cuda:1 holds 3.00 GB" in line for line in optimizer.recommendations())
    assert optimizer.optimize_memory()["cuda_released_bytes"] == 3 * GB
    assert optimizer.get_memory_usage()["gpu_memory_gb"]["reserved"] == 3.0


@pytest.mark.spec("S0-21")
def test_a_full_gpu_is_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory._core, "memory_info", info_with())
    cuda = FakeCuda()
    install(monkeypatch, cuda)
    optimizer = MemoryOptimizer(0.8)
    assert not optimizer.is_memory_pressure()
    cuda.allocated[1] = 7 * GB
    assert optimizer.is_memory_pressure()
    assert any("CUDA memory is 88% full" in line for line in optimizer.recommendations())


def test_an_uninitialised_or_half_imported_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torches = [
        types.SimpleNamespace(cuda=cuda) for cuda in (FakeCuda(initialized=False), types.SimpleNamespace(), None)
    ]
    for torch in [*torches, types.SimpleNamespace()]:
        monkeypatch.setitem(sys.modules, "torch", torch)
        assert MemoryOptimizer().get_memory_usage()["gpu_memory_gb"]["total"] == 0.0
        assert MemoryOptimizer().optimize_memory()["cuda_released_bytes"] == 0


def test_a_broken_cuda_does_not_hide_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda(broken=True))
    assert "device-side assert" in MemoryOptimizer().optimize_memory()["cuda_error"]

    @optimize_memory
    def fails() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fails()
    assert "device-side assert" in fails.memory_reports["after"]["cuda_error"]  # type: ignore[attr-defined]


def test_a_cuda_that_breaks_inside_a_decorator_with_a_threshold_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    install(monkeypatch, cuda)

    def refuse(_: int) -> int:
        raise RuntimeError("CUDA error: device-side assert triggered")

    @optimize_memory(threshold=1.0)
    def breaks(error: Exception | None) -> None:
        monkeypatch.setattr(cuda, "memory_allocated", refuse)
        if error is not None:
            raise error

    with pytest.raises(KeyError, match="mine"):
        breaks(KeyError("mine"))
    assert "device-side assert" in breaks.memory_reports["after"]["cuda_error"]  # type: ignore[attr-defined]
    monkeypatch.undo()
    install(monkeypatch, cuda)
    with pytest.raises(RuntimeError, match="device-side assert"):
        breaks(None)


def test_torch_is_never_imported_from_here() -> None:
    code = (
        "import sys, perfopt.memory as m\n"
        "o = m.MemoryOptimizer(); o.get_memory_usage(); o.optimize_memory(); o.check(); o.get_memory_trends()\n"
        "o.recommendations(); m.optimize_memory(lambda: None)()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)


# -- monitoring --


@pytest.mark.spec("S0-23")
def test_monitoring_samples_in_the_background() -> None:
    optimizer = MemoryOptimizer()
    optimizer.start_monitoring(interval=0.001)
    assert optimizer.monitoring
    assert wait_until(lambda: optimizer.sampler_stats()["taken"] >= 20)
    optimizer.stop_monitoring()
    assert not optimizer.monitoring
    stats = optimizer.sampler_stats()
    samples = optimizer.samples()
    assert {len(column) for column in samples.values()} == {stats["held"]}
    times = [value for value in samples["time_ns"] if value is not None]
    resident = [value for value in samples["rss"] if value is not None]
    assert times == sorted(times)
    assert len(times) == len(resident) == stats["held"] >= 20
    assert optimizer.peak == max(resident)
    assert stats["sample_cost_ns"] > 0
    assert optimizer.get_memory_trends()["cpu_memory_trend"]["samples"] == stats["held"] + 1
    assert optimizer.sampler_stats()["taken"] == stats["taken"] + 1


def test_the_sampler_runs_while_the_gil_is_held() -> None:
    """PyDLL calls with the GIL held, unlike CDLL, and nothing takes it away between two calls."""
    interval, libc = sys.getswitchinterval(), ctypes.PyDLL(None)
    sys.setswitchinterval(1e6)
    try:
        with _core.MemorySampler(0.0005) as sampler:
            taken = sampler.taken
            for _ in range(6000):
                if sampler.taken - taken > 5:
                    break
                libc.usleep(10_000)
            else:
                pytest.fail("no samples were taken within a minute")
    finally:
        sys.setswitchinterval(interval)


@linux
@pytest.mark.spec("S0-56")
def test_a_full_ring_takes_less_than_eight_percent_of_a_small_process() -> None:
    """In a process of its own of at least 32 MiB, so that nothing else allocates meanwhile."""
    code = (
        "from perfopt import _core\nfrom perfopt.memory import MemoryOptimizer\n"
        "block = bytearray(b'x') * 2**24\nMemoryOptimizer().check()\nbefore = _core.resident_bytes()\n"
        "optimizer = MemoryOptimizer()\noptimizer.start_monitoring()\n"
        "for _ in range(16384):\n    optimizer._sampler.sample()\n"
        "assert len(optimizer._sampler) == 16384\n"
        "print((_core.resident_bytes() - before) / before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert 0.0 < float(done.stdout) < 0.08


@linux
def test_peak_remembers_what_is_gone() -> None:
    optimizer = MemoryOptimizer()
    assert optimizer.peak == 0
    optimizer.start_monitoring(0.001)
    before = _core.resident_bytes()
    block = resident_block(80)
    taken = optimizer.sampler_stats()["taken"]
    assert wait_until(lambda: optimizer.sampler_stats()["taken"] >= taken + 2)
    block.close()
    optimizer.stop_monitoring()
    assert optimizer.peak >= before + 70 * MIB
    assert _core.resident_bytes() < optimizer.peak - 60 * MIB


def test_starting_again_changes_the_interval_and_stopping_twice_is_nothing() -> None:
    optimizer = MemoryOptimizer(interval=0.5)
    optimizer.stop_monitoring()
    optimizer.start_monitoring()
    assert optimizer.sampler_stats()["interval"] == 0.5
    optimizer.start_monitoring(0.5)
    optimizer.start_monitoring(interval=0.01)
    assert optimizer.monitoring
    assert optimizer.sampler_stats()["interval"] == 0.01
    with pytest.raises(ValueError, match="interval"):
        optimizer.start_monitoring(0)
    optimizer.stop_monitoring()
    optimizer.stop_monitoring()
    assert "not monitoring" in repr(optimizer)


@pytest.mark.parametrize("interval", [0, -1.0, math.nan, True, "1", 10**400])
def test_a_bad_interval_is_named_and_does_not_end_the_monitoring(interval: Any) -> None:
    optimizer = MemoryOptimizer(interval=1.0)
    optimizer.start_monitoring()
    with pytest.raises((TypeError, ValueError), match=r"interval (is|must be)"):
        optimizer.start_monitoring(interval)
    assert optimizer.monitoring
    optimizer.stop_monitoring()


def test_sampler_as_a_context_manager_and_its_ring() -> None:
    sampler = _core.MemorySampler(interval=0.001, capacity=8)
    assert (sampler.capacity, len(sampler), sampler.latest, sampler.peak_rss) == (8, 0, None, None)
    with sampler as inside:
        assert inside is sampler
        assert sampler.running
        with pytest.raises(RuntimeError, match="running already"):
            sampler.start()
        assert wait_until(lambda: sampler.taken > 20)
    assert not sampler.running
    assert len(sampler) == 8
    assert sampler.dropped == sampler.taken - 8
    assert sampler.missed >= 0
    latest = sampler.latest
    assert latest is not None
    assert latest["rss"] == sampler.samples()["rss"][-1]
    assert sampler.sample().keys() == sampler.samples().keys()
    sampler.clear()
    assert (len(sampler), sampler.taken, sampler.dropped) == (0, 0, 0)
    with pytest.raises(ZeroDivisionError), sampler:
        raise ZeroDivisionError
    assert not sampler.running


def test_start_stop_and_read_from_many_threads() -> None:
    optimizer = MemoryOptimizer(capacity=64)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(40):
                optimizer.start_monitoring(0.0002 * (1 + (seed + i) % 3))
                optimizer.get_memory_trends()
                optimizer.samples()
                if i % 2:
                    optimizer.stop_monitoring()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    optimizer.stop_monitoring()
    assert failures == []
    assert not optimizer.monitoring


@pytest.mark.timeout(60)
def test_a_signal_handler_may_stop_what_is_being_stopped() -> None:
    optimizer = MemoryOptimizer()
    sampler = optimizer._sampler

    class Interrupted:
        """A sampler during whose stop() a signal handler stops the monitoring as well."""

        def __init__(self) -> None:
            self.depth = 0

        def stop(self) -> None:
            self.depth += 1
            if self.depth == 1:
                optimizer.stop_monitoring()
            sampler.stop()

    optimizer.start_monitoring()
    optimizer._sampler = Interrupted()  # type: ignore[assignment]
    optimizer.stop_monitoring()
    assert not sampler.running


@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_works_is_not_locked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()
    optimizer = MemoryOptimizer()
    sampler = optimizer._sampler

    def wait(*_: object) -> int:
        inside.set()
        assert go_on.wait(60)
        return 0

    def retain() -> None:
        with retain_heap():
            pass

    works: list[tuple[Callable[[], None], Any]] = [
        (retain, _core.heap_retain),
        (optimizer.stop_monitoring, sampler),
    ]
    for work, real in works:
        inside.clear()
        go_on.clear()
        monkeypatch.setattr(memory._core, "heap_retain", wait)
        optimizer._sampler = types.SimpleNamespace(stop=wait)  # type: ignore[assignment]
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends a child that waits for ever
            inside.set()
            go_on.set()
            work()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        go_on.set()
        thread.join()
        assert os.waitstatus_to_exitcode(status) == 0, real


@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_not_monitoring_and_can_start(grow: Callable[[int], None]) -> None:
    optimizer = MemoryOptimizer(interval=0.001)
    grow(64)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        facts = {"monitoring": optimizer.monitoring, "held": optimizer.sampler_stats()["held"]}
        optimizer.start_monitoring()
        facts["sampled"] = wait_until(lambda: optimizer.sampler_stats()["taken"] >= 5)
        facts["own"] = abs(_core.resident_bytes() - optimizer.peak) < 40 * MIB
        optimizer.stop_monitoring()
        sender.send(facts)

    with contextlib.ExitStack() as stack:
        stack.callback(optimizer.stop_monitoring)
        optimizer.start_monitoring()
        assert wait_until(lambda: optimizer.sampler_stats()["taken"] >= 5)
        process = context.Process(target=child)
        process.start()
        assert receiver.poll(60)
        assert receiver.recv() == {"monitoring": False, "held": 0, "sampled": True, "own": True}
        process.join()
        assert process.exitcode == 0
        taken = optimizer.sampler_stats()["taken"]
        assert wait_until(lambda: optimizer.sampler_stats()["taken"] > taken)


def test_interpreter_ends_with_the_sampler_running() -> None:
    code = (
        "import sys, perfopt.memory as m\n"
        "o = m.MemoryOptimizer(); o.start_monitoring(0.0005); keep = [o]; keep.append(keep)\n"
        "sys.stdout.write(str(o.monitoring))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True", "")


# -- trends --


@pytest.mark.spec("S0-23")
def test_trends_are_there_without_any_sample() -> None:
    trends = MemoryOptimizer().get_memory_trends()
    for key in ("cpu_memory_trend", "gpu_memory_trend", "gpu_reserved_trend"):
        assert trends[key]["trend"] == "stable"
        assert trends[key]["verdict"] == "insufficient"
        assert trends[key]["slope_bytes_per_second"] == 0.0
    assert trends["cpu_memory_trend"]["samples"] == 1
    json.dumps(trends, allow_nan=False)


@linux
@pytest.mark.spec("S0-23", "S0-24", "S0-54")
def test_memory_that_grows_is_increasing(grow: Callable[[int], None]) -> None:
    optimizer = MemoryOptimizer()
    for _ in range(30):
        grow(2)
        trends = optimizer.get_memory_trends()
    found = trends["cpu_memory_trend"]
    assert found["trend"] == "increasing"
    assert found["samples"] == 30
    low, high = found["interval"]
    assert 0 < low <= found["slope_bytes_per_second"] <= high
    assert found["change_bytes"] == pytest.approx(found["slope_bytes_per_second"] * found["seconds"])
    resident = [value for value in optimizer.samples()["rss"] if value is not None]
    assert resident[-1] - resident[0] == pytest.approx(58 * MIB, rel=0.2)
    json.dumps(trends, allow_nan=False)
    assert found["leak"]["verdict"] == "insufficient"  # a second of growth is no leak yet
    assert not any("look for a leak" in line for line in optimizer.recommendations())


@linux
@pytest.mark.spec("S0-23", "S0-24", "S0-54")
def test_memory_that_stays_is_stable() -> None:
    optimizer = MemoryOptimizer()
    for _ in range(30):
        trends = optimizer.get_memory_trends()
    assert trends["cpu_memory_trend"]["trend"] == "stable"
    assert trends["cpu_memory_trend"]["verdict"] == "stable"
    assert not any("look for a leak" in line for line in optimizer.recommendations())


@linux
@pytest.mark.spec("S0-23")
def test_memory_that_shrinks_is_decreasing() -> None:
    blocks = [resident_block(2) for _ in range(30)]
    optimizer = MemoryOptimizer()
    for block in blocks:
        block.close()
        trends = optimizer.get_memory_trends()
    assert trends["cpu_memory_trend"]["trend"] == "decreasing"


@pytest.mark.spec("S0-23")
def test_gpu_memory_that_grows_is_increasing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    install(monkeypatch, cuda)
    optimizer = MemoryOptimizer()
    for _ in range(20):
        cuda.allocated[0] += 16 * MIB
        trends = optimizer.get_memory_trends()
    assert trends["gpu_memory_trend"]["trend"] == "increasing"
    assert trends["gpu_memory_trend"]["samples"] == 20
    assert trends["gpu_reserved_trend"]["trend"] == "stable"


@pytest.mark.spec("S0-23", "S0-54")
def test_cuda_is_sampled_at_each_check(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = MemoryOptimizer(1.0)
    assert optimizer.check() is None
    assert optimizer.cuda_samples() == {"time_ns": [], "allocated": [], "reserved": [], "total": []}
    cuda = FakeCuda()
    install(monkeypatch, cuda)
    for _ in range(20):
        cuda.reserved[0] += 16 * MIB
        assert optimizer.check() is None
    held = optimizer.cuda_samples()
    assert held["time_ns"] == sorted(held["time_ns"])  # type: ignore[type-var]
    assert held["allocated"] == [3 * GB] * 20
    assert held["reserved"] == [6 * GB + 16 * MIB * (i + 1) for i in range(20)]
    assert held["total"] == [16 * GB] * 20
    trends = optimizer.get_memory_trends()
    assert trends["gpu_reserved_trend"]["trend"] == "increasing"
    assert trends["gpu_memory_trend"]["trend"] == "stable"
    optimizer.clear_history()
    assert optimizer.cuda_samples()["total"] == []


def test_gpu_samples_of_several_threads_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda())
    optimizer = MemoryOptimizer()
    others: list[threading.Thread] = []
    clock = iter(range(10))

    def monotonic_ns() -> int:
        """Between this thread's reading of the clock and its note, another thread does both."""
        now = next(clock)
        if not others:
            others.append(threading.Thread(target=optimizer.pressure))
            others[0].start()
            others[0].join(0.3)
        return now

    monkeypatch.setattr(memory.time, "monotonic_ns", monotonic_ns)
    optimizer.pressure()
    others[0].join()
    assert optimizer.cuda_samples()["time_ns"] == [0, 1]
    assert optimizer.get_memory_trends()["gpu_memory_trend"]["samples"] == 3


def test_trend_of_a_series() -> None:
    times = [0.5 * i for i in range(50)]
    rising = _core.trend(times, [3.0 * t + 7 for t in times])
    assert rising["trend"] == "increasing"
    assert rising["slope"] == pytest.approx(3.0)
    assert rising["change"] == pytest.approx(3.0 * 24.5)
    assert (rising["samples"], rising["span"]) == (50, 24.5)
    assert _core.trend(times, [3.0 * t for t in times], minimum_change=100.0)["trend"] == "stable"
    assert _core.trend(tuple(times), range(50, 0, -1))["trend"] == "decreasing"
    assert _core.trend([], [])["trend"] == "insufficient"


@pytest.mark.parametrize(
    ("times", "values", "error", "text"),
    [
        ([1, 2], [1], ValueError, "times has 2 numbers and values 1"),
        ([1, 2, 1], [1, 2, 3], ValueError, r"times\[2\] is 1 after 2"),
        ([1, math.nan], [1, 2], ValueError, "point 1"),
        ([1, 2], [math.inf, 2], ValueError, "point 0"),
        (5, [1], TypeError, "times must be a sequence of numbers, not int"),
        ([1], None, TypeError, "values must be a sequence of numbers, not NoneType"),
        (["a"], [1], TypeError, "must be real number"),
    ],
)
def test_bad_series_are_refused(times: Any, values: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _core.trend(times, values)


def test_a_minimum_change_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="minimum_change is -1"):
        _core.trend([1], [1], minimum_change=-1)


def test_a_list_that_shrinks_while_it_is_read_is_an_error_not_a_crash() -> None:
    numbers: list[Any] = [1.0] * 100

    class Shrinks:
        def __float__(self) -> float:
            numbers.clear()
            return 1.0

    numbers[0] = Shrinks()
    with pytest.raises(RuntimeError, match="times changed its length"):
        _core.trend(numbers, [1.0] * 100)


# -- advice --


@pytest.mark.spec("S0-25")
def test_recommendations_rest_on_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = MemoryOptimizer(0.8)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace())
    monkeypatch.setattr(memory._core, "memory_info", info_with())
    assert optimizer.recommendations() == []
    monkeypatch.setattr(memory._core, "memory_info", info_with(rss=9 * GB))
    (line,) = optimizer.recommendations()
    assert "90% of the limit of 10.00 GB (cgroup v2)" in line
    monkeypatch.setattr(memory._core, "memory_info", info_with(machine_available=5 * GB))
    (line,) = optimizer.recommendations()
    assert "95% of the machine" in line
    monkeypatch.setattr(memory._core, "memory_info", info_with(heap_retained=GB // 2))
    (line,) = optimizer.recommendations()
    assert "malloc keeps 512 MiB" in line
    assert "not a leak" in line


def test_what_the_kernel_did_to_the_container_is_advised_on() -> None:
    columns: dict[str, list[int | None]] = {"oom_kills": [1, 1], "limit_hits": [2, None, 7], "throttled": [None]}
    line = advice.advise_on_events(columns)
    assert line is not None
    assert "met the limit 5 times" in line
    assert "killed" not in line
    columns["limit_hits"] = [7, 7]
    assert advice.advise_on_events(columns) is None


def leak_found(seconds_to_limit: float | None) -> dict[str, Any]:
    return {
        "verdict": "leak",
        "slope_per_hour": 3600.0 * MIB,
        "interval": [3500.0 * MIB, 3700.0 * MIB],
        "seconds_to_limit": seconds_to_limit,
        "evidence": {"growth_bytes": 100.0 * MIB, "seconds": 100.0},
    }


@pytest.mark.spec("S0-24", "S0-25")
def test_growth_that_malloc_keeps_is_not_called_a_leak() -> None:
    retained: list[int | None] = [10 * MIB, None, 90 * MIB]
    line = advice.advise_on_growth(leak_found(None), retained, None)
    assert line is not None
    assert "malloc keeps" in line
    assert "leak" not in line
    retained[-1] = 11 * MIB
    line = advice.advise_on_growth(leak_found(5400.0), retained, 10 * GB)
    assert line is not None
    assert "rises by 3600.0 MiB/h (95 % interval 3500.0 to 3700.0; 100.0 MiB in 100.0 s)" in line
    assert "look for a leak" in line
    assert "reaches the limit in 1.5 h" in line
    assert advice.advise_on_growth({**leak_found(None), "verdict": "plateau"}, retained, None) is None


NAMES = ("heap_retained", "minor_faults", "oom_kills", "limit_hits", "throttled")


class PlantedSampler:
    """The samples of ten minutes in which the resident set grows by 6 MiB a minute."""

    def samples(self) -> dict[str, list[int | None]]:
        times: list[int | None] = [i * 10**9 for i in range(600)]
        constant: list[int | None] = [0] * 600
        resident: list[int | None] = [GB + i * MIB // 10 for i in range(600)]
        return {"time_ns": times, "rss": resident, **dict.fromkeys(NAMES, constant)}

    def sample(self) -> None: ...


@pytest.mark.spec("S0-23", "S0-24", "S0-25", "S0-54")
def test_a_leak_in_the_samples_is_in_trends_and_advice() -> None:
    optimizer = MemoryOptimizer()
    optimizer._sampler = PlantedSampler()  # type: ignore[assignment]
    trend = optimizer.get_memory_trends()["cpu_memory_trend"]
    assert trend["trend"] == "increasing"
    assert trend["leak"]["verdict"] == "leak"
    assert optimizer.leak_verdict()["slope_per_hour"] == pytest.approx(360 * MIB, rel=0.01)
    assert optimizer.leak_verdict()["seconds_to_limit"] is not None
    assert any("look for a leak" in line for line in optimizer.recommendations())


@linux
@glibc
@pytest.mark.spec("S0-24", "S0-25")
def test_growth_is_attributed_to_garbage_to_malloc_and_to_the_program(grow: Callable[[int], None]) -> None:
    """In three parts of different size: 24 MiB of garbage in cycles, 60 MB freed but kept, 40 MiB still in use."""
    optimizer = MemoryOptimizer()
    assert optimizer.attribute_growth()["growing_bytes"] is None
    optimizer.optimize_memory()
    optimizer.get_memory_trends()
    libc = c_heap()
    blocks = [libc.malloc(100_000) for _ in range(600)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    gc.disable()
    try:
        grow(40)
        for _ in range(24):
            node = Node()
            node.payload = bytearray(b"x" * MIB)
        del node
        for block in blocks[:-1]:
            libc.free(block)
        found = optimizer.attribute_growth()
    finally:
        gc.enable()
        libc.free(blocks[-1])
    assert found["freed_by_gc_bytes"] == pytest.approx(24 * MIB, abs=8 * MIB)
    assert found["returned_by_trim_bytes"] == pytest.approx(60e6, abs=30e6)
    assert found["growing_bytes"] == pytest.approx(40 * MIB, abs=12 * MIB)
    assert found["gc_collected"] >= 24
    json.dumps(found)


@linux
@pytest.mark.spec("S0-20", "S0-40")
def test_an_array_that_is_touched_in_parts_shows_what_is_allocated_and_what_is_resident() -> None:
    """512 MB: allocated at once for malloc, resident as far as it was touched."""
    np = pytest.importorskip("numpy")
    size = 512 * MIB
    optimizer = MemoryOptimizer()

    def figures() -> tuple[float, float | None]:
        usage = optimizer.get_memory_usage()
        in_use = usage["heap_in_use_gb"]
        return usage["cpu_memory_gb"] * GB, None if in_use is None else in_use * GB

    resident, in_use = figures()
    array = np.empty(size, dtype=np.uint8)
    for percent in (0, 5, 25, 50, 75, 100):
        array[: size * percent // 100 : 4096] = 1
        now_resident, now_in_use = figures()
        assert now_resident - resident == pytest.approx(size * percent / 100, abs=16 * MIB)
        if in_use is not None and now_in_use is not None:
            assert now_in_use - in_use == pytest.approx(size, abs=8 * MIB)


def test_many_page_faults_are_advised_on() -> None:
    columns: dict[str, list[int | None]] = {
        "time_ns": [i * 10**9 for i in range(20)],
        "minor_faults": [i * 100_000 for i in range(20)],
    }
    line = advice.advise_on_faults(columns)
    assert line is not None
    assert "100,000 page faults per second" in line
    columns["minor_faults"] = [i * 100 for i in range(20)]
    assert advice.advise_on_faults(columns) is None
    assert advice.advise_on_faults({"time_ns": [1], "minor_faults": [1]}) is None


# -- the decorator --


@pytest.mark.spec("S0-47")
def test_bare_decorator_cleans_before_and_after(cleanings: Cleanings) -> None:
    seen: list[int] = []

    @optimize_memory
    def work(a: int, *, b: int = 2) -> int:
        """Doc."""
        seen.append(cleanings.count)
        return a * b

    assert cleanings.count == 0
    assert work(21) == 42
    assert seen == [1]
    assert cleanings.count == 2
    assert work(1, b=5) == 5
    assert cleanings.count == 4
    assert (work.__name__, work.__doc__) == ("work", "Doc.")
    assert list(inspect.signature(work).parameters) == ["a", "b"]


@pytest.mark.spec("S0-47")
def test_decorator_cleans_after_an_exception(cleanings: Cleanings) -> None:
    @optimize_memory
    def fails() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        fails()
    assert cleanings.count == 2


def test_decorator_with_a_threshold_cleans_only_under_pressure(cleanings: Cleanings) -> None:
    share = max(MemoryOptimizer().pressure().values())

    @optimize_memory(threshold=1e-9)
    def pressed() -> str:
        return "pressed"

    @optimize_memory(threshold=min(1.0, share + 0.3))
    def easy() -> str:
        return "easy"

    @optimize_memory()
    def always() -> str:
        return "always"

    assert easy() == "easy"
    assert cleanings.count == 0
    assert pressed() == "pressed"
    assert cleanings.count == 2
    assert always() == "always"
    assert cleanings.count == 4


def test_decorator_on_methods(cleanings: Cleanings) -> None:
    class Thing:
        factor = 3

        @optimize_memory
        def plain(self, x: int) -> int:
            return self.factor * x

        @optimize_memory
        @classmethod
        def of_class(cls, x: int) -> int:
            return cls.factor * x

        @classmethod
        @optimize_memory
        def of_class_inside(cls, x: int) -> int:
            return cls.factor * x

        @optimize_memory
        @staticmethod
        def static(x: int) -> int:
            return x

    thing = Thing()
    assert (thing.plain(2), thing.of_class(2), Thing.of_class(2), thing.of_class_inside(2)) == (6, 6, 6, 6)
    assert (thing.static(5), Thing.static(5)) == (5, 5)
    assert cleanings.count == 12


def test_decorator_on_async_functions_cleans_after_the_await(cleanings: Cleanings) -> None:
    seen: list[int] = []

    @optimize_memory
    async def work(x: int) -> int:
        seen.append(cleanings.count)
        await asyncio.sleep(0)
        seen.append(cleanings.count)
        if x < 0:
            raise ValueError("negative")
        return x + 1

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(work(1)) == 2
    assert seen == [1, 1]
    assert cleanings.count == 2
    with pytest.raises(ValueError, match="negative"):
        asyncio.run(work(-1))
    assert cleanings.count == 4


def test_decorator_on_generators_cleans_around_the_iteration(cleanings: Cleanings) -> None:
    @optimize_memory
    def numbers() -> Any:
        got = yield 1
        try:
            yield got
        except KeyError:
            yield "caught"
        return "end"

    assert inspect.isgeneratorfunction(numbers)
    iterator = numbers()
    assert cleanings.count == 0
    assert next(iterator) == 1
    assert cleanings.count == 1
    assert iterator.send("sent") == "sent"
    assert iterator.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(iterator)
    assert stop.value.value == "end"
    assert cleanings.count == 2
    early = numbers()
    next(early)
    early.close()
    assert cleanings.count == 4


def test_decorator_on_async_generators(cleanings: Cleanings) -> None:
    closed: list[bool] = []

    @optimize_memory
    async def numbers() -> Any:
        try:
            got = yield 1
            try:
                yield got
            except KeyError:
                yield "caught"
        finally:
            closed.append(True)

    async def use() -> None:
        iterator = numbers()
        assert cleanings.count == 0
        assert await iterator.__anext__() == 1
        assert cleanings.count == 1
        assert await iterator.asend("sent") == "sent"
        assert await iterator.athrow(KeyError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await iterator.__anext__()
        assert cleanings.count == 2
        assert [x async for x in numbers()] == [1, None]
        assert cleanings.count == 4
        early = numbers()
        await early.__anext__()
        await early.aclose()
        assert cleanings.count == 6
        failing = numbers()
        await failing.__anext__()
        with pytest.raises(ValueError, match="mine"):
            await failing.athrow(ValueError("mine"))
        assert cleanings.count == 8

    assert inspect.isasyncgenfunction(numbers)
    asyncio.run(use())
    assert closed == [True] * 4


@pytest.mark.parametrize("thing", [5, "x", int, Node, [1]])
def test_decorator_refuses_what_is_no_function(thing: Any) -> None:
    with pytest.raises(TypeError, match="optimize_memory decorates functions and methods, not"):
        optimize_memory(thing)


@pytest.mark.parametrize(("threshold", "error"), [(2, ValueError), (0, ValueError), ("0.5", TypeError)])
def test_decorator_checks_its_threshold(threshold: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="threshold"):
        optimize_memory(threshold=threshold)


# -- signatures --


@pytest.mark.parametrize(
    ("thing", "signature"),
    [
        (_core.MemorySampler, "(interval=0.1, capacity=16384)"),
        (_core.MemorySampler.start, "(self, /, interval=None)"),
        (_core.MemorySampler.samples, "(self, /)"),
        (_core.memory_info, "(root='')"),
        (_core.heap_retain, "(on, /)"),
        (_core.trend, "(times, values, minimum_change=0.0)"),
    ],
)
def test_signatures_can_be_read(thing: Any, signature: str) -> None:
    assert str(inspect.signature(thing)) == signature
