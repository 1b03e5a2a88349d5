"""perfopt.kernels against a float64 reference from the paper; refusals; one result on any threads and variant."""

from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfopt import _core, _train, kernels

SIZES = [0, 1, 7, 8, 9, 31, 32, 33, 1000, 65535, 65536, 65537]


def make_lists(sizes: list[int] = SIZES, seed: int = 0) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """params, grads, exp_avgs, exp_avg_sqs with moments as after some steps."""
    rng = np.random.default_rng(seed)

    def normal(scale: float) -> list[Any]:
        return [(rng.standard_normal(size) * scale).astype(np.float32) for size in sizes]

    return normal(1.0), normal(0.3), normal(0.1), [array * array for array in normal(0.1)]


def reference_step(
    lists: tuple[list[Any], ...],
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    max_grad_norm: float | None = None,
    maximize: bool = False,
) -> tuple[tuple[list[Any], ...], float]:
    """Algorithm 2 of Loshchilov and Hutter (2019) in float64, with clipping of the global norm."""
    params, grads, exp_avgs, exp_avg_sqs = ([array.astype(np.float64) for array in arrays] for arrays in lists)
    norm = float(np.sqrt(sum(np.sum(grad**2) for grad in grads)))
    factor = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / (norm + 1e-6))
    for p, g, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        g *= -factor if maximize else factor
        m[...] = betas[0] * m + (1 - betas[0]) * g
        v[...] = betas[1] * v + (1 - betas[1]) * g * g
        p *= 1 - lr * weight_decay
        p -= lr * (m / (1 - betas[0] ** step)) / (np.sqrt(v / (1 - betas[1] ** step)) + eps)
    return (params, grads, exp_avgs, exp_avg_sqs), norm


def copies(lists: tuple[list[Any], ...]) -> tuple[list[Any], ...]:
    return tuple([array.copy() for array in arrays] for arrays in lists)


