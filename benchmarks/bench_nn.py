"""perfopt.nn on the CPU against torch's own layers: the same operations, so that nothing is lost; nothing is gained either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt.nn import FusedLinear, FusedMLP  # noqa: E402


def training(module: Any, rows: int, size: int) -> Callable[[], object]:
    x = torch.randn(rows, size, requires_grad=True)
    grad = torch.randn_like(module(x))
    return lambda: module(x).backward(grad)


def test_mlp_forward_and_backward(versus: Callable[..., None]) -> None:
    block = FusedMLP(256, 1024)
    versus(
        "FusedMLP 256-1024-256, 64 rows, fp32 on the CPU, forward and backward",
        ours={"perfopt.nn": training(block, 64, 256)},
        peers={"torch.nn.Sequential": training(block.to_sequential(), 64, 256)},
        bars={"torch.nn.Sequential": "<=1.05"},
        rounds=15,
    )


def test_linear_with_gelu_forward_and_backward(versus: Callable[..., None]) -> None:
    layer = FusedLinear(256, 256, activation="gelu")
    twin = torch.nn.Linear(256, 256)
    versus(
        "FusedLinear 256-256 with GELU, 64 rows, fp32 on the CPU, forward and backward",
        ours={"perfopt.nn": training(layer, 64, 256)},
        peers={"torch.nn.Sequential": training(torch.nn.Sequential(twin, torch.nn.GELU(approximate="tanh")), 64, 256)},
        bars={"torch.nn.Sequential": "<=1.05"},
        rounds=15,
    )
