"""perfopt.optim.AdamW on a CUDA device against torch.optim.AdamW there and perfopt on the CPU.

Skips with the loader's reason where there is no device. Sizes are those around vector width, block and chunk.
"""

from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.optim")  # without PyTorch, "torch" may be the folder of tests

from perfopt import _core  # noqa: E402
from perfopt.optim import AdamW  # noqa: E402

FOUND = _core.backend_info()
pytestmark = [
    pytest.mark.skipif(not FOUND["available"], reason=f"no CUDA backend: {FOUND['reason']}"),
    pytest.mark.skipif(FOUND["available"] and not torch.cuda.is_available(), reason="torch has no CUDA here"),
]

SIZES = [
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    31,
    33,
    511,
    512,
    513,
    2047,
    2048,
    2049,
    65535,
    65536,
    65537,
    131071,
    131073,
    196613,
    333333,
]


def tensors(sizes, seed, device="cuda", scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, generator=generator) * scale).to(device) for n in sizes]


def give_grads(params, seed, scale=1.0):
    for param, grad in zip(params, tensors([p.numel() for p in params], seed, params[0].device, scale), strict=True):
        param.grad = grad.reshape(param.shape)


def clip(params, max_norm):
    """torch.nn.utils.clip_grad_norm_ with the norm in float64: in float32 it is off by 1e-5 for many tensors."""
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in params))
    for p in params:
        p.grad.mul_(min(1.0, max_norm / (norm + 1e-6)))


def assert_close(mine, other, rtol):
    """Within rtol of the value or of the list's largest: near zero, rounding is relative to what was subtracted."""
    largest = max((float(t.abs().max()) for t in other if t.numel()), default=0.0)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b.to(a.device), rtol=rtol, atol=rtol * largest)


def assert_same(ours, theirs, optimizer, reference, rtol=1e-5):
    assert_close(ours, theirs, rtol)
    for p, q in zip(ours, theirs, strict=True):
        assert (p in optimizer.state) == (q in reference.state)
    for name in ("step", "exp_avg", "exp_avg_sq"):
        mine = [optimizer.state[p][name] for p in ours if p in optimizer.state]
        assert_close(mine, [reference.state[q][name] for q in theirs if q in reference.state], rtol)


OPTIONS = [
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6},
    {"weight_decay": 0.0},
    {"weight_decay": 0.1, "maximize": True},
    {"weight_decay": 0.1, "betas": (0.3, 0.9)},
    {"weight_decay": 0.1, "lr": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 1e9])
def test_parity_with_torch(options, max_grad_norm):
    ours, theirs = tensors(SIZES, 0), tensors(SIZES, 0)
    optimizer = AdamW(ours, max_grad_norm=max_grad_norm, **options)
    reference = torch.optim.AdamW(theirs, foreach=False, **options)
    start = [p.clone() for p in ours]
    for step in range(8):
        give_grads(ours, step + 1), give_grads(theirs, step + 1)
        if max_grad_norm is not None:
            clip(theirs, max_grad_norm)
        optimizer.step(), reference.step()
    assert_same(ours, theirs, optimizer, reference)
    assert not any(torch.equal(p, q) for p, q in zip(ours, start, strict=True))  # a step that does nothing fails
    assert optimizer.skipped_steps == 0


def test_it_equals_the_cpu_kernels():
    ours, cpu = tensors(SIZES, 0), tensors(SIZES, 0, "cpu")
    on_device, on_cpu = (
        AdamW(ours, weight_decay=0.1, max_grad_norm=1.0),
        AdamW(cpu, weight_decay=0.1, max_grad_norm=1.0),
    )
    for step in range(5):
        give_grads(ours, step + 1), give_grads(cpu, step + 1)
        on_device.step(), on_cpu.step()
        assert math.isclose(on_device.last_grad_norm, on_cpu.last_grad_norm, rel_tol=1e-12)
    assert_same(ours, cpu, on_device, on_cpu, rtol=1e-6)


