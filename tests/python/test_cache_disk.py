"""PerformanceCache over two tiers: what is persistent comes back, what was overwritten or deleted does not."""

from __future__ import annotations

import asyncio
import enum
import fcntl
import os
import pathlib
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfopt import _core
from perfopt.cache import PerformanceCache, cache_result, fingerprint

KEY = b"a secret of sixteen bytes or more"


@pytest.mark.spec("S0-10", "S0-12", "S0-16")
def test_entries_outlive_the_cache(tmp_path: pathlib.Path) -> None:
    array = np.arange(50_000.0)
    keys: list[Any] = [
        "text",
        5,
        -(10**30),
        2.5,
        b"b",
        None,
        True,
        (1, "a"),
        [1, {"x": 2}],
        array,
        {"k": array[::2]},
        1j,
    ]
    with PerformanceCache(5, tmp_path) as cache:
        for i, key in enumerate(keys):
            cache.set(key, [i, array], persist=True)
        cache.set("memory only", 1)
    with PerformanceCache(5, tmp_path) as cache:
        for i, key in enumerate(keys):
            number, kept = cache.get(key)
            assert number == i
            np.testing.assert_array_equal(kept, array)
            assert not kept.flags.writeable
        assert cache.get("memory only") is None
        stats = cache.get_stats()
        assert (stats["disk_hits"], stats["memory_hits"], stats["misses"]) == (len(keys), 0, 1)
        assert stats["hits"] == len(keys)
        assert stats["cache_hit_rate"] == len(keys) / (len(keys) + 1)
        assert stats["disk_entries"] == len(keys)
        assert stats["disk_bytes"] > 0
        cache.get(keys[-1])
        assert cache.get_stats()["memory_hits"] == 1, "what was found has moved up"
        assert len(cache) == 5
        assert "text" in cache


def test_another_process_finds_them(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, numpy as np; from perfopt.cache import PerformanceCache\n"
        "cache = PerformanceCache(cache_dir=sys.argv[1])\n"
        "cache.set(('a', 1.5, [np.arange(10)]), {'v': np.arange(20000)}, persist=True)\n"
        "print(cache.get('mine'))\n"
    )
    with PerformanceCache(cache_dir=tmp_path) as cache:
        cache.set("mine", 7, True)
        output = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert output.stdout.strip() == "7"
        value = cache.get(("a", 1.5, [np.arange(10)]))
        np.testing.assert_array_equal(value["v"], np.arange(20000))


