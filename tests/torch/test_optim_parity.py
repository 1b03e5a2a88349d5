"""Every optimizer of perfopt.optim: torch's twin in float64 followed closely, its own arithmetic followed bit by bit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optim_cases import (  # noqa: E402
    CASES,
    IDS,
    Case,
    LionReference,
    PlainSteps,
    as_double,
    bits_of,
    give_grads,
    make_params,
)

CLOSE = {"rtol": 1e-4, "atol": 3e-5}
SCALES = [1.0, 3.0, 0.05, 1.0, 0.02, 2.0]  # some steps are clipped, some are not
every_case = pytest.mark.parametrize("case", CASES, ids=IDS)


def distance(case: Case, steps: int = 6, stale: bool = False, clip: float | None = 20.0, **mutant: Any) -> float:
    """How far ours, made with a mutant's options, is from the reference: 1 is the limit of what passes."""
    ours = make_params()
    theirs = as_double(ours)
    mine = case.ours(ours, **{**case.options, "max_grad_norm": clip, **mutant})
    reference = case.reference(theirs)
    for step in range(steps):
        give_grads(ours, theirs, seed=step, missing=(4,) if step == 2 else (), scale=SCALES[step])
        if stale:
            for entry in mine.state.values():
                entry["step"].fill_(0.0)
        mine.step()
        norm = torch.nn.utils.clip_grad_norm_(theirs, 20.0)
        if clip is not None:
            assert mine.last_grad_norm == pytest.approx(float(norm), rel=1e-6)
        reference.step()
    errors = [
        float(((a.detach().double() - b.detach()).abs() / (CLOSE["atol"] + CLOSE["rtol"] * b.detach().abs())).max())
        for a, b in zip(ours, theirs, strict=True)
        if a.numel()
    ]
    return max(errors)


@every_case
def test_steps_with_clipping_and_decay_follow_the_twin_in_float64(case: Case) -> None:
    assert distance(case) < 1.0


@every_case
def test_the_comparison_would_notice(case: Case) -> None:
    """A step that does nothing, one more step or less, no clipping, no decay, a stale count, a wrong decay rate."""
    assert distance(case, lr=0.0) > 3.0
    assert distance(case, clip=None) > 3.0
    if "weight_decay" in case.options:
        assert distance(case, weight_decay=0.0) > 3.0
    if case.ours.__name__.startswith("Adam"):
        assert distance(case, stale=True) > 3.0
    for mutant in case.mutants:
        assert distance(case, **mutant) > 3.0, mutant


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("master", [False, True], ids=["plain", "masters"])
def test_bits_are_those_of_the_arithmetic_written_out(case: Case, dtype: Any, master: bool) -> None:
    """Contraction, another order or another rounding of storage would show in the first steps."""
    ours = make_params(dtype)
    mine = case.ours(ours, **case.options, master_weights=master, ema=0.9, max_grad_norm=20.0)
    plain = PlainSteps(case, ours, master=master and dtype != torch.float32, ema=0.9)
    for step in range(4):
        give_grads(ours, seed=step, missing=(3, 5) if step == 1 else ())
        grads = [param.grad for param in ours]
        mine.step()
        assert mine.last_grad_norm is not None
        plain.step(grads, min(1.0, 20.0 / (mine.last_grad_norm + 1e-6)))
    for index, (param, expected) in enumerate(zip(ours, plain.parameters(), strict=True)):
        assert torch.equal(param.detach(), expected), f"parameter {index}"
        entry = mine.state[param]
        assert torch.equal(entry["ema"], plain.averages[index])
        if master and dtype != torch.float32:
            assert torch.equal(entry["master_weight"], plain.weights[index])
        for key, value in plain.state[index].items():
            assert entry[key].dtype == value.dtype
            assert torch.equal(entry[key], value), f"{key} of parameter {index}"


@every_case
def test_a_thousand_steps_stay_with_the_twin(case: Case) -> None:
    ours = make_params(sizes=[300])
    theirs = as_double(ours)
    start = ours[0].detach().clone()
    mine, reference = case.ours(ours, **case.options, max_grad_norm=10.0), case.reference(theirs)
    for step in range(1000):
        give_grads(ours, theirs, seed=step)
        mine.step()
        torch.nn.utils.clip_grad_norm_(theirs, 10.0)
        reference.step()
    moved = float((theirs[0] - start.double()).abs().mean())
    off = (ours[0].double() - theirs[0]).abs()
    assert moved > 0.05
    assert float(off.mean()) < 1e-3 * moved
    if case.twin is not LionReference:  # a sign that falls the other way is worth 2 lr
        assert float(off.max()) < 1e-2 * moved


def trained(case: Case, dtype: Any, **options: Any) -> bytes:
    ours = make_params(dtype, sizes=[70_000, 300, 5])
    optimizer = case.ours(ours, **case.options, max_grad_norm=20.0, ema=0.9, **options)
    for step in range(3):
        give_grads(ours, seed=step)
        optimizer.step()
    return bits_of(optimizer)


FORMS: list[tuple[Any, dict[str, Any]]] = [
    (torch.float32, {}),
    (torch.float32, {"state_bits": 8}),
    (torch.bfloat16, {"master_weights": True}),
    (torch.bfloat16, {"stochastic_rounding": True}),
    (torch.float16, {"master_weights": True, "state_bits": 8}),
]


@every_case
def test_threads_do_not_change_a_bit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, options in FORMS:
        results = set()
        for threads in ("1", "2", "3", "4"):
            monkeypatch.setenv("PERFOPT_NUM_THREADS", threads)
            results.add(trained(case, dtype, **options))
        assert len(results) == 1


def digest() -> str:
    """Of all cases in all forms."""
    sums = hashlib.sha256()
    for case in CASES:
        for dtype, options in FORMS:
            sums.update(trained(case, dtype, **options))
    return sums.hexdigest()


@pytest.mark.parametrize("variant", ["scalar", "avx2"])
def test_every_instruction_set_gives_the_same_bits(variant: str) -> None:
    from perfopt._train import variant as used

    if sys.platform != "linux" or used() not in ("avx2", "avx512"):
        pytest.skip(f"this processor runs the {used()} kernels only")
    paths = [*sys.path, str(Path(__file__).parent)]  # the folder last, where it does not pass for PyTorch
    script = f"import sys; sys.path[:] = {paths!r}; from test_optim_parity import digest; print(digest())"
    environment = {**os.environ, "PERFOPT_CPU": variant}
    out = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == digest()
