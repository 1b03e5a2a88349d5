"""perfopt.nn on the CPU: exactly torch's layers; its operators by torch's own checks; and the device path on the double backend.

The double backend forms every product and epilogue in plain loops on host memory, so what is tested of the device path is all but
cuBLASLt itself, which is for tests/gpu.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch.optim")  # not "torch", which without PyTorch is this folder
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from perfopt.nn import FusedLinear, FusedMLP, _device, _ops, linear

ROOT = Path(__file__).resolve().parent.parent.parent
SHAPES = [(5, 16), (2, 3, 16), (16,), (0, 16), (2, 0, 16)]


def twins(bias=True, activation="gelu", dtype=torch.float32):
    torch.manual_seed(0)
    ours = FusedLinear(16, 24, bias, activation, dtype=dtype)
    theirs = nn.Linear(16, 24, bias, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    after = nn.GELU(approximate="tanh") if activation else nn.Identity()
    return ours, nn.Sequential(theirs, after)


def mlp_twins(bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    ours = FusedMLP(16, 40, 24, bias, dtype=dtype)
    theirs = nn.Sequential(nn.Linear(16, 40, bias), nn.GELU(approximate="tanh"), nn.Linear(40, 24, bias)).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def run(module, x, scale=1.0):
    """[output, gradient of the input, gradients of the parameters]"""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = module(x)
    torch.manual_seed(7)
    y.backward(torch.randn_like(y) * scale)
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())]


def assert_same_bits(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.dtype is their.dtype
        assert torch.equal(mine, their)


# ---- on the CPU: torch's layers, to the bit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linear_is_torchs(shape, bias, activation, dtype):
    ours, theirs = twins(bias, activation, dtype)
    x = torch.randn(shape, dtype=dtype)
    assert_same_bits(run(ours, x), run(theirs, x))
    assert_same_bits([ours(x).detach()], [theirs(x).detach()])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mlp_is_torchs(shape, bias, dtype):
    ours, theirs = mlp_twins(bias, dtype)
    x = torch.randn(shape, dtype=dtype)
    assert_same_bits(run(ours, x), run(theirs, x))


@pytest.mark.parametrize("make", [twins, mlp_twins])
def test_under_autocast(make):
    ours, theirs = make()
    x = torch.randn(5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours_found, theirs_found = run(ours, x), run(theirs, x)
    assert ours_found[0].dtype is torch.bfloat16
    assert_same_bits(ours_found, theirs_found)


@pytest.mark.parametrize("make", [twins, mlp_twins])
def test_autocast_casts_a_weight_once_in_a_region_as_torch_does(make):
    class CountCasts(TorchDispatchMode):
        casts = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.casts += function is torch.ops.aten._to_copy.default
            return function(*args, **(kwargs or {}))

    counts = []
    for module in make():
        x = torch.randn(5, 16)
        with torch.autocast("cpu", dtype=torch.bfloat16), CountCasts() as counter:
            for _ in range(5):
                module(x)
        counts.append(counter.casts)
        assert counts[-1] == 5 + len(list(module.parameters()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("make", [twins, mlp_twins])
def test_gradients_of_gradients(make):
    ours, _ = make(dtype=torch.float64)
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, (x,))
    assert torch.autograd.gradgradcheck(ours, (x,))


def test_state_dictionaries_load_both_ways():
    ours, theirs = mlp_twins()
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    FusedMLP(16, 40, 24).load_state_dict(theirs.state_dict())
    theirs.load_state_dict(FusedMLP(16, 40, 24).state_dict())
    linear, reference = twins()
    assert list(linear.state_dict()) == ["weight", "bias"]
    reference[0].load_state_dict(linear.state_dict())


def test_conversions_share_parameters():
    sequential = nn.Sequential(nn.Linear(16, 40), nn.GELU(approximate="tanh"), nn.Linear(40, 24, bias=False)).eval()
    block = FusedMLP.from_sequential(sequential)
    assert block.first is sequential[0]
    assert block.second is sequential[2]
    assert not block.training
    back = block.to_sequential()
    assert back[0] is sequential[0]
    assert not back.training
    x = torch.randn(4, 16)
    assert torch.equal(block(x), sequential(x))
    assert torch.equal(back(x), sequential(x))
    linear = nn.Linear(16, 24, bias=False)
    layer = FusedLinear.from_linear(linear, "gelu", float8=True)
    assert layer.weight is linear.weight
    assert layer.bias is None
    assert "activation='gelu', float8=True" in repr(layer)
    assert "activation='gelu'" in repr(block)


def test_what_cannot_be_converted_is_named():
    with pytest.raises(TypeError, match=r"Sequential\(Linear, ReLU, Linear\); accepted"):
        FusedMLP.from_sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="GELU\\(approximate='none'\\); accepted: 'tanh'"):
        FusedMLP.from_sequential(nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="gives 3 features, sequential\\[2\\] takes 2"):
        FusedMLP.from_sequential(nn.Sequential(nn.Linear(2, 3), nn.GELU(approximate="tanh"), nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="is a Linear; accepted"):
        FusedMLP.from_sequential(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="is a ReLU; accepted"):
        FusedLinear.from_linear(nn.ReLU())


@pytest.mark.parametrize("module", [FusedLinear(16, 4, activation="gelu"), FusedMLP(16, 8)])
def test_what_is_not_taken_is_named(module):
    for shape in ((3, 15), (16, 3), ()):
        with pytest.raises(ValueError, match=r"input has shape .*accepted: \[\.\.\., 16\]"):
            module(torch.zeros(shape))
    with pytest.raises(TypeError, match="input is a list"):
        module([1.0] * 16)
    with pytest.raises(RuntimeError, match="dtype"):
        module(torch.zeros(2, 16, dtype=torch.float64))
    for cls in (FusedLinear, FusedMLP):
        with pytest.raises(ValueError, match="activation='relu'; accepted"):
            cls(2, 2, activation="relu")


def test_hooks_and_replaced_layers_are_called():
    block = FusedMLP(16, 8)
    seen = []
    block.first.register_forward_hook(lambda *_: seen.append("first"))
    block(torch.zeros(1, 16))
    assert seen == ["first"]
    nn.utils.parametrizations.weight_norm(block.second)
    block(torch.zeros(1, 16)).sum().backward()
    assert block.second.parametrizations.weight.original1.grad is not None


def test_only_a_layer_that_does_nothing_else_is_fused():
    def layer():
        return nn.Linear(16, 8)

    assert linear._is_plain(layer())
    hooked, parametrized, patched = layer(), layer(), layer()
    hooked.register_full_backward_hook(lambda *_: None)
    nn.utils.parametrizations.weight_norm(parametrized)
    patched.forward = lambda x: x  # what offloading libraries do
    assert not any(map(linear._is_plain, (hooked, parametrized, patched, FusedLinear(16, 8))))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not linear._is_plain(layer())
    finally:
        handle.remove()


def test_only_plain_tensors_are_fused(monkeypatch):
    class Mine(torch.Tensor):
        pass

    monkeypatch.setattr(_device, "takes", lambda tensor: True)
    x, weight, bias = torch.ones(2, 4), nn.Parameter(torch.ones(3, 4)), None
    assert linear._can_fuse(x, weight, bias)
    assert not linear._can_fuse(x, weight.double(), bias)
    for first, second in ((x.as_subclass(Mine), weight), (x, weight.detach().as_subclass(Mine))):
        assert not linear._can_fuse(first, second, bias)

    taken = []

    def call(x, weight):
        taken.append(linear._can_fuse(x, weight))
        return torch.nn.functional.linear(x, weight)

    stacked = torch.ones(5, 3, 4)
    torch.vmap(call, in_dims=(0, None))(torch.ones(5, 2, 4), weight.detach())
    torch.vmap(call, in_dims=(None, 0))(x, stacked)  # an ensemble: one input, many weights
    assert taken == [False, False]


def test_copies_pickles_and_meta():
    block = copy.deepcopy(FusedMLP(16, 8))
    assert block(torch.zeros(2, 16)).shape == (2, 16)
    assert FusedMLP(16, 8, device="meta")(torch.zeros(2, 16, device="meta")).shape == (2, 16)


@pytest.mark.parametrize("make", [twins, mlp_twins])
def test_compile_needs_no_graph_break(make):
    ours, _ = make()
    x = torch.randn(5, 16)
    expected = run(ours, x)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for mine, their in zip(run(compiled, x), expected, strict=True):
        torch.testing.assert_close(mine, their)


# ---- the operators, by torch's own checks ------------------------------------------------------------------------------------


def operands(dtype=torch.float64):
    torch.manual_seed(1)
    sizes = [(5, 16), (40, 16), (40,), (24, 40), (24,)]
    return [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("biased", [True, False])
def test_operators_are_registered_right(biased):
    x, w1, b1, w2, b2 = operands(torch.float32)
    b1, b2 = (b1, b2) if biased else (None, None)
    torch.library.opcheck(_ops.linear, (x, w1, b1, False))
    torch.library.opcheck(_ops.linear_gelu, (x, w1, b1, False), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(_ops.mlp, (x, w1, b1, w2, b2, False), test_utils=("test_schema", "test_faketensor"))
    with torch.no_grad():
        grad = torch.randn(5, 40)
        torch.library.opcheck(_ops.linear_backward, (grad, x, w1, biased))
        h, pre = _ops.linear_gelu(x, w1, b1, False)
        torch.library.opcheck(_ops.mlp_backward, (torch.randn(5, 24), x, h, pre, w1, w2, biased, biased))


OPERATORS = [
    lambda x, w1, b1, w2, b2: _ops.linear(x, w1, b1, False),
    lambda x, w1, b1, w2, b2: _ops.linear(x, w1, None, False),
    lambda x, w1, b1, w2, b2: _ops.linear_gelu(x, w1, b1, False)[0],
    lambda x, w1, b1, w2, b2: _ops.linear_gelu(x, w1, None, False)[0],
    lambda x, w1, b1, w2, b2: _ops.mlp(x, w1, b1, w2, b2, False)[0],
    lambda x, w1, b1, w2, b2: _ops.mlp(x, w1, None, w2, b2, False)[0],
    lambda x, w1, b1, w2, b2: _ops.mlp(x, w1, b1, w2, None, False)[0],
]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_have_the_gradients_of_their_values(operator):
    given = operands()
    assert torch.autograd.gradcheck(operator, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(operator, given, fast_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_compile_into_one_graph(operator):
    given = operands(torch.float32)
    expected = operator(*given)
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True, dynamic=False)
    found = compiled(*given)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    used = [
        t
        for t, g in zip(given, torch.autograd.grad(expected, given, grad, allow_unused=True), strict=True)
        if g is not None
    ]
    for mine, their in zip(
        torch.autograd.grad(found, used, grad), torch.autograd.grad(operator(*given), used, grad), strict=True
    ):
        torch.testing.assert_close(mine, their)


def test_operators_inside_autocast_keep_their_dtype():
    given = [t.detach().requires_grad_() for t in operands(torch.bfloat16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = _ops.mlp(*given, False)[0]
        y.sum().backward()
    assert y.dtype is torch.bfloat16
    assert all(t.grad.dtype is torch.bfloat16 for t in given)


# ---- the device path, on the double backend ----------------------------------------------------------------------------------

SETUP = """
import torch
from torch import nn
from perfopt import _core
from perfopt.nn import FusedLinear, FusedMLP, _device, _ops

