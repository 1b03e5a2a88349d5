"""Fingerprints: equal content gives equal digests, in every layout and process; different content gives different ones."""

from __future__ import annotations

import array
import collections
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import importlib.util
import ipaddress
import json
import math
import mmap
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfopt.cache import fingerprint

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "data" / "fingerprints.json"


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Shade(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Other:
    x: Any
    y: Any = 0


class Pair(NamedTuple):
    left: Any
    right: Any


class MyList(list):  # type: ignore[type-arg]
    pass


class MyInt(int):
    pass


class Tagged(np.ndarray):  # type: ignore[type-arg]
    pass


DTYPES = [
    *("?", "i1", "u1", "<i2", ">i2", "<u2", "<i4", ">i4", "<u4", "<i8", ">i8", "<u8", ">u8"),
    *("<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<c8", ">c8", "<c16", ">c16", "g", "G"),
    *("S5", "<U3", ">U3", "V7", "<M8[s]", ">M8[s]", "<M8[ns]", "<m8[ms]", "O"),
]


def numbers(dtype: str, *shape: int, seed: int = 0) -> Any:
    """An array of a dtype with content that has no two equal neighbours."""
    count = math.prod(shape)
    values = (np.arange(count) * 7 + 3 + seed) % 120
    if dtype == "?":
        values = (np.arange(count) ** 2 // 3 + seed) % 2
    if np.dtype(dtype).kind in "SU":
        return values.astype("U").astype(dtype).reshape(shape)
    if np.dtype(dtype).kind == "V":
        return np.array([bytes([v]) * 7 for v in values], dtype="V7").reshape(shape)
    if np.dtype(dtype).kind in "Mm":
        return values.astype("<i8").astype(dtype).reshape(shape)
    return values.astype(dtype).reshape(shape)


def golden_cases() -> dict[str, Callable[[], tuple[Any, ...]]]:
    """Objects with the same content on every machine."""
    cases: dict[str, Callable[[], tuple[Any, ...]]] = {
        "nothing": lambda: (),
        "None": lambda: (None,),
        "booleans": lambda: (True, False),
        "integers": lambda: (0, 1, -1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**50, -(10**50)),
        "floats": lambda: (0.0, -0.0, 1.5, math.inf, 5e-324),
        "complex": lambda: (1 + 2j,),
        "text": lambda: ("", "abc", "ä€\U0001f600", "\ud800", "x" * 256, "x" * 257),
        "bytes": lambda: (b"", b"abc", bytearray(b"abc"), bytes(range(256)) * 3000),
        "containers": lambda: ((), [], {}, set(), frozenset(), (1, [2, {3: {4, 5}}]), {"a": 1, "b": (2,)}),
        "constants": lambda: (..., NotImplemented, slice(1, None, 2), range(3)),
        "path": lambda: (pathlib.PurePosixPath("/a/b"),),
        "big array": lambda: (np.arange(3_000_000, dtype="<i4"),),
        "memory": lambda: (memoryview(b"abc"), array.array("h", [1, 2])),
        "structured": lambda: (np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i2"), ("b", "<f8")]),),
        "masked": lambda: (np.ma.array(np.arange(4, dtype="<i4"), mask=[0, 1, 0, 0]),),
        "scalars": lambda: (np.int8(1), np.float32(1), np.datetime64("2024-01-02"), np.bool_(True)),
    }
    for dtype in DTYPES:
        if dtype not in "gGO":
            cases[f"array {dtype}"] = lambda dtype=dtype: (numbers(dtype, 3, 5),)
    cases["array O"] = lambda: (np.array([1, "a", None, (2.5,)], dtype=object),)
    return cases


def standard_cases() -> dict[str, Callable[[], tuple[Any, ...]]]:
    """The standard library's values."""
    zone = datetime.timezone(datetime.timedelta(hours=1))
    return {
        "decimals": lambda: (decimal.Decimal("1.50"), decimal.Decimal("-Infinity"), fractions.Fraction(1, 3)),
        "dates": lambda: (
            datetime.date(2020, 1, 2),
            datetime.datetime(2020, 1, 2, 3, 4, 5, 6, zone, fold=1),
            datetime.time(1, 2, tzinfo=datetime.timezone.utc),
            datetime.timedelta(1, 2, 3),
            zoneinfo.ZoneInfo("Europe/Berlin"),
        ),
        "addresses": lambda: (
            uuid.UUID(int=5),
            ipaddress.ip_address("1.2.3.4"),
            ipaddress.ip_address("::1%eth0"),
            ipaddress.ip_network("1.2.3.0/24"),
            ipaddress.ip_interface("1.2.3.0/24"),
        ),
        "pattern": lambda: (re.compile("a+", re.I), re.compile(b"a")),
        "functions": lambda: (len, str.upper, json.dumps, int, decimal.Decimal, functools.partial(int, "1", base=2)),
        "more containers": lambda: (
            collections.deque([1], 2),
            collections.Counter(a=1),
            collections.ChainMap({"a": 1}, {}),
            collections.OrderedDict(a=1),
            collections.defaultdict(list, a=1),
            types.MappingProxyType({"a": 1}),
            types.SimpleNamespace(a=1),
        ),
        "in sets": lambda: (
            {decimal.Decimal(1), datetime.date(2020, 1, 1), uuid.UUID(int=1)},
            {fractions.Fraction(1, 3): 1},
        ),
        "random": lambda: (random.Random(5), np.random.Generator(np.random.PCG64(5)), np.random.RandomState(5)),
    }


def library_cases() -> dict[str, Callable[[], tuple[Any, ...]]]:
    """Objects of libraries; a case whose library is not here is left out."""
    cases: dict[str, Callable[[], tuple[Any, ...]]] = {}
    if importlib.util.find_spec("scipy") is not None:
        import scipy.sparse

        dense = np.array([[0, 1.5], [2.5, 0]])
        cases["sparse arrays"] = lambda: (scipy.sparse.csr_array(dense), scipy.sparse.coo_matrix(dense))
    if importlib.util.find_spec("pandas") is not None:
        import pandas as pd

        frame = {0: [1.5, np.nan], 1: pd.Categorical(["a", "b"], categories=np.array(["a", "b"], object))}
        times = np.array([1, "NaT"], "M8[ns]")
        series = pd.Series([1, 2], name="n", index=pd.Index([5, 6]))
        if pd.__version__ >= "3" and importlib.util.find_spec("pyarrow") is not None:  # text is in Arrow's strings
            cases["frames"] = lambda: (pd.DataFrame(frame), series)
        cases["frames of numbers"] = lambda: (pd.DataFrame({0: [1.5, np.nan]}, columns=pd.RangeIndex(1)), series)
        cases["pandas arrays"] = lambda: (
            pd.array([1, None], dtype="Int64"),
            pd.Series(times).array,
            pd.Series(times).dt.tz_localize("UTC").array,
            pd.PeriodIndex(["1970-01-06", "1970-01-07"], freq="D"),
            pd.IntervalIndex.from_breaks([0, 1, 2]),
            pd.MultiIndex.from_arrays([[1, 2], [3, 4]]),
            pd.arrays.SparseArray([0, 1]),
        )
        cases["pandas scalars"] = lambda: (
            pd.NaT,
            pd.NA,
            pd.Timestamp(5, unit="ns"),
            pd.Timedelta(5, unit="ns"),
            pd.Interval(0, 1),
        )
    if importlib.util.find_spec("pyarrow") is not None:
        import pyarrow as pa

        cases["Arrow arrays"] = lambda: (
            pa.array([1, None, 3]),
            pa.array([True, None]),
            pa.chunked_array([["a"], [None, "b"]]),
            pa.array([[1], None, [2, 3]]),
            pa.array([{"a": 1}, None]),
            pa.array(["a", "b", "a"]).dictionary_encode(),
            pa.array(np.arange(100_000.0)),
        )
        cases["Arrow tables"] = lambda: (
            pa.table({"a": [1], "b": ["x"]}),
            pa.schema([("a", pa.int8())]),
            pa.int8(),
            pa.scalar(1),
        )
    return cases


def test_golden_digests() -> None:
    """The format: these never change; a new scheme needs a new version byte and a new file."""
    always, perhaps = {**golden_cases(), **standard_cases()}, library_cases()
    computed = {name: fingerprint(*make()).hex() for name, make in {**always, **perhaps}.items()}
    golden = json.loads(GOLDEN.read_text())
    if os.environ.get("PERFOPT_WRITE_GOLDEN") == "1":
        golden.update(computed)
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    assert computed == {name: golden[name] for name in computed}
    assert len(set(computed.values())) == len(computed)


def test_digest_is_16_bytes_and_order_of_arguments_counts() -> None:
    digest = fingerprint(1, 2)
    assert type(digest) is bytes
    assert len(digest) == 16
    assert digest == fingerprint(1, 2)
    assert digest != fingerprint(2, 1)
    assert digest != fingerprint((1, 2))


DIFFERENT: list[Any] = [
    *(None, True, False, ..., NotImplemented, 0, 1, -1, 2, 2**64, -(2**64), 2**64 + 1, 10**40),
    *(
        0.0,
        -0.0,
        1.0,
        math.inf,
        -math.inf,
        math.nan,
        1j,
        0j,
        -0j,
        1 + 0j,
        "",
        "1",
        "1.0",
        "True",
        b"",
        b"1",
        bytearray(b"1"),
    ),
    *((), [], {}, set(), frozenset(), (1,), [1], {1}, frozenset({1}), {1: None}, {None: 1}, ((1,),), ([1],), (1, 1)),
    *(
        {"a": 1, "b": 2},
        {"a": 2, "b": 1},
        {"a": {"b": 1}},
        (("a", 1),),
        "a" * 256,
        "a" * 257,
        "a" * 300000,
        b"a" * 300000,
    ),
    *(
        Color.RED,
        Color.BLUE,
        Shade.RED,
        Level.LOW,
        MyInt(1),
        MyList([1]),
        Pair(1, 2),
        (1, 2),
        [1, 2],
        Point(1, 2),
        Other(1, 2),
    ),
    *(Point(1), Point(Point(1)), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), slice(1), range(1)),
    *(
        np.int64(1),
        np.int32(1),
        np.float64(1),
        np.float32(1),
        np.bool_(True),
        np.str_("1"),
        np.bytes_(b"1"),
        np.dtype("i4"),
    ),
    *(
        np.array(1),
        np.array([1]),
        np.array([[1]]),
        np.array([1.0]),
        np.array([1], "i4"),
        np.array([1], ">i8"),
        np.array([True]),
    ),
    *(np.array([0.0]), np.array([-0.0]), np.array([], "f4"), np.array([], "f8"), np.zeros((0, 2)), np.zeros((2, 0))),
    *(np.array(["1"]), np.array([b"1"]), np.array([1], "M8[s]"), np.array([1], "M8[ms]"), np.array([1], "m8[s]")),
    *(
        np.array([1], object),
        np.array(["1"], object),
        np.array([None], object),
        np.array([[1]]).view(Tagged),
        np.ma.array([1]),
    ),
    *(np.ma.array([1, 2], mask=[1, 0]), np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], fill_value=9)),
    *(np.array([(1,)], [("a", "i8")]), np.array([(1,)], [("b", "i8")]), np.array([(1.0,)], [("a", "f8")])),
    *(memoryview(b"1"), array.array("b", [49]), array.array("B", [49]), np.array([49], "B")),
    *(collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), collections.defaultdict(int, a=1)),
    *(collections.defaultdict(list, a=1), collections.Counter(a=1), (ctypes.c_int32 * 1)(49)),
]


