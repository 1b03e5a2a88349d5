"""Loaders that tell how long their consumer waited for each batch, and how long it worked in between.

A loader is iterated on the consumer's threads in the process of the profiler; what its workers do is counted by the data set
(:mod:`perfopt.profiling.datasets`). Figures are kept by the loader's name in a :class:`LoaderRecord`, added under its lock, and
outlive the loader. Torch is never imported from here.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from perfopt import _core
from perfopt._fork_locks import lock_of
from perfopt.profiling.access_counts import AccessCounts
from perfopt.profiling.batches import SampleCounter, bytes_read, bytes_since, ready_batches
from perfopt.profiling.datasets import counts_below
from perfopt.profiling.proxies import Proxy

__all__ = ["LoaderRecord", "ProfiledDataLoader", "rows_of", "stats_of", "weakly"]


class LoaderRecord:
    """Figures of one loader's name. Times in nanoseconds."""

    def __init__(
        self, name: str, profiler: _core.Profiler | None, recording: Callable[[], bool] = lambda: False
    ) -> None:
        self.name = name
        self.wait = f"{name}.wait"  # the ranges around each wait,
        self.start = f"{name}.start"  # and around iter(loader)
        self.profiler = profiler  # takes them; None for a loader that records nothing
        self.recording = recording
        self.workers = 0
        self.loader: Callable[[], Any] = lambda: None  # a weak reference
        self.counter = SampleCounter(None, None)
        self.dataset: AccessCounts | None = None
        self.lock = lock_of(self, "lock", threading.RLock)
        self.reset()

    def around(self, operation: str) -> AbstractContextManager[Any]:
        """The range of that name."""
        return contextlib.nullcontext() if self.profiler is None else self.profiler.profile(operation)

    def watch(self, loader: Any, samples: Callable[[Any], int] | None) -> None:
        """Records that loader from now on."""
        self.loader = weakly(loader)
        self.workers = _workers_of(loader)
        self.counter = SampleCounter(loader, samples)
        self.dataset = counts_below(loader)

    def __deepcopy__(self, memo: dict[int, Any]) -> LoaderRecord:
        return self

    def __reduce__(self) -> Any:
        # In another process nobody would read the figures: the copy records nothing.
        return LoaderRecord, (self.name, None)

    def reset(self) -> None:
        """Forgets what was recorded."""
        with self.lock:
            self.iterations = self.batches = self.failed = 0
            self.waited = self.computed = self.started = 0
            self.depths = self.depth_sum = 0
            self.samples: int | None = 0
            self.read: int | None = 0
            self.reasons: dict[str, str] = {}

    def add_start(self, nanoseconds: int) -> None:
        """Adds an iteration, whose ``iter(loader)`` took that long."""
        with self.lock:
            self.iterations += 1
            self.started += nanoseconds
            self.waited += nanoseconds

    def add_first(self, nanoseconds: int) -> None:
        """Adds the wait for an iteration's first batch to its start."""
        with self.lock:
            self.started += nanoseconds

    def add_wait(self, waited: int, computed: int, *, failed: bool = False) -> None:
        """Adds a wait, and the work before it."""
        with self.lock:
            self.waited += waited
            self.computed += computed
            self.failed += failed

    def add_batch(self, samples: int | None, samples_reason: str | None, read: int | None) -> None:
        """Adds what came of a wait."""
        with self.lock:
            self.batches += 1
            self.samples = None if self.samples is None or samples is None else self.samples + samples
            self.read = None if self.read is None or read is None else self.read + read
            if samples_reason is not None:
                self.reasons["samples"] = samples_reason
            if self.read is None:
                self.reasons["bytes_read"] = (
                    "workers read in processes of their own" if self.workers else "the kernel does not tell"
                )

    def add_depth(self, depth: int | None, reason: str | None) -> None:
        """Adds how many batches were ready."""
        with self.lock:
            if depth is not None:
                self.depths += 1
                self.depth_sum += depth
            elif reason is not None:
                self.reasons["queue_depth_mean"] = reason


def weakly(value: Any) -> Callable[[], Any]:
    """A weak reference; where there can be none, one that is dead already."""
    try:
        return weakref.ref(value)
    except TypeError:  # lists and the like
        return lambda: None


def _workers_of(loader: Any) -> int:
    workers = getattr(loader, "num_workers", 0)
    return workers if isinstance(workers, int) and workers > 0 else 0


