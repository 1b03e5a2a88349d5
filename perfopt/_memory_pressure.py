"""Callbacks on memory pressure, on a Python thread of their own that sleeps until the kernel reports a stall or a time is over.

Where the kernel has pressure stall information (PSI, Linux 4.20) and lets this process set a trigger, the thread waits in
``poll`` on the ``memory.pressure`` of the own cgroup, else on ``/proc/pressure/memory``: tasks that stalled for memory for
150 ms within a second wake it at once. Everywhere the shares of the limits are looked at every ``interval`` seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterable
from typing import Any

from perfopt import _core

_PSI_TRIGGER = b"some 150000 1000000\0"  # microseconds of stall within a window of microseconds
_MACHINE_PSI = "/proc/pressure/memory"


def open_psi_trigger(paths: Iterable[str]) -> int | None:
    """A descriptor that polls POLLPRI when memory stalls, of the first path that takes the trigger; else None."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            os.write(descriptor, _PSI_TRIGGER)
        except OSError:
            os.close(descriptor)
            continue
        return descriptor
    return None


def _own_pressure_file() -> str | None:
    """``memory.pressure`` of this process's cgroup (v2), where it can be seen."""
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                number, _, rest = line.partition(":")
                if number == "0":
                    return "/sys/fs/cgroup" + rest.partition(":")[2].rstrip("\n").rstrip("/") + "/memory.pressure"
    except OSError:
        pass
    return None


def psi_paths() -> list[str]:
    """Files to try for a trigger, the own cgroup's first."""
    own = _own_pressure_file()
    return [_MACHINE_PSI] if own is None else [own, _MACHINE_PSI]


class PressureWatch:
    """Calls back when memory pressure begins; made by :meth:`perfopt.MemoryOptimizer.on_pressure`.

    The callback runs on this watch's thread, once when a share reaches the threshold and again only after all shares were
    below it; and at each stall that the kernel reports. What it raises goes to ``sys.unraisablehook`` and the watch goes on.
    Use :meth:`close` or a with block to end it; the thread is a daemon and never keeps the interpreter alive. In a forked
    child the watch is closed.
    """

    def __init__(
        self,
        callback: Callable[[dict[str, Any]], object],
        threshold: float,
        interval: float,
        shares: Callable[[], dict[str, float]],
        paths: Iterable[str] | None = None,
    ) -> None:
        self._callback = callback
        self._threshold = threshold
        self._interval = interval
        self._shares = shares
        self._lock = threading.RLock()  # guards _closed and _files
        self._closed = False
        self._pid = os.getpid()
        self._psi = open_psi_trigger(psi_paths() if paths is None else paths)
        self._files = [] if self._psi is None else [self._psi]  # open here; emptied when they are closed
        self._thread = threading.Thread(target=self._run, name="perfopt-pressure", daemon=True)
        try:
            self._wake_read, self._wake_write = os.pipe()
            self._files += [self._wake_read, self._wake_write]
            os.set_blocking(self._wake_write, False)
            self._thread.start()
        except BaseException:
            self._close_files()
            raise

    @property
    def source(self) -> str:
        """``psi`` when the kernel wakes the watch, ``interval`` when it only looks from time to time."""
        return "interval" if self._psi is None else "psi"

    @property
    def closed(self) -> bool:
        """Whether the watch has ended (always in a forked child)."""
        return self._closed or os.getpid() != self._pid

    def close(self) -> None:
        """End the watch; returns when no callback runs any more, unless called from the callback. May be called again."""
        if os.getpid() != self._pid:  # the thread is the parent's, and may have held the lock; files here are copies
            self._close_files()
            return
        with self._lock:
            self._closed = True
            if self._files:  # else the thread has ended, and these numbers may name files of somebody else
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> PressureWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self._psi is not None:
            poll.register(self._psi, select.POLLPRI)
        above = False
        stalled = False
        try:
            while not self._closed:
                above = self._look(above, stalled)
                stalled = False
                for descriptor, event in poll.poll(self._interval * 1000.0):
                    if descriptor == self._psi:
                        stalled = bool(event & select.POLLPRI)
                    if event & (select.POLLERR | select.POLLNVAL):  # the cgroup is gone, or somebody closed our file
                        poll.unregister(descriptor)
        finally:
            with self._lock:
                self._close_files()

    def _look(self, above: bool, stalled: bool) -> bool:
        """Look once and call back if need be; whether a share was at the threshold when last seen."""
        try:
            shares = self._shares()
        except BaseException as error:
            _core.report_unraisable(error, self._shares)
            return above
        what, share = max(shares.items(), key=lambda item: item[1], default=("unknown", 0.0))
        now_above = share >= self._threshold
        if stalled or (now_above and not above):
            reason = "stall" if stalled and not now_above else "threshold"
            try:
                self._callback({"reason": reason, "what": what, "share": share, "shares": shares})
            except BaseException as error:
                _core.report_unraisable(error, self._callback)
        return now_above
