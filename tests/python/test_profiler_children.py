"""Child processes report to the profiler that follows them: fork, spawn, DataLoader workers; killed ones are missed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perfopt.profiler import PerformanceProfiler

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PROGRAM = """
import multiprocessing as mp, os, signal, sys
from perfopt.profiler import default_profiler

def work(n):
    profiler = default_profiler()
    for _ in range(n):
        with profiler.profile("child work"):
            pass

def grandparent():
    work(1)
    child = mp.get_context("fork").Process(target=work, args=(2,))
    child.start()
    child.join()

def killed():
    work(5)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    profiler = default_profiler()
    profiler.follow_children()
    with profiler.profile("parent"):
        pass
    for method in ("fork", "spawn", "forkserver"):
        child = mp.get_context(method).Process(target=work, args=(10,))
        child.start()
        child.join()
    for target in (grandparent, killed):
        child = mp.get_context("fork").Process(target=target)
        child.start()
        child.join()
    plain = os.fork()
    if plain == 0:
        work(7)
        sys.exit(0)
    os.waitpid(plain, 0)
    seen = profiler.children()
    counts = {row["name"]: row["count"] for row in profiler.capture(children=True).rows()}
    assert counts == {"parent": 1, "child work": 40}, counts
    assert len(seen["reported"]) == 6 and len(seen["missing"]) == 1 and not seen["running"], seen
    assert {row["name"]: row["count"] for row in profiler.capture().rows()} == {"parent": 1}
    print(os.environ["PERFOPT_PROFILE_CHILDREN"])
"""

LOADER = """
import torch
from perfopt.profiler import default_profiler

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        with default_profiler().profile("item"):
            return index

if __name__ == "__main__":
    default_profiler().follow_children()
    loader = torch.utils.data.DataLoader(Data(), batch_size=4, num_workers=2)
    assert sum(len(batch) for batch in loader) == 40
    del loader
    capture = default_profiler().capture(children=True)
    assert [(row["name"], row["count"]) for row in capture.rows()] == [("item", 40)]
    assert len(capture.processes) == 3
"""


def run(code: str, folder: Path) -> str:
    script = folder / "script.py"
    script.write_text(code)
    environment = {key: value for key, value in os.environ.items() if key != "PERFOPT_PROFILE_CHILDREN"}
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_children_of_every_kind_report(tmp_path: Path) -> None:
    directory = run(PROGRAM, tmp_path).split()[-1]
    assert "perfopt-children-" in directory
    assert not os.path.exists(directory), "it goes with the process that made it"


def test_data_loader_workers_report(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run(LOADER, tmp_path)


def test_following_must_come_first() -> None:
    profiler = PerformanceProfiler()
    for action in (profiler.children, lambda: profiler.capture(children=True)):
        with pytest.raises(RuntimeError, match="call follow_children"):
            action()
    with pytest.raises(ValueError, match="key must be"):
        profiler.follow_children("../up")


def test_running_and_killed_children_are_told_apart() -> None:
    profiler = PerformanceProfiler()
    profiler.follow_children("told-apart")
    with profiler.profile("parent's"):
        pass
    read, write = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        write.send("ready")
        signal.pause()
        os._exit(0)
    assert read.recv() == "ready"
    assert profiler.children()["running"] == [child]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert profiler.children() == {"reported": [], "running": [], "missing": [child]}
    assert [row["name"] for row in profiler.capture(children=True).rows()] == ["parent's"]
