"""Stepping for a torch optimizer that is in use: one of ``perfopt.optim`` over its parameter groups and state."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from perfopt.optim._base import PlannedOptimizer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AdoptingOptimizer"]

# What an adopted optimizer keeps for itself: its own (perhaps scheduler-wrapped) step, what GradScaler leaves on it.
_NOT_ADOPTED = {"step", "zero_grad", "grad_scale", "found_inf", "_step_supports_amp_scaling"}
# Twins whose fused form computes in float32 and rounds 16-bit values once, as a step here does. torch 2.13's fused SGD and
# Adagrad round in between; RMSprop has no fused form.
_FUSED_IN_FLOAT32 = ("adam", "adamw")


class AdoptingOptimizer(PlannedOptimizer):
    """Base of the optimizers that have a torch twin."""

    _twin: type[torch.optim.Optimizer]

    def _start(self, options: Any) -> None:
        super()._start(options)
        self._adopted: Any = None  # a torch optimizer of the twin's class

    @classmethod
    def adopt(cls, optimizer: torch.optim.Optimizer, *, max_grad_norm: float | None = None) -> Self:
        """One of this class that steps for an existing torch optimizer, sharing its parameter groups, state and hooks.

        The user's object stays in use: its LR schedulers act on the shared groups, its ``state_dict`` and
        ``load_state_dict`` see and set the shared state. Only ``step`` is to be called on the new one.

        Args:
            optimizer: exactly of the torch class of this name, with or without state; ``foreach`` and ``fused`` do not matter.
            max_grad_norm: as in the constructor.

        Raises:
            TypeError: ``max_grad_norm`` is no number.
            ValueError: with the reason, when this optimizer cannot be taken over: another class; ``differentiable``, or
                ``capturable`` on the CPU; parameters that share memory, are not dense, of another dtype than float32 or on
                a device without backend. bfloat16 and float16 are taken from a fused Adam or AdamW, whose arithmetic is
                the same; torch's other forms round every operation to 16 bits, and to change that is for the user to decide.
        """
        if type(optimizer) is not cls._twin:
            kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
            raise ValueError(f"optimizer is a {kind}; accepted: exactly torch.optim.{cls._twin.__name__}")
        self = cls.__new__(cls)
        self.__dict__.update({key: value for key, value in optimizer.__dict__.items() if key not in _NOT_ADOPTED})
        self._patch_step_function()
        self._start({"max_grad_norm": max_grad_norm})
        self._adopted = optimizer
        replaced = self._normalize_steps()
        try:
            self._refuse_other_arithmetic()
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

    def _refuse_other_arithmetic(self) -> None:
        for index, (param, group) in enumerate(self._params()):
            if param.dtype not in (torch.bfloat16, torch.float16):
                continue
            if self._operation in _FUSED_IN_FLOAT32 and group.get("fused"):
                continue
            accepted = (
                "torch.float32, or 16 bits with fused=True" if self._operation in _FUSED_IN_FLOAT32 else "float32"
            )
            raise ValueError(
                f"params[{index}] has dtype {param.dtype}, and this optimizer rounds every operation to it where perfopt "
                f"computes in float32; accepted: {accepted}"
            )

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
