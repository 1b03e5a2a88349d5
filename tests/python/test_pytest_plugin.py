"""The pytest plugin, run on small suites of tests in processes of their own."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

pytest_plugins = ["pytester"]

SUITE = """
import ctypes, logging, time
import pytest

kept = []
cache = {}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def test_quick(): pass
def test_large(): bytearray(40 * 2**20)
def test_slow(): time.sleep(0.05)
def test_leaks(): kept.append(object())
def test_fills_a_cache(): cache.setdefault(len(cache) % 10, bytearray(1000))
def test_logs(): logging.getLogger("job").warning("a line")
def test_cycles():
    loop = []
    loop.append(loop)
def test_leaks_in_c(): libc.malloc(100)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a suite's text with options; the result. In a process of its own: pytester keeps a record of every hook's call in
    this one, which is a leak."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        installed = importlib.metadata.entry_points(group="pytest11", name="perfopt")
        loaded = [] if installed else ["-p", "perfopt.pytest_plugin"]  # twice would be refused
        return pytester.runpytest_subprocess(*loaded, "-p", "no:randomly", *options)

    return run


def marked(limit: str, body: str) -> str:
    return f"import time, ctypes\nimport pytest\nkept = []\n@pytest.mark.perfopt({limit})\ndef test_it():\n    {body}\n"


def test_without_the_option_nothing_is_shown_and_nothing_heavy_loaded(suite: Any) -> None:
    result = suite("import sys\ndef test_it(): assert not {'numpy', 'torch'} & sys.modules.keys()\n")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= perfopt =*")


def test_the_table_has_a_row_a_test_slowest_first(suite: Any) -> None:
    result = suite(SUITE, "--perfopt")
    result.assert_outcomes(passed=8)
    lines = result.outlines[result.outlines.index(next(line for line in result.outlines if "= perfopt =" in line)) :]
    rows = [line for line in lines if "::" in line]
    assert len(rows) == 8
    times = [float(line.split()[0]) for line in rows]
    assert times == sorted(times, reverse=True)
    assert all("not repeated" in line for line in rows)
    large = next(line for line in rows if line.endswith("test_large"))
    assert 39 < float(large.split()[2].lstrip("+")) < 60
    assert float(next(line for line in rows if line.endswith("test_slow")).split()[0]) >= 50


def test_leaks_are_told_from_caches_and_cycles(suite: Any) -> None:
    result = suite(SUITE, "--perfopt-leaks")
    result.assert_outcomes(passed=8)
    verdicts = {line.split("::")[1]: line.split()[4] for line in result.outlines if "::" in line and " ms " in line}
    assert verdicts == {
        "test_quick": "none",
        "test_large": "none",
        "test_slow": "none",
        "test_leaks": "leak",
        "test_fills_a_cache": "none",
        "test_logs": "none",
        "test_cycles": "none",
        "test_leaks_in_c": "leak",
    }


@pytest.mark.parametrize(
    ("limit", "good", "bad", "says"),
    [
        ("max_ms=100_000", "pass", "time.sleep(0.25)", "*the call took * ms, more than max_ms=200*"),
        ("max_mb=8", "bytearray(2**20)", "bytearray(2**25)", "*resident memory rose by 3* MB, more than max_mb=8*"),
        ("no_leak=True", "object()", "kept.append(object())", "*memory grows with every call: * Python blocks a call*"),
    ],
)
def test_limits_hold_without_any_option(suite: Any, limit: str, good: str, bad: str, says: str) -> None:
    suite(marked(limit, good)).assert_outcomes(passed=1)
    result = suite(marked(limit.replace("100_000", "200"), bad))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([says])


def test_all_broken_limits_are_named(suite: Any) -> None:
    result = suite(marked("max_ms=1, max_mb=1", "time.sleep(0.01); bytearray(2**24)"))
    result.stdout.fnmatch_lines(["*more than max_ms=1; *more than max_mb=1*"])


