"""The steps of perfopt.kernels against each method's paper in float64; dtypes; DLPack; refusals that change nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

from perfopt import kernels

SIZES = [0, 1, 7, 33, 1000, 65537]


def random_lists(count: int, sizes: list[int] = SIZES) -> list[list[Any]]:
    rng = np.random.default_rng(count)
    return [[rng.standard_normal(size).astype(np.float32) for size in sizes] for _ in range(count)]


# ---- References: one array and step in float64, as printed; `s` is the state by the names of the step's arguments ----------


def adam_reference(p: Any, g: Any, s: dict[str, Any], step: int, o: dict[str, Any], decoupled: bool) -> None:
    beta1, beta2 = o.get("betas", (0.9, 0.999))
    decay = o.get("weight_decay", 0.01 if decoupled else 0.0)
    if decoupled:
        p *= 1 - o["lr"] * decay
    else:
        g = g + decay * p
    m, v = s["exp_avgs"], s["exp_avg_sqs"]
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    if "max_exp_avg_sqs" in s:
        v = s["max_exp_avg_sqs"]
        v[...] = np.maximum(v, s["exp_avg_sqs"])
    p -= o["lr"] * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + o.get("eps", 1e-8))


def adamw(p: Any, g: Any, s: dict[str, Any], step: int, o: dict[str, Any]) -> None:
    adam_reference(p, g, s, step, o, decoupled=True)


def adam(p: Any, g: Any, s: dict[str, Any], step: int, o: dict[str, Any]) -> None:
    adam_reference(p, g, s, step, o, decoupled=False)


def sgd(p: Any, g: Any, s: dict[str, Any], step: int, o: dict[str, Any]) -> None:
    g = g + o.get("weight_decay", 0.0) * p
    if "momentum_buffers" in s:
        b = s["momentum_buffers"]
        b[...] = g if step == 1 else o["momentum"] * b + (1 - o.get("dampening", 0.0)) * g
        g = g + o["momentum"] * b if o.get("nesterov") else b
    p -= o["lr"] * g


def lion(p: Any, g: Any, s: dict[str, Any], step: int, o: dict[str, Any]) -> None:
    beta1, beta2 = o.get("betas", (0.9, 0.99))
    m = s["exp_avgs"]
    p -= o["lr"] * (np.sign(beta1 * m + (1 - beta1) * g) + o.get("weight_decay", 0.0) * p)
    m[...] = beta2 * m + (1 - beta2) * g


def adagrad(p: Any, g: Any, s: dict[str, Any], step: int, o: dict[str, Any]) -> None:
    g = g + o.get("weight_decay", 0.0) * p
    s["sums"] += g * g
    rate = o["lr"] / (1 + (step - 1) * o.get("lr_decay", 0.0))
    p -= rate * g / (np.sqrt(s["sums"]) + o.get("eps", 1e-10))


def rmsprop(p: Any, g: Any, s: dict[str, Any], step: int, o: dict[str, Any]) -> None:
    alpha = o.get("alpha", 0.99)
    g = g + o.get("weight_decay", 0.0) * p
    square = s["square_avgs"]
    square[...] = alpha * square + (1 - alpha) * g * g
    variance = square
    if "grad_avgs" in s:
        s["grad_avgs"][...] = alpha * s["grad_avgs"] + (1 - alpha) * g
        variance = square - s["grad_avgs"] ** 2
    update = g / (np.sqrt(variance) + o.get("eps", 1e-8))
    if "momentum_buffers" in s:
        b = s["momentum_buffers"]
        b[...] = update = o["momentum"] * b + update
    p -= o["lr"] * update


class Case(NamedTuple):
    operation: str
    step: Callable[..., kernels.StepResult]
    reference: Callable[..., None]
    state: Mapping[str, Any] = MappingProxyType({})
    """Options of new_state()."""
    options: Mapping[str, Any] = MappingProxyType({})

    def run(
        self, params: list[Any], grads: list[Any], state: dict[str, Any], step: int, **others: Any
    ) -> kernels.StepResult:
        """One step by the function under test, which counts steps, asks for the first one or does neither."""
        if self.operation in ("adamw", "adam", "adagrad"):
            others["step"] = step
        if self.operation == "sgd" and state:
            others["first"] = step == 1
        return self.step(params, grads, **state, **{"lr": 1e-2, **self.options, **others})


CASES = [
    Case("adamw", kernels.adamw_step, adamw, {}, {"weight_decay": 0.3}),
    Case("adamw", kernels.adamw_step, adamw, {"amsgrad": True}, {"betas": (0.5, 0.6), "eps": 1e-3}),
    Case("adam", kernels.adam_step, adam),
    Case("adam", kernels.adam_step, adam, {"amsgrad": True}, {"weight_decay": 0.2, "betas": (0.3, 0.9), "eps": 1e-3}),
    Case("sgd", kernels.sgd_step, sgd, {}, {"weight_decay": 0.1, "lr": 0.1}),
    Case("sgd", kernels.sgd_step, sgd, {"momentum": True}, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    Case("sgd", kernels.sgd_step, sgd, {"momentum": True}, {"momentum": 0.9, "nesterov": True}),
    Case("lion", kernels.lion_step, lion),
    Case("lion", kernels.lion_step, lion, {}, {"betas": (0.6, 0.8), "weight_decay": 0.4}),
    Case("adagrad", kernels.adagrad_step, adagrad),
    Case(
        "adagrad",
        kernels.adagrad_step,
        adagrad,
        {"initial_accumulator_value": 0.5},
        {"lr_decay": 0.3, "eps": 1e-2, "weight_decay": 0.2},
    ),
    Case("rmsprop", kernels.rmsprop_step, rmsprop, {}, {"alpha": 0.8, "eps": 1e-3}),
    Case("rmsprop", kernels.rmsprop_step, rmsprop, {"momentum": True}, {"momentum": 0.7, "weight_decay": 0.2}),
    Case("rmsprop", kernels.rmsprop_step, rmsprop, {"centered": True}, {"alpha": 0.9, "eps": 0.1}),
    Case("rmsprop", kernels.rmsprop_step, rmsprop, {"momentum": True, "centered": True}, {"momentum": 0.7, "eps": 0.1}),
]
ALL_CASES = pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case.operation}" for i, case in enumerate(CASES)])


def follow(
    case: Case, params: list[Any], state: dict[str, list[Any]], grads: list[Any], step: int, factor: float
) -> None:
    """The reference over lists of float64 arrays."""
    for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
        entry = {name: values[index] for name, values in state.items()}
        case.reference(param, grad.astype(np.float64) * factor, entry, step, {"lr": 1e-2, **case.options})


def as_double(arrays: list[Any]) -> list[Any]:
    return [array.astype(np.float64) for array in arrays]


@ALL_CASES
@pytest.mark.parametrize(
    ("others", "factor"),
    [
        ({}, 1.0),
        ({"maximize": True, "skip_nonfinite": False}, -1.0),
        ({"inv_scale": 0.25, "threads": 1}, 0.25),
        ({"inv_scale": 0.5, "max_grad_norm": 1.0, "threads": 3}, None),
    ],
)
def test_steps_follow_the_float64_reference(case: Case, others: dict[str, Any], factor: float | None) -> None:
    params, grads = random_lists(2)
    state = kernels.new_state(case.operation, params, **case.state)
    wanted, wanted_state = as_double(params), {name: as_double(values) for name, values in state.items()}
    kept = [grad.copy() for grad in grads]
    norm = float(np.sqrt(sum(np.sum(grad.astype(np.float64) ** 2) for grad in grads))) * others.get("inv_scale", 1.0)
    for step in (1, 2, 3):
        result = case.run(params, grads, state, step, **others)
        multiplier = others["inv_scale"] * (1.0 / (norm + 1e-6)) if factor is None else factor
        follow(case, wanted, wanted_state, grads, step, multiplier)
        assert not result.skipped
        assert (result.norm is None) == (others.get("skip_nonfinite") is False)
        assert result.norm is None or result.norm == pytest.approx(norm, rel=1e-6)
        assert result.clip_factor == pytest.approx(1.0 if factor is not None else 1.0 / (norm + 1e-6))
    for got, want in zip(params, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=3e-6, atol=5e-6)
    for name, values in state.items():
        for got, want in zip(values, wanted_state[name], strict=True):
            largest = max(1.0, float(np.abs(want).max(initial=0.0)))  # buffers lose by cancellation
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6 * largest, err_msg=name)
    assert all(np.array_equal(grad, before) for grad, before in zip(grads, kept, strict=True))


@ALL_CASES
def test_a_skipped_step_changes_nothing(case: Case) -> None:
    params, grads = random_lists(2)
    state = kernels.new_state(case.operation, params, **case.state)
    case.run(params, grads, state, 1)
    before = [array.copy() for arrays in (params, *state.values()) for array in arrays]
    result = case.run(params, grads, state, 2, found_inf=np.float32(2.0))
    assert result == kernels.StepResult(None, True, 1.0)
    grads[-1][-1] = np.nan
    assert case.run(params, grads, state, 2).skipped
    after = [array for arrays in (params, *state.values()) for array in arrays]
    assert all(x.tobytes() == y.tobytes() for x, y in zip(before, after, strict=True))
    assert not case.run(params, grads, state, 2, skip_nonfinite=False).skipped
    assert any(np.isnan(arrays[-1][-1]) for arrays in (params, *state.values()))  # of Lion the moment


@ALL_CASES
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_sixteen_bits_are_the_float32_step_rounded_once(case: Case, name: str) -> None:
    dtype = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    params, grads = ([array.astype(dtype) for array in arrays] for arrays in random_lists(2))
    state = kernels.new_state(case.operation, params, **case.state)
    assert all(array.dtype == dtype for values in state.values() for array in values)
    for step in (1, 2):
        wide, wide_grads = ([array.astype(np.float32) for array in arrays] for arrays in (params, grads))
        wide_state = {key: [array.astype(np.float32) for array in values] for key, values in state.items()}
        case.run(params, grads, state, step)
        case.run(wide, wide_grads, wide_state, step)
        for got, want in zip(params, wide, strict=True):
            np.testing.assert_array_equal(got, kernels.cast(want, dtype))
        for key, values in state.items():
            for got, want in zip(values, wide_state[key], strict=True):
                np.testing.assert_array_equal(got, kernels.cast(want, dtype), err_msg=key)


@ALL_CASES
def test_dtypes_may_differ_and_threads_do_not_matter(case: Case) -> None:
    results = []
    for threads in (1, 2, 5):
        params, grads = random_lists(2, [3, 200_001])
        grads = [grad.astype(np.float16) for grad in grads]
        state = kernels.new_state(case.operation, params, dtype="float32" if threads else None, **case.state)
        for step in (1, 2):
            case.run(params, grads, state, step, max_grad_norm=1.0, threads=threads)
        results.append(b"".join(array.tobytes() for arrays in (params, *state.values()) for array in arrays))
    assert results[0] == results[1] == results[2]


class OnlyDLPack:
    """What another library's array is to perfopt: memory by DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@ALL_CASES
