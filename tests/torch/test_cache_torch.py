"""Caching with torch: tensors and modules as keys by content, tensors as values with their version counter."""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import enum
import functools
import gc
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfopt.cache import PerformanceCache, cache_result, fingerprint

torch = pytest.importorskip("torch")
nn = torch.nn

DTYPES = [
    *(
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
    ),
    *(
        torch.float64,
        torch.complex64,
        torch.complex128,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2fnuz,
        torch.complex32,
    ),
]


def make(dtype: Any, *shape: int) -> Any:
    return (torch.arange(int(np.prod(shape))) % 100).reshape(shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_of_every_dtype_agree(dtype: Any) -> None:
    base = make(dtype, 4, 6, 5)
    if dtype is not torch.bool:
        assert fingerprint(base) != fingerprint(make(dtype, 4, 6, 5) if dtype is None else make(dtype, 4, 5, 6))
    for view in (
        base,
        base[::2],
        base.permute(2, 0, 1),
        base[1:, 2:5, ::2],
        base[0, 0, 0],
        base[:, :0],
        base[0, :1].expand(3, 5),
    ):
        assert fingerprint(view) == fingerprint(view.clone(memory_format=torch.contiguous_format))
    changed = base.clone()
    changed.view(torch.uint8)[3, 5, -1] ^= 1
    assert fingerprint(changed) != fingerprint(base)


GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "data" / "fingerprints.json"


def linear() -> Any:
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).reshape(3, 2))
        layer.bias.zero_()
    return layer


def golden_cases() -> dict[str, Callable[[], tuple[Any, ...]]]:
    return {
        "tensors": lambda: tuple(make(dtype, 2, 3) for dtype in DTYPES),
        "sparse tensors": lambda: (make(torch.float32, 2, 2).to_sparse(), make(torch.float32, 2, 2).to_sparse_csr()),
        "torch types": lambda: (torch.float32, torch.device("cpu"), torch.Size([2]), torch.strided, torch.relu),
        "module": lambda: (nn.Sequential(linear(), nn.ReLU()).eval(),),
        "torch generator": lambda: (torch.Generator().manual_seed(5),),
    }


def test_golden_digests_of_torch() -> None:
    """The format: see tests/python/test_fingerprint.py."""
    computed = {name: fingerprint(*make()).hex() for name, make in golden_cases().items()}
    golden = json.loads(GOLDEN.read_text())
    if os.environ.get("PERFOPT_WRITE_GOLDEN") == "1":
        golden.update(computed)
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    assert computed == {name: golden[name] for name in computed}


def test_different_tensors_differ() -> None:
    values = [make(dtype, 2, 2) for dtype in DTYPES]
    values += [
        make(torch.float32, 4),
        make(torch.float32, 2, 2).requires_grad_(),
        make(torch.float32, 2, 2).to_sparse(),
        make(torch.float32, 2, 2).to_sparse_csr(),
        make(torch.float32, 2, 2).numpy(),
        make(torch.float32, 0),
        make(torch.float32, 0, 1),
        torch.tensor(-0.0),
        torch.tensor(0.0),
        make(torch.complex64, 2, 2).conj() * 1j,
        torch.float32,
        torch.device("cpu"),
        torch.Size([2, 2]),
        (2, 2),
    ]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_lazy_conjugate_and_sparse_order() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 1j])
    assert tensor.conj().is_conj()
    assert fingerprint(tensor.conj()) == fingerprint(tensor.conj().resolve_conj())
    assert fingerprint(tensor.conj()) != fingerprint(tensor)
    assert fingerprint(tensor.conj().imag) == fingerprint(tensor.conj().imag.resolve_neg().clone())
    one = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.tensor([5.0, 6.0]), (4,))
    two = torch.sparse_coo_tensor(torch.tensor([[2, 0]]), torch.tensor([6.0, 5.0]), (4,))
    assert fingerprint(one) == fingerprint(two)


