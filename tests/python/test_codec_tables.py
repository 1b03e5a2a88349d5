"""Frames, series, indexes and Arrow data to bytes and back: nothing changes, other libraries can read it, and bytes may lie."""

from __future__ import annotations

import datetime as dt
import decimal
import os
import re
import struct
import subprocess
import sys
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfopt import PerformanceCache, _codec_codes
from perfopt._codec import Unstorable, decode, encode

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

CONTEXT = b"0123456789abcdef"
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "table-v1.arrows"


def payload(value: Any) -> tuple[str, bytes]:
    kind, suffix, item_bytes, buffers = encode(value, None, CONTEXT)
    assert suffix in (".arrows", ".safetensors", ".msgpack")
    assert item_bytes >= 1
    return kind, b"".join(bytes(buffer) for buffer in buffers)


def there_and_back(value: Any) -> Any:
    kind, data = payload(value)
    return decode(kind, data, None, CONTEXT)


# ---- what counts as the same ---------------------------------------------------------------------------------------------------


def same_values(a: Any, b: Any) -> bool:
    """Elements of object columns: missing values and NaN are themselves, everything else is equal and of one type."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_values, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same_values(a[key], b[key]) for key in a)
    return bool(a == b)


def assert_same_column(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    assert type(a.dtype) is type(b.dtype)
    assert a.dtype == b.dtype
    assert repr(getattr(a.dtype, "tz", None)) == repr(getattr(b.dtype, "tz", None))
    assert type(getattr(a.dtype, "tz", None)) is type(getattr(b.dtype, "tz", None))
    if a.dtype == object:
        assert len(a) == len(b)
        assert all(map(same_values, a, b)), (list(a), list(b))
    elif isinstance(a.dtype, pd.CategoricalDtype):
        assert_same(a.dtype.categories, b.dtype.categories)
        assert a.dtype.ordered is b.dtype.ordered
        assert a.codes.dtype == b.codes.dtype
        assert a.codes.tolist() == b.codes.tolist()
    elif isinstance(a.dtype, pd.IntervalDtype):
        assert a.closed == b.closed
        assert_same_column(a.left.array, b.left.array)
        assert_same_column(a.right.array, b.right.array)
    elif isinstance(a.dtype, np.dtype):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    else:
        pd.testing.assert_extension_array_equal(a, b, check_exact=True)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, pd.MultiIndex):
        assert same_values(list(a.names), list(b.names))
        assert a.sortorder == b.sortorder
        assert [codes.tolist() for codes in a.codes] == [codes.tolist() for codes in b.codes]
        for mine, other in zip(a.levels, b.levels, strict=True):
            assert_same(mine, other)
    elif isinstance(a, pd.RangeIndex):
        assert (a.start, a.stop, a.step) == (b.start, b.stop, b.step)
        assert same_values(a.name, b.name)
    elif isinstance(a, pd.Index):
        assert same_values(list(a.names), list(b.names))
        assert getattr(a, "freq", None) == getattr(b, "freq", None)
        assert_same_column(a.array, b.array)
    else:
        assert a.attrs == b.attrs
        assert a.flags == b.flags
        assert_same(a.index, b.index)
        if isinstance(a, pd.Series):
            assert same_values(a.name, b.name)
            assert_same_column(a.array, b.array)
        else:
            assert_same(a.columns, b.columns)
            for at in range(a.shape[1]):
                assert_same_column(a.iloc[:, at].array, b.iloc[:, at].array)


# ---- pandas --------------------------------------------------------------------------------------------------------------------

TIMES = ["2020-01-01 00:00", None, "2021-10-31 01:30"]
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def zoned(zone: Any, unit: str = "ns") -> Any:
    return pd.Series(pd.to_datetime(TIMES).tz_localize("UTC").tz_convert(zone).as_unit(unit))


def strings(dtype: Any) -> Any:
    return pd.Series(["a", None, "ä" * 40], dtype=dtype)


SERIES: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: pd.Series([0, 1, 100], dtype=name) for name in ("int8", "uint16", "int32", "uint64")},
    **{
        name: lambda name=name: pd.Series([0.5, np.nan, -0.0], dtype=name) for name in ("float16", "float32", "float64")
    },
    "bool": lambda: pd.Series([True, False, True]),
    "complex": lambda: pd.Series([1j, complex(0, np.nan), 3.0]),
    "long double": lambda: pd.Series(np.array([1, 2, 3], np.longdouble)),
    "long long": lambda: pd.Series(np.array([1, 2, 3], np.longlong)),
    "big-endian": lambda: pd.Series(np.array([1, 2, 3], ">f8")),
    "a payload in NaN": lambda: pd.Series(np.array([0x7FF8000000000123], np.int64).view(np.float64)),
    "text in objects": lambda: pd.Series(["a", "b", ""], dtype=object),
    **{
        f"text and {missing!r} in objects": lambda missing=missing: pd.Series(["a", missing, "b"], dtype=object)
        for missing in (None, np.nan, pd.NA, pd.NaT)
    },
    "only None": lambda: pd.Series([None, None], dtype=object),
    "several missing values": lambda: pd.Series(["a", None, np.nan], dtype=object),
    "half a surrogate pair": lambda: pd.Series(["a", "\ud800"], dtype=object),
    "mixed objects": lambda: pd.Series([1, "a", 2.5, None, (1, [2])], dtype=object),
    "lists of equal length": lambda: pd.Series([[1, 2], [3, 4]], dtype=object),
    "dates as objects": lambda: pd.Series([dt.date(2020, 1, d) for d in (1, 2, 3)], dtype=object),
    "decimals": lambda: pd.Series([decimal.Decimal("1.10"), None], dtype=object),
    "bools in objects": lambda: pd.Series([True, None, False], dtype=object),
    "Python strings": lambda: strings("string[python]"),
    "Arrow strings": lambda: strings("string[pyarrow]"),
    "default strings": lambda: pd.Series(["a", None, "b"]),
    "Python strings with NaN": lambda: strings(pd.StringDtype("python", na_value=np.nan)),
    "Arrow strings with NaN": lambda: strings(pd.StringDtype("pyarrow", na_value=np.nan)),
    "category": lambda: pd.Series(["a", "b", None], dtype="category"),
    "ordered category": lambda: pd.Series(pd.Categorical(["a", "b", None], ["b", "a", "z"], ordered=True)),
    "many categories": lambda: pd.Series(pd.Categorical.from_codes([0, 299, -1], categories=range(300))),
    "categories of times": lambda: pd.Series(pd.to_datetime(TIMES)).astype("category"),
    "categories of intervals": lambda: pd.Series(pd.cut([1, 2, 3], 2)),
    "categories of tuples": lambda: pd.Series(pd.Categorical([(1, 2), (3, 4)])),
    "categories with a name": lambda: pd.Series(pd.Categorical(["x"], pd.Index(["x", "y"], name="n"))),
    "categories of a range": lambda: pd.Series(pd.Categorical([4, 2], pd.RangeIndex(0, 6, 2))),
    "no category": lambda: pd.Series(pd.Categorical([None, None])),
    **{
        f"times in {unit}": lambda unit=unit: pd.Series(pd.to_datetime(TIMES).as_unit(unit))
        for unit in ("s", "ms", "ns")
    },
    "times without gaps": lambda: pd.Series(pd.date_range("2020", periods=3)),
    "zone": lambda: zoned(BERLIN),
    "zone in seconds": lambda: zoned(BERLIN, "s"),
    "UTC": lambda: zoned(dt.timezone.utc),
    "fixed offset": lambda: zoned(dt.timezone(dt.timedelta(hours=5, minutes=30))),
    "time deltas": lambda: pd.Series(pd.to_timedelta([1, 2, None], unit="s")),
    "periods": lambda: pd.Series(pd.PeriodIndex(["2020-01", "2020-02", None], freq="M")),
    "weeks": lambda: pd.Series(pd.PeriodIndex(["2020-01-01"], freq="W-WED")),
    "intervals": lambda: pd.Series(pd.IntervalIndex.from_breaks([0, 1, 2, 3])),
    "intervals with gaps": lambda: pd.Series(pd.IntervalIndex.from_tuples([(0.5, 1), np.nan], closed="both")),
    "intervals of times": lambda: pd.Series(pd.interval_range(pd.Timestamp("2020", tz="UTC"), periods=2)),
    "missing floats": lambda: pd.Series([1.5, None, 2.5], dtype="Float64"),
    "short missing floats": lambda: pd.Series([1.5, None, 2.5], dtype="Float32"),
    "missing floats and NaN": lambda: pd.Series(
        pd.arrays.FloatingArray(np.array([np.nan, 1.5, np.nan]), np.array([False, False, True]))
    ),
    "missing ints": lambda: pd.Series([1, None, 2**60 + 1], dtype="Int64"),
    "short missing ints": lambda: pd.Series([1, None, 3], dtype="UInt8"),
    "missing bools": lambda: pd.Series([True, None, False], dtype="boolean"),
    "Arrow text": lambda: pd.Series(["a", None, "ä"], dtype=pd.ArrowDtype(pa.string())),
    "Arrow ints": lambda: pd.Series([1, None, 3], dtype="int64[pyarrow]"),
    "Arrow decimals": lambda: pd.Series([decimal.Decimal("1.5"), None], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
    "Arrow lists": lambda: pd.Series(pd.array([[1], None, [2, 3]], dtype=pd.ArrowDtype(pa.list_(pa.int32())))),
    "Arrow zone": lambda: pd.Series(pd.to_datetime(TIMES), dtype=pd.ArrowDtype(pa.timestamp("ns", "Asia/Tokyo"))),
    "Arrow dictionary": lambda: pd.Series(["a", None], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
    "Arrow chunks": lambda: pd.concat([pd.Series([n], dtype="int64[pyarrow]") for n in (1, 2)]),
    "a part of a column": lambda: pd.DataFrame(np.arange(12.0).reshape(4, 3))[1].iloc[::2],
    "a part of Arrow's": lambda: pd.Series(["a", "b", "c"], dtype="string[pyarrow]").iloc[1:],
    "name": lambda: pd.Series([1], name=("a", 1)),
}
INDEXES: dict[str, Callable[[], Any]] = {
    "range": lambda: pd.RangeIndex(3),
    "range backwards": lambda: pd.RangeIndex(10, 1, -3, name="r"),
    "empty range": lambda: pd.RangeIndex(5, 5),
    "int": lambda: pd.Index([3, 1, 2], name="n"),
    "int32": lambda: pd.Index([0, 1, 2], dtype="int32"),
    "float": lambda: pd.Index([0.0, np.nan, 2.0]),
    "bool": lambda: pd.Index([True, False, True]),
    "text in objects": lambda: pd.Index(["a", "b", None], dtype=object),
    "text": lambda: pd.Index(["a", "b", "c"], name=0),
    "mixed objects": lambda: pd.Index([1, "b", (2, 3)], dtype=object),
    "missing ints": lambda: pd.Index([1, None, 3], dtype="Int64"),
    "times": lambda: pd.DatetimeIndex(["2020-01-01", "2020-01-02", "NaT"]),
    "regular times": lambda: pd.date_range("2020-01-31", periods=3, freq="B"),
    "regular times of a zone": lambda: pd.date_range("2020-10-24", periods=3, tz=BERLIN, name="t"),
    "deltas": lambda: pd.timedelta_range("1s", periods=3, freq="2h"),
    "irregular deltas": lambda: pd.TimedeltaIndex(["1s", "3s", "4s"]),
    "periods": lambda: pd.period_range("2020", periods=3, freq="Q"),
    "intervals": lambda: pd.interval_range(0, 3),
    "categories": lambda: pd.CategoricalIndex(["a", "b", "a"], name="c"),
    "duplicates": lambda: pd.Index([1, 1, 1]),
    "levels": lambda: pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", None]),
    "levels with unused and missing": lambda: pd.MultiIndex([["z", "a", "q"], [1.5]], [[0, 1, -1], [0, 0, 0]]),
    "levels of times": lambda: pd.MultiIndex.from_arrays([pd.date_range("2020", periods=2), pd.RangeIndex(2)]),
    "sorted levels": lambda: pd.MultiIndex([[1, 2], [3, 4]], [[0, 1], [1, 0]], sortorder=1),
    "empty levels": lambda: pd.MultiIndex.from_arrays([[], []]),
}


def every_kind() -> Any:
    columns = {name: make().reset_index(drop=True).rename(None).iloc[:2] for name, make in SERIES.items()}
    return pd.concat({name: column for name, column in columns.items() if len(column) == 2}, axis=1)


def with_attrs(value: Any) -> Any:
    frame = pd.DataFrame({"a": [1.5]})
    frame.attrs["a"] = value
    return frame


FRAMES: dict[str, Callable[[], Any]] = {
    "every kind": every_kind,
    "one block": lambda: pd.DataFrame(np.arange(12.0).reshape(3, 4)),
    "of Fortran order": lambda: pd.DataFrame(np.asfortranarray(np.arange(12.0).reshape(3, 4))),
    "wide": lambda: pd.DataFrame(np.arange(200).reshape(2, 100)),
    "labels of times": lambda: pd.DataFrame([[1, 2]], columns=pd.date_range("2020", periods=2)),
    "labels in levels": lambda: pd.DataFrame([[1, "a"]], columns=pd.MultiIndex.from_tuples([("x", 1), ("y", 2)])),
    "labels twice": lambda: pd.DataFrame([[1, 2.5, "a"]], columns=["a", "a", "b"]),
    "labels of all kinds": lambda: pd.DataFrame([[1, 2, 3]], columns=pd.Index([None, 1, "\ud800"], dtype=object)),
    "labels in objects": lambda: pd.DataFrame({"a": [1]}).rename_axis(columns="n").astype(object),
    "no columns": lambda: pd.DataFrame(index=pd.Index(["a", "b"])),
    "no columns, a range": lambda: pd.DataFrame(index=range(3)),
    "no rows": lambda: pd.DataFrame({"a": pd.Series([], dtype="float64"), "b": pd.Series([], dtype=object)}),
    "nothing": lambda: pd.DataFrame(),
    "attrs": lambda: with_attrs({"unit": "m", 1: [(2, {"x": None})]}),
    "flags": lambda: pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
}


@pytest.mark.parametrize("name", SERIES)
def test_series_come_back_as_they_were(name: str) -> None:
    series = SERIES[name]()
    assert payload(series)[0] == "arrow/1"
    assert_same(series, there_and_back(series))
    assert_same(series.iloc[:0], there_and_back(series.iloc[:0]))


@pytest.mark.parametrize("name", INDEXES)
def test_indexes_come_back_as_they_were(name: str) -> None:
    index = INDEXES[name]()
    assert_same(index, there_and_back(index))
    frame = pd.DataFrame({"a": range(len(index))}, index=index)
    assert_same(frame, there_and_back(frame))
    if name != "duplicates":
        labelled = pd.DataFrame(np.zeros((2, len(index))), columns=index)
        assert_same(labelled, there_and_back(labelled))


@pytest.mark.parametrize("name", FRAMES)
def test_frames_come_back_as_they_were(name: str) -> None:
    frame = FRAMES[name]()
    assert_same(frame, there_and_back(frame))


def test_tables_inside_other_values_stay_shared() -> None:
    frame = pd.DataFrame({"a": ["x", None], "b": [1.5, 2.5]})
    table = pa.table({"a": [1, 2]})
    value = {"score": 0.5, "frames": [frame, frame], "table": table, "again": table, "array": np.arange(3), "l": [[1]]}
    kind, data = payload(value)
    assert kind == "arrays/1"
    back = decode(kind, data, None, CONTEXT)
    assert list(back) == list(value)
    assert_same(frame, back["frames"][0])
    assert back["frames"][0] is back["frames"][1]
    assert back["table"] is back["again"]
    assert back["table"].equals(table)
    assert back["array"].tolist() == [0, 1, 2]
    assert payload((frame, 0.5))[0] == "arrow/1"
    assert there_and_back((frame, 0.5, [frame]))[2][0].equals(frame)


def test_objects_after_a_table_are_numbered_as_before_it() -> None:
    shared = [1, 2]
    index = pd.Index(["x", "y"], name="n")
    frame = pd.DataFrame({"a": pd.Series([shared, (3,)], index, dtype=object)})
    frame.attrs["shared"] = shared
    back = there_and_back([frame, shared, [shared]])
    assert back[1] is back[2][0]
    assert back[1] is back[0]["a"].iloc[0]
    assert back[1] == [1, 2]


def test_zones_of_pytz_come_back() -> None:
    pytz = pytest.importorskip("pytz")
    for zone in (pytz.timezone("Europe/Berlin"), pytz.utc):
        series = zoned(zone)
        back = there_and_back(series)
        assert_same(series, back)
        assert back.dt.tz is series.dt.tz
    moment = pytz.timezone("Europe/Berlin").localize(dt.datetime(2020, 7, 1))
    with pytest.raises(Unstorable):
        encode(moment, None, CONTEXT)


def test_columns_are_views_of_the_bytes_and_cannot_be_changed() -> None:
    frame = pd.DataFrame({"a": np.arange(5000.0), "b": np.arange(5000), "c": pd.date_range("2020", periods=5000)})
    kind, data = payload(frame)
    buffer = np.frombuffer(data, np.uint8)
    back = decode(kind, data, None, CONTEXT)
    for name in frame:
        values = back[name].to_numpy()
        assert np.shares_memory(values, buffer)
        assert not values.flags.writeable
    table = pa.table({"a": np.arange(5000.0)})
    kind, data = payload(table)
    begin = np.frombuffer(data, np.uint8).ctypes.data
    address = decode(kind, data, None, CONTEXT)["a"].chunk(0).buffers()[1].address
    assert begin < address < begin + len(data)


def test_numbers_are_written_without_a_copy() -> None:
    values = np.arange(5000.0)
    parts = encode(pa.table({"a": values}), None, CONTEXT)[3]
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), values) for part in parts)


def test_other_libraries_read_the_file(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"a": [1, 2], "b": ["x", None], "c": pd.Categorical(["u", "v"]), 3: pd.date_range("2020", periods=2)}
    )
    (tmp_path / "it.arrows").write_bytes(payload(frame)[1])
    with pa.OSFile(str(tmp_path / "it.arrows")) as file:
        table = pa.ipc.open_stream(file).read_all()
    assert table.column_names == ["a", "b", "c", "3"]
    assert table.drop_columns(["3"]).to_pylist() == [{"a": 1, "b": "x", "c": "u"}, {"a": 2, "b": None, "c": "v"}]
    assert there_and_back(table).equals(table, check_metadata=True)  # though it bears our own key


class Frame(pd.DataFrame):  # type: ignore[misc]
    pass


class Name(str):
    pass


class Index(pd.Index):  # type: ignore[misc]
    __module__ = "pandas.core"


class Ints(pd.arrays.IntegerArray):  # type: ignore[misc]
    pass


class Category(pd.Categorical):  # type: ignore[misc]
    pass


def unit_array() -> Any:
    class Unit(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.float64(), "perfopt.test_unit")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

    return pa.ExtensionArray.from_storage(Unit(), pa.array([1.0]))


def far_text() -> Any:
    """Whose second item would end far behind its buffer."""
    offsets = pa.py_buffer(np.array([0, 1 << 30, 1], np.int32))
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"x")])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "subclass": (lambda: Frame({"a": [1]}), "Frame"),
    "subclass of an index": (lambda: Index._simple_new(np.arange(2)), "Index"),
    "subclass of an array": (lambda: pd.Series(Ints(np.arange(2), np.zeros(2, bool))), "Ints"),
    "subclass in a frame": (lambda: pd.DataFrame({"a": Category(["x"])}), "Category"),
    "subclass in an index": (lambda: pd.Series([1], index=pd.Index(Ints(np.arange(1), np.zeros(1, bool)))), "Ints"),
    "objects": (lambda: pd.Series([object()]), "object"),
    "subclasses of str": (lambda: pd.Series([Name("a")], dtype=object), "Name"),
    "sparse": (lambda: pd.Series(pd.arrays.SparseArray([0, 0, 1])), "to_dense"),
    "name": (lambda: pd.Series([1], name=Name("a")), "Name"),
    "attrs": (lambda: with_attrs(object()), "object"),
    "frequency": (
        lambda: pd.DatetimeIndex(["2020-01-02"], freq=pd.offsets.CustomBusinessDay(holidays=["2020-01-01"])),
        "freq",
    ),
    "extension type": (unit_array, "extension"),
    "part of a day": (lambda: pa.array([1], pa.int64()).view(pa.date64()), "whole number of days"),
    "no UTF-8": (lambda: pa.table({"a": pa.array([b"\xff"]).view(pa.string())}), "UTF8"),
    "no UTF-8 in pandas": (
        lambda: pd.Series(pd.arrays.ArrowExtensionArray(pa.array([b"\xff"]).view(pa.string()))),
        "UTF8",
    ),
    "offsets out of the buffer": (far_text, "offset"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_come_back_is_refused_with_the_reason(name: str) -> None:
    make, reason = REFUSED[name]
    for around in (make(), [make(), np.arange(2)]):
        with pytest.raises(Unstorable, match=reason):
            encode(around, None, CONTEXT)


def test_nothing_is_imported_for_other_values() -> None:
    code = (
        "import sys; from perfopt._codec import encode, decode\n"
        "kind, _, _, parts = encode({'a': (1, 2)}, None, b'')\n"
        "decode(kind, b''.join(parts), None, b'')\n"
        "assert not {'pandas', 'pyarrow', 'pytz'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_pyarrow_the_reason_is_named() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import pandas; from perfopt._codec import encode, Unstorable\n"
        "try: encode(pandas.Series([1]), None, b'')\n"
        "except Unstorable as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "install pyarrow" in done.stdout


# ---- Arrow ---------------------------------------------------------------------------------------------------------------------


def arrow_values() -> dict[str, Any]:
    words = pa.array(["a", None, "b", "a"])
    dictionaries = pa.chunked_array([pa.array(["a", "b"]).dictionary_encode(), pa.array(["z"]).dictionary_encode()])
    schema = pa.schema(
        [pa.field("a", pa.int64(), nullable=False, metadata={"k": "v"})], metadata={"m": "n", "perfopt": "x"}
    )
    return {
        "table": pa.table({"a": [1, None], "b": ["x", "y"]}),
        "metadata": pa.Table.from_arrays([pa.array([1, 2])], schema=schema),
        "batch": pa.record_batch({"a": [1, 2]}),
        "batch with metadata": pa.RecordBatch.from_arrays([pa.array([1, 2])], schema=schema),
        "empty batch": pa.record_batch({"a": pa.array([], pa.int8())}),
        "no columns": pa.table({"a": [1, 2, 3]}).select([]),
        "no rows": pa.schema([("a", pa.string())]).empty_table(),
        "names twice": pa.Table.from_arrays([words, words], ["a", "a"]),
        "chunks": pa.chunked_array([[1, 2], [], [3]]),
        "no chunks": pa.chunked_array([], pa.float32()),
        "several dictionaries": dictionaries,
        "a table of dictionaries": pa.table({"a": dictionaries}),
        "slice": words[1:3],
        "nulls": pa.nulls(3),
        "ordered": pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int8()), ["a"], ordered=True),
        "struct": pa.array([{"a": [1], "b": None}, None]),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
        "union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
        "runs": pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]),
        "views": pa.array(["a", "longer than twelve bytes"], pa.string_view()),
        "decimal": pa.array([decimal.Decimal("1.5"), None], pa.decimal256(40, 2)),
        "zone": pa.array([1, None], pa.timestamp("ns", "Asia/Tokyo")),
        "bits": pa.array([True, None, False])[1:],
        "fixed": pa.array([b"abc", None], pa.binary(3)),
    }


@pytest.mark.parametrize("name", arrow_values())
def test_arrow_data_come_back_as_they_were(name: str) -> None:
    value = arrow_values()[name]
    kind, data = payload(value)
    assert kind == "arrow/1"
    for back in (decode(kind, data, None, CONTEXT), there_and_back([value, np.arange(2)])[0]):
        assert type(back) is type(value)
        if isinstance(value, (pa.Table, pa.RecordBatch)):
            assert back.equals(value, check_metadata=True)
            assert back.schema.equals(value.schema, check_metadata=True)
            assert back.num_rows == value.num_rows
        else:
            assert back.type == value.type
            assert back.equals(value)
        if isinstance(value, pa.ChunkedArray):
            assert [len(chunk) for chunk in back.chunks] == [len(chunk) for chunk in value.chunks]
        back.validate(full=True)


# ---- property ------------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=()), max_size=6)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 255),
    "float64": st.floats(),
    "bool": st.booleans(),
    "Int32": st.none() | st.integers(-(2**31), 2**31 - 1),
    "boolean": st.none() | st.booleans(),
    "object": st.one_of(
        TEXT, st.none(), st.integers(), st.floats(), st.dates(), st.just(np.nan), st.binary(max_size=3)
    ),
    "category": st.none() | st.sampled_from(["a", "b", "c"]),
    "datetime64[us]": st.none() | st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)),
    "timedelta64[ms]": st.none() | st.integers(-(2**40), 2**40),
}


@st.composite
def small_frames(draw: st.DrawFn) -> Any:
    rows = draw(st.integers(0, 5))
    names = draw(st.lists(TEXT | st.integers(), max_size=4))
    columns = []
    for _ in names:
        dtype = draw(st.sampled_from(list(CELLS)))
        columns.append(pd.Series(draw(st.lists(CELLS[dtype], min_size=rows, max_size=rows)), dtype=dtype))
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(rows))
    frame.columns = pd.Index(names, dtype=object)
    if draw(st.booleans()):
        frame.index = pd.Index(draw(st.lists(TEXT, min_size=rows, max_size=rows)), dtype=object, name=draw(TEXT))
    return frame


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(small_frames())
def test_small_frames_come_back_as_they_were(frame: Any) -> None:
    assert_same(frame, there_and_back(frame))


# ---- bytes that lie ------------------------------------------------------------------------------------------------------------


def look_at(value: Any) -> None:
    """Every element, so that an offset that leads out of the buffer would be met."""
    if isinstance(value, (pa.Table, pa.RecordBatch)):
        value.to_pylist()
    elif isinstance(value, pd.DataFrame):
        [list(value.iloc[:, at]) for at in range(value.shape[1])]
        list(value.index)


def test_changed_and_cut_streams_are_refused_or_whole_values() -> None:
    """Without the engine's checksum in front, as hostile bytes with a right one would be: in a process of its own."""
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom test_codec_tables import damage_streams\ndamage_streams()"
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "refused" in done.stdout


