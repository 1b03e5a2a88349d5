"""Caches around data: :class:`CacheManager` for frames and other results by name, :class:`CachedDataset` for a map-style dataset.

Nothing here imports torch.
"""

from __future__ import annotations

from perfopt.data.cache_manager import CacheManager
from perfopt.data.cached_dataset import CachedDataset

__all__ = ["CacheManager", "CachedDataset"]
