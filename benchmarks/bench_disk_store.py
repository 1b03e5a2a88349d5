"""Values on disk beside diskcache, joblib and numpy.save: small values, arrays read by mmap, and what a put costs.

Each candidate has a directory of its own on the same file system. Peers at their best settings: diskcache without
eviction, joblib with memory maps where it has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfopt._core import DiskStore

diskcache = pytest.importorskip("diskcache")
joblib = pytest.importorskip("joblib")

KEY = b"0123456789abcdef"
MEGABYTES = 64


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(str(tmp_path / "perfopt")) as opened:
        yield opened


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Any]:
    with diskcache.Cache(str(tmp_path / "diskcache"), eviction_policy="none", size_limit=1 << 40) as opened:
        yield opened


@pytest.fixture(scope="module")
def array() -> Any:
    return np.random.default_rng(0).standard_normal(MEGABYTES << 17)


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


def joblib_file(tmp_path: Path, array: Any) -> str:
    path = str(tmp_path / "array.joblib")
    joblib.dump(array, path)
    return path


def test_get_array_again(versus: Any, store: DiskStore, peer: Any, array: Any, tmp_path: Path) -> None:
    store.put(KEY, array)
    peer.set(KEY, array)
    path = joblib_file(tmp_path, array)
    assert np.array_equal(store.get(KEY), array)
    versus(
        f"disk hit, {MEGABYTES} MB array, later touches",
        ours={"perfopt.DiskStore.get": lambda: store.get(KEY)},
        peers={
            "diskcache.Cache.get": lambda: peer.get(KEY),
            "joblib.load": lambda: joblib.load(path),
            "joblib.load(mmap_mode='r')": lambda: joblib.load(path, mmap_mode="r"),
        },
        bars={"diskcache.Cache.get": ">=100x", "joblib.load": ">=100x"},
        rounds=9,
    )


def test_get_array_first(versus: Any, peer: Any, array: Any, tmp_path: Path) -> None:
    directory = str(tmp_path / "perfopt")
    with DiskStore(directory, compression="none") as store:
        store.put(KEY, array)
    peer.set(KEY, array)
    path = joblib_file(tmp_path, array)

    def first() -> Any:
        with DiskStore(directory) as store:
            return store.get(KEY)

    assert np.array_equal(first(), array)
    versus(
        f"disk hit, {MEGABYTES} MB array, first touch (opened anew, checked)",
        ours={"perfopt.DiskStore.get": first},
        peers={"diskcache.Cache.get": lambda: peer.get(KEY), "joblib.load": lambda: joblib.load(path)},
        bars={"diskcache.Cache.get": ">=8x", "joblib.load": ">=8x"},
        rounds=9,
    )


def test_put_array(versus: Any, store: DiskStore, peer: Any, array: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "array.npy")
    versus(
        f"disk put, {MEGABYTES} MB array",
        ours={"perfopt.DiskStore.put": lambda: store.put(KEY, array)},
        peers={
            "numpy.save": lambda: np.save(path, array),
            "diskcache.Cache.set": lambda: peer.set(KEY, array),
            "joblib.dump": lambda: joblib.dump(array, str(tmp_path / "array.joblib")),
        },
        bars={"numpy.save": "<=1.6", "diskcache.Cache.set": ">=5x"},
        rounds=9,
        note="checksum included",
    )
