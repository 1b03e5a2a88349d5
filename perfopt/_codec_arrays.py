"""NumPy arrays and PyTorch tensors as bytes: dtypes as data, ``.npy`` files, and the ``.safetensors`` container.

A dtype is described by a string or a list of plain values and restored by a fixed table, so that bytes on disk name no class.
Headers are read by this file's own strict readers, never by ``eval`` or by a loader that may fall back to pickle.
Sources: numpy/lib/format.py (the NPY format, versions 1 to 3); the safetensors format (8 bytes of header length, JSON, then data
without holes).

Ownership: what is read are views of the caller's buffer; NumPy's are read-only and cannot be made writable.
Lengths are checked against the buffer before anything is made of them: a wrong one is a ValueError.
"""

from __future__ import annotations

import ast
import base64
import functools
import importlib
import math
import re
import sys
from typing import Any, NamedTuple

import msgspec

_ALIGNMENT = 64
_MAX_NPY_HEADER = 1 << 15  # of more fields than that, the description is kept in the .safetensors container
_USUAL_NPY_HEADER = 256  # longer ones are read anew each time


class Unstorable(TypeError):
    """A value that no safe format holds exactly; ``culprit`` is the type that is to blame."""

    def __init__(self, culprit: type):
        super().__init__(f"a value of type {culprit.__name__} cannot be stored in a safe format")
        self.culprit = culprit


@functools.lru_cache(maxsize=64)
def named_culprit(name: str) -> type:
    """A type whose name says what is wrong where the type alone does not ("torch.Tensor on cuda")."""
    return type(name, (), {})


# ---- dtypes as data ------------------------------------------------------------------------------------------------------------

# Types that extend NumPy, by the name that ml_dtypes gives them; a fixed list, because the name comes from disk.
_ML_DTYPES = frozenset(
    {
        "bfloat16",
        "float4_e2m1fn",
        "float6_e2m3fn",
        "float6_e3m2fn",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "int2",
        "int4",
        "uint2",
        "uint4",
    }
)
_PLAIN_DTYPE = re.compile(r"[<>|](?:[biufcSUV]\d{1,9}|[mM]8(?:\[\d{0,9}[a-zA-Zμ]{1,7}\])?)\Z")
_MAX_DTYPE_DEPTH = 32


def describe_dtype(dtype: Any) -> Any:
    """The dtype as a str or a list of plain values. Unstorable: Python objects, metadata, unknown types."""
    if dtype.metadata or dtype.hasobject or dtype.char in "TO":
        raise Unstorable(type(dtype))
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return ["array", describe_dtype(base), list(shape)]
    if dtype.names is not None:
        numpy = sys.modules["numpy"]
        if dtype.type is numpy.record:
            return ["record", describe_dtype(numpy.dtype((numpy.void, dtype)))]
        if dtype.type is not numpy.void:  # numbers with names for their parts, or a scalar class of the user's
            raise Unstorable(dtype.type)
        fields = []
        for name in dtype.names:
            of, offset, *title = dtype.fields[name]
            if title and not isinstance(title[0], str):
                raise Unstorable(type(title[0]))
            fields.append([name, describe_dtype(of), offset, *title])
        return ["struct", dtype.itemsize, dtype.isalignedstruct, fields]
    if dtype.isbuiltin == 2:
        if dtype.name not in _ML_DTYPES or dtype.type.__module__ != "ml_dtypes":
            raise Unstorable(dtype.type)
        return ["ml_dtypes", dtype.name]
    numpy = sys.modules["numpy"]
    if _PLAIN_DTYPE.match(dtype.str) is None:
        raise Unstorable(type(dtype))
    if numpy.dtype(dtype.str).num != dtype.num:  # long and long long are two types of one width
        return ["char", dtype.char, dtype.byteorder]
    return str(dtype.str)


