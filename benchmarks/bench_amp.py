"""Clipping and unscaling alone over 80 M float32 gradients, and the scaler's own cost; whole chains are in bench_optim.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt import _core, amp  # noqa: E402
from perfopt.optim import AdamW  # noqa: E402

PARAMETERS = 80_000_000
TENSORS = 80


def make_params() -> list[Any]:
    torch.manual_seed(0)
    values, gradients = torch.randn(PARAMETERS // TENSORS), torch.randn(PARAMETERS // TENSORS) * 0.01
    params = [torch.nn.Parameter(values.clone()) for _ in range(TENSORS)]
    for param in params:
        param.grad = gradients.clone()
    return params


def started(scaler: Any) -> Any:
    scaler.scale(torch.ones(()))
    return scaler


@pytest.fixture(autouse=True)
def same_threads() -> None:
    torch.set_num_threads(_core.cpu_info()["processors"])


@pytest.mark.parametrize(("limit", "name"), [(1e9, "nothing to clip"), (1e-3, "clipped")])
def test_clip_norm(versus: Callable[..., None], limit: float, name: str) -> None:
    params, others = make_params(), make_params()

    def run(clip: Callable[..., Any], given: list[Any]) -> Callable[[], object]:
        first = [param.grad.clone() for param in given[:1]]

        def call() -> None:
            given[0].grad.copy_(first[0])  # so that each call has something to clip again
            clip(given, limit)

        return call

    versus(
        f"clip_grad_norm_, 80 M float32 gradients, {name}",
        ours={"perfopt": run(amp.clip_grad_norm_, params)},
        peers={"torch": run(torch.nn.utils.clip_grad_norm_, others)},
        rounds=11,
    )


@pytest.mark.parametrize(("limit", "name"), [(1.0, "nothing to clip"), (1e-2, "most clipped once")])
def test_clip_value(versus: Callable[..., None], limit: float, name: str) -> None:
    params, others = make_params(), make_params()
    versus(
        f"clip_grad_value_, 80 M float32 gradients, {name}",
        ours={"perfopt": lambda: amp.clip_grad_value_(params, limit)},
        peers={"torch": lambda: torch.nn.utils.clip_grad_value_(others, limit)},
        rounds=11,
    )


def test_unscale_for_other_optimizers(versus: Callable[..., None]) -> None:
    def run(scaler: Any) -> Callable[[], object]:
        optimizer = torch.optim.SGD(make_params(), lr=0.0)
        started(scaler)

        def call() -> None:
            scaler.unscale_(optimizer)
            scaler.update()

        return call

    versus(
        "GradScaler.unscale_, 80 M float32 gradients",
        ours={"perfopt": run(amp.GradScaler("cpu", init_scale=1.5))},
        peers={"torch": run(torch.amp.GradScaler("cpu", init_scale=1.5))},
        rounds=11,
        note="for optimizers that do not find inf and NaN themselves",
    )


def test_small_model(versus: Callable[..., None]) -> None:
    def run(scaler: Any, make: Callable[..., Any]) -> Callable[[], object]:
        params = [torch.nn.Parameter(torch.randn(64)) for _ in range(20)]
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer = make(params)
        started(scaler)

        def call() -> None:
            scaler.step(optimizer)
            scaler.update()

        call()
        return call

    versus(
        "scaler and AdamW, 20 tensors of 64",
        ours={"perfopt": run(amp.GradScaler("cpu", init_scale=1.0), AdamW)},
        peers={
            "torch, fused": run(
                torch.amp.GradScaler("cpu", init_scale=1.0), lambda p: torch.optim.AdamW(p, fused=True)
            ),
            "torch, default": run(torch.amp.GradScaler("cpu", init_scale=1.0), torch.optim.AdamW),
        },
        rounds=31,
        note="without clipping: what a step costs apart from memory",
    )
