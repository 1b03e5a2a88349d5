"""The device path against torch on one GPU: a table of ratios, and achieved against measured copy bandwidth.

Run by ``make bench-gpu``. Both sides step in turns; a figure is the median over rounds of (torch / ours) of the same round, timed
by CUDA events around several steps. Writes ``benchmarks/results/gpu.json`` with the machine's manifest after each row, so that
what was measured is kept whatever happens later; a row that fails says why and the next is measured. Exit status: 0 measured,
1 a row failed, 3 no GPU or no backend (said, and written where nothing was ever measured; a measured file is left as it is).
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perfopt import _core

RESULTS = Path(__file__).resolve().parent.parent / "results" / "gpu.json"
ROUNDS = 15
STEPS = 10


def no_gpu(reason: str) -> int:
    """Says that nothing was measured."""
    print(f"make bench-gpu: no GPU was measured: {reason}")
    if not RESULTS.exists() or not json.loads(RESULTS.read_text())["measured"]:
        told = {
            "measured": False,
            "reason": "no GPU has been measured yet; run `make bench-gpu` where there is one",
            "rows": [],
        }
        RESULTS.write_text(json.dumps(told, indent=2) + "\n")
    return 3


def milliseconds(torch: Any, work: Callable[[], object]) -> float:
    """Of one call, on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(STEPS):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / STEPS


def versus(torch: Any, ours: Callable[[], object], theirs: Callable[[], object]) -> dict[str, float]:
    """Medians of both and of their ratio, in turns whose order alternates."""
    for work in (ours, theirs) * 3:
        work()
    mine, their = [], []
    for index in range(ROUNDS):
        order = [(ours, mine), (theirs, their)]
        for work, times in order if index % 2 else order[::-1]:
            times.append(milliseconds(torch, work))
    ratios = sorted(b / a for a, b in zip(mine, their, strict=True))
    return {
        "ours_ms": statistics.median(mine),
        "torch_ms": statistics.median(their),
        "times_faster": statistics.median(ratios),
        "low": ratios[len(ratios) // 4],
        "high": ratios[3 * len(ratios) // 4],
    }


def copy_bandwidth(torch: Any) -> float:
    """Bytes a second, read and written, of a large copy within the device."""
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    best = min(milliseconds(torch, lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.nbytes / best * 1e3


def make_params(torch: Any, sizes: list[int]) -> list[Any]:
    params = [torch.nn.Parameter(torch.randn(size, device="cuda")) for size in sizes]
    for param in params:
        param.grad = torch.randn_like(param) * 0.01
    return params


def optimizer_row(torch: Any, sizes: list[int], bandwidth: float) -> dict[str, Any]:
    """Clip, non-finite check and AdamW, against torch's GradScaler, clip_grad_norm_ and AdamW(fused=True)."""
    from perfopt.optim import AdamW

    mine = AdamW(make_params(torch, sizes), lr=1e-4, max_grad_norm=1.0)
    params = make_params(torch, sizes)
    peer = torch.optim.AdamW(params, lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=1.0)
    scaler.scale(torch.ones((), device="cuda"))

    def theirs() -> None:
        scaler.unscale_(peer)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        scaler.step(peer)
        scaler.update()

    row: dict[str, Any] = versus(torch, mine.step, theirs)
    moved = 32 * sum(sizes)  # pass 1 reads 4 bytes a parameter, pass 2 reads 16 and writes 12
    return {**row, "share_of_copy_bandwidth": moved / row["ours_ms"] * 1e3 / bandwidth}


def mlp_row(torch: Any) -> dict[str, Any]:
    """FusedMLP forward and backward in bfloat16 against torch.compile of the same layers."""
    from perfopt.nn import FusedMLP

    block = FusedMLP(1024, 4096, device="cuda", dtype=torch.bfloat16)
    peer = torch.compile(block.to_sequential())
    x = torch.randn(8192, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn_like(x)

    def run(module: Any) -> Callable[[], object]:
        return lambda: module(x).backward(grad)

    return versus(torch, run(block), run(peer))


def fingerprint_row(torch: Any, bandwidth: float) -> dict[str, Any]:
    """Content of 1 GiB on the device against copying it to the CPU and hashing it there."""
    tensor = torch.randn(1 << 28, device="cuda")
    times = versus(torch, lambda: _core.fingerprint(tensor), lambda: _core.fingerprint(tensor.cpu()))
    share = tensor.nbytes / times["ours_ms"] * 1e3 / bandwidth
    return {**times, "share_of_copy_bandwidth": share}


def measure(parts: dict[str, Callable[[], dict[str, Any]]], machine: dict[str, Any]) -> int:
    """Measures, prints and writes row after row."""
    rows: list[dict[str, Any]] = []
    for name, part in parts.items():
        try:
            row = {"row": name, **part()}
        except Exception as error:  # the time on a GPU is short: the other rows are worth having
            row = {"row": name, "failed": f"{type(error).__name__}: {error}"}
        rows.append(row)
        RESULTS.write_text(json.dumps({"measured": True, "machine": machine, "rows": rows}, indent=2) + "\n")
        print(line_of(row), flush=True)
    return 1 if any("failed" in row for row in rows) else 0


def line_of(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    if "failed" in row:
        return f"failed                {row['row']}: {row['failed']}"
    share = f"  {row['share_of_copy_bandwidth']:.2f} of copy" if "share_of_copy_bandwidth" in row else ""
    return f"{row['times_faster']:6.2f}x [{row['low']:.2f}, {row['high']:.2f}]  {row['row']}{share}"


def main() -> int:
    """Looks for a device and measures."""
    found = _core.backend_info()
    if not found["available"]:
        return no_gpu(str(found["reason"]))
    try:
        import torch
    except ImportError:
        return no_gpu("PyTorch is not installed")
    if not torch.cuda.is_available():
        return no_gpu("this PyTorch has no CUDA")
    generator = random.Random(0)
    sizes = [int(80_000_000 / 80 * generator.uniform(0.1, 1.9)) for _ in range(80)]
    bandwidth = copy_bandwidth(torch)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "scaler + clip + AdamW, 80 M fp32 parameters in 80 tensors": lambda: optimizer_row(torch, sizes, bandwidth),
        "the same, 10,000 tensors of 64 elements": lambda: optimizer_row(torch, [64] * 10_000, bandwidth),
        "fingerprint of 1 GiB": lambda: fingerprint_row(torch, bandwidth),
        "FusedMLP 1024-4096-1024, 8192 rows, bf16, forward and backward": lambda: mlp_row(torch),
    }
    machine = {
        "device": torch.cuda.get_device_name(),
        "compute_capability": list(torch.cuda.get_device_capability()),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "copy_bandwidth_gb_s": bandwidth / 1e9,
        "backend": found["devices"],
    }
    print(f"{machine['device']}, copy {bandwidth / 1e9:.0f} GB/s")
    return measure(parts, machine)


if __name__ == "__main__":
    sys.exit(main())