def test_different_objects_differ() -> None:
    digests: dict[bytes, Any] = {}
    for value in DIFFERENT:
        digest = fingerprint(value)
        assert digest not in digests, (value, digests.get(digest))
        digests[digest] = value


def test_equal_content_of_separate_objects_agrees() -> None:
    assert fingerprint([1, {"a": (2.5, b"x")}]) == fingerprint([1, {"a": (2.5, b"x")}])
    assert fingerprint(float("nan")) == fingerprint(float("nan"))
    assert fingerprint(Point(np.arange(3), "a")) == fingerprint(Point(np.arange(3), "a"))
    assert fingerprint(Pair(1, [2])) == fingerprint(Pair(1, [2]))
    assert fingerprint(10**30) == fingerprint(int("1" + "0" * 30))
    assert fingerprint(np.float32(2.5)) == fingerprint(np.array([2.5], "f4")[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_of_every_dtype_agree(dtype: str) -> None:
    base = numbers(dtype, 6, 10, 8)
    if dtype == "O":
        base = np.array([(i, str(i)) if i % 2 else i for i in range(480)] + [None], dtype=object)[:480].reshape(
            6, 10, 8
        )
    views = [
        base,
        base[::2],
        base[:, ::-1],
        base[1:5, 2:9:3, ::-2],
        base.T,
        base[..., 3],
        base[2, 3, 4:4],
        base[0, 0, 0:1].reshape(()),
        np.broadcast_to(base[0, 0], (5, 8)),
        base[None, :, 1:2],
    ]
    digests = []
    for view in views:
        expected = fingerprint(np.ascontiguousarray(view).reshape(view.shape))
        assert fingerprint(view) == expected
        assert fingerprint(np.asfortranarray(view).reshape(view.shape)) == expected
        assert fingerprint(view.copy(order="K")) == expected
        digests.append(expected)
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_changed_element_changes_the_digest(dtype: str) -> None:
    base = numbers(dtype, 4, 3)
    seen = {fingerprint(base)}
    for index in np.ndindex(4, 3):
        changed = base.copy()
        changed[index] = numbers(dtype, 4, 3, seed=1)[index]
        seen.add(fingerprint(changed))
    assert len(seen) == 13


@pytest.mark.spec("S0-14")
def test_large_arrays_by_every_byte() -> None:
    """No sample: a change anywhere in 8 MiB is seen, and a strided half equals its copy."""
    base = np.random.default_rng(0).integers(0, 255, 8 << 20, dtype="u1")
    seen = {fingerprint(base)}
    for position in [0, 1, 4095, 262143, 262144, 5_000_001, len(base) - 1]:
        base[position] ^= 1
        seen.add(fingerprint(base))
        base[position] ^= 1
    assert len(seen) == 8
    assert fingerprint(base) in seen
    assert fingerprint(base[::2]) == fingerprint(base[::2].copy())
    square = base[: 2048 * 2048].reshape(2048, 2048)
    assert fingerprint(np.asfortranarray(square)) == fingerprint(square)


def test_padding_is_no_content() -> None:
    dtype = np.dtype([("a", "u1"), ("b", "<f8")], align=True)
    one = np.zeros(4, dtype)
    two = np.frombuffer(bytearray(b"\xff") * (4 * dtype.itemsize), dtype)  # no copy(): it leaves the padding to chance
    two["a"], two["b"] = 0, 0.0
    assert one.tobytes() != two.tobytes()
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(np.zeros(4, [("a", "u1"), ("b", "<f8")])), "the layout is part of the dtype"

    if np.dtype("g").itemsize == 16 and np.finfo("g").nmant == 63:
        raw = np.ones(3, "g")
        other = raw.copy()
        other.view("u1").reshape(3, 16)[:, 10:] = 77
        assert raw.tobytes() != other.tobytes()
        assert fingerprint(raw) == fingerprint(other)
        assert fingerprint(raw[0]) == fingerprint(other[0])
        assert fingerprint(raw) != fingerprint(raw + np.finfo("g").eps)


def test_the_masked_constant() -> None:
    masked = np.ma.array([1.0, 2.0], mask=[True, False])
    assert fingerprint(masked[0]) == fingerprint(np.ma.masked) != fingerprint(np.ma.array(0.0, mask=True))


def test_nested_structured_and_subarrays() -> None:
    dtype = np.dtype([("p", [("x", "<f4"), ("y", ">i2")]), ("v", "<u1", (2, 3)), ("when", "<M8[s]"), ("o", "O")])
    make = lambda: np.array([((1.5, 2), np.arange(6).reshape(2, 3), 5, [1, "a"])] * 3, dtype)  # noqa: E731
    assert fingerprint(make()) == fingerprint(make())
    changed = make()
    changed["o"][2] = [1, "b"]
    assert fingerprint(changed) != fingerprint(make())
    assert fingerprint(make()[0]) == fingerprint(make()[1])
    assert fingerprint(make()[::2]) == fingerprint(make()[::2].copy())


def test_memmap_and_readonly_equal_plain_arrays(tmp_path: pathlib.Path) -> None:
    data = np.arange(100_000, dtype="<f8")
    data.tofile(tmp_path / "data")
    mapped = np.memmap(tmp_path / "data", dtype="<f8", mode="r")
    assert fingerprint(mapped) == fingerprint(data)
    data.flags.writeable = False
    assert fingerprint(mapped) == fingerprint(data)
    with (tmp_path / "data").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        assert fingerprint(raw) == fingerprint(raw)
        assert fingerprint(raw) != fingerprint(data)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=5),
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6)
OBJECTS = st.recursive(
    SCALARS | st.sets(HASHABLE, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.builds(Point, inner)
    ),
    max_leaves=10,
)


