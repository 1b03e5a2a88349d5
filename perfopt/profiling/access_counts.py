"""Accesses to a data set, counted over all processes that make them: fixed shared memory, one writer a slot.

A data set is read where its loader's workers are. Each process that reads it claims a slot of 128 bytes in a file without a
name (``memfd_create``) that every worker maps, forked or spawned, and adds to its own slot only, so no access waits for
another process and nothing has to be sent when a worker ends or is killed. A claimed slot is marked by a POSIX record lock,
which the kernel takes away with the process: that is how slots of ended processes are known. When none is unused, those are
added up in slot 0 and used again. A reset begins a new generation, which writers notice at their next access; slots of
earlier generations count nothing. Readers may see a running process one access late.

Invariants: words of slot i are written by its owner, or by the holder of the lock of byte 0 once the owner has ended (slot 0:
by that holder). Within a process one lock orders the threads. Memory: 32 KiB a data set.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from perfopt import _core

__all__ = ["AccessCounts", "CacheWatch"]

SLOTS = 256
_STRIDE = 16  # words of a slot, and of the header before slot 0
_BYTES = 8 * _STRIDE * (SLOTS + 1)
_RECORDING, _CURRENT, _MISSING = range(
    3
)  # of the header: whether workers shall record, the generation, processes without a slot
_PID, _GENERATION, _CALLS, _SAMPLES, _NANOSECONDS, _LEAST, _GREATEST, _FAILED, _HITS, _MISSES = range(10)  # of a slot
_SUMS = (_CALLS, _SAMPLES, _NANOSECONDS, _FAILED, _HITS, _MISSES)

# The kernel knows record locks by process and not by thread; this orders the threads. Renewed in a forked child. Locks here are
# reentrant: a signal handler or a finalizer that asks for figures may run while this very thread holds them.
_claiming = threading.RLock()
_all_counts: weakref.WeakValueDictionary[int, AccessCounts] = weakref.WeakValueDictionary()  # by id()


class CacheWatch:
    """Hits and misses that a data set's own cache tells, as changes from access to access.

    ``tell`` gives the cache's counts so far, or is None where there is no cache. Used under the lock of an AccessCounts.
    """

    __slots__ = ("seen", "tell")

    def __init__(self, tell: Callable[[], tuple[int, int]] | None) -> None:
        self.tell = tell
        self.seen: tuple[int, int] | None = None  # None: accesses went by unrecorded, so changes begin anew

    def begin(self) -> None:
        """Before an access: notes where the counts stand, unless the last access left them here."""
        if self.tell is not None and self.seen is None:
            self.seen = self.tell()

    def changes(self) -> tuple[int, int]:
        """After it: hits and misses since the last time."""
        if self.tell is None or self.seen is None:
            return 0, 0
        before, self.seen = self.seen, self.tell()
        hits, misses = self.seen[0] - before[0], self.seen[1] - before[1]
        return (hits, misses) if hits >= 0 and misses >= 0 else (0, 0)  # the cache was cleared


class AccessCounts:
    """The counts of one data set, in this process and in those that were started from it.

    In the process that made it, accesses are recorded while ``profiler.enabled``; workers go by what they were told last
    (:meth:`tell`, at every fork and spawn and on demand). There and in forked workers each is also a range ``<name>.access``; a
    profiler that follows its children has those too. A copy that was pickled otherwise than for a worker's start is for no
    profiler and records nothing.
    """

    def __init__(self, name: str, profiler: _core.Profiler | None, descriptor: int | None = None) -> None:
        self.name = name
        self.operation = f"{name}.access"  # the range around each access, in spawned processes aside
        self.cached = False  # whether the data set tells hits and misses of a cache
        self._profiler = profiler
        self._ranges = (
            profiler  # takes the ranges: forked children have a copy, which reports if its children are followed
        )
        self._lock = threading.RLock()
        self._base: int | None = None  # first word of this process's slot; -1: there is none left
        if descriptor is None:
            descriptor = _nameless_file()
            os.ftruncate(descriptor, _BYTES)
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor).atexit = False
        self._words = memoryview(mmap.mmap(descriptor, _BYTES)).cast("q")
        _all_counts[id(self)] = self
        self.tell()

    # ---- recording ----

    def recording(self) -> bool:
        """Whether an access shall be recorded now, in this process."""
        if self._profiler is not None:
            return self._profiler.enabled
        return self._words[_RECORDING] != 0

    def tell(self) -> None:
        """Tells the workers whether the profiler records now."""
        if self._profiler is not None:
            self._words[_RECORDING] = int(self._profiler.enabled)

    def access(self, call: Callable[..., Any], arguments: tuple[Any, ...], samples: int, cache: CacheWatch) -> Any:
        """``call(*arguments)``, recorded. Calls that raise count as failed; IndexError and StopIteration end iterations."""
        if cache.tell is not None:
            with self._lock:
                cache.begin()
        around = contextlib.nullcontext() if self._ranges is None else self._ranges.profile(self.operation)
        began = time.perf_counter_ns()
        try:
            with around:
                value = call(*arguments)
        except (IndexError, StopIteration):
            raise
        except BaseException:
            self._add(0, None, cache)
            raise
        self._add(samples, time.perf_counter_ns() - began, cache)
        return value

    def _add(self, samples: int, nanoseconds: int | None, cache: CacheWatch) -> None:
        """Adds an access to this process's slot; it failed if it has no time."""
        with self._lock:
            hits, misses = cache.changes()
            if self._base is None:
                self._base = self._claim()
            base, words = self._base, self._words
            if base < 0:
                return
            if words[base + _GENERATION] != words[_CURRENT]:
                self._clear(base)
            words[base + _HITS] += hits
            words[base + _MISSES] += misses
            if nanoseconds is None:
                words[base + _FAILED] += 1
                return
            words[base + _SAMPLES] += samples
            words[base + _NANOSECONDS] += nanoseconds
            if nanoseconds > words[base + _GREATEST]:
                words[base + _GREATEST] = nanoseconds
            if nanoseconds < words[base + _LEAST] or words[base + _CALLS] == 0:
                words[base + _LEAST] = nanoseconds
            words[base + _CALLS] += 1

    # ---- slots ----

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with _claiming:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, 0)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, 0)

    def _claim(self) -> int:
        """First word of a slot for this process; -1 when all are taken by processes that live."""
        try:
            with self._exclusive():
                index = self._unused() or self._reclaimed()
                if not index:
                    self._words[_MISSING] += 1
                    return -1
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
                base = _first_word(index)
                self._clear(base)
                self._words[base + _PID] = os.getpid()
                return base
        except OSError:  # the file was closed behind our back: the access itself shall not fail for it
            return -1

    def _unused(self) -> int:
        return next((index for index in range(1, SLOTS) if not self._words[_first_word(index) + _PID]), 0)

    def _reclaimed(self) -> int:
        """Adds the slots of ended processes to slot 0 and gives one of them; 0 when all processes live."""
        free = 0
        for index in range(1, SLOTS):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
            except OSError:
                continue  # its process lives
            self._fold(_first_word(index))
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, index)
            free = index
        return free

    def _fold(self, base: int) -> None:
        words, ended = self._words, _first_word(0)
        if words[ended + _GENERATION] != words[_CURRENT]:
            self._clear(ended)
        if words[base + _GENERATION] == words[_CURRENT]:
            if words[base + _CALLS]:
                least = words[base + _LEAST]
                words[ended + _LEAST] = min(words[ended + _LEAST], least) if words[ended + _CALLS] else least
                words[ended + _GREATEST] = max(words[ended + _GREATEST], words[base + _GREATEST])
            for field in _SUMS:
                words[ended + field] += words[base + field]
        self._clear(base)
        words[base + _PID] = 0

    def _clear(self, base: int) -> None:
        """Begins the current generation in a slot."""
        for field in range(_CALLS, _STRIDE):
            self._words[base + field] = 0
        self._words[base + _GENERATION] = self._words[_CURRENT]

    # ---- reading ----

    def reset(self) -> None:
        """Forgets what was counted, in all processes."""
        with self._exclusive():
            self._words[_CURRENT] += 1
            self._words[_MISSING] = 0

    def figures(self) -> dict[str, Any]:
        """JSON-ready figures over all processes; see :meth:`perfopt.profiling.loading.ProfiledDataset.get_stats`."""
        with self._exclusive():
            words = self._words.tolist()
        slots = [words[base : base + _STRIDE] for base in map(_first_word, range(SLOTS))]
        slots = [slot for slot in slots if slot[_GENERATION] == words[_CURRENT] and (slot[_CALLS] or slot[_FAILED])]
        return {
            "name": self.name,
            **_plain(slots, cached=self.cached),
            "processes": [{"pid": slot[_PID] or None, **_plain([slot], cached=self.cached)} for slot in slots],
            "missing_processes": words[_MISSING],
        }

    # ---- other processes ----

    def __deepcopy__(self, memo: dict[int, Any]) -> AccessCounts:
        return self

    def __reduce__(self) -> Any:
        from multiprocessing import context, reduction  # milliseconds that only who pickles should pay

        if context.get_spawning_popen() is None:
            return AccessCounts, (self.name, None)
        self.tell()
        return _attached, (self.name, reduction.DupFd(self._descriptor))

    def enter_child(self) -> None:
        """In a forked child: other threads are gone, and the slot and the say over recording are the parent's."""
        self._lock = threading.RLock()
        self._base = self._profiler = None


