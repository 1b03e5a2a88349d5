"""Usage, limits and pressure: the figures of this process, of made-up containers, and their shares of each limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory_tools import GB, MIB, REAL_INFO, c_heap, glibc, info_with, linux

from perfopt import _core, memory
from perfopt.memory import MemoryOptimizer


def write_tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


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


@pytest.mark.spec("S0-19", "S0-21")
def test_pressure_depends_on_the_threshold() -> None:
    assert MemoryOptimizer(threshold=1e-9).is_memory_pressure() is True
    share = max(MemoryOptimizer().pressure().values())
    assert 0.0 < share < 1.0
    assert MemoryOptimizer(threshold=min(1.0, share + 0.3)).is_memory_pressure() is False
    assert MemoryOptimizer(threshold=share * 0.5).is_memory_pressure() is True


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
