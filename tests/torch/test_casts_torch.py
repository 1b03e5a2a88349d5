"""perfopt.kernels on torch tensors by DLPack: the bits of torch's own conversions, every code of every dtype."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from perfopt import kernels  # noqa: E402

DTYPES = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


def boundary_numbers() -> Any:
    """Random float32 bits, and every float16 and bfloat16 with what lies just beside the middle to the next."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (500_000,), generator=generator).to(torch.int32)
    halves = torch.arange(-(2**15), 2**15).to(torch.int16)
    every = torch.cat([halves.view(torch.float16).float(), halves.view(torch.bfloat16).float()])
    small = torch.arange(-(2**7), 2**7).to(torch.int8)
    every = torch.cat([every, small.view(torch.float8_e4m3fn).float(), small.view(torch.float8_e5m2).float()])
    middles = [every * factor for factor in (1 + 2**-4, 1 + 2**-9, 1 + 2**-12, 1 + 2**-4 + 2**-20, 1 - 2**-4)]
    return torch.cat([bits.view(torch.float32), every, *middles])


def raw(tensor: Any) -> Any:
    return tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nearest_has_torchs_bits(dtype: Any) -> None:
    x = boundary_numbers()
    # What torch does with a float8_e4m3fn that is too large has changed with its versions: NaN once, 448 now.
    saturate = dtype == torch.float8_e4m3fn and not bool(torch.tensor(1e9).to(dtype).isnan())
    out = torch.empty(x.shape, dtype=dtype)
    assert kernels.cast(x, dtype, saturate=saturate, out=out) is out
    want = x.to(dtype)
    number = ~torch.isnan(x)
    assert torch.equal(raw(out)[number], raw(want)[number])
    assert torch.isnan(out.float())[~number].all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_code_reads_as_torch_reads_it(dtype: Any) -> None:
    bits = (
        torch.arange(-(2**15), 2**15).to(torch.int16) if dtype.itemsize == 2 else torch.arange(-128, 128).to(torch.int8)
    )
    codes = bits.view(dtype)
    np.testing.assert_array_equal(kernels.cast(codes, "float32"), codes.float().numpy())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_denormals_stay_where_torch_flushes_them(dtype: Any) -> None:
    x = torch.arange(1, 5000).to(torch.int32).view(torch.float32) * 2.0 ** torch.arange(4999).remainder(120)
    want = x.to(dtype)
    before = kernels.cast(want, "float32")
    flushes = torch.set_flush_denormal(True)
    try:
        out = torch.empty(x.shape, dtype=dtype)
        kernels.cast(x, dtype, out=out)
        back = kernels.cast(want, "float32")
    finally:
        torch.set_flush_denormal(False)
    if not flushes:
        pytest.skip("this processor cannot flush denormals")
    assert torch.equal(raw(out), raw(want))
    np.testing.assert_array_equal(back.view(np.int32), before.view(np.int32))


def test_unscale_takes_bfloat16_gradients() -> None:
    grads = [torch.full((5, 7), 3.0, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    assert kernels.unscale(grads, 0.5) is False
    assert all(bool((grad == 1.5).all()) for grad in grads)
    grads[1][2, 2] = float("inf")
    assert kernels.unscale(grads, 0.5) is True


def test_a_borrowed_tensor_is_let_go() -> None:
    x = torch.ones(1000, dtype=torch.bfloat16)
    gone = weakref.ref(x)
    kernels.cast(x, "float32")
    del x
    gc.collect()
    assert gone() is None


def test_refused_tensors_are_named() -> None:
    with pytest.raises(ValueError, match=r"x \(DLPack type"):
        kernels.cast(torch.zeros(3, dtype=torch.int32), "float16")
    with pytest.raises(ValueError, match="x has a dtype of its own"):
        kernels.cast(torch.zeros(3), "float16", source="bfloat16")
    with pytest.raises(ValueError, match="out has dtype bfloat16"):
        kernels.cast(torch.zeros(3), "float16", out=torch.zeros(3, dtype=torch.bfloat16))


def test_negated_views_are_refused() -> None:
    # DLPack would hand over their memory without the flag: every sign would be wrong.
    negated = torch._neg_view(torch.ones(3))
    with pytest.raises(ValueError, match="x is a negated view"):
        kernels.cast(negated, "float16")
    with pytest.raises(ValueError, match="out is a negated view"):
        kernels.cast(torch.ones(3), "float32", out=negated)
    with pytest.raises(ValueError, match=r"grads\[0\] is a negated view"):
        kernels.unscale([negated], 0.5)
    assert torch.equal(negated, -torch.ones(3))


def test_flushing_denormals_changes_no_bit() -> None:
    bits = np.random.default_rng(0).integers(1, 1 << 24, 5000, dtype=np.uint32)  # denormals and the numbers above
    small = bits.view(np.float32)

    def results() -> list[bytes]:
        scaled = [small.copy(), (bits % 1024).astype(np.uint16).view(np.float16)]
        kernels.unscale(scaled, 0.37)
        blocks = [kernels.quantize(small, stochastic=True, signed=signed) for signed in (True, False)]
        values = [
            kernels.dequantize(*block, signed=signed) for block, signed in zip(blocks, (True, False), strict=True)
        ]
        return [array.tobytes() for array in (*scaled, *(part for block in blocks for part in block), *values)]

    usual = results()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        flushing = results()
    finally:
        torch.set_flush_denormal(False)
    assert flushing == usual
