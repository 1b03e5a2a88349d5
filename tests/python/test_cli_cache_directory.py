"""``perfopt cache stats|ls|verify|clear`` on directories that hold a cache, a damaged one, none, and one of a later time."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from perfopt import PerformanceCache
from perfopt.cli import main


def run(*arguments: Any, **settings: Any) -> Result:
    return CliRunner().invoke(main, ["cache", *map(str, arguments)], **settings)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A cache of three entries: a small one, an array in a file of its own, and one that expires."""
    with PerformanceCache(10, tmp_path / "cache") as cache:
        cache.set("small", "text", True)
        cache.set("array", np.random.default_rng(0).random(20_000), True)
        cache.set("expiring", 7, True, ttl=1000)
    return tmp_path / "cache"


def largest_file(directory: Path) -> Path:
    return max((path for path in directory.rglob("*.npy") if path.is_file()), key=lambda path: path.stat().st_size)


def test_stats(directory: Path) -> None:
    facts = json.loads(run("stats", directory, "--json").output)
    assert facts["entries"] == 3
    assert facts["payload_files"] == 1
    assert 160_000 < facts["bytes"] < 2_000_000
    assert facts["directory"] == str(directory)
    text = run("stats", directory).output
    assert "entries\t3\n" in text
    assert "payload files\t1\n" in text


def test_ls_sorts_and_limits(directory: Path) -> None:
    entries = json.loads(run("ls", directory, "--json").output)
    assert len(entries) == 3
    assert [entry["label"] for entry in entries] == sorted(entry["label"] for entry in entries)
    array = next(entry for entry in entries if "array" in entry["label"])
    assert array["is_file"]
    assert array["payload_bytes"] >= 160_000
    assert len(bytes.fromhex(array["key"])) == 16
    assert sum(entry["expires_ns"] != 0 for entry in entries) == 1
    by_size = json.loads(run("ls", directory, "--sort", "size", "--limit", "1", "--json").output)
    assert by_size == [array]
    by_age = [entry["label"] for entry in json.loads(run("ls", directory, "--sort", "age", "--json").output)]
    for position, name in enumerate(("small", "array", "expiring")):
        assert name in by_age[position]
    lines = run("ls", directory, "--sort", "size").output.splitlines()
    assert len(lines) == 3
    assert lines[0].split("\t")[0] == array["label"]
    assert lines[0].split("\t")[4] == "never"
    assert run("ls", directory, "--limit", "0").exit_code == 2


def test_verify_finds_and_repairs_damage(directory: Path) -> None:
    good = run("verify", directory, "--json")
    assert good.exit_code == 0
    assert json.loads(good.output)["checked"] == 3
    assert json.loads(good.output)["damaged"] == 0
    file = largest_file(directory)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    bad = run("verify", directory)
    assert bad.exit_code == 1
    assert "damaged\t1\n" in bad.output
    assert run("verify", directory).exit_code == 1, "without --repair nothing changes"
    repaired = run("verify", directory, "--repair", "--json")
    assert repaired.exit_code == 0
    assert json.loads(repaired.output)["repaired"] >= 1
    again = run("verify", directory, "--json")
    assert again.exit_code == 0
    assert (json.loads(again.output)["checked"], json.loads(again.output)["damaged"]) == (2, 0)


def test_clear_asks_first(directory: Path) -> None:
    refused = run("clear", directory, input="n\n")
    assert refused.exit_code == 1
    assert run("clear", directory).exit_code == 1, "no answer is no"
    assert json.loads(run("stats", directory, "--json").output)["entries"] == 3
    assert run("clear", directory, input="y\n").exit_code == 0
    assert json.loads(run("stats", directory, "--json").output)["entries"] == 0
    done = run("clear", directory, "--yes", "--json")
    assert json.loads(done.output) == {"directory": str(directory), "removed": 0}
    assert PerformanceCache(10, directory).get("small") is None


@pytest.mark.parametrize("command", ["stats", "ls", "verify", "clear"])
def test_what_is_no_cache_is_refused_and_left_alone(command: str, tmp_path: Path) -> None:
    missing = run(command, tmp_path / "missing")
    assert (missing.exit_code, missing.output) == (1, f"Error: {tmp_path / 'missing'} does not exist\n")
    assert not (tmp_path / "missing").exists()
    (tmp_path / "file").write_text("text")
    assert "is no directory" in run(command, tmp_path / "file").output
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    refused = run(command, other)
    assert refused.exit_code == 1
    assert refused.output.startswith(f"Error: {other}: ")
    assert len(refused.output.splitlines()) == 1
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("command", ["stats", "ls", "verify", "clear"])
def test_a_newer_format_is_refused_with_its_number(command: str, directory: Path) -> None:
    header = directory / "format"
    content = bytearray(header.read_bytes())
    (version,) = struct.unpack_from("=I", content, 8)
    struct.pack_into("=II", content, 8, version + 1, ~(version + 1) & 0xFFFFFFFF)
    header.write_bytes(content)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    refused = run(command, directory)
    assert refused.exit_code == 1
    assert str(version + 1) in refused.output
    assert "newer" in refused.output
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
