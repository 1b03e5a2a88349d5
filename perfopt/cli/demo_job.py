"""The demo's job: one small character-level transformer, trained twice on the standard library's own source text.

The plain side is the loop a PyTorch user writes; the other side hands the same model, loader, optimizer and criterion to
:meth:`perfopt.PerformanceOptimizer.optimize_training_loop`. Both start from the same weights and see the same batches. They
run in alternating blocks of steps in one process, so that a drift of the machine's speed hits both alike.
"""

from __future__ import annotations

import statistics
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import perfopt
from perfopt import _core

VOCABULARY = 98  # printable ASCII, tab, newline; everything else becomes one "unknown" character
CONTEXT = 64
BATCH = 12  # batch and context of nanoGPT's recipe for training on a CPU
WIDTH = 256
LAYERS = 4
HEADS = 4
LEARNING_RATE = 3e-4
MAX_GRAD_NORM = 1.0
HELDOUT_BATCHES = 20
CORPUS_BYTES = 8 << 20


@dataclass(frozen=True)
class DemoSize:
    """How long to train: ``blocks`` alternations of ``steps_per_block`` steps on each side."""

    blocks: int = 16
    steps_per_block: int = 25
    seed: int = 1234

    @property
    def steps(self) -> int:
        """Optimizer steps of each side."""
        return self.blocks * self.steps_per_block


def read_corpus(limit: int = CORPUS_BYTES) -> tuple[bytes, bytes]:
    """Source text of the standard library as (training, held-out) bytes: every 20th file, by sorted path, is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
    train, heldout = bytearray(), bytearray()
    files = sorted(path for path in root.rglob("*.py") if not skipped.intersection(path.relative_to(root).parts))
    for index, path in enumerate(files):
        if len(train) >= limit:
            break
        try:
            text = path.read_bytes()
        except OSError:
            continue  # a file this user may not read is no part of the corpus
        (heldout if index % 20 == 19 else train).extend(text)
    if len(train) < 100 * CONTEXT or len(heldout) < 10 * CONTEXT:
        raise RuntimeError(f"too little source text below {root}: {len(train)} bytes to train on")
    return bytes(train), bytes(heldout)


def encode(text: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Characters as class numbers below :data:`VOCABULARY`, int64, shape ``(len(text),)``."""
    table = np.zeros(256, dtype=np.int64)
    table[9], table[10] = 1, 2
    table[32:127] = np.arange(3, 98)
    return table[np.frombuffer(text, dtype=np.uint8)]


