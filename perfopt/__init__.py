"""perfopt: caching, profiling, memory monitoring and fused training kernels, in C, for people who train models.

``import perfopt`` loads neither torch nor NumPy; ``perfopt.amp``, ``perfopt.nn`` and ``perfopt.optim`` (torch),
``perfopt.kernels`` (NumPy) and ``perfopt.data`` are loaded when they are first used. See the README for three examples, and
``perfopt info`` for what was found on this machine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from perfopt._version import __version__
from perfopt.cache import PerformanceCache, cache_result, fingerprint
from perfopt.config import PerformanceConfig
from perfopt.memory import MemoryOptimizer, optimize_memory
from perfopt.optimizer import PerformanceOptimizer
from perfopt.profiler import PerformanceProfiler, profile_operation

if TYPE_CHECKING:
    from perfopt import amp as amp
    from perfopt import data as data
    from perfopt import kernels as kernels
    from perfopt import nn as nn
    from perfopt import optim as optim
    from perfopt import training as training

__all__ = [
    "MemoryOptimizer",
    "PerformanceCache",
    "PerformanceConfig",
    "PerformanceOptimizer",
    "PerformanceProfiler",
    "__version__",
    "cache_result",
    "fingerprint",
    "optimize_memory",
    "profile_operation",
    # amp, data, kernels, nn, optim and training are loaded on first use and stay out of `from perfopt import *`.
]

_LAZY = frozenset({"amp", "data", "kernels", "nn", "optim", "training"})


def __getattr__(name: str) -> Any:
    """Loads a submodule that needs NumPy or torch when it is first asked for (PEP 562)."""
    if name in _LAZY:
        return importlib.import_module(f"perfopt.{name}")
    raise AttributeError(f"module 'perfopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