def damage_streams() -> None:
    frame = pd.DataFrame({"a": ["x", None], "b": [1, 2], "c": pd.Categorical(["u", "v"])}, index=pd.Index(["r", "s"]))
    table = pa.table({"a": [[1], None], "b": ["x", "yz"], "c": pa.array(["u", "v"]).dictionary_encode()})
    refused = 0
    for value in (frame, table):
        kind, data = payload(value)
        for at in range(len(data)):
            flipped = bytearray(data)
            flipped[at] ^= 1 << (at % 8)
            for damaged in (bytes(flipped), data[:at]):
                try:
                    look_at(decode(kind, damaged, None, CONTEXT))
                except ValueError:
                    refused += 1
                except MemoryError:  # a count of 2**62 rows is an honest one for a column of nulls
                    pass
    print(f"refused {refused}")


def stream(schema: Any, batches: list[Any], structure: bytes | None) -> bytes:
    import base64

    metadata = None if structure is None else {"perfopt": base64.b64encode(structure)}
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with pa.ipc.new_stream(sink, schema.with_metadata(metadata), options=options) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(metadata))
    return bytes(sink.getvalue())


def table_mark(*fields: Any) -> bytes:
    return msgspec.msgpack.encode([msgspec.msgpack.Ext(_codec_codes.TABLE, b""), *fields])


