"""AdamW for torch with gradient clipping inside the step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from perfopt._train import OptimizerPlan
from perfopt.optim._loss_scale import LossScale

__all__ = ["AdamW"]

# What an adopted optimizer keeps for itself: its own (perhaps scheduler-wrapped) step, what GradScaler leaves on it.
_NOT_ADOPTED = {"step", "zero_grad", "grad_scale", "found_inf", "_step_supports_amp_scaling"}


class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW`` in two passes over memory, clipping included.

    One pass reads the gradients (global norm, inf and NaN), one does the rest: clip, decay, moments, update. The
    arithmetic and its order are those of ``torch.optim.AdamW`` with ``foreach=False, fused=False``; the state dictionary is
    the same and loads both ways. Parameters are dense float32 tensors in any memory format, all on the CPU or all on one CUDA
    device; gradients are read, never written.

    On a CUDA device a step is two kernels on the current stream, whatever the number of parameters, and never waits for
    the device. It can be captured into a CUDA graph after one step outside; ``lr`` as a tensor on the device then follows
    its changes.
    Parameters that a skipped step met for the first time keep their new (zero) state there.

    Under ``torch.amp.GradScaler`` and ``perfopt.amp.GradScaler`` the step unscales, looks for inf and NaN and clips in its own
    two passes; ``max_grad_norm`` is for the unscaled gradients. A step that the scaler skips counts in ``skipped_steps``.

    Args:
        params: parameters, or dicts of parameter groups with their own ``lr``, ``betas``, ``eps``, ``weight_decay`` and
            ``maximize``.
        lr: learning rate, a float or a one-element tensor.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: decoupled weight decay, >= 0.
        amsgrad: only ``False`` is supported.
        maximize: go up instead of down.
        max_grad_norm: clip the norm of all gradients of all groups together to this, as
            ``torch.nn.utils.clip_grad_norm_`` does; ``None``: do not clip. May be changed between steps.
        skip_nonfinite: when any gradient is inf or NaN, change nothing (parameters, moments, step counts) and count it
            in ``skipped_steps``. Needs the first pass also without clipping.

    Raises:
        ValueError: an option out of range, ``amsgrad=True``; at a step: a parameter, moment or gradient that is on
            another device, sparse, strided, or laid out unlike its parameter.
        TypeError: at a step: a tensor that is not float32. Nothing has changed when a step raises.
        RuntimeError: at the first step: CUDA parameters without a CUDA backend (the message has the reason).
    """

    _step_supports_amp_scaling = True  # grad_scale and found_inf are obeyed: torch's GradScaler unscales nothing
    _finds_inf = True  # and found_inf is answered: perfopt.amp.GradScaler does not look either

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
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = True,
    ) -> None:
        if amsgrad:
            raise ValueError("amsgrad=True is not supported; accepted: False")
        self._start(max_grad_norm, skip_nonfinite)
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)

    def _start(self, max_grad_norm: float | None, skip_nonfinite: bool) -> None:
        if max_grad_norm is not None and not hasattr(type(max_grad_norm), "__float__"):
            raise TypeError(f"max_grad_norm={max_grad_norm!r}; accepted: None or a number >= 0")
        if max_grad_norm is not None and not max_grad_norm >= 0:
            raise ValueError(f"max_grad_norm={max_grad_norm!r}; accepted: None or a number >= 0")
        self.max_grad_norm = max_grad_norm
        self.skip_nonfinite = skip_nonfinite
        self._skipped_steps = 0
        self._last_grad_norm: float | None = None
        self._plan: OptimizerPlan | None = None
        self._workspace: Tensor | None = None  # of a plan on a CUDA device
        self._adopted: Any = None  # a torch.optim.AdamW

    @property
    def skipped_steps(self) -> int:
        """Steps that changed nothing because a gradient was inf or NaN.

        On a CUDA device, asking waits for the device.
        """
        on_device = self._read_device()
        return self._skipped_steps + (on_device[4] if on_device is not None else 0)

    @property
    def last_grad_norm(self) -> float | None:
        """Norm of all gradients before clipping at the last step; None before the first and when nothing asked for it.

        On a CUDA device, asking waits for the device.
        """
        on_device = self._read_device() if self._last_grad_norm is not None else None
        stepped = on_device is not None and on_device[3] + on_device[4] > 0
        return on_device[0] if on_device is not None and stepped else self._last_grad_norm

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
        self._start(max_grad_norm, skip_nonfinite=True)
        self._adopted = optimizer
        replaced = self._normalize_steps()
        try:
            self._make_plan()
            self._refuse_shared_memory()
        except (TypeError, ValueError, RuntimeError) as error:
            for entry, step in replaced:
                entry["step"] = step
            raise ValueError(str(error)) from error
        return self

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss, called once with gradients enabled.

        Returns:
            What ``closure`` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._adopted is not None:
            # load_state_dict gives an optimizer new containers; the owner's are the true ones.
            self.param_groups = self._adopted.param_groups
            self.state = self._adopted.state
            self._adopted._opt_called = True  # what LR schedulers look at to warn about a wrong order
        # A dict operation, so that of two threads one is told, and an interrupted step does not lock its own thread out.
        me = threading.get_ident()
        if self.__dict__.setdefault("_stepping_thread", me) != me:
            raise RuntimeError("this optimizer is already in a step on another thread")
        try:
            self._step_once()
        finally:
            self.__dict__.pop("_stepping_thread", None)
        return loss

    def _step_once(self) -> None:
        scaling = LossScale.of(self)
        if scaling.skips_on_host(self._device()):
            self._skipped_steps += 1
            self._last_grad_norm = None
            return
        created: list[Tensor] = []
        try:
            norm, skipped, _ = self._run(created, scaling)
        except BaseException:
            self._forget_state([param for param in created if not self._has_stepped(param)])
            raise
        self._last_grad_norm = norm if self._looks(scaling) or self.max_grad_norm is not None else None
        if skipped:
            scaling.add_overflow(1.0)
            self._skipped_steps += 1
            self._forget_state(created)
        else:
            assert self._plan is not None
            torch.autograd.graph.increment_version(self._plan.written())

    def _looks(self, scaling: LossScale) -> bool:
        """Whether this step checks for inf and NaN: always when it unscales, for nobody else has looked then."""
        return self.skip_nonfinite or scaling.grad_scale is not None

    def _device(self) -> torch.device:
        """Where the parameters are; the CPU while there are none."""
        for group in self.param_groups:
            for param in group["params"]:
                return torch.device(param.device)
        return torch.device("cpu")

    def _run(self, created: list[Tensor], scaling: LossScale) -> tuple[float, bool, float]:
        """The step itself; parameters that get their first state are appended to ``created``."""
        if self._plan is not None:
            result = self._step_plan(self._plan, scaling)
            if result is not None:
                return result
        self._normalize_steps()
        self._create_state(created)
        result = self._step_plan(self._make_plan(), scaling)
        if result is None:
            raise RuntimeError("the optimizer's parameters or state changed during a step")
        return result

    def _step_plan(self, plan: OptimizerPlan, scaling: LossScale) -> tuple[float, bool, float] | None:
        looks = self._looks(scaling)
        if plan.device < 0:
            scale = scaling.number()
            return plan.step(self.param_groups, self.state, self.max_grad_norm, looks, 0, grad_scale=scale)
        stream = torch.cuda.current_stream(plan.device).cuda_stream
        grad_scale, found_inf = scaling.on_device(self._device())
        result = plan.step(
            self.param_groups, self.state, self.max_grad_norm, looks, stream, grad_scale=grad_scale, found_inf=found_inf
        )
        if result is not None and looks:
            assert self._workspace is not None
            scaling.add_overflow(self._workspace.view(torch.int32)[plan.nonfinite_word])
        return result

    def _make_plan(self) -> OptimizerPlan:
        plan = OptimizerPlan("adamw", self.param_groups, self.state)
        workspace: Tensor | None = None
        if plan.device >= 0:
            workspace = torch.empty(-(-plan.workspace_bytes // 4), dtype=torch.float32, device=f"cuda:{plan.device}")
            plan.start(workspace, torch.cuda.current_stream(plan.device).cuda_stream)
        self._drop_plan()
        self._plan, self._workspace = plan, workspace
        return plan

    def _read_device(self) -> tuple[float, float, bool, int, int] | None:
        """What the plan's steps did on its device, after waiting for it; None without a plan or on the CPU."""
        if self._plan is None or self._plan.device < 0:
            return None
        return self._plan.read(torch.cuda.current_stream(self._plan.device).cuda_stream)

    def _drop_plan(self) -> None:
        """Lets the plan go and keeps what it has counted."""
        if self._plan is not None and self._plan.device >= 0:
            self._skipped_steps, self._last_grad_norm = self.skipped_steps, self.last_grad_norm
        self._plan, self._workspace = None, None

    def _create_state(self, created: list[Tensor]) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and not self.state.get(param):
                    created.append(param)
                    self.state[param] = {
                        "step": torch.zeros((), dtype=torch.float32, device=self._device_of_step(param)),
                        "exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format, requires_grad=False),
                        "exp_avg_sq": torch.zeros_like(param, memory_format=torch.preserve_format, requires_grad=False),
                    }

    def _forget_state(self, created: list[Tensor]) -> None:
        """Takes back the state of a step that did not happen."""
        for param in created:
            self.state.pop(param, None)
        if created:
            self._drop_plan()

    def _has_stepped(self, param: Tensor) -> bool:
        """Whether the step that raised had come as far as counting itself: an interrupt shows up after the kernels' return."""
        step = self.state[param]["step"] if param in self.state else None
        return step is not None and step.device.type == "cpu" and float(step) > 0

    def _refuse_shared_memory(self) -> None:
        """Parameters without state are in no plan yet, and a first step that is refused is too late to take over."""
        held = [p for group in self.param_groups for p in group["params"]]
        params = [p for p in held if not torch.nn.parameter.is_lazy(p) and p.numel() > 0]
        spans = sorted((p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), i) for i, p in enumerate(params))
        for (_, end, one), (begin, _, other) in pairwise(spans):
            if begin < end:
                raise ValueError(
                    f"params[{one}] and params[{other}] share memory; a step needs each in memory of its own"
                )

    @staticmethod
    def _device_of_step(param: Tensor) -> torch.device:
        return param.device if param.device.type == "cuda" else torch.device("cpu")

    def _normalize_steps(self) -> list[tuple[dict[str, Any], Any]]:
        """Step counts as the kernels read them: float32 tensors on the CPU, or on the parameter's CUDA device.

        Old checkpoints have numbers or float64; ``torch.optim.AdamW`` keeps counts of CUDA parameters on either side.
        Returns what was replaced: the parameter's state and its old count.
        """
        replaced: list[tuple[dict[str, Any], Any]] = []
        for param, entry in self.state.items():
            step = entry.get("step") if isinstance(entry, dict) else None
            if step is None or not isinstance(param, Tensor):
                continue
            device = self._device_of_step(param)
            if not (isinstance(step, Tensor) and step.dtype == torch.float32 and step.device == device):
                replaced.append((entry, step))
                entry["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
        return replaced

    def __getstate__(self) -> dict[str, Any]:
        counted = {"_skipped_steps": self.skipped_steps, "_last_grad_norm": self.last_grad_norm}
        chosen = {"max_grad_norm": self.max_grad_norm, "skip_nonfinite": self.skip_nonfinite}
        return {**super().__getstate__(), **chosen, **counted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_skipped_steps" not in self.__dict__:
            self._start(None, skip_nonfinite=True)
        self._drop_plan()
        super().__setstate__(state)
        if self._adopted is not None:  # load_state_dict on this one is meant for both
            self._adopted.param_groups = self.param_groups
            self._adopted.state = self.state
