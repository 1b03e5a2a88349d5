"""Profiled data sets and loaders without torch: what the wrappers keep, what is counted, in which process, and what it is not."""

from __future__ import annotations

import collections.abc
import copy
import functools
import gc
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from perfopt import PerformanceProfiler
from perfopt.data import CachedDataset
from perfopt.profiling import CodeProfiler, ProfilerConfig, Thresholds, access_counts
from perfopt.profiling.access_counts import AccessCounts
from perfopt.profiling.batches import bytes_read
from perfopt.profiling.loading import DataLoadingProfiler, ProfiledDataLoader, ProfiledDataset
from perfopt.report import build, document


class Squares:
    """Map-style, with length."""

    def __init__(self, count: int = 10) -> None:
        self.count = count
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return index * index

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Batched(Squares):
    def __getitems__(self, indices: list[int]) -> list[int]:
        return [self[index] for index in indices]


class Stream:
    """Iterable only."""

    def __iter__(self) -> Iterator[int]:
        yield from range(5)


class Broken(Squares):
    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise OSError("unreadable")
        return index


@pytest.fixture
def profiler() -> PerformanceProfiler:
    return PerformanceProfiler()


@pytest.fixture
def loading(profiler: PerformanceProfiler) -> DataLoadingProfiler:
    return DataLoadingProfiler(profiler)


def operations(profiler: PerformanceProfiler) -> dict[str, Any]:
    found: dict[str, Any] = profiler.get_profile_summary()["operations"]
    return found


# ---- data sets: what the wrapper keeps ----


@pytest.mark.spec("S4-08")
def test_dataset_keeps_what_it_is(loading: DataLoadingProfiler) -> None:
    squares = Squares()
    dataset = loading.profile_dataset(squares)
    assert isinstance(dataset, Squares)
    assert isinstance(dataset, ProfiledDataset)
    assert isinstance(dataset, collections.abc.Sized)
    assert not isinstance(dataset, collections.abc.Iterable)
    assert len(dataset) == 10
    assert dataset[3] == 9
    assert list(dataset) == [index * index for index in range(10)]
    dataset.set_epoch(4)
    dataset.extra = "x"
    assert (squares.epoch, squares.extra) == (4, "x")  # type: ignore[attr-defined]
    del dataset.extra
    assert not hasattr(squares, "extra")
    assert {"set_epoch", "get_stats", "count"} <= set(dir(dataset))
    assert dataset.__wrapped__ is squares
    assert "Squares" in repr(dataset)
    with pytest.raises(AttributeError, match="nothing"):
        _ = dataset.nothing


def test_dataset_has_only_what_it_wraps(loading: DataLoadingProfiler) -> None:
    stream = loading.profile_dataset(Stream())
    assert list(stream) == list(stream) == list(range(5))
    assert isinstance(stream, collections.abc.Iterable)
    for name in ("__len__", "__getitem__", "__getitems__", "__next__", "__contains__"):
        assert not hasattr(stream, name)
    with pytest.raises(TypeError, match="len"):
        len(stream)
    with pytest.raises(TypeError):
        stream[0]
    squares = loading.profile_dataset(Squares())
    assert not hasattr(squares, "__getitems__")
    assert not hasattr(squares, "__iter__")
    assert hasattr(loading.profile_dataset(Batched()), "__getitems__")
    numbers = loading.profile_dataset([3, 1, 2])
    assert 3 in numbers
    assert list(reversed(numbers)) == [2, 1, 3]
    assert numbers[0:2] == [3, 1]
    assert np.asarray(loading.profile_dataset(np.arange(3))).tolist() == [0, 1, 2]
    assert not loading.profile_dataset([])


def test_adding_keeps_the_wrapper(loading: DataLoadingProfiler) -> None:
    class Sum:
        def __init__(self, parts: list[Any]) -> None:
            self.parts = parts

    class Addable(Squares):
        def __add__(self, other: Any) -> Sum:
            return Sum([self, other])

    first, second = loading.profile_dataset(Addable()), loading.profile_dataset(Addable())
    both = first + second
    assert both.parts[0] is first
    assert both.parts[1] is second
    assert loading.profile_dataset([1]) + [2] == [1, 2]  # noqa: RUF005


# ---- data sets: what is counted ----


