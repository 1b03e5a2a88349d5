"""The low-precision copy of float32 weights: right after whatever may happen to parameters and state, and in no checkpoint."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optim_cases import CASES, IDS, Case, bits_of, give_grads, make_params  # noqa: E402

from perfopt import amp, optim  # noqa: E402
from perfopt._train import OptimizerPlan  # noqa: E402

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)
every_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
FEW = [7, 300, 1025]


def copies_of(optimizer: Any) -> list[Any]:
    return list(optimizer.low_precision_parameters())


def assert_right(copies: list[Any], params: list[Any], dtype: Any = torch.bfloat16) -> None:
    for kept, param in zip(copies, params, strict=True):
        assert kept.dtype == dtype
        assert not kept.requires_grad
        assert torch.equal(kept, param.detach().to(dtype))


@every_case
@every_dtype
def test_steps_leave_copies_right_and_change_nothing_else(case: Case, dtype: Any) -> None:
    ours, plain = make_params(), make_params()
    mine = case.ours(ours, **case.options, max_grad_norm=1.0, low_precision_copy=dtype)
    other = case.ours(plain, **case.options, max_grad_norm=1.0)
    copies = copies_of(mine)
    assert_right(copies, ours, dtype)
    for step in range(4):
        give_grads(ours, plain, seed=step, missing=(6,) if step < 2 else ())
        before = [kept.clone() for kept in copies]
        mine.step()
        other.step()
        assert_right(copies, ours, dtype)
        moved = [not torch.equal(kept, was) for kept, was in zip(copies, before, strict=True)]
        assert moved[6:] == [step >= 2, True, True, True]
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a, b)
        for key, value in other.state[b].items():
            assert torch.equal(mine.state[a][key], value)


@every_case
def test_copies_go_with_all_other_options(case: Case) -> None:
    ours, plain = make_params(sizes=FEW), make_params(sizes=FEW)
    options: dict[str, Any] = {"state_bits": 8, "ema": 0.9, "zero_grads": True, "stochastic_rounding": True, "seed": 3}
    mine = case.ours(ours, **case.options, **options, low_precision_copy=torch.bfloat16)
    other = case.ours(plain, **case.options, **options)
    for step in range(3):
        give_grads(ours, plain, seed=step)
        mine.step()
        other.step()
        assert_right(copies_of(mine), ours)  # to nearest, whatever else is rounded at random
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(mine.state[a]["ema"], other.state[b]["ema"])


BITS = """
import hashlib, torch
from perfopt import _core, optim
generator = torch.Generator().manual_seed(0)
params = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (1, 33, 1025, 65537, 300000)]
optimizer = optim.AdamW(params, lr=1e-2, max_grad_norm=1.0, low_precision_copy=torch.bfloat16)
for _ in range(3):
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    optimizer.step()
copies = list(optimizer.low_precision_parameters())
assert all(torch.equal(c, p.detach().bfloat16()) for c, p in zip(copies, params))
held = torch.cat(copies).view(torch.uint8).numpy().tobytes()
print(_core.cpu_info()["variant"], hashlib.sha256(held).hexdigest())
"""


def test_every_variant_and_number_of_threads_writes_the_same_bits() -> None:
    digests = set()
    for variant, threads in [("scalar", 1), ("scalar", 8), ("avx2", 2), ("avx512", 3), ("neon", 5)]:
        environment = {**os.environ, "PERFOPT_CPU": variant, "PERFOPT_NUM_THREADS": str(threads)}
        run = subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, text=True)
        if run.returncode != 0 and f"PERFOPT_CPU={variant}, but" in run.stderr:
            continue  # this processor has no such variant
        assert run.returncode == 0, run.stderr
        used, digest = run.stdout.split()
        assert used == variant
        digests.add(digest)
    assert len(digests) == 1


def test_only_float32_parameters_of_groups_that_want_one_have_a_copy() -> None:
    params = [*make_params(sizes=[5, 6]), *make_params(torch.float16, [7])]
    groups = [{"params": [params[0], params[2]]}, {"params": params[1:2], "low_precision_copy": None}]
    optimizer = optim.AdamW(groups, low_precision_copy=torch.bfloat16, master_weights=True)
    give_grads(params, seed=0)
    optimizer.step()
    copies = copies_of(optimizer)
    assert [kept.dtype for kept in copies] == [torch.bfloat16, torch.float16, torch.float32]
    assert copies[1].data_ptr() == params[2].data_ptr()
    assert copies[2].data_ptr() == params[1].data_ptr()
    assert ["low_precision_copy" in optimizer.state[param] for param in params] == [True, False, False]
    with pytest.raises(RuntimeError, match="no copies are kept; make the optimizer with low_precision_copy="):
        optim.AdamW(params).low_precision_parameters()


@every_case
def test_a_skipped_step_changes_no_copy_and_a_first_one_leaves_no_state(case: Case) -> None:
    params = make_params(sizes=FEW)
    optimizer = case.ours(params, **case.options, low_precision_copy=torch.bfloat16)
    give_grads(params, seed=0)
    params[1].grad[0] = float("nan")
    before = bits_of(optimizer)
    optimizer.step()
    assert bits_of(optimizer) == before
    copies = copies_of(optimizer)
    optimizer.step()
    assert optimizer.skipped_steps == 2
    assert all(a is b for a, b in zip(copies_of(optimizer), copies, strict=True))
    give_grads(params, seed=1)
    optimizer.step()
    assert all(a is b for a, b in zip(copies_of(optimizer), copies, strict=True))
    assert_right(copies, params)
    scaler = amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(torch.ones(()))
    params[0].grad[0] = float("inf")
    before = bits_of(optimizer)
    scaler.step(optimizer)
    assert bits_of(optimizer) == before
    assert_right(copies, params)


def test_a_group_that_comes_later_gets_its_copies() -> None:
    params = make_params(sizes=FEW)
    optimizer = optim.SGD(params[:1], lr=0.1, low_precision_copy=torch.bfloat16)
    first = copies_of(optimizer)
    optimizer.add_param_group({"params": params[1:2]})
    optimizer.add_param_group({"params": params[2:], "low_precision_copy": torch.float16})
    copies = copies_of(optimizer)
    assert copies[0] is first[0]
    for step in range(2):
        give_grads(params, seed=step)
        optimizer.step()
    assert_right(copies[:2], params[:2])
    assert_right(copies[2:], params[2:], torch.float16)
    with pytest.raises(ValueError, match=r"low_precision_copy=torch\.float64; accepted: None, torch\.bfloat16 or"):
        optimizer.add_param_group({"params": make_params(sizes=[3]), "low_precision_copy": torch.float64})


@pytest.mark.parametrize("given", [torch.float32, "bfloat16", True])
def test_other_dtypes_are_refused(given: Any) -> None:
    with pytest.raises(
        ValueError, match=f"low_precision_copy={given!r}; accepted: None, torch.bfloat16 or torch.float16"
    ):
        optim.AdamW(make_params(sizes=[3]), low_precision_copy=given)


@every_case
def test_what_else_changes_parameters_is_seen_where_torch_tells(case: Case) -> None:
    params = make_params(sizes=FEW)
    optimizer = case.ours(params, **case.options, low_precision_copy=torch.bfloat16)
    for step in range(2):
        give_grads(params, seed=step)
        optimizer.step()
    copies = copies_of(optimizer)
    with torch.no_grad():
        params[0].mul_(2.0)
    assert not torch.equal(copies[0], params[0].detach().bfloat16())
    untouched = copies[1]._version
    assert all(a is b for a, b in zip(copies_of(optimizer), copies, strict=True))
    assert copies[1]._version == untouched  # written only where something changed
    assert_right(copies, params)
    params[2].data.mul_(3.0)
    give_grads(params, seed=2, missing=(0, 1))
    optimizer.step()
    assert_right(copies, params)
    params[2].data.mul_(3.0)
    with torch.no_grad():
        params[1].add_(1.0)
    list(optimizer.low_precision_parameters(refresh=True))
    assert_right(copies, params)
    params[0].data = torch.ones(9)
    for key in {*optimizer.state[params[0]]} - {"step", "low_precision_copy"}:
        optimizer.state[params[0]][key] = torch.zeros(9)
    replaced = copies_of(optimizer)
    assert replaced[0].shape == (9,)
    params[0].grad = torch.ones(9)
    optimizer.step()
    assert_right(replaced, params)


def test_a_change_is_not_hidden_by_steps_of_others() -> None:
    params = make_params(sizes=[20] * 300)  # state of so many is cut from shared buffers, with one counter
    optimizer = optim.AdamW(params, low_precision_copy=torch.bfloat16)
    give_grads(params, seed=0)
    optimizer.step()
    copies = copies_of(optimizer)
    assert optimizer.state[params[0]]["exp_avg"]._base is not None
    with torch.no_grad():
        params[5].add_(1.0)
    give_grads(params, seed=1, missing=(5,))
    optimizer.step()
    assert_right(copies_of(optimizer), params)
    assert all(a is b for a, b in zip(copies_of(optimizer), copies, strict=True))


def test_copies_asked_for_first_leave_small_state_in_shared_buffers() -> None:
    params = make_params(sizes=[20] * 300)
    optimizer = optim.AdamW(params, low_precision_copy=torch.bfloat16)
    copies_of(optimizer)
    give_grads(params, seed=0)
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg"]._base is not None


def test_averages_are_copied_while_they_are_the_weights() -> None:
    params = make_params(sizes=FEW)
    optimizer = optim.AdamW(params, lr=0.1, ema=0.9, low_precision_copy=torch.bfloat16)
    for step in range(2):
        give_grads(params, seed=step)
        optimizer.step()
    with optimizer.ema_weights():
        assert_right(copies_of(optimizer), list(optimizer.ema_parameters()))
    assert_right(copies_of(optimizer), params)


def test_copies_can_be_asked_for_in_inference_mode() -> None:
    params = make_params(sizes=FEW)
    optimizer = optim.AdamW(params, low_precision_copy=torch.bfloat16)
    with torch.inference_mode():
        copies = copies_of(optimizer)
    give_grads(params, seed=0)
    optimizer.step()
    assert_right(copies, params)


def test_parameters_made_in_inference_mode_have_copies() -> None:
    with torch.inference_mode():
        params = make_params(sizes=FEW)
    optimizer = optim.AdamW(params, lr=0.1, low_precision_copy=torch.bfloat16)
    copies = copies_of(optimizer)
    for step in range(2):
        give_grads(params, seed=step)
        optimizer.step()
        assert_right(copies, params)
    with torch.inference_mode():
        params[0].mul_(2.0)
    assert all(a is b for a, b in zip(copies_of(optimizer), copies, strict=True))
    assert_right(copies, params)


@every_case
def test_checkpoints_have_no_copies_and_loading_makes_them_right(case: Case) -> None:
    ours, plain = make_params(sizes=FEW), make_params(sizes=FEW)
    mine = case.ours(ours, **case.options, low_precision_copy=torch.bfloat16)
    other = case.ours(plain, **case.options)
    copies = copies_of(mine)
    assert mine.state_dict()["state"].keys() == other.state_dict()["state"].keys()
    for step in range(2):
        give_grads(ours, plain, seed=step, missing=(1,))
        mine.step()
        other.step()
    saved, wanted = mine.state_dict(), other.state_dict()
    assert saved["param_groups"] == wanted["param_groups"]
    for form in (saved, mine.torch_state_dict()):
        assert form["state"].keys() == wanted["state"].keys()
        assert all(form["state"][key].keys() == entry.keys() for key, entry in wanted["state"].items())
    for param in ours:
        param.data.add_(1.0)  # as unseen as a change can be
    mine.load_state_dict(copy.deepcopy(wanted))
    assert_right(copies, ours)
    assert mine.param_groups[0]["low_precision_copy"] == torch.bfloat16
    give_grads(ours, seed=2)
    mine.step()
    assert_right(copies, ours)
    assert all(a is b for a, b in zip(copies_of(mine), copies, strict=True))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_of_the_optimizer_have_their_own(copier: Callable[[Any], Any]) -> None:
    params = make_params(sizes=FEW)
    optimizer = optim.AdamW(params, low_precision_copy=torch.bfloat16)
    give_grads(params, seed=0)
    optimizer.step()
    copies = copies_of(optimizer)
    params[0].data.add_(1.0)
    twin = copier(optimizer)
    held = [param for group in twin.param_groups for param in group["params"]]
    assert_right(copies_of(twin), held)
    give_grads(held, seed=1)
    twin.step()
    assert_right(copies_of(twin), held)
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(copies_of(twin), copies, strict=True))


def test_memory_order_is_that_of_the_parameter() -> None:
    param = torch.nn.Parameter(torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last))
    optimizer = optim.AdamW([param], low_precision_copy=torch.bfloat16)
    for step in range(2):
        param.grad = torch.randn_like(param) + step
        optimizer.step()
        assert_right(copies_of(optimizer), [param])
    assert copies_of(optimizer)[0].stride() == param.stride()


def test_autograd_is_told_that_a_step_writes_the_copy() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([param], lr=0.1, low_precision_copy=torch.bfloat16)
    (kept,) = optimizer.low_precision_parameters()
    factor = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    product = (factor * kept).sum()
    param.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_the_plan_takes_a_copy_or_a_master_and_names_what_it_refuses() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    groups = [{"params": [param], "lr": 0.1, "momentum": 0, "dampening": 0, "weight_decay": 0}]
    state = {param: {"low_precision_copy": torch.ones(3, dtype=torch.bfloat16)}}
    plan = OptimizerPlan("sgd", groups, state)
    param.grad = torch.ones(3)
    assert plan.step(groups, state, None, True) is not None
    assert [id(tensor) for tensor in plan.written()] == [id(param), id(state[param]["low_precision_copy"])]
    refused: list[tuple[dict[str, Any], Any, str]] = [
        ({"low_precision_copy": torch.ones(4)}, ValueError, r"low_precision_copies\[0\].*shape and memory order"),
        (
            {"low_precision_copy": torch.ones(3).double()},
            TypeError,
            r"low_precision_copies\[0\].*accepted: float32, bf",
        ),
        ({"low_precision_copy": param.detach()}, ValueError, r"params\[0\] and copies\[0\] share memory"),
        (
            {"low_precision_copy": torch.ones(3), "master_weight": torch.ones(3)},
            ValueError,
            r"master_weights\[0\].*the parameter of a master is its copy; accepted: one of the two",
        ),
    ]
    for entry, exception, text in refused:
        with pytest.raises(exception, match=text):
            OptimizerPlan("sgd", groups, {param: entry})


def test_a_parameter_that_waits_for_its_state_may_have_its_copy_already() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    groups = [{**optim.AdamW([param]).param_groups[0], "params": [param]}]
    state = {param: {"low_precision_copy": torch.ones(3, dtype=torch.bfloat16)}}
    plan = OptimizerPlan("adamw", groups, state)
    assert plan.step(groups, state, None, True) is not None
    param.grad = torch.ones(3)
    assert plan.step(groups, state, None, True) is None
