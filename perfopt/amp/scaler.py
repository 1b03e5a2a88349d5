"""A loss scaler for float16 training: torch's GradScaler with a floor, hysteresis, counts, and no pass of its own.

How an optimizer's step and the scaler work together: the scaler sets two attributes on the optimizer for the time of its
``step()``, as torch's does. ``grad_scale`` is a one-element tensor that gradients are to be divided by (None when they have
been already), ``found_inf`` a one-element float32 tensor; anything but 0 in it means that the step must change nothing. An
optimizer with ``_step_supports_amp_scaling`` obeys both. One that also has ``_finds_inf`` looks for inf and NaN itself, in
the first pass of its step, and adds what it finds to ``found_inf`` in place: then the scaler does not look, and gradients are
read once less and never written. ``perfopt.optim`` has both, so torch's scaler works with it too, at the price of its pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState

from perfopt._arguments import check_number, check_whole
from perfopt.amp.clip import scale_in_place
from perfopt.amp.scale_rule import LARGEST_SCALE, SMALLEST_SCALE, Counts, ScaleRule, float32

__all__ = ["GradScaler"]

COLLAPSE_AFTER = 10
_UPDATES_BETWEEN_LOOKS = 16
_UNSCALED = (torch.float32, torch.bfloat16)  # float16 gradients torch refuses
_NO_CHECKS = "No inf checks were recorded for this optimizer."


class GradScaler(torch.amp.GradScaler):
    """``torch.amp.GradScaler`` for every torch optimizer, and with no pass over the gradients of its own for perfopt's.

    Constructor, methods and behaviour are torch's; a state dictionary of either loads into the other. What is added:

    * ``step(optimizer)`` with an optimizer of ``perfopt.optim`` leaves unscaling and the search for inf and NaN to the
      optimizer's own passes; clipping is the optimizer's ``max_grad_norm``, applied to the unscaled gradients.
      On a CUDA device nothing waits for the device.
    * For other optimizers, gradients that are dense float32 or bfloat16 on the CPU are unscaled and checked in one pass.
    * The scale has a floor. Where torch's goes on to 0 (and gradients to NaN), ``update()`` raises once 10 overflows in a row
      found the scale at its floor: then no scale helps.

    On a CUDA device the floor is watched only when ``min_scale`` is given, by a copy that nobody waits for every 16 updates, so
    the error comes some updates late.

    Args:
        device: type of the device the scale is for, "cuda" or "cpu".
        init_scale: first scale.
        growth_factor: > 1, what the scale is multiplied by after ``growth_interval`` clean updates in a row.
        backoff_factor: < 1, what it is multiplied by after an overflow.
        growth_interval: clean updates in a row before the scale grows.
        enabled: ``False``: every method does nothing, ``step()`` calls the optimizer's.
        hysteresis: overflows in a row before the scale backs off; each further one in the row then does. A clean update
            starts the count again (the semantics of apex; Megatron's own scaler starts it again only when the scale
            grows). Every overflow skips its step whatever this is. 1: as torch.
        min_scale: floor of the scale, > 0; None: 2**-126, the last whose reciprocal is finite in float32.
        max_scale: ceiling of growth; None: the largest float32.

    Raises:
        AssertionError: factors out of range (as torch).
        TypeError: no number where one belongs.
        ValueError: ``growth_interval``, ``hysteresis``, ``min_scale``, ``max_scale`` or ``init_scale`` out of range.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        hysteresis: int = 1,
        min_scale: float | None = None,
        max_scale: float | None = None,
    ) -> None:
        check_number("init_scale", init_scale, least=None)
        check_number("growth_factor", growth_factor, least=None)
        check_number("backoff_factor", backoff_factor, least=None)
        check_whole("growth_interval", growth_interval, 1)
        check_whole("hysteresis", hysteresis, 1)
        super().__init__(device, init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        self._hysteresis = hysteresis
        self._floor_is_given = min_scale is not None
        self._min_scale = _bound("min_scale", min_scale, SMALLEST_SCALE)
        self._max_scale = _bound("max_scale", max_scale, LARGEST_SCALE)
        if not self._min_scale <= self._max_scale:
            raise ValueError(f"min_scale={min_scale!r} is above max_scale={max_scale!r}")
        if self._enabled and not self._min_scale <= init_scale <= self._max_scale:
            raise ValueError(
                f"init_scale={init_scale!r}; accepted: from min_scale={self._min_scale} to max_scale={self._max_scale}"
            )
        self._start_counts(hysteresis, 0, 0)

    def _start_counts(self, overflows_left: int, floor_hits: int, skipped: int) -> None:
        self._overflows_left, self._floor_hits, self._skipped = overflows_left, floor_hits, skipped
        self._device_counts: Tensor | None = (
            None  # int32 [overflows_left, floor_hits, skipped]; then they are the true ones
        )
        self._floor_watch: _FloorWatch | None = None

    @property
    def skipped_steps(self) -> int:
        """Calls of ``step()`` that changed nothing because of an inf or NaN, up to the last ``update()``.

        Whether the last one was skipped is whether this has grown. On a CUDA device, asking waits for the device.
        """
        return self._read_counts()[2]

    def _read_counts(self) -> tuple[int, int, int]:
        """Overflows left, floor hits, skipped steps; waits for the device they are on."""
        if self._device_counts is None:
            return self._overflows_left, self._floor_hits, self._skipped
        left, hits, skipped = self._device_counts.tolist()
        return left, hits, skipped

    def _rule(self) -> ScaleRule:
        return ScaleRule(
            self._growth_factor,
            self._backoff_factor,
            self._growth_interval,
            self._hysteresis,
            self._min_scale,
            self._max_scale,
        )

    # ---- The step --------------------------------------------------------------------------------

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Unscales the gradients (unless ``unscale_`` has) and steps, or changes nothing when one is inf or NaN.

        Args:
            optimizer: any torch optimizer.
            args: passed to ``optimizer.step()``.
            kwargs: likewise.

        Returns:
            What ``optimizer.step()`` returned, None when it was not called.

        Raises:
            RuntimeError: a closure; a second step since the last ``update()``.
            AssertionError: no loss was scaled yet; no parameter of this optimizer has a gradient.
        """
        if not self._enabled or not getattr(optimizer, "_finds_inf", False):
            result: float | None = super().step(optimizer, *args, **kwargs)
            return result
        if "closure" in kwargs or any(callable(argument) for argument in args):
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        scale, _ = self._check_scale_growth_tracker("step")
        state = self._per_optimizer_states[id(optimizer)]
        if state["stage"] is OptState.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        given_scale = getattr(optimizer, "grad_scale", None)
        if state["stage"] is OptState.READY:
            if not _has_gradients(optimizer):
                raise AssertionError(_NO_CHECKS)
            found_inf = torch.zeros((), dtype=torch.float32, device=scale.device)
            grad_scale = scale if given_scale is None else scale * given_scale
        else:
            found_inf = _sum_on(scale.device, state["found_inf_per_device"].values())
            grad_scale = given_scale
        result = _step_with(optimizer, grad_scale, found_inf, args, kwargs)
        state["found_inf_per_device"] = {scale.device: found_inf}
        state["stage"] = OptState.STEPPED
        return result

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        """torch's pass over the gradients, in perfopt's kernel where all are dense float32 or bfloat16 on the CPU."""
        grads = [param.grad for group in optimizer.param_groups for param in group["params"] if _has_gradient(param)]
        nonfinite = scale_in_place(grads, float(inv_scale), _UNSCALED) if inv_scale.device.type == "cpu" else None
        if nonfinite is None:
            found: dict[torch.device, Tensor] = super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
            return found
        return {torch.device("cpu"): torch.full((), float(nonfinite), dtype=torch.float32)}

    # ---- The update ------------------------------------------------------------------------------

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Moves the scale by what the steps since the last update have found, or sets it.

        Args:
            new_scale: the scale from here on, a finite number > 0 or a one-element tensor; None: by the rule.

        Raises:
            AssertionError: neither ``step()`` nor ``unscale_()`` since the last update (as torch).
            FloatingPointError: 10 overflows in a row found the scale at its floor. The update is complete then; a caller who
                knows better may go on.
            ValueError: ``new_scale`` is not finite or not above 0; a tensor on another device than the CPU is not looked at,
                as that would wait for it.
        """
        if not self._enabled:
            return
        scale, growth = self._check_scale_growth_tracker("update")
        if new_scale is not None:
            states = self._per_optimizer_states
            super().update(_checked_new_scale(new_scale))
            self._count_skipped(scale, states)
            return
        found = [
            tensor for state in self._per_optimizer_states.values() for tensor in state["found_inf_per_device"].values()
        ]
        if not found:
            raise AssertionError("No inf checks were recorded prior to update.")
        self._count_skipped(scale, self._per_optimizer_states)
        if scale.device.type == "cpu":
            self._advance_on_host(scale, growth, any(float(tensor) != 0 for tensor in found))
        else:
            self._advance_on_device(scale, growth, _sum_on(scale.device, found))
        self._per_optimizer_states.clear()
        self._refuse_collapse(scale)

    def _count_skipped(self, scale: Tensor, states: Mapping[int, dict[str, Any]]) -> None:
        for state in states.values():
            found = state["found_inf_per_device"].values()
            if state["stage"] is not OptState.STEPPED:
                continue
            if scale.device.type == "cpu":
                self._skipped += any(float(tensor) != 0 for tensor in found)
            else:
                self._counts_on(scale.device)[2].add_(_sum_on(scale.device, found) != 0)

    def _advance_on_host(self, scale: Tensor, growth: Tensor, overflow: bool) -> None:
        before, counts = float(scale), Counts(int(growth), self._overflows_left, self._floor_hits)
        after, counts = self._rule().advance(before, counts, overflow)
        if after != before:
            scale.fill_(after)
        growth.fill_(counts.growth)
        self._overflows_left, self._floor_hits = counts.overflows_left, counts.floor_hits

    def _advance_on_device(self, scale: Tensor, growth: Tensor, found_inf: Tensor) -> None:
        counts = self._counts_on(scale.device)
        self._rule().advance_on_device(scale, growth, counts, found_inf)
        if self._floor_is_given and scale.is_cuda:
            if self._floor_watch is None:
                self._floor_watch = _FloorWatch()
            self._floor_hits = self._floor_watch.look(counts)

    def _counts_on(self, device: torch.device) -> Tensor:
        if self._device_counts is None:
            counts = [self._overflows_left, self._floor_hits, self._skipped]
            self._device_counts = torch.tensor(counts, dtype=torch.int32, device=device)
        return self._device_counts

    def _refuse_collapse(self, scale: Tensor) -> None:
        """On a device, the count is the last that came back."""
        if self._floor_hits >= COLLAPSE_AFTER:
            raise FloatingPointError(
                f"the loss scale is at its floor, min_scale={self._min_scale}, and {self._floor_hits} updates in a row "
                "still met inf or NaN gradients: no loss scale helps. Look for inf or NaN in data, weights and loss, for a "
                "learning rate that is too high, or for a model trained in bfloat16 whose values float16 cannot hold"
            )

    # ---- State -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """torch's five entries, and the counts behind hysteresis, floor and ``skipped_steps``, which torch passes over."""
        state: dict[str, Any] = super().state_dict()
        if self._enabled:
            left, hits, skipped = self._read_counts()
            state.update({"_overflows_left": left, "_floor_hits": hits, "_skipped_steps": skipped})
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes on a state of this class or of torch's; ``hysteresis``, ``min_scale`` and ``max_scale`` stay this object's.

        Raises:
            RuntimeError: the state is empty (as torch).
            ValueError: its scale is not finite or not above 0: the run that saved it had collapsed.
        """
        if self._enabled and state_dict:
            _checked_scale("state_dict['scale']", state_dict["scale"])
        super().load_state_dict(state_dict)
        if self._enabled:
            left = min(state_dict.get("_overflows_left", self._hysteresis), self._hysteresis)
            self._start_counts(left, state_dict.get("_floor_hits", 0), state_dict.get("_skipped_steps", 0))

    def __getstate__(self) -> dict[str, Any]:
        left, hits, skipped = self._read_counts()
        counts = {"_overflows_left": left, "_floor_hits": hits, "_skipped": skipped}
        return {**super().__getstate__(), **counts, "_device_counts": None, "_floor_watch": None}


class _FloorWatch:
    """Brings floor hits back from a CUDA device without waiting: a copy to pinned memory, read once it is known to be there."""

    def __init__(self) -> None:
        self._pinned = torch.zeros(1, dtype=torch.int32, pin_memory=True)
        self._arrived = torch.cuda.Event()
        self._on_its_way = False
        self._updates = 0
        self._hits = 0

    def look(self, counts: Tensor) -> int:
        """Floor hits as of some updates ago."""
        if torch.cuda.is_current_stream_capturing():
            return self._hits
        if self._on_its_way and self._arrived.query():
            self._on_its_way = False
            self._hits = int(self._pinned[0])
        self._updates += 1
        if not self._on_its_way and self._updates % _UPDATES_BETWEEN_LOOKS == 0:
            self._pinned.copy_(counts[1:2], non_blocking=True)
            self._arrived.record()
            self._on_its_way = True
        return self._hits


def _bound(name: str, value: float | None, default: float) -> float:
    return default if value is None else _checked_scale(name, value)


def _checked_scale(name: str, value: float) -> float:
    """The float32 a scale becomes. TypeError for no number, ValueError unless it is finite and a normal number above 0."""
    number = float32(check_number(name, value, least=None))
    if not (math.isfinite(number) and number >= SMALLEST_SCALE):
        raise ValueError(f"{name}={value!r}; accepted: a finite number from 2**-126")
    return number


def _checked_new_scale(new_scale: float | Tensor) -> float | Tensor:
    """The same with its value checked; torch refuses tensors of another form."""
    if not isinstance(new_scale, Tensor):
        return _checked_scale("new_scale", new_scale)
    if new_scale.device.type == "cpu" and new_scale.numel() == 1:
        _checked_scale("new_scale", new_scale.item())
    return new_scale


def _has_gradient(param: Any) -> bool:
    return isinstance(param, Tensor) and param.grad is not None


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    return any(_has_gradient(param) for group in optimizer.param_groups for param in group["params"])


def _sum_on(device: torch.device, found: Iterable[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float32, device=device)
    for tensor in found:
        total.add_(tensor.to(device=device, non_blocking=True))
    return total


def _step_with(
    optimizer: torch.optim.Optimizer,
    grad_scale: Tensor | None,
    found_inf: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> float | None:
    """The optimizer's step under the two attributes, which do not stay, whatever the step does."""
    names = ("grad_scale", "found_inf")
    put_back = {name: vars(optimizer)[name] for name in names if name in vars(optimizer)}
    vars(optimizer).update(grad_scale=grad_scale, found_inf=found_inf)
    try:
        result: float | None = optimizer.step(*args, **kwargs)
        put_back = {}  # a product with the user's own grad_scale is for one step, as in torch
        return result
    finally:
        for name in names:
            vars(optimizer).pop(name, None)
        vars(optimizer).update(put_back)
