"""Values to bytes and back: exact types, standard files, and bytes that lie."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import hmac
import io
import json
import math
import pathlib
import pickle
import re
import struct
import sys
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perfopt import _codec, _codec_arrays, _codec_codes
from perfopt._codec import Unstorable, decode, encode

KEY = b"sixteen bytes of key, at least"
CONTEXT = b"0123456789abcdef"


def without_address(value: Any) -> str:
    """A test's name that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def payload(value: Any, key: bytes | None = None) -> tuple[str, bytes]:
    kind, suffix, item_bytes, buffers = encode(value, key, CONTEXT)
    assert len(kind) <= 16
    assert len(suffix) <= 16
    assert item_bytes >= 0
    return kind, b"".join(bytes(buffer) for buffer in buffers)


def there_and_back(value: Any, key: bytes | None = None) -> Any:
    kind, data = payload(value, key)
    return decode(kind, bytearray(data), key, CONTEXT)


def float_bits(value: float) -> bytes:
    return struct.pack("<d", value)


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types all the way down, floats by their bits, arrays by dtype, shape, bytes and order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return float_bits(a) == float_bits(b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, list | tuple | deque):
        bound = not isinstance(a, deque) or a.maxlen == b.maxlen
        return bound and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, np.ndarray):
        return (
            same(a.dtype, b.dtype)
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
            and a.flags.fnc == b.flags.fnc
            and not b.flags.writeable
        )
    if isinstance(a, np.dtype):
        return (
            a == b
            and a.num == b.num
            and a.type is b.type
            and a.isalignedstruct == b.isalignedstruct
            and repr(a) == repr(b)
        )
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, datetime.time | datetime.datetime):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and same(a.tzinfo, b.tzinfo)
    if isinstance(a, decimal.Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, slice):
        return same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    return bool(a == b) and repr(a) == repr(b)


