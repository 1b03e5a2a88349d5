"""The optimizers of perfopt.optim as one table, with two references for each: torch's twin in float64, and the arithmetic.

``PlainSteps`` writes every operation out as float32 operations rounded one at a time, in torch's order, with storage in any
dtype, so that an optimizer can be held to its bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from perfopt import optim

# Around the widths of vectors, scale blocks (256), tiles (1,024) and chunks (65,536).
SIZES = [0, 1, 7, 8, 17, 33, 255, 257, 1025, 65537]


class LionReference(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2, as it is printed."""

    def __init__(self, params: Any, lr: float, betas: Any, weight_decay: float = 0.0, maximize: bool = False) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                grad = -param.grad if group["maximize"] else param.grad
                moment = self.state[param].setdefault("exp_avg", torch.zeros_like(param))
                direction = torch.sign(beta1 * moment + (1 - beta1) * grad)
                param.copy_(param - group["lr"] * (direction + group["weight_decay"] * param))
                moment.copy_(beta2 * moment + (1 - beta2) * grad)


class Case(NamedTuple):
    """One optimizer with options, its reference, and options that must make a difference."""

    name: str
    ours: Callable[..., Any]
    twin: Callable[..., Any]
    options: dict[str, Any]
    mutants: tuple[dict[str, Any], ...]

    def reference(self, params: Any, **others: Any) -> Any:
        options = {**self.options, **others}
        return (
            self.twin(params, **options) if self.twin is LionReference else self.twin(params, **options, foreach=False)
        )


def _adam(name: str, ours: Any, twin: Any, **options: Any) -> Case:
    mutants = ({"betas": (0.85, 0.99)}, {"betas": (0.9, 0.98)}, {"eps": 1e-2})
    return Case(name, ours, twin, {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1, **options}, mutants)


CASES = [
    _adam("AdamW", optim.AdamW, torch.optim.AdamW),
    _adam("AdamW-amsgrad", optim.AdamW, torch.optim.AdamW, amsgrad=True, maximize=True),
    _adam("Adam", optim.Adam, torch.optim.Adam),
    _adam("Adam-amsgrad", optim.Adam, torch.optim.Adam, amsgrad=True),
    _adam("Adam-decoupled", optim.Adam, torch.optim.Adam, decoupled_weight_decay=True, maximize=True),
    Case("SGD", optim.SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}, ()),
    Case(
        "SGD-momentum",
        optim.SGD,
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
        ({"momentum": 0.8}, {"dampening": 0.2}),
    ),
    Case(
        "SGD-nesterov",
        optim.SGD,
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        ({"momentum": 0.8}, {"nesterov": False}),
    ),
    Case(
        "Lion",
        optim.Lion,
        LionReference,
        {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1},
        ({"betas": (0.8, 0.99)}, {"betas": (0.9, 0.9)}),
    ),
    Case("Lion-maximize", optim.Lion, LionReference, {"lr": 1e-2, "betas": (0.9, 0.99), "maximize": True}, ()),
    Case(
        "Adagrad",
        optim.Adagrad,
        torch.optim.Adagrad,
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
        ({"lr_decay": 0.0}, {"initial_accumulator_value": 0.4}, {"eps": 1e-2}),
    ),
    Case("Adagrad-maximize", optim.Adagrad, torch.optim.Adagrad, {"lr": 0.1, "maximize": True, "eps": 1e-8}, ()),
    Case(
        "RMSprop",
        optim.RMSprop,
        torch.optim.RMSprop,
        {"lr": 1e-2, "alpha": 0.9, "weight_decay": 0.1},
        ({"alpha": 0.8}, {"eps": 1e-1}),
    ),
    Case(
        "RMSprop-momentum-centered",
        optim.RMSprop,
        torch.optim.RMSprop,
        {"lr": 1e-2, "alpha": 0.9, "momentum": 0.8, "centered": True, "maximize": True, "weight_decay": 0.1},
        ({"momentum": 0.7}, {"centered": False}),
    ),
]
IDS = [case.name for case in CASES]


def make_params(dtype: Any = torch.float32, sizes: list[Any] = SIZES, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in sizes]


def as_double(params: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(param.detach().double()) for param in params]


def give_grads(*models: list[Any], seed: int, missing: tuple[int, ...] = (), scale: float = 1.0) -> None:
    """The same gradients, as the first list's dtype has them, to every list of parameters."""
    generator = torch.Generator().manual_seed(1000 + seed)
    for index, params in enumerate(zip(*models, strict=True)):
        grad = (torch.randn(params[0].shape, generator=generator) * scale).to(params[0].dtype)
        for param in params:
            param.grad = None if index in missing else torch.empty_like(param).copy_(grad)