def test_dlpack_arrays_are_stepped_where_they_lie(case: Case) -> None:
    params, grads = random_lists(2)
    state = kernels.new_state(case.operation, params, **case.state)
    others = [[array.copy() for array in arrays] for arrays in (params, grads)]
    other_state = kernels.new_state(case.operation, [OnlyDLPack(param) for param in others[0]], **case.state)
    borrowed = {name: [OnlyDLPack(array) for array in values] for name, values in other_state.items()}
    for step in (1, 2):
        case.run(params, grads, state, step)
        case.run(*([OnlyDLPack(array) for array in arrays] for arrays in others), borrowed, step)
    for got, want in zip(others[0], params, strict=True):
        np.testing.assert_array_equal(got, want)
    for name, values in other_state.items():
        for got, want in zip(values, state[name], strict=True):
            np.testing.assert_array_equal(got, want)
    assert kernels.grad_norm([OnlyDLPack(grad) for grad in grads]) == kernels.grad_norm(grads)


def test_memory_that_its_exporter_calls_read_only_is_read_and_not_written() -> None:
    case = next(case for case in CASES if case.operation == "rmsprop" and len(case.state) == 2)
    for name in arguments_of(case):
        arguments = arguments_of(case)
        if not isinstance(arguments[name], list):
            continue
        array = arguments[name][1].copy()
        array.flags.writeable = False
        arguments[name][1] = OnlyDLPack(array)
        if name == "grads":
            assert not case.step(**arguments).skipped
            assert kernels.grad_norm(arguments["grads"])[0] > 0
        else:
            refuse(case, arguments, ValueError, rf"{name}\[1\] .*: it is read-only and a step writes it")


