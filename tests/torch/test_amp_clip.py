"""perfopt.amp's clipping and search for inf and NaN against torch's own, with what torch does to what the kernels don't take."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from perfopt import _train, amp  # noqa: E402
from perfopt.amp.clip import for_kernels  # noqa: E402

SIZES = [0, 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025, 65535, 65536, 65537]
theirs = torch.nn.utils


def make_params(sizes: list[Any] = SIZES, scale: float = 1.0, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator) * scale
    return params


def grads_of(params: list[Any]) -> list[Any]:
    return [param.grad for param in params if param.grad is not None]


def pair(**options: Any) -> tuple[list[Any], list[Any]]:
    return make_params(**options), make_params(**options)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels must do it: torch's functions are out of reach."""
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        monkeypatch.setattr(torch.nn.utils, name, lambda *_, **__: pytest.fail("went to torch"))


# ---- Norm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 3.0, 1e9, -1.0])
def test_clip_norm_follows_torch(max_norm: float) -> None:
    ours, peers = pair()
    norm = amp.clip_grad_norm_(ours, max_norm)
    expected = theirs.clip_grad_norm_(peers, max_norm)
    assert (norm.dtype, norm.shape, norm.device) == (expected.dtype, expected.shape, expected.device)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    for a, b in zip(grads_of(ours), grads_of(peers), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=0)


def test_gradients_within_the_norm_are_not_written(no_torch: None) -> None:
    """Read-only memory: one store to it would end the process."""
    import mmap

    memory = mmap.mmap(-1, 1 << 20, prot=mmap.PROT_READ)
    param = torch.nn.Parameter(torch.zeros(1 << 18))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is read-only
        param.grad = torch.frombuffer(memory, dtype=torch.float32)
    version = param.grad._version
    assert amp.clip_grad_norm_([param], 1.0) == 0
    amp.clip_grad_value_([param], 1.0)
    assert not amp.found_nonfinite([param])
    assert param.grad._version == version


def test_versions_move_with_what_is_written(no_torch: None) -> None:
    params = make_params([5, 70_000])
    versions = [grad._version for grad in grads_of(params)]
    amp.clip_grad_norm_(params, 1e9)
    amp.clip_grad_value_(params, 1e9)
    assert [grad._version for grad in grads_of(params)] == versions
    amp.clip_grad_norm_(params, 0.5)
    assert [grad._version for grad in grads_of(params)] == [version + 1 for version in versions]
    amp.clip_grad_value_(params, 1e-4)
    assert [grad._version for grad in grads_of(params)] == [version + 2 for version in versions]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_norm_that_is_not_finite(bad: float, place: str) -> None:
    ours, peers = pair(sizes=[9, 65537])
    index = {"first": 0, "middle": 30_000, "last": 65536}[place]
    for params in (ours, peers):
        params[1].grad[index] = bad
    before = [grad.clone() for grad in grads_of(ours)]
    texts = []
    for clip, params in ((amp.clip_grad_norm_, ours), (theirs.clip_grad_norm_, peers)):
        with pytest.raises(RuntimeError, match="is non-finite, so it cannot be clipped") as caught:
            clip(params, 1.0, error_if_nonfinite=True)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    for grad, kept in zip(grads_of(ours), before, strict=True):
        assert torch.equal(grad.nan_to_num(), kept.nan_to_num())
    torch.testing.assert_close(
        amp.clip_grad_norm_(ours, 1.0), theirs.clip_grad_norm_(peers, 1.0), equal_nan=True, rtol=0, atol=0
    )
    for a, b in zip(grads_of(ours), grads_of(peers), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=0, atol=0)