def restore_dtype(description: Any, depth: int = 0) -> Any:
    """The inverse of describe_dtype(); ValueError or TypeError for anything that it does not write."""
    numpy: Any = importlib.import_module("numpy")
    if isinstance(description, str):
        if _PLAIN_DTYPE.match(description) is None:
            raise ValueError("not a dtype")
        return numpy.dtype(description)
    if depth > _MAX_DTYPE_DEPTH or not isinstance(description, list):
        raise ValueError("not a dtype")
    match description:
        case ["array", base, [*shape]]:
            return numpy.dtype((restore_dtype(base, depth + 1), tuple(_size(size) for size in shape)))
        case ["struct", int(item_bytes), bool(aligned), [*fields]]:
            spec: dict[str, Any] = {
                "names": [field[0] for field in fields],
                "formats": [restore_dtype(field[1], depth + 1) for field in fields],
                "offsets": [_size(field[2]) for field in fields],
                "itemsize": _size(item_bytes),
            }
            if any(len(field) == 4 for field in fields):
                spec["titles"] = [field[3] if len(field) == 4 else None for field in fields]
            return numpy.dtype(spec, align=aligned)
        case ["record", ["struct", *_] as fields]:
            return numpy.dtype((numpy.record, restore_dtype(fields, depth + 1)))
        case ["char", ("l" | "L" | "q" | "Q" | "i" | "I" | "g" | "G") as char, ("=" | "<" | ">" | "|") as order]:
            dtype = numpy.dtype(char)
            return dtype if order == "=" else dtype.newbyteorder(order)
        case ["ml_dtypes", str(name)] if name in _ML_DTYPES:
            import ml_dtypes

            return numpy.dtype(getattr(ml_dtypes, name))
    raise ValueError("not a dtype")


