"""The content of pandas' and Arrow's objects, through their buffers. Neither is imported here: the caller found it loaded.

What pandas keeps in blocks counts column by column, so that a frame's layout in memory is no content. Arrow data are handed
to C as capsules (``__arrow_c_stream__``, ``__arrow_c_schema__``), which reads them without copying.
"""

from __future__ import annotations

from typing import Any

from perfopt._keys_base import Reduction, class_name, is_of, loaded

# ---- Arrow ---------------------------------------------------------------------------------------------------------------------


def _arrow_stream(arrow: Any, value: Any) -> Any:
    """A capsule that streams an array, a scalar, a table or a batch; None if it is none of them."""
    if isinstance(value, arrow.Scalar):
        value = arrow.repeat(value, 1)
    if isinstance(value, arrow.Array):
        value = arrow.chunked_array([value])
    elif isinstance(value, arrow.RecordBatch):
        value = arrow.Table.from_batches([value])
    elif not isinstance(value, (arrow.ChunkedArray, arrow.Table)):
        return None
    return value.__arrow_c_stream__()


def reduce_arrow(arrow: Any, value: Any) -> Reduction | str | None:
    """Arrays, tables, scalars and types of pyarrow."""
    if isinstance(value, (arrow.DataType, arrow.Field, arrow.Schema)):
        kind = "type" if isinstance(value, arrow.DataType) else type(value).__name__
        return None, "arrow " + kind, value.__arrow_c_schema__()
    if isinstance(value, arrow.RecordBatchReader):
        return "reading it would use it up: give its read_all()"
    kind = next((kind for kind in ("Scalar", "Array") if isinstance(value, getattr(arrow, kind))), type(value).__name__)
    stream = _arrow_stream(arrow, value)
    return None if stream is None else (None, "arrow " + kind, stream)


# ---- pandas --------------------------------------------------------------------------------------------------------------------


def _own_name(value: Any) -> Any:
    """How an object's class is called: pandas moves its own between modules, so those count by their bare name."""
    cls = type(value)
    return cls.__name__ if is_of(cls, "pandas") else class_name(cls)


def _own_class(value: Any) -> type | None:
    return None if is_of(type(value), "pandas") else type(value)


def _subclass_state(value: Any) -> dict[str, Any]:
    """What pandas' rules for subclasses say that an object carries along."""
    return {name: getattr(value, name, None) for name in getattr(value, "_metadata", ()) if name != "name"}


def plain_column(value: Any) -> Any:
    """The values of a Series or an Index: an array of NumPy's, or an extension array."""
    array = value.array
    return array.to_numpy() if type(array).__name__ in ("NumpyExtensionArray", "PandasArray") else array


_MANY_COLUMNS = 64
_COPIED_CELLS = 1 << 20  # up to so many are copied out of a frame of several dtypes, which costs less than their Series


def frame_columns(frame: Any) -> tuple[Any, ...]:
    """The values of a frame's columns."""
    if frame.shape[1] <= _MANY_COLUMNS:
        return tuple(plain_column(column) for _, column in frame.items())
    columns: list[Any] = [None] * frame.shape[1]
    places: dict[Any, list[int]] = {}
    for at, dtype in enumerate(frame.dtypes.to_numpy().tolist()):
        places.setdefault(dtype, []).append(at)
    for dtype, at_once in places.items():
        for at, values in zip(at_once, _columns_of(frame, dtype, at_once), strict=True):
            columns[at] = values
    return tuple(columns)


def _columns_of(frame: Any, dtype: Any, places: list[int]) -> Any:
    """The columns at these places, all of this dtype. A Series for each of thousands would cost more than the hashing."""
    is_numbers = getattr(dtype, "kind", "O") in "biufc" and not hasattr(dtype, "na_value")
    if is_numbers and len(places) == frame.shape[1]:
        return frame.to_numpy().T
    if is_numbers and len(places) * frame.shape[0] <= _COPIED_CELLS:
        return frame.iloc[:, places].to_numpy().T
    return (plain_column(frame.iloc[:, place]) for place in places)


def _index_parts(pandas: Any, index: Any) -> tuple[Any, ...]:
    if isinstance(index, pandas.RangeIndex):
        length = len(index)
        return "range", length, index.start if length else 0, index.step if length > 1 else 1
    if isinstance(index, pandas.MultiIndex):
        return "levels", tuple(plain_column(index.get_level_values(level)) for level in range(index.nlevels))
    return "values", plain_column(index), getattr(index, "freqstr", None)


