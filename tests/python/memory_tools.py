"""What the tests of perfopt's memory modules share: blocks that are resident, figures and a torch that are made up."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from perfopt import _core

GB = 2**30
MIB = 2**20
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own files")
glibc = pytest.mark.skipif("glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="glibc's malloc")


class Cleanings:
    """Counts full garbage collections, with which every cleaning starts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            self.count += 1


def resident_block(mebibytes: int) -> mmap.mmap:
    """So many MiB outside any heap, every page touched."""
    block = mmap.mmap(-1, mebibytes * MIB)
    for at in range(0, len(block), mmap.PAGESIZE):
        block[at] = 1
    return block


def c_heap() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    return libc


REAL_INFO = _core.memory_info()


def info_with(**changes: Any) -> Callable[[], dict[str, Any]]:
    """A stand-in for memory_info(): 1 of 10 GB used on an idle machine, and the changes."""
    info = {
        **REAL_INFO,
        "rss": GB,
        "limit": 10 * GB,
        "limit_source": "cgroup v2",
        "cgroup_fullest": None,
        "machine_total": 100 * GB,
        "machine_available": 99 * GB,
        "heap_retained": 0,
        **changes,
    }
    return lambda: info


class Node:
    """A reference cycle of its own."""

    payload: bytearray

    def __init__(self) -> None:
        self.itself = self


class FakeCuda:
    """Two devices of 8 GB; the second holds 3 GB in its cache until empty_cache()."""

    def __init__(self, *, initialized: bool = True, broken: bool = False) -> None:
        self.initialized = initialized
        self.broken = broken
        self.allocated = [1 * GB, 2 * GB]
        self.reserved = [1 * GB, 5 * GB]

    def is_initialized(self) -> bool:
        return self.initialized

    def device_count(self) -> int:
        assert self.initialized, "would initialise CUDA"
        return 2

    def memory_allocated(self, device: int) -> int:
        return self.allocated[device]

    def memory_reserved(self, device: int) -> int:
        return self.reserved[device]

    def get_device_properties(self, device: int) -> Any:
        return types.SimpleNamespace(total_memory=8 * GB)

    def empty_cache(self) -> None:
        assert self.initialized, "would initialise CUDA"
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        self.reserved = list(self.allocated)


def install(monkeypatch: pytest.MonkeyPatch, cuda: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
