"""What the C engines ask Python about objects: their content, and how a value is kept in a cache.

``reduce`` describes an object as a tuple of simpler ones, which ``perfopt._core`` encodes (csrc/cache/fingerprint.h, tag ``R``).
Descriptions are part of the fingerprint format: changing one changes digests, and the golden file shows it.
Neither NumPy nor torch is imported here; an object of theirs can only exist once its library is loaded.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import pathlib
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

Reduction = tuple[Any, ...]
_SCALAR_BASES = (int, float, complex, str, bytes, bytearray)
_CONTAINER_BASES = (tuple, list, dict, set, frozenset)


def _class_name(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _instance_state(value: object) -> dict[str, Any]:
    """What an instance holds in its ``__dict__`` and in the ``__slots__`` of its classes."""
    state = dict(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{cls.__name__.lstrip('_')}{name}"
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                state[name] = getattr(value, name)
    return state


def _reduce_subclass(value: Any, bases: tuple[type, ...]) -> Reduction:
    """An instance of a user's subclass of a built-in: class, own attributes, and the built-in part."""
    base = next(base for base in bases if isinstance(value, base))
    parts: list[Any] = [_class_name(type(value)), _instance_state(value)]
    if isinstance(value, OrderedDict):
        parts.append(tuple(value.items()))
    elif base is int:
        parts.append(int.__index__(value))
    elif base is str:
        parts.append(str.__str__(value))
    else:
        parts.append(base(value))
    if isinstance(value, defaultdict):
        factory = value.default_factory
        parts.append(None if factory is None else (getattr(factory, "__module__", ""), factory.__qualname__))
    return type(value), base.__name__ + " subclass", *parts


