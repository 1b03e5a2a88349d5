"""Waiting for what others do, for tests that hold on a machine of any speed: for a condition, never for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LIMIT = 60.0  # seconds; only keeps a broken build from hanging


def until(condition: Callable[[], object]) -> None:
    """Returns when condition() is true; fails when it does not become true."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.001)


class Meeting:
    """Arguments that are one key to a cache, and the threads that asked for its value while another one computed it.

    Who finds a key in flight compares it with its own, and holds on to the flight before the interpreter is given to another
    thread: whatever thread is seen to have compared gets the outcome of this flight, whether it sleeps already or not.
    """

    def __init__(self) -> None:
        self.asked: dict[int, bool] = {}

    def key(self) -> Key:
        return Key(self)

    def others(self, count: int) -> None:
        """Until that many threads have asked."""
        until(lambda: len(self.asked) >= count)


class Key:
    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting

    def __hash__(self) -> int:
        return 5

    def __eq__(self, other: object) -> bool:
        is_equal = isinstance(other, Key) and other.meeting is self.meeting
        thread = threading.get_ident()
        self.meeting.asked[thread] = is_equal  # the last step: nothing from here to the flight lets another thread in
        return is_equal
