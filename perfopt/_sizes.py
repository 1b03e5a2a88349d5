"""What a value counts for in a cache that is bounded by bytes (``PerformanceCache(max_bytes=...)``).

Neither NumPy nor torch is imported here; an object of theirs can only exist once its library is loaded.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any


def _is_instance(value: Any, module: str, name: str) -> bool:
    """Whether value is of that class of a library, which is not imported for it."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


def _buffer_of(value: Any) -> tuple[Any, int] | None:
    """The memory that an array or tensor keeps alive, as (what identifies it, bytes); None for other objects."""
    if _is_instance(value, "numpy", "ndarray"):
        while _is_instance(value.base, "numpy", "ndarray"):
            value = value.base
        return id(value), value.nbytes
    if _is_instance(value, "torch", "Tensor"):
        try:
            storage = value.untyped_storage()
            return ("storage", storage.data_ptr() or id(value)), storage.nbytes()
        except (RuntimeError, NotImplementedError):  # sparse and others without one storage
            return id(value), value.numel() * value.element_size()
    if isinstance(value, memoryview):
        return id(value.obj), value.nbytes
    return None


def _members_of(value: Any) -> list[Any]:
    """What is inside a built-in container, a subclass of one, or a dataclass."""
    if isinstance(value, dict):
        return [*dict.keys(value), *dict.values(value)]
    if isinstance(value, (tuple, list, set, frozenset)):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return []


def _text_bytes(text: str) -> int:
    """Characters times the 1, 2 or 4 bytes in which CPython keeps each of them."""
    widest = ord(max(text, default="a"))
    return len(text) * (1 if widest < 0x100 else 2 if widest < 0x10000 else 4)


def measure(value: Any) -> int:
    """Bytes: arrays and tensors by the memory they keep alive (of a view, all that it looks into), text and bytes by length,
    containers and dataclasses with their members, everything else by ``sys.getsizeof``. What is shared counts once.
    """
    seen: set[Any] = set()
    total = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        buffer = _buffer_of(item)
        identity = id(item) if buffer is None else buffer[0]
        if identity in seen:
            continue
        seen.add(identity)
        if buffer is not None:
            total += buffer[1]
            if _is_instance(item, "numpy", "ndarray") and item.dtype.hasobject:
                waiting.extend(item.ravel().tolist())
        elif isinstance(item, (bytes, bytearray)):
            total += len(item)
        elif isinstance(item, str):
            total += _text_bytes(item)
        else:
            total += sys.getsizeof(item)
            waiting.extend(_members_of(item))
    return total
