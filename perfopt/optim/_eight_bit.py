"""State in 8 bits as torch tensors, read and written for checkpoints: ``perfopt.kernels.quantize`` in a tensor's memory order.

One byte an element, a float32 scale for each 256 elements in memory order, the last block may be short. Rounded to nearest: a
checkpoint is no step. What is on a device goes through the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perfopt import kernels

__all__ = ["BLOCK", "decode", "encode", "scale_count"]

BLOCK = 256


def scale_count(elements: int) -> int:
    """Scales of a tensor of so many elements."""
    return -(-elements // BLOCK)


def _in_memory_order(dense: Tensor) -> Tensor:
    return dense.as_strided((dense.numel(),), (1,))


def encode(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes and scales of a dense float32 tensor: uint8 laid out as ``values``, float32 ``[ceil(elements / 256)]``.

    Args:
        values: dense, in any memory format.
        signed: ``True`` for moments and momentum; ``False`` for what is never negative (a negative value becomes 0).
    """
    codes, scales = kernels.quantize(_in_memory_order(values).cpu().numpy(), signed=signed)
    result = torch.empty_like(values, dtype=torch.uint8)
    _in_memory_order(result).copy_(torch.from_numpy(codes))
    return result, torch.from_numpy(scales).to(values.device)


def decode(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The float32 values of ``codes``, laid out like them."""
    values = kernels.dequantize(_in_memory_order(codes).cpu().numpy(), scales.cpu().numpy(), signed=signed)
    result = torch.empty_like(codes, dtype=torch.float32)
    _in_memory_order(result).copy_(torch.from_numpy(values))
    return result