# ---- round trips ---------------------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()))
DTYPES = (
    hnp.scalar_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.datetime64_dtypes()
    | hnp.timedelta64_dtypes()
    | hnp.array_dtypes(allow_subarrays=True)
)
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True),
    ANY_TEXT,
    st.binary(max_size=40),
    st.complex_numbers(),
    st.dates(),
    st.times(timezones=st.none() | st.just(datetime.timezone.utc)),
    st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=True),
    st.timedeltas(),
    st.decimals(allow_nan=True).filter(lambda value: not value.is_snan()),
    st.fractions(),
    st.uuids(),
    st.builds(range, st.integers(), st.integers(), st.integers(min_value=1)),
    st.sampled_from([..., pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:\\d"), pathlib.Path("x")]),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.int64, st.integers(-5, 5)),
    st.builds(np.str_, ANY_TEXT),
    st.builds(np.bytes_, st.binary(max_size=9)),
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4), fill=st.nothing())
)
LEAVES = HASHABLE | ARRAYS | DTYPES | st.builds(bytearray, st.binary(max_size=9)) | st.builds(slice, st.integers())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(lambda items: deque(items, 5)),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4).map(OrderedDict),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_what_comes_back_is_equal_and_of_the_same_types(value: Any) -> None:
    assert same(value, there_and_back(value))


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        2**64,
        -(2**63) - 1,
        2**1000,
        "\ud800",
        "a\udfffé",
        {"\ud800": 1},
        {1: "a", "1": "c", b"1": None},
        {1.5: [()]},
        {(1, (2,)): {3: frozenset({4})}},
        [[], [[]], ((),)],
        {"b": 1, "a": 2},
        [True, 1, 1.0],
        [None, b"", bytearray(b"x")],
        struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf4\x7f")[0:1],
        [-0.0, math.inf, math.nan],
        decimal.Decimal("sNaN12"),
        decimal.Decimal("-0E+5"),
        datetime.timezone.utc,
        datetime.timezone(datetime.timedelta(hours=1)),
        datetime.timezone(datetime.timedelta(0), "zero"),
        zoneinfo.ZoneInfo("Europe/Paris"),
        datetime.time(1, fold=1),
        datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
        datetime.datetime.max,
        slice(None, 2),
        slice("a", np.int8(1), ...),
        uuid.UUID("1e32573c-e5bb-11f1-8f60-02fc00000001", is_safe=uuid.SafeUUID.safe),
        range(0, 2**70, 3),
        deque([1], 0),
        deque(maxlen=None),
        OrderedDict(a=OrderedDict()),
        np.longlong(3),
        np.datetime64("NaT", "25s"),
        np.timedelta64(3, "s"),
        np.str_("a\0"),
        np.bytes_(b"\0"),
        np.clongdouble(1),
        np.bool_(True),
        np.dtype("O").type and np.dtype(">f8"),
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        np.float64(math.nan),
    ],
    ids=repr,
)
def test_values_that_other_formats_change(value: Any) -> None:
    assert same(value, there_and_back(value))


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    base = np.arange(24.0).reshape(2, 3, 4)
    aligned = np.dtype([("a", "i1"), ("b", ">f8", (2,))], align=True)
    titled = np.dtype({"names": ["a"], "formats": ["<i4"], "titles": ["A"], "offsets": [4], "itemsize": 12})
    overlapping = np.dtype({"names": ["x", "y"], "formats": ["<i4", "<i2"], "offsets": [0, 2], "itemsize": 4})
    return {
        "c": base,
        "fortran": np.asfortranarray(base),
        "strided": base[:, ::2],
        "backwards": base[::-1],
        "permuted": base.transpose(1, 2, 0),
        "broadcast": np.broadcast_to(1.5, (3, 4)),
        "empty": np.zeros((0, 3)),
        "empty fortran": np.zeros((3, 0), order="F"),
        "scalar": np.array(7),
        "big": base.astype(">f8"),
        "half": base.astype("f2"),
        "long double": base.astype("g"),
        "complex": base.astype("c16"),
        "bool": base > 5,
        "text": np.array(["a", "bcdé"]),
        "bytes": np.array([b"a", b"bcd"]),
        "void": np.zeros(3, "V5"),
        "none wide": np.zeros(3, [("a", "S0"), ("b", "i4")])["a"],
        "no characters": np.ndarray(3, "U0"),
        "nothing wide": np.zeros(3, "V0"),
        "records": np.rec.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", ">f8")]).view(np.ndarray),
        "records inside": np.zeros(2, [("p", np.dtype((np.record, aligned)))]),
        "long long": np.zeros(3, np.longlong),
        "dates": np.array(["2020", "NaT"], "M8[25s]"),
        "generic": np.zeros(2, "m8"),
        "read only": np.frombuffer(b"1234", "u2"),
        "structured": np.array([(1, 2.5), (3, 4.5)], [("a", "<i4"), ("é", ">f8")]),
        "aligned": np.zeros(3, aligned),
        "titled": np.zeros(2, titled),
        "overlapping": np.ones(2, overlapping),
        "nested": np.zeros(2, [("p", [("q", "u1"), ("r", "S3")], 2)]),
        "greek": np.zeros(1, [("α", "f4")]),
        "unaligned": np.frombuffer(b"xabcdefgh", "<f8", offset=1),
    }


@pytest.mark.parametrize("name", arrays())
def test_arrays_keep_dtype_shape_bytes_and_order(name: str) -> None:
    array = arrays()[name]
    assert same(array, there_and_back(array))
    inside = {"a": (array, [1]), "again": array}
    back = there_and_back(inside)
    assert same(inside, back)
    assert back["a"][0] is back["again"]


def test_types_that_extend_numpy() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4):
        array = np.arange(4).astype(kind)
        back = there_and_back(array)
        assert back.dtype == array.dtype
        assert back.tobytes() == array.tobytes()


