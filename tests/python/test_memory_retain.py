"""perfopt.memory.retain_heap: freed pages are kept inside the block, over threads and forks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from perfopt import _core, _memory_retain, memory
from perfopt.memory import retain_heap

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own files")
glibc = pytest.mark.skipif("glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="glibc's malloc")


@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_keeps_the_open_blocks_of_its_own_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def record(on: bool) -> int:
        calls.append(on)
        return 0

    monkeypatch.setattr(memory._core, "heap_retain", record)
    inside, go_on = threading.Event(), threading.Event()

    def other() -> None:
        with retain_heap():
            inside.set()
            assert go_on.wait(60)

    def in_child(check: Callable[[], bool]) -> int:
        child = os.fork()
        if child == 0:
            right = False
            with contextlib.suppress(BaseException):
                right = check()
            os._exit(0 if right else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(60)
    assert calls == [True]
    assert in_child(lambda: calls == [True, False] and _memory_retain._retain_depths == {}) == 0
    with retain_heap(), retain_heap():
        assert in_child(lambda: calls == [True] and list(_memory_retain._retain_depths.values()) == [2]) == 0
    go_on.set()
    thread.join()
    assert calls == [True, False]


@linux
@glibc
def test_retained_heap_is_reused_without_page_faults() -> None:
    code = """
import ctypes
from perfopt import _core
from perfopt.memory import retain_heap
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults(turns=4, size=200 << 20):
    before = _core.memory_info()["minor_faults"]
    for _ in range(turns):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    return _core.memory_info()["minor_faults"] - before

plain = faults()
with retain_heap() as available:
    assert available
    faults(1)
    with retain_heap():
        pass
    kept = faults()
    resident = _core.resident_bytes()
given = resident - _core.resident_bytes()
again = faults()
assert plain > 1000 and kept < 200 and again > 1000 and given > 150 << 20, (plain, kept, again, given)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)


@pytest.mark.parametrize("on", [1, None, "yes"])
def test_heap_retain_takes_a_bool(on: Any) -> None:
    with pytest.raises(TypeError, match="on must be True or False, not"):
        _core.heap_retain(on)
