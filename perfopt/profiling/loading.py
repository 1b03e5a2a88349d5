"""The data-loading profiler: what data sets cost in every process that reads them, and how long consumers wait for batches.

A :class:`ProfiledDataset` goes into a loader in place of the data set; its accesses are counted where they happen, in workers
too (:mod:`perfopt.profiling.access_counts`). A :class:`ProfiledDataLoader` stands for a loader or any other iterable and splits
its consumer's time into waiting for a batch and working with it. Each wait is a range ``<name>.wait`` of the profiler on the
consumer's thread, and the start of an iteration (of the workers, with PyTorch) a range ``<name>.start``, so both stand in the
call tree. Both kinds of wrappers work the same whether anything is recorded or not; torch is never imported from here.

Threads: wrappers may be made and used in any.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from perfopt import _core
from perfopt.profiling.access_counts import AccessCounts
from perfopt.profiling.datasets import ProfiledDataset
from perfopt.profiling.loaders import LoaderRecord, ProfiledDataLoader, rows_of, stats_of, weakly
from perfopt.report.document import Loader

__all__ = ["DataLoadingProfiler", "ProfiledDataLoader", "ProfiledDataset"]

_MOST = 64  # data sets, and loaders without a name of their own, that are told apart

_wrapping = threading.RLock()  # while a name is looked for; renewed in a forked child


def _renew_lock() -> None:
    global _wrapping
    _wrapping = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


class DataLoadingProfiler:
    """Wraps data sets and loaders, and gathers what they recorded.

    Args:
        profiler: takes the ranges; recorded is only while it is enabled.
        enabled: False makes wrappers that never record.

    Workers of a loader that is not profiled itself learn that the profiler was started or stopped when they are started, and
    from :meth:`update`. A process that is forked for something else than loading has its own copy of the loaders' figures and
    goes on recording them; accesses of data sets count in the process that made the profiler.

    Raises:
        TypeError: ``profiler`` is no profiler, or ``enabled`` no bool.

    Example:
        >>> from perfopt import PerformanceProfiler
        >>> loading = DataLoadingProfiler(PerformanceProfiler())
        >>> for batch in loading.profile_data_loader([[1, 2], [3, 4]], "pairs"):
        ...     pass
        >>> loading.get_stats()["loaders"]["pairs"]["batches"]
        2
    """

    def __init__(self, profiler: _core.Profiler, *, enabled: bool = True) -> None:
        if not isinstance(profiler, _core.Profiler):
            raise TypeError(f"profiler must be a PerformanceProfiler, not {type(profiler).__name__}")
        if not isinstance(enabled, bool):
            raise TypeError(f"enabled must be True or False, not {enabled!r}")
        self.profiler = profiler
        self._enabled = enabled
        self._told = False
        self._loaders: dict[str, LoaderRecord] = {}
        self._datasets: dict[str, tuple[AccessCounts, Callable[[], Any]]] = {}

    def recording(self) -> bool:
        """Whether accesses and waits are recorded now."""
        enabled = self._enabled and self.profiler.enabled
        if enabled is not self._told:
            self.update()
        return enabled

    def update(self) -> None:
        """Tells workers that run already whether the profiler records now; to be called after its start and stop.

        Profiled loaders do it by themselves at each batch; it is needed where only a data set is profiled.
        """
        self._told = self._enabled and self.profiler.enabled
        for counts in self._counts():
            counts.tell()

    def profile_dataset(self, dataset: Any) -> Any:
        """The data set as a :class:`ProfiledDataset`, to be given to a loader in its place.

        Data sets are told apart by their class's name, with a number from the second on; the same data set keeps its name.

        Raises:
            TypeError: it can neither be indexed nor iterated.
        """
        _require("dataset", dataset, "__getitem__", "__iter__")
        if issubclass(type(dataset), ProfiledDataset) and dataset._perfopt_counts in self._counts():
            return dataset
        if not self._enabled:
            return ProfiledDataset(dataset, AccessCounts(dataset.__class__.__name__, None))
        with _wrapping:
            known = next((counts for counts, seen in self._datasets.values() if seen() is dataset), None)
            if known is None:
                name = _free_name(dataset.__class__.__name__, self._datasets)
                if name not in self._datasets:
                    self._datasets[name] = AccessCounts(name, self.profiler), weakly(dataset)
                known = self._datasets[name][0]
        return ProfiledDataset(dataset, known)

    def profile_data_loader(
        self, loader: Any, name: str | None = None, *, samples: Callable[[Any], int] | None = None
    ) -> Any:
        """The loader as a :class:`ProfiledDataLoader`, to be iterated in its place.

        Args:
            loader: a PyTorch ``DataLoader`` or any other iterable.
            name: of the loader in reports; loaders of one name are added up. Without it the class's name, with a number from
                the second on; the same loader keeps its name.
            samples: number of samples of a batch, where the batch does not show it.

        Raises:
            TypeError: it cannot be iterated, or another argument has the wrong type.
            ValueError: ``name`` is empty.
        """
        _require("loader", loader, "__iter__", "__getitem__")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, not {type(name).__name__}")
        if name == "":
            raise ValueError("name must not be empty")
        if samples is not None and not callable(samples):
            raise TypeError(f"samples must be a function of the batch or None, not {type(samples).__name__}")
        if issubclass(type(loader), ProfiledDataLoader) and loader._perfopt_record in self._records():
            loader = loader.__wrapped__
        if not self._enabled:
            return ProfiledDataLoader(loader, LoaderRecord(name or loader.__class__.__name__, None))
        with _wrapping:
            if name is None:
                known = (record.name for record in self._loaders.values() if record.loader() is loader)
                name = next(known, None) or _free_name(loader.__class__.__name__, self._loaders)
            record = self._loaders.setdefault(name, LoaderRecord(name, self.profiler, self.recording))
            record.watch(loader, samples)
        return ProfiledDataLoader(loader, record)

    def loaders(self) -> list[Loader]:
        """The loaders that were iterated since the last reset, as reports have them."""
        rows = rows_of(self.profiler)
        loaders = []
        for record in self._records():
            stats = stats_of(record, rows)
            if stats["iterations"] or stats["batches"]:
                loaders.append(Loader(**{field: stats[field] for field in Loader.__struct_fields__}))
        return loaders

    def get_stats(self) -> dict[str, Any]:
        """``{"datasets": {name: ...}, "loaders": {name: ...}}``, each as its wrapper's ``get_stats()`` gives it."""
        rows = rows_of(self.profiler)
        return {
            "datasets": {counts.name: counts.figures() for counts in self._counts()},
            "loaders": {record.name: stats_of(record, rows) for record in self._records()},
        }

    def reset(self) -> None:
        """Forgets what was recorded, in workers too; wrappers stay in use. The profiler's ranges are its own to reset."""
        for counts in self._counts():
            counts.reset()
        for record in self._records():
            record.reset()

    def kinds(self) -> dict[str, str]:
        """The names of the ranges that this profiler makes, each with ``"loading"``, its operation's kind in reports."""
        names = [counts.operation for counts in self._counts()]
        names += [name for record in self._records() for name in (record.start, record.wait)]
        return dict.fromkeys(names, "loading")

    def _counts(self) -> list[AccessCounts]:
        return [counts for counts, _ in list(self._datasets.values())]

    def _records(self) -> list[LoaderRecord]:
        return list(self._loaders.values())


def _require(argument: str, value: Any, *methods: str) -> None:
    if not any(getattr(type(value), method, None) is not None for method in methods):
        raise TypeError(f"{argument} must have {' or '.join(methods)}; {type(value).__name__} has neither")


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number if it is taken; a common one when there are too many, so that a loop that wraps a new object a
    round needs no more and more memory."""
    if len(taken) >= _MOST:
        return f"further {name}"
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in taken else next(candidate for candidate in numbered if candidate not in taken)
