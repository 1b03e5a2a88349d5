"""Content fingerprints of CUDA tensors, hashed on the device, against the same content on the CPU.

Skipped, with the loader's reason, where there is no backend or no device. All of it is to pass under
``compute-sanitizer --tool memcheck`` (and racecheck, initcheck, synccheck), too.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.optim")  # without PyTorch, "torch" may be the folder of tests

from perfopt import _core, _keys_arrays  # noqa: E402

FOUND = _core.backend_info()
pytestmark = [
    pytest.mark.skipif(not FOUND["available"], reason=f"no CUDA backend: {FOUND['reason']}"),
    pytest.mark.skipif(FOUND["available"] and not torch.cuda.is_available(), reason="torch has no CUDA here"),
]

PIECE = 256 * 1024


def data_digest(tensor):
    return _core.fingerprint(_keys_arrays._tensor_bytes(torch, tensor))


@pytest.mark.parametrize("shift", [0, 1, 2, 4, 8, 15])
def test_every_length_around_the_borders(shift):
    storage = torch.randint(0, 256, (4 * PIECE + 64,), dtype=torch.uint8, device="cuda")
    for near in (64 * 1024, PIECE, 2 * PIECE, 3 * PIECE):
        for bytes_ in (
            *range(near, near + 70),
            near + 239,
            near + 240,
            near + 241,
            near + 1023,
            near + 1024,
            near + 1025,
        ):
            tensor = storage[shift : shift + bytes_]
            assert data_digest(tensor) == data_digest(tensor.cpu()), bytes_


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.complex64]
)
def test_dtypes_and_strides(dtype):
    base = torch.randn(70, 30, 90, device="cuda").mul(50).to(dtype)
    for view in (base, base.transpose(0, 2), base[::2, 1:], base.flip(1), base[:, :1].expand(70, 50, 90), base.mT):
        assert data_digest(view) == data_digest(view.cpu())


def test_the_same_every_time_and_on_any_stream():
    tensor = torch.randn(10_000_001, device="cuda")
    expected = data_digest(tensor.cpu())
    torch.cuda.synchronize()
    for _ in range(20):
        with torch.cuda.stream(torch.cuda.Stream()):
            assert data_digest(tensor) == expected


def test_it_waits_for_what_was_enqueued_before():
    tensor = torch.zeros(50_000_000, device="cuda")
    for _ in range(50):
        tensor.add_(1)
    assert data_digest(tensor) == data_digest(torch.full_like(tensor, 50, device="cpu"))


def test_it_is_refused_during_capture():
    tensor = torch.ones(100_000, device="cuda")
    data_digest(tensor)
    with pytest.raises(ValueError, match="captured"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        data_digest(tensor)


def test_a_model_on_the_device_is_keyed_without_a_copy():
    model = torch.nn.Linear(1000, 1000, device="cuda")
    before = _core.fingerprint(model)
    assert _core.fingerprint(model) == before
    with torch.no_grad():
        model.weight[999, 999] += 1
    assert _core.fingerprint(model) != before
