"""Optimizer steps over 80 M parameters in 80 tensors, and over many small ones, against torch's chain of the same."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from perfopt import _core, amp, optim  # noqa: E402

PARAMETERS = 80_000_000
TENSORS = 80


def make_params(dtype: Any = torch.float32, tensors: int = TENSORS, total: int = PARAMETERS) -> list[Any]:
    torch.manual_seed(0)
    values, gradients = torch.randn(total // tensors), torch.randn(total // tensors) * 0.01
    params = [torch.nn.Parameter(values.to(dtype, copy=True)) for _ in range(tensors)]
    for param in params:
        param.grad = gradients.to(dtype, copy=True)
    return params


def started(scaler: Any) -> Any:
    scaler.scale(torch.ones(()))
    return scaler


def scaled(optimizer: Any) -> Callable[[], object]:
    scaler = started(amp.GradScaler("cpu", init_scale=1024.0))

    def run() -> None:
        scaler.step(optimizer)
        scaler.update()

    run()
    return run


def torch_scaled(params: list[Any], optimizer: Any, after: Callable[[], object] | None = None) -> Callable[[], object]:
    """unscale_, clip, step. The gradients shrink from call to call, which changes no time."""
    scaler = started(torch.amp.GradScaler("cpu", init_scale=1.5))

    def run() -> None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        scaler.step(optimizer)
        scaler.update()
        if after is not None:
            after()

    run()
    return run


def torch_adamw(**options: Any) -> Callable[[], object]:
    params = make_params()
    return torch_scaled(params, torch.optim.AdamW(params, lr=1e-4, **options))


def torch_adamw_unscaled(**options: Any) -> Callable[[], object]:
    params = make_params()
    optimizer = torch.optim.AdamW(params, lr=1e-4, **options)

    def run() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    run()
    return run


def pages_of(call: Callable[[], object]) -> int:
    """Pages that the system has to clear and map for one call, when calls before it have been made."""
    call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.fixture(autouse=True)
def equal_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(_core.cpu_info()["threads"])
    yield
    torch.set_num_threads(before)


UNSCALED = "clip + AdamW, 80 M fp32 parameters in 80 tensors"
CHAIN = "80 tensors; unscale, search for inf and NaN, clip to a global norm of 1, step, update of the scale"


@pytest.mark.parametrize("with_scaler", [True, False], ids=["with the scaler", "without"])
def test_adamw(versus: Callable[..., None], with_scaler: bool) -> None:
    """Both rows are set up alike, each alone with its own tensors: torch's default leans on the allocator, which remembers."""
    gc.collect()
    mine = optim.AdamW(make_params(), lr=1e-4, max_grad_norm=1.0)
    chain = torch_adamw if with_scaler else torch_adamw_unscaled
    mine.step()
    fused, default = chain(fused=True), chain()
    bytes_moved = "32 bytes a parameter against 48 and 100" if with_scaler else "32 bytes a parameter against 40 and 92"
    versus(
        "scaler, clip and AdamW, 80 M float32 parameters" if with_scaler else UNSCALED,
        ours={"perfopt": scaled(mine) if with_scaler else mine.step},
        peers={"torch, fused": fused, "torch, default": default},
        bars={
            "torch, fused": ">=1.35x" if with_scaler else ">=1.2x",
            "torch, default": ">=4.3x" if with_scaler else ">=4x",
        },
        rounds=15,
        note=f"{CHAIN if with_scaler else '80 tensors'}; {bytes_moved}; the default maps {pages_of(default):,} pages a step",
    )


def test_low_precision_copy(versus: Callable[..., None]) -> None:
    params = make_params()
    weights = [param.detach() for param in params]
    low = [weight.bfloat16() for weight in weights]
    reference = torch.optim.AdamW(params, lr=1e-4, fused=True)
    chain = torch_scaled(params, reference, after=lambda: torch._foreach_copy_(low, weights))
    mine = optim.AdamW(make_params(), lr=1e-4, max_grad_norm=1.0, low_precision_copy=torch.bfloat16)
    versus(
        "scaler, clip and AdamW with a bfloat16 copy, 80 M float32 parameters",
        ours={"perfopt, low_precision_copy": scaled(mine)},
        peers={"torch, fused, _foreach_copy_": chain},
        bars={"torch, fused, _foreach_copy_": ">=1.55x"},
        rounds=15,
        note=f"{CHAIN}, copy; 34 bytes a parameter against 54",
    )