def test_shared_objects_stay_shared_and_large_trees_of_them_stay_small() -> None:
    shared: list[int] = []
    array = np.arange(3)
    back = there_and_back([shared, (shared, array), {"x": array, "y": bytearray(b"z")}])
    assert back[0] is back[1][0]
    assert back[1][1] is back[2]["x"]
    tree: list[Any] = []
    for _ in range(60):  # 2**60 lists to whoever walks it as a tree
        tree = [tree, tree]
    kind, data = payload(tree)
    assert len(data) < 1000
    back = decode(kind, data, None, CONTEXT)
    assert back[0] is back[1]


def test_nothing_in_a_key_is_shared() -> None:
    pair = (1, 2)
    value = [pair, {pair: pair, (pair, pair): {pair}}, frozenset({(pair,)}), [pair]]
    back = there_and_back(value)
    assert same(value, back)
    assert back[0] is back[3][0]
    laughs = msgspec.msgpack.encode([ext(_codec_codes.TUPLE)])
    parts = [msgspec.Raw(laughs)]
    for number in range(1, 60):  # each tuple holds the one before twice; hashing the last would take 2**60 steps
        reference = ext(_codec_codes.REFERENCE, msgspec.msgpack.encode(number))
        parts.append(msgspec.Raw(msgspec.msgpack.encode([ext(_codec_codes.TUPLE), reference, reference])))
    last = ext(_codec_codes.REFERENCE, msgspec.msgpack.encode(60))
    assert len(decode("struct/1", msgspec.msgpack.encode([*parts, last]), None, CONTEXT)) == 61
    for key in (
        [ext(_codec_codes.SET), last],
        [ext(_codec_codes.DICT), last, 1],
        [ext(_codec_codes.SET), [ext(_codec_codes.TUPLE), last]],
    ):
        with pytest.raises(ValueError, match="inside a key"):
            decode("struct/1", msgspec.msgpack.encode([*parts, key]), None, CONTEXT)


def test_a_dtype_with_too_many_fields_for_a_header_is_stored_all_the_same() -> None:
    array = np.zeros(2, [(f"field number {n}", "<f8") for n in range(2000)])
    assert payload(array)[0] == "arrays/1"
    assert same(array, there_and_back(array))


def test_one_array_is_a_npy_file_without_copying_it() -> None:
    for name, array in arrays().items():
        kind, suffix, item_bytes, buffers = encode(array, None, CONTEXT)
        if kind != "npy/1":
            assert name in ("aligned", "titled", "overlapping", "long long", "records", "records inside"), name
            continue
        header, data = buffers
        assert suffix == ".npy"
        assert item_bytes == array.itemsize
        assert len(header) % 64 == 0
        if array.flags.forc and array.nbytes:
            assert np.shares_memory(np.frombuffer(data, "u1"), array)
        loaded = np.load(io.BytesIO(header + bytes(data)), allow_pickle=False)
        assert loaded.dtype == array.dtype
        if array.dtype.names is None:  # NumPy's own reader leaves what is between fields as it was
            assert loaded.tobytes() == array.tobytes()
        assert array.dtype.names is None or (loaded == array).all()
        assert loaded.flags.fnc == array.flags.fnc


def test_renamed_fields_stay_with_the_array_that_was_got() -> None:
    array = np.array([(1, 2.5)], [("a", "<i4"), ("b", "<f4")])
    # A dtype can be changed in place: that of one array is no other array's.
    there_and_back(array).dtype.names = ("b", "a")
    assert there_and_back(array).dtype.names == ("a", "b")


def test_containers_are_safetensors_files() -> None:
    value = {
        "w": np.arange(6, dtype="f4").reshape(2, 3),
        "layers": [np.ones(3, "i8"), np.zeros(2, "M8[s]")],
        "w.1": np.ones(1),
    }
    kind, data = payload(value)
    assert kind == "arrays/1"
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 64 == 0
    header = json.loads(data[8 : 8 + length])
    assert header["w"] == {"dtype": "F32", "shape": [2, 3], "data_offsets": header["w"]["data_offsets"]}
    assert set(header) == {"__metadata__", "w", "layers.0", "layers.1", "w.1"}
    assert set(header["__metadata__"]) == {"perfopt"}
    begin, end = header["w"]["data_offsets"]
    assert data[8 + length + begin : 8 + length + end] == value["w"].tobytes()  # type: ignore[union-attr]