def same_bits(left: tuple[list[Any], ...], right: tuple[list[Any], ...]) -> bool:
    return all(a.tobytes() == b.tobytes() for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1, "max_grad_norm": 1.0},
        {"weight_decay": 0.0, "max_grad_norm": 1e9},
        {"betas": (0.0, 0.99), "eps": 1e-3, "maximize": True, "max_grad_norm": 0.5},
        {"betas": (0.3, 0.9), "weight_decay": 0.5},
    ],
)
def test_steps_follow_the_float64_reference(options: dict[str, Any]) -> None:
    lists = make_lists()
    before = copies(lists)
    wanted: tuple[list[Any], ...] = lists
    for step in (1, 2, 3):
        wanted, norm = reference_step(wanted, step, 1e-2, **options)
        wanted = (wanted[0], before[1], wanted[2], wanted[3])  # the caller's gradients stay as they are
        result = kernels.adamw_step(*lists, step, 1e-2, **options)
        assert result.norm == pytest.approx(norm, rel=1e-6)
        assert not result.skipped
    for got, want, start in zip(lists[0], wanted[0], before[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
        assert not got.size or not np.array_equal(got, start)
    for got, want in zip(lists[2] + lists[3], wanted[2] + wanted[3], strict=True):
        np.testing.assert_allclose(got, want, rtol=5e-6, atol=1e-7)
    assert same_bits((lists[1],), (before[1],))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_grad_norm_of_16_bits_is_that_of_the_values(name: str) -> None:
    dtype = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(3)
    for size in (0, 1, 31, 33, 1023, 1025, 65537):
        grads = [rng.standard_normal(size).astype(dtype), np.full((3, 5), 60000.0, dtype).T, np.ones(3, np.float32)]
        expected = sum(float(np.square(grad.astype(np.float64)).sum()) for grad in grads) ** 0.5
        norm, nonfinite = kernels.grad_norm(grads)
        assert norm == pytest.approx(expected, rel=1e-14)
        assert norm == kernels.grad_norm([grad.astype(np.float32) for grad in grads])[0]
        assert nonfinite is False
        for place in {0, size // 2, size - 1} if size else ():
            bad = grads[0].copy()
            bad[place] = np.inf
            assert kernels.grad_norm([grads[1], bad])[1] is True
    with pytest.raises(TypeError, match=r"grads\[0\].*accepted: float32, bfloat16 or float16 in native byte order"):
        kernels.grad_norm([np.zeros(3, ">f2")])
    with pytest.raises(TypeError, match="accepted: float32, bfloat16 or float16"):
        kernels.grad_norm([np.zeros(3, np.uint16)])
    with pytest.raises(ValueError, match="densely"):
        kernels.grad_norm([np.zeros(6, dtype)[::2]])


def test_grad_norm_is_exact_to_double_rounding() -> None:
    grads = make_lists()[1]
    norm, nonfinite = kernels.grad_norm(grads)
    assert norm == pytest.approx(float(np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in grads))), rel=1e-13)
    assert nonfinite is False
    assert kernels.grad_norm([]) == (0.0, False)
    assert kernels.grad_norm([np.zeros((0, 3), np.float32)]) == (0.0, False)
    assert kernels.grad_norm((np.full((3, 4), 2.0, np.float32),))[0] == pytest.approx(2 * 12**0.5)


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_nonfinite_gradient_changes_nothing(place: str, bad: float, max_grad_norm: float | None) -> None:
    lists = make_lists([5, 65537, 33])
    tensor, index = {"first": (0, 0), "middle": (1, 65535), "last": (2, 32)}[place]
    lists[1][tensor][index] = bad
    before = copies(lists)
    assert kernels.grad_norm(lists[1])[1] is True
    result = kernels.adamw_step(*lists, 1, 1e-2, max_grad_norm=max_grad_norm)
    assert result.skipped
    assert same_bits(lists, before)
    result = kernels.adamw_step(*lists, 1, 1e-2, max_grad_norm=max_grad_norm, skip_nonfinite=False)
    assert not result.skipped
    assert (result.norm is None) == (max_grad_norm is None)
    assert not np.isfinite(lists[0][tensor][index])


def test_large_finite_gradients_raise_no_false_alarm() -> None:
    lists = make_lists([70000])
    lists[1][0][:] = 3e38
    norm, nonfinite = kernels.grad_norm(lists[1])
    assert not nonfinite
    assert norm == pytest.approx(3e38 * 70000**0.5)
    result = kernels.adamw_step(*lists, 1, 1e-2, max_grad_norm=1.0)
    assert not result.skipped
    assert np.isfinite(lists[0][0]).all()


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setenv("PERFOPT_NUM_THREADS", str(threads))
        lists = make_lists([200_001, 3, 65536, 300_000])
        norms = [kernels.adamw_step(*lists, step, 1e-2, max_grad_norm=1.0).norm for step in (1, 2)]
        results.append((lists, norms))
    for lists, norms in results[1:]:
        assert norms == results[0][1]
        assert same_bits(lists, results[0][0])


VARIANT_SCRIPT = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
import test_kernels as t
from perfopt import kernels
lists = t.make_lists()
result = kernels.adamw_step(*lists, 3, 1e-2, weight_decay=0.1, max_grad_norm=1.0)
digest = hashlib.sha256(b"".join(a.tobytes() for arrays in lists for a in arrays)).hexdigest()
print(kernels.variant(), digest, result.norm.hex())
"""


def run_variant(name: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PERFOPT_CPU": name}
    root = Path(kernels.__file__).parent.parent
    environment["PYTHONPATH"] = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", VARIANT_SCRIPT, str(Path(__file__).parent)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_every_variant_of_this_machine_gives_the_same_bits() -> None:
    outputs = {}
    for name in _core.cpu_info()["supported"]:
        done = run_variant(name)
        assert done.returncode == 0, done.stderr
        variant, *outputs[name] = done.stdout.split()
        assert variant == name
    assert len({tuple(output) for output in outputs.values()}) == 1, outputs


def test_unknown_and_impossible_variants_are_refused() -> None:
    done = run_variant("mmx")
    assert done.returncode != 0
    assert "ValueError: PERFOPT_CPU=mmx is unknown; accepted: scalar, avx2, avx512, neon" in done.stderr
    missing = {"scalar", "neon", "avx2", "avx512"} - set(_core.cpu_info()["supported"])
    for name in missing:
        done = run_variant(name)
        assert "NotImplementedError" in done.stderr
        assert f"PERFOPT_CPU={name}" in done.stderr


def test_memory_order_may_be_any_if_all_share_it() -> None:
    c_order = make_lists([35])
    lists = tuple([array.reshape(5, 7) for array in arrays] for arrays in c_order)
    transposed = tuple([array.copy().reshape(5, 7).T for array in arrays] for arrays in c_order)
    kernels.adamw_step(*lists, 1, 0.1)
    kernels.adamw_step(*transposed, 1, 0.1)
    np.testing.assert_array_equal(lists[0][0], transposed[0][0].T)
    mixed = (transposed[0], [np.ascontiguousarray(transposed[1][0])], transposed[2], transposed[3])
    with pytest.raises(ValueError, match=r"grads\[0\] \(shape \(7, 5\)"):
        kernels.adamw_step(*mixed, 1, 0.1)


def test_unaligned_starts_and_tails_touch_only_their_own_elements() -> None:
    for size in (1, 7, 8, 9, 15, 17, 33):
        for start in range(4):
            lists = make_lists([size + 8])
            whole = copies(lists)
            views = tuple([array[start : start + size] for array in arrays] for arrays in lists)
            kernels.adamw_step(*views, 1, 0.1)
            for got, want in zip(lists, whole, strict=True):
                assert got[0][:start].tobytes() == want[0][:start].tobytes()
                assert got[0][start + size :].tobytes() == want[0][start + size :].tobytes()
            assert lists[0][0][start] != whole[0][0][start]


def test_signatures_are_readable() -> None:
    assert str(inspect.signature(_train.grad_norm)) == "(grads)"
    assert list(inspect.signature(_train.step_arrays).parameters)[:3] == ["operation", "lists", "options"]
    assert list(inspect.signature(_train.OptimizerPlan).parameters) == ["operation", "param_groups", "state", "fresh"]
    assert kernels.variant() == _core.cpu_info()["variant"]


def test_calls_leave_no_references_and_no_memory_behind() -> None:
    lists = make_lists([100, 10])
    bad = [lists[1][0], np.zeros(10)]
    counts = [sys.getrefcount(array) for arrays in lists for array in arrays] + [
        sys.getrefcount(arrays) for arrays in lists
    ]
    snapshots = []
    tracemalloc.start()
    for _ in range(4):  # the first rounds fill pytest's and Python's own caches
        for _ in range(300):
            kernels.adamw_step(*lists, 1, 0.0, weight_decay=0.0)
            kernels.grad_norm(lists[1])
            with pytest.raises(TypeError):
                kernels.grad_norm(bad)
            with pytest.raises(ValueError, match="arrays"):
                kernels.adamw_step(lists[0], lists[1][:1], lists[2], lists[3], 1, 0.1)
        gc.collect()
        snapshots.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert snapshots[3] - snapshots[2] < 10_000
    assert counts == [sys.getrefcount(array) for arrays in lists for array in arrays] + [
        sys.getrefcount(arrays) for arrays in lists
    ]


def test_threads_may_step_their_own_arrays_at_once() -> None:
    wanted = make_lists()
    for step in (1, 2, 3):
        kernels.adamw_step(*wanted, step, 1e-2, max_grad_norm=1.0)
    results = [make_lists() for _ in range(4)]

    def work(lists: tuple[list[Any], ...]) -> None:
        for step in (1, 2, 3):
            kernels.adamw_step(*lists, step, 1e-2, max_grad_norm=1.0)

    threads = [threading.Thread(target=work, args=(lists,)) for lists in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lists in results:
        assert same_bits(lists, wanted)
