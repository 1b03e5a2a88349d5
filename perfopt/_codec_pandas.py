"""pandas' frames, series and indexes as one Arrow batch and a description of what Arrow has no word for.

Each column is one Arrow array, so that any Arrow library reads the values; the levels of an index are columns behind them. The
description says what pandas made of them: its dtype, the kind of an index, names, ``attrs``, flags. What comes back is equal with
the same dtypes, index types and categories; how a frame's blocks lie in memory is not content.

Text in object columns is stored as Arrow text where the missing values are all of one kind; other object columns value by value,
if each value can be stored. Nothing is inferred: what is not known exactly raises Unstorable. Members that may be any value
(names, attrs, zones) go through ``keep``, which stores one and gives its number.

Columns of NumPy dtypes come back as read-only views of the stream, except text in objects, booleans and times with NaT in them.
Hostile bytes raise an exception: pandas checks codes, lengths and frequencies, this file everything else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from perfopt import _codec_arrays as arrays
from perfopt import _codec_arrow as ipc
from perfopt._codec_arrays import Unstorable, named_culprit
from perfopt._keys_tables import frame_columns, plain_column

Keep = Callable[[Any], int]
Described = tuple[list[Any], Any]  # (description, an Arrow array)

_MASKED = frozenset(
    [f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)] + ["Float32", "Float64", "boolean"]
)
_OLDEST = 2  # major version: since then a time's unit is part of its dtype


def is_pandas(pandas: Any, kind: type) -> bool:
    """Whether values of this type are frames, series or indexes."""
    return issubclass(kind, (pandas.DataFrame, pandas.Series, pandas.Index))


# ---- columns -------------------------------------------------------------------------------------------------------------------


def _missing_values() -> dict[str, Any]:
    numpy, pandas = sys.modules["numpy"], sys.modules["pandas"]
    return {"none": None, "nan": numpy.nan, "NA": pandas.NA, "NaT": pandas.NaT}


def _describe_objects(arrow: Any, values: Any, keep: Keep) -> Described:
    others = {id(value): value for value in values if type(value) is not str}
    sentinel = next((name for name, value in _missing_values().items() if id(value) in others), None)
    if len(others) == (sentinel is not None):
        try:
            texts = [value if type(value) is str else None for value in values]
            return ["text", sentinel], arrow.array(texts, arrow.large_string())
        except UnicodeEncodeError:
            pass  # half of a surrogate pair
    return ["objects", keep(list(values))], arrow.nulls(len(values))


def _check_type(column: Any, *types: Any) -> None:
    """Before anything is made of a column: one of nulls, or of runs, may be far longer than its bytes."""
    if column.type not in types:
        raise ValueError("a column of another type than its description")


def _restore_objects(arrow: Any, column: Any, sentinel: str | None) -> Any:
    _check_type(column, arrow.large_string(), arrow.string())
    values = column.to_numpy(zero_copy_only=False)
    if sentinel is None and column.null_count:
        raise ValueError("missing text that nothing stands for")
    if sentinel not in (None, "none"):
        values[column.is_null().to_numpy(zero_copy_only=False)] = _missing_values()[sentinel]
    return values


def _object_array(values: list[Any]) -> Any:
    import numpy

    column = numpy.empty(len(values), object)
    for at, value in enumerate(values):  # not column[:] = values, which looks into what is a sequence
        column[at] = value
    return column


def _describe_numpy(arrow: Any, values: Any, keep: Keep) -> Described:
    dtype = values.dtype
    if dtype.kind == "O":
        return _describe_objects(arrow, values, keep)
    description = arrays.describe_dtype(dtype)
    if dtype.kind in "biufmM" and dtype.isnative and dtype.itemsize <= 8:
        return ["numpy", description], arrow.array(values)
    data = arrow.py_buffer(arrays.array_bytes(values))
    return ["raw", description], arrow.Array.from_buffers(arrow.binary(dtype.itemsize), len(values), [None, data])


def _restore_numpy(arrow: Any, column: Any, dtype: Any) -> Any:
    _check_type(column, arrow.from_numpy_dtype(dtype))
    values = column.to_numpy(zero_copy_only=False).view(dtype)
    values.flags.writeable = False
    return values


def _restore_raw(arrow: Any, column: Any, dtype: Any) -> Any:
    import numpy

    _check_type(column, arrow.binary(dtype.itemsize))
    if column.null_count or dtype.hasobject:
        raise ValueError("a column of another dtype than its description")
    if len(column) == 0:
        return numpy.empty(0, dtype)
    return numpy.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def _restore_masked(arrow: Any, column: Any, dtype: Any) -> Any:
    """Not by the dtype's ``__from_arrow__()``, which takes NaN for missing."""
    import numpy

    _check_type(column, arrow.from_numpy_dtype(dtype.numpy_dtype))
    missing = column.is_null().to_numpy(zero_copy_only=False)
    values = column.fill_null(dtype.type(0).item()).to_numpy(zero_copy_only=False)
    return dtype.construct_array_type()(numpy.array(values, dtype.numpy_dtype), missing)


