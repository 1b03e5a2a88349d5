"""How a value is kept in a cache: arrays read-only, tensors watched by their version counters, private copies on demand.

``perfopt._core`` asks (csrc/bindings/core/cache_values.c). Neither NumPy nor torch is imported here; an object of theirs can
only exist once its library is loaded.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from perfopt._keys_base import CONTAINER_BASES, loaded


def _members(value: Any) -> Iterable[Any]:
    """What is inside a container that is no exact tuple, list or dict, or inside a dataclass; nothing for other objects."""
    if isinstance(value, dict):
        return dict.values(value)
    if isinstance(value, list):
        return list.__iter__(value)
    if isinstance(value, tuple):
        return tuple.__iter__(value)
    if isinstance(value, (set, frozenset)):
        return set(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return ()


def _walk(value: Any, leaf: Callable[[Any], Any], seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """The value with leaf() of every array and tensor in it; itself if nothing changed.

    Exact tuples, lists and dicts, ordered and default dicts and named tuples are rebuilt where something in them changed;
    other containers and dataclasses are only looked through. ``seen`` is for members that are shared or contain themselves.
    """
    seen = {} if seen is None else seen
    kind = type(value)
    if not isinstance(value, CONTAINER_BASES) and not hasattr(kind, "__dataclass_fields__"):
        return leaf(value)
    if id(value) in seen:
        return seen[id(value)][1]
    seen[id(value)] = (value, value)
    result = value
    if kind in (dict, OrderedDict, defaultdict):
        changed = {key: new for key, old in value.items() if (new := _walk(old, leaf, seen)) is not old}
        if changed:
            result = copy.copy(value)
            result.update(changed)
    elif kind in (tuple, list) or (isinstance(value, tuple) and hasattr(kind, "_make")):
        items = [_walk(item, leaf, seen) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            result = items if kind is list else tuple(items) if kind is tuple else kind._make(items)
    else:
        for member in _members(value):
            _walk(member, leaf, seen)
        result = leaf(value)
    seen[id(value)] = (value, result)
    return result


def prepare_value(value: Any, private: bool) -> tuple[Any, tuple[Any, ...] | None]:
    """The value as a cache keeps it, and (tensor, version, ...) for the tensors in it, or None.

    Arrays become read-only views; the caller's array stays writable. ``private`` copies first.
    """
    numpy = loaded("numpy", "ndarray")
    torch = loaded("torch", "Tensor")
    guard: list[Any] = []
    if private:
        value = copy_value(value)

    def leaf(item: Any) -> Any:
        if numpy is not None and isinstance(item, numpy.ndarray):
            if item.flags.writeable:
                item = item.view()
                item.flags.writeable = False
        elif torch is not None and isinstance(item, torch.Tensor) and not item.is_inference():
            guard.extend((item, item._version))
        return item

    return _walk(value, leaf), tuple(guard) or None


def copy_value(value: Any) -> Any:
    """A copy that shares nothing that can be changed; arrays in it are writable, tensors keep their graph."""
    torch = loaded("torch", "Tensor")
    numpy = loaded("numpy", "ndarray")
    copies: dict[int, Any] = {}

    def leaf(item: Any) -> Any:
        if torch is not None and isinstance(item, torch.Tensor):
            copies[id(item)] = item.clone()
        elif numpy is not None and type(item) is numpy.ndarray and not item.dtype.hasobject:
            copies[id(item)] = item.copy(order="K")
        return item

    _walk(value, leaf)
    return copy.deepcopy(value, copies)
