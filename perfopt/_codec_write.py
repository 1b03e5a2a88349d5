"""A Python value on its way to the plain values that MessagePack holds, and to slots for its arrays (see ``_codec_codes.py``).

NumPy and PyTorch are not imported here: an object of theirs can only exist once its library is loaded. Everything that no safe
format holds exactly raises Unstorable with the type that is to blame.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import struct
import sys
import uuid
import zoneinfo
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from perfopt import _codec_arrays as arrays
from perfopt import _codec_arrow, _codec_pandas
from perfopt import _codec_codes as codes
from perfopt._codec_arrays import Unstorable
from perfopt._keys_base import loaded

Path = tuple[Any, ...]  # (parent's path, key), from the inside out; () is the root

MAX_DEPTH = 100
_INT_MIN, _INT_END = -(2**63), 2**64

_pack = msgspec.msgpack.encode


class Writer:
    """One value on its way to plain MessagePack values; arrays are set aside as slots."""

    def __init__(self) -> None:
        self.slots: list[arrays.Slot] = []
        self.tables: dict[str, _codec_arrow.Content] = {}  # by the name of the slot that each will have
        self.names: set[str] = set()
        self.has_tensors = False
        self.seen: dict[int, tuple[int, Any]] = {}  # id: (index, the object, so that the id stays taken)
        self.open: set[int] = set()  # ids of the containers around the current value
        self.key_depth = 0  # within keys and elements of sets, nothing is shared: see write_key()

    def write(self, value: Any, path: Path, depth: int) -> Any:
        kind = type(value)
        if kind in codes.PLAIN:
            return value
        if kind is int:
            return value if _INT_MIN <= value < _INT_END else codes.Ext(codes.BIG_INT, _int_bytes(value))
        if kind is str:
            return (
                value
                if value.isascii() or _is_utf8(value)
                else codes.Ext(codes.SURROGATES, value.encode("utf-8", "surrogatepass"))
            )
        leaf = _LEAVES.get(kind) or _library_leaf(kind)
        if leaf is not None:
            return leaf(self, value)
        write = _SHARED.get(kind) or _library_writer(kind)
        if write is None:
            raise Unstorable(kind)
        return self.write_shared(write, value, path, depth)

    def write_shared(self, write: _SharedWriter, value: Any, path: Path, depth: int) -> Any:
        """A container or an array: a reference if it came before."""
        identity = id(value)
        if identity in self.open or depth >= MAX_DEPTH:
            raise Unstorable(arrays.named_culprit(f"{type(value).__name__} nested more than {MAX_DEPTH} deep"))
        if not self.key_depth:
            seen = self.seen.get(identity)
            if seen is not None:
                return codes.Ext(codes.REFERENCE, _pack(seen[0]))
            self.seen[identity] = len(self.seen), value
        self.open.add(identity)
        written = write(self, value, path, depth + 1)
        self.open.remove(identity)
        return written

    def write_key(self, value: Any, depth: int) -> Any:
        """A key or an element of a set, without references: bytes that lie could make hashing one take for ever."""
        self.key_depth += 1
        written = self.write(value, (), depth)
        self.key_depth -= 1
        return written

    def items(self, values: Iterable[Any], path: Path, depth: int) -> list[Any]:
        return [self.write(value, (path, index), depth) for index, value in enumerate(values)]

    def slot_name(self, path: Path) -> str:
        """A name for people who open the file with another reader: "layers.0.weight"."""
        keys = []
        while path:
            path, key = path
            keys.append(str(key) if type(key) in (str, int) else type(key).__name__)
        name = ".".join(reversed(keys)).encode("utf-8", "replace").decode()[:200] or "value"
        unique, count = name, 1
        while unique in self.names or unique == "__metadata__":
            count += 1
            unique = f"{name}#{count}"
        self.names.add(unique)
        return unique


_SharedWriter = Callable[[Writer, Any, Path, int], Any]


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _all_plain(values: list[Any]) -> bool:
    """Whether a list can stand as it is."""
    kinds = set(map(type, values))
    if kinds <= codes.PLAIN:
        return True
    if kinds == {int}:
        return bool(min(values) >= _INT_MIN and max(values) < _INT_END)
    return kinds == {str} and all(value.isascii() for value in values)


def _write_list(writer: Writer, value: list[Any], path: Path, depth: int) -> Any:
    values = value.copy()
    return values if _all_plain(values) else writer.items(values, path, depth)


def _sequence(code: int) -> _SharedWriter:
    def write(writer: Writer, value: Any, path: Path, depth: int) -> Any:
        return [codes.MARKS[code], *writer.items(tuple(value), path, depth)]

    return write


def _elements(code: int) -> _SharedWriter:
    def write(writer: Writer, value: Any, path: Path, depth: int) -> Any:
        return [codes.MARKS[code], *[writer.write_key(element, depth) for element in tuple(value)]]

    return write


def _pairs(writer: Writer, items: tuple[tuple[Any, Any], ...], path: Path, depth: int) -> list[Any]:
    written = []
    for key, item in items:
        written.append(writer.write_key(key, depth))
        written.append(writer.write(item, (path, key), depth))
    return written


def _write_dict(writer: Writer, value: dict[Any, Any], path: Path, depth: int) -> Any:
    items = tuple(value.items())  # one look: other threads may add keys of other types
    if all(type(key) is str and (key.isascii() or _is_utf8(key)) for key, _ in items):
        return {key: writer.write(item, (path, key), depth) for key, item in items}
    return [codes.MARKS[codes.DICT], *_pairs(writer, items, path, depth)]


def _write_ordered_dict(writer: Writer, value: OrderedDict[Any, Any], path: Path, depth: int) -> Any:
    if value.__dict__:
        raise Unstorable(arrays.named_culprit("OrderedDict with attributes"))
    return [codes.MARKS[codes.ORDERED_DICT], *_pairs(writer, tuple(value.items()), path, depth)]


def _write_deque(writer: Writer, value: deque[Any], path: Path, depth: int) -> Any:
    return [codes.MARKS[codes.DEQUE], value.maxlen, *writer.items(tuple(value), path, depth)]


def _write_array(writer: Writer, value: Any, path: Path, depth: int) -> Any:
    slot, description = arrays.array_slot(writer.slot_name(path), value)
    writer.slots.append(slot)
    return [codes.MARKS[codes.ARRAY], slot.name, *description]


def _write_tensor(writer: Writer, value: Any, path: Path, depth: int) -> Any:
    if writer.key_depth:  # it is a key by its identity, which nothing brings back
        raise Unstorable(type(value))
    slot, description = arrays.tensor_slot(writer.slot_name(path), value)
    writer.slots.append(slot)
    writer.has_tensors = True
    return [codes.MARKS[codes.TENSOR], slot.name, *description]


_Keep = Callable[[Any], int]


def _write_table(
    writer: Writer,
    path: Path,
    depth: int,
    library: str,
    describe: Callable[[_Keep], tuple[_codec_arrow.Content, list[Any]]],
) -> Any:
    """A marker, the name of the slot, the description, and the values that the description has by their number."""
    name, kept = writer.slot_name(path), []

    def keep(value: Any) -> int:
        kept.append(writer.write(value, (path, name), depth))
        return len(kept) - 1

    writer.tables[name], description = describe(keep)
    return [codes.MARKS[codes.TABLE], name, [library, *description], *kept]


def _write_pandas(writer: Writer, value: Any, path: Path, depth: int) -> Any:
    pandas = sys.modules["pandas"]
    return _write_table(writer, path, depth, "pandas", lambda keep: _codec_pandas.describe(pandas, value, keep))


def _write_arrow(writer: Writer, value: Any, path: Path, depth: int) -> Any:
    arrow = sys.modules["pyarrow"]
    return _write_table(writer, path, depth, "arrow", lambda keep: _codec_arrow.describe(arrow, value))


_SHARED: dict[type, _SharedWriter] = {
    list: _write_list,
    tuple: _sequence(codes.TUPLE),
    dict: _write_dict,
    set: _elements(codes.SET),
    frozenset: _elements(codes.FROZENSET),
    OrderedDict: _write_ordered_dict,
    deque: _write_deque,
    bytearray: lambda writer, value, path, depth: codes.Ext(codes.BYTEARRAY, bytes(value)),
}


def _library_writer(kind: type) -> _SharedWriter | None:
    """The writer for a type of another library, which exists only once that is loaded."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.ndarray):
        return _write_array
    torch: Any = loaded("torch", "Tensor")
    if torch is not None and issubclass(kind, torch.Tensor):
        return _write_tensor
    pandas: Any = loaded("pandas", "api")
    if pandas is not None and _codec_pandas.is_pandas(pandas, kind):
        return _write_pandas
    arrow: Any = loaded("pyarrow", "Table")
    return _write_arrow if arrow is not None and _codec_arrow.is_arrow(arrow, kind) else None