def test_exporters_from_before_version_1_are_taken_and_those_of_later_ones_named() -> None:
    class Old(OnlyDLPack):
        def __dlpack__(self, stream: Any = None) -> Any:  # type: ignore[override]
            return self.array.__dlpack__()

    params, grads = [np.ones(3, np.float32)], [np.ones(3, np.float32)]
    kernels.sgd_step([Old(params[0])], [Old(grads[0])], lr=0.5)
    np.testing.assert_array_equal(params[0], np.float32(0.5))

    class Wrong(OnlyDLPack):
        def __dlpack__(self, **options: Any) -> Any:
            raise TypeError("of its own")

    with pytest.raises(TypeError, match="of its own"):
        kernels.sgd_step([Wrong(params[0])], grads, lr=0.5)


def test_what_a_list_raises_while_it_is_read_is_not_swallowed() -> None:
    def fail() -> Any:
        yield np.ones(3, np.float32)
        raise TypeError("of the generator")

    with pytest.raises(TypeError, match=r"^of the generator$"):
        kernels.grad_norm(fail())


# ---- new_state -----------------------------------------------------------------------------------


def test_new_state_is_of_the_parameters_shape_order_and_dtype() -> None:
    params = [np.ones((5, 7), np.float32).T, np.ones(3, np.float16), np.ones((), np.float32)]
    state = kernels.new_state("adamw", params, amsgrad=True)
    assert list(state) == ["exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"]
    for values in state.values():
        assert [array.shape for array in values] == [(7, 5), (3,), ()]
        assert values[0].strides == params[0].strides
        assert [array.dtype for array in values] == [np.float32, np.float16, np.float32]
        assert all(array.flags.owndata and not array.any() for array in values)
    wide = kernels.new_state("adagrad", params, dtype=np.float32, initial_accumulator_value=0.25)
    assert [float(array.flat[0]) for array in wide["sums"]] == [0.25] * 3
    assert {array.dtype for array in wide["sums"]} == {np.dtype(np.float32)}
    assert kernels.new_state("sgd", params) == {}


