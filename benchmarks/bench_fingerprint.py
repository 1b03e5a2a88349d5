"""Content fingerprints beside a bare XXH3 pass over the same memory, joblib.hash and pandas' own hashing."""

from __future__ import annotations

import decimal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from perfopt.cache import fingerprint

joblib = pytest.importorskip("joblib")
xxhash = pytest.importorskip("xxhash")

ROWS = 1_000_000


def bare_pass(array: Any, threads: int) -> Any:
    """One XXH3-128 pass over an array's memory, an even part per thread; xxhash releases the GIL."""
    parts = np.array_split(array.reshape(-1).view("u1"), threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(xxhash.xxh3_128_digest, parts))


@pytest.mark.parametrize(("label", "count"), [("64 MB", 8_000_000), ("256 MB", 32_000_000)])
def test_array(versus: Any, label: str, count: int) -> None:
    array = np.random.default_rng(0).random(count)
    versus(
        f"fingerprint of one float64 array of {label}",
        ours={"perfopt.fingerprint": ("f(x)", {"f": fingerprint, "x": array})},
        peers={
            "bare XXH3-128, 2 threads": ("f()", {"f": bare_pass(array, 2)}),
            **({"joblib.hash": ("f(x)", {"f": joblib.hash, "x": array})} if count < 10_000_000 else {}),
        },
        bars={"bare XXH3-128, 2 threads": "<=1.2"} if label == "64 MB" else {},
        rounds=15,
    )


def compare_tables(versus: Any, row: str, table: Any, **others: Any) -> None:
    pandas = pytest.importorskip("pandas")
    peers = {
        "joblib.hash": ("f(x)", {"f": joblib.hash, "x": table}),
        "pandas.util.hash_pandas_object": ("f(x)", {"f": pandas.util.hash_pandas_object, "x": table}),
        **others,
    }
    ours = {"perfopt.fingerprint": ("f(x)", {"f": fingerprint, "x": table})}
    versus(row, ours=ours, peers=peers, rounds=11)


def test_frame(versus: Any) -> None:
    pandas = pytest.importorskip("pandas")
    values = np.random.default_rng(0).random((ROWS, 10))
    frame = pandas.DataFrame(values)
    bare = ("f()", {"f": bare_pass(values, 2)})
    compare_tables(
        versus, "fingerprint of a DataFrame, 1e6 rows, 10 float64 columns", frame, **{"bare XXH3-128, 2 threads": bare}
    )


@pytest.mark.parametrize("integers", [0, 1000])
def test_wide_frame(versus: Any, integers: int) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.random.default_rng(0).random((10, 2000)))
    frame = frame.astype(dict.fromkeys(range(0, 2 * integers, 2), "int64"))
    kinds = "int64 and float64" if integers else "float64"
    compare_tables(versus, f"fingerprint of a DataFrame, 10 rows, 2000 {kinds} columns", frame)


@pytest.mark.parametrize("dtype", ["str", "object", "category"])
def test_text_column(versus: Any, dtype: str) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    series = pandas.Series([f"item {i % 1000}" for i in range(ROWS)]).astype(dtype)
    compare_tables(versus, f"fingerprint of a text Series of 1e6 rows, dtype {dtype}", series)


def test_arrow_column_with_nulls(versus: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    numbers = np.random.default_rng(0).random(ROWS)
    array = pyarrow.array(numbers, mask=numbers < 0.5)
    versus(
        "fingerprint of an Arrow array of 1e6 float64, half of them null",
        ours={"perfopt.fingerprint": ("f(x)", {"f": fingerprint, "x": array})},
        peers={"bare XXH3-128, 2 threads": ("f()", {"f": bare_pass(numbers, 2)})},
    )


@pytest.mark.parametrize("label", ["ints", "decimals"])
def test_list(versus: Any, label: str) -> None:
    things: list[Any] = list(range(100_000))
    if label == "decimals":
        things = [decimal.Decimal(i) / 7 for i in things]
    versus(
        f"fingerprint of a list of 1e5 {label}",
        ours={"perfopt.fingerprint": ("f(x)", {"f": fingerprint, "x": things})},
        peers={"joblib.hash": ("f(x)", {"f": joblib.hash, "x": things})},
        rounds=11,
    )
