"""What the crash proofs share: the driver program, the failing shim, and the model of what a cache may answer after a crash.

The programs are built by ``make`` when they are missing or old; without gcc or make the proofs skip. ``PERFOPT_PROOFS=full`` runs
every proof at its full count (300 kills, every byte, every operation, 10 million operations); the suite takes a sample.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FULL = os.environ.get("PERFOPT_PROOFS") == "full"
ABSENT = None


def _build(name: str) -> Path:
    for tool in ("gcc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"the crash proofs build a C program and {tool} is not here")
    target = f"build/crash/{name}"
    made = subprocess.run(["make", "-s", target, f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return ROOT / target


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether the proofs run at their full count."""
    return FULL


@pytest.fixture(scope="session")
def driver_program() -> Path:
    return _build("disk_driver")


@pytest.fixture(scope="session")
def shim() -> Callable[..., dict[str, str]]:
    """``shim(directory, fail=, how=, only=, count=, log=)``: the environment that preloads the failing shim."""
    library = _build("fail_shim.so")

    def environment(directory: Path, **settings: Any) -> dict[str, str]:
        names = {f"PERFOPT_SHIM_{name.upper()}": str(value) for name, value in settings.items()}
        return {"LD_PRELOAD": str(library), "PERFOPT_SHIM_DIR": str(directory), **names}

    return environment


