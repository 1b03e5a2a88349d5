"""PerformanceOptimizer: the training loop against a plain one, its flags, its summary, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import perfopt  # noqa: E402
from perfopt import PerformanceConfig, PerformanceOptimizer  # noqa: E402
from perfopt.training import techniques  # noqa: E402

SUMMARY_KEYS = {"cache_stats", "memory_trends", "profiling_summary", "batch_optimization"}


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 17), nn.Tanh(), nn.Linear(17, 3))


def make_batches(count: int = 10, size: int = 8, seed: int = 1) -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def config(**changes: Any) -> PerformanceConfig:
    return PerformanceConfig(**{"mixed_precision": False, "gradient_accumulation": False, **changes})


def plain_loop(
    model: nn.Module, batches: list[Any], optimizer: Any, *, epochs: int, window: int, clip: float | None
) -> None:
    """The reference: mean gradient over each window, also over the last, shorter one."""
    for _ in range(epochs):
        for begin in range(0, len(batches), window):
            part = batches[begin : begin + window]
            optimizer.zero_grad()
            for inputs, targets in part:
                (functional.cross_entropy(model(inputs), targets) / len(part)).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    for (name, a), b in zip(left.named_parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.spec("S0-03", "S0-04")
@pytest.mark.parametrize("window", [1, 3, 4, 20])
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("kind", ["adamw", "sgd", "nadam", "perfopt"])
def test_loop_trains_as_the_plain_loop_does(window: int, clip: float | None, kind: str) -> None:
    def make_optimizer(model: nn.Module, ours: bool) -> Any:
        if kind == "sgd":
            return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if kind == "nadam":
            return torch.optim.NAdam(model.parameters(), lr=0.01)
        if kind == "perfopt" and ours:
            return perfopt.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)

    batches = make_batches()
    reference, model = make_model(), make_model()
    plain_loop(reference, batches, make_optimizer(reference, False), epochs=3, window=window, clip=clip)
    settings = config(gradient_accumulation=window > 1, gradient_accumulation_steps=window, max_grad_norm=clip)
    result = PerformanceOptimizer(settings).optimize_training_loop(
        model, batches, make_optimizer(model, True), functional.cross_entropy, num_epochs=3, quiet=True
    )
    assert_same_weights(model, reference)
    assert result["steps"] == 3 * math.ceil(10 / window)
    assert result["batches"] == 30
    assert result["samples"] == 240
    assert result["skipped_steps"] == 0
    assert len(result["epoch_losses"]) == 3
    assert result["final_loss"] == result["epoch_losses"][-1] < result["epoch_losses"][0]
    assert result["techniques"]["fused_optimizer"]["used"] is (kind != "nadam")


def test_state_of_a_replaced_adamw_stays_the_users() -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
    rates = []

    def on_step(step: int, loss: Any) -> None:
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])

    engine = PerformanceOptimizer(config())
    engine.optimize_training_loop(
        model, make_batches(), optimizer, functional.cross_entropy, num_epochs=1, on_step=on_step, quiet=True
    )
    state = optimizer.state_dict()["state"]
    assert {int(entry["step"]) for entry in state.values()} == {10}
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.01 / 11)
    reference = make_model()
    other = torch.optim.AdamW(reference.parameters(), lr=0.01)
    other_scheduler = torch.optim.lr_scheduler.LambdaLR(other, lambda step: 1.0 / (1 + step))
    for inputs, targets in make_batches():
        other.zero_grad()
        functional.cross_entropy(reference(inputs), targets).backward()
        other.step()
        other_scheduler.step()
    assert_same_weights(model, reference)
    optimizer.step()  # no gradients: nothing to do, nothing broken


def test_on_step_gets_every_step_and_its_mean_loss() -> None:
    model, batches, seen = make_model(), make_batches(5), []
    frozen = copy.deepcopy(model)
    engine = PerformanceOptimizer(config(gradient_accumulation=True, gradient_accumulation_steps=2))
    engine.optimize_training_loop(
        model,
        batches,
        torch.optim.SGD(model.parameters(), lr=0.0),
        functional.cross_entropy,
        num_epochs=1,
        on_step=lambda step, loss: seen.append((step, float(loss))),
        quiet=True,
    )
    losses = [functional.cross_entropy(frozen(x), y).item() for x, y in batches]
    expected = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2, losses[4]]
    assert [step for step, _ in seen] == [1, 2, 3]
    assert [loss for _, loss in seen] == pytest.approx(expected, rel=1e-5)


OPTIMIZERS: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "nadam": torch.optim.NAdam}


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@pytest.mark.parametrize("poison", [math.inf, math.nan])
def test_a_step_with_non_finite_gradients_changes_nothing_and_is_counted(kind: str, poison: float) -> None:
    model = make_model()
    batches = make_batches(3)
    batches[1][0][0, 0] = poison
    optimizer = OPTIMIZERS[kind](model.parameters(), lr=0.01)
    reference = make_model()
    other = OPTIMIZERS[kind](reference.parameters(), lr=0.01)
    plain_loop(reference, [batches[0], batches[2]], other, epochs=1, window=1, clip=None)
    result = PerformanceOptimizer(config()).optimize_training_loop(
        model, batches, optimizer, functional.cross_entropy, num_epochs=1, quiet=True
    )
    assert (result["steps"], result["skipped_steps"]) == (2, 1)
    assert_same_weights(model, reference)


def test_modes_are_put_back_also_after_an_error() -> None:
    model = make_model().eval()
    engine = PerformanceOptimizer(config())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def broken() -> Iterator[Any]:
        yield make_batches(1)[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        engine.optimize_training_loop(model, broken(), optimizer, functional.cross_entropy, num_epochs=1, quiet=True)
    assert not model.training
    assert not engine.memory_optimizer.monitoring
    assert engine.get_performance_summary()["profiling_summary"]["operations"]["forward"]["count"] == 1


@pytest.mark.spec("S0-05", "S0-06")
@pytest.mark.parametrize("on", [True, False])
def test_summary_has_its_four_keys_whatever_is_switched_off(on: bool) -> None:
    engine = PerformanceOptimizer(
        config(
            enable_caching=on,
            enable_memory_optimization=on,
            enable_profiling=on,
            batch_size_optimization=on,
            enable_parallelization=on,
            enable_compression=on,
        )
    )
    for _ in range(2):
        summary = engine.get_performance_summary()
        assert set(summary) >= SUMMARY_KEYS
        assert json.loads(json.dumps(summary, indent=2)) == summary
        assert summary["cache_stats"]["cache_hit_rate"] == 0.0
        assert summary["memory_trends"]["cpu_memory_trend"]["trend"] in ("increasing", "decreasing", "stable")
        model = make_model()
        optimizer = torch.optim.AdamW(model.parameters())
        engine.optimize_training_loop(model, make_batches(2), optimizer, functional.cross_entropy, 1, quiet=True)
    assert (summary["profiling_summary"]["total_operations"] > 0) is on
    assert (summary["batch_optimization"]["batch_size"] == 8) is on


@pytest.mark.spec("S0-60")
def test_flags_switch_their_feature_off_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PerformanceOptimizer(
        config(enable_caching=False, enable_memory_optimization=False, enable_profiling=False)
    )
    engine.cache.set("k", 1)
    assert engine.cache.get("k") is None
    assert len(engine.cache) == 0
    monkeypatch.setattr(engine.memory_optimizer, "start_monitoring", lambda *a, **k: pytest.fail("sampler started"))
    monkeypatch.setattr(engine.memory_optimizer, "check", lambda *a, **k: pytest.fail("pressure checked"))
    monkeypatch.setattr(perfopt.memory, "retain_heap", lambda *a, **k: pytest.fail("heap retained"))
    monkeypatch.setattr(techniques, "autocast_gain", lambda *a, **k: pytest.fail("autocast measured"))
    model = make_model()
    result = engine.optimize_training_loop(
        model, make_batches(40), torch.optim.AdamW(model.parameters()), functional.cross_entropy, 1, quiet=True
    )
    used = {name for name, decision in result["techniques"].items() if decision["used"]}
    assert used == {"fused_optimizer"}
    assert engine.get_performance_summary()["profiling_summary"]["total_operations"] == 0


@pytest.mark.spec("S0-51", "S0-52")
def test_memory_is_watched_during_training_and_cleaned_under_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PerformanceOptimizer(config(memory_threshold=1.0))
    memory = engine.memory_optimizer
    shares = {"rss": 0.5}
    watched: list[bool] = []
    cleaned_at: list[int] = []
    steps = 0

    def clean() -> dict[str, Any]:
        cleaned_at.append(steps)
        return {}

    def on_step(step: int, _: Any) -> None:
        nonlocal steps
        steps = step
        watched.append(memory.monitoring)
        shares["rss"] = 1.0 if step >= 20 else 0.5

    monkeypatch.setattr(memory, "pressure", lambda: shares)
    monkeypatch.setattr(memory, "optimize_memory", clean)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters())
    engine.optimize_training_loop(
        model, make_batches(48), optimizer, functional.cross_entropy, 1, on_step=on_step, quiet=True
    )
    assert watched == [True] * 48
    assert not memory.monitoring
    assert cleaned_at == [31, 47]  # in steps 32 and 48, before on_step; at 16 nothing pressed
    assert engine.get_performance_summary()["memory_trends"]["cpu_memory_trend"]["samples"] >= 2


@pytest.mark.spec("S0-07", "S0-08")
def test_clear_metrics_is_a_fresh_start() -> None:
    engine = PerformanceOptimizer(config())
    model = make_model()
    engine.cache.set("kept", 42)
    assert engine.cache.get("kept") == 42
    assert engine.cache.get("missing") is None
    engine.optimize_training_loop(
        model, make_batches(), torch.optim.AdamW(model.parameters()), functional.cross_entropy, 1, quiet=True
    )
    assert engine.cache.get_stats()["hits"] == 1
    engine.memory_optimizer.get_memory_trends()  # each call takes a sample: the loop may be over before the sampler's second
    assert engine.memory_optimizer.get_memory_trends()["cpu_memory_trend"]["samples"] >= 2
    engine.clear_metrics()
    summary = engine.get_performance_summary()
    assert (summary["cache_stats"]["hits"], summary["cache_stats"]["misses"]) == (0, 0)
    assert summary["profiling_summary"]["total_operations"] == 0
    assert summary["memory_trends"]["cpu_memory_trend"]["samples"] == 1  # the one this call takes
    assert summary["batch_optimization"]["batch_size"] is None
    assert engine.cache.get("kept") == 42


@pytest.mark.parametrize(("gain", "used"), [(0.2, False), (1.05, False), (3.0, True)])
def test_autocast_is_used_only_where_it_measures_faster(
    monkeypatch: pytest.MonkeyPatch, gain: float, used: bool
) -> None:
    monkeypatch.setattr(techniques, "autocast_gain", lambda device, dtype: gain)
    seen = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: Any) -> Any:
            out = self.linear(x)
            seen.append(out.dtype)
            return out

    model = Watching()
    result = PerformanceOptimizer(config(mixed_precision=True)).optimize_training_loop(
        model, make_batches(2), torch.optim.AdamW(model.parameters()), functional.cross_entropy, 1, quiet=True
    )
    assert result["techniques"]["mixed_precision"]["used"] is used
    assert set(seen) == {torch.bfloat16 if used else torch.float32}


def test_autocast_gain_is_a_ratio_and_leaves_the_generator_alone() -> None:
    techniques.autocast_gain.cache_clear()
    state = torch.random.get_rng_state()
    gain = techniques.autocast_gain("cpu", "bfloat16")
    assert 0.0 < gain < 1000.0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_heap_is_not_retained_when_memory_is_short() -> None:
    device = torch.device("cpu")
    engine = PerformanceOptimizer(config())
    assert techniques.choose_heap_retention(device, True, engine.memory_optimizer).used
    assert not techniques.choose_heap_retention(device, False, engine.memory_optimizer).used
    assert not techniques.choose_heap_retention(torch.device("meta"), True, engine.memory_optimizer).used
    engine.memory_optimizer.threshold = 1e-6
    decision = techniques.choose_heap_retention(device, True, engine.memory_optimizer)
    assert not decision.used
    assert "threshold" in decision.reason


def test_nested_inputs_and_short_batches() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, batch: Any) -> Any:
            return self.linear(batch["a"] + batch["b"][0])

    model = Two()
    batch = ({"a": torch.randn(5, 4), "b": (torch.randn(5, 4),)}, torch.randint(2, (5,)))
    result = PerformanceOptimizer(config()).optimize_training_loop(
        model, [batch], torch.optim.SGD(model.parameters(), lr=0.1), functional.cross_entropy, 1, quiet=True
    )
    assert result["samples"] == 5


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": "model"}, TypeError, "model"),
        ({"model": nn.Identity()}, ValueError, "no parameters"),
        ({"dataloader": 3}, TypeError, "dataloader"),
        ({"dataloader": []}, ValueError, "no batch"),
        ({"dataloader": [1, 2]}, TypeError, "batch 0"),
        ({"dataloader": [(torch.zeros(1, 6),)]}, TypeError, "pair"),
        ({"optimizer": None}, TypeError, "optimizer"),
        ({"criterion": 1.0}, TypeError, "criterion"),
        ({"criterion": lambda outputs, targets: outputs}, TypeError, "scalar"),
        ({"num_epochs": 0}, ValueError, "num_epochs"),
        ({"num_epochs": 1.5}, TypeError, "num_epochs"),
        ({"num_epochs": True}, TypeError, "num_epochs"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change: dict[str, Any], error: type[Exception], match: str) -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    arguments: dict[str, Any] = {
        "model": model,
        "dataloader": make_batches(2),
        "optimizer": torch.optim.AdamW(model.parameters()),
        "criterion": functional.cross_entropy,
        "num_epochs": 1,
        **change,
    }
    with pytest.raises(error, match=match):
        PerformanceOptimizer(config()).optimize_training_loop(**arguments, quiet=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_shot_iterator_is_refused_in_its_second_epoch() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="epoch 2"):
        PerformanceOptimizer(config()).optimize_training_loop(
            model, iter(make_batches(2)), torch.optim.AdamW(model.parameters()), functional.cross_entropy, 2, quiet=True
        )


def test_an_optimizer_that_needs_a_closure_is_refused_at_once() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="LBFGS cannot step without a closure"):
        PerformanceOptimizer(config()).optimize_training_loop(
            model, make_batches(2), torch.optim.LBFGS(model.parameters()), functional.cross_entropy, 1, quiet=True
        )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_config_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match="PerformanceConfig"):
        PerformanceOptimizer({"cache_size": 3})  # type: ignore[arg-type]
    assert PerformanceOptimizer().config == PerformanceConfig()


def test_parameters_that_share_memory_are_left_to_torch() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Parameter(torch.zeros(6, 3))
            self.right = nn.Parameter(self.left.data.view(6, 3))

        def forward(self, x: Any) -> Any:
            return x @ self.left + x @ self.right

    model = Shared()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    result = PerformanceOptimizer(config()).optimize_training_loop(
        model, make_batches(3), optimizer, functional.cross_entropy, 1, quiet=True
    )
    assert result["steps"] == 3
    assert "share memory" in result["techniques"]["fused_optimizer"]["reason"]


def test_lazy_parameters_can_be_taken_over() -> None:
    model = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    result = PerformanceOptimizer(config()).optimize_training_loop(
        model, make_batches(3), optimizer, functional.cross_entropy, 1, quiet=True
    )
    assert result["techniques"]["fused_optimizer"]["used"]


def test_modes_of_submodules_are_put_back() -> None:
    model = make_model()
    model[1].eval()  # as one freezes a normalization layer
    PerformanceOptimizer(config()).optimize_training_loop(
        model, make_batches(1), torch.optim.SGD(model.parameters(), lr=0.1), functional.cross_entropy, 1, quiet=True
    )
    assert [module.training for module in model] == [True, False, True]


def test_mean_losses_of_16_bit_models_are_exact() -> None:
    model = nn.Linear(6, 1).to(torch.bfloat16)
    batch = (torch.zeros(2, 6, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.bfloat16))
    result = PerformanceOptimizer(config()).optimize_training_loop(
        model,
        [batch] * 600,
        torch.optim.SGD(model.parameters(), lr=0.0),
        lambda outputs, targets: (outputs * 0 + 2.25).mean(),
        1,
        quiet=True,
    )
    assert result["final_loss"] == 2.25


@pytest.mark.parametrize("clip", [None, 1.0])
def test_finite_gradients_whose_norm_overflows_make_a_step(clip: float | None) -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    result = PerformanceOptimizer(config(max_grad_norm=clip)).optimize_training_loop(
        model,
        [(torch.full((1, 2), 1e20), torch.zeros(1))],
        torch.optim.SGD(model.parameters(), lr=1e-20),
        lambda outputs, targets: outputs.sum(),
        1,
        quiet=True,
    )
    assert (result["steps"], result["skipped_steps"]) == (1, 0)
    # torch clips by bound / norm: an infinite norm leaves nothing of the gradient
    torch.testing.assert_close(model.weight.detach(), before - (1.0 if clip is None else 0.0))


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("poison", [False, True])
def test_sparse_gradients_train_as_in_the_plain_loop(window: int, poison: bool) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))

    batches = [(torch.tensor([[i, i], [8, i]]), torch.tensor([i % 3, 1])) for i in range(7)]
    reference, model = make(), make()
    if not poison:
        plain_loop(
            reference, batches, torch.optim.SGD(reference.parameters(), lr=0.1), epochs=1, window=window, clip=None
        )
    settings = config(gradient_accumulation=window > 1, gradient_accumulation_steps=window)
    result = PerformanceOptimizer(settings).optimize_training_loop(
        model,
        batches,
        torch.optim.SGD(model.parameters(), lr=0.1),
        lambda outputs, targets: functional.cross_entropy(outputs, targets) * (math.nan if poison else 1.0),
        1,
        quiet=True,
    )
    assert_same_weights(model, reference)
    assert result["skipped_steps" if poison else "steps"] == math.ceil(7 / window)
    assert result["techniques"]["fused_optimizer"] == {"used": False, "reason": "the gradients of '0' are sparse"}


def test_a_loader_that_implements_no_length_is_fine() -> None:
    class Endless:
        def __iter__(self) -> Iterator[Any]:
            return iter(make_batches(2))

        def __len__(self) -> int:
            raise NotImplementedError

    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters())
    result = PerformanceOptimizer(config()).optimize_training_loop(
        model, Endless(), optimizer, functional.cross_entropy, 1, quiet=True
    )
    assert result["steps"] == 2


def test_autocast_gain_compares_with_float32_whatever_is_around(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    real = torch.Tensor.__matmul__

    def watching(left: Any, right: Any) -> Any:
        out = real(left, right)
        seen.add((left.dtype, out.dtype))
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", watching)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            techniques.autocast_gain.__wrapped__("cpu", "bfloat16")
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == {(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)}
