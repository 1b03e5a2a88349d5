"""Every file operation fails once: no crash, no wrong value, the old entry whole, nothing left behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

FULL_DISK = "write,ftruncate,fallocate,mkdir,rename,link"


def count_operations(run_session: Any, shim: Any, session: list[str], directory: Path, **settings: Any) -> int:
    count_file = directory.with_name("count")
    code, _ = run_session(directory, session, shim(directory, count=count_file, **settings))
    assert code == 0
    return int(count_file.read_text())


def leftovers(directory: Path) -> list[str]:
    """Names below the directory that a finished operation does not leave."""
    return [path.name for path in directory.rglob("*") if re.search(r"tmp|temp|partial", path.name) and path.is_file()]


@pytest.mark.parametrize("how", ["enospc", "eio", "emfile", "short", "enospc+", "eio+"])
def test_the_nth_operation_fails(
    how: str, shim: Any, session: list[str], sample: Any, run_session: Any, driver: Any, new_model: Any, tmp_path: Path
) -> None:
    commands = [*session, "close", "descriptors"]
    _, whole = run_session(tmp_path / "plain", commands, {})
    count = count_operations(run_session, shim, commands, tmp_path / "whole")
    failures = 0
    for number in sample(count, 30):
        directory = tmp_path / f"at{number}"
        code, answers = run_session(directory, commands, shim(directory, fail=number, how=how))
        assert code == 0, f"operation {number} failing with {how} ended the process with {code}"
        assert len(answers) == len(commands)
        assert answers[-1] == whole[-1], f"operation {number}: descriptors leak"
        failures += any(answer.startswith("failed") for answer in answers)
        model = new_model()
        model.nothing_sure = how.endswith("+")
        model.run(commands, answers)
        fresh = driver(directory)
        model.check(fresh)
        fresh.facts("verify 1")
        report = fresh.facts("verify 0")
        assert (report["damaged"], report["orphans"]) == (0, 0), f"operation {number}"
        assert fresh.facts("stats")["corrupt"] == 0
        fresh.close()
        assert leftovers(directory) == []
    assert failures > 0


def test_a_full_disk_still_gives_what_it_has(
    shim: Any, sample: Any, run_session: Any, driver: Any, new_model: Any, tmp_path: Path
) -> None:
    """From the n-th operation on nothing more can be written; reads go on, and once there is room again so do writes."""
    before = [f"put {key} {key} {key * 5000}" for key in range(1, 10)]
    commands = [
        *before,
        *(f"get {key}" for key in range(1, 10)),
        "put 1 11 60000",
        "get 1",
        "stats",
        "close",
        "descriptors",
    ]
    _, whole = run_session(tmp_path / "plain", commands, {})
    count = count_operations(run_session, shim, commands, tmp_path / "whole", only=FULL_DISK)
    refused = 0
    for number in sample(count, 20):
        directory = tmp_path / f"at{number}"
        code, answers = run_session(directory, commands, shim(directory, fail=number, how="enospc+", only=FULL_DISK))
        assert code == 0
        assert answers[-1] == whole[-1]
        model = new_model()
        model.nothing_sure = True
        model.run(commands, answers)
        for command, answer in zip(commands, answers, strict=True):
            key = int(command.split()[1]) if command.startswith("get") else None
            if key is not None and answers[key - 1] == "stored" and not answer.startswith("value"):
                raise AssertionError(f"operation {number}: {command}: {answer}, though it was stored")
        refused += sum(answer.startswith("failed") for answer in answers)
        fresh = driver(directory)
        model.check(fresh)
        assert fresh.ask("put 50 1 50000") == "stored"
        assert fresh.version(50) == 1
        fresh.close()
        assert leftovers(directory) == []
    assert refused > 0


def test_failures_are_counted(shim: Any, run_session: Any, tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    run_session(directory, ["put 1 1 100"], {})
    commands = ["open", "put 2 2 100000", "put 3 3 100", "get 1", "stats"]
    _, answers = run_session(
        directory, commands, shim(directory, fail=1, how="enospc+", only="write,ftruncate,fallocate")
    )
    assert answers[1].startswith("failed input/output error")
    assert answers[3].startswith("value 1 1 ")
    failed = sum(answer.startswith("failed") for answer in answers)
    assert f"write_failures={failed}" in answers[-1]
