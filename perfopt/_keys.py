"""What the C engines ask Python about objects: their content.

``reduce`` describes an object as a tuple of simpler ones, which ``perfopt._core`` encodes (csrc/cache/fingerprint.h, tag ``R``).
Descriptions are part of the fingerprint format: changing one changes digests, and the golden file shows it.
No library is imported here; an object of one can only exist once it is loaded.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

from perfopt._keys_arrays import reduce_numpy, reduce_sparse, reduce_torch
from perfopt._keys_base import (
    CONTAINER_BASES,
    SCALAR_BASES,
    Reduction,
    class_name,
    found_by_name,
    instance_state,
    loaded,
)
from perfopt._keys_tables import reduce_arrow, reduce_pandas

# ---- subclasses of built-in types ----------------------------------------------------------------------------------------------

# The built-in part as the built-in type itself sees it: a subclass may override what it likes, its memory stays its content.
_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__index__,
    float: float.__float__,
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda value: bytes(memoryview(value)),
    bytearray: lambda value: bytearray(memoryview(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}


def _reduce_subclass(value: Any, bases: tuple[type, ...]) -> Reduction:
    """An instance of a subclass of a built-in: class, own attributes, and the built-in part."""
    base = next(base for base in bases if isinstance(value, base))
    parts: list[Any] = [class_name(type(value)), instance_state(value)]
    if isinstance(value, OrderedDict):
        parts.append(tuple(OrderedDict.items(value)))
    else:
        parts.append(_PLAIN[base](value))
    if isinstance(value, defaultdict):
        parts.append(value.default_factory)
    return type(value), base.__name__ + " subclass", *parts


def _reduce_dataclass(value: Any) -> Reduction:
    fields = tuple(
        (field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if hasattr(value, field.name)
    )
    return type(value), "dataclass", class_name(type(value)), fields


def _beside_fields(value: Any) -> Reduction:
    """What an instance of a dataclass, or of a subclass that is none itself, holds beside its fields: (state,), or ()."""
    fields = {field.name for field in dataclasses.fields(value)}
    state = {name: item for name, item in instance_state(value).items() if name not in fields}
    state.pop("__orig_class__", None)  # how typing remembers Box[int] in Box[int](1)
    return (state,) if state else ()


# ---- what an import finds by name ----------------------------------------------------------------------------------------------


def _reduce_named(value: Any) -> Reduction | str | None:
    """Classes and functions, by the name under which another process finds them; why not, if there is none."""
    kind = "class" if isinstance(value, type) else "function"
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(value, types.MethodType):
        return None, "method", value.__func__, value.__self__
    if isinstance(value, types.BuiltinFunctionType) and not isinstance(
        value.__self__, (type, types.ModuleType, type(None))
    ):
        return None, "built-in method", value.__name__, value.__self__
    owner = getattr(value, "__objclass__", None) or getattr(value, "__self__", None)
    if module is None and isinstance(owner, type):
        module = owner.__module__
    if not isinstance(module, str) or not isinstance(qualname, str):
        return None
    if isinstance(value, types.BuiltinFunctionType):
        return None, kind, module, qualname  # made anew at each look; what is written in C has one meaning in a process
    if found_by_name(module, qualname) is value:
        if module != "__main__":
            return value, kind, module, qualname
        return f"a {kind} counts by its name, and in __main__ that means something else in every program: move it to a module"
    if "<" in qualname:
        return f"a {kind} counts by its name, and a lambda, or a {kind} made inside a function, has none: define it in a module"
    return f"a {kind} counts by its name, and {module}.{qualname} is another object or none"


# ---- the standard library ------------------------------------------------------------------------------------------------------


def _zone_key(value: Any) -> tuple[Any, ...] | str:
    return "a time zone read from a file has no key" if value.key is None else (value.key,)


def _random_state(value: Any) -> tuple[Any, ...] | str:
    try:
        state: tuple[Any, ...] = value.getstate()
    except NotImplementedError:  # random.SystemRandom
        return "it draws from the system and has no state"
    return state


def _datetime_parts(value: Any) -> tuple[Any, ...]:
    date = (value.year, value.month, value.day)
    return (*date, value.hour, value.minute, value.second, value.microsecond, value.fold, value.tzinfo)


def _decimal_parts(value: Any) -> tuple[Any, ...]:
    sign, digits, exponent = sys.modules["decimal"].Decimal.as_tuple(value)
    return sign, bytes(digits), exponent


# Class -> its content as a tuple, or why it has none. By name: a module that is not loaded has no instances. The first class
# in the method resolution order that is here counts (a datetime is a date too).
_STANDARD: dict[tuple[str, str], Callable[[Any], tuple[Any, ...] | str]] = {
    ("collections", "ChainMap"): lambda value: (list(value.maps),),
    ("collections", "deque"): lambda value: (list(found_by_name("collections", "deque").__iter__(value)), value.maxlen),
    ("datetime", "date"): lambda value: (value.year, value.month, value.day),
    ("datetime", "datetime"): _datetime_parts,
    ("datetime", "time"): lambda value: (
        *(value.hour, value.minute, value.second, value.microsecond, value.fold, value.tzinfo),
    ),
    ("datetime", "timedelta"): lambda value: (value.days, value.seconds, value.microseconds),
    ("datetime", "timezone"): lambda value: (value.utcoffset(None), value.tzname(None)),
    ("decimal", "Decimal"): _decimal_parts,
    ("fractions", "Fraction"): lambda value: (value.numerator, value.denominator),
    ("functools", "partial"): lambda value: (value.func, value.args, dict(value.keywords)),
    ("ipaddress", "IPv4Address"): lambda value: (value.packed,),
    ("ipaddress", "IPv6Address"): lambda value: (value.packed, value.scope_id),
    ("ipaddress", "IPv4Interface"): lambda value: (value.packed, value.network.prefixlen),
    ("ipaddress", "IPv6Interface"): lambda value: (value.packed, value.scope_id, value.network.prefixlen),
    ("ipaddress", "IPv4Network"): lambda value: (value.network_address.packed, value.prefixlen),
    ("ipaddress", "IPv6Network"): lambda value: (value.network_address.packed, value.prefixlen),
    ("random", "Random"): _random_state,
    ("re", "Pattern"): lambda value: (value.pattern, value.flags),
    ("types", "MappingProxyType"): lambda value: (value.copy(),),
    ("types", "SimpleNamespace"): lambda value: (dict(vars(value)),),
    ("uuid", "UUID"): lambda value: (value.int,),
    ("zoneinfo", "ZoneInfo"): _zone_key,
}
_ALIASES: dict[type, tuple[str, str]] = {
    types.MappingProxyType: ("types", "MappingProxyType"),
    types.SimpleNamespace: ("types", "SimpleNamespace"),
}


def _standard_name(cls: type) -> tuple[str, str] | None:
    """The name in _STANDARD of a class that really is the one of that name."""
    name = _ALIASES.get(cls) or (cls.__module__, cls.__qualname__)
    if not isinstance(name[0], str) or name not in _STANDARD:
        return None
    return name if found_by_name(*name) is cls else None


# The classes of _STANDARD that were met: millions of dates in a list shall not be looked up by name.
_MET: dict[type, tuple[str, Callable[[Any], tuple[Any, ...] | str]]] = {}


def _reduce_standard(value: Any) -> Reduction | str | None:
    for base in type(value).__mro__:
        name = _standard_name(base)
        if name is None:
            continue
        parts = _STANDARD[name](value)
        if isinstance(parts, str):
            return parts
        if base is type(value):
            _MET[base] = name[1], _STANDARD[name]
            return None, name[1], *parts
        return type(value), name[1] + " subclass", class_name(type(value)), instance_state(value, base), *parts
    return None


def _reduce_pytz(pytz: Any, value: Any) -> Reduction | None:
    """Zones by their name; of one that a datetime was localized to, also which of its offsets."""
    if isinstance(value, pytz.tzinfo.DstTzInfo):
        return None, "pytz zone", value.zone, value._utcoffset, value._dst, value._tzname
    if isinstance(value, pytz.tzinfo.BaseTzInfo):
        return None, "pytz zone", value.zone, value.utcoffset(None)
    return None


def _reduce_path(value: pathlib.PurePath) -> Reduction:
    kind = type(value)
    base = next(cls for cls in kind.__mro__ if cls.__module__.partition(".")[0] == "pathlib")
    if base is kind:
        return None, "path", kind.__name__, str(value)
    return kind, "path subclass", class_name(kind), instance_state(value, base), base.__name__, str(value)


def _reduce_exporter(value: Any) -> Reduction | None:
    """Memory of a class made in Python whose instance has attributes; without any, C reads the memory alone."""
    state = instance_state(value)
    if not state:
        return None
    try:
        memory = memoryview(value)
    except TypeError:
        return None
    return type(value), "buffer subclass", class_name(type(value)), state, memory


# ---- all together --------------------------------------------------------------------------------------------------------------

_LIBRARIES: tuple[tuple[str, str, Callable[[Any, Any], Reduction | str | None]], ...] = (
    ("numpy", "ma", reduce_numpy),
    ("torch", "nn", reduce_torch),
    ("pandas", "api", reduce_pandas),
    ("pyarrow", "Table", reduce_arrow),
    ("scipy.sparse", "issparse", reduce_sparse),
    ("pytz", "FixedOffset", _reduce_pytz),
)


def _reduce_known(value: Any) -> Reduction | str | None:
    """An object of a library or of a subclass of a built-in; None if it is neither."""
    for name, attribute, found in _LIBRARIES:
        library = loaded(name, attribute)
        reduction = None if library is None else found(library, value)
        if reduction is not None:
            return reduction
    if isinstance(value, SCALAR_BASES):
        return _reduce_subclass(value, SCALAR_BASES)
    if isinstance(value, CONTAINER_BASES):
        return _reduce_subclass(value, CONTAINER_BASES)
    return _reduce_standard(value)


def reduce(value: Any) -> Any:
    """(class or None, text, part, ...): an object in terms of simpler ones. Without content: NotImplemented, or a str saying why.

    The class (for a class or a function: itself) is what a key in this process adds by identity, so that two classes of one
    name stay two.
    """
    met = _MET.get(type(value))
    if met is not None:
        parts = met[1](value)
        return parts if isinstance(parts, str) else (None, met[0], *parts)
    if value.__class__ is not type(
        value
    ):  # a mock, a proxy, something lazy: what it is asked for need not be what it is
        return f"it says that its class is {value.__class__.__qualname__}: give the object behind it"
    if isinstance(value, enum.Enum):
        name = value._name_  # a class may have a name property of its own
        name = value._value_ if name is None else name  # Python 3.10 has no name for a union of flags
        return type(value), "enum", class_name(type(value)), name
    if isinstance(value, pathlib.PurePath):
        return _reduce_path(value)
    if isinstance(value, (slice, range)):
        return None, type(value).__name__, value.start, value.stop, value.step
    reduction = None if isinstance(value, type) else _reduce_known(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        described = _reduce_dataclass(value)
        if reduction is None:
            return *described, *_beside_fields(value)
        if not isinstance(
            reduction, str
        ):  # a dataclass that is also a dict, a module, ...: its fields are not all of it
            return *described, reduction[1:]
    if reduction is None:
        reduction = _reduce_named(value)
    if reduction is None:
        reduction = _reduce_exporter(value)
    return NotImplemented if reduction is None else reduction
