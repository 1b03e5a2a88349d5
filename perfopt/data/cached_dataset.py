"""``CachedDataset``: a map-style dataset that keeps the items it has read."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from perfopt._values import copy_value
from perfopt.cache import PerformanceCache
from perfopt.config import require_int

__all__ = ["CachedDataset"]

_MISSING = object()


class CachedDataset:
    """Wraps a dataset with ``__getitem__`` and ``__len__`` so that an item is read once; goes into a PyTorch ``DataLoader``.

    Args:
        dataset: the dataset; what its ``__getitem__`` returns is what is cached, with the dataset's own transforms in it. A
            transform that draws random numbers there would be frozen: give it as ``transform`` here instead.
        cache_size: most items kept, at least 0.
        policy: ``None`` keeps the first ``cache_size`` items that were read and evicts nothing: for epochs, in which every
            item is read once a pass, no policy hits more often. Else a policy of :class:`perfopt.PerformanceCache` by name.
        transform: called with the item on every access, cached or not; its result is not cached.
        copy: hand out private, writable copies of arrays and tensors (as the dataset itself does, so that a transform or
            PyTorch's collation may use them freely). ``False`` hands out the kept objects, arrays read-only.
        persist: keep items on disk in ``cache_dir`` too, for all workers and later runs. Needs ``name``: what the items
            depend on (data, version, settings of the dataset), as entries of the same name and index are taken for equal.
        cache_dir: the directory; needed by ``persist``.
        name: see ``persist``.
        max_disk_bytes: bound of the directory in bytes.

    Workers: each worker process of a DataLoader has its own memory cache, filled by itself; it outlives an epoch only with
    ``persistent_workers=True``. With ``persist`` they share the directory. A pickled CachedDataset (spawned workers) starts
    with an empty memory cache.

    Raises:
        TypeError: no map-style dataset, or another argument of the wrong kind, named.
        ValueError: an argument out of range, or ``persist`` without ``cache_dir`` or ``name``.
    """

    def __init__(
        self,
        dataset: Any,
        cache_size: int = 1000,
        *,
        policy: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        copy: bool = True,
        persist: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        name: str | None = None,
        max_disk_bytes: int = 10 * 2**30,
    ) -> None:
        if not hasattr(type(dataset), "__getitem__"):
            raise TypeError(
                f"dataset must have __getitem__, as map-style datasets do; {type(dataset).__name__} has none"
            )
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be a function of the item or None, not {transform!r}")
        for argument, value in (("copy", copy), ("persist", persist)):
            if not isinstance(value, bool):
                raise TypeError(f"{argument} must be True or False, not {value!r}")
        if persist and cache_dir is None:
            raise ValueError("persist=True needs cache_dir, the directory to keep the items in")
        if persist and (not isinstance(name, str) or not name):
            raise ValueError(
                f"persist=True needs name, a text that says what the items depend on (data, version), not {name!r}"
            )
        self.dataset = dataset
        self.cache_size = require_int("cache_size", cache_size, least=0)
        self.transform = transform
        self._policy = policy
        self._copy = copy
        self._persist = persist
        self._cache_dir = os.fspath(cache_dir) if persist and cache_dir is not None else None
        self._name = name
        self._max_disk_bytes = max_disk_bytes
        self._cache = self._new_cache()

    def _new_cache(self) -> PerformanceCache:
        return PerformanceCache(
            self.cache_size, self._cache_dir, policy=self._policy or "lru", max_disk_bytes=self._max_disk_bytes
        )

    def __len__(self) -> int:
        """As the dataset's own; TypeError when it has none."""
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        """The item at ``index`` (what the dataset accepts), from the cache where it is there, then through ``transform``."""
        key = self._key(index)
        item = self._cache.get(key, _MISSING)
        if item is _MISSING:
            item = self._keep(key, self.dataset[index])
        elif self._copy:
            item = copy_value(item)
        return item if self.transform is None else self.transform(item)

    def _key(self, index: Any) -> Any:
        index = int(index) if hasattr(type(index), "__index__") else index
        return (self._name, index) if self._persist else index

    def _keep(self, key: Any, item: Any) -> Any:
        """Stores a new item where there is room for it, and returns what its reader gets."""
        if not self._persist and self._policy is None and len(self._cache) >= self.cache_size:
            return item
        # With copy, the reader owns its item and may change it; what is kept must not change with it.
        self._cache.set(key, copy_value(item) if self._copy else item, persist=self._persist)
        return item if self._copy else self._cache.get(key, item)

    def get_stats(self) -> dict[str, Any]:
        """Of this process's cache, as :meth:`perfopt.PerformanceCache.get_stats` gives it."""
        return self._cache.get_stats()

    def clear(self) -> None:
        """Forgets every item, on disk too."""
        self._cache.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cache"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cache = self._new_cache()
