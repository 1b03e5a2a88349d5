"""perfopt.optim.AdamW against torch.optim.AdamW: trajectories, state both ways, refusals, steps that do not happen."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt._train import OptimizerPlan  # noqa: E402
from perfopt.optim import AdamW  # noqa: E402

SIZES = [0, 1, 7, 8, 9, 31, 32, 33, 65535, 65536, 65537]
OPTIONS = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8, "betas": (0.9, 0.99)}
# Ours and torch's differ by contraction to FMA and by the rounding of one norm: a few units in the last place a step.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def make_params(sizes: list[Any] = SIZES, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]


def give_grads(*models: list[Any], seed: int, missing: tuple[int, ...] = (), scale: float = 1.0) -> None:
    """The same gradients to every list of parameters."""
    generator = torch.Generator().manual_seed(seed)
    for index, params in enumerate(zip(*models, strict=True)):
        grad = torch.randn(params[0].shape, generator=generator) * scale
        for param in params:
            param.grad = None if index in missing else torch.empty_like(param).copy_(grad)


def snapshot(optimizer: Any) -> list[bytes]:
    tensors = [param for group in optimizer.param_groups for param in group["params"]]
    for param in list(tensors):
        state = optimizer.state.get(param, {})
        tensors += [state[key] for key in sorted(state)]
    return [tensor.detach().clone(memory_format=torch.contiguous_format).numpy().tobytes() for tensor in tensors]


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(a, b, **CLOSE, msg=lambda text, index=index: f"tensor {index}: {text}")


def assert_same_state(ours: Any, theirs: Any) -> None:
    a, b = ours.state_dict(), theirs.state_dict()
    assert a["state"].keys() == b["state"].keys()
    for index in a["state"]:
        assert a["state"][index].keys() == b["state"][index].keys()
        for key, value in a["state"][index].items():
            other = b["state"][index][key]
            assert value.dtype == other.dtype
            assert value.shape == other.shape
            torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_norm", [None, 1.0, 1e9])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"maximize": True},
        {"weight_decay": 0.0},
        {"betas": (0.0, 0.9)},
        {"betas": (0.4, 0.999), "eps": 1e-3},
        {"lr": 0.0},
    ],
)
def test_several_steps_follow_torch(options: dict[str, Any], max_norm: float | None) -> None:
    ours, theirs = make_params(), make_params()
    mine = AdamW(ours, **{**OPTIONS, **options}, max_grad_norm=max_norm)
    reference = torch.optim.AdamW(theirs, **{**OPTIONS, **options}, foreach=False)
    start = make_params()
    for step in range(6):
        give_grads(ours, theirs, seed=step, missing=(2, 8) if step < 2 else (3,) if step == 4 else ())
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        assert mine.step() is None
        if max_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
            assert mine.last_grad_norm == pytest.approx(norm.item(), rel=1e-5)
        reference.step()
        for param, grad in zip(ours, kept, strict=True):
            assert (param.grad is None) == (grad is None)
            assert grad is None or torch.equal(param.grad, grad)  # gradients are only read
    assert_close(ours, theirs)
    assert_same_state(mine, reference)
    if options.get("lr") != 0.0:
        assert all(not torch.equal(a, b) for a, b in zip(ours, start, strict=True) if a.numel())
    assert mine.state[ours[2]]["step"].item() == 4.0
    assert mine.state[ours[3]]["step"].item() == 5.0
    assert mine.skipped_steps == 0


def test_a_thousand_steps_stay_with_torch() -> None:
    ours, theirs = make_params([50, 3]), make_params([50, 3])
    mine = AdamW(ours, lr=1e-3, weight_decay=0.05, max_grad_norm=2.0)
    reference = torch.optim.AdamW(theirs, lr=1e-3, weight_decay=0.05)
    for step in range(1000):
        give_grads(ours, theirs, seed=step)
        mine.step()
        torch.nn.utils.clip_grad_norm_(theirs, 2.0)
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert mine.state[ours[0]]["step"].item() == 1000.0


def test_groups_have_their_own_options_and_one_norm() -> None:
    ours, theirs = make_params([40, 50, 60]), make_params([40, 50, 60])

    def groups(params: list[Any]) -> list[dict[str, Any]]:
        return [
            {"params": params[:1], "lr": 0.1, "weight_decay": 0.0},
            {"params": params[1:], "betas": (0.5, 0.9), "eps": 1e-4, "maximize": True},
        ]

    mine = AdamW(groups(ours), **OPTIONS, max_grad_norm=1.0)
    reference = torch.optim.AdamW(groups(theirs), **OPTIONS)
    late_ours, late_theirs = make_params([9], seed=5), make_params([9], seed=5)
    for step in range(6):
        if step == 3:
            mine.add_param_group({"params": late_ours, "lr": 0.5})
            reference.add_param_group({"params": late_theirs, "lr": 0.5})
            ours, theirs = ours + late_ours, theirs + late_theirs
        give_grads(ours, theirs, seed=step)
        mine.step()
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        reference.step()
        assert mine.last_grad_norm == pytest.approx(norm.item(), rel=1e-5)
    assert_close(ours, theirs)
    assert_same_state(mine, reference)


@pytest.mark.parametrize("fused", [None, True])
def test_state_dictionaries_load_both_ways(fused: bool | None) -> None:
    ours, theirs, straight = make_params(), make_params(), make_params()
    mine = AdamW(ours, **OPTIONS)
    reference = torch.optim.AdamW(theirs, **OPTIONS, fused=fused)
    uninterrupted = torch.optim.AdamW(straight, **OPTIONS, fused=fused)
    assert mine.state_dict()["param_groups"][0].keys() == reference.state_dict()["param_groups"][0].keys()
    for step in range(8):
        if step in (2, 4, 6):  # pass the training over to the other one, through a file
            source, target = (mine, reference) if step == 4 else (reference, mine)
            from_params, to_params = (ours, theirs) if step == 4 else (theirs, ours)
            file = io.BytesIO()
            torch.save(source.state_dict(), file)
            file.seek(0)
            target.load_state_dict(torch.load(file))
            with torch.no_grad():
                for a, b in zip(to_params, from_params, strict=True):
                    a.copy_(b)
        active_is_mine = step in (2, 3, 6, 7)
        give_grads(ours, theirs, straight, seed=step)
        (mine if active_is_mine else reference).step()
        uninterrupted.step()
    assert_close(ours, straight)
    assert_same_state(mine, uninterrupted)
    assert mine.state[ours[1]]["step"].item() == 8.0


def test_resume_is_bitwise() -> None:
    straight, first = make_params(), make_params()
    one, two = AdamW(straight, **OPTIONS, max_grad_norm=1.0), AdamW(first, **OPTIONS, max_grad_norm=1.0)
    for step in range(3):
        give_grads(straight, first, seed=step)
        one.step()
        two.step()
    resumed = make_params(seed=9)
    three = AdamW(resumed, lr=7.0, max_grad_norm=1.0)
    three.load_state_dict(copy.deepcopy(two.state_dict()))
    with torch.no_grad():
        for a, b in zip(resumed, first, strict=True):
            a.copy_(b)
    for step in range(3, 6):
        give_grads(straight, resumed, seed=step)
        one.step()
        three.step()
    assert snapshot(one) == snapshot(three)


def test_old_checkpoints_with_number_steps_load() -> None:
    params = make_params([5])
    optimizer = AdamW(params, **OPTIONS)
    give_grads(params, seed=0)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = 7
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.state[params[0]]["step"].item() == 8.0
    optimizer.state[params[0]]["step"] = torch.tensor(20.0, dtype=torch.float64)
    optimizer.step()
    assert optimizer.state[params[0]]["step"].item() == 21.0


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_alone(copier: Callable[[Any], Any]) -> None:
    params = make_params([5, 6])
    optimizer = AdamW(params, **OPTIONS, max_grad_norm=0.5, skip_nonfinite=False)
    give_grads(params, seed=0)
    optimizer.step()
    before = snapshot(optimizer)
    twin = copier(optimizer)
    assert (twin.max_grad_norm, twin.skip_nonfinite) == (0.5, False)
    assert twin.last_grad_norm == optimizer.last_grad_norm
    twin_params = twin.param_groups[0]["params"]
    assert snapshot(twin) == before
    give_grads(twin_params, seed=1)
    twin.step()
    assert snapshot(optimizer) == before
    give_grads(params, seed=1)
    optimizer.step()
    assert snapshot(optimizer) == snapshot(twin)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("place", [(0, 0), (1, 32768), (1, 65536), (2, -1)])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_nonfinite_step_changes_nothing_and_is_counted(
    bad: float, place: tuple[int, int], max_norm: float | None
) -> None:
    params = make_params([5, 65537, 33])
    optimizer = AdamW(params, **OPTIONS, max_grad_norm=max_norm)
    give_grads(params, seed=0)
    params[place[0]].grad[place[1]] = bad
    optimizer.step()
    assert len(optimizer.state) == 0  # not even state of zeros
    give_grads(params, seed=1)
    optimizer.step()
    before = snapshot(optimizer)
    versions = [param._version for param in params]
    give_grads(params, seed=2)
    params[place[0]].grad[place[1]] = bad
    optimizer.step()
    assert snapshot(optimizer) == before
    assert versions == [param._version for param in params]
    assert optimizer.skipped_steps == 2
    assert optimizer.last_grad_norm is not None
    assert not torch.isfinite(torch.tensor(optimizer.last_grad_norm))
    give_grads(params, seed=3)
    optimizer.step()
    assert optimizer.skipped_steps == 2
    assert optimizer.state[params[0]]["step"].item() == 2.0


def test_nonfinite_steps_can_be_let_through() -> None:
    params = make_params([5])
    optimizer = AdamW(params, **OPTIONS, skip_nonfinite=False)
    give_grads(params, seed=0)
    params[0].grad[1] = float("nan")
    optimizer.step()
    assert optimizer.skipped_steps == 0
    assert optimizer.last_grad_norm is None
    assert torch.isnan(params[0]).tolist() == [False, True, False, False, False]
    assert optimizer.state[params[0]]["step"].item() == 1.0


def test_lr_schedulers_and_tensor_lr() -> None:
    ours, theirs = make_params([30]), make_params([30])
    mine = AdamW(ours, lr=torch.tensor(0.1), weight_decay=0.1)
    reference = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.1)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in (mine, reference)]
    for step in range(4):
        give_grads(ours, theirs, seed=step)
        mine.step()
        reference.step()
        for scheduler in schedulers:
            scheduler.step()
    assert float(mine.param_groups[0]["lr"]) == pytest.approx(0.1 * 0.5**4)
    assert_close(ours, theirs)


def test_closure_runs_with_gradients_once() -> None:
    ours, theirs = make_params([30]), make_params([30])
    mine, reference = AdamW(ours, **OPTIONS), torch.optim.AdamW(theirs, **OPTIONS)
    calls = []

    def closure(params: list[Any], optimizer: Any) -> Any:
        def run() -> Any:
            calls.append(1)
            optimizer.zero_grad()
            loss = (params[0] ** 2).sum()
            loss.backward()
            return loss

        return run

    for _ in range(3):
        loss = mine.step(closure(ours, mine))
        other = reference.step(closure(theirs, reference))
        torch.testing.assert_close(loss, other)
    assert len(calls) == 6
    assert_close(ours, theirs)


def test_grad_scaler_contract_with_unscaled_gradients() -> None:
    ours, theirs = make_params([30]), make_params([30])
    mine, reference = AdamW(ours, **OPTIONS, max_grad_norm=1.0), torch.optim.AdamW(theirs, **OPTIONS)
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2)]
    for step in range(4):
        for params, optimizer, scaler in ((ours, mine, scalers[0]), (theirs, reference, scalers[1])):
            optimizer.zero_grad()
            loss = (params[0] ** 3).sum() * (float("inf") if step == 2 else 1.0)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            if optimizer is reference:
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            scaler.step(optimizer)
            scaler.update()
    assert scalers[0].get_scale() == scalers[1].get_scale() == 512.0
    assert mine.state[ours[0]]["step"].item() == 3.0
    assert_close(ours, theirs)


def test_step_hooks_and_zero_grad() -> None:
    params = make_params([4])
    optimizer = AdamW(params, **OPTIONS)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    give_grads(params, seed=0)
    optimizer.step()
    assert seen == ["pre", "post"]
    optimizer.zero_grad()
    before = snapshot(optimizer)
    optimizer.step()  # nothing has a gradient
    assert snapshot(optimizer) == before
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_version_counters_move_so_that_autograd_notices() -> None:
    params = make_params([4])
    optimizer = AdamW(params, **OPTIONS)
    give_grads(params, seed=0)
    optimizer.step()
    exp_avg = optimizer.state[params[0]]["exp_avg"]
    loss = (params[0] ** 2).sum()  # saves params[0] for backward
    versions = params[0]._version, exp_avg._version
    optimizer.step()
    assert params[0]._version > versions[0]
    assert exp_avg._version > versions[1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_and_tensors_may_move_between_steps() -> None:
    ours, theirs = make_params([100, 3]), make_params([100, 3])
    mine, reference = AdamW(ours, **OPTIONS, max_grad_norm=1.0), torch.optim.AdamW(theirs, **OPTIONS)
    for step in range(8):
        give_grads(ours, theirs, seed=step)  # new tensors each time
        if step == 2:
            for params in (ours, theirs):
                params[0].data = params[0].data.clone()
        if step == 3:
            for optimizer, params in ((mine, ours), (reference, theirs)):
                optimizer.state[params[0]]["exp_avg"] = optimizer.state[params[0]]["exp_avg"].clone()
        if step == 4:
            for optimizer, params in ((mine, ours), (reference, theirs)):
                optimizer.state[params[0]]["exp_avg_sq"].data = optimizer.state[params[0]]["exp_avg_sq"].clone()
        if step == 5:
            for optimizer, params in ((mine, ours), (reference, theirs)):
                optimizer.state[params[1]].clear()
        if step == 6:
            for optimizer, params in ((mine, ours), (reference, theirs)):
                del optimizer.state[params[0]]
        if step == 7:
            for optimizer in (mine, reference):
                optimizer.param_groups[0]["params"].reverse()
        mine.step()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        reference.step()
    assert_close(ours, theirs)
    assert mine.state[ours[0]]["step"].item() == 2.0


def test_any_dense_memory_format_if_the_gradient_shares_it() -> None:
    def make() -> list[Any]:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(8, 3, 5, 5, generator=generator).to(memory_format=torch.channels_last)
        matrix = torch.randn(6, 4, generator=generator).t()
        return [torch.nn.Parameter(weight), torch.nn.Parameter(matrix)]

    ours, theirs = make(), make()
    assert not ours[0].is_contiguous()
    mine, reference = AdamW(ours, **OPTIONS), torch.optim.AdamW(theirs, **OPTIONS)
    for step in range(3):
        give_grads(ours, theirs, seed=step)
        assert ours[0].grad.stride() == ours[0].stride()
        mine.step()
        reference.step()
    assert_close(ours, theirs)
    assert mine.state[ours[0]]["exp_avg"].stride() == ours[0].stride()


def strided(_: Any) -> Any:
    return torch.nn.Parameter(torch.randn(6, 8)[:, ::2])


def expanded(_: Any) -> Any:
    return torch.nn.Parameter(torch.randn(1).expand(6))


@pytest.mark.parametrize(
    ("make", "exception", "text"),
    [
        (
            lambda p: p.double(),
            TypeError,
            r"params\[1\] \(shape \(4,\), dtype torch.float64, device cpu\): accepted: float32",
        ),
        (lambda p: p.to(torch.float8_e5m2), TypeError, r"params\[1\].*torch.float8_e5m2"),
        (lambda p: p.to(torch.complex64), TypeError, r"params\[1\].*torch.complex64"),
        (
            lambda p: p.to("meta"),
            ValueError,
            r"params\[1\].*device meta\): accepted: float32, bfloat16 or float16 on the CPU",
        ),
        (strided, ValueError, r"params\[1\] \(shape \(6, 4\).*do not lie densely"),
        (expanded, ValueError, r"params\[1\] \(shape \(6,\).*do not lie densely"),
    ],
)
def test_unsuitable_parameters_are_named_before_anything_changes(make: Any, exception: Any, text: str) -> None:
    params = make_params([3, 4])
    bad = make(params[1].detach())
    params[1] = torch.nn.Parameter(bad.detach()) if not isinstance(bad, torch.nn.Parameter) else bad
    optimizer = AdamW(params, **OPTIONS)
    for param in params:
        param.grad = torch.ones_like(param)
    before = params[0].detach().clone()
    with pytest.raises(exception, match=text):
        optimizer.step()
    assert torch.equal(params[0], before)
    assert len(optimizer.state) == 0


def test_unsuitable_gradients_are_named_before_anything_changes() -> None:
    params = make_params([3, (4, 5)])
    optimizer = AdamW(params, **OPTIONS)
    give_grads(params, seed=0)
    optimizer.step()
    before = snapshot(optimizer)
    params[1].grad = torch.ones(5, 4).t()
    with pytest.raises(ValueError, match=r"grads\[1\] \(shape \(4, 5\).*memory order must be those of its parameter"):
        optimizer.step()
    params[1].grad = torch.ones(1, 5).expand(4, 5)
    with pytest.raises(ValueError, match=r"grads\[1\].*do not lie densely"):
        optimizer.step()
    params[1].grad = torch.ones(4, 5).to_sparse()
    with pytest.raises(ValueError, match=r"grads\[1\] \(shape \(4, 5\).*sparse"):
        optimizer.step()
    params[1].grad = params[1].detach()
    with pytest.raises(ValueError, match=r"grads\[1\] and params\[1\] share memory"):
        optimizer.step()
    assert snapshot(optimizer) == before


def test_shared_and_broken_state_is_refused() -> None:
    params = make_params([3, 3])
    optimizer = AdamW(params, **OPTIONS)
    give_grads(params, seed=0)
    optimizer.step()
    state = optimizer.state
    state[params[1]]["exp_avg"] = state[params[0]]["exp_avg"]
    with pytest.raises(ValueError, match=r"exp_avgs\[0\] and exp_avgs\[1\] share memory"):
        optimizer.step()
    state[params[1]]["exp_avg"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"exp_avgs\[1\] \(shape \(4,\)"):
        optimizer.step()
    del state[params[1]]["exp_avg"]
    with pytest.raises(ValueError, match=r"the state of params\[1\] has no 'exp_avg'"):
        optimizer.step()
    state[params[1]] = 5
    with pytest.raises(TypeError, match=r"the state of params\[1\] is a int"):
        optimizer.step()
    del state[params[1]]
    optimizer.step()
    tied = torch.nn.Parameter(params[0].detach()[:2])
    tied.grad = torch.ones(2)
    optimizer.add_param_group({"params": [tied]})
    with pytest.raises(ValueError, match=r"params\[0\] and params\[2\] share memory"):
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "lr=-1.0; accepted: a number >= 0"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]=1.0; accepted: a number >= 0 and < 1"),
        ({"eps": -1.0}, "eps=-1.0; accepted: a number >= 0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0; accepted: a number >= 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0; accepted: None or a number >= 0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm=nan"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AdamW(make_params([3]), **options)


def test_unsupported_options_that_come_later_are_refused() -> None:
    params = make_params([3])
    optimizer = AdamW(params, **OPTIONS)
    give_grads(params, seed=0)
    for option, text in (
        ("capturable", r"param_groups\[0\]\['capturable'\] is true; accepted: false"),
        ("differentiable", r"param_groups\[0\]\['differentiable'\] is true; accepted: false"),
    ):
        optimizer.param_groups[0][option] = True
        with pytest.raises(ValueError, match=text):
            optimizer.step()
        optimizer.param_groups[0][option] = False
    optimizer.max_grad_norm = -1.0
    with pytest.raises(ValueError, match=r"max_grad_norm=-1.0"):
        optimizer.step()
    assert len(optimizer.state) == 0
    optimizer.max_grad_norm = 1.0
    optimizer.step()
    assert optimizer.last_grad_norm is not None


def test_adopt_shares_groups_and_state_with_the_users_optimizer() -> None:
    ours, theirs = make_params(), make_params()
    user, reference = torch.optim.AdamW(ours, **OPTIONS), torch.optim.AdamW(theirs, **OPTIONS)
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 2) for optimizer in (user, reference)]
    give_grads(ours, theirs, seed=0)
    user.step()
    reference.step()
    mine = AdamW.adopt(user, max_grad_norm=1.0)
    assert mine.param_groups is user.param_groups
    assert mine.state is user.state
    for step in range(1, 6):
        give_grads(ours, theirs, seed=step)
        mine.step()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        reference.step()
        for scheduler in schedulers:
            scheduler.step()
        if step == 3:  # the user loads a checkpoint into the object they know, then into ours
            user.load_state_dict(copy.deepcopy(user.state_dict()))
        if step == 4:
            mine.load_state_dict(copy.deepcopy(mine.state_dict()))
            assert user.state is mine.state
    assert user.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert_close(ours, theirs)
    assert_same_state(user, reference)
    user.step()  # both still work
    assert user.state[ours[1]]["step"].item() == 7.0


def test_adopt_says_why_not() -> None:
    params = make_params([3])

    class Mine(torch.optim.AdamW):
        pass

    for optimizer, text in (
        (torch.optim.SGD(params, lr=0.1), r"optimizer is a torch.optim.sgd.SGD; accepted: exactly torch.optim.AdamW"),
        (Mine(params), r"Mine; accepted: exactly"),
        (torch.optim.AdamW(params, capturable=True), r"\['capturable'\] is true"),
        (torch.optim.AdamW(params, differentiable=True), r"\['differentiable'\] is true"),
        (torch.optim.AdamW([params[0].detach().double()]), r"params\[0\].*float64"),
        (torch.optim.AdamW([params[0].detach().to("meta")]), r"params\[0\].*device meta"),
    ):
        with pytest.raises(ValueError, match=text):
            AdamW.adopt(optimizer)
    with pytest.raises(ValueError, match="max_grad_norm=-1"):
        AdamW.adopt(torch.optim.AdamW(params), max_grad_norm=-1)


def test_adopted_fused_and_hooked_optimizers_work() -> None:
    ours, theirs = make_params(), make_params()
    user, reference = torch.optim.AdamW(ours, **OPTIONS, fused=True), torch.optim.AdamW(theirs, **OPTIONS)
    seen = []
    user.register_step_pre_hook(lambda *_: seen.append("pre"))
    mine = AdamW.adopt(user)
    assert mine._step_supports_amp_scaling
    assert mine._finds_inf  # which torch's fused one does not
    for step in range(3):
        give_grads(ours, theirs, seed=step)
        mine.step()
        reference.step()
    assert seen == ["pre"] * 3
    assert_close(ours, theirs)


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_threads_do_not_change_a_bit(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERFOPT_NUM_THREADS", threads)
    ours = make_params([200_000, 70_000])
    optimizer = AdamW(ours, **OPTIONS, max_grad_norm=1.0)
    monkeypatch.setenv("PERFOPT_NUM_THREADS", "1")
    single = make_params([200_000, 70_000])
    other = AdamW(single, **OPTIONS, max_grad_norm=1.0)
    for step in range(3):
        give_grads(ours, single, seed=step)
        monkeypatch.setenv("PERFOPT_NUM_THREADS", threads)
        optimizer.step()
        monkeypatch.setenv("PERFOPT_NUM_THREADS", "1")
        other.step()
    assert snapshot(optimizer) == snapshot(other)


def test_objects_with_torchs_attributes_are_read_through_them() -> None:
    """Without the DLPack exchange API (older torch) the plan asks data_ptr(), dtype, shape, stride() and device."""

    class Plain:
        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor
            self.grad: Any = None

        def __getattr__(self, name: str) -> Any:
            if name in ("data_ptr", "stride", "dtype", "shape", "device"):
                return getattr(self.tensor, name)
            raise AttributeError(name)

    ours, theirs = make_params([9, 10]), make_params([9, 10])
    give_grads(ours, theirs, seed=0)
    optimizer = AdamW(theirs, **OPTIONS)
    optimizer.step()
    plain = [Plain(param.detach()) for param in ours]
    state = {}
    for wrapped, param in zip(plain, ours, strict=True):
        wrapped.grad = Plain(param.grad)
        zeros = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
        state[wrapped] = {key: Plain(value.detach()) for key, value in zeros.items()}
    groups = [{**optimizer.defaults, "params": plain}]
    plan = OptimizerPlan("adamw", groups, state)
    result = plan.step(groups, state, None, True)
    assert result is not None
    assert not result[1]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert len(plan.written()) == 6
    plain[1].tensor = plain[1].tensor.double()
    with pytest.raises(TypeError, match=r"params\[1\] \(shape \(10,\), dtype torch.float64"):
        plan.step(groups, state, None, True)
    plain[1].tensor = None
    with pytest.raises(TypeError, match=r"params\[1\] is a Plain; accepted: a torch.Tensor"):
        plan.step(groups, state, None, True)


def test_plan_refuses_wrong_containers() -> None:
    for groups, state, text in (
        ((), {}, "param_groups is a tuple; accepted: a list"),
        ([], [], "state is a list; accepted: a dict"),
        ([3], {}, r"param_groups\[0\] is no dict with a list under 'params'"),
        ([{"params": ()}], {}, r"param_groups\[0\] is no dict"),
        ([{"params": [3]}], {}, r"params\[0\] is a int; accepted: a torch.Tensor"),
    ):
        with pytest.raises(TypeError, match=text):
            OptimizerPlan("adamw", groups, state)  # type: ignore[arg-type]
    plan = OptimizerPlan("adamw", [], {})
    assert plan.step([], {}, None, True) == (0.0, False, 1.0)
    assert plan.step([{"params": []}], {}, None, True) is None
    with pytest.raises(TypeError, match="4 arguments"):
        plan.step([], {})  # type: ignore[call-arg]


def test_user_code_reached_by_a_step_cannot_start_another() -> None:
    params = make_params([3])
    optimizer = AdamW(params, **OPTIONS)
    give_grads(params, seed=0)
    optimizer.step()
    before = snapshot(optimizer)
    inner: list[str] = []

    class Lr:
        def __float__(self) -> float:
            try:
                optimizer.step()
            except RuntimeError as error:
                inner.append(str(error))
            return 0.1

    optimizer.param_groups[0]["lr"] = Lr()
    optimizer.step()
    assert inner == ["this optimizer is already in a step on another thread"]
    assert snapshot(optimizer) != before
    assert optimizer.state[params[0]]["step"].item() == 2.0

    class Clears:
        def __float__(self) -> float:
            optimizer.param_groups.clear()
            return 0.1

    optimizer.param_groups[0]["lr"] = Clears()
    optimizer.step()  # the plan is out of date then, the new one is empty
    assert optimizer.param_groups == []


def test_plans_are_collected_and_steps_leave_no_references() -> None:
    params = make_params([3, 4])
    optimizer = AdamW(params, **OPTIONS, max_grad_norm=1.0)
    give_grads(params, seed=0)
    optimizer.step()
    watched = [*params, params[0].grad, optimizer.state, optimizer.param_groups]
    watched += list(optimizer.state[params[0]].values())
    counts = [sys.getrefcount(item) for item in watched]
    for _ in range(2000):
        optimizer.step()
    bad = torch.ones(4).double()
    for _ in range(200):
        optimizer._plan = None
        optimizer.step()
        with pytest.raises(TypeError):
            OptimizerPlan("adamw", [{"params": [params[0], bad]}], {})
    assert counts == [sys.getrefcount(item) for item in watched]
    del watched
    grad = weakref.ref(params[0].grad)
    params[0].grad = None
    assert grad() is None  # the plan does not keep gradients between steps
    reference = weakref.ref(optimizer)
    param = weakref.ref(params[1])
    optimizer.state["self"] = {"optimizer": optimizer}  # a cycle through the plan
    optimizer._plan = OptimizerPlan("adamw", optimizer.param_groups, optimizer.state)
    del optimizer, params
    gc.collect()
    assert reference() is None
    assert param() is None


def test_two_threads_stepping_one_optimizer_are_told() -> None:
    params = make_params([2_000_000])
    optimizer = AdamW(params, lr=1e-3)
    give_grads(params, seed=0)
    optimizer.step()
    outcomes: list[str] = []

    def work() -> None:
        for _ in range(20):
            try:
                optimizer.step()
                outcomes.append("ok")
            except RuntimeError as error:
                outcomes.append("busy" if "already in a step" in str(error) else str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 40
    assert set(outcomes) <= {"ok", "busy"}
    assert optimizer.state[params[0]]["step"].item() == 1.0 + outcomes.count("ok")


def test_gradients_flagged_as_negated_count_as_what_they_mean() -> None:
    # What autograd gives a one-element parameter that is an imaginary part: a view flagged as negated, not a negated copy.
    weight = torch.tensor(0.5 + 2.0j)
    ours, theirs = ([torch.nn.Parameter(torch.tensor([1.0]))] for _ in range(2))
    optimizers = [AdamW(ours, lr=0.1), torch.optim.AdamW(theirs, lr=0.1)]
    for _ in range(3):
        for (param,), optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (torch.complex(torch.ones(1), param).conj() * weight).real.sum().backward()
            param.grad = torch._neg_view(-param.grad.resolve_neg())
            assert param.grad.is_neg()
            optimizer.step()
    assert_close(ours, theirs)
    assert ours[0].item() != pytest.approx(1.0, abs=0.1)


def plan_of_one() -> tuple[Any, list[dict[str, Any]], dict[Any, Any], OptimizerPlan]:
    """A parameter of ones with a gradient of ones, its group, state and plan."""
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    groups = [{"params": [param], "lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}]
    state = {param: {"step": torch.zeros(()), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}
    return param, groups, state, OptimizerPlan("adamw", groups, state)


def test_a_negated_gradient_that_cannot_be_zeroed_is_refused() -> None:
    param, groups, state, plan = plan_of_one()
    param.grad = torch._neg_view(torch.ones(3))
    with pytest.raises(ValueError, match=r"grads\[0\].*zero_grads"):
        plan.step(groups, state, None, True, zero_grads=True)
    assert torch.equal(param, torch.ones(3))
    assert torch.equal(param.grad, -torch.ones(3))


def test_betas_that_drop_themselves_while_they_are_read_are_read() -> None:
    _, groups, state, plan = plan_of_one()
    gone = []

    class Betas:
        def __iter__(self) -> Any:
            groups[0]["betas"] = (0.9, 0.999)
            return iter((0.9, 0.999))

        def __length_hint__(self) -> int:
            assert not gone, "let go while in use"
            return 2

        def __del__(self) -> None:
            gone.append(True)

    groups[0]["betas"] = Betas()
    assert plan.step(groups, state, None, True) is not None
    assert gone


def test_a_negated_parameter_is_refused() -> None:
    param = torch.nn.Parameter(torch._neg_view(torch.ones(3)))
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"params\[0\].*negated"):
        AdamW([param]).step()
    assert torch.equal(param, -torch.ones(3))


@pytest.mark.parametrize("which", ["param", "exp_avg"])
def test_storage_that_was_cut_is_refused(which: str) -> None:
    param = torch.nn.Parameter(torch.ones(1000))
    param.grad = torch.ones(1000)
    optimizer = AdamW([param])
    optimizer.step()
    victim = param if which == "param" else optimizer.state[param][which]
    victim.untyped_storage().resize_(400)
    with pytest.raises(
        ValueError, match=r"\[0\] \(shape \(1000,\), dtype float32\) has 400 bytes of storage; it needs 4000"
    ):
        optimizer.step()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_within_a_step_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    param = torch.nn.Parameter(torch.ones(8))
    optimizer = AdamW([param])
    entered, leave = threading.Event(), threading.Event()

    def held() -> None:
        entered.set()
        leave.wait(60)

    monkeypatch.setattr(optimizer, "_step_once", held)
    thread = threading.Thread(target=optimizer.step)
    thread.start()
    try:
        assert entered.wait(60)
        child = os.fork()
        if child == 0:
            try:
                optimizer.step()
            except RuntimeError as error:
                os._exit(0 if "forked while another thread was in a step" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        leave.set()
        thread.join()


def test_a_first_step_without_memory_leaves_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_params([8, 9])
    optimizer = AdamW(params)
    give_grads(params, seed=0)
    real, calls = torch.zeros_like, []

    def scarce(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise MemoryError("no memory for a moment")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "zeros_like", scarce)
    with pytest.raises(MemoryError, match="no memory for a moment"):
        optimizer.step()
    assert not optimizer.state
    optimizer.step()
    assert {entry["step"].item() for entry in optimizer.state.values()} == {1.0}


def test_an_interrupt_after_the_first_step_keeps_the_state_of_that_step(monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_params([8, 9])
    optimizer = AdamW(params)
    give_grads(params, seed=0)
    real = optimizer._step_plan

    def interrupted(*args: Any) -> Any:
        if real(*args) is not None:
            raise KeyboardInterrupt  # where Python delivers a signal that came while the kernels ran

    monkeypatch.setattr(optimizer, "_step_plan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert [optimizer.state[param]["step"].item() for param in params] == [1.0, 1.0]
    monkeypatch.undo()
    optimizer.step()
    assert [optimizer.state[param]["step"].item() for param in params] == [2.0, 2.0]


def test_a_thread_that_comes_during_the_first_step_is_told_and_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_params([8, 9])
    optimizer = AdamW(params)
    give_grads(params, seed=0)
    real = optimizer._make_plan
    told: list[str] = []

    def second_step() -> None:
        try:
            optimizer.step()
        except RuntimeError as error:
            told.append(str(error))

    def slow(*args: Any) -> Any:
        monkeypatch.undo()
        thread = threading.Thread(target=second_step)
        thread.start()
        thread.join()
        return real(*args)

    monkeypatch.setattr(optimizer, "_make_plan", slow)
    optimizer.step()
    assert told == ["this optimizer is already in a step on another thread"]
    assert [optimizer.state[param]["step"].item() for param in params] == [1.0, 1.0]


@pytest.mark.parametrize("bound", ["1", [1.0]])
def test_a_bound_of_the_wrong_kind_is_named(bound: Any) -> None:
    with pytest.raises(TypeError, match="max_grad_norm="):
        AdamW(make_params([1]), max_grad_norm=bound)
