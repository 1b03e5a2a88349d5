"""Linear layers whose bias, GELU and their gradients are formed inside the matrix products, where the device can."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perfopt.nn import _device, _ops

__all__ = ["FusedLinear", "FusedMLP"]

_ACTIVATIONS = (None, "gelu")


def _check_activation(activation: str | None) -> None:
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation={activation!r}; accepted: None, 'gelu' (the tanh form)")


def _check_input(x: Tensor, features: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"input is a {type(x).__name__}; accepted: a tensor [..., {features}]")
    if x.dim() == 0 or x.shape[-1] != features:
        raise ValueError(f"input has shape {list(x.shape)}; accepted: [..., {features}]")


def _is_plain(layer: nn.Module) -> bool:
    """A layer whose call is its product and nothing else: no hooks, no parametrization, no class or forward of somebody else."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return (
        type(layer) is nn.Linear
        and "forward" not in vars(layer)
        and not any(hooks)
        and not torch.nn.modules.module._has_any_global_hook()
    )


def _cast(*tensors: Any) -> tuple[Any, ...]:
    """The tensors as autocast would hand them to a product on CUDA."""
    if not torch.is_autocast_enabled("cuda"):
        return tensors
    dtype = torch.get_autocast_dtype("cuda")
    return tuple(t.to(dtype) if t is not None and t.dtype is not torch.float64 else t for t in tensors)


def _can_fuse(first: Tensor, *others: Tensor | None) -> bool:
    """Whether the operators take these: one dtype and device, plain tensors outside of torch.func's transforms."""
    tensors = [first, *(t for t in others if t is not None)]
    if not torch.compiler.is_compiling() and any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)):
        return False
    plain = all(type(t) in (Tensor, nn.Parameter) for t in tensors)
    same = all(t.dtype is first.dtype and t.device == first.device for t in tensors)
    return plain and same and _device.takes(first)


class FusedLinear(nn.Linear):
    """``torch.nn.Linear``, with ``GELU(approximate="tanh")`` behind it if wanted, in as few passes over memory as products.

    On a CUDA device of compute capability 8.0 or more, for bfloat16 and float16 (also under autocast), bias and GELU are part of
    the forward product and the gradient of the bias is part of the weight's (cuBLASLt epilogues). Everywhere else, and for a
    size that has no such kernel, this *is* ``torch.nn.functional.linear`` and ``gelu``: on the CPU the same values and
    gradients to the last bit, at the same speed. Parameters and state dictionary are those of ``torch.nn.Linear``.

    ``torch.compile`` keeps the layer in its graph; gradients of gradients are torch's own.

    Args:
        in_features: size of the last dimension of the input, [..., in_features].
        out_features: size of the last dimension of the output, [..., out_features].
        bias: whether there is one.
        activation: ``None`` or ``"gelu"``.
        float8: form the forward product from float8 (e4m3) copies of input and weight, each scaled by its largest magnitude,
            where the device can (compute capability 8.9); gradients are those of the product without it. Ignored elsewhere.
        device, dtype: of the parameters.

    Raises:
        ValueError: another activation; an input whose last dimension is not ``in_features``.
        TypeError: an input that is not a tensor.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str | None = None,
        *,
        float8: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _check_activation(activation)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.activation = activation
        self.float8 = float8

    @classmethod
    def from_linear(cls, linear: nn.Linear, activation: str | None = None, *, float8: bool = False) -> FusedLinear:
        """A layer over the same parameters (not copies) as a ``torch.nn.Linear``."""
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear is a {type(linear).__name__}; accepted: torch.nn.Linear")
        made = cls(
            linear.in_features, linear.out_features, linear.bias is not None, activation, float8=float8, device="meta"
        )
        made.weight, made.bias = linear.weight, linear.bias
        made.train(linear.training)
        return made

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features], in the dtype ``torch.nn.Linear`` would give."""
        _check_input(input, self.in_features)
        if input.is_cuda:
            x, weight, bias = _cast(input, self.weight, self.bias)
            if _can_fuse(x, weight, bias):
                rows = x.reshape(-1, self.in_features)
                if self.activation is None:
                    y = _ops.linear(rows, weight, bias, self.float8)
                else:
                    y, _ = _ops.linear_gelu(rows, weight, bias, self.float8)
                return y.reshape(*input.shape[:-1], self.out_features)
        y = F.linear(input, self.weight, self.bias)
        return y if self.activation is None else F.gelu(y, approximate="tanh")

    def extra_repr(self) -> str:
        """What ``repr`` says beside the name."""
        more = "" if self.activation is None else f", activation={self.activation!r}"
        return str(super().extra_repr()) + more + (", float8=True" if self.float8 else "")


