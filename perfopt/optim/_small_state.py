"""State of many small parameters, cut from few buffers.

A step over ten thousand tensors of 64 elements waits for memory: for the tensor objects, their storages, their values. Views of
one buffer have one storage and one version counter between them, and their objects and values lie one behind the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["StateBuffers"]

_SMALL = 4096  # elements; state of a larger parameter has memory of its own
_MANY = 256  # small parameters: with fewer there is nothing to gain
_FIRST_BYTES = 1 << 14  # of a buffer; each is twice as large as the one before
_MOST_BYTES = 1 << 20  # and no larger than this: a state tensor that is kept or saved alone takes its buffer with it
_ALIGNMENT = 64  # bytes: no two tensors share a cache line


class StateBuffers:
    """Makes zeroed state tensors for new parameters: views of shared buffers where many are small, others by themselves.

    For use with gradients disabled. Views are ordinary tensors of their parameter's shape, strides and device.

    Args:
        params: all parameters that are about to get state.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._shares = sum(_is_small(param) for param in params) >= _MANY
        # A buffer, its first free element, and the bytes of the next one.
        self._open: dict[tuple[torch.dtype, torch.device, int], tuple[Tensor | None, int, int]] = {}

    def zeros_like(self, param: Tensor, dtype: torch.dtype) -> Tensor:
        """As ``torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)``."""
        if not self._shares or not _is_small(param):
            return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
        return self._cut(param.shape, param.stride(), dtype, param.device, _ALIGNMENT)

    def count(self, device: torch.device) -> Tensor:
        """A step count: a float32 zero of no dimensions."""
        if not self._shares:
            return torch.zeros((), dtype=torch.float32, device=device)
        return self._cut((), (), torch.float32, device, 4)

    def _cut(
        self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, device: torch.device, alignment: int
    ) -> Tensor:
        kind = (dtype, device, alignment)
        unit = max(1, alignment // dtype.itemsize)
        taken = -(-math.prod(shape) // unit) * unit
        buffer, begin, size = self._open.get(kind, (None, 0, _FIRST_BYTES))
        if buffer is None or begin + taken > buffer.numel():
            elements = max(size // dtype.itemsize, taken)
            buffer, begin, size = torch.zeros(elements, dtype=dtype, device=device), 0, min(2 * size, _MOST_BYTES)
        self._open[kind] = (buffer, begin + taken, size)
        return buffer.as_strided(shape, strides, begin)


def _is_small(param: Tensor) -> bool:
    """Whether its state may be a view. Subclasses, sparse and lazy tensors have ways of their own to make a zero."""
    plain = type(param) in (Tensor, torch.nn.Parameter) and param.layout == torch.strided
    return plain and 0 < param.numel() <= _SMALL and param.is_contiguous()
