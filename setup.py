"""Build of perfopt's two extension modules (and, where nvcc is, of its CUDA backend).

Compiler flags live in ``csrc/flags.mk`` and nowhere else; this file reads them. Sources are found by folder:

* ``perfopt._core``: ``csrc/{base,cache,profiler,monitor,backend}`` and ``csrc/bindings/{common,core}``; no NumPy.
* ``perfopt._train``: ``csrc/{base,kernels,backend}`` and ``csrc/bindings/{common,train}``; NumPy C API.
* ``perfopt/_backends/libperfopt_cuda.so``: ``cuda``, by ``cuda/build.sh``, where nvcc is.

Environment: ``PERFOPT_DEBUG=1`` builds with ``-O0 -g3 -UNDEBUG``; ``PERFOPT_SANITIZE=address,undefined`` adds
sanitizers; ``PERFOPT_WERROR=1`` turns warnings into errors. ``PERFOPT_CUDA=auto|on|off``: build the CUDA backend when
nvcc is found (and go on without it when that fails), insist on it, or leave it out.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def read_flags() -> dict[str, list[str]]:
    """``NAME = value`` lines of csrc/flags.mk as lists of words."""
    flags: dict[str, list[str]] = {}
    for line in (ROOT / "csrc" / "flags.mk").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            flags[name.strip()] = value.split()
    return flags


def sources(*folders: str) -> list[str]:
    """All C files of folders below csrc, relative to the root, in a stable order."""
    found = [path for folder in folders for path in sorted((ROOT / "csrc" / folder).glob("*.c"))]
    return [str(path.relative_to(ROOT)) for path in found]


def build_cuda_backend(package: Path) -> None:
    """Runs cuda/build.sh as PERFOPT_CUDA says and puts its library below package."""
    wanted = os.environ.get("PERFOPT_CUDA") or "auto"
    if wanted not in ("auto", "on", "off"):
        raise SystemExit(f"PERFOPT_CUDA={wanted} is unknown; accepted: auto, on, off")
    script = ["bash", str(ROOT / "cuda" / "build.sh")]
    if wanted == "off" or (
        wanted == "auto" and subprocess.run([*script, "--find"], capture_output=True).returncode != 0
    ):
        return
    if subprocess.run(script, env={"PYTHON": sys.executable, **os.environ}).returncode != 0:
        if wanted == "on":
            raise SystemExit("the CUDA backend could not be built (PERFOPT_CUDA=on)")
        print("warning: the CUDA backend could not be built; perfopt works without it, on the CPU", file=sys.stderr)
        return
    built = ROOT / "perfopt" / "_backends"
    if package.resolve() != built.parent:
        shutil.copytree(built, package / "_backends", dirs_exist_ok=True)


class BuildExtensions(build_ext):
    """Compiles each source with the flags of its file, in parallel, and only when it or a header has changed."""

    def run(self) -> None:
        super().run()
        build_cuda_backend(Path(self.get_ext_fullpath("perfopt._core")).parent)

    def build_extension(self, ext: Extension) -> None:
        flags = read_flags()
        debug = os.environ.get("PERFOPT_DEBUG") == "1"
        sanitize = os.environ.get("PERFOPT_SANITIZE", "")
        common = [*flags["PFO_CSTD"], *flags["PFO_OPT"], "-Icsrc", f"-I{sysconfig.get_paths()['include']}"]
        common += ["-DNDEBUG"] if not debug else ["-O0", "-g3", "-UNDEBUG"]
        if sanitize:
            common += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
        if os.environ.get("PERFOPT_WERROR") == "1":
            common.append("-Werror")
        system_includes = [f"-isystem{path}" for path in ext.include_dirs]
        headers = [*ROOT.glob("csrc/**/*.h"), ROOT / "csrc" / "flags.mk", Path(__file__)]
        newest_header = max(path.stat().st_mtime for path in headers)
        tag = ext.name.rpartition(".")[2] + ("-debug" if debug else "") + (f"-{sanitize}" if sanitize else "")
        object_root = Path(self.build_temp) / tag

        def compile_one(source: str) -> str:
            target = object_root / Path(source).with_suffix(".o")
            changed = max(newest_header, Path(source).stat().st_mtime)
            if not self.force and target.exists() and target.stat().st_mtime > changed:
                return str(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            warn = flags["PFO_WARN_BINDINGS"] if "bindings" in Path(source).parts else flags["PFO_WARN"]
            own = [
                flag for flag in flags.get(f"PFO_FILE_{Path(source).stem}", []) if on_x86 or not flag.startswith("-m")
            ]
            command = [*compiler, *common, *warn, *system_includes, *own, "-fPIC", "-c", source, "-o", str(target)]
            self.spawn(command)
            return str(target)

        compiler = os.environ.get("CC", "gcc").split()
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")  # elsewhere its instruction sets are unknown flags
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, ext.sources))
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        link = [*compiler, "-shared", "-pthread", "-Wl,-O1,--as-needed", *objects, "-o", str(target)]
        link += [*flags["PFO_LIBS"], "-ldl", "-lm"]
        if sanitize:
            link.append(f"-fsanitize={sanitize}")
        self.spawn(link)


def numpy_include() -> list[str]:
    import numpy

    return [numpy.get_include()]


setup(
    ext_modules=[
        Extension(
            "perfopt._core",
            sources("base", "cache", "profiler", "monitor", "backend", "bindings/common", "bindings/core"),
        ),
        Extension(
            "perfopt._train",
            sources("base", "kernels", "backend", "bindings/common", "bindings/train"),
            include_dirs=numpy_include(),
        ),
    ],
    cmdclass={"build_ext": BuildExtensions},
)
