"""The techniques a training loop may use, each with the question whether it helps here, answered by measurement or by fact.

A technique that is not used always says why; the reasons end up in the result of the loop.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from perfopt.memory import MemoryOptimizer

__all__ = ["Decision", "autocast_gain", "choose_autocast", "choose_heap_retention", "choose_optimizer"]

LEAST_AUTOCAST_GAIN = 1.1


@dataclass(frozen=True)
class Decision:
    """Whether a technique is used, and why (or why not)."""

    used: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {"used": self.used, "reason": self.reason}


@functools.lru_cache(maxsize=16)
def autocast_gain(device_type: str, dtype_name: str) -> float:
    """Time of a float32 matrix product over the time of the same in ``dtype_name``, on this device; above 1 is a gain.

    The product has the shape of a small transformer's layer (768 x 256 by 256 x 1024); median of five interleaved pairs after
    a warm-up. Measured once a process. The random generators are not touched.
    """
    import torch

    dtype = getattr(torch, dtype_name)
    left = torch.linspace(-1.0, 1.0, 768 * 256, dtype=torch.float32, device=device_type).reshape(768, 256)
    right = torch.linspace(1.0, -1.0, 256 * 1024, dtype=torch.float32, device=device_type).reshape(256, 1024)
    pairs = {"float32": (left, right), "low": (left.to(dtype), right.to(dtype))}
    repeat = 50 if device_type == "cuda" else 1

    def seconds(key: str) -> float:
        a, b = pairs[key]
        if device_type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(repeat):
            a @ b
        if device_type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    with torch.no_grad(), torch.autocast(device_type, enabled=False):
        seconds("float32"), seconds("low")
        ratios = []
        for _ in range(5):
            ratios.append(seconds("float32") / seconds("low"))
            if ratios[0] < 0.3:
                break  # emulated in software: four more slow products would tell nothing new
    return statistics.median(ratios)


def choose_autocast(device: torch.device, wanted: bool) -> tuple[torch.dtype | None, Decision]:
    """The 16-bit type to autocast to, or ``None``; bfloat16, or float16 (with loss scaling) on older GPUs."""
    import torch

    if not wanted:
        return None, Decision(False, "mixed_precision is off")
    if device.type not in ("cpu", "cuda"):
        return None, Decision(False, f"no measurement for device {device.type}")
    half_only = device.type == "cuda" and not torch.cuda.is_bf16_supported()
    dtype = torch.float16 if half_only else torch.bfloat16
    name = str(dtype).removeprefix("torch.")
    gain = autocast_gain(device.type, name)
    if gain < LEAST_AUTOCAST_GAIN:
        return None, Decision(False, f"a {name} matrix product takes {1 / gain:.1f}x the time of float32 here")
    return dtype, Decision(True, f"a {name} matrix product is {gain:.1f}x as fast as float32 here")


def choose_optimizer(
    optimizer: torch.optim.Optimizer, max_grad_norm: float | None, model: torch.nn.Module
) -> tuple[torch.optim.Optimizer, Decision]:
    """perfopt's optimizer over the user's own parameter groups and state, where the given one is torch's of that name."""
    from perfopt.optim import PlannedOptimizer, adopt

    if isinstance(optimizer, PlannedOptimizer):
        return optimizer, Decision(True, f"already perfopt's {type(optimizer).__name__}")
    sparse = [name for name, module in model.named_modules() if getattr(module, "sparse", False) is True]
    if sparse:
        return optimizer, Decision(False, f"the gradients of {sparse[0]!r} are sparse")
    try:
        chosen = adopt(optimizer, max_grad_norm=max_grad_norm)
    except (ValueError, TypeError) as error:
        return optimizer, Decision(False, str(error))
    return chosen, Decision(True, f"{type(chosen).__name__} with clipping inside the step")


def choose_heap_retention(device: torch.device, wanted: bool, memory: MemoryOptimizer) -> Decision:
    """Whether freed heap pages are kept for the next step: on the CPU, and while memory is not short (it costs some)."""
    if not wanted:
        return Decision(False, "enable_memory_optimization is off")
    if device.type != "cpu":
        return Decision(False, "only for loops on the CPU")
    if memory.is_memory_pressure():
        return Decision(False, f"memory is at its threshold of {memory.threshold:.0%}")
    return Decision(True, "freed pages are kept for the next step")


@contextmanager
def clipping_inside(optimizer: torch.optim.Optimizer, max_grad_norm: float | None) -> Iterator[bool]:
    """Within: perfopt's optimizer clips to ``max_grad_norm`` unless it has a bound of its own. Yields whether it clips itself."""
    from perfopt.optim import PlannedOptimizer

    if not isinstance(optimizer, PlannedOptimizer):
        yield False
        return
    own = optimizer.max_grad_norm
    if own is None:
        optimizer.max_grad_norm = max_grad_norm
    try:
        yield True
    finally:
        optimizer.max_grad_norm = own
