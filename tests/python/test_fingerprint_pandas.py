"""Fingerprints of pandas' objects: by values, labels and types; not by blocks, caches and other ways to hold the same."""

from __future__ import annotations

import datetime as dt
import itertools
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfopt import _keys_tables
from perfopt.cache import cache_result, fingerprint

pd = pytest.importorskip("pandas")


def columns() -> dict[str, Callable[[], Any]]:
    """Series of every kind of values, each of three rows; made twice they hold nothing in common."""
    kinds: dict[str, Callable[[], Any]] = {
        "float": lambda: pd.Series([1.5, np.nan, 2.5]),
        "int": lambda: pd.Series([1, 2, 3]),
        "bool": lambda: pd.Series([True, False, True]),
        "complex": lambda: pd.Series([1j, 2.0, 3.0]),
        "objects": lambda: pd.Series([1, "a", None], dtype=object),
        "lists": lambda: pd.Series([[1], {"a": 2}, (3,)], dtype=object),
        "dates as objects": lambda: pd.Series([dt.date(2020, 1, d) for d in (1, 2, 3)], dtype=object),
        "text": lambda: pd.Series(["a", None, "ä"], dtype="string[python]"),
        "category": lambda: pd.Series(["a", "b", None], dtype="category"),
        "ordered category": lambda: pd.Series(pd.Categorical(["a", "b", None], ordered=True)),
        "other categories": lambda: pd.Series(pd.Categorical(["a", "b", None], categories=["b", "a"])),
        "times": lambda: pd.Series(pd.to_datetime(["2020-01-01", None, "2021-01-01"])),
        "times of a zone": lambda: pd.Series(
            pd.to_datetime(["2020-01-01", None, "2021-01-01"]).tz_localize("Asia/Tokyo")
        ),
        "times in UTC": lambda: pd.Series(pd.to_datetime(["2020-01-01", None, "2021-01-01"], utc=True)),
        "time deltas": lambda: pd.Series(pd.to_timedelta([1, 2, None], unit="s")),
        "periods": lambda: pd.Series(pd.PeriodIndex(["2020-01", "2020-02", None], freq="M")),
        "other periods": lambda: pd.Series(pd.PeriodIndex(["2020-01-01", "2020-02-01", None], freq="D")),
        "intervals": lambda: pd.Series(pd.IntervalIndex.from_breaks([0, 1, 2, 3])),
        "closed intervals": lambda: pd.Series(pd.IntervalIndex.from_breaks([0, 1, 2, 3], closed="both")),
        "sparse": lambda: pd.Series(pd.arrays.SparseArray([0, 0, 1])),
        "sparse of others": lambda: pd.Series(pd.arrays.SparseArray([0, 1, 1], fill_value=1)),
        "missing floats": lambda: pd.Series([1.5, None, 2.5], dtype="Float64"),
        "missing ints": lambda: pd.Series([1, None, 3], dtype="Int64"),
        "short missing ints": lambda: pd.Series([1, None, 3], dtype="Int16"),
        "missing bools": lambda: pd.Series([True, None, False], dtype="boolean"),
    }
    return kinds


def arrow_columns() -> dict[str, Callable[[], Any]]:
    pytest.importorskip("pyarrow")
    return {
        "Arrow text": lambda: pd.Series(["a", None, "ä"], dtype="string[pyarrow]"),
        "Arrow ints": lambda: pd.Series([1, None, 3], dtype="int64[pyarrow]"),
        "Arrow lists": lambda: pd.Series(pd.array([[1], None, [2, 3]], dtype=list_type())),
    }


def list_type() -> Any:
    import pyarrow

    return pd.ArrowDtype(pyarrow.list_(pyarrow.int32()))


INDEXES: dict[str, Callable[[], Any]] = {
    "range": lambda: pd.RangeIndex(3),
    "range from 1": lambda: pd.RangeIndex(1, 4),
    "range by 2": lambda: pd.RangeIndex(0, 6, 2),
    "int": lambda: pd.Index([0, 1, 2]),
    "int32": lambda: pd.Index([0, 1, 2], dtype="int32"),
    "float": lambda: pd.Index([0.0, 1.0, 2.0]),
    "text": lambda: pd.Index(["a", "b", "c"], dtype=object),
    "named": lambda: pd.Index([0, 1, 2], name="n"),
    "times": lambda: pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-03"]),
    "regular times": lambda: pd.date_range("2020-01-01", periods=3),
    "times of a zone": lambda: pd.date_range("2020-01-01", periods=3, tz="Europe/Berlin"),
    "deltas": lambda: pd.timedelta_range("1s", periods=3),
    "periods": lambda: pd.period_range("2020", periods=3, freq="M"),
    "categories": lambda: pd.CategoricalIndex(["a", "b", "a"]),
    "intervals": lambda: pd.interval_range(0, 3),
    "levels": lambda: pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")]),
    "named levels": lambda: pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["x", "y"]),
}