def _first_word(index: int) -> int:
    return _STRIDE * (index + 1)


def _nameless_file() -> int:
    """Descriptor of a file that lies in memory where the system can do that, and goes with its last user."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("perfopt-access-counts")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _attached(name: str, duplicate: Any) -> AccessCounts:
    return AccessCounts(name, None, duplicate.detach())


def _plain(slots: list[list[int]], *, cached: bool) -> dict[str, Any]:
    calls, samples, nanoseconds, failed, hits, misses = (sum(slot[field] for slot in slots) for field in _SUMS)
    asked = hits + misses if cached else 0
    timed = [slot for slot in slots if slot[_CALLS]]
    return {
        "accesses": calls,
        "samples": samples,
        "failed": failed,
        "seconds_total": nanoseconds * 1e-9,
        "seconds_mean": nanoseconds * 1e-9 / calls if calls else None,
        "seconds_min": min(slot[_LEAST] for slot in timed) * 1e-9 if timed else None,
        "seconds_max": max(slot[_GREATEST] for slot in timed) * 1e-9 if timed else None,
        "cache_hits": hits if cached else None,
        "cache_misses": misses if cached else None,
        "cache_hit_rate": hits / asked if asked else None,
    }


def _alive() -> list[AccessCounts]:
    """All counts of this process; taken in one step, as other threads may make some meanwhile."""
    return [counts for counts in (reference() for reference in _all_counts.valuerefs()) if counts is not None]


def _before_fork() -> None:
    for counts in _alive():
        counts.tell()


def _in_child() -> None:
    global _claiming
    _claiming = threading.RLock()
    for counts in _alive():
        counts.enter_child()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