class Windows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows of CONTEXT characters and the same shifted by one, at fixed offsets."""

    def __init__(self, encoded: torch.Tensor, offsets: torch.Tensor) -> None:
        self.encoded = encoded
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        begin = int(self.offsets[index])
        window = self.encoded[begin : begin + CONTEXT + 1]
        return window[:-1], window[1:]


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm_mlp = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(batch, time, WIDTH)`` to the same shape."""
        batch, length, _ = x.shape
        heads = self.query_key_value(self.norm_attention(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        out: torch.Tensor = x + self.down(functional.gelu(self.up(self.norm_mlp(x))))
        return out


class CharTransformer(nn.Module):
    """A decoder-only character model of about 3.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        """Maps ``(batch, time)`` class numbers to ``(batch, time, VOCABULARY)`` logits."""
        x = self.characters(characters) + self.positions.weight[: characters.shape[1]]
        logits: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def criterion(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy a character, in nats."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@dataclass
class Side:
    """One of the two runs: its model and optimizer, and what was measured so far."""

    model: CharTransformer
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    block_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def result(self, heldout_loss: float) -> dict[str, Any]:
        """The side's part of the summary."""
        seconds = sum(self.block_seconds)
        last = self.losses[-20:]
        return {
            "seconds": seconds,
            "tokens_per_second": len(self.losses) * BATCH * CONTEXT / seconds,
            "final_loss": sum(last) / len(last),
            "heldout_loss": heldout_loss,
            "steps": len(self.losses),
            "peak_resident_bytes": self.peak_bytes,
            "losses_at": {
                str(step): self.losses[step - 1]
                for step in sorted({max(1, len(self.losses) * part // 4) for part in range(1, 5)})
            },
        }


def make_side(seed: int) -> Side:
    """A fresh model and the optimizer as a user writes it; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = CharTransformer()
    return Side(model, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE))


def block_offsets(length: int, size: DemoSize) -> list[torch.Tensor]:
    """Window offsets of every block, drawn from the seed: both sides get the same."""
    generator = torch.Generator().manual_seed(size.seed)
    count = size.steps_per_block * BATCH
    return [torch.randint(length - CONTEXT - 1, (count,), generator=generator) for _ in range(size.blocks)]


def make_loader(encoded: torch.Tensor, offsets: torch.Tensor) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """A loader of the windows at ``offsets``, in that order."""
    return DataLoader(Windows(encoded, offsets), batch_size=BATCH)


def train_plainly(
    side: Side, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]], on_step: Callable[[float], None]
) -> None:
    """The loop as a PyTorch user writes it: float32, clip_grad_norm_, AdamW."""
    side.model.train()
    for inputs, targets in loader:
        side.optimizer.zero_grad()
        loss = criterion(side.model(inputs), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(side.model.parameters(), MAX_GRAD_NORM)
        side.optimizer.step()
        on_step(loss.item())


def heldout_loss(model: nn.Module, encoded: torch.Tensor) -> float:
    """Mean loss over evenly spaced held-out windows, the same for both sides."""
    offsets = torch.linspace(0, len(encoded) - CONTEXT - 2, HELDOUT_BATCHES * BATCH).long()
    loader = make_loader(encoded, offsets)
    model.eval()
    with torch.no_grad():
        losses = [float(criterion(model(inputs), targets)) for inputs, targets in loader]
    return sum(losses) / len(losses)


def run(size: DemoSize, on_step: Callable[[str, float], None]) -> dict[str, Any]:
    """Both runs; ``on_step(side, loss)`` after every step. Returns the summary as a JSON-ready dict."""
    train_text, heldout_text = read_corpus()
    config = perfopt.PerformanceConfig(gradient_accumulation=False, max_grad_norm=MAX_GRAD_NORM)
    optimizer = perfopt.PerformanceOptimizer(config)

    def encoded(text: bytes) -> torch.Tensor:
        """The text as a tensor: encoded once, then read from perfopt's cache."""
        tensor = optimizer.cache.get(text)
        if tensor is None:
            tensor = torch.from_numpy(encode(text))
            optimizer.cache.set(text, tensor)
        return tensor

    plain, tuned = make_side(size.seed), make_side(size.seed)
    plain_text = torch.from_numpy(encode(train_text))
    offsets = block_offsets(len(plain_text), size)
    train_plainly(make_side(size.seed), make_loader(plain_text, offsets[0][: 3 * BATCH]), lambda loss: None)

    techniques: dict[str, Any] = {}

    def record(side: Side, name: str) -> Callable[[float], None]:
        def step(loss: float) -> None:
            side.losses.append(loss)
            side.peak_bytes = max(side.peak_bytes, _core.resident_bytes())
            on_step(name, loss)

        return step

    def plain_block(block: torch.Tensor) -> None:
        train_plainly(plain, make_loader(plain_text, block), record(plain, "plain"))

    def tuned_block(block: torch.Tensor) -> None:
        step = record(tuned, "perfopt")
        result = optimizer.optimize_training_loop(
            tuned.model,
            make_loader(encoded(train_text), block),
            tuned.optimizer,
            criterion,
            num_epochs=1,
            on_step=lambda _, loss: step(float(loss)),
            quiet=True,
        )
        techniques.update(result["techniques"])

    for index, block in enumerate(offsets):
        pair = [(plain, plain_block), (tuned, tuned_block)]
        for side, run_block in pair if index % 2 == 0 else reversed(pair):
            begin = time.perf_counter()
            run_block(block)
            side.block_seconds.append(time.perf_counter() - begin)

    results = {
        "plain": plain.result(heldout_loss(plain.model, torch.from_numpy(encode(heldout_text)))),
        "perfopt": tuned.result(heldout_loss(tuned.model, encoded(heldout_text))),
    }
    ratios = [a / b for a, b in zip(plain.block_seconds, tuned.block_seconds, strict=True)]
    summary = optimizer.get_performance_summary()
    return {
        **results,
        "speedup": results["plain"]["seconds"] / results["perfopt"]["seconds"],
        "median_block_speedup": statistics.median(ratios),
        "block_speedups": ratios,
        "loss_gap": results["perfopt"]["heldout_loss"] - results["plain"]["heldout_loss"],
        "cache_stats": summary["cache_stats"],
        "profiling_summary": summary["profiling_summary"],
        "memory_trends": summary["memory_trends"],
        "techniques": techniques,
        "parameters": sum(p.numel() for p in tuned.model.parameters()),
        "corpus_bytes": len(train_text) + len(heldout_text),
    }
