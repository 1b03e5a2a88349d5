"""perfopt.nn on a CUDA device: cuBLASLt's epilogues against float64 and against torch's own layers.

Skips with the loader's reason where there is no device. Tolerances are shares of the norm of the exact result: rounding the
result once to the dtype, and the rounding of the operands that torch's layers have as well.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.optim")  # without PyTorch, "torch" may be the folder of tests
from torch import nn  # noqa: E402

from perfopt import _core  # noqa: E402
from perfopt.nn import FusedLinear, FusedMLP, _device, _ops  # noqa: E402

FOUND = _core.backend_info()
pytestmark = [
    pytest.mark.skipif(not FOUND["available"], reason=f"no CUDA backend: {FOUND['reason']}"),
    pytest.mark.skipif(FOUND["available"] and not torch.cuda.is_available(), reason="torch has no CUDA here"),
]

SIZES = [(64, 64, 256, 64), (1, 8, 16, 8), (1000, 768, 3072, 768), (33, 24, 40, 56), (4097, 128, 512, 96)]
TOLERANCE = {torch.bfloat16: 8e-3, torch.float16: 1e-3}


def operands(rows, size, hidden, out, dtype):
    torch.manual_seed(0)
    shapes = [(rows, size), (hidden, size), (hidden,), (out, hidden), (out,)]
    scales = [1.0, size**-0.5, 0.1, hidden**-0.5, 0.1]
    return [
        (torch.randn(shape, device="cuda") * scale).to(dtype).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def exact_mlp(x, w1, b1, w2, b2):
    hidden = nn.functional.gelu(nn.functional.linear(x, w1, b1), approximate="tanh")
    return nn.functional.linear(hidden, w2, b2)


def results(function, given, grad):
    y = function(*given)
    return [y.detach(), *torch.autograd.grad(y, [t for t in given if t is not None], grad)]


def assert_near(ours, exact, tolerance):
    for mine, their in zip(ours, exact, strict=True):
        assert float((mine.double() - their).norm() / their.norm()) < tolerance


@pytest.fixture
def asked(monkeypatch):
    calls = []
    matmul = _core.device_matmul

    def watched(*args):
        done = matmul(*args)
        calls.append((_device.Epilogue(args[3][2]).name, args[3][0] == 3, done))
        return done

    monkeypatch.setattr(_core, "device_matmul", watched)
    return calls


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [True, False])
def test_mlp_against_float64(sizes, dtype, biased, asked):
    given = operands(*sizes, dtype)
    if not biased:
        given[2] = given[4] = None
    high = [None if t is None else t.detach().double().requires_grad_() for t in given]
    grad = torch.randn(sizes[0], sizes[3], device="cuda", dtype=dtype)
    ours = results(lambda *a: _ops.mlp(*a, False)[0], given, grad)
    assert_near(ours, results(exact_mlp, high, grad.double()), TOLERANCE[dtype])
    wanted = ("GELU_AUX_BIAS", "BIAS", "DGELU_BGRAD", "BGRAD") if biased else ("GELU_AUX", "PLAIN", "DGELU")
    assert [name for name, _, done in asked if done] == list(wanted)


def test_gelu_is_the_tanh_form():
    """The two forms differ by up to 5e-4: far more than float16 rounds."""
    x = torch.linspace(-5, 5, 4096, device="cuda", dtype=torch.float16)[:, None].expand(-1, 16).contiguous()
    weight = torch.eye(16, device="cuda", dtype=torch.float16)
    y, pre = _ops.linear_gelu(x, weight, torch.zeros(16, device="cuda", dtype=torch.float16), False)
    assert torch.equal(pre, x)
    tanh = nn.functional.gelu(x.double(), approximate="tanh")
    assert float((y.double() - tanh).abs().max()) < 2e-3
    small = (x.abs() > 1.5) & (x.abs() < 3)
    erf = nn.functional.gelu(x.double())
    assert float((y.double() - tanh)[small].abs().mean()) < float((y.double() - erf)[small].abs().mean())


@pytest.mark.parametrize("make", [lambda: FusedLinear(768, 768, activation="gelu"), lambda: FusedMLP(768, 3072)])
def test_modules_under_autocast(make, asked):
    torch.manual_seed(0)
    module = make().cuda()
    twin = nn.Sequential(nn.Linear(768, 768), nn.GELU(approximate="tanh"))
    if isinstance(module, FusedMLP):
        twin = nn.Sequential(nn.Linear(768, 3072), nn.GELU(approximate="tanh"), nn.Linear(3072, 768))
        twin.load_state_dict(module.state_dict())
    else:
        twin[0].load_state_dict(module.state_dict())
    twin = twin.cuda()
    found = []
    for m in (module, twin):
        x = torch.randn(4, 50, 768, device="cuda", generator=torch.Generator("cuda").manual_seed(3), requires_grad=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = m(x)
        y.float().square().mean().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in m.parameters())])
    for mine, their in zip(*found, strict=True):
        assert mine.dtype is their.dtype
        assert float((mine.float() - their.float()).norm() / their.float().norm()) < 2e-2
    assert asked
    assert all(done for _, _, done in asked)


def test_float8_forward(asked):
    if not _device.has_float8(0):
        pytest.skip("float8 needs compute capability 8.9")
    layer = FusedLinear(512, 256, float8=True, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(128, 512, device="cuda", dtype=torch.bfloat16)
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert float((layer(x).double() - exact).norm() / exact.norm()) < 0.06
    assert asked[0] == ("BIAS", True, True)


def test_float32_is_torchs():
    block = FusedMLP(64, 128, device="cuda")
    x = torch.randn(8, 64, device="cuda")
    assert torch.equal(block(x), block.to_sequential()(x))


def test_capture_and_replay():
    block = FusedMLP(256, 1024, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(64, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            block(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            y = block(x)
        for _ in range(5):
            x.copy_(torch.randn_like(x))
            graph.replay()
            assert torch.equal(y, block(x))


def test_compile_keeps_the_operators():
    block = FusedMLP(256, 1024, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(block, fullgraph=True)
    x = torch.randn(64, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    assert torch.equal(compiled(x), block(x))
    compiled(x).float().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_from_many_threads():
    import threading

    block = FusedMLP(64, 128, device="cuda", dtype=torch.bfloat16)
    wrong = []

    def work(seed):
        for rows in range(1, 60):
            x = torch.randn(rows * 8, 64, device="cuda", dtype=torch.bfloat16)
            with torch.no_grad():
                error = (block(x).float() - block.to_sequential()(x).float()).norm()
                if not float(error) < 0.05 * rows:
                    wrong.append((seed, rows))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