def test_squares_that_overflow_are_no_false_alarm(no_torch: None) -> None:
    params = make_params([1000, 3], scale=0.0)
    params[0].grad.fill_(1e30)
    expected = math.sqrt(1000) * 1e30
    assert not amp.found_nonfinite(params)
    norm = amp.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert float(norm) == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(params[0].grad, torch.full((1000,), 1 / math.sqrt(1000)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm_type", [1.0, 3.0, math.inf, "inf", 0.5])
def test_other_norms_are_torchs(norm_type: Any) -> None:
    ours, peers = pair(sizes=[33, 100])
    assert torch.equal(amp.clip_grad_norm_(ours, 0.3, norm_type), theirs.clip_grad_norm_(peers, 0.3, norm_type))
    for a, b in zip(grads_of(ours), grads_of(peers), strict=True):
        assert torch.equal(a, b)


def test_one_tensor_generators_and_missing_gradients(no_torch: None) -> None:
    params = make_params([4, 5, 6])
    params[1].grad = None
    whole = math.sqrt(sum(float(grad.double().square().sum()) for grad in grads_of(params)))
    assert float(amp.clip_grad_norm_((param for param in params), 1e9)) == pytest.approx(whole, rel=1e-6)
    one = float(params[0].grad.norm())
    assert float(amp.clip_grad_norm_(params[0], 1e9)) == pytest.approx(one, rel=1e-6)


def test_nothing_to_clip_is_as_in_torch() -> None:
    assert torch.equal(amp.clip_grad_norm_([], 1.0), theirs.clip_grad_norm_([], 1.0))
    with pytest.warns(UserWarning, match="empty generator") as caught:
        assert float(amp.clip_grad_norm_((p for p in ()), 1.0)) == 0
    assert caught[0].filename == __file__
    amp.clip_grad_value_([], 1.0)
    assert amp.found_nonfinite([]) is False
    assert amp.found_nonfinite([torch.nn.Parameter(torch.ones(3))]) is False


@pytest.mark.parametrize("threads", ["1", "2", "8"])
def test_threads_do_not_change_a_bit(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for count in ("1", threads):
        monkeypatch.setenv("PERFOPT_NUM_THREADS", count)
        params = make_params([200_000, 70_001, 3])
        outcomes.append([amp.clip_grad_norm_(params, 0.5), *grads_of(params)])
    for a, b in zip(*outcomes, strict=True):
        assert torch.equal(a, b)


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    exponent=st.integers(-30, 15),
    max_norm=st.floats(1e-3, 1e3),
)
@settings(max_examples=40, deadline=None)
def test_any_list_follows_torch_in_double(sizes: list[int], exponent: int, max_norm: float) -> None:
    params = make_params(sizes, scale=2.0**exponent)
    doubles = [grad.double() for grad in grads_of(params)]
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in doubles))
    factor = min(1.0, max_norm / (norm + 1e-6))
    assert float(amp.clip_grad_norm_(params, max_norm)) == pytest.approx(norm, rel=1e-6)
    for grad, double in zip(grads_of(params), doubles, strict=True):
        torch.testing.assert_close(grad.double(), double * factor, rtol=2e-7, atol=1e-45)


# ---- Value -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, 0.3, 10.0, -0.5, math.inf])
def test_clip_value_follows_torch(limit: float, no_torch: None) -> None:
    ours, peers = pair()
    for params in (ours, peers):
        params[-1].grad[0], params[-1].grad[1], params[-1].grad[-1] = math.nan, -math.inf, math.inf
    assert amp.clip_grad_value_(ours, limit) is None
    for a, b in zip(grads_of(ours), grads_of(peers), strict=True):
        b.clamp_(-limit, limit)
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_clip_value_of_nan_is_torchs() -> None:
    ours, peers = pair(sizes=[9])
    amp.clip_grad_value_(ours, math.nan)
    theirs.clip_grad_value_(peers, math.nan)
    torch.testing.assert_close(ours[0].grad, peers[0].grad, rtol=0, atol=0, equal_nan=True)


