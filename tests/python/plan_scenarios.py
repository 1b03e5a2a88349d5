"""Random runs of an optimizer, as data: what ``tests/torch/test_random_plans.py`` draws, here and in worker processes.

``run(scenario)`` takes the steps, holds them to ``optim_cases.PlainSteps`` bit by bit wherever storage is rounded to nearest,
checks what holds for every run (guards around slices, skipped steps, the norm, zeroed gradients) and returns a digest of all
bits, which has to be the same for any variant of the kernels and any number of threads.

As a program it reads pickled scenarios from its standard input and answers each with a pickled digest or error.
"""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import sys
import traceback
from typing import Any, NamedTuple

import torch
from optim_cases import Case, LionReference, PlainSteps

from perfopt import optim

GUARD = 8  # elements before and after each tensor
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TWINS = {"Lion": LionReference}


class Tensor(NamedTuple):
    """A parameter: its elements, where in a larger memory it and its gradient begin, its dtype."""

    count: int
    offset: int
    grad_offset: int
    dtype: str


class Step(NamedTuple):
    """What one step is given."""

    seed: int
    missing: tuple[int, ...]
    bad: tuple[int, float, float] | None  # tensor, place as a share of its elements, value
    loss_scale: float | None
    found_inf: float
    reload: bool  # through a state dictionary, into a new optimizer, before the step


class Scenario(NamedTuple):
    """One run."""

    name: str
    options: dict[str, Any]  # torch's
    extras: dict[str, Any]  # perfopt's: max_grad_norm, ema ...
    tensors: tuple[Tensor, ...]
    steps: tuple[Step, ...]

    @property
    def to_nearest(self) -> bool:
        return not self.extras.get("stochastic_rounding") and self.extras.get("state_bits") is None


def place(values: Any, offset: int, dtype: Any) -> tuple[Any, Any]:
    """The values inside a larger memory full of sevens: the view, and the memory."""
    memory = torch.full((2 * GUARD + offset + values.numel(),), 7.0).to(dtype)
    view = memory[GUARD + offset : GUARD + offset + values.numel()]
    view.copy_(values)
    return view, memory


def is_guarded(view: Any, memory: Any) -> bool:
    begin = view.storage_offset()
    return bool((memory[:begin] == 7).all()) and bool((memory[begin + view.numel() :] == 7).all())


