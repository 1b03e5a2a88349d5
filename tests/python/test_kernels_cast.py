"""perfopt.kernels.cast, quantize, dequantize, unscale: against ml_dtypes and definitions; refusals; one result on any threads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from perfopt import kernels

RAW = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8}
SIZES = [0, 1, 15, 255, 256, 257, 65535, 65537, 300_001]


def numbers(count: int, seed: int = 0) -> Any:
    """float32 over many magnitudes, zeros, denormals, infinities and NaN among them."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(count) * 2.0 ** rng.integers(-30, 20, count)).astype(np.float32)
    x[::97] = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 65520.0, 464.0, 3.4e38], len(x[::97]))
    return x


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("count", SIZES)
def test_casts_round_as_ml_dtypes_does(name: str, count: int) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype("float16") if name == "float16" else np.dtype(getattr(ml_dtypes, name))
    x = numbers(count)
    got = kernels.cast(x, dtype.type)
    with np.errstate(over="ignore"):
        want = x.astype(dtype)
    assert got.dtype == dtype
    assert got.shape == x.shape
    nan = np.isnan(x)
    assert got[~nan].tobytes() == want[~nan].tobytes()
    assert np.isnan(got[nan].astype(np.float32)).all()
    back = kernels.cast(got, "float32")
    np.testing.assert_array_equal(back, want.astype(np.float32))


def test_raw_codes_need_no_ml_dtypes() -> None:
    x = np.array([1.0, -2.5, 3.140625, 1e9], np.float32)
    codes = kernels.cast(x, "bfloat16", raw=True)
    assert codes.dtype == np.uint16
    assert codes.tolist() == [0x3F80, 0xC020, 0x4049, 0x4E6E]
    np.testing.assert_array_equal(
        kernels.cast(codes, np.float32, source="bfloat16"), np.array([1.0, -2.5, 3.140625, 998244352.0], np.float32)
    )
    assert kernels.cast(x, "float8_e4m3fn", raw=True).tolist() == [0x38, 0xC2, 0x45, 0x7F]
    assert kernels.cast(x, "float8_e4m3fn", raw=True, saturate=True).tolist() == [0x38, 0xC2, 0x45, 0x7E]
    assert kernels.cast(x, "float8_e5m2", raw=True).tolist() == [0x3C, 0xC1, 0x42, 0x7C]
    out = np.empty(4, np.uint16)
    assert kernels.cast(x, "bfloat16", raw=True, out=out) is out
    assert out.tolist() == codes.tolist()


def test_without_ml_dtypes_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="raw=True"):
        kernels.cast(np.zeros(3, np.float32), "bfloat16")


def test_shapes_and_orders_stay() -> None:
    x = numbers(6 * 7 * 8).reshape(6, 7, 8)
    for array in (x, np.asfortranarray(x), x[::2, :, ::3], x.T, x[0, 0, 0]):
        array = np.asarray(array)
        codes = kernels.cast(array, "float16")
        assert codes.shape == array.shape
        np.testing.assert_array_equal(codes, kernels.cast(np.ascontiguousarray(array), "float16").reshape(array.shape))
        np.testing.assert_array_equal(kernels.dequantize(*kernels.quantize(codes)).shape, array.shape)


def test_stochastic_casts_depend_on_seed_stream_and_place_alone() -> None:
    x = np.full(300_000, 1.001, np.float32)
    first = kernels.cast(x, "bfloat16", raw=True, stochastic=True, seed=1, stream=2)
    assert first.tobytes() == kernels.cast(x, "bfloat16", raw=True, stochastic=True, seed=1, stream=2).tobytes()
    assert first.tobytes() != kernels.cast(x, "bfloat16", raw=True, stochastic=True, seed=2, stream=2).tobytes()
    assert first.tobytes() != kernels.cast(x, "bfloat16", raw=True, stochastic=True, seed=1, stream=3).tobytes()
    values = kernels.cast(first, "float32", source="bfloat16").astype(np.float64)
    assert set(np.unique(values)) == {1.0, 1.0078125}
    p = (1.001 - 1.0) / 0.0078125  # standard error of the mean: sqrt(p (1 - p) / n) of the gap
    assert abs(values.mean() - np.float64(np.float32(1.001))) < 0.0078125 * (5 * np.sqrt(p * (1 - p) / len(x)) + 2**-16)


SCRIPT = """
import hashlib, numpy as np
from perfopt import kernels
x = (np.random.default_rng(0).standard_normal(140_001) * 3).astype(np.float32)
digest = hashlib.sha256()
for stochastic in (False, True):
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        digest.update(kernels.cast(x, name, raw=True, stochastic=stochastic, seed=3).tobytes())
    digest.update(kernels.cast(x, "float16", stochastic=stochastic, seed=3).tobytes())
    for signed in (False, True):
        codes, scales = kernels.quantize(x, signed=signed, stochastic=stochastic, seed=4)
        digest.update(codes.tobytes() + scales.tobytes() + kernels.dequantize(codes, scales, signed=signed).tobytes())
half = x.astype(np.float16)
digest.update(bytes([kernels.unscale([x, half], 1 / 3)]) + x.tobytes() + half.tobytes())
print(digest.hexdigest())
"""


