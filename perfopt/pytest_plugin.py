"""pytest plugin: time, memory and leaks of tests, as a table (``--perfopt``) and as limits (``@pytest.mark.perfopt``).

It is found by pytest through its entry point and measures nothing until it is asked to; neither NumPy nor torch is loaded for it.

**Time** is the wall time of the test's call, fixtures not included. **Peak memory** is how far the resident set rose above where
it stood when the call began: the kernel's own high-water mark, set back before the call (``/proc/self/clear_refs``), so
that no peak is too short to be seen; where that file cannot be written, samples of a kilohertz. **Leaks** are looked for by
repetition, as memory that grows with every further call, because growth in one call is mostly a cache that fills: after a
collection the blocks of Python's allocator and the bytes in use of malloc's heap are counted around 4, 8, 16, 32 and 64 more
calls, and only what grows by at least one block a call in each of these rounds is a leak.

Threads: tests that leave threads at work share their memory's figures with the tests that follow.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

__all__: list[str] = []

_LIMITS = {"max_ms": "milliseconds", "max_mb": "MB", "no_leak": "True or False"}
_ROUNDS = (4, 8, 16, 32, 64)  # the longest outlasts what asyncio still sets up after dozens of calls
_MALLOC_BLOCK = 32  # bytes of the smallest block of glibc's malloc on 64-bit machines
_MB = 2**20
_PROPERTY = "perfopt"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--perfopt`` and ``--perfopt-leaks``."""
    group = parser.getgroup("perfopt", "time, memory and leaks (perfopt)")
    group.addoption("--perfopt", action="store_true", help="show time, peak memory and leak verdict of every test")
    group.addoption(
        "--perfopt-leaks",
        action="store_true",
        help="look for leaks in every test by repeating its call; implies --perfopt",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known and readies the table."""
    config.addinivalue_line(
        "markers",
        "perfopt(max_ms=None, max_mb=None, no_leak=False): fail the test when its call takes more milliseconds, when the "
        "resident set rises by more MB (2**20 bytes), or when memory grows with every repetition of the call",
    )
    config.pluginmanager.register(_Table(config), "perfopt-table")


def _limits(item: pytest.Item) -> dict[str, Any]:
    """The nearest marker's limits; pytest.UsageError for what is not one."""
    limits: dict[str, Any] = {}
    for marker in item.iter_markers("perfopt"):
        if marker.args:
            raise pytest.UsageError(
                f"{item.nodeid}: perfopt takes keywords only ({', '.join(_LIMITS)}), not {marker.args!r}"
            )
        for name, value in marker.kwargs.items():
            if name not in _LIMITS:
                raise pytest.UsageError(f"{item.nodeid}: perfopt has no limit {name!r}; accepted: {', '.join(_LIMITS)}")
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
            if not (isinstance(value, bool) if name == "no_leak" else value is None or number):
                raise pytest.UsageError(f"{item.nodeid}: {name} must be {_LIMITS[name]}, not {value!r}")
            limits.setdefault(name, value)  # the nearest comes first
    return limits


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Checks all markers, so that a mistake in one ends the run before anything runs."""
    for item in items:
        _limits(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measures the call, repeats it where leaks are looked for, and holds it to its limits."""
    limits = _limits(item)
    repeat = bool(limits.get("no_leak")) or item.config.getoption("perfopt_leaks")
    if not (limits or repeat or item.config.getoption("perfopt")):
        return (yield)
    peak = _Peak()
    began = time.perf_counter_ns()
    try:
        result = yield
    finally:
        seconds = (time.perf_counter_ns() - began) * 1e-9
        rise = peak.rise()
    row: dict[str, Any] = {"seconds": seconds, "peak_bytes": rise, "leak": None, "growth": None}
    item.user_properties.append((_PROPERTY, row))
    if repeat:
        try:
            row["growth"] = _growth(item)
            row["leak"] = row["growth"] is not None
        except Exception as error:  # of the test's own code, which may not be made for a second call
            if limits.get("no_leak"):
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            row["growth"] = f"the call could not be repeated: {reason}"
    broken = list(_broken(limits, row))
    if broken:
        pytest.fail("perfopt: " + "; ".join(broken), pytrace=False)
    return result


def _broken(limits: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    if limits.get("max_ms") is not None and row["seconds"] * 1e3 > limits["max_ms"]:
        yield f"the call took {row['seconds'] * 1e3:.3g} ms, more than max_ms={limits['max_ms']:g}"
    if limits.get("max_mb") is not None and row["peak_bytes"] > limits["max_mb"] * _MB:
        yield f"resident memory rose by {row['peak_bytes'] / _MB:.3g} MB, more than max_mb={limits['max_mb']:g}"
    if limits.get("no_leak") and row["leak"]:
        yield f"memory grows with every call: {row['growth']}"


class _Peak:
    """How far the resident set rises above where it stood at the start."""

    def __init__(self) -> None:
        from perfopt import _core

        self._monitor: Any = None
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # sets the high-water mark of the resident set back; proc_pid_clear_refs(5)
        except OSError:
            self._monitor = _core.MemorySampler(1e-3, 16)
            self._monitor.start()
        self._start = _core.memory_info()["rss"] or 0

    def rise(self) -> int:
        """Bytes, at least 0."""
        if self._monitor is None:
            with open("/proc/self/status") as file:
                peak = next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), 0)
        else:
            self._monitor.sample()
            peak = self._monitor.peak_rss or 0
            self._monitor.stop()
        return int(max(0, peak - self._start))


