"""Locks of objects, open in a forked child.

``fork()`` copies a lock as it is, and the thread that held it is not in the child: nobody would open it there. So an object that
a child may go on using (a worker's copy of its parent's profiler) has its lock from here, and gets a new one in the child, as
``threading`` and ``logging`` of the standard library do for theirs. What the lock guards is in the child as the other thread
left it, perhaps in the middle of a change: that must be harmless, as it is for sums and lists whose every step leaves them
whole.

Locks that guard more than that take part in the fork themselves (:mod:`perfopt._children`,
:mod:`perfopt.profiling.access_counts`).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["lock_of"]

_L = TypeVar("_L")

# By id(), as owners need not be hashable; where each keeps its lock, and what makes that.
_owners: weakref.WeakValueDictionary[tuple[int, str, Callable[[], Any]], Any] = weakref.WeakValueDictionary()


def lock_of(owner: object, attribute: str, make: Callable[[], _L]) -> _L:
    """A lock that is made anew in each forked child: ``self._lock = lock_of(self, "_lock", threading.Lock)`` in a constructor.

    Args:
        owner: takes weak references.
        attribute: where the owner keeps the lock.
        make: makes it.
    """
    _owners[id(owner), attribute, make] = owner
    return make()


def _renew() -> None:
    """In a forked child. An owner's own ``__setattr__`` is not run: it may raise or take the very lock, and leave all later ones
    shut."""
    for (_, attribute, make), owner in list(_owners.items()):
        object.__setattr__(owner, attribute, make())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
