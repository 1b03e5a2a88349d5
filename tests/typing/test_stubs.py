"""The stubs of the two extension modules agree with the modules, and every public callable shows its signature."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_stubs_match_modules() -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy.stubtest", "perfopt._core", "perfopt._train", "--ignore-missing-stub"]
    result = subprocess.run(
        [*command, "--mypy-config-file", str(ROOT / "pyproject.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["perfopt", "perfopt._core", "perfopt._train"])
def test_public_callables_have_docs_and_signatures(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [item for item in vars(module) if not item.startswith("_")])
    checked = 0
    for item in public:
        thing = getattr(module, item)
        if not callable(thing):
            continue
        assert inspect.getdoc(thing), f"{name}.{item} has no docstring"
        if not isinstance(thing, type):
            inspect.signature(thing)
        checked += 1
    assert checked > 0


@pytest.mark.parametrize("name", ["perfopt._core", "perfopt._train"])
def test_methods_of_c_types_have_docs_and_signatures(name: str) -> None:
    module = importlib.import_module(name)
    for type_name, kind in vars(module).items():
        if not isinstance(kind, type) or type_name.startswith("_"):
            continue
        for method_name, method in vars(kind).items():
            if method_name.startswith("_") or not callable(method):
                continue
            assert inspect.getdoc(method), f"{name}.{type_name}.{method_name}"
            inspect.signature(method)
