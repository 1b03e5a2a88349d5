"""Which 8-bit code for optimizer state: AdamW on a real job, its moments in each of several codes, for 1,000 steps
without re-sync.

The job is a small character transformer on the source text of the standard library. A code is a sorted table of
magnitudes in [0, 1], times the largest of a block of 256, rounded to nearest or stochastically; "perfopt" is the
code of csrc/kernels/quantize_math.h itself. Two tables come out:

* *followed*: one float32 run; every code keeps one moment (the other stays float32) of 128 blocks of 256 parameters
under that run's gradients.
  Error of the update against float32 moments, relative, root mean square; of the root of the second moment, median
  and 99th percentile.
* *trained*: some of them train by themselves, and the optimizer itself; held-out loss minus that of float32 moments of
the same seed.

    python benchmarks/study_8bit_state.py [--steps 1000] [--seeds 2]

Needs torch. What it decided is in docs/kernels.md, "8-bit state"; speed is in bench_low_precision.py.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from perfopt.cli.demo_job import CONTEXT, VOCABULARY, encode, read_corpus
from perfopt.kernels import dequantize, quantize
from perfopt.optim import AdamW

Code = Callable[[torch.Tensor, int], torch.Tensor]  # a vector and the step's number: the vector as it reads back

BLOCK = 256
FOLLOWED_BLOCKS = 128
LR, BETA1, BETA2, EPS, DECAY = 1e-3, 0.9, 0.999, 1e-8, 1e-2


def float_levels(codes: int, mantissa: int, offset: bool) -> torch.Tensor:
    """``codes`` magnitudes of a float with ``mantissa`` bits; below its normal range denormals, or (``offset``)
    every code moved down by the smallest normal number, which leaves no jump in spacing
    (csrc/kernels/quantize_math.h)."""
    k = torch.arange(codes, dtype=torch.float64)
    per = 2**mantissa
    normal = (1 + k % per / per) * 2.0 ** torch.floor(k / per)
    if offset:
        return (normal - 1) / (normal[-1] - 1)
    denormal = k / per * 2
    return torch.where(k < per, denormal, normal) / normal[-1]


def dynamic_levels(bits: int) -> torch.Tensor:
    """Dynamic map of Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2022): a run of zero bits
    gives the decade, the bits after it an even fraction of it; magnitudes of ``bits`` bits (7 beside a sign, 8
    without)."""
    levels = [0.0]
    for zeros in range(7):
        fractions = 2 ** (bits - 1 - zeros)
        edges = torch.linspace(0.1, 1.0, fractions + 1, dtype=torch.float64)
        levels += ((edges[:-1] + edges[1:]) / 2 * 10.0**-zeros).tolist()
    levels.append(1.0)
    return torch.tensor(sorted(levels), dtype=torch.float64)


def linear_levels(codes: int) -> torch.Tensor:
    return torch.arange(codes, dtype=torch.float64) / (codes - 1)


def quantized(x: torch.Tensor, levels: torch.Tensor, stochastic: bool, floor: bool) -> torch.Tensor:
    """x (a vector) as it reads back: blocks of 256 scaled by their largest magnitude."""
    padded = nn.functional.pad(x, (0, -len(x) % BLOCK)).view(-1, BLOCK)
    scale = padded.abs().amax(1, keepdim=True)
    y = padded.abs() / scale.clamp_min(torch.finfo(torch.float32).tiny)
    table = levels.to(torch.float32)
    above = torch.searchsorted(table, y).clamp_(1, len(table) - 1)
    low, high = table[above - 1], table[above]
    fraction = (y - low) / (high - low)
    up = fraction > (torch.rand_like(y) if stochastic else 0.5)
    code = above - 1 + up.long()
    if floor:
        code = torch.where((code == 0) & (y > 0), 1, code)
    return (table[code] * scale * padded.sign()).view(-1)[: len(x)]


def exactly(x: torch.Tensor, step: int) -> torch.Tensor:
    return x


def table(levels: torch.Tensor, stochastic: bool, floor: bool = False) -> Code:
    """The code of a table of magnitudes; ``floor``: a positive number never becomes 0."""
    return lambda x, step: quantized(x, levels, stochastic, floor)


def perfopt_code(signed: bool, stochastic: bool) -> Code:
    """The library's own."""

    def code(x: torch.Tensor, step: int) -> torch.Tensor:
        codes, scales = quantize(x, signed=signed, stochastic=stochastic, seed=1, stream=2 * step + signed)
        return torch.from_numpy(dequantize(codes, scales, signed=signed))

    return code