def test_the_norm_has_the_same_bits_every_time_and_for_any_alignment():
    storage = torch.randn(1_000_003, device="cuda")
    norms = set()
    for shift in (0, 1, 2, 3):
        param = torch.zeros(1_000_000, device="cuda")
        padded = torch.empty(1_000_004, device="cuda")
        param.grad = padded[shift : shift + 1_000_000]
        param.grad.copy_(storage[:1_000_000])
        for _ in range(3):
            optimizer = AdamW([param], max_grad_norm=1.0)
            optimizer.step()
            norms.add(optimizer.last_grad_norm)
    assert len(norms) == 1
    assert math.isclose(norms.pop(), float(storage[:1_000_000].double().norm()), rel_tol=1e-12)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_unaligned_views(shift):
    def views(seed):
        return [t[shift:-1] for t in tensors([10, 70_000, 4099], seed)]

    ours, theirs = views(0), views(0)
    optimizer, reference = AdamW(ours, weight_decay=0.1), torch.optim.AdamW(theirs, weight_decay=0.1, foreach=False)
    borders = [t._base.clone() for t in ours]
    for step in range(3):
        for params in (ours, theirs):
            for p, g in zip(params, views(step + 1), strict=True):
                p.grad = g
        optimizer.step(), reference.step()
    assert_same(ours, theirs, optimizer, reference)
    for param, before in zip(ours, borders, strict=True):
        assert torch.equal(param._base[:shift], before[:shift])
        assert torch.equal(param._base[-1:], before[-1:])


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", [(0, 0), (19, 65536), (21, -1)])
def test_a_nonfinite_gradient_changes_nothing(bad, where):
    ours = tensors(SIZES, 0)
    optimizer = AdamW(ours, weight_decay=0.1, max_grad_norm=1.0)
    give_grads(ours, 1)
    optimizer.step()
    before = copy.deepcopy(([p.detach() for p in ours], optimizer.state_dict()["state"]))
    give_grads(ours, 2)
    ours[where[0]].grad[where[1]] = bad
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(p, q) for p, q in zip(ours, before[0], strict=True))
    for index, state in before[1].items():
        for name, value in state.items():
            assert torch.equal(optimizer.state_dict()["state"][index][name], value)
    give_grads(ours, 3)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert float(optimizer.state[ours[0]]["step"]) == 2


def test_large_finite_gradients_are_no_false_alarm():
    param = torch.zeros(100_000, device="cuda")
    param.grad = torch.full_like(param, 3e38)
    optimizer = AdamW([param], max_grad_norm=1.0)
    optimizer.step()
    assert optimizer.skipped_steps == 0
    assert math.isclose(optimizer.last_grad_norm, 3e38 * math.sqrt(100_000), rel_tol=1e-6)
    assert float(param[0]) != 0


def test_many_small_tensors_and_many_groups():
    sizes = [64, 1, 63, 65] * 2500
    ours, theirs = tensors(sizes, 0), tensors(sizes, 0)

    def groups(params):
        return [{"params": params[i::40], "lr": 1e-3 * (i + 1)} for i in range(40)]

    optimizer = AdamW(groups(ours), weight_decay=0.1, max_grad_norm=1.0)
    reference = torch.optim.AdamW(groups(theirs), weight_decay=0.1, foreach=False)
    for step in range(3):
        give_grads(ours, step + 1), give_grads(theirs, step + 1)
        clip(theirs, 1.0)
        optimizer.step(), reference.step()
    assert_same(ours, theirs, optimizer, reference)


def test_missing_gradients_and_empty_tensors():
    ours, theirs = tensors([100, 0, 70_000], 0), tensors([100, 0, 70_000], 0)
    optimizer, reference = AdamW(ours, weight_decay=0.1), torch.optim.AdamW(theirs, weight_decay=0.1, foreach=False)
    for step in range(6):
        for params in (ours, theirs):
            give_grads(params, step + 1)
            if step in (0, 3):
                params[2].grad = None
            if step == 4:
                params[1].grad = None
        optimizer.step(), reference.step()
    assert_same(ours, theirs, optimizer, reference)


def test_checkpoints_go_both_ways_mid_run():
    ours, theirs = tensors(SIZES, 0), tensors(SIZES, 0)
    optimizer, reference = AdamW(ours, weight_decay=0.1), torch.optim.AdamW(theirs, weight_decay=0.1, foreach=False)
    for step in range(3):
        give_grads(ours, step + 1), give_grads(theirs, step + 1)
        optimizer.step(), reference.step()
    swapped_optimizer, swapped_reference = AdamW(theirs, weight_decay=0.1), torch.optim.AdamW(ours, weight_decay=0.1)
    swapped_optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    swapped_reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        give_grads(ours, step + 1), give_grads(theirs, step + 1)
        swapped_optimizer.step(), swapped_reference.step()
    assert_same(theirs, ours, swapped_optimizer, swapped_reference)


