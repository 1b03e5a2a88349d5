"""AdamW for torch in two passes over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from perfopt.optim._adopted import AdoptingOptimizer
from perfopt.optim._base import StepOptions, check_numbers
from perfopt.optim.adam import ADAM_LAYOUT

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AdamW"]


class AdamW(AdoptingOptimizer, torch.optim.AdamW):
    """``torch.optim.AdamW`` in two passes over memory, clipping included.

    One pass reads the gradients (global norm, inf and NaN), one does the rest: clip, decay, moments, update. The
    arithmetic and its order are those of ``torch.optim.AdamW`` with ``foreach=False, fused=False``, always in float32; the state
    dictionary is the same and loads both ways. Parameters are dense tensors of float32, bfloat16 or float16 in any memory
    format, all on the CPU or all on one CUDA device; gradients are read, and written only for ``zero_grads``.

    Under ``torch.amp.GradScaler`` and ``perfopt.amp.GradScaler`` the step unscales, looks for inf and NaN and clips in its own
    two passes; ``max_grad_norm`` is for the unscaled gradients. A step that the scaler skips counts in ``skipped_steps``.

    On a CUDA device a step is two kernels on the current stream, whatever the number of parameters, and never waits for
    the device. It can be captured into a CUDA graph after one step outside; ``lr`` as a tensor on the device then follows
    its changes.
    Parameters that a skipped step met for the first time keep their new (zero) state there.

    Args:
        params: parameters, or dicts of parameter groups with options of their own.
        lr: learning rate, a float or a one-element tensor.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: decoupled weight decay, >= 0.
        amsgrad: divide by the largest second moment so far.
        maximize: go up instead of down.
        capturable: on a CUDA device every step can be captured; on the CPU a step refuses ``True``, as torch does.
        options: those of every optimizer here, :class:`StepOptions`.

    Raises:
        ValueError: an option out of range.
        TypeError: an option that is not known.
    """

    _operation = "adamw"
    _twin = torch.optim.AdamW
    _layout = ADAM_LAYOUT

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        capturable: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        check_numbers(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self._start(options)
        torch.optim.AdamW.__init__(
            self, params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, capturable=capturable
        )
