"""The driver's own memory figures by NVML, against made-up libraries, each in a process of its own; no GPU is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perfopt import _core
from perfopt.memory import device_memory

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
SOURCE = r"""
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return START; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
#ifndef INCOMPLETE
int nvmlDeviceGetMemoryInfo(void *device, memory *figures)
{
    const unsigned long long of = (unsigned long long)(long)device;
    *figures = (memory){ 1000 * of, 300 * of, 700 * of };
#ifdef LOST
    return of == 1 ? 15 : READ;
#else
    return READ;
#endif
}
const char *nvmlErrorString(int error) { return error == 15 ? "GPU is \xff lost" : (char *)0; }
#endif
"""
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="builds a library with gcc")


def asked(folder: Path, *defines: str) -> str:
    """What nvml_memory() says to a library that was built with these definitions."""
    (folder / "nvml.c").write_text(SOURCE)
    library = folder / "libfake-ml.so"
    flags = [f"-D{define}" for define in ("START=0", "READ=0", *defines)]
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", *flags, str(folder / "nvml.c"), "-o", str(library)], check=True)
    code = (
        "import sys, os\nfrom perfopt import _core\n"
        "def ask():\n"
        "    try:\n        return repr(_core.nvml_memory(sys.argv[1]))\n"
        "    except NotImplementedError as error:\n        return str(error)\n"
        "first = ask()\nassert ask() == first\nchild = os.fork()\n"
        "if child == 0:\n    os._exit(0 if ask() == first else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\nsys.stdout.write(first)\n"
    )
    run = [sys.executable, "-c", code, str(library)]
    return subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=120).stdout


@needs_compiler
@pytest.mark.spec("S0-20")
def test_devices_are_read_twice_and_in_a_forked_child(tmp_path: Path) -> None:
    assert asked(tmp_path) == "[(1000, 700, 300, None), (2000, 1400, 600, None)]"


@needs_compiler
def test_each_refusal_says_why(tmp_path: Path) -> None:
    assert "cannot start (its error 9)" in asked(tmp_path, "START=9")
    refused = "(None, None, None, 'its error 3')"
    assert asked(tmp_path, "READ=3") == f"[{refused}, {refused}]"
    assert "lacks one of the calls" in asked(tmp_path, "INCOMPLETE")


@needs_compiler
def test_a_device_that_refuses_takes_no_other_with_it(tmp_path: Path) -> None:
    lost = "(None, None, None, 'its error 15: GPU is \ufffd lost')"
    assert asked(tmp_path, "LOST") == f"[{lost}, (2000, 1400, 600, None)]"


def test_without_the_library_the_reason_is_told() -> None:
    with pytest.raises(NotImplementedError, match=r"no-such-library\.so cannot be opened"):
        _core.nvml_memory("no-such-library.so")


def test_devices_come_as_dicts_and_none_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "nvml_memory", lambda: [(1000, 700, 300, None), (None, None, None, "lost")])
    assert device_memory() == [
        {"total": 1000, "used": 700, "free": 300, "reason": None},
        {"total": None, "used": None, "free": None, "reason": "lost"},
    ]

    def refuse() -> None:
        raise NotImplementedError("no driver")

    monkeypatch.setattr(_core, "nvml_memory", refuse)
    assert device_memory() == []
