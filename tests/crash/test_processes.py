"""PerformanceCache in many processes and hostile places: fork, spawn, pools, read-only and full disks, a directory deleted."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

START = """
import os, subprocess, sys, warnings
import numpy as np
from perfopt import PerformanceCache
directory = sys.argv[1]

def array_of(number, size=6000):
    return np.full(size, float(number))
"""

POOL = (
    START
    + """
import multiprocessing

def work(number):
    cache = CACHE if CACHE is not None else PerformanceCache(10, directory)
    for step in range(20):
        key = (number * 7 + step) % 50
        found = cache.get(key)
        assert found is None or (found == array_of(key)).all()
        cache.set(key, array_of(key), persist=True)
        assert (cache.get(key) == array_of(key)).all()
    return os.getpid()

CACHE = None
if __name__ == "__main__":
    method = sys.argv[2]
    if sys.argv[3] == "before":
        CACHE = PerformanceCache(10, directory)
        CACHE.set("parent", "value", persist=True)
        CACHE.get(3)
    with multiprocessing.get_context(method).Pool(4) as pool:
        pool.map(work, range(30), chunksize=1)
    cache = CACHE if CACHE is not None else PerformanceCache(10, directory)
    for key in range(50):
        assert (cache.get(key) == array_of(key)).all(), key
    if CACHE is not None:
        assert PerformanceCache(10, directory).get("parent") == "value"
    assert cache.get_stats()["corrupt_entries"] == 0
    report = cache.verify()
    assert report["damaged"] == 0, report
    print("good")
"""
)


def good(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    assert done.stdout.splitlines()[-1] == "good"


@pytest.mark.spec("S0-12", "S0-16")
@pytest.mark.parametrize("method", ["fork before", "fork after", "spawn after", "forkserver after"])
def test_pools(method: str, run_python: Any, tmp_path: Path) -> None:
    """The start method, and whether the cache is opened before the workers start or in each of them."""
    good(run_python(POOL, str(tmp_path / "cache"), *method.split()))


def test_two_caches_on_one_directory(run_python: Any, tmp_path: Path) -> None:
    code = (
        START
        + """
one, two = PerformanceCache(10, directory), PerformanceCache(10, directory)
one.set("a", array_of(1), persist=True)
assert (two.get("a") == array_of(1)).all()
one.set("b", 1, persist=True)
assert two.get("b") == 1
one.delete("c")
two.set("c", 5, persist=True)
assert one.get("c") == 5
one.clear()
assert PerformanceCache(10, directory).get("a") is None
one.set("d", "after", persist=True)
assert PerformanceCache(10, directory).get("d") == "after"
print("good")
"""
    )
    good(run_python(code, str(tmp_path / "cache")))


def test_values_outlive_their_cache_and_its_files(run_python: Any, tmp_path: Path) -> None:
    code = (
        START
        + """
import gc
with PerformanceCache(0, directory) as cache:
    cache.set("a", array_of(7, 100_000), persist=True)
    found = cache.get("a")
    cache.delete("a")
    cache.set("a", array_of(8, 100_000), persist=True)
    cache.clear()
del cache
gc.collect()
assert (found == 7).all() and len(found) == 100_000
print("good")
"""
    )
    good(run_python(code, str(tmp_path / "cache")))


FULL = (
    START
    + """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cache = PerformanceCache(1000, directory, compression="none")
    for number in range(60):
        cache.set(number, array_of(number, 20_000), persist=True)
        assert (cache.get(number) == number).all(), "the value is returned all the same"
    assert cache.get_or_compute("computed", lambda: 3) == 3
stats = cache.get_stats()
assert stats["write_failures"] > 0, stats
told = [str(one.message) for one in caught if one.category is RuntimeWarning]
assert len(told) == 1, told
assert directory in told[0], told
cache.close()
if len(sys.argv) > 2:  # room again, so it works again
    subprocess.run(["mount", "-o", "remount,size=6m", directory], check=True)
