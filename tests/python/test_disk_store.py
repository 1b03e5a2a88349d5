"""Values in a cache directory: what disk_tier.c, disk_map_type.c and disk_store_type.c add to the codec and the engine."""

from __future__ import annotations

import contextlib
import gc
import os
import pathlib
import random
import struct
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfopt._core import DiskStore

KEY = bytes(range(16))
PICKLE_KEY = b"sixteen bytes at least"


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "little")


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[DiskStore]:
    with DiskStore(str(tmp_path / "cache")) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskStore]:
    with DiskStore(str(tmp_path_factory.mktemp("shared") / "cache")) as opened:
        yield opened


def noise(size: int, seed: int = 0) -> Any:
    """Numbers that do not compress, so that their file is mapped as it is."""
    return np.random.default_rng(seed).integers(0, 2**63, size)


def maps_of(store_path: pathlib.Path) -> int:
    return sum(str(store_path) in line for line in pathlib.Path("/proc/self/maps").read_text().splitlines())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---- scalars ---------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**63) - 2, -(2**63) + 2),
    st.integers(2**63 - 2, 2**63 + 2),
    st.floats(),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
)


def same_scalar(a: Any, b: Any) -> bool:
    if type(a) is float:
        return type(b) is float and struct.pack("<d", a) == struct.pack("<d", b)
    return type(a) is type(b) and bool(a == b)


@settings(max_examples=200, deadline=None)
@given(SCALARS)
def test_scalars_come_back_exactly(shared_store: DiskStore, value: Any) -> None:
    assert shared_store.put(KEY, value)
    assert same_scalar(value, shared_store.get(KEY, KEY))