def _size(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError("not a size")
    return number


# ---- one array: .npy -----------------------------------------------------------------------------------------------------------

_NPY_HEADER = re.compile(
    r"\{'descr': (?P<descr>.*), 'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>[0-9, ]*)\), \} *\n\Z",
    re.DOTALL,
)
_ESCAPE = r"\\(?:[\\'nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"  # as repr() writes them
_NPY_STRING = re.compile(rf"'(?:[^'\\]|{_ESCAPE})*'|\"(?:[^\"\\]|{_ESCAPE})*\"")
_NPY_BETWEEN_STRINGS = re.compile(r"[\[\](), 0-9]*\Z")


def array_bytes(array: Any) -> Any:
    """The elements of an array in the order of its memory (C or Fortran), as flat bytes; no copy if contiguous in either."""
    if array.nbytes == 0:
        return b""
    if not array.flags.forc:
        array = array.copy(order="C")
    flat = array.reshape(-1, order="C" if array.flags.c_contiguous else "F")
    return flat.view("u1").data


def is_fortran(array: Any) -> bool:
    """Whether array_bytes() gives the elements in Fortran order."""
    return bool(array.flags.fnc)


def npy_descr(dtype: Any) -> Any:
    """What stands for the dtype in a .npy header, or None if that format does not hold it exactly."""
    description = describe_dtype(dtype)
    if isinstance(description, str):
        return description
    if dtype.names is None:
        return None
    from numpy.lib import format as npy

    try:
        descr = npy.dtype_to_descr(dtype)
        text = repr(descr)
        exact = len(text) <= _MAX_NPY_HEADER // 2 and describe_dtype(descr_dtype(text)) == description
    except ValueError:  # names, titles or overlaps that the format does not have
        return None
    return descr if exact else None


def npy_header(descr: Any, fortran: bool, shape: tuple[int, ...]) -> bytes:
    """Magic, version, length and header, padded so that the data begins at a multiple of 64 bytes."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}"
    try:
        header, version = text.encode("latin-1"), 1
    except UnicodeEncodeError:
        header, version = text.encode("utf-8"), 3
    width = 2 if version == 1 else 4
    before = 8 + width
    header += b" " * (-(before + len(header) + 1) % _ALIGNMENT) + b"\n"
    return b"\x93NUMPY" + bytes((version, 0)) + len(header).to_bytes(width, "little") + header


def _parse_npy_header(header: bytes, version: int) -> tuple[str, bool, tuple[int, ...]]:
    """(descr, Fortran order, shape)."""
    found = _NPY_HEADER.match(header.decode("utf-8" if version == 3 else "latin-1"))
    if found is None:
        raise ValueError("not a .npy header")
    sizes = found["shape"].replace(" ", "")
    shape = tuple(_size(int(size)) for size in sizes.rstrip(",").split(",")) if sizes else ()
    return found["descr"], found["fortran"] == "True", shape


@functools.lru_cache(maxsize=256)
def _known_npy_header(header: bytes, version: int) -> tuple[Any, bool, tuple[int, ...]]:
    """The same, with the dtype if it has no fields: their names can be changed in place, so such a dtype is nobody else's."""
    descr, fortran, shape = _parse_npy_header(header, version)
    return descr if descr.startswith("[") else descr_dtype(descr), fortran, shape


def _read_npy_header(header: bytes, version: int) -> tuple[Any, bool, tuple[int, ...]]:
    known = _known_npy_header if len(header) <= _USUAL_NPY_HEADER else _known_npy_header.__wrapped__
    dtype, fortran, shape = known(header, version)
    return descr_dtype(dtype) if type(dtype) is str else dtype, fortran, shape


def descr_dtype(text: str) -> Any:
    """The dtype of a ``descr`` in a .npy header: a string, or a list of fields. Only shallow literals are evaluated."""
    from numpy.lib import format as npy

    between = _NPY_STRING.sub("", text)
    if _NPY_BETWEEN_STRINGS.match(between) is None or between.count("[") + between.count("(") > 512:
        raise ValueError("not a dtype")
    descr = ast.literal_eval(text)
    _check_descr(descr, 0)
    dtype = npy.descr_to_dtype(descr)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    return dtype


def _check_descr(descr: Any, depth: int) -> None:
    if isinstance(descr, str):
        if _PLAIN_DTYPE.match(descr) is None:
            raise ValueError("not a dtype")
        return
    if depth > _MAX_DTYPE_DEPTH or not isinstance(descr, list):
        raise ValueError("not a dtype")
    for field in descr:
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            raise ValueError("not a field")
        _check_descr(field[1], depth + 1)


def read_npy(data: memoryview) -> Any:
    """A read-only view of the array in a .npy file that npy_header() began. data: its bytes, read-only."""
    start = bytes(data[:12])
    if start[:6] != b"\x93NUMPY" or len(start) < 12 or start[7] != 0:
        raise ValueError("not a .npy file")
    version = start[6]
    width = {1: 2, 3: 4}[version]
    length = int.from_bytes(start[8 : 8 + width], "little")
    begin = 8 + width + length
    if length > min(_MAX_NPY_HEADER, len(data)):
        raise ValueError("a .npy header longer than the file, or than any that is written")
    dtype, fortran, shape = _read_npy_header(bytes(data[8 + width : begin]), version)
    return view_array(data, begin, len(data), dtype, shape, fortran)


def view_array(data: memoryview, begin: int, end: int, dtype: Any, shape: tuple[int, ...], fortran: bool) -> Any:
    """data[begin:end] as an array of exactly that size: a view if its elements are aligned, else a read-only copy."""
    numpy = sys.modules.get("numpy") or importlib.import_module("numpy")
    if dtype.hasobject or dtype.subdtype is not None or math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError("an array of another length than its data")
    order: Any = "F" if fortran else "C"
    if begin == end:
        array = numpy.ndarray(shape, dtype, order=order)  # not numpy.empty(), which makes items of no width one wide
    else:  # not numpy.ndarray(buffer=data): that looks through a memoryview, and finds what is writable behind it
        array = numpy.frombuffer(data, dtype, math.prod(shape), begin)
        if len(shape) != 1:
            array = array.reshape(shape, order=order)
    flags = array.flags
    if not flags.aligned:
        array = array.copy(order)
        flags = array.flags
    flags.writeable = False
    return array


# ---- many arrays: .safetensors -------------------------------------------------------------------------------------------------

_STRUCTURE = "perfopt"
_SAFETENSORS_NUMPY = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<i2": "I16", "<u2": "U16", "<f2": "F16", "<i4": "I32", "<u4": "U32",
    "<f4": "F32", "<i8": "I64", "<u8": "U64", "<f8": "F64", "<c8": "C64",
}  # fmt: skip
_TORCH = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16", "bfloat16": "BF16",
    "int32": "I32", "uint32": "U32", "float32": "F32", "int64": "I64", "uint64": "U64", "float64": "F64",
    "complex32": None, "complex64": "C64", "complex128": None, "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": None, "float8_e5m2fnuz": None, "float8_e8m0fnu": "F8_E8M0", "float4_e2m1fn_x2": None,
}  # fmt: skip


