"""The monitor's C objects and calls leave nothing behind: references, heap, descriptors and threads are counted."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from perfopt import _core
from perfopt.memory import MemoryOptimizer

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")


def ignoring(error: type[Exception], call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(error):
            call()

    return run


def sampler_life() -> None:
    sampler = _core.MemorySampler(0.001, 16)
    for _ in range(20):
        sampler.sample()
    sampler.samples()
    assert sampler.latest is not None
    sampler.clear()
    assert len(sampler) == 0


def sampler_with_thread() -> None:
    with _core.MemorySampler(3600.0, 4) as sampler:
        sampler.samples()


class Bad:
    def __float__(self) -> float:
        raise LookupError


OPERATIONS: dict[str, Callable[[], object]] = {
    "sampler": sampler_life,
    "sampler thread": sampler_with_thread,
    "refused interval": ignoring(ValueError, lambda: _core.MemorySampler(-1)),
    "refused capacity": ignoring(ValueError, lambda: _core.MemorySampler(1.0, -1)),
    "memory_info": _core.memory_info,
    "memory_info elsewhere": lambda: _core.memory_info("/nonexistent"),
    "resident_bytes": _core.resident_bytes,
    "trend": lambda: _core.trend(list(range(50)), [float(i % 7) for i in range(50)]),
    "trend of a bad item": ignoring(LookupError, lambda: _core.trend([1.0, Bad()], [1.0, 2.0])),  # type: ignore[list-item]
    "trend of bad lengths": ignoring(ValueError, lambda: _core.trend([1.0], [1.0, 2.0])),
    "optimizer": lambda: MemoryOptimizer(capacity=4).get_memory_trends(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_python_memory_does_not_grow(name: str) -> None:
    operation = OPERATIONS[name]
    turns = 300

    def traced() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        for _ in range(50):
            operation()
        before = traced()
        for _ in range(turns):
            operation()
        after = traced()
    finally:
        tracemalloc.stop()
    assert after - before < turns * 8  # less than a pointer a turn


@linux
@pytest.mark.parametrize("name", OPERATIONS)
def test_c_heap_and_descriptors_do_not_grow(name: str) -> None:
    operation = OPERATIONS[name]
    turns = 2000 if "thread" not in name else 300

    def counts() -> tuple[int, int, int]:
        gc.collect()
        heap = _core.memory_info()["heap_in_use"]
        return heap or 0, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    for _ in range(100):
        operation()
    heap, descriptors, threads = counts()
    for _ in range(turns):
        operation()
    heap_after, descriptors_after, threads_after = counts()
    assert heap_after - heap < turns * 16  # malloc's smallest block is 32 bytes
    assert descriptors_after == descriptors
    assert threads_after == threads


@pytest.mark.parametrize("make", [_core.MemorySampler, MemoryOptimizer])
def test_references_to_the_type_are_given_back(make: Any) -> None:
    objects = [make(capacity=1) for _ in range(10)]
    objects.clear()
    gc.collect()
    before = sys.getrefcount(_core.MemorySampler)
    objects = [make(capacity=1) for _ in range(1000)]
    assert sys.getrefcount(_core.MemorySampler) >= before + 1000
    objects.clear()
    gc.collect()
    assert sys.getrefcount(_core.MemorySampler) < before + 100


def test_items_of_a_series_keep_their_reference_counts() -> None:
    item = 12345.678
    series = [item] * 20
    before = sys.getrefcount(item)
    for _ in range(1000):
        _core.trend(list(range(20)), series)
    assert sys.getrefcount(item) == before


def test_an_object_that_dies_while_sampling_stops_its_thread() -> None:
    threads = len(os.listdir("/proc/self/task")) if sys.platform.startswith("linux") else 0
    for _ in range(20):
        sampler = _core.MemorySampler(0.0005)
        sampler.start()
        del sampler
    if threads:
        assert len(os.listdir("/proc/self/task")) == threads
