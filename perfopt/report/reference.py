"""How fast the machine is while a report is made: two fixed loops, timed, so that a slower machine can be told from slower code.

One loop keeps the interpreter busy (integer arithmetic: processor frequency, a busy sibling thread, the interpreter's own
build), the other the memory (copies of 2 MiB). Each is repeated :data:`REPETITIONS` times, all in 2 to 3 ms where nothing else
runs. What is kept is the fastest repetition, which interruptions touch least, and the third quartile, which tells how far the
machine's speed moved while it was looked at. Threads: may be called from any; other Python threads show as a wide range.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from perfopt.report.document import Reference, Timing

__all__ = ["LOOPS", "REPETITIONS", "measure"]

LOOPS = 1  # number of the loops below; readings of different ones cannot be compared
REPETITIONS = 16
_STEPS = 1500
_BYTES = 2 << 20


def _interpret() -> int:
    """A linear congruential generator (the constants are of no importance), in integers that need one digit."""
    state = total = 1
    for _ in range(_STEPS):
        state = (state * 1103 + 12345) & 0xFFFF
        total = (total + state) & 0xFFFF
    return total


def measure() -> Reference:
    """Times the loops, here and now."""
    begin = time.perf_counter_ns()
    source, target = (
        memoryview(bytearray(b"\1") * _BYTES) for _ in range(2)
    )  # memory of its own, not the kernel's zeros

    def copy() -> None:
        target[:] = source

    interpreter, memory = _timing(_interpret), _timing(copy)
    cost = (time.perf_counter_ns() - begin) * 1e-9
    return Reference(loops=LOOPS, interpreter=interpreter, memory=memory, cost_seconds=cost)


def _timing(loop: Callable[[], object]) -> Timing:
    loop()  # pages and caches
    times = []
    for _ in range(REPETITIONS):
        begin = time.perf_counter_ns()
        loop()
        times.append(max(1, time.perf_counter_ns() - begin))
    times.sort()
    return Timing(least=times[0] * 1e-9, upper=times[REPETITIONS * 3 // 4] * 1e-9)
