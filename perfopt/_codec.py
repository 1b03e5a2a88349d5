"""How Python values become bytes of the disk tier, and how they come back: equal, of the same types, nothing executed.

The scalars that are stored most (None, bool, 64-bit int, float, str, bytes) are encoded in ``disk_tier.c`` and never come here.
``encode`` turns everything else into *(kind, file suffix, item bytes, buffers)*; ``decode`` turns a kind and bytes back. Kinds:

=============  =========================================================================================================
``npy/1``      one NumPy array: a ``.npy`` file whose data begins at a multiple of 64 bytes
``arrays/1``   a value with arrays inside: a ``.safetensors`` file; the structure around them is in its ``__metadata__``
``tensors/1``  the same with PyTorch tensors inside (to be mapped writable and private: PyTorch has no read-only tensors)
``struct/1``   a value without arrays: MessagePack, see below
``pickle/1``   HMAC-SHA256 of the user's key over context and pickle, then the pickle
=============  =========================================================================================================

Structures are MessagePack (by msgspec, which checks every length). A MessagePack array is a list, a map is a dict whose keys are
all str; an array whose first element is an empty extension (a *marker*) is what the marker says: a tuple, a set, a date.
Extensions with content are values that MessagePack has no word for (integers beyond 64 bits), or references to an object that
came before, so that shared objects stay shared. What a marker may stand for is a fixed table in this file: bytes on disk
name no class and call nothing.

Hostile bytes give a ValueError, never more memory than a small multiple of their length, and no recursion beyond the limit of the
interpreter.
NumPy, PyTorch and ml_dtypes are imported when bytes of theirs are read, never to write.

Ownership: arrays are read-only views of the buffer that ``decode`` was given, tensors share its (private) memory; both keep it
alive.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import hmac
import pathlib
import pickle
import struct
import sys
import uuid
import zoneinfo
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from perfopt import _codec_arrays as arrays
from perfopt._codec_arrays import Unstorable

Encoded = tuple[str, str, int, tuple[Any, ...]]
Path = tuple[Any, ...]  # (parent's path, key), from the inside out; () is the root

MAX_DEPTH = 100
_MAC_BYTES = 32
_INT_MIN, _INT_END = -(2**63), 2**64
_PLAIN = frozenset({type(None), bool, float, bytes})

_Ext = msgspec.msgpack.Ext
_pack = msgspec.msgpack.encode


# ---- what stands on disk: never renumber ---------------------------------------------------------------------------------------

# Extensions with content.
_BIG_INT, _SURROGATES, _COMPLEX, _BYTEARRAY, _REFERENCE = 1, 2, 3, 4, 5
# Markers. Up to _LAST_SHARED, the objects count for references, as lists and dicts do.
_TUPLE, _SET, _FROZENSET, _DICT, _ORDERED_DICT, _DEQUE, _ARRAY, _TENSOR = 32, 33, 34, 35, 36, 37, 38, 39
_LAST_SHARED = 63
_ELLIPSIS, _SLICE, _RANGE, _DATE, _TIME, _DATETIME, _TIMEDELTA, _TIMEZONE, _ZONE_INFO = range(64, 73)
_DECIMAL, _FRACTION, _UUID, _PATH, _SCALAR, _TEXT_SCALAR, _BYTES_SCALAR, _DTYPE = range(73, 81)

_PATHS = {
    "posix": pathlib.PosixPath,
    "pure posix": pathlib.PurePosixPath,
    "windows": pathlib.WindowsPath,
    "pure windows": pathlib.PureWindowsPath,
}
_PATH_NAMES: dict[type, str] = {kind: name for name, kind in _PATHS.items()}


class _Marker(NamedTuple):
    """An empty extension, which says what the array around it is."""

    code: int


_MARKERS = {code: _Marker(code) for code in (*range(_TUPLE, _TENSOR + 1), *range(_ELLIPSIS, _DTYPE + 1))}
_MARKS = {code: _Ext(code, b"") for code in _MARKERS}


class _Reference(NamedTuple):
    """An object that came before, by its number."""

    number: int


# ---- writing -------------------------------------------------------------------------------------------------------------------


class _Writer:
    """One value on its way to plain MessagePack values; arrays are set aside as slots."""

    def __init__(self) -> None:
        self.slots: list[arrays.Slot] = []
        self.names: set[str] = set()
        self.has_tensors = False
        self.seen: dict[int, tuple[int, Any]] = {}  # id: (index, the object, so that the id stays taken)
        self.open: set[int] = set()  # ids of the containers around the current value
        self.key_depth = 0  # within keys and elements of sets, nothing is shared: see write_key()

    def write(self, value: Any, path: Path, depth: int) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int:
            return value if _INT_MIN <= value < _INT_END else _Ext(_BIG_INT, _int_bytes(value))
        if kind is str:
            return (
                value
                if value.isascii() or _is_utf8(value)
                else _Ext(_SURROGATES, value.encode("utf-8", "surrogatepass"))
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
                return _Ext(_REFERENCE, _pack(seen[0]))
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


_SharedWriter = Callable[[_Writer, Any, Path, int], Any]


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
    if kinds <= _PLAIN:
        return True
    if kinds == {int}:
        return bool(min(values) >= _INT_MIN and max(values) < _INT_END)
    return kinds == {str} and all(value.isascii() for value in values)


def _write_list(writer: _Writer, value: list[Any], path: Path, depth: int) -> Any:
    values = value.copy()
    return values if _all_plain(values) else writer.items(values, path, depth)


def _sequence(code: int) -> _SharedWriter:
    def write(writer: _Writer, value: Any, path: Path, depth: int) -> Any:
        return [_MARKS[code], *writer.items(tuple(value), path, depth)]

    return write


def _elements(code: int) -> _SharedWriter:
    def write(writer: _Writer, value: Any, path: Path, depth: int) -> Any:
        return [_MARKS[code], *[writer.write_key(element, depth) for element in tuple(value)]]

    return write


def _pairs(writer: _Writer, items: tuple[tuple[Any, Any], ...], path: Path, depth: int) -> list[Any]:
    written = []
    for key, item in items:
        written.append(writer.write_key(key, depth))
        written.append(writer.write(item, (path, key), depth))
    return written


def _write_dict(writer: _Writer, value: dict[Any, Any], path: Path, depth: int) -> Any:
    items = tuple(value.items())  # one look: other threads may add keys of other types
    if all(type(key) is str and (key.isascii() or _is_utf8(key)) for key, _ in items):
        return {key: writer.write(item, (path, key), depth) for key, item in items}
    return [_MARKS[_DICT], *_pairs(writer, items, path, depth)]


def _write_ordered_dict(writer: _Writer, value: OrderedDict[Any, Any], path: Path, depth: int) -> Any:
    if value.__dict__:
        raise Unstorable(arrays.named_culprit("OrderedDict with attributes"))
    return [_MARKS[_ORDERED_DICT], *_pairs(writer, tuple(value.items()), path, depth)]


def _write_deque(writer: _Writer, value: deque[Any], path: Path, depth: int) -> Any:
    return [_MARKS[_DEQUE], value.maxlen, *writer.items(tuple(value), path, depth)]


def _write_array(writer: _Writer, value: Any, path: Path, depth: int) -> Any:
    slot, description = arrays.array_slot(writer.slot_name(path), value)
    writer.slots.append(slot)
    return [_MARKS[_ARRAY], slot.name, *description]


def _write_tensor(writer: _Writer, value: Any, path: Path, depth: int) -> Any:
    if writer.key_depth:  # it is a key by its identity, which nothing brings back
        raise Unstorable(type(value))
    slot, description = arrays.tensor_slot(writer.slot_name(path), value)
    writer.slots.append(slot)
    writer.has_tensors = True
    return [_MARKS[_TENSOR], slot.name, *description]


_SHARED: dict[type, _SharedWriter] = {
    list: _write_list,
    tuple: _sequence(_TUPLE),
    dict: _write_dict,
    set: _elements(_SET),
    frozenset: _elements(_FROZENSET),
    OrderedDict: _write_ordered_dict,
    deque: _write_deque,
    bytearray: lambda writer, value, path, depth: _Ext(_BYTEARRAY, bytes(value)),
}


def _library_writer(kind: type) -> _SharedWriter | None:
    """The writer for a type of NumPy or PyTorch, which exist only once their library is loaded."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.ndarray):
        return _write_array
    torch: Any = sys.modules.get("torch")
    return _write_tensor if torch is not None and issubclass(kind, torch.Tensor) else None


