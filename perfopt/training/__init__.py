"""Training loops: the measured loop behind :meth:`perfopt.PerformanceOptimizer.optimize_training_loop`."""

from __future__ import annotations

from perfopt.training.loop import TrainingLoop

__all__ = ["TrainingLoop"]
