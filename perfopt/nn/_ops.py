"""The fused layers as operators of torch: ``perfopt::linear``, ``perfopt::linear_gelu``, ``perfopt::mlp`` and their backwards.

Each is a custom operator with a fake kernel, so ``torch.compile`` keeps it in its graph as it is. Each computes on the backend
where it can and by torch's own operations everywhere else, product by product, so that a kernel that the backend lacks costs its
fusion and nothing else. x is [rows, in], weights are [out, in] as in ``torch.nn.Linear``, all of one dtype; GELU is the tanh
form.

Gradients of gradients: when a backward pass itself is recorded (``create_graph=True``), it runs on torch's own operations, which
autograd knows how to differentiate.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perfopt.nn import _device
from perfopt.nn._device import Epilogue

# ---- products, on the backend or by torch ------------------------------------------------------------------------------------


def _gelu(pre: Tensor) -> Tensor:
    return F.gelu(pre, approximate="tanh")


def _gelu_backward(grad: Tensor, pre: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(grad, pre, approximate="tanh")


def _takes(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the backend may be asked: it takes x, and nothing is empty."""
    return _device.takes(x) and x.numel() > 0 and all(t is None or t.numel() > 0 for t in others)


def _product(x: Tensor, weight: Tensor, epilogue: Epilogue, float8: bool, **extra: Any) -> Tensor | None:
    """x @ weight.T with an epilogue, or None."""
    if not _takes(x, weight):
        return None
    x, weight = x.contiguous(), weight.contiguous()
    if float8 and _device.has_float8(x.get_device()):
        small = (_device.quantize(x), _device.quantize(weight))
        found = _device.matmul(*small, epilogue, out_dtype=x.dtype, transpose_b=True, **extra)
        if found is not None:
            return found
    return _device.matmul(x, weight, epilogue, out_dtype=x.dtype, transpose_b=True, **extra)


def _forward_linear(x: Tensor, weight: Tensor, bias: Tensor | None, float8: bool) -> Tensor:
    epilogue = Epilogue.PLAIN if bias is None else Epilogue.BIAS
    found = _product(x, weight, epilogue, float8, bias=None if bias is None else bias.contiguous())
    return F.linear(x, weight, bias) if found is None else found


def _forward_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, float8: bool) -> tuple[Tensor, Tensor]:
    """(gelu(pre), pre)"""
    if _takes(x, weight):
        pre = x.new_empty((x.shape[0], weight.shape[0]))
        epilogue = Epilogue.GELU_AUX if bias is None else Epilogue.GELU_AUX_BIAS
        found = _product(x, weight, epilogue, float8, bias=None if bias is None else bias.contiguous(), aux=pre)
        if found is not None:
            return found, pre
    pre = _forward_linear(x, weight, bias, float8)
    return _gelu(pre), pre


def _input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    return grad @ weight


def _weight_gradients(grad: Tensor, x: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """(of the weight [out, in], of the bias [out]); without a bias the second is empty."""
    if bias and _takes(x, grad):
        of_bias = grad.new_empty(grad.shape[1])
        grad, x = grad.contiguous(), x.contiguous()
        found = _device.matmul(grad, x, Epilogue.BGRAD, out_dtype=x.dtype, transpose_a=True, bias=of_bias)
        if found is not None:
            return found, of_bias
    return grad.t() @ x, grad.sum(0, dtype=grad.dtype) if bias else grad.new_empty(0)


def _hidden_gradients(grad: Tensor, weight: Tensor, pre: Tensor, bias: bool) -> tuple[Tensor, Tensor | None]:
    """(gradient of pre, of its bias [hidden] where the epilogue gave it)."""
    if _takes(grad, weight):
        of_bias = grad.new_empty(weight.shape[1]) if bias else None
        epilogue = Epilogue.DGELU_BGRAD if bias else Epilogue.DGELU
        of_pre = _device.matmul(
            grad.contiguous(), weight.contiguous(), epilogue, out_dtype=grad.dtype, bias=of_bias, aux=pre
        )
        if of_pre is not None:
            return of_pre, of_bias
    return _gelu_backward(_input_gradient(grad, weight), pre), None


def _without_autocast(x: Tensor) -> torch.autocast:
    """The modules have cast before; a sum inside must not come back in another dtype."""
    return torch.autocast(x.device.type, enabled=False)


# ---- linear ----------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("perfopt::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, float8: bool) -> Tensor:
    """x @ weight.T + bias."""
    with _without_autocast(x):
        return _forward_linear(x, weight, bias, float8)


@linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, float8: bool) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


