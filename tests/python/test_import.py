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
