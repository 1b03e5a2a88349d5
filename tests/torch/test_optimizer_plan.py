"""OptimizerPlan by operation: torch's optimizers followed from the same state, and what a parameter's state may hold besides."""

from __future__ import annotations

import struct
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt._train import OptimizerPlan  # noqa: E402

SIZES = [0, 1, 7, 33, 1000, 65537]
# Contraction to FMA makes a difference of some units in the last place, more where a denominator is small.
CLOSE = {"rtol": 1e-5, "atol": 5e-6}

TWINS = [
    ("adam", torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.1}),
    ("adam", torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("adam", torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("adamw", torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.3, 0.9)}),
    ("adamw", torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True}),
    ("sgd", torch.optim.SGD, {"lr": 1e-2}),
    ("sgd", torch.optim.SGD, {"lr": 1e-2, "weight_decay": 0.1, "maximize": True}),
    ("sgd", torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "dampening": 0.3}),
    ("sgd", torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("adagrad", torch.optim.Adagrad, {"lr": 1e-2, "lr_decay": 0.1, "weight_decay": 0.1}),
    ("adagrad", torch.optim.Adagrad, {"lr": 1e-2, "maximize": True, "initial_accumulator_value": 0.5}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 1e-3}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 1e-3, "centered": True, "maximize": True}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 1e-3, "centered": True, "momentum": 0.5}),
]


def make_params(dtype: Any = None, sizes: list[int] = SIZES) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in sizes]


def give_grads(*models: list[Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for params in zip(*models, strict=True):
        grad = torch.randn(params[0].shape, generator=generator)
        for param in params:
            param.grad = grad.to(param.dtype)


def copied(state: dict[Any, Any], params: list[Any], own: list[Any]) -> dict[Any, Any]:
    """The state of torch's parameters, for ours."""
    return {
        mine: {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state[p].items()}
        for p, mine in zip(params, own, strict=True)
        if p in state
    }


@pytest.mark.parametrize(("operation", "twin", "options"), TWINS)
def test_steps_follow_torch_from_its_own_state(operation: str, twin: Any, options: dict[str, Any]) -> None:
    ours, theirs = make_params(), make_params()
    reference = twin(theirs, **options, foreach=False)
    give_grads(theirs, ours, seed=0)
    reference.step()
    for mine, param in zip(ours, theirs, strict=True):
        mine.data.copy_(param.data)
    state = copied(reference.state, theirs, ours)
    groups = [{**reference.param_groups[0], "params": ours}]
    plan = OptimizerPlan(operation, groups, state)
    for step in range(1, 6):
        give_grads(ours, theirs, seed=step)
        result = plan.step(groups, state, None, True)
        reference.step()
        assert result is not None
        assert not result[1]
    for mine, param in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, param, **CLOSE)
        for key, value in reference.state[param].items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(state[mine][key], value, **CLOSE)
    assert len(plan.written()) == sum(
        1 + sum(isinstance(v, torch.Tensor) and k != "step" for k, v in state.get(p, {}).items()) for p in ours
    )


def test_the_first_step_of_a_momentum_buffer_is_the_gradient() -> None:
    ours, theirs = make_params(), make_params()
    reference = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, dampening=0.5)
    groups = [{**reference.param_groups[0], "params": ours}]
    state = {param: {"momentum_buffer": torch.full_like(param, float("nan")).detach()} for param in ours}
    plan = OptimizerPlan("sgd", groups, state, fresh=set(ours))
    for step in range(3):
        give_grads(ours, theirs, seed=step)
        assert plan.step(groups, state, None, True) is not None
        reference.step()
    for mine, param in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, param, **CLOSE)
        torch.testing.assert_close(state[mine]["momentum_buffer"], reference.state[param]["momentum_buffer"], **CLOSE)


