"""The engine in whole processes: bound and values under threads and processes, fork, clock jumps, a soak, every byte damaged."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

MEGABYTE = 1_000_000


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("policy", ["lru", "fifo", "sieve"])
def test_threads_keep_bound_and_values(policy: str, full: bool, driver: Any, tmp_path: Path) -> None:
    one = driver(tmp_path / "cache", f"max_bytes={3 * MEGABYTE}", f"policy={policy}")
    counts = one.facts(f"threads 16 {20_000 if full else 300} 1500 300000")
    assert counts == {"started": 16, "wrong": 0, "over": 0}
    assert 0 < one.facts("stats")["bytes"] <= 3 * MEGABYTE
    assert on_disk(tmp_path / "cache") <= 3 * MEGABYTE
    assert one.facts("stats")["evictions"] > 0


def test_processes_keep_bound_and_values(full: bool, driver: Any, tmp_path: Path) -> None:
    """Eight processes of four threads each on the same keys of one directory."""
    crew = [driver(tmp_path / "cache", f"max_bytes={5 * MEGABYTE}") for _ in range(8)]
    answers: list[dict[str, int]] = []
    threads = [
        threading.Thread(
            target=lambda one=one: answers.append(one.facts(f"threads 4 {5000 if full else 150} 1500 300000"))
        )
        for one in crew
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"started": 4, "wrong": 0, "over": 0}] * 8
    assert on_disk(tmp_path / "cache") <= 5 * MEGABYTE
    for one in crew:
        assert one.facts("stats")["corrupt"] == 0
        one.close()
    last = driver(tmp_path / "cache", f"max_bytes={5 * MEGABYTE}")
    report = last.facts("verify 0")
    assert (report["damaged"], report["orphans"]) == (0, 0)


def test_fork_with_an_open_cache(driver: Any, tmp_path: Path) -> None:
    one = driver(tmp_path / "cache")
    assert one.ask("put 1000 1 50000") == "stored"
    for _ in range(3):
        assert one.facts("fork") == {"wrong": 0, "child": 0}
    assert one.version(1000) == 1
    one.close()


def test_wall_clock_jumps(driver: Any, tmp_path: Path) -> None:
    one, other = driver(tmp_path / "cache"), driver(tmp_path / "cache")
    assert one.ask("put 1 1 100 10") == "stored"
    assert one.ask("put 2 2 40000 10") == "stored"
    assert one.ask("put 3 3 100") == "stored"
    assert one.ask("clock -86400") == "ok"
    assert [one.version(key) for key in (1, 2, 3)] == [None, None, 3], "made in the future: its end cannot be trusted"
    assert one.ask("put 4 4 100 10") == "stored"
    assert one.version(4) == 4
    assert other.version(4) is None, "by the true clock it ended a day ago"
    assert one.ask("clock 86400") == "ok"
    assert [one.version(key) for key in (1, 2, 3, 4)] == [None, None, 3, None]
    assert other.version(3) == 3
    assert one.ask("clock 0") == "ok"
    assert one.ask("put 1 5 100") == "stored"
    assert (one.version(1), other.version(1)) == (5, 5)
    assert one.facts("stats")["corrupt"] == 0


def test_writable_memory_is_private(driver: Any, tmp_path: Path) -> None:
    one, other = driver(tmp_path / "cache"), driver(tmp_path / "cache")
    for key, size in ((1, 100), (2, 100_000)):
        assert one.ask(f"put {key} {key} {size}") == "stored"
        assert one.ask(f"get {key} w").startswith("value")
        assert one.version(key) == other.version(key) == key


def test_no_growth_of_memory(full: bool, driver: Any, tmp_path: Path) -> None:
    one = driver(tmp_path / "cache", f"max_bytes={20 * MEGABYTE}")
    facts = one.facts(f"soak {10_000_000 if full else 60_000} 2000 2000")
    assert facts["wrong"] == 0
    assert facts["after"] - facts["before"] < 4 * MEGABYTE


def test_few_descriptors(driver: Any, tmp_path: Path) -> None:
    """A cache of many files holds on to few of them."""
    one = driver(tmp_path / "cache")
    before = int(one.ask("descriptors").split()[1])
    for key in range(60):
        assert one.ask(f"put {key} 1 40000") == "stored"
        assert one.version(key) == 1
    assert int(one.ask("descriptors").split()[1]) - before <= 8


def test_an_older_and_a_damaged_process_meet_a_deleted_directory(driver: Any, tmp_path: Path) -> None:
    one = driver(tmp_path / "cache")
    for key in range(10):
        assert one.ask(f"put {key} 1 {5000 * key + 100}") == "stored"
    shutil.rmtree(tmp_path / "cache")
    for key in range(10):
        assert one.version(key) in (None, 1)
    answer = one.ask("put 20 1 50000")
    assert answer == "stored" or answer.startswith("failed")
    fresh = driver(tmp_path / "cache")
    assert fresh.ask("put 21 1 50000") == "stored"
    assert fresh.version(21) == 1
    assert fresh.version(1) is None
    one.ask("close")
    assert one.ask("open") == "ok"
    assert one.version(21) == 1


class Damage:
    """A small closed cache whose files are damaged one way after another."""

    def __init__(self, driver: Any, folder: Path, *options: str) -> None:
        self.whole, self.work = folder / "whole", folder / "work"
        self.versions = {1: 1, 2: 2, 3: 30, 4: 5}  # odd ones are compressed
        maker = driver(self.whole, *options)
        for (key, version), size in zip(self.versions.items(), (40, 700, 33_000, 9000), strict=True):
            assert maker.ask(f"put {key} {version} {size}") == "stored"
        maker.close()
        self.checker = driver(self.work, *options)
        self.files = sorted(path.relative_to(self.whole) for path in self.whole.rglob("*") if path.is_file())

    def read(self, file: Path, content: bytes) -> tuple[int, int]:
        """(values that are missing, corrupt counted) when file has that content; anything that is found must be right."""
        assert self.checker.ask(f"use {self.work}") == "ok"
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.whole, self.work)
        (self.work / file).write_bytes(content)
        assert self.checker.ask("open") == "ok"
        missing = 0
        for key, version in self.versions.items():
            found = self.checker.version(key)
            assert found in (version, None), f"{file}: key {key} is version {found}"
            missing += found is None
        corrupt = self.checker.facts("stats")["corrupt"]
        assert self.checker.ask("put 9 9 50") == "stored"
        assert self.checker.version(9) == 9
        return missing, corrupt


def positions(length: int, full: bool, most: int) -> list[int]:
    """Every byte in the full proof; else the first 200 and a sample of the rest."""
    if full or length <= most:
        return list(range(length))
    return [*range(200), *range(200, length, max(1, length // (most - 200)))]


def test_every_byte_flipped(full: bool, driver: Any, tmp_path: Path) -> None:
    damage = Damage(driver, tmp_path)
    for file in damage.files:
        content = (damage.whole / file).read_bytes()
        for position in positions(len(content), full, 400):
            bad = bytearray(content)
            bad[position] ^= 1 << (position % 8)
            missing, corrupt = damage.read(file, bytes(bad))
            if file.suffix == ".bin":
                assert (missing, corrupt > 0) == (1, True), f"{file}: byte {position} of a payload was not noticed"
            if file.name != "format":
                assert corrupt > 0 or missing == 0, f"{file}: byte {position}: {missing} missing, none counted"
    assert any(file.suffix == ".bin" for file in damage.files)


def test_every_truncation(full: bool, driver: Any, tmp_path: Path) -> None:
    damage = Damage(driver, tmp_path)
    for file in damage.files:
        content = (damage.whole / file).read_bytes()
        for length in positions(len(content), full, 300):
            missing, _ = damage.read(file, content[:length])
            assert file.suffix != ".bin" or missing == 1, f"{file}: cut to {length} and not noticed"


def test_files_missing_or_strange(driver: Any, tmp_path: Path) -> None:
    damage = Damage(driver, tmp_path)
    for file in damage.files:
        content = (damage.whole / file).read_bytes()
        for other in (b"", bytes(len(content)), os.urandom(len(content)), content + bytes(4096), content * 2):
            damage.read(file, other)
        assert damage.checker.ask(f"use {damage.work}") == "ok"
        shutil.rmtree(damage.work)
        shutil.copytree(damage.whole, damage.work)
        (damage.work / file).unlink()
        assert damage.checker.ask("open") == "ok"
        for key, version in damage.versions.items():
            assert damage.checker.version(key) in (version, None)
