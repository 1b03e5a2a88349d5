"""One process of the mixed load: nine reads and one write in ten, on shared keys. Prints JSON: seconds, p50 and p99.

Usage: mixed_load.py BACKEND DIRECTORY SEED OPERATIONS START. It starts at START on the monotonic clock, with its siblings.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEYS = 1000


def open_cache(backend: str, directory: str) -> tuple[Callable[[int], Any], Callable[[int, bytes], Any]]:
    """(get, set) of a backend, at the settings that serve this load best."""
    if backend == "perfopt":
        from perfopt import PerformanceCache

        ours = PerformanceCache(0, Path(directory))
        return ours.get, lambda key, value: ours.set(key, value, True)
    import diskcache

    theirs: Any
    if backend == "diskcache.Cache":
        theirs = diskcache.Cache(directory, timeout=60)
    elif backend == "diskcache.FanoutCache":
        theirs = diskcache.FanoutCache(directory, shards=8, timeout=60)
    else:
        raise SystemExit(f"unknown backend {backend}")
    return theirs.get, theirs.set


def main() -> None:
    backend, directory, seed, operations, start = sys.argv[1:]
    dice = random.Random(int(seed))
    get, put = open_cache(backend, directory)
    plan = [(dice.randrange(KEYS), dice.randrange(10) == 0) for _ in range(int(operations))]
    value = dice.randbytes(1000)
    reads, writes = [], []
    while time.monotonic() < float(start):
        pass
    for key, writing in plan:
        begin = time.perf_counter()
        if writing:
            put(key, value)
            writes.append(time.perf_counter() - begin)
        else:
            get(key)
            reads.append(time.perf_counter() - begin)
    figures = {}
    for name, seconds in (("get", sorted(reads)), ("set", sorted(writes))):
        figures[f"{name} p50"] = seconds[len(seconds) // 2]
        figures[f"{name} p99"] = seconds[len(seconds) * 99 // 100]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
