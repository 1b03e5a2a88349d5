"""What a value counts for in a cache that is bounded by bytes (``PerformanceCache(max_bytes=...)``).

Neither NumPy nor torch is imported here; an object of theirs can only exist once its library is loaded.
"""

from __future__ import annotations

import sys
from typing import Any

from perfopt._values import members


def _is_instance(value: Any, module: str, name: str) -> bool:
    """Whether value is of that class of a library, which is not imported for it."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


def _is_view(value: Any) -> bool:
    """An array, or what NumPy's ``as_strided()`` puts between two of them."""
    kind = type(value)
    is_link = kind.__name__ == "DummyArray" and kind.__module__.startswith("numpy.")
    return is_link or _is_instance(value, "numpy", "ndarray")


def _owner_of(value: Any) -> Any:
    """Whatever holds the memory that an array or a memoryview looks into, over any number of views; perhaps itself."""
    while True:
        if isinstance(value, memoryview):
            base = value.obj
        elif _is_view(value):
            base = value.base
        else:
            return value
        if base is None:
            return value
        value = base


def _buffer_bytes(value: Any) -> int:
    """Of an owner of memory that is no array: 0 if it does not show how much that is."""
    try:
        with memoryview(value) as view:
            return view.nbytes
    except (TypeError, ValueError, BufferError):
        return 0


def _buffer_of(value: Any) -> tuple[Any, int] | None:
    """The memory that an array or tensor keeps alive, as (what identifies it, bytes); None for other objects."""
    if isinstance(value, memoryview) or _is_instance(value, "numpy", "ndarray"):
        owner = _owner_of(value)
        if owner is value or _is_instance(owner, "numpy", "ndarray"):
            return id(owner), owner.nbytes
        return _buffer_of(owner) or (id(owner), _buffer_bytes(owner) or value.nbytes)
    if _is_instance(value, "torch", "Tensor"):
        try:
            storage = value.untyped_storage()
            return ("storage", storage.data_ptr() or id(value)), storage.nbytes()
        except (RuntimeError, NotImplementedError):  # sparse and others without one storage
            return id(value), value.numel() * value.element_size()
    return None


def _members_of(value: Any) -> list[Any]:
    """What is inside a container, a dict's keys included, or inside a dataclass."""
    return [*(dict.keys(value) if isinstance(value, dict) else ()), *members(value)]


def _text_bytes(text: str) -> int:
    """Characters times the 1, 2 or 4 bytes in which CPython keeps each of them."""
    widest = ord(max(text, default="a"))
    return len(text) * (1 if widest < 0x100 else 2 if widest < 0x10000 else 4)


def measure(value: Any) -> int:
    """Bytes: arrays, tensors and memoryviews by the memory they keep alive (of a view, all that it looks into, array or not),
    text and bytes by length, containers and dataclasses with their members, everything else by ``sys.getsizeof``. What is shared
    counts once.
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
