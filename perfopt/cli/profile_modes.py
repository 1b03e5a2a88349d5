"""The tours of ``perfopt profile --mode``: each runs a small workload under the code profiler and prints what it shows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from perfopt.cli.profile import show_findings, system_lines
from perfopt.profiling import (
    CodeProfiler,
    Thresholds,
    analyze_trend,
    create_profiler_config,
    load_profiling_reports,
    scheduled_profiling,
)
from perfopt.report import text

__all__ = ["run_modes"]

_MB = 2**20


class _Samples:
    """A map-style data set whose every item takes a millisecond."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> float:
        if not 0 <= index < len(self):
            raise IndexError(index)
        time.sleep(0.001)
        return float(index)


def _batches(dataset: object, size: int = 8) -> list[range]:
    return [range(begin, begin + size) for begin in range(0, len(dataset), size)]  # type: ignore[arg-type]


def _basic(profiler: CodeProfiler) -> None:
    @profiler.profile_function
    def fast_function() -> int:
        return sum(range(1000))

    @profiler.profile_function
    def slow_function() -> None:
        time.sleep(1.001)

    with profiler:
        fast_function()
        slow_function()
    report = profiler.get_comprehensive_report()
    click.echo("Basic Profiling Results:")
    click.echo(f"Total functions profiled: {report['summary']['total_functions']}")
    click.echo(f"Slow functions: {report['summary']['slow_functions']}")
    click.echo()
    for row in report["operations"]:
        click.echo(f"  {row['name'].rpartition('.')[2]}: {row['mean']:.4f}s")


def _data_loading(profiler: CodeProfiler) -> None:
    dataset = profiler.profile_dataset(_Samples())
    loader = profiler.profile_data_loader(_Reader(dataset), "train")
    with profiler:
        for _ in loader:
            time.sleep(0.004)
    click.echo("Data Loading Results:")
    for row in profiler.report().loaders:
        whole = row.wait_seconds + row.compute_seconds
        click.echo(
            f"  {row.name}: {row.batches} batches, waited {text.seconds(row.wait_seconds)} of {text.seconds(whole)} "
            f"({row.wait_seconds / whole if whole else 0:.0%}), first batch after {text.seconds(row.start_seconds)}"
        )
    stats = dataset.get_stats()
    click.echo(f"  dataset: {stats['accesses']} accesses, {text.seconds(stats['seconds_mean'])} each")


class _Reader:
    """A loader without workers: lists of items."""

    def __init__(self, dataset: object) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(_batches(self._dataset))

    def __iter__(self) -> Iterator[list[float]]:
        return ([self._dataset[i] for i in batch] for batch in _batches(self._dataset))  # type: ignore[index]


def _memory(profiler: CodeProfiler) -> None:
    @profiler.memory_profiler.profile_memory_usage
    def keep() -> bytes:
        return b"x" * (150 * _MB)

    with profiler:
        with profiler.memory_profiler.memory_context("comes and goes"):
            block = b"y" * (80 * _MB)
            time.sleep(0.05)
            del block
        kept = keep()
    del kept
    stats = profiler.memory_profiler.get_stats()
    click.echo("Memory Profiling Results:")
    for name, row in stats["operations"].items():
        label = name.rpartition(".")[2]
        click.echo(f"  {label}: up to +{row['greatest'] / _MB:.0f} MB in a call, {row['kept'] / _MB:+.0f} MB kept")
    collector = stats["collector"]
    click.echo(f"  garbage collector: {collector['collections']:.0f} runs, {text.seconds(collector['seconds'])}")
    click.echo(f"  leak verdict: {stats['leak']['verdict']}")


def _gpu(profiler: CodeProfiler) -> None:
    click.echo("GPU Profiling Results:")
    if not profiler.gpu_profiler.available:
        with contextlib.suppress(ModuleNotFoundError):
            import torch  # the profiler only looks at a torch that is loaded
    if not profiler.gpu_profiler.available:
        click.echo(f"  nothing was timed: {profiler.gpu_profiler.reason}")
        return
    import torch

    with profiler, profiler.gpu_profiler.cuda_context("matrix product"):
        a = torch.randn(2048, 2048, device="cuda")
        (a @ a).sum().item()
    for name, row in profiler.gpu_profiler.get_stats()["operations"].items():
        click.echo(f"  {name}: {text.seconds(row['total'])} on the device")


