"""perfopt.amp.GradScaler against torch.amp.GradScaler, state by state, and what it adds: hysteresis, floor, ceiling, counts."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from perfopt.amp import GradScaler  # noqa: E402
from perfopt.amp.scale_rule import Counts, ScaleRule  # noqa: E402
from perfopt.optim import AdamW  # noqa: E402

TORCH_KEYS = ["scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"]
SHAPES = [(3, 5), (7,), (33,)]


def make_params(seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_grads(params: list[Any], seed: int, scale: float, bad: float | None = None) -> None:
    """What a backward pass leaves for a loss multiplied by scale, with one bad element."""
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator) * scale
    if bad is not None:
        params[seed % len(params)].grad.view(-1)[-1] = bad


def ready(scaler: Any) -> Any:
    """A scaler that has scaled a loss."""
    scaler.scale(torch.ones(()))
    return scaler


def torch_state(scaler: Any) -> dict[str, Any]:
    return {key: scaler.state_dict()[key] for key in TORCH_KEYS}


def same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def fused(params: Any, **options: Any) -> Any:
    return torch.optim.AdamW(params, fused=True, **options)


# ---- As torch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [AdamW, torch.optim.AdamW, fused, torch.optim.SGD])
@given(
    overflows=st.lists(st.sampled_from([None, None, None, math.inf, math.nan]), min_size=1, max_size=40),
    interval=st.integers(1, 5),
    explicit=st.lists(st.booleans(), min_size=40, max_size=40),
)
@settings(max_examples=15, deadline=None)
def test_states_follow_torch_step_by_step(
    optimizer: Callable[..., Any], overflows: list[float | None], interval: int, explicit: list[bool]
) -> None:
    ours, theirs = make_params(), make_params()
    mine = ready(GradScaler("cpu", init_scale=256.0, growth_interval=interval, growth_factor=3.0))
    peer = ready(torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=interval, growth_factor=3.0))
    # torch's scaler with the same optimizer: what is compared is the scaler alone
    a, b = optimizer(ours, lr=1e-2), optimizer(theirs, lr=1e-2)
    for step, bad in enumerate(overflows):
        for scaler, params, opt in ((mine, ours, a), (peer, theirs, b)):
            give_grads(params, step, scaler.get_scale(), bad)
            if explicit[step]:
                scaler.unscale_(opt)
            scaler.step(opt)
            scaler.update()
        assert torch_state(mine) == torch_state(peer)
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    assert mine.skipped_steps == sum(bad is not None for bad in overflows)


@pytest.mark.parametrize("make", [GradScaler, torch.amp.GradScaler])
def test_adamw_under_a_scaler_is_adamw_without_one(make: Callable[..., Any]) -> None:
    """A power of two is divided out exactly, so every bit must agree; clipping is of the unscaled gradients."""
    scaled, plain = make_params(), make_params()
    scaler = ready(make("cpu", init_scale=1024.0))
    a, b = AdamW(scaled, lr=1e-2, max_grad_norm=0.5), AdamW(plain, lr=1e-2, max_grad_norm=0.5)
    for step in range(5):
        give_grads(scaled, step, 1024.0)
        give_grads(plain, step, 1.0)
        kept = [param.grad.clone() for param in scaled]
        scaler.step(a)
        scaler.update()
        b.step()
        assert same(scaled, plain)
        assert same([param.grad for param in scaled], kept)  # never written
        assert a.last_grad_norm == pytest.approx(b.last_grad_norm, rel=1e-12)
        assert not {"grad_scale", "found_inf"} & vars(a).keys()


def test_gradients_are_read_by_the_optimizer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_params()
    optimizer, scaler = AdamW(params, lr=1e-2), ready(GradScaler("cpu", init_scale=8.0))
    monkeypatch.setattr(GradScaler, "_unscale_grads_", lambda *_: pytest.fail("a pass of its own"))
    give_grads(params, 0, 8.0)
    scaler.step(optimizer)
    scaler.update()
    give_grads(params, 1, 8.0, math.nan)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert (scaler.skipped_steps, optimizer.skipped_steps) == (1, 1)


@pytest.mark.parametrize("found_inf", [1.0, 2.0, math.nan, -1.0])
def test_anything_but_zero_in_found_inf_skips(found_inf: float) -> None:
    params, before = make_params(), make_params()
    optimizer = AdamW(params, lr=1e-2)
    give_grads(params, 0, 1.0)
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.grad_scale = torch.tensor(1.0)
    optimizer.step()
    assert same(params, before)
    assert not optimizer.state
    assert optimizer.skipped_steps == 1
    assert optimizer.last_grad_norm is None
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert not same(params, before)


def test_an_overflow_counted_more_than_once_is_one() -> None:
    """A step adds to found_inf, so an optimizer that was told of an overflow may report more than 1."""
    params = make_params()
    optimizer = AdamW(params, lr=1e-2)
    scaler = GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.tensor(1.0))
    give_grads(params, 0, 8.0)
    scaler.step(optimizer)
    for state in scaler._per_optimizer_states.values():
        state["found_inf_per_device"] = {torch.device("cpu"): torch.tensor(2.0)}
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert scaler.skipped_steps == 1


def test_a_scale_without_reciprocal_skips_and_is_reported() -> None:
    for scale in (0.0, math.inf, math.nan, 2.0**-149):
        params, before = make_params(), make_params()
        optimizer = AdamW(params, lr=1e-2, skip_nonfinite=False)
        give_grads(params, 0, 1.0)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale, dtype=torch.float64), torch.tensor(0.0)
        optimizer.step()
        if scale == 2.0**-149:  # the reciprocal is a double: still a number
            assert not same(params, before)
        else:
            assert same(params, before)
            assert float(optimizer.found_inf) == 1.0


def test_an_optimizer_that_does_not_skip_by_itself_does_under_a_scaler() -> None:
    params, before = make_params(), make_params()
    optimizer, scaler = AdamW(params, lr=1e-2, skip_nonfinite=False), ready(GradScaler("cpu", init_scale=4.0))
    give_grads(params, 0, 4.0, math.inf)
    scaler.step(optimizer)
    scaler.update()
    assert same(params, before)
    assert scaler.get_scale() == 2.0


def test_growth_comes_exactly_at_the_interval() -> None:
    params = make_params()
    optimizer, scaler = AdamW(params, lr=1e-2), ready(GradScaler("cpu", init_scale=2.0, growth_interval=3))
    scales = []
    for step in range(7):
        give_grads(params, step, scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [2.0, 2.0, 4.0, 4.0, 4.0, 8.0, 8.0]


@pytest.mark.parametrize("bad_window", [None, 0, 1, 2])
def test_accumulation_sees_inf_in_any_micro_batch(bad_window: int | None) -> None:
    states = []
    for make, optimizer_of in ((GradScaler, AdamW), (torch.amp.GradScaler, torch.optim.AdamW)):
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 2)
        before = copy.deepcopy(model.state_dict())
        scaler, optimizer = make("cpu", init_scale=64.0), optimizer_of(model.parameters(), lr=1e-2)
        for micro in range(3):
            batch = torch.randn(4, 6)
            if micro == bad_window:
                batch[0, 0] = math.inf
            scaler.scale(model(batch).square().mean() / 3).backward()
        scaler.step(optimizer)
        scaler.update()
        assert (bad_window is None) == (not torch.equal(model.weight, before["weight"]))
        states.append((torch_state(scaler), model.weight.detach().clone()))
    assert states[0][0] == states[1][0]
    torch.testing.assert_close(states[0][1], states[1][1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("kinds", list(itertools.product([AdamW, torch.optim.AdamW], repeat=2)))
def test_of_two_optimizers_only_the_one_that_overflows_is_skipped(kinds: tuple[Any, Any], explicit: bool) -> None:
    first, second = make_params(1), make_params(2)
    scaler = ready(GradScaler("cpu", init_scale=16.0))
    a, b = kinds[0](first, lr=1e-2), kinds[1](second, lr=1e-2)
    give_grads(first, 0, 16.0, math.inf)
    give_grads(second, 1, 16.0)
    if explicit:
        scaler.unscale_(b)
    scaler.step(a)
    scaler.step(b)
    scaler.update()
    assert same(first, make_params(1))
    assert not same(second, make_params(2))
    assert scaler.get_scale() == 8.0
    assert scaler.skipped_steps == 1


def test_several_losses_share_the_scale() -> None:
    scaler = GradScaler("cpu", init_scale=32.0)
    one, two = torch.tensor(1.0), torch.tensor([2.0, 3.0])
    scaled = scaler.scale([one, (two,)])
    assert torch.equal(scaled[0], one * 32)
    assert torch.equal(scaled[1][0], two * 32)


def told(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        call(*args, **kwargs)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_misuse_is_told_as_torch_tells_it() -> None:
    texts: list[list[str]] = []
    for make, optimizer_of in ((GradScaler, AdamW), (torch.amp.GradScaler, torch.optim.AdamW)):
        params = make_params()
        optimizer, scaler = optimizer_of(params, lr=1e-2), make("cpu")

        give_grads(params, 0, 1.0)
        found = [told(scaler.step, optimizer), told(scaler.update), told(scaler.unscale_, optimizer)]
        ready(scaler)
        found.append(told(scaler.step, optimizer, closure=float))
        found.append(told(scaler.update))
        scaler.unscale_(optimizer)
        found.append(told(scaler.unscale_, optimizer))
        scaler.step(optimizer)
        found.append(told(scaler.step, optimizer))
        found.append(told(scaler.unscale_, optimizer))
        scaler.update()
        for param in params:
            param.grad = None
        found.append(told(scaler.step, optimizer))
        found.append(told(scaler.load_state_dict, {}))
        texts.append(found)
    assert texts[0] == texts[1]


def test_a_closure_is_refused_in_either_place() -> None:
    params = make_params()
    optimizer, scaler = AdamW(params, lr=1e-2), ready(GradScaler("cpu"))
    give_grads(params, 0, 1.0)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, lambda: 1.0)
    assert scaler.step(optimizer, None) is None
    assert not same(params, make_params())


def test_a_step_that_raises_leaves_the_optimizer_clean_and_can_be_repeated() -> None:
    params = make_params()
    optimizer, scaler = AdamW(params, lr=1e-2), ready(GradScaler("cpu", init_scale=2.0))
    give_grads(params, 0, 2.0)
    good = params[0].grad
    params[0].grad = good.to_sparse()
    with pytest.raises(ValueError, match=r"grads\[0\]"):
        scaler.step(optimizer)
    assert not {"grad_scale", "found_inf"} & vars(optimizer).keys()
    params[0].grad = good
    scaler.step(optimizer)
    scaler.update()
    assert not same(params, make_params())


def test_the_users_own_grad_scale_multiplies() -> None:
    params, plain = make_params(), make_params()
    optimizer, scaler = AdamW(params, lr=1e-2), ready(GradScaler("cpu", init_scale=4.0))
    other = AdamW(plain, lr=1e-2)
    give_grads(params, 0, 4.0 * 8.0)
    give_grads(plain, 0, 1.0)
    optimizer.grad_scale = torch.tensor(8.0)
    scaler.step(optimizer)
    other.step()
    assert same(params, plain)
    assert not hasattr(optimizer, "grad_scale")


@pytest.mark.parametrize("kind", ["sparse", "float16", "strided", "shared"])
def test_gradients_that_are_no_dense_float32_are_unscaled_as_torch_does(kind: str) -> None:
    outcomes = []
    for make in (GradScaler, torch.amp.GradScaler):
        dtype = torch.float16 if kind == "float16" else torch.float32
        params = [torch.nn.Parameter(torch.ones(4, 6, dtype=dtype)) for _ in range(2)]
        base = torch.arange(48.0).reshape(4, 12)
        for param in params:
            param.grad = base[:, ::2].to(dtype) if kind == "strided" else base[:, :6].to(dtype).contiguous()
        if kind == "sparse":
            params[0].grad = params[0].grad.to_sparse()
        if kind == "shared":
            params[1].grad = params[0].grad
        scaler, optimizer = ready(make("cpu", init_scale=4.0)), torch.optim.SGD(params, lr=0.1)
        try:
            scaler.unscale_(optimizer)
            outcomes.append([param.grad.to_dense() for param in params])
        except (ValueError, RuntimeError) as error:
            outcomes.append(str(error))
    if isinstance(outcomes[1], str):
        assert outcomes[0] == outcomes[1]
    else:
        assert same(outcomes[0], outcomes[1])


@pytest.mark.parametrize("bad", [None, math.inf, math.nan])
def test_bfloat16_gradients_are_unscaled_to_torchs_bits(bad: float | None) -> None:
    outcomes = []
    for make in (GradScaler, torch.amp.GradScaler):
        params = make_params()
        scaler = ready(make("cpu", init_scale=3.0))  # its reciprocal rounds
        give_grads(params, 0, 3.0, bad)
        for param in params:
            grad, param.grad = param.grad.bfloat16(), None
            param.data = param.data.bfloat16()
            param.grad = grad
        optimizer = torch.optim.SGD(params, lr=0.1)
        scaler.unscale_(optimizer)
        outcomes.append([param.grad.nan_to_num(7.0) for param in params])
        assert scaler.step(optimizer) is None
        scaler.update()
        outcomes[-1].append(torch.tensor(scaler.get_scale()))
    assert same(*outcomes)


def test_unscaling_moves_the_version_of_what_it_wrote() -> None:
    params = make_params()
    optimizer, scaler = torch.optim.SGD(params, lr=0.1), ready(GradScaler("cpu", init_scale=4.0))
    give_grads(params, 0, 4.0)
    versions = [param.grad._version for param in params]
    scaler.unscale_(optimizer)
    assert [param.grad._version for param in params] == [version + 1 for version in versions]


def test_schedulers_warn_as_with_torch() -> None:
    """torch's own AMP-aware optimizers are always called, so a skipped first step gives no warning with them either."""
    counts = []
    for make, optimizer_of in ((GradScaler, AdamW), (torch.amp.GradScaler, fused), (GradScaler, torch.optim.AdamW)):
        params = make_params()
        optimizer, scaler = optimizer_of(params, lr=1e-2), ready(make("cpu"))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        give_grads(params, 0, 1.0, math.inf)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
        counts.append(len([w for w in caught if "lr_scheduler.step()" in str(w.message)]))
    assert counts == [0, 0, 1]


