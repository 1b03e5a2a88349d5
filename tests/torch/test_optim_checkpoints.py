"""State dictionaries of perfopt.optim: into and from torch's twins in the middle of a run, 8-bit forms, bitwise resumption."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optim_cases import CASES, IDS, Case, LionReference, bits_of, give_grads, make_params  # noqa: E402

from perfopt import amp, optim  # noqa: E402
from perfopt.optim import _eight_bit  # noqa: E402

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
SIZES = [7, 300, 1025]
every_case = pytest.mark.parametrize("case", CASES, ids=IDS)
with_twin = pytest.mark.parametrize(
    "case", [c for c in CASES if c.twin is not LionReference], ids=[i for i in IDS if "Lion" not in i]
)


def through_a_file(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def step_all(optimizers: list[Any], models: list[list[Any]], steps: range) -> None:
    for step in steps:
        give_grads(*models, seed=step)
        for optimizer in optimizers:
            optimizer.step()


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@with_twin
def test_checkpoints_pass_to_the_twin_and_back_in_the_middle_of_a_run(case: Case) -> None:
    ours, theirs, straight = (make_params(sizes=SIZES) for _ in range(3))
    mine, reference, uninterrupted = case.ours(ours, **case.options), case.reference(theirs), case.reference(straight)
    step_all([mine, uninterrupted], [ours, straight], range(3))
    assert mine.state_dict().keys() == reference.state_dict().keys()
    assert mine.state_dict()["param_groups"][0].keys() == reference.state_dict()["param_groups"][0].keys()
    for target, source in zip(theirs, ours, strict=True):
        target.data.copy_(source.data)
    reference.load_state_dict(through_a_file(mine.state_dict()))
    step_all([reference, uninterrupted], [theirs, straight], range(3, 6))
    assert_close(theirs, straight)
    for target, source in zip(ours, theirs, strict=True):
        target.data.copy_(source.data)
    mine.load_state_dict(through_a_file(reference.state_dict()))
    step_all([mine, uninterrupted], [ours, straight], range(6, 9))
    assert_close(ours, straight)


@every_case
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"state_bits": 8}),
        (torch.bfloat16, {"stochastic_rounding": True, "seed": 5}),
        (torch.float16, {"master_weights": True, "ema": 0.9}),
        (torch.bfloat16, {"master_weights": True, "state_bits": 8, "ema": 0.9, "zero_grads": True}),
    ],
    ids=["float32", "8-bit", "stochastic", "masters", "all"],
)
def test_a_resumed_run_repeats_every_bit(case: Case, dtype: Any, options: dict[str, Any]) -> None:
    straight, stopped = make_params(dtype, SIZES), make_params(dtype, SIZES)
    a, b = case.ours(straight, **case.options, **options), case.ours(stopped, **case.options, **options)
    step_all([a], [straight], range(6))
    step_all([b], [stopped], range(3))
    resumed = [torch.nn.Parameter(param.detach().clone()) for param in stopped]
    later = case.ours(resumed, **case.options, **{**options, "seed": 0} if "seed" in options else options)
    later.load_state_dict(through_a_file(b.state_dict()))
    step_all([later], [resumed], range(3, 6))
    assert bits_of(later) == bits_of(a)
    assert bits_of(later) != bits_of(b)


def test_a_resumed_run_with_scaler_and_skipped_steps_repeats_every_bit() -> None:
    def train(optimizer: Any, scaler: Any, params: list[Any], steps: range) -> None:
        for step in steps:
            give_grads(params, seed=step)
            if step == 1:
                params[0].grad[0] = float("inf")
            scaler.scale(torch.ones(()))
            scaler.step(optimizer)
            scaler.update()

    def make() -> tuple[list[Any], Any, Any]:
        params = make_params(torch.bfloat16, SIZES)
        options: dict[str, Any] = {"stochastic_rounding": True, "state_bits": 8, "seed": 3}
        optimizer = optim.AdamW(params, lr=1e-2, max_grad_norm=1.0, **options)
        return params, optimizer, amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)

    straight, a, scaler_a = make()
    train(a, scaler_a, straight, range(6))
    stopped, b, scaler_b = make()
    train(b, scaler_b, stopped, range(3))
    resumed, c, scaler_c = make()
    for target, source in zip(resumed, stopped, strict=True):
        target.data.copy_(source.data)
    c.load_state_dict(through_a_file(b.state_dict()))
    scaler_c.load_state_dict(scaler_b.state_dict())
    train(c, scaler_c, resumed, range(3, 6))
    assert a.skipped_steps == 1
    assert bits_of(c) == bits_of(a)
    assert scaler_c.get_scale() == scaler_a.get_scale()


@with_twin
def test_state_in_eight_bits_comes_from_the_twin_and_goes_to_it(case: Case) -> None:
    ours, theirs = make_params(sizes=SIZES), make_params(sizes=SIZES)
    mine, reference = case.ours(ours, **case.options, state_bits=8), case.reference(theirs)
    step_all([reference], [theirs], range(3))
    mine.load_state_dict(copy.deepcopy(reference.state_dict()))
    form = mine.torch_state_dict()
    assert form.keys() == reference.state_dict().keys()
    assert form["param_groups"][0].keys() == reference.state_dict()["param_groups"][0].keys()
    for index, entry in reference.state_dict()["state"].items():
        assert form["state"][index].keys() == {key for key, value in entry.items() if value is not None}
        for key, value in form["state"][index].items():
            top = float(entry[key].abs().max())
            torch.testing.assert_close(value, entry[key], rtol=0.07, atol=2e-3 * top)
    reference.load_state_dict(through_a_file(form))
    step_all([reference], [theirs], range(3, 4))


def test_the_twin_does_not_read_codes_as_numbers() -> None:
    ours, theirs = make_params(sizes=[300]), make_params(sizes=[300])
    mine, reference = optim.AdamW(ours, state_bits=8), torch.optim.AdamW(theirs)
    step_all([mine], [ours], range(2))
    entry = mine.state_dict()["state"][0]
    assert set(entry) == {"step", "exp_avg_codes", "exp_avg_scale", "exp_avg_sq_codes", "exp_avg_sq_scale"}
    reference.load_state_dict(copy.deepcopy(mine.state_dict()))
    give_grads(theirs, seed=0)
    with pytest.raises(KeyError, match="exp_avg"):
        reference.step()


def test_forms_of_storage_are_those_of_the_run_not_of_the_checkpoint() -> None:
    eight, full = make_params(sizes=SIZES), make_params(sizes=SIZES)
    small, large = optim.AdamW(eight, state_bits=8, ema=0.9), optim.AdamW(full)
    step_all([small], [eight], range(2))
    large.load_state_dict(copy.deepcopy(small.state_dict()))
    step_all([large], [full], range(2, 3))
    assert set(large.state[full[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    assert large.state[full[0]]["exp_avg"].dtype == torch.float32
    assert float(large.state[full[0]]["step"]) == 3.0
    small.load_state_dict(copy.deepcopy(large.state_dict()))
    step_all([small], [eight], range(3, 4))
    assert small.state[eight[0]]["exp_avg"].dtype == torch.uint8
    assert small.param_groups[0]["state_bits"] == 8


def test_a_master_that_went_through_the_twin_is_not_believed() -> None:
    """torch casts it to the parameter's dtype and steps without it."""
    ours, theirs = make_params(torch.bfloat16, SIZES), make_params(torch.bfloat16, SIZES)
    mine, reference = (
        optim.SGD(ours, lr=1.0, momentum=0.5, master_weights=True),
        torch.optim.SGD(theirs, lr=1.0, momentum=0.5),
    )
    step_all([mine], [ours], range(2))
    reference.load_state_dict(copy.deepcopy(mine.state_dict()))
    step_all([reference], [theirs], range(2, 4))
    for target, source in zip(ours, theirs, strict=True):
        target.data.copy_(source.data)
    mine.load_state_dict(copy.deepcopy(reference.state_dict()))
    for group in mine.param_groups:
        group["lr"] = 0.0
    step_all([mine], [ours], range(4, 5))
    for mine_now, theirs_now in zip(ours, theirs, strict=True):
        assert torch.equal(mine_now, theirs_now)


