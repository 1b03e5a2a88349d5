"""One training loop with mixed precision, accumulation, clipping, profiling and memory care around the user's own parts.

The user's model, loader, optimizer and criterion stay the user's: state is changed only by optimizer steps, the model's
train/eval mode is put back, and an optimizer that was replaced by its fused counterpart shares its groups and state.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from perfopt._progress import Progress
from perfopt.training import techniques

if TYPE_CHECKING:
    import torch

    from perfopt.config import PerformanceConfig
    from perfopt.memory import MemoryOptimizer
    from perfopt.profiler import PerformanceProfiler

__all__ = ["TrainingLoop"]

CHECK_MEMORY_EVERY = 16
OnStep = Callable[[int, "torch.Tensor"], None]


class TrainingLoop:
    """Runs epochs over a loader; made by :class:`perfopt.PerformanceOptimizer`, one for each call of its loop.

    Args:
        model: the module to train; must have at least one parameter.
        optimizer: any ``torch.optim.Optimizer`` over its parameters.
        criterion: ``criterion(outputs, targets)`` gives a scalar tensor.
        config: what may be used.
        profiler: gets the ranges ``data``, ``forward``, ``backward`` and ``optimizer_step``.
        memory: watched for pressure every few steps, when the configuration allows it.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Callable[[Any, Any], torch.Tensor],
        *,
        config: PerformanceConfig,
        profiler: PerformanceProfiler,
        memory: MemoryOptimizer,
    ) -> None:
        import torch

        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(
                f"optimizer {type(optimizer).__name__} cannot step without a closure, which this loop has not"
            )
        if not callable(criterion):
            raise TypeError(
                f"criterion must be callable as criterion(outputs, targets), not {type(criterion).__name__}"
            )
        first = next(model.parameters(), None)
        if first is None:
            raise ValueError("model has no parameters to train")
        self.model = model
        self.criterion = criterion
        self.config = config
        self.profiler = profiler
        self.memory = memory
        self.device = first.device
        self.dtype, amp = techniques.choose_autocast(self.device, config.mixed_precision)
        self.optimizer, fused = techniques.choose_optimizer(optimizer, config.max_grad_norm, model)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.dtype is torch.float16 else None
        heap = techniques.choose_heap_retention(self.device, config.enable_memory_optimization, memory)
        self.decisions = {
            "mixed_precision": amp,
            "fused_optimizer": fused,
            "gradient_accumulation": techniques.Decision(
                config.accumulation_window > 1, f"{config.accumulation_window} batches a step"
            ),
            "heap_retention": heap,
        }
        self.steps = 0
        self.skipped_steps = 0
        self.batches = 0
        self.samples = 0
        self.last_batch_size = 0

    def run(
        self,
        dataloader: Iterable[Any],
        num_epochs: int,
        *,
        on_step: OnStep | None = None,
        quiet: bool = False,
    ) -> dict[str, Any]:
        """Trains for ``num_epochs`` passes over ``dataloader`` of ``(inputs, targets)`` batches; returns the result as a dict."""
        length = _length(dataloader)
        total = None if length is None else length * num_epochs
        epoch_losses: list[float] = []
        begin = time.perf_counter()
        with ExitStack() as stack:
            self._clips = stack.enter_context(techniques.clipping_inside(self.optimizer, self.config.max_grad_norm))
            if self.decisions["heap_retention"].used:
                from perfopt.memory import retain_heap

                stack.enter_context(retain_heap())
            progress = stack.enter_context(Progress("training", total, quiet=quiet))
            stack.callback(_restore_modes, self.model, [(module, module.training) for module in self.model.modules()])
            self.model.train()
            self.optimizer.zero_grad(set_to_none=True)
            epoch_losses.extend(self._epoch(dataloader, epoch, on_step, progress) for epoch in range(num_epochs))
        seconds = time.perf_counter() - begin
        return {
            "epochs": num_epochs,
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "batches": self.batches,
            "samples": self.samples,
            "seconds": seconds,
            "samples_per_second": self.samples / seconds if seconds > 0 else 0.0,
            "epoch_losses": epoch_losses,
            "final_loss": epoch_losses[-1],
            "techniques": {name: decision.as_dict() for name, decision in self.decisions.items()},
        }

    def _epoch(self, dataloader: Iterable[Any], epoch: int, on_step: OnStep | None, progress: Progress) -> float:
        """One pass; returns the mean loss of its batches (one read from the device, at the end)."""
        window = self.config.accumulation_window
        loss_sum: torch.Tensor | None = None
        pending = batches = 0
        window_loss: torch.Tensor | None = None
        for batch in self._timed_batches(dataloader):
            inputs, targets = self._unpack(batch, batches)
            loss = self._forward_backward(inputs, targets, window)
            loss_sum = loss if loss_sum is None else loss_sum + loss
            window_loss = loss if window_loss is None else window_loss + loss
            batches += 1
            pending += 1
            if pending == window:
                self._step(1.0, window_loss / pending, on_step)
                pending, window_loss = 0, None
            progress.advance()
        if loss_sum is None:
            raise ValueError(f"dataloader gave no batch in epoch {epoch + 1}; a one-shot iterator cannot be read twice")
        if pending:
            # The loss of each batch was divided by the whole window; the last, shorter one gets its share back.
            self._step(window / pending, window_loss / pending, on_step)  # type: ignore[operator]
        return float(loss_sum) / batches

    def _timed_batches(self, dataloader: Iterable[Any]) -> Iterator[Any]:
        batches = iter(dataloader)
        while True:
            with self.profiler.profile("data"):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def _unpack(self, batch: Any, index: int) -> tuple[Any, Any]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"dataloader's batch {index} must be a pair (inputs, targets), not {_describe(batch)}")
        inputs, targets = _to_device(batch[0], self.device), _to_device(batch[1], self.device)
        size = _batch_size(inputs)
        self.batches += 1
        self.samples += size
        self.last_batch_size = size
        return inputs, targets

    def _forward_backward(self, inputs: Any, targets: Any, window: int) -> torch.Tensor:
        import torch

        cast = torch.autocast(self.device.type, self.dtype) if self.dtype is not None else nullcontext()
        with self.profiler.profile("forward"), cast:
            loss = self.criterion(self.model(inputs), targets)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise TypeError(f"criterion must return a scalar tensor, not {_describe(loss)}")
        with self.profiler.profile("backward"):
            scaled = loss / window if window > 1 else loss
            (scaled if self.scaler is None else self.scaler.scale(scaled)).backward()
        # Losses are summed over an epoch: a 16-bit sum would stand still after some hundred batches.
        return loss.detach().reshape(()).to(torch.promote_types(loss.dtype, torch.float32))

    def _step(self, gradient_factor: float, loss: torch.Tensor, on_step: OnStep | None) -> None:
        import torch

        with self.profiler.profile("optimizer_step"):
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            if gradient_factor != 1.0:
                grads = [p.grad for p in self._parameters() if p.grad is not None]
                torch._foreach_mul_(grads, gradient_factor)
            if self._apply():
                self.steps += 1
            else:
                self.skipped_steps += 1
            self.optimizer.zero_grad(set_to_none=True)
        if self.config.enable_memory_optimization and (self.steps + self.skipped_steps) % CHECK_MEMORY_EVERY == 0:
            self.memory.check()
        if on_step is not None:
            on_step(self.steps + self.skipped_steps, loss)

    def _apply(self) -> bool:
        """Clips and updates; False when the gradients were not finite, and then nothing was changed."""
        import torch

        if self._clips and self.scaler is None:
            before = self.optimizer.skipped_steps
            self.optimizer.step()
            return bool(self.optimizer.skipped_steps == before)
        bound = self.config.max_grad_norm
        parameters = [p for p in self._parameters() if p.grad is not None]
        grads = [_values(p.grad) for p in parameters]
        norm = torch.nn.utils.get_total_norm(grads)
        # The norm of finite gradients may overflow; only then are they looked at one by one.
        finite = bool(torch.isfinite(norm)) or all(bool(torch.isfinite(grad).all()) for grad in grads)
        if finite and bound is not None and not self._clips:
            torch.nn.utils.clip_grads_with_norm_(parameters, bound, norm)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif finite:
            self.optimizer.step()
        return finite

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]


