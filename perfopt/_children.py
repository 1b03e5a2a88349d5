"""How a profiler's child processes report to it: each writes its capture into a directory of the family when it ends.

The first process that follows its children makes the directory, names it in the environment, which children of every kind
inherit (fork, spawn, forkserver, DataLoader workers), and removes it when it ends. Below it, one folder for each ``key``:
``PID-NUMBER.started`` while a child runs, ``PID-NUMBER.capture`` once it has reported. A child that was killed leaves the first
and never the second, and so is known to be missing.

Ends of processes: ``multiprocessing`` children leave by ``os._exit`` after their own finalizers and skip ``atexit``; all others
run ``atexit``. Both lead to :func:`_report_all`, which does its work once. Threads: called under the GIL; the list of followers
changes only when a profiler begins to follow and in a new child.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import shutil
import stat
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfopt import _core

__all__ = ["collect", "follow", "inherited"]

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
        self.stem = f"{os.getpid()}-{next(_numbers)}"
        self.reported = False
        with contextlib.suppress(OSError):  # the family's directory went with its first process
            (self.folder / f"{self.stem}.started").touch()

    def report(self) -> None:
        profiler = self.profiler()
        if self.stem is None or self.reported or profiler is None:
            return
        self.reported = True
        with contextlib.suppress(OSError):
            profiler.capture().dump(self.folder / f"{self.stem}.capture")
            (self.folder / f"{self.stem}.started").unlink()


_followers: list[_Follower] = []
_root: Path | None = None
_owner = 0  # pid of the process that made the directory
_installed = False


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
    global _root, _owner
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) is None:
        raise ValueError(f"key must be 1 to 64 letters, digits, '-' or '_', not {key!r}")
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
        follower.begin_report()
        _report_before_multiprocessing_ends()
    _followers.append(follower)
    return folder


def collect(folder: Path) -> tuple[list[Path], dict[str, list[int]]]:
    """Files of the children that have reported, and the pids of those that run still and of those that never will."""
    begun = [(started, _is_alive(_pid_of(started))) for started in sorted(folder.glob("*.started"))]
    reports = sorted(folder.glob("*.capture"))  # afterwards: a child that ends meanwhile is in one list or the other
    pids: dict[str, list[int]] = {"reported": [_pid_of(report) for report in reports], "running": [], "missing": []}
    for started, alive in begun:
        if started.with_suffix(".capture") not in reports:
            pids["running" if alive else "missing"].append(_pid_of(started))
    return reports, pids


def _pid_of(file: Path) -> int:
    return int(file.stem.partition("-")[0])


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]  # a name in it may be any bytes
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError as error:
            return isinstance(error, PermissionError)
        return not os.path.isdir("/proc/self")
    return state != b"Z"  # ended, and not yet waited for


def _install() -> None:
    global _installed
    if _installed:
        return
    _installed = True
    from multiprocessing import util  # tens of milliseconds that only who follows children should pay

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_child_begins)
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
    _followers[:] = [follower for follower in _followers if follower.profiler() is not None]
    for follower in _followers:
        profiler = follower.profiler()
        if profiler is not None:
            profiler.reset()  # what was copied from the parent is the parent's to report
            follower.begin_report()


def _report_all() -> None:
    for follower in _followers:
        follower.report()


def _end() -> None:
    _report_all()
    if _root is not None and _owner == os.getpid():
        shutil.rmtree(_root, ignore_errors=True)
