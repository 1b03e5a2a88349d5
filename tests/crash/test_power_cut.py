"""A power cut in small: what was written but not synced is lost, torn or there, in any mixture; a value read is right or missing.

The shim records every change of a session: data with its place, names, syncs, and stores through shared maps, found by
comparison. From that record the states are rebuilt that a file system may leave: data since the last fsync of a file is kept,
lost, or torn (pages and sectors of one write arrive each for itself); the length may be there without the data; changes of
names since the last fsync of a directory arrive in order up to a random point. (Pillai et al., "All File Systems Are Not
Created Equal", OSDI 2014, in its simplest form.)
"""

from __future__ import annotations

import random
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PAGE = 4096
RECORD = struct.Struct("=16sQqIIQ")


class Change(NamedTuple):
    what: str
    inode: int
    offset: int
    path: str
    target: str
    data: bytes


def read_log(log: Path) -> list[Change]:
    raw, at, changes = log.read_bytes(), 0, []
    while at < len(raw):
        what, inode, offset, path_bytes, target_bytes, data_bytes = RECORD.unpack_from(raw, at)
        at += RECORD.size
        parts = []
        for length in (path_bytes, target_bytes, data_bytes):
            parts.append(raw[at : at + length])
            at += length
        name = what.rstrip(b"\0").decode()
        changes.append(Change(name, inode, offset, parts[0].decode(), parts[1].decode(), parts[2]))
    return changes


@dataclass
class File:
    """One file: what a power cut cannot take, and the changes since then, in order."""

    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[str, int, bytes]] = field(default_factory=list)

    def after_cut(self, dice: random.Random) -> bytes:
        """One of the contents that may be found after the cut."""
        content, fate = bytearray(self.synced), dice.choice(["all", "none", "mixed", "mixed"])
        for what, offset, data in self.unsynced:
            if fate == "none" or (fate == "mixed" and dice.random() < 0.4):
                if dice.random() < 0.5:  # the length was journaled, the data were not
                    _grow(content, offset + len(data))
                continue
            if what == "truncate":
                _resize(content, offset)
            elif fate == "all" or dice.random() < 0.6:
                _put(content, offset, data)
            else:
                _tear(content, offset, data, dice)
        return bytes(content)

    def sync(self) -> None:
        for what, offset, data in self.unsynced:
            if what == "truncate":
                _resize(self.synced, offset)
            else:
                _put(self.synced, offset, data)
        self.unsynced.clear()


def _grow(content: bytearray, length: int) -> None:
    content.extend(bytes(max(0, length - len(content))))


def _resize(content: bytearray, length: int) -> None:
    _grow(content, length)
    del content[length:]


def _put(content: bytearray, offset: int, data: bytes) -> None:
    _grow(content, offset + len(data))
    content[offset : offset + len(data)] = data