COLUMN = pa.record_batch({"a": [1, 2]})
RANGE = ["range", 0, 0, 2, 1]


@pytest.mark.parametrize(
    "structure",
    [
        None,
        b"",
        table_mark(),
        table_mark("w"),
        table_mark("w", []),
        table_mark("w", ["os", "system"]),
        table_mark("w", ["arrow", "array", 1]),
        table_mark("w", ["arrow", "scalar"]),
        table_mark("w", ["pandas", "frame"]),
        table_mark("w", ["pandas", "index", ["range", 0, 0, 2, 0]], [None]),
        table_mark("w", ["pandas", "index", ["range", 0, 0, 2, 1]], None),
        table_mark("w", ["pandas", "index", ["values", 0, "no such frequency", ["numpy", "<i8"]]], [None]),
        table_mark("w", ["pandas", "index", ["levels", 0, None, [["range", 0, 0, 2, 1]]]], [None]),
        table_mark("w", ["pandas", "series", 0, RANGE, [["numpy", "<f8"]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["numpy", "|O"]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["raw", "<f8"]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["text", None]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["objects", 0]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["objects", 9]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["zone", 0]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["masked", "os"]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["masked", "boolean"]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["period", "x"]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["categories", True, RANGE]], 1, True], [None], {}),
        table_mark("w", ["pandas", "series", 0, RANGE, [["numpy", "<i8"]], 1, True], [None], []),
        table_mark("w", ["pandas", "series", 0, ["range", 0, 0, 3, 1], [["numpy", "<i8"]], 1, True], [None], {}),
        table_mark("w", ["pandas", "frame", [RANGE, None], RANGE, [["numpy", "<i8"]], 1, True], [None], {}),
        table_mark("w", ["pandas", "frame", [RANGE, b"x"], RANGE, [["numpy", "<i8"]], 1, True], [None], {}),
        msgspec.msgpack.encode([msgspec.msgpack.Ext(_codec_codes.PYTZ_ZONE, b""), "../../etc/passwd"]),
    ],
    ids=repr,
)
def test_descriptions_that_lie(structure: bytes | None) -> None:
    pytest.importorskip("pytz")
    with pytest.raises(ValueError, match="no arrow/1 value"):
        decode("arrow/1", stream(COLUMN.schema, [COLUMN], structure), None, CONTEXT)


