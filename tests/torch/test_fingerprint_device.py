"""Fingerprints of CUDA tensors without a device: CPU tensors that say they are on cuda:0, hashed by the double backend.

The double backend walks cuda/xxh3.h as the kernel does. What the kernel does on a real device is for tests/gpu.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch.optim")  # not "torch", which without PyTorch is this folder
ROOT = Path(__file__).resolve().parent.parent.parent

SETUP = """
import torch
from types import SimpleNamespace
from perfopt import _core, _keys_arrays

class Cuda(torch.Tensor):
    device = property(lambda self: torch.device("cuda:0"))
    get_device = lambda self: 0

make = torch.empty
torch.empty = lambda *size, device=None, **options: make(*size, **options)
torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=0x70)
asked = []
hash_device_array = _core.hash_device_array
_core.hash_device_array = lambda *args: asked.append(args[:2]) or hash_device_array(*args)

def both(tensor):
    asked.clear()
    on_device = _core.fingerprint(_keys_arrays._tensor_bytes(torch, tensor.as_subclass(Cuda)))
    return on_device, _core.fingerprint(_keys_arrays._tensor_bytes(torch, tensor))
"""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "PERFOPT_TEST_BACKEND" in os.environ:  # cuda/*.cu on the emulated device
        return Path(os.environ["PERFOPT_TEST_BACKEND"])
    compiler = os.environ.get("CC", "gcc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C compiler ({compiler[0]})")
    library = tmp_path_factory.mktemp("fake") / "fake.so"
    flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}", "-DFAKE_good", "-O1", "-ffp-contract=off"]
    source = str(ROOT / "tests" / "c" / "fake_backend.c")
    subprocess.run([*compiler, *flags, "-fPIC", "-shared", source, "-o", str(library), "-lm"], check=True)
    return library


def run(script: str, backend: Path | None) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:]), "PERFOPT_CUDA": "on" if backend else "off"}
    if backend:
        env["PERFOPT_CUDA_LIB"] = str(backend)
    done = subprocess.run(
        [sys.executable, "-c", SETUP + script], env=env, cwd="/", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_digests_are_those_of_the_cpu(backend: Path) -> None:
    run(
        """
for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.bool, torch.complex64, torch.complex128):
    for count in (16384, 65536, 65537, 262144, 262145, 300_001, 1_000_003):
        tensor = torch.randn(count).mul(50).to(dtype)
        ours, theirs = both(tensor)
        assert ours == theirs, (dtype, count)
        assert len(asked) == (tensor.nbytes >= 65536), (dtype, count)
""",
        backend,
    )


def test_strided_views_count_in_logical_order(backend: Path) -> None:
    run(
        """
base = torch.randn(300, 7, 500)
for view in (base.transpose(0, 2), base[::2, 1:], base.flip(1), base[:, :1].expand(300, 9, 500), base[1:, :, 3:], base.mT):
    ours, theirs = both(view)
    assert ours == theirs and len(asked) == 1 and asked[0][1] == tuple(view.shape)
""",
        backend,
    )


def test_every_byte_counts(backend: Path) -> None:
    run(
        """
tensor = torch.zeros(600_000, dtype=torch.uint8)
before = both(tensor)[0]
for place in (0, 1023, 1024, 262143, 262144, 524287, 524288, 599_999):
    tensor[place] = 1
    assert both(tensor)[0] not in (before,)
    tensor[place] = 0
assert both(tensor)[0] == before
""",
        backend,
    )


def test_it_is_copied_without_a_backend() -> None:
    run("ours, theirs = both(torch.randn(100_000)); assert ours == theirs and not asked", None)


def test_what_is_refused_is_named(backend: Path) -> None:
    run(
        """
def refuses(kind, text, *args):
    try:
        hash_device_array(*args)
    except kind as error:
        assert text in str(error), str(error)
    else:
        raise AssertionError(args)
refuses(ValueError, "accepted: |u1", "<f4", (1000,), 0, 0, 0, 0, 0)
refuses(ValueError, "256", "<i4", (64,), 0, 0, 0, 0, 0)
refuses(ValueError, "up to 64", "<i4", (1,) * 65, 0, 0, 0, 0, 0)
refuses(ValueError, "scratch", "<i4", (1000,), 4096, 0, 0, 0, 0)
refuses(OverflowError, "", "<i8", (1 << 40, 1 << 40), 0, 0, 0, 0, 0)
refuses(TypeError, "", "<i8", [1], 0, 0, 0, 0, 0)
""",
        backend,
    )
    run(
        """
try:
    hash_device_array("<i4", (1000,), 0, 0, 0, 0, 0)
except RuntimeError as error:
    assert "switched off" in str(error)
else:
    raise AssertionError
""",
        None,
    )
