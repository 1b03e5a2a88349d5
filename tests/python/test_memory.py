"""perfopt.memory.MemoryOptimizer: construction, the thread that samples, threads, signals and forks; no torch here."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
from memory_tools import ENVIRONMENT, MIB, linux, resident_block
from waiting import until

from perfopt import _core, memory
from perfopt.memory import MemoryOptimizer, retain_heap


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


@pytest.mark.spec("S0-23")
def test_monitoring_samples_in_the_background() -> None:
    optimizer = MemoryOptimizer()
    optimizer.start_monitoring(interval=0.001)
    assert optimizer.monitoring
    until(lambda: optimizer.sampler_stats()["taken"] >= 20)
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
    until(lambda: optimizer.sampler_stats()["taken"] >= taken + 2)
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
        until(lambda: sampler.taken > 20)
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
        until(lambda: optimizer.sampler_stats()["taken"] >= 5)
        facts["own"] = abs(_core.resident_bytes() - optimizer.peak) < 40 * MIB
        optimizer.stop_monitoring()
        sender.send(facts)

    with contextlib.ExitStack() as stack:
        stack.callback(optimizer.stop_monitoring)
        optimizer.start_monitoring()
        until(lambda: optimizer.sampler_stats()["taken"] >= 5)
        process = context.Process(target=child)
        process.start()
        assert receiver.poll(60)
        assert receiver.recv() == {"monitoring": False, "held": 0, "own": True}
        process.join()
        assert process.exitcode == 0
        taken = optimizer.sampler_stats()["taken"]
        until(lambda: optimizer.sampler_stats()["taken"] > taken)


def test_interpreter_ends_with_the_sampler_running() -> None:
    code = (
        "import sys, perfopt.memory as m\n"
        "o = m.MemoryOptimizer(); o.start_monitoring(0.0005); keep = [o]; keep.append(keep)\n"
        "sys.stdout.write(str(o.monitoring))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True", "")


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