@pytest.mark.parametrize(
    "of",
    [
        ["numpy", "<f8"],
        ["numpy", "<M8[ns]"],
        ["raw", ">f8"],
        ["text", "none"],
        ["categories", False, ["values", 0, None, ["text", None]]],
        ["zone", 2],
        ["period", "D"],
        ["intervals", "left", ["numpy", "<f8"], ["numpy", "<f8"]],
        ["string", "python", "NA"],
        ["string", "pyarrow", "NA"],
        ["masked", "Int8"],
        ["masked", "boolean"],
    ],
    ids=repr,
)
def test_columns_longer_than_their_bytes_are_refused_unseen(of: list[Any]) -> None:
    rows = 1 << 40
    structure = table_mark(
        "w", ["pandas", "series", 0, ["range", 1, 0, rows, 1], [of], 3, True], None, [None], "UTC", {}
    )
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int64()), ["a"])
    for column in (pa.Array.from_buffers(pa.null(), rows, [None]), runs):
        batch = pa.record_batch({"a": column})
        with pytest.raises(ValueError, match="no arrow/1 value"):
            decode("arrow/1", stream(batch.schema, [batch], structure), None, CONTEXT)


def test_a_stream_is_one_tables() -> None:
    one = [msgspec.msgpack.Ext(_codec_codes.TABLE, b""), "w", ["arrow", "table", None]]
    with pytest.raises(ValueError, match="no arrow/1 value"):
        decode("arrow/1", stream(COLUMN.schema, [COLUMN], msgspec.msgpack.encode([one, one])), None, CONTEXT)


