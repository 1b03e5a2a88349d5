"""Tensors to bytes and back: dtype, shape, order in memory, flags, sharing; and bytes that lie."""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
from typing import Any

import msgspec
import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

from perfopt import _codec_codes  # noqa: E402
from perfopt._codec import Unstorable, decode, encode  # noqa: E402
from perfopt._core import DiskStore  # noqa: E402

CONTEXT = b"0123456789abcdef"
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.uint32,
    torch.float32,
    torch.int64,
    torch.uint64,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]


def payload(value: Any) -> bytes:
    kind, suffix, _, buffers = encode(value, None, CONTEXT)
    assert (kind, suffix) == ("tensors/1", ".safetensors")
    return b"".join(bytes(buffer) for buffer in buffers)


def there_and_back(value: Any) -> Any:
    return decode("tensors/1", bytearray(payload(value)), None, CONTEXT)


def raw(tensor: Any) -> bytes:
    return bytes(tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def same(a: Any, b: Any) -> bool:
    return (
        type(a) is type(b)
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.requires_grad == b.requires_grad
        and b.is_leaf
        and raw(a) == raw(b)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_keeps_its_bits(dtype: Any) -> None:
    bits = torch.randint(0, 2 if dtype == torch.bool else 255, (3, 5 * dtype.itemsize), dtype=torch.uint8)
    tensor = bits.view(dtype)
    assert same(tensor, there_and_back(tensor))


@pytest.mark.parametrize(
    ("tensor", "strides"),
    [
        (torch.arange(6.0).reshape(2, 3), (3, 1)),
        (torch.arange(6.0).reshape(2, 3).T, (1, 3)),
        (torch.tensor(1.5), ()),
        (torch.zeros(0, 3), None),
        (torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), (60, 1, 15, 3)),
        (torch.rand(4, 6)[:, ::2], (3, 1)),
        (torch.rand(4, 6)[1:], (6, 1)),
        (torch.ones(1).expand(3, 4), (4, 1)),
        (torch.rand(3, dtype=torch.complex64).conj(), (1,)),
        (torch.rand(2, dtype=torch.complex64).conj().imag, (1,)),
        (torch.rand(2, 3, 4).permute(2, 0, 1), (1, 12, 4)),
        (torch.rand(1, 1), None),
    ],
    ids=lambda value: str(tuple(value.shape)) if isinstance(value, torch.Tensor) else None,
)
def test_shape_and_order_in_memory(tensor: Any, strides: Any) -> None:
    back = there_and_back(tensor)
    assert same(tensor, back)
    assert strides is None or back.stride() == strides


def test_parameters_gradients_and_shared_weights() -> None:
    weight = torch.nn.Parameter(torch.rand(3, 3))
    frozen = torch.nn.Parameter(torch.rand(2), requires_grad=False)
    leaf = torch.rand(2, requires_grad=True)
    value = {"a": weight, "b": [frozen, leaf], "tied": weight, "n": np.arange(3), "step": 7}
    back = there_and_back(value)
    assert same(weight, back["a"])
    assert same(frozen, back["b"][0])
    assert same(leaf, back["b"][1])
    assert back["tied"] is back["a"]
    assert back["step"] == 7
    back["b"][1].sum().backward()
    assert leaf.grad is None


def test_tensors_are_writable_and_arrays_beside_them_are_not() -> None:
    data = bytearray(payload([torch.zeros(4), np.zeros(4)]))
    tensor, array = decode("tensors/1", data, None, CONTEXT)
    tensor += 1
    assert tensor.tolist() == [1, 1, 1, 1]
    assert not array.any()
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    read_only = bytes(data)
    (copied, _) = decode("tensors/1", read_only, None, CONTEXT)
    copied += 1
    assert read_only == bytes(data)


def test_a_state_dict_is_a_file_that_others_read() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = dict(model.state_dict())
    data = payload(state)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    del header["__metadata__"]
    assert set(header) == set(state)
    assert header["0.weight"]["dtype"] == "F32"
    assert header["1.num_batches_tracked"]["dtype"] == "I64"
    back = decode("tensors/1", bytearray(data), None, CONTEXT)
    assert all(same(state[name], back[name]) for name in state)


class Marked(torch.Tensor):  # type: ignore[misc]
    pass


def with_attribute() -> Any:
    tensor = torch.zeros(1)
    tensor.note = "kept elsewhere"
    return tensor


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (torch.zeros(2, 2).to_sparse(), "sparse"),
        (torch.zeros(2, device="meta"), "meta"),
        (torch.zeros(2).as_subclass(Marked), "Marked"),
        (torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), "qint8"),
        (torch.rand(2, requires_grad=True) * 2, "gradients"),
        (with_attribute(), "Tensor"),
        (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
        (torch.nn.Linear(1, 1), "Linear"),
        ({torch.zeros(1): 1}, "Tensor"),
        ({torch.zeros(1)}, "Tensor"),
        (torch.float32, "dtype"),
        (torch.device("cpu"), "device"),
    ],
    ids=lambda value: value if isinstance(value, str) else "value",
)
def test_what_is_refused_says_why(tensor: Any, name: str) -> None:
    with pytest.raises(Unstorable) as error:
        encode([tensor], None, CONTEXT)
    assert name in error.value.culprit.__name__


