"""The code profiler: what a training program's functions, data, memory and GPU cost, and what to do about it.

:class:`CodeProfiler` is the whole; :func:`create_profiler_config` sets it up by level. See ``docs/code-profiler.md``.
"""

from __future__ import annotations

from perfopt.data import CachedDataset
from perfopt.profiler import PerformanceProfiler
from perfopt.profiling.call_stacks import CallStacks
from perfopt.profiling.code_profiler import CodeProfiler
from perfopt.profiling.config import ProfilerConfig, Thresholds, create_profiler_config
from perfopt.profiling.gpu_profiler import GPUProfiler
from perfopt.profiling.helpers import MemoryPool, gpu_batch_processing, gpu_memory_efficient
from perfopt.profiling.history import Trend, analyze_trend, load_profiling_reports, scheduled_profiling
from perfopt.profiling.io_traffic import IOTraffic
from perfopt.profiling.loading import DataLoadingProfiler, ProfiledDataLoader, ProfiledDataset
from perfopt.profiling.memory_profiler import MemoryProfiler

VideoOpusClipProfiler = CodeProfiler

__all__ = [
    "CachedDataset",
    "CallStacks",
    "CodeProfiler",
    "DataLoadingProfiler",
    "GPUProfiler",
    "IOTraffic",
    "MemoryPool",
    "MemoryProfiler",
    "PerformanceProfiler",
    "ProfiledDataLoader",
    "ProfiledDataset",
    "ProfilerConfig",
    "Thresholds",
    "Trend",
    "VideoOpusClipProfiler",
    "analyze_trend",
    "create_profiler_config",
    "gpu_batch_processing",
    "gpu_memory_efficient",
    "load_profiling_reports",
    "scheduled_profiling",
]