def _in_use() -> tuple[int, int]:
    """Blocks of Python's allocator and bytes of malloc's heap, after a collection."""
    from perfopt import _core

    gc.collect()
    gc.collect()  # once more, for what finalizers of the first let go
    return sys.getallocatedblocks(), _core.memory_info()["heap_in_use"] or 0


def _call(item: pytest.Item) -> None:
    """Runs the test once more. A ``unittest`` test reports to a result of its own: pytest keeps what is reported to it."""
    import unittest

    instance = getattr(item, "instance", None)
    if not isinstance(instance, unittest.TestCase):
        item.runtest()
        return
    again = type(instance)(item.name)  # a test with a loop of asyncio runs once only
    vars(again).update(vars(instance) | vars(again))  # with what fixtures have set
    result = unittest.TestResult()
    again.run(result)
    failed = [text for _, text in (*result.errors, *result.failures, *result.expectedFailures)]
    if failed or result.skipped:
        raise RuntimeError(failed[0].splitlines()[-1] if failed else f"skipped: {result.skipped[0][1]}")


def _kept_logs() -> Callable[[], None]:
    """Lets pytest's log handlers forget what they keep from now on, each time the result is called."""
    handlers: list[Any] = logging.getLogger().handlers
    marks = [
        (handler, len(handler.records), handler.stream.tell())
        for handler in handlers
        if isinstance(getattr(handler, "records", None), list) and hasattr(handler, "stream")
    ]

    def forget() -> None:
        for handler, records, position in marks:
            del handler.records[records:]
            if handler.stream.tell() > position:
                handler.stream.seek(position)
                handler.stream.truncate()

    return forget


def _growth(item: pytest.Item) -> str | None:
    """What grew by at least a block a call in every round, as a sentence; None without a leak."""
    blocks_leak = heap_leak = True
    forget = _kept_logs()
    text = ""
    for calls in _ROUNDS:
        blocks, heap = _in_use()
        for _ in range(calls):
            _call(item)
            forget()
        more_blocks, more_heap = (after - before for after, before in zip(_in_use(), (blocks, heap), strict=True))
        blocks_leak &= more_blocks >= calls
        heap_leak &= more_heap >= calls * _MALLOC_BLOCK
        if not (blocks_leak or heap_leak):
            return None
        parts = [f"{more_blocks / calls:.3g} Python blocks"] if blocks_leak else []
        parts += [f"{more_heap / calls:.3g} bytes of malloc's heap"] if heap_leak else []
        text = f"{' and '.join(parts)} a call over the last {calls} calls"
    return text


class _Table:
    """Collects the rows that come back with the tests' reports (from other processes too) and prints them."""

    def __init__(self, config: pytest.Config) -> None:
        self._shown = config.getoption("perfopt") or config.getoption("perfopt_leaks")
        self._rows: dict[str, dict[str, Any]] = {}  # by the test's id: subtests report under the id of their test

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the row of a test."""
        if report.when == "call":
            properties: list[tuple[str, Any]] = report.user_properties
            self._rows.update((report.nodeid, row) for name, row in properties if name == _PROPERTY)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Prints the table, slowest first."""
        if not self._shown or not self._rows:
            return
        terminalreporter.section("perfopt")
        terminalreporter.line(f"{'time':>10}  {'peak memory':>11}  {'leak':>12}  test")
        for nodeid, row in sorted(self._rows.items(), key=lambda pair: -pair[1]["seconds"]):
            verdict = "not repeated" if row["leak"] is None else "leak" if row["leak"] else "none"
            peak = f"+{row['peak_bytes'] / _MB:.2f} MB"
            terminalreporter.line(f"{row['seconds'] * 1e3:>7.2f} ms  {peak:>11}  {verdict:>12}  {nodeid}")
            if row["growth"]:
                terminalreporter.line(f"{'':>10}  {row['growth']}")
