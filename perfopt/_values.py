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


_DICTS = (dict, OrderedDict, defaultdict)
_Seen = dict[int, tuple[Any, Any]]  # id: (what was met, so that the id stays taken; what stands for it)
_OPEN = object()  # stands for a container whose members are being walked


def _is_tuple(value: Any) -> bool:
    return type(value) is tuple or (isinstance(value, tuple) and hasattr(type(value), "_make"))


def _tuple_of(kind: Any, items: list[Any]) -> Any:
    return tuple(items) if kind is tuple else kind._make(items)


def _closed(value: Any, leaf: Callable[[Any], Any], seen: _Seen) -> Any:
    """A container whose members have been walked: with what stands for them, or itself if nothing changed."""

    def outcome(member: Any) -> Any:
        found = seen[id(member)][1] if id(member) in seen else member
        return member if found is _OPEN else found

    kind = type(value)
    if kind in _DICTS:
        changed = {key: new for key, old in value.items() if (new := outcome(old)) is not old}
        if not changed:
            return value
        result = copy.copy(value)
        result.update(changed)
        return result
    if kind is list or _is_tuple(value):
        items = [outcome(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return items if kind is list else _tuple_of(kind, items)
    return leaf(value)


def _walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The value with leaf(), called once, of every array and tensor in it; itself if nothing changed.

    Exact tuples, lists and dicts, ordered and default dicts and named tuples are rebuilt where something in them changed;
    other containers and dataclasses are only looked through. Members may be shared or contain themselves; no depth is too deep
    for what does not.
    """
    seen: _Seen = {}
    contains_itself = False
    waiting = [(value, False)]
    while waiting:
        item, is_walked = waiting.pop()
        if is_walked:
            seen[id(item)] = (item, _closed(item, leaf, seen))
        elif id(item) in seen:
            contains_itself |= seen[id(item)][1] is _OPEN
        elif isinstance(item, CONTAINER_BASES) or hasattr(type(item), "__dataclass_fields__"):
            seen[id(item)] = (item, _OPEN)
            waiting.append((item, True))
            waiting.extend((member, False) for member in members(item) if type(member) not in _PLAIN)
        else:
            seen[id(item)] = (item, leaf(item))
    result = seen[id(value)][1]
    if result is value or not contains_itself:
        return result
    leaves = {key: found for key, found in seen.items() if not isinstance(found[0], CONTAINER_BASES)}
    return _rebuild(value, leaf, leaves)


def _rebuild(value: Any, leaf: Callable[[Any], Any], seen: _Seen) -> Any:
    """As _walk(), for what contains itself: every container that can be is made anew, before its members are known.

    By recursion: what contains itself is seldom deep, and RecursionError says when it is.
    """
    kind = type(value)
    if id(value) in seen:
        return seen[id(value)][1]
    result: Any
    if kind is list:
        result = []
        seen[id(value)] = (value, result)
        result.extend(_rebuild(item, leaf, seen) for item in value)
    elif kind in _DICTS:
        result = copy.copy(value)
        seen[id(value)] = (value, result)
        for key, item in value.items():
            result[key] = _rebuild(item, leaf, seen)
    elif _is_tuple(value):
        items = [_rebuild(item, leaf, seen) for item in value]
        if id(value) in seen:  # one of its members contains it
            return seen[id(value)][1]
        result = _tuple_of(kind, items)
        seen[id(value)] = (value, result)
    else:
        result = leaf(value)
        seen[id(value)] = (value, result)
    return result


def prepare_value(value: Any, private: bool) -> tuple[Any, tuple[Any, ...] | None]:
    """The value as a cache keeps it, and (tensor, version, ...) for the tensors in it, or None.

    Arrays become read-only views; the caller's array stays writable. ``private`` copies first.
    """
    numpy = loaded("numpy", "ndarray")
    if not private and numpy is not None and type(value) is numpy.ndarray and not value.flags.writeable:
        return value, None  # as every array that comes from disk
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