# ---- Found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_found_nonfinite_sees_every_place(bad: float, no_torch: None) -> None:
    for size in SIZES[1:]:
        for place in {0, size // 2, size - 1}:
            params = make_params([5, size])
            assert amp.found_nonfinite(params) is False
            params[1].grad[place] = bad
            assert amp.found_nonfinite(params) is True
            assert amp.found_nonfinite(params[0]) is False


def test_found_nonfinite_in_other_kinds() -> None:
    half = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    half.grad = torch.full((3,), 60000.0, dtype=torch.float16)
    assert amp.found_nonfinite(half) is False
    twice = torch.sparse_coo_tensor([[1, 1]], torch.tensor([60000.0, 60000.0], dtype=torch.float16), (3,))
    half.grad = twice  # the sum of what belongs to one index overflows
    assert amp.found_nonfinite(half) is True
    single = torch.nn.Parameter(torch.ones(3))
    single.grad = torch.sparse_coo_tensor([[1]], torch.tensor([math.nan]), (3,))
    assert amp.found_nonfinite([single]) is True
    single.grad = torch.sparse_coo_tensor([[1]], torch.tensor([2.0]), (3,))
    assert amp.found_nonfinite([single]) is False
    double = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    double.grad = torch.tensor([1.0, 1e300, 2.0], dtype=torch.float64)
    assert amp.found_nonfinite([double, half]) is True
    assert amp.found_nonfinite([double]) is False


# ---- 16 bits ---------------------------------------------------------------------------------------

HALVES = [torch.bfloat16, torch.float16]


def make_halves(dtypes: list[Any], scale: float = 1.0) -> list[Any]:
    """A list of gradients, dtype after dtype."""
    params = []
    for index, param in enumerate(make_params(scale=scale)):
        dtype = dtypes[index % len(dtypes)]
        half = torch.nn.Parameter(torch.zeros(param.shape, dtype=dtype))
        half.grad = param.grad.to(dtype)
        params.append(half)
    return params


@pytest.mark.parametrize("dtypes", [[dtype] for dtype in HALVES] + [[*HALVES, torch.float32]])
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_gradients_of_16_bits_are_clipped_in_float32_and_rounded_once(
    dtypes: list[Any], max_norm: float, no_torch: None
) -> None:
    params = make_halves(dtypes)
    before = [grad.clone() for grad in grads_of(params)]
    expected = math.sqrt(sum(float(grad.double().square().sum()) for grad in before))
    norm = amp.clip_grad_norm_(params, max_norm)
    assert norm.dtype is torch.float32
    assert float(norm) == pytest.approx(expected, rel=1e-6)
    factor = torch.tensor(min(1.0, max_norm / (expected + 1e-6)), dtype=torch.float32)
    for grad, old in zip(grads_of(params), before, strict=True):
        wanted = old.float() * factor
        assert grad.dtype is old.dtype
        if grad.dtype is torch.float32:
            torch.testing.assert_close(grad, wanted, rtol=2e-7, atol=0)
        else:  # the factor's last bit may tip a rounding
            spacing = torch.finfo(grad.dtype)
            torch.testing.assert_close(grad.float(), wanted, rtol=spacing.eps / 1.99, atol=spacing.smallest_normal)
            assert float((grad != wanted.to(grad.dtype)).float().mean() if grad.numel() else 0.0) < 0.01


def test_the_norm_of_float16_gradients_does_not_overflow(no_torch: None) -> None:
    param = make_halves([torch.float16])[-1]
    param.grad.fill_(40000.0)
    expected = math.sqrt(param.numel()) * 40000.0
    assert expected > 65504.0
    assert float(amp.clip_grad_norm_(param, 1.0, error_if_nonfinite=True)) == pytest.approx(expected, rel=1e-6)
    assert float(param.grad.double().norm()) == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("limit", [0.0, 0.1, 0.3, 60000.0, -0.5, math.inf])
def test_values_of_16_bits_are_clamped_as_torch_does(dtype: Any, limit: float, no_torch: None) -> None:
    params = make_halves([dtype])
    for place, bad in ((0, math.nan), (1, -math.inf), (-1, math.inf)):
        params[-1].grad[place] = bad
    expected = [grad.clone().clamp_(-limit, limit) for grad in grads_of(params)]
    amp.clip_grad_value_(params, limit)
    for a, b in zip(grads_of(params), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e6), (torch.float32, 1e300)])
