"""Optimizer steps on lists of arrays: options are checked here, arrays in C, where the work is done.

The arithmetic and its order are those of ``torch.optim`` (``foreach=False, fused=False``), in float32 whatever the arrays
are stored as; every function is one call of the kernels, two passes over memory at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from perfopt import _train
from perfopt._arguments import check_betas, check_flag, check_number, check_whole
from perfopt._kernels_cast import empty_like_values, name_of_dtype

if TYPE_CHECKING:
    from typing_extensions import Unpack

# What float32 rounds neither to zero nor to inf: either would turn all gradients, and so the parameters, into nonsense.
LEAST_FLOAT32 = 2.0**-149
BEYOND_FLOAT32 = 2.0**128 - 2.0**103

Arrays = Sequence[Any]
"""Float32, float16 or bfloat16 arrays: ``numpy.ndarray``, or anything on the CPU with ``__dlpack__``."""


class GradientOptions(TypedDict, total=False):
    """What every step takes by keyword: what is done to the gradients before their use, and by how many threads."""

    max_grad_norm: float | None
    """Clip the norm of all arrays together to this, >= 0, as ``torch.nn.utils.clip_grad_norm_``. Default: None, do not clip."""
    inv_scale: float
    """The gradients are multiplied by it first: the reciprocal of a loss scale, finite, > 0. Default: 1."""
    found_inf: float
    """Anything but 0 (or ``False``): whoever unscaled saw inf or NaN, so nothing is changed. Default: 0."""
    skip_nonfinite: bool
    """When any gradient is inf or NaN, change nothing at all. This needs a pass over the gradients before the first
    change; with ``False`` and no clipping that pass is left out. Default: true."""
    threads: int | None
    """At most this many, >= 1; the result has the same bits on any number. Default: None, ``PERFOPT_NUM_THREADS`` or all."""


class StepResult(NamedTuple):
    """What one optimizer step did."""

    norm: float | None
    """Euclidean norm of all gradients, unscaled and before clipping; None when nothing asked for it."""
    skipped: bool
    """True when a gradient was inf or NaN and therefore nothing was changed."""
    clip_factor: float
    """What the unscaled gradients were multiplied by, at most 1."""


class _State(NamedTuple):
    """One list of an operation's state: the argument's name, the option that asks for it (None: always kept)."""

    name: str
    option: str | None = None


# In the order of csrc/kernels/operation.h.
_STATE = {
    "adamw": (_State("exp_avgs"), _State("exp_avg_sqs"), _State("max_exp_avg_sqs", "amsgrad")),
    "adam": (_State("exp_avgs"), _State("exp_avg_sqs"), _State("max_exp_avg_sqs", "amsgrad")),
    "sgd": (_State("momentum_buffers", "momentum"),),
    "lion": (_State("exp_avgs"),),
    "adagrad": (_State("sums"),),
    "rmsprop": (_State("square_avgs"), _State("momentum_buffers", "momentum"), _State("grad_avgs", "centered")),
}


def _run(
    operation: str, lists: tuple[Any, ...], options: dict[str, Any], given: Any, *, step: int = 1, first: bool = False
) -> StepResult:
    unknown = given.keys() - GradientOptions.__annotations__.keys()
    if unknown:
        accepted = ", ".join(GradientOptions.__annotations__)
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}; accepted besides the named: {accepted}")
    bound = given.get("max_grad_norm")
    looks = check_flag("skip_nonfinite", given.get("skip_nonfinite", True))
    threads = given.get("threads")
    found_inf = check_number("found_inf", given.get("found_inf", 0.0), least=None) != 0.0
    norm, skipped, clip_factor = _train.step_arrays(
        operation,
        lists,
        options,
        check_whole("step", step, 1, 2**53),
        check_flag("first", first),
        -1.0 if bound is None else check_number("max_grad_norm", bound),
        check_number("inv_scale", given.get("inv_scale", 1.0), least=LEAST_FLOAT32, below=BEYOND_FLOAT32),
        found_inf,
        looks,
        0 if threads is None else min(check_whole("threads", threads, 1), 2**31 - 1),
    )
    norm_was_taken = not found_inf and (looks or bound is not None)
    return StepResult(norm if norm_was_taken else None, skipped, clip_factor)


def _adam_options(
    lr: Any, betas: Any, eps: Any, weight_decay: Any, maximize: Any, max_exp_avg_sqs: Any
) -> dict[str, Any]:
    return {
        "lr": check_number("lr", lr),
        "betas": check_betas(betas),
        "eps": check_number("eps", eps),
        "weight_decay": check_number("weight_decay", weight_decay),
        "maximize": check_flag("maximize", maximize),
        "amsgrad": max_exp_avg_sqs is not None,
    }


def adamw_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    *,
    max_exp_avg_sqs: Arrays | None = None,
    maximize: bool = False,
    **options: Unpack[GradientOptions],
) -> StepResult:
    """One AdamW step, in place, over lists of arrays.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, in the order of ``torch.optim.AdamW``: decay
    before the update, ``eps`` outside the square root, bias corrections in double.

    Args:
        params: float32, float16 or bfloat16 arrays of any shape, or objects with ``__dlpack__`` on the CPU; updated in place.
        grads: one for each parameter, of its shape and memory order, of any of these dtypes; only read.
        exp_avgs: first moments, likewise, updated in place; zeros before the first step (:func:`new_state`).
        exp_avg_sqs: second moments, likewise.
        step: the number of this step, counted from 1. A skipped step did not happen: use its number again.
        lr: learning rate, >= 0.
        betas: decay rates of the moments, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: decoupled decay, >= 0; a step multiplies parameters by ``1 - lr * weight_decay``.
        max_exp_avg_sqs: the largest second moments so far, which the update then divides by (AMSGrad; Reddi et al., 2018).
        maximize: go up instead of down.
        options: those of every step, :class:`GradientOptions`.

    Raises:
        TypeError: an argument of the wrong type, or something that is no list of such arrays.
        ValueError: numbers out of range; lists or shapes that differ; memory that is strided, read-only, misaligned or
            shared. Nothing has changed then.
    """
    chosen = _adam_options(lr, betas, eps, weight_decay, maximize, max_exp_avg_sqs)
    return _run("adamw", (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs), chosen, options, step=step)


def adam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    max_exp_avg_sqs: Arrays | None = None,
    maximize: bool = False,
    **options: Unpack[GradientOptions],
) -> StepResult:
    """One Adam step, in place: :func:`adamw_step` with coupled weight decay, which is added to the gradient.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, in the order of ``torch.optim.Adam``. Arguments
    and errors are those of :func:`adamw_step`.
    """
    chosen = _adam_options(lr, betas, eps, weight_decay, maximize, max_exp_avg_sqs)
    return _run("adam", (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs), chosen, options, step=step)


def sgd_step(
    params: Arrays,
    grads: Arrays,
    momentum_buffers: Arrays | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
    **options: Unpack[GradientOptions],
) -> StepResult:
    """One step of stochastic gradient descent, in place, in the order of ``torch.optim.SGD``.

    Args:
        params: as in :func:`adamw_step`.
        grads: as in :func:`adamw_step`.
        momentum_buffers: updated in place; needed with ``momentum``, None without.
        lr: learning rate, >= 0.
        momentum: >= 0.
        dampening: of the gradient as it enters the buffer, any finite number.
        weight_decay: coupled: added to the gradient, >= 0.
        nesterov: Nesterov's momentum; needs momentum and no dampening (Sutskever et al., 2013).
        maximize: go up instead of down.
        first: at the first step: the buffers hold nothing yet and become the gradient, without dampening, as in torch.
        options: those of every step, :class:`GradientOptions`.

    Raises:
        TypeError, ValueError: as :func:`adamw_step`.
    """
    chosen = {
        "lr": check_number("lr", lr),
        "momentum": check_number("momentum", momentum),
        "dampening": check_number("dampening", dampening, least=None, finite=True),
        "weight_decay": check_number("weight_decay", weight_decay),
        "nesterov": check_flag("nesterov", nesterov),
        "maximize": check_flag("maximize", maximize),
    }
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(
            f"nesterov=True with momentum={momentum!r}, dampening={dampening!r}; accepted: momentum > 0, dampening 0"
        )
    return _run("sgd", (params, grads, momentum_buffers), chosen, options, first=first)


def lion_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
    **options: Unpack[GradientOptions],
) -> StepResult:
    """One Lion step, in place (Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, algorithm 2).

    Args:
        params: as in :func:`adamw_step`.
        grads: as in :func:`adamw_step`.
        exp_avgs: moments, updated in place; zeros before the first step.
        lr: learning rate, >= 0.
        betas: of the step's direction and of the moment that is kept, each in [0, 1).
        weight_decay: decoupled, >= 0.
        maximize: go up instead of down.
        options: those of every step, :class:`GradientOptions`.

    Raises:
        TypeError, ValueError: as :func:`adamw_step`.
    """
    chosen = {
        "lr": check_number("lr", lr),
        "betas": check_betas(betas),
        "weight_decay": check_number("weight_decay", weight_decay),
        "maximize": check_flag("maximize", maximize),
    }
    return _run("lion", (params, grads, exp_avgs), chosen, options)


def adagrad_step(
    params: Arrays,
    grads: Arrays,
    sums: Arrays,
    step: int,
    lr: float,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
    **options: Unpack[GradientOptions],
) -> StepResult:
    """One Adagrad step, in place (Duchi et al., 2011), in the order of ``torch.optim.Adagrad``.

    Args:
        params: as in :func:`adamw_step`.
        grads: as in :func:`adamw_step`.
        sums: of the gradients' squares, updated in place; what they begin with (zeros) is the initial accumulator value.
        step: the number of this step, counted from 1.
        lr: learning rate, >= 0.
        lr_decay: the learning rate of step t is ``lr / (1 + (t - 1) * lr_decay)``, >= 0.
        eps: added to the denominator, >= 0.
        weight_decay: coupled: added to the gradient, >= 0.
        maximize: go up instead of down.
        options: those of every step, :class:`GradientOptions`.

    Raises:
        TypeError, ValueError: as :func:`adamw_step`.
    """
    chosen = {
        "lr": check_number("lr", lr),
        "lr_decay": check_number("lr_decay", lr_decay),
        "eps": check_number("eps", eps),
        "weight_decay": check_number("weight_decay", weight_decay),
        "maximize": check_flag("maximize", maximize),
    }
    return _run("adagrad", (params, grads, sums), chosen, options, step=step)


def rmsprop_step(
    params: Arrays,
    grads: Arrays,
    square_avgs: Arrays,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    momentum: float = 0.0,
    momentum_buffers: Arrays | None = None,
    grad_avgs: Arrays | None = None,
    maximize: bool = False,
    **options: Unpack[GradientOptions],
) -> StepResult:
    """One RMSprop step, in place (Tieleman and Hinton, 2012), in the order of ``torch.optim.RMSprop``.

    Args:
        params: as in :func:`adamw_step`.
        grads: as in :func:`adamw_step`.
        square_avgs: averages of the gradients' squares, updated in place; zeros before the first step.
        lr: learning rate, >= 0.
        alpha: decay rate of the averages, in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: coupled: added to the gradient, >= 0.
        momentum: >= 0.
        momentum_buffers: updated in place; needed with ``momentum``, None without; zeros before the first step.
        grad_avgs: averages of the gradients, updated in place, zeros before the first step: divide by the estimated deviation
            (torch's ``centered``).
        maximize: go up instead of down.
        options: those of every step, :class:`GradientOptions`.

    Raises:
        TypeError, ValueError: as :func:`adamw_step`.
    """
    chosen = {
        "lr": check_number("lr", lr),
        "alpha": check_number("alpha", alpha, below=1.0),
        "eps": check_number("eps", eps),
        "weight_decay": check_number("weight_decay", weight_decay),
        "momentum": check_number("momentum", momentum),
        "centered": grad_avgs is not None,
        "maximize": check_flag("maximize", maximize),
    }
    return _run("rmsprop", (params, grads, square_avgs, momentum_buffers, grad_avgs), chosen, options)


def new_state(
    operation: str,
    params: Arrays,
    *,
    dtype: Any = None,
    amsgrad: bool = False,
    momentum: bool = False,
    centered: bool = False,
    initial_accumulator_value: float = 0.0,
) -> dict[str, list[NDArray[Any]]]:
    """The state of an operation before its first step, by the names its function takes.

    So that ``lion_step(params, grads, **new_state("lion", params), lr=1e-4)`` is the first step of Lion.

    Args:
        operation: ``"adamw"``, ``"adam"``, ``"sgd"``, ``"lion"``, ``"adagrad"`` or ``"rmsprop"``.
        params: as given to the step.
        dtype: float32, float16 or bfloat16, as a name or as a NumPy, ml_dtypes or torch dtype; None: that of each parameter,
            as torch keeps it.
        amsgrad: of Adam and AdamW: with the largest second moments.
        momentum: of SGD and RMSprop: with momentum buffers.
        centered: of RMSprop: with the gradients' averages.
        initial_accumulator_value: of Adagrad: what the sums begin with, finite, >= 0.

    Returns:
        NumPy arrays of the parameters' shapes and memory order, filled with zeros.

    Raises:
        TypeError: ``params`` is no list of arrays.
        ValueError: a name that is not known; an option that the operation does not have.
        ImportError: bfloat16 is asked for and ml_dtypes is not installed.
    """
    if not isinstance(operation, str) or operation not in _STATE:
        raise ValueError(f"operation={operation!r}; accepted: {', '.join(_STATE)}")
    asked = {
        "amsgrad": check_flag("amsgrad", amsgrad),
        "momentum": check_flag("momentum", momentum),
        "centered": check_flag("centered", centered),
    }
    start = check_number("initial_accumulator_value", initial_accumulator_value, finite=True)
    known = {state.option for state in _STATE[operation]}
    for option, wanted in {**asked, "initial_accumulator_value": start != 0.0}.items():
        if wanted and option not in known and not (option == "initial_accumulator_value" and operation == "adagrad"):
            raise ValueError(f"{option} is given with operation={operation!r}, which has none")
    name = None if dtype is None else name_of_dtype(dtype, "dtype", ("float32", "bfloat16", "float16"))
    if isinstance(params, (np.ndarray, str)) or hasattr(type(params), "__dlpack__"):
        raise TypeError(f"params is a {type(params).__name__}; accepted: a list of arrays")
    kept = [state.name for state in _STATE[operation] if state.option is None or asked[state.option]]
    arrays: dict[str, list[NDArray[Any]]] = {key: [] for key in kept}
    for index, param in enumerate(params):
        for values in arrays.values():
            values.append(empty_like_values(param, f"params[{index}]", name))
            values[-1][...] = start
    return arrays
