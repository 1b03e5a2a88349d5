"""AdamW for torch in two passes over memory; it can also step for a torch.optim.AdamW that is in use."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from perfopt.optim._base import PlannedOptimizer, StepOptions
from perfopt.optim.adam import ADAM_LAYOUT

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AdamW"]

# What an adopted optimizer keeps for itself: its own (perhaps scheduler-wrapped) step, what GradScaler leaves on it.
_NOT_ADOPTED = {"step", "zero_grad", "grad_scale", "found_inf", "_step_supports_amp_scaling"}


class AdamW(PlannedOptimizer, torch.optim.AdamW):
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
        self._start(options)
        torch.optim.AdamW.__init__(
            self, params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, capturable=capturable
        )

    def _start(self, options: Any) -> None:
        super()._start(options)
        self._adopted: Any = None  # a torch.optim.AdamW

    @classmethod
    def adopt(cls, optimizer: torch.optim.Optimizer, *, max_grad_norm: float | None = None) -> AdamW:
        """An ``AdamW`` that steps for an existing ``torch.optim.AdamW``, sharing its parameter groups, state and hooks.

        The user's object stays in use: its LR schedulers act on the shared groups, its ``state_dict`` and
        ``load_state_dict`` see and set the shared state. Only ``step`` is to be called on the new one.

        Args:
            optimizer: exactly a ``torch.optim.AdamW``, with or without state.
            max_grad_norm: as in the constructor.

        Raises:
            ValueError: with the reason, when this optimizer cannot be taken over (another class, ``amsgrad``, ``capturable``,
                ``differentiable``, tensors that are not dense float32, parameters that share memory, no backend for their
                device).
        """
        if type(optimizer) is not torch.optim.AdamW:
            kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
            raise ValueError(f"optimizer is a {kind}; accepted: exactly torch.optim.AdamW")
        for index, group in enumerate(optimizer.param_groups):
            for option in ("amsgrad", "capturable", "differentiable"):
                if group.get(option):
                    raise ValueError(f"optimizer.param_groups[{index}][{option!r}] is true; accepted: false")
        self = cls.__new__(cls)
        self.__dict__.update({key: value for key, value in optimizer.__dict__.items() if key not in _NOT_ADOPTED})
        self._patch_step_function()
        self._start({"max_grad_norm": max_grad_norm})
        self._adopted = optimizer
        replaced = self._normalize_steps()
        try:
            self._refuse_sixteen_bits()
            self._make_plan()
            self._refuse_shared_memory()
        except (TypeError, ValueError, RuntimeError) as error:
            for entry, step in replaced:
                entry["step"] = step
            raise ValueError(str(error)) from error
        return self

    def _before_step(self) -> None:
        super()._before_step()
        if self._adopted is not None:
            # load_state_dict gives an optimizer new containers; the owner's are the true ones.
            self.param_groups = self._adopted.param_groups
            self.state = self._adopted.state
            self._adopted._opt_called = True  # what LR schedulers look at to warn about a wrong order

    def _refuse_sixteen_bits(self) -> None:
        """torch computes such a step in 16 bits, this class in float32: to change that is for the user to decide."""
        for index, (param, _) in enumerate(self._params()):
            if param.dtype in (torch.bfloat16, torch.float16):
                raise ValueError(f"params[{index}] has dtype {param.dtype}; accepted: torch.float32")

    def _refuse_shared_memory(self) -> None:
        """Parameters without state are in no plan yet, and a first step that is refused is too late to take over."""
        params = [p for p, _ in self._params() if not torch.nn.parameter.is_lazy(p) and p.numel() > 0]
        spans = sorted((p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), i) for i, p in enumerate(params))
        for (_, end, one), (begin, _, other) in pairwise(spans):
            if begin < end:
                raise ValueError(
                    f"params[{one}] and params[{other}] share memory; a step needs each in memory of its own"
                )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._adopted is not None:  # load_state_dict on this one is meant for both
            self._adopted.param_groups = self.param_groups
            self._adopted.state = self.state