def test_a_limit_that_the_dtype_cannot_hold_is_refused_in_torchs_words(dtype: Any, limit: float) -> None:
    texts = []
    for clip in (amp.clip_grad_value_, theirs.clip_grad_value_):
        with pytest.raises(RuntimeError, match="without overflow") as caught:
            clip(make_halves([dtype]), limit)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_found_nonfinite_sees_every_place_in_16_bits(dtype: Any, bad: float, no_torch: None) -> None:
    for size in SIZES[1:]:
        for place in {0, size // 2, size - 1}:
            param = torch.nn.Parameter(torch.zeros(size, dtype=dtype))
            param.grad = torch.full((size,), torch.finfo(dtype).max, dtype=dtype)
            version = param.grad._version
            assert amp.found_nonfinite(param) is False
            param.grad[place] = bad
            assert amp.found_nonfinite(param) is True
            assert param.grad._version == version + 1  # the line above


def test_gradients_of_16_bits_that_share_memory_are_seen_by_their_own_size() -> None:
    whole = torch.ones(8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="share memory"):
        _train.scale_grads([whole[:5], whole[4:]], 2.0)
    assert _train.scale_grads([whole[:4], whole[4:]], 2.0) is False
    assert torch.equal(whole, torch.full((8,), 2.0, dtype=torch.bfloat16))


# ---- What goes to torch ----------------------------------------------------------------------------


def strided(values: Any) -> Any:
    return torch.stack([values, values], dim=-1)[..., 0]


def negated(values: Any) -> Any:
    return torch.complex(torch.zeros_like(values), -values).conj().imag


KINDS: dict[str, Callable[[Any], Any]] = {
    "dense": lambda values: values,
    "transposed": lambda values: values.t().contiguous().t(),
    "bfloat16": lambda values: values.bfloat16(),
    "float16": lambda values: values.half(),
    "float64": lambda values: values.double(),
    "strided": strided,
    "negated": negated,  # torch itself refuses to clip it by norm
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_gradient_is_clipped_as_torch_does(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(6, 8, generator=generator)
    for clip, other in (
        (lambda p: amp.clip_grad_norm_(p, 0.5), lambda p: theirs.clip_grad_norm_(p, 0.5)),
        (lambda p: amp.clip_grad_value_(p, 0.1), lambda p: theirs.clip_grad_value_(p, 0.1)),
    ):
        pairs = []
        for function in (clip, other):
            params = [torch.nn.Parameter(torch.zeros(6, 8, dtype=KINDS[kind](values).dtype)) for _ in range(2)]
            for index, param in enumerate(params):
                param.grad = KINDS[kind]((values + index).clone())
            try:
                function(params)
            except RuntimeError as error:
                pairs.append(str(error))
            else:
                pairs.append([param.grad.resolve_neg() for param in params])
        if isinstance(pairs[1], str):
            assert pairs[0] == pairs[1]
            continue
        for a, b in zip(*pairs, strict=True):
            # torch rounds norm and factor to 16 bits, too; against doubles: test_gradients_of_16_bits_*
            torch.testing.assert_close(a, b, rtol=2e-2 if a.itemsize == 2 else 2e-6, atol=0)
    if kind == "negated":
        assert KINDS[kind](values).is_neg()  # the case is what it says


def test_gradients_that_share_memory_are_treated_as_torch_treats_them() -> None:
    outcomes = []
    for clip in (amp.clip_grad_norm_, theirs.clip_grad_norm_):
        params = make_params([6, 6])
        params[1].grad = params[0].grad
        clip(params, 0.5)
        outcomes.append(params[0].grad)
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=2e-6, atol=0)


def test_subclasses_and_inference_tensors_are_not_for_the_kernels() -> None:
    class Mine(torch.Tensor):
        pass

    plain = torch.ones(3)
    assert for_kernels([plain])
    assert not for_kernels([plain, plain.as_subclass(Mine)])
    assert not for_kernels([])
    with torch.inference_mode():
        assert not for_kernels([torch.ones(3)])


def test_a_compiled_function_holds_the_clipping_in_one_graph() -> None:
    def run(params: list[Any]) -> Any:
        norm = amp.clip_grad_norm_(params, 0.5)
        amp.clip_grad_value_(params, 0.05)
        return norm

    ours, peers = pair(sizes=[40, 7])
    norm = torch.compile(run, backend="eager", fullgraph=True)(ours)
    torch.testing.assert_close(norm, run(peers))
    for a, b in zip(grads_of(ours), grads_of(peers), strict=True):
        torch.testing.assert_close(a, b)
        assert float(a.abs().max()) <= 0.0501


def test_what_records_operations_sees_the_clipping() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(grad: Any) -> Any:
        param = torch.nn.Parameter(torch.zeros(3))
        param.grad = grad
        amp.clip_grad_norm_(param, 0.5)
        return grad

    graph = make_fx(run)(torch.ones(3))
    torch.testing.assert_close(graph(torch.full((3,), 8.0)), torch.full((3,), 0.5 / math.sqrt(3)))


def test_the_kernels_refuse_what_is_no_list_of_tensors() -> None:
    with pytest.raises(TypeError, match="grads is a tuple; accepted: a list"):
        _train.scale_grads((torch.ones(3),), 2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"grads\[1\] is a int"):
        _train.clamp_grads([torch.ones(3), 3], -1.0, 1.0)
    with pytest.raises(TypeError, match=r"grads\[0\].*float64"):
        _train.clip_grads_norm([torch.ones(3, dtype=torch.float64)], 1.0, False)
    with pytest.raises(ValueError, match="low or high is NaN"):
        _train.clamp_grads([torch.ones(3)], math.nan, 1.0)
    shared = torch.ones(4)
    with pytest.raises(ValueError, match=r"grads\[0\] and grads\[1\] share memory"):
        _train.scale_grads([shared[1:], shared], 2.0)
    assert torch.equal(shared, torch.ones(4))
    assert _train.scale_grads([shared[1:], shared], 1.0) is False  # reading what is shared is fine
    assert _train.scale_grads([], 2.0) is False
