"""Fingerprints of the standard library's values, of classes and functions, random generators and sparse arrays; and of tricks."""

from __future__ import annotations

import array
import collections
import ctypes
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import importlib.util
import ipaddress
import json
import operator
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import types
import unittest.mock
import uuid
import weakref
import zoneinfo
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import pytest

from perfopt.cache import cache_result, fingerprint

UTC = dt.timezone.utc
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def named(x: int) -> int:
    return x


class Named:
    def method(self) -> None: ...


STANDARD: dict[str, Callable[[], Any]] = {
    "decimal": lambda: decimal.Decimal("1.0"),
    "decimal of two digits": lambda: decimal.Decimal("1.00"),
    "negative decimal": lambda: decimal.Decimal("-1.0"),
    "decimal nan": lambda: decimal.Decimal("NaN"),
    "decimal nan with a payload": lambda: decimal.Decimal("NaN5"),
    "decimal infinity": lambda: decimal.Decimal("Infinity"),
    "decimal exponent": lambda: decimal.Decimal("1E+50"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "other fraction": lambda: fractions.Fraction(1, 4),
    "date": lambda: dt.date(2020, 1, 2),
    "datetime": lambda: dt.datetime(2020, 1, 2),
    "datetime fold": lambda: dt.datetime(2020, 1, 2, fold=1),
    "datetime UTC": lambda: dt.datetime(2020, 1, 2, tzinfo=UTC),
    "datetime zone": lambda: dt.datetime(2020, 1, 2, tzinfo=BERLIN),
    "datetime microsecond": lambda: dt.datetime(2020, 1, 2, 3, 4, 5, 6),
    "time": lambda: dt.time(1, 2, 3),
    "time UTC": lambda: dt.time(1, 2, 3, tzinfo=UTC),
    "timedelta": lambda: dt.timedelta(1, 2, 3),
    "timezone": lambda: UTC,
    "timezone with a name": lambda: dt.timezone(dt.timedelta(0), "X"),
    "timezone +1": lambda: dt.timezone(dt.timedelta(hours=1)),
    "zoneinfo": lambda: BERLIN,
    "zoneinfo of its own": lambda: zoneinfo.ZoneInfo.no_cache("Asia/Tokyo"),
    "uuid": lambda: uuid.UUID(int=5),
    "IPv4": lambda: ipaddress.ip_address("1.2.3.4"),
    "IPv6": lambda: ipaddress.ip_address("::1"),
    "IPv6 scope": lambda: ipaddress.ip_address("::1%eth0"),
    "IPv4 network": lambda: ipaddress.ip_network("1.2.3.0/24"),
    "IPv4 smaller network": lambda: ipaddress.ip_network("1.2.3.0/25"),
    "IPv4 interface": lambda: ipaddress.ip_interface("1.2.3.0/24"),
    "IPv6 network": lambda: ipaddress.ip_network("::/64"),
    "IPv6 interface": lambda: ipaddress.ip_interface("::1/64"),
    "pattern": lambda: re.compile("a+"),
    "pattern with flags": lambda: re.compile("a+", re.I),
    "pattern of bytes": lambda: re.compile(b"a+"),
    "partial": lambda: functools.partial(operator.mul, 2),
    "partial with a keyword": lambda: functools.partial(int, base=2),
    "nested partial": lambda: functools.partial(functools.partial, operator.mul),
    "range": lambda: range(1, 9, 2),
    "slice": lambda: slice(1, 9, 2),
    "deep slice": lambda: slice((1, "a"), None, [2]),
    "built-in function": lambda: len,
    "method of a class": lambda: str.upper,
    "class method": lambda: dict.fromkeys,
    "bound method": lambda: "ab".upper,
    "other bound method": lambda: "abc".upper,
    "class": lambda: int,
    "other class": lambda: decimal.Decimal,
    "function of a module": lambda: functools.reduce,
    "Python function": lambda: json.dumps,
    "flag": lambda: re.I | re.M,
}
UNHASHABLE: dict[str, Callable[[], Any]] = {
    "mapping proxy": lambda: types.MappingProxyType({"a": [1]}),
    "namespace": lambda: types.SimpleNamespace(a=1, b=[2]),
    "other namespace": lambda: types.SimpleNamespace(a=1, b=[3]),
    "deque": lambda: collections.deque([1, [2]]),
    "bounded deque": lambda: collections.deque([1, [2]], maxlen=5),
    "counter": lambda: collections.Counter("abca"),
    "chain map": lambda: collections.ChainMap({"a": 1}, {"b": 2}),
    "other chain map": lambda: collections.ChainMap({"a": 1, "b": 2}),
    "default dict": lambda: collections.defaultdict(list, a=[1]),
    "other default dict": lambda: collections.defaultdict(int, a=[1]),
    "random": lambda: random.Random(5),
    "other random": lambda: random.Random(6),
    "array": lambda: array.array("d", [1.5]),
}


def test_standard_values() -> None:
    made = {**STANDARD, **UNHASHABLE}
    digests = {name: fingerprint(make()) for name, make in made.items()}
    assert len(set(digests.values())) == len(digests)
    for name, make in made.items():
        assert fingerprint(make()) == digests[name], name
        assert fingerprint([make()]) == fingerprint([make()]) != digests[name]


@pytest.mark.parametrize("name", STANDARD)
def test_in_sets_and_as_keys(name: str) -> None:
    make = STANDARD[name]
    if name.startswith("decimal nan") or (isinstance(make(), slice) and sys.version_info < (3, 12)):
        pytest.skip("a slice is not hashable before Python 3.12, a NaN is equal to nothing")
    if name == "deep slice":
        pytest.skip("it holds a list")
    assert fingerprint({make(), "z"}) == fingerprint({"z", make()})
    assert fingerprint(frozenset({make()})) != fingerprint(frozenset({1}))
    assert fingerprint({make(): 1, "b": 2}) == fingerprint({"b": 2, make(): 1})

    @cache_result
    def count(things: Any) -> int:
        return len(things)

    assert count({make(), "z"}) == count({"z", make()}) == 2
    assert count({make(): 1}) == count({make(): 1}) == 1
    assert (count.cache_info().hits, count.cache_info().misses) == (2, 2)  # type: ignore[attr-defined]


def test_looking_at_an_address_does_not_change_it() -> None:
    one = ipaddress.ip_network("10.0.0.0/8")
    before = fingerprint(one)
    _ = one.broadcast_address, one.num_addresses, one.is_private
    assert fingerprint(one) == before


def test_a_decimal_does_not_depend_on_the_context() -> None:
    value = decimal.Decimal("1.5E+40")
    before = fingerprint(value)
    with decimal.localcontext() as context:
        context.prec, context.capitals = 3, 0
        assert fingerprint(value) == before


def test_subclasses_of_standard_values_count_with_class_and_attributes() -> None:
    class Money(decimal.Decimal):
        currency: str

    class Day(dt.date):
        pass

    class Slots(fractions.Fraction):
        __slots__ = ("unit",)

    class Here(pathlib.PurePosixPath):
        pass

    for kind, argument in ((Money, "1.5"), (Slots, "1/3"), (Here, "a")):
        base = kind.__mro__[1]
        one, two, three = kind(argument), kind(argument), kind(argument)  # type: ignore[arg-type]
        name = "unit" if kind is Slots else "currency"
        setattr(one, name, "EUR")
        setattr(two, name, "EUR")
        setattr(three, name, "USD")
        assert fingerprint(one) == fingerprint(two)
        assert len({fingerprint(one), fingerprint(three), fingerprint(base(argument))}) == 3
    assert fingerprint(Day(2020, 1, 1)) != fingerprint(dt.date(2020, 1, 1))


def test_attributes_of_subclasses_of_arrays_count() -> None:
    class Numbers(array.array):  # type: ignore[type-arg]
        pass

    class Slotted(array.array):  # type: ignore[type-arg]
        __slots__ = ("unit",)

    class Ints(ctypes.c_int * 2):  # type: ignore[misc]
        pass

    for make in (lambda: Numbers("i", [1, 2]), lambda: Slotted("i", [1, 2]), lambda: Ints(1, 2)):
        one, two, three = make(), make(), make()
        assert fingerprint(one) == fingerprint(two)
        one.unit = two.unit = "m"
        assert fingerprint(one) == fingerprint(two) != fingerprint(three)
        two.unit = "cm"
        assert fingerprint(one) != fingerprint(two)


# ---- classes and functions -----------------------------------------------------------------------------------------------------


def importable(name: str) -> Any:
    """An attribute of this file as a module that an import finds, whatever pytest calls it."""
    spec = importlib.util.spec_from_file_location("fingerprint_objects_again", __file__)
    assert spec is not None
    assert spec.loader is not None
    if spec.name not in sys.modules:
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return getattr(sys.modules[spec.name], name)


def test_functions_and_classes_by_name() -> None:
    values = [
        importable("named"),
        importable("Named"),
        importable("Named").method,
        np.add,
        np.sum,
        np.float32,
        np.ndarray,
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    one, two = importable("Named").method, functools.partial(importable("named"), 1)
    assert fingerprint(one, two) == fingerprint(one, functools.partial(importable("named"), 1))


def local(offset: int) -> Callable[[int], int]:
    return lambda x: x + offset


def test_functions_without_a_name_are_refused() -> None:
    def inner() -> None: ...

    class Local: ...

    shadowed = types.FunctionType(named.__code__, {}, "named")
    shadowed.__module__, shadowed.__qualname__ = "json", "dumps"
    main = types.FunctionType(named.__code__, {"__name__": "__main__"}, "main")
    main.__qualname__ = "main"
    sys.modules["__main__"].main = main  # type: ignore[attr-defined]
    try:
        with pytest.raises(TypeError, match=r"function object \(.*in __main__.*\); give what"):
            fingerprint(main)
    finally:
        del sys.modules["__main__"].main  # type: ignore[attr-defined]
    for value in (inner, Local, local(1), functools.partial(local(1)), collections.defaultdict(lambda: 0)):
        with pytest.raises(TypeError, match="define it in a module"):
            fingerprint(value)
    with pytest.raises(TypeError, match=r"json\.dumps is another object"):
        fingerprint(shadowed)
    with pytest.raises(TypeError, match="draws from the system"):
        fingerprint(random.SystemRandom())


def test_functions_without_a_name_are_told_apart_in_keys() -> None:
    calls = []

    @cache_result
    def apply(functions: Any, x: int) -> int:
        calls.append(x)
        return int(functions[0](x))

    one, two = local(1), local(2)
    assert apply([one], 1) == apply([one], 1) == 2
    assert apply([two], 1) == 3
    assert len(calls) == 2
    assert apply([named], 1) == apply([named], 1) == 1
    assert len(calls) == 3


def test_a_key_tells_classes_of_one_name_apart_in_any_order() -> None:
    def make() -> Any:
        @dataclasses.dataclass(frozen=True)
        class Same:
            x: int

        return Same

    A, B = make(), make()
    B.__qualname__ = A.__qualname__
    assert fingerprint(A(1)) == fingerprint(B(1))
    calls = []

    @cache_result
    def look(things: Any) -> int:
        calls.append(things)
        return len(calls)

    first = look({"a": A(1), "b": B(2)})
    assert look({"b": B(2), "a": A(1)}) == first
    assert look({"a": B(1), "b": A(2)}) != first
    assert look({A(1), B(2), B(1)}) == look({B(1), B(2), A(1)})
    assert look({A(1), B(2)}) != look({B(1), A(2)})


# ---- random generators ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators_count_by_their_state(kind: str) -> None:
    bits = getattr(np.random, kind)
    one, two = np.random.Generator(bits(5)), np.random.Generator(bits(5))
    assert fingerprint(one) == fingerprint(two) != fingerprint(np.random.Generator(bits(6)))
    before = fingerprint(one)
    one.random()
    assert fingerprint(one) != before
    two.random()
    assert fingerprint(one) == fingerprint(two) != fingerprint(one.bit_generator)
    one.spawn(1)
    assert fingerprint(one) != fingerprint(two), "the next spawn gives other children"
    assert fingerprint(np.random.SeedSequence(5)) == fingerprint(np.random.SeedSequence(5))


def test_legacy_states() -> None:
    one, two = np.random.RandomState(5), np.random.RandomState(5)
    assert fingerprint(one) == fingerprint(two) != fingerprint(np.random.RandomState(6))
    one.normal()
    assert fingerprint(one) != fingerprint(two), "half of a pair of normals is waiting"


def test_a_generator_as_an_argument_counts_by_its_state() -> None:
    @cache_result
    def draw(rng: Any) -> float:
        return float(rng.random())

    for make in (lambda: np.random.default_rng(1), lambda: np.random.RandomState(1), lambda: random.Random(1)):
        rng = make()
        first = draw(rng)
        assert draw(rng) != first, "its state has moved"
        assert draw(make()) == first


# ---- sparse arrays -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["csr", "csc", "bsr", "coo", "lil", "dok", "dia"])
def test_sparse_arrays(name: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.array([[0, 1.5, 0], [0, 0, 2], [3, 0, 0], [0, 0, 0]])
    kind = getattr(sparse, name + "_array")
    one, two = kind(dense), kind(dense.copy())
    assert fingerprint(one) == fingerprint(two)
    changed = dense.copy()
    changed[2, 0] = 4
    others = [kind(changed), kind(dense.astype("f4")), kind(dense[:3]), getattr(sparse, name + "_matrix")(dense), dense]
    assert len({fingerprint(value) for value in (one, *others)}) == 6
    _ = one @ np.ones(3), one.T, one.nnz
    assert fingerprint(one) == fingerprint(two)


def test_sparse_arrays_in_any_order() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rows, columns, values = [0, 2, 0, 0], [1, 0, 0, 1], [1.0, 2.0, 3.0, 4.0]
    tidy = sparse.coo_array(([3.0, 5.0, 2.0], ([0, 0, 2], [0, 1, 0])), shape=(3, 2))
    loose = sparse.coo_array((values, (rows, columns)), shape=(3, 2))
    before = loose.data.copy()
    assert fingerprint(loose) == fingerprint(tidy)
    assert np.array_equal(loose.data, before), "the argument is left as it is"
    unsorted = sparse.csr_array((np.array([5.0, 3.0]), np.array([1, 0]), np.array([0, 2])), shape=(1, 2))
    ordered = sparse.csr_array(np.array([[3.0, 5.0]]))
    assert fingerprint(unsorted) == fingerprint(ordered)
    assert list(unsorted.indices) == [1, 0]
    padded = sparse.dia_array((np.array([[1.0, 2.0, 99.0]]), [-1]), shape=(3, 3))
    assert fingerprint(padded) == fingerprint(sparse.dia_array((np.array([[1.0, 2.0, 7.0]]), [-1]), shape=(3, 3)))


# ---- tricks --------------------------------------------------------------------------------------------------------------------


def test_what_a_subclass_says_of_itself_is_no_content() -> None:
    class Liar:
        def __iter__(self) -> Any:
            return iter([0])

        def __len__(self) -> int:
            return 0

        def __getitem__(self, item: Any) -> Any:
            return 0

        def keys(self) -> Any:
            return []

        items = values = keys

        def __reduce__(self) -> Any:
            return list, ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

        def __str__(self) -> str:
            return "same"

        __repr__ = __str__

        def __float__(self) -> float:
            return 0.0

        def __int__(self) -> int:
            return 0

        __index__ = __int__

        def __complex__(self) -> complex:
            return 0j

        def __bytes__(self) -> bytes:
            return b""

    pairs: list[tuple[type, Any, Any]] = [
        (list, [1], [2]),
        (tuple, (1,), (2,)),
        (dict, {"a": 1}, {"a": 2}),
        (set, {1}, {2}),
        (frozenset, {1}, {2}),
        (str, "a", "b"),
        (bytes, b"a", b"b"),
        (bytearray, b"a", b"b"),
        (int, 1, 2),
        (float, 1.5, 2.5),
        (complex, 1j, 2j),
        (collections.OrderedDict, {"a": 1}, {"a": 2}),
        (collections.deque, [1], [2]),
    ]
    for base, left, right in pairs:
        lying = type("Lying", (Liar, base), {})
        one, two, three = lying(left), lying(left), lying(right)
        assert fingerprint(one) == fingerprint(two), base
        assert fingerprint(one) != fingerprint(three), base


def test_cached_properties_are_no_content() -> None:
    class Words(list):  # type: ignore[type-arg]
        @functools.cached_property
        def longest(self) -> str:
            return str(max(self, key=len))

    one, two = Words(["a", "bb"]), Words(["a", "bb"])
    before = fingerprint(one)
    assert one.longest == "bb"
    assert fingerprint(one) == before == fingerprint(two)


def test_a_class_with_a_false_name_is_not_taken_for_another() -> None:
    Fake = type("Decimal", (), {"__module__": "decimal", "as_tuple": lambda self: (0, (1,), 0)})
    with pytest.raises(TypeError):
        fingerprint(Fake())
    odd = type("Odd", (), {})
    odd.__module__ = []  # type: ignore[assignment]
    with pytest.raises(TypeError):
        fingerprint(odd())


def test_what_claims_another_class_is_refused() -> None:
    class Box(list):  # type: ignore[type-arg]
        pass

    box = Box([1])
    liars = [weakref.proxy(box), unittest.mock.Mock(spec=np.ndarray), unittest.mock.MagicMock(spec=dict)]
    for liar in liars:
        with pytest.raises(TypeError, match="it says that its class is"):
            fingerprint(liar)
    with pytest.raises(TypeError, match="Mock object"):
        fingerprint(unittest.mock.Mock())
    with pytest.raises(TypeError, match="GenericAlias object"):
        fingerprint(list[int])


def test_zones_of_pytz() -> None:
    pytz = pytest.importorskip("pytz")
    berlin = pytz.timezone("Europe/Berlin")
    zones = [berlin, pytz.timezone("Asia/Tokyo"), pytz.UTC, pytz.FixedOffset(60), pytz.FixedOffset(90)]
    summer, winter = berlin.localize(dt.datetime(2020, 7, 1)), berlin.localize(dt.datetime(2020, 1, 1))
    zones += [summer.tzinfo, winter.tzinfo]
    assert len({fingerprint(zone) for zone in zones}) == len(zones)
    assert fingerprint(summer) == fingerprint(berlin.localize(dt.datetime(2020, 7, 1)))


def test_errors_on_the_way_come_through() -> None:
    class Broken(list):  # type: ignore[type-arg]
        @property
        def __dict__(self) -> Any:
            raise OSError("no attributes")

    with pytest.raises(OSError, match="no attributes"):
        fingerprint(Broken())


def test_containers_changed_by_other_threads() -> None:
    things: list[Any] = [
        [1] * 50,
        dict.fromkeys(range(50)),
        set(range(50)),
        collections.deque(range(50)),
        bytearray(5000),
    ]
    array_ = np.arange(5000)
    stop = threading.Event()

    def disturb() -> None:
        r = random.Random(0)
        while not stop.is_set():
            n = r.randrange(10_000)
            things[0][:] = [n] * r.randrange(100)
            things[1][n] = n
            things[1].pop(next(iter(things[1])))
            things[2].add(n)
            things[2].pop()
            things[3].append(n)
            things[3].popleft()
            array_[n % 5000] = n
            try:
                things[4].append(1)
                del things[4][:1]
            except BufferError:
                pass  # it is being read

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(2000):
            assert len(fingerprint(things, array_)) == 16
    finally:
        stop.set()
        thread.join()


def test_flat_lists_can_be_interrupted() -> None:
    """Signals are seen inside a flat list: of those that come during the walk, more than the one that is left at its end."""
    code = """
import signal
from perfopt.cache import fingerprint

seen = 0

def interrupt(*_):
    global seen
    seen += 1
    if seen == 3:
        raise KeyboardInterrupt

things = [1] * 20_000_000
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
try:
    fingerprint(things)
    signal.setitimer(signal.ITIMER_REAL, 0)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "interrupted\n", done.stderr


def test_other_processes_agree() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from test_fingerprint_objects import STANDARD, UNHASHABLE, named
from perfopt.cache import fingerprint
made = [make() for make in [*STANDARD.values(), *UNHASHABLE.values()]]
print(fingerprint(*made, named, {{make() for name, make in STANDARD.items() if "slice" not in name}}).hex())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in "123"
    }
    assert len(digests) == 1


class Weekday(enum.Enum):
    MONDAY = dt.date(2024, 1, 1)


def test_enum_members_in_sets() -> None:
    assert fingerprint({Weekday.MONDAY}) == fingerprint({Weekday.MONDAY})


class Renamed(enum.Enum):
    A = 1
    B = 2

    @property
    def name(self) -> str:  # type: ignore[override]
        return "the same for all"


def test_a_name_of_its_own_does_not_make_two_members_one() -> None:
    assert fingerprint(Renamed.A) != fingerprint(Renamed.B)


@dataclasses.dataclass
class Options:
    rate: float


class MoreOptions(Options):
    """No dataclass itself, so its attribute is no field."""

    def __init__(self, rate: float, steps: int) -> None:
        super().__init__(rate)
        self.steps = steps


def test_what_a_dataclass_holds_beside_its_fields_counts() -> None:
    assert fingerprint(MoreOptions(0.5, 1)) == fingerprint(MoreOptions(0.5, 1))
    assert fingerprint(MoreOptions(0.5, 1)) != fingerprint(MoreOptions(0.5, 2))
    one, two = Options(0.5), Options(0.5)
    assert fingerprint(one) == fingerprint(two)
    one.note = 1  # type: ignore[attr-defined]
    two.note = 2  # type: ignore[attr-defined]
    assert len({fingerprint(one), fingerprint(two), fingerprint(Options(0.5))}) == 3


Item = TypeVar("Item")


@dataclasses.dataclass
class Box(Generic[Item]):
    content: Item


def test_how_typing_called_a_class_is_no_content() -> None:
    assert fingerprint(Box[int](1)) == fingerprint(Box(1))


class Either(ctypes.Union):
    _fields_ = [("text", ctypes.c_char_p), ("number", ctypes.c_int64)]


class Packed(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("kind", ctypes.c_char), ("text", ctypes.c_char_p)]


@pytest.mark.parametrize("value", [Either(b"a"), Packed(b"a", b"b"), (Either * 2)()], ids=["union", "packed", "array"])
def test_an_address_inside_memory_is_no_content(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot read the content"):
        fingerprint(value)


class Measured(np.ma.MaskedArray):  # type: ignore[type-arg]
    """A masked array with a unit."""


def measured(unit: str) -> Any:
    values = np.ma.array([1, 2], mask=[0, 1]).view(Measured)
    values.unit = unit
    return values


def test_attributes_of_masked_arrays_count() -> None:
    assert fingerprint(measured("m")) == fingerprint(measured("m"))
    assert fingerprint(measured("m")) != fingerprint(measured("s"))
    assert fingerprint(np.ma.array([1], hard_mask=True)) != fingerprint(np.ma.array([1]))


def test_records_are_no_plain_structures() -> None:
    plain = np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f8")])
    records = plain.astype(np.dtype((np.record, plain.dtype)))
    for one, two in ((plain, records), (plain[0], records[0]), (plain.dtype, records.dtype)):
        assert fingerprint(one) != fingerprint(two)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="needs the text dtype of NumPy 2")
def test_what_stands_for_missing_text_counts() -> None:
    kinds = [np.dtypes.StringDType(), np.dtypes.StringDType(na_object=None), np.dtypes.StringDType(na_object=np.nan)]
    digests = [fingerprint(np.array(["a"], kind)) for kind in kinds]
    assert len(set(digests)) == 3
    assert digests == [fingerprint(np.array(["a"], kind)) for kind in kinds]


class Below(list):  # type: ignore[type-arg]
    __slots__ = ("note",)


class Above(Below):
    __slots__ = ("note",)


def test_a_slot_does_not_hide_one_of_the_same_name() -> None:
    def make(above: int, below: int) -> Above:
        value = Above()
        value.note = above  # type: ignore[misc]
        Below.note.__set__(value, below)  # type: ignore[attr-defined]
        return value

    assert fingerprint(make(1, 2)) == fingerprint(make(1, 2))
    assert len({fingerprint(make(1, 1)), fingerprint(make(2, 1)), fingerprint(make(1, 2))}) == 3