@pytest.mark.spec("S4-08", "S4-31", "S4-49")
def test_accesses_are_counted_and_timed(loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    class Slow(Squares):
        def __getitem__(self, index: int) -> int:
            time.sleep(0.02 if index == 1 else 0.001)
            return index

    dataset = loading.profile_dataset(Slow())
    for index in range(4):
        dataset[index]
    stats = dataset.get_stats()
    assert (stats["accesses"], stats["samples"], stats["failed"]) == (4, 4, 0)
    assert stats["seconds_max"] >= 0.02
    assert stats["seconds_max"] > stats["seconds_mean"] > stats["seconds_min"] >= 0.001
    assert stats["seconds_mean"] == pytest.approx(stats["seconds_total"] / 4)
    assert [process["pid"] for process in stats["processes"]] == [os.getpid()]
    assert stats["name"] == "Slow"
    assert json.loads(json.dumps(stats)) == stats
    row = operations(profiler)["Slow.access"]
    assert row["count"] == 4
    assert 0.02 <= row["total"] <= stats["seconds_total"]  # the range lies within what is counted
    assert loading.get_stats()["datasets"] == {"Slow": stats}


def test_batches_and_iterations_are_accesses(loading: DataLoadingProfiler) -> None:
    batched = loading.profile_dataset(Batched())
    assert batched.__getitems__([1, 2, 3]) == [1, 4, 9]
    stats = batched.get_stats()
    assert (stats["accesses"], stats["samples"]) == (1, 3)
    stream = loading.profile_dataset(Stream())
    assert list(stream) == list(range(5))
    assert stream.get_stats()["accesses"] == 5
    for _ in stream:
        break
    assert stream.get_stats()["accesses"] == 6


def test_failed_accesses(loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(Broken())
    dataset[1]
    with pytest.raises(OSError, match="unreadable"):
        dataset[3]
    assert (dataset.get_stats()["accesses"], dataset.get_stats()["failed"]) == (1, 1)
    squares = loading.profile_dataset(Squares())
    assert len(list(squares)) == 10  # ends with IndexError, which is no failure
    assert (squares.get_stats()["accesses"], squares.get_stats()["failed"]) == (10, 0)


def test_only_while_the_profiler_is_on(loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    dataset = loading.profile_dataset(Squares())
    profiler.stop()
    assert dataset[2] == 4
    assert dataset.get_stats()["accesses"] == 0
    assert dataset.get_stats()["seconds_mean"] is None
    profiler.start()
    assert dataset[2] == 4
    assert dataset.get_stats()["accesses"] == 1
    profiler.stop()
    assert list(loading.profile_data_loader([1, 2])) == [1, 2]
    assert loading.loaders() == []
    assert list(operations(profiler)) == ["Squares.access"]


def test_switched_off(profiler: PerformanceProfiler) -> None:
    loading = DataLoadingProfiler(profiler, enabled=False)
    dataset, loader = loading.profile_dataset(Squares()), loading.profile_data_loader([1, 2], "train")
    assert dataset[2] == 4
    assert list(loader) == [1, 2]
    assert len(loader) == 2
    assert dataset.get_stats()["accesses"] == loader.get_stats()["batches"] == 0
    assert loading.get_stats() == {"datasets": {}, "loaders": {}}
    assert loading.kinds() == {}
    assert operations(profiler) == {}


@pytest.mark.spec("S4-32", "S4-49")
def test_cache_rates_of_a_cached_dataset(loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    dataset = loading.profile_dataset(CachedDataset(Squares(), cache_size=4))
    for _ in range(2):
        for index in range(5):
            dataset[index]
    stats = dataset.get_stats()
    assert (stats["cache_hits"], stats["cache_misses"], stats["cache_hit_rate"]) == (4, 6, 0.4)
    profiler.stop()
    dataset[0]
    profiler.start()
    dataset[0]
    assert dataset.get_stats()["cache_hits"] == 5  # and not what went by unrecorded
    assert loading.profile_dataset(Squares()).get_stats()["cache_hit_rate"] is None
    loader = loading.profile_data_loader(dataset)
    assert loader.get_stats()["cache_hits"] is None  # its data set is not a profiled one


@pytest.mark.spec("S4-32")
def test_cache_rates_of_anything_with_cache_info(loading: DataLoadingProfiler) -> None:
    class Own(Squares):
        info = namedtuple("info", "hits misses")(0, 0)

        def __getitem__(self, index: int) -> int:
            self.info = self.info._replace(misses=self.info.misses + 2)
            return index

        def cache_info(self) -> Any:
            return self.info

    class Decorated(Squares):
        @functools.lru_cache(maxsize=8)  # noqa: B019
        def __getitem__(self, index: int) -> int:
            return index

    class Other(Squares):
        def cache_info(self) -> str:
            return "warm"

    own, decorated, other = (loading.profile_dataset(kind()) for kind in (Own, Decorated, Other))
    for dataset in (own, decorated, other):
        dataset[1]
        dataset[1]
    assert own.get_stats()["cache_misses"] == 4
    assert (decorated.get_stats()["cache_hits"], decorated.get_stats()["cache_misses"]) == (1, 1)
    assert other.get_stats()["cache_hits"] is None
    decorated.__wrapped__.__class__.__getitem__.cache_clear()
    decorated[1]
    assert decorated.get_stats()["cache_misses"] == 1  # a cleared cache counts from there on
    decorated[2]
    assert decorated.get_stats()["cache_misses"] == 2


def test_threads_lose_no_access(loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(CachedDataset(Squares(1000)))
    threads = [threading.Thread(target=lambda: [dataset[index] for index in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = dataset.get_stats()
    assert stats["accesses"] == 2000
    assert stats["cache_hits"] + stats["cache_misses"] == 2000


def test_two_profilers_at_once(loading: DataLoadingProfiler) -> None:
    inner = loading.profile_dataset(CachedDataset(Squares()))
    outer = DataLoadingProfiler(PerformanceProfiler()).profile_dataset(inner)
    assert outer is not inner
    outer[1]
    outer[1]
    for dataset in (inner, outer):
        assert (dataset.get_stats()["accesses"], dataset.get_stats()["cache_hits"]) == (2, 1)
    twice = DataLoadingProfiler(PerformanceProfiler()).profile_data_loader(loading.profile_data_loader([1, 2]))
    assert list(twice) == [1, 2]
    assert twice.get_stats()["batches"] == twice.__wrapped__.get_stats()["batches"] == 2


def test_torch_is_not_imported() -> None:
    code = "import sys; import perfopt.profiling.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- data sets: other processes ----


def read(dataset: Any, indices: list[int], ready: Any = None, go_on: Any = None) -> None:
    for index in indices:
        dataset[index]
    if ready is not None:
        ready.set()
        go_on.wait(60)
        for index in indices:
            dataset[index]


def in_process(context: str, dataset: Any, indices: list[int]) -> int:
    process = multiprocessing.get_context(context).Process(target=read, args=(dataset, indices))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert process.pid is not None
    return process.pid


@pytest.mark.spec("S4-08", "S4-31")
@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_accesses_of_other_processes_count(context: str, loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(CachedDataset(Squares()))
    dataset[0]
    first, second = in_process(context, dataset, [1, 2, 1]), in_process(context, dataset, [3])
    stats = dataset.get_stats()
    by_process = {process["pid"]: process["accesses"] for process in stats["processes"]}
    assert by_process == {os.getpid(): 1, first: 3, second: 1}
    assert (stats["accesses"], stats["cache_hits"], stats["cache_misses"]) == (5, 1, 4)
    assert stats["missing_processes"] == 0


def test_ranges_of_forked_workers_reach_a_profiler_that_follows(
    loading: DataLoadingProfiler, profiler: PerformanceProfiler
) -> None:
    profiler.follow_children(f"loading-{os.getpid()}")
    dataset = loading.profile_dataset(Squares())
    dataset[0]
    in_process("fork", dataset, [1, 2, 3])
    rows = {row["name"]: row["count"] for row in profiler.capture(children=True).rows()}
    assert rows == {"Squares.access": 4}
    assert dataset.get_stats()["accesses"] == 4


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_are_told_whether_to_record(
    context: str, loading: DataLoadingProfiler, profiler: PerformanceProfiler
) -> None:
    dataset = loading.profile_dataset(Squares())
    profiler.stop()
    in_process(context, dataset, [1])
    assert dataset.get_stats()["accesses"] == 0
    profiler.start()
    made = multiprocessing.get_context(context)
    ready, go_on = made.Event(), made.Event()
    process = made.Process(target=read, args=(dataset, [1, 2], ready, go_on))
    process.start()
    assert ready.wait(60)
    assert dataset.get_stats()["accesses"] == 2
    profiler.stop()
    loading.update()
    go_on.set()
    process.join(60)
    assert process.exitcode == 0
    assert dataset.get_stats()["accesses"] == 2


def test_reset_reaches_running_workers(loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(Squares())
    made = multiprocessing.get_context("fork")
    ready, go_on = made.Event(), made.Event()
    process = made.Process(target=read, args=(dataset, [1, 2, 3], ready, go_on))
    process.start()
    assert ready.wait(60)
    dataset[0]
    loading.reset()
    assert dataset.get_stats()["accesses"] == 0
    assert dataset.get_stats()["processes"] == []
    go_on.set()
    process.join(60)
    assert dataset.get_stats()["accesses"] == 3


def test_killed_workers_block_nothing(loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(Squares())
    made = multiprocessing.get_context("fork")
    ready, go_on = made.Event(), made.Event()
    process = made.Process(target=read, args=(dataset, [1, 2], ready, go_on))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(60)
    dataset[0]
    assert dataset.get_stats()["accesses"] == 3


def test_slots_of_ended_processes_are_used_again(loading: DataLoadingProfiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_counts, "SLOTS", 4)  # slot 0 and three others
    dataset = loading.profile_dataset(Squares())
    dataset[0]
    for _ in range(7):
        in_process("fork", dataset, [1, 2])
    stats = dataset.get_stats()
    assert stats["accesses"] == stats["samples"] == 15
    assert stats["missing_processes"] == 0
    assert len(stats["processes"]) <= 4
    assert next(process["pid"] for process in stats["processes"]) is None
    assert next(one for one in stats["processes"] if one["pid"] == os.getpid())["accesses"] == 1
    assert stats["seconds_min"] > 0
    assert stats["seconds_min"] == min(process["seconds_min"] for process in stats["processes"])


def test_too_many_live_processes_are_told(loading: DataLoadingProfiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_counts, "SLOTS", 2)
    dataset = loading.profile_dataset(Squares())
    dataset[0]
    in_process("fork", dataset, [1, 2])
    assert dataset.get_stats()["accesses"] == 1
    assert dataset.get_stats()["missing_processes"] == 1
    loading.reset()
    assert dataset.get_stats()["missing_processes"] == 0


def test_without_memfd(monkeypatch: pytest.MonkeyPatch, profiler: PerformanceProfiler) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    dataset = DataLoadingProfiler(profiler).profile_dataset(Squares())
    in_process("fork", dataset, [1, 2])
    assert dataset.get_stats()["accesses"] == 2


def test_a_closed_file_breaks_no_access(profiler: PerformanceProfiler) -> None:
    counts = AccessCounts("closed", profiler)
    dataset = ProfiledDataset(Squares(), counts)
    spare = os.open(os.devnull, os.O_RDONLY)
    os.dup2(spare, counts._descriptor)  # as a daemon does that closes all files; the number stays ours to close
    os.close(spare)
    assert dataset[2] == 4


def test_copies_and_pickles(loading: DataLoadingProfiler) -> None:
    dataset = loading.profile_dataset(Squares())
    for same in (copy.copy(dataset), copy.deepcopy(dataset)):
        assert isinstance(same, ProfiledDataset)
        assert same[2] == 4
    assert dataset.get_stats()["accesses"] == 2
    elsewhere = pickle.loads(pickle.dumps(dataset))
    assert (elsewhere[2], len(elsewhere)) == (4, 10)
    assert elsewhere.get_stats()["accesses"] == 0  # a pickle that is for no worker records nothing
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(iter(loading.profile_dataset(Stream())))


def test_nothing_is_kept_alive(loading: DataLoadingProfiler) -> None:
    before = len(os.listdir("/proc/self/fd"))
    squares = Squares()
    seen = weakref.ref(squares)
    dataset, loader = loading.profile_dataset(squares), loading.profile_data_loader(squares)
    list(loader)
    list(dataset)
    del squares, dataset, loader
    gc.collect()
    assert seen() is None
    assert loading.get_stats()["datasets"]["Squares"]["accesses"] == 10
    for _ in range(20):
        DataLoadingProfiler(PerformanceProfiler()).profile_dataset(Squares())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 3


# ---- loaders ----


@pytest.mark.spec("S4-09", "S4-31", "S4-49")
def test_loader_keeps_what_it_is_and_counts(loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    batches = [np.zeros(2), np.zeros(2)]
    loader = loading.profile_data_loader(batches, "train")
    assert isinstance(loader, list)
    assert isinstance(loader, ProfiledDataLoader)
    assert len(loader) == 2
    for _ in range(3):
        assert [id(batch) for batch in loader] == [id(batch) for batch in batches]
    stats = loader.get_stats()
    assert (stats["name"], stats["iterations"], stats["batches"], stats["failed"]) == ("train", 3, 6, 0)
    assert stats["workers"] == 0
    assert 0 < stats["wait_p50"] <= stats["wait_p99"]
    assert 0 < stats["start_seconds"] < stats["wait_seconds"]
    assert stats["wait_mean"] == pytest.approx(stats["wait_seconds"] / 6)
    assert stats["queue_depth_mean"] is None
    assert stats["reasons"]["queue_depth_mean"] == "the loader has no workers"
    assert json.loads(json.dumps(stats)) == stats
    assert loading.kinds() == {"train.start": "loading", "train.wait": "loading"}
    assert operations(profiler)["train.start"]["count"] == 3
    assert operations(profiler)["train.wait"]["count"] == 9  # with the ends


@pytest.mark.spec("S4-09", "S4-49")
def test_report_takes_the_loaders(loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    loading.profile_data_loader([1], "never iterated")
    list(loading.profile_data_loader([1, 2, 3], "train"))
    (loader,) = loading.loaders()
    assert (loader.name, loader.batches, loader.workers) == ("train", 3, 0)
    kinds = {
        operation.name: operation.kind for operation in build.operations_of(profiler.capture(), kinds=loading.kinds())
    }
    assert kinds == {"train.start": "loading", "train.wait": "loading"}
    assert isinstance(loader, document.Loader)


def slept(seconds: float) -> float:
    """As another clock saw it."""
    begin = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - begin


def spend(loading: DataLoadingProfiler, wait: float, work: float) -> dict[str, Any]:
    """What is said of ten batches. On a busy machine a pause takes any time, but each of the two only its own."""
    waited = worked = 0.0

    def slow() -> Iterator[int]:
        nonlocal waited
        for number in range(10):
            waited += slept(wait)
            yield number

    loader = loading.profile_data_loader(slow(), f"{wait} {work}")
    begin = time.perf_counter()
    for _ in loader:
        worked += slept(work)
    elapsed = time.perf_counter() - begin
    stats: dict[str, Any] = loader.get_stats()
    assert waited * 0.999 <= stats["wait_seconds"] <= (elapsed - worked) * 1.001
    assert worked * 0.999 <= stats["compute_seconds"] <= (elapsed - waited) * 1.001
    assert stats["wait_share"] == pytest.approx(
        stats["wait_seconds"] / (stats["wait_seconds"] + stats["compute_seconds"])
    )
    return stats


@pytest.mark.spec("S4-09", "S4-49")
def test_share_waited(loading: DataLoadingProfiler) -> None:
    starved, busy, even = spend(loading, 0.02, 0.0), spend(loading, 0.0, 0.02), spend(loading, 0.02, 0.02)
    assert starved["wait_share"] > busy["wait_share"]
    assert starved["wait_p50"] > busy["wait_p50"]
    assert even["wait_seconds"] >= 0.2
    assert even["compute_seconds"] >= 0.2


def test_waits_stand_in_the_call_tree(loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    dataset = loading.profile_dataset(Squares(3))
    with profiler.profile("epoch"):
        for _ in loading.profile_data_loader(dataset, "train"):
            pass
    rows = operations(profiler)
    assert rows["train.wait"]["callers"].keys() == {"epoch"}
    assert rows["Squares.access"]["callers"].keys() == {"train.wait"}


def test_early_break_and_errors(loading: DataLoadingProfiler) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("lost")

    class Epochs:
        def __iter__(self) -> Iterator[int]:
            return failing()

    loader = loading.profile_data_loader(Epochs(), "train")
    for _ in loader:
        break
    with pytest.raises(OSError, match="lost"):
        list(loader)
    stats = loader.get_stats()
    assert (stats["iterations"], stats["batches"], stats["failed"]) == (2, 2, 1)


def test_an_error_of_iter_passes(loading: DataLoadingProfiler) -> None:
    class Unready:
        def __iter__(self) -> Iterator[int]:
            raise RuntimeError("no data yet")

    with pytest.raises(RuntimeError, match="no data yet"):
        iter(loading.profile_data_loader(Unready()))


def test_generators_iterators_and_sequences(loading: DataLoadingProfiler) -> None:
    generator = loading.profile_data_loader((number for number in range(4)), "generator")
    assert next(generator) == 0
    assert next(generator) == 1
    assert list(generator) == [2, 3]
    assert next(generator, None) is None
    assert generator.get_stats()["batches"] == 4
    assert not hasattr(loading.profile_data_loader([1], "list"), "__next__")
    sequence = loading.profile_data_loader(Squares(3), "sequence")  # no __iter__
    assert list(sequence) == [0, 1, 4]
    assert sequence.get_stats()["batches"] == 3
    sized = iter(loading.profile_data_loader([1, 2], "sized"))
    assert iter(sized) is sized
    assert sized.__length_hint__() == 2


def test_nested_iterations_and_threads(loading: DataLoadingProfiler) -> None:
    loader = loading.profile_data_loader(list(range(20)), "train")
    assert [(a, b) for a in loader for b in loader] == [(a, b) for a in range(20) for b in range(20)]
    assert loader.get_stats()["batches"] == 420
    threads = [threading.Thread(target=lambda: list(loader)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loader.get_stats()["batches"] == 500
    assert loader.get_stats()["iterations"] == 25


def test_compute_is_told_apart_by_thread(loading: DataLoadingProfiler) -> None:
    shared = iter(loading.profile_data_loader([1, 2, 3], "train"))
    next(shared)
    time.sleep(0.05)
    thread = threading.Thread(target=lambda: next(shared))  # its first batch: it has computed nothing
    thread.start()
    thread.join()
    assert loading.get_stats()["loaders"]["train"]["compute_seconds"] == 0
    next(shared)
    assert loading.get_stats()["loaders"]["train"]["compute_seconds"] >= 0.05


def test_started_and_stopped_within_an_iteration(loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    profiler.stop()
    batches = iter(loading.profile_data_loader([1, 2, 3, 4, 5], "train"))
    begin = time.perf_counter()
    assert next(batches) == 1
    profiler.start()
    off = slept(0.1)
    assert next(batches) == 2
    profiler.stop()
    off += slept(0.1)
    assert next(batches) == 3
    profiler.start()
    assert list(batches) == [4, 5]
    elapsed = time.perf_counter() - begin
    stats = loading.get_stats()["loaders"]["train"]
    assert (stats["iterations"], stats["batches"]) == (0, 3)
    assert stats["compute_seconds"] <= (elapsed - off) * 1.001  # work during which the profiler was off is not counted
    assert stats["start_seconds"] is None


def test_batches_are_not_kept(loading: DataLoadingProfiler) -> None:
    class Batch:
        pass

    batches = iter(loading.profile_data_loader((Batch() for _ in range(2)), "train"))
    batch = weakref.ref(next(batches))
    gc.collect()
    assert batch() is None


def test_reset_of_loaders(loading: DataLoadingProfiler) -> None:
    loader = loading.profile_data_loader([1, 2], "train")
    list(loader)
    loading.reset()
    assert loader.get_stats()["batches"] == loader.get_stats()["wait_seconds"] == 0
    assert loading.loaders() == []
    list(loader)
    assert loader.get_stats()["batches"] == 2


def test_loaders_elsewhere_pass_through(loading: DataLoadingProfiler) -> None:
    loader = loading.profile_data_loader([1, 2], "train")
    elsewhere = pickle.loads(pickle.dumps(loader))
    assert list(elsewhere) == [1, 2]
    assert elsewhere.get_stats()["batches"] == 0
    assert list(copy.copy(loader)) == list(copy.deepcopy(loader)) == [1, 2]
    assert loader.get_stats()["batches"] == 4


@pytest.mark.skipif(bytes_read() is None, reason="the kernel does not tell what was read")
@pytest.mark.spec("S4-49")
def test_bytes_read(loading: DataLoadingProfiler, tmp_path: Any) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(100_000))

    def read_twice() -> Iterator[int]:
        for _ in range(2):
            descriptor = os.open(file, os.O_RDONLY)
            yield len(os.read(descriptor, 100_000))
            os.close(descriptor)

    loader = loading.profile_data_loader(read_twice(), "files")
    for _ in loader:
        file.read_bytes()  # the consumer's own
    stats = loader.get_stats()
    assert stats["bytes_read"] == 200_000
    assert stats["bytes_per_second"] == pytest.approx(200_000 / stats["wait_seconds"])
    nothing = loading.profile_data_loader([1, 2], "nothing")
    list(nothing)
    assert nothing.get_stats()["bytes_read"] == 0


class Fake:
    """What can be seen of a torch loader."""

    def __init__(self, batches: list[Any], batch_size: int | None, batch_sampler: Any = "given") -> None:
        self.batches, self.batch_size, self.batch_sampler = batches, batch_size, batch_sampler

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


@pytest.mark.parametrize(
    ("batches", "batch_size", "samples"),
    [
        ([np.zeros((4, 3)), np.zeros((1, 3))], 4, 5),
        ([[np.zeros((2, 3)), np.zeros(2)], [np.zeros((1, 3)), np.zeros(1)]], 2, 3),
        ([{"x": np.zeros((4, 3)), "length": 7}], 4, 4),
        ([["a", "b", "c"], ["d"]], 3, 4),  # strings stay a list when they are collated
        ([[(np.zeros(7), 1), (np.zeros(7), 2), (np.zeros(7), 3)], [(np.zeros(7), 4)]], 3, 4),  # not collated
        ([[np.zeros((2, 3)), [np.zeros((9, 4)), np.zeros((5, 4))]]], 2, 2),  # boxes of two images
        ([(np.zeros((2, 3)), np.zeros(2))], 8, 2),  # the data set is smaller than a batch
        ([(np.zeros((5, 3)), np.zeros(5)), (np.zeros((2, 3)), np.zeros(2))], None, 7),  # a batch sampler
        ([(np.zeros((5, 3)), np.zeros(4))], None, None),
        ([object()], 4, None),
        ([np.float64(3)], 4, None),
    ],
)
def test_samples_are_counted_where_they_show(
    batches: list[Any], batch_size: int | None, samples: int | None, loading: DataLoadingProfiler
) -> None:
    loader = loading.profile_data_loader(Fake(batches, batch_size))
    list(loader)
    stats = loader.get_stats()
    assert stats["samples"] == samples
    assert ("samples" in stats["reasons"]) == (samples is None)


def test_samples_that_do_not_show(loading: DataLoadingProfiler) -> None:
    image = np.zeros((32, 32, 3))
    alone = loading.profile_data_loader([image], "alone")  # one array: a batch or a sample
    unbatched = loading.profile_data_loader(Fake([image], None, batch_sampler=None), "unbatched")
    told = loading.profile_data_loader([{"rows": 3}, {"rows": 4}], "told", samples=lambda batch: batch["rows"])
    for loader in (alone, unbatched, told):
        list(loader)
    assert alone.get_stats()["samples"] is None
    assert "give samples=" in alone.get_stats()["reasons"]["samples"]
    assert "batch_size=None" in unbatched.get_stats()["reasons"]["samples"]
    assert told.get_stats()["samples"] == 7
    assert told.get_stats()["samples_per_second"] > 0


def test_queue_that_tells_nothing(loading: DataLoadingProfiler) -> None:
    class Silent:
        def qsize(self) -> int:
            raise NotImplementedError

    class Batches:
        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields)
            self.left = 3

        def __next__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return self.left

        def __iter__(self) -> Batches:
            return self

    class Loader:
        num_workers = 2

        def __init__(self, **fields: Any) -> None:
            self.fields = fields

        def __iter__(self) -> Batches:
            return Batches(**self.fields)

    unknown = loading.profile_data_loader(Loader(), "unknown")
    silent = loading.profile_data_loader(Loader(_data_queue=Silent(), _task_info={}), "silent")
    assert list(unknown) == list(silent) == [2, 1, 0]
    assert unknown.get_stats()["queue_depth_mean"] is None
    assert "no queue" in unknown.get_stats()["reasons"]["queue_depth_mean"]
    assert "NotImplementedError" in silent.get_stats()["reasons"]["queue_depth_mean"]
    assert unknown.get_stats()["bytes_read"] is None
    assert unknown.get_stats()["workers"] == 2


# ---- names and arguments ----


def test_names(loading: DataLoadingProfiler) -> None:
    first, second = Squares(), Squares()
    names = [loading.profile_dataset(dataset).get_stats()["name"] for dataset in (first, second, first)]
    assert names == ["Squares", "Squares_2", "Squares"]
    names = [loading.profile_data_loader(loader).get_stats()["name"] for loader in (first, second, first)]
    assert names == ["Squares", "Squares_2", "Squares"]
    for _ in range(3):
        list(loading.profile_data_loader([1, 2], "epoch"))
    assert loading.get_stats()["loaders"]["epoch"]["batches"] == 6
    dataset, loader = loading.profile_dataset(first), loading.profile_data_loader(first, "again")
    assert loading.profile_dataset(dataset) is dataset
    assert loading.profile_data_loader(loader, "again").__wrapped__ is first  # not timed twice


def test_wrapping_without_end_is_bounded(loading: DataLoadingProfiler) -> None:
    for _ in range(100):
        list(loading.profile_data_loader([1]))
        loading.profile_dataset([1])[0]
    stats = loading.get_stats()
    assert len(stats["loaders"]) == len(stats["datasets"]) == 65
    assert sum(loader["batches"] for loader in stats["loaders"].values()) == 100
    assert sum(dataset["accesses"] for dataset in stats["datasets"].values()) == 100
    assert stats["loaders"]["further list"]["batches"] == 36


def test_arguments(loading: DataLoadingProfiler, profiler: PerformanceProfiler) -> None:
    with pytest.raises(TypeError, match="profiler must be a PerformanceProfiler, not str"):
        DataLoadingProfiler("profiler")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="enabled must be True or False, not 1"):
        DataLoadingProfiler(profiler, enabled=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dataset must have __getitem__ or __iter__; int has neither"):
        loading.profile_dataset(3)
    with pytest.raises(TypeError, match="loader must have __iter__ or __getitem__; NoneType has neither"):
        loading.profile_data_loader(None)
    with pytest.raises(TypeError, match="name must be a str or None, not int"):
        loading.profile_data_loader([], 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name must not be empty"):
        loading.profile_data_loader([], "")
    with pytest.raises(TypeError, match="samples must be a function of the batch or None, not int"):
        loading.profile_data_loader([], samples=4)  # type: ignore[arg-type]


def test_a_forked_child_goes_on(loading: DataLoadingProfiler) -> None:
    loader, dataset = loading.profile_data_loader([1, 2], "train"), loading.profile_dataset(Squares())
    list(loader)
    child = os.fork()
    if child == 0:
        list(loader)
        dataset[1]
        loading.profile_data_loader([1], "other")
        os._exit(0 if loader.get_stats()["batches"] == 4 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert loader.get_stats()["batches"] == 2  # each process has its own consumer
    assert dataset.get_stats()["accesses"] == 1


# ---- within the code profiler ----


def test_running_workers_follow_the_code_profiler() -> None:
    profiler = CodeProfiler()
    dataset = profiler.profile_dataset(Squares())
    made = multiprocessing.get_context("fork")
    ready, go_on = made.Event(), made.Event()
    process = made.Process(target=read, args=(dataset, [1, 2, 3], ready, go_on))
    process.start()
    assert ready.wait(60)
    assert dataset.get_stats()["accesses"] == 0
    profiler.start_profiling()
    go_on.set()
    process.join(60)
    assert dataset.get_stats()["accesses"] == 3
    profiler.stop_profiling()
    in_process("fork", dataset, [1])
    assert dataset.get_stats()["accesses"] == 3


@pytest.mark.spec("S4-18", "S4-31")
def test_a_slow_loader_is_found_once() -> None:
    class Slow(Squares):
        def __getitem__(self, index: int) -> int:
            time.sleep(0.03)
            return super().__getitem__(index)

    profiler = CodeProfiler(ProfilerConfig(thresholds=Thresholds(slow_data_loading=0.02)))
    dataset = profiler.profile_dataset(Slow(4))
    with profiler:
        for _ in profiler.profile_data_loader(dataset, "train"):
            pass
    found = [(finding.rule, finding.subject) for finding in profiler.findings() if finding.share]
    assert sorted(found) == [
        ("slow_data_loading", "Slow.access"),
        ("slow_data_loading", "train"),
        ("starved_by_loader", "train"),
    ]
    assert [slow["name"] for slow in profiler.identify_bottlenecks()["slow_data_loading"]] == ["train", "Slow.access"]
