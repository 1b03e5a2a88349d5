"""How a profiler's child processes report to it: each writes its capture into a directory of the family when it ends.

The first process that follows its children makes the directory, names it in the environment, which children of every kind
inherit (fork, spawn, forkserver, DataLoader workers), and removes it when it ends. Below it, one folder for each ``key``:
``PID-BEGIN-NUMBER.started`` while a child runs, the same with ``.capture`` once it has reported. A child that was killed leaves
the first and never the second, and so is known to be missing. BEGIN is when the process began: a process id alone comes
back, and would show a dead child as running, or have its report overwritten.

Ends of processes: ``multiprocessing`` children leave by ``os._exit`` after their own finalizers and skip ``atexit``; all others
run ``atexit``. Both lead to :func:`_report_all`, which does its work once. A child that becomes another program (``os.exec*``,
``os.spawn*``, ``subprocess`` with ``preexec_fn``) takes its marker away first: it is no process that could report.

Threads: what is shared changes with ``lock`` held, by :func:`follow` and in a new child. A fork waits for it, so that no
child begins with half a state or with a lock that nobody will release. Whoever makes a profiler that follows at once holds it
meanwhile.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfopt import _core

__all__ = ["collect", "follow", "inherited", "lock"]

VARIABLE = "PERFOPT_PROFILE_CHILDREN"

_numbers = itertools.count()


class _Follower:
    """One profiler that reports, or is reported to."""

    def __init__(self, profiler: _core.Profiler, folder: Path) -> None:
        self.profiler = weakref.ref(profiler)
        self.folder = folder
        self.stem: str | None = None  # of this process's own report; None in the process that made the directory
        self.reported = False

    def begin_report(self) -> None:
        pid = os.getpid()
        begin = _begin_of(pid)
        self.stem = f"{pid}-{time.time_ns() if begin is None else begin}-{next(_numbers)}"
        self.reported = False
        with contextlib.suppress(OSError):  # the family's directory went with its first process
            self._marker().touch()

    def withdraw(self) -> None:
        """Takes the marker away."""
        if self.stem is not None:
            self._marker().unlink(missing_ok=True)

    def _marker(self) -> Path:
        return self.folder / f"{self.stem}.started"

    def report(self) -> None:
        profiler = self.profiler()
        if self.stem is None or self.reported or profiler is None:
            return
        self.reported = True
        with contextlib.suppress(OSError):
            profiler.capture().dump(self.folder / f"{self.stem}.capture")
            self.withdraw()


lock = threading.RLock()
_followers: list[_Follower] = []
_root: Path | None = None
_owner = 0  # pid of the process that made the directory
_installed = False
_watches_exec = False


def inherited() -> bool:
    """True in a process whose family has a directory: one that was started by a process that follows its children.

    A directory that another user owns, or may write to, is none: reports would go, and links be followed, where they want.
    """
    try:
        facts = os.lstat(os.environ.get(VARIABLE, ""))
    except OSError:
        return False
    private = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and facts.st_mode & 0o077 == 0
    return _owner != os.getpid() and private


def follow(profiler: _core.Profiler, key: str) -> Path:
    """Reports go to, or come from, the folder of this key; made if it is not there. ValueError for a key no folder can have."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) is None:
        raise ValueError(f"key must be 1 to 64 letters, digits, '-' or '_', not {key!r}")
    with lock:
        return _follow_locked(profiler, key)


def _follow_locked(profiler: _core.Profiler, key: str) -> Path:
    global _root, _owner
    if _root is None:
        if inherited():
            _root = Path(os.environ[VARIABLE])
        else:
            _root = Path(tempfile.mkdtemp(prefix="perfopt-children-"))
            os.environ[VARIABLE] = str(_root)
            _owner = os.getpid()
    folder = _root / key
    folder.mkdir(mode=0o700, exist_ok=True)
    if any(follower.folder == folder and follower.profiler() is profiler for follower in _followers):
        return folder  # one report is enough: two would count everything twice
    _install()
    follower = _Follower(profiler, folder)
    if _owner != os.getpid():
        _watch_exec()
        follower.begin_report()
        _report_before_multiprocessing_ends()
    _followers.append(follower)
    return folder


def collect(folder: Path) -> tuple[list[Path], dict[str, list[int]]]:
    """Files of the children that have reported, and the pids of those that run still and of those that never will."""
    begun = [(started, _is_alive(started)) for started in sorted(folder.glob("*.started"))]
    reports = sorted(folder.glob("*.capture"))  # afterwards: a child that ends meanwhile is in one list or the other
    pids: dict[str, list[int]] = {"reported": [_pid_of(report) for report in reports], "running": [], "missing": []}
    for started, alive in begun:
        if started.with_suffix(".capture") not in reports:
            pids["running" if alive else "missing"].append(_pid_of(started))
    return reports, pids


def _pid_of(file: Path) -> int:
    return int(file.stem.split("-")[0])


def _stat_of(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on (proc(5) calls it field 3). OSError where there is no such process."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # a name in it may be any bytes


def _begin_of(pid: int) -> int | None:
    """When the process began, in clock ticks since the machine started; None where /proc does not tell."""
    try:
        return int(_stat_of(pid)[19])  # field 22, starttime
    except OSError:
        return None


def _is_alive(started: Path) -> bool:
    """Whether the child that left this marker still runs."""
    pid = _pid_of(started)
    try:
        fields = _stat_of(pid)
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError as error:
            return isinstance(error, PermissionError)
        return not os.path.isdir("/proc/self")
    ended = fields[0] == b"Z"  # and not yet waited for
    return not ended and int(fields[19]) == int(started.stem.split("-")[1])


def _install() -> None:
    global _installed
    if _installed:
        return
    _installed = True
    from multiprocessing import util  # tens of milliseconds that only who follows children should pay

    # A multiprocessing child forgets its finalizers when it begins, and then runs these.
    util.register_after_fork(_followers_token, lambda _: _report_before_multiprocessing_ends())
    atexit.register(_end)


class _Token:
    """multiprocessing keeps its after-fork callbacks by a weakly referenced object."""


_followers_token = _Token()


def _report_before_multiprocessing_ends() -> None:
    from multiprocessing import util

    util.Finalize(None, _report_all, exitpriority=-100)


def _child_begins() -> None:
    try:
        _followers[:] = [follower for follower in _followers if follower.profiler() is not None]
        if not _followers:
            return
        forker = sys._getframe().f_back
        becomes_another = forker is not None and forker.f_globals.get("__name__") == "subprocess"  # with a preexec_fn
        if not becomes_another:
            _watch_exec()
        for follower in _followers:
            profiler = follower.profiler()
            follower.stem = None  # that of the parent
            if profiler is not None and not becomes_another:
                profiler.reset()  # what was copied from the parent is the parent's to report
                follower.begin_report()
    finally:
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_child_begins)


def _watch_exec() -> None:
    """Has the markers of this process taken away when it is about to become another program.

    Should that fail, the process goes on unmarked, and still reports when it ends.
    """
    global _watches_exec
    if not _watches_exec:
        _watches_exec = True
        sys.addaudithook(_before_exec)


def _before_exec(event: str, _arguments: object) -> None:
    if event == "os.exec":
        for follower in _followers:
            with contextlib.suppress(OSError):
                follower.withdraw()


def _report_all() -> None:
    for follower in _followers:
        follower.report()


def _end() -> None:
    _report_all()
    if _root is not None and _owner == os.getpid():
        shutil.rmtree(_root, ignore_errors=True)