def _library_leaf(kind: type) -> Callable[[Writer, Any], Any] | None:
    """The same for NumPy's scalars and dtypes, and the zones of pytz."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic):
        return _write_scalar
    if numpy is not None and issubclass(kind, numpy.dtype):
        return _write_dtype
    pytz: Any = loaded("pytz", "timezone")
    return (
        _fields(codes.PYTZ_ZONE, _pytz_fields)
        if pytz is not None and issubclass(kind, pytz.tzinfo.BaseTzInfo)
        else None
    )


def _write_scalar(writer: Writer, value: Any) -> Any:
    numpy = sys.modules["numpy"]
    kind = type(value)
    if kind is numpy.str_:
        return [codes.MARKS[codes.TEXT_SCALAR], writer.write(str.__str__(value), (), MAX_DEPTH)]
    if kind is numpy.bytes_:
        return [codes.MARKS[codes.BYTES_SCALAR], bytes(value)]
    description = arrays.describe_dtype(value.dtype)
    if kind is not value.dtype.type:
        raise Unstorable(kind)
    return [codes.MARKS[codes.SCALAR], description, value.tobytes()]


def _write_dtype(writer: Writer, value: Any) -> Any:
    return [codes.MARKS[codes.DTYPE], arrays.describe_dtype(value)]


def _fields(code: int, fields: Callable[[Any], Iterable[Any]]) -> Callable[[Writer, Any], Any]:
    """The writer of a leaf that is made again from these fields, which are leaves themselves."""

    def write(writer: Writer, value: Any) -> Any:
        members = tuple(fields(value))
        if any(type(member) in _SHARED for member in members):  # a slice of anything
            raise Unstorable(type(value))
        return [codes.MARKS[code], *[writer.write(member, (), MAX_DEPTH) for member in members]]

    return write


def _time_fields(value: Any) -> tuple[Any, ...]:
    return value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold


def _zone_offset(value: datetime.timezone) -> tuple[Any, ...]:
    """(offset,), or (offset, name) if it was given one."""
    offset, name = value.utcoffset(None), value.tzname(None)
    return (offset,) if name == datetime.timezone(offset).tzname(None) else (offset, name)


def _zone_fields(value: zoneinfo.ZoneInfo) -> tuple[str]:
    try:
        if value.key is not None and zoneinfo.ZoneInfo(value.key) is value:
            return (value.key,)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        pass  # it came from a file and bears a name of its own
    raise Unstorable(type(value))


def _pytz_fields(value: Any) -> tuple[str]:
    """The name of a zone as pytz gives it; one that belongs to a moment (of ``localize``) is another object, and is refused."""
    if value.zone in sys.modules["pytz"].all_timezones_set and sys.modules["pytz"].timezone(value.zone) is value:
        return (value.zone,)
    raise Unstorable(type(value))


_LEAVES: dict[type, Callable[[Writer, Any], Any]] = {
    complex: lambda writer, value: codes.Ext(codes.COMPLEX, struct.pack("<dd", value.real, value.imag)),
    type(Ellipsis): _fields(codes.ELLIPSIS, lambda value: ()),
    slice: _fields(codes.SLICE, lambda value: (value.start, value.stop, value.step)),
    range: _fields(codes.RANGE, lambda value: (value.start, value.stop, value.step)),
    datetime.date: _fields(codes.DATE, lambda value: (value.year, value.month, value.day)),
    datetime.time: _fields(codes.TIME, _time_fields),
    datetime.datetime: _fields(
        codes.DATETIME, lambda value: (value.year, value.month, value.day, *_time_fields(value))
    ),
    datetime.timedelta: _fields(codes.TIMEDELTA, lambda value: (value.days, value.seconds, value.microseconds)),
    datetime.timezone: _fields(codes.TIMEZONE, lambda value: _zone_offset(value)),
    zoneinfo.ZoneInfo: _fields(codes.ZONE_INFO, _zone_fields),
    decimal.Decimal: _fields(codes.DECIMAL, lambda value: (str(value),)),
    fractions.Fraction: _fields(codes.FRACTION, lambda value: (value.numerator, value.denominator)),
    uuid.UUID: _fields(codes.UUID, lambda value: (value.bytes, value.is_safe.value)),
    **{
        kind: _fields(codes.PATH, lambda value: (codes.PATH_NAMES[type(value)], str(value)))
        for kind in codes.PATH_NAMES
    },
}
