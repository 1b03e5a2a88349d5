"""The examples run as they stand: each of the README in an interpreter of its own, each guide as one program."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
GUIDES = ["cache.md", "code-profiler.md", "memory.md", "profiler.md", "profiling-loaders.md", "reports.md"]


def examples_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


EXAMPLES = examples_of(README)


def run(code: str, folder: Path) -> None:
    if re.search("^(import|from) torch", code, flags=re.M) and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    # A test before this one may have begun to follow children, in whose family other examples would report too.
    environment = {key: value for key, value in os.environ.items() if key != "PERFOPT_PROFILE_CHILDREN"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("code", EXAMPLES, ids=["cache", "profile", "train"])
def test_example_runs(code: str, tmp_path: Path) -> None:
    run(code, tmp_path)


@pytest.mark.parametrize("guide", GUIDES)
def test_guide_runs(guide: str, tmp_path: Path) -> None:
    blocks = examples_of((ROOT / "docs" / guide).read_text())
    assert blocks
    run("\n".join(blocks), tmp_path)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{guide}" for guide in GUIDES)])
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / link).exists(), link


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README
