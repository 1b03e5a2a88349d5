"""Small values on disk by 16-byte key, without the memory tier and without keys to build: the cost of binding and codec.

Beside diskcache without eviction, each in a directory of its own on one file system. bench_disk_cache.py has the whole cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perfopt._core import DiskStore

diskcache = pytest.importorskip("diskcache")

KEY = b"0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(str(tmp_path / "perfopt")) as opened:
        yield opened


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Any]:
    with diskcache.Cache(str(tmp_path / "diskcache"), eviction_policy="none", size_limit=1 << 40) as opened:
        yield opened


VALUES = {"str of 100": "x" * 100, "bytes of 100": os.urandom(100), "int": 12345, "float": 1.5}


@pytest.mark.parametrize("label", VALUES)
def test_get_small(versus: Any, store: DiskStore, peer: Any, label: str) -> None:
    store.put(KEY, VALUES[label])
    peer.set(KEY, VALUES[label])
    versus(
        f"disk hit, {label}",
        ours={"perfopt.DiskStore.get": ("get(key)", {"get": store.get, "key": KEY})},
        peers={"diskcache.Cache.get": ("get(key)", {"get": peer.get, "key": KEY})},
        bars={"diskcache.Cache.get": ">=5x"},
    )


def test_get_structured(versus: Any, store: DiskStore, peer: Any) -> None:
    value = {"loss": 0.25, "shape": (3, 4), "tags": ["a", "b"], "step": 7}
    store.put(KEY, value)
    peer.set(KEY, value)
    versus(
        "disk hit, small dict with a tuple (peer: pickle)",
        ours={"perfopt.DiskStore.get": ("get(key)", {"get": store.get, "key": KEY})},
        peers={"diskcache.Cache.get": ("get(key)", {"get": peer.get, "key": KEY})},
    )


def test_put_small(versus: Any, store: DiskStore, peer: Any) -> None:
    versus(
        "disk put, str of 100, one key again and again",
        ours={"perfopt.DiskStore.put": ("put(key, value)", {"put": store.put, "key": KEY, "value": "x" * 100})},
        peers={"diskcache.Cache.set": ("put(key, value)", {"put": peer.set, "key": KEY, "value": "x" * 100})},
    )