@pytest.mark.parametrize("length", [0, 1, 127, 32767, 32768, 100_000])
def test_text_and_bytes_of_every_size(store: DiskStore, length: int) -> None:
    rng = random.Random(length)
    for value in ("a" * length, "é\ud800𝄞"[: length + 1] * (length // 3), rng.randbytes(length)):
        assert store.put(KEY, value)
        back = store.get(KEY)
        assert type(back) is type(value)
        assert back == value


def test_subclasses_of_scalars_are_no_scalars(store: DiskStore) -> None:
    class Text(str):
        __slots__ = ()

    with pytest.raises(TypeError, match=r"value: a .*Text cannot be stored in a safe format"):
        store.put(KEY, Text("a"))
    with pytest.raises(TypeError, match="object cannot be stored"):
        store.put(KEY, [object()])
    assert store.get(KEY) is None
    assert store.put(KEY, np.float64(1.5))
    assert type(store.get(KEY)) is np.float64


def test_a_miss_gives_the_default_and_is_counted(store: DiskStore) -> None:
    sentinel = object()
    assert store.get(KEY) is None
    assert store.get(KEY, sentinel) is sentinel
    store.put(KEY, None)
    assert store.get(KEY, sentinel) is None
    stats = store.stats()
    assert (stats["hits"], stats["misses"], stats["entries"]) == (1, 2, 1)


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [noise, np.zeros, np.arange])
@pytest.mark.parametrize("size", [0, 3, 4000, 100_000])
def test_arrays_are_read_only_views_for_good(store: DiskStore, size: int, make: Any) -> None:
    array = make(size)
    assert store.put(KEY, array)
    back = store.get(KEY)
    assert np.array_equal(array, back)
    assert back.dtype == array.dtype
    assert not back.flags.writeable
    if size:
        with pytest.raises(ValueError, match="WRITEABLE"):
            back.flags.writeable = True
        assert back.ctypes.data % 64 == 0 or size < 100_000 or make is not noise


def test_an_array_outlives_its_entry_its_store_and_its_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "cache"
    store = DiskStore(str(path))
    value = {"big": noise(100_000), "small": np.arange(10, dtype="i2"), "text": "x"}
    expected = {name: array.copy() for name, array in value.items() if isinstance(array, np.ndarray)}
    for number in range(4):
        store.put(key_of(number), value)
    kept = [store.get(key_of(number)) for number in range(4)]
    store.delete(key_of(0))
    store.put(key_of(1), "another")
    store.clear()
    store.close()
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    for back in kept:
        assert all(np.array_equal(expected[name], back[name]) for name in expected)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_no_map_and_no_descriptor_stays_behind(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "cache"
    before = descriptors()
    store = DiskStore(str(path))
    for number in range(20):
        store.put(key_of(number), noise(20_000, number))
    kept = [store.get(key_of(number)) for number in range(20)]
    parts = [array[10:20] for array in kept]
    del kept
    assert maps_of(path) >= 20
    store.close()
    assert all((part == noise(20_000, number)[10:20]).all() for number, part in enumerate(parts))
    del parts
    gc.collect()
    assert maps_of(path) == 0
    assert descriptors() == before


def test_no_memory_stays_behind(store: DiskStore) -> None:
    values: list[Any] = ["text", "é", 2**80, (1, {2: "x"}), np.arange(5), {"a": np.arange(9000.0)}, b"x" * 40_000]

    def turn() -> None:
        for number, value in enumerate(values):
            store.put(key_of(number), value, label="label")
            store.get(key_of(number))
        store.get(b"\xff" * 16)
        store.entries()
        store.stats()
        with pytest.raises(TypeError):
            store.put(KEY, object())

    for _ in range(5):
        turn()
    gc.collect()
    tracemalloc.start()
    turn()
    first = tracemalloc.get_traced_memory()[0]
    for _ in range(50):
        turn()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert grown < 20_000


# ---- pickles ---------------------------------------------------------------------------------------------------------


class Thing:
    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.number == other.number

    __hash__ = None  # type: ignore[assignment]


def test_a_pickle_comes_back_only_under_its_key_and_entry(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "cache")
    with DiskStore(path, pickle_key=PICKLE_KEY) as signed:
        assert signed.put(KEY, [Thing(3)])
        assert signed.get(KEY) == [Thing(3)]
    for other_key in (None, PICKLE_KEY + b"!"):
        with DiskStore(path, pickle_key=other_key) as other:
            assert other.get(KEY, "miss") == "miss"
            stats = other.stats()
            assert (stats["hits"], stats["misses"], stats["corrupt"]) == (0, 1, 1)
    with DiskStore(path, pickle_key=PICKLE_KEY) as signed:
        assert signed.get(KEY) == [Thing(3)]


class Interrupting:
    error: type[BaseException] = KeyboardInterrupt

    def __reduce__(self) -> Any:
        return Interrupting.strike, ()

    @staticmethod
    def strike() -> None:
        raise Interrupting.error


def test_only_what_must_come_out_comes_out_of_a_get(tmp_path: pathlib.Path) -> None:
    with DiskStore(str(tmp_path / "cache"), pickle_key=PICKLE_KEY) as store:
        store.put(KEY, Interrupting())
        for error in (KeyboardInterrupt, MemoryError, SystemExit):
            Interrupting.error = error
            with pytest.raises(error):
                store.get(KEY)
        Interrupting.error = ZeroDivisionError
        assert store.get(KEY, "miss") == "miss"
        assert store.stats()["corrupt"] == 1


class Failing:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("user code")


def test_what_user_code_raises_while_pickling_comes_out(tmp_path: pathlib.Path) -> None:
    with DiskStore(str(tmp_path / "cache"), pickle_key=PICKLE_KEY) as store:
        with pytest.raises(ZeroDivisionError, match="user code"):
            store.put(KEY, Failing())
        with pytest.raises(TypeError, match="function cannot be stored"):
            store.put(KEY, lambda: 0)


# ---- options and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"durability": "always"}, ValueError, "durability must be 'process' or 'power', not 'always'"),
        ({"compression": "gzip"}, ValueError, "compression must be 'auto', 'zstd' or 'none', not 'gzip'"),
        ({"pickle_key": b"short"}, ValueError, "at least 16 bytes, not 5"),
        ({"pickle_key": "a text of 16 characters"}, TypeError, "must be bytes, not str"),
        ({"must_exist": True}, OSError, "none"),
    ],
    ids=str,
)
def test_options_that_are_not_accepted(tmp_path: pathlib.Path, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        DiskStore(str(tmp_path / "none"), **options)
    assert not (tmp_path / "none").exists()


def test_arguments_that_are_not_accepted(store: DiskStore) -> None:
    for key in (b"", b"1" * 15, b"1" * 17, "1" * 16, 1, None):
        with pytest.raises(ValueError, match="key must be 16 bytes"):
            store.get(key)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="key must be 16 bytes"):
            store.put(key, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="label must be a str or None, not int"):
        store.put(KEY, 1, label=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a key and a default"):
        store.get()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="null"):
        DiskStore("a\0b")


