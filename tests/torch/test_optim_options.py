"""What the optimizers of perfopt.optim take besides their arithmetic: groups, averages, zeroed gradients, refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optim_cases import CASES, IDS, Case, LionReference, as_double, bits_of, give_grads, make_params  # noqa: E402

from perfopt import amp, optim  # noqa: E402

CLOSE = {"rtol": 1e-4, "atol": 3e-5}
SIZES = [7, 300, 1025]
every_case = pytest.mark.parametrize("case", CASES, ids=IDS)


@every_case
def test_groups_change_in_the_middle_of_a_run(case: Case) -> None:
    """Own options, a group and a gradient that come later, a scheduler, a tensor as learning rate."""
    ours = make_params(sizes=[*SIZES, 33])
    theirs = as_double(ours)

    def groups(params: list[Any]) -> list[dict[str, Any]]:
        return [{"params": params[:2]}, {"params": params[2:3], "weight_decay": 0.3, "lr": 0.02}]

    mine, reference = case.ours(groups(ours), **case.options), case.reference(groups(theirs))
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (mine, reference)]
    late = torch.tensor(0.03)
    for step in range(8):
        give_grads(ours, theirs, seed=step, missing=(1,) if step < 2 else ())
        if step == 3:
            mine.add_param_group({"params": ours[3:], "lr": late})
            reference.add_param_group({"params": theirs[3:], "lr": 0.03})
            if isinstance(reference, torch.optim.Adagrad):  # torch's does not expect groups that come later
                start = torch.full_like(theirs[3], reference.defaults["initial_accumulator_value"])
                reference.state[theirs[3]] = {"step": torch.tensor(0.0), "sum": start.detach()}
            for scheduler in schedulers:
                scheduler.base_lrs.append(0.03)
        if step == 5:
            late.fill_(0.05)
            reference.param_groups[2]["lr"] = 0.05
            for optimizer in (mine, reference):
                optimizer.param_groups[0]["weight_decay"] = 0.2
        mine.step()
        reference.step()
        if step < 3:
            for scheduler in schedulers:
                scheduler.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, **CLOSE)


def test_momentum_and_amsgrad_may_be_switched_on_later() -> None:
    ours = make_params(sizes=SIZES)
    theirs = as_double(ours)
    mine, reference = optim.SGD(ours, lr=0.1), torch.optim.SGD(theirs, lr=0.1)
    for step in range(5):
        give_grads(ours, theirs, seed=step)
        if step == 2:
            for optimizer in (mine, reference):
                optimizer.param_groups[0]["momentum"] = 0.9
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, **CLOSE)
    adam = optim.Adam(ours)
    adam.step()
    adam.param_groups[0]["amsgrad"] = True
    adam.step()
    assert torch.equal(adam.state[ours[0]]["max_exp_avg_sq"], adam.state[ours[0]]["exp_avg_sq"])


@every_case
def test_averages_follow_and_can_be_looked_at(case: Case) -> None:
    params = make_params(torch.bfloat16, SIZES)
    optimizer = case.ours(params, **case.options, ema=0.75, master_weights=True)
    expected = [param.detach().float() for param in params]
    for step in range(4):
        give_grads(params, seed=step, missing=(0,) if step == 0 else ())
        optimizer.step()
        for index, param in enumerate(params):
            if param.grad is not None:
                expected[index].lerp_(optimizer.state[param]["master_weight"], 0.25)
    averages = list(optimizer.ema_parameters())
    for average, wanted in zip(averages, expected, strict=True):
        torch.testing.assert_close(average, wanted, rtol=1e-6, atol=1e-7)
    before = bits_of(optimizer)
    with optimizer.ema_weights():
        for param, average in zip(params, averages, strict=True):
            assert torch.equal(param.detach(), average.bfloat16())
        with pytest.raises(RuntimeError, match="inside ema_weights"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="their averages already"), optimizer.ema_weights():
            pass
    assert bits_of(optimizer) == before
    with pytest.raises(RuntimeError, match="no averages are kept"):
        next(case.ours(params, **case.options).ema_parameters())


@every_case
@pytest.mark.parametrize("scaler_class", [torch.amp.GradScaler, amp.GradScaler], ids=["torch's scaler", "perfopt's"])
def test_scalers_of_both_kinds_are_obeyed(case: Case, scaler_class: Any) -> None:
    ours = make_params(sizes=SIZES)
    theirs = as_double(ours)
    mine, reference = case.ours(ours, **case.options, max_grad_norm=5.0), case.reference(theirs)
    scaler = scaler_class("cpu", init_scale=8.0)
    for step in range(5):
        give_grads(ours, theirs, seed=step)
        for param in ours:
            param.grad.mul_(float(scaler.scale(torch.ones(()))))
        if step == 2:
            ours[1].grad[-1] = float("inf")
        before = bits_of(mine)
        scaler.step(mine)
        scaler.update()
        if step == 2:
            assert bits_of(mine) == before
            continue
        torch.nn.utils.clip_grad_norm_(theirs, 5.0)
        reference.step()
    assert mine.skipped_steps == 1
    assert scaler.get_scale() == 4.0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, **CLOSE)


@pytest.mark.parametrize("found", [1.0, 2.0, -1.0, float("nan")])
@every_case
def test_any_found_inf_but_zero_changes_nothing(case: Case, found: float) -> None:
    params = make_params(torch.bfloat16, SIZES)
    optimizer = case.ours(params, **case.options, zero_grads=True, ema=0.9)
    for step in range(2):
        give_grads(params, seed=step)
        if step == 1:
            before = bits_of(optimizer)
            optimizer.found_inf = torch.tensor(found)
        optimizer.step()
    assert bits_of(optimizer) == before
    assert optimizer.skipped_steps == 1
    assert not any(param.grad.any() for param in params)


@every_case
def test_a_skipped_step_needs_no_gradient_to_zero(case: Case) -> None:
    optimizer = case.ours(make_params(sizes=[3]), **case.options, zero_grads=True)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert optimizer.skipped_steps == 1


@every_case
def test_gradients_are_zero_after_the_step_and_autograd_knows(case: Case) -> None:
    ours, theirs = make_params(sizes=SIZES), make_params(sizes=SIZES)
    mine, other = case.ours(ours, **case.options, zero_grads=True), case.ours(theirs, **case.options)
    for step in range(3):
        give_grads(ours, theirs, seed=step)
        if step == 2:
            for params in (ours, theirs):
                params[0].grad[0] = float("nan")
        versions = [param.grad._version for param in ours]
        mine.step()
        other.step()
        assert not any(param.grad.any() for param in ours)
        assert all(param.grad._version > version for param, version in zip(ours, versions, strict=True))
        assert all(param.grad.any() for param in theirs)
    assert bits_of(mine) == bits_of(other)
    assert mine.skipped_steps == 1


@every_case
def test_a_skipped_first_step_leaves_no_state(case: Case) -> None:
    params = make_params(torch.bfloat16, SIZES)
    optimizer = case.ours(params, **case.options, master_weights=True, ema=0.9)
    before = bits_of(optimizer)
    give_grads(params, seed=0)
    params[2].grad[3] = float("inf")
    optimizer.step()
    assert bits_of(optimizer) == before
    assert optimizer.skipped_steps == 1
    give_grads(params, seed=0)
    optimizer.step()
    straight = make_params(torch.bfloat16, SIZES)
    other = case.ours(straight, **case.options, master_weights=True, ema=0.9)
    give_grads(straight, seed=0)
    other.step()
    assert bits_of(optimizer) == bits_of(other)


def test_an_interrupt_after_a_first_step_without_counts_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_params(sizes=SIZES)
    optimizer = optim.SGD(params, lr=0.1, momentum=0.9)
    give_grads(params, seed=0)
    real = optimizer._step_plan

    def interrupted(*args: Any) -> Any:
        if real(*args) is not None:
            raise KeyboardInterrupt

    monkeypatch.setattr(optimizer, "_step_plan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert torch.equal(optimizer.state[params[0]]["momentum_buffer"], params[0].grad)


def test_storage_is_an_option_of_each_group() -> None:
    params = make_params(torch.bfloat16, SIZES)
    groups = [{"params": params[:1], "state_bits": None}, {"params": params[1:2], "master_weights": False}]
    optimizer = optim.AdamW(groups, state_bits=8, master_weights=True)
    optimizer.add_param_group({"params": params[2:]})
    give_grads(params, seed=0)
    optimizer.step()
    dtypes = [optimizer.state[param]["exp_avg"].dtype for param in params]
    assert dtypes == [torch.float32, torch.uint8, torch.uint8]
    assert ["master_weight" in optimizer.state[param] for param in params] == [True, False, True]
    held = [value.numel() * value.element_size() for value in optimizer.state[params[2]].values()]
    assert sum(held) == 1025 * (1 + 1 + 4) + 2 * 4 * 5 + 4


def test_parameters_without_momentum_get_their_masters_before_their_first_gradient() -> None:
    params = make_params(torch.bfloat16, SIZES)
    optimizer = optim.SGD(params, lr=1e-4, master_weights=True)
    for step in range(40):
        give_grads(params, seed=0, missing=(1,) if step < 2 else ())
        optimizer.step()
    start = make_params(torch.bfloat16, SIZES)[1]
    master = optimizer.state[params[1]]["master_weight"]
    torch.testing.assert_close(master, start.float() - 38 * 1e-4 * params[1].grad.float(), rtol=1e-5, atol=1e-6)


def test_small_steps_arrive_on_average_with_stochastic_rounding() -> None:
    """A step of a hundredth of a bfloat16's spacing: to nearest, nothing would ever move."""
    param = torch.nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))
    still = torch.nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))
    rounded, nearest = optim.SGD([param], lr=1.0, stochastic_rounding=True), optim.SGD([still], lr=1.0)
    for _ in range(100):
        for weight in (param, still):
            weight.grad = torch.full_like(weight, -(2.0**-7) / 100)
        rounded.step()
        nearest.step()
    moved = float(param.detach().float().mean()) - 1.0
    assert moved == pytest.approx(2.0**-7, rel=0.05)
    assert torch.equal(still.detach(), torch.ones_like(still))


