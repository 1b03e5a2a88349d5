"""Eight worked examples of the code profiler, each a function that runs on its own and returns what it found.

Run all of them with ``python examples/code_profiling_examples.py``; torch is used where it is installed and left out where not.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from typing import Any

from perfopt import cache_result
from perfopt.profiling import CachedDataset, CodeProfiler, Thresholds, create_profiler_config


def basic_function_profiling() -> dict[str, Any]:
    """1. Two functions, one slow: decorate, run, read."""
    profiler = CodeProfiler(create_profiler_config("basic"))

    @profiler.profile_function
    def fast_function() -> int:
        return sum(range(1000))

    @profiler.profile_function
    def slow_function() -> str:
        time.sleep(0.05)
        return "result"

    with profiler:
        fast_function()
        slow_function()
    return profiler.get_comprehensive_report()["summary"]


def class_profiling() -> dict[str, int]:
    """2. All methods of a class; the counts show who is called how often."""
    profiler = CodeProfiler(create_profiler_config("basic"))

    @profiler.profile_class
    class Model:
        def __init__(self) -> None:
            self.weights = [0.5] * 100

        def forward(self, x: float) -> float:
            return sum(weight * x for weight in self.weights)

        def process_batch(self, batch: list[float]) -> list[float]:
            return [self.forward(x) for x in batch]

    with profiler:
        Model().process_batch([1.0, 2.0, 3.0])
    rows = profiler.get_comprehensive_report()["operations"]
    return {row["name"].rpartition(".")[2]: row["count"] for row in rows}


class Samples:
    """A map-style data set whose every item takes a while to decode."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> float:
        if not 0 <= index < len(self):
            raise IndexError(index)
        time.sleep(0.0005)
        return float(index)


def data_loading_profiling() -> dict[str, Any]:
    """3. Is the model waiting for data? A data set and a loader, timed apart."""
    profiler = CodeProfiler(create_profiler_config("detailed"))
    dataset = profiler.profile_dataset(CachedDataset(Samples(), cache_size=1000))
    batches = [[dataset[i] for i in range(begin, begin + 8)] for begin in range(0, 32, 8)]
    loader = profiler.profile_data_loader(batches, "train")
    with profiler:
        for _ in range(2):
            for batch in loader:
                for index, _ in enumerate(batch):
                    dataset[index]
    return {"loader": loader.get_stats(), "dataset": dataset.get_stats()}


def memory_profiling() -> dict[str, Any]:
    """4. What a block and a function allocate, and what stays."""
    profiler = CodeProfiler(create_profiler_config("detailed"))

    @profiler.memory_profiler.profile_memory_usage
    def load() -> bytes:
        return b"x" * (20 * 2**20)

    with profiler:
        with profiler.memory_profiler.memory_context("data_processing"):
            data = load()
            total = len(data)
            del data
        gc.collect()
    assert total == 20 * 2**20
    return profiler.memory_profiler.get_stats()


def gpu_profiling() -> dict[str, Any]:
    """5. Operations on the device, timed by events; on a machine without CUDA the reason stands in the result."""
    profiler = CodeProfiler(create_profiler_config("detailed"))

    @profiler.gpu_profiler.profile_cuda_operation
    def multiply() -> Any:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        x = torch.randn(256, 256, device=device)
        return torch.mm(x, x)

    with profiler, contextlib.suppress(ModuleNotFoundError):  # without torch there is nothing to time
        multiply()
    return profiler.gpu_profiler.get_stats()


def preprocessing_profiling() -> dict[str, str]:
    """6. Preprocessing and augmentation are kinds of their own, with their own threshold."""
    profiler = CodeProfiler(create_profiler_config("detailed", thresholds=Thresholds(slow_preprocessing=0.005)))

    @profiler.profile_preprocessing
    def normalize(image: list[float]) -> list[float]:
        time.sleep(0.01)
        return [value / 255.0 for value in image]

    @profiler.profile_augmentation
    def flip(image: list[float]) -> list[float]:
        return image[::-1]

    with profiler:
        for _ in range(3):
            flip(normalize([1.0, 2.0]))
    return {
        entry["name"].rpartition(".")[2]: entry["advice"]
        for entry in profiler.identify_bottlenecks()["slow_preprocessing"]
    }


def comprehensive_profiling() -> list[str]:
    """7. Everything at once: undecorated functions too, by call stacks."""
    profiler = CodeProfiler(create_profiler_config("comprehensive", save_profiles=False))

    def undecorated(n: int) -> int:
        return sum(number * number for number in range(n))

    @profiler.profile_function
    def epoch() -> None:
        for _ in range(20):
            undecorated(2000)

    with profiler:
        epoch()
    return [row["function"] for row in profiler.get_comprehensive_report()["extra"]["call_stacks"]]


def bottleneck_optimization() -> dict[str, tuple[int, float]]:
    """8. Find it, mend it, show it: calls and seconds, before and after."""
    profiler = CodeProfiler(create_profiler_config("basic", thresholds=Thresholds(slow_function=0.005)))

    def expensive(x: int) -> int:
        time.sleep(0.01)
        return x * x

    before = profiler.profile_function(expensive)
    with profiler:
        for x in (1, 2, 1, 2, 1, 2):
            before(x)
    found = profiler.identify_bottlenecks()["slow_functions"]
    assert "cache_result" in found[0]["advice"]
    first = profiler.report()

    profiler.reset()
    after = cache_result(profiler.profile_function(functools.wraps(expensive)(lambda x: expensive(x))))
    with profiler:
        for x in (1, 2, 1, 2, 1, 2):
            after(x)
    second = profiler.report()
    return {
        "before": (first.recording.ranges, first.duration),
        "after": (second.recording.ranges, second.duration),
    }


EXAMPLES = (
    basic_function_profiling,
    class_profiling,
    data_loading_profiling,
    memory_profiling,
    gpu_profiling,
    preprocessing_profiling,
    comprehensive_profiling,
    bottleneck_optimization,
)

if __name__ == "__main__":
    for example in EXAMPLES:
        print(f"=== {(example.__doc__ or '').splitlines()[0]}")
        print(example())