def test_offsets_out_of_the_buffer_and_extension_types_are_refused() -> None:
    far = pa.DictionaryArray.from_arrays(pa.array([0, 9], pa.int8()), ["a"], safe=False)
    marked = pa.schema([pa.field("a", pa.int64(), metadata={"ARROW:extension:name": "x"})])
    for column in (far_text(), far):
        batch = pa.record_batch({"a": column})
        data = stream(batch.schema, [batch], table_mark("w", ["arrow", "table", None]))
        with pytest.raises(ValueError, match="no arrow/1 value"):
            decode("arrow/1", data, None, CONTEXT)
    batch = pa.RecordBatch.from_arrays([pa.array([1])], schema=marked)
    with pytest.raises(ValueError, match="extension"):
        decode("arrow/1", stream(marked, [batch], table_mark("w", ["arrow", "table", None])), None, CONTEXT)


def golden_value() -> dict[str, Any]:
    """A value that is the same with every version of pandas."""
    text = pd.Index(["a", "b"], dtype=object)
    frame = pd.DataFrame(
        {
            "numbers": np.array([1.5, np.nan]),
            "text": pd.Series(["ä", None], dtype=object),
            "category": pd.Categorical.from_codes([1, -1], categories=text, ordered=True),
            "zone": pd.Series(np.array([1, 2], "M8[ns]")).dt.tz_localize("UTC").dt.tz_convert(BERLIN),
            "missing": pd.array([1, None], dtype="Int8"),
        }
    )
    frame.columns = frame.columns.astype(object)
    frame.index = pd.MultiIndex.from_arrays([text, pd.Index([1, 2])], names=["x", None])
    frame.attrs["unit"] = ("m", 1)
    return {"score": 0.5, "frame": frame}


