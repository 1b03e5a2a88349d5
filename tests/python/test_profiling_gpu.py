"""The GPU profiler without a GPU: clean pass-through with a reason, and its use of events against a double of torch.cuda."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from perfopt.profiling import CodeProfiler, GPUProfiler, create_profiler_config


class Device:
    """A double of ``torch.cuda``: a clock that the test moves, events that are recorded in it and finish when told."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.allocated = 0
        self.finished = True
        self.waits = 0
        device = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = device.now_ms

            def query(self) -> bool:
                return device.finished

            def synchronize(self) -> None:
                device.waits += 1

            def elapsed_time(self, other: Event) -> float:
                return other.at - self.at

        self.Event = Event

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def get_device_name(self, index: int) -> str:
        return "Double"

    def memory_allocated(self) -> int:
        return self.allocated


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    double = Device()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=double, __version__="0"))
    return double


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.spec("S4-28", "S4-29")
@pytest.mark.usefixtures("without_torch")
def test_without_cuda_everything_passes_through_and_the_reason_is_said() -> None:
    profiler = CodeProfiler(create_profiler_config("detailed"))

    @profiler.gpu_profiler.profile_cuda_operation
    def work(x: int) -> int:
        return x + 1

    with profiler, profiler.gpu_profiler.cuda_context("block"):
        assert work(1) == 2
    assert profiler.gpu_profiler.get_stats() == {
        "available": False,
        "reason": "torch is not imported",
        "busy_share": None,
        "operations": {},
    }
    assert "GPU operations were not timed: torch is not imported" in profiler.report().notes
    with profiler.gpu_profiler.trace_transfers() as found:
        pass
    assert found == {}
    assert GPUProfiler(enabled=False).reason == "switched off by enable_gpu_profiler=False"


@pytest.mark.spec("S4-28", "S4-29", "S4-20", "S4-50")
def test_operations_are_timed_by_events_and_nothing_waits_before_reading(device: Device) -> None:
    profiler = CodeProfiler(create_profiler_config("detailed"))

    @profiler.gpu_profiler.profile_cuda_operation
    def kernel(milliseconds: float) -> None:
        device.now_ms += milliseconds
        device.allocated += 1000

    kernel(5.0)
    with profiler:
        device.finished = False
        for milliseconds in (100.0, 150.0, 200.0):
            kernel(milliseconds)
        with profiler.gpu_profiler.cuda_context("block"):
            device.now_ms += 40.0
        assert device.waits == 0
    stats = profiler.gpu_profiler.get_stats()
    assert device.waits == 4
    rows = {name.rpartition(".")[2]: row for name, row in stats["operations"].items()}
    assert rows["kernel"]["calls"] == 3
    assert rows["kernel"]["total"] == pytest.approx(0.45, rel=1e-6)
    assert rows["kernel"]["greatest"] == pytest.approx(0.2, rel=1e-6)
    assert rows["kernel"]["memory_total"] == 3000
    assert stats["busy_share"] > 1  # of the double's clock, which runs ahead of the real one
    assert rows["block"]["total"] == pytest.approx(0.04, rel=1e-6)
    slow = profiler.identify_bottlenecks()["slow_gpu_operations"]
    assert [entry["name"].rpartition(".")[2] for entry in slow] == ["kernel"]
    assert profiler.report().host.accelerators == ["Double"]


def test_finished_events_are_read_as_they_pile_up(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from perfopt.profiling import gpu_profiler

    monkeypatch.setattr(gpu_profiler, "_PENDING", 8)
    profiler = GPUProfiler()
    profiler.start()
    for number in range(100):
        device.finished = number % 3 == 0
        with profiler.cuda_context("step"):
            device.now_ms += 1.0
        assert len(profiler._pending) <= 16
    profiler.stop()
    assert profiler.get_stats()["operations"]["step"]["calls"] == 100
    profiler.reset()
    assert profiler.get_stats()["operations"] == {}


def test_an_exception_of_the_block_is_timed_and_passes(device: Device) -> None:
    profiler = GPUProfiler()
    profiler.start()

    @profiler.profile_cuda_operation
    def step() -> None:
        device.now_ms += 2.0
        raise KeyError("x")

    with pytest.raises(KeyError):
        step()
    (row,) = profiler.get_stats()["operations"].values()
    assert row["calls"] == 1
    assert row["total"] == pytest.approx(0.002, rel=1e-6)


@pytest.mark.spec("S4-30", "S4-50")
def test_transfers_and_waits_are_taken_from_torchs_profiler(device: Device) -> None:
    events: list[Any] = [
        SimpleNamespace(key="Memcpy HtoD (Pinned -> Device)", count=3, device_time_total=1500.0, cpu_time_total=0.0),
        SimpleNamespace(key="cudaStreamSynchronize", count=2, device_time_total=0.0, cpu_time_total=700.0),
        SimpleNamespace(key="aten::mm", count=9, device_time_total=9000.0, cpu_time_total=1.0),
    ]

    class Trace:
        def __init__(self, activities: list[str]) -> None:
            assert activities == ["cpu", "cuda"]

        def __enter__(self) -> Trace:
            return self

        def __exit__(self, *_: object) -> None: ...

        def key_averages(self) -> list[Any]:
            return events

    sys.modules["torch"].profiler = SimpleNamespace(  # type: ignore[attr-defined]
        profile=Trace, ProfilerActivity=SimpleNamespace(CPU="cpu", CUDA="cuda")
    )
    with GPUProfiler().trace_transfers() as found:
        assert found == {}
    assert found == {
        "copies": 3,
        "copy_seconds": pytest.approx(0.0015),
        "waits": 2,
        "wait_seconds": pytest.approx(0.0007),
    }


def test_names_must_be_text() -> None:
    with pytest.raises(TypeError, match="name must be a str, not int"), GPUProfiler().cuda_context(3):  # type: ignore[arg-type]
        pass