@pytest.mark.parametrize(
    ("arguments", "exception", "text"),
    [
        (("adamx", []), ValueError, "operation='adamx'; accepted: adamw, adam, sgd, lion, adagrad, rmsprop"),
        (([], []), ValueError, "operation=\\[\\]"),
        (("lion", np.zeros(3, np.float32)), TypeError, "params is a ndarray; accepted: a list of arrays"),
        (("lion", [3.0]), TypeError, r"params\[0\] is a float; accepted: numpy.ndarray"),
        (("lion", [np.zeros(3)]), TypeError, r"params\[0\] has dtype float64; accepted"),
        (("lion", [], {"dtype": "float64"}), ValueError, "dtype='float64'; accepted: float32, bfloat16, float16"),
        (("lion", [], {"dtype": "float8_e5m2"}), ValueError, "dtype='float8_e5m2'; accepted: float32"),
        (("lion", [], {"amsgrad": True}), ValueError, "amsgrad is given with operation='lion', which has none"),
        (("lion", [], {"momentum": True}), ValueError, "momentum is given with operation='lion'"),
        (("sgd", [], {"centered": True}), ValueError, "centered is given with operation='sgd'"),
        (("sgd", [], {"initial_accumulator_value": 1.0}), ValueError, "initial_accumulator_value is given"),
        (("sgd", [], {"momentum": 0.9}), TypeError, "momentum=0.9; accepted: True or False"),
        (("adagrad", [], {"initial_accumulator_value": -1.0}), ValueError, "-1.0; accepted: a finite number >= 0"),
    ],
)
def test_new_state_refuses_by_name(arguments: tuple[Any, ...], exception: type[Exception], text: str) -> None:
    *given, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(exception, match=text):
        kernels.new_state(*given, **options)