def first_moments() -> dict[str, Code]:
    """Candidates for what has a sign."""
    found: dict[str, Code] = {"linear, nearest": table(linear_levels(128), False)}
    for stochastic, word in ((False, "nearest"), (True, "stochastic")):
        found[f"dynamic map, {word}"] = table(dynamic_levels(7), stochastic)
        found[f"E4M3, {word}"] = table(float_levels(128, 3, False), stochastic)
        found[f"perfopt, {word}"] = perfopt_code(True, stochastic)
    return found


def second_moments() -> dict[str, Code]:
    """Candidates for what has none."""
    found: dict[str, Code] = {"linear, nearest": table(linear_levels(256), False)}
    for stochastic, word in ((False, "nearest"), (True, "stochastic")):
        found[f"dynamic map, {word}"] = table(dynamic_levels(8), stochastic)
        found[f"E5M3, {word}"] = table(float_levels(256, 3, False), stochastic, True)
        found[f"E4M4, {word}"] = table(float_levels(256, 4, False), stochastic, True)
        found[f"its root, linear, {word}"] = table(linear_levels(256) ** 2, stochastic, True)
        found[f"its root, E4M4, {word}"] = table(float_levels(256, 4, False) ** 2, stochastic, True)
        found[f"perfopt, {word}"] = perfopt_code(False, stochastic)
    return found


def trained() -> dict[str, tuple[Code, Code]]:
    """Pairs that train by themselves."""
    first, second = first_moments(), second_moments()
    return {
        "dynamic map, nearest": (first["dynamic map, nearest"], second["dynamic map, nearest"]),
        "E4M3 and E5M3, nearest": (first["E4M3, nearest"], second["E5M3, nearest"]),
        "perfopt, first nearest, second stochastic": (first["perfopt, nearest"], second["perfopt, stochastic"]),
    }


class State:
    """Moments of one parameter vector, each in its code."""

    def __init__(self, count: int, first: Code, second: Code) -> None:
        self.m, self.v = torch.zeros(count), torch.zeros(count)
        self.first, self.second = first, second

    def update(self, grad: torch.Tensor, step: int) -> torch.Tensor:
        """Takes a gradient and gives the direction, then stores the moments."""
        m = self.m.lerp(grad, 1 - BETA1)
        v = self.v * BETA2 + (1 - BETA2) * grad * grad
        direction = m / (1 - BETA1**step) / ((v / (1 - BETA2**step)).sqrt() + EPS)
        self.m, self.v = self.first(m, step), self.second(v, step)
        return direction


class Model(nn.Module):
    """Embedding, two pre-norm blocks, tied to nothing: about 130,000 parameters."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, VOCABULARY)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Class numbers ``(batch, CONTEXT)`` to logits ``(batch, CONTEXT, VOCABULARY)``."""
        x = self.embed(tokens) + self.place.weight
        out: torch.Tensor = self.out(self.layers(x, mask=self.mask, is_causal=True))
        return out


