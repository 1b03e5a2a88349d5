"""Taking over torch's optimizers in the middle of a run: each twin, its options, groups, schedulers, checkpoints, dtypes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from optim_cases import CASES, Case, LionReference, give_grads, make_params

from perfopt import optim
from perfopt.amp import GradScaler

TWINS = [case for case in CASES if case.twin is not LionReference]
ALL_TWINS = pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)


def twins_of(
    case: Case, sizes: list[Any], dtype: Any = torch.float32, **options: Any
) -> tuple[list[Any], Any, list[Any], Any]:
    """Two models of two groups with a learning rate each, with torch's optimizer for both."""
    made = []
    for _ in range(2):
        params = make_params(dtype, sizes)
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03, "weight_decay": 0.2}]
        made += [params, case.twin(groups, **{"foreach": False, **case.options, **options})]
    return made[0], made[1], made[2], made[3]


def assert_close(params: list[Any], others: list[Any], rtol: float = 3e-6, atol: float = 3e-6) -> None:
    for param, other in zip(params, others, strict=True):
        torch.testing.assert_close(param, other, rtol=rtol, atol=atol)


@ALL_TWINS
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_run_goes_on_as_torchs_would(case: Case, steps_before: int) -> None:
    ours, user, theirs, reference = twins_of(case, [5, 33, 1000, (4, 7)])
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5) for optimizer in (user, reference)]
    for step in range(steps_before):
        give_grads(ours, theirs, seed=step)
        user.step()
        reference.step()
    state = dict(user.state)
    mine = optim.adopt(user)
    assert type(mine) is case.ours
    assert mine.param_groups is user.param_groups
    assert mine.state is user.state
    assert dict(mine.state) == state  # nothing has been made or changed yet
    for step in range(10, 16):
        give_grads(ours, theirs, seed=step, missing=(1,) if step < 12 else ())
        if step == 13:  # a group's options may change at any time
            for optimizer in (user, reference):
                optimizer.param_groups[1]["weight_decay"] = 0.05
        if step == 14:  # and a checkpoint may be loaded, into the object the user knows or into ours
            user.load_state_dict(copy.deepcopy(user.state_dict()))
        if step == 15:
            mine.load_state_dict(copy.deepcopy(mine.state_dict()))
            assert user.state is mine.state
        mine.step()
        reference.step()
        for scheduler in schedulers:
            scheduler.step()
    assert user.param_groups[1]["lr"] == reference.param_groups[1]["lr"] < 0.03
    assert_close(ours, theirs)
    for param, other in zip(ours, theirs, strict=True):
        assert user.state[param].keys() == reference.state[other].keys()
        for key, value in reference.state[other].items():
            torch.testing.assert_close(user.state[param][key], value, rtol=1e-5, atol=1e-5)
    give_grads(ours, theirs, seed=20)
    user.step()  # torch's own goes on from there
    reference.step()
    assert_close(ours, theirs)


@ALL_TWINS
def test_clipping_and_scaling_are_inside_the_adopted_step(case: Case) -> None:
    ours, user, theirs, reference = twins_of(case, [5, 33, 1000])
    mine = optim.adopt(user, max_grad_norm=1.0)
    scaler, plain = GradScaler("cpu", init_scale=8.0), torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(3):
        give_grads(ours, theirs, seed=step)
        scaler.scale(torch.zeros(1)), plain.scale(torch.zeros(1))
        if step == 1:
            ours[0].grad[0] = theirs[0].grad[0] = torch.inf
        scaler.step(mine)
        plain.unscale_(reference)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        plain.step(reference)
        scaler.update(), plain.update()
    assert mine.skipped_steps == 1
    assert scaler.get_scale() == plain.get_scale() == 4.0
    assert_close(ours, theirs)