def test_a_closed_store_says_so(tmp_path: pathlib.Path) -> None:
    store = DiskStore(str(tmp_path / "cache"))
    store.close()
    store.close()
    for call in (store.clear, store.expire, store.flush, store.verify, store.entries, store.stats, store.__enter__):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    for call_with_key in (store.get, store.delete, lambda key: store.put(key, 1), lambda key: store.touch(key, 0)):
        with pytest.raises(RuntimeError, match="closed"):
            call_with_key(KEY)


def test_entries_say_what_is_stored(store: DiskStore) -> None:
    store.put(key_of(1), noise(10_000), label="features\n(é\ud800)")
    store.put(key_of(2), "x", expires_ns=2**62)
    store.put(key_of(3), (1, 2), label="x" * 500)
    entries = {entry["key"]: entry for entry in store.entries()}
    assert set(entries) == {key_of(1), key_of(2), key_of(3)}
    assert [entries[key_of(n)]["kind"] for n in (1, 2, 3)] == ["npy/1", "str/1", "struct/1"]
    assert entries[key_of(1)]["label"] == "features\n(é\\ud800)"
    assert entries[key_of(3)]["label"] == "x" * 200
    assert entries[key_of(1)]["payload_bytes"] == 128 + 80_000
    assert [entries[key_of(n)]["is_file"] for n in (1, 2, 3)] == [True, False, False]
    assert [entries[key_of(n)]["expires_ns"] for n in (1, 2, 3)] == [0, 2**62, 0]


def test_more_entries_than_one_batch(store: DiskStore) -> None:
    for number in range(200):
        store.put(key_of(number), number)
    assert {entry["key"] for entry in store.entries()} == {key_of(number) for number in range(200)}
    store.clear()
    assert store.entries() == []


def test_delete_and_touch_say_whether_there_was_an_entry(store: DiskStore) -> None:
    assert not store.delete(KEY)
    assert not store.touch(KEY, 0)
    store.put(KEY, 1)
    assert store.touch(KEY, 2**62)
    assert store.entries()[0]["expires_ns"] == 2**62
    assert store.delete(KEY)
    assert store.get(KEY, "miss") == "miss"


def test_what_exceeds_the_bound_is_not_stored_and_nothing_is_warned(tmp_path: pathlib.Path) -> None:
    with DiskStore(str(tmp_path / "cache"), max_disk_bytes=4 << 20) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not store.put(KEY, np.random.default_rng(0).bytes(8 << 20))
        assert store.stats()["rejects"] >= 1


def run_in_child(program: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), *arguments], check=True, timeout=60)


def test_a_disk_that_fails_is_warned_of_once_and_never_raises(tmp_path: pathlib.Path) -> None:
    run_in_child(
        """
        import random, resource, sys, warnings
        from perfopt._core import DiskStore
        store = DiskStore(sys.argv[1])
        assert store.put(b"0" * 16, "whole")
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for number in range(5):
                assert not store.put(b"%016d" % number, random.Random(number).randbytes(256_000))
        assert [w.category for w in caught] == [RuntimeWarning], caught
        assert sys.argv[1] in str(caught[0].message), caught[0].message
        assert store.stats()["write_failures"] == 5, store.stats()
        assert store.get(b"0" * 16) == "whole"
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert store.put(b"1" * 16, random.Random(number).randbytes(256_000))
        """,
        str(tmp_path / "cache"),
    )


