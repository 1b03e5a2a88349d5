"""The benchmark frame: candidates side by side in one process, interleaved, judged by ratios.

A benchmark is a pytest-benchmark test that calls the ``versus`` fixture once per row. Each round times every candidate once, in
an order that rotates from round to round, so that a drift of the machine's speed hits all alike; the figure of a row is the
median over the rounds of (ours / peer) of the same round. Rows where perfopt loses stay in the table. A bar that is missed
never fails a run: speed is reported here, correctness is tested in ``tests/``.

At the end of a run the rows go to ``benchmarks/results/`` as ``table.md`` and ``results.json`` (rows of suites that did not run
are kept from the last run of the same machine manifest).
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import timeit
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

Candidate = Callable[[], object] | tuple[str, dict[str, Any]]
RESULTS = Path(__file__).resolve().parent / "results"
MIN_ROUND_SECONDS = 0.005
_rows: list[dict[str, Any]] = []


def _timer(candidate: Candidate) -> timeit.Timer:
    if callable(candidate):
        return timeit.Timer("call()", globals={"call": candidate})
    statement, names = candidate
    return timeit.Timer(statement, globals=names)


def _calls_per_round(timer: timeit.Timer) -> int:
    """Enough calls for a round of MIN_ROUND_SECONDS, found by doubling; a slow candidate is called once."""
    number = 1
    while (seconds := timer.timeit(number)) < MIN_ROUND_SECONDS and number < 10_000_000:
        number = max(number * 2, int(number * MIN_ROUND_SECONDS / max(seconds, 1e-9)))
    return number


def _parse_bar(bar: str) -> tuple[str, float]:
    """``<=1.5`` is at most 1.5 times the peer's time; ``>=25x`` is at least 25 times faster."""
    if bar.startswith("<="):
        return "at most", float(bar[2:].rstrip("x"))
    if bar.startswith(">="):
        return "faster", float(bar[2:].rstrip("x"))
    raise ValueError(f"bar {bar!r}: write '<=1.5' (times the peer's time) or '>=25x' (times faster)")


def _verdict(bar: str | None, ratio: float) -> str:
    if bar is None:
        return ""
    kind, number = _parse_bar(bar)
    return "met" if (ratio <= number if kind == "at most" else 1 / ratio >= number) else "missed"


def _add_row(
    row: str, ours: str, peer: str, ours_seconds: list[float], peer_seconds: list[float], bar: str | None, note: str
) -> None:
    """One line of the table, from seconds of rounds that were taken in pairs."""
    ratios = sorted(a / b for a, b in zip(ours_seconds, peer_seconds, strict=True))
    ratio = statistics.median(ratios)
    _rows.append(
        {
            "row": row,
            "ours": ours,
            "peer": peer,
            "ours_seconds": statistics.median(ours_seconds),
            "peer_seconds": statistics.median(peer_seconds),
            "ratio": ratio,
            "ratio_quartiles": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
            "rounds": len(ratios),
            "bar": bar,
            "verdict": _verdict(bar, ratio),
            "note": note,
        }
    )


@pytest.fixture
def add_row() -> Callable[..., None]:
    """``add_row(row, ours, peer, ours_seconds, peer_seconds, bar=None, note="")``: for harnesses that time by themselves."""

    def add(
        row: str,
        ours: str,
        peer: str,
        ours_seconds: list[float],
        peer_seconds: list[float],
        bar: str | None = None,
        note: str = "",
    ) -> None:
        _add_row(row, ours, peer, ours_seconds, peer_seconds, bar, note)

    return add


