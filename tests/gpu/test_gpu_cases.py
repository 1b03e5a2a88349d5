"""Every case of ``tests/c/kernel_cases.h``, which the CPU's variants are held to as well, on a CUDA device.

Skips with the loader's reason where there is no device.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.optim")  # without PyTorch, "torch" may be the folder of tests

from kernel_cases import NAMES, Model, read  # noqa: E402

from perfopt import _core  # noqa: E402

FOUND = _core.backend_info()
pytestmark = [
    pytest.mark.skipif(not FOUND["available"], reason=f"no CUDA backend: {FOUND['reason']}"),
    pytest.mark.skipif(FOUND["available"] and not torch.cuda.is_available(), reason="torch has no CUDA here"),
]

FORMS = [
    (torch.float32, {}),
    (torch.float32, {"ema": 0.9, "zero_grads": True}),
    (torch.float32, {"state_bits": 8}),
    (torch.bfloat16, {}),
    (torch.bfloat16, {"master_weights": True, "ema": 0.9}),
    (torch.bfloat16, {"stochastic_rounding": True, "seed": 5}),
    (torch.float16, {"master_weights": True, "state_bits": 8}),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_one_in_double(name):
    model = Model(read(name), "cuda")
    model.optimizer.step()
    assert model.far() < 2e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "extras"), FORMS)
def test_steps_have_the_bits_of_the_cpu(name, dtype, extras):
    """Bias corrections are the device's pow in double, rounded to float32: of the last bit of a double little is left."""
    ours, cpu = Model(read(name), "cuda", dtype, **extras), Model(read(name), "cpu", dtype, **extras)
    for _ in range(3):
        ours.optimizer.step(), cpu.optimizer.step()
        for (what, mine), (_, want) in zip(ours.bits(), cpu.bits(), strict=True):
            assert mine == want, what
