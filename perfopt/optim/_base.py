"""What the optimizers share: the step over a plan of the kernels, its options, state and checkpoints.

A step is one call of OptimizerPlan, which does everything in two passes over memory and answers None when the optimizer holds
other tensors than those it was made from; state is then completed, a new plan made, and the step tried once more. State that
a step creates is taken back when that step is skipped or raises, so that such a step changes nothing.
Threads: one step at a time; a second thread is told.
"""

from __future__ import annotations

import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import torch
from torch import Tensor

from perfopt._arguments import check_betas, check_number
from perfopt._train import OptimizerPlan
from perfopt.optim._layout import GROUP_OPTIONS, Entry, StateLayout
from perfopt.optim._loss_scale import LossScale
from perfopt.optim._low_precision import COPY_KEY, WeightCopies, wants_copy
from perfopt.optim._small_state import StateBuffers

__all__ = ["PlannedOptimizer", "StepOptions"]

_ROUNDING_STEPS = 2**30  # the kernels count steps in 30 bits; then their random bits repeat
_CHECKPOINT_KEY = "perfopt"
# A tensor in a message of the plan, by its place among all parameters.
_PLACE = re.compile(r"^(?!param_groups)[\w ]+\[(\d+)\]")


class StepOptions(TypedDict, total=False):
    """Options that every optimizer of ``perfopt.optim`` takes by keyword, besides those of its torch twin."""

    max_grad_norm: float | None
    """Clip the norm of all gradients of all groups together to this, as ``torch.nn.utils.clip_grad_norm_`` does, inside the
    step. None: do not clip. May be changed between steps."""
    skip_nonfinite: bool
    """When any gradient is inf or NaN, change nothing and count it in ``skipped_steps``. Default: true."""
    master_weights: bool
    """Of parameters in bfloat16 or float16, keep a float32 master in the state (``"master_weight"``), which steps change; the
    parameter is written from it, rounded to nearest, in the same pass. State is then float32. Default: false: state has
    the parameter's dtype, as torch keeps it. Also an option of a group."""
    low_precision_copy: torch.dtype | None
    """Of parameters in float32, keep a copy in ``torch.bfloat16`` or ``torch.float16``, rounded to nearest and written in the
    same pass: see :meth:`PlannedOptimizer.low_precision_parameters`. None: none is kept. Also an option of a group."""
    state_bits: int | None
    """8: keep state in 8 bits, with a float32 scale for each 256 elements. None: as torch keeps it. Also an option of a group."""
    stochastic_rounding: bool
    """Round what has 16 bits at random, so that small steps are right on average. State in 8 bits always is. Default: false."""
    seed: int
    """Of the random bits of rounding, which depend on it, the number of the step and the place alone: a resumed run repeats
    them. Default: 0."""
    ema: float | None
    """Decay of a moving average of the weights, kept in float32 in the state (``"ema"``) and updated in the same pass.
    None: none is kept."""
    zero_grads: bool
    """Leave the gradients zero, in the same pass, also when the step is skipped. Default: false."""


def _checked(**options: Any) -> dict[str, Any]:
    """The options with defaults filled in; TypeError or ValueError names what is wrong."""
    chosen: dict[str, Any] = {
        "max_grad_norm": None,
        "skip_nonfinite": True,
        "master_weights": False,
        "low_precision_copy": None,
        "state_bits": None,
        "stochastic_rounding": False,
        "seed": 0,
        "ema": None,
        "zero_grads": False,
    }
    for name in options:
        if name not in chosen:
            raise TypeError(f"unexpected keyword argument {name!r}; accepted besides torch's: {', '.join(chosen)}")
    chosen.update(options)
    bound, seed, ema = chosen["max_grad_norm"], chosen["seed"], chosen["ema"]
    if bound is not None and not hasattr(type(bound), "__float__"):
        raise TypeError(f"max_grad_norm={bound!r}; accepted: None or a number >= 0")
    if bound is not None and not bound >= 0:
        raise ValueError(f"max_grad_norm={bound!r}; accepted: None or a number >= 0")
    if not (isinstance(seed, int) and 0 <= seed < 2**64):
        raise ValueError(f"seed={seed!r}; accepted: a whole number from 0 to 2**64 - 1")
    if ema is not None and not (isinstance(ema, (int, float)) and 0 <= ema <= 1):
        raise ValueError(f"ema={ema!r}; accepted: None or a number from 0 to 1")
    _check_group(chosen)
    return chosen