def test_slots_with_equal_or_odd_names_do_not_collide() -> None:
    value = {
        "a.b": np.ones(1),
        "a": {"b": np.zeros(1)},
        "__metadata__": np.ones(2),
        (1,): np.ones(3),
        "\ud800": np.ones(4),
        "": np.ones(5),
    }
    assert same(value, there_and_back(value))
    assert same({"__metadata__": np.ones(2)}, there_and_back({"__metadata__": np.ones(2)}))


def test_arrays_come_back_read_only_for_good() -> None:
    for value in (np.arange(3.0), [np.arange(3.0)]):
        back = there_and_back(value)
        array = back if isinstance(back, np.ndarray) else back[0]
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


# ---- what is refused -----------------------------------------------------------------------------------------------------------


class Color(enum.IntEnum):
    RED = 1


class Row(np.void):
    """A scalar class for structured arrays."""


class Text(str):
    __slots__ = ()


class Zone(datetime.tzinfo):
    pass


@dataclasses.dataclass
class Point:
    x: int


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        (Color.RED, Color),
        (Text("a"), Text),
        (Point(1), Point),
        (Pair(1, 2), Pair),
        (object(), object),
        (defaultdict(int), defaultdict),
        (Counter(), Counter),
        (int, type),
        (len, type(len)),
        (datetime.datetime(2020, 1, 1, tzinfo=Zone()), Zone),
        (memoryview(b""), memoryview),
        (np.ma.masked_array([1]), np.ma.MaskedArray),
        (np.recarray(1, "i4"), np.recarray),
        (slice([1]), slice),
        (iter([]), type(iter([]))),
        (np.array([None]), type(np.dtype("O"))),
        (np.zeros(1, [("a", "O")]), type(np.dtype([("a", "O")]))),
        (np.dtype("O"), type(np.dtype("O"))),
        (np.zeros(1, np.dtype(("i4", [("low", "i2"), ("high", "i2")]))), np.int32),
        (np.zeros(1, np.dtype((Row, [("a", "i4")]))), Row),
    ],
    ids=without_address,
)
def test_what_has_no_safe_format_is_refused_with_its_type(value: Any, culprit: type) -> None:
    for around in (value, [value], {"k": (value,)}):
        with pytest.raises(Unstorable) as error:
            encode(around, None, CONTEXT)
        assert error.value.culprit is culprit


def test_dtypes_with_metadata_are_refused_and_string_dtypes_named() -> None:
    with pytest.raises(Unstorable):
        encode(np.zeros(1, np.dtype("f8", metadata={"a": 1})), None, CONTEXT)
    if hasattr(np.dtypes, "StringDType"):
        with pytest.raises(Unstorable) as error:
            encode(np.array(["a"], np.dtypes.StringDType()), None, CONTEXT)
        assert error.value.culprit is np.dtypes.StringDType


def test_cycles_and_deep_nesting_are_refused() -> None:
    cycle: list[Any] = [1]
    cycle.append((cycle,))
    deep: Any = ()
    for _ in range(5000):
        deep = [deep]
    for value in (cycle, deep):
        with pytest.raises(Unstorable):
            encode(value, None, CONTEXT)


def test_what_is_too_deep_for_the_stack_that_is_left_is_refused() -> None:
    value: Any = ()
    for _ in range(90):
        value = [value]

    def dive(levels: int) -> None:
        if levels:
            dive(levels - 1)
        else:
            encode(value, None, CONTEXT)

    frames = len(list(iter_frames()))
    with pytest.raises(Unstorable):
        dive(sys.getrecursionlimit() - frames - 60)