def test_on_a_stream_of_its_own_and_without_waiting():
    ours, theirs = tensors([1_000_000], 0), tensors([1_000_000], 0)
    optimizer, reference = AdamW(ours, weight_decay=0.1), torch.optim.AdamW(theirs, weight_decay=0.1, foreach=False)
    give_grads(ours, 1), give_grads(theirs, 1)
    reference.step()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        optimizer.step()
        give_grads(ours, 2)
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    stream.synchronize()
    give_grads(theirs, 2)
    reference.step()
    assert_same(ours, theirs, optimizer, reference)


def capture_after_one_step(optimizer):
    """A graph of one step, captured on a stream of its own, after a first one that was taken there."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        optimizer.step()
    return graph


def test_graph_replay_equals_eager_with_a_changing_rate():
    ours, eager = tensors(SIZES, 0), tensors(SIZES, 0)
    lr, eager_lr = torch.tensor(1e-3, device="cuda"), torch.tensor(1e-3, device="cuda")
    optimizer, reference = AdamW(ours, lr=lr, max_grad_norm=1.0), AdamW(eager, lr=eager_lr, max_grad_norm=1.0)
    give_grads(ours, 1), give_grads(eager, 1)
    grads = [p.grad for p in ours]
    graph = capture_after_one_step(optimizer)
    reference.step()
    for step in range(50):
        fresh = tensors(SIZES, step + 2)
        for grad, param, value in zip(grads, eager, fresh, strict=True):
            grad.copy_(value)
            param.grad = value
        for rate in (lr, eager_lr):
            rate.fill_(1e-3 / (step + 1))
        graph.replay()
        reference.step()
        if step == 20:  # an eager step between replays, on gradients elsewhere
            give_grads(ours, 999), give_grads(eager, 999)
            optimizer.step(), reference.step()
    torch.cuda.synchronize()
    for p, q in zip(ours, eager, strict=True):
        assert torch.equal(p, q)
    assert optimizer.skipped_steps == 0


def test_graph_replay_rounds_at_random_as_eager_steps_do():
    ours, eager = tensors(SIZES, 0), tensors(SIZES, 0)
    optimizer, reference = (AdamW(params, lr=1e-3, state_bits=8, seed=7) for params in (ours, eager))
    give_grads(ours, 1), give_grads(eager, 1)
    grads = [p.grad for p in ours]
    graph = capture_after_one_step(optimizer)
    reference.step()
    for step in range(10):
        for grad, param, value in zip(grads, eager, tensors(SIZES, step + 2), strict=True):
            grad.copy_(value)
            param.grad = value
        graph.replay()
        reference.step()
    torch.cuda.synchronize()
    assert optimizer.state_dict()["perfopt"] == reference.state_dict()["perfopt"] == {"seed": 7, "rounding_step": 11}
    for p, q in zip(ours, eager, strict=True):
        assert torch.equal(p, q)


@pytest.mark.skipif(
    FOUND["available"] and FOUND["devices"][0]["total_bytes"] < 60 << 30, reason="needs 60 GB of device memory"
)
def test_more_than_2_to_the_31_elements():
    count = 2**31 + 5
    param = torch.zeros(count, device="cuda")
    param.grad = torch.zeros(count, device="cuda")
    param.grad[-3:] = 1.0
    optimizer = AdamW([param], lr=0.5, weight_decay=0.0)
    optimizer.step()
    assert math.isclose(optimizer.last_grad_norm, math.sqrt(3))
    assert param[-4:].tolist() == pytest.approx([0.0, -0.5, -0.5, -0.5])
    assert int(torch.count_nonzero(param)) == 3


def test_two_kinds_of_device_are_refused():
    params = [torch.ones(3, device="cuda"), torch.ones(3)]
    optimizer = AdamW(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"params\[1\].*on the CUDA device of params\[0\]"):
        optimizer.step()
    assert not optimizer.state


def test_devices_are_described():
    assert FOUND["name"] == "cuda"
    for index, device in enumerate(FOUND["devices"]):
        properties = torch.cuda.get_device_properties(index)
        assert device["name"] == properties.name
        assert device["compute_capability"] == f"{properties.major}.{properties.minor}"
        assert device["multiprocessors"] == properties.multi_processor_count
