"""Clipping plus AdamW over many small tensors, against torch's chain of the same; large ones are in bench_optim.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt import _core  # noqa: E402
from perfopt.optim import AdamW  # noqa: E402


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
