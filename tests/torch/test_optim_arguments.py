"""Numbers given to optimizers, scalers and clipping: a wrong one is named, with what it was and what is accepted."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt import amp, optim  # noqa: E402

OPTIMIZERS = [optim.AdamW, optim.Adam, optim.SGD, optim.Lion, optim.Adagrad, optim.RMSprop]
NOT_NUMBERS = ("fast", [0.1], 1j)
AT_LEAST_0 = (NOT_NUMBERS, (-1.0, float("nan")), "a number >= 0")
# By argument: of a wrong type, out of range, what is accepted.
NUMBERS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], str]] = {
    "lr": ((*NOT_NUMBERS, None, torch.ones(2)), (-1.0, float("nan"), torch.tensor(-1.0)), "a number >= 0"),
    "eps": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
    "momentum": AT_LEAST_0,
    "lr_decay": AT_LEAST_0,
    "initial_accumulator_value": AT_LEAST_0,
    "alpha": (NOT_NUMBERS, (-0.1, 1.0, float("nan")), "a number >= 0 and < 1"),
    "dampening": (NOT_NUMBERS, (float("inf"), float("nan")), "a finite number"),
    "betas": ((0.9, (0.9,), (0.9, 0.9, 0.9)), (), "two numbers >= 0 and < 1"),
}
OPTIONS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], str]] = {
    "max_grad_norm": (NOT_NUMBERS, (-1.0, float("nan")), "None or a number >= 0"),
    "seed": ((), ("1", -1, 2**64, 0.5), "a whole number from 0 to 2\\*\\*64 - 1"),
    "ema": ((), ("1", -0.1, 1.5, float("nan")), "None or a number from 0 to 1"),
    "state_bits": ((), (4, "8"), "None or 8"),
}
FLAGS = {"params", "amsgrad", "maximize", "nesterov", "centered", "capturable", "decoupled_weight_decay", "options"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_optimizers_name_the_option(optimizer: Any) -> None:
    names = set(inspect.signature(optimizer).parameters)
    assert names <= NUMBERS.keys() | FLAGS
    params = [torch.nn.Parameter(torch.ones(3))]
    for name, (wrong, outside, accepted) in [*((name, NUMBERS[name]) for name in names - FLAGS), *OPTIONS.items()]:
        for value in wrong + outside:
            exception = TypeError if any(value is other for other in wrong) else ValueError
            with pytest.raises(exception, match=f"accepted: {accepted}") as caught:
                optimizer(params, **{name: value})
            assert str(caught.value).startswith(f"{name}={value!r}; "), name
    if "betas" in names:
        for place in (0, 1):
            betas = [0.5, 0.5]
            betas[place] = 1.0
            with pytest.raises(ValueError, match=rf"betas\[{place}\]=1.0; accepted: a number >= 0 and < 1"):
                optimizer(params, betas=betas)
    with pytest.raises(TypeError, match="unexpected keyword argument 'fused'; accepted besides torch's: max_grad_norm"):
        optimizer(params, fused=True)


def test_clipping_names_the_bound() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.full((3,), 2.0)
    for value in ("1", None, [1.0], 1j, torch.ones(2)):
        with pytest.raises(TypeError) as caught:
            amp.clip_grad_norm_([param], value)  # type: ignore[arg-type]
        assert str(caught.value) == f"max_norm={value!r}; accepted: a number"
        with pytest.raises(TypeError) as caught:
            amp.clip_grad_value_([param], value)  # type: ignore[arg-type]
        assert str(caught.value) == f"clip_value={value!r}; accepted: a number"
    with pytest.raises(TypeError, match="norm_type='two'; accepted: a number"):
        amp.clip_grad_norm_([param], 1.0, "two")  # type: ignore[arg-type]
    assert torch.equal(param.grad, torch.full((3,), 2.0))


@pytest.mark.parametrize(
    ("options", "exception", "text"),
    [
        ({"init_scale": "big"}, TypeError, "init_scale='big'; accepted: a number"),
        ({"init_scale": 0.0}, ValueError, "init_scale=0.0; accepted: from min_scale="),
        ({"growth_factor": "2"}, TypeError, "growth_factor='2'; accepted: a number"),
        ({"backoff_factor": None}, TypeError, "backoff_factor=None; accepted: a number"),
        ({"growth_interval": 1.5}, TypeError, "growth_interval=1.5; accepted: a whole number >= 1"),
        ({"growth_interval": 0}, ValueError, "growth_interval=0; accepted: a whole number >= 1"),
        ({"hysteresis": 1.5}, TypeError, "hysteresis=1.5; accepted: a whole number >= 1"),
        ({"hysteresis": 0}, ValueError, "hysteresis=0; accepted: a whole number >= 1"),
        ({"min_scale": "1"}, TypeError, "min_scale='1'; accepted"),
        ({"max_scale": "1"}, TypeError, "max_scale='1'; accepted"),
    ],
)
def test_scalers_name_the_argument(options: dict[str, Any], exception: type[Exception], text: str) -> None:
    with pytest.raises(exception, match=text):
        amp.GradScaler("cpu", **options)
