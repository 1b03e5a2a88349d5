"""Profiled data sets and loaders below and around torch's DataLoader: every kind of data set, worker and batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import (  # noqa: E402
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    get_worker_info,
    random_split,
)

from perfopt import PerformanceProfiler  # noqa: E402
from perfopt.data import CachedDataset  # noqa: E402
from perfopt.profiling.loading import DataLoadingProfiler  # noqa: E402

KINDS = [(0, None), (2, "fork"), (2, "spawn")]


class Rows(Dataset):  # type: ignore[misc]
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Any, int]:
        time.sleep(self.seconds)
        return torch.full((3,), float(index)), index


class BatchedRows(Rows):
    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Stream(IterableDataset):  # type: ignore[misc]
    def __iter__(self) -> Iterator[int]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from range(first, 24, step)


class Failing(Rows):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index == 5:
            raise OSError("unreadable")
        return super().__getitem__(index)


def as_it_is(samples: list[Any]) -> list[Any]:
    return samples


@pytest.fixture
def profiler() -> PerformanceProfiler:
    return PerformanceProfiler()


@pytest.fixture
def loading(profiler: PerformanceProfiler) -> DataLoadingProfiler:
    return DataLoadingProfiler(profiler)


def labels(loader: Any) -> list[int]:
    return sorted(label for _, batch in loader for label in batch.tolist())


def by_workers(dataset: Any, workers: int, epochs: int, persistent: bool) -> None:
    """Accesses were made where they had to be."""
    pids = {process["pid"] for process in dataset.get_stats()["processes"]}
    assert (os.getpid() in pids) == (workers == 0)
    assert len(pids) == (1 if not workers else workers if persistent else workers * epochs)


@pytest.mark.spec("S4-08", "S4-09", "S4-31", "S4-49", "S4-51")
@pytest.mark.parametrize(
    ("kind", "workers", "context"),
    [(Rows, 0, None), (Rows, 2, "fork"), (Rows, 2, "spawn"), (BatchedRows, 0, None), (BatchedRows, 2, "fork")],
)
def test_map_style(kind: type[Rows], workers: int, context: str | None, loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(kind())
    plain = DataLoader(dataset, batch_size=5, shuffle=True, num_workers=workers, multiprocessing_context=context)
    loader = loading.profile_data_loader(plain, "train")
    assert isinstance(loader, DataLoader)
    assert len(loader) == 5
    assert loader.batch_size == 5
    epochs = 1 if context == "spawn" else 2  # a spawned worker imports torch first
    for _ in range(epochs):
        assert labels(loader) == list(range(24))
    stats = loader.get_stats()
    assert (stats["iterations"], stats["batches"], stats["samples"]) == (epochs, 5 * epochs, 24 * epochs)
    assert stats["workers"] == workers
    accesses = dataset.get_stats()
    assert accesses["samples"] == 24 * epochs
    assert accesses["accesses"] == (5 if kind is BatchedRows else 24) * epochs
    by_workers(dataset, workers, epochs, persistent=False)
    assert (stats["queue_depth_mean"] is None) == (workers == 0)
    assert stats["start_seconds"] <= stats["wait_seconds"]


@pytest.mark.spec("S4-08", "S4-09")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_persistent_workers(context: str, loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    dataset = loading.profile_dataset(Rows())
    loader = loading.profile_data_loader(
        DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context=context)
    )
    for _ in range(3):
        assert labels(loader) == list(range(24))
    by_workers(dataset, 2, epochs=3, persistent=True)
    assert dataset.get_stats()["accesses"] == 72
    assert loader.get_stats()["samples"] == 72
    profiler.stop()  # the workers run on; they are told at the next batch
    assert labels(loader) == list(range(24))
    loading.reset()
    assert labels(loader) == list(range(24))
    assert dataset.get_stats()["accesses"] == 0
    assert loader.get_stats()["batches"] == 0


@pytest.mark.spec("S4-08", "S4-09")
@pytest.mark.parametrize(("workers", "context"), KINDS)
def test_iterable_style(workers: int, context: str | None, loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(Stream())
    assert isinstance(dataset, IterableDataset)
    loader = loading.profile_data_loader(
        DataLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context=context)
    )
    assert sorted(label for batch in loader for label in batch.tolist()) == list(range(24))
    assert dataset.get_stats()["accesses"] == 24
    assert loader.get_stats()["samples"] == 24
    by_workers(dataset, workers, epochs=1, persistent=False)
    with pytest.raises(TypeError):
        len(loader)


@pytest.mark.spec("S4-32", "S4-49")
@pytest.mark.parametrize("workers", [0, 2])
def test_cache_rates_of_workers(workers: int, loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(CachedDataset(Rows()))
    subset = Subset(dataset, range(12))
    loader = loading.profile_data_loader(
        DataLoader(subset, batch_size=3, num_workers=workers, persistent_workers=workers > 0)
    )
    for _ in range(2):
        assert labels(loader) == list(range(12))
    stats = loader.get_stats()
    # Each worker has its own cache and reads every second batch, the same ones in both epochs.
    assert (stats["cache_hits"], stats["cache_misses"]) == (12, 12)
    assert dataset.get_stats()["cache_hit_rate"] == 0.5
    (reported,) = loading.loaders()
    assert (reported.cache_hits, reported.samples, reported.workers) == (12, 24, workers)


@pytest.mark.spec("S4-49")
def test_waiting_against_working(loading: DataLoadingProfiler) -> None:
    """5 ms alone: is it the loader or the consumer that a loop waits for?"""

    def stats(name: str, slow_sample: float, slow_step: float) -> dict[str, Any]:
        loader = loading.profile_data_loader(
            DataLoader(Rows(slow_sample), batch_size=2, num_workers=2, persistent_workers=True), name
        )
        for _ in loader:  # the workers' start is no part of the question
            pass
        loading.reset()
        for _ in loader:
            time.sleep(slow_step)
        found: dict[str, Any] = loader.get_stats()
        return found

    starved, busy = stats("starved", 0.05, 0.0), stats("busy", 0.0, 0.1)
    assert starved["wait_seconds"] > starved["compute_seconds"]
    assert starved["wait_share"] > busy["wait_share"]
    assert busy["queue_depth_mean"] > starved["queue_depth_mean"]


def test_batch_samplers_and_collation(loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(Rows())
    sampled = loading.profile_data_loader(
        DataLoader(dataset, batch_sampler=BatchSampler(range(7), batch_size=3, drop_last=False)), "sampled"
    )
    assert [len(batch) for _, batch in sampled] == [3, 3, 1]
    listed = loading.profile_data_loader(DataLoader(dataset, batch_size=10, collate_fn=as_it_is), "listed")
    assert [len(batch) for batch in listed] == [10, 10, 4]
    single = loading.profile_data_loader(DataLoader(dataset, batch_size=None), "single")
    assert len(list(single)) == 24
    assert [loader.get_stats()["samples"] for loader in (sampled, listed, single)] == [7, 24, None]


def test_other_data_sets_around_it(loading: DataLoadingProfiler) -> None:
    tensors = loading.profile_dataset(TensorDataset(torch.arange(8.0), torch.arange(8)))
    first, second = random_split(tensors, [6, 2])
    both = first + second
    assert labels(DataLoader(both, batch_size=4)) == list(range(8))
    rows = loading.profile_dataset(Rows())
    assert len(rows + tensors) == 32
    assert labels(DataLoader(rows + rows, batch_size=8)) == sorted([*range(24), *range(24)])
    assert rows.get_stats()["accesses"] == 48
    assert tensors.get_stats()["samples"] == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_workers_and_early_breaks(workers: int, loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(Failing())
    loader = loading.profile_data_loader(DataLoader(dataset, batch_size=2, num_workers=workers), "train")
    for _ in loader:
        break
    with pytest.raises(OSError, match="unreadable"):
        list(loader)
    stats = loader.get_stats()
    assert (stats["iterations"], stats["batches"], stats["failed"]) == (2, 3, 1)
    assert dataset.get_stats()["failed"] >= 1


def test_workers_see_the_data_set_as_their_own(loading: DataLoadingProfiler) -> None:
    def announce(number: int) -> None:
        info = get_worker_info()
        info.dataset.seconds = 0.0
        assert isinstance(info.dataset, Rows)

    dataset = loading.profile_dataset(Rows(seconds=60.0))
    loader = DataLoader(dataset, batch_size=4, num_workers=2, worker_init_fn=announce, multiprocessing_context="fork")
    assert labels(loader) == list(range(24))
    assert dataset.get_stats()["accesses"] == 24


def test_iterators_keep_torchs_attributes(loading: DataLoadingProfiler) -> None:
    loader = loading.profile_data_loader(DataLoader(Rows(), batch_size=4, num_workers=2))
    batches = iter(loader)
    assert len(batches) == 6
    assert len(batches._workers) == 2
    workers = batches._workers
    del batches  # an abandoned iteration ends its workers, as without the wrapper
    assert not any(worker.is_alive() for worker in workers)
