"""perfopt.MemoryOptimizer.on_pressure: when it calls, on which thread, what happens to errors, and how it ends."""

from __future__ import annotations

import os
import queue
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from perfopt import _core, _memory_pressure
from perfopt._memory_pressure import PressureWatch, open_psi_trigger
from perfopt.memory import MemoryOptimizer

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Shares:
    """What a watch looks at; the test sets it, and waits until the watch has looked again."""

    def __init__(self) -> None:
        self.value = 0.1
        self.looked = threading.Semaphore(0)

    def __call__(self) -> dict[str, float]:
        self.looked.release()
        return {"rss": self.value, "machine": 0.05}

    def wait(self) -> None:
        """Until a look that began after this call is over: the second from now has begun by then."""
        while self.looked.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self.looked.acquire(timeout=60)


@pytest.mark.spec("S0-21")
def test_a_callback_comes_once_each_time_the_threshold_is_reached() -> None:
    shares = Shares()
    calls: queue.Queue[dict[str, Any]] = queue.Queue()
    with PressureWatch(calls.put, 0.8, 0.001, shares, paths=[]) as watch:
        assert watch.source == "interval"
        shares.wait()
        assert calls.empty()
        shares.value = 0.9
        found = calls.get(timeout=60)
        assert found == {"reason": "threshold", "what": "rss", "share": 0.9, "shares": {"rss": 0.9, "machine": 0.05}}
        shares.wait()
        assert calls.empty()  # still above: said already
        shares.value = 0.5
        shares.wait()
        shares.value = 0.8
        assert calls.get(timeout=60)["share"] == 0.8
    assert watch.closed


def test_callbacks_run_on_the_thread_of_the_watch() -> None:
    threads: queue.Queue[threading.Thread] = queue.Queue()
    with MemoryOptimizer(0.8).on_pressure(lambda _: threads.put(threading.current_thread()), 1e-9, interval=0.001):
        thread = threads.get(timeout=60)
    assert thread.name == "perfopt-pressure"
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_an_exception_in_a_callback_is_reported_and_the_watch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: queue.Queue[Any] = queue.Queue()
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.put((report.exc_value, report.object)))
    shares = Shares()
    shares.value = 0.9
    calls: queue.Queue[float] = queue.Queue()

    def callback(found: dict[str, Any]) -> None:
        calls.put(found["share"])
        raise KeyError("mine")

    with PressureWatch(callback, 0.8, 0.001, shares, paths=[]):
        assert calls.get(timeout=60) == 0.9
        error, source = reports.get(timeout=60)
        assert repr(error) == "KeyError('mine')"
        assert source is callback
        shares.value = 0.1
        shares.wait()
        shares.value = 0.95
        assert calls.get(timeout=60) == 0.95


def test_a_look_that_fails_does_not_hide_pressure_that_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: queue.Queue[Any] = queue.Queue()
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.put(report.exc_value))
    failures = [OSError("no figures")]

    def shares() -> dict[str, float]:
        if failures:
            raise failures.pop()
        return {"rss": 0.9}

    calls: queue.Queue[dict[str, Any]] = queue.Queue()
    with PressureWatch(calls.put, 0.8, 0.001, shares, paths=[]):
        assert isinstance(reports.get(timeout=60), OSError)
        assert calls.get(timeout=60)["share"] == 0.9


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_watch_whose_thread_cannot_start_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    optimizer = MemoryOptimizer()
    optimizer.pressure()  # opens what is kept open
    before = open_files()
    with pytest.raises(RuntimeError, match="can't start"):
        optimizer.on_pressure(print)
    assert open_files() == before


def test_closing_a_watch_whose_thread_has_just_ended_writes_to_nobody() -> None:
    """The thread may see that it shall end, and close its files, before close() has woken it."""
    watch = PressureWatch(print, 0.8, 0.001, dict, paths=[])
    watch._closed = True
    watch._thread.join(60)
    read, write = os.pipe()  # takes the numbers that have become free
    assert {read, write} & {watch._wake_read, watch._wake_write}
    watch.close()
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_every_close_waits_for_the_callback_that_runs() -> None:
    in_callback = threading.Event()
    go_on = threading.Event()
    ended = threading.Event()
    watches: queue.Queue[PressureWatch] = queue.Queue()

    def callback(_: dict[str, Any]) -> None:
        watches.get(timeout=60).close()
        in_callback.set()
        assert go_on.wait(60)
        ended.set()

    watch = PressureWatch(callback, 0.8, 0.001, lambda: {"rss": 0.9}, paths=[])
    watches.put(watch)
    assert in_callback.wait(60)
    threading.Timer(0.05, go_on.set).start()
    watch.close()
    assert ended.is_set()