def _reduce_dataclass(value: Any) -> Reduction:
    fields = tuple(
        (field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if hasattr(value, field.name)
    )
    return type(value), "dataclass", _class_name(type(value)), fields


# ---- NumPy ---------------------------------------------------------------------------------------------------------------------


def _describe_dtype(numpy: Any, dtype: Any) -> Any:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return "subarray", _describe_dtype(numpy, base), tuple(shape)
    if dtype.names is None:
        # Types that extend NumPy (bfloat16, float8 ...) are hardly told apart by dtype.str; they have names.
        return f"{dtype.str} {dtype.name}" if dtype.isbuiltin == 2 else dtype.str
    fields = []
    for name in dtype.names:
        of, offset, *title = dtype.fields[name]
        fields.append((name, _describe_dtype(numpy, of), offset, *title))
    return "struct", dtype.itemsize, tuple(fields)


def _array_parts(numpy: Any, array: Any) -> tuple[Any, ...]:
    """Content of a base-class array as (how it is read, ...)."""
    dtype = array.dtype
    if dtype.names is not None:  # field by field: the bytes between them are arbitrary
        return (
            "struct",
            _describe_dtype(numpy, dtype),
            array.shape,
            tuple(_array_content(array[name]) for name in dtype.names),
        )
    if dtype.isbuiltin == 2:
        raw = numpy.ascontiguousarray(array).reshape(-1).view("u1")
        return "extension", _describe_dtype(numpy, dtype), array.shape, raw
    if dtype.kind in "Mm":
        return "time", dtype.str, array.view(dtype.str[0] + "i8")
    if dtype.kind == "V":
        return "void", dtype.str, array.shape, [item.tobytes() for item in array.reshape(-1)]
    if dtype.kind in "OT":
        return "objects", "O" if dtype.kind == "O" else "T", array.shape, array.reshape(-1).tolist()
    if dtype.char in "gG":
        numbers = 2 if dtype.char == "G" else 1
        item = dtype.itemsize // numbers
        width = (
            10 if numpy.finfo(numpy.longdouble).nmant == 63 else item
        )  # the other bytes are padding and may hold anything
        raw = numpy.ascontiguousarray(array).view("u1").reshape((*array.shape, numbers, item))
        return "extended", dtype.str, array.shape, raw[..., :width] if dtype.isnative else raw[..., item - width :]
    if array.itemsize == 0:
        return "empty items", dtype.str, array.shape
    return "plain", array.view(numpy.ndarray)


def _array_content(array: Any) -> tuple[Any, ...]:
    return _array_parts(sys.modules["numpy"], array)


def _reduce_numpy(numpy: Any, value: Any) -> Reduction | None:
    if isinstance(value, numpy.generic):
        if isinstance(value, numpy.void) or value.dtype.char in "gGO":
            return None, "numpy scalar", value.dtype.str, _array_content(numpy.asarray(value))
        return None, "numpy scalar", _describe_dtype(numpy, value.dtype), value.tobytes()
    if isinstance(value, numpy.dtype):
        return None, "numpy dtype", _describe_dtype(numpy, value)
    if not isinstance(value, numpy.ndarray):
        return None
    if isinstance(value, numpy.ma.MaskedArray):
        parts = (
            _array_content(value.data),
            numpy.ma.getmaskarray(value),
            _array_content(numpy.asarray(value.fill_value)),
        )
        return type(value), "masked array", _class_name(type(value)), *parts
    base = numpy.asarray(value)
    if type(value) in (numpy.ndarray, numpy.memmap):
        return None, "array", *_array_content(base)
    return type(value), "array subclass", _class_name(type(value)), _instance_state(value), _array_content(base)


# ---- torch ---------------------------------------------------------------------------------------------------------------------


def _tensor_bytes(torch: Any, tensor: Any) -> Any:
    """A CPU tensor's elements as a NumPy array of integers over the same memory; NumPy has no bfloat16 or float8."""
    if tensor.dtype.is_complex:
        return _tensor_bytes(torch, torch.view_as_real(tensor))
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(integers[tensor.element_size()]).numpy()


def _tensor_content(torch: Any, tensor: Any) -> tuple[Any, ...]:
    facts = (str(tensor.dtype), tensor.device.type, tensor.requires_grad)
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        parts: tuple[Any, ...] = (tensor.indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    else:
        plain = tensor.resolve_conj().resolve_neg().cpu()
        return *facts, tuple(tensor.shape), _tensor_bytes(torch, plain)
    return *facts, tuple(tensor.shape), str(tensor.layout), tuple(_tensor_content(torch, part) for part in parts)


def _reduce_tensor(torch: Any, tensor: Any) -> Reduction | None:
    if tensor.is_quantized or tensor.is_nested or tensor.device.type == "meta" or str(tensor.layout) == "torch._mkldnn":
        return None
    if torch.nn.parameter.is_lazy(tensor):
        return None  # a lazy module's parameter before its first call
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return None, "tensor", *_tensor_content(torch, tensor)
    if (
        hasattr(type(tensor), "__torch_dispatch__")
        and type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    ):
        return None  # its memory, if it has any, is not its content
    base = tensor.detach().as_subclass(torch.Tensor).requires_grad_(tensor.requires_grad)
    parts = (_class_name(type(tensor)), _instance_state(tensor), _tensor_content(torch, base))
    return type(tensor), "tensor subclass", *parts


def _plain_setting(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain_setting(item) for item in value)
    return value is None or isinstance(
        value, (bool, int, float, complex, str, types.FunctionType, types.BuiltinFunctionType)
    )


def _setting(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_setting(item) for item in value)
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
        return "function", value.__module__, value.__qualname__
    return value


def _reduce_module(module: Any) -> Reduction:
    """Class, mode and plain settings (a stride, a dropout rate) of every submodule, and the state: parameters and buffers."""
    parts = []
    for name, part in module.named_modules(remove_duplicate=False):
        settings = {
            key: _setting(value)
            for key, value in vars(part).items()
            if not key.startswith("_") and _plain_setting(value)
        }
        parts.append((name, _class_name(type(part)), part.training, settings))
    state = {**dict(module.named_buffers(remove_duplicate=False)), **module.state_dict(keep_vars=True)}
    return type(module), "module", tuple(parts), state


def _reduce_torch(torch: Any, value: Any) -> Reduction | None:
    if isinstance(value, torch.Tensor):
        return _reduce_tensor(torch, value)
    if isinstance(value, torch.nn.Module):
        return _reduce_module(value)
    if isinstance(value, (torch.dtype, torch.device)):
        return None, "torch " + type(value).__name__, str(value)
    return None


def _loaded(name: str, attribute: str) -> Any:
    """A module that is imported and finished, or None."""
    module = sys.modules.get(name)
    return module if hasattr(module, attribute) else None


def reduce(value: Any) -> Any:
    """(class or None, text, part, ...): an object in terms of simpler ones; NotImplemented if its content is not known.

    The class is what a key in this process adds by identity, so that two classes of one name stay two.
    """
    if isinstance(value, enum.Enum):
        name = value.name if value.name is not None else value.value  # Python 3.10 has no name for a union of flags
        return type(value), "enum", _class_name(type(value)), name
    if isinstance(value, pathlib.PurePath):
        return None, "path", type(value).__name__, str(value)
    if isinstance(value, (slice, range)):
        return None, type(value).__name__, value.start, value.stop, value.step
    reduction = _reduce_known(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        described = _reduce_dataclass(value)
        if reduction is None:
            return described
        if (
            reduction is not NotImplemented
        ):  # a dataclass that is also a dict, a module, ...: its fields are not all of it
            return *described, reduction[1:]
    return NotImplemented if reduction is None else reduction


def _reduce_known(value: Any) -> Any:
    """An object of NumPy, of torch, or of a subclass of a built-in; None if it is neither."""
    for name, attribute, found in (("numpy", "ma", _reduce_numpy), ("torch", "nn", _reduce_torch)):
        library = _loaded(name, attribute)
        reduction = None if library is None else found(library, value)
        if reduction is not None:
            return reduction
        if library is not None and name == "torch" and isinstance(value, (library.Tensor, library.nn.Module)):
            return NotImplemented
    if isinstance(value, _SCALAR_BASES):
        return _reduce_subclass(value, _SCALAR_BASES)
    if isinstance(value, _CONTAINER_BASES):
        return _reduce_subclass(value, _CONTAINER_BASES)
    return None


# ---- values --------------------------------------------------------------------------------------------------------------------


def _members(value: Any) -> Iterable[Any]:
    """What is inside a container that is no exact tuple, list or dict, or inside a dataclass; nothing for other objects."""
    if isinstance(value, dict):
        return dict.values(value)
    if isinstance(value, list):
        return list.__iter__(value)
    if isinstance(value, tuple):
        return tuple.__iter__(value)
    if isinstance(value, (set, frozenset)):
        return set(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return ()


def _walk(value: Any, leaf: Callable[[Any], Any], seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """The value with leaf() of every array and tensor in it; itself if nothing changed.

    Exact tuples, lists and dicts, ordered and default dicts and named tuples are rebuilt where something in them changed;
    other containers and dataclasses are only looked through. ``seen`` is for members that are shared or contain themselves.
    """
    seen = {} if seen is None else seen
    kind = type(value)
    if not isinstance(value, _CONTAINER_BASES) and not hasattr(kind, "__dataclass_fields__"):
        return leaf(value)
    if id(value) in seen:
        return seen[id(value)][1]
    seen[id(value)] = (value, value)
    result = value
    if kind in (dict, OrderedDict, defaultdict):
        changed = {key: new for key, old in value.items() if (new := _walk(old, leaf, seen)) is not old}
        if changed:
            result = copy.copy(value)
            result.update(changed)
    elif kind in (tuple, list) or (isinstance(value, tuple) and hasattr(kind, "_make")):
        items = [_walk(item, leaf, seen) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            result = items if kind is list else tuple(items) if kind is tuple else kind._make(items)
    else:
        for member in _members(value):
            _walk(member, leaf, seen)
        result = leaf(value)
    seen[id(value)] = (value, result)
    return result


def prepare_value(value: Any, private: bool) -> tuple[Any, tuple[Any, ...] | None]:
    """The value as a cache keeps it, and (tensor, version, ...) for the tensors in it, or None.

    Arrays become read-only views; the caller's array stays writable. ``private`` copies first.
    """
    numpy = _loaded("numpy", "ndarray")
    torch = _loaded("torch", "Tensor")
    guard: list[Any] = []
    if private:
        value = copy_value(value)

    def leaf(item: Any) -> Any:
        if numpy is not None and isinstance(item, numpy.ndarray):
            if item.flags.writeable:
                item = item.view()
                item.flags.writeable = False
        elif torch is not None and isinstance(item, torch.Tensor) and not item.is_inference():
            guard.extend((item, item._version))
        return item

    return _walk(value, leaf), tuple(guard) or None


def copy_value(value: Any) -> Any:
    """A copy that shares nothing that can be changed; arrays in it are writable, tensors keep their graph."""
    torch = _loaded("torch", "Tensor")
    numpy = _loaded("numpy", "ndarray")
    copies: dict[int, Any] = {}

    def leaf(item: Any) -> Any:
        if torch is not None and isinstance(item, torch.Tensor):
            copies[id(item)] = item.clone()
        elif numpy is not None and type(item) is numpy.ndarray and not item.dtype.hasobject:
            copies[id(item)] = item.copy(order="K")
        return item

    _walk(value, leaf)
    return copy.deepcopy(value, copies)
