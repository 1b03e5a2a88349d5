"""Child processes report to the profiler that follows them: fork, spawn, DataLoader workers; killed ones are missed."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perfopt import _children
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


def fork_and(action: Callable[[], object]) -> int:
    """The pid of a forked child that does something and then ends without any clean-up."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(1)
    return child


def following(key: str) -> PerformanceProfiler:
    profiler = PerformanceProfiler()
    profiler.follow_children(key)
    return profiler


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_process_that_got_a_dead_childs_pid_is_not_the_child() -> None:
    profiler = following("reused")
    other = fork_and(signal.pause)
    try:
        while profiler.children()["running"] != [other]:
            time.sleep(0.001)
        (marker,) = profiler._followed().glob("*.started")
        marker.rename(marker.with_name(f"{other}-1-0.started"))  # of one that began when the machine started
        assert profiler.children() == {"reported": [], "running": [], "missing": [other]}
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


def test_two_children_of_one_pid_report_into_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = PerformanceProfiler()
    stems = []
    for begin in (100, 200):  # as the kernel tells it of the first, and of the one that got its pid
        monkeypatch.setattr(_children, "_begin_of", lambda _, begin=begin: begin)
        monkeypatch.setattr(_children, "_numbers", itertools.count())
        follower = _children._Follower(profiler, tmp_path)
        follower.begin_report()
        stems.append(follower.stem)
        follower.report()
    assert stems == [f"{os.getpid()}-100-0", f"{os.getpid()}-200-0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{stem}.capture" for stem in stems]


def become_another() -> None:
    os.execv(sys.executable, [sys.executable, "-I", "-c", "pass"])


def fail_to_become_another() -> None:
    with contextlib.suppress(OSError):
        os.execv("/nowhere/nothing", ["nothing"])
    _children._report_all()


@pytest.mark.parametrize(
    ("action", "reports"),
    [(become_another, False), (fail_to_become_another, True), (lambda: os.kill(os.getpid(), signal.SIGKILL), None)],
    ids=["exec", "exec that fails", "killed"],
)
def test_a_child_that_becomes_another_program_is_no_child_that_is_missing(
    action: Callable[[], object], reports: bool | None
) -> None:
    profiler = following(f"exec-{reports}")
    child = fork_and(action)
    os.waitpid(child, 0)
    expected: dict[str, list[int]] = {"reported": [], "running": [], "missing": []}
    if reports is not False:
        expected["reported" if reports else "missing"].append(child)
    assert profiler.children() == expected


@pytest.mark.parametrize("spawns_through", ["preexec_fn", "spawnv"])
def test_programs_that_are_started_are_no_children_that_are_missing(spawns_through: str) -> None:
    profiler = following(f"started-by-{spawns_through}")
    command = [sys.executable, "-I", "-c", "pass"]
    if spawns_through == "preexec_fn":
        subprocess.run(command, preexec_fn=os.getpid, check=True)
    else:
        assert os.spawnv(os.P_WAIT, command[0], command) == 0
    assert profiler.children() == {"reported": [], "running": [], "missing": []}


AT_ONCE = """
import os, tempfile, threading
from perfopt import _children
from perfopt.profiler import PerformanceProfiler

make, entered, both = tempfile.mkdtemp, [], threading.Event()

def slow_mkdtemp(*args, **kwargs):
    entered.append(threading.current_thread())
    if len(entered) == 2:
        both.set()
    both.wait(0.5)  # for the other thread, if it comes in here too
    return make(*args, **kwargs)

tempfile.mkdtemp = slow_mkdtemp
begin = threading.Barrier(2)

def follow(profiler):
    begin.wait()
    profiler.follow_children()

profilers = [PerformanceProfiler(), PerformanceProfiler()]
threads = [threading.Thread(target=follow, args=(profiler,)) for profiler in profilers]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(entered) == 1, entered
assert profilers[0]._followed() == profilers[1]._followed()
assert str(profilers[0]._followed().parent) == os.environ["PERFOPT_PROFILE_CHILDREN"]
"""


def test_two_threads_that_follow_first_at_once_make_one_directory(tmp_path: Path) -> None:
    run(AT_ONCE, tmp_path)


FORK_MEANWHILE = """
import os, tempfile, threading
from perfopt.profiler import PerformanceProfiler

make, inside, forking = tempfile.mkdtemp, threading.Event(), threading.Event()

def slow_mkdtemp(*args, **kwargs):
    inside.set()
    forking.wait()
    return make(*args, **kwargs)

tempfile.mkdtemp = slow_mkdtemp
profiler = PerformanceProfiler()
thread = threading.Thread(target=profiler.follow_children)
thread.start()
inside.wait()
os.register_at_fork(before=forking.set)  # runs before those registered earlier: the fork has begun
child = os.fork()
if child == 0:
    PerformanceProfiler().follow_children("other")
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_fork_waits_for_a_thread_that_begins_to_follow(tmp_path: Path) -> None:
    run(FORK_MEANWHILE, tmp_path)


FORK_IN_THE_FIRST_CALL = """
import os, signal, sys, threading
from perfopt import profiler

inside, forking = threading.Event(), threading.Event()

class Slow(profiler.PerformanceProfiler):
    def __init__(self):
        inside.set()
        assert forking.wait(60)

profiler.PerformanceProfiler = Slow
first = threading.Thread(target=profiler.default_profiler)
first.start()
assert inside.wait(60)
os.register_at_fork(before=forking.set)  # runs before those that were registered earlier
sys.setswitchinterval(60)  # the thread goes on only where the fork waits for it
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends a child that waits for ever
    os._exit(0 if profiler.default_profiler() is profiler._default else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
first.join()
sys.exit(status)
"""


def test_a_child_forked_within_the_first_call_for_the_default_profiler_is_not_locked_out() -> None:
    done = subprocess.run([sys.executable, "-c", FORK_IN_THE_FIRST_CALL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_signal_handler_within_the_first_call_makes_the_default_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from perfopt import profiler

    made: list[PerformanceProfiler] = []

    class Interrupted(PerformanceProfiler):
        def __init__(self) -> None:
            made.append(self)
            if len(made) == 1:
                inner.append(profiler.default_profiler())

    inner: list[PerformanceProfiler] = []
    monkeypatch.setattr(profiler, "PerformanceProfiler", Interrupted)
    monkeypatch.setattr(profiler, "_default", None)
    assert profiler.default_profiler() is inner[0] is profiler.default_profiler()
    assert len(made) == 2