def test_disabled_it_does_nothing() -> None:
    params = make_params()
    optimizer, scaler = AdamW(params, lr=1e-2), GradScaler("cpu", enabled=False)
    loss = torch.ones(())
    assert scaler.scale(loss) is loss
    give_grads(params, 0, 1.0)
    scaler.unscale_(optimizer)
    assert scaler.step(optimizer, lambda: 5.0) == 5.0
    scaler.update()
    assert scaler.state_dict() == {}
    assert scaler.get_scale() == 1.0
    assert scaler.skipped_steps == 0
    scaler.load_state_dict({"scale": 0.0})
    assert isinstance(scaler, torch.amp.GradScaler)
    assert not scaler.is_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_without_cuda_the_default_device_disables_it_with_torchs_warning() -> None:
    with pytest.warns(UserWarning, match="CUDA is not available"):
        assert not GradScaler().is_enabled()


# ---- State -----------------------------------------------------------------------------------------


def run_steps(scaler: Any, optimizer: Any, params: list[Any], steps: range) -> None:
    for step in steps:
        give_grads(params, step, scaler.get_scale(), math.inf if step % 5 in (1, 2) else None)
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy"])
def test_a_resumed_run_has_the_same_bits(way: str) -> None:
    options = {"init_scale": 2.0**10, "growth_interval": 2, "hysteresis": 2, "min_scale": 2.0**9, "max_scale": 2.0**11}
    whole, part = make_params(), make_params()
    a, b = AdamW(whole, lr=1e-2, max_grad_norm=1.0), AdamW(part, lr=1e-2, max_grad_norm=1.0)
    mine, first = ready(GradScaler("cpu", **options)), ready(GradScaler("cpu", **options))
    run_steps(mine, a, whole, range(30))
    run_steps(first, b, part, range(12))  # in the middle of a row of overflows
    assert first.state_dict()["_overflows_left"] == 1
    resumed_params = [torch.nn.Parameter(param.detach().clone()) for param in part]
    c = AdamW(resumed_params, lr=1e-2, max_grad_norm=1.0)
    c.load_state_dict(b.state_dict())
    if way == "state_dict":
        resumed = GradScaler("cpu", **options)
        resumed.load_state_dict(first.state_dict())
    else:
        resumed = pickle.loads(pickle.dumps(first)) if way == "pickle" else copy.deepcopy(first)
    ready(resumed)
    run_steps(resumed, c, resumed_params, range(12, 30))
    assert same(whole, resumed_params)
    assert resumed.state_dict() == mine.state_dict()
    assert resumed.skipped_steps == 12