def test_lion_follows_the_paper() -> None:
    ours = make_params(sizes=[1000])
    groups = [{"params": ours, "lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1, "maximize": False}]
    moment = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    state = {ours[0]: {"exp_avg": moment.clone()}}
    give_grads(ours, seed=1)
    before, grad = ours[0].detach().double(), ours[0].grad.double()
    OptimizerPlan("lion", groups, state).step(groups, state, None, True)
    direction = torch.sign(0.9 * moment.double() + 0.1 * grad)
    torch.testing.assert_close(ours[0].detach().double(), before * (1 - 1e-3) - 1e-2 * direction, rtol=0, atol=1e-6)
    torch.testing.assert_close(state[ours[0]]["exp_avg"].double(), 0.99 * moment + 0.01 * grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masters_averages_and_zeroed_gradients_come_with_the_step(dtype: Any) -> None:
    ours, masters = make_params(dtype), [p.detach().float() for p in make_params(dtype)]
    theirs = [torch.nn.Parameter(master.clone()) for master in masters]
    reference = torch.optim.AdamW(theirs, lr=1e-2)
    groups = [{**reference.param_groups[0], "params": ours}]
    state = {
        param: {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(master),
            "exp_avg_sq": torch.zeros_like(master),
            "master_weight": master,
            "ema": master.clone(),
        }
        for param, master in zip(ours, masters, strict=True)
    }
    averages = [master.clone() for master in masters]
    plan = OptimizerPlan("adamw", groups, state)
    for step in range(4):
        give_grads(ours, seed=step)
        for mine, param in zip(ours, theirs, strict=True):
            param.grad = mine.grad.float() / 4
        assert plan.step(groups, state, None, True, grad_scale=torch.tensor(4.0), ema_decay=0.9, zero_grads=True)
        reference.step()
        for average, param in zip(averages, theirs, strict=True):
            average.lerp_(param.detach(), 0.1)
        assert all(not mine.grad.any() for mine in ours)
    for mine, param, average in zip(ours, theirs, averages, strict=True):
        torch.testing.assert_close(state[mine]["master_weight"], param.detach(), **CLOSE)
        assert torch.equal(mine.detach(), state[mine]["master_weight"].to(dtype))
        torch.testing.assert_close(state[mine]["ema"], average, **CLOSE)


def test_state_in_eight_bits_follows_at_a_distance_and_takes_a_quarter() -> None:
    ours, theirs = make_params(sizes=[1000]), make_params(sizes=[1000])
    reference = torch.optim.AdamW(theirs, lr=1e-3)
    groups = [{**reference.param_groups[0], "params": ours}]

    def eight_bit(key: str) -> dict[str, Any]:
        return {key: torch.zeros(1000, dtype=torch.uint8), f"{key}_scale": torch.zeros(4)}

    state = {ours[0]: {"step": torch.zeros(()), **eight_bit("exp_avg"), **eight_bit("exp_avg_sq")}}
    plan = OptimizerPlan("adamw", groups, state)
    for step in range(20):
        give_grads(ours, theirs, seed=step)
        assert plan.step(groups, state, None, True, seed=1, rounding_step=step) is not None
        reference.step()
    moved = (theirs[0].detach() - make_params(sizes=[1000])[0]).abs().mean()
    assert (ours[0] - theirs[0]).abs().mean() < 0.2 * moved
    state[ours[0]]["exp_avg_scale"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"state scales\[0\] \(shape \(5,\).*one scale for each 256 elements"):
        OptimizerPlan("adamw", groups, state)
    del state[ours[0]]["exp_avg_scale"]
    with pytest.raises(ValueError, match=r"the scales of exp_avgs\[0\] have no aligned memory"):
        OptimizerPlan("adamw", groups, state)


def test_found_inf_of_any_size_skips_the_step() -> None:
    ours = make_params()
    groups = [{"params": ours, "lr": 0.1, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False}]
    groups[0]["maximize"] = False
    plan = OptimizerPlan("sgd", groups, {})
    give_grads(ours, seed=0)
    before = [param.detach().clone() for param in ours]
    for found in (2.0, torch.tensor(1.0), -1.0, float("nan")):
        result = plan.step(groups, {}, None, False, found_inf=found)
        assert result is not None
        assert result[1]
        assert all(torch.equal(a, b) for a, b in zip(ours, before, strict=True))
    result = plan.step(groups, {}, None, False, found_inf=torch.zeros(1))
    assert result is not None
    assert not result[1]
    assert not torch.equal(ours[4], before[4])


def test_gradients_are_divided_by_their_scale_first() -> None:
    ours, theirs = make_params(), make_params()
    plain = [{"params": ours, "lr": 0.1, "momentum": 0, "dampening": 0, "weight_decay": 0.1}]
    scaled = [{**plain[0], "params": theirs}]
    give_grads(ours, theirs, seed=0)
    for param in theirs:
        param.grad = 4.0 * param.grad
    wanted = OptimizerPlan("sgd", plain, {}).step(plain, {}, 1.0, True)
    assert OptimizerPlan("sgd", scaled, {}).step(scaled, {}, 1.0, True, grad_scale=4.0) == wanted
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))  # a power of two: bit by bit


def test_stochastic_rounding_is_a_function_of_seed_and_step() -> None:
    def trained(seed: int, first: int = 0) -> bytes:
        ours = make_params(torch.bfloat16, sizes=[3000])
        groups = [{"params": ours, "lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0}]
        plan = OptimizerPlan("sgd", groups, {})
        for step in range(3):
            give_grads(ours, seed=step)
            assert plan.step(groups, {}, None, True, stochastic_rounding=True, seed=seed, rounding_step=first + step)
        return struct.pack("3000h", *ours[0].detach().view(torch.int16).tolist())

    assert trained(1) == trained(1)
    assert trained(1) != trained(2)
    assert trained(1) != trained(1, first=10)


def test_options_that_want_other_state_make_the_plan_stale() -> None:
    ours = make_params(sizes=[5])
    groups: list[dict[str, Any]] = [{"params": ours, "lr": 0.1, "momentum": 0, "dampening": 0, "weight_decay": 0}]
    plan = OptimizerPlan("sgd", groups, {})
    give_grads(ours, seed=0)
    assert plan.step(groups, {}, None, True) is not None
    groups[0]["momentum"] = 0.9
    assert plan.step(groups, {}, None, True) is None
    waiting = OptimizerPlan("sgd", groups, {})
    assert waiting.step(groups, {}, None, True) is None  # has a gradient and no buffer yet
    ours[0].grad = None
    assert waiting.step(groups, {}, None, True) is not None


@pytest.mark.parametrize(
    ("arguments", "exception", "text"),
    [
        ({"grad_scale": 0.0}, ValueError, r"grad_scale=0.0; accepted: None or a finite number > 0"),
        ({"grad_scale": float("inf")}, ValueError, "grad_scale=inf"),
        ({"ema_decay": 1.5}, ValueError, r"ema_decay=1.5; accepted: None or a number from 0 to 1"),
        ({"rounding_step": 2**30}, ValueError, r"rounding_step=1073741824; accepted: up to 1073741823"),
        ({"seed": -1}, OverflowError, "negative"),
        ({"found_inf": "no"}, TypeError, "must be real number"),
        ({"zero": 1}, TypeError, r"unexpected keyword argument 'zero'"),
    ],
)
def test_requests_out_of_range_are_named(arguments: dict[str, Any], exception: Any, text: str) -> None:
    plan = OptimizerPlan("lion", [], {})
    with pytest.raises(exception, match=text):
        plan.step([], {}, None, True, **arguments)


def test_operations_and_sets_of_the_wrong_kind_are_named() -> None:
    with pytest.raises(ValueError, match="operation='adammax'; accepted: 'adamw', 'adam', 'sgd'"):
        OptimizerPlan("adammax", [], {})
    with pytest.raises(TypeError, match="fresh is a list; accepted: a set or None"):
        OptimizerPlan("sgd", [], {}, [])  # type: ignore[arg-type]


def test_a_gradient_that_moves_other_tensors_while_it_is_read_is_seen() -> None:
    old, new = torch.zeros(5), torch.zeros(5)

    class Reading(torch.nn.Parameter):  # type: ignore[misc]
        """Has a gradient that moves the parameter before it."""

        @property
        def grad(self) -> Any:
            first.data = new
            return torch.ones(3)

        @grad.setter
        def grad(self, _: Any) -> None: ...

    first, second = torch.nn.Parameter(old), Reading(torch.zeros(3))
    first.grad = torch.ones(5)
    groups = [{"params": [first, second], "lr": 1.0, "momentum": 0, "dampening": 0, "weight_decay": 0}]
    plan = OptimizerPlan("sgd", groups, {})
    assert plan.step(groups, {}, None, True) is None
    assert not old.any()
    assert OptimizerPlan("sgd", groups, {}).step(groups, {}, None, True) is not None
    assert torch.equal(new, -torch.ones(5))
    assert torch.equal(second.detach(), -torch.ones(3))