# ---- Refusals ------------------------------------------------------------------------------------


def read_only(array: Any) -> Any:
    array = array.copy()
    array.setflags(write=False)
    return array


def misaligned(array: Any) -> Any:
    return np.zeros(array.nbytes + 1, np.uint8)[1:].view(np.float32)


# What may stand in a list's place, and what is said; {} is the list's name.
BAD_LISTS = [
    (lambda _: 3, TypeError, "{} is a int; accepted: a list of numpy.ndarray or objects with __dlpack__"),
    (lambda _: None, TypeError, "{} is a NoneType; accepted: a list"),
    (lambda _: "ab", TypeError, "{} is a str; accepted: a list"),
    (lambda arrays: arrays[0], TypeError, "{} is a numpy.ndarray; accepted: a list"),
    (lambda arrays: OnlyDLPack(arrays[0]), TypeError, "{} is a OnlyDLPack; accepted: a list"),
]
# What may stand in the place of one array.
BAD_ARRAYS = [
    (lambda _: [1.0], TypeError, r"{}\[1\] is a list; accepted: numpy.ndarray of float32, bfloat16 or float16"),
    (lambda _: None, TypeError, r"{}\[1\] is a NoneType"),
    (
        lambda a: a.astype(np.float64),
        TypeError,
        r"{}\[1\] \(shape \(8,\), dtype float64\): accepted: float32, bfloat16",
    ),
    (lambda a: a.astype(">f4"), TypeError, r"{}\[1\] .*native byte order"),
    (lambda a: a.astype(np.uint16), TypeError, r"{}\[1\] .*dtype uint16\): accepted: float32"),
    (lambda a: np.repeat(a, 2)[::2], ValueError, r"{}\[1\].*do not lie densely"),
    (lambda a: a[::-1], ValueError, r"{}\[1\].*do not lie densely"),
    (lambda a: np.broadcast_to(a[:1], (8,)).copy()[:0], ValueError, "those of params"),
    (lambda a: OnlyDLPack(a.astype(np.int32)), ValueError, r"{}\[1\] \(DLPack type 0 of 32 bits.*accepted: float32"),
    (lambda a: OnlyDLPack(np.repeat(a, 2)[::2]), ValueError, r"{}\[1\].*do not lie densely"),
    (misaligned, ValueError, r"{}\[1\].*aligned"),
]


def arguments_of(case: Case) -> dict[str, Any]:
    params, grads = random_lists(2, [6, 8])
    state = kernels.new_state(case.operation, params, **case.state)
    arguments = {"params": params, "grads": grads, **state, "lr": 0.1, **case.options}
    if case.operation in ("adamw", "adam", "adagrad"):
        arguments["step"] = 1
    return arguments


def lists_of(arguments: dict[str, Any]) -> list[str]:
    return [name for name, value in arguments.items() if isinstance(value, list)]