def test_the_nearest_marker_counts(suite: Any) -> None:
    text = "import time, pytest\npytestmark = pytest.mark.perfopt(max_ms=1)\n"
    text += "@pytest.mark.perfopt(max_ms=None)\ndef test_free(): time.sleep(0.01)\ndef test_bound(): time.sleep(0.01)\n"
    suite(text).assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("max_s=3", "perfopt has no limit 'max_s'; accepted: max_ms, max_mb, no_leak"),
        ("max_ms='3'", "max_ms must be milliseconds, not '3'"),
        ("max_mb=-1", "max_mb must be MB, not -1"),
        ("max_ms=True", "max_ms must be milliseconds, not True"),
        ("no_leak=1", "no_leak must be True or False, not 1"),
        ("100", "perfopt takes keywords only"),
    ],
)
def test_a_mistake_in_a_marker_ends_the_run(suite: Any, limit: str, says: str) -> None:
    result = suite(marked(limit, "pass"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str() + result.stdout.str()


def test_failures_skips_and_expected_failures_stay_what_they_are(suite: Any) -> None:
    text = "import pytest\ndef test_fails(): assert 0\ndef test_skips(): pytest.skip('why')\n"
    text += "@pytest.mark.xfail\n@pytest.mark.perfopt(max_ms=0)\ndef test_expected(): assert 0\n"
    suite(text, "--perfopt").assert_outcomes(failed=1, skipped=1, xfailed=1)


def test_a_call_that_cannot_be_repeated_fails_only_where_repetition_was_asked_for(suite: Any) -> None:
    body = "kept.append(1); assert len(kept) == 1, 'second call'"
    result = suite(marked("max_ms=10_000", body), "--perfopt-leaks")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*could not be repeated: AssertionError: second call*"])
    suite(marked("no_leak=True", body)).assert_outcomes(failed=1)


def test_fixtures_parameters_and_classes_are_repeated(suite: Any) -> None:
    text = """
import pytest, unittest
calls = []
@pytest.fixture
def thing(): return object()
@pytest.mark.perfopt(no_leak=True)
@pytest.mark.parametrize("number", [1, 2])
def test_function(thing, number): pass
@pytest.mark.perfopt(no_leak=True)
class TestPlain:
    def test_method(self, thing): pass
@pytest.mark.perfopt(no_leak=True)
class TestCase(unittest.TestCase):
    def setUp(self): calls.append(None); calls.clear()
    def test_method(self): pass
"""
    suite(text, "--perfopt").assert_outcomes(passed=4)


def test_unittest_tests_are_repeated_without_reporting_again(suite: Any) -> None:
    text = """
import asyncio, unittest
kept = []
class Test(unittest.TestCase):
    def setUp(self): self.fresh = []
    def test_plain(self): self.fresh.append(1); self.assertEqual(len(self.fresh), 1)
    def test_parts(self):
        for i in range(3):
            with self.subTest(i=i): pass
    def test_leaks(self): kept.append(object())
    @unittest.skip("why")
    def test_skips(self): pass
    @unittest.expectedFailure
    def test_expected(self): self.fail("as expected")
class Async(unittest.IsolatedAsyncioTestCase):
    async def test_async(self): await asyncio.sleep(0)
"""
    result = suite(text, "--perfopt-leaks")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["skipped"], outcomes["xfailed"]) == (4, 1, 1)
    assert outcomes.get("subtests", 3) == 3
    rows = {line.rpartition("::")[2]: line for line in result.outlines if " MB " in line and "::" in line}
    assert len([line for line in result.outlines if " MB " in line and "::" in line]) == len(rows)
    verdicts = {name: line.split(" MB ")[1].split("test_")[0].split()[0] for name, line in rows.items()}
    assert verdicts["test_plain"] == verdicts["test_parts"] == "none"
    assert verdicts["test_async"] != "not"
    assert verdicts["test_leaks"] == "leak"
    assert verdicts["test_skips"] == verdicts["test_expected"] == "not"  # not repeated


def test_rows_come_back_from_other_processes(suite: Any) -> None:
    pytest.importorskip("xdist")
    result = suite(SUITE, "--perfopt", "-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=8)
    assert len([line for line in result.outlines if "::" in line and " ms " in line]) == 8


def test_samples_stand_in_where_the_high_water_mark_cannot_be_set_back(suite: Any) -> None:
    text = """
import builtins, time
from perfopt import _core
samplers = []
def kept(*arguments, make=_core.MemorySampler):
    samplers.append(make(*arguments))
    return samplers[-1]
_core.MemorySampler = kept
real = builtins.open
def refusing(path, *rest, **more):
    if path == "/proc/self/clear_refs":
        raise PermissionError(13, "not here")
    return real(path, *rest, **more)
builtins.open = refusing
def test_large():
    block = bytearray(40 * 2**20)
    taken = samplers[-1].taken
    while samplers[-1].taken < taken + 2:
        time.sleep(0.001)
"""
    result = suite(text, "--perfopt")
    row = next(line for line in result.outlines if "::test_large" in line and " ms " in line)
    assert 39 < float(row.split()[2].lstrip("+")) < 60
