"""The demo's job at a tiny size: its summary file, its determinism, its honesty about being slower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from perfopt.cli import demo, demo_job, main  # noqa: E402

SIDE_KEYS = {"seconds", "tokens_per_second", "final_loss", "heldout_loss", "steps"}


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    target = tmp_path_factory.mktemp("demo") / "out" / "summary.json"
    result = CliRunner().invoke(
        main, ["demo", "--blocks", "2", "--steps", "3", "--output", str(target)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "plain PyTorch" in result.output
    loaded: dict[str, Any] = json.loads(target.read_text())
    return loaded


def test_summary_has_the_promised_keys(summary: dict[str, Any]) -> None:
    assert set(summary) >= {
        "plain",
        "perfopt",
        "speedup",
        "loss_gap",
        "cache_stats",
        "profiling_summary",
        "memory_trends",
    }
    for side in ("plain", "perfopt"):
        assert set(summary[side]) >= SIDE_KEYS
        assert summary[side]["steps"] == 6
        assert summary[side]["seconds"] > 0
    assert summary["speedup"] == pytest.approx(summary["plain"]["seconds"] / summary["perfopt"]["seconds"])
    low, high = sorted(summary["block_speedups"])
    assert summary["median_block_speedup"] == pytest.approx((low + high) / 2)
    assert summary["loss_gap"] == summary["perfopt"]["heldout_loss"] - summary["plain"]["heldout_loss"]
    assert 1_000_000 < summary["parameters"] < 5_000_000


def test_both_sides_learn_the_same(summary: dict[str, Any]) -> None:
    assert summary["plain"]["final_loss"] == pytest.approx(summary["perfopt"]["final_loss"], abs=0.02)
    assert abs(summary["loss_gap"]) < 0.02
    assert summary["plain"]["heldout_loss"] < 4.6  # log(98) = 4.58 is where an untrained model stands


def test_engines_took_part(summary: dict[str, Any]) -> None:
    assert summary["cache_stats"]["hits"] >= 1
    assert summary["profiling_summary"]["operations"]["optimizer_step"]["count"] == 6
    assert summary["memory_trends"]["cpu_memory_trend"]["samples"] >= 1
    assert summary["techniques"]["fused_optimizer"]["used"]


def test_being_slower_is_said_plainly(summary: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    slower = {**summary, "speedup": 0.5}
    demo.show(slower, Console(width=120))
    assert "SLOWER" in capsys.readouterr().out


def test_corpus_is_real_text_and_split() -> None:
    train, heldout = demo_job.read_corpus(limit=3_000_000)
    assert b"def " in train
    assert b"import " in heldout
    assert len(train) >= 3_000_000
    encoded = demo_job.encode(bytes(range(256)))
    assert encoded.min() == 0
    assert encoded.max() == demo_job.VOCABULARY - 1
    assert len(set(encoded.tolist())) == demo_job.VOCABULARY


def test_demo_refuses_nonsense(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--blocks", "0", "--output", str(tmp_path / "x.json")])
    assert result.exit_code == 2
    assert "blocks" in result.output


def test_demo_tells_before_it_trains_that_the_summary_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any) -> Any:
        raise AssertionError("trained")

    monkeypatch.setattr(demo_job, "run", train)
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, ["demo", "--quiet", "--output", str(tmp_path / "file" / "x.json")])
    assert result.exit_code == 1
    assert "cannot write" in result.output