def test_closures_are_called_once_with_gradients() -> None:
    for case in CASES:
        params = make_params(sizes=[5])
        optimizer = case.ours(params, **case.options)

        def closure(params: Any = params) -> Any:
            assert torch.is_grad_enabled()
            params[0].grad = None
            loss = (params[0] ** 2).sum()
            loss.backward()
            return loss

        before = params[0].detach().clone()
        assert float(optimizer.step(closure).detach()) == float((before**2).sum())
        assert not torch.equal(params[0].detach(), before)


def test_classes_are_those_of_torch() -> None:
    for case in CASES:
        optimizer = case.ours(make_params(sizes=[2]), **case.options)
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert case.twin is LionReference or isinstance(optimizer, case.twin)
        assert optimizer._step_supports_amp_scaling


REFUSED = [
    ({"state_bits": 4}, ValueError, "state_bits=4; accepted: None or 8"),
    ({"seed": -1}, ValueError, "seed=-1; accepted: a whole number"),
    ({"seed": 1.5}, ValueError, "seed=1.5"),
    ({"ema": 1.5}, ValueError, "ema=1.5; accepted: None or a number from 0 to 1"),
    ({"max_grad_norm": -1.0}, ValueError, "max_grad_norm=-1.0"),
    (
        {"master_weight": True},
        TypeError,
        "unexpected keyword argument 'master_weight'; accepted besides torch's: max_grad_norm",
    ),
]


