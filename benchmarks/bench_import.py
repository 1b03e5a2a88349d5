"""What ``import perfopt`` costs: whole interpreters, started in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable


def importing(module: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def test_import(versus: Callable[..., None]) -> None:
    versus(
        "import in a fresh interpreter",
        ours={"import perfopt": importing("perfopt")},
        peers={"import numpy": importing("numpy")},
        bars={"import numpy": "<=1.6"},
        rounds=21,
        note="whole interpreters, start-up included on both sides",
    )