def _library_leaf(kind: type) -> Callable[[_Writer, Any], Any] | None:
    """The same for NumPy's scalars and dtypes."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic):
        return _write_scalar
    return _write_dtype if numpy is not None and issubclass(kind, numpy.dtype) else None


def _write_scalar(writer: _Writer, value: Any) -> Any:
    numpy = sys.modules["numpy"]
    kind = type(value)
    if kind is numpy.str_:
        return [_MARKS[_TEXT_SCALAR], writer.write(str.__str__(value), (), MAX_DEPTH)]
    if kind is numpy.bytes_:
        return [_MARKS[_BYTES_SCALAR], bytes(value)]
    description = arrays.describe_dtype(value.dtype)
    if kind is not value.dtype.type:
        raise Unstorable(kind)
    return [_MARKS[_SCALAR], description, value.tobytes()]


def _write_dtype(writer: _Writer, value: Any) -> Any:
    return [_MARKS[_DTYPE], arrays.describe_dtype(value)]


def _fields(code: int, fields: Callable[[Any], Iterable[Any]]) -> Callable[[_Writer, Any], Any]:
    """The writer of a leaf that is made again from these fields, which are leaves themselves."""

    def write(writer: _Writer, value: Any) -> Any:
        members = tuple(fields(value))
        if any(type(member) in _SHARED for member in members):  # a slice of anything
            raise Unstorable(type(value))
        return [_MARKS[code], *[writer.write(member, (), MAX_DEPTH) for member in members]]

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


_LEAVES: dict[type, Callable[[_Writer, Any], Any]] = {
    complex: lambda writer, value: _Ext(_COMPLEX, struct.pack("<dd", value.real, value.imag)),
    type(Ellipsis): _fields(_ELLIPSIS, lambda value: ()),
    slice: _fields(_SLICE, lambda value: (value.start, value.stop, value.step)),
    range: _fields(_RANGE, lambda value: (value.start, value.stop, value.step)),
    datetime.date: _fields(_DATE, lambda value: (value.year, value.month, value.day)),
    datetime.time: _fields(_TIME, _time_fields),
    datetime.datetime: _fields(_DATETIME, lambda value: (value.year, value.month, value.day, *_time_fields(value))),
    datetime.timedelta: _fields(_TIMEDELTA, lambda value: (value.days, value.seconds, value.microseconds)),
    datetime.timezone: _fields(_TIMEZONE, lambda value: _zone_offset(value)),
    zoneinfo.ZoneInfo: _fields(_ZONE_INFO, _zone_fields),
    decimal.Decimal: _fields(_DECIMAL, lambda value: (str(value),)),
    fractions.Fraction: _fields(_FRACTION, lambda value: (value.numerator, value.denominator)),
    uuid.UUID: _fields(_UUID, lambda value: (value.bytes, value.is_safe.value)),
    **{kind: _fields(_PATH, lambda value: (_PATH_NAMES[type(value)], str(value))) for kind in _PATH_NAMES},
}


# ---- reading -------------------------------------------------------------------------------------------------------------------


class _Reader:
    """The way back. Without a marker, what msgspec decoded is the value; else one walk puts the marked objects in place."""

    def __init__(self, data: memoryview, spans: dict[str, tuple[int, int]]) -> None:
        self.data = data
        self.frozen = data.toreadonly()
        self.spans = spans
        self.marked = False
        self.objects: list[Any] = []
        self.key_depth = 0

    def read(self, packed: bytes | memoryview) -> Any:
        value = msgspec.msgpack.decode(packed, ext_hook=self.extension)
        return self.place(value) if self.marked else value

    def extension(self, code: int, content: memoryview) -> Any:
        if code in _MARKERS and not content:
            self.marked = True
            return _MARKERS[code]
        if code == _REFERENCE:
            self.marked = True
            return _Reference(_integer(msgspec.msgpack.decode(content)))
        if code == _BIG_INT:
            return int.from_bytes(content, "little", signed=True)
        if code == _SURROGATES:
            return str(content, "utf-8", "surrogatepass")
        if code == _COMPLEX:
            return complex(*struct.unpack("<dd", content))
        if code == _BYTEARRAY:
            self.marked = True  # it counts for references
            return bytearray(content)
        raise ValueError("an unknown extension")

    def place(self, value: Any) -> Any:
        kind = type(value)
        if kind is list:
            if value and type(value[0]) is _Marker:
                return self.place_marked(value[0].code, value)
            number = self.reserve()
            if not set(map(type, value)) <= _UNMARKED:
                value[:] = [self.place(item) for item in value]
            return self.finish(number, value)
        if kind is dict:
            number = self.reserve()
            for key, item in value.items():
                if type(key) is not str:
                    raise ValueError("a map with a key that is no str")
                value[key] = self.place(item)
            return self.finish(number, value)
        if kind is _Reference:
            found = _UNFINISHED if self.key_depth else self.objects[value.number]
            if found is _UNFINISHED:
                raise ValueError("a reference to an object around it, or inside a key")
            return found
        if kind is bytearray:
            return self.finish(self.reserve(), value)
        if kind is _Marker:
            raise ValueError("a marker out of place")
        return value

    def place_marked(self, code: int, value: list[Any]) -> Any:
        number = self.reserve() if code <= _LAST_SHARED else -1
        if code in _RAW:
            fields = value[1:]
        elif code in (_SET, _FROZENSET):
            fields = [self.place_key(element) for element in value[1:]]
        elif code in (_DICT, _ORDERED_DICT):
            fields = [self.place(item) if at % 2 else self.place_key(item) for at, item in enumerate(value[1:])]
        else:
            fields = [self.place(item) for item in value[1:]]
        return self.finish(number, _MAKERS[code](self, fields))

    def place_key(self, value: Any) -> Any:
        self.key_depth += 1
        placed = self.place(value)
        self.key_depth -= 1
        return placed

    def reserve(self) -> int:
        """The number of an object whose members are still to come; -1 in a key, where nothing is numbered."""
        if self.key_depth:
            return -1
        self.objects.append(_UNFINISHED)
        return len(self.objects) - 1

    def finish(self, number: int, value: Any) -> Any:
        if number >= 0:
            self.objects[number] = value
        return value

    def span(self, name: Any) -> tuple[int, int]:
        return self.spans[name]


_RAW = frozenset({_ARRAY, _TENSOR, _SCALAR, _DTYPE})  # their fields describe, and are no values
_UNFINISHED = object()
_UNMARKED = _PLAIN | {int, str, complex}


def _integer(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not an index")
    return value


def _checked(kind: Callable[..., Any], *accepted: type | tuple[type, ...]) -> Callable[[_Reader, list[Any]], Any]:
    """The maker of an object from fields of exactly these types."""

    def make(reader: _Reader, fields: list[Any]) -> Any:
        for field, types in zip(fields, accepted, strict=True):
            if type(field) not in (types if isinstance(types, tuple) else (types,)):
                raise ValueError("a field of a wrong type")
        return kind(*fields)

    return make


def _make_dict(kind: type) -> Callable[[_Reader, list[Any]], Any]:
    def make(reader: _Reader, items: list[Any]) -> Any:
        made = kind(zip(items[::2], items[1::2], strict=True))
        if len(made) != len(items) // 2:
            raise ValueError("a key that is there twice")
        return made

    return make


def _make_set(kind: type) -> Callable[[_Reader, list[Any]], Any]:
    def make(reader: _Reader, items: list[Any]) -> Any:
        made = kind(items)
        if len(made) != len(items):
            raise ValueError("an element that is there twice")
        return made

    return make


def _make_deque(reader: _Reader, items: list[Any]) -> Any:
    if items[0] is not None and _integer(items[0]) < len(items) - 1:
        raise ValueError("a deque longer than its bound")
    return deque(items[1:], items[0])


def _make_array(reader: _Reader, fields: list[Any]) -> Any:
    name, *description = fields
    return arrays.slot_array(reader.frozen, reader.span(name), *description)


def _make_tensor(reader: _Reader, fields: list[Any]) -> Any:
    name, *description = fields
    if reader.key_depth:
        raise ValueError("a tensor as a key")
    return arrays.slot_tensor(reader.data, reader.span(name), *description)


def _make_scalar(reader: _Reader, fields: list[Any]) -> Any:
    description, content = fields
    array = arrays.view_array(memoryview(content), 0, len(content), arrays.restore_dtype(description), (), False)
    return array.copy()[()]


def _make_text_scalar(value: str) -> Any:
    import numpy

    return numpy.str_(value)


def _make_bytes_scalar(value: bytes) -> Any:
    import numpy

    return numpy.bytes_(value)


def _make_dtype(reader: _Reader, fields: list[Any]) -> Any:
    (description,) = fields
    return arrays.restore_dtype(description)


def _make_time(*fields: Any) -> datetime.time:
    return datetime.time(*fields[:-1], fold=fields[-1])


def _make_datetime(*fields: Any) -> datetime.datetime:
    return datetime.datetime(*fields[:-1], fold=fields[-1])


_ZONE = (type(None), datetime.timezone, zoneinfo.ZoneInfo)
_TIME_OF_DAY = (int, int, int, int, _ZONE, int)
_INDEX = (type(None), int)

_MAKERS: dict[int, Callable[[_Reader, list[Any]], Any]] = {
    _TUPLE: lambda reader, items: tuple(items),
    _SET: _make_set(set),
    _FROZENSET: _make_set(frozenset),
    _DICT: _make_dict(dict),
    _ORDERED_DICT: _make_dict(OrderedDict),
    _DEQUE: _make_deque,
    _ARRAY: _make_array,
    _TENSOR: _make_tensor,
    _ELLIPSIS: _checked(lambda: ...),
    _SLICE: lambda reader, fields: slice(*fields),
    _RANGE: _checked(range, int, int, int),
    _DATE: _checked(datetime.date, int, int, int),
    _TIME: _checked(_make_time, *_TIME_OF_DAY),
    _DATETIME: _checked(_make_datetime, int, int, int, *_TIME_OF_DAY),
    _TIMEDELTA: _checked(datetime.timedelta, int, int, int),
    _TIMEZONE: lambda reader, fields: datetime.timezone(*fields),
    _ZONE_INFO: _checked(zoneinfo.ZoneInfo, str),
    _DECIMAL: _checked(decimal.Decimal, str),
    _FRACTION: _checked(fractions.Fraction, int, int),
    _UUID: _checked(lambda content, safe: uuid.UUID(bytes=content, is_safe=uuid.SafeUUID(safe)), bytes, _INDEX),
    _PATH: _checked(lambda name, path: _PATHS[name](path), str, str),
    _SCALAR: _make_scalar,
    _TEXT_SCALAR: _checked(_make_text_scalar, str),
    _BYTES_SCALAR: _checked(_make_bytes_scalar, bytes),
    _DTYPE: _make_dtype,
}


# ---- the two entries -----------------------------------------------------------------------------------------------------------


def encode(value: Any, pickle_key: bytes | None, context: bytes) -> Encoded:
    """The bytes of a value: (kind, suffix of a file, width of its items in bytes, buffers whose concatenation is the payload).

    The buffers look into the value where it is contiguous, so it must not change while they are used.

    Args:
        value: any object.
        pickle_key: the user's key, which allows a pickle where no safe format holds the value; None: no pickles.
        context: what the entry belongs to (its key); a pickle is only read under the same context.

    Raises:
        Unstorable: no safe format holds the value, and a pickle is not allowed or not possible either.
        Exception: what the value's own ``__reduce__`` or ``__getstate__`` raises; but a TypeError, AttributeError or
            RecursionError, with which pickle itself says no, becomes Unstorable.
    """
    try:
        return _encode_safely(value)
    except Unstorable as error:
        if pickle_key is None:
            raise
        return _encode_pickle(value, pickle_key, context, error)


def _encode_safely(value: Any) -> Encoded:
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray:
        descr = arrays.npy_descr(value.dtype)
        if descr is not None:
            data, fortran = arrays.array_bytes(value), arrays.is_fortran(value)
            return "npy/1", ".npy", value.itemsize, (arrays.npy_header(descr, fortran, value.shape), data)
    writer = _Writer()
    try:
        packed = _pack(writer.write(value, (), 0))
    except RecursionError:
        raise Unstorable(
            arrays.named_culprit(f"{type(value).__name__} nested too deep for what is left of the stack")
        ) from None
    except OverflowError:  # msgspec's word for a member of 4 GiB
        raise Unstorable(arrays.named_culprit(f"{type(value).__name__} with a member of 4 GiB or more")) from None
    if not writer.slots:
        return "struct/1", ".msgpack", 1, (packed,)
    widths = {slot.item_bytes for slot in writer.slots}
    kind = "tensors/1" if writer.has_tensors else "arrays/1"
    return kind, ".safetensors", widths.pop() if len(widths) == 1 else 1, arrays.pack(writer.slots, packed)


def _mac(key: bytes, context: bytes, pickled: bytes) -> bytes:
    """context is preceded by its length, so that nothing can move from it into the pickle."""
    mac = hmac.new(key, b"perfopt pickle/1\0" + struct.pack("<Q", len(context)) + context, "sha256")
    mac.update(pickled)
    return mac.digest()


def _encode_pickle(value: Any, key: bytes, context: bytes, error: Unstorable) -> Encoded:
    try:
        pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        raise error from None
    return "pickle/1", ".pickle", 1, (_mac(key, context, pickled), pickled)


def _decode_pickle(data: memoryview, key: bytes | None, context: bytes) -> Any:
    if key is None:
        raise ValueError("a pickle, which no key allows")
    pickled = bytes(
        data[_MAC_BYTES:]
    )  # a copy: what is checked is what is read, whoever may write to the file meanwhile
    if not hmac.compare_digest(bytes(data[:_MAC_BYTES]), _mac(key, context, pickled)):
        raise ValueError("a pickle that is not by this key")
    return pickle.loads(pickled)


def decode(kind: str, data: Any, pickle_key: bytes | None, context: bytes) -> Any:
    """The value of a payload.

    Args:
        kind: as encode() gave it.
        data: a buffer with the payload, which the value may look into and keep alive. For ``tensors/1`` it should be
            writable and private (tensors are copied out of one that is not).
        pickle_key: the user's key; None: a pickle is refused.
        context: as given to encode().

    Raises:
        ValueError: these are not the bytes of a value, or are of one that may not be read.
        MemoryError: out of memory.
    """
    try:
        return _decode(kind, memoryview(data), pickle_key, context)
    except MemoryError:
        raise
    except Exception as error:  # whatever hostile bytes, or the user's own unpickling, can raise
        raise ValueError(f"these bytes are no {kind} value: {error}") from error


def _decode(kind: str, data: memoryview, pickle_key: bytes | None, context: bytes) -> Any:
    if kind == "npy/1":
        return arrays.read_npy(data.toreadonly())
    if kind == "struct/1":  # a copy, as of every header: nobody shall change what was checked between two looks at it
        return _Reader(data, {}).read(bytes(data))
    if kind in ("arrays/1", "tensors/1"):
        structure, spans = arrays.unpack(data)
        return _Reader(data, spans).read(structure)
    if kind == "pickle/1":
        return _decode_pickle(data, pickle_key, context)
    raise ValueError("an unknown kind")
