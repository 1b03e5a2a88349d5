"""Live figures of a running process for ``perfopt top``: a small report, written again and again to a place that top knows.

A process opts in with :func:`publish`. The file lies in a folder that only this user can enter (mode 0700), below
``XDG_RUNTIME_DIR`` or the temporary folder, under the process's id; it is written whole each time, and removed at the end. Nobody
can reach into the process through it.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from perfopt.report import document
from perfopt.report.document import Report

if TYPE_CHECKING:
    from perfopt.profiling.code_profiler import CodeProfiler

__all__ = ["Publisher", "publish", "published_file"]


def _folder() -> Path:
    """The user's folder for live figures.

    Raises:
        PermissionError: somebody else has put it there, or others may enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base) / f"perfopt-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone; remove it, or set XDG_RUNTIME_DIR")
    return folder


def published_file(pid: int) -> Path:
    """Where the process of that id publishes, if it does."""
    return _folder() / f"{pid}.json"


class Publisher:
    """Writes a report every so often from a thread of its own until ``close()``; also a context manager.

    An exception while writing (a full disk) is kept in ``error`` and the next turn tries again. In a forked child it is closed:
    the child has to publish for itself.
    """

    def __init__(self, make: Callable[[], Report], path: Path, every: float) -> None:
        self._make, self.path, self._every = make, path, every
        self._pid = os.getpid()
        self._done = threading.Event()
        self._writing = threading.Lock()
        self.error: BaseException | None = None
        self._write()
        self._thread = threading.Thread(target=self._run, name="perfopt-publish", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        while not self._done.wait(self._every):
            try:
                self._write()
                self.error = None
            except Exception as error:  # kept, and tried again: a live view is no reason to end a training run
                self.error = error

    def _write(self) -> None:
        with self._writing:
            if not self._done.is_set():
                document.save(self._make(), self.path)

    def close(self) -> None:
        """Ends publishing and removes the file; nothing if it did already."""
        if self._done.is_set() or os.getpid() != self._pid:
            return
        self._done.set()
        atexit.unregister(self.close)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._writing:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def publish(profiler: CodeProfiler, *, path: str | os.PathLike[str] | None = None, every: float = 1.0) -> Publisher:
    """Lets ``perfopt top`` watch this process: writes the profiler's report every ``every`` seconds.

    Args:
        profiler: whose figures are shown.
        path: the file; by default one that ``perfopt top PID`` finds.
        every: seconds between writes, from 0.05.

    Raises:
        TypeError: ``profiler`` is no :class:`perfopt.profiling.CodeProfiler`.
        ValueError: ``every`` is out of range, or ``path`` is that of a folder or a device.
        OSError: the file cannot be written.
    """
    from perfopt.profiling.code_profiler import CodeProfiler

    if not isinstance(profiler, CodeProfiler):
        raise TypeError(f"profiler must be a CodeProfiler, not {type(profiler).__name__}")
    if not (math.isfinite(every) and every >= 0.05):
        raise ValueError(f"every must be a finite number of seconds from 0.05, not {every!r}")
    target = published_file(os.getpid()) if path is None else Path(path)
    if target.exists() and not target.is_file():
        raise ValueError(
            f"path must be that of a regular file or of none, which is removed at the end, not {str(target)!r}"
        )
    return Publisher(lambda: profiler.report("live", with_reference=False), target, every)
