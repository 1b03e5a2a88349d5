"""State in 8 bits as torch tensors: what the kernels keep, read and written for checkpoints.

The code is the one of csrc/kernels/quantize_math.h, bit for bit (rounded to nearest here, because a checkpoint is no step): one
byte an element, a float32 scale for each 256 elements in memory order, the last block may be short.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BLOCK", "decode", "encode", "scale_count"]

BLOCK = 256
_DROPPED = 20  # bits of float32 below a code
_SIGN, _INFINITY = 0x80, 0x7F800000


class _Code(NamedTuple):
    offset_bits: int
    max_code: int
    top: float
    min_scale: float


_CODES = {
    True: _Code((127 - 12) << 23, 127, 15.0 - 1.0 / 4096.0, 2.0**-111),
    False: _Code((127 - 28) << 23, 255, 15.0, 2.0**-95),
}


def scale_count(elements: int) -> int:
    return -(-elements // BLOCK)


def _in_memory_order(dense: Tensor) -> Tensor:
    return dense.as_strided((dense.numel(),), (1,))


def _spread(scales: Tensor, count: int) -> Tensor:
    return scales.reshape(-1).repeat_interleave(BLOCK)[:count]


def encode(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes and scales of a dense float32 tensor: uint8 laid out as ``values``, float32 ``[ceil(elements / 256)]``.

    Args:
        values: dense, in any memory format.
        signed: ``True`` for moments and momentum; ``False`` for what is never negative (a negative value becomes 0).
    """
    code = _CODES[signed]
    flat = _in_memory_order(values)
    padded = torch.nn.functional.pad(flat.abs() if signed else flat.clamp(min=0), (0, -flat.numel() % BLOCK))
    largest = padded.reshape(-1, BLOCK).amax(1) if flat.numel() else padded.new_zeros(0)  # of a NaN: NaN
    scales = (largest.clamp(max=2.0**127) / code.top).clamp(min=code.min_scale)
    scales = torch.where(largest == 0, 0.0, torch.where(torch.isfinite(largest), scales, torch.nan))
    inverse = _spread(torch.where(scales > 0, 1.0 / scales, 0.0), flat.numel())
    magnitude = (flat.abs() if signed else flat.clamp(min=0)) * inverse
    bits = (torch.nan_to_num(magnitude, 0.0, 0.0) + 2.0 ** ((code.offset_bits >> 23) - 127)).view(torch.int32)
    half_to_even = (1 << (_DROPPED - 1)) - 1 + (bits >> _DROPPED & 1)
    codes = ((bits + half_to_even) >> _DROPPED) - (code.offset_bits >> _DROPPED)
    codes = codes.clamp(max=code.max_code)
    if signed:
        codes |= torch.signbit(flat).to(torch.int32) * _SIGN
    else:
        codes = torch.where((codes == 0) & (flat > 0), 1, codes)
    broken = _spread(torch.isnan(scales), flat.numel())
    result = torch.empty_like(values, dtype=torch.uint8)
    _in_memory_order(result).copy_(codes.masked_fill_(broken, 0))
    return result, scales


def decode(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The float32 values of ``codes``, laid out like them."""
    code = _CODES[signed]
    flat = _in_memory_order(codes).to(torch.int32)
    magnitude = flat & (_SIGN - 1) if signed else flat
    shifted = (code.offset_bits + (magnitude << _DROPPED)).view(torch.float32)
    values = (shifted - 2.0 ** ((code.offset_bits >> 23) - 127)) * _spread(scales, flat.numel())
    if signed:
        values = torch.where(flat >= _SIGN, -values, values)
    result = torch.empty_like(codes, dtype=torch.float32)
    _in_memory_order(result).copy_(values)
    return result
