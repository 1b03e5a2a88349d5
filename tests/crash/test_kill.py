"""SIGKILL: whatever a set acknowledged is there and right afterwards, whatever it did not is absent or right."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import until

ABSENT = None


class Writer:
    """A process under load on its own keys; it announces and acknowledges into a file, which outlives it."""

    def __init__(self, program: Path, directory: Path, log: Path, load: str, options: list[str]) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(program), str(directory), *options], stdin=subprocess.PIPE, stdout=out, text=True
            )
        assert self.process.stdin is not None
        self.process.stdin.write(f"load {load}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.stdin.close()
        assert self.process.wait() == -signal.SIGKILL, "a writer ended before it was killed"

    def lines(self) -> int:
        """How many were announced and acknowledged so far: two for each operation."""
        return self.log.read_bytes().count(b"\n")

    def tell(self, model: Any) -> int:
        """Brings the model up to the last acknowledged operation; returns how many there were."""
        lines = self.log.read_text().splitlines(keepends=True)
        count = 0
        for line in lines:
            if not line.endswith("\n"):
                break
            words = line.split()
            if words[:2] == ["try", "put"]:
                model.trying(int(words[2]), int(words[3]))
            elif words[:2] == ["try", "delete"]:
                model.trying(int(words[2]), ABSENT)
            elif words[:2] == ["try", "clear"]:
                model.clearing = True
            elif words[0] in ("put", "delete"):
                model.happened()
                count += 1
            elif words[0] == "clear":
                model.clearing = False
            else:
                raise AssertionError(f"a writer said {line!r}")
        model.cut_off()
        return count


SCENES = {
    # largest value, keys of each writer, a clear in so many operations, options, whether entries may go away by themselves
    "load": (100_000, 300, 0, [], False),
    "growth": (200, 60_000, 0, [], False),
    "compaction": (30_000, 40, 0, [], False),
    "eviction": (100_000, 400, 0, ["max_bytes=3000000"], True),
    "clear": (60_000, 300, 400, [], True),
    "power": (60_000, 100, 0, ["durability=power"], False),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.spec("S0-16")
def test_random_kills(
    scene: str, full: bool, driver_program: Path, driver: Any, new_model: Any, tmp_path: Path
) -> None:
    largest, count, clear, options, may_go = SCENES[scene]
    writers, kills = 3, 60 if full else 6  # six scenes: 360 kills in the full proof
    directory, models = tmp_path / "cache", [new_model() for _ in range(3)]
    dice = random.Random(scene)
    acknowledged = there = turn = 0
    # A clear may have been the last that every turn did; that is chance for a few turns, not for twenty more.
    while turn < kills // writers or (there == 0 and turn < kills // writers + 20):
        crew = [
            Writer(
                driver_program,
                directory,
                tmp_path / f"log{number}",
                f"{turn * writers + number + 1} {number * 1_000_000} {count} {largest} {clear}",
                options,
            )
            for number in range(writers)
        ]
        until(lambda first=crew[0]: first.lines() >= 10)  # one dies at work, the others wherever they are by then
        time.sleep(dice.uniform(0.0, 0.3))
        for writer in dice.sample(crew, writers):
            time.sleep(dice.choice([0.0, 0.0, dice.uniform(0.0, 0.02)]))
            writer.kill()
        fresh = driver(directory, *options)
        for writer, model in zip(crew, models, strict=True):
            acknowledged += writer.tell(model)
            if may_go:
                model.may_be_missing()
            there += model.check(fresh)
        stats = fresh.facts("stats")
        assert stats["corrupt"] == 0
        if options and options[0].startswith("max_bytes"):
            on_disk = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            assert stats["bytes"] <= 3_000_000
            assert on_disk <= 3_000_000
        fresh.close()
        turn += 1
    assert acknowledged > kills
    assert there > 0
    last = driver(directory, *options)
    last.facts("verify 1")
    report = last.facts("verify 0")
    assert (report["damaged"], report["orphans"]) == (0, 0)


@pytest.mark.parametrize(
    "options", [[], ["durability=power"], ["compression=always"]], ids=["process", "power", "zstd"]
)
def test_killed_before_every_operation(
    options: list[str],
    shim: Any,
    session: list[str],
    sample: Any,
    run_session: Any,
    driver: Any,
    new_model: Any,
    tmp_path: Path,
) -> None:
    """Not at random: one run for each file operation of a session, killed in its place."""
    count_file = tmp_path / "count"
    code, _ = run_session(tmp_path / "whole", session, shim(tmp_path / "whole", count=count_file), *options)
    assert code == 0
    count = int(count_file.read_text())
    assert count > 20
    for number in sample(count, 25):
        directory = tmp_path / f"cut{number}"
        code, answers = run_session(directory, session, shim(directory, fail=number, how="kill"), *options)
        assert code == -signal.SIGKILL
        model = new_model()
        model.run(session, answers)
        fresh = driver(directory, *options)
        model.check(fresh)
        assert fresh.facts("stats")["corrupt"] == 0
        fresh.facts("verify 1")
        report = fresh.facts("verify 0")
        assert (report["damaged"], report["orphans"]) == (0, 0), f"killed before operation {number}"
        assert fresh.ask("put 7 9999 40000") == "stored"
        assert fresh.version(7) == 9999
        fresh.close()


def test_a_reader_is_not_disturbed_by_kills(driver_program: Path, driver: Any, tmp_path: Path) -> None:
    """A process that stays up keeps finding right values while its neighbours die."""
    directory = tmp_path / "cache"
    reader = driver(directory)
    assert reader.ask("put 5000000 1 50000") == "stored"
    for turn in range(5):
        writer = Writer(driver_program, directory, tmp_path / "log", f"{turn + 1} 0 50 60000 0", [])
        for key in range(50):
            reader.version(key)
        time.sleep(0.05)
        os.sched_yield()
        writer.kill()
        assert reader.version(5000000) == 1
        assert reader.ask(f"put {6000000 + turn} 7 40000") == "stored"
    assert reader.facts("stats")["corrupt"] == 0
    reader.close()