class Slot(NamedTuple):
    """One array in the container: what other readers are told (a safetensors dtype and shape), and its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    item_bytes: int
    data: Any


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_decode_header = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_entry = msgspec.json.Decoder(_Entry).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


def array_slot(name: str, array: Any) -> tuple[Slot, list[Any]]:
    """The slot of a NumPy array, and [dtype, shape, is Fortran order], from which slot_array() makes it again."""
    if type(array) is not sys.modules["numpy"].ndarray:
        raise Unstorable(type(array))
    description = describe_dtype(array.dtype)
    data, fortran = array_bytes(array), is_fortran(array)
    common = _SAFETENSORS_NUMPY.get(description) if isinstance(description, str) else None
    if common is None:
        slot = Slot(name, "U8", (array.nbytes,), array.itemsize, data)
    else:
        slot = Slot(name, common, array.shape[::-1] if fortran else array.shape, array.itemsize, data)
    return slot, [description, list(array.shape), fortran]


def slot_array(data: memoryview, span: tuple[int, int], description: Any, shape: Any, fortran: Any) -> Any:
    """The array of a slot as a read-only view. data: the container's bytes, read-only."""
    sizes = tuple(_size(size) for size in shape)
    return view_array(data, *span, restore_dtype(description), sizes, fortran is True)


def tensor_slot(name: str, tensor: Any) -> tuple[Slot, list[Any]]:
    """The slot of a dense CPU tensor, and [dtype, shape, order of its dimensions in memory, requires_grad, is a Parameter]."""
    torch = sys.modules["torch"]
    _check_tensor(torch, tensor)
    dtype = str(tensor.dtype).partition(".")[2]
    plain = tensor.detach().resolve_conj().resolve_neg()
    dense, order = plain, list(range(plain.dim()))
    if not plain.is_contiguous():
        order.sort(key=lambda d: -plain.stride(d))
        dense = plain.permute(order)
        if not dense.is_contiguous():
            dense, order = plain.contiguous(), list(range(plain.dim()))
    size = dense.numel() * dense.element_size()
    data = dense.reshape(-1).view(torch.uint8).numpy().data if size else b""
    common = _TORCH[dtype]
    if common is None:
        slot = Slot(name, "U8", (size,), dense.element_size(), data)
    else:
        slot = Slot(name, common, tuple(dense.shape), dense.element_size(), data)
    is_parameter = type(tensor) is not torch.Tensor
    return slot, [dtype, list(dense.shape), order, bool(tensor.requires_grad), is_parameter]


