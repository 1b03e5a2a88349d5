"""The disk tier beside diskcache, joblib.Memory and numpy.save. Peers at the settings that serve each load best.

All files lie in the page cache of one file system: these are the costs of the caches, not of a disk. Nobody syncs: perfopt is
durable against kill -9 by default, as its peers are.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfopt.cache import PerformanceCache

diskcache = pytest.importorskip("diskcache")
joblib = pytest.importorskip("joblib")

LARGE = 16_000_000  # float32: 64 MB
KEYS = 1000
LOAD = Path(__file__).with_name("mixed_load.py")


def disk_only(directory: Path) -> PerformanceCache:
    """A cache without a memory tier, so that every hit comes from disk."""
    return PerformanceCache(0, directory)


def large_array(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).random(LARGE, dtype=np.float32)


def test_small_hit(versus: Any, tmp_path: Path) -> None:
    ours = disk_only(tmp_path / "ours")
    theirs = diskcache.Cache(str(tmp_path / "theirs"))
    keys = [f"key {number}" for number in range(KEYS)]
    for key in keys:
        ours.set(key, bytes(100), True)
        theirs.set(key, bytes(100))
    assert ours.get(keys[0]) == theirs.get(keys[0])
    versus(
        f"{KEYS} disk hits, 100 bytes",
        ours={"perfopt.PerformanceCache.get": ("for k in keys: get(k)", {"get": ours.get, "keys": keys})},
        peers={"diskcache.Cache.get": ("for k in keys: get(k)", {"get": theirs.get, "keys": keys})},
        bars={"diskcache.Cache.get": ">=5x"},
    )


def test_small_miss(versus: Any, tmp_path: Path) -> None:
    ours, theirs = disk_only(tmp_path / "ours"), diskcache.Cache(str(tmp_path / "theirs"))
    ours.set("there", 1, True)
    theirs.set("there", 1)
    versus(
        "disk miss",
        ours={"perfopt.PerformanceCache.get": ("get('k')", {"get": ours.get})},
        peers={"diskcache.Cache.get": ("get('k')", {"get": theirs.get})},
    )


def test_small_set(versus: Any, tmp_path: Path) -> None:
    ours, theirs = disk_only(tmp_path / "ours"), diskcache.Cache(str(tmp_path / "theirs"))
    versus(
        "set of 100 bytes on disk",
        ours={"perfopt.PerformanceCache.set": ("put('k', v, True)", {"put": ours.set, "v": bytes(100)})},
        peers={"diskcache.Cache.set": ("put('k', v)", {"put": theirs.set, "v": bytes(100)})},
    )


def joblib_reader(directory: Path, mmap_mode: str | None, arrays: int) -> Callable[[int], Any]:
    """A function of joblib.Memory with its results stored; by number."""
    function = joblib.Memory(directory, mmap_mode=mmap_mode, verbose=0).cache(large_array)
    for number in range(arrays):
        function(number)
    return function


def test_large_hit_later(versus: Any, tmp_path: Path) -> None:
    ours, theirs = disk_only(tmp_path / "ours"), diskcache.Cache(str(tmp_path / "theirs"), size_limit=2**40)
    array = large_array()
    ours.set("a", array, True)
    theirs.set("a", array)
    memory = joblib_reader(tmp_path / "mapped", "r", 1)
    loading = joblib_reader(tmp_path / "loaded", None, 1)
    for get in (lambda: ours.get("a"), lambda: theirs.get("a"), lambda: memory(0), lambda: loading(0)):
        np.testing.assert_array_equal(get(), array)
    versus(
        "disk hit, 64 MB array, later touches, one element read",
        ours={"perfopt.PerformanceCache.get": lambda: ours.get("a")[-1]},
        peers={
            "diskcache.Cache.get": lambda: theirs.get("a")[-1],
            "joblib.Memory(mmap_mode='r')": lambda: memory(0)[-1],
            "joblib.Memory": lambda: loading(0)[-1],
        },
        bars={"diskcache.Cache.get": ">=100x", "joblib.Memory(mmap_mode='r')": ">=100x", "joblib.Memory": ">=100x"},
        rounds=15,
    )


def test_large_hit_first(versus: Any, tmp_path: Path) -> None:
    """Each call is the first touch of the file by its handle: the cache is opened anew, and perfopt checks all 64 MB."""
    array = large_array()
    disk_only(tmp_path / "ours").set("a", array, True)
    diskcache.Cache(str(tmp_path / "theirs"), size_limit=2**40).set("a", array)
    joblib_reader(tmp_path / "mapped", "r", 1)
    joblib_reader(tmp_path / "loaded", None, 1)

    def ours() -> Any:
        with disk_only(tmp_path / "ours") as cache:
            return cache.get("a")[-1]

    def theirs() -> Any:
        with diskcache.Cache(str(tmp_path / "theirs")) as cache:
            return cache.get("a")[-1]

    def mapped() -> Any:
        return joblib.Memory(tmp_path / "mapped", mmap_mode="r", verbose=0).cache(large_array)(0)[-1]

    def loaded() -> Any:
        return joblib.Memory(tmp_path / "loaded", verbose=0).cache(large_array)(0)[-1]

    versus(
        "disk hit, 64 MB array, first touch, one element read",
        ours={"perfopt.PerformanceCache (opens, checks every byte)": ours},
        peers={
            "diskcache.Cache (opens, copies)": theirs,
            "joblib.Memory(mmap_mode='r') (no check)": mapped,
            "joblib.Memory (copies)": loaded,
        },
        bars={
            "diskcache.Cache (opens, copies)": ">=8x",
            "joblib.Memory(mmap_mode='r') (no check)": ">=8x",
            "joblib.Memory (copies)": ">=8x",
        },
        rounds=15,
        note="joblib with mmap_mode reads none of the data and notices no damage; perfopt reads and checks all of it once",
    )


def test_large_set(versus: Any, tmp_path: Path) -> None:
    ours, theirs = disk_only(tmp_path / "ours"), diskcache.Cache(str(tmp_path / "theirs"), size_limit=2**40)
    array, file = large_array(), tmp_path / "plain.npy"

    def save_whole() -> None:
        """What a reader of the file may meet at any moment is a whole array, as with the caches."""
        np.save(tmp_path / "new.npy", array)
        (tmp_path / "new.npy").replace(tmp_path / "whole.npy")

    versus(
        "persistent set of a 64 MB array, replacing one",
        ours={"perfopt.PerformanceCache.set": lambda: ours.set("a", array, True)},
        peers={
            "numpy.save": lambda: np.save(file, array),
            "numpy.save of a new file, put in the old one's place": save_whole,
            "diskcache.Cache.set": lambda: theirs.set("a", array),
        },
        bars={"numpy.save": "<=1.6", "diskcache.Cache.set": ">=5x"},
        rounds=11,
        note="random floats, which no compressor makes smaller; perfopt's time has the checksum in it",
    )


def mixed_round(backend: str, directory: Path, processes: int = 4, operations: int = 5000) -> dict[str, float]:
    """Figures of one run: the median over its processes."""
    start = time.monotonic() + 2.5
    command = [sys.executable, str(LOAD), backend, str(directory)]
    crew = [
        subprocess.Popen([*command, str(seed), str(operations), str(start)], stdout=subprocess.PIPE, text=True)
        for seed in range(processes)
    ]
    figures = [json.loads(one.communicate()[0]) for one in crew]
    return {name: statistics.median(one[name] for one in figures) for name in figures[0]}


def test_mixed_load_of_four_processes(benchmark: Any, add_row: Any, tmp_path: Path) -> None:
    """Not through versus: latencies of single calls, in processes that run against each other."""
    backends = ("perfopt", "diskcache.Cache", "diskcache.FanoutCache")
    figures: dict[str, list[dict[str, float]]] = {backend: [] for backend in backends}
    turn = 0

    def one_round() -> None:
        nonlocal turn
        turn += 1
        for backend in backends[turn % 3 :] + backends[: turn % 3]:
            figures[backend].append(mixed_round(backend, tmp_path / backend))

    benchmark.pedantic(one_round, rounds=5, iterations=1, warmup_rounds=1)
    for name in ("get p50", "get p99", "set p50", "set p99"):
        seconds = {backend: [one[name] for one in figures[backend][1:]] for backend in backends}
        for peer in backends[1:]:
            add_row(
                f"4 processes, 9 get to 1 set, 1000 bytes: {name}",
                "perfopt.PerformanceCache",
                peer,
                seconds["perfopt"],
                seconds[peer],
                bar=">=5x" if name == "get p99" and peer == "diskcache.Cache" else None,
            )
