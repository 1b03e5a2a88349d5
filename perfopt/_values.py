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

_PLAIN = frozenset((int, float, complex, bool, str, bytes, bytearray, type(None)))  # hold nothing


def members(value: Any) -> Iterable[Any]:
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


def _rebuilt(value: Any, leaf: Callable[[Any], Any], seen: dict[int, tuple[Any, Any]]) -> Any:
    """A container whose members have been walked: with what became of them, or itself if nothing did."""

    def outcome(member: Any) -> Any:
        return seen[id(member)][1] if id(member) in seen else member

    kind = type(value)
    if kind in (dict, OrderedDict, defaultdict):
        changed = {key: new for key, old in value.items() if (new := outcome(old)) is not old}
        if not changed:
            return value
        result = copy.copy(value)
        result.update(changed)
        return result
    if kind in (tuple, list) or (isinstance(value, tuple) and hasattr(kind, "_make")):
        items = [outcome(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return items if kind is list else tuple(items) if kind is tuple else kind._make(items)
    return leaf(value)


def _walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The value with leaf() of every array and tensor in it; itself if nothing changed.

    Exact tuples, lists and dicts, ordered and default dicts and named tuples are rebuilt where something in them changed;
    other containers and dataclasses are only looked through. Members may be shared or contain themselves; no depth is too deep.
    """
    seen: dict[int, tuple[Any, Any]] = {}  # by id: what was met (and so stays alive), and what became of it
    waiting = [(value, False)]
    while waiting:
        item, is_walked = waiting.pop()
        if is_walked:
            seen[id(item)] = (item, _rebuilt(item, leaf, seen))
        elif id(item) in seen:
            continue
        elif isinstance(item, CONTAINER_BASES) or hasattr(type(item), "__dataclass_fields__"):
            seen[id(item)] = (item, item)
            waiting.append((item, True))
            waiting.extend((member, False) for member in members(item) if type(member) not in _PLAIN)
        elif (new := leaf(item)) is not item:
            seen[id(item)] = (item, new)
    return seen[id(value)][1] if id(value) in seen else value


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