def test_what_was_overwritten_does_not_come_back(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(1, tmp_path) as cache:
        cache.set("a", "old", persist=True)
        cache.set("a", "new")
        cache.set("b", "pushes a out")
        assert cache.get("a") is None
        cache.set("a", "old", persist=True)
        cache.set("a", "newer", persist=True)
        cache.set("b", 1)
        assert cache.get("a") == "newer"
        assert cache.delete("a") is True
        assert cache.delete("a") is False
        assert cache.get("a") is None
        cache.set("a", 1, persist=True)
        cache.clear()
        assert "a" not in cache
        assert cache.get_stats()["disk_entries"] == 0


def test_get_or_compute_looks_on_disk_first(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get_or_compute("a", lambda: [1], persist=True) == [1]
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get_or_compute("a", lambda: [2], persist=True) == [1]
        assert cache.get_or_compute("b", lambda: [3]) == [3]
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("b") is None


def test_time_to_live_on_disk(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(cache_dir=tmp_path, ttl=100) as cache:
        for key in "abc":
            cache.set(key, key, persist=True, ttl=1000 if key == "c" else None)
        assert cache.touch("b", 1000) is True
        assert [cache.get(key) for key in "abc"] == ["a", "b", "c"]
        assert cache.touch("a", 0.2) is True
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("a") in ("a", None), "as it may be: it has 0.2 s"
        assert [cache.get(key) for key in "bc"] == ["b", "c"]
        time.sleep(0.25)
        assert [cache.get(key) for key in "abc"] == [None, "b", "c"], "the end moves up with the value"
        assert cache.touch("a") is False
        cache.expire()
        assert cache.get_stats()["disk_entries"] == 2
        assert cache.touch("c", 0.01) is True
        time.sleep(0.02)
        assert "c" not in cache


def test_entries_stored_for_ever_in_a_cache_with_a_time_to_live(tmp_path: pathlib.Path) -> None:
    """Who adds a ttl because results grow stale means those that are there already, too."""
    with PerformanceCache(cache_dir=tmp_path) as cache:
        for key in "ab":
            cache.set(key, "old", persist=True)
        cache.set("own", "own", persist=True, ttl=1000)
    stored = time.time()
    time.sleep(0.02)
    with PerformanceCache(cache_dir=tmp_path, ttl=0.01) as cache:
        assert (cache.get("a"), "a" in cache) == (None, False)
        assert cache.get("own") == "own", "an end of its own stays"
        assert cache.get_or_compute("a", lambda: "new", persist=True, ttl=1000) == "new"
    with PerformanceCache(0, tmp_path, ttl=0.01) as cache:
        assert cache.get("b") is None
    with PerformanceCache(cache_dir=tmp_path, ttl=1000) as cache:
        assert [cache.get(key) for key in ("a", "b", "own")] == ["new", "old", "own"]
        assert "b" in cache
    age = time.time() - stored
    with PerformanceCache(cache_dir=tmp_path, ttl=age + 1) as cache:
        cache.get("b")  # into memory, if it comes before its end, with what is left of it
        time.sleep(1.1)
        assert [cache.get(key) for key in ("a", "b", "own")] == ["new", None, "own"], "counted from when it was stored"
        assert "b" not in cache
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("b") == "old", "a cache without a time to live still finds it"


LONE = "\ud800 lone \udc80"


class Named(enum.Enum):
    LONE = LONE


@pytest.mark.parametrize(
    "item",
    [
        LONE,
        (LONE, 1),
        [LONE, {LONE: [LONE]}],
        {LONE},
        pathlib.PurePosixPath("\udc80"),
        np.array([LONE]),
        np.array([LONE, None], dtype=object),
        np.zeros(2, dtype=[("\udc80", "i4")]),
        Named.LONE,
    ],
    ids=lambda item: type(item).__name__,
)
def test_text_with_lone_surrogates_on_disk(tmp_path: pathlib.Path, item: Any) -> None:
    """Text that is no UTF-8, as of file names: as a key and as a value, in both faces."""
    calls: list[Any] = []
    for _ in range(2):
        with PerformanceCache(10, tmp_path, allow_pickle=KEY) as cache:
            function = cache_result(LONE, cache=cache, persist=True, version=LONE)(lambda x: calls.append(x) or x)
            for value in (cache.get_or_compute(item, lambda: item, persist=True), function(item)):
                assert type(value) is type(item)
                assert fingerprint(value) == fingerprint(item)
    assert len(calls) == 1
    with PerformanceCache(10, tmp_path, allow_pickle=KEY) as cache:
        stored = cache.get_stats()["disk_entries"]
        assert item in cache
        assert cache.delete(item)
        assert cache.get_stats()["disk_entries"] == stored - 1


def test_clearing_functions_whose_names_are_no_utf8(tmp_path: pathlib.Path) -> None:
    names = ["\ud800", "\\ud800", "\ud801", "\ud800" * 100]
    with PerformanceCache(10, tmp_path) as cache:
        functions = [cache_result(name, cache=cache, persist=True, version=1)(lambda x: x) for name in names]
        for left, function in enumerate(functions):
            for other in functions:
                other(1)
            assert cache.get_stats()["disk_entries"] == len(names), left
            function.cache_clear()
            assert cache.get_stats()["disk_entries"] == len(names) - 1


def test_values_and_keys_without_a_safe_format(tmp_path: pathlib.Path) -> None:
    class Odd:
        pass

    with PerformanceCache(cache_dir=tmp_path) as cache:
        with pytest.raises(TypeError, match=r"value: an object of type Odd .*allow_pickle"):
            cache.set("a", Odd(), persist=True)
        assert "a" not in cache
        odd = Odd()
        with pytest.raises(TypeError, match=r"key: an object of type object has no content"):
            cache.set(object(), 1, persist=True)
        cache.set(object, odd)
        assert cache.get(object) is odd, "in memory anything goes"
        assert cache.get(object()) is None
    with pytest.raises(ValueError, match="persist=True needs a directory"):
        PerformanceCache().set("a", 1, persist=True)
    with pytest.raises(ValueError, match="no cache_dir"):
        PerformanceCache().verify()
    PerformanceCache().flush()


def test_pickles_need_the_key(tmp_path: pathlib.Path) -> None:
    value = range(3), pathlib.PurePosixPath("a")
    exotic = {1: type("", (), {}).__mro__[1], 2: ValueError("a")}
    with PerformanceCache(cache_dir=tmp_path, allow_pickle=KEY) as cache:
        cache.set("a", exotic, persist=True)
        cache.set("b", value, persist=True)
    with PerformanceCache(cache_dir=tmp_path, allow_pickle=KEY) as cache:
        assert repr(cache.get("a")) == repr(exotic)
        assert cache.get("b") == value
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("a") is None
    with PerformanceCache(cache_dir=tmp_path, allow_pickle=KEY + b"x") as cache:
        assert cache.get("a") is None


def test_verify_flush_and_statistics(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(cache_dir=tmp_path, durability="power", compression="none") as cache:
        cache.set("a", np.arange(100_000), persist=True)
        cache.set("b", 1, persist=True)
        cache.flush()
        report = cache.verify()
        assert (report["checked"], report["damaged"]) == (2, 0)
    file = max((path for path in tmp_path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("a") is None, "damage is a miss"
        assert cache.get("b") == 1
        assert cache.get_stats()["corrupt_entries"] == 1
        cache.reset_stats()
        assert cache.get_stats()["corrupt_entries"] == 0
        cache.verify(repair=True)
        assert cache.verify()["damaged"] == 0


def test_the_two_tiers_agree_under_threads(tmp_path: pathlib.Path) -> None:
    """Writers of one key from many threads: whatever memory says at the end, the disk says too."""
    for _ in range(20):
        with PerformanceCache(cache_dir=tmp_path) as cache:
            barrier = threading.Barrier(4)

            def work(seed: int, cache: PerformanceCache = cache, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                for i in range(10):
                    cache.set("k", (seed, i), persist=True)
                    cache.get("k")

            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            last = cache.get("k")
            with PerformanceCache(cache_dir=tmp_path) as other:
                assert other.get("k") == last


def test_closing_while_others_read(tmp_path: pathlib.Path) -> None:
    cache = PerformanceCache(2, cache_dir=tmp_path)
    for i in range(20):
        cache.set(i, [i] * 1000, persist=True)
    wrong: list[Any] = []

    def read() -> None:
        try:
            for i in range(100_000):
                value = cache.get(i % 20)
                if value is not None and value[0] != i % 20:
                    wrong.append(value)
        except ValueError as error:
            if "closed" not in str(error):
                wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    cache.close()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_statistics_while_it_is_closed(tmp_path: pathlib.Path) -> None:
    """A memory error if the tier went while get_stats() was in it: the ASan lane sees it. Every reader gets its statistics."""
    for _ in range(20):
        cache = PerformanceCache(cache_dir=tmp_path)
        cache.set("key", 1)
        begun = threading.Event()
        sizes: list[int] = []

        def read(cache: PerformanceCache = cache, begun: threading.Event = begun, sizes: list[int] = sizes) -> None:
            while not cache.closed:
                sizes.append(cache.get_stats()["memory_cache_size"])
                begun.set()
            sizes.append(-1)  # not reached when get_stats() raises

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert begun.wait(60)
        cache.close()
        for thread in threads:
            thread.join()
        assert sizes.count(-1) == 4
        assert sizes[0] == 1


def test_a_directory_that_cannot_be_written_to(tmp_path: pathlib.Path) -> None:
    """Memory goes on as ever; only what would have to change on disk is refused, so that no old value comes back."""
    with PerformanceCache(cache_dir=tmp_path) as cache:
        cache.set("on disk", 1, persist=True)
    script = f"""if True:
        import os, warnings
        from perfopt.cache import PerformanceCache
        if os.geteuid() == 0:
            os.seteuid(65534)
        warnings.simplefilter("ignore")
        cache = PerformanceCache(cache_dir={str(tmp_path)!r})
        assert cache.get("on disk") == 1
        cache.set("new", 2)
        cache.set("new", 3, persist=True)
        assert cache.get_stats()["write_failures"] == 1
        assert cache.get("new") == 3
        assert cache.touch("new")
        assert cache.delete("new") and not cache.delete("new")
        for change in (
            lambda: cache.set("on disk", 4),
            lambda: cache.set("on disk", 4, persist=True),
            lambda: cache.delete("on disk"),
            lambda: cache.touch("on disk"),
        ):
            try:
                change()
            except OSError:
                continue
            raise AssertionError(change)
        assert cache.get("on disk") == 1
    """
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    parents = [path for path in tmp_path.parents if path.stat().st_uid == os.geteuid() and len(path.parts) > 2]
    modes = [path.stat().st_mode for path in parents]
    try:
        for path in parents:
            path.chmod(0o755)
        subprocess.run([sys.executable, "-c", script], check=True)
    finally:
        for path, mode in zip(parents, modes, strict=True):
            path.chmod(mode)
        for path in (tmp_path, *tmp_path.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("persist", [False, True])
def test_what_is_set_during_a_computation_stays_in_both_tiers(tmp_path: pathlib.Path, persist: bool) -> None:
    with PerformanceCache(cache_dir=tmp_path) as cache:

        def compute() -> str:
            cache.set("k", "set meanwhile", persist=persist)
            return "computed"

        assert cache.get_or_compute("k", compute, persist=True) == "set meanwhile"
        assert cache.get("k") == "set meanwhile"
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("k") == ("set meanwhile" if persist else None)


def test_an_old_value_does_not_outlive_a_write_that_failed(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(cache_dir=tmp_path, max_disk_bytes=1 << 20) as cache:
        cache.set("k", "old", persist=True)
        cache.set("k", bytes(np.random.default_rng(0).bytes(4 << 20)), persist=True)
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("k") is None


def test_many_threads_compute_once_over_a_disk(tmp_path: pathlib.Path) -> None:
    """Whoever was still reading the disk when another thread's value landed finds that value."""
    for i in range(100):
        with PerformanceCache(cache_dir=tmp_path) as cache:
            calls: list[int] = []
            barrier = threading.Barrier(8)

            def work(
                i: int = i,
                cache: PerformanceCache = cache,
                calls: list[int] = calls,
                barrier: threading.Barrier = barrier,
            ) -> None:
                barrier.wait()
                cache.get_or_compute(i, lambda: calls.append(1), persist=bool(i % 2))

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert calls == [1]


def test_what_is_deleted_while_it_is_written_does_not_come_back(tmp_path: pathlib.Path) -> None:
    for _ in range(50):
        with PerformanceCache(cache_dir=tmp_path) as cache:
            computed = threading.Event()

            def compute(computed: threading.Event = computed) -> bytes:
                computed.set()
                return bytes(1 << 20)

            thread = threading.Thread(
                target=lambda cache=cache, fn=compute: cache.get_or_compute("k", fn, persist=True)
            )
            thread.start()
            computed.wait()
            cache.delete("k")
            thread.join()
            assert cache.get("k") is None


# ---- arrays in files of their own: later touches look through one map ----------------------------------------------------------

COUNT = 50_000


def unlinked_maps(directory: pathlib.Path) -> int:
    """Files of a directory that are mapped here and have no name any more."""
    lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    return sum(str(directory / "payloads") in line and line.endswith("(deleted)") for line in lines)


def test_each_caller_has_an_array_of_its_own_over_one_map(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(0, tmp_path, compression="none") as cache:
        cache.set("k", np.arange(float(COUNT)), persist=True)
        first, second = cache.get("k"), cache.get("k")
        assert first is not second
        assert np.shares_memory(first, second)
        second.shape = (2, -1)
        first.dtype = np.int64
        third = cache.get("k")
        assert third.shape == (COUNT,)
        assert third.dtype == np.float64
        for array in (first, second, third):
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
    np.testing.assert_array_equal(third, np.arange(float(COUNT)))


@pytest.mark.parametrize("shape", [(COUNT,), (2, -1)])
def test_what_is_behind_an_array_can_be_changed_without_harm(tmp_path: pathlib.Path, shape: tuple[int, ...]) -> None:
    expected = np.arange(float(COUNT)).reshape(shape)
    with PerformanceCache(0, tmp_path, compression="none") as cache:
        cache.set("k", expected, persist=True)
        for _ in range(3):
            behind = cache.get("k").base
            while isinstance(behind, np.ndarray):
                with pytest.raises(ValueError, match="WRITEABLE"):
                    behind.flags.writeable = True
                behind.shape = (5, -1)
                behind.dtype = np.int64
                behind = behind.base
        found = cache.get("k")
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", [10, COUNT])
def test_names_of_fields_are_each_callers_own(tmp_path: pathlib.Path, count: int) -> None:
    with PerformanceCache(0, tmp_path, compression="none") as cache:
        cache.set("k", np.zeros(count, [("a", "f8"), ("b", "i4")]), persist=True)
        cache.get("k").dtype.names = ("x", "y")
        assert cache.get("k").dtype.names == ("a", "b")


def test_private_copies_of_an_array_on_disk(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(0, tmp_path, compression="none") as cache:
        function: Any = cache_result("zeros", cache=cache, persist=True, copy=True)(lambda n: np.zeros(COUNT) + n)
        for _ in range(3):
            copy = function(1)
            assert copy[0] == 1
            copy[:] = 5


@pytest.mark.parametrize("how", ["set", "delete and set", "another process", "clear", "evict"])
def test_an_array_that_was_replaced_is_not_handed_out(tmp_path: pathlib.Path, how: str) -> None:
    with PerformanceCache(0, tmp_path, max_disk_bytes=2 << 20, compression="none") as cache:
        cache.set("k", np.zeros(COUNT), persist=True)
        held = [cache.get("k"), cache.get("k")]
        if how == "another process":
            script = (
                f"import numpy as np; from perfopt.cache import PerformanceCache as C; "
                f"C(0, {str(tmp_path)!r}, compression='none').set('k', np.ones({COUNT}), persist=True)"
            )
            subprocess.run([sys.executable, "-c", script], check=True)
        elif how == "clear":
            cache.clear()
        elif how == "evict":
            for number in range(20):
                cache.set(number, np.full(COUNT, number), persist=True)
        else:
            if how == "delete and set":
                cache.delete("k")
            cache.set("k", np.ones(COUNT), persist=True)
        found = cache.get("k")
        assert (found is None) if how in ("clear", "evict") else (found == 1).all()
        assert not any(array.any() for array in held)


def test_unlinked_files_are_not_kept_for_the_arrays_over_them(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(0, tmp_path, compression="none") as cache:
        for number in range(20):
            cache.set(number, np.full(COUNT, number), persist=True)
            assert cache.get(number)[0] == cache.get(number)[0] == number
        held = cache.get(19)
        for number in range(20):
            cache.delete(number)
        cache.set("other", np.zeros(COUNT), persist=True)
        assert cache.get("other")[0] == 0
        assert unlinked_maps(tmp_path) == 1, "what the caller holds, and nothing else"
        assert held[0] == 19
        del held
        cache.get("other")
        assert unlinked_maps(tmp_path) == 0


class Writing:
    """Keeps everybody from writing in a directory, as another process would, so that threads overlap that write there."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        self.release = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
        self.descriptor = os.open(directory / "lock", os.O_RDWR)

    def __enter__(self) -> None:
        fcntl.fcntl(self.descriptor, F_OFD_SETLKW, self.request)

    def __exit__(self, *exc_info: object) -> None:
        fcntl.fcntl(self.descriptor, F_OFD_SETLKW, self.release)
        os.close(self.descriptor)


F_OFD_SETLKW = 38  # of Linux; fcntl has it from Python 3.9 on where the C library's headers say it


def begin(work: Callable[[], object]) -> threading.Thread:
    """A thread that has come as far as it can."""
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.1)
    return thread


@pytest.mark.parametrize("persist", [False, True])
@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("face", ["get_or_compute", "aget_or_compute", "set"])
def test_what_is_deleted_and_set_while_an_older_value_is_written_stays(
    tmp_path: pathlib.Path, persist: bool, size: int, is_there: bool, face: str
) -> None:
    with PerformanceCache(cache_dir=tmp_path) as cache:
        if is_there and face == "set":
            cache.set("k", "oldest", persist=True)
        cache.set("other", 1, persist=True)

        def older() -> None:
            if face == "get_or_compute":
                cache.get_or_compute("k", lambda: bytes(size), persist=True)
            elif face == "aget_or_compute":
                asyncio.run(cache.aget_or_compute("k", lambda: bytes(size), persist=True))
            else:
                cache.set("k", bytes(size), persist=True)

        with Writing(tmp_path):
            threads = [begin(older), begin(lambda: cache.delete("k"))]
            threads.append(begin(lambda: cache.set("k", "newer", persist=persist)))
        for thread in threads:
            thread.join(60)
        assert cache.get("k") == "newer"
        assert cache.get("other") == 1
        assert cache.verify()["damaged"] == 0
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("k") == ("newer" if persist else None)


@pytest.mark.parametrize("action", ["delete", "clear", "invalidate", "cache_clear"])
@pytest.mark.parametrize("single_flight", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_forgotten_while_it_is_written_does_not_come_back(
    tmp_path: pathlib.Path, action: str, single_flight: bool, is_async: bool
) -> None:
    with PerformanceCache(cache_dir=tmp_path) as cache:
        cache.set("other", 1, persist=True)

        async def compute_later(x: int) -> str:
            return "old"

        def compute(x: int) -> str:
            return "old"

        function: Any = cache_result(cache=cache, persist=True, single_flight=single_flight)(
            compute_later if is_async else compute
        )
        forget: dict[str, Callable[[], object]] = {
            "delete": lambda: cache.delete("k"),
            "clear": cache.clear,
            "invalidate": lambda: function.invalidate(1),
            "cache_clear": function.cache_clear,
        }

        def older() -> None:
            if action in ("invalidate", "cache_clear"):
                asyncio.run(function(1)) if is_async else function(1)
            elif is_async:
                asyncio.run(cache.aget_or_compute("k", lambda: "old", persist=True))
            else:
                cache.get_or_compute("k", lambda: "old", persist=True)

        with Writing(tmp_path):
            threads = [begin(older), begin(forget[action])]
        for thread in threads:
            thread.join(60)
        assert set(cache.keys()) <= {"other"}
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get_stats()["disk_entries"] == (action != "clear")


def test_of_two_that_store_one_key_the_later_one_wins(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(cache_dir=tmp_path) as cache:
        cache.set("other", 1, persist=True)
        with Writing(tmp_path):
            threads = [begin(lambda n=n: cache.set("k", n, persist=True)) for n in range(5)]  # type: ignore[misc]
        for thread in threads:
            thread.join(60)
        assert cache.get("k") == 4
    with PerformanceCache(cache_dir=tmp_path) as cache:
        assert cache.get("k") == 4


@pytest.mark.parametrize("persist", [False, True])
@pytest.mark.parametrize("size", [10, 100_000])
def test_what_is_set_while_a_clear_runs_can_stay(tmp_path: pathlib.Path, persist: bool, size: int) -> None:
    """The operating system says who writes first. A set that ends after the clear is the last word."""
    stayed = False
    for _ in range(30):
        with PerformanceCache(cache_dir=tmp_path) as cache:
            cache.set("k", "old", persist=True)
            with Writing(tmp_path):
                threads = [begin(cache.clear), begin(lambda: cache.set("k", bytes(size), persist=persist))]
            for thread in threads:
                thread.join(60)
            assert cache.get("k") in (bytes(size), None)
            assert ("k" in cache) == (cache.get("k") is not None)
            stayed = cache.get("k") is not None
            cache.clear()
        if stayed:
            return
    assert stayed


def test_what_is_computed_while_a_clear_runs_is_not_kept(tmp_path: pathlib.Path) -> None:
    """It may come of values that the clear removes."""
    with PerformanceCache(cache_dir=tmp_path) as cache:
        cache.set("source", "old", persist=True)
        with Writing(tmp_path):
            threads = [begin(cache.clear), begin(lambda: cache.get_or_compute("k", lambda: cache.get("source")))]
        for thread in threads:
            thread.join(60)
        assert cache.get("k") is None


def test_a_value_without_room_on_disk_stays_in_memory_when_it_was_touched(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(cache_dir=tmp_path, max_disk_bytes=1 << 20, compression="none") as cache:
        cache.set("k", "old", persist=True)
        large = bytes(2 << 20)
        with Writing(tmp_path):
            threads = [begin(lambda: cache.set("k", large, persist=True)), begin(lambda: cache.touch("k", 60))]
        for thread in threads:
            thread.join(60)
        assert cache.get("k") == large


class Slow:
    """Writing it to disk waits for `go`."""

    began, go = threading.Event(), threading.Event()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        self.began.set()
        assert self.go.wait(60)
        return Slow, ()


def test_a_child_keeps_what_its_parent_was_storing_when_it_forked(tmp_path: pathlib.Path) -> None:
    with PerformanceCache(cache_dir=tmp_path, allow_pickle=b"k" * 32) as cache:
        thread = threading.Thread(target=lambda: cache.set("k", Slow(), persist=True))
        thread.start()
        assert Slow.began.wait(60)
        pid = os.fork()
        if pid == 0:  # pragma: no cover
            calls: list[int] = []
            for _ in range(3):
                cache.get_or_compute("k", lambda: calls.append(1))
            os._exit(len(calls))
        status = os.waitpid(pid, 0)[1]
        Slow.go.set()
        thread.join(60)
        assert os.waitstatus_to_exitcode(status) == 1
        assert isinstance(cache.get("k"), Slow)


def test_entries_are_labelled_alike_by_both_faces(tmp_path: pathlib.Path) -> None:
    async def main(cache: PerformanceCache) -> None:
        for key in ("name", 5, (1, "a")):
            await cache.aget_or_compute(key, lambda: 1, persist=True)

    with PerformanceCache(cache_dir=tmp_path) as cache:
        asyncio.run(main(cache))
    store = _core.DiskStore(str(tmp_path))
    try:
        assert sorted(entry["label"] for entry in store.entries()) == ["5", "<tuple>", "name"]
    finally:
        store.close()