class Driver:
    """A running disk_driver: ``ask`` sends one command and returns its answer."""

    def __init__(self, program: Path, directory: Path, options: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [str(program), str(directory), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise AssertionError(f"the driver ended with {self.process.wait()} at {command!r}")
        return answer.rstrip("\n")

    def facts(self, command: str) -> dict[str, int]:
        """The answer of ``stats``, ``verify`` and their like as numbers."""
        words = self.ask(command).split()
        assert words[0] != "failed", words
        return {name: int(value) for name, value in (word.split("=") for word in words[1:])}

    def version(self, key: int) -> int | None:
        """The version of a key that is there whole, or ABSENT; anything else is an error."""
        words = self.ask(f"get {key}").split()
        if words == ["absent"]:
            return ABSENT
        assert words[:2] == ["value", str(key)], f"key {key}: {words}"
        return int(words[2])

    def close(self) -> None:
        """Ends it as a user's program would; it must not have crashed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0


@pytest.fixture
def driver(driver_program: Path) -> Iterator[Callable[..., Driver]]:
    """``driver(directory, *options, environment={})`` starts one; all are ended with the test."""
    started: list[Driver] = []

    def start(directory: Path, *options: str, environment: dict[str, str] | None = None) -> Driver:
        started.append(Driver(driver_program, directory, options, environment or {}))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


class Model:
    """For each key the versions that may be found: one, unless an operation on it was cut off or failed.

    ``trying`` says what is about to happen, ``answered`` how it went. What was tried and not answered may have happened or not.
    """

    def __init__(self) -> None:
        self.allowed: dict[int, set[int | None]] = {}
        self.tried: dict[int, set[int | None]] = {}
        self.pending: tuple[int, int | None] | None = None
        self.nothing_sure = False  # the disk takes nothing any more, so a put that failed half way cannot be taken back
        self.clearing = False

    def trying(self, key: int, version: int | None) -> None:
        self.pending = (key, version)
        self.tried.setdefault(key, {ABSENT}).add(version)

    def happened(self) -> None:
        assert self.pending is not None
        key, version = self.pending
        self.allowed[key] = {version}
        self.pending = None

    def did_not(self) -> None:
        """The operation failed or was refused: what was there before still is."""
        self.pending = None

    def cut_off(self) -> None:
        """Nobody knows whether the last operation happened."""
        if self.pending is not None:
            key, version = self.pending
            self.allowed.setdefault(key, {ABSENT}).add(version)
            self.pending = None
        if self.clearing:
            for versions in self.allowed.values():
                versions.add(ABSENT)
            self.clearing = False

    def cleared(self) -> None:
        for key in self.allowed:
            self.allowed[key] = {ABSENT}
        self.clearing = False

    def may_be_missing(self) -> None:
        """From here on an entry may have been evicted or cleared by others; it is never an older one."""
        for versions in self.allowed.values():
            versions.add(ABSENT)

    def check(self, one: Driver, keys: Iterable[int] | None = None) -> int:
        """Compares every key with what the cache has, takes that as the truth from here on, and returns how many are there."""
        there = 0
        for key in list(self.allowed) if keys is None else keys:
            version = one.version(key)
            assert version in self.allowed[key], f"key {key}: found {version}, possible {self.allowed[key]}"
            self.allowed[key] = {version}
            there += version is not ABSENT
        return there

    def run(self, commands: Iterable[str], answers: Iterable[str]) -> None:
        """Follows a session of commands as far as it was answered, and checks the answers of its reads on the way."""
        reader = iter(answers)
        for command in commands:
            words = command.split()
            self._announce(words)
            answer = next(reader, None)
            if answer is None:
                self.cut_off()
                return
            self._follow(words, answer)

    def _announce(self, words: list[str]) -> None:
        if words[0] == "put":
            self.trying(int(words[1]), int(words[2]))
        elif words[0] == "delete":
            self.trying(int(words[1]), ABSENT)
        self.clearing = words[0] == "clear"

    def _follow(self, words: list[str], answer: str) -> None:
        failed = answer.startswith("failed")
        if words[0] in ("put", "delete"):
            if failed and (words[0] == "delete" or self.nothing_sure):
                self.cut_off()
            elif failed or answer == "rejected":
                self.did_not()
            else:
                self.happened()
        elif words[0] == "clear":
            self.cut_off() if failed else self.cleared()
        elif words[0] == "get" and not failed and answer != "absent":
            key, reply = int(words[1]), answer.split()
            assert reply[0] == "value", f"{words}: {answer}"
            assert int(reply[2]) in self.allowed.get(key, {ABSENT}), f"{words}: {answer}, possible {self.allowed[key]}"


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture(scope="session")
def new_model() -> type[Model]:
    return Model


@pytest.fixture(scope="session")
def session() -> list[str]:
    """Uses everything once: small values and files, replaced, read, deleted, expiring, reopened, cleared."""
    small = [f"put {key} {100 + key} {50 * key}" for key in range(1, 9)]
    files = ["put 20 120 100000", "put 21 121 40000", "put 20 220 90001"]
    replaced = ["put 1 201 3000", "put 2 202 31000", "put 3 203 32"]
    reads = [f"get {key}" for key in (1, 2, 3, 7, 20, 21, 99)]
    leaves = ["delete 4", "delete 21", "delete 99", "touch 5 1000", "get 5"]
    expiring = ["put 30 130 500 1000", "get 30", "put 31 131 50000 1000", "expire", "flush"]
    again = ["close", "open", *reads, "clear", "get 1", "get 20", "put 1 301 64", "put 20 320 60000", "put 40 340 2000"]
    return [
        "open",
        *small,
        *files,
        *replaced,
        *reads,
        *leaves,
        *expiring,
        *again,
        "get 1",
        "get 20",
        "list",
        "verify 0",
    ]


@pytest.fixture
def run_session(driver_program: Path) -> Callable[..., tuple[int, list[str]]]:
    """``run_session(directory, commands, environment, *options)``: runs it in one process; its exit status and the answers."""

    def run(
        directory: Path, commands: Sequence[str], environment: dict[str, str], *options: str
    ) -> tuple[int, list[str]]:
        done = subprocess.run(
            [str(driver_program), str(directory), *options],
            input="".join(f"{command}\n" for command in commands),
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=120,
        )
        return done.returncode, done.stdout.splitlines()

    return run


@pytest.fixture(scope="session")
def sample() -> Callable[[int, int], list[int]]:
    """``sample(count, most)``: the numbers 1 to count, all of them in the full proof, else about ``most`` spread over them."""

    def numbers(count: int, most: int) -> list[int]:
        step = 1 if FULL else max(1, count // most)
        return list(range(1, count + 1, step))

    return numbers


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_python(code, *arguments, environment={}, before=[])``: in a fresh interpreter, so that its crash fails one test only.

    before: words of a command that runs the interpreter.
    """

    def run(
        code: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        before: Sequence[str] = (),
        timeout: float = 280,
    ) -> subprocess.CompletedProcess[str]:
        script = tmp_path / f"script_{len(list(tmp_path.glob('script_*')))}.py"
        script.write_text(code)
        return subprocess.run(
            [*before, sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )

    return run