def test_every_kind_of_column_differs_from_every_other() -> None:
    made: dict[str, Any] = dict(columns())
    digests = {name: fingerprint(make()) for name, make in made.items()}
    assert len(set(digests.values())) == len(digests)
    for name, make in made.items():
        assert fingerprint(make()) == digests[name], name
        arrays = {fingerprint(make().array), fingerprint(make()), fingerprint(pd.DataFrame({"a": make()}))}
        assert len(arrays) == 3, name


@pytest.mark.parametrize("name", columns())
def test_every_value_of_a_column_counts(name: str) -> None:
    series = columns()[name]()
    seen = {fingerprint(series)}
    for order in itertools.permutations(range(3)):
        moved = series.iloc[list(order)].reset_index(drop=True)
        same = moved.equals(series)
        assert (fingerprint(moved) == fingerprint(series)) == same
        seen.add(fingerprint(moved))
    assert len(seen) >= 3


def test_arrow_columns_of_pandas() -> None:
    digests = {name: fingerprint(make()) for name, make in arrow_columns().items()}
    assert len(set(digests.values())) == len(digests)
    for name, make in arrow_columns().items():
        assert fingerprint(make()) == digests[name]
        pieces = pd.concat([make().iloc[:1], make().iloc[1:]])
        assert fingerprint(pieces) == digests[name], "a column in two chunks"
        assert fingerprint(pieces.iloc[::-1]) != digests[name]


@pytest.mark.parametrize("name", INDEXES)
def test_indexes(name: str) -> None:
    one, two = INDEXES[name](), INDEXES[name]()
    assert fingerprint(one) == fingerprint(two)
    others = [fingerprint(make()) for other, make in INDEXES.items() if other != name]
    assert fingerprint(one) not in others
    frame = pd.DataFrame({"a": [1, 2, 3]}, index=one)
    assert fingerprint(frame) == fingerprint(pd.DataFrame({"a": [1, 2, 3]}, index=two))
    assert name == "range" or fingerprint(frame) != fingerprint(pd.DataFrame({"a": [1, 2, 3]}))
    _ = one.is_unique, one.is_monotonic_increasing, one.get_loc(one[1])  # what it remembers of itself is no content
    assert fingerprint(one) == fingerprint(two)


def test_ranges_of_the_same_numbers_are_one() -> None:
    assert fingerprint(pd.RangeIndex(0, 5, 2)) == fingerprint(pd.RangeIndex(0, 6, 2))
    assert fingerprint(pd.RangeIndex(7, 8, 5)) == fingerprint(pd.RangeIndex(7, 8))
    assert fingerprint(pd.RangeIndex(3, 3)) == fingerprint(pd.RangeIndex(0))


def test_unused_levels_are_no_content() -> None:
    index = pd.MultiIndex.from_product([["a", "b"], [1, 2]])
    assert fingerprint(index[:2]) == fingerprint(pd.MultiIndex.from_product([["a"], [1, 2]]))


def test_blocks_are_no_content() -> None:
    values = np.random.default_rng(0).random((50, 3))
    whole = pd.DataFrame(values, columns=list("abc"))
    by_column = pd.DataFrame({name: values[:, i].copy() for i, name in enumerate("abc")})
    grown = pd.DataFrame(index=range(50))
    for i, name in enumerate("abc"):
        grown[name] = values[:, i]
    grown.index = pd.RangeIndex(50)
    strided = pd.DataFrame(np.asfortranarray(values), columns=list("abc"), copy=False)
    expected = fingerprint(whole)
    assert [fingerprint(frame) for frame in (by_column, grown, strided, whole.copy(), whole[:])] == [expected] * 5
    assert fingerprint(whole[["b", "a", "c"]]) != expected
    assert fingerprint(whole[::-1]) != expected
    assert fingerprint(whole.rename(columns={"a": "x"})) != expected
    assert fingerprint(whole.astype("float32")) != expected
    changed = whole.copy()
    changed.iloc[49, 2] += 1
    assert fingerprint(changed) != expected
    assert fingerprint(whole["a"]) != fingerprint(whole[["a"]])


