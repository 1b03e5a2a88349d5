"""The way back from MessagePack and slots to values (see ``_codec_codes.py``): only what the tables here list is ever made.

Hostile bytes give an exception, never more memory than a small multiple of their length, and no recursion beyond the limit of the
interpreter. NumPy, PyTorch and ml_dtypes are imported when bytes of theirs are read.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import struct
import uuid
import zoneinfo
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec

from perfopt import _codec_arrays as arrays
from perfopt import _codec_arrow, _codec_pandas
from perfopt import _codec_codes as codes


class Reader:
    """The way back. Without a marker, what msgspec decoded is the value; else one walk puts the marked objects in place."""

    def __init__(
        self, data: memoryview, spans: dict[str, tuple[int, int]], table: _codec_arrow.Content | None = None
    ) -> None:
        self.data = data
        self.frozen = data.toreadonly()
        self.spans = spans
        self.table = table  # the one that is the whole payload
        self.marked = False
        self.objects: list[Any] = []
        self.key_depth = 0

    def read(self, packed: bytes | memoryview) -> Any:
        value = msgspec.msgpack.decode(packed, ext_hook=self.extension)
        return self.place(value) if self.marked else value

    def extension(self, code: int, content: memoryview) -> Any:
        if code in codes.MARKERS and not content:
            self.marked = True
            return codes.MARKERS[code]
        if code == codes.REFERENCE:
            self.marked = True
            return codes.Reference(_integer(msgspec.msgpack.decode(content)))
        if code == codes.BIG_INT:
            return int.from_bytes(content, "little", signed=True)
        if code == codes.SURROGATES:
            return str(content, "utf-8", "surrogatepass")
        if code == codes.COMPLEX:
            return complex(*struct.unpack("<dd", content))
        if code == codes.BYTEARRAY:
            self.marked = True  # it counts for references
            return bytearray(content)
        raise ValueError("an unknown extension")

    def place(self, value: Any) -> Any:
        kind = type(value)
        if kind is list:
            if value and type(value[0]) is codes.Marker:
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
        if kind is codes.Reference:
            found = _UNFINISHED if self.key_depth else self.objects[value.number]
            if found is _UNFINISHED:
                raise ValueError("a reference to an object around it, or inside a key")
            return found
        if kind is bytearray:
            return self.finish(self.reserve(), value)
        if kind is codes.Marker:
            raise ValueError("a marker out of place")
        return value

    def place_marked(self, code: int, value: list[Any]) -> Any:
        number = self.reserve() if code <= codes.LAST_SHARED else -1
        if code in _RAW:
            fields = value[1:]
        elif code == codes.TABLE:
            fields = [value[1], value[2], *(self.place(item) for item in value[3:])]  # a name, a description, values
        elif code in (codes.SET, codes.FROZENSET):
            fields = [self.place_key(element) for element in value[1:]]
        elif code in (codes.DICT, codes.ORDERED_DICT):
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


_RAW = frozenset({codes.ARRAY, codes.TENSOR, codes.SCALAR, codes.DTYPE})  # their fields describe, and are no values
_UNFINISHED = object()
_UNMARKED = codes.PLAIN | {int, str, complex}


def _integer(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not an index")
    return value


def _checked(kind: Callable[..., Any], *accepted: type | tuple[type, ...]) -> Callable[[Reader, list[Any]], Any]:
    """The maker of an object from fields of exactly these types."""

    def make(reader: Reader, fields: list[Any]) -> Any:
        for field, types in zip(fields, accepted, strict=True):
            if type(field) not in (types if isinstance(types, tuple) else (types,)):
                raise ValueError("a field of a wrong type")
        return kind(*fields)

    return make


def _make_dict(kind: type) -> Callable[[Reader, list[Any]], Any]:
    def make(reader: Reader, items: list[Any]) -> Any:
        made = kind(zip(items[::2], items[1::2], strict=True))
        if len(made) != len(items) // 2:
            raise ValueError("a key that is there twice")
        return made

    return make


def _make_set(kind: type) -> Callable[[Reader, list[Any]], Any]:
    def make(reader: Reader, items: list[Any]) -> Any:
        made = kind(items)
        if len(made) != len(items):
            raise ValueError("an element that is there twice")
        return made

    return make


def _make_deque(reader: Reader, items: list[Any]) -> Any:
    if items[0] is not None and _integer(items[0]) < len(items) - 1:
        raise ValueError("a deque longer than its bound")
    return deque(items[1:], items[0])


def _make_array(reader: Reader, fields: list[Any]) -> Any:
    name, *description = fields
    return arrays.slot_array(reader.frozen, reader.span(name), *description)


def _make_tensor(reader: Reader, fields: list[Any]) -> Any:
    name, *description = fields
    if reader.key_depth:
        raise ValueError("a tensor as a key")
    return arrays.slot_tensor(reader.data, reader.span(name), *description)


def _make_table(reader: Reader, fields: list[Any]) -> Any:
    name, (library, *description), *values = fields
    if reader.table is not None:
        content, reader.table = reader.table, None  # the stream is one table's only
    else:
        begin, end = reader.span(name)
        content = _codec_arrow.read(reader.frozen[begin:end])
    if library == "pandas":
        return _codec_pandas.restore(content, description, values)
    return _codec_arrow.restore(content, description)


def _make_pytz_zone(name: str) -> Any:
    import pytz

    if name not in pytz.all_timezones_set:
        raise ValueError("not a zone of pytz")
    return pytz.timezone(name)


def _make_scalar(reader: Reader, fields: list[Any]) -> Any:
    description, content = fields
    array = arrays.view_array(memoryview(content), 0, len(content), arrays.restore_dtype(description), (), False)
    return array.copy()[()]


def _make_text_scalar(value: str) -> Any:
    import numpy

    return numpy.str_(value)


def _make_bytes_scalar(value: bytes) -> Any:
    import numpy

    return numpy.bytes_(value)


def _make_dtype(reader: Reader, fields: list[Any]) -> Any:
    (description,) = fields
    return arrays.restore_dtype(description)


def _make_time(*fields: Any) -> datetime.time:
    return datetime.time(*fields[:-1], fold=fields[-1])


def _make_datetime(*fields: Any) -> datetime.datetime:
    return datetime.datetime(*fields[:-1], fold=fields[-1])


_ZONE = (type(None), datetime.timezone, zoneinfo.ZoneInfo)
_TIME_OF_DAY = (int, int, int, int, _ZONE, int)
_INDEX = (type(None), int)

_MAKERS: dict[int, Callable[[Reader, list[Any]], Any]] = {
    codes.TUPLE: lambda reader, items: tuple(items),
    codes.SET: _make_set(set),
    codes.FROZENSET: _make_set(frozenset),
    codes.DICT: _make_dict(dict),
    codes.ORDERED_DICT: _make_dict(OrderedDict),
    codes.DEQUE: _make_deque,
    codes.ARRAY: _make_array,
    codes.TENSOR: _make_tensor,
    codes.TABLE: _make_table,
    codes.ELLIPSIS: _checked(lambda: ...),
    codes.SLICE: lambda reader, fields: slice(*fields),
    codes.RANGE: _checked(range, int, int, int),
    codes.DATE: _checked(datetime.date, int, int, int),
    codes.TIME: _checked(_make_time, *_TIME_OF_DAY),
    codes.DATETIME: _checked(_make_datetime, int, int, int, *_TIME_OF_DAY),
    codes.TIMEDELTA: _checked(datetime.timedelta, int, int, int),
    codes.TIMEZONE: lambda reader, fields: datetime.timezone(*fields),
    codes.ZONE_INFO: _checked(zoneinfo.ZoneInfo, str),
    codes.DECIMAL: _checked(decimal.Decimal, str),
    codes.FRACTION: _checked(fractions.Fraction, int, int),
    codes.UUID: _checked(lambda content, safe: uuid.UUID(bytes=content, is_safe=uuid.SafeUUID(safe)), bytes, _INDEX),
    codes.PATH: _checked(lambda name, path: codes.PATHS[name](path), str, str),
    codes.SCALAR: _make_scalar,
    codes.TEXT_SCALAR: _checked(_make_text_scalar, str),
    codes.BYTES_SCALAR: _checked(_make_bytes_scalar, bytes),
    codes.DTYPE: _make_dtype,
    codes.PYTZ_ZONE: _checked(_make_pytz_zone, str),
}