# ---- threads and processes -------------------------------------------------------------------------------------------


def test_threads_read_and_write_whole_values(store: DiskStore) -> None:
    wrong: list[Any] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(150):
            number = rng.randrange(8)
            if rng.random() < 0.4:
                fill = rng.randrange(100)
                size = 10_000 if number % 2 else 10
                store.put(key_of(number), {"fill": fill, "data": np.full(size, fill)} if number else (fill,) * 3)
            value = store.get(key_of(number))
            if value is None:
                continue
            good = len(set(value)) == 1 if number == 0 else bool((value["data"] == value["fill"]).all())
            if not good:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.stats()["corrupt"] == 0


def test_a_store_may_be_closed_while_others_use_it(tmp_path: pathlib.Path) -> None:
    ended: list[bool] = []
    for turn in range(10):
        store = DiskStore(str(tmp_path / str(turn)))
        store.put(KEY, np.arange(10_000))
        started = threading.Barrier(4)

        def work(store: DiskStore = store, started: threading.Barrier = started) -> None:
            started.wait()
            use = lambda: (store.put(key_of(1), b"x" * 50_000), store.get(KEY).sum())[1]  # noqa: E731
            with contextlib.suppress(RuntimeError):
                while use() == 49_995_000:
                    pass
            with pytest.raises(RuntimeError, match="closed"):
                use()
            ended.append(True)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait()
        store.close()
        for thread in threads:
            thread.join()
    assert len(ended) == 30


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")
def test_values_and_stores_live_on_in_a_forked_child(store: DiskStore) -> None:
    store.put(KEY, noise(100_000))
    array = store.get(KEY)
    expected = int(noise(100_000).sum())
    child = os.fork()
    if child == 0:
        good = False
        try:
            good = array.sum() == store.get(KEY).sum() == expected and store.put(key_of(1), (1, "child"))
        finally:
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert array.sum() == expected
    assert store.get(key_of(1)) == (1, "child")


def test_two_stores_on_one_directory_see_each_other(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "cache")
    with DiskStore(path) as one, DiskStore(path) as two:
        one.put(KEY, {"a": np.arange(3)})
        assert np.array_equal(two.get(KEY)["a"], np.arange(3))
        two.delete(KEY)
        assert one.get(KEY) is None


# ---- through the whole engine ----------------------------------------------------------------------------------------


def test_verify_reports(store: DiskStore) -> None:
    for number in range(5):
        store.put(key_of(number), number)
    report = store.verify()
    assert set(report) == {"checked", "damaged", "orphans", "orphan_bytes", "repaired", "index_rebuilt"}
    assert report["checked"] == 5
    assert (report["damaged"], report["orphans"]) == (0, 0)
    assert report["index_rebuilt"] is False
    assert store.verify(repair=True)["repaired"] == 0


def test_no_flipped_byte_of_the_directory_is_a_wrong_value_or_an_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "cache"
    with DiskStore(str(path), compression="none") as store:
        store.put(key_of(1), (1, "two", {3.0: b"four"}))
        store.put(key_of(2), np.arange(5))
        store.put(key_of(3), "text")
    segments = [file for file in path.rglob("*") if file.is_file() and b"four" in file.read_bytes()]
    assert len(segments) == 1
    whole = segments[0].read_bytes()
    begin = whole.index(b"four") - 150
    for position in range(max(begin, 0), min(begin + 600, len(whole)), 3):
        flipped = bytearray(whole)
        flipped[position] ^= 0x41
        segments[0].write_bytes(flipped)
        with DiskStore(str(path), compression="none") as store:
            assert store.get(key_of(1)) in (None, (1, "two", {3.0: b"four"}))
            array = store.get(key_of(2))
            assert array is None or np.array_equal(array, np.arange(5))
            assert store.get(key_of(3)) in (None, "text")
    segments[0].write_bytes(whole)
