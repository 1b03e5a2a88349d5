"""The one table of cases of the update kernels, ``tests/c/kernel_cases.h``, for the optimizers of ``perfopt.optim``.

The C tests walk it with every variant of the kernels and with the kernels of the device; here a small C program prints it, with
values before and after each step, so that the tests of the Python layer, on the CPU and on a GPU, walk the same.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perfopt import optim

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    line.split('"')[1]
    for line in (ROOT / "tests/c/kernel_cases.h").read_text().splitlines()
    if line.startswith('    { "')
]
# Around the widths of vectors, warps, scale blocks and chunks.
COUNTS = [1, 7, 33, 61, 255, 257, 1025, 65537]


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    compiler = os.environ.get("CC", "gcc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C compiler ({compiler[0]})")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "export_cases")
        sources = [str(ROOT / "tests/c/export_cases.c"), str(ROOT / "csrc/kernels/operation.c")]
        flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}", "-O1", "-ffp-contract=off"]
        subprocess.run([*compiler, *flags, *sources, "-o", program, "-lm"], check=True)
        told = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {case["name"]: case for case in json.loads(told, parse_int=float)}


def read(name: str) -> dict[str, Any]:
    """A case; skips where there is no C compiler."""
    return _table()[name]


def values(case: dict[str, Any], when: str, key: str, count: int) -> Any:
    """The case's values, over and over, as float64."""
    return torch.from_numpy(np.resize(np.array(case[when][key]), count))


class Model:
    """A case's step over tensors of COUNTS elements, ready to be taken. ``extras`` are options of perfopt's."""

    def __init__(self, case: dict[str, Any], device: str = "cpu", dtype: Any = torch.float32, **extras: Any) -> None:
        self.case = case
        self.params = [torch.nn.Parameter(self._of("weight", count, device, dtype)) for count in COUNTS]
        self.optimizer = getattr(optim, case["optimizer"])(self.params, **case["options"], **extras)
        saved = self.optimizer.state_dict()
        for index, param in enumerate(self.params):
            param.grad = self._of("grad", param.numel(), device, dtype)
            kept = {
                key: self._of(key, param.numel(), device, torch.float32)
                for key in case["before"]
                if key not in ("weight", "grad") and not case["first"]
            }
            if case["counts_steps"]:
                kept["step"] = torch.tensor(float(case["step"] - 1))
            if kept:
                saved["state"][index] = kept
        self.optimizer.load_state_dict(saved)
        self.optimizer.grad_scale = torch.tensor(1.0 / case["multiplier"], dtype=torch.float32, device=device)
        self.optimizer.found_inf = torch.zeros((), device=device)

    def _of(self, key: str, count: int, device: str, dtype: Any) -> Any:
        return values(self.case, "before", key, count).to(device=device, dtype=dtype)

    def far(self) -> float:
        """The largest distance from the step in double, as a share of the value or of 1."""
        worst = 0.0
        for param in self.params:
            entry = self.optimizer.state.get(param, {})
            for key in self.case["after"]:
                got = param.detach() if key == "weight" else entry.get(key)
                if got is not None:  # gradients are no state, and before a first step nothing is
                    want = values(self.case, "after", key, param.numel())
                    worst = max(worst, float(((got.double().cpu() - want).abs() / want.abs().clamp(min=1.0)).max()))
        return worst

    def bits(self) -> list[tuple[str, bytes]]:
        """All that the step has written, on the host."""
        found = []
        for index, param in enumerate(self.params):
            entry = {"weight": param.detach(), **self.optimizer.state.get(param, {})}
            for key in sorted(entry):
                flat = entry[key].cpu().contiguous().reshape(-1).view(torch.uint8)
                found.append((f"{key} of tensor {index}", flat.numpy().tobytes()))
        return found
