"""File and network traffic of the process between two moments, from the kernel's own counters.

Files: ``/proc/self/io`` counts what read and write calls moved (page cache included) and what reached the storage,
also for children that ended and were waited for. Network: the kernel counts bytes by interface, not by process, so the
figures are those of the process's network namespace, other processes in it included, without the loopback interface.
Elsewhere than on Linux nothing is known.

A forked child has its parent's sums so far, and goes on by its own counters: those of files began at zero with the fork.
"""

from __future__ import annotations

import os
import threading

from perfopt._fork_locks import lock_of

__all__ = ["IOTraffic"]

_FILES = {"rchar": "read", "wchar": "written", "read_bytes": "read_from_storage", "write_bytes": "written_to_storage"}
_CALLS = {"syscr": "read_calls", "syscw": "write_calls"}
_OF_PROCESS = {*_FILES.values(), *_CALLS.values()}  # not of the network namespace


def _counters() -> dict[str, int]:
    """All counters as they stand; those that cannot be read are left out."""
    counters: dict[str, int] = {}
    try:
        with open("/proc/self/io") as file:
            for line in file:
                name, _, value = line.partition(":")
                known = _FILES.get(name) or _CALLS.get(name)
                if known:
                    counters[known] = int(value)
    except OSError:
        pass
    try:
        with open("/proc/self/net/dev") as file:
            received = sent = 0
            for line in file.readlines()[2:]:
                interface, _, figures = line.partition(":")
                if interface.strip() != "lo":
                    columns = figures.split()
                    received += int(columns[0])
                    sent += int(columns[8])
        counters |= {"network_received": received, "network_sent": sent}
    except (OSError, ValueError, IndexError):
        pass
    return counters


class IOTraffic:
    """Bytes and calls between ``start`` and ``stop``, added up over all such pairs."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._lock = lock_of(self, "_lock", threading.Lock)
        self._since: dict[str, int] | None = None
        self._pid = os.getpid()  # whose counters `_since` are
        self._sums: dict[str, int] = {}

    def start(self) -> None:
        """Notes where the counters stand; nothing if it is started already."""
        with self._lock:
            if self._enabled and self._since is None:
                self._note(_counters())

    def stop(self) -> None:
        """Adds what was moved since ``start``."""
        with self._lock:
            self._add()
            self._since = None

    def reset(self) -> None:
        """Sets the sums to zero, and begins anew if it is started."""
        with self._lock:
            self._sums = {}
            if self._since is not None:
                self._note(_counters())

    def _note(self, counters: dict[str, int]) -> None:
        self._since, self._pid = counters, os.getpid()

    def _add(self) -> None:
        if self._since is not None:
            now = _counters()
            since = self._since
            if self._pid != os.getpid():
                since = {name: 0 if name in _OF_PROCESS else value for name, value in since.items()}
            for name, value in now.items():
                self._sums[name] = self._sums.get(name, 0) + value - since.get(name, value)
            self._note(now)

    def get_stats(self) -> dict[str, int]:
        """Bytes ``read``, ``written`` (by calls), ``read_from_storage``, ``written_to_storage``, ``network_received``,
        ``network_sent``, and numbers of calls ``read_calls``, ``write_calls``; what the kernel does not tell is left out."""
        with self._lock:
            self._add()
            return dict(self._sums)