def tensors_of(optimizer: Any) -> list[Any]:
    """Parameters, then all their state, in a fixed order."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    entries = [optimizer.state.get(param, {}) for param in params]
    return [param.detach() for param in params] + [entry[key] for entry in entries for key in sorted(entry)]


def bits_of(optimizer: Any) -> bytes:
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in tensors_of(optimizer)]
    return torch.cat(flat).numpy().tobytes() if flat else b""


class PlainSteps:
    """Steps of one case, each operation written out: float32 tensors, one rounding an operation, scalars prepared in double."""

    def __init__(self, case: Case, params: list[Any], *, master: bool = False, ema: float | None = None) -> None:
        self.case, self.master, self.ema = case, master, ema
        self.group = case.ours(make_params(sizes=[1]), **case.options).param_groups[0]
        self.dtype = params[0].dtype
        self.weights = [param.detach().float() if master else param.detach().clone() for param in params]
        self.averages = [param.detach().float().clone() for param in params]
        self.state: list[dict[str, Any]] = [{} for _ in params]
        self.steps = [0] * len(params)

    def state_dtype(self) -> Any:
        return torch.float32 if self.master else self.dtype

    def parameters(self) -> list[Any]:
        return [weight.to(self.dtype) for weight in self.weights]

    def step(self, grads: list[Any], multiplier: float = 1.0) -> None:
        for index, grad in enumerate(grads):
            if grad is None:
                continue
            self.steps[index] += 1
            weight = self.weights[index].float()
            state = {key: value.float() for key, value in self.state[index].items()}
            signed = -multiplier if self.group["maximize"] else multiplier
            name = self.case.name.split("-")[0].lower()
            weight, state = getattr(self, f"_{name}")(weight, grad.float() * signed, state, self.steps[index])
            self.state[index] = {key: value.to(self.state_dtype()) for key, value in state.items()}
            self.weights[index] = weight.to(torch.float32 if self.master else self.dtype)
            if self.ema is not None:
                current = self.weights[index].float()
                self.averages[index] = lerp(self.averages[index], current, 1.0 - self.ema)

    def _coupled(self, weight: Any, grad: Any) -> Any:
        decay = self.group["weight_decay"]
        return grad + weight * decay if decay else grad

    def _adamw(self, weight: Any, grad: Any, state: Any, step: int) -> Any:
        return self._adam_step(weight * (1.0 - self.group["lr"] * self.group["weight_decay"]), grad, state, step)

    def _adam(self, weight: Any, grad: Any, state: Any, step: int) -> Any:
        if self.group["decoupled_weight_decay"]:
            return self._adamw(weight, grad, state, step)
        return self._adam_step(weight, self._coupled(weight, grad), state, step)

    def _adam_step(self, weight: Any, grad: Any, state: Any, step: int) -> Any:
        beta1, beta2 = self.group["betas"]
        zero = torch.zeros_like(weight)
        moment = lerp(state.get("exp_avg", zero), grad, 1.0 - beta1)
        second = state.get("exp_avg_sq", zero) * beta2 + (grad * (1.0 - beta2)) * grad
        kept = {"exp_avg": moment, "exp_avg_sq": second}
        if self.group["amsgrad"]:
            kept["max_exp_avg_sq"] = torch.maximum(state.get("max_exp_avg_sq", zero), second)
        largest = kept.get("max_exp_avg_sq", second)
        denominator = root(largest) / f32(math.sqrt(1.0 - beta2**step)) + self.group["eps"]
        return weight + (moment * -(self.group["lr"] / (1.0 - beta1**step))) / denominator, kept

    def _sgd(self, weight: Any, grad: Any, state: Any, step: int) -> Any:
        grad, momentum = self._coupled(weight, grad), self.group["momentum"]
        if momentum:
            old = state.get("momentum_buffer")
            buffer = grad if old is None else old * momentum + grad * (1.0 - self.group["dampening"])
            state = {"momentum_buffer": buffer}
            grad = grad + buffer * momentum if self.group["nesterov"] else buffer
        return weight + grad * -self.group["lr"], state

    def _lion(self, weight: Any, grad: Any, state: Any, step: int) -> Any:
        beta1, beta2 = self.group["betas"]
        moment = state.get("exp_avg", torch.zeros_like(weight))
        direction = torch.sign(moment * beta1 + grad * (1.0 - beta1))
        decayed = weight * (1.0 - self.group["lr"] * self.group["weight_decay"])
        return decayed + direction * -self.group["lr"], {"exp_avg": moment * beta2 + grad * (1.0 - beta2)}

    def _adagrad(self, weight: Any, grad: Any, state: Any, step: int) -> Any:
        grad = self._coupled(weight, grad)
        total = state.get("sum", torch.full_like(weight, self.group["initial_accumulator_value"])) + grad * grad
        rate = self.group["lr"] / (1.0 + (step - 1) * self.group["lr_decay"])
        return weight + (grad * -rate) / (root(total) + self.group["eps"]), {"sum": total}

    def _rmsprop(self, weight: Any, grad: Any, state: Any, step: int) -> Any:
        grad, alpha, zero = self._coupled(weight, grad), self.group["alpha"], torch.zeros_like(weight)
        square = state.get("square_avg", zero) * alpha + (grad * (1.0 - alpha)) * grad
        kept, variance = {"square_avg": square}, square
        if self.group["centered"]:
            kept["grad_avg"] = lerp(state.get("grad_avg", zero), grad, 1.0 - alpha)
            variance = square - kept["grad_avg"] * kept["grad_avg"]
        denominator = root(variance) + self.group["eps"]
        if not self.group["momentum"]:
            return weight + (grad * -self.group["lr"]) / denominator, kept
        buffer = state.get("momentum_buffer", zero) * self.group["momentum"] + grad / denominator
        return weight + buffer * -self.group["lr"], {**kept, "momentum_buffer": buffer}


def f32(number: float) -> float:
    return float(np.float32(number))


def root(values: Any) -> Any:
    """Rounded correctly, which torch's is not in the last bit."""
    return torch.from_numpy(np.sqrt(values.numpy()))


def lerp(start: Any, end: Any, weight: float) -> Any:
    """torch.lerp's rule, from the nearer end, without contraction."""
    rounded = np.float32(weight)
    if rounded < 0.5:
        return start + (end - start) * float(rounded)
    return end + (end - start) * float(-(np.float32(1.0) - rounded))