def _restore_modes(model: torch.nn.Module, modes: list[tuple[torch.nn.Module, bool]]) -> None:
    """Train or eval mode of every module as it was; through ``train()`` first, which a model may have made its own."""
    model.train(modes[0][1])
    for module, training in modes:
        module.training = training


def _values(grad: Any) -> torch.Tensor:
    """The elements of a gradient that are there: all of a dense one, one sum for each index of a sparse one."""
    values: torch.Tensor = grad.coalesce().values() if grad.is_sparse else grad
    return values


def _length(dataloader: Iterable[Any]) -> int | None:
    try:
        return len(dataloader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def _to_device(value: Any, device: torch.device) -> Any:
    """Tensors, also inside tuples, lists and dicts, on ``device``; anything else as it is."""
    import torch

    if isinstance(value, torch.Tensor):
        return value if value.device == device else value.to(device, non_blocking=True)
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(_to_device(item, device) for item in value)
    if type(value) is dict:
        return {key: _to_device(item, device) for key, item in value.items()}
    return value


def _batch_size(inputs: Any) -> int:
    """Length of the first axis of the first tensor in ``inputs``; 1 where there is none."""
    import torch

    if isinstance(inputs, torch.Tensor):
        return int(inputs.shape[0]) if inputs.ndim else 1
    if isinstance(inputs, (tuple, list)):
        return _batch_size(inputs[0]) if inputs else 1
    if isinstance(inputs, dict):
        return _batch_size(next(iter(inputs.values()), None))
    return 1


def _describe(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else ""
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return type(value).__name__ + size + shape
