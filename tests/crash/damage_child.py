"""Damages a small cache in every way and reads it through PerformanceCache; run by test_damage.py in a process of its own.

Usage: damage_child.py WHOLE WORK STEP: WHOLE is made, WORK is where its damaged copies lie; of bytes and lengths every STEP-th is
tried. The last line says how many states were read; before it, what was wrong.

Each state is files of their own and a cache of its own, so that nothing is known of them from before; that this is one process
and only files are written anew makes the full proof a matter of minutes.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perfopt import PerformanceCache

VALUES: dict[Any, Any] = {
    "number": 12345678901234567890,
    "text": "some text" * 20,
    ("tuple", 1): (1, 2.5, None, True, b"bytes"),
    "small array": np.arange(10.0),
    "large array": np.random.default_rng(0).random(5000),
    "mapping": {"a": [1, 2, 3], "b": np.ones(3, dtype=np.float32)},
}
try:
    import pyarrow as pa
except ImportError:
    pass
else:  # no frame: to make one takes longer than to read all the rest (tests/python/test_codec_tables.py damages those)
    VALUES["table"] = pa.table({"a": [[1], None], "b": ["x", "yz"]})
DEFAULT = object()
Files = dict[Path, bytes]


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return isinstance(found, np.ndarray) and found.dtype == expected.dtype and np.array_equal(found, expected)
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], expected[key]) for key in expected)
        )
    if type(found) is not type(expected):
        return False
    return bool(found == expected)


def make(whole: Path) -> None:
    with PerformanceCache(100, whole) as cache:
        for key, value in VALUES.items():
            cache.set(key, value, persist=True)


def read(work: Path) -> tuple[int, int]:
    """(keys missing, corrupt counted); raises for a value that is there and wrong."""
    missing = 0
    with PerformanceCache(100, work) as cache:
        for key, expected in VALUES.items():
            found = cache.get(key, DEFAULT)
            if found is DEFAULT:
                missing += 1
            elif not same(found, expected):
                raise AssertionError(f"{key!r}: {found!r}")
        cache.set("afterwards", 1, persist=True)
        if cache.get("afterwards") != 1:
            raise AssertionError("nothing can be stored afterwards")
        return missing, cache.get_stats()["corrupt_entries"]


def lay_out(work: Path, files: Files) -> None:
    """Makes work hold exactly these files, each of them new. Folders stay, as far as they do not get in the way."""
    for path in [path for path in work.rglob("*") if not path.is_dir()]:
        path.unlink()
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)


def damages(content: bytes, step: int) -> Iterator[tuple[str, bytes]]:
    for position in range(0, len(content), step):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        yield f"bit {position % 8} of byte {position}", bytes(damaged)
    for length in range(0, len(content), step):
        yield f"cut to {length}", content[:length]


def problem(work: Path, file: Path, what: str) -> str | None:
    """What is wrong with how this damage was met."""
    try:
        missing, corrupt = read(work)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if file.suffix == ".npy" and not (missing and corrupt):
        return "not noticed"
    if missing and not corrupt and what.startswith("bit") and file.name != "format":
        return f"{missing} missing, not counted"
    return None


def main() -> None:
    warnings.simplefilter("error")
    os.umask(0o077)
    whole, work, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    make(whole)
    files = {path.relative_to(whole): path.read_bytes() for path in sorted(whole.rglob("*")) if path.is_file()}
    states = 0
    for file, content in files.items():
        for what, damaged in damages(content, step):
            lay_out(work, {**files, file: damaged})
            wrong = problem(work, file, what)
            if wrong is not None:
                print(f"WRONG {file}: {what}: {wrong}", flush=True)
            states += 1
    print(f"read {states} states")


if __name__ == "__main__":
    main()
