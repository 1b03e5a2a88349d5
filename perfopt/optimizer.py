"""``PerformanceOptimizer``: cache, profiler, memory monitor and fused kernels around a training loop, in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from perfopt.cache import PerformanceCache
from perfopt.config import PerformanceConfig, require_int
from perfopt.memory import MemoryOptimizer
from perfopt.profiler import PerformanceProfiler

if TYPE_CHECKING:
    import torch

__all__ = ["PerformanceOptimizer"]


class PerformanceOptimizer:
    """The one interface to perfopt's engines, configured once.

    Args:
        config: a :class:`perfopt.PerformanceConfig`; ``None`` takes the defaults. Anything else raises ``TypeError``.

    Attributes:
        config: as given.
        cache: a :class:`perfopt.PerformanceCache` of ``config.cache_size`` entries, with its disk tier in ``config.cache_dir``
            if that is given; when caching is off it stores nothing, on disk neither.
        memory_optimizer: a :class:`perfopt.MemoryOptimizer` at ``config.memory_threshold``.
        profiler: a :class:`perfopt.PerformanceProfiler`; it records nothing when profiling is off.
    """

    def __init__(self, config: PerformanceConfig | None = None) -> None:
        if config is None:
            config = PerformanceConfig()
        if not isinstance(config, PerformanceConfig):
            raise TypeError(f"config must be a PerformanceConfig or None, not {type(config).__name__}")
        self.config = config
        self.cache = _make_cache(config)
        self.memory_optimizer = MemoryOptimizer(threshold=config.memory_threshold)
        self.profiler = PerformanceProfiler()
        if not config.enable_profiling:
            self.profiler.stop()
        self._batch: dict[str, Any] = _no_batch()

    def optimize_training_loop(
        self,
        model: torch.nn.Module,
        dataloader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        criterion: Callable[[Any, Any], torch.Tensor],
        num_epochs: int = 10,
        *,
        on_step: Callable[[int, torch.Tensor], None] | None = None,
        quiet: bool = False,
    ) -> dict[str, Any]:
        """Trains ``model`` and uses what helps on this machine; what was used and what not, with reasons, is in the result.

        Args:
            model: a ``torch.nn.Module``; trained where its parameters are, in train mode, its mode put back afterwards.
            dataloader: gives pairs ``(inputs, targets)`` for ``criterion(model(inputs), targets)``; tensors are moved to the
                model's device. Read once an epoch.
            optimizer: a ``torch.optim.Optimizer``. torch's own ``AdamW``, ``Adam``, ``SGD``, ``Adagrad`` and ``RMSprop`` over
                float32 parameters (a fused Adam or AdamW also over 16-bit ones) are stepped by perfopt's kernels on the same
                parameter groups and state, so schedulers and ``state_dict()`` stay right.
            criterion: returns a scalar tensor, the mean over the batch.
            num_epochs: passes over the loader, at least 1.
            on_step: called after each optimizer step as ``on_step(step, loss)``; ``step`` counts from 1, ``loss`` is the
                detached mean over the step's batches. A scheduler can be stepped here.
            quiet: no progress bar.

        Returns:
            A dict: ``epochs``, ``steps`` (updates made), ``skipped_steps`` (gradients not finite: nothing changed),
            ``batches``, ``samples``, ``seconds``, ``samples_per_second``, ``epoch_losses`` (mean of each epoch's batches),
            ``final_loss`` (the last of them) and ``techniques`` (``{name: {"used": bool, "reason": str}}``).

        Raises:
            TypeError: an argument or a batch of the wrong kind, named.
            ValueError: ``num_epochs`` below 1, a model without parameters, a loader without batches.
        """
        from perfopt.training.loop import TrainingLoop

        num_epochs = require_int("num_epochs", num_epochs, least=1)
        if not isinstance(dataloader, Iterable):
            raise TypeError(f"dataloader must be iterable, not {type(dataloader).__name__}")
        loop = TrainingLoop(
            model,
            optimizer,
            criterion,
            config=self.config,
            profiler=self.profiler,
            memory=self.memory_optimizer,
        )
        watch = self.config.enable_memory_optimization and not self.memory_optimizer.monitoring
        if watch:
            self.memory_optimizer.start_monitoring()
        try:
            result = loop.run(dataloader, num_epochs, on_step=on_step, quiet=quiet)
        finally:
            if watch:
                self.memory_optimizer.stop_monitoring()
        if self.config.batch_size_optimization:
            self._batch.update(batch_size=loop.last_batch_size, samples_per_second=result["samples_per_second"])
        return result

    def get_performance_summary(self) -> dict[str, Any]:
        """What happened so far, as a dict that ``json.dumps`` takes as it is.

        The keys ``cache_stats``, ``memory_trends``, ``profiling_summary`` and ``batch_optimization`` are always there, whatever
        is switched off and even before any work.
        """
        return {
            "cache_stats": {"enabled": self.config.enable_caching, **self.cache.get_stats()},
            "memory_trends": {
                "enabled": self.config.enable_memory_optimization,
                **self.memory_optimizer.get_memory_trends(),
            },
            "profiling_summary": {
                "enabled": self.config.enable_profiling,
                **self.profiler.get_profile_summary(),
            },
            "batch_optimization": {"enabled": self.config.batch_size_optimization, **self._batch},
        }

    def clear_metrics(self) -> None:
        """A fresh start for every figure of :meth:`get_performance_summary`; cached values stay cached."""
        self.cache.reset_stats()
        self.profiler.reset()
        self.memory_optimizer.clear_history()
        self._batch = _no_batch()


def _make_cache(config: PerformanceConfig) -> PerformanceCache:
    if not config.enable_caching:
        return PerformanceCache(max_size=0)
    return PerformanceCache(
        max_size=config.cache_size,
        cache_dir=config.cache_dir,
        ttl=config.cache_ttl,
        compression="auto" if config.enable_compression else "none",
    )


def _no_batch() -> dict[str, Any]:
    """The batch figures before any loop: nothing is known."""
    return {"batch_size": None, "samples_per_second": None}