def check_numbers(*, betas: Any = None, alpha: Any = None, dampening: Any = None, **at_least_0: Any) -> None:
    """Options of a torch twin, before its constructor has words of its own; TypeError or ValueError names what is wrong."""
    for name, value in at_least_0.items():
        check_number(name, value)
    if betas is not None:
        check_betas(betas)
    if alpha is not None:
        check_number("alpha", alpha, below=1.0)
    if dampening is not None:
        check_number("dampening", dampening, least=None, finite=True)


def _check_group(options: dict[str, Any]) -> None:
    if options["state_bits"] not in (None, 8):
        raise ValueError(f"state_bits={options['state_bits']!r}; accepted: None or 8")
    if options[COPY_KEY] not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"{COPY_KEY}={options[COPY_KEY]!r}; accepted: None, torch.bfloat16 or torch.float16")


class PlannedOptimizer(torch.optim.Optimizer):
    """Base of the optimizers; a subclass names its operation and layout, and its torch twin as the next base."""

    _operation: str
    _layout: StateLayout

    _step_supports_amp_scaling = True  # grad_scale and found_inf are obeyed: torch's GradScaler unscales nothing
    _finds_inf = True  # and found_inf is answered: perfopt.amp.GradScaler does not look either

    def _start(self, options: Any) -> None:
        """Before torch's constructor, which adds the groups."""
        chosen = _checked(**options)
        self.max_grad_norm: float | None = chosen["max_grad_norm"]
        self.skip_nonfinite: bool = chosen["skip_nonfinite"]
        self.stochastic_rounding: bool = chosen["stochastic_rounding"]
        self.seed: int = chosen["seed"]
        self.zero_grads: bool = chosen["zero_grads"]
        self._ema: float | None = chosen["ema"]
        self._group_options = {name: chosen[name] for name in GROUP_OPTIONS}
        self._rounding_step = 0
        self._rounding_counter: Tensor | None = None  # int64 on the CUDA device; then it is the true one
        self._skipped_steps = 0
        self._last_grad_norm: float | None = None
        self._shows_averages = False
        self._copies = WeightCopies()
        self._plan: OptimizerPlan | None = None  # before `state` is there for the first time
        self._workspace: Tensor | None = None  # of a plan on a CUDA device
        # Parameters whose new momentum buffer no step had filled when the plan was made, and the buffer's id().
        self._fresh: dict[Tensor, int] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; ``master_weights``, ``low_precision_copy`` and ``state_bits`` may be given for the group."""
        param_group = {**self._group_options, **param_group}
        _check_group(param_group)
        super().add_param_group(param_group)

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

    # ---- The step --------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss, called once with gradients enabled.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            TypeError: a parameter, gradient or state of a dtype that is not accepted.
            ValueError: a tensor on another device, sparse, strided, or laid out unlike its parameter.
            RuntimeError: another thread is in a step, or was when this process was forked; CUDA parameters without a CUDA
                backend; inside ``ema_weights()``; the first step that rounds at random while its CUDA stream is captured.
                Nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._before_step()
        # A dict operation, so that of two threads one is told, and an interrupted step does not lock its own thread out.
        me = (os.getpid(), threading.get_ident())
        holder = self.__dict__.setdefault("_stepping_thread", me)
        if holder[0] != me[0]:  # its thread is not here, and a part of its writes may be
            raise RuntimeError(
                "this process was forked while another thread was in a step of this optimizer: parameters and state may be half "
                "of each step; load a checkpoint into a new optimizer"
            )
        if holder != me:
            raise RuntimeError("this optimizer is already in a step on another thread")
        try:
            self._step_once()
        except (TypeError, ValueError) as error:
            self._name_parameter(error)
            raise
        finally:
            self.__dict__.pop("_stepping_thread", None)
        return loss

    def _before_step(self) -> None:
        if self._shows_averages:
            raise RuntimeError("a step inside ema_weights() would change the averages; leave it first")

    def _step_once(self) -> None:
        scaling = LossScale.of(self)
        if scaling.skips_on_host(self._device()):
            self._skipped_steps += 1
            self._last_grad_norm = None
            grads = self._gradients() if self.zero_grads else []
            if grads:  # torch refuses an empty list
                torch._foreach_zero_(grads)
            return
        created: dict[Tensor, Entry] = {}
        try:
            norm, skipped, _ = self._run(created, scaling)
        except BaseException:
            self._forget_state({param: made for param, made in created.items() if not self._has_stepped(param, made)})
            raise
        self._count_rounding_step()
        self._last_grad_norm = norm if self._looks(scaling) or self.max_grad_norm is not None else None
        if self.zero_grads:
            torch.autograd.graph.increment_version(self._gradients())
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

    def _rounds_at_random(self) -> bool:
        return self.stochastic_rounding or any(group.get("state_bits") == 8 for group in self.param_groups)

    def _rounding_step_on(self, device: torch.device) -> Tensor | int:
        """Number of this step for random rounding; on a CUDA device a tensor that is counted up there.

        So a captured step has other random bits at each replay, and the same as an eager step of that number.
        """
        if self._rounding_counter is not None and self._rounding_counter.device != device:
            self._rounding_step, self._rounding_counter = self._read_rounding_step(), None  # the parameters were moved
        if device.type == "cpu" or not self._rounds_at_random():
            return self._rounding_step
        if self._rounding_counter is None:
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "the first step that rounds at random makes its counter, which a graph cannot; accepted: a step outside "
                    "the capture first"
                )
            self._rounding_counter = torch.tensor(self._rounding_step, dtype=torch.int64, device=device)
        return self._rounding_counter

    def _count_rounding_step(self) -> None:
        if self._rounding_counter is None:
            self._rounding_step = (self._rounding_step + 1) % _ROUNDING_STEPS
        else:
            self._rounding_counter.add_(1).bitwise_and_(_ROUNDING_STEPS - 1)

    def _read_rounding_step(self) -> int:
        """Number of the next step; waits for the device that counts."""
        return self._rounding_step if self._rounding_counter is None else int(self._rounding_counter)

    def _params(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for group in self.param_groups:
            for param in group["params"]:
                yield param, group

    def _gradients(self) -> list[Tensor]:
        return [param.grad for param, _ in self._params() if param.grad is not None]

    def _device(self) -> torch.device:
        """Where the parameters are; the CPU while there are none."""
        for param, _ in self._params():
            return torch.device(param.device)
        return torch.device("cpu")

    def _run(self, created: dict[Tensor, Entry], scaling: LossScale) -> tuple[float, bool, float]:
        """The step itself; what it adds to the state is told in ``created``."""
        if self._plan is not None:
            result = self._step_plan(self._plan, scaling)
            if result is not None:
                return result
        self._normalize_steps()
        self._create_state(created)
        fresh = {param for param, made in created.items() if "momentum_buffer" in made}
        result = self._step_plan(self._make_plan(fresh), scaling)
        if result is None:
            raise RuntimeError("the optimizer's parameters or state changed during a step")
        return result

    def _step_plan(self, plan: OptimizerPlan, scaling: LossScale) -> tuple[float, bool, float] | None:
        looks = self._looks(scaling)
        on_host = plan.device < 0
        stream = 0 if on_host else torch.cuda.current_stream(plan.device).cuda_stream
        grad_scale, found_inf = (scaling.number(), None) if on_host else scaling.on_device(self._device())
        plan.seal(self.__dict__)
        result = plan.step(
            self.param_groups,
            self.__dict__["state"],
            self.max_grad_norm,
            looks,
            stream,
            grad_scale=grad_scale,
            found_inf=found_inf,
            ema_decay=self._ema,
            zero_grads=self.zero_grads,
            stochastic_rounding=self.stochastic_rounding,
            seed=self.seed,
            rounding_step=self._rounding_step_on(self._device()),
        )
        if result is not None and looks and not on_host:
            assert self._workspace is not None
            scaling.add_overflow(self._workspace.view(torch.int32)[plan.nonfinite_word])
        return result

    def _make_plan(self, fresh: set[Tensor] | None = None) -> OptimizerPlan:
        fresh = {*(fresh or ()), *self._still_fresh()}
        plan = OptimizerPlan(self._operation, self.param_groups, self.state, fresh)
        self._refuse_cut_storage()
        workspace: Tensor | None = None
        if plan.device >= 0:
            workspace = torch.empty(-(-plan.workspace_bytes // 4), dtype=torch.float32, device=f"cuda:{plan.device}")
            plan.start(workspace, torch.cuda.current_stream(plan.device).cuda_stream)
        self._drop_plan()
        self._plan, self._workspace = plan, workspace
        self._fresh = {param: id(self.state[param]["momentum_buffer"]) for param in fresh}
        return plan

    def _still_fresh(self) -> dict[Tensor, int]:
        """Which of ``_fresh`` still are: on a device a skipped step leaves them so, on the CPU it takes its state back."""
        if self._plan is not None:
            on_device = self._read_device() if self._fresh else None
            if on_device is None or on_device[3] > 0:
                return {}
        kept = {param: self.state.get(param) for param in self._fresh}
        return {
            param: self._fresh[param]
            for param, entry in kept.items()
            if isinstance(entry, dict) and id(entry.get("momentum_buffer")) == self._fresh[param]
        }

    def _refuse_cut_storage(self) -> None:
        """A storage that was resized below its tensors leaves their addresses and sizes as they were."""
        for index, (param, _) in enumerate(self._params()):
            for name, tensor in (("params", param), *self.state.get(param, {}).items()):
                if (
                    type(tensor) not in (Tensor, torch.nn.Parameter)
                    or tensor.layout != torch.strided
                    or not tensor.numel()
                ):
                    continue
                last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
                needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
                if tensor.untyped_storage().nbytes() < needed:
                    raise ValueError(
                        f"{name}[{index}] (shape {tuple(tensor.shape)}, dtype {str(tensor.dtype).removeprefix('torch.')}) has "
                        f"{tensor.untyped_storage().nbytes()} bytes of storage; it needs {needed}"
                    )

    def _read_device(self) -> tuple[float, float, bool, int, int] | None:
        """What the plan's steps did on its device, after waiting for it; None without a plan or on the CPU."""
        if self._plan is None or self._plan.device < 0:
            return None
        return self._plan.read(torch.cuda.current_stream(self._plan.device).cuda_stream)

    def _drop_plan(self) -> None:
        """Lets the plan go and keeps what it has counted."""
        self._fresh = self._still_fresh()
        if self._plan is not None and self._plan.device >= 0:
            self._skipped_steps, self._last_grad_norm = self.skipped_steps, self.last_grad_norm
        self._plan, self._workspace = None, None

    def _name_parameter(self, error: Exception) -> None:
        """Adds the name of the tensor's parameter to the message, where the optimizer was given names."""
        place = _PLACE.match(str(error))
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        if place is not None and int(place[1]) < len(names):
            error.args = (f"{error}; the parameter is {names[int(place[1])]!r}",)

    # ---- State -----------------------------------------------------------------------------------

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """What is kept for each parameter, as the torch twin keeps it.

        The plan does not look at state that nobody has a reference to, so it is told of every one that is given.
        """
        try:
            kept: defaultdict[Tensor, Any] = self.__dict__["state"]
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute 'state'", name="state", obj=self
            ) from None
        plan = self.__dict__.get("_plan")
        if plan is not None:
            plan.unseal()  # with a reference held: from here on steps of other threads cannot seal it again
        return kept

    @state.setter
    def state(self, kept: defaultdict[Tensor, Any]) -> None:
        plan = self.__dict__.get("_plan")
        if plan is not None:
            plan.unseal()
        self.__dict__["state"] = kept

    def _create_state(self, created: dict[Tensor, Entry]) -> None:
        """Completes the state of all parameters with a gradient, and of those that no missing state would make wait for one."""
        self._copies.forget_all_but(param for param, _ in self._params())
        buffers = StateBuffers(
            [param for param, _ in self._params() if param.grad is not None and not self.state.get(param)]
        )
        for param, group in self._params():
            waits = param.grad is None and (self._layout.needs_state(group) or torch.nn.parameter.is_lazy(param))
            entry = self.state.get(param, {})
            if not isinstance(entry, dict) or (waits and not entry):
                continue  # of what is no dict the plan has the words
            made: Entry = {}
            if not waits:
                made = self._layout.missing(param, group, entry, buffers, ema=self._ema is not None)
            if not wants_copy(param, group):
                entry.pop(COPY_KEY, None)
            elif entry.get(COPY_KEY) is not self._copies.of(param, group):
                made[COPY_KEY] = self._copies.of(param, group)
            if made:
                created[param] = made
                entry.update(made)
                self.state[param] = entry

    def _forget_state(self, created: dict[Tensor, Entry]) -> None:
        """Takes back the state of a step that did not happen."""
        for param, made in created.items():
            entry = self.state.get(param, {})
            for name in made:
                entry.pop(name, None)
            if not entry:
                self.state.pop(param, None)
        if created:
            self._drop_plan()

    def _has_stepped(self, param: Tensor, made: Entry) -> bool:
        """Whether the step that raised was taken nevertheless: an interrupt shows up after the kernels' return.

        Its count says so, or state that is not as it was made.
        """
        entry = self.state.get(param, {})
        if entry.get("step") is not None:
            return entry["step"].device.type == "cpu" and float(entry["step"]) > 0
        return any(bool(entry[key.name].any()) for key in self._layout.keys if key.name in made and key.name in entry)

    def _normalize_steps(self) -> list[tuple[Entry, Any]]:
        """Step counts as the kernels read them: float32 tensors on the CPU, or on the parameter's CUDA device.

        Old checkpoints have numbers or float64; torch's optimizers keep counts of CUDA parameters on either side.
        Returns what was replaced: the parameter's state and its old count.
        """
        replaced: list[tuple[Entry, Any]] = []
        for param, entry in self.state.items():
            step = entry.get("step") if isinstance(entry, dict) else None
            if step is None or not isinstance(param, Tensor):
                continue
            device = param.device if param.device.type == "cuda" else torch.device("cpu")
            if not (isinstance(step, Tensor) and step.dtype == torch.float32 and step.device == device):
                replaced.append((entry, step))
                entry["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
        return replaced

    # ---- Low-precision copies --------------------------------------------------------------------

    def low_precision_parameters(self, *, refresh: bool = False) -> Iterator[Tensor]:
        """The low-precision copy of every parameter, in the order of the groups: tensors that steps go on writing.

        They stay the same objects, so it is enough to ask once. A parameter in 16 bits, or of a group without
        ``low_precision_copy``, is its own copy. After a step the copies of all parameters that it changed are right (a skipped
        step changes neither), after ``load_state_dict()`` all of them. Where something else changed a parameter in place (weights
        that were loaded into the model), its copy is right after this call, or after the parameter's next step. Of a change
        through ``.data`` or under ``torch.inference_mode()`` torch does not tell: ``refresh`` is for these.

        Args:
            refresh: write all copies anew.

        Raises:
            RuntimeError: the optimizer was made without ``low_precision_copy``.
        """
        if all(group.get(COPY_KEY) is None for group in self.param_groups):
            raise RuntimeError(
                f"no copies are kept; make the optimizer with {COPY_KEY}=, such as {COPY_KEY}=torch.bfloat16"
            )
        self._copies.forget_all_but(param for param, _ in self._params())
        return iter([self._copy_of(param, group, refresh) for param, group in self._params()])

    def _copy_of(self, param: Tensor, group: dict[str, Any], refresh: bool) -> Tensor:
        if not wants_copy(param, group):
            return param.detach()
        copy = self._copies.of(param, group)
        if refresh or not self._copies.is_right(param):
            self._copies.write(param)
        entry = self.state.get(param)
        if isinstance(entry, dict) and entry:
            entry[COPY_KEY] = copy
        return copy

    # ---- Moving averages -------------------------------------------------------------------------

    def ema_parameters(self) -> Iterator[Tensor]:
        """The moving average of every parameter, in the order of the groups: float32 tensors that steps go on changing.

        A parameter that has not stepped yet is its own average.

        Raises:
            RuntimeError: the optimizer was made without ``ema``.
        """
        if self._ema is None:
            raise RuntimeError("no averages are kept; make the optimizer with ema=, such as ema=0.999")
        return (self._average(param) for param, _ in self._params())

    def _average(self, param: Tensor) -> Tensor:
        average = self.state.get(param, {}).get("ema")
        return param.detach() if average is None else average

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within it, the parameters are their moving averages (rounded to their dtype); then they are what they were, bit by bit.

        For evaluation: a step within it raises RuntimeError.
        """
        averages = list(self.ema_parameters())
        if self._shows_averages:
            raise RuntimeError("the parameters are their averages already")
        params = [param for param, _ in self._params()]
        kept = [param.detach().clone() for param in params]
        self._shows_averages = True
        try:
            with torch.no_grad():
                for param, average in zip(params, averages, strict=True):
                    param.copy_(average)
            yield
        finally:
            with torch.no_grad():
                for param, value in zip(params, kept, strict=True):
                    param.copy_(value)
            self._shows_averages = False

    # ---- Checkpoints -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As the torch twin's, and loads into it unless state is in 8 bits (see ``torch_state_dict``).

        Where something is rounded at random it has one entry more, ``"perfopt"``: seed and number of the next step, so that a
        resumed run repeats every bit.
        """
        packed = self._pack(self._layout.saved)
        if self._rounds_at_random():
            packed[_CHECKPOINT_KEY] = {"seed": self.seed, "rounding_step": self._read_rounding_step()}
        return packed

    def torch_state_dict(self) -> dict[str, Any]:
        """A state dictionary for the torch twin: 8-bit state read as float32, nothing besides the twin's own entries."""
        return self._pack(self._layout.twins)

    def _pack(self, form: Callable[[Entry], Entry]) -> dict[str, Any]:
        """torch's state dictionary with every parameter's entry in another form, and of the groups' options those of torch."""
        packed: dict[str, Any] = super().state_dict()
        packed["state"] = {
            key: form(entry) if isinstance(entry, dict) else entry
            for key, entry in packed["state"].items()
            if not (isinstance(entry, dict) and entry.keys() == {COPY_KEY})
        }
        packed["param_groups"] = [
            {name: value for name, value in group.items() if name not in GROUP_OPTIONS}
            for group in packed["param_groups"]
        ]
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes on a state of this class or of its torch twin.

        State is brought into the form that this optimizer asks for (``state_bits``, ``master_weights``, ``ema``), whatever form
        it was saved in; float32 state is rounded to nearest where it becomes 8-bit. Masters and averages that are wanted and
        not there are made from the parameters at the next step, and low-precision copies are written anew, so load the model's
        weights first.
        """
        given: dict[str, Any] = {}

        def take_state(_: torch.optim.Optimizer, checked: dict[str, Any]) -> dict[str, Any]:
            given.update(checked)
            return {**checked, "state": {}}  # torch would cast all of it to the parameters' dtype

        handle = self.register_load_state_dict_pre_hook(take_state)  # after the user's own
        self._given_state = given
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            del self._given_state

    def _load_given(self, given: dict[str, Any], state: dict[str, Any]) -> None:
        """In the middle of torch's load_state_dict(): fills ``state`` by what was given."""
        for group, new_group in zip(self.param_groups, state["param_groups"], strict=True):
            new_group.update({name: group[name] for name in GROUP_OPTIONS if name in group})
        saved_keys = [key for group in given["param_groups"] for key in group["params"]]
        held = [(param, group) for group in state["param_groups"] for param in group["params"]]
        places = dict(zip(saved_keys, held, strict=True))
        for key, entry in given["state"].items():
            if key in places and isinstance(entry, dict):
                param, group = places[key]
                state["state"][param] = self._layout.loaded(param, group, entry, ema=self._ema is not None)
            else:
                state["state"][places[key][0] if key in places else key] = entry
        for param, group in held:
            copy = self._copies.held(param, group)
            if copy is not None:
                self._copies.write(param)
                if isinstance(state["state"].get(param), dict) and state["state"][param]:
                    state["state"][param][COPY_KEY] = copy
        rounding = given.get(_CHECKPOINT_KEY, {})
        self.seed = rounding.get("seed", self.seed)
        if "rounding_step" in rounding:
            self._rounding_step = rounding["rounding_step"]
            if self._rounding_counter is not None:  # in place: a captured step reads it there
                self._rounding_counter.fill_(self._rounding_step)

    def __getstate__(self) -> dict[str, Any]:
        chosen = ("max_grad_norm", "skip_nonfinite", "stochastic_rounding", "seed", "zero_grads")
        private = ("_ema", "_group_options")
        counted = {
            "_rounding_step": self._read_rounding_step(),
            "_skipped_steps": self.skipped_steps,
            "_last_grad_norm": self.last_grad_norm,
        }
        return {**super().__getstate__(), **{name: getattr(self, name) for name in chosen + private}, **counted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_skipped_steps" not in self.__dict__:
            self._start({})
        given = self.__dict__.get("_given_state")
        if given is not None:
            self._load_given(given, state)
        self._drop_plan()
        self._fresh = {}
        super().__setstate__(state)