def iter_frames() -> Any:
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


# ---- bytes that are damaged or lie ---------------------------------------------------------------------------------------------

SMALL = [
    {"a": (1, {2.5: [None, True, "x"]}), "b": 2**70},
    [
        datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
        uuid.UUID(int=5),
        decimal.Decimal("1.5"),
        fractions.Fraction(1, 3),
    ],
    np.arange(6, dtype="<i2").reshape(2, 3),
    np.zeros(2, [("a", "<i4"), ("b", "S3")]),
    {"w": np.arange(3, dtype="f4"), "n": (1, np.int8(3), np.dtype("f4"))},
]


@pytest.mark.parametrize("value", SMALL, ids=lambda value: type(value).__name__)
def test_every_truncation_is_an_error(value: Any) -> None:
    kind, data = payload(value)
    assert same(value, decode(kind, data, None, CONTEXT))
    for length in range(len(data)):
        with pytest.raises(ValueError, match="these bytes are no"):
            decode(kind, data[:length], None, CONTEXT)
    with pytest.raises(ValueError, match="these bytes are no"):
        decode(kind, data + b"\0", None, CONTEXT)


@pytest.mark.parametrize("value", SMALL, ids=lambda value: type(value).__name__)
def test_no_flipped_byte_does_more_than_raise_or_give_another_value(value: Any) -> None:
    """The engine's checksum makes a flip a miss; here it shows that the codec alone can only raise ValueError."""
    kind, data = payload(value)
    for position in range(len(data)):
        for bits in (0x01, 0x20, 0x80, 0xFF):
            flipped = bytearray(data)
            flipped[position] ^= bits
            with contextlib.suppress(ValueError):
                decode(kind, flipped, None, CONTEXT)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["npy/1", "arrays/1", "tensors/1", "struct/1", "pickle/1", "none/1", "", "npy/2"]),
    st.binary(max_size=200),
)
def test_random_bytes_raise_value_error_or_are_a_value(kind: str, data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(kind, data, KEY, CONTEXT)


def ext(code: int, content: bytes = b"") -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, content)


