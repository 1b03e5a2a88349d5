"""Small tools of the profiling guide that cure what the profiler finds: a pool of tensors, work in batches on the device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from perfopt._fork_locks import lock_of

__all__ = ["MemoryPool", "gpu_batch_processing", "gpu_memory_efficient"]


class MemoryPool:
    """Tensors of one size that are made once and handed out again and again.

    A tensor that is handed out holds zeros. When all are out, ``get()`` makes another one, which joins the pool when it comes
    back only while fewer than ``count`` are waiting, so the pool never grows beyond ``count``. Safe to use from threads.

    Args:
        size: shape of the tensors, an int or a sequence of ints.
        count: how many are kept.
        dtype: of the tensors; torch's default when left out.
        device: of the tensors; the CPU when left out.

    Raises:
        ModuleNotFoundError: torch is missing.
        ValueError: ``count`` is below 1.
    """

    def __init__(self, size: int | Sequence[int], count: int = 10, *, dtype: Any = None, device: Any = None) -> None:
        import torch

        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count must be an int from 1, not {count!r}")
        self._make: Callable[[], Any] = lambda: torch.zeros(size, dtype=dtype, device=device)
        self._lock = lock_of(self, "_lock", threading.Lock)
        self._count = count
        self.pool = [self._make() for _ in range(count)]
        self.available = list(self.pool)
        self._shape = tuple(self.pool[0].shape)

    def get(self) -> Any:
        """A tensor of zeros."""
        with self._lock:
            if self.available:
                return self.available.pop()
        return self._make()

    def return_tensor(self, tensor: Any) -> None:
        """Takes a tensor back and fills it with zeros.

        Raises:
            ValueError: it has another shape, dtype or device than the pool's, or it is in the pool already.
        """
        model = self.pool[0]
        if tuple(tensor.shape) != self._shape or tensor.dtype != model.dtype or tensor.device != model.device:
            raise ValueError(
                f"tensor must be of shape {self._shape}, {model.dtype} on {model.device}, "
                f"not {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}"
            )
        pointer = tensor.data_ptr()
        with self._lock:
            if any(waiting is tensor or (pointer and waiting.data_ptr() == pointer) for waiting in self.available):
                raise ValueError("tensor is in the pool already: it was returned twice")
            tensor.detach().zero_()
            if len(self.available) < self._count:
                self.available.append(tensor)


def gpu_batch_processing(
    data_list: Sequence[Any], batch_size: int = 32, *, model: Callable[[Any], Any], device: Any = None
) -> list[Any]:
    """Runs a model over a list of tensors of one shape in batches, without gradients.

    Args:
        data_list: tensors of one shape, one a sample.
        batch_size: samples a batch; the last batch has the rest.
        model: called with a batch of shape ``(samples, *shape)`` on ``device``; its first dimension is the sample's.
        device: where batches go; CUDA where it is available, else the CPU.

    Returns:
        One NumPy array a sample, in order.

    Raises:
        ValueError: ``batch_size`` is below 1, or the model gives back another number of samples.
    """
    import torch

    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an int from 1, not {batch_size!r}")
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    results: list[Any] = []
    with torch.no_grad():
        for begin in range(0, len(data_list), batch_size):
            batch = torch.stack(list(data_list[begin : begin + batch_size])).to(target)
            result = model(batch)
            if len(result) != len(batch):
                raise ValueError(f"model must give one result a sample: {len(batch)} samples, {len(result)} results")
            results.extend(result.cpu().numpy())
    return results


def gpu_memory_efficient(model: Any, batches: Iterable[Any], *, device: Any = None) -> Iterator[Any]:
    """Runs a model over small batches with as little device memory as it can: cached blocks are released first, gradient
    checkpointing is switched on where the model has ``gradient_checkpointing_enable``, and each batch runs under autocast.

    Args:
        model: a module; called with a batch on ``device``.
        batches: tensors.
        device: where batches go; CUDA where it is available, else the CPU (autocast to bfloat16).

    Yields:
        The model's result of each batch, on the device.
    """
    import torch

    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if target.type == "cuda":
        torch.cuda.empty_cache()
    enable = getattr(model, "gradient_checkpointing_enable", None)
    if callable(enable):
        enable()
    for batch in batches:
        with torch.autocast(target.type):
            result = model(batch.to(target))
        yield result
