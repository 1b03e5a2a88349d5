"""Gradient clipping and the search for inf and NaN: torch's functions, in as few passes over memory as they need.

Gradients that are dense tensors of float32, bfloat16 or float16 on the CPU, each in memory of its own, go to perfopt's kernels; a
list with any other gradient in it goes to torch as a whole. Norms are summed in double, in an order that depends on sizes alone;
16-bit gradients are worked on as float32 and rounded once.
"""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from perfopt import _train
from perfopt._arguments import check_number

__all__ = ["clip_grad_norm_", "clip_grad_value_", "found_nonfinite"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_EMPTY_GENERATOR = "`parameters` is an empty generator, no gradient clipping will occur."


def for_kernels(grads: list[Tensor], dtypes: tuple[torch.dtype, ...] = _DTYPES) -> bool:
    """Whether perfopt's kernels may take the list; what they then refuse (strides, shared memory) raises before a change.

    While torch records operations (``torch.compile``, ``make_fx``, any dispatch mode), the work must be operations of torch.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return False
    return len(grads) > 0 and all(
        type(grad) is Tensor
        and grad.dtype in dtypes
        and grad.device.type == "cpu"
        and grad.layout is torch.strided
        and not grad.is_inference()
        for grad in grads
    )


def scale_in_place(grads: list[Tensor], factor: float, dtypes: tuple[torch.dtype, ...] = _DTYPES) -> bool | None:
    """Multiplies the gradients and says whether any had an inf or NaN before; None: not a list for the kernels, unchanged."""
    if not for_kernels(grads, dtypes):
        return None
    try:
        nonfinite = _train.scale_grads(grads, factor)
    except (TypeError, ValueError):
        return None
    if factor != 1.0:
        torch.autograd.graph.increment_version(grads)
    return nonfinite


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` that writes the gradients only when there is something to clip.

    Gradients are multiplied by ``min(1, max_norm / (norm + 1e-6))``. Where that is 1, one pass reads them and nothing is written;
    torch multiplies by 1. The norm is summed in double: finite gradients of any size have a finite norm, where torch's
    overflows from about 1e19 on (of float16 gradients, which it sums up as float16, from 65504) and clips them to zero.

    Args:
        parameters: tensors whose gradients are clipped in place, or one.
        max_norm: largest norm of all gradients together.
        norm_type: 2, or what torch accepts (``inf``, also as a word, 1, ...); others than 2 go to torch.
        error_if_nonfinite: raise when a gradient has an inf or NaN; nothing is written then.
        foreach: passed on to torch where torch does the work.

    Returns:
        The norm before clipping, a float32 tensor without dimensions on the CPU (where torch does the work: as torch has it).

    Raises:
        TypeError: ``max_norm`` or ``norm_type`` is no number.
        RuntimeError: the norm is not finite and ``error_if_nonfinite`` is set.
    """
    bound = check_number("max_norm", max_norm, least=None)
    order = math.inf if norm_type == "inf" else check_number("norm_type", norm_type, least=None)  # torch takes the word
    listed, grads = _gradients_of(parameters)
    if order == 2.0 and for_kernels(grads):
        try:
            norm, nonfinite, written = _train.clip_grads_norm(grads, bound, error_if_nonfinite)
        except (TypeError, ValueError):
            return torch.nn.utils.clip_grad_norm_(listed, max_norm, norm_type, error_if_nonfinite, foreach)
        if nonfinite and error_if_nonfinite:
            raise RuntimeError(
                "The total norm of order 2.0 for gradients from `parameters` is non-finite, so it cannot be clipped. "
                "To disable this error and scale the gradients by the non-finite norm anyway, set "
                "`error_if_nonfinite=False`"
            )
        if written:
            torch.autograd.graph.increment_version(grads)
        return torch.tensor(norm, dtype=torch.float32)
    return torch.nn.utils.clip_grad_norm_(listed, max_norm, norm_type, error_if_nonfinite, foreach)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """``torch.nn.utils.clip_grad_value_`` in one pass that writes only where a value is out of range (4 KiB at a time).

    Args:
        parameters: tensors whose gradients are clamped in place to [-clip_value, clip_value], or one. NaN stays NaN.
        clip_value: largest magnitude.
        foreach: passed on to torch where torch does the work.

    Raises:
        TypeError: ``clip_value`` is no number.
    """
    limit = check_number("clip_value", clip_value, least=None)
    listed, grads = _gradients_of(parameters, warn=False)
    if not grads:
        return
    if for_kernels(grads) and _can_hold(grads, limit):
        try:
            written = _train.clamp_grads(grads, -limit, limit)
        except (TypeError, ValueError):
            pass
        else:
            if written:
                torch.autograd.graph.increment_version(grads)
            return
    torch.nn.utils.clip_grad_value_(listed, clip_value, foreach)


def _can_hold(grads: list[Tensor], limit: float) -> bool:
    """Whether the limit is a number of every gradient's dtype; torch has the words for one that is not."""
    return math.isinf(limit) or all(abs(limit) <= torch.finfo(dtype).max for dtype in {grad.dtype for grad in grads})


def found_nonfinite(parameters: Tensor | Iterable[Tensor]) -> bool:
    """Whether the gradient of any of the parameters has an inf or NaN.

    One pass that only reads and ends at the first it finds; no sum is taken, so large finite gradients are no false alarm.
    Gradients on another device are waited for. Sparse gradients are looked at by value; float16 ones are summed up
    per index first, as that sum may overflow.

    Args:
        parameters: tensors with gradients, or one; those without are passed over.
    """
    _, grads = _gradients_of(parameters, warn=False)
    nonfinite = scale_in_place(grads, 1.0)
    if nonfinite is not None:
        return nonfinite
    return any(not bool(torch.isfinite(_values_of(grad)).all()) for grad in grads)


def _values_of(grad: Tensor) -> Tensor:
    if not grad.is_sparse:
        return grad.detach()
    coalesced = grad.detach().coalesce() if grad.dtype is torch.float16 else grad.detach()
    return coalesced._values()


def _gradients_of(parameters: Tensor | Iterable[Tensor], warn: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters as a list, and the gradients they have."""
    if isinstance(parameters, Tensor):
        listed = [parameters]
    else:
        listed = list(parameters)
        if warn and not listed and isinstance(parameters, types.GeneratorType):
            warnings.warn(_EMPTY_GENERATOR, stacklevel=3)
    return listed, [param.grad for param in listed if param.grad is not None]