@pytest.fixture
def versus(benchmark: Any) -> Callable[..., None]:
    """``versus(row, ours={name: candidate}, peers={name: candidate}, bars={name: bar}, rounds=31, note="")``.

    A candidate is a callable without arguments or ``(statement, globals)`` as for timeit.
    """

    def run(
        row: str,
        *,
        ours: Mapping[str, Candidate],
        peers: Mapping[str, Candidate],
        bars: Mapping[str, str] | None = None,
        rounds: int = 31,
        note: str = "",
    ) -> None:
        bars = dict(bars or {})
        unknown = set(bars) - set(peers)
        if unknown:
            raise ValueError(f"bars for peers that do not run: {sorted(unknown)}")
        for bar in bars.values():
            _parse_bar(bar)
        timers = {name: _timer(candidate) for name, candidate in {**ours, **peers}.items()}
        calls = {name: _calls_per_round(timer) for name, timer in timers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in timers}
        names = list(timers)
        turn = 0

        def one_round() -> None:
            nonlocal turn
            shift = turn % len(names)
            turn += 1
            for name in names[shift:] + names[:shift]:
                seconds[name].append(timers[name].timeit(calls[name]) / calls[name])

        gc.collect()
        benchmark.group = row
        benchmark.pedantic(one_round, rounds=rounds, iterations=1, warmup_rounds=1)
        for name in ours:
            for peer in peers:
                _add_row(row, name, peer, seconds[name][1:], seconds[peer][1:], bars.get(peer), note)
        benchmark.extra_info["rows"] = [r for r in _rows if r["row"] == row]

    return run


@pytest.fixture
def figures() -> Callable[..., None]:
    """``figures(row, ours={name: number}, peers={name: number}, unit="B", note="")``: what is no time, measured once."""

    def record(row: str, *, ours: Mapping[str, float], peers: Mapping[str, float], unit: str, note: str = "") -> None:
        for name, number in ours.items():
            for peer, other in peers.items():
                ratio = number / other
                _rows.append(
                    {
                        "row": row,
                        "ours": name,
                        "peer": peer,
                        "unit": unit,
                        "ours_figure": number,
                        "peer_figure": other,
                        "ratio": ratio,
                        "ratio_quartiles": [ratio, ratio],
                        "rounds": 1,
                        "bar": None,
                        "verdict": "",
                        "note": note,
                    }
                )

    return record


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=RESULTS.parent).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def manifest() -> dict[str, Any]:
    """What the figures were measured on, without naming the machine."""
    from perfopt import _core

    packages = {}
    for name in (
        "perfopt",
        "numpy",
        "torch",
        "joblib",
        "cachebox",
        "cachetools",
        "diskcache",
        "psutil",
        "pytest-benchmark",
    ):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "cpu": _cpu_model(),
        "perfopt_cpu": _core.cpu_info(),
        "clock": _core.clock_info()["source"],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": packages,
        "commit": _commit(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("PERFOPT_", "OMP_", "MALLOC_"))},
    }


def _figure(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _figure_of(row: dict[str, Any], side: str) -> str:
    return f"{row[side + '_figure']:.3g} {row['unit']}" if "unit" in row else _figure(row[side + "_seconds"])


def _speed(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    if "unit" in row:
        return f"{ratio:.2f}x its {row['unit']}"
    return f"{ratio:.2f}x its time" if ratio > 0.8 else f"{1 / ratio:.2f}x faster"


def _markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    lines = [
        "# Benchmark table",
        "",
        f"{machine['cpu']}, {machine['perfopt_cpu']['processors']} processors, variant "
        f"{machine['perfopt_cpu']['variant']}, Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version != "not installed")
        + ".",
        "",
        "Ratios are medians over interleaved rounds in one process (`make bench`); quartiles in brackets. "
        "Times are rough, ratios are what to compare.",
        "",
        "| row | ours | peer | perfopt against it | quartiles of ours/peer | bar | |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = r["ratio_quartiles"]
        bar = "" if r["bar"] is None else r["bar"]
        lines.append(
            f"| {r['row']} | {r['ours']} {_figure_of(r, 'ours')} | {r['peer']} {_figure_of(r, 'peer')} | "
            f"{_speed(r)} | {low:.3g} to {high:.3g} | {bar} | {r['verdict']} |"
        )
    notes = list(dict.fromkeys(f"- {r['row']}: {r['note']}" for r in rows if r["note"]))
    if notes:
        lines += ["", *notes]
    return "\n".join(lines) + "\n"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not _rows or session.config.option.collectonly:
        return
    RESULTS.mkdir(exist_ok=True)
    machine = manifest()
    target = RESULTS / "results.json"
    kept: list[dict[str, Any]] = []
    if target.exists():
        old = json.loads(target.read_text())
        if old["machine"]["cpu"] == machine["cpu"]:
            new = {row["row"] for row in _rows}
            kept = [row for row in old["rows"] if row["row"] not in new]
    rows = sorted([*kept, *_rows], key=lambda row: str(row["row"]))
    target.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (RESULTS / "table.md").write_text(_markdown(rows, machine))