def _tear(content: bytearray, offset: int, data: bytes, dice: random.Random) -> None:
    """Page by page of the file a write arrives or does not; now and then a page is cut at a sector."""
    _grow(content, offset + len(data))
    at = 0
    while at < len(data):
        length = min(PAGE - (offset + at) % PAGE, len(data) - at)
        kept = dice.choice([0, length, length, dice.randrange(length // 512 + 1) * 512])
        content[offset + at : offset + at + kept] = data[at : at + kept]
        at += length


@dataclass
class Disk:
    """The recorded session up to some change: files by number, and names that are on the disk or only in memory."""

    root: str
    files: dict[int, File] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)  # synced; a folder is number 0
    unsynced: list[Change] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)  # of the file that has this inode now: inodes are used again
    acknowledged: int = 0

    def apply(self, change: Change) -> None:
        if change.what == "create" and change.target != "link":
            self.numbers.pop(change.inode, None)
        if change.what in ("create", "rename", "unlink", "mkdir"):
            number = self.number(change.inode) if change.what == "create" else 0
            self.unsynced.append(change._replace(inode=number))
        elif change.what in ("write", "truncate"):
            file = self.files[self.number(change.inode)]
            file.unsynced.append((change.what, change.offset, change.data))
        elif change.what == "sync":
            self.files[self.number(change.inode)].sync()
        elif change.what == "syncdir":
            _apply_names(self.names, self.unsynced)
            self.unsynced.clear()
        elif change.what == "note":
            self.acknowledged += change.data.count(b"\n")

    def number(self, inode: int) -> int:
        """The number of the file with this inode, a new one when there is none yet."""
        if inode not in self.numbers:
            self.numbers[inode] = len(self.files) + 1
            self.files[self.numbers[inode]] = File()
        return self.numbers[inode]

    def rebuild(self, target: Path, dice: random.Random) -> None:
        """Writes one state that the cut may leave below target."""
        names = dict(self.names)
        _apply_names(names, self.unsynced[: dice.choice([len(self.unsynced), dice.randint(0, len(self.unsynced))])])
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)
        contents: dict[int, bytes] = {}
        for path in sorted(names):
            place = target / path.removeprefix(self.root).lstrip("/")
            if names[path] == 0:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if names[path] not in contents:
                contents[names[path]] = self.files[names[path]].after_cut(dice)
            place.write_bytes(contents[names[path]])
            place.chmod(0o600)


def _apply_names(names: dict[str, int], changes: list[Change]) -> None:
    """Changes of names in their order; the inode of each is the file's number already."""
    for change in changes:
        if change.what in ("create", "mkdir"):
            names[change.path] = change.inode
        elif change.what == "rename":
            names[change.target] = names.pop(change.path)
        else:
            names.pop(change.path, None)


def possible_versions(commands: list[str]) -> dict[int, set[int]]:
    """Every version that a key ever had: after a power cut an entry may be missing or older, never another's or half a one."""
    versions: dict[int, set[int]] = {}
    for words in (command.split() for command in commands):
        if words[0] == "put":
            versions.setdefault(int(words[1]), set()).add(int(words[2]))
    return versions


@pytest.mark.parametrize("durability", ["process", "power"])
def test_power_cut(
    durability: str,
    full: bool,
    shim: Any,
    session: list[str],
    run_session: Any,
    driver: Any,
    new_model: Any,
    tmp_path: Path,
) -> None:
    options = ["durability=power"] if durability == "power" else []
    directory, log = tmp_path / "cache", tmp_path / "log"
    code, answers = run_session(directory, session, shim(directory, log=log), *options)
    assert code == 0
    changes = read_log(log)
    assert sum(change.what == "write" for change in changes) > 15, "the shim saw too little of the session"
    versions = possible_versions(session)
    dice, disk = random.Random(4), Disk(str(directory))
    (tmp_path / "boot").write_text("another start of the machine\n")
    checker = driver(tmp_path / "none", *options, environment=shim(tmp_path / "none", boot=tmp_path / "boot"))
    state, seen, older = tmp_path / "state", 0, 0
    step = 1 if full else max(1, len(changes) // 60)
    for number, change in enumerate(changes):
        disk.apply(change)
        if number % step:
            continue
        for _ in range(8 if full else 2):
            disk.rebuild(state, dice)
            assert checker.ask(f"use {state}") == "ok"
            if checker.ask("open") != "ok":
                raise AssertionError(f"after change {number} the cache cannot be opened")
            model = new_model()
            model.run(session, answers[: disk.acknowledged])
            for key, known in versions.items():
                version = checker.version(key)
                assert version is None or version in known, f"key {key}: {version} after change {number}"
                if durability == "power":
                    assert version in model.allowed.get(key, {None}), f"key {key}: {version} after change {number}"
                seen += version is not None
                older += version not in model.allowed.get(key, {None})
            assert checker.ask("put 77 1 40000") == "stored"
            assert checker.version(77) == 1
    assert seen > 0
    checker.close()