def test_one_result_on_any_threads_and_variant() -> None:
    from perfopt import _core

    digests = set()
    best = _core.cpu_info()["variant"]
    runs = [("1", "scalar"), ("8", "scalar"), ("1", best), ("2", best), ("5", best), ("8", best)]
    if best == "avx512":
        runs += [("1", "avx2"), ("3", "avx2")]
    for threads, variant in runs:
        environment = {**os.environ, "PERFOPT_NUM_THREADS": threads, "PERFOPT_CPU": variant}
        run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        digests.add(run.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("count", SIZES)
def test_blocks_come_back_within_their_bound(count: int) -> None:
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    codes, scales = kernels.quantize(x)
    assert codes.dtype == np.uint8
    assert codes.shape == x.shape
    assert scales.shape == (-(-count // 256),)
    back = kernels.dequantize(codes, scales)
    largest = np.repeat([np.abs(x[i : i + 256]).max() for i in range(0, count, 256)], 256)[:count]
    assert (np.abs(back - x) <= np.abs(x) / 64 + largest * 2.0**-9).all()
    square = x * x * np.float32(1e-3)
    back = kernels.dequantize(*kernels.quantize(square, signed=False), signed=False)
    assert ((back > 0) == (square > 0)).all()
    assert (np.abs(back - square) <= square * 0.063 + largest * largest * np.float32(1e-3) * 2.0**-34).all()


def test_edges_of_blocks() -> None:
    assert not kernels.dequantize(*kernels.quantize(np.zeros(300, np.float32))).any()
    x = np.ones(600, np.float32)
    x[300] = np.inf
    for signed in (True, False):
        back = kernels.dequantize(*kernels.quantize(x, signed=signed), signed=signed)
        np.testing.assert_array_equal(np.isnan(back), np.arange(600) // 256 == 1)
    wide = np.float32(10.0) ** np.linspace(-12, 0, 256, dtype=np.float32)  # 1e-12 to 1
    back = kernels.dequantize(*kernels.quantize(wide, signed=False), signed=False)
    assert (back > 0).all()
    assert (np.abs(back - wide)[wide > 1e-9] <= wide[wide > 1e-9] * 0.063).all()


def test_unscale_multiplies_in_place_and_finds_overflow() -> None:
    x = np.arange(100_000, dtype=np.float32)
    half = np.arange(2048, dtype=np.float16).reshape(2, 1024).T
    assert kernels.unscale([x, half, np.empty(0, np.float32)], 0.25) is False
    np.testing.assert_array_equal(x, np.arange(100_000, dtype=np.float32) / 4)
    np.testing.assert_array_equal(half, (np.arange(2048).reshape(2, 1024).T / 4).astype(np.float16))
    for bad in (np.inf, -np.inf, np.nan):
        for place in (0, 50_000, -1):
            x[place] = bad
            assert kernels.unscale([half, x], 1.0) is True
            x[place] = 1.0
    assert kernels.unscale([np.full(3, 1e38, np.float32)], 10.0) is True
    assert kernels.unscale([], 2.0) is False


F32 = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: kernels.cast([1.0], "float16"), TypeError, "x is a list"),
        (lambda: kernels.cast(np.zeros(3), "float16"), TypeError, "x has dtype float64"),
        (lambda: kernels.cast(np.zeros(3, ">f4"), "float16"), TypeError, "x has dtype >f4"),
        (lambda: kernels.cast(F32, "int8"), ValueError, "dtype='int8'"),
        (lambda: kernels.cast(F32, np.float64), ValueError, "dtype="),
        (lambda: kernels.cast(F32, "float16", source="bfloat16"), ValueError, "source='bfloat16'"),
        (lambda: kernels.cast(F32, "float16", seed=-1), ValueError, "seed=-1"),
        (lambda: kernels.cast(F32, "float16", stream=2**64), ValueError, "stream="),
        (lambda: kernels.cast(F32, "float16", out=np.zeros(7, np.float16)), ValueError, "out has shape"),
        (lambda: kernels.cast(F32, "float16", out=np.zeros(8, np.float32)), ValueError, "out has dtype float32"),
        (lambda: kernels.cast(F32, "float32", out=F32), ValueError, "shares memory"),
        (lambda: kernels.cast(F32, "float16", out=np.zeros(16, np.float16)[::2]), ValueError, "memory order"),
        (lambda: kernels.cast(F32, "float16", out=np.frombuffer(bytes(16), np.float16)), ValueError, "read-only"),
        (lambda: kernels.quantize("x"), TypeError, "x is a str"),
        (lambda: kernels.dequantize(F32, F32), TypeError, "codes is float32"),
        (lambda: kernels.dequantize(np.zeros(8, np.uint8), F32), ValueError, "8 elements"),
        (lambda: kernels.dequantize(np.zeros(8, np.uint8), np.zeros(1)), TypeError, "source_scales"),
        (lambda: kernels.dequantize(np.zeros(8, np.uint8), F32[:1], out=np.zeros(8)), TypeError, "out is float64"),
        (lambda: kernels.unscale(F32, 1.0), TypeError, "grads is a ndarray"),
        (lambda: kernels.unscale([F32, np.zeros(3)], 1.0), TypeError, r"grads\[1\] has dtype float64"),
        (lambda: kernels.unscale([F32[::2]], 1.0), ValueError, r"grads\[0\] is strided"),
    ],
)
def test_refusals_name_the_argument(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_unscale_changes_nothing_when_it_refuses() -> None:
    x = np.ones(8, np.float32)
    with pytest.raises(ValueError, match="read-only"):
        kernels.unscale([x, np.frombuffer(bytes(16), np.float32)], 3.0)
    assert (x == 1).all()
