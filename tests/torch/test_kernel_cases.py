"""Every case of ``tests/c/kernel_cases.h`` through the optimizers of perfopt.optim, against its step in double."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import kernel_cases  # noqa: E402
from kernel_cases import NAMES, Model, read  # noqa: E402


def test_the_names_are_those_of_the_table() -> None:
    read(NAMES[0])
    assert list(kernel_cases._table()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_one_in_double(name: str) -> None:
    model = Model(read(name))
    assert model.far() > 1e-4
    model.optimizer.step()
    assert model.far() < 2e-6
    assert all(
        set(model.optimizer.state[param]) >= set(model.case["after"]) - {"weight", "grad"} for param in model.params
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["lr", "weight_decay", "maximize"])
def test_the_comparison_would_notice(name: str, key: str) -> None:
    case: dict[str, Any] = read(name)
    old = case["options"][key]
    model = Model({**case, "options": {**case["options"], key: not old if key == "maximize" else old + 0.01}})
    model.optimizer.step()
    assert model.far() > 5e-6