def test_a_tensor_inside_a_transform_is_refused() -> None:
    def stored(row: Any) -> Any:
        with pytest.raises(Unstorable, match=r"torch\.func"):
            encode(row, None, CONTEXT)
        return row.sum()

    torch.func.vmap(stored)(torch.ones(2, 3))
    torch.func.grad(stored)(torch.ones(3))


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")])
def test_what_is_read_does_not_depend_on_the_modes_around(around: Any) -> None:
    tensors = [
        torch.ones(2, 3),
        torch.zeros(0, 3),
        torch.ones(2, requires_grad=True),
        torch.nn.Parameter(torch.ones(2)),
    ]
    data = payload(tensors)
    with around():
        back = decode("tensors/1", bytearray(data), None, CONTEXT)
        copied = decode("tensors/1", data, None, CONTEXT)
    assert all(map(same, tensors, back))
    assert all(map(same, tensors, copied))
    assert not any(tensor.is_inference() for tensor in (*back, *copied))
    (back[0] * back[3].sum()).sum().backward()
    assert back[3].grad is not None


def marked(*fields: Any) -> bytes:
    return msgspec.msgpack.encode([msgspec.msgpack.Ext(_codec_codes.TENSOR, b""), *fields])


@pytest.mark.parametrize(
    "fields",
    [
        ("w", "float32", [3], [0], False, False),
        ("w", "float32", [-2], [0], False, False),
        ("w", "float32", [2**62, 2], [0, 1], False, False),
        ("w", "float32", [2], [1], False, False),
        ("w", "float32", [2, 1], [0, 0], False, False),
        ("w", "float32", [2], [], False, False),
        ("w", "load", [2], [0], False, False),
        ("w", "qint8", [8], [0], False, False),
        ("w", ["float32"], [2], [0], False, False),
        ("w", "int64", [1], [0], True, False),
        ("v", "float32", [2], [0], False, False),
        ("w", "float32", "2", [0], False, False),
        ("w",),
    ],
    ids=str,
)
def test_descriptions_that_lie(fields: tuple[Any, ...]) -> None:
    metadata = {"perfopt": base64.b64encode(marked(*fields)).decode()}
    header = json.dumps(
        {"__metadata__": metadata, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    ).encode()
    for data in (b"1" * 8, bytearray(b"1" * 8)):
        with pytest.raises(ValueError, match="no tensors/1 value"):
            decode("tensors/1", len(header).to_bytes(8, "little") + header + data, None, CONTEXT)


def test_every_truncation_and_flip_of_a_small_file() -> None:
    data = payload({"w": torch.arange(3.0).to(torch.bfloat16), "p": (torch.nn.Parameter(torch.ones(1)),)})
    for length in range(len(data)):
        with pytest.raises(ValueError, match="no tensors/1 value"):
            decode("tensors/1", bytearray(data[:length]), None, CONTEXT)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x21
        with contextlib.suppress(ValueError):
            decode("tensors/1", flipped, None, CONTEXT)


@pytest.mark.parametrize("size", [5, 50_000])
def test_a_tensor_from_disk_is_a_private_copy(tmp_path: pathlib.Path, size: int) -> None:
    key = b"0123456789abcdef"
    tensor = torch.rand(size)
    with DiskStore(str(tmp_path / "cache")) as store:
        assert store.put(key, (tensor, tensor.numpy()))
        first, array = store.get(key)
        second, _ = store.get(key)
        first.fill_(7)
        assert torch.equal(second, tensor)
        assert torch.equal(store.get(key)[0], tensor)
        assert np.array_equal(array, tensor.numpy())
        assert not array.flags.writeable
        stats = store.stats()
        assert (stats["hits"], stats["misses"], stats["corrupt"]) == (3, 0, 0)
    assert (first == 7).all()
    with DiskStore(str(tmp_path / "cache")) as store:
        assert torch.equal(store.get(key)[0], tensor)
