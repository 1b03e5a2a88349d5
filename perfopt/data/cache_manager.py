"""``CacheManager``: results by key in memory and, within a bound in gigabytes, on disk."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

from perfopt.cache import PerformanceCache

__all__ = ["CacheManager"]

GIGABYTE = 10**9


def _default_directory() -> Path:
    """Below the user's cache directory (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "perfopt" / "cache-manager"


class CacheManager:
    """Keeps results by key: what was used lately in memory, everything up to ``disk_cache_gb`` on disk, also for later runs.

    Args:
        disk_cache_gb: bound of the directory in gigabytes (10**9 bytes), above 0; what was used least recently leaves first.
        enable_disk_cache: off, no directory is made and everything is in memory only.
        cache_dir: the directory; ``$XDG_CACHE_HOME/perfopt/cache-manager`` (``~/.cache/...``) if not given. Runs that use
            the same directory share their entries, so a key should name all that a result depends on.
        memory_entries: most entries in memory, at least 0.
        memory_bytes: most bytes of arrays and the like in memory; ``None`` for no bound.

    Arrays come back read-only. Values on disk are stored in safe formats (numbers, text, bytes, arrays, tensors and containers
    of them), never as pickles. All methods may be called from any thread.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, named.
        OSError: the directory can neither be made nor read.
    """

    def __init__(
        self,
        disk_cache_gb: float = 10.0,
        enable_disk_cache: bool = True,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        memory_entries: int | None = 1000,
        memory_bytes: int | None = None,
    ) -> None:
        if isinstance(disk_cache_gb, bool) or not isinstance(disk_cache_gb, (int, float)):
            raise TypeError(f"disk_cache_gb must be a number of gigabytes, not {disk_cache_gb!r}")
        if not (disk_cache_gb > 0 and math.isfinite(disk_cache_gb)):
            raise ValueError(f"disk_cache_gb must be above 0 and finite, not {disk_cache_gb!r}")
        if not isinstance(enable_disk_cache, bool):
            raise TypeError(f"enable_disk_cache must be True or False, not {enable_disk_cache!r}")
        self.disk_cache_gb = disk_cache_gb
        self.enable_disk_cache = enable_disk_cache
        self._memory = PerformanceCache(memory_entries, max_bytes=memory_bytes)
        self._disk: PerformanceCache | None = None
        if enable_disk_cache:
            directory = _default_directory() if cache_dir is None else Path(cache_dir)
            bound = max(1, int(disk_cache_gb * GIGABYTE))
            # Its own memory tier holds nothing: get(use_disk=False) must be able to ask the memory alone.
            self._disk = PerformanceCache(0, directory, max_disk_bytes=bound)

    @property
    def cache_dir(self) -> str | None:
        """Where the disk cache lies; ``None`` without one."""
        return None if self._disk is None else self._disk.cache_dir

    def get(self, key: Any, use_disk: bool = True) -> Any:
        """The value of ``key``, or ``None``; what is found on disk is kept in memory from then on.

        use_disk: look on disk for what is not in memory.
        """
        missing: Any = _MISSING
        value = self._memory.get(key, missing)
        if value is not missing:
            return value
        if self._disk is None or not use_disk:
            return None
        value = self._disk.get(key, missing)
        if value is missing:
            return None
        self._memory.set(key, value)
        return value

    def put(self, key: Any, value: Any, to_disk: bool = True) -> None:
        """Stores or replaces a value, on disk too unless ``to_disk`` is off (an older value on disk is removed then).

        A disk that fails (full, read-only) is counted and warned of once; the value is in memory all the same.
        Raises TypeError for a value that has no safe format on disk, naming its type; nothing is stored then.
        """
        if self._disk is not None:
            if to_disk:
                self._disk.set(key, value, persist=True)
            else:
                self._disk.delete(key)
        self._memory.set(key, value)

    def delete(self, key: Any) -> bool:
        """Removes a key from memory and disk; whether it was in either."""
        in_memory = self._memory.delete(key)
        return (self._disk is not None and self._disk.delete(key)) or in_memory

    def clear(self) -> None:
        """Removes everything from memory and disk."""
        self._memory.clear()
        if self._disk is not None:
            self._disk.clear()

    def get_stats(self) -> dict[str, Any]:
        """``{"memory": ..., "disk": ... or None}``, each as :meth:`perfopt.PerformanceCache.get_stats` gives it."""
        return {
            "memory": self._memory.get_stats(),
            "disk": None if self._disk is None else self._disk.get_stats(),
        }

    def close(self) -> None:
        """Lets go of the directory; the entries stay in it."""
        if self._disk is not None:
            self._disk.close()

    def __enter__(self) -> CacheManager:
        return self

    def __exit__(self, *exc_info: object) -> Literal[False]:
        self.close()
        return False


_MISSING = object()