def marked(code: int, *fields: Any) -> bytes:
    return msgspec.msgpack.encode([ext(code), *fields])


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 100000,
        b"\x81\xa1a" * 100000,
        b"",
        b"\xc1",
        msgspec.msgpack.encode(ext(32)),
        msgspec.msgpack.encode([1, ext(32)]),
        msgspec.msgpack.encode(ext(99)),
        msgspec.msgpack.encode(ext(5, b"\x00")),
        msgspec.msgpack.encode([ext(5, b"\x00")]),
        msgspec.msgpack.encode([ext(5, b"\xff")]),
        msgspec.msgpack.encode([ext(5, b"\x05")]),
        msgspec.msgpack.encode(ext(3, b"1")),
        msgspec.msgpack.encode(ext(2, b"\xff")),
        msgspec.msgpack.encode({1: ext(5, b"\x00")}),
        marked(_codec_codes.SET, [1]),
        marked(_codec_codes.SET, 1, 1),
        marked(_codec_codes.DICT, 1),
        marked(_codec_codes.DICT, [], 1),
        marked(_codec_codes.DICT, 1, 2, 1, 2),
        marked(_codec_codes.DEQUE),
        marked(_codec_codes.DEQUE, -1),
        marked(_codec_codes.DEQUE, 1, 2, 3),
        marked(_codec_codes.DEQUE, "a"),
        marked(_codec_codes.ARRAY),
        marked(_codec_codes.ARRAY, "w", "<f8", [1], False),
        marked(_codec_codes.TENSOR, "w", "float32", [1], [0], False, False),
        marked(_codec_codes.DATE, 0, 0, 0),
        marked(_codec_codes.DATE, 2020, 1),
        marked(_codec_codes.DATE, "2020", 1, 1),
        marked(_codec_codes.DATE, b"\x07\xe4\x01\x01"),
        marked(_codec_codes.DATETIME, 2020, 1, 1, 0, 0, 0, 0, "UTC", 0),
        marked(_codec_codes.TIMEDELTA, 10**12, 0, 0),
        marked(_codec_codes.ZONE_INFO, "../../etc/passwd"),
        marked(_codec_codes.ZONE_INFO, "/etc/passwd"),
        marked(_codec_codes.FRACTION, 1, 0),
        marked(_codec_codes.UUID, b"1", None),
        marked(_codec_codes.PATH, "os.system", "a"),
        marked(_codec_codes.RANGE, 0, 1, 0),
        marked(_codec_codes.DECIMAL, "x"),
        marked(_codec_codes.SCALAR, "<f8", b"1"),
        marked(_codec_codes.SCALAR, "|O", b"12345678"),
        marked(_codec_codes.SCALAR, "<f8", "12345678"),
        marked(_codec_codes.DTYPE, "O"),
        marked(_codec_codes.DTYPE, "|O"),
        marked(_codec_codes.DTYPE, "f8,f8"),
        marked(_codec_codes.DTYPE, ["array", "<f8", [2**40, 2**40]]),
        marked(_codec_codes.DTYPE, ["array", "<f8", [-1]]),
        marked(_codec_codes.DTYPE, ["ml_dtypes", "os"]),
        marked(_codec_codes.DTYPE, ["char", "O", "="]),
        marked(_codec_codes.DTYPE, ["record", "<f8"]),
        marked(_codec_codes.DTYPE, ["record", ["struct", 8, False, [["a", "|O", 0]]]]),
        marked(_codec_codes.DTYPE, ["struct", 8, False, [["a", "|O", 0]]]),
        marked(_codec_codes.DTYPE, ["struct", 2**40, False, [["a", "<f8", 2**50]]]),
        marked(_codec_codes.DTYPE, ["struct", 8, False, [["a"]]]),
        marked(_codec_codes.TEXT_SCALAR, b"a"),
        marked(120),
        marked(_codec_codes.TUPLE, ext(_codec_codes.TUPLE)),
    ],
    ids=lambda data: data[:24].hex(),
)
def test_structures_that_lie(data: bytes) -> None:
    with pytest.raises(ValueError, match="no struct/1 value"):
        decode("struct/1", data, None, CONTEXT)


def npy(text: str, data: bytes = b"", version: int = 1) -> bytes:
    header = text.encode("utf-8") + b"\n"
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes((version, 0)) + len(header).to_bytes(width, "little") + header + data


def npy_of(descr: str, shape: str, data: bytes = b"", fortran: str = "False") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}", data)


def test_the_helper_writes_what_is_read() -> None:
    assert same(np.array([1.0]), decode("npy/1", npy_of("'<f8'", "(1,)", struct.pack("<d", 1.0)), None, CONTEXT))


