"""What profiled data sets and loaders cost: samples that are decompressed, as plain objects, profiled, and with the profiler off.

The peer is the same data set or loader without the wrapper, so each ratio is 1 plus the cost.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from perfopt.profiler import PerformanceProfiler
from perfopt.profiling.loading import DataLoadingProfiler

PACKED = zlib.compress(np.random.default_rng(0).integers(0, 16, 32 * 32 * 3).astype(np.uint8).tobytes())
BATCH = 16


class Images:
    """A small image a sample: about the least that a data set does which reads anything."""

    def __len__(self) -> int:
        return 4 * BATCH

    def __getitem__(self, index: int) -> Any:
        return np.frombuffer(zlib.decompress(PACKED), np.uint8).reshape(32, 32, 3)


class Batches:
    """A loader without workers."""

    def __init__(self, dataset: Images) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self.dataset), BATCH):
            yield np.stack([self.dataset[index] for index in range(first, first + BATCH)])


def epoch(loader: Any) -> None:
    for _ in loader:
        pass


def profiling(*, on: bool) -> DataLoadingProfiler:
    profiler = PerformanceProfiler()
    if not on:
        profiler.stop()
    return DataLoadingProfiler(profiler)


def test_access(versus: Callable[..., None]) -> None:
    on, off = profiling(on=True), profiling(on=False)
    plain, recorded, passed = Images(), on.profile_dataset(Images()), off.profile_dataset(Images())
    versus(
        "access of a 3 KiB sample",
        ours={"profiled": lambda: recorded[0], "profiled, profiler off": lambda: passed[0]},
        peers={"plain data set": lambda: plain[0]},
        bars={"plain data set": "<=1.2"},
        note="on: a range, two clock readings, and counts in shared memory",
    )


def test_epoch(versus: Callable[..., None]) -> None:
    on, off = profiling(on=True), profiling(on=False)
    plain = Batches(Images())
    recorded, passed = on.profile_data_loader(Batches(Images())), off.profile_data_loader(Batches(Images()))
    versus(
        "epoch of 4 batches of 16 such samples",
        ours={"profiled": lambda: epoch(recorded), "profiled, profiler off": lambda: epoch(passed)},
        peers={"plain loader": lambda: epoch(plain)},
        bars={"plain loader": "<=1.2"},
        note="on: two ranges and, without workers, two readings of /proc/self/io a batch",
    )