asked = []
matmul = _core.device_matmul
def watched(device, stream, sizes, codes, matrices, extras, workspace):
    done = matmul(device, stream, sizes, codes, matrices, extras, workspace)
    asked.append((_device.Epilogue(codes[2]).name, codes[0] == 3, done))
    return done
_core.device_matmul = watched
_device.takes = lambda t: t.dtype in (torch.bfloat16, torch.float16)
_device._place = lambda t: (0, 0x70, 256)
_device.has_float8 = lambda index: True
empty = torch.Tensor.new_empty
def aligned(self, *args, dtype=None):  # a device's allocator aligns to 512 bytes
    return empty(self, *args, dtype=dtype)
torch.Tensor.new_empty = aligned

def grads(function, given, grad):
    y = function(*given)
    return [y.detach(), *torch.autograd.grad(y, [t for t in given if t is not None], grad)]

def compare(ours, theirs, given, dtype, tolerance):
    torch.manual_seed(5)
    low = [None if t is None else t.to(dtype).requires_grad_() for t in given]
    high = [None if t is None else t.detach().double().requires_grad_() for t in low]
    grad = torch.randn_like(theirs(*high)).to(dtype)
    asked.clear()
    for mine, their in zip(grads(ours, low, grad), grads(theirs, high, grad.double()), strict=True):
        assert mine.dtype is dtype and mine.shape == their.shape
        error = (mine.double() - their).norm() / their.norm()
        assert error < tolerance, (error, tolerance)

