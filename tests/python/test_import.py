"""What ``import perfopt`` loads and offers."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import perfopt


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("heavy", ["torch", "rich", "click", "pandas", "numpy.testing"])
def test_import_stays_light(heavy: str) -> None:
    assert run(f"import sys, perfopt; print({heavy!r} in sys.modules)") == "False"


def test_every_public_name_is_there_and_documented() -> None:
    for name in perfopt.__all__:
        thing = getattr(perfopt, name)
        if not isinstance(thing, str):
            assert inspect.getdoc(thing), name


def test_dir_and_unknown_attribute() -> None:
    assert set(perfopt.__all__) <= set(dir(perfopt))
    with pytest.raises(AttributeError, match="nothing_here"):
        perfopt.nothing_here  # noqa: B018


def test_two_interpreter_starts_agree() -> None:
    assert run("import perfopt; print(perfopt.__version__)") == perfopt.__version__


def test_module_survives_being_imported_twice() -> None:
    code = """
import sys
import perfopt._core as first
del sys.modules["perfopt._core"]
import perfopt._core as second
print(first is not second, sorted(first.clock_info()) == sorted(second.clock_info()))
"""
    assert run(code) == "True True"


# CPython's module for subinterpreters under its names; 3.12's crashes where only a subinterpreter has imported datetime.
SUBINTERPRETERS = """
import datetime, sys, threading
try:
    import _interpreters as interpreters
except ModuleNotFoundError:
    import _xxsubinterpreters as interpreters

def create(isolated):
    if sys.version_info >= (3, 13):
        return interpreters.create("isolated" if isolated else "legacy")
    return interpreters.create(isolated=isolated)

def run(code, isolated):
    made = create(isolated)
    try:
        failed = interpreters.run_string(made, code)
        return failed and failed.msg
    except Exception as error:
        return str(error)
    finally:
        interpreters.destroy(made)
"""

USE = """
import perfopt
from perfopt import cache_result


@cache_result(max_size=50)
def work(x):
    return [x]

profiler = perfopt.PerformanceProfiler(trace=True)
memory = perfopt.MemoryOptimizer()
memory.start_monitoring(0.001)
for turn in range(2000):
    with profiler.profile("turn"):
        for key in (turn % 70, [turn % 7, "text"], (1.5, turn % 9)):
            assert work(key) is work(key)
assert profiler.get_profile_summary()["total_operations"] == 2000
assert work.cache_info().currsize == 50
memory.stop_monitoring()
open_range = profiler.profile("left open")
open_range.__enter__()
"""


@pytest.mark.parametrize("isolated", [False, True])
def test_subinterpreters_work_side_by_side(isolated: bool) -> None:
    """Isolated: each with a GIL of its own (from Python 3.12 on), so that the C code of all runs at once."""
    code = f"""{SUBINTERPRETERS}
import perfopt
results = []
threads = [threading.Thread(target=lambda: results.append(run({USE!r}, {isolated}))) for _ in range(3)]
for thread in threads:
    thread.start()
exec({USE!r})
for thread in threads:
    thread.join()
assert results == [None] * 3, results
print("done")
"""
    assert run(code) == "done"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="modules say from Python 3.12 on whether they can be loaded")
def test_what_rests_on_numpy_refuses_an_interpreter_of_its_own() -> None:
    code = f"{SUBINTERPRETERS}\nimport perfopt\nprint(run('import perfopt.kernels', True))"
    assert "module perfopt._train does not support loading in subinterpreters" in run(code)
