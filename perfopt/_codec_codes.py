"""What the numbers of the extensions in a stored structure mean: never renumber them, they stand on disk.

Structures are MessagePack (by msgspec, which checks every length). A MessagePack array is a list, a map is a dict whose keys are
all str; an array whose first element is an empty extension (a *marker*) is what the marker says: a tuple, a set, a date.
Extensions with content are values that MessagePack has no word for (integers beyond 64 bits), or references to an object that
came before, so that shared objects stay shared. What a marker may stand for is a fixed table in ``_codec_read.py``: bytes on disk
name no class and call nothing.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import msgspec

Ext = msgspec.msgpack.Ext

PLAIN = frozenset({type(None), bool, float, bytes})  # they stand as they are

# Extensions with content.
BIG_INT, SURROGATES, COMPLEX, BYTEARRAY, REFERENCE = 1, 2, 3, 4, 5
# Markers. Up to LAST_SHARED, the objects count for references, as lists and dicts do.
TUPLE, SET, FROZENSET, DICT, ORDERED_DICT, DEQUE, ARRAY, TENSOR, TABLE = range(32, 41)
LAST_SHARED = 63
ELLIPSIS, SLICE, RANGE, DATE, TIME, DATETIME, TIMEDELTA, TIMEZONE, ZONE_INFO = range(64, 73)
DECIMAL, FRACTION, UUID, PATH, SCALAR, TEXT_SCALAR, BYTES_SCALAR, DTYPE, PYTZ_ZONE = range(73, 82)

PATHS = {
    "posix": pathlib.PosixPath,
    "pure posix": pathlib.PurePosixPath,
    "windows": pathlib.WindowsPath,
    "pure windows": pathlib.PureWindowsPath,
}
PATH_NAMES: dict[type, str] = {kind: name for name, kind in PATHS.items()}


class Marker(NamedTuple):
    """An empty extension, which says what the array around it is."""

    code: int


MARKERS = {code: Marker(code) for code in (*range(TUPLE, TABLE + 1), *range(ELLIPSIS, PYTZ_ZONE + 1))}
MARKS = {code: Ext(code, b"") for code in MARKERS}


class Reference(NamedTuple):
    """An object that came before, by its number."""

    number: int
