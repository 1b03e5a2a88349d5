"""Every byte flipped and every length cut, through PerformanceCache: the default, counted; never an error or a wrong value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("damage_child.py")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(3600)
def test_damage_is_a_miss(full: bool, tmp_path: Path) -> None:
    step = 1 if full else 97
    done = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path / "whole"), str(tmp_path / "work"), str(step)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}"
    *wrong, last = done.stdout.splitlines()
    assert wrong == []
    assert int(last.split()[1]) > 300