fresh = PerformanceCache(1000, directory)
there = [number for number in range(60) if fresh.get(number) is not None]
assert all((fresh.get(number) == number).all() for number in there)
fresh.set("room", array_of(1), persist=True)
assert (PerformanceCache(10, directory).get("room") == 1).all()
fresh.clear()
assert PerformanceCache(10, directory).get("room") is None
print(len(there))
print("good")
"""
)


def after_mounts(commands: str) -> list[str]:
    """The words that run a command after mounts in a mount namespace of its own; skips where that is not permitted."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("unshare and mount are not here")
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    words = [*namespace, "sh", "-c", commands + ' && exec "$0" "$@"']
    tried = subprocess.run([*words, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {tried.stderr.strip()}")
    return words


def test_full_disk(run_python: Any, tmp_path: Path) -> None:
    directory = tmp_path / "full"
    directory.mkdir()
    mounted = after_mounts(f"mount -t tmpfs -o size=3m tmpfs '{directory}'")
    done = run_python(FULL, str(directory), "remount", before=mounted)
    good(done)
    assert int(done.stdout.splitlines()[-2]) > 5, "what had room was kept"


def test_full_disk_by_a_shim(shim: Any, run_python: Any, tmp_path: Path) -> None:
    """Nothing at all can be written from the start."""
    code = FULL[: FULL.index("cache.close()")] + 'print("good")\n'
    only = "write,ftruncate,fallocate,rename,link"
    environment = shim(tmp_path / "cache", fail=12, how="enospc+", only=only)
    good(run_python(code, str(tmp_path / "cache"), environment=environment))


def test_size_limit_of_files(run_python: Any, tmp_path: Path) -> None:
    code = (
        START
        + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cache = PerformanceCache(100, directory, compression="none")
    for number in range(5):
        cache.set(number, array_of(number, 50_000), persist=True)
        assert (cache.get(number) == number).all()
assert cache.get_stats()["write_failures"] == 5
assert len(caught) == 1, [str(one.message) for one in caught]
print("good")
"""
    )
    good(run_python(code, str(tmp_path / "cache")))


def test_no_descriptors_left(run_python: Any, tmp_path: Path) -> None:
    code = (
        START
        + """
import resource
cache = PerformanceCache(0, directory)
cache.set("a", array_of(1), persist=True)
warnings.simplefilter("ignore")
kept, limit = [], resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
try:
    while True:
        kept.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
found = cache.get("a", "default")
assert isinstance(found, str) or (found == 1).all()
cache.set("b", array_of(2), persist=True)
for one in kept:
    os.close(one)
resource.setrlimit(resource.RLIMIT_NOFILE, limit)
assert (cache.get("a") == 1).all()
cache.set("c", array_of(3), persist=True)
assert (cache.get("c") == 3).all()
assert cache.get_stats()["corrupt_entries"] == 0
print("good")
"""
    )
    good(run_python(code, str(tmp_path / "cache")))


READ_ONLY = (
    START
    + """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cache = PerformanceCache(10, directory)
    assert (cache.get("array") == array_of(3)).all()
    assert cache.get("small") == "text"
    assert cache.get("missing") is None
    for number in range(3):
        cache.set(number, number, persist=True)
        assert cache.get(number) == number
    assert cache.get_stats()["corrupt_entries"] == 0
assert cache.get_stats()["write_failures"] == 3, cache.get_stats()
assert [one.category for one in caught] == [RuntimeWarning], [str(one.message) for one in caught]
try:
    cache.delete("small")
except OSError:
    pass
else:
    raise AssertionError("the entry is still there, and delete() did not say so")
report = cache.verify()
assert (report["checked"], report["damaged"]) == (2, 0), report
print("good")
"""
)


def test_read_only_directory(run_python: Any, tmp_path: Path) -> None:
    from perfopt import PerformanceCache

    np = pytest.importorskip("numpy")
    directory = tmp_path / "cache"
    with PerformanceCache(10, directory) as cache:
        cache.set("array", np.full(6000, 3.0), persist=True)
        cache.set("small", "text", persist=True)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    if os.geteuid() == 0:  # permissions do not bind root; a read-only mount does
        mounted = after_mounts(f"mount --bind '{directory}' '{directory}' && mount -o remount,bind,ro '{directory}'")
        done = run_python(READ_ONLY, str(directory), before=mounted)
    else:
        for path in [directory, *directory.rglob("*")]:
            path.chmod(0o500 if path.is_dir() else 0o400)
        try:
            done = run_python(READ_ONLY, str(directory))
        finally:
            for path in [directory, *directory.rglob("*")]:
                path.chmod(0o700 if path.is_dir() else 0o600)
    good(done)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_directory_deleted_underneath(run_python: Any, tmp_path: Path) -> None:
    code = (
        START
        + """
import shutil
warnings.simplefilter("ignore")
cache = PerformanceCache(10, directory)
for number in range(5):
    cache.set(number, array_of(number), persist=True)
found = cache.get(2)
shutil.rmtree(directory)
assert (found == 2).all()
for number in range(5):
    value = cache.get(number)
    assert value is None or (value == number).all()
cache.set("later", array_of(9), persist=True)
assert (cache.get("later") == 9).all()
fresh = PerformanceCache(10, directory)
fresh.set("new", array_of(4), persist=True)
assert (PerformanceCache(10, directory).get("new") == 4).all()
assert fresh.get(1) is None
cache.close()
print("good")
"""
    )
    good(run_python(code, str(tmp_path / "cache")))


def test_what_is_in_the_way(run_python: Any, tmp_path: Path) -> None:
    """A file where the directory should be is an error that names it; nothing is overwritten."""
    (tmp_path / "file").write_text("mine")
    code = (
        START
        + """
try:
    PerformanceCache(10, directory)
except (OSError, ValueError) as error:
    assert directory in str(error), error
    print("good")
"""
    )
    good(run_python(code, str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "mine"


def test_directory_is_private(run_python: Any, tmp_path: Path) -> None:
    code = START + "PerformanceCache(1, directory).set(1, array_of(1), persist=True)\nprint('good')\n"
    good(run_python(code, str(tmp_path / "a" / "cache")))
    assert (tmp_path / "a" / "cache").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "a" / "cache").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


THREADS = (
    START
    + """
import threading
cache = PerformanceCache(20, directory, max_bytes=2_000_000, max_disk_bytes=3_000_000, compression="none")
wrong = []
def work(seed):
    dice = np.random.default_rng(seed)
    for _ in range(int(sys.argv[2])):
        key = int(dice.integers(60))
        found = cache.get(key)
        if found is not None and not (found == key).all():
            wrong.append(key)
        if dice.integers(2):
            cache.set(key, array_of(key, int(dice.integers(10, 20_000))), persist=True)
        stats = cache.get_stats()
        if stats["bytes"] > 2_000_000 or stats["memory_cache_size"] > 20:
            wrong.append(stats)
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert wrong == []
assert cache.get_stats()["corrupt_entries"] == 0
size = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(directory) for name in names)
assert size <= 3_000_000, size
print("good")
"""
)


def test_sixteen_threads(full: bool, run_python: Any, tmp_path: Path) -> None:
    good(run_python(THREADS, str(tmp_path / "cache"), "5000" if full else "60"))


SOAK = (
    START
    + """
from perfopt import _core
cache = PerformanceCache(500, directory, max_disk_bytes=20_000_000)
count = int(sys.argv[2])
sizes = []
for number in range(count):
    key = number * 7919 % 2003
    if number % 4 == 0:
        cache.set(key, b"x" * (key % 900), persist=number % 16 == 0)
    else:
        cache.get(key)
    if number in (count // 2, count - 1):
        sizes.append(_core.resident_bytes())
assert sizes[1] - sizes[0] < 6_000_000, sizes
print("good")
"""
)


@pytest.mark.timeout(3600)
def test_no_growth_of_memory(full: bool, run_python: Any, tmp_path: Path) -> None:
    good(run_python(SOAK, str(tmp_path / "cache"), str(10_000_000 if full else 200_000), timeout=3500))