class Job:
    """The training run: same data order for every code, weights by seed."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        train, heldout = read_corpus(1 << 20)
        self.train, self.heldout = torch.from_numpy(encode(train)), torch.from_numpy(encode(heldout))
        self.model = Model()
        self.generator = torch.Generator().manual_seed(seed)
        self.params = list(self.model.parameters())

    def loss(self, text: torch.Tensor, batch: int, generator: torch.Generator) -> torch.Tensor:
        starts = torch.randint(len(text) - CONTEXT - 1, (batch, 1), generator=generator)
        window = text[starts + torch.arange(CONTEXT + 1)]
        logits = self.model(window[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())

    def gradient(self) -> torch.Tensor:
        """Of one batch, all parameters as one vector."""
        for param in self.params:
            param.grad = None
        self.loss(self.train, 12, self.generator).backward()  # type: ignore[no-untyped-call]
        return torch.cat([param.grad.flatten() for param in self.params if param.grad is not None])

    @torch.no_grad()
    def apply(self, direction: torch.Tensor) -> None:
        offset = 0
        for param in self.params:
            piece = direction[offset : offset + param.numel()].view_as(param)
            param.mul_(1 - LR * DECAY).sub_(piece, alpha=LR)
            offset += param.numel()

    @torch.no_grad()
    def heldout_loss(self) -> float:
        generator = torch.Generator().manual_seed(0)
        return sum(float(self.loss(self.heldout, 64, generator)) for _ in range(10)) / 10


def train(seed: int, steps: int, first: Code, second: Code) -> float:
    """Held-out loss after ``steps`` steps with the moments in these codes."""
    job = Job(seed)
    state = State(sum(param.numel() for param in job.params), first, second)
    for step in range(1, steps + 1):
        job.apply(state.update(job.gradient(), step))
    return job.heldout_loss()


def train_by_optimizer(seed: int, steps: int, state_bits: int | None) -> float:
    """The same by ``perfopt.optim.AdamW`` itself: both moments at random, by the two uses of one draw."""
    job = Job(seed)
    optimizer = AdamW(job.params, lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY, state_bits=state_bits)
    for _ in range(steps):
        job.gradient()
        optimizer.step()
    return job.heldout_loss()


def errors(state: State, exact_v: torch.Tensor, direction: torch.Tensor, truth: torch.Tensor) -> tuple[float, ...]:
    """Of the update; of the root of the second moment: median and 99th percentile."""
    update = ((direction - truth).square().mean() / truth.square().mean()).sqrt()
    seen = exact_v > 0
    root = ((state.v[seen] / exact_v[seen]).sqrt() - 1).abs()
    return float(update), float(root.median()), float(root.kthvalue(math.ceil(0.99 * len(root))).values)


def follow(steps: int) -> dict[str, list[float]]:
    """Errors of every code under the gradients of one float32 run, averaged over the last tenth of the steps."""
    job = Job(0)
    exact = State(sum(param.numel() for param in job.params), exactly, exactly)
    blocks = torch.randperm(len(exact.m) // BLOCK, generator=torch.Generator().manual_seed(1))[:FOLLOWED_BLOCKS]
    chosen = (blocks[:, None] * BLOCK + torch.arange(BLOCK)).view(-1)
    states = {f"m: {name}": State(len(chosen), code, exactly) for name, code in first_moments().items()}
    states |= {f"v: {name}": State(len(chosen), exactly, code) for name, code in second_moments().items()}
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in states}
    for step in range(1, steps + 1):
        grad = job.gradient()
        update = exact.update(grad, step)
        for name, state in states.items():
            direction = state.update(grad[chosen], step)
            if step > steps - max(1, steps // 10) and step % 10 == 0:
                found[name].append(errors(state, exact.v[chosen], direction, update[chosen]))
        job.apply(update)
    return {name: [sum(column) / len(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    print("| code | error of the update | of sqrt(v), median | 99 % |\n|---|---|---|---|", flush=True)
    for name, figures in follow(arguments.steps).items():
        print(f"| {name} | " + " | ".join(f"{figure:.2%}" for figure in figures) + " |", flush=True)
    exact = [train(seed, arguments.steps, exactly, exactly) for seed in range(arguments.seeds)]
    print(f"\nheld-out loss with float32 moments: {', '.join(f'{loss:.4f}' for loss in exact)}\n", flush=True)
    print("| code of both moments | held-out loss minus float32's |\n|---|---|", flush=True)
    for name, codes in trained().items():
        losses: list[Any] = [train(seed, arguments.steps, *codes) - exact[seed] for seed in range(arguments.seeds)]
        print(f"| {name} | " + ", ".join(f"{loss:+.4f}" for loss in losses) + " |", flush=True)
    for bits in (None, 8):
        losses = [train_by_optimizer(seed, arguments.steps, bits) - exact[seed] for seed in range(arguments.seeds)]
        print(f"| AdamW(state_bits={bits}) | " + ", ".join(f"{loss:+.4f}" for loss in losses) + " |", flush=True)


if __name__ == "__main__":
    main()
