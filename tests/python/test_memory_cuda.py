"""Torch's CUDA memory, by a torch that is made up: used where it is initialised, sampled, and never imported."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types

import pytest
from memory_tools import ENVIRONMENT, GB, MIB, FakeCuda, info_with, install

from perfopt import _core, memory
from perfopt.memory import MemoryOptimizer, optimize_memory


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_no_cuda_samples_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda())
    optimizer = MemoryOptimizer()
    optimizer.pressure()
    child = os.fork()
    if child == 0:
        inherited = len(optimizer.cuda_samples()["time_ns"])
        optimizer.pressure()
        os._exit(inherited * 2 + (len(optimizer.cuda_samples()["time_ns"]) != 1))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(optimizer.cuda_samples()["time_ns"]) == 1


def test_torch_is_never_imported_from_here() -> None:
    code = (
        "import sys, perfopt.memory as m\n"
        "o = m.MemoryOptimizer(); o.get_memory_usage(); o.optimize_memory(); o.check(); o.get_memory_trends()\n"
        "o.recommendations(); m.optimize_memory(lambda: None)()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)


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


class SlowSampler:
    """Between a note and what the thread that noted does with it, another thread notes as well."""

    def __init__(self, optimizer: MemoryOptimizer) -> None:
        self.real = optimizer._sampler
        self.other = threading.Thread(target=optimizer.pressure)
        self.noted: list[int] = []

    def note_cuda(self, *figures: int) -> int:
        noted = self.real.note_cuda(*figures)
        self.noted.append(noted)
        if len(self.noted) == 1:
            self.other.start()
            self.other.join(0.3)
        return noted


def test_gpu_samples_of_several_threads_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda())
    optimizer = MemoryOptimizer()
    slow = SlowSampler(optimizer)
    optimizer._sampler = slow  # type: ignore[assignment]
    optimizer.pressure()
    slow.other.join()
    optimizer._sampler = slow.real
    times = optimizer.cuda_samples()["time_ns"]
    assert times == slow.noted == sorted(slow.noted)
    assert len(times) == 2
    assert optimizer.get_memory_trends()["gpu_memory_trend"]["samples"] == 3


def test_samples_repeat_the_newest_cuda_figures_with_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(initialized=False)
    install(monkeypatch, cuda)
    optimizer = MemoryOptimizer()
    optimizer.get_memory_trends()
    cuda.initialized = True
    optimizer.get_memory_trends()
    cuda.allocated = [5 * GB, 0]
    optimizer.check()
    optimizer._sampler.sample()
    optimizer._sampler.sample()
    columns = optimizer.samples()
    assert columns["cuda_allocated"] == [None, 3 * GB, 5 * GB, 5 * GB]
    assert columns["cuda_reserved"] == [None, 6 * GB, 6 * GB, 6 * GB]
    assert columns["cuda_total"] == [None, 16 * GB, 16 * GB, 16 * GB]
    first, second = optimizer.cuda_samples()["time_ns"]
    assert columns["cuda_time_ns"] == [None, first, second, second]
    optimizer.clear_history()
    optimizer._sampler.sample()
    assert optimizer.samples()["cuda_total"] == [None]


def test_what_is_noted_is_checked() -> None:
    sampler = _core.MemorySampler()
    with pytest.raises(ValueError, match="reserved is -1 bytes; accepted: 0 or more"):
        sampler.note_cuda(0, -1, 0)
    with pytest.raises(TypeError):
        sampler.note_cuda(0, 1.5, 0)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        sampler.note_cuda(0, 0, 2**63)
    assert sampler.sample()["cuda_total"] is None
