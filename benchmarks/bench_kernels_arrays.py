"""Steps of perfopt.kernels on NumPy arrays, with clipping, against NumPy's own operations and, where it is, torch's foreach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfopt import _core, kernels

SIZES = [400_000] * 20
RATE = np.float32(1e-4)


def make_arrays() -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size, np.float32) for size in SIZES]
    return params, [rng.standard_normal(size, np.float32) * np.float32(0.01) for size in SIZES]


def clip(grads: list[Any]) -> np.float32:
    """What the gradients are to be multiplied by, by NumPy."""
    norm = float(np.sqrt(sum(float(np.dot(grad, grad)) for grad in grads)))
    return np.float32(min(1.0, 1.0 / (norm + 1e-6)))


def numpy_adamw(p: Any, g: Any, s: list[Any], step: int) -> None:
    m, v = s
    m *= np.float32(0.9)
    m += np.float32(0.1) * g
    v *= np.float32(0.999)
    v += np.float32(0.001) * (g * g)
    p *= np.float32(1 - 1e-4 * 1e-2)
    root = np.sqrt(v)
    root *= np.float32(1 / (1 - 0.999**step) ** 0.5)
    root += np.float32(1e-8)
    p -= np.float32(1e-4 / (1 - 0.9**step)) * m / root


def numpy_sgd(p: Any, g: Any, s: list[Any], step: int) -> None:
    (b,) = s
    b *= np.float32(0.9)
    b += g
    p -= RATE * b


def numpy_lion(p: Any, g: Any, s: list[Any], step: int) -> None:
    (m,) = s
    p *= np.float32(1 - 1e-4 * 0.1)
    p -= RATE * np.sign(np.float32(0.9) * m + np.float32(0.1) * g)
    m *= np.float32(0.99)
    m += np.float32(0.01) * g


def numpy_adagrad(p: Any, g: Any, s: list[Any], step: int) -> None:
    (total,) = s
    total += g * g
    p -= RATE * g / (np.sqrt(total) + np.float32(1e-10))


def numpy_rmsprop(p: Any, g: Any, s: list[Any], step: int) -> None:
    (square,) = s
    square *= np.float32(0.99)
    square += np.float32(0.01) * (g * g)
    p -= RATE * g / (np.sqrt(square) + np.float32(1e-8))


def numpy_chain(state: dict[str, list[Any]], update: Callable[..., None]) -> Callable[[], None]:
    params, grads = make_arrays()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        factor = clip(grads)
        for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
            update(param, grad * factor, [values[index] for values in state.values()], steps)

    return step


def torch_chain(name: str, options: dict[str, Any]) -> Callable[[], None] | None:
    """clip_grad_norm_ and torch's optimizer by foreach operations, on as many threads; None without torch or the optimizer."""
    try:
        import torch
    except ImportError:
        return None
    if not hasattr(torch.optim, name):
        return None
    torch.set_num_threads(_core.cpu_info()["threads"])
    params, grads = make_arrays()
    tensors = [torch.nn.Parameter(torch.from_numpy(param)) for param in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    optimizer = getattr(torch.optim, name)(tensors, lr=1e-4, foreach=True, **options)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(tensors, 1.0, foreach=True)
        optimizer.step()

    return step


def counted(step: Callable[..., object]) -> Callable[[], None]:
    """Given the number of the step, from 1."""
    number = 0

    def run() -> None:
        nonlocal number
        number += 1
        step(step=number)

    return run


CASES: list[tuple[str, str, Callable[..., Any], Callable[..., None], dict[str, Any], dict[str, Any]]] = [
    ("adamw", "AdamW", kernels.adamw_step, numpy_adamw, {}, {}),
    ("sgd", "SGD", kernels.sgd_step, numpy_sgd, {"momentum": True}, {"momentum": 0.9}),
    ("lion", "Lion", kernels.lion_step, numpy_lion, {}, {"weight_decay": 0.1}),
    ("adagrad", "Adagrad", kernels.adagrad_step, numpy_adagrad, {}, {}),
    ("rmsprop", "RMSprop", kernels.rmsprop_step, numpy_rmsprop, {}, {}),
]


@pytest.mark.parametrize(
    ("operation", "twin", "function", "update", "asked", "options"), CASES, ids=[case[0] for case in CASES]
)
def test_clip_and_step(
    versus: Callable[..., None],
    operation: str,
    twin: str,
    function: Callable[..., Any],
    update: Callable[..., None],
    asked: dict[str, Any],
    options: dict[str, Any],
) -> None:
    params, grads = make_arrays()
    state = kernels.new_state(operation, params, **asked)

    def step(**number: int) -> None:
        function(params, grads, **state, lr=1e-4, max_grad_norm=1.0, **options, **number)

    peers = {"NumPy": numpy_chain(kernels.new_state(operation, params, **asked), update)}
    foreach = torch_chain(twin, options)
    if foreach is not None:
        peers[f"torch clip + {twin}(foreach=True)"] = foreach
    versus(
        f"clip + {operation} on 20 float32 arrays of 400,000",
        ours={f"perfopt.kernels.{operation}_step": counted(step) if operation in ("adamw", "adagrad") else step},
        peers=peers,
        rounds=9,
    )
