"""What the descriptions of content share: classes by name, an instance's own state, libraries that may not be there."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

Reduction = tuple[Any, ...]
SCALAR_BASES = (int, float, complex, str, bytes, bytearray)
CONTAINER_BASES = (tuple, list, dict, set, frozenset)


def loaded(name: str, attribute: str) -> Any:
    """A module that is imported and finished, or None."""
    module = sys.modules.get(name)
    return module if hasattr(module, attribute) else None


def class_name(cls: type) -> tuple[str, str]:
    """Module and qualified name."""
    return cls.__module__, cls.__qualname__


def found_by_name(module: str, qualname: str) -> Any:
    """What a loaded module holds under a qualified name, or None."""
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def is_of(cls: type, library: str) -> bool:
    """Whether a class is found in that library under the name that it gives: ``__module__`` alone is anybody's to set."""
    module = cls.__module__
    is_claimed = isinstance(module, str) and module.partition(".")[0] == library
    return is_claimed and found_by_name(module, cls.__qualname__) is cls


def instance_state(value: object, base: type = object) -> dict[str, Any]:
    """What an instance holds in its ``__dict__`` and in the slots of its classes before ``base``.

    Not what ``functools.cached_property`` keeps there: to look at an object does not change its content.
    """
    state = dict(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        if cls is base:
            break
        for name, descriptor in vars(cls).items():
            if isinstance(descriptor, functools.cached_property):
                state.pop(descriptor.attrname, None)
            elif "__slots__" in vars(cls) and isinstance(descriptor, types.MemberDescriptorType):
                try:
                    held = descriptor.__get__(value)
                except AttributeError:
                    continue  # declared, not set
                state[name if name not in state else f"{cls.__qualname__}.{name}"] = held  # a subclass may have one too
    return state