@pytest.mark.parametrize(
    "data",
    [
        npy_of("'|O'", "(1,)", b"12345678"),
        npy_of("'O'", "(1,)", b"12345678"),
        npy_of("[('a', '|O')]", "(1,)", b"12345678"),
        npy_of("[('a', [('b', 'O')])]", "(1,)", b"12345678"),
        npy_of("'<f8'", "(-1,)", b"12345678"),
        npy_of("'<f8'", "(2,)", b"12345678"),
        npy_of("'<f8'", "(4611686018427387904, 4)"),
        npy_of("'<f8'", "(18446744073709551617,)", b"12345678"),
        npy_of("'<f8'", "(1,", b"12345678"),
        npy_of("'<f8'", "(" + "1," * 65 + ")", b"12345678"),
        npy_of("'<f8'", "(" + "9" * 5000 + ",)", b"12345678"),
        npy_of("'V999999999'", "(1,)", b"1"),
        npy_of("__import__('os')", "(1,)", b"1"),
        npy_of("(" * 3000 + ")" * 3000, "(1,)", b"1"),
        npy_of("[" * 100 + "]" * 100, "(1,)", b"1"),
        npy_of("-" * 5000 + "1", "(1,)", b"1"),
        npy_of("'<f8'", "(1,)", b"12345678", "None"),
        npy_of("'f8,f8'", "(1,)", b"1" * 16),
        npy_of("'<f8'", "(0, 9223372036854775807, 4)"),
        npy("{}", b""),
        npy("", b""),
        npy("x" * 70000, b"", 2),
        b"\x93NUMPY\x09\x00" + b"1" * 90,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"1" * 90,
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04" + b"1" * 90,
        b"\x80\x04." + b"1" * 90,
        b"",
        npy_of("[('a', '<f8', (1099511627776, 1099511627776))]", "(1,)", b"1"),
        npy_of("[('a', '<f8', -1)]", "(1,)", b"1"),
        npy_of("[]", "(1,)", b"1"),
    ],
    ids=lambda data: data[10:60].decode("latin-1"),
)
def test_npy_headers_that_lie(data: bytes) -> None:
    with pytest.raises(ValueError, match="no npy/1 value"):
        decode("npy/1", data, None, CONTEXT)


def safetensors(header: dict[str, Any] | bytes, data: bytes, structure: bytes | None = None) -> bytes:
    if isinstance(header, dict):
        if structure is not None:
            header = {"__metadata__": {"perfopt": base64.b64encode(structure).decode()}, **header}
        header = json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


W = marked(_codec_codes.ARRAY, "w", "<f4", [2], False)


def slot(begin: Any, end: Any, **more: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [begin, end], **more}


@pytest.mark.parametrize(
    "data",
    [
        safetensors({"w": slot(0, 8), "v": slot(4, 12)}, b"1" * 12, W),
        safetensors({"w": slot(0, 8)}, b"1" * 4, W),
        safetensors({"w": slot(0, 8)}, b"1" * 12, W),
        safetensors({"w": slot(-8, 0)}, b"", W),
        safetensors({"w": slot(8, 0)}, b"1" * 8, W),
        safetensors({"w": slot(4, 12)}, b"1" * 12, W),
        safetensors({"w": slot(0, 2**64)}, b"1" * 8, W),
        safetensors({"w": slot(0, 8.0)}, b"1" * 8, W),
        safetensors({"w": slot(0, 4)}, b"1" * 4, W),
        safetensors({"w": slot(0, 8)}, b"1" * 8),
        safetensors({"v": slot(0, 8)}, b"1" * 8, W),
        safetensors({"w": slot(0, 8, x=1)}, b"1" * 8, W),
        safetensors({"w": slot(0, 8)}, b"1" * 8, marked(_codec_codes.ARRAY, "w", "<f4", [-2], False)),
        safetensors({"w": slot(0, 8)}, b"1" * 8, marked(_codec_codes.ARRAY, "w", "|O", [1], False)),
        safetensors({"w": slot(0, 8)}, b"1" * 8, marked(_codec_codes.ARRAY, ["w"], "<f4", [2], False)),
        safetensors({"w": slot(0, 8)}, b"1" * 8, marked(_codec_codes.ARRAY, "w", "<f4", "2", False)),
        safetensors({"w": slot(0, 8)}, b"1" * 8, marked(_codec_codes.ARRAY, "w", "<f4", [2**62, 2], False)),
        safetensors({"w": slot(0, 8)}, b"1" * 8, marked(_codec_codes.ARRAY, "w", "<f4", [2**31, 2**33, 2], False)),
        safetensors(b"{" * 100000, b""),
        safetensors(b'{"__metadata__":' + b"[" * 100000, b""),
        safetensors(b"", b""),
        safetensors(b"[]", b""),
        safetensors(b'{"__metadata__":{"perfopt":"!"}}', b""),
        (2**64 - 1).to_bytes(8, "little") + b"{}",
        b"1234567",
        b"",
    ],
    ids=lambda data: data[-40:].hex(),
)
def test_safetensors_headers_that_lie(data: bytes) -> None:
    with pytest.raises(ValueError, match="no arrays/1 value"):
        decode("arrays/1", data, None, CONTEXT)


