"""Damages a small cache in every way and reads it through PerformanceCache; run by test_damage.py in a process of its own.

Usage: damage_child.py WHOLE WORK STEP: WHOLE is made when it is missing; of bytes and lengths every STEP-th is tried. The last
line says how many states were read; before it, what was wrong.
"""

from __future__ import annotations

import shutil
import sys
import warnings
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
DEFAULT = object()


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return isinstance(found, np.ndarray) and found.dtype == expected.dtype and np.array_equal(found, expected)
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], expected[key]) for key in expected)
        )
    return type(found) is type(expected) and bool(found == expected)


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


def main() -> None:
    warnings.simplefilter("error")
    whole, work, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    if not whole.exists():
        with PerformanceCache(100, whole) as cache:
            for key, value in VALUES.items():
                cache.set(key, value, persist=True)
    states = 0
    for file in sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        content = (whole / file).read_bytes()
        flips = [
            (f"bit {position % 8} of byte {position}", flip(content, position))
            for position in range(0, len(content), step)
        ]
        cuts = [(f"cut to {length}", content[:length]) for length in range(0, len(content), step)]
        for what, damaged in flips + cuts:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(whole, work)
            (work / file).write_bytes(damaged)
            try:
                missing, corrupt = read(work)
                if file.suffix == ".npy" and not (missing and corrupt):
                    print(f"WRONG {file}: {what}: not noticed")
                elif missing and not corrupt and what.startswith("bit") and file.name != "format":
                    print(f"WRONG {file}: {what}: {missing} missing, not counted")
            except Exception as error:
                print(f"WRONG {file}: {what}: {type(error).__name__}: {error}", flush=True)
            states += 1
    print(f"read {states} states")


def flip(content: bytes, position: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 1 << (position % 8)
    return bytes(damaged)


if __name__ == "__main__":
    main()
