"""Fingerprints of Arrow data: by type and logical values; not by chunks, offsets, dictionaries and what nulls hide."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfopt.cache import cache_result, fingerprint

pa = pytest.importorskip("pyarrow")

# How a random value of each simple type is made; nested types follow from these.
VALUES: dict[Any, Callable[[random.Random], Any]] = {
    pa.int8(): lambda r: r.randrange(-100, 100),
    pa.uint64(): lambda r: r.randrange(2**64),
    pa.float16(): lambda r: np.float16(r.randrange(100)),
    pa.float32(): lambda r: float(r.randrange(100)),
    pa.float64(): lambda r: r.random(),
    pa.bool_(): lambda r: r.random() < 0.5,
    **{
        kind: lambda r: r.choice(["", "a", "ä" * 9, "longer than twelve bytes"])
        for kind in (pa.string(), pa.large_string(), pa.string_view())
    },
    **{
        kind: lambda r: r.choice([b"", b"\0", b"longer than twelve bytes"])
        for kind in (pa.binary(), pa.large_binary(), pa.binary_view())
    },
    pa.binary(3): lambda r: bytes([r.randrange(256), 1, 2]),
    pa.date32(): lambda r: dt.date(2020, 1, 1 + r.randrange(28)),
    pa.date64(): lambda r: dt.date(2020, 1, 1 + r.randrange(28)),
    pa.time32("s"): lambda r: dt.time(1, 2, r.randrange(60)),
    pa.time64("ns"): lambda r: dt.time(1, 2, r.randrange(60)),
    pa.timestamp("s"): lambda r: dt.datetime(2020, 1, 1, 1, r.randrange(60)),
    pa.timestamp("ns", "UTC"): lambda r: dt.datetime(2020, 1, 1, 1, r.randrange(60)),
    pa.duration("ms"): lambda r: dt.timedelta(seconds=r.randrange(100)),
    pa.month_day_nano_interval(): lambda r: pa.MonthDayNano([1, 2, r.randrange(100)]),
    pa.decimal128(10, 2): lambda r: decimal.Decimal(r.randrange(100)) / 2,
    pa.decimal256(40, 2): lambda r: decimal.Decimal(r.randrange(100)) / 2,
}
NESTED = [
    pa.list_(pa.int8()),
    pa.large_list(pa.string()),
    pa.list_(pa.float32(), 2),
    pa.list_view(pa.int8()),
    pa.large_list_view(pa.string()),
    pa.struct([("a", pa.int8()), ("b", pa.string())]),
    pa.struct([("a", pa.list_(pa.struct([("x", pa.bool_())])))]),
    pa.map_(pa.string(), pa.int8()),
]
DICTIONARIES = [pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.uint16(), pa.timestamp("s"))]
TYPES = [*VALUES, *NESTED, *DICTIONARIES, pa.run_end_encoded(pa.int32(), pa.string()), "sparse", "dense"]


def value(kind: Any, r: random.Random) -> Any:
    if r.random() < 0.3:
        return None
    if kind in VALUES:
        return VALUES[kind](r)
    if pa.types.is_struct(kind):
        return {field.name: value(field.type, r) for field in kind}
    if pa.types.is_map(kind):
        return [(str(i), value(kind.item_type, r)) for i in range(r.randrange(3))]
    size = kind.list_size if pa.types.is_fixed_size_list(kind) else r.randrange(4)
    return [value(kind.value_type, r) for _ in range(size)]


def union(mode: str, size: int, r: random.Random) -> Any:
    ids = [r.randrange(2) for _ in range(size)]
    numbers, texts = array(pa.int8(), size, r), array(pa.string(), size, r)
    if mode == "sparse":
        return pa.UnionArray.from_sparse(pa.array(ids, pa.int8()), [numbers, texts], ["i", "s"])
    offsets = [ids[:i].count(ids[i]) for i in range(size)]
    return pa.UnionArray.from_dense(
        pa.array(ids, pa.int8()), pa.array(offsets, pa.int32()), [numbers, texts], ["i", "s"]
    )


def array(kind: Any, size: int, r: random.Random) -> Any:
    if isinstance(kind, str):
        return union(kind, size, r)
    if pa.types.is_dictionary(kind):
        return array(kind.value_type, size, r).dictionary_encode().cast(kind)
    if pa.types.is_run_end_encoded(kind):
        ends = pa.array([3 * (i + 1) for i in range(size)], pa.int32())
        return pa.RunEndEncodedArray.from_arrays(ends, array(kind.value_type, size, r))
    return pa.array([value(kind, r) for _ in range(size)], kind)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_chunks_and_offsets_are_no_content(kind: Any) -> None:
    for seed in range(5):
        data = array(kind, 61, random.Random(seed))
        cuts = [0, 0, 7, 8, 37, len(data)]
        pieces = [data[a:b] for a, b in itertools.pairwise(cuts)]
        whole = fingerprint(pa.chunked_array([data]))
        assert fingerprint(pa.chunked_array(pieces, data.type)) == whole
        assert fingerprint(data[3:40]) == fingerprint(data[1:50][2:39])
        assert fingerprint(data[:0]) == fingerprint(data[9:9])
        table = pa.table({"a": data, "b": range(len(data))})
        assert fingerprint(table) == fingerprint(pa.concat_tables([table[:5], table[5:]]))
        assert len({whole, fingerprint(data), fingerprint(table), fingerprint(table.to_batches()[0])}) == 4


@pytest.mark.parametrize("kind", [*VALUES, *NESTED], ids=str)
def test_every_value_counts(kind: Any) -> None:
    r = random.Random(0)
    values = [value(kind, r) for _ in range(20)]
    data = pa.array(values, kind)
    expected = fingerprint(data)
    assert fingerprint(pa.array([None, *values, None], kind)[1:-1]) == expected
    for i in range(len(values)):
        other = next(v for v in (value(kind, r) for _ in range(1000)) if v != values[i])
        changed = pa.array([*values[:i], other, *values[i + 1 :]], kind)
        assert (fingerprint(changed) == expected) == changed.equals(data)
    assert fingerprint(data[:-1]) != expected
    assert fingerprint(pa.array(values[::-1], kind)) != expected


def test_types_differ() -> None:
    r = random.Random(0)
    kinds = [kind for kind in TYPES if not isinstance(kind, str)]
    assert len({fingerprint(kind) for kind in kinds}) == len(kinds)
    assert len({fingerprint(array(kind, 3, r)[:0]) for kind in kinds}) == len(kinds)
    assert len({fingerprint(pa.nulls(3, kind)) for kind in kinds}) == len(kinds)
    assert fingerprint(pa.nulls(3)) != fingerprint(pa.nulls(4))
    more = [pa.field("a", pa.int8()), pa.field("b", pa.int8()), pa.field("a", pa.int8(), nullable=False)]
    more += [pa.field("a", pa.int8(), metadata={"k": "v"}), pa.schema(more[:1]), pa.schema(more[:2]), pa.schema([])]
    more += [pa.schema([], metadata={"k": "v"}), pa.schema([], metadata={"k": "w"})]
    assert len({fingerprint(kind) for kind in more}) == len(more)
    one = pa.schema([], metadata={"a": "b", "c": "d"})
    assert fingerprint(one) == fingerprint(pa.schema([], metadata={"c": "d", "a": "b"}))


def test_large_columns_in_any_pieces() -> None:
    """More than one hashing chunk, borders anywhere, with and without nulls: the pieces' digest is the whole's."""
    numbers = np.random.default_rng(0).random(300_001)
    mask = numbers < 0.1 + 0.4 * (np.arange(300_001) > 150_000)
    texts = [None if m else "x" * (i % 7) for i, m in enumerate(mask)]
    for data in (pa.array(numbers), pa.array(numbers, mask=mask), pa.array(texts), pa.array(numbers > 0.5, mask=mask)):
        expected = fingerprint(pa.chunked_array([data]))
        for cut in (1, 32_768, 32_769, 200_003):
            assert fingerprint(pa.chunked_array([data[:cut], data[cut:]])) == expected
        many = pa.chunked_array([data[i : i + 1009] for i in range(0, len(data), 1009)])
        assert fingerprint(many) == expected
        assert fingerprint(many[1:]) != expected
    assert fingerprint(pa.array(numbers)) != fingerprint(pa.array(numbers, mask=mask))


def test_null_slots_hold_nothing() -> None:
    def filled(garbage: int, bits: int) -> Any:
        values = np.array([1, garbage, 3], "i4")
        return pa.Array.from_buffers(pa.int32(), 3, [pa.py_buffer(bytes([bits])), pa.py_buffer(values)])

    assert (
        fingerprint(filled(0, 0b101))
        == fingerprint(filled(77, 0b11111101))
        == fingerprint(pa.array([1, None, 3], pa.int32()))
    )
    assert fingerprint(filled(0, 0b111)) == fingerprint(pa.array([1, 0, 3], pa.int32())), "a bitmap that hides nothing"
    mask = pa.array([False, True, False])
    one, two = (pa.StructArray.from_arrays([pa.array([1, x, 3])], ["a"], mask=mask) for x in (2, 99))
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(pa.StructArray.from_arrays([pa.array([1, None, 3])], ["a"]))
    bits = pa.py_buffer(bytes([0b101]))
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], "i4"))
    hidden = pa.Array.from_buffers(pa.string(), 3, [bits, offsets, pa.py_buffer(b"axyb")])
    assert fingerprint(hidden) == fingerprint(pa.array(["a", None, "b"]))
    lists = pa.Array.from_buffers(pa.list_(pa.int64()), 3, [bits, offsets], children=[pa.array([1, 2, 3, 4])])
    assert fingerprint(lists) == fingerprint(pa.array([[1], None, [4]]))


def test_dictionaries_count_by_their_values() -> None:
    def make(codes: list[int | None], values: list[str | None], ordered: bool = False) -> Any:
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, pa.int8()), pa.array(values, pa.string()), ordered=ordered
        )

    expected = fingerprint(make([0, 1, None, 0], ["a", "b", "unused"]))
    assert fingerprint(make([1, 0, None, 1], ["b", "a"])) == expected
    assert fingerprint(make([1, 0, 2, 1], ["b", "a", None])) == expected
    assert fingerprint(make([0, 1, None, 0], ["b", "a"])) != expected
    assert fingerprint(make([0, 1, None, 0], ["a", "b"], ordered=True)) != expected
    pieces = [make([0, 1], ["a", "b"]), make([None, 0], ["a"])]
    whole = pa.chunked_array([make([0, 1, None, 0], ["a", "b"])])
    assert fingerprint(pa.chunked_array(pieces)) == fingerprint(whole)


def test_runs_are_joined() -> None:
    def make(ends: list[int], values: list[str | None]) -> Any:
        return pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values, pa.string()))

    expected = fingerprint(make([3, 5], ["a", None]))
    assert fingerprint(make([1, 3, 4, 5], ["a", "a", None, None])) == expected
    assert fingerprint(make([2, 5], ["a", None])) != expected
    assert fingerprint(make([3, 9], ["a", None])[:5]) == expected


def test_scalars() -> None:
    r = random.Random(1)
    scalars = [array(kind, 20, r)[i] for kind in TYPES for i in range(3)]
    for scalar in scalars:
        assert fingerprint(scalar) == fingerprint(scalar) != fingerprint(scalar.type)
    assert fingerprint(pa.scalar(1)) != fingerprint(pa.scalar(2))
    assert fingerprint(pa.scalar(1)) != fingerprint(pa.array([1]))
    assert fingerprint(pa.scalar(None, pa.int8())) != fingerprint(pa.scalar(None, pa.int16()))
    assert fingerprint({pa.scalar("a")}) == fingerprint({pa.scalar("a")})


def test_names_and_metadata_of_tables_count() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    others = [
        table.rename_columns(["a", "c"]),
        table.rename_columns(["a", "a"]),
        table.replace_schema_metadata({"k": "v"}),
        table.select(["b", "a"]),
        table.select(["a"]),
        table[:1],
        pa.table({}),
    ]
    assert len({fingerprint(t) for t in (table, *others)}) == len(others) + 1
    assert fingerprint(table) == fingerprint(pa.table({"a": [1, 2], "b": ["x", None]}))


def test_extension_types_count_with_their_names() -> None:
    storage = pa.array([b"0123456789abcdef"], pa.binary(16))
    assert len({fingerprint(storage), fingerprint(pa.ExtensionArray.from_storage(pa.uuid(), storage))}) == 2


def test_readers_are_refused_and_left_alone() -> None:
    reader = pa.table({"a": [1]}).to_reader()
    with pytest.raises(TypeError, match="use it up"):
        fingerprint(reader)
    assert reader.read_all().num_rows == 1
    capsule = pa.chunked_array([[1]]).__arrow_c_stream__()
    with pytest.raises(TypeError, match="PyCapsule"):
        fingerprint(capsule)


def test_too_deep_types_are_refused() -> None:
    kind = pa.int8()
    for _ in range(70):
        kind = pa.list_(kind)
    with pytest.raises(TypeError, match="nested deeper than 64"):
        fingerprint(pa.nulls(1, kind))


def test_an_unfitting_union_is_an_error() -> None:
    broken = pa.UnionArray.from_buffers(
        union("sparse", 2, random.Random(0)).type,
        2,
        [None, pa.py_buffer(bytes([0, 9]))],
        children=[pa.array([1, 2], pa.int8()), pa.array(["a", "b"])],
    )
    with pytest.raises(ValueError, match="do not fit their type"):
        fingerprint(broken)


@pytest.mark.spec("S0-14")
def test_tables_as_arguments() -> None:
    calls = []

    @cache_result
    def rows(table: Any) -> int:
        calls.append(1)
        return int(table.num_rows)

    table = pa.table({"a": [1, 2, 3]})
    assert rows(table) == rows(pa.concat_tables([table[:1], table[1:]])) == 3
    assert rows(table[1:]) == 2
    assert len(calls) == 2


def test_arrow_is_not_imported() -> None:
    code = """
import sys
from perfopt.cache import fingerprint
import decimal
import itertools
fingerprint(decimal.Decimal(1), [{"a": {1}}])
assert not {"numpy", "pandas", "pyarrow", "torch", "scipy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
