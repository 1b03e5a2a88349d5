"""perfopt.kernels on torch tensors, which come by DLPack: the bits of perfopt.optim's steps, and torch's own values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_cases import CASES, IDS, Case, LionReference, give_grads, make_params

from perfopt import kernels

STEPS = {
    "AdamW": kernels.adamw_step,
    "Adam": kernels.adam_step,
    "SGD": kernels.sgd_step,
    "Lion": kernels.lion_step,
    "Adagrad": kernels.adagrad_step,
    "RMSprop": kernels.rmsprop_step,
}


class Stepper:
    """One case stepped by perfopt.kernels on the memory of tensors."""

    def __init__(self, case: Case, params: list[Any]) -> None:
        self.params = [param.detach() for param in params]
        name = case.name.split("-")[0]
        options = dict(case.options)
        coupled = not options.pop("decoupled_weight_decay", False)
        self.name = "AdamW" if name == "Adam" and not coupled else name
        asked = {flag: True for flag in ("amsgrad", "momentum", "centered") if options.get(flag)}
        if "initial_accumulator_value" in options:
            asked["initial_accumulator_value"] = options.pop("initial_accumulator_value")
        options.pop("amsgrad", None)
        options.pop("centered", None)
        self.state = kernels.new_state(self.name.lower(), self.params, **asked)
        self.options = options

    def step(self, params: list[Any], number: int, **others: Any) -> kernels.StepResult:
        if self.name in ("AdamW", "Adam", "Adagrad"):
            others["step"] = number
        if self.name == "SGD" and self.state:
            others["first"] = number == 1
        grads = [param.grad for param in params]
        return STEPS[self.name](self.params, grads, **self.state, **self.options, **others)


def bits_of(tensor: Any) -> Any:
    return tensor.detach().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def require_dtype(dtype: Any) -> None:
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes", reason="new_state makes bfloat16 arrays by ml_dtypes")


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_bits_are_those_of_perfopt_optim(case: Case, dtype: Any) -> None:
    require_dtype(dtype)
    params, others = make_params(dtype), make_params(dtype)
    optimizer = case.ours(others, **case.options, max_grad_norm=1.0)
    stepper = Stepper(case, params)
    for number in (1, 2, 3):
        give_grads(params, others, seed=number)
        result = stepper.step(params, number, max_grad_norm=1.0)
        optimizer.step()
        assert result.norm == optimizer.last_grad_norm
    for param, other in zip(params, others, strict=True):
        assert torch.equal(bits_of(param), bits_of(other))  # some are NaN in float16
    key_of = {name: name.removesuffix("s") for name in stepper.state}
    for name, values in stepper.state.items():
        for values_of_one, other in zip(values, others, strict=True):
            kept = optimizer.state[other][key_of[name]]
            assert kernels.cast(kept, "float32").tobytes() == kernels.cast(values_of_one, "float32").tobytes(), name


@pytest.mark.parametrize("case", [case for case in CASES if case.twin is not LionReference], ids=lambda case: case.name)
def test_values_are_those_of_torch(case: Case) -> None:
    params, others = make_params(), make_params()
    twin = case.reference(others)
    stepper = Stepper(case, params)
    for number in range(1, 6):
        give_grads(params, others, seed=number)
        stepper.step(params, number)
        twin.step()
    for param, other in zip(params, others, strict=True):
        torch.testing.assert_close(param, other, rtol=2e-6, atol=2e-6)


def test_tensors_that_cannot_be_borrowed_are_named() -> None:
    param = torch.ones(4)
    state = kernels.new_state("lion", [param])
    for bad, exception, text in [
        (torch.ones(4, requires_grad=True), ValueError, r"grads\[0\]: its __dlpack__\(\) refuses: .*require gradient"),
        (torch.ones(4, dtype=torch.float64), ValueError, r"grads\[0\] \(DLPack type 2 of 64 bits"),
        (torch.ones(4, dtype=torch.float8_e5m2), TypeError, r"grads\[0\].*accepted: float32, bfloat16 or float16"),
        (torch.ones(4, 2)[:, 0], ValueError, r"grads\[0\].*densely"),
        (torch.ones(4, dtype=torch.complex64).conj().imag, ValueError, r"grads\[0\] is a negated view"),
    ]:
        with pytest.raises(exception, match=text):
            kernels.lion_step([param], [bad], **state, lr=0.1)
    assert torch.equal(param, torch.ones(4))
