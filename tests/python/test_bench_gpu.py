"""benchmarks/gpu/bench_gpu.py without a GPU: the table it writes from made-up times, and what it says where there is none."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "bench_gpu.py"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gpu", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "gpu.json")
    return module


def clock_of(milliseconds: Iterator[float]) -> Any:
    """A torch whose events say these times."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: Any) -> float:
            return next(milliseconds)

    return SimpleNamespace(cuda=SimpleNamespace(Event=Event))


def test_ratios_are_of_the_same_round(bench: ModuleType) -> None:
    times = (value for index in range(bench.ROUNDS) for value in ((40.0, 20.0) if index % 2 == 0 else (20.0, 40.0)))
    calls: list[str] = []
    row = bench.versus(clock_of(times), lambda: calls.append("ours"), lambda: calls.append("theirs"))
    assert (row["ours_ms"], row["torch_ms"], row["times_faster"]) == (2.0, 4.0, 2.0)
    assert row["low"] == row["high"] == 2.0
    assert calls.count("ours") == calls.count("theirs") == 3 + bench.ROUNDS * bench.STEPS


def test_rows_are_kept_whatever_fails(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "ours_ms": 1.0,
        "torch_ms": 3.0,
        "times_faster": 3.0,
        "low": 2.5,
        "high": 3.5,
        "share_of_copy_bandwidth": 0.87,
    }

    def fails() -> dict[str, Any]:
        assert len(json.loads(bench.RESULTS.read_text())["rows"]) == 1  # the first is on disk already
        raise RuntimeError("no Triton here")

    parts: dict[str, Callable[[], dict[str, Any]]] = {"one": lambda: row, "two": fails, "three": lambda: dict(row)}
    assert bench.measure(parts, {"device": "made up"}) == 1
    written = json.loads(bench.RESULTS.read_text())
    assert written["measured"] is True
    assert [set(r) - {"row"} for r in written["rows"]] == [set(row), {"failed"}, set(row)]
    out = capsys.readouterr().out
    assert "3.00x [2.50, 3.50]  one  0.87 of copy" in out
    assert "two: RuntimeError: no Triton here" in out
    assert bench.measure({"one": lambda: row}, {}) == 0


def test_without_a_gpu_it_says_so_and_leaves_what_was_measured(bench: ModuleType) -> None:
    assert bench.no_gpu("none here") == 3
    assert json.loads(bench.RESULTS.read_text())["measured"] is False
    bench.RESULTS.write_text(json.dumps({"measured": True, "rows": [1]}))
    assert bench.no_gpu("none here") == 3
    assert json.loads(bench.RESULTS.read_text())["rows"] == [1]