def test_state_goes_to_torch_and_back() -> None:
    mine, peer = ready(GradScaler("cpu", init_scale=8.0)), ready(torch.amp.GradScaler("cpu", init_scale=2.0))
    params = make_params()
    run_steps(mine, AdamW(params, lr=1e-2), params, range(4))
    peer.load_state_dict(mine.state_dict())
    assert torch_state(peer) == torch_state(mine)
    other = ready(GradScaler("cpu", hysteresis=3))
    other.load_state_dict(peer.state_dict())
    assert torch_state(other) == torch_state(mine)
    assert other.state_dict()["_overflows_left"] == 3
    assert other.skipped_steps == 0


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_collapsed_state_is_refused(scale: float) -> None:
    scaler = ready(GradScaler("cpu", init_scale=8.0))
    state = {**torch.amp.GradScaler("cpu").state_dict(), "scale": scale}
    with pytest.raises(ValueError, match=r"state_dict\['scale'\]="):
        scaler.load_state_dict(state)
    assert scaler.get_scale() == 8.0


# ---- What it adds ----------------------------------------------------------------------------------


def scales_of(scaler: Any, pattern: str) -> list[float]:
    """The scale after each update of a pattern of clean ('.') and overflowing ('x') steps."""
    params = make_params()
    optimizer = AdamW(params, lr=0.0)
    ready(scaler)
    scales = []
    for step, kind in enumerate(pattern):
        give_grads(params, step, 1.0, math.inf if kind == "x" else None)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


