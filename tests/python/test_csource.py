"""The laws of the C sources, checked as text and on the built objects: who may include whom, what nobody may call."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
FILES = sorted([*CSRC.rglob("*.c"), *CSRC.rglob("*.h")])
PURE = [path for path in FILES if "bindings" not in path.parts]

# room -> rooms whose headers it may include; bindings may include everything.
ALLOWED = {
    "base": {"base"},
    "cache": {"cache", "base"},
    "profiler": {"profiler", "base"},
    "monitor": {"monitor", "base"},
    "kernels": {"kernels", "base", "backend"},
    "backend": {"backend", "base", "kernels"},
}
BANNED = re.compile(
    r"\b(printf|puts|perror|exit|_exit|abort|assert_fail|malloc|calloc|realloc|free|strdup|strcpy|sprintf)\s*\("
)


def code_of(path: Path) -> str:
    """The file without comments and string literals."""
    text = re.sub(r"/\*.*?\*/", " ", path.read_text(), flags=re.S)
    text = re.sub(r"//[^\n]*", " ", text)
    return re.sub(r'"(\\.|[^"\\])*"', '""', text)


def includes_of(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), flags=re.M)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_sources_to_check() -> None:
    assert len(PURE) > 10


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_file_begins_with_a_header_comment(path: Path) -> None:
    assert path.read_text().startswith(f"/* {path.name}: "), "the first line says the file's name and what it holds"


@pytest.mark.parametrize("path", PURE, ids=relative)
def test_pure_c_knows_nothing_of_python_or_cuda(path: Path) -> None:
    for name in includes_of(path):
        assert not re.match(r"(Python\.h|numpy/|cuda|bindings/)", name), name


@pytest.mark.parametrize("path", PURE, ids=relative)
def test_include_law(path: Path) -> None:
    room = path.relative_to(CSRC).parts[0]
    for name in includes_of(path):
        if name.partition("/")[0] in ALLOWED:
            assert name.partition("/")[0] in ALLOWED[room], f"{room} must not include {name}"


def test_kernels_and_backend_share_only_the_abi_and_the_math() -> None:
    shared = {"backend/backend.h", "backend/loader.h"}
    for path in PURE:
        room = path.relative_to(CSRC).parts[0]
        for name in includes_of(path):
            if room == "kernels" and name.startswith("backend/"):
                assert name in shared, f"{relative(path)} includes {name}"


@pytest.mark.parametrize("path", PURE, ids=relative)
def test_pure_c_allocates_through_base_and_never_prints_or_exits(path: Path) -> None:
    if path.name in ("alloc.c", "alloc.h"):
        return
    found = {match.group(1) for match in BANNED.finditer(code_of(path))}
    assert not found, f"{relative(path)} calls {sorted(found)}"


def test_file_names_are_unique() -> None:
    names = [path.name for path in FILES]
    assert sorted(names) == sorted(set(names))


def test_every_status_has_an_exception() -> None:
    statuses = re.findall(r"X\((\w+), \"", (CSRC / "base" / "status.h").read_text())
    mapping = (CSRC / "bindings" / "common" / "errors.c").read_text()
    assert len(statuses) > 5
    for status in statuses:
        assert f"case PFO_{status}:" in mapping, status


def test_no_static_python_objects() -> None:
    for path in CSRC.rglob("bindings/**/*.c"):
        code = code_of(path)
        assert not re.search(r"^static\s+PyObject\s*\*\s*\w+\s*(=|;)", code, flags=re.M), relative(path)
        assert not re.search(r"\bPyTypeObject\s+\w+\s*=\s*\{", code), relative(path)


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.parametrize("name", ["_core", "_train"])
def test_modules_export_only_their_init_function(name: str) -> None:
    import importlib

    module = importlib.import_module(f"perfopt.{name}")
    assert module.__file__ is not None
    output = subprocess.run(
        ["nm", "-D", "--defined-only", module.__file__], capture_output=True, text=True, check=True
    ).stdout
    exported = {line.split()[-1] for line in output.splitlines()}
    assert {symbol for symbol in exported if not symbol.startswith("__asan")} == {f"PyInit_{name}"}


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
def test_only_the_files_behind_cpuid_hold_newer_instructions() -> None:
    """A zmm or ymm register anywhere else would crash an older processor before the check."""
    import perfopt

    build = ROOT / "build"
    objects = [path for path in build.glob("temp*/**/*.o") if "csrc" in path.parts]
    if not objects:
        pytest.skip(f"no object files below {build} (perfopt {perfopt.__version__} was not built here)")
    for path in objects:
        if re.search(r"_(avx2|avx512)\.o$", path.name):
            continue
        output = subprocess.run(["objdump", "-d", str(path)], capture_output=True, text=True, check=True).stdout
        assert not re.search(r"%[yz]mm\d", output), f"{path.name} holds AVX instructions"
