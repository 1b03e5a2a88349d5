"""Random optimizers over random tensors: each run held to the arithmetic written out, and to its own bits by every variant.

Operation, options, sizes around the widths of vectors, blocks and chunks, dtypes, slices at any offset, missing gradients, inf
and NaN, loss scales, clipping, averages, masters, 8-bit state and random rounding are drawn by hypothesis; the same run then goes
through processes with other instruction sets and numbers of threads. ``PERFOPT_PROOFS=full`` draws many more.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from plan_scenarios import Scenario, Step, Tensor, run  # noqa: E402

FULL = os.environ.get("PERFOPT_PROOFS") == "full"
HELPERS = Path(__file__).resolve().parent.parent / "python"
COUNTS = [0, 1, 7, 8, 9, 15, 17, 31, 33, 255, 256, 257, 300, 1023, 1025]
LARGE_COUNTS = [65535, 65536, 65537, 131073]


def supported(level: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", "import perfopt._train"], env={**os.environ, "PERFOPT_CPU": level}, capture_output=True
    )
    return done.returncode == 0


class Worker:
    """A process whose kernels are of one instruction set and number of threads."""

    def __init__(self, level: str, threads: int) -> None:
        self.name = f"{level} on {threads} threads"
        environment = {
            **os.environ,
            "PERFOPT_CPU": level,
            "PERFOPT_NUM_THREADS": str(threads),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path]),
        }
        command = [sys.executable, str(HELPERS / "plan_scenarios.py")]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, scenario: Scenario) -> None:
        assert self._process.stdin is not None
        pickle.dump(scenario, self._process.stdin)
        self._process.stdin.flush()

    def answer(self) -> tuple[str, str]:
        assert self._process.stdout is not None
        told: tuple[str, str] = pickle.load(self._process.stdout)
        return told

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    levels = [level for level in ("avx2", "avx512", "neon") if supported(level)]
    asked = [("scalar", 1), *((level, 3 + 5 * index) for index, level in enumerate(levels))]
    if FULL:
        asked += [("scalar", 5), *((level, threads) for level in levels for threads in (1, 2, 7))]
    made = [Worker(level, threads) for level, threads in asked]
    yield made
    for worker in made:
        worker.stop()


def numbers(*values: float) -> st.SearchStrategy[float]:
    return st.sampled_from(values)


flags = st.booleans()
rates = numbers(1e-3, 0.1, 0.0, 3.7e-2)
decays = numbers(0.0, 0.1, 0.01)
betas = st.tuples(numbers(0.9, 0.0, 0.3, 0.5, 0.95), numbers(0.999, 0.9, 0.5))
OPTIONS: dict[str, dict[str, Any]] = {
    "AdamW": {
        "lr": rates,
        "betas": betas,
        "eps": numbers(1e-8, 1e-3),
        "weight_decay": decays,
        "amsgrad": flags,
        "maximize": flags,
    },
    "Adam": {
        "lr": rates,
        "betas": betas,
        "eps": numbers(1e-8, 1e-3),
        "weight_decay": decays,
        "amsgrad": flags,
        "maximize": flags,
        "decoupled_weight_decay": flags,
    },
    "SGD": {"lr": rates, "momentum": numbers(0.0, 0.9, 0.5), "weight_decay": decays, "maximize": flags},
    "Lion": {"lr": rates, "betas": betas, "weight_decay": decays, "maximize": flags},
    "Adagrad": {
        "lr": rates,
        "lr_decay": numbers(0.0, 0.1),
        "weight_decay": decays,
        "initial_accumulator_value": numbers(0.0, 0.5),
        "eps": numbers(1e-10, 1e-3),
        "maximize": flags,
    },
    "RMSprop": {
        "lr": rates,
        "alpha": numbers(0.99, 0.5, 0.3),
        "eps": numbers(1e-8, 1e-3),
        "weight_decay": decays,
        "momentum": numbers(0.0, 0.9),
        "centered": flags,
        "maximize": flags,
    },
}


@st.composite
def scenarios(draw: Any) -> Scenario:
    name = draw(st.sampled_from(sorted(OPTIONS)))
    options = draw(st.fixed_dictionaries(OPTIONS[name]))
    if name == "SGD":
        options["nesterov"] = options["momentum"] > 0 and draw(flags)
        options["dampening"] = 0.0 if options["nesterov"] else draw(numbers(0.0, 0.3))
    extras: dict[str, Any] = {
        "max_grad_norm": draw(st.sampled_from([None, 0.5, 0.0, 1e9])),
        "ema": draw(st.sampled_from([None, 0.9, 0.2, 1.0])),
        "master_weights": draw(flags),
        "zero_grads": draw(flags),
        "stochastic_rounding": draw(st.sampled_from([False, False, False, True])),
        "state_bits": draw(st.sampled_from([None, None, None, 8])),
        "seed": draw(st.sampled_from([0, 2**64 - 1])),
        "skip_nonfinite": draw(st.sampled_from([True, True, False])),
    }
    counts = st.one_of(st.sampled_from(COUNTS), st.sampled_from(COUNTS), st.sampled_from(COUNTS + LARGE_COUNTS))
    tensor = st.builds(
        Tensor,
        counts,
        st.integers(0, 7),
        st.integers(0, 7),
        st.sampled_from(["float32", "float32", "bfloat16", "float16"]),
    )
    tensors = tuple(draw(st.lists(tensor, min_size=1, max_size=5)))
    bad = st.tuples(st.integers(0, len(tensors) - 1), st.floats(0, 1), st.sampled_from([math.inf, -math.inf, math.nan]))
    step = st.builds(
        Step,
        st.integers(0, 1000),
        st.lists(st.integers(0, len(tensors) - 1), max_size=2).map(tuple),
        st.one_of(st.none(), st.none(), bad),
        st.sampled_from([None, None, 2.0**7, 3.0, 0.5]),
        st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.0, math.nan]),
        st.sampled_from([False, False, True]),
    )
    return Scenario(name, options, extras, tensors, tuple(draw(st.lists(step, min_size=1, max_size=5))))


@pytest.mark.timeout(3600 if FULL else 300)
@settings(
    max_examples=1000 if FULL else 40,
    deadline=None,
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(scenario=scenarios())
def test_any_run_follows_the_arithmetic_and_has_the_same_bits_everywhere(
    workers: list[Worker], scenario: Scenario
) -> None:
    for worker in workers:
        worker.ask(scenario)
    answers = [(worker.name, worker.answer()) for worker in workers]
    here = run(scenario)
    for name, (kind, told) in answers:
        assert kind == "digest", f"{name}: {told}"
        assert told == here, name


def test_the_comparison_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference with another rate must disagree."""
    steps = (Step(1, (), None, None, 0.0, False),)
    scenario = Scenario("AdamW", {"lr": 0.1}, {"max_grad_norm": 1.0}, (Tensor(300, 1, 3, "float32"),), steps)
    run(scenario)
    import plan_scenarios

    plain = plan_scenarios.PlainSteps.step
    monkeypatch.setattr(
        plan_scenarios.PlainSteps, "step", lambda self, grads, factor: plain(self, grads, 1.001 * factor)
    )
    with pytest.raises(AssertionError, match="weight"):
        run(scenario)