def test_hysteresis_counts_overflows_in_a_row() -> None:
    scaler = GradScaler("cpu", init_scale=64.0, hysteresis=3)
    assert scales_of(scaler, "xx.xxxx.xx.xxx") == [64.0] * 5 + [32.0, 16.0] + [16.0] * 6 + [8.0]
    assert scaler.skipped_steps == 11


def test_an_overflow_within_the_hysteresis_ends_the_row_of_clean_updates() -> None:
    scaler = GradScaler("cpu", init_scale=64.0, hysteresis=2, growth_interval=2)
    assert scales_of(scaler, ".x.x..") == [64.0] * 5 + [128.0]


def test_the_floor_holds_and_then_tells() -> None:
    scaler = GradScaler("cpu", init_scale=8.0, min_scale=3.0)
    assert scales_of(scaler, "xxxx.xxxxxxxxx") == [4.0] + [3.0] * 13
    assert scales_of(scaler, ".") == [3.0]
    with pytest.raises(FloatingPointError, match=r"at its floor, min_scale=3.0, and 10 updates in a row"):
        scales_of(scaler, "x" * 10)
    assert scaler.get_scale() == 3.0
    assert scales_of(scaler, ".") == [3.0]  # the update was complete; a clean one ends it
    assert scaler.skipped_steps == 23


