"""State of many small parameters: views of few buffers that behave as tensors of their own."""

from __future__ import annotations

import copy
import io
import sys
import weakref
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt.optim import AdamW  # noqa: E402
from perfopt.optim._small_state import StateBuffers  # noqa: E402

MANY = 300


def parameters(count: int, *shape: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    params = [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for _ in range(count)]
    for param in params:
        param.grad = torch.randn(*shape, generator=generator)
    return params


def stepped(params: list[torch.nn.Parameter], steps: int = 1) -> AdamW:
    optimizer = AdamW(params, lr=1e-2, max_grad_norm=1.0)
    for _ in range(steps):
        optimizer.step()
    return optimizer


def storages(optimizer: AdamW, key: str) -> set[int]:
    return {entry[key].untyped_storage().data_ptr() for entry in optimizer.state.values()}


def test_state_of_many_small_parameters_lies_in_few_buffers() -> None:
    optimizer = stepped(parameters(MANY, 8, 8))
    assert len(storages(optimizer, "step")) == 1
    buffers = storages(optimizer, "exp_avg") | storages(optimizer, "exp_avg_sq")
    assert 1 < len(buffers) < 10
    for entry in optimizer.state.values():
        assert entry["exp_avg"].data_ptr() % 64 == entry["exp_avg_sq"].data_ptr() % 64
        assert entry["exp_avg"].untyped_storage().nbytes() <= 1 << 20


@pytest.mark.parametrize(("count", "size"), [(255, 8), (MANY, 4097), (MANY, 0)], ids=["few", "large", "empty"])
def test_others_have_memory_of_their_own(count: int, size: int) -> None:
    with torch.no_grad():
        params = parameters(count, size)
        buffers = StateBuffers(params)
        zeros = [buffers.zeros_like(param, torch.float32) for param in params]
    assert all(zero._base is None and zero.untyped_storage().nbytes() == 4 * size for zero in zeros)


def test_zeros_are_laid_out_as_their_parameter() -> None:
    plain = torch.randn(3, 5)
    odd_stride = torch.as_strided(
        torch.randn(40), (1, 5), (7, 1)
    )  # contiguous: nothing is ever stepped over in dimension 0
    transposed = plain.t()
    half = plain.half()
    subclass = torch.nn.Buffer(plain) if hasattr(torch.nn, "Buffer") else plain
    every = [plain, odd_stride, transposed, half, subclass]
    with torch.no_grad():
        buffers = StateBuffers(every + [plain] * MANY)
        for like in every:
            zeros = buffers.zeros_like(like, like.dtype)
            assert (zeros.shape, zeros.dtype) == (like.shape, like.dtype)
            assert zeros.is_contiguous() == like.is_contiguous()
            assert not zeros.requires_grad
            assert not zeros.any()
        assert buffers.zeros_like(odd_stride, torch.float32).stride() == odd_stride.stride()
        assert buffers.zeros_like(transposed, torch.float32).stride() == transposed.stride()


def test_no_two_share_an_element() -> None:
    with torch.no_grad():
        params = [torch.empty(1 + index % 37) for index in range(4 * MANY)]
        buffers = StateBuffers(params)
        zeros = [buffers.zeros_like(param, torch.float32) for param in params]
        counts = [buffers.count(torch.device("cpu")) for _ in params]
        for number, (zero, count) in enumerate(zip(zeros, counts, strict=True)):
            zero.fill_(number)
            count.fill_(number)
    for number, (zero, count) in enumerate(zip(zeros, counts, strict=True)):
        assert count == number
        assert (zero == number).all()


def test_steps_are_those_of_state_kept_apart() -> None:
    together, apart = parameters(MANY, 9), parameters(MANY, 9)
    one = stepped(together, steps=3)
    others = [AdamW([param], lr=1e-2) for param in apart]
    for _ in range(3):
        norm = torch.nn.utils.get_total_norm([param.grad for param in apart])
        kept = [param.grad.clone() for param in apart]
        torch.nn.utils.clip_grads_with_norm_(apart, 1.0, norm)
        for other in others:
            other.step()
        for param, grad in zip(apart, kept, strict=True):
            param.grad.copy_(grad)
    for a, b, other in zip(together, apart, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.state[a]["exp_avg_sq"], other.state[b]["exp_avg_sq"], rtol=1e-5, atol=1e-9)
        assert one.state[a]["step"] == other.state[b]["step"] == 3


def test_versions_of_all_that_is_written_move() -> None:
    optimizer = stepped(parameters(MANY, 16))
    before = [(p._version, e["exp_avg"]._version, e["exp_avg_sq"]._version) for p, e in optimizer.state.items()]
    optimizer.step()
    for (param, entry), (p, m, v) in zip(optimizer.state.items(), before, strict=True):
        assert param._version > p
        assert entry["exp_avg"]._version > m
        assert entry["exp_avg_sq"]._version > v
    assert optimizer._plan is not None
    assert MANY <= len(optimizer._plan.written()) < MANY + 10  # a buffer is counted once


def test_a_version_moves_also_for_a_parameter_that_is_a_view() -> None:
    base = torch.zeros(4, 64)
    params = [row.requires_grad_() for row in base.detach().unbind()]
    for param in params:
        param.grad = torch.ones(64)
    optimizer = stepped(params)
    before = [param._version for param in params]
    optimizer.step()
    assert all(param._version > version for param, version in zip(params, before, strict=True))


def test_new_memory_under_a_view_is_noticed() -> None:
    params, twins = parameters(MANY, 16), parameters(MANY, 16)
    optimizer, twin = stepped(params), stepped(twins)
    moved = optimizer.state[params[7]]["exp_avg"]
    buffer = moved.untyped_storage()
    moved.data = moved.data.clone()
    assert moved.untyped_storage().data_ptr() != buffer.data_ptr()
    for which in (optimizer, twin):
        which.step()
    for a, b in zip(params, twins, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["exp_avg"], twin.state[b]["exp_avg"])


@pytest.mark.parametrize("way", ["copy", "save"])
def test_state_is_copied_and_saved_as_any_other(way: str) -> None:
    params, twins = parameters(MANY, 16), parameters(MANY, 16)
    optimizer = stepped(params)
    loaded = copy.deepcopy(optimizer.state_dict())
    if way == "save":
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        assert file.tell() < 4 * 64 * MANY * 2 + 400 * 3 * MANY  # a buffer is saved once, not with each of its views
        loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    with torch.no_grad():
        for twin, param in zip(twins, params, strict=True):
            twin.copy_(param)
    other = AdamW(twins, lr=1e-2, max_grad_norm=1.0)
    other.load_state_dict(loaded)
    for which in (optimizer, other):
        which.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def sealed(optimizer: AdamW) -> bool:
    """Whether the next step leaves the state out of its looks."""
    assert optimizer._plan is not None
    return optimizer._plan.seal(vars(optimizer))


def steps_like_its_twin(optimizer: AdamW, twin: AdamW) -> None:
    """Both step; parameters and state agree bit by bit."""
    for which in (optimizer, twin):
        which.step()
    for group, others in zip(optimizer.param_groups, twin.param_groups, strict=True):
        for a, b in zip(group["params"], others["params"], strict=True):
            assert torch.equal(a, b)
            assert all(torch.equal(value, twin.state[b][key]) for key, value in optimizer.state[a].items())


def test_state_that_nobody_has_is_sealed_until_it_is_asked_for() -> None:
    optimizer, twin = stepped(parameters(MANY, 16)), stepped(parameters(MANY, 16))
    assert sealed(optimizer)
    steps_like_its_twin(optimizer, twin)  # and looks at the state
    assert not sealed(optimizer)
    assert sealed(optimizer)
    optimizer.state = optimizer.state
    assert not sealed(optimizer)


def held_by_an_iterator(optimizer: AdamW) -> object:
    return iter(optimizer.state.items())


def held_by_a_dict(optimizer: AdamW) -> object:
    return optimizer.state


@pytest.mark.parametrize("hold", [held_by_a_dict, held_by_an_iterator])
def test_state_that_somebody_has_is_not_sealed(hold: Any) -> None:
    optimizer = stepped(parameters(MANY, 16))
    holder = hold(optimizer)
    assert not any(sealed(optimizer) for _ in range(40))
    del holder
    assert any(sealed(optimizer) for _ in range(64))


@pytest.mark.parametrize("way", ["data", "entry", "weak"])
def test_what_somebody_has_a_part_of_is_looked_at_in_every_step(way: str) -> None:
    params, twins = parameters(MANY, 16), parameters(MANY, 16)
    optimizer, twin = stepped(params), stepped(twins)
    entry = optimizer.state[params[7]]
    moved = entry["exp_avg"]
    weak = weakref.ref(moved)
    if way != "entry":
        del entry
    if way != "data":
        del moved
    assert [sealed(optimizer) for _ in range(2)] == [False, True]  # the others are
    for _ in range(2):
        optimizer.step()
        twin.step()
    assert sealed(optimizer)
    new = twin.state[twins[7]]["exp_avg"].clone()
    if way == "entry":
        entry["exp_avg"] = new
    else:
        held = weak()
        assert held is not None
        held.data = new
        del held
    before = new.clone()
    steps_like_its_twin(optimizer, twin)
    assert not torch.equal(new, before)
    assert optimizer.state[params[7]]["exp_avg"].data_ptr() == new.data_ptr()


def test_memory_given_back_through_an_alias_of_sealed_state_is_not_written() -> None:
    params = parameters(MANY, 16)
    optimizer = stepped(params)
    alias = optimizer.state[params[7]]["exp_avg"].untyped_storage()
    assert [sealed(optimizer) for _ in range(2)] == [False, True]
    alias.resize_(0)
    before = [param.detach().clone() for param in params]
    with pytest.raises(ValueError, match="exp_avg"):
        optimizer.step()
    assert all(torch.equal(param, value) for param, value in zip(params, before, strict=True))


def test_a_sealed_optimizer_sees_its_parameters_move() -> None:
    params, twins = parameters(MANY, 16), parameters(MANY, 16)
    optimizer, twin = stepped(params), stepped(twins)
    assert sealed(optimizer)
    old = params[3].data
    params[3].data = params[3].data.clone()
    kept = old.clone()
    steps_like_its_twin(optimizer, twin)
    assert torch.equal(old, kept)
    for _ in range(2):
        sealed(optimizer)
    params[5].data = torch._neg_view(params[5].data)
    with pytest.raises(ValueError, match=r"params\[5\].*negated"):
        optimizer.step()


def test_state_that_has_become_a_negated_view_is_refused() -> None:
    params = parameters(3, 16)
    optimizer = stepped(params)
    state = optimizer.state[params[1]]["exp_avg"]
    state.data = torch._neg_view(state.data)
    with pytest.raises(ValueError, match=r"exp_avgs\[1\].*negated"):
        optimizer.step()


def test_an_option_that_takes_the_state_while_it_is_read_breaks_the_seal() -> None:
    params, twins = parameters(MANY, 16), parameters(MANY, 16)
    optimizer, twin = stepped(params), stepped(twins)
    assert sealed(optimizer)
    new = optimizer.state[params[7]]["exp_avg"].clone()
    for _ in range(2):
        sealed(optimizer)

    class Rate:
        def __float__(self) -> float:
            optimizer.state[params[7]]["exp_avg"].data = new
            return 1e-2

    optimizer.param_groups[0]["lr"] = Rate()
    steps_like_its_twin(optimizer, twin)
    assert optimizer.state[params[7]]["exp_avg"].data_ptr() == new.data_ptr()


def test_state_that_is_taken_while_it_is_being_sealed_is_not_sealed() -> None:
    optimizer = stepped(parameters(MANY, 16))
    plan = optimizer._plan
    taken = []

    class Reader(torch.overrides.TorchFunctionMode):
        """What another thread does when a call of torch lets it in."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.Tensor.detach:
                taken.append(len(optimizer.state))
            return function(*args, **(kwargs or {}))

    with Reader():
        assert not any(sealed(optimizer) for _ in range(4))
    assert MANY in taken
    assert optimizer._plan is plan
    assert any(sealed(optimizer) for _ in range(64))


def test_state_is_not_sealed_between_the_word_to_the_plan_and_its_handing_out() -> None:
    optimizer = stepped(parameters(MANY, 16))
    assert sealed(optimizer)
    plan = vars(optimizer)["_plan"]
    answers = []

    class Meanwhile:
        """The plan, and a thread that makes two steps before the one that asks for the state goes on."""

        def unseal(self) -> None:
            plan.unseal()
            answers.extend(plan.seal(vars(optimizer)) for _ in range(2))

    vars(optimizer)["_plan"] = Meanwhile()
    held = optimizer.state
    vars(optimizer)["_plan"] = plan
    assert answers == [False, False]
    assert not any(sealed(optimizer) for _ in range(40))
    del held


def test_state_that_has_become_a_negated_view_is_refused_also_after_a_step_that_failed_early() -> None:
    params = parameters(MANY, 16)
    optimizer = stepped(params)
    assert sealed(optimizer)
    state = optimizer.state[params[7]]["exp_avg"]
    state.data = torch._neg_view(state.data)
    del state
    optimizer.max_grad_norm = -1.0
    with pytest.raises(ValueError, match="max_grad_norm"):
        optimizer.step()
    optimizer.max_grad_norm = None
    for _ in range(3):
        with pytest.raises(ValueError, match=r"exp_avgs\[7\].*negated"):
            optimizer.step()


def test_sealing_leaves_no_references() -> None:
    params = parameters(MANY, 16)
    optimizer = stepped(params)
    state = optimizer.state
    counts = [sys.getrefcount(entry[key]) for entry in state.values() for key in entry]
    base = state[params[0]]["exp_avg"]._base
    bases = sys.getrefcount(base)
    whole = sys.getrefcount(state)
    del state
    for _ in range(20):
        assert [sealed(optimizer) for _ in range(2)] == [False, True]
        assert sys.getrefcount(base) > bases
        state = optimizer.state
        assert sys.getrefcount(state) == whole
        assert sys.getrefcount(base) == bases
        assert counts == [sys.getrefcount(entry[key]) for entry in state.values() for key in entry]
        del state
    with pytest.raises(TypeError, match="holder is a list"):
        optimizer._plan.seal([])  # type: ignore[union-attr,arg-type]


def test_an_adopted_optimizer_s_state_is_not_sealed() -> None:
    params = parameters(MANY, 16)
    owner = torch.optim.AdamW(params, lr=1e-2)
    owner.step()
    optimizer = AdamW.adopt(owner)
    optimizer.step()
    assert not any(sealed(optimizer) for _ in range(4))
