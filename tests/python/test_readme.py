"""The README's examples run as they stand, each in an interpreter of its own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("code", EXAMPLES, ids=["cache", "profile", "train"])
def test_example_runs(code: str, tmp_path: Path) -> None:
    if "import torch" in code and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).resolve().parents[2] / link).exists(), link


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README
