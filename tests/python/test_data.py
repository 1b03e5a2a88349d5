"""CacheManager and CachedDataset: memory and disk, read-only and private, workers, refusals."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfopt.data import CachedDataset, CacheManager


@pytest.mark.spec("S3-19")
def test_manager_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    manager = CacheManager(disk_cache_gb=10.0, enable_disk_cache=True)
    assert manager.get("frame_1") is None
    frame = np.arange(48.0).reshape(4, 4, 3)
    manager.put("frame_1", frame, to_disk=True)
    np.testing.assert_array_equal(manager.get("frame_1", use_disk=True), frame)
    assert Path(str(manager.cache_dir)).is_relative_to(tmp_path)
    manager.close()
    again = CacheManager()
    assert again.get("frame_1", use_disk=False) is None
    np.testing.assert_array_equal(again.get("frame_1"), frame)
    np.testing.assert_array_equal(again.get("frame_1", use_disk=False), frame), "a value found on disk stays in memory"
    assert again.get_stats()["disk"]["hits"] == 1


@pytest.mark.spec("S3-19")
def test_manager_without_disk_makes_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    manager = CacheManager(enable_disk_cache=False)
    manager.put("a", 1)
    assert manager.get("a") == 1
    assert manager.cache_dir is None
    assert manager.get_stats()["disk"] is None
    manager.close()
    assert list(tmp_path.iterdir()) == []


def test_manager_never_gives_an_older_value(tmp_path: Path) -> None:
    with CacheManager(cache_dir=tmp_path / "c", memory_entries=1) as manager:
        manager.put("a", "old")
        manager.put("a", "new", to_disk=False)
        manager.put("b", 2)
        assert manager.get("a") is None
        assert manager.get("b") == 2
        assert manager.delete("b")
        assert not manager.delete("b")
        manager.put("c", None)
        assert manager.get("c") is None
        manager.clear()
        assert manager.get("b") is None


def test_manager_keeps_its_bound(tmp_path: Path) -> None:
    with CacheManager(disk_cache_gb=0.002, cache_dir=tmp_path / "c", memory_entries=0) as manager:
        for index in range(40):
            manager.put(index, np.random.default_rng(index).bytes(100_000))
        found = [index for index in range(40) if manager.get(index) is not None]
    assert 39 in found
    assert 0 not in found
    assert sum(path.stat().st_size for path in (tmp_path / "c").rglob("*") if path.is_file()) <= 2_000_000


def test_manager_refuses(tmp_path: Path) -> None:
    for bad, error in (
        (0, ValueError),
        (-1.0, ValueError),
        (float("nan"), ValueError),
        ("10", TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="disk_cache_gb"):
            CacheManager(bad, cache_dir=tmp_path / "c")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="enable_disk_cache"):
        CacheManager(1.0, 1)  # type: ignore[arg-type]
    with CacheManager(cache_dir=tmp_path / "c") as manager:
        with pytest.raises(TypeError):
            manager.put("a", object())
        assert manager.get("a") is None


class Squares:
    """A dataset that counts its reads."""

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        self.reads.append(index)
        return np.full(3, index * index), index


@pytest.mark.spec("S4-36")
def test_dataset_reads_an_item_once_and_evicts_nothing() -> None:
    inner = Squares()
    cached = CachedDataset(inner, cache_size=4)
    assert len(cached) == 10
    for _ in range(3):
        for index in range(10):
            values, label = cached[index]
            assert (values.tolist(), label) == ([index * index] * 3, index)
    assert inner.reads == [*range(10), *range(4, 10), *range(4, 10)]
    assert CachedDataset(inner).cache_size == 1000
    with pytest.raises(IndexError):
        cached[10]
    assert [label for _, label in cached] == list(range(10)), "iteration by index ends at IndexError"
    cached.clear()
    inner.reads.clear()
    cached[0]
    assert inner.reads == [0]


def test_dataset_hands_out_private_items() -> None:
    cached = CachedDataset(Squares())
    for _ in range(3):
        values, _ = cached[np.int64(3)]
        assert values.tolist() == [9, 9, 9]
        values[:] = -1
    shared = CachedDataset(Squares(), copy=False)
    assert shared[3][0] is shared[3][0]
    with pytest.raises(ValueError, match="read-only"):
        shared[3][0][:] = 1


def test_dataset_transform_is_drawn_anew() -> None:
    dice = random.Random(0)
    cached = CachedDataset(Squares(), transform=lambda item: (item[0] + dice.random(), item[1]))
    assert len({float(cached[2][0][0]) for _ in range(5)}) == 5
    assert len(cached.dataset.reads) == 1


def test_dataset_with_a_policy_evicts() -> None:
    inner = Squares()
    cached = CachedDataset(inner, cache_size=2, policy="lru")
    for index in (0, 1, 2, 2, 1, 0):
        cached[index]
    assert inner.reads == [0, 1, 2, 0]


def test_dataset_persists_by_name(tmp_path: Path) -> None:
    first, second, other = Squares(), Squares(), Squares()
    for inner, name in ((first, "squares 1"), (second, "squares 1"), (other, "squares 2")):
        cached = CachedDataset(inner, 3, persist=True, cache_dir=tmp_path / "c", name=name)
        assert [cached[index][0][0] for index in range(10)] == [index * index for index in range(10)]
    assert (len(first.reads), len(second.reads), len(other.reads)) == (10, 0, 10)


def test_dataset_is_pickled_without_its_items() -> None:
    cached = CachedDataset(Squares())
    cached[1]
    again = pickle.loads(pickle.dumps(cached))
    assert again[1][1] == 1
    assert again.dataset.reads == [1, 1], "it came with an empty cache and read the item again"


def test_dataset_refuses(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"dataset must have __getitem__.*int"):
        CachedDataset(5)
    with pytest.raises(ValueError, match="cache_size must be at least 0"):
        CachedDataset(Squares(), -1)
    with pytest.raises(TypeError, match="transform"):
        CachedDataset(Squares(), transform=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="copy"):
        CachedDataset(Squares(), copy=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cache_dir"):
        CachedDataset(Squares(), persist=True, name="a")
    with pytest.raises(ValueError, match="name"):
        CachedDataset(Squares(), persist=True, cache_dir=tmp_path / "c")
    assert not (tmp_path / "c").exists()
