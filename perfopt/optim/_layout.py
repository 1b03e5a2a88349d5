"""What an operation keeps for a parameter, and in which form: made, taken from a checkpoint, given to one.

In an optimizer's ``state`` a parameter has the tensors that OptimizerPlan knows: those of its torch twin under torch's keys, and

======================  ============================================================================================
``master_weight``       float32; what steps change where the parameter has 16 bits and its group ``master_weights``
``ema``                 float32; moving average of the weight
``low_precision_copy``  16 bits; image of a float32 parameter, in no state dictionary (``_low_precision.py``)
``<key>_scale``         float32, one for each 256 elements: ``<key>`` is then uint8 (``state_bits=8``)
======================  ============================================================================================

A state dictionary has 8-bit state under ``<key>_codes``, so that the twin misses its key instead of reading codes as numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from perfopt.optim import _eight_bit
from perfopt.optim._low_precision import COPY_KEY
from perfopt.optim._small_state import StateBuffers

__all__ = ["GROUP_OPTIONS", "Entry", "StateKey", "StateLayout"]

Entry = dict[str, Any]

# How a group's state is stored is a matter of this run: a checkpoint does not change it.
GROUP_OPTIONS = ("master_weights", "state_bits", COPY_KEY)

_SIXTEEN_BITS = (torch.bfloat16, torch.float16)


class StateKey(NamedTuple):
    """One tensor of a parameter's state."""

    name: str
    signed: bool = True
    """Whether it can be negative."""
    option: str | None = None
    """The group's option that asks for it; None: it is always kept."""
    start: str | None = None
    """The group's option with its first value; None: 0."""


class StateLayout:
    """The state of one operation, in the order of its keys."""

    def __init__(self, *keys: StateKey, counts_steps: bool) -> None:
        self.keys = keys
        self.counts_steps = counts_steps

    def needs_state(self, group: dict[str, Any]) -> bool:
        """Whether a step needs anything kept, so that a parameter without it waits for its first gradient."""
        return self.counts_steps or any(_is_kept(key, group) for key in self.keys)

    def missing(self, param: Tensor, group: dict[str, Any], entry: Entry, buffers: StateBuffers, *, ema: bool) -> Entry:
        """What ``entry`` lacks for a step, made by ``buffers``.

        Tensors that only an option asks for may come late; to an entry that has others, those that are always kept do
        not: it is another operation's.
        """
        held = {name for name, value in entry.items() if value is not None}
        is_new = held.isdisjoint({"step", *(key.name for key in self.keys)})
        made: Entry = {}
        if self.counts_steps and is_new:
            device = param.device if param.device.type == "cuda" else torch.device("cpu")
            made["step"] = buffers.count(device)
        for key in self.keys:
            if key.name not in held and _is_kept(key, group) and (is_new or key.option is not None):
                made.update(_first_value(key, param, group, buffers))
        if _has_master(param, group) and "master_weight" not in held:
            made["master_weight"] = buffers.zeros_like(param, torch.float32).copy_(param.detach())
        if ema and "ema" not in held:
            weight = made.get("master_weight", entry.get("master_weight"))
            made["ema"] = buffers.zeros_like(param, torch.float32).copy_((param if weight is None else weight).detach())
        return made

    def loaded(self, param: Tensor, group: dict[str, Any], saved: Entry, *, ema: bool) -> Entry:
        """A checkpoint's entry, of this class or of its torch twin, in the form that ``group`` wants.

        A master or average that is not float32 has been through a 16-bit twin, which casts what it does not know and steps
        without it: it is left out.
        """
        own = {"master_weight": _has_master(param, group), "ema": ema, COPY_KEY: False}
        names = {f"{key.name}{suffix}" for key in self.keys for suffix in ("", "_codes", "_scale")}
        entry = {name: value for name, value in saved.items() if name not in names and name not in own}
        for key in self.keys:
            entry.update(_stored(key, param, group, saved))
        for name, wanted in own.items():
            value = saved.get(name)
            if wanted and isinstance(value, Tensor) and value.dtype == torch.float32:
                entry[name] = _laid_out(value, param, torch.float32)
        return entry

    def saved(self, entry: Entry) -> Entry:
        """The entry as a state dictionary has it; the same object where nothing is in 8 bits and there is no copy."""
        eight_bit = {key.name for key in self.keys if f"{key.name}_scale" in entry}
        if not eight_bit and COPY_KEY not in entry:
            return entry
        return {
            f"{name}_codes" if name in eight_bit else name: value for name, value in entry.items() if name != COPY_KEY
        }

    def twins(self, entry: Entry) -> Entry:
        """The entry (as in ``state``) in the form of the torch twin."""
        form: Entry = {name: value for name, value in entry.items() if name not in ("master_weight", "ema", COPY_KEY)}
        for key in self.keys:
            scale = form.pop(f"{key.name}_scale", None)
            if scale is not None:
                form[key.name] = _eight_bit.decode(form[key.name], scale, signed=key.signed)
        return form


def _is_kept(key: StateKey, group: dict[str, Any]) -> bool:
    return key.option is None or bool(group.get(key.option))


def _has_master(param: Tensor, group: dict[str, Any]) -> bool:
    return bool(group.get("master_weights")) and param.dtype in _SIXTEEN_BITS


def _like(param: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)


def _state_dtype(param: Tensor, group: dict[str, Any]) -> torch.dtype:
    """That of the parameter, as torch keeps it, or of its master."""
    return torch.float32 if _has_master(param, group) else param.dtype


def _first_value(key: StateKey, param: Tensor, group: dict[str, Any], buffers: StateBuffers) -> Entry:
    start = 0.0 if key.start is None else float(group.get(key.start, 0.0))
    if group.get("state_bits") != 8:
        zeros = buffers.zeros_like(param, _state_dtype(param, group))
        return {key.name: zeros.fill_(start) if start != 0.0 else zeros}
    if start != 0.0:
        codes, scales = _eight_bit.encode(_like(param, torch.float32).fill_(start), signed=key.signed)
    else:
        codes = _like(param, torch.uint8)
        scales = torch.zeros(_eight_bit.scale_count(param.numel()), dtype=torch.float32, device=param.device)
    return {key.name: codes, f"{key.name}_scale": scales}


def _laid_out(value: Tensor, param: Tensor, dtype: torch.dtype) -> Tensor:
    """As ``param`` lies; itself where it already does, as torch does it. What is of another shape is for the step to refuse."""
    if value.shape != param.shape:
        return value
    if value.dtype == dtype and value.device == param.device and value.stride() == param.stride():
        return value
    return _like(param, dtype).copy_(value)


def _stored(key: StateKey, param: Tensor, group: dict[str, Any], saved: Entry) -> Entry:
    """One key of a checkpoint's entry, from either form into the wanted one."""
    value, codes, scales = (saved.get(f"{key.name}{suffix}") for suffix in ("", "_codes", "_scale"))
    wants_codes = group.get("state_bits") == 8
    if isinstance(codes, Tensor) and isinstance(scales, Tensor):
        if wants_codes and codes.stride() == param.stride():
            return {key.name: codes.to(param.device), f"{key.name}_scale": scales.to(param.device)}
        value = _eight_bit.decode(codes, scales, signed=key.signed)
    if not isinstance(value, Tensor):
        return {}
    if not wants_codes or value.shape != param.shape:
        return {key.name: _laid_out(value, param, _state_dtype(param, group))}
    codes, scales = _eight_bit.encode(_laid_out(value, param, torch.float32), signed=key.signed)
    return {key.name: codes, f"{key.name}_scale": scales}