def canonical(value: Any) -> Any:
    """Typed content as nested tuples: equal exactly when two objects have the same content."""
    if isinstance(value, float):
        return "float", np.float64(value).tobytes()
    if isinstance(value, complex):
        return "complex", np.complex128(value).tobytes()
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(canonical(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, tuple(sorted((canonical(item) for item in value), key=repr))
    if isinstance(value, dict):
        return "dict", tuple(sorted(((canonical(k), canonical(v)) for k, v in value.items()), key=repr))
    if isinstance(value, Point):
        return "Point", canonical((value.x, value.y))
    return type(value).__name__, value


@given(OBJECTS, OBJECTS)
@settings(max_examples=400, deadline=None)
def test_equal_content_if_and_only_if_equal_digest(left: Any, right: Any) -> None:
    assert (fingerprint(left) == fingerprint(right)) == (canonical(left) == canonical(right))


@given(st.integers(-3, 3), st.sampled_from(["<i4", "<f4", ">i4"]), st.lists(st.integers(1, 4), max_size=3), st.data())
@settings(max_examples=150, deadline=None)
def test_arrays_equal_if_and_only_if_equal_digest(fill: int, dtype: str, shape: list[int], data: Any) -> None:
    left = np.full(shape, fill, dtype)
    right = np.full(data.draw(st.sampled_from([shape, shape[::-1]])), data.draw(st.integers(-3, 3)), dtype)
    right = right.astype(data.draw(st.sampled_from(["<i4", "<f4", ">i4"])))
    same = left.dtype.str == right.dtype.str and left.shape == right.shape and left.tobytes() == right.tobytes()
    assert (fingerprint(left) == fingerprint(right)) == same


def test_sets_and_dicts_have_no_order() -> None:
    words = [f"word {i}" for i in range(200)]
    expected_set, expected_dict = fingerprint(set(words)), fingerprint({key: [1] for key in words})
    for seed in range(5):
        random.Random(seed).shuffle(words)
        assert fingerprint(set(words)) == expected_set
        assert fingerprint({key: [1] for key in words}) == expected_dict


PROCESS = """
import sys
sys.path[:0] = {path!r}
from test_fingerprint import golden_cases, library_cases, standard_cases, Color, Point, Pair
from perfopt.cache import fingerprint
values = [make() for make in {{**golden_cases(), **standard_cases(), **library_cases()}}.values()]
print(fingerprint(*values, {{"a", "b", "c", 1, None}}, {{"x": {{1, 2}}, "y": Color.RED}}, Point(1), Pair(2, 3)).hex())
"""


def test_other_processes_agree_whatever_their_hash_seed_and_instructions() -> None:
    def run(**environment: str) -> str:
        code = PROCESS.format(path=[str(pathlib.Path(__file__).parent)])
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
        ).stdout

    digests = {
        run(PYTHONHASHSEED="1"),
        run(PYTHONHASHSEED="2"),
        run(PERFOPT_CPU="scalar"),
        run(PERFOPT_NUM_THREADS="3"),
    }
    assert len(digests) == 1


class Nothing:
    pass


class Exporter(bytes):
    """A subclass with a state of its own."""


@pytest.mark.parametrize(
    "value",
    [
        Nothing(),
        object(),
        lambda: 0,
        iter([]),
        {1: Nothing()},
        [Nothing()],
        {Nothing()},
        np.array([Nothing()]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_content_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=r"argument 2: cannot read the content of a (\w+\.)*\w+ object"):
        fingerprint(1, value)


def test_attributes_of_subclasses_count() -> None:
    one, two = Exporter(b"ab"), Exporter(b"ab")
    assert fingerprint(one) == fingerprint(two)
    two.note = 1  # type: ignore[attr-defined]
    assert len({fingerprint(one), fingerprint(two), fingerprint(b"ab")}) == 3


def test_slots_of_subclasses_count() -> None:
    class Base(list):  # type: ignore[type-arg]
        __slots__ = ("__hidden",)

        def __init__(self, *args: Any, hidden: Any) -> None:
            super().__init__(*args)
            self.__hidden = hidden

    class Slotted(Base):
        __slots__ = "note"

    one, two, three = Slotted([1], hidden=0), Slotted([1], hidden=0), Slotted([1], hidden=1)
    assert fingerprint(one) == fingerprint(two)
    two.note = 1  # type: ignore[attr-defined]
    assert len({fingerprint(one), fingerprint(two), fingerprint(three)}) == 3


def test_a_dataclass_that_is_also_a_dict_counts_with_its_items() -> None:
    @dataclasses.dataclass
    class Batch(dict):  # type: ignore[type-arg]
        size: int

    one, two = Batch(1), Batch(1)
    assert fingerprint(one) == fingerprint(two)
    one["x"] = 1
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(Batch(1)) != fingerprint(Batch(2))


def test_flags_without_a_name_differ() -> None:
    class Mode(enum.Flag):
        A = 1
        B = 2
        C = 4

    one, two = Mode.A | Mode.B, Mode.A | Mode.C
    one._name_ = two._name_ = None  # as Python 3.10 has it
    assert fingerprint(one) != fingerprint(two)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
def test_a_signal_ends_a_walk_without_end() -> None:
    class Enough(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Enough

    tree: Any = [1]
    for _ in range(150):
        tree = [tree, tree]
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Enough):
            fingerprint(tree)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_objects_that_contain_themselves() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError, match="contain itself"):
        fingerprint(loop)
    chain: Any = 1
    for _ in range(300):
        chain = (chain,)
    with pytest.raises(RecursionError, match="200 levels"):
        fingerprint(chain)
    chain = 1
    for _ in range(190):
        chain = {"a": [chain]} if _ % 2 else (chain,)
    with pytest.raises(RecursionError):
        fingerprint(chain)
    wide = [[[1]] * 50] * 50
    assert fingerprint(wide) == fingerprint(wide)


def test_errors_of_user_code_come_through() -> None:
    class Broken:
        @property
        def start(self) -> int:
            raise OSError("no start")

    @dataclasses.dataclass
    class Holder:
        value: Any

        def __getattribute__(self, name: str) -> Any:
            if name == "value":
                raise OSError("gone")
            return super().__getattribute__(name)

    with pytest.raises(OSError, match="gone"):
        fingerprint([Holder(1)])


def test_threads_hash_at_the_same_time() -> None:
    arrays = [np.arange(2_000_000, dtype="f4") + i for i in range(4)]
    expected = [fingerprint(a) for a in arrays]
    found: list[list[bytes]] = [[] for _ in arrays]

    def work(i: int) -> None:
        found[i] = [fingerprint(arrays[i]) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(arrays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[digest] * 10 for digest in expected]


def test_no_collisions_among_many_small_objects() -> None:
    digests = {fingerprint(i, str(i)) for i in range(20_000)} | {fingerprint((i,), [str(i)]) for i in range(20_000)}
    assert len(digests) == 40_000


def test_types_that_extend_numpy_are_told_apart() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    raw = np.arange(8, dtype=np.uint8)
    kinds = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.dtype("V1"), np.uint8)
    arrays = [raw.view(kind) for kind in kinds]
    assert len({fingerprint(array) for array in arrays}) == len(arrays)
    assert fingerprint(arrays[0]) == fingerprint(np.repeat(arrays[0], 2)[::2])
    bfloat = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=ml_dtypes.bfloat16)
    assert fingerprint(bfloat) != fingerprint(bfloat.T)
    assert fingerprint(bfloat) == fingerprint(np.asfortranarray(bfloat))
    assert fingerprint(bfloat[0, 0]) != fingerprint(bfloat[0, :1])
    scalars = [array[1] for array in arrays]
    assert len({fingerprint(scalar) for scalar in scalars}) == len(scalars)