def _reduce_labelled(pandas: Any, value: Any) -> Reduction | None:
    if isinstance(value, pandas.DataFrame):
        parts: tuple[Any, ...] = (value.columns, value.index, frame_columns(value))
    elif isinstance(value, pandas.Series):
        parts = (value.name, value.index, plain_column(value))
    elif isinstance(value, pandas.Index):
        return _own_class(value), "pandas index", _own_name(value), list(value.names), *_index_parts(pandas, value)
    else:
        return None
    flags = value.flags.allows_duplicate_labels
    state = (dict(value.attrs), flags, _subclass_state(value))
    return _own_class(value), "pandas frame", _own_name(value), *parts, *state


def _reduce_extension(pandas: Any, numpy: Any, value: Any) -> tuple[Any, ...]:
    """The values of an extension array; of one of another library by element."""
    kinds = pandas.arrays
    if isinstance(value, pandas.Categorical):
        return "categories", value.categories, value.codes, bool(value.ordered)
    if isinstance(value, (kinds.DatetimeArray, kinds.TimedeltaArray, kinds.PeriodArray)):
        return "times", value.dtype, value.view("i8")
    if isinstance(value, kinds.IntervalArray):
        return "intervals", value.closed, value.left, value.right
    if isinstance(value, kinds.SparseArray):
        where = value.sp_index.to_int_index().indices
        return "sparse", len(value), str(value.dtype), value.fill_value, where, value.sp_values
    if isinstance(value, (kinds.IntegerArray, kinds.FloatingArray, kinds.BooleanArray)):
        plain = value.dtype.numpy_dtype
        return "masked", str(value.dtype), value.to_numpy(plain, na_value=plain.type(0)), numpy.asarray(value.isna())
    if hasattr(value, "__arrow_array__") and type(value).__name__.startswith("Arrow"):
        return "arrow", value.__arrow_array__()
    if type(value).__name__ in ("NumpyExtensionArray", "PandasArray"):
        return "numpy", value.to_numpy()
    return "elements", str(value.dtype), list(value)


def _reduce_dtype(pandas: Any, dtype: Any) -> tuple[Any, ...]:
    if isinstance(dtype, pandas.CategoricalDtype):
        return "categories", dtype.categories, bool(dtype.ordered)
    if isinstance(dtype, pandas.DatetimeTZDtype):
        return "zone", dtype.unit, dtype.tz
    if isinstance(dtype, pandas.IntervalDtype):
        return "intervals", dtype.subtype, dtype.closed
    arrow = getattr(dtype, "pyarrow_dtype", None)
    return ("name", str(dtype)) if arrow is None else ("arrow", arrow)


def _reduce_time(pandas: Any, value: Any) -> tuple[Any, ...] | None:
    if value is pandas.NaT or value is pandas.NA:
        return "missing", str(value)
    if isinstance(value, pandas.Timestamp):
        return "timestamp", value.asm8, value.tzinfo, value.fold
    if isinstance(value, pandas.Timedelta):
        return "timedelta", value.asm8
    if isinstance(value, pandas.Period):
        return "period", value.ordinal, value.freqstr
    if isinstance(value, pandas.Interval):
        return "interval", value.closed, value.left, value.right
    return None


def reduce_pandas(pandas: Any, value: Any) -> Reduction | str | None:
    """Frames, series, indexes, extension arrays, their types, and the scalars that are in them."""
    labelled = _reduce_labelled(pandas, value)
    if labelled is not None:
        return labelled
    extensions = pandas.api.extensions
    if isinstance(value, extensions.ExtensionArray):
        parts = _reduce_extension(pandas, loaded("numpy", "ndarray"), value)
        return _own_class(value), "pandas array", _own_name(value), *parts
    if isinstance(value, extensions.ExtensionDtype):
        if _own_class(value) is not None:
            return "a dtype of another library than pandas"
        return None, "pandas dtype", _own_name(value), *_reduce_dtype(pandas, value)
    time = _reduce_time(pandas, value)
    return None if time is None else (_own_class(value), "pandas scalar", _own_name(value), *time)