def operands(rows=24, size=16, hidden=40, out=32):
    torch.manual_seed(1)
    return [torch.randn(s) for s in ((rows, size), (hidden, size), (hidden,), (out, hidden), (out,))]
tanh = lambda t: nn.functional.gelu(t, approximate="tanh")
linear = nn.functional.linear
"""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CC", "gcc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C compiler ({compiler[0]})")
    library = tmp_path_factory.mktemp("fake") / "fake.so"
    flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}", "-DFAKE_good", "-O2", "-ffp-contract=off"]
    source = str(ROOT / "tests" / "c" / "fake_backend.c")
    subprocess.run([*compiler, *flags, "-fPIC", "-shared", source, "-o", str(library), "-lm"], check=True)
    return library


def on_double(script: str, backend: Path) -> None:
    paths = {"PERFOPT_CUDA": "on", "PERFOPT_CUDA_LIB": str(backend), "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    env = {**os.environ, **paths}
    done = subprocess.run(
        [sys.executable, "-c", SETUP + script], env=env, cwd="/", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_device_products_against_float64(backend: Path) -> None:
    on_double(
        """
for dtype, tolerance in ((torch.bfloat16, 1e-2), (torch.float16, 1.5e-3)):
    x, w1, b1, w2, b2 = operands()
    compare(lambda x, w, b: _ops.linear(x, w, b, False), linear, (x, w1, b1), dtype, tolerance)
    assert asked == [("BIAS", False, True), ("BGRAD", False, True)], asked
    compare(lambda x, w: _ops.linear(x, w, None, False), linear, (x, w1), dtype, tolerance)
    assert asked == [("PLAIN", False, True)], asked
    compare(lambda x, w, b: _ops.linear_gelu(x, w, b, False)[0], lambda *a: tanh(linear(*a)), (x, w1, b1), dtype, tolerance)
    assert asked == [("GELU_AUX_BIAS", False, True), ("BGRAD", False, True)], asked
    compare(lambda x, w: _ops.linear_gelu(x, w, None, False)[0], lambda *a: tanh(linear(*a)), (x, w1), dtype, tolerance)
    assert asked == [("GELU_AUX", False, True)], asked
    both = lambda x, w1, b1, w2, b2: linear(tanh(linear(x, w1, b1)), w2, b2)
    compare(lambda *a: _ops.mlp(*a, False)[0], both, (x, w1, b1, w2, b2), dtype, tolerance)
    assert asked == [(e, False, True) for e in ("GELU_AUX_BIAS", "BIAS", "DGELU_BGRAD", "BGRAD")], asked
    compare(lambda *a: _ops.mlp(*a, False)[0], both, (x, w1, None, w2, None), dtype, tolerance)
    assert asked == [(e, False, True) for e in ("GELU_AUX", "PLAIN", "DGELU")], asked
