"""The backend's matrix product on torch tensors: who can be given to it, and the call.

Matrices are dense 2-D tensors in rows. A product that the backend has no kernel for gives None, and the caller takes torch's.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import torch
from torch import Tensor

from perfopt import _core


class Epilogue(enum.IntEnum):
    """What is done to a product before it is stored; the numbers of csrc/backend/backend.h."""

    PLAIN = 0
    BIAS = 1
    GELU = 2
    GELU_BIAS = 3
    GELU_AUX = 4
    GELU_AUX_BIAS = 5
    DGELU = 6
    DGELU_BGRAD = 7
    BGRAD = 8


class Scaled(NamedTuple):
    """A float8 matrix and the one-element float32 tensor that it is to be multiplied by."""

    values: Tensor
    scale: Tensor


_CODES = {torch.bfloat16: 1, torch.float16: 2, torch.float8_e4m3fn: 3}
_WRITES_BIAS = (Epilogue.DGELU_BGRAD, Epilogue.BGRAD)
_E4M3_MAX = 448.0


@torch.compiler.assume_constant_result
def usable(device_index: int) -> bool:
    """Whether the backend is there and the device has matrix units for bfloat16 (compute capability 8.0)."""
    return bool(_core.backend_info()["available"]) and torch.cuda.get_device_capability(device_index) >= (8, 0)


@torch.compiler.assume_constant_result
def has_float8(device_index: int) -> bool:
    """Whether the device has matrix units for float8 (compute capability 8.9)."""
    return bool(torch.cuda.get_device_capability(device_index) >= (8, 9))


def takes(tensor: Tensor) -> bool:
    """Whether products of this tensor can go to the backend."""
    return tensor.is_cuda and tensor.dtype in (torch.bfloat16, torch.float16) and usable(tensor.get_device())


def _place(tensor: Tensor) -> tuple[int, int, int]:
    """(device, stream, bytes of workspace) for a product: 32 MiB where kernels use them, else 4, as cuBLAS recommends."""
    index = tensor.get_device()
    roomy = torch.cuda.get_device_capability(index) >= (9, 0)
    return index, torch.cuda.current_stream(index).cuda_stream, (32 if roomy else 4) << 20


def quantize(matrix: Tensor) -> Scaled:
    """float8 (e4m3) with one scale, so that the largest magnitude becomes 448; nothing waits for the device."""
    scale = (matrix.abs().amax().float() / _E4M3_MAX).clamp(min=1e-12)
    return Scaled((matrix.float() / scale).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn), scale.reshape(1))


def matmul(
    a: Tensor | Scaled,
    b: Tensor | Scaled,
    epilogue: Epilogue = Epilogue.PLAIN,
    *,
    out_dtype: torch.dtype,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Tensor | None = None,
    aux: Tensor | None = None,
) -> Tensor | None:
    """``epilogue(op(a) @ op(b))`` as a new [m, n] tensor; None where the backend has no kernel for it.

    a, b: contiguous, of at least one element, of one dtype. ``bias`` ([n], for BGRAD [m]) and ``aux`` ([m, n]) are read or
    written as the epilogue says and are contiguous, of ``out_dtype``.
    """
    a_values, a_scale = a if isinstance(a, Scaled) else (a, None)
    b_values, b_scale = b if isinstance(b, Scaled) else (b, None)
    m, k = reversed(a_values.shape) if transpose_a else a_values.shape
    n = b_values.shape[0] if transpose_b else b_values.shape[1]
    d = a_values.new_empty((m, n), dtype=out_dtype)
    device, stream, workspace_bytes = _place(a_values)
    workspace = a_values.new_empty(workspace_bytes, dtype=torch.uint8)
    done = _core.device_matmul(
        device,
        stream,
        (m, n, k),
        (_CODES[a_values.dtype], _CODES[out_dtype], int(epilogue), transpose_a, transpose_b),
        (
            a_values.data_ptr(),
            b_values.data_ptr(),
            d.data_ptr(),
            a_values.shape[1],
            b_values.shape[1],
            n,
        ),
        (
            0 if bias is None else bias.data_ptr(),
            0 if aux is None else aux.data_ptr(),
            n,
            0 if a_scale is None else a_scale.data_ptr(),
            0 if b_scale is None else b_scale.data_ptr(),
        ),
        (workspace.data_ptr(), workspace_bytes),
    )
    return d if done else None
