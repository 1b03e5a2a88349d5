"""The code profiler: functions, classes, data, memory, GPU and traffic of a training program, in one report.

It joins the engines that do the work (the range profiler, the memory sampler, CUDA events, cProfile) behind one switch:
``start_profiling`` and ``stop_profiling``. What it decorates and wraps works the same at any time and is recorded in between.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any, TypeVar

import msgspec

from perfopt import _wrapping
from perfopt._fork_locks import lock_of
from perfopt.profiler import PerformanceProfiler
from perfopt.profiling import bottlenecks, history
from perfopt.profiling.call_stacks import CallStacks
from perfopt.profiling.config import ProfilerConfig
from perfopt.profiling.gpu_profiler import GPUProfiler
from perfopt.profiling.io_traffic import IOTraffic
from perfopt.profiling.loading import DataLoadingProfiler
from perfopt.profiling.measure import Figures
from perfopt.profiling.memory_profiler import MemoryProfiler
from perfopt.report import document
from perfopt.report.build import report_of
from perfopt.report.compare import Row
from perfopt.report.document import Finding, Operation, Report

__all__ = ["CodeProfiler"]

_F = TypeVar("_F", bound=Callable[..., Any])
_C = TypeVar("_C", bound=type)
_SPECIAL = frozenset(
    {"__init__", "__call__", "__getitem__", "__iter__", "__next__", "__enter__", "__exit__", "__len__"}
)

_follow_numbers = itertools.count()

RegressionCallback = Callable[[list[Row]], object]


class CodeProfiler:
    """Profiles what it decorates and wraps, between ``start_profiling()`` and ``stop_profiling()``.

    Args:
        config: what is taken down; :func:`perfopt.profiling.create_profiler_config` makes one by level. The ``"detailed"`` level
            when left out.
        profiler: records into this one, whose ranges then are in the reports too; one of its own when left out. It is
            stopped here and runs between ``start_profiling`` and ``stop_profiling``.

    Attributes:
        performance_profiler: the :class:`perfopt.PerformanceProfiler` that times everything.
        memory_profiler: :class:`perfopt.profiling.MemoryProfiler`.
        gpu_profiler: :class:`perfopt.profiling.GPUProfiler`.
        data_loading_profiler: :class:`perfopt.profiling.DataLoadingProfiler`.
        io_profiler: :class:`perfopt.profiling.IOTraffic`.
        call_stacks: :class:`perfopt.profiling.CallStacks`.

    Starting twice, stopping twice and reading before the start are no errors. Threads: decorated functions may run in any
    thread; the members of this class may be called from any. After a fork the child goes on with a copy.

    Example:
        >>> profiler = CodeProfiler(create_profiler_config("basic"))
        >>> @profiler.profile_function
        ... def work():
        ...     return sum(range(1000))
        >>> with profiler:
        ...     total = work()
        >>> profiler.get_comprehensive_report()["summary"]["total_functions"]
        1
    """

    def __init__(self, config: ProfilerConfig | None = None, *, profiler: PerformanceProfiler | None = None) -> None:
        if profiler is not None and not isinstance(profiler, PerformanceProfiler):
            raise TypeError(f"profiler must be a PerformanceProfiler or None, not {type(profiler).__name__}")
        if config is not None and not isinstance(config, ProfilerConfig):
            raise TypeError(f"config must be a ProfilerConfig or None, not {type(config).__name__}")
        self.config = config or ProfilerConfig()
        on = self.config.enabled
        self.performance_profiler = profiler or PerformanceProfiler(trace=self.config.trace)
        self.performance_profiler.stop()
        self._figures = Figures()
        self.memory_profiler = MemoryProfiler(
            self.performance_profiler, self._figures, enabled=on and self.config.enable_memory_profiler
        )
        self.gpu_profiler = GPUProfiler(enabled=on and self.config.enable_gpu_profiler)
        self.data_loading_profiler = DataLoadingProfiler(
            self.performance_profiler, enabled=on and self.config.profile_data_loading
        )
        self.io_profiler = IOTraffic(enabled=on and self.config.enable_io_profiler)
        self.call_stacks = CallStacks(enabled=on and self.config.enable_cprofile)
        self._lock = lock_of(self, "_lock", threading.RLock)
        self._kinds: dict[str, str] = {}
        self._decorated: weakref.WeakSet[FunctionType] = weakref.WeakSet()
        self._started_ns: int | None = None
        self._measured_ns = 0
        self._followed = False
        self._watches: list[tuple[RegressionCallback, Sequence[Report], dict[str, Any]]] = []

    # ---- what is profiled ------------------------------------------------------------------------

    def profile_function(self, function: _F) -> _F:
        """Decorator: records each call under the function's qualified name. ``functools.lru_cache`` goes outside of it, so that
        what the cache answers is not counted. Works on functions, methods, ``async def`` and generators."""
        decorated: _F = self._decorate(function, "profile_function", "function")
        return decorated

    def profile_preprocessing(self, function: _F) -> _F:
        """Decorator: like ``profile_function``, counted as preprocessing; plain when the configuration leaves that out."""
        wanted = self.config.profile_preprocessing
        decorated: _F = self._decorate(function, "profile_preprocessing", "preprocessing", wanted=wanted)
        return decorated

    def profile_augmentation(self, function: _F) -> _F:
        """Decorator: like ``profile_function``, counted as augmentation; plain when the configuration leaves that out."""
        wanted = self.config.profile_preprocessing
        decorated: _F = self._decorate(function, "profile_augmentation", "augmentation", wanted=wanted)
        return decorated

    def profile_class(self, cls: _C) -> _C:
        """Decorator of a class: records the functions that its body defines, ``staticmethod`` and ``classmethod`` included, under
        their qualified names. Of special methods only those that do work are recorded (``__init__``, ``__call__``,
        ``__getitem__``, ``__iter__`` ...). The class itself is returned, changed in place; what it inherits is left alone.

        Raises:
            TypeError: it is no class, or its attributes cannot be set.
        """
        if not isinstance(cls, type):
            raise TypeError(f"profile_class decorates classes, not {type(cls).__name__}: use profile_function")
        if not self.config.enabled:
            return cls
        for name, member in list(vars(cls).items()):
            special = name.startswith("__") and name.endswith("__")
            if special and name not in _SPECIAL:
                continue
            inner = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
            if not isinstance(inner, FunctionType):
                continue
            try:
                setattr(cls, name, self.profile_function(member))
            except (AttributeError, TypeError) as error:
                raise TypeError(f"profile_class cannot set {cls.__qualname__}.{name}: {error}") from error
        return cls

    def profile_dataset(self, dataset: Any) -> Any:
        """The dataset, timed at every access; see :meth:`perfopt.profiling.DataLoadingProfiler.profile_dataset`."""
        return self.data_loading_profiler.profile_dataset(dataset)

    def profile_data_loader(self, loader: Any, name: str | None = None) -> Any:
        """The loader, timed at every batch; see :meth:`perfopt.profiling.DataLoadingProfiler.profile_data_loader`."""
        return self.data_loading_profiler.profile_data_loader(loader, name)

    def profile(self, name: str) -> AbstractContextManager[Any]:
        """``with profiler.profile("step"):`` records a block."""
        self._kinds.setdefault(name, "function")
        return self.memory_profiler.measured(name)

    def _decorate(self, function: Any, rule: str, kind: str, *, wanted: bool = True) -> Any:
        if not (self.config.enabled and wanted):
            return _wrapping.decorate(f"{rule} decorates functions", function, lambda inner: inner)

        def wrap(inner: Any) -> Any:
            if isinstance(inner, FunctionType) and inner in self._decorated:
                return inner  # counted once, as what it was decorated first
            name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
            self._kinds[name] = kind
            if not self.memory_profiler.enabled or _wrapping.suspending_kind(inner) is not None:
                return self.performance_profiler.profile_operation(name)(inner)
            measured = _wrapping.around(inner, functools.partial(self.memory_profiler.measured, name))
            self._decorated.add(measured)
            return measured

        return _wrapping.decorate(f"{rule} decorates functions", function, wrap)

    # ---- start and stop ----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it records now."""
        return self._started_ns is not None

    def start_profiling(self) -> None:
        """Begins to record; goes on where it stopped. Nothing when it runs already or is not enabled."""
        with self._lock:
            if self.running or not self.config.enabled:
                return
            if self.config.follow_children and not self._followed:
                self._follow()
            self.memory_profiler.start()
            self.gpu_profiler.start()
            self.io_profiler.start()
            self._started_ns = time.perf_counter_ns()
            self.performance_profiler.start()
            self.data_loading_profiler.update()
            self.call_stacks.start()

    def stop_profiling(self, *, save: bool | None = None) -> None:
        """Ends recording; what was recorded stays to be read. Nothing when it does not run.

        Args:
            save: write a report, as ``save_profiles`` of the configuration says when left out.
        """
        with self._lock:
            if self._started_ns is None:
                return
            self.call_stacks.stop()
            self.performance_profiler.stop()
            self.data_loading_profiler.update()
            self._measured_ns += time.perf_counter_ns() - self._started_ns
            self._started_ns = None
            self.io_profiler.stop()
            self.gpu_profiler.stop()
            self.memory_profiler.stop()
        saves = self.config.save_profiles if save is None else save
        if saves or self._watches:
            report = self.report()
            if saves:
                self.save_comprehensive_report(report=report)
            self._alert(report)

    def _follow(self) -> None:
        """Has children report; under a key of its own after each reset, so that older reports stay behind."""
        self.performance_profiler.follow_children(f"code-profiler-{os.getpid()}-{next(_follow_numbers)}")
        self._followed = True

    def reset(self) -> None:
        """Forgets what was recorded; if it runs, it goes on."""
        with self._lock:
            if self._followed:
                self._follow()
            self.performance_profiler.reset()
            self._figures.clear()
            self.memory_profiler.reset()
            self.gpu_profiler.reset()
            self.data_loading_profiler.reset()
            self.io_profiler.reset()
            self.call_stacks.reset()
            self._measured_ns = 0
            if self._started_ns is not None:
                self._started_ns = time.perf_counter_ns()

    def __enter__(self) -> CodeProfiler:
        self.start_profiling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_profiling()

    # ---- reading -----------------------------------------------------------------------------------

    def report(self, title: str = "code profile", *, with_reference: bool = True) -> Report:
        """Everything recorded so far, as a document; see :mod:`perfopt.report.document`. Waits for the GPU's pending work.

        Args:
            title: of the report.
            with_reference: measure the machine's own speed (2 to 3 ms on a quiet machine) for comparisons with other runs.
        """
        with self._lock:
            measured = self._measured_ns
            if self._started_ns is not None:
                measured += time.perf_counter_ns() - self._started_ns
            detailed = self.config.detailed_reports
            report = report_of(
                self.performance_profiler.capture(children=self._followed),
                title=title,
                duration=measured * 1e-9,
                kinds=self._kinds | self.data_loading_profiler.kinds(),
                memory=self.memory_profiler.record() if self.memory_profiler.enabled and detailed else None,
                loaders=self.data_loading_profiler.loaders(),
                notes=self._notes(),
                missing_processes=len(self.performance_profiler.children()["missing"]) if self._followed else 0,
                memory_bytes=self.performance_profiler.usage()["memory_bytes"],
                detailed=detailed,
                with_reference=with_reference,
            )
            operations = [self._with_figures(operation) for operation in report.operations]
            operations += self.gpu_profiler.operations()
            extra: dict[str, Any] = {"level": self.config.profile_level}
            if self.config.enable_io_profiler:
                extra["io"] = self.io_profiler.get_stats()
            if self.config.enable_cprofile:
                extra["call_stacks"] = self.call_stacks.top()
            if self.config.profile_data_loading:
                extra["data_loading"] = self.data_loading_profiler.get_stats()
        report = msgspec.structs.replace(report, operations=operations, extra=extra)
        return msgspec.structs.replace(report, findings=bottlenecks.find(report, self.config.thresholds))

    def _with_figures(self, operation: Operation) -> Operation:
        figures = self._figures.get(operation.name or "")
        if figures is None:
            return operation
        return msgspec.structs.replace(operation, memory=figures.as_memory(), cpu_seconds=figures.cpu_seconds)

    def _notes(self) -> list[str]:
        """What was wanted and could not be measured."""
        notes = []
        if self.config.enable_gpu_profiler and self.gpu_profiler.reason:
            notes.append(f"GPU operations were not timed: {self.gpu_profiler.reason}")
        if self.config.enable_cprofile and self.call_stacks.reason:
            notes.append(f"call stacks were not recorded: {self.call_stacks.reason}")
        return notes

    def get_comprehensive_report(self) -> dict[str, Any]:
        """Everything recorded so far as a JSON-ready dict: the fields of :class:`perfopt.report.document.Report`, and before them
        ``summary`` (``total_functions``, ``total_calls``, ``duration``, ``slow_functions``: their number) and
        ``bottlenecks`` (see ``identify_bottlenecks``)."""
        report = self.report()
        found = bottlenecks.as_bottlenecks(report.findings)
        named = [operation for operation in report.operations if operation.name is not None]
        summary = {
            "total_functions": len(named),
            "total_calls": sum(operation.count for operation in report.operations),
            "duration": report.duration,
            "slow_functions": len(found["slow_functions"]),
        }
        return {"summary": summary, "bottlenecks": found, **msgspec.to_builtins(report)}

    def save_comprehensive_report(
        self, path: str | os.PathLike[str] | None = None, *, report: Report | None = None
    ) -> Path:
        """Saves a report as JSON and returns where. Call stacks, where they were recorded, are saved beside it for ``pstats``,
        as ``.pstats``.

        Args:
            path: the file; a new one in ``output_dir``, which is made if need be, when left out.
            report: what is saved; what :meth:`report` gives now when left out.

        Raises:
            OSError: it cannot be written; nothing is left half written.
        """
        if path is None:
            folder = Path(self.config.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            moment = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
            path = folder / f"profile-{moment}-{os.getpid()}.json"
        target = document.save(self.report() if report is None else report, path)
        stats = self.call_stacks.stats()
        if stats is not None:
            stats.dump_stats(target.with_suffix(".pstats"))
        return target

    def identify_bottlenecks(self) -> dict[str, list[dict[str, Any]]]:
        """What exceeds its threshold, as a dict of five lists, each there even when it is empty.

        ``slow_functions`` (the mean of a call is more than 1 s), ``memory_intensive_functions`` (a call raises memory by more
        than 100 MB), ``slow_data_loading`` (1 s), ``slow_preprocessing`` (500 ms) and ``slow_gpu_operations`` (100 ms);
        thresholds are those of the configuration. Each entry has ``name``, ``evidence``, ``share`` of the run, ``gain_bound``
        (Amdahl's bound) and ``advice``.
        """
        return bottlenecks.as_bottlenecks(self.findings())

    def findings(self) -> list[Finding]:
        """All findings, those of further rules too; see :mod:`perfopt.profiling.bottlenecks`."""
        return list(self.report(with_reference=False).findings)

    # ---- regressions -------------------------------------------------------------------------------

    def on_regression(
        self, callback: RegressionCallback, baseline: Report | Sequence[Report] | str | os.PathLike[str], **limits: Any
    ) -> None:
        """Has ``callback`` called after each ``stop_profiling`` that finds an operation slower than in the baseline.

        Args:
            callback: gets the list of rows that became slower (:class:`perfopt.report.compare.Row`). An exception of it passes
                through ``stop_profiling``, which has done its work by then.
            baseline: a report, several of them, or the path of a saved one.
            limits: as for :func:`perfopt.report.compare.compare`.

        Raises:
            TypeError: ``callback`` is not callable.
            ValueError: there is no report in ``baseline``, or the file is none.
            OSError: it cannot be read.
        """
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        if isinstance(baseline, (str, os.PathLike)):
            reports: Sequence[Report] = [document.load(baseline)]
        else:
            reports = [baseline] if isinstance(baseline, Report) else list(baseline)
        history.regressions(reports, reports, **limits)  # wrong limits are refused here, not after a run
        self._watches.append((callback, reports, limits))

    def _alert(self, report: Report) -> None:
        for callback, baseline, limits in list(self._watches):
            slower = history.regressions(baseline, [report], **limits)
            if slower:
                callback(slower)