""",
        backend,
    )


def test_what_has_no_kernel_is_torchs(backend: Path) -> None:
    on_double(
        """
x, w1, b1, w2, b2 = operands(hidden=41)  # an aux whose rows are no multiple of 8
both = lambda x, w1, b1, w2, b2: linear(tanh(linear(x, w1, b1)), w2, b2)
compare(lambda *a: _ops.mlp(*a, False)[0], both, (x, w1, b1, w2, b2), torch.bfloat16, 1e-2)
assert asked == [("GELU_AUX_BIAS", False, False), ("BIAS", False, True), ("BIAS", False, True), ("DGELU_BGRAD", False, False),
                 ("BGRAD", False, True), ("BGRAD", False, True)], asked
asked.clear()
layer, block = FusedLinear(16, 8, activation="gelu"), FusedMLP(16, 8)
for module in (layer, block):
    assert module(torch.zeros(3, 16)).shape[0] == 3
assert not asked  # on the CPU the modules do not ask
assert _ops.linear(torch.zeros(0, 16, dtype=torch.bfloat16), w1.bfloat16(), b1.bfloat16(), False).shape == (0, 41)
assert not asked
""",
        backend,
    )


def test_strided_operands(backend: Path) -> None:
    on_double(
        """
x, w1, b1, w2, b2 = operands()
x, w1, w2 = x.t().contiguous().t(), w1.repeat(1, 2)[:, ::2], w2.t().contiguous().t()
both = lambda x, w1, b1, w2, b2: linear(tanh(linear(x, w1, b1)), w2, b2)
compare(lambda *a: _ops.mlp(*a, False)[0], both, (x, w1, b1, w2, b2), torch.float16, 1.5e-3)
given = [t.bfloat16().requires_grad_() for t in operands()]
y = _ops.mlp(*given, False)[0]
for grad in torch.autograd.grad(y.sum(), given):  # an expanded gradient
    assert torch.isfinite(grad).all()