def test_what_has_no_readable_content_is_refused() -> None:
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    for tensor in (
        quantized,
        torch.empty(3, device="meta"),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ):
        with pytest.raises(TypeError, match=r"a Tensor object \((a quantized|a tensor on the meta|a nested)"):
            fingerprint(tensor)
    with pytest.raises(TypeError, match="inside a transform"):
        torch.func.vmap(lambda row: torch.tensor(len(fingerprint(row))))(torch.ones(2, 3))

    @cache_result
    def function(weights: Any) -> int:
        return 1

    with pytest.raises(TypeError, match="argument 'weights'"):
        function(quantized)


@pytest.mark.spec("S0-14", "S0-45")
def test_tensor_arguments_are_keyed_by_content() -> None:
    calls = []

    @cache_result("model_inference")
    def infer(x: Any, scale: float = 1.0) -> Any:
        calls.append(1)
        return float(x.sum()) * scale

    x = torch.randn(64, 64)
    assert infer(x) == infer(x.clone()) == infer(x.t().contiguous().t())
    assert len(calls) == 1
    x[3, 3] += 1
    infer(x)
    infer(x.double())
    infer(x.clone().requires_grad_())
    infer(nn.Parameter(x.clone()))
    assert len(calls) == 4, "a parameter is a tensor that requires a gradient"
    infer({"a": [x]}["a"][0], scale=2.0)
    assert len(calls) == 5


def test_large_tensor_by_every_byte() -> None:
    tensor = torch.zeros(3_000_000)
    digest = fingerprint(tensor)
    tensor[2_999_999] = 1
    assert fingerprint(tensor) != digest


class Net(nn.Module):
    def __init__(self, rate: float = 0.1, activation: Any = torch.relu) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.drop = nn.Dropout(rate)
        self.activation = activation
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.drop(self.activation(self.layer(x)))


class OtherNet(Net):
    pass


@pytest.mark.spec("S0-14")
def test_modules_are_keyed_by_class_mode_and_state() -> None:
    calls = []

    @cache_result("model_weights")
    def weights(model: Any) -> Any:
        calls.append(1)
        return [p.detach().clone() for p in model.parameters()]

    model = Net(rate=0.0)
    with torch.no_grad():  # every unit alive, so that the step below changes something
        model.layer.weight.abs_()
        model.layer.bias.abs_()
    other = Net(rate=0.0)
    other.load_state_dict(model.state_dict())
    weights(model)
    weights(other)
    assert len(calls) == 1, "equal content, another object"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    weights(model)
    assert len(calls) == 2, "a step changes the weights, so it changes the key"
    model.eval()
    weights(model)
    assert len(calls) == 3
    different = OtherNet(rate=0.0).eval()
    different.load_state_dict(model.state_dict())
    weights(different)
    assert len(calls) == 4

    def variant(**options: Any) -> Any:
        net = Net(**{"rate": 0.0, **options}).eval()
        net.load_state_dict(model.state_dict())
        return net

    weights(variant())
    assert len(calls) == 4
    weights(variant(rate=0.5))
    weights(variant(activation=torch.tanh))
    net = variant()
    net.scratch[0] = 1
    weights(net)
    net = variant()
    net.layer.weight.requires_grad_(False)
    weights(net)
    assert len(calls) == 8
    assert fingerprint(nn.Conv2d(1, 1, 3, stride=1).requires_grad_(False)) != fingerprint(nn.Conv2d(1, 1, 3, stride=2))


@dataclasses.dataclass
class Rates:
    first: float
    second: float


def test_settings_that_are_no_plain_numbers_count() -> None:
    class Configured(nn.Module):
        def __init__(self, **settings: Any) -> None:
            super().__init__()
            vars(self).update(settings)

    class Mode(enum.Enum):
        A = 1
        B = 2

    settings: list[Any] = [
        {"a": 1},
        {"a": 2},
        {"a": [1, {"b"}]},
        Mode.A,
        Mode.B,
        torch.float32,
        torch.ones(2),
        torch.zeros(2),
        np.ones(2),
        (1, {"a": 1}),
        b"x",
        Rates(0.5, 1),
        Rates(0.5, 2),
        [Rates(0.5, 3)],
        types.SimpleNamespace(a=1),
        types.SimpleNamespace(a=2),
        functools.partial(torch.mul, 2),
        functools.partial(torch.mul, 3),
        pathlib.PurePosixPath("a"),
        pathlib.PurePosixPath("b"),
        range(2),
        range(3),
    ]
    digests = [fingerprint(Configured(option=setting)) for setting in settings]
    assert len(set(digests)) == len(settings)
    assert digests == [fingerprint(Configured(option=copy.deepcopy(setting))) for setting in settings]
    assert fingerprint(Configured(_scale=1)) != fingerprint(Configured(_scale=2))