def _comprehensive(profiler: CodeProfiler) -> None:
    @profiler.profile_preprocessing
    def prepare(x: float) -> float:
        return x / 255.0

    @profiler.profile_augmentation
    def augment(x: float) -> float:
        return -x

    @profiler.profile_class
    class Model:
        def forward(self, x: float) -> float:
            return sum(x * number for number in range(2000))

    model = Model()
    with profiler:
        for item in profiler.profile_data_loader([float(number) for number in range(50)], "items"):
            model.forward(augment(prepare(item)))
    report = profiler.get_comprehensive_report()
    click.echo("Comprehensive Profiling Results:")
    for row in sorted(report["operations"], key=lambda row: -row["total"]):
        name = row["name"].rpartition("<locals>.")[2]
        click.echo(f"  {name} ({row['kind']}): {row['count']} calls, {text.seconds(row['total'])}")


def _bottlenecks(profiler: CodeProfiler) -> None:
    @profiler.profile_function
    def slow_function() -> None:
        time.sleep(0.12)

    with profiler:
        for _ in range(3):
            slow_function()
    click.echo("Bottlenecks (functions above 100 ms):")
    show_findings(profiler.report())


def _monitoring(profiler: CodeProfiler) -> None:
    @profiler.profile_function
    def step() -> None:
        time.sleep(0.005)

    def epoch() -> None:
        for _ in range(10):
            step()

    scheduled_profiling(profiler, epoch, runs=5)
    reports = load_profiling_reports(profiler.config.output_dir)[-5:]
    click.echo("Monitoring Results:")
    for metric in ("duration", "memory_usage"):
        if all(report.memory is not None for report in reports) or metric == "duration":
            click.echo(f"  {metric} trend: {analyze_trend(reports, metric)}")
    click.echo(f"  {len(reports)} reports")


_TOURS: dict[str, tuple[str, Callable[[CodeProfiler], None]]] = {
    "basic": ("Basic Profiling", _basic),
    "data_loading": ("Data Loading Profiling", _data_loading),
    "memory": ("Memory Profiling", _memory),
    "gpu": ("GPU Profiling", _gpu),
    "comprehensive": ("Comprehensive Profiling", _comprehensive),
    "bottlenecks": ("Bottleneck Detection", _bottlenecks),
    "monitoring": ("Monitoring", _monitoring),
}
_NEEDS: dict[str, dict[str, Any]] = {
    "data_loading": {"profile_data_loading": True},
    "memory": {"enable_memory_profiler": True},
    "gpu": {"enable_gpu_profiler": True},
    "comprehensive": {"profile_data_loading": True, "profile_preprocessing": True},
    "bottlenecks": {"thresholds": Thresholds(slow_function=0.1)},
}


def run_modes(mode: str, *, level: str, save_reports: bool, output_dir: str) -> None:
    """Runs one tour, or all of them, each under a profiler of its own of the given level."""
    import tempfile

    click.echo("Code Profiling Quick Start for perfopt")
    click.echo("=" * 50)
    click.echo("System Information:")
    for line in system_lines():
        click.echo(line)
    for name, (title, tour) in _TOURS.items():
        if mode not in (name, "all"):
            continue
        click.echo()
        click.echo(f"=== Quick Start: {title} ===")
        with tempfile.TemporaryDirectory() as scratch:
            folder = output_dir if save_reports else scratch
            changes: dict[str, Any] = {"save_profiles": False, "output_dir": folder, **_NEEDS.get(name, {})}
            profiler = CodeProfiler(create_profiler_config(level, **changes))
            tour(profiler)
            if save_reports and name != "monitoring":
                click.echo(f"saved {profiler.save_comprehensive_report(_path(output_dir, name))}")


def _path(folder: str, name: str) -> Path:
    directory = Path(folder)
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{name}-{time.time_ns()}.json"