def test_without_a_floor_of_its_own_the_scale_never_leaves_the_numbers() -> None:
    scaler = GradScaler("cpu", init_scale=2.0**-120)
    with pytest.raises(FloatingPointError, match="no loss scale helps"):
        scales_of(scaler, "x" * 100)
    assert scaler.get_scale() == 2.0**-126
    assert scaler.skipped_steps == 16


def test_the_ceiling_holds() -> None:
    scaler = GradScaler("cpu", init_scale=1.0, growth_interval=1, max_scale=5.0)
    assert scales_of(scaler, ".....") == [2.0, 4.0, 5.0, 5.0, 5.0]
    scaler = GradScaler("cpu", init_scale=2.0**126, growth_interval=1)
    assert scales_of(scaler, "...")[-1] == 2.0**127  # as torch: not to inf


def test_a_scale_set_outside_the_bounds_is_not_pulled_in_by_the_wrong_move() -> None:
    scaler = ready(GradScaler("cpu", init_scale=16.0, min_scale=8.0, max_scale=32.0, growth_interval=1))
    params = make_params()
    optimizer = AdamW(params, lr=0.0)
    for value, bad, after in (
        (2.0, math.inf, 2.0),
        (64.0, None, 64.0),
        (torch.tensor(64.0), math.inf, 32.0),
        (4, None, 8.0),
    ):
        give_grads(params, 0, 1.0)
        scaler.step(optimizer)
        scaler.update(value)
        assert scaler.get_scale() == float(value)
        give_grads(params, 0, 1.0, bad)
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == after


def test_setting_the_scale_still_counts_the_skipped_step() -> None:
    params = make_params()
    optimizer, scaler = AdamW(params, lr=0.0), ready(GradScaler("cpu"))
    give_grads(params, 0, 1.0, math.nan)
    scaler.step(optimizer)
    scaler.update(4.0)
    assert (scaler.skipped_steps, scaler.get_scale()) == (1, 4.0)