@pytest.mark.parametrize(("options", "exception", "text"), REFUSED)
@every_case
def test_options_out_of_range_are_named(case: Case, options: Any, exception: Any, text: str) -> None:
    with pytest.raises(exception, match=text):
        case.ours(make_params(sizes=[3]), **case.options, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "lr=-1.0; accepted: a number >= 0"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]=1.0; accepted"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ],
)
def test_lion_names_what_is_out_of_range(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        optim.Lion(make_params(sizes=[3]), **options)
    with pytest.raises(ValueError, match=r"alpha=1\.0"):
        optim.RMSprop(make_params(sizes=[3]), alpha=1.0)


def sparse() -> Any:
    return torch.ones(3).to_sparse()


@pytest.mark.parametrize(
    ("make_param", "make_grad", "exception"),
    [
        (lambda: torch.ones(3, dtype=torch.complex64), lambda p: torch.ones_like(p), TypeError),
        (lambda: torch.ones(3, dtype=torch.float64), lambda p: torch.ones_like(p), TypeError),
        (lambda: torch.ones(3), lambda p: sparse(), (TypeError, ValueError)),
        (lambda: torch.ones(6)[::2], lambda p: torch.ones(3), ValueError),
    ],
    ids=["complex", "float64", "sparse", "strided"],
)
@every_case
def test_tensors_that_are_refused_are_named(case: Case, make_param: Any, make_grad: Any, exception: Any) -> None:
    good, bad = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(make_param())
    good.grad, bad.grad = torch.ones(3), make_grad(bad.detach())
    optimizer = case.ours([("encoder.weight", good), ("encoder.bias", bad)], **case.options)
    with pytest.raises(exception, match=r"\[1\].*the parameter is 'encoder.bias'"):
        optimizer.step()
    assert torch.equal(good.detach(), torch.ones(3))


def test_capturable_is_for_cuda() -> None:
    params = make_params(sizes=[3])
    give_grads(params, seed=0)
    for make in (optim.Adam, optim.AdamW, optim.RMSprop):
        with pytest.raises(ValueError, match="'capturable'"):
            make(params, capturable=True).step()


def test_a_copy_of_the_options_is_not_shared_between_groups() -> None:
    group: dict[str, Any] = {"params": make_params(sizes=[2])}
    optimizer = optim.SGD([group], lr=0.1, state_bits=8)
    assert "state_bits" not in copy.copy(group)
    assert optimizer.param_groups[0]["state_bits"] == 8


@pytest.mark.parametrize("outcome", ["taken", "skipped by the step", "skipped by the scaler", "refused"])
def test_autograd_sees_that_gradients_were_zeroed(outcome: str) -> None:
    params = make_params(sizes=[4, 300])
    optimizer = optim.SGD(params, lr=0.1, zero_grads=True)
    give_grads(params, seed=0)
    weight = torch.ones(4, requires_grad=True)
    loss = (params[0].grad * weight).sum()  # saves the gradient for backward
    if outcome == "skipped by the step":
        params[1].grad[-1] = torch.nan
    if outcome == "skipped by the scaler":
        optimizer.found_inf = torch.ones(())
    if outcome == "refused":
        params[1].grad = torch.empty(600)[::2].copy_(params[1].grad)
    versions = [param.grad._version for param in params]
    if outcome == "refused":
        with pytest.raises(ValueError, match=r"grads\[1\].*densely"):
            optimizer.step()
        assert [param.grad._version for param in params] == versions
        loss.backward()
        assert torch.equal(weight.grad, params[0].grad)
        return
    optimizer.step()
    assert all(not param.grad.any() for param in params)
    assert [param.grad._version for param in params] == [version + 1 for version in versions]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