def refuse(case: Case, arguments: dict[str, Any], exception: type[Exception], text: str) -> None:
    """The step raises that, and nothing it was given has changed."""
    arrays = [
        array
        for value in arguments.values()
        if isinstance(value, list)
        for array in value
        if isinstance(array, np.ndarray)
    ]
    before = [array.copy() for array in arrays]
    with pytest.raises(exception, match=text):
        case.step(**arguments)
    assert all(x.tobytes() == y.tobytes() for x, y in zip(before, arrays, strict=True))


@ALL_CASES
def test_bad_lists_are_named(case: Case) -> None:
    names = lists_of(arguments_of(case))
    assert names[:2] == ["params", "grads"]
    for name in names:
        for make, exception, text in BAD_LISTS:
            arguments = arguments_of(case)
            arguments[name] = make(arguments[name])
            if arguments[name] is None and name in ("max_exp_avg_sqs", "grad_avgs"):
                continue  # without the list the option is off
            refuse(case, arguments, exception, text.format(name))
        if name != "params":
            refuse(
                case,
                {**arguments_of(case), name: []},
                ValueError,
                f"{name} has 0 arrays and params has 2; accepted: one for each parameter",
            )


@ALL_CASES
def test_bad_arrays_are_named(case: Case) -> None:
    for name in lists_of(arguments_of(case)):
        for make, exception, text in BAD_ARRAYS:
            arguments = arguments_of(case)
            arguments[name][1] = make(arguments[name][1])
            refuse(case, arguments, exception, text.format(name))
        if name != "grads":
            arguments = arguments_of(case)
            arguments[name][1] = read_only(arguments[name][1])
            refuse(case, arguments, ValueError, rf"{name}\[1\].*read-only and a step writes it")
        if name != "params":
            arguments = arguments_of(case)
            arguments[name][1] = arguments[name][1].reshape(2, 4)
            refuse(case, arguments, ValueError, rf"{name}\[1\] \(shape \(2, 4\).*those of params")
            arguments = arguments_of(case)
            arguments[name][1] = arguments["params"][1]
            refuse(case, arguments, ValueError, "share memory")
    arguments = arguments_of(case)
    arguments["grads"][0] = read_only(arguments["grads"][0])
    case.step(**arguments)  # gradients are only read


NOT_NUMBERS = ["fast", None, [0.1], 1j, np.zeros(2)]
AT_LEAST_0 = (-1.0, float("nan"))
# By argument: values out of range, and what is accepted.
NUMBERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "lr": (AT_LEAST_0, "a number >= 0"),
    "eps": (AT_LEAST_0, "a number >= 0"),
    "weight_decay": (AT_LEAST_0, "a number >= 0"),
    "momentum": (AT_LEAST_0, "a number >= 0"),
    "lr_decay": (AT_LEAST_0, "a number >= 0"),
    "alpha": ((-0.1, 1.0, float("nan")), "a number >= 0 and < 1"),
    "dampening": ((float("inf"), float("nan")), "a finite number"),
    "max_grad_norm": (AT_LEAST_0, "a number >= 0"),
    "inv_scale": ((0.0, -1.0, 1e-46, 1e39, float("inf"), float("nan")), "a number >= 1.4013e-45 and < 3.40282e+38"),
    "found_inf": ((), "a number"),
}
WHOLE = {"step": ((0, -1, 2**53 + 1), "a whole number from 1 to"), "threads": ((0, -3), "a whole number >= 1")}
FLAGS = ("maximize", "nesterov", "first", "skip_nonfinite")
OF_EVERY_STEP = list(kernels.GradientOptions.__annotations__)