def double(module: Any, inputs: Any, output: Any = None) -> Any:
    return inputs[0] * 2 if output is None else output * 2


def triple(module: Any, inputs: Any, output: Any) -> Any:
    return output * 3


class Times:
    """A hook that is an object."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, module: Any, inputs: Any, output: Any) -> Any:
        return output * self.factor

    def apply(self, module: Any, inputs: Any, output: Any) -> Any:
        return output * self.factor


def test_hooks_that_change_what_a_module_gives_count() -> None:
    def hooked(*hooks: Any, before: bool = False) -> Any:
        net = nn.Sequential(linear())
        for hook in hooks:
            net[0].register_forward_pre_hook(hook) if before else net[0].register_forward_hook(hook)
        return fingerprint(net)

    hooks: list[Any] = [double, triple, Times(2), Times(3), Times(2).apply, functools.partial(double, output=None)]
    digests = [hooked(), hooked(double, before=True), hooked(double, triple), *map(hooked, hooks)]
    assert len(set(digests)) == len(digests)
    assert hooked(Times(2)) == hooked(Times(2))
    net = linear()
    handle = net.register_forward_hook(double)
    net.register_full_backward_hook(lambda *_: None)
    handle.remove()
    assert fingerprint(net) == fingerprint(linear())


class Plus(nn.Module):
    """Adds a number that stands in its code once it is traced."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Any) -> Any:
        return x + self.number


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_code_that_is_data_counts_or_is_refused() -> None:
    one, two = torch.fx.symbolic_trace(Plus(1)), torch.fx.symbolic_trace(Plus(2))
    assert fingerprint(one) == fingerprint(torch.fx.symbolic_trace(Plus(1)))
    assert fingerprint(one) != fingerprint(two)
    with pytest.raises(TypeError, match="scripted"):
        fingerprint(nn.Sequential(torch.jit.trace(Plus(1), torch.ones(1))))


def test_the_weights_of_an_rnn_count_once() -> None:
    one = nn.LSTM(2, 2)
    assert fingerprint(one) == fingerprint(copy.deepcopy(one)) != fingerprint(nn.LSTM(2, 2))


def test_lambdas_in_modules_are_told_apart() -> None:
    calls = []

    @cache_result
    def apply(model: Any) -> float:
        calls.append(1)
        return float(model.activation(torch.ones(())))

    one, two = Net(activation=lambda x: x + 1), Net(activation=lambda x: x - 1)
    two.load_state_dict(one.state_dict())
    assert apply(one) == apply(one) == 2
    assert apply(two) == 0
    assert len(calls) == 2
    with pytest.raises(TypeError, match="function object"):
        fingerprint(one)


def test_generators_count_by_their_state() -> None:
    one, two = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    assert fingerprint(one) == fingerprint(two) != fingerprint(torch.Generator().manual_seed(6))
    torch.rand(1, generator=one)
    assert fingerprint(one) != fingerprint(two)

    @cache_result
    def draw(generator: Any) -> float:
        return float(torch.rand((), generator=generator))

    assert draw(one) != draw(one), "its state has moved"


def test_a_module_that_is_a_dataclass_counts_with_its_state() -> None:
    @dataclasses.dataclass(eq=False)
    class Net(nn.Module):
        width: int

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            self = super().__new__(cls)
            nn.Module.__init__(self)
            return self

        def __post_init__(self) -> None:
            self.layer = nn.Linear(self.width, 1)

    net = Net(2)
    before = fingerprint(net)
    with torch.no_grad():
        net.layer.weight.add_(1)
    assert fingerprint(net) != before


def test_odd_modules() -> None:
    net = nn.Linear(2, 2)
    setattr(net, "", 1)
    assert len(fingerprint(net)) == 16
    with pytest.raises(TypeError, match="UninitializedParameter"):
        fingerprint(nn.LazyLinear(3))