def canonical(tensor: Any) -> bytes:
    """Its bits; every NaN is one NaN, for which one comes out of two is not promised."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.is_floating_point():
        flat = torch.where(flat.isnan(), torch.full_like(flat, math.nan), flat)
    return flat.view(torch.uint8).numpy().tobytes()


def everything(optimizer: Any, params: list[Any]) -> list[bytes]:
    entries = [optimizer.state.get(param, {}) for param in params]
    return [canonical(param) for param in params] + [
        canonical(entry[key]) for entry in entries for key in sorted(entry)
    ]


def gradients(scenario: Scenario, step: Step) -> list[tuple[Any, Any] | None]:
    generator = torch.Generator().manual_seed(step.seed)
    found: list[tuple[Any, Any] | None] = []
    for index, tensor in enumerate(scenario.tensors):
        values = torch.randn(tensor.count, generator=generator)
        if step.loss_scale is not None:
            values *= step.loss_scale
        values = values.to(DTYPES[tensor.dtype])
        if step.bad is not None and step.bad[0] == index and tensor.count:
            values[int(step.bad[1] * (tensor.count - 1))] = step.bad[2]
        found.append(None if index in step.missing else place(values, tensor.grad_offset, values.dtype))
    return found


def run(scenario: Scenario) -> str:
    generator = torch.Generator().manual_seed(1)
    placed = [
        place(torch.randn(tensor.count, generator=generator), tensor.offset, DTYPES[tensor.dtype])
        for tensor in scenario.tensors
    ]
    params = [torch.nn.Parameter(view) for view, _ in placed]
    make = getattr(optim, scenario.name)
    case = Case(
        scenario.name, make, TWINS.get(scenario.name, getattr(torch.optim, scenario.name, None)), scenario.options, ()
    )
    master = bool(scenario.extras.get("master_weights"))
    ema = scenario.extras.get("ema")
    plain = [PlainSteps(case, [param], master=master and param.dtype != torch.float32, ema=ema) for param in params]
    optimizer = make(params, **scenario.options, **scenario.extras)
    digest = hashlib.sha256()
    for step in scenario.steps:
        if step.reload:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = make(params, **scenario.options, **scenario.extras)
            optimizer.load_state_dict(saved)
        given = gradients(scenario, step)
        for param, grad in zip(params, given, strict=True):
            param.grad = None if grad is None else grad[0]
        take(scenario, step, optimizer, params, plain)
        for param, (_, memory) in zip(params, placed, strict=True):
            assert is_guarded(param.detach(), memory), "elements beside a parameter were written"
        for grad in given:
            assert grad is None or is_guarded(*grad), "elements beside a gradient were written"
            digest.update(canonical(grad[0]) if grad is not None else b"none")
        for part in everything(optimizer, params):
            digest.update(part)
    return digest.hexdigest()


def take(scenario: Scenario, step: Step, optimizer: Any, params: list[Any], plain: list[PlainSteps]) -> None:
    """One step, and what it has to have done."""
    grads = [None if param.grad is None else param.grad.clone() for param in params]
    before = everything(optimizer, params)
    skipped_before = optimizer.skipped_steps
    optimizer.grad_scale = None if step.loss_scale is None else torch.tensor(step.loss_scale)
    optimizer.found_inf = torch.tensor(step.found_inf)
    optimizer.step()
    unscale = 1.0 if step.loss_scale is None else 1.0 / step.loss_scale
    finite = all(grad is None or bool(torch.isfinite(grad).all()) for grad in grads)
    looks = optimizer.skip_nonfinite or step.loss_scale is not None
    skipped = step.found_inf != 0 or (looks and not finite)
    assert optimizer.skipped_steps == skipped_before + skipped
    if optimizer.zero_grads:
        assert all(param.grad is None or not param.grad.any() for param in params)
    else:
        assert all(a is None or canonical(a) == canonical(p.grad) for a, p in zip(grads, params, strict=True))
    if skipped:
        assert everything(optimizer, params) == before, "a skipped step changed something"
        return
    norm, bound = optimizer.last_grad_norm, scenario.extras.get("max_grad_norm")
    multiplier = unscale
    if bound is not None or looks:
        exact = math.sqrt(sum(float(grad.double().square().sum()) for grad in grads if grad is not None)) * unscale
        assert math.isclose(norm, exact, rel_tol=1e-12) or not finite
    if bound is not None:
        factor = bound / (norm + 1e-6)
        multiplier *= factor if not factor > 1.0 else 1.0
    if scenario.to_nearest:
        for index, (param, grad, reference) in enumerate(zip(params, grads, plain, strict=True)):
            reference.step([grad], multiplier)
            compare(optimizer, index, param, reference, grad is not None)


def compare(optimizer: Any, index: int, param: Any, reference: PlainSteps, stepped: bool) -> None:
    """A parameter and its state against the arithmetic written out."""
    where = f"tensor {index} ({param.dtype}, {param.numel()} elements)"
    assert canonical(param) == canonical(reference.parameters()[0]), f"{where}: weight"
    entry = optimizer.state.get(param, {})
    for key, value in reference.state[0].items():
        assert canonical(entry[key]) == canonical(value), f"{where}: {key}"
    if reference.master and stepped:
        assert canonical(entry["master_weight"]) == canonical(reference.weights[0]), f"{where}: master"
    if reference.ema is not None and stepped:
        assert canonical(entry["ema"]) == canonical(reference.averages[0]), f"{where}: ema"


def main() -> None:
    while True:
        try:
            scenario = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = ("digest", run(scenario))
        except Exception:
            answer = ("error", traceback.format_exc())
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.modules["plan_scenarios"] = sys.modules["__main__"]  # scenarios are pickled under the module's name
    main()
