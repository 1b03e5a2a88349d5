"""Data sets that tell what each access cost, in whatever process it was made.

Counting is :mod:`perfopt.profiling.access_counts`'s part; here is what an access is. Torch is never imported from here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

from perfopt.data import CachedDataset
from perfopt.profiling.access_counts import AccessCounts, CacheWatch
from perfopt.profiling.proxies import Proxy

__all__ = ["ProfiledDataset", "counts_below"]

_CHAIN = 8  # data sets within data sets that are looked through


class ProfiledDataset(Proxy):
    """Stands for a data set and records its accesses; made by
    :meth:`perfopt.profiling.loading.DataLoadingProfiler.profile_dataset`.

    It has the data set's length, indexing, iteration, attributes and class (``isinstance``), and pickles with it. Recorded are
    ``dataset[index]``, ``dataset.__getitems__(indices)`` (PyTorch's batched fetch: one access) and each item of an iteration.
    """

    __slots__ = ("_perfopt_cache", "_perfopt_counts")
    _perfopt_cache: CacheWatch
    _perfopt_counts: AccessCounts

    def __init__(self, dataset: Any, counts: AccessCounts) -> None:
        Proxy.__init__(self, dataset)
        tell = _cache_of(dataset)
        counts.cached = counts.cached or tell is not None
        object.__setattr__(self, "_perfopt_counts", counts)
        object.__setattr__(self, "_perfopt_cache", CacheWatch(tell))

    def _perfopt_access(self, call: Callable[..., Any], arguments: tuple[Any, ...], samples: int) -> Any:
        if self._perfopt_counts.recording():
            return self._perfopt_counts.access(call, arguments, samples, self._perfopt_cache)
        self._perfopt_cache.seen = None
        return call(*arguments)

    def _perfopt_getitem(self, index: Any) -> Any:
        return self._perfopt_access(operator.getitem, (self._perfopt_wrapped, index), 1)

    def _perfopt_getitems(self, indices: Any) -> Any:
        return self._perfopt_access(self._perfopt_wrapped.__getitems__, (indices,), len(indices))

    def _perfopt_iter(self) -> Iterator[Any]:
        return _ProfiledItems(iter(self._perfopt_wrapped), self)

    own = {"__getitem__": _perfopt_getitem, "__getitems__": _perfopt_getitems, "__iter__": _perfopt_iter}  # noqa: RUF012

    def get_stats(self) -> dict[str, Any]:
        """What was recorded since the last reset, over all processes, as a dict that ``json.dumps`` takes.

        Returns:
            ``name``; ``accesses`` and ``samples`` (more than accesses where they are fetched in batches) that were got,
            ``failed`` calls; ``seconds_total``, ``seconds_mean``, ``seconds_min`` and ``seconds_max`` of accesses (None
            without any); ``cache_hits``, ``cache_misses`` and ``cache_hit_rate`` of the data set's own cache (a
            :class:`perfopt.data.CachedDataset`, or whatever has ``cache_info()``), else None; ``processes``: the same for each
            process with its ``pid``, None for ended processes whose slots were needed again; ``missing_processes``: how many
            were not recorded because 255 others were alive.
        """
        return self._perfopt_counts.figures()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return ProfiledDataset, (self._perfopt_wrapped, self._perfopt_counts)


class _ProfiledItems(Proxy):
    """An iterator over a data set whose items are recorded as accesses."""

    __slots__ = ("_perfopt_dataset",)
    _perfopt_dataset: ProfiledDataset

    def __init__(self, items: Iterator[Any], dataset: ProfiledDataset) -> None:
        Proxy.__init__(self, items)
        object.__setattr__(self, "_perfopt_dataset", dataset)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._perfopt_dataset._perfopt_access(next, (self._perfopt_wrapped,), 1)


def _cache_of(dataset: Any) -> Callable[[], tuple[int, int]] | None:
    """What tells hits and misses of a data set's own cache; None if nothing does."""
    while issubclass(type(dataset), Proxy):  # of another profiler, whose get_stats() is another
        dataset = dataset.__wrapped__
    if isinstance(dataset, CachedDataset):
        return lambda: operator.itemgetter("hits", "misses")(dataset.get_stats())
    for holder in (dataset, getattr(type(dataset), "__getitem__", None)):  # @lru_cache over __getitem__
        cache_info = getattr(holder, "cache_info", None)
        if callable(cache_info):
            try:
                _hits_and_misses(cache_info)
            except (AttributeError, TypeError, ValueError):  # it tells something else
                continue
            return functools.partial(_hits_and_misses, cache_info)
    return None


def _hits_and_misses(cache_info: Callable[[], Any]) -> tuple[int, int]:
    info = cache_info()
    return int(info.hits), int(info.misses)


def counts_below(loader: Any) -> AccessCounts | None:
    """Those of the profiled data set below a loader, looked for through subsets and the like."""
    dataset: Any = getattr(loader, "dataset", None)
    for _ in range(_CHAIN):
        if issubclass(type(dataset), ProfiledDataset):
            counts: AccessCounts = dataset._perfopt_counts
            return counts
        dataset = getattr(dataset, "dataset", None)
    return None
