"""Who calls whom, for every Python function between start and stop, decorated or not: the standard library's cProfile.

From Python 3.12 on cProfile uses ``sys.monitoring`` and refuses when its tool id is taken; before, it takes the thread's
``sys.setprofile`` slot, which is looked at here first, so that no debugger or other profiler is pushed out. Only the thread that
started is seen before Python 3.12. It slows Python code down severalfold: the dearest part of the code profiler.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from typing import Any

__all__ = ["CallStacks"]


class CallStacks:
    """A cProfile that starts only where nobody else profiles."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._profile: cProfile.Profile | None = None
        self._running = False
        self.reason: str | None = None if enabled else "switched off by enable_cprofile=False"

    @property
    def running(self) -> bool:
        """Whether calls are recorded now."""
        return self._running

    def start(self) -> None:
        """Begins to record; where somebody else profiles already, ``reason`` says so and nothing is recorded."""
        if not self._enabled or self._running:
            return
        if sys.getprofile() is not None:
            self.reason = f"another profiler is active: {sys.getprofile()!r}"
            return
        profile = self._profile or cProfile.Profile()
        try:
            profile.enable()
        except ValueError as error:  # the tool id of profilers is taken
            self.reason = f"another profiler is active: {error}"
            return
        self._profile, self._running, self.reason = profile, True, None

    def stop(self) -> None:
        """Ends recording; what was recorded stays."""
        if self._running and self._profile is not None:
            self._profile.disable()
            self._running = False

    def reset(self) -> None:
        """Forgets what was recorded."""
        if self._profile is not None:
            self._profile.clear()

    def stats(self) -> pstats.Stats | None:
        """What was recorded, for ``pstats``; None when nothing was."""
        if self._profile is None or not self._profile.getstats():
            return None
        return pstats.Stats(self._profile)

    def top(self, most: int = 50) -> list[dict[str, Any]]:
        """The functions with most time of their own: dicts of ``function``, ``file``, ``line``, ``calls``, ``self`` and ``total``
        in seconds, and ``callers`` (name: calls)."""
        stats = self.stats()
        if stats is None:
            return []
        table: dict[tuple[str, int, str], Any] = stats.stats  # type: ignore[attr-defined]
        rows = []
        for (file, line, function), (_, calls, own, total, callers) in table.items():
            by_caller = {
                name: counts[1] if isinstance(counts, tuple) else counts for (_, _, name), counts in callers.items()
            }
            rows.append(
                {"function": function, "file": file, "line": line, "calls": calls, "self": own, "total": total}
                | {"callers": by_caller}
            )
        return sorted(rows, key=lambda row: -float(row["self"]))[:most]
