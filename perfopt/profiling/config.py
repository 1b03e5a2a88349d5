"""What the code profiler takes down, and from when on it speaks of a bottleneck."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["LEVELS", "ProfilerConfig", "Thresholds", "create_profiler_config"]

LEVELS = ("basic", "detailed", "comprehensive")
_MB = 2**20


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits above which (strictly) something is reported as a bottleneck. Times in seconds, sizes in bytes, shares from 0 to 1.

    The first five are those of :meth:`perfopt.profiling.CodeProfiler.identify_bottlenecks`; the rest are rules of the report
    only, among them those that the profiler plugin of TensorBoard had (data loading above 5 % of a step, device memory above
    90 %).

    Raises:
        ValueError: a limit is not a finite number from 0.
    """

    slow_function: float = 1.0  # mean of a call
    memory_intensive: float = 100 * _MB  # greatest rise of a call
    slow_data_loading: float = 1.0  # mean wait for a batch, or mean of a call
    slow_preprocessing: float = 0.5  # mean of a call, augmentation included
    slow_gpu_operation: float = 0.1  # mean of a call
    hot_function: float = 0.25  # own time as a share of the run
    loader_wait: float = 0.05  # share of the consumer's time
    memory_limit: float = 0.9  # peak as a share of the limit
    collector: float = 0.05  # garbage collection as a share of the run
    overhead: float = 0.05  # recording as a share of the run

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{limit.name} must be a number, not {type(value).__name__}")
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{limit.name} must be a finite number from 0, not {value!r}")


_DETAILED: dict[str, bool] = {
    "enable_cprofile": False,
    "enable_memory_profiler": True,
    "enable_gpu_profiler": True,
    "enable_io_profiler": False,
    "follow_children": True,
    "profile_data_loading": True,
    "profile_preprocessing": True,
    "save_profiles": False,
    "detailed_reports": True,
    "trace": False,
}
_SWITCHES = {
    "basic": dict.fromkeys(_DETAILED, False),
    "detailed": _DETAILED,
    "comprehensive": dict.fromkeys(_DETAILED, True),
}


def _as_level() -> Any:
    """A switch that is as the level has it when it is left out."""
    return field(default=None)


@dataclass(frozen=True, kw_only=True)
class ProfilerConfig:
    """Settings of a :class:`perfopt.profiling.CodeProfiler`; every field has a default, so any of them may be given alone.
    Switches that are left out are as ``profile_level`` has them.

    Attributes:
        enabled: False makes every decorator, wrapper and context of the profiler a plain pass-through.
        profile_level: ``"basic"`` times functions; ``"detailed"`` adds memory and GPU; ``"comprehensive"`` adds call stacks,
            spans for a trace, and file and network traffic. It fills the switches below that are left out,
            and it names the level in reports; the switches decide.
        enable_cprofile: record the caller of every Python function between start and stop, decorated or not
            (``sys.monitoring`` from Python 3.12 on, ``sys.setprofile`` before): the dearest part.
        enable_memory_profiler: take the rise of memory of every decorated call, and sample the process.
        enable_gpu_profiler: time decorated GPU operations by CUDA events; a no-op that says why on a machine without CUDA.
        enable_io_profiler: count bytes of files and network.
        follow_children: child processes (DataLoader workers, ``multiprocessing``) report what they recorded; it is in the
            report once they have ended.
        profile_data_loading: time data sets and loaders that were wrapped.
        profile_preprocessing: time functions decorated as preprocessing and augmentation.
        save_profiles: ``stop_profiling`` writes a report into ``output_dir``.
        output_dir: folder of saved reports; made when the first one is written.
        detailed_reports: reports hold the call tree, histograms and memory samples; False keeps the table of operations only.
        trace: keep single spans for an export as a trace.
        thresholds: from when on something is a bottleneck.

    Raises:
        TypeError: a field is of another type.
        ValueError: ``profile_level`` is not one of the three.
    """

    enabled: bool = True
    profile_level: str = "detailed"
    enable_cprofile: bool = _as_level()
    enable_memory_profiler: bool = _as_level()
    enable_gpu_profiler: bool = _as_level()
    enable_io_profiler: bool = _as_level()
    follow_children: bool = _as_level()
    profile_data_loading: bool = _as_level()
    profile_preprocessing: bool = _as_level()
    save_profiles: bool = _as_level()
    output_dir: str | os.PathLike[str] = "profiles"
    detailed_reports: bool = _as_level()
    trace: bool = _as_level()
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if self.profile_level not in LEVELS:
            raise ValueError(f"profile_level must be one of {', '.join(LEVELS)}, not {self.profile_level!r}")
        for name, switch in _SWITCHES[self.profile_level].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, switch)
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.type == "bool" and not isinstance(value, bool):
                raise TypeError(f"{setting.name} must be True or False, not {value!r}")
        if not isinstance(self.output_dir, (str, os.PathLike)):
            raise TypeError(f"output_dir must be a path, not {type(self.output_dir).__name__}")
        if not isinstance(self.thresholds, Thresholds):
            raise TypeError(f"thresholds must be Thresholds, not {type(self.thresholds).__name__}")


def create_profiler_config(level: str = "detailed", **changes: Any) -> ProfilerConfig:
    """The settings of a level, with single ones changed.

    ``"basic"`` times decorated functions and nothing else; ``"detailed"`` adds memory, GPU, data loading and preprocessing;
    ``"comprehensive"`` is everything: call stacks of undecorated functions, file and network traffic, a trace, saved reports.

    Raises:
        ValueError: there is no such level.
        TypeError: there is no such setting, or it has another type.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
    return ProfilerConfig(profile_level=level, **changes)