class BadFilePoll:
    """Says of every registered file that it is not open: poll() would say so at once, each time."""

    def __init__(self) -> None:
        self.registered: set[int] = set()

    def register(self, descriptor: int, _: int) -> None:
        self.registered.add(descriptor)

    def unregister(self, descriptor: int) -> None:
        self.registered.remove(descriptor)

    def poll(self, _: float) -> list[tuple[int, int]]:
        time.sleep(0.001)
        return [(descriptor, select.POLLNVAL) for descriptor in self.registered]


def test_a_file_that_somebody_else_closed_is_not_polled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = BadFilePoll()
    monkeypatch.setattr(_memory_pressure.select, "poll", lambda: bad)
    shares = Shares()
    with PressureWatch(print, 0.8, 0.001, shares, paths=[]):
        shares.wait()
        assert bad.registered == set()


def test_reporting_takes_exceptions_only() -> None:
    with pytest.raises(TypeError, match="error must be an exception, not int"):
        _core.report_unraisable(5, None)  # type: ignore[arg-type]


def test_a_callback_may_close_its_own_watch() -> None:
    closed = threading.Event()
    watches: list[PressureWatch] = []
    made = threading.Event()

    def callback(_: dict[str, Any]) -> None:
        assert made.wait(60)
        watches[0].close()
        closed.set()

    watches.append(MemoryOptimizer().on_pressure(callback, 1e-9, interval=0.001))
    made.set()
    assert closed.wait(60)
    watches[0].close()
    assert watches[0].closed


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"callback": 5}, TypeError, "callback must be callable, not int"),
        ({"callback": print, "threshold": 2}, ValueError, "threshold is 2"),
        ({"callback": print, "interval": 0}, ValueError, "interval is 0 s; accepted"),
        ({"callback": print, "interval": "1"}, TypeError, "interval must be a number of seconds, not str"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        MemoryOptimizer().on_pressure(**arguments)


def test_a_trigger_is_set_on_the_first_file_that_takes_it(tmp_path: Path) -> None:
    refused = tmp_path / "missing" / "memory.pressure"
    taken = tmp_path / "memory.pressure"
    taken.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    descriptor = open_psi_trigger([str(refused), str(tmp_path), str(taken)])
    assert descriptor is not None
    os.close(descriptor)
    assert taken.read_bytes().startswith(b"some 150000 1000000\0")
    assert open_psi_trigger([str(refused)]) is None
    assert _memory_pressure.psi_paths()[-1] == "/proc/pressure/memory"


def test_a_stall_that_the_kernel_reports_wakes_the_watch_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel's POLLPRI is played by a pipe: no test can make a machine stall for memory."""
    trigger = tmp_path / "memory.pressure"
    trigger.write_text("")
    read, write = os.pipe()
    monkeypatch.setattr(_memory_pressure, "open_psi_trigger", lambda _: read)
    monkeypatch.setattr(_memory_pressure.select, "POLLPRI", select.POLLIN)
    calls: queue.Queue[dict[str, Any]] = queue.Queue()

    def callback(found: dict[str, Any]) -> None:
        os.read(read, 1)
        calls.put(found)

    with PressureWatch(callback, 0.8, 3600.0, Shares()) as watch:
        assert watch.source == "psi"
        os.write(write, b"x")
        assert calls.get(timeout=60)["reason"] == "stall"
    os.close(write)


def test_the_interpreter_ends_with_a_watch_open() -> None:
    code = (
        "import perfopt.memory as m\n"
        "m.MemoryOptimizer().on_pressure(lambda found: None, 1e-9, interval=0.001)\n"
        "print('end')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_closed_watch() -> None:
    with MemoryOptimizer().on_pressure(lambda _: None, 1.0, interval=3600.0) as watch:
        child = os.fork()
        if child == 0:
            closed = watch.closed
            watch.close()
            os._exit(0 if closed else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not watch.closed
