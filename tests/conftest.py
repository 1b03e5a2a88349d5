"""Suite-wide fixtures and the ``spec`` marker's report.

Every passing test marked ``@pytest.mark.spec("S0-12", ...)`` writes its rows to ``build/spec/shown.json`` at the end of the
run; ``make spec`` reads that file. A row counts as shown only when at least one marked test passed and none failed.
"""

from __future__ import annotations

import gc
import json
import mmap
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from memory_tools import Cleanings, resident_block

ROOT = Path(__file__).resolve().parent.parent
_outcomes: dict[str, dict[str, list[str]]] = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None], None]:
    report = (yield).get_result()  # type: ignore[attr-defined]
    if report.when != "call" and report.passed:
        return
    rows = [row for marker in item.iter_markers("spec") for row in marker.args]
    for row in rows:
        _outcomes.setdefault(row, {"passed": [], "failed": [], "skipped": []})[report.outcome].append(item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not _outcomes or session.config.option.collectonly:
        return
    target = ROOT / "build" / "spec" / "shown.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(_outcomes, indent=1, sort_keys=True))


@pytest.fixture
def cleanings() -> Iterator[Cleanings]:
    """Counts full collections; there are no automatic ones meanwhile."""
    counter = Cleanings()
    was_enabled = gc.isenabled()
    gc.disable()  # automatic collections would be counted too
    gc.callbacks.append(counter)
    yield counter
    gc.callbacks.remove(counter)
    if was_enabled:
        gc.enable()


@pytest.fixture
def grow() -> Iterator[Callable[[int], None]]:
    """``grow(n)`` makes n more MiB of this process resident; all of it goes when the test ends."""
    blocks: list[mmap.mmap] = []
    yield lambda mebibytes: blocks.append(resident_block(mebibytes))
    for block in blocks:
        block.close()