def _check_tensor(torch: Any, tensor: Any) -> None:
    kind = type(tensor)
    if (kind is not torch.Tensor and kind is not torch.nn.Parameter) or tensor.__dict__:
        raise Unstorable(kind)
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise Unstorable(named_culprit("torch.Tensor inside a transform of torch.func"))
    if tensor.is_nested:
        raise Unstorable(named_culprit("nested torch.Tensor (use .unbind())"))
    if tensor.device.type != "cpu":
        raise Unstorable(named_culprit(f"torch.Tensor on {tensor.device.type} (use .cpu())"))
    if tensor.layout is not torch.strided:
        raise Unstorable(named_culprit(f"torch.Tensor of layout {tensor.layout} (use .to_dense())"))
    if str(tensor.dtype).partition(".")[2] not in _TORCH:
        raise Unstorable(named_culprit(f"torch.Tensor of {tensor.dtype}"))
    if tensor.grad_fn is not None:
        raise Unstorable(named_culprit("torch.Tensor with a history of gradients (use .detach())"))


def _dense_tensor(torch: Any, data: memoryview, span: tuple[int, int], dtype: str, shape: Any, order: Any) -> Any:
    kind = getattr(torch, dtype)
    sizes = tuple(_size(size) for size in shape)
    begin, end = span
    if math.prod(sizes) * kind.itemsize != end - begin or sorted(order) != list(range(len(sizes))):
        raise ValueError("a tensor of another length than its data")
    if begin == end:
        dense = torch.empty(sizes, dtype=kind, device="cpu")  # whatever the default device is
    elif data.readonly:
        dense = torch.frombuffer(bytearray(data[begin:end]), dtype=kind).view(sizes)
    else:
        dense = torch.frombuffer(data, dtype=kind, count=(end - begin) // kind.itemsize, offset=begin).view(sizes)
        if dense.data_ptr() % kind.itemsize:
            dense = dense.clone()
    if order != list(range(len(order))):
        dense = dense.permute(sorted(range(len(order)), key=order.__getitem__))
    return dense


def slot_tensor(
    data: memoryview, span: tuple[int, int], dtype: Any, shape: Any, order: Any, requires_grad: Any, is_parameter: Any
) -> Any:
    """The tensor of a slot: it shares data, which must be writable and private, or else is a copy."""
    import torch

    if dtype not in _TORCH:
        raise ValueError("not a dtype")
    with torch.inference_mode(False):  # what is read in that mode is kept for calls outside of it
        tensor = _dense_tensor(torch, data, span, dtype, shape, order)
        if is_parameter is True:
            return torch.nn.Parameter(tensor, requires_grad=requires_grad is True)
        return tensor.requires_grad_() if requires_grad is True else tensor


def pack(slots: list[Slot], structure: bytes) -> tuple[Any, ...]:
    """The parts of a .safetensors file. The widest elements come first, so that each slot begins at a multiple of its element."""
    placed, entries, end = [], [], 0
    for slot in sorted(slots, key=lambda slot: -_power_of_two(slot.item_bytes)):
        begin, end = end, end + memoryview(slot.data).nbytes
        entries.append((slot.name, {"dtype": slot.dtype, "shape": slot.shape, "data_offsets": (begin, end)}))
        placed.append(slot.data)
    metadata = {_STRUCTURE: base64.b64encode(structure).decode()}
    header = msgspec.json.encode({"__metadata__": metadata, **dict(entries)})
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header, *(data for data in placed if len(data))


def _power_of_two(item_bytes: int) -> int:
    """The largest power of two that divides a width: how its slot may be aligned; 0 for no width."""
    return item_bytes & -item_bytes


def unpack(data: memoryview) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """(the structure, where each slot begins and ends in data) of a file by pack(). The slots lie inside and never overlap."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("a header longer than the file")
    header = _decode_header(bytes(data[8 : 8 + length]))
    metadata = _decode_metadata(header.pop("__metadata__"))
    base, spans = 8 + length, {}
    for name, raw in header.items():
        begin, end = _decode_entry(raw).data_offsets
        spans[name] = (base + begin, base + end)
    at = base
    for begin, end in sorted(spans.values()):
        if begin != at or end < begin:
            raise ValueError("slots that overlap or leave holes")
        at = end
    if at != len(data):
        raise ValueError("slots of another length than the file")
    return base64.b64decode(metadata[_STRUCTURE], validate=True), spans