class FusedMLP(nn.Module):
    """Linear, ``GELU(approximate="tanh")``, Linear: the feed-forward block of a transformer.

    As ``FusedLinear``, and the backward pass forms GELU's gradient and the first bias's inside the product that yields the
    hidden gradient. The layers are kept as ``"0"`` and ``"2"``, so the state dictionary is that of
    ``torch.nn.Sequential(Linear, GELU, Linear)`` and loads both ways. A layer that got a hook or a parametrization, or was
    replaced, is called as it is, without fusion.

    Args:
        in_features: size of the last dimension of the input, [..., in_features].
        hidden_features: size between the layers.
        out_features: size of the last dimension of the output; ``None``: ``in_features``.
        bias: whether both layers have one.
        activation: ``"gelu"``.
        float8: as in ``FusedLinear``, for both forward products.
        device, dtype: of the parameters.

    Raises:
        ValueError: another activation; an input whose last dimension is not ``in_features``.
        TypeError: an input that is not a tensor.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        bias: bool = True,
        activation: str = "gelu",
        *,
        float8: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if activation != "gelu":
            raise ValueError(f"activation={activation!r}; accepted: 'gelu' (the tanh form)")
        super().__init__()
        last = in_features if out_features is None else out_features
        self.add_module("0", nn.Linear(in_features, hidden_features, bias, device=device, dtype=dtype))
        self.add_module("2", nn.Linear(hidden_features, last, bias, device=device, dtype=dtype))
        self.float8 = float8

    @property
    def first(self) -> nn.Module:
        """The layer before GELU."""
        return self._layer("0")

    @property
    def second(self) -> nn.Module:
        """The layer after GELU."""
        return self._layer("2")

    def _layer(self, name: str) -> nn.Module:
        layer = self._modules[name]
        assert layer is not None
        return layer

    @classmethod
    def from_sequential(cls, sequential: nn.Sequential, *, float8: bool = False) -> FusedMLP:
        """A block over the same layers (not copies) as ``Sequential(Linear, GELU(approximate="tanh"), Linear)``."""
        kinds = [type(part).__name__ for part in sequential] if isinstance(sequential, nn.Sequential) else []
        if kinds != ["Linear", "GELU", "Linear"]:
            found = f"Sequential({', '.join(kinds)})" if kinds else type(sequential).__name__
            raise TypeError(f"sequential is a {found}; accepted: torch.nn.Sequential(Linear, GELU, Linear)")
        first, gelu, second = sequential
        if gelu.approximate != "tanh":
            raise ValueError(
                f"sequential[1] is GELU(approximate={gelu.approximate!r}); accepted: 'tanh', the form that the products can do"
            )
        if first.out_features != second.in_features:
            raise ValueError(
                f"sequential[0] gives {first.out_features} features, sequential[2] takes {second.in_features}"
            )
        made = cls(first.in_features, first.out_features, second.out_features, float8=float8, device="meta")
        made._modules["0"], made._modules["2"] = first, second
        made.train(sequential.training)
        return made

    def to_sequential(self) -> nn.Sequential:
        """``torch.nn.Sequential(Linear, GELU(approximate="tanh"), Linear)`` over the same layers (not copies)."""
        return nn.Sequential(self.first, nn.GELU(approximate="tanh"), self.second).train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        first, second = self.first, self.second
        if isinstance(first, nn.Linear):
            _check_input(input, first.in_features)
        if input.is_cuda and _is_plain(first) and _is_plain(second):
            x, *parameters = _cast(input, first.weight, first.bias, second.weight, second.bias)
            if _can_fuse(x, *parameters):
                y, _, _ = _ops.mlp(x.reshape(-1, first.in_features), *parameters, self.float8)
                return y.reshape(*input.shape[:-1], second.out_features)
        return second(F.gelu(first(input), approximate="tanh"))

    def extra_repr(self) -> str:
        """What ``repr`` says beside the name."""
        return "activation='gelu'" + (", float8=True" if self.float8 else "")