@ALL_CASES
def test_bad_numbers_and_flags_are_named(case: Case) -> None:
    seen = set()
    parameters = [name for name in inspect.signature(case.step).parameters if name != "options"]
    for name in [*parameters, *OF_EVERY_STEP]:
        bad: list[tuple[Any, type[Exception], str]] = []
        if name in NUMBERS:
            values, accepted = NUMBERS[name]
            is_optional = name == "max_grad_norm"
            bad = [(value, TypeError, accepted) for value in NOT_NUMBERS if not (is_optional and value is None)]
            bad += [(value, ValueError, accepted) for value in values]
        elif name in WHOLE:
            values, accepted = WHOLE[name]
            bad = [(value, TypeError, accepted) for value in (1.5, "1", [2])]
            bad += [(value, ValueError, accepted) for value in values]
        elif name in FLAGS:
            bad = [(value, TypeError, "True or False") for value in ("yes", None, 2)]
        elif name == "betas":
            bad = [(value, TypeError, "two numbers >= 0 and < 1") for value in (0.9, (0.9,), None)]
            for place in (0, 1):
                for value in (-0.1, 1.0, float("nan"), "x"):
                    betas: list[Any] = [0.5, 0.5]
                    betas[place] = value
                    exception = TypeError if value == "x" else ValueError
                    text = rf"^betas\[{place}\]={value!r}; accepted: a number >= 0 and < 1$"
                    refuse(case, {**arguments_of(case), name: tuple(betas)}, exception, text)
        else:
            assert name in {"params", "grads", *kernels.new_state(case.operation, [], **ALL_STATE[case.operation])}
        for value, exception, accepted in bad:
            with pytest.raises(exception) as caught:
                case.step(**{**arguments_of(case), name: value})
            assert str(caught.value).startswith(f"{name}={value!r}; accepted: {accepted}")
            seen.add(name)
    assert {"lr", "max_grad_norm", "inv_scale", "found_inf", "skip_nonfinite", "threads", "maximize"} <= seen


ALL_STATE: dict[str, dict[str, Any]] = {
    "adamw": {"amsgrad": True},
    "adam": {"amsgrad": True},
    "sgd": {"momentum": True},
    "lion": {},
    "adagrad": {},
    "rmsprop": {"momentum": True, "centered": True},
}


def test_options_that_do_not_fit_each_other_are_refused() -> None:
    plain = next(case for case in CASES if case.operation == "sgd" and not case.state)
    buffers = {"momentum_buffers": [np.zeros(6, np.float32), np.zeros(8, np.float32)]}
    text = "momentum_buffers is a list; accepted with these options: None"
    refuse(plain, {**arguments_of(plain), **buffers}, ValueError, text)
    refuse(
        plain, {**arguments_of(plain), "momentum": 0.9}, TypeError, "momentum_buffers is a NoneType; accepted: a list"
    )
    for options in ({"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}):
        refuse(
            plain,
            {**arguments_of(plain), **buffers, **options, "nesterov": True},
            ValueError,
            "nesterov=True with momentum=.*; accepted: momentum > 0, dampening 0",
        )
    with pytest.raises(TypeError, match="unexpected keyword argument 'amsgrad'; accepted besides the named: max_grad"):
        kernels.lion_step([], [], [], 0.1, amsgrad=True)  # type: ignore[call-arg]


def test_shared_memory_is_refused_through_dlpack_too() -> None:
    arguments = arguments_of(CASES[0])
    arguments["exp_avgs"][1] = OnlyDLPack(arguments["params"][1])
    refuse(CASES[0], arguments, ValueError, r"params\[1\] and exp_avgs\[1\] share memory|exp_avgs\[1\] and params\[1\]")


def test_no_arrays_are_a_step_of_nothing() -> None:
    assert kernels.lion_step([], [], [], 0.1) == kernels.StepResult(0.0, False, 1.0)


def test_the_example_of_the_documentation_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
    section = page.split("\n## Arrays without torch\n", 1)[1].split("\n## ", 1)[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["loss"] < names["first_loss"] / 100
    for name in kernels.__all__:
        assert f"`{name}`" in section or name in example or name == "GradientOptions", name