@pytest.mark.parametrize("bits", [None, 8])
def test_state_is_laid_out_as_the_parameter_of_this_run(bits: int | None) -> None:
    plain = [torch.nn.Parameter(torch.arange(8 * 3 * 5 * 5.0).reshape(8, 3, 5, 5) / 100)]
    last = [torch.nn.Parameter(plain[0].detach().to(memory_format=torch.channels_last))]
    a, b = optim.Adam(plain, lr=0.1, state_bits=bits), optim.Adam(last, lr=0.1, state_bits=bits)
    step_all([a], [plain], range(3))
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    moved = {key: value for key, value in b.torch_state_dict()["state"][0].items() if key != "step"}
    for key, value in moved.items():
        torch.testing.assert_close(value, a.torch_state_dict()["state"][0][key], rtol=0.07, atol=1e-5)
    step_all([b], [last], range(3, 4))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
@every_case
def test_copies_go_on_alone_with_the_same_bits(case: Case, copier: Callable[[Any], Any]) -> None:
    params = make_params(torch.bfloat16, SIZES)
    options: dict[str, Any] = {
        "max_grad_norm": 2.0,
        "stochastic_rounding": True,
        "seed": 9,
        "ema": 0.5,
        "state_bits": 8,
    }
    optimizer = case.ours(params, **case.options, **options, zero_grads=True)
    step_all([optimizer], [params], range(2))
    twin = copier(optimizer)
    held = [param for group in twin.param_groups for param in group["params"]]
    step_all([optimizer, twin], [params, held], range(2, 4))
    assert bits_of(twin) == bits_of(optimizer)
    assert not any(param.grad.any() for param in held)
    assert held[0].data_ptr() != params[0].data_ptr()


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_those_of_the_kernels(signed: bool) -> None:
    """Values that a code stands for exactly are written back by the kernels as the same code under the same scale."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=generator) * torch.logspace(-8, 3, 1000)
    values = values if signed else values.abs()
    values[:256] = 0.0
    codes, scales = _eight_bit.encode(values, signed=signed)
    decoded = _eight_bit.decode(codes, scales, signed=signed)
    torch.testing.assert_close(decoded, values, rtol=0.07, atol=2e-3 * float(values.abs().max()))
    assert scales[0] == 0
    param = torch.nn.Parameter(torch.zeros(1000))
    if signed:  # 0.5 * moment + 0.5 * gradient
        optimizer: Any = optim.Lion([param], lr=0.0, betas=(0.5, 0.5), state_bits=8)
        entry = {"exp_avg": codes.clone(), "exp_avg_scale": scales.clone()}
        param.grad = decoded.clone()
    else:  # sum + 0
        optimizer = optim.Adagrad([param], lr=0.0, state_bits=8)
        entry = {"step": torch.zeros(()), "sum": codes.clone(), "sum_scale": scales.clone()}
        param.grad = torch.zeros(1000)
    optimizer.state[param] = entry
    optimizer.step()
    key = "exp_avg" if signed else "sum"
    assert torch.equal(entry[key], codes)
    assert torch.equal(entry[f"{key}_scale"], scales)


def test_a_block_with_nan_or_infinity_reads_as_nan() -> None:
    values = torch.ones(600)
    values[5], values[300] = float("nan"), float("inf")
    decoded = _eight_bit.decode(*_eight_bit.encode(values, signed=True), signed=True)
    assert decoded[:512].isnan().all()
    torch.testing.assert_close(decoded[512:], values[512:], rtol=2.0**-20, atol=0.0)
