"""Clipping plus AdamW over 80 M float32 parameters in 80 tensors, against torch's chain of the same; and many small tensors."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt import _core  # noqa: E402
from perfopt.optim import AdamW  # noqa: E402


def mixed_sizes(total: int, count: int) -> list[int]:
    """Sizes as in a model: a few hundred elements (biases) to some millions (weights), the same on every run."""
    generator = random.Random(0)
    weights = [generator.choice([0.0001, 0.1, 0.3, 1, 1, 2, 2, 3]) for _ in range(count)]
    return [max(64, int(total * weight / sum(weights))) for weight in weights]


def make_params(sizes: list[int]) -> list[Any]:
    params = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
    for param in params:
        param.grad = torch.randn_like(param) * 0.01
    return params


def ours(sizes: list[int]) -> Callable[[], object]:
    optimizer = AdamW(make_params(sizes), lr=1e-4, max_grad_norm=1.0)
    optimizer.step()
    return optimizer.step


def torch_chain(sizes: list[int], **options: Any) -> Callable[[], object]:
    params = make_params(sizes)
    optimizer = torch.optim.AdamW(params, lr=1e-4, **options)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    step()
    return step


@pytest.fixture(autouse=True)
def equal_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(_core.cpu_info()["threads"])
    yield
    torch.set_num_threads(before)


def test_eighty_million_parameters(versus: Callable[..., None]) -> None:
    sizes = mixed_sizes(80_000_000, 80)
    versus(
        "clip + AdamW, 80 M fp32 parameters in 80 tensors",
        ours={"perfopt.optim.AdamW(max_grad_norm=1)": ours(sizes)},
        peers={
            "clip_grad_norm_ + AdamW(fused=True)": torch_chain(sizes, fused=True),
            "clip_grad_norm_ + AdamW": torch_chain(sizes),
        },
        bars={"clip_grad_norm_ + AdamW(fused=True)": ">=1.2x", "clip_grad_norm_ + AdamW": ">=4x"},
        rounds=15,
        note="32 bytes a parameter against 40 and 92",
    )


def test_many_small_tensors(versus: Callable[..., None]) -> None:
    sizes = [64] * 10_000
    versus(
        "clip + AdamW, 10 000 tensors of 64 elements",
        ours={"perfopt.optim.AdamW(max_grad_norm=1)": ours(sizes)},
        peers={
            "clip_grad_norm_ + AdamW(fused=True)": torch_chain(sizes, fused=True),
            "clip_grad_norm_ + AdamW": torch_chain(sizes),
        },
        rounds=7,
    )
