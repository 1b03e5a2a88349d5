"""Configuration of :class:`perfopt.PerformanceOptimizer`: one dataclass, checked when it is made."""

from __future__ import annotations

import math
import os
from dataclasses import InitVar, dataclass, field, fields
from typing import Any

__all__ = ["PerformanceConfig"]


def _usable_processors() -> int:
    from perfopt import _core

    return int(_core.cpu_info()["processors"])


@dataclass
class PerformanceConfig:
    """What :class:`perfopt.PerformanceOptimizer` may do; every ``enable_*`` flag switches its feature off for real.

    The first twelve fields stand in the documented order and can be given by position. Values are checked here, so a wrong
    one is refused before any training starts: ``TypeError`` for a wrong type, ``ValueError`` for a value out of range,
    each naming the field, the value and what is accepted.

    Attributes:
        enable_caching: keep results in :attr:`PerformanceOptimizer.cache`; off, that cache stores nothing.
        enable_parallelization: allow worker pools for data work.
        enable_memory_optimization: sample memory in the background, clean up under pressure, and keep freed heap pages
            for the next step while a CPU loop runs.
        enable_profiling: record phases; off, a range costs one flag test and records nothing.
        enable_compression: compress cache entries on disk where a sample shows that it pays; off, never. Entries in memory are
            never compressed.
        cache_size: most entries in the memory tier, at least 0.
        max_workers: workers for data work, at least 1; the default is the number of processors this process may use.
        memory_threshold: share of the memory limit, above 0 and at most 1, from which memory counts as short.
        batch_size_optimization: measure throughput by batch size and report it.
        mixed_precision: autocast to a 16-bit type where a measurement on this device shows a gain.
        gradient_accumulation: accumulate gradients over several batches before each optimizer step.
        gradient_accumulation_steps: batches a step, at least 1; counts only with ``gradient_accumulation``.
        max_grad_norm: clip the global gradient norm to this in each step; ``None`` for no clipping.
        cache_dir: directory of the cache's disk tier, for ``cache.set(..., persist=True)``; ``None`` for memory only.
        cache_ttl: seconds after which a cache entry is no longer used, above 0; ``None`` for no end.
        enable_batch_optimization: accepted as another name of ``batch_size_optimization``; not stored.
    """

    enable_caching: bool = True
    enable_parallelization: bool = True
    enable_memory_optimization: bool = True
    enable_profiling: bool = True
    enable_compression: bool = True
    cache_size: int = 1000
    max_workers: int = field(default_factory=_usable_processors)
    memory_threshold: float = 0.8
    batch_size_optimization: bool = True
    mixed_precision: bool = True
    gradient_accumulation: bool = True
    gradient_accumulation_steps: int = 4
    max_grad_norm: float | None = None
    cache_dir: str | os.PathLike[str] | None = None
    cache_ttl: float | None = None
    enable_batch_optimization: InitVar[bool | None] = None

    def __post_init__(self, enable_batch_optimization: bool | None) -> None:
        """Checks every field; see the class for what is accepted."""
        if enable_batch_optimization is not None:
            _require_bool("enable_batch_optimization", enable_batch_optimization)
            self.batch_size_optimization = enable_batch_optimization
        for item in fields(self):
            if item.type == "bool":
                _require_bool(item.name, getattr(self, item.name))
        self.cache_size = require_int("cache_size", self.cache_size, least=0)
        self.max_workers = require_int("max_workers", self.max_workers, least=1)
        self.gradient_accumulation_steps = require_int(
            "gradient_accumulation_steps", self.gradient_accumulation_steps, least=1
        )
        self.memory_threshold = _require_number("memory_threshold", self.memory_threshold)
        if not 0.0 < self.memory_threshold <= 1.0:
            raise ValueError(f"memory_threshold must be above 0 and at most 1, not {self.memory_threshold!r}")
        if self.max_grad_norm is not None:
            self.max_grad_norm = _require_number("max_grad_norm", self.max_grad_norm)
            if not self.max_grad_norm > 0.0:
                raise ValueError(f"max_grad_norm must be above 0 or None, not {self.max_grad_norm!r}")
        if self.cache_dir is not None and not isinstance(self.cache_dir, (str, os.PathLike)):
            raise TypeError(f"cache_dir must be a path or None, not {self.cache_dir!r}")
        if self.cache_ttl is not None:
            self.cache_ttl = _require_number("cache_ttl", self.cache_ttl)
            if not 0.0 < self.cache_ttl < math.inf:
                raise ValueError(f"cache_ttl must be above 0 seconds and finite, or None, not {self.cache_ttl!r}")

    @property
    def accumulation_window(self) -> int:
        """Batches a step: ``gradient_accumulation_steps``, or 1 when accumulation is off."""
        return self.gradient_accumulation_steps if self.gradient_accumulation else 1


def _require_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def require_int(name: str, value: Any, *, least: int) -> int:
    """The value as an int; TypeError or ValueError naming it when it is none (a bool is none) or below ``least``."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    number = int(value.__index__())
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def _require_number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be within the range of a float, not {value!r}") from None
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, not nan")
    return number
