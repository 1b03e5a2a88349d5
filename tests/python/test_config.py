"""PerformanceConfig: documented fields and defaults, aliases, and refusal of wrong values by name."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import pytest

from perfopt import PerformanceConfig

DOCUMENTED = {
    "enable_caching": True,
    "enable_parallelization": True,
    "enable_memory_optimization": True,
    "enable_profiling": True,
    "enable_compression": True,
    "cache_size": 1000,
    "max_workers": None,
    "memory_threshold": 0.8,
    "batch_size_optimization": True,
    "mixed_precision": True,
    "gradient_accumulation": True,
    "gradient_accumulation_steps": 4,
}


@pytest.mark.spec("S0-01")
def test_the_twelve_documented_fields_come_first_with_their_defaults() -> None:
    names = [field.name for field in dataclasses.fields(PerformanceConfig)]
    assert names[:12] == list(DOCUMENTED)
    config = PerformanceConfig()
    for name, default in DOCUMENTED.items():
        if default is not None:
            assert getattr(config, name) == default, name
    assert 1 <= config.max_workers <= (os.cpu_count() or 1)
    positional = PerformanceConfig(False, False, False, False, False, 7, 3, 0.5, False, False, False, 2)
    assert (positional.cache_size, positional.max_workers, positional.memory_threshold) == (7, 3, 0.5)


@pytest.mark.spec("S0-02")
def test_batch_optimization_has_a_second_name() -> None:
    assert PerformanceConfig(enable_batch_optimization=False).batch_size_optimization is False
    assert PerformanceConfig(batch_size_optimization=False, enable_batch_optimization=True).batch_size_optimization
    assert PerformanceConfig(batch_size_optimization=False).batch_size_optimization is False


def test_accumulation_window_follows_the_switch() -> None:
    assert PerformanceConfig().accumulation_window == 4
    assert PerformanceConfig(gradient_accumulation=False).accumulation_window == 1
    assert dataclasses.replace(PerformanceConfig(), gradient_accumulation_steps=8).accumulation_window == 8


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("enable_caching", 1, TypeError),
        ("enable_profiling", "yes", TypeError),
        ("enable_batch_optimization", 0, TypeError),
        ("cache_size", -1, ValueError),
        ("cache_size", 2.5, TypeError),
        ("cache_size", True, TypeError),
        ("max_workers", 0, ValueError),
        ("gradient_accumulation_steps", 0, ValueError),
        ("gradient_accumulation_steps", "4", TypeError),
        ("memory_threshold", 0.0, ValueError),
        ("memory_threshold", 1.01, ValueError),
        ("memory_threshold", math.nan, ValueError),
        ("memory_threshold", "0.8", TypeError),
        ("memory_threshold", 10**400, ValueError),
        ("max_grad_norm", 10**400, ValueError),
        ("max_grad_norm", 0.0, ValueError),
        ("max_grad_norm", -1.0, ValueError),
        ("max_grad_norm", "1", TypeError),
    ],
)
def test_wrong_values_are_refused_by_name(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=field):
        PerformanceConfig(**{field: value})


def test_unknown_flag_is_refused() -> None:
    with pytest.raises(TypeError, match="enable_teleport"):
        PerformanceConfig(enable_teleport=True)  # type: ignore[call-arg]
