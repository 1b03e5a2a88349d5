"""Training kernels on NumPy arrays: gradient norm and AdamW with clipping, for code without torch.

Arrays are float32 (for the norm also float16, or bfloat16 of ml_dtypes) and dense; several of them are worked on as one piece, in
parallel and with the GIL released.
Results have the same bits on any number of threads (``PERFOPT_NUM_THREADS``) and with every variant (``PERFOPT_CPU``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from perfopt import _train
from perfopt._kernels_cast import cast, dequantize, quantize, unscale
from perfopt._train import grad_norm, variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["StepResult", "adamw_step", "cast", "dequantize", "grad_norm", "quantize", "unscale", "variant"]


class StepResult(NamedTuple):
    """What one optimizer step did."""

    norm: float | None
    """Euclidean norm of all gradients before clipping; None when nothing asked for it."""
    skipped: bool
    """True when a gradient was inf or NaN and therefore nothing was changed."""
    clip_factor: float
    """What the gradients were multiplied by, at most 1."""


def adamw_step(
    params: Sequence[NDArray[np.float32]],
    grads: Sequence[NDArray[np.float32]],
    exp_avgs: Sequence[NDArray[np.float32]],
    exp_avg_sqs: Sequence[NDArray[np.float32]],
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    max_grad_norm: float | None = None,
    maximize: bool = False,
    skip_nonfinite: bool = True,
) -> StepResult:
    """One AdamW step, in place, over lists of arrays.

    The arithmetic and its order are those of ``torch.optim.AdamW`` (Loshchilov and Hutter, "Decoupled Weight Decay
    Regularization", 2019): decay before the update, ``eps`` outside the square root, bias corrections in double.
    Clipping is that of ``torch.nn.utils.clip_grad_norm_`` over all arrays together; ``grads`` are only read.

    Args:
        params: float32 arrays of any shape, updated in place.
        grads: one for each parameter, of its shape and memory order.
        exp_avgs: first moments, updated in place; zeros before the first step.
        exp_avg_sqs: second moments, updated in place; zeros before the first step.
        step: the number of this step, counted from 1. A skipped step did not happen: use its number again.
        lr: learning rate, >= 0.
        betas: decay rates of the moments, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: decoupled decay, >= 0; a step multiplies parameters by ``1 - lr * weight_decay``.
        max_grad_norm: clip the global norm to this, >= 0; None: do not clip.
        maximize: go up instead of down.
        skip_nonfinite: when any gradient is inf or NaN, change nothing at all. This needs a pass over the gradients
            before the first change; with ``False`` and no clipping that pass is left out.

    Raises:
        TypeError: something is no list of float32 arrays.
        ValueError: numbers out of range; lists or shapes that differ; memory that is strided, read-only, misaligned or
            shared. Nothing has changed then.
    """
    norm, skipped, clip_factor = _train.adamw_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        step,
        lr,
        betas,
        eps,
        weight_decay,
        max_grad_norm,
        maximize,
        skip_nonfinite,
    )
    norm_was_taken = skip_nonfinite or max_grad_norm is not None
    return StepResult(norm if norm_was_taken else None, skipped, clip_factor)
