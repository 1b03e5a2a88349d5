"""Casts and 8-bit blocks against torch's conversions, ml_dtypes, a copy of the same bytes, and 8-bit blocks written in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")

from perfopt import _core, kernels  # noqa: E402

COUNT = 32 << 20  # 128 MiB of float32: past any cache
BLOCK = 256


@pytest.fixture(autouse=True)
def equal_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(_core.cpu_info()["threads"])
    yield
    torch.set_num_threads(before)


def numbers(count: int = COUNT) -> Any:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def numpy_blocks(x: Any) -> tuple[Any, Any]:
    """8-bit blocks as the CPU path of an 8-bit optimizer does them: one pass over memory an operation (linear code)."""
    blocks = x.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    return np.rint(blocks / scales).astype(np.int8), scales


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_cast_from_float32(versus: Callable[..., None], name: str) -> None:
    x = numbers()
    dtype = getattr(torch, name)
    ours, theirs = torch.empty(COUNT, dtype=dtype), torch.empty(COUNT, dtype=dtype)
    moved = (COUNT * (4 + dtype.itemsize)) // 2
    source, target = torch.empty(moved, dtype=torch.uint8), torch.empty(moved, dtype=torch.uint8)
    versus(
        f"32 M float32 to {name}",
        ours={
            "cast(out=)": lambda: kernels.cast(x, dtype, out=ours),
            "cast(out=, stochastic)": lambda: kernels.cast(x, dtype, out=ours, stochastic=True, seed=1),
        },
        peers={
            "torch copy_": lambda: theirs.copy_(x),
            "torch copy_ of as many bytes": lambda: target.copy_(source),
        },
        rounds=9,
    )


def test_cast_to_float32(versus: Callable[..., None]) -> None:
    x = numbers().to(torch.bfloat16)
    ours, theirs = torch.empty(COUNT), torch.empty(COUNT)
    versus(
        "32 M bfloat16 to float32",
        ours={"cast(out=)": lambda: kernels.cast(x, "float32", out=ours)},
        peers={"torch copy_": lambda: theirs.copy_(x)},
        rounds=9,
    )


def test_cast_in_cache_against_ml_dtypes(versus: Callable[..., None]) -> None:
    x = numbers(65536).numpy()
    versus(
        "65 536 float32 to bfloat16, a new NumPy array",
        ours={"cast": lambda: kernels.cast(x, ml_dtypes.bfloat16)},
        peers={"astype(ml_dtypes.bfloat16)": lambda: x.astype(ml_dtypes.bfloat16)},
        rounds=15,
    )


def test_blocks(versus: Callable[..., None]) -> None:
    x = numbers().numpy()
    square = x * x
    codes, scales = kernels.quantize(square, signed=False)
    out = np.empty_like(x)
    versus(
        "32 M float32 to 8-bit blocks",
        ours={
            "quantize": lambda: kernels.quantize(x),
            "quantize(signed=False, stochastic=True)": lambda: kernels.quantize(
                square, signed=False, stochastic=True, seed=1
            ),
            "dequantize(out=)": lambda: kernels.dequantize(codes, scales, signed=False, out=out),
        },
        peers={"NumPy, linear code": lambda: numpy_blocks(x)},
        rounds=5,
    )
