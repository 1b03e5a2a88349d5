"""What can be told of a loader from outside: how many samples a batch has, how many batches lie ready, what was read.

Each answer comes with a reason where there is none, as a figure that is guessed is worse than one that is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["SampleCounter", "bytes_read", "bytes_since", "ready_batches"]

_ELEMENTS = 16  # of a batch that are looked at, on each of
_DEPTH = 3  # levels
_PROBE = 32  # bytes read of /proc/self/io: its first line is "rchar: " and a number


class SampleCounter:
    """Counts the samples of one loader's batches; :attr:`reason` says why when it cannot.

    For a loader with ``batch_size`` (PyTorch's), the first batch, which is full unless the data set is smaller, shows where
    the samples are: along the first dimension of its arrays, or in the batch as a list. With a ``batch_sampler`` of unknown
    sizes, and for other iterables, arrays are counted if there are two of them at least and all agree.
    """

    def __init__(self, loader: Any, tell: Callable[[Any], int] | None) -> None:
        self._tell = tell or self._counted
        self._batch_size = _count_of(getattr(loader, "batch_size", None))
        self._way: Callable[[Any], int | None] | None = None
        self.reason: str | None = None
        if tell is None and hasattr(loader, "batch_sampler") and loader.batch_sampler is None:
            self.reason = "the loader hands out what the data set gives (batch_size=None)"

    def count(self, batch: Any) -> int | None:
        """Samples of the batch; None from the first one on that cannot be told."""
        if self.reason is not None:
            return None
        count = self._tell(batch)
        if count is None:
            self.reason = f"a batch ({type(batch).__name__}) does not show how many samples it has; give samples="
        return count

    def _counted(self, batch: Any) -> Any:
        if self._way is None:
            self._way = self._way_of(batch)
        return self._way(batch)

    def _way_of(self, batch: Any) -> Callable[[Any], int | None]:
        if self._batch_size is not None:
            for way in (_first_array, _length):
                if way(batch) == self._batch_size:
                    return way
        return _agreeing if self._batch_size is None else _first_array


def _count_of(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _leading(batch: Any, depth: int = 0) -> list[int]:
    """First dimensions of the arrays in a batch, in order."""
    shape = getattr(batch, "shape", None)
    if isinstance(shape, tuple):
        return [int(shape[0])] if shape else []
    if depth == _DEPTH or not isinstance(batch, (list, tuple, Mapping)):
        return []
    values = list(batch.values() if isinstance(batch, Mapping) else batch)[:_ELEMENTS]
    return [size for value in values for size in _leading(value, depth + 1)]


def _first_array(batch: Any) -> int | None:
    sizes = _leading(batch)
    return sizes[0] if sizes else None


def _length(batch: Any) -> int | None:
    return len(batch) if isinstance(batch, (list, tuple)) else None


def _agreeing(batch: Any) -> int | None:
    sizes = _leading(batch)
    return sizes[0] if len(sizes) > 1 and len(set(sizes)) == 1 else None


def ready_batches(iterator: Any) -> tuple[int | None, str | None]:
    """Batches that workers have finished and nobody has taken, and why not if it is not known.

    Reads what PyTorch's iterator keeps for itself: the queue that workers (or the pinning thread) fill, and the batches
    that came out of it before their turn.
    """
    queue, tasks = getattr(iterator, "_data_queue", None), getattr(iterator, "_task_info", None)
    if queue is None or not isinstance(tasks, dict):
        return None, "the loader has no queue of ready batches that is known here"
    try:
        early = sum(1 for task in list(tasks.values()) if len(task) > 1)
        return int(queue.qsize()) + early, None
    except (AttributeError, NotImplementedError, OSError, TypeError, ValueError) as error:
        return None, f"the queue of ready batches does not tell its size ({type(error).__name__})"


def bytes_read() -> int | None:
    """Bytes that this process has got from read calls until now; None where the kernel does not tell."""
    try:
        descriptor = os.open("/proc/self/io", os.O_RDONLY)
    except OSError:
        return None
    try:
        return int(os.read(descriptor, _PROBE).split()[1])
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(descriptor)


def bytes_since(before: int | None) -> int | None:
    """Bytes read since ``bytes_read`` gave ``before``, without those of asking for it; None if either is not known."""
    after = bytes_read()
    return None if before is None or after is None else after - before - _PROBE