# ---- pickles -------------------------------------------------------------------------------------------------------------------


class Loud:
    """Says when it is made from a pickle."""

    made = 0

    def __reduce__(self) -> Any:
        return Loud.make, ()

    @staticmethod
    def make() -> Loud:
        Loud.made += 1
        return Loud()


def test_a_pickle_needs_the_key_that_signed_it() -> None:
    with pytest.raises(Unstorable):
        encode(Loud(), None, CONTEXT)
    kind, data = payload(Loud(), KEY)
    assert kind == "pickle/1"
    Loud.made = 0
    for key, context in (
        (None, CONTEXT),
        (KEY + b"!", CONTEXT),
        (KEY, CONTEXT[::-1]),
        (KEY, b""),
        (KEY, CONTEXT + b"\x80"),
    ):
        with pytest.raises(ValueError, match="pickle"):
            decode(kind, data, key, context)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1
        with pytest.raises(ValueError, match="pickle"):
            decode(kind, flipped, KEY, CONTEXT)
    for length in range(len(data)):
        with pytest.raises(ValueError, match="pickle"):
            decode(kind, data[:length], KEY, CONTEXT)
    assert Loud.made == 0
    assert type(decode(kind, data, KEY, CONTEXT)) is Loud
    assert Loud.made == 1


def test_an_unsigned_pickle_is_never_read() -> None:
    Loud.made = 0
    pickled = pickle.dumps(Loud())
    for data in (pickled, b"\0" * 32 + pickled, hmac.digest(b"another key of 16 bytes", pickled, "sha256") + pickled):
        for kind in ("pickle/1", "struct/1", "npy/1", "arrays/1", "tensors/1", "pickle"):
            with pytest.raises(ValueError, match="value"):
                decode(kind, data, KEY, CONTEXT)
    assert Loud.made == 0


def test_a_key_changes_nothing_for_what_has_a_safe_format() -> None:
    for value in SMALL:
        assert payload(value, KEY) == payload(value)
    assert same(Pair(1, [2]), there_and_back(Pair(1, [2]), KEY))
    with pytest.raises(Unstorable) as error:
        encode([lambda: 0], KEY, CONTEXT)
    assert error.value.culprit is type(lambda: 0)


def test_what_unpickling_raises_is_a_value_error() -> None:
    pickled = b"cno_such_module\nname\n."
    data = _codec._mac(KEY, CONTEXT, pickled) + pickled
    with pytest.raises(ValueError, match="no_such_module"):
        decode("pickle/1", data, KEY, CONTEXT)


def test_many_items_of_no_width_take_no_memory() -> None:
    for descr in ("'|S0'", "'<U0'", "'|V0'"):
        array = decode("npy/1", npy_of(descr, "(1099511627776,)"), None, CONTEXT)
        assert (array.shape, array.nbytes) == ((1 << 40,), 0)


def test_a_record_stays_a_record() -> None:
    record = np.rec.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", ">f8")])[0]
    back = there_and_back({"r": record})["r"]
    assert type(back) is np.record
    assert (back.a, back.b) == (1, 2.5)
    assert same(record.dtype, back.dtype)


def test_npy_headers_are_those_of_numpy() -> None:
    for array in arrays().values():
        descr = _codec_arrays.npy_descr(array.dtype)
        if descr is not None and array.dtype.names is None:
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            ours = _codec_arrays.npy_header(descr, bool(array.flags.fnc), array.shape)
            theirs = buffer.getvalue()[: len(buffer.getvalue()) - array.nbytes]
            assert ours.split() == theirs.split()
