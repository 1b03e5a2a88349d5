"""The mutation gate: breaks the optimizer step on purpose, one way at a time, and shows that the tests notice each.

``tools/mutants.py`` is the table. A mutant of pure C is compiled as far as it needs (the changed file, or all that include
it) and run as the C test programs; one of the Python layer or of the bindings is a copy of the package that pytest runs
against. Unchanged, all must pass; changed, one must fail; a replacement that does not fit its file exactly once is an
error, so the table cannot rot. Everything lies below ``build/mutants``.

Usage: ``mutation_gate.py [--jobs N] [WORD ...]``; with words, only mutants whose name contains one of them.
Exit status: 0 when every mutant tried was killed, 1 otherwise. Needs gcc, and the built package for the Python mutants, which
are left out (and said to be) where torch is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutants import C_MUTANTS, PYTHON_MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "mutants"
SUITE_FOLDERS = ("base", "kernels")
RUN_LIMIT_S = 300  # of one test program; a mutant that hangs is an error, not a kill
FAILED_CHECK = re.compile(rb"(\S+:\d+): (?:CHECK|REQUIRE)\((.*)\)\s*$")


class GateError(Exception):
    """The gate itself cannot judge: a replacement does not fit, something does not build or hangs."""


def read_flags() -> dict[str, list[str]]:
    """``NAME = value`` lines of csrc/flags.mk as lists of words."""
    lines = (line.partition("=") for line in (ROOT / "csrc" / "flags.mk").read_text().splitlines())
    return {name.strip(): value.split() for name, equals, value in lines if equals and not name.startswith("#")}


def folder_of(mutant: Mutant) -> Path:
    return WORK / re.sub(r"\W+", "-", mutant.name)


def mutated(mutant: Mutant, root: Path) -> dict[str, str]:
    """The changed files of a mutant by their path below root, with their new text."""
    texts: dict[str, str] = {}
    for path, old, new in mutant.edits:
        text = texts.get(path) or (root / path).read_text()
        if text.count(old) != 1:
            raise GateError(f"{mutant.name}: {path} has {text.count(old)} places with {old!r}, wanted 1")
        texts[path] = text.replace(old, new)
    return texts


def write_over(folder: Path, texts: dict[str, str]) -> None:
    for path, text in texts.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def run_tool(name: str, command: list[str], cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise GateError(f"{name} does not build: {' '.join(command)}\n{done.stderr[-2000:]}")


# ---- pure C ------------------------------------------------------------------------------------


class CSuite:
    """The test programs in C: built once as they are, and again for each mutant as far as it differs."""

    def __init__(self, programs: Iterable[str]) -> None:
        self.flags = read_flags()
        self.base = WORK / "base"
        self.base.mkdir(parents=True, exist_ok=True)
        folders = [ROOT / "csrc" / folder for folder in SUITE_FOLDERS]
        self.sources = [str(path.relative_to(ROOT)) for folder in folders for path in sorted(folder.glob("*.c"))]
        self.programs = {program: f"tests/c/{program}.c" for program in sorted(programs)}
        self.parts: dict[str, list[str]] = {}  # of each program, those sources that it is linked from
        self.depends: dict[str, set[str]] = {}  # of each source, itself and the headers it reads

    def compile(self, source: str, target: Path, overlay: Path | None) -> None:
        """Compiles a source; files below overlay stand in for those of the tree."""
        here = overlay / source if overlay is not None and (overlay / source).exists() else ROOT / source
        includes = ([f"-I{overlay / 'csrc'}"] if overlay is not None else []) + [f"-I{ROOT / 'csrc'}"]
        command = [os.environ.get("CC", "gcc"), *self.flags["PFO_CSTD"], *includes, "-DPFO_TESTING", "-O1", "-w"]
        command += ["-pthread", "-MMD", *self.flags.get(f"PFO_FILE_{here.stem}", [])]
        run_tool(target.stem, [*command, "-c", str(here), "-o", str(target)])

    def link(self, objects: list[Path], target: Path) -> None:
        command = [os.environ.get("CC", "gcc"), "-pthread", *map(str, objects), str(self.base / "all.a")]
        command += ["-o", str(target), f"-Wl,-Map,{target}.map", *self.flags["PFO_LIBS"], "-ldl", "-lm"]
        run_tool(target.name, command)

    def build(self, pool: ThreadPoolExecutor) -> None:
        everything = [*self.sources, *self.programs.values()]
        objects = {source: self.base / f"{Path(source).stem}.o" for source in everything}
        list(pool.map(lambda source: self.compile(source, objects[source], None), everything))
        archive = self.base / "all.a"
        archive.unlink(missing_ok=True)
        run_tool("all.a", ["ar", "rcs", str(archive), *(str(objects[source]) for source in self.sources)])
        for source in everything:
            words = objects[source].with_suffix(".d").read_text().replace("\\\n", " ").split()[1:]
            self.depends[source] = {os.path.relpath(word, ROOT) for word in words}
        for program, source in self.programs.items():
            self.link([objects[source]], self.base / program)
            used = set(re.findall(r"all\.a\((\w+)\.o\)", (self.base / f"{program}.map").read_text()))
            self.parts[program] = [source, *(s for s in self.sources if Path(s).stem in used)]

    def build_mutant(self, mutant: Mutant, program: str, folder: Path) -> Path:
        changed = {path for path, _, _ in mutant.edits}
        stale = [source for source in self.parts[program] if self.depends[source] & changed]
        if not stale:
            raise GateError(f"{mutant.name}: {program} is not made of {', '.join(sorted(changed))}")
        objects = []
        for source in stale:
            objects.append(folder / f"{Path(source).stem}.o")
            if not objects[-1].exists():
                self.compile(source, objects[-1], folder)
        if self.programs[program] not in stale:
            objects.append(self.base / f"{program}.o")
        self.link(objects, folder / program)
        return folder / program

    def judge(self, mutant: Mutant) -> str | None:
        """What killed the mutant, or None."""
        folder = folder_of(mutant)
        write_over(folder, mutated(mutant, ROOT))
        for program in mutant.tests:
            reason = run_program(self.build_mutant(mutant, program, folder))
            if reason is not None:
                shutil.rmtree(folder)
                return reason
        return None


def run_program(program: Path) -> str | None:
    """Runs a C test program up to its first failed check; what failed, or None when it passed."""
    with subprocess.Popen([program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:  # the first line comes within the program's own time
                match = FAILED_CHECK.match(line)
                if match is not None:
                    return f"{Path(match[1].decode()).name} {match[2].decode()}"
            code = process.wait(timeout=RUN_LIMIT_S)
        except subprocess.TimeoutExpired as late:
            raise GateError(f"{program.name} of {program.parent.name} hangs") from late
        finally:
            process.kill()
    return None if code == 0 else f"{program.name} ended with status {code}"


def levels_of(program: Path) -> set[str]:
    """The instruction sets whose kernels this machine can run: the control of test_kernels names them."""
    return set(re.findall(r"variant (\w+)", subprocess.run([program], capture_output=True, text=True).stdout))


# ---- Python ------------------------------------------------------------------------------------


def copy_package(folder: Path) -> None:
    """A copy of all that the Python tests need, objects of the build included, so that little is compiled again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("csrc", "perfopt", "tests", "setup.py", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_backends"))
        else:
            shutil.copy2(source, folder / name)
    for objects in (ROOT / "build").glob("temp.*"):
        shutil.copytree(objects, folder / "build" / objects.name)


def run_pytest(folder: Path, tests: Iterable[str]) -> str | None:
    """The first test that fails, or None when all pass."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PERFOPT_CUDA": "off", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:
        raise GateError(f"pytest says nothing of use (status {done.returncode}):\n{done.stdout[-2000:]}")
    return failed[1].rpartition("/")[2]


def judge_python(mutant: Mutant) -> str | None:
    """What killed the mutant, or None."""
    folder = folder_of(mutant)
    copy_package(folder)
    texts = mutated(mutant, folder)
    write_over(folder, texts)
    if any(path.startswith("csrc/") for path in texts):
        run_tool(mutant.name, [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], folder)
    reason = run_pytest(folder, mutant.tests)
    if reason is not None:
        shutil.rmtree(folder)
    return reason


# ---- the gate ----------------------------------------------------------------------------------


def try_one(mutant: Mutant, judge: Callable[[Mutant], str | None]) -> bool:
    try:
        reason = judge(mutant)
    except GateError as error:
        print(f"  error     {error}", flush=True)
        return False
    print(f"  {'SURVIVES' if reason is None else 'killed  '}  {mutant.name:34}  {reason or ''}", flush=True)
    return reason is not None


def chosen(table: Iterable[Mutant], words: list[str]) -> list[Mutant]:
    return [mutant for mutant in table if not words or any(word in mutant.name for word in words)]


def gate_c(table: list[Mutant], pool: ThreadPoolExecutor) -> list[bool]:
    suite = CSuite({"test_kernels"} | {program for mutant in table for program in mutant.tests})
    suite.build(pool)
    for program, reason in zip(
        suite.programs, pool.map(run_program, [suite.base / p for p in suite.programs]), strict=True
    ):
        if reason is not None:
            raise GateError(f"unchanged, {program} fails: {reason}")
    levels = levels_of(suite.base / "test_kernels")
    out = [mutant for mutant in table if mutant.level is not None and mutant.level not in levels]
    for mutant in out:
        print(f"  left out  {mutant.name:34}  this machine does not run {mutant.level}")
    return list(pool.map(lambda mutant: try_one(mutant, suite.judge), [m for m in table if m not in out]))


def gate_python(table: list[Mutant], pool: ThreadPoolExecutor) -> list[bool]:
    if importlib.util.find_spec("torch") is None:
        print(f"  left out  {len(table)} mutants of the Python layer: torch is not installed")
        return []
    control = WORK / "control"
    copy_package(control)
    reason = run_pytest(control, sorted({test for mutant in table for test in mutant.tests}))
    if reason is not None:
        raise GateError(f"unchanged, {reason} fails")
    return list(pool.map(lambda mutant: try_one(mutant, judge_python), table))


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the optimizer step on purpose; the tests must notice.")
    parser.add_argument("words", nargs="*", help="only mutants whose name contains one of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    arguments = parser.parse_args()
    begin = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    pure, layered = chosen(C_MUTANTS, arguments.words), chosen(PYTHON_MUTANTS, arguments.words)
    if not pure and not layered:
        parser.error(f"no mutant has {' or '.join(arguments.words)} in its name")
    try:
        with ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
            killed = [*(gate_c(pure, pool) if pure else []), *(gate_python(layered, pool) if layered else [])]
    except GateError as error:
        print(f"mutation gate: {error}", file=sys.stderr)
        return 1
    lost = killed.count(False)
    print(f"mutation gate: {len(killed) - lost} of {len(killed)} mutants killed in {time.monotonic() - begin:.0f} s")
    return 1 if lost or not killed else 0


if __name__ == "__main__":
    sys.exit(main())
