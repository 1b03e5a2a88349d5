"""A logger with timers: what it times are ranges of the profiler.

Example:
    >>> logger = get_logger()
    >>> with logger.timer("model_inference"):
    ...     total = sum(range(1000))
    >>> logger.get_stats()["timers"]["model_inference"]["mean"] > 0
    True
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from perfopt import _core
from perfopt.profiler import PerformanceProfiler, default_profiler

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

__all__ = ["TimingLogger", "get_logger"]


class TimingLogger(_Adapter):
    """A :class:`logging.LoggerAdapter` (``info``, ``warning`` and the others log as usual) whose :meth:`timer` times."""

    def __init__(self, logger: logging.Logger, profiler: PerformanceProfiler) -> None:
        super().__init__(logger, {})
        self._profiler = profiler

    def timer(self, name: str) -> _core.Range:
        """``with logger.timer("load"):`` records a range. Raises TypeError unless ``name`` is a str."""
        return self._profiler.profile(name)

    def get_stats(self) -> dict[str, Any]:
        """``{"timers": {name: {"count", "total", "mean", "min", "max", "p50", ...}}}`` in seconds, of every operation of the
        profiler: the ``operations`` of :meth:`perfopt.PerformanceProfiler.get_profile_summary`."""
        return {"timers": self._profiler.get_profile_summary()["operations"]}


def get_logger(name: str = "perfopt", *, profiler: PerformanceProfiler | None = None) -> TimingLogger:
    """The logger ``logging.getLogger(name)`` with timers.

    Args:
        name: of the logger, for handlers and levels.
        profiler: where timers record; :func:`perfopt.profiler.default_profiler` when left out, so that all loggers, and
            :func:`perfopt.profile_operation`, share one set of timers.

    Raises:
        TypeError: ``name`` is no str, or ``profiler`` no PerformanceProfiler.
    """
    if profiler is None:
        profiler = default_profiler()
    elif not isinstance(profiler, PerformanceProfiler):
        raise TypeError(f"profiler must be a PerformanceProfiler or None, not {type(profiler).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    return TimingLogger(logging.getLogger(name), profiler)
