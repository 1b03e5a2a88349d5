"""perfopt.optim in real runs: a language model on this repository's text with 8-bit state, torch.compile, DDP over gloo."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optim_cases import bits_of  # noqa: E402

from perfopt import optim  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
CONTEXT, BATCH, STEPS = 8, 32, 1000


def text() -> Any:
    """The bytes of the documentation."""
    files = sorted((ROOT / "docs").glob("*.md"))
    return torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8).long()


def make_model(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Embedding(256, 12),
        torch.nn.Flatten(),
        torch.nn.Linear(12 * CONTEXT, 64),
        torch.nn.GELU(),
        torch.nn.Linear(64, 256),
    )


def final_loss(seed: int, **options: Any) -> tuple[float, float]:
    """Mean loss of the first 20 and of the last 200 steps."""
    data, model = text(), make_model(seed)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.999), max_grad_norm=1.0, **options)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(STEPS):
        start = torch.randint(0, len(data) - CONTEXT - 1, (BATCH, 1), generator=generator)
        loss = torch.nn.functional.cross_entropy(
            model(data[start + torch.arange(CONTEXT)]), data[start[:, 0] + CONTEXT]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return statistics.mean(losses[:20]), statistics.mean(losses[-200:])


@pytest.fixture
def one_thread() -> Any:
    """A model this small gains nothing from more, and on a busy machine they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_thousand_steps_with_eight_bit_state_end_within_seed_noise() -> None:
    seeds = range(4)
    full = [final_loss(seed) for seed in seeds]
    eight = [final_loss(seed, state_bits=8) for seed in seeds]
    noise = statistics.stdev(loss for _, loss in full)
    apart = statistics.mean(a[1] - b[1] for a, b in zip(eight, full, strict=True))
    assert all(end < 0.6 * begin for begin, end in full + eight)
    assert apart < noise, f"8-bit state ends {apart:.4f} above float32 state, seeds differ by {noise:.4f}"


def test_compiled_models_train_to_the_same_bits_as_their_gradients_allow() -> None:
    """The step sees gradients like any others, of a compiled model too."""
    model, data = make_model(0), text()[: BATCH + CONTEXT]
    inputs = data.unfold(0, CONTEXT, 1)[:BATCH]
    torch._dynamo.reset()
    compiled = torch.compile(model)
    try:
        compiled(inputs).sum().backward()
    except Exception as error:  # what a missing compiler raises depends on the version of torch
        pytest.skip(f"torch.compile does not work here: {type(error).__name__}")
    other = make_model(0)
    optimizers = [optim.Lion(m.parameters(), lr=1e-3, max_grad_norm=1.0, zero_grads=True) for m in (model, other)]
    for current, optimizer in zip((compiled, other), optimizers, strict=True):
        for param in current.parameters():
            param.grad = None
        for _ in range(5):
            torch.nn.functional.cross_entropy(current(inputs), data[CONTEXT : CONTEXT + BATCH]).backward()
            optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        differ = float(((a - b).abs() > 1e-4).float().mean())
        assert differ < 0.02  # a sign of nearly nothing may fall either way


WORKER = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from perfopt import optim

rank, file, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(20, 300), torch.nn.Tanh(), torch.nn.Linear(300, 3))
ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
optimizer = optim.AdamW(ddp.parameters(), lr=1e-2, max_grad_norm=0.5, ema=0.9, zero_grads=True)
for step in range(6):
    inputs = torch.randn(8, 20, generator=torch.Generator().manual_seed(step))
    ddp(inputs[rank * 4 : rank * 4 + 4]).square().mean().backward()
    optimizer.step()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{out}.{rank}")
dist.destroy_process_group()
"""


def test_two_processes_under_ddp_train_as_one(tmp_path: Path) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:]), "OMP_NUM_THREADS": "1"}
    arguments = [str(tmp_path / "rendezvous"), str(tmp_path / "out")]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=200)
        assert worker.returncode == 0, errors
    results = [torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in (0, 1)]

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 300), torch.nn.Tanh(), torch.nn.Linear(300, 3))
    optimizer = optim.AdamW(model.parameters(), lr=1e-2, max_grad_norm=0.5, ema=0.9)
    for step in range(6):
        optimizer.zero_grad()
        model(torch.randn(8, 20, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(results[0]["model"][name], results[1]["model"][name])
        torch.testing.assert_close(results[0]["model"][name], value, rtol=1e-3, atol=1e-4)
    for index, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            torch.testing.assert_close(results[0]["optimizer"]["state"][index][key], value, rtol=1e-2, atol=1e-4)
    assert len(bits_of(optimizer)) > 0