""",
        backend,
    )


def test_float8_products(backend: Path) -> None:
    on_double(
        """
x, w1, b1, w2, b2 = operands(size=32, hidden=48, out=16)
plain = lambda x, w, b: linear(x, w, b)
compare(lambda x, w, b: _ops.linear(x, w, b, True), plain, (x, w1, b1), torch.bfloat16, 0.06)
assert asked == [("BIAS", True, True), ("BGRAD", False, True)], asked
compare(lambda x, w, b: _ops.linear_gelu(x, w, b, True)[0], lambda *a: tanh(plain(*a)), (x, w1, b1), torch.bfloat16, 0.08)
assert asked[:2] == [("GELU_AUX_BIAS", True, False), ("GELU_AUX_BIAS", False, True)], asked
zero = torch.zeros(4, 32, dtype=torch.bfloat16)
assert torch.equal(_ops.linear(zero, w1.bfloat16(), None, True), torch.zeros(4, 48, dtype=torch.bfloat16))
values, scale = _device.quantize(torch.tensor([[1.0, -2.0, 0.5]]))
assert values.float().abs().max() == 448 and torch.allclose(values.float() * scale, torch.tensor([[1.0, -2.0, 0.5]]))
""",
        backend,
    )


def test_gradients_of_gradients_leave_the_device_path(backend: Path) -> None:
    on_double(
        """
given = [t.bfloat16().requires_grad_() for t in operands()]
y = _ops.mlp(*given, False)[0]
(of_x,) = torch.autograd.grad(y.float().square().sum(), given[0], create_graph=True)
second = torch.autograd.grad(of_x.float().square().sum(), given)
exact = [t.detach().double().requires_grad_() for t in given]
z = linear(tanh(linear(*exact[:3])), *exact[3:])
(of_exact,) = torch.autograd.grad(z.square().sum(), exact[0], create_graph=True)
for mine, their in zip(second, torch.autograd.grad(of_exact.square().sum(), exact), strict=True):
    assert (mine.double() - their).norm() / their.norm() < 0.05
""",
        backend,
    )