@torch.library.custom_op("perfopt::linear_backward", mutates_args=())
def linear_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and, if there is one, bias (else an empty tensor)."""
    with _without_autocast(x):
        return _input_gradient(grad, weight), *_weight_gradients(grad, x, bias)


@linear_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), grad.new_empty(weight.shape[0] if bias else 0)


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward_linear(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight, bias = ctx.saved_tensors
    if torch.is_grad_enabled():
        of_x, of_weight = grad @ weight, grad.t() @ x
        of_bias = grad.sum(0) if bias is not None else None
    else:
        of_x, of_weight, of_bias = linear_backward(grad, x, weight, bias is not None)
    return of_x, of_weight, None if bias is None else of_bias, None


linear.register_autograd(_backward_linear, setup_context=_keep_linear)


# ---- linear with GELU --------------------------------------------------------------------------------------------------------


@torch.library.custom_op("perfopt::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, float8: bool) -> tuple[Tensor, Tensor]:
    """(gelu(pre), pre) of pre = x @ weight.T + bias; only the first has a gradient."""
    with _without_autocast(x):
        return _forward_gelu(x, weight, bias, float8)


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, float8: bool) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], weight.shape[0])
    return x.new_empty(shape), x.new_empty(shape)


def _keep_linear_gelu(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, output[1])


def _backward_linear_gelu(ctx: Any, grad: Tensor | None, _of_pre: None) -> tuple[Any, ...]:
    x, weight, bias, pre = ctx.saved_tensors
    if grad is None:
        return None, None, None, None
    if torch.is_grad_enabled():
        of_pre = _gelu_backward(grad, F.linear(x, weight, bias))
        of_x, of_weight = of_pre @ weight, of_pre.t() @ x
        of_bias = of_pre.sum(0) if bias is not None else None
    else:
        of_x, of_weight, of_bias = linear_backward(_gelu_backward(grad, pre), x, weight, bias is not None)
    return of_x, of_weight, None if bias is None else of_bias, None


linear_gelu.register_autograd(_backward_linear_gelu, setup_context=_keep_linear_gelu)


# ---- two layers with GELU between them ---------------------------------------------------------------------------------------


@torch.library.custom_op("perfopt::mlp", mutates_args=())
def mlp(
    x: Tensor, weight_1: Tensor, bias_1: Tensor | None, weight_2: Tensor, bias_2: Tensor | None, float8: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, h, pre) of pre = x @ weight_1.T + bias_1, h = gelu(pre), y = h @ weight_2.T + bias_2; only y has a gradient."""
    with _without_autocast(x):
        h, pre = _forward_gelu(x, weight_1, bias_1, float8)
        return _forward_linear(h, weight_2, bias_2, float8), h, pre


@mlp.register_fake
def _(
    x: Tensor, weight_1: Tensor, bias_1: Tensor | None, weight_2: Tensor, bias_2: Tensor | None, float8: bool
) -> tuple[Tensor, Tensor, Tensor]:
    hidden = (x.shape[0], weight_1.shape[0])
    return x.new_empty((x.shape[0], weight_2.shape[0])), x.new_empty(hidden), x.new_empty(hidden)


@torch.library.custom_op("perfopt::mlp_backward", mutates_args=())
def mlp_backward(
    grad: Tensor, x: Tensor, h: Tensor, pre: Tensor, weight_1: Tensor, weight_2: Tensor, bias_1: bool, bias_2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight_1, bias_1, weight_2 and bias_2; those of a bias that is not there are empty."""
    with _without_autocast(x):
        of_pre, of_bias_1 = _hidden_gradients(grad, weight_2, pre, bias_1)
        of_weight_2, of_bias_2 = _weight_gradients(grad, h, bias_2)
        if of_bias_1 is None:
            of_weight_1, of_bias_1 = _weight_gradients(of_pre, x, bias_1)
        else:
            of_weight_1 = of_pre.t() @ x
        return _input_gradient(of_pre, weight_1), of_weight_1, of_bias_1, of_weight_2, of_bias_2


@mlp_backward.register_fake
def _(
    grad: Tensor, x: Tensor, h: Tensor, pre: Tensor, weight_1: Tensor, weight_2: Tensor, bias_1: bool, bias_2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    of_bias_1 = grad.new_empty(weight_1.shape[0] if bias_1 else 0)
    of_bias_2 = grad.new_empty(weight_2.shape[0] if bias_2 else 0)
    return torch.empty_like(x), torch.empty_like(weight_1), of_bias_1, torch.empty_like(weight_2), of_bias_2


def _keep_mlp(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight_1, bias_1, weight_2, bias_2, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight_1, bias_1, weight_2, bias_2, output[1], output[2])


def _backward_mlp(ctx: Any, grad: Tensor | None, _of_h: None, _of_pre: None) -> tuple[Any, ...]:
    x, weight_1, bias_1, weight_2, bias_2, h, pre = ctx.saved_tensors
    if grad is None:
        return None, None, None, None, None, None
    if torch.is_grad_enabled():
        pre = F.linear(x, weight_1, bias_1)
        h = _gelu(pre)
        of_pre = _gelu_backward(grad @ weight_2, pre)
        of_x, of_weight_1, of_weight_2 = of_pre @ weight_1, of_pre.t() @ x, grad.t() @ h
        of_bias_1, of_bias_2 = of_pre.sum(0), grad.sum(0)
    else:
        biases = (bias_1 is not None, bias_2 is not None)
        of_x, of_weight_1, of_bias_1, of_weight_2, of_bias_2 = mlp_backward(
            grad, x, h, pre, weight_1, weight_2, *biases
        )
    of_biases = (None if bias_1 is None else of_bias_1, None if bias_2 is None else of_bias_2)
    return of_x, of_weight_1, of_biases[0], of_weight_2, of_biases[1], None


mlp.register_autograd(_backward_mlp, setup_context=_keep_mlp)