def test_share_of_triad_bandwidth(add_row: Callable[..., None]) -> None:
    """Seconds a GB that clip and AdamW move by design, and that a triad moves, by turns."""
    mine = optim.AdamW(make_params(), lr=1e-4, max_grad_norm=1.0)
    a, b, c = (torch.rand(PARAMETERS) for _ in range(3))

    def triad() -> None:
        torch.add(a, b, alpha=3.0, out=c)

    def seconds_of(call: Callable[[], object]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(22):
        for kept, call in zip(seconds, (mine.step, triad), strict=True):
            taken = seconds_of(call)
            if turn > 0:
                kept.append(taken)
    giga = PARAMETERS / 1e9
    for counted, how in ((16, "a store reads its line first: 16 bytes an element"), (12, "12 bytes an element")):
        add_row(
            "a GB moved, clip and AdamW over 80 M float32 parameters",
            "perfopt, 32 bytes a parameter",
            f"triad a + s * b, {how}",
            [taken / (32 * giga) for taken in seconds[0]],
            [taken / (counted * giga) for taken in seconds[1]],
            bar="<=1.176",
            note="torch.add(a, b, alpha=s, out=c) over 80 M float32; its stores go through the cache, so that each reads "
            "its line from memory. The bar is 0.85 of the triad's bandwidth",
        )


def test_bfloat16_parameters_with_masters(versus: Callable[..., None]) -> None:
    """In torch: gradients to float32, clip and fused step on the masters, masters to the parameters."""
    params = make_params(torch.bfloat16)
    masters = [torch.nn.Parameter(param.detach().float()) for param in params]
    for master in masters:
        master.grad = torch.empty_like(master)
    reference = torch.optim.AdamW(masters, lr=1e-4, fused=True)
    weights, low = [master.detach() for master in masters], [param.detach() for param in params]
    to, source = [master.grad for master in masters], [param.grad for param in params]

    def torch_step() -> None:
        torch._foreach_copy_(to, source)
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        reference.step()
        torch._foreach_copy_(low, weights)

    torch_step()
    mine = optim.AdamW(make_params(torch.bfloat16), lr=1e-4, max_grad_norm=1.0, master_weights=True)
    mine.step()
    versus(
        "clip and AdamW, 80 M bfloat16 parameters with float32 masters",
        ours={"perfopt": mine.step},
        peers={"torch, fused, with copies": torch_step},
        bars={"torch, fused, with copies": ">=1.7x"},
        rounds=9,
        note="80 tensors; 30 bytes a parameter against 52",
    )


def test_eight_bit_state(versus: Callable[..., None]) -> None:
    mine = optim.AdamW(make_params(), lr=1e-4, max_grad_norm=1.0, state_bits=8)
    peers = {"torch, fused": torch_adamw(fused=True)}
    run = scaled(mine)
    held = sum(value.nbytes for entry in mine.state.values() for value in entry.values())
    versus(
        "scaler, clip and AdamW, 80 M float32 parameters, state in 8 bits",
        ours={"perfopt, state_bits=8": run},
        peers=peers,
        bars={"torch, fused": ">=2x"},
        rounds=9,
        note=f"{CHAIN}; {held / PARAMETERS:.3f} bytes of state a parameter against 8",
    )


def test_eight_bit_state_against_bitsandbytes(versus: Callable[..., None]) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    total = PARAMETERS // 8
    mine = optim.AdamW(make_params(total=total), lr=1e-4, state_bits=8)
    theirs = bitsandbytes.optim.AdamW8bit(make_params(total=total), lr=1e-4)
    mine.step()
    try:
        theirs.step()
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"bitsandbytes {bitsandbytes.__version__} makes no 8-bit step on this CPU: {error}")
    versus(
        "AdamW, 10 M float32 parameters, state in 8 bits, no clipping",
        ours={"perfopt, state_bits=8": mine.step},
        peers={"bitsandbytes.AdamW8bit": theirs.step},
        bars={"bitsandbytes.AdamW8bit": ">=5x"},
        rounds=5,
        note="80 tensors",
    )


def test_sgd(versus: Callable[..., None]) -> None:
    options: dict[str, Any] = {"lr": 1e-4, "momentum": 0.9}
    ours = optim.SGD(make_params(), **options, max_grad_norm=1.0)
    ours.step()

    def chain(**others: Any) -> Callable[[], object]:
        params = make_params()
        reference = torch.optim.SGD(params, **options, **others)

        def run() -> None:
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            reference.step()

        run()
        return run

    versus(
        "clip and SGD with momentum, 80 M float32 parameters",
        ours={"perfopt": ours.step},
        peers={"torch, fused": chain(fused=True), "torch, default": chain()},
        bars={"torch, fused": ">=1.4x", "torch, default": ">=1.4x"},
        rounds=9,
        note="80 tensors; 24 bytes a parameter against 32",
    )


def foreach_lion(params: list[Any], lr: float, beta1: float, beta2: float, decay: float) -> Callable[[], object]:
    """Lion by torch's foreach operations, in place where it can be."""
    weights, grads = [param.detach() for param in params], [param.grad for param in params]
    moments = [torch.zeros_like(weight) for weight in weights]

    def run() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        directions = torch._foreach_lerp(grads, moments, beta1)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(weights, 1.0 - lr * decay)
        torch._foreach_add_(weights, directions, alpha=-lr)
        torch._foreach_lerp_(moments, grads, 1.0 - beta2)

    run()
    return run


def test_lion(versus: Callable[..., None]) -> None:
    ours = optim.Lion(make_params(), lr=1e-4, weight_decay=0.1, max_grad_norm=1.0)
    ours.step()
    versus(
        "clip and Lion, 80 M float32 parameters",
        ours={"perfopt": ours.step},
        peers={"torch, foreach operations": foreach_lion(make_params(), 1e-4, 0.9, 0.99, 0.1)},
        bars={"torch, foreach operations": ">=1.4x"},
        rounds=9,
        note="80 tensors; 24 bytes a parameter",
    )


@pytest.mark.parametrize(
    ("name", "ours", "reference", "options"),
    [
        ("AdamW", optim.AdamW, torch.optim.AdamW, {}),
        ("SGD with momentum", optim.SGD, torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_many_small_tensors(versus: Callable[..., None], name: str, ours: Any, reference: Any, options: Any) -> None:
    count = 10_000
    mine = ours(make_params(tensors=count, total=64 * count), lr=1e-4, **options, max_grad_norm=1.0)
    mine.step()

    def chain(**others: Any) -> Callable[[], object]:
        params = make_params(tensors=count, total=64 * count)
        optimizer = reference(params, lr=1e-4, **options, **others)

        def run() -> None:
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()

        run()
        return run

    versus(
        f"clip and {name}, 10,000 tensors of 64 elements",
        ours={"perfopt": mine.step},
        peers={"torch, fused": chain(fused=True), "torch, default": chain()},
        bars={"torch, fused": ">=10x", "torch, default": ">=30x"},
        rounds=7,
    )