def test_the_same_digest_in_another_process() -> None:
    code = (
        "import torch; from perfopt.cache import fingerprint; torch.manual_seed(0);"
        "sparse = {'a': torch.ones(2, 2).to_sparse()};"
        "print(fingerprint(torch.arange(1000.).to(torch.bfloat16), torch.nn.Linear(3, 2), sparse).hex())"
    )
    run = [sys.executable, "-c", code]
    digests = {
        subprocess.run(
            run, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in "12"
    }
    assert len(digests) == 1


def test_a_tensor_modified_in_place_is_a_miss() -> None:
    calls = []

    @cache_result
    def function(n: int) -> Any:
        calls.append(n)
        return torch.zeros(n)

    first = function(3)
    assert function(3) is first
    first.add_(1)
    second = function(3)
    assert second.tolist() == [0, 0, 0]
    assert len(calls) == 2
    assert function(3) is second
    info = function.cache_info()  # type: ignore[attr-defined]
    assert (info.hits, info.misses, info.currsize) == (2, 2, 1)
    second[:1].mul_(2)
    assert function(3) is not second, "a change through a view counts too"


def test_tensors_inside_containers_are_watched() -> None:
    @cache_result
    def function(n: int) -> Any:
        return {"a": [torch.zeros(n), 1], "b": (torch.ones(n), np.zeros(2))}

    first = function(2)
    assert function(2) is first
    assert not first["b"][1].flags.writeable
    first["b"][0].add_(1)
    assert function(2)["b"][0].tolist() == [1, 1]


def test_tensors_inside_other_containers_are_watched() -> None:
    @dataclasses.dataclass
    class Holder:
        tensor: Any

    makers: list[Callable[[], Any]] = [
        lambda: collections.OrderedDict(a=torch.zeros(2)),
        lambda: collections.defaultdict(list, a=torch.zeros(2)),
        lambda: torch.max(torch.zeros(2, 2), dim=0),
        lambda: type("Own", (dict,), {})(a=torch.zeros(2)),
        lambda: type("Own", (list,), {})([torch.zeros(2)]),
        lambda: {torch.zeros(2)},
        lambda: Holder(torch.zeros(2)),
        lambda: [Holder([torch.zeros(2)])],
    ]
    for make in makers:
        function = cache_result(make)
        kept = function()
        assert function() is kept, "nothing to replace in it"
        inside = kept
        while not isinstance(inside, torch.Tensor):
            inside = vars(inside) if isinstance(inside, Holder) else inside
            inside = next(iter(inside.values() if isinstance(inside, dict) else inside))
        inside.add_(1)
        assert function() is not kept


def test_cached_weights_are_not_those_of_a_model_trained_since() -> None:
    @cache_result("model_weights")
    def get_model_weights(model: Any) -> Any:
        return model.state_dict()

    one = nn.Linear(2, 2)
    two = copy.deepcopy(one)
    get_model_weights(one)
    with torch.no_grad():
        one.weight.add_(100)
    assert torch.equal(get_model_weights(two)["weight"], two.weight)


def test_performance_cache_watches_tensors() -> None:
    cache = PerformanceCache()
    tensor = torch.zeros(3)
    cache.set("a", tensor)
    cache.set(tensor, "by content")
    assert cache.get("a") is tensor
    assert cache.get(torch.zeros(3)) == "by content"
    tensor.add_(1)
    assert cache.get("a", 5) == 5
    assert "a" not in cache
    assert cache.get_stats()["misses"] == 1
    assert cache.get(tensor) is None


def test_a_modified_tensor_is_no_entry_in_any_face() -> None:
    cache = PerformanceCache()

    def modified() -> str:
        tensor = torch.zeros(3)
        cache.set("k", [tensor])
        cache.set("n", 1)
        tensor.add_(1)
        return "k"

    assert modified() not in cache
    assert cache.touch(modified()) is False
    modified()
    assert cache.keys() == ["n"]
    modified()
    assert cache.items() == [("n", 1)]
    assert cache.delete(modified()) is False


def test_a_tensor_that_is_there_first_stays() -> None:
    cache = PerformanceCache()
    first = torch.zeros(1)

    def compute() -> Any:
        cache.set("k", first)
        return torch.ones(1)

    assert cache.get_or_compute("k", compute) is first
    assert cache.get("k") is first
    first.add_(1)
    assert cache.get_or_compute("k", lambda: "new") == "new"


def test_copies_of_tensors() -> None:
    @cache_result(copy=True)
    def function(n: int) -> Any:
        return torch.zeros(n)

    function(2).add_(1)
    function(2).add_(1)
    assert function(2).tolist() == [0, 0]
    assert function.cache_info().hits == 2  # type: ignore[attr-defined]


def test_copies_of_containers_keep_the_graph() -> None:
    Pair = collections.namedtuple("Pair", "a b")
    weight = torch.ones(2, requires_grad=True)
    for make in (lambda: Pair(weight * 2, 1), lambda: torch.max(weight.reshape(1, 2) * 2, dim=0)):
        function = cache_result(copy=True)(make)
        function()
        got = function()
        assert type(got) is type(make())
        assert got[0].grad_fn is not None
        assert got[0].tolist() == [2, 2]


def test_gradients_through_cached_values() -> None:
    weight = torch.ones(2, requires_grad=True)

    @cache_result
    def function(w: Any) -> Any:
        return (w * 3).sum()

    function(weight).backward(retain_graph=True)
    assert weight.grad is not None
    assert weight.grad.tolist() == [3, 3]
    assert not function(weight.detach()).requires_grad


def test_inference_tensors_have_no_version() -> None:
    @cache_result
    def function(n: int) -> Any:
        with torch.inference_mode():
            return torch.zeros(n)

    assert function(2) is function(2)


def test_a_method_of_a_module_holds_it_weakly() -> None:
    class Model(nn.Module):
        @cache_result
        def size(self, x: int) -> list[int]:
            return [x]

    model = Model()
    assert model.size(1) is model.size(1)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert Model.size.cache_info().currsize == 0  # type: ignore[attr-defined]


class Tagged(torch.Tensor):
    pass


def test_subclasses_of_tensor_count_with_class_and_attributes() -> None:
    plain = torch.ones(3)
    one, two = plain.as_subclass(Tagged), plain.clone().as_subclass(Tagged)
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(plain)
    two.note = "x"
    assert fingerprint(one) != fingerprint(two)


def test_import_order_does_not_matter() -> None:
    code = """
import sys
from perfopt.cache import cache_result, fingerprint
@cache_result
def f(x): return 1
class K: pass
f(K()); f([1]); fingerprint([1])
assert "torch" not in sys.modules and "numpy" not in sys.modules
import torch
calls = []
@cache_result
def g(x): calls.append(1)
g(torch.ones(2)); g(torch.ones(2))
assert len(calls) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_tensor_changed_by_one_of_its_waiters_is_a_miss() -> None:
    calls = []
    go = threading.Event()

    @cache_result
    def function(x: int) -> torch.Tensor:
        calls.append(x)
        go.wait(60)
        return torch.zeros(3)

    threads = [threading.Thread(target=lambda: function(1).add_(1)) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    go.set()
    for thread in threads:
        thread.join(60)
    assert float(function(1).sum()) == 0
    assert len(calls) >= 2


def test_tensors_of_coroutine_functions() -> None:
    @cache_result
    async def function(x: int) -> torch.Tensor:
        await asyncio.sleep(0)
        return torch.zeros(3)

    async def main() -> None:
        async def change() -> float:
            tensor = await function(1)
            total = float(tensor.sum())
            tensor.add_(1)
            return total

        assert await asyncio.gather(*(change() for _ in range(5))) == [0.0] * 5

    asyncio.run(main())


def test_tensors_and_modules_on_disk(tmp_path: pathlib.Path) -> None:
    for expected in (1, 0):
        calls = []

        def body(module: torch.nn.Module, x: torch.Tensor, calls: list[int] = calls) -> torch.Tensor:
            calls.append(1)
            with torch.no_grad():
                return module(x)

        function = cache_result("forward", persist=True, cache_dir=tmp_path, version=1, ignore="calls")(body)
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 2)
        x = torch.ones(3, 4)
        result = function(module, x)
        with torch.no_grad():
            assert torch.equal(result, module(x))
        assert len(calls) == expected