@pytest.mark.parametrize("value", [0.0, -2.0, math.inf, math.nan, 2.0**-130])
def test_no_scale_that_cannot_be_divided_by(value: float) -> None:
    scaler = ready(GradScaler("cpu"))
    for form in (value, torch.tensor(value), torch.tensor([value], dtype=torch.float64)):
        with pytest.raises(ValueError, match="new_scale="):
            scaler.update(form)
        assert scaler.get_scale() == 65536.0


def test_a_refused_update_counts_nothing() -> None:
    params = make_params()
    optimizer, scaler = AdamW(params, lr=0.0), ready(GradScaler("cpu"))
    give_grads(params, 0, 1.0, math.nan)
    scaler.step(optimizer)
    with pytest.raises(AssertionError, match="1-element"):
        scaler.update(torch.ones(2))
    assert scaler.skipped_steps == 0
    scaler.update()
    assert scaler.skipped_steps == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hysteresis": 0}, "hysteresis=0; accepted"),
        ({"min_scale": 0.0}, "min_scale=0.0; accepted"),
        ({"max_scale": math.inf}, "max_scale=inf; accepted"),
        ({"min_scale": 4.0, "max_scale": 2.0}, "min_scale=4.0 is above max_scale=2.0"),
        ({"init_scale": 1.0, "min_scale": 2.0}, "init_scale=1.0; accepted"),
        ({"init_scale": 8.0, "max_scale": 2.0}, "init_scale=8.0; accepted"),
        ({"init_scale": math.nan}, "init_scale=nan; accepted"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        GradScaler("cpu", **options)


def test_torchs_own_refusals_stay() -> None:
    for options in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}):
        with pytest.raises(AssertionError):
            GradScaler("cpu", **options)


RULES = st.builds(
    ScaleRule,
    growth_factor=st.floats(1.5, 1e30),
    backoff_factor=st.floats(1e-30, 0.9),
    growth_interval=st.integers(1, 3),
    hysteresis=st.integers(1, 3),
    min_scale=st.sampled_from([2.0**-126, 1.0, 512.0]),
    max_scale=st.sampled_from([1024.0, 2.0**100, 3.4028234663852886e38]),
)


@given(rule=RULES, start=st.floats(2.0**-100, 2.0**100, width=32), overflows=st.lists(st.booleans(), max_size=30))
@settings(max_examples=150, deadline=None)
def test_the_rule_on_a_device_gives_the_bits_of_the_rule_on_the_host(
    rule: ScaleRule, start: float, overflows: list[bool]
) -> None:
    scale, growth = torch.tensor(start, dtype=torch.float32), torch.tensor(0, dtype=torch.int32)
    counts = torch.tensor([rule.hysteresis, 0, 0], dtype=torch.int32)
    on_host, remembered = start, Counts(0, rule.hysteresis, 0)
    for overflow in overflows:
        on_host, remembered = rule.advance(on_host, remembered, overflow)
        rule.advance_on_device(scale, growth, counts, torch.tensor([2.0 * overflow]))
        assert float(scale) == on_host
        assert (int(growth), *counts.tolist()) == (*vars(remembered).values(), 0)
        assert 0 < on_host < math.inf


# ---- Real training ---------------------------------------------------------------------------------


@pytest.mark.spec("S3-01")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_autocast_training_follows_torchs_scaler(dtype: str) -> None:
    losses, counts = [], []
    for make, optimizer_of in ((GradScaler, AdamW), (torch.amp.GradScaler, torch.optim.AdamW)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        optimizer = optimizer_of(model.parameters(), lr=1e-2)
        # far too large for float16, so the first steps really overflow
        scaler = make("cpu", init_scale=2.0**24 if dtype == "float16" else 2.0**10, growth_interval=10)
        inputs = torch.randn(64, 16)
        target = inputs[:, :1] * 2 - inputs[:, 1:2]
        seen = []
        for _ in range(60):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=getattr(torch, dtype)):
                loss = torch.nn.functional.mse_loss(model(inputs).float(), target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            seen.append(loss.item())
        losses.append(seen)
        counts.append(torch_state(scaler))
        if make is GradScaler:
            assert (scaler.skipped_steps > 0) == (dtype == "float16")
    assert losses[0][-1] < 0.2 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert counts[0] == counts[1]
