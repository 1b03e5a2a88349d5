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


TWICE = """
import multiprocessing as mp
from perfopt.profiler import default_profiler

default_profiler().follow_children()  # a spawned child runs this line again
default_profiler().follow_children()

def work():
    with default_profiler().profile("child work"):
        pass

if __name__ == "__main__":
    for method in ("fork", "spawn"):
        child = mp.get_context(method).Process(target=work)
        child.start()
        child.join()
    rows = default_profiler().capture(children=True).rows()
    assert [(row["name"], row["count"]) for row in rows] == [("child work", 2)], rows
    print("done")
"""


def test_following_twice_reports_once(tmp_path: Path) -> None:
    run(TWICE, tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_childs_process_name_may_be_any_bytes() -> None:
    profiler = PerformanceProfiler()
    profiler.follow_children("any-bytes")
    read, write = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        Path("/proc/self/comm").write_bytes(b"\xe6\x97) Z \xff")  # what is left of a longer name cut at 15 bytes
        write.send("ready")
        signal.pause()
        os._exit(0)
    assert read.recv() == "ready"
    try:
        assert profiler.children()["running"] == [child]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


OTHERS = """
import os
from perfopt.profiler import default_profiler
with default_profiler().profile("work"):
    pass
"""


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o700])
def test_children_report_only_into_a_directory_of_their_own_user(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    environment = {**os.environ, "PERFOPT_PROFILE_CHILDREN": str(folder)}
    subprocess.run([sys.executable, "-c", OTHERS], env=environment, check=True)
    assert len(list(folder.glob("default/*.capture"))) == (1 if mode == 0o700 else 0)
    link = tmp_path / "link"
    link.symlink_to(folder)
    environment["PERFOPT_PROFILE_CHILDREN"] = str(link)
    subprocess.run([sys.executable, "-c", OTHERS], env=environment, check=True)
    assert len(list(folder.glob("default/*.capture"))) == (1 if mode == 0o700 else 0)
