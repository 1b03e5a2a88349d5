"""Cleaning and attribution: what garbage collection and a trim of the heap give back."""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Callable

import pytest
from memory_tools import MIB, Cleanings, Node, c_heap, glibc, linux

from perfopt import _core, memory
from perfopt.memory import MemoryOptimizer, retain_heap


@pytest.mark.spec("S0-22")
def test_cleaning_collects_cycles_and_reports(cleanings: Cleanings) -> None:
    gc.collect()
    for _ in range(1000):
        Node()
    before = cleanings.count
    report = MemoryOptimizer().optimize_memory()
    assert cleanings.count == before + 1
    assert report["gc_collected"] >= 1000
    assert report["cuda_released_bytes"] == 0
    assert report["trimmed_bytes"] >= 0
    assert report["seconds"] > 0
    assert "cuda_error" not in report
    json.dumps(report)


@linux
@glibc
@pytest.mark.spec("S0-22")
def test_cleaning_gives_retained_heap_back() -> None:
    libc = c_heap()
    blocks = [libc.malloc(100_000) for _ in range(600)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
        libc.free(block)
    assert _core.memory_info()["heap_retained"] >= 40 * MIB
    report = MemoryOptimizer().optimize_memory()
    libc.free(blocks[-1])
    assert report["trimmed_bytes"] >= 40 * MIB
    assert report["rss_before"] - report["rss_after"] >= 40 * MIB


def test_check_cleans_only_under_pressure(cleanings: Cleanings) -> None:
    share = max(MemoryOptimizer().pressure().values())
    assert MemoryOptimizer(min(1.0, share + 0.3)).check() is None
    assert cleanings.count == 0
    assert MemoryOptimizer(1e-9).check() is not None
    assert cleanings.count == 1


def test_where_malloc_has_no_trim_the_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise NotImplementedError("this C library has none")

    for name in ("trim", "heap_retain", "resident_bytes"):
        monkeypatch.setattr(memory._core, name, refuse)
    report = MemoryOptimizer().optimize_memory()
    assert (report["trimmed_bytes"], report["rss_before"]) == (0, None)
    with retain_heap() as available:
        assert available is False


@linux
@glibc
@pytest.mark.spec("S0-24", "S0-25")
def test_growth_is_attributed_to_garbage_to_malloc_and_to_the_program(grow: Callable[[int], None]) -> None:
    """In three parts of different size: 24 MiB of garbage in cycles, 60 MB freed but kept, 40 MiB still in use."""
    optimizer = MemoryOptimizer()
    assert optimizer.attribute_growth()["growing_bytes"] is None
    optimizer.optimize_memory()
    optimizer.get_memory_trends()
    libc = c_heap()
    blocks = [libc.malloc(100_000) for _ in range(600)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    gc.disable()
    try:
        grow(40)
        for _ in range(24):
            node = Node()
            node.payload = bytearray(b"x" * MIB)
        del node
        for block in blocks[:-1]:
            libc.free(block)
        found = optimizer.attribute_growth()
    finally:
        gc.enable()
        libc.free(blocks[-1])
    assert found["freed_by_gc_bytes"] == pytest.approx(24 * MIB, abs=8 * MIB)
    assert found["returned_by_trim_bytes"] == pytest.approx(60e6, abs=30e6)
    assert found["growing_bytes"] == pytest.approx(40 * MIB, abs=12 * MIB)
    assert found["gc_collected"] >= 24
    json.dumps(found)