def test_what_the_first_version_wrote_is_read() -> None:
    """The format: this file never changes; another format needs another kind."""
    expected = golden_value()
    if os.environ.get("PERFOPT_WRITE_GOLDEN") == "1":
        GOLDEN.write_bytes(payload(expected)[1])
    back = decode("arrow/1", GOLDEN.read_bytes(), None, CONTEXT)
    assert back["score"] == 0.5
    assert_same(expected["frame"], back["frame"])


def test_newer_formats_are_refused_clearly() -> None:
    _, data = payload(pd.Series([1]))
    with pytest.raises(ValueError, match=re.escape("arrow/2")) as error:
        decode("arrow/2", data, None, CONTEXT)
    assert "newer version" in str(error.value)


# ---- in a cache directory ------------------------------------------------------------------------------------------------------


def test_tables_live_in_a_cache_directory(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.random.default_rng(0).random(50_000), "b": ["text"] * 50_000})
    table = pa.table({"a": np.random.default_rng(0).random(50_000)})
    with PerformanceCache(10, tmp_path, compression="none") as cache:
        cache.set("frame", frame, persist=True)
        cache.set("table", table, persist=True)
        cache.set("small", frame.head(3), persist=True)
    with PerformanceCache(10, tmp_path) as cache:
        assert_same(frame, cache.get("frame"))
        assert cache.get("table").equals(table)
        assert_same(frame.head(3), cache.get("small"))
        assert cache.get_stats()["corrupt_entries"] == 0
    files = {pa.ipc.open_stream(path.read_bytes()).read_all().num_columns: path for path in tmp_path.rglob("*.arrows")}
    assert sorted(files) == [1, 2]
    file = files[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with PerformanceCache(10, tmp_path) as cache:
        assert cache.get("table") is None
        assert cache.get_stats()["corrupt_entries"] == 1
        assert_same(frame, cache.get("frame"))