def test_many_columns_count_as_few_do() -> None:
    """Wide frames of one NumPy dtype are read at once; the digest is that of the columns one by one."""
    values = np.arange(3 * 65.0).reshape(3, 65)
    wide = pd.DataFrame(values)
    labels = pd.RangeIndex(65)  # which pandas 2 does not make of the keys of a dict
    by_column = pd.DataFrame({i: values[:, i].copy() for i in labels}, columns=labels)
    other = pd.DataFrame({i: values[:, i].astype("f4" if i == 64 else "f8") for i in labels}, columns=labels)
    missing = pd.DataFrame({i: pd.array(values[:, i], dtype="Float64") for i in labels}, columns=labels)
    assert fingerprint(wide) == fingerprint(by_column)
    assert len({fingerprint(frame) for frame in (wide, other, missing, wide.iloc[:, ::-1])}) == 4
    few = wide.iloc[:, :64]
    assert fingerprint(few) == fingerprint(pd.DataFrame(values[:, :64]))


@pytest.mark.parametrize(("name", "limit"), [("_MANY_COLUMNS", 10**9), ("_COPIED_CELLS", 0)])
def test_how_many_columns_are_read_does_not_count(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    makers: list[Callable[[int], Any]] = [
        lambda i: np.arange(3) + i,
        lambda i: np.arange(3.0) + i,
        lambda i: np.arange(3, dtype=np.longdouble) + i,
        lambda i: [True, False, i % 2 == 0],
        lambda i: pd.date_range("2020", periods=3) + pd.Timedelta(i, "D"),
        lambda i: pd.Categorical(["a", "b", str(i)]),
        lambda i: pd.array([1, None, i], dtype="Int64"),
        lambda i: np.array([1, "a", i], dtype=object),
    ]
    frame = pd.concat([pd.Series(makers[i % len(makers)](i)) for i in range(100)], axis=1)
    frame.columns = [i // 2 for i in range(100)]
    digest = fingerprint(frame)
    swapped = fingerprint(frame.iloc[:, [8, *range(1, 8), 0, *range(9, 100)]].set_axis(frame.columns, axis=1))
    monkeypatch.setattr(_keys_tables, name, limit)
    assert fingerprint(frame) == digest
    assert swapped != digest


def test_looking_at_a_frame_does_not_change_it() -> None:
    series = pd.Series(["a", "b"])
    frame = pd.DataFrame({"a": series, "t": pd.date_range("2020", periods=2)})
    before = fingerprint(series, frame)
    _ = (
        series.str.upper(),
        frame["t"].dt.year,
        frame.a,
        frame.loc[0],
        frame.describe(),
        frame.memory_usage(),
        str(frame),
    )
    assert fingerprint(series, frame) == before


def test_duplicate_and_odd_columns() -> None:
    frame = pd.DataFrame([[1, 2.5], [3, 4.5]], columns=["a", "a"])
    assert fingerprint(frame) == fingerprint(frame.copy())
    assert fingerprint(frame) != fingerprint(frame.iloc[:, ::-1])
    digests = {
        fingerprint(f)
        for f in (
            pd.DataFrame(),
            pd.DataFrame(index=[1]),
            pd.DataFrame(columns=["a"]),
            pd.DataFrame({"a": []}),
            pd.DataFrame({1: [1]}),
            pd.DataFrame({"1": [1]}),
            pd.DataFrame({("a", 1): [1]}),
            pd.Series([], dtype=float),
            pd.Series([], dtype=float, name="n"),
        )
    }
    assert len(digests) == 9


def test_attributes_count() -> None:
    frame = pd.DataFrame({"a": [1]})
    before = fingerprint(frame)
    frame.attrs["unit"] = "m"
    assert fingerprint(frame) != before
    assert fingerprint(pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False)) != before

    class Frame(pd.DataFrame):  # type: ignore[misc]
        _metadata = ["source"]  # noqa: RUF012

        @property
        def _constructor(self) -> Any:
            return Frame

    one, two = Frame({"a": [1]}), Frame({"a": [1]})
    one.source, two.source = "x", "y"
    assert len({before, fingerprint(one), fingerprint(two)}) == 3


def test_a_class_that_pretends_to_be_of_pandas_counts_as_itself() -> None:
    plain = fingerprint(pd.Series([1]))
    for name in ("Series", "Index", "nothing"):
        Fake = type("Series", (pd.Series,), {"__module__": "pandas.core.series", "__qualname__": name})
        assert fingerprint(Fake([1])) != plain


SCALARS: list[Callable[[], Any]] = [
    lambda: pd.NaT,
    lambda: pd.NA,
    lambda: pd.Timestamp("2020-01-01"),
    lambda: pd.Timestamp("2020-01-01", tz="UTC"),
    lambda: pd.Timestamp("2020-01-01", tz="Europe/Berlin"),
    lambda: pd.Timestamp("2020-01-01 00:00:00.000000001"),
    lambda: pd.Timestamp("2020-10-25 02:30").tz_localize("Europe/Berlin", ambiguous=True),
    lambda: pd.Timestamp("2020-10-25 02:30").tz_localize("Europe/Berlin", ambiguous=False),
    lambda: dt.datetime(2020, 1, 1),
    lambda: np.datetime64("2020-01-01"),
    lambda: pd.Timedelta("1s"),
    lambda: pd.Timedelta("1ns"),
    lambda: dt.timedelta(seconds=1),
    lambda: pd.Period("2020-01", "M"),
    lambda: pd.Period("2020-01-01", "D"),
    lambda: pd.Interval(0, 1),
    lambda: pd.Interval(0, 1, closed="left"),
    lambda: pd.Interval(pd.Timestamp(0), pd.Timestamp(1)),
    lambda: pd.CategoricalDtype(["a"]),
    lambda: pd.CategoricalDtype(["a"], ordered=True),
    lambda: pd.DatetimeTZDtype("ns", "UTC"),
    lambda: pd.PeriodDtype("D"),
    lambda: pd.IntervalDtype("int64", "left"),
    lambda: pd.Int64Dtype(),
    lambda: pd.StringDtype("python"),
    lambda: pd.SparseDtype("float64"),
]


def test_scalars_and_dtypes() -> None:
    digests = [fingerprint(make()) for make in SCALARS]
    assert digests == [fingerprint(make()) for make in SCALARS]
    assert len(set(digests)) == len(digests)
    for make in SCALARS:
        value = make()
        assert fingerprint({value}) == fingerprint({make()})
        assert fingerprint({value: 1}) == fingerprint({make(): 1})


def test_what_is_missing_is_told_apart() -> None:
    missing = [None, np.nan, pd.NA, pd.NaT, np.datetime64("NaT", "s"), "nan", "NaT"]
    assert len({fingerprint(value) for value in missing}) == len(missing)
    assert len({fingerprint(pd.Series([value], dtype=object)) for value in missing}) == len(missing)


def test_what_lies_under_a_mask_is_no_content() -> None:
    data, mask = np.array([1, 2, 3]), np.array([False, True, False])
    one = pd.arrays.IntegerArray(data.copy(), mask)
    data[1] = 99
    two = pd.arrays.IntegerArray(data.copy(), mask)
    assert fingerprint(one) == fingerprint(two)
    data[0] = 99
    assert fingerprint(one) != fingerprint(pd.arrays.IntegerArray(data, mask))


def test_zones_by_their_names() -> None:
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    times = pd.date_range("2020", periods=3)
    if pd.__version__ >= "3":  # before, a name stood for a zone of pytz
        assert fingerprint(times.tz_localize(zone)) == fingerprint(times.tz_localize("Europe/Berlin"))
    assert fingerprint(times.tz_localize(zone)) == fingerprint(
        times.tz_localize(zoneinfo.ZoneInfo.no_cache("Europe/Berlin"))
    )
    fixed = dt.timezone(dt.timedelta(hours=1))
    assert fingerprint(times.tz_localize(fixed)) != fingerprint(times.tz_localize(zone))


def test_extension_arrays_of_others_count_by_element() -> None:
    class Celsius(pd.api.extensions.ExtensionDtype):  # type: ignore[misc]
        name = "celsius"
        type = float

        @classmethod
        def construct_array_type(cls) -> Any:
            return Degrees

    class Degrees(pd.api.extensions.ExtensionArray):  # type: ignore[misc]
        dtype = Celsius()

        def __init__(self, values: Any) -> None:
            self.values = np.asarray(values, float)

        def __len__(self) -> int:
            return len(self.values)

        def __getitem__(self, item: Any) -> Any:
            found = self.values[item]
            return float(found) if np.ndim(found) == 0 else Degrees(found)

        def copy(self) -> Any:
            return Degrees(self.values.copy())

        def isna(self) -> Any:
            return np.isnan(self.values)

    assert fingerprint(Degrees([1, 2])) == fingerprint(Degrees([1, 2]))
    assert fingerprint(Degrees([1, 2])) != fingerprint(Degrees([1, 3]))
    assert fingerprint(pd.Series(Degrees([1, 2]))) != fingerprint(pd.Series([1.0, 2.0]))
    with pytest.raises(TypeError, match="dtype of another library"):
        fingerprint(Celsius())


@pytest.mark.spec("S0-14")
def test_frames_as_arguments() -> None:
    calls = []

    @cache_result
    def total(frame: Any, scale: float = 1.0) -> float:
        calls.append(1)
        return float(frame.sum().sum()) * scale

    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert total(frame) == total(frame.copy()) == 10
    frame.loc[0, "a"] = 5.0
    assert total(frame) == 14
    assert len(calls) == 2


def test_what_a_frame_cannot_be_read_by_is_named() -> None:
    with pytest.raises(TypeError, match="a object object"):
        fingerprint(pd.DataFrame({"a": [object()]}))
