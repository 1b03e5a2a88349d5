"""Keeping freed pages: malloc holds what is freed inside a block for the next allocations (``perfopt.memory.retain_heap``)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from perfopt import _core

__all__ = ["retain_heap"]

_retain_lock = threading.RLock()  # reentrant: a signal handler may open a block while this thread does
_retain_depths: dict[int, int] = {}  # open blocks by the thread that opened them


@contextlib.contextmanager
def retain_heap() -> Iterator[bool]:
    """Let malloc keep freed pages inside the block, so that tensors of each training step reuse those of the last one.

    Works on the whole process. Blocks may be nested and may overlap on several threads; when the last one ends free()
    gives memory back again and the heap is trimmed. In a forked child only the blocks of the thread that forked are
    still open: the others' ends will never come there. Yields False, and does nothing, where malloc has no such setting.
    """
    owner = threading.get_ident()
    with _retain_lock:
        try:
            if not _retain_depths:
                _core.heap_retain(True)
            available = True
            _retain_depths[owner] = _retain_depths.get(owner, 0) + 1
        except NotImplementedError:
            available = False
    try:
        yield available
    finally:
        if available:
            with _retain_lock:
                _leave_retained(owner)


def _leave_retained(owner: int) -> None:
    """One block of owner has ended. A block of a thread that a fork left behind may end here after all: it counts no more."""
    if owner not in _retain_depths:
        return
    _retain_depths[owner] -= 1
    if _retain_depths[owner] == 0:
        del _retain_depths[owner]
        if not _retain_depths:
            _core.heap_retain(False)


def _forget_blocks_of_lost_threads() -> None:
    """In a forked child: only the forking thread's blocks can still end, and a thread not in it may have held the lock."""
    global _retain_lock
    _retain_lock = threading.RLock()
    if not _retain_depths:
        return
    own = _retain_depths.get(threading.get_ident())
    _retain_depths.clear()
    if own is not None:
        _retain_depths[threading.get_ident()] = own
    else:
        _core.heap_retain(False)


os.register_at_fork(after_in_child=_forget_blocks_of_lost_threads)