def _string_dtype(storage: str, missing: str) -> Any:
    import pandas

    return pandas.StringDtype(storage) if missing == "NA" else pandas.StringDtype(storage, na_value=float("nan"))


def _describe_string(arrow: Any, array: Any) -> Described:
    dtype = array.dtype
    missing = "NA" if dtype.na_value is sys.modules["pandas"].NA else "nan"
    if _string_dtype(dtype.storage, missing) != dtype:
        raise Unstorable(type(dtype))
    return ["string", dtype.storage, missing], _one_array(arrow, array.__arrow_array__())


def _describe_period(arrow: Any, array: Any) -> Described:
    pandas = sys.modules["pandas"]
    try:
        if pandas.PeriodDtype(array.freqstr) == array.dtype:
            return ["period", array.freqstr], arrow.array(array.asi8)
    except ValueError:
        pass  # of a frequency that has no name
    raise Unstorable(named_culprit(f"Period with the frequency {array.freq!r}"))


def _one_array(arrow: Any, column: Any) -> Any:
    """A chunked array as one; columns of a batch are not chunked."""
    if not isinstance(column, arrow.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    joined = column.combine_chunks()
    if isinstance(joined, arrow.ChunkedArray):
        raise Unstorable(named_culprit("Arrow column too large for one array"))
    return joined


def _describe_codes(arrow: Any, codes: Any, labels: Any, keep: Keep) -> Described:
    """Labels by their number, -1 for none, as an Arrow dictionary."""
    description, values = _describe_index(arrow, labels, keep)
    dictionary = values[0] if values else arrow.array(labels.to_numpy())
    indices = arrow.array(codes, mask=codes < 0)
    return description, arrow.DictionaryArray.from_arrays(indices, dictionary, ordered=False)


def _restore_codes(arrow: Any, column: Any, description: Any, values: list[Any]) -> tuple[Any, Any]:
    """(codes, labels)"""
    if not isinstance(column, arrow.DictionaryArray):
        raise ValueError("not a dictionary")
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, _restore_index(arrow, [column.dictionary], description, values)


def _is_plain(pandas: Any, array: Any) -> bool:
    """Whether it is of the very class that columns of its dtype are of."""
    numpy = sys.modules["numpy"]
    if isinstance(array.dtype, numpy.dtype):
        return type(array) in (numpy.ndarray, pandas.arrays.DatetimeArray, pandas.arrays.TimedeltaArray)
    return type(array) is array.dtype.construct_array_type()


def _describe_column(arrow: Any, array: Any, keep: Keep) -> Described:
    """A column's values: an array of NumPy's or an extension array."""
    pandas, numpy = sys.modules["pandas"], sys.modules["numpy"]
    dtype = array.dtype
    kind = type(dtype)
    if not _is_plain(pandas, array):
        raise Unstorable(type(array))
    if isinstance(dtype, numpy.dtype):
        return _describe_numpy(arrow, numpy.asarray(array), keep)
    if kind is pandas.CategoricalDtype:
        labels, column = _describe_codes(arrow, array.codes, array.categories, keep)
        return ["categories", bool(array.ordered), labels], column
    if kind is pandas.DatetimeTZDtype:
        instants = array.asi8.view(f"M8[{dtype.unit}]")
        return ["zone", keep(dtype.tz)], arrow.array(instants, arrow.timestamp(dtype.unit, "UTC"))
    if kind is pandas.PeriodDtype:
        return _describe_period(arrow, array)
    if kind is pandas.IntervalDtype:
        left, lefts = _describe_column(arrow, plain_column(array.left), keep)
        right, rights = _describe_column(arrow, plain_column(array.right), keep)
        column = arrow.StructArray.from_arrays([lefts, rights], ["left", "right"])
        return ["intervals", array.closed, left, right], column
    if kind is pandas.StringDtype:
        return _describe_string(arrow, array)
    if kind is pandas.ArrowDtype:
        return ["arrow"], _one_array(arrow, array.__arrow_array__())
    if str(dtype) in _MASKED and kind is getattr(pandas, kind.__name__, None):
        return ["masked", str(dtype)], array.__arrow_array__()
    if kind is pandas.SparseDtype:
        raise Unstorable(named_culprit("SparseArray (use .sparse.to_dense())"))
    raise Unstorable(type(array))


def _restore_column(arrow: Any, column: Any, description: Any, values: list[Any]) -> Any:
    import pandas

    match description:
        case ["numpy", dtype]:
            return _restore_numpy(arrow, column, arrays.restore_dtype(dtype))
        case ["raw", dtype]:
            return _restore_raw(arrow, column, arrays.restore_dtype(dtype))
        case ["text", None | "none" | "nan" | "NA" | "NaT" as sentinel]:
            return _restore_objects(arrow, column, sentinel)
        case ["objects", number]:
            return _object_array(_list(values[number]))
        case ["categories", bool(ordered), labels]:
            codes, categories = _restore_codes(arrow, column, labels, values)
            return pandas.Categorical.from_codes(codes, dtype=pandas.CategoricalDtype(categories, ordered))
        case ["zone", number]:
            _check_type(column, *(arrow.timestamp(unit, "UTC") for unit in ("s", "ms", "us", "ns")))
            instants = column.cast(arrow.timestamp(column.type.unit)).to_numpy(zero_copy_only=False)
            return pandas.array(instants, instants.dtype).tz_localize("UTC").tz_convert(values[number])
        case ["period", str(frequency)]:
            ordinals = column.to_numpy(zero_copy_only=True)
            return pandas.arrays.PeriodArray(ordinals, dtype=pandas.PeriodDtype(frequency))
        case ["intervals", "left" | "right" | "both" | "neither" as closed, left, right]:
            lefts = _restore_column(arrow, column.field("left"), left, values)
            rights = _restore_column(arrow, column.field("right"), right, values)
            return pandas.arrays.IntervalArray.from_arrays(lefts, rights, closed)
        case ["string", "pyarrow", "NA" | "nan" as missing]:
            _check_type(column, arrow.large_string(), arrow.string())
            return _string_dtype("pyarrow", missing).__from_arrow__(column)
        case ["string", "python", "NA" | "nan" as missing]:
            return pandas.array(_restore_objects(arrow, column, "none"), _string_dtype("python", missing))
        case ["arrow"]:
            return pandas.ArrowDtype(column.type).__from_arrow__(column)
        case ["masked", str(name)] if name in _MASKED:
            return _restore_masked(arrow, column, pandas.api.types.pandas_dtype(name))
    raise ValueError("an unknown description of a column")


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("not a list")
    return value


# ---- indexes -------------------------------------------------------------------------------------------------------------------


def _frequency(index: Any) -> str | None:
    """The name of an index's frequency, from which it is made again."""
    frequency = getattr(index, "freq", None)
    if frequency is None or type(index).__name__ == "PeriodIndex":  # where it is part of the dtype
        return None
    to_offset = sys.modules["pandas"].tseries.frequencies.to_offset
    try:
        if to_offset(index.freqstr) == frequency:
            return str(index.freqstr)
    except ValueError:
        pass
    raise Unstorable(named_culprit(f"{type(index).__name__} with the frequency {frequency!r}"))


def _describe_index(arrow: Any, index: Any, keep: Keep) -> tuple[list[Any], list[Any]]:
    """(description, its columns: none of a range, one, or one a level)"""
    pandas = sys.modules["pandas"]
    kind = type(index)
    if kind is not getattr(pandas, kind.__name__, None):  # a subclass, wherever it says that it is from
        raise Unstorable(kind)
    names = keep(list(index.names))
    if kind is pandas.RangeIndex:
        return ["range", names, index.start, index.stop, index.step], []
    if kind is pandas.MultiIndex:
        pairs = zip(index.codes, index.levels, strict=True)
        levels = [_describe_codes(arrow, codes, level, keep) for codes, level in pairs]
        return ["levels", names, index.sortorder, [level for level, _ in levels]], [column for _, column in levels]
    description, column = _describe_column(arrow, plain_column(index), keep)
    return ["values", names, _frequency(index), description], [column]


def _restore_index(arrow: Any, columns: list[Any], description: Any, values: list[Any]) -> Any:
    import pandas

    match description:
        case ["range", number, int(start), int(stop), int(step)]:
            (name,) = _list(values[number])
            return pandas.RangeIndex(start, stop, step, name=name)
        case ["levels", number, None | int() as sortorder, [*levels]]:
            pairs = [_restore_codes(arrow, *pair, values) for pair in zip(columns, levels, strict=True)]
            codes, labels = [codes for codes, _ in pairs], [labels for _, labels in pairs]
            return pandas.MultiIndex(labels, codes, sortorder=sortorder, names=_list(values[number]))
        case ["values", number, frequency, of]:
            (name,), (column,) = _list(values[number]), columns
            array = _restore_column(arrow, column, of, values)
            index = pandas.Index(array, dtype=array.dtype, name=name, copy=False)
            if frequency is not None:
                index.freq = pandas.tseries.frequencies.to_offset(frequency)
            return index
    raise ValueError("an unknown description of an index")


# ---- frames and series ---------------------------------------------------------------------------------------------------------


def _content(arrow: Any, names: list[str], columns: list[Any]) -> ipc.Content:
    if not columns:
        return ipc.Content(arrow.schema([]), [])
    schema = arrow.schema([arrow.field(name, column.type) for name, column in zip(names, columns, strict=True)])
    return ipc.Content(schema, [arrow.RecordBatch.from_arrays(columns, schema=schema)])


def _columns(content: ipc.Content) -> list[Any]:
    if not content.batches:
        return []
    (batch,) = content.batches
    return list(batch.columns)


def _field_names(labels: Any) -> list[str]:
    """Names for other readers; our own does not look at them."""
    names = [str(label) if type(label) in (str, int) else f"column {at}" for at, label in enumerate(labels)]
    return [name.encode("utf-8", "replace").decode() for name in names]


def _state(value: Any, keep: Keep) -> list[Any]:
    return [keep(dict(value.attrs)), value.flags.allows_duplicate_labels]


def _describe_labels(arrow: Any, labels: Any, keep: Keep) -> list[Any]:
    """The labels of columns are as many as these, not as the rows: a stream of their own."""
    description, columns = _describe_index(arrow, labels, keep)
    if not columns:
        return [description, None]
    return [description, b"".join(map(bytes, ipc.write(_content(arrow, _level_names(columns), columns))))]


def _level_names(columns: list[Any]) -> list[str]:
    return [f"index {at}" for at in range(len(columns))]


def describe(pandas: Any, value: Any, keep: Keep) -> tuple[ipc.Content, list[Any]]:
    """The content of a frame, a series or an index, and what restore() needs to make it again.

    Raises:
        Unstorable: a subclass, a column or an index that would not come back as it is, or pyarrow is not there.
    """
    kind = type(value)
    try:
        import pyarrow as arrow
    except ImportError:
        raise Unstorable(named_culprit(f"{kind.__name__} (install pyarrow to store it)")) from None
    if int(pandas.__version__.partition(".")[0]) < _OLDEST:
        raise Unstorable(named_culprit(f"{kind.__name__} of pandas {pandas.__version__} (needs pandas {_OLDEST})"))
    try:
        return _describe(arrow, pandas, value, keep)
    except arrow.ArrowException as error:
        raise Unstorable(named_culprit(f"{kind.__name__} with a column that Arrow does not hold")) from error


def _describe(arrow: Any, pandas: Any, value: Any, keep: Keep) -> tuple[ipc.Content, list[Any]]:
    kind = type(value)
    if isinstance(value, pandas.Index):
        description, levels = _describe_index(arrow, value, keep)
        return _content(arrow, _level_names(levels), levels), ["index", description]
    if kind is pandas.DataFrame:
        labels = _describe_labels(arrow, value.columns, keep)
        described = [_describe_column(arrow, column, keep) for column in frame_columns(value)]
        head: list[Any] = ["frame", labels]
        names = _field_names(value.columns)
    elif kind is pandas.Series:
        described = [_describe_column(arrow, plain_column(value), keep)]
        head, names = ["series", keep(value.name)], _field_names([value.name])
    else:
        raise Unstorable(kind)
    index, levels = _describe_index(arrow, value.index, keep)
    content = _content(arrow, names + _level_names(levels), [column for _, column in described] + levels)
    return content, [*head, index, [description for description, _ in described], *_state(value, keep)]


def _restore_state(value: Any, attrs: Any, allows_duplicates: Any) -> Any:
    if type(attrs) is not dict:
        raise ValueError("attrs that are no dict")
    value.attrs = attrs
    if allows_duplicates is False:
        value.flags.allows_duplicate_labels = False
    return value


def _restore_frame(arrow: Any, columns: list[Any], labels: Any, index: Any, of: list[Any], values: list[Any]) -> Any:
    import pandas

    description, stream = labels
    names = _restore_index(arrow, [] if stream is None else _columns(ipc.read(memoryview(stream))), description, values)
    made: dict[int, Any] = {}
    for at, (column, one) in enumerate(zip(columns, of, strict=True)):
        array = _restore_column(arrow, column, one, values)
        made[at] = pandas.Series(array, index, array.dtype, copy=False) if array.dtype.kind == "O" else array
    frame = pandas.DataFrame(made, index, copy=False)
    frame.columns = names
    return frame


def restore(content: ipc.Content, description: list[Any], values: list[Any]) -> Any:
    """The value that describe() described; values: what was kept, in its order."""
    import pandas
    import pyarrow as arrow

    columns = _columns(content)
    match description:
        case ["index", of]:
            return _restore_index(arrow, columns, of, values)
        case ["frame", labels, index, [*of], attrs, duplicates]:
            rows = _restore_index(arrow, columns[len(of) :], index, values)
            frame = _restore_frame(arrow, columns[: len(of)], labels, rows, of, values)
            return _restore_state(frame, values[attrs], duplicates)
        case ["series", name, index, [of], attrs, duplicates]:
            rows = _restore_index(arrow, columns[1:], index, values)
            array = _restore_column(arrow, columns[0], of, values)
            series = pandas.Series(array, rows, array.dtype, values[name], copy=False)
            return _restore_state(series, values[attrs], duplicates)
    raise ValueError("an unknown description of a pandas object")