class ProfiledDataLoader(Proxy):
    """Stands for a loader and records its iterations; made by
    :meth:`perfopt.profiling.loading.DataLoadingProfiler.profile_data_loader`.

    It has the loader's length, attributes and class (``isinstance``). It can be iterated as often as the loader can, by several
    threads, and left early.
    """

    __slots__ = ("_perfopt_open", "_perfopt_record")
    _perfopt_open: Any
    _perfopt_record: LoaderRecord

    def __init__(self, loader: Any, record: LoaderRecord) -> None:
        Proxy.__init__(self, loader)
        object.__setattr__(self, "_perfopt_record", record)
        object.__setattr__(self, "_perfopt_open", None)

    def __iter__(self) -> Iterator[Any]:
        record = self._perfopt_record
        record.workers = _workers_of(self._perfopt_wrapped)
        if not record.recording():
            return _ProfiledBatches(iter(self._perfopt_wrapped), record, first=False)
        began = time.perf_counter_ns()
        with record.around(record.start):
            iterator = iter(self._perfopt_wrapped)
        record.add_start(time.perf_counter_ns() - began)
        return _ProfiledBatches(iterator, record, first=True)

    def _perfopt_next(self) -> Any:
        """Of a loader that is its own iterator."""
        if self._perfopt_open is None:
            object.__setattr__(self, "_perfopt_open", iter(self))
        return next(self._perfopt_open)

    own = {"__next__": _perfopt_next}  # noqa: RUF012

    def get_stats(self) -> dict[str, Any]:
        """What was recorded since the last reset, as a dict that ``json.dumps`` takes. None says that it is not known.

        Returns:
            ``name``, ``iterations`` (begun), ``batches``, ``samples``, ``failed`` (calls that raised), ``workers``;
            ``wait_seconds``: the consumer waited for the loader, its start and the end of an iteration included;
            ``compute_seconds``: it worked between batches (the work on a batch with which it leaves the loop is not seen);
            ``wait_share``: the first as a share of both; ``wait_mean``: seconds a batch; ``wait_p50`` and ``wait_p99`` of the
            range ``<name>.wait``, in which each call counts, the one that ends an iteration too; ``start_seconds``: from
            ``iter()`` to the first batch, over all iterations; ``queue_depth_mean``: batches that workers had ready when the
            consumer asked for one, the first of an iteration aside; ``bytes_read`` by this process while the consumer waited,
            without workers; ``cache_hits`` and ``cache_misses`` of the data set if that is profiled and tells them;
            ``batches_per_second``, ``samples_per_second`` and ``bytes_per_second`` of waiting, which is what the loader alone
            could do if it has no workers; ``reasons``: by figure, why it is not known.
        """
        record = self._perfopt_record
        return stats_of(record, rows_of(record.profiler))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return ProfiledDataLoader, (self._perfopt_wrapped, self._perfopt_record)


class _ProfiledBatches(Proxy):
    """One iteration over a loader."""

    __slots__ = ("_perfopt_first", "_perfopt_handed", "_perfopt_record")
    _perfopt_record: LoaderRecord
    _perfopt_first: bool  # the next batch is the first of an iteration whose start was recorded
    _perfopt_handed: threading.local  # .at: when this thread got its last batch, if it got one while it was recorded

    def __init__(self, iterator: Any, record: LoaderRecord, *, first: bool) -> None:
        Proxy.__init__(self, iterator)
        object.__setattr__(self, "_perfopt_record", record)
        object.__setattr__(self, "_perfopt_first", first)
        object.__setattr__(self, "_perfopt_handed", threading.local())

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        asked = time.perf_counter_ns()
        record, iterator = self._perfopt_record, self._perfopt_wrapped
        handed = self._perfopt_handed.__dict__.pop("at", asked)
        first = self._perfopt_first
        if first:
            object.__setattr__(self, "_perfopt_first", False)
        if not record.recording():
            return next(iterator)
        depth = ready_batches(iterator) if record.workers and not first else (None, None)
        before = None if record.workers else bytes_read()
        began = time.perf_counter_ns()
        try:
            with record.around(record.wait):
                batch = next(iterator)
        except BaseException as error:
            failed = not isinstance(error, StopIteration)
            record.add_wait(time.perf_counter_ns() - began, asked - handed, failed=failed)
            raise
        waited = time.perf_counter_ns() - began
        record.add_wait(waited, asked - handed)
        record.add_depth(*depth)
        if first:
            record.add_first(waited)
        read = bytes_since(before)
        record.add_batch(record.counter.count(batch), record.counter.reason, read)
        self._perfopt_handed.at = time.perf_counter_ns()
        return batch


def rows_of(profiler: _core.Profiler | None) -> dict[str | None, Any]:
    """The rows of the profiler's operations by name; see :meth:`perfopt._core.Capture.rows`."""
    return {} if profiler is None else {row["name"]: row for row in profiler.capture().rows()}


def stats_of(record: LoaderRecord, rows: Mapping[str | None, Any]) -> dict[str, Any]:
    """The figures of a loader; ``rows`` are the profiler's, by name."""
    row = rows.get(record.wait)
    dataset = None if record.dataset is None else record.dataset.figures()
    with record.lock:
        waited, computed = record.waited * 1e-9, record.computed * 1e-9
        batches, samples = record.batches, record.samples if record.batches else None
        read = record.read if record.batches else None
        reasons = dict(record.reasons)
        if not record.workers:
            reasons["queue_depth_mean"] = "the loader has no workers"
        return {
            "name": record.name,
            "iterations": record.iterations,
            "batches": batches,
            "samples": samples,
            "failed": record.failed,
            "workers": record.workers,
            "wait_seconds": waited,
            "compute_seconds": computed,
            "wait_share": waited / (waited + computed) if waited + computed else None,
            "wait_mean": waited / batches if batches else None,
            "wait_p50": None if row is None else row["p50"],
            "wait_p99": None if row is None else row["p99"],
            "start_seconds": record.started * 1e-9 if record.iterations else None,
            "queue_depth_mean": record.depth_sum / record.depths if record.depths else None,
            "bytes_read": read,
            "cache_hits": None if dataset is None else dataset["cache_hits"],
            "cache_misses": None if dataset is None else dataset["cache_misses"],
            "batches_per_second": _rate(batches, waited),
            "samples_per_second": _rate(samples, waited),
            "bytes_per_second": _rate(read, waited),
            "reasons": reasons,
        }


def _rate(amount: int | None, seconds: float) -> float | None:
    return None if amount is None or not seconds else amount / seconds