@pytest.mark.parametrize("case", [case for case in TWINS if case.name.startswith("Adam")], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_of_a_fused_adam_keep_their_bits(case: Case, dtype: Any) -> None:
    ours, user, theirs, reference = twins_of(case, [5, 33, 1000], dtype, foreach=None, fused=True)
    give_grads(ours, theirs, seed=0)
    user.step()
    reference.step()
    mine = optim.adopt(user)
    for step in range(1, 8):
        give_grads(ours, theirs, seed=step)
        mine.step()
        reference.step()
    different = sum(int((param != other).sum()) for param, other in zip(ours, theirs, strict=True))
    assert different <= 3  # torch contracts to FMA what is two roundings here: that may fall on the other side of a tie
    assert_close(ours, theirs, rtol=2**-7, atol=1e-6)
    for param in ours:
        assert user.state[param]["exp_avg"].dtype == dtype


@ALL_TWINS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_that_torch_rounds_otherwise_are_refused(case: Case, dtype: Any) -> None:
    params = make_params(dtype, [4])
    text = rf"params\[0\] has dtype {dtype}, and this optimizer rounds every operation to it.*accepted: "
    with pytest.raises(ValueError, match=text + ("torch.float32, or" if "Adam" in case.name else "float32$")):
        optim.adopt(case.reference(params))
    if case.name.split("-")[0] in ("SGD", "Adagrad"):
        with pytest.raises(ValueError, match=text + "float32$"):
            optim.adopt(case.twin(params, **case.options, fused=True))


@ALL_TWINS
def test_what_cannot_be_taken_over_says_why_and_stays_as_it_was(case: Case) -> None:
    ours, user, theirs, reference = twins_of(case, [5, 33, 8])
    give_grads(ours, theirs, seed=0)
    user.step(), reference.step()
    first = ours[0]
    for entry in user.state.values():
        if "step" in entry:
            entry["step"] = float(entry["step"])  # as old checkpoints have it
    kept = {param: dict(entry) for param, entry in user.state.items()}
    class_of_user = type(user)
    refusals: list[tuple[Any, str]] = [
        (lambda: user.param_groups[1].update(differentiable=True), r"param_groups\[1\]\['differentiable'\] is true"),
        (lambda: user.param_groups[0].update(capturable=True), r"param_groups\[0\]\['capturable'\] is true"),
    ]
    for change, text in refusals:
        before = [dict(group) for group in user.param_groups]
        change()
        with pytest.raises(ValueError, match=text):
            optim.adopt(user)
        for group, was in zip(user.param_groups, before, strict=True):
            group.clear()
            group.update(was)
    user.param_groups[0]["params"].append(first.detach()[:2])
    with pytest.raises(ValueError, match="share memory"):
        optim.adopt(user)
    user.param_groups[0]["params"].pop()
    assert type(user) is class_of_user
    assert {param: dict(entry) for param, entry in user.state.items()} == kept
    optim.adopt(user)


def test_other_classes_are_named() -> None:
    class Mine(torch.optim.Adam):
        pass

    params = make_params(sizes=[3])
    names = "AdamW, Adam, SGD, Adagrad, RMSprop"
    for optimizer, kind in [
        (torch.optim.NAdam(params), "torch.optim.nadam.NAdam"),
        (Mine(params), "Mine"),
        (optim.Lion(params), "perfopt.optim.lion.Lion"),
        (3, "builtins.int"),
    ]:
        with pytest.raises(
            ValueError, match=rf"optimizer is a .*{kind}; accepted: exactly one of torch.optim's {names}"
        ):
            optim.adopt(optimizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"accepted: exactly torch\.optim\.SGD"):
        optim.SGD.adopt(torch.optim.Adam(params))
    with pytest.raises(ValueError, match="max_grad_norm=-1; accepted: None or a number >= 0"):
        optim.adopt(torch.optim.Adam(params), max_grad_norm=-1)
    with pytest.raises(TypeError, match="max_grad_norm='1'"):
        optim.adopt(torch.optim.Adam(params), max_grad_norm="1")  # type: ignore[arg-type]


@ALL_TWINS
def test_adopted_optimizers_can_be_pickled_and_meet_sparse_gradients_by_name(case: Case) -> None:
    ours, user, theirs, reference = twins_of(case, [5, 33, 8])
    mine = optim.adopt(user)
    give_grads(ours, theirs, seed=0)
    mine.step(), reference.step()
    again = pickle.loads(pickle.dumps(mine))
    held = [param for group in again.param_groups for param in group["params"]]
    give_grads(held, theirs, seed=1)
    again.step(), reference.step()
    assert_close(held, theirs)
    before = ours[0].detach().clone()
    ours[0].grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1), (5,))
    with pytest.raises(ValueError, match=r"grads\[0\].*sparse.*accepted: dense"):
        mine.step()
    assert torch.equal(before, ours[0])
