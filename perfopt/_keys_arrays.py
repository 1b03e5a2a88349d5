"""The content of NumPy's, SciPy's and torch's objects. None of them is imported here: the caller found it loaded."""

from __future__ import annotations

import dataclasses
import enum
import functools
import pathlib
import sys
import types
from collections import deque
from typing import Any

from perfopt import _core
from perfopt._keys_base import Reduction, class_name, instance_state, loaded

# ---- NumPy ---------------------------------------------------------------------------------------------------------------------


def _describe_dtype(numpy: Any, dtype: Any) -> Any:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return "subarray", _describe_dtype(numpy, base), tuple(shape)
    if dtype.kind == "T":
        return repr(dtype)  # before NumPy 2.3 its str says nothing of what stands for missing text
    if dtype.names is None:
        # Types that extend NumPy (bfloat16, float8 ...) are hardly told apart by dtype.str; they have names.
        return f"{dtype.str} {dtype.name}" if dtype.isbuiltin == 2 else dtype.str
    fields = []
    for name in dtype.names:
        of, offset, *title = dtype.fields[name]
        fields.append((name, _describe_dtype(numpy, of), offset, *title))
    own_class = () if dtype.type is numpy.void else (class_name(dtype.type),)  # of the scalars: numpy.record, for one
    return "struct", dtype.itemsize, tuple(fields), *own_class


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
        described = dtype.kind if dtype.kind == "O" or dtype == type(dtype)() else _describe_dtype(numpy, dtype)
        return "objects", described, array.shape, array.reshape(-1).tolist()
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


def _reduce_random(value: Any) -> Reduction | None:
    """Generators count by the state from which they draw and, where they can, spawn."""
    random = loaded("numpy.random", "Generator")
    if random is None:
        return None
    if isinstance(value, random.SeedSequence):
        entropy = value.entropy if isinstance(value.entropy, int) else list(value.entropy)
        counts = (tuple(value.spawn_key), value.pool_size, value.n_children_spawned)
        return type(value), "seed sequence", class_name(type(value)), entropy, *counts
    if isinstance(value, random.BitGenerator):
        seed = getattr(value, "seed_seq", None)
        seed = seed if isinstance(seed, random.SeedSequence) else None
        return type(value), "bit generator", class_name(type(value)), value.state, seed
    if isinstance(value, random.Generator):
        return type(value), "random generator", class_name(type(value)), value.bit_generator
    if isinstance(value, random.RandomState):
        return type(value), "random state", class_name(type(value)), value.get_state(legacy=False)
    return None


# What NumPy itself keeps in a masked array; _hardmask is in the description where it is set.
_MASKED_OWN = frozenset(
    {"_mask", "_fill_value", "_hardmask", "_sharedmask", "_isfield", "_baseclass", "_optinfo", "_basedict"}
)


def _masked_state(value: Any) -> tuple[dict[str, Any], ...]:
    """(what a masked array holds beside its values,), or ()."""
    state = {name: item for name, item in instance_state(value).items() if name not in _MASKED_OWN}
    if value.hardmask:
        state["hardmask"] = True
    return (state,) if state else ()


def reduce_numpy(numpy: Any, value: Any) -> Reduction | None:
    """An array, scalar, dtype or generator of NumPy in terms of simpler objects; None for anything else."""
    if isinstance(value, numpy.generic):
        if isinstance(value, numpy.void) or value.dtype.char in "gGO":
            return None, "numpy scalar", value.dtype.str, _array_content(numpy.asarray(value))
        return None, "numpy scalar", _describe_dtype(numpy, value.dtype), value.tobytes()
    if isinstance(value, numpy.dtype):
        return None, "numpy dtype", _describe_dtype(numpy, value)
    if not isinstance(value, numpy.ndarray):
        return _reduce_random(value)
    if value is numpy.ma.masked:
        return None, "masked constant"
    if isinstance(value, numpy.ma.MaskedArray):
        parts = (
            _array_content(value.data),
            numpy.ma.getmaskarray(value),
            _array_content(numpy.asarray(value.fill_value)),
            *_masked_state(value),
        )
        return type(value), "masked array", class_name(type(value)), *parts
    base = numpy.asarray(value)
    if type(value) in (numpy.ndarray, numpy.memmap):
        return None, "array", *_array_content(base)
    return type(value), "array subclass", class_name(type(value)), instance_state(value), _array_content(base)


# ---- SciPy ---------------------------------------------------------------------------------------------------------------------


def reduce_sparse(sparse: Any, value: Any) -> Reduction | None:
    """Sparse arrays and matrices: sorted indices without duplicates, of whatever width. Stored zeros count."""
    if not sparse.issparse(value):
        return None
    if value.format in ("csr", "csc", "bsr"):
        if not value.has_canonical_format:
            value = value.copy()
            value.sum_duplicates()
        places: tuple[Any, ...] = (value.indptr, value.indices)
        numbers = value.data
    else:
        entries = value.tocoo(copy=True)
        entries.sum_duplicates()
        places = entries.coords if hasattr(entries, "coords") else (entries.row, entries.col)
        numbers = entries.data
    wide = tuple(place.astype("<i8", copy=False) for place in places)
    return type(value), "sparse", class_name(type(value)), value.format, tuple(value.shape), wide, numbers


# ---- torch ---------------------------------------------------------------------------------------------------------------------


# A digest on a device comes in pieces of this size (csrc/cache/fingerprint.h); each wants 16 bytes of scratch there.
_DEVICE_PIECE = 256 * 1024
_DEVICE_LEAST = 64 * 1024  # fewer bytes are copied: that waits for the device once, as hashing there does


def _hash_on_device(torch: Any, tensor: Any, dtype: str) -> Any:
    """A CUDA tensor as the array that its copy on the CPU would be, hashed by the backend in logical order."""
    tensor = tensor.contiguous()  # a strided view costs its own size on the device for the time of the call
    scratch_bytes = 16 * -(-tensor.nbytes // _DEVICE_PIECE)
    scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device=tensor.device)
    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    place = (tensor.data_ptr(), tensor.get_device(), stream, scratch.data_ptr(), scratch_bytes)
    return _core.hash_device_array(dtype, tuple(tensor.shape), *place)


def _tensor_bytes(torch: Any, tensor: Any) -> Any:
    """A tensor's elements as a NumPy array of integers; NumPy has no bfloat16 or float8.

    Over the same memory on the CPU. Large CUDA tensors are hashed where they are when there is a backend, others copied.
    """
    if tensor.dtype.is_complex:
        return _tensor_bytes(torch, torch.view_as_real(tensor))
    size = tensor.element_size()
    if tensor.device.type == "cuda" and tensor.nbytes >= _DEVICE_LEAST and _core.backend_info()["available"]:
        return _hash_on_device(torch, tensor, {1: "|u1", 2: "<i2", 4: "<i4", 8: "<i8"}[size])
    return tensor.cpu().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]).numpy()


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
        plain = tensor.resolve_conj().resolve_neg()
        return *facts, tuple(tensor.shape), _tensor_bytes(torch, plain)
    return *facts, tuple(tensor.shape), str(tensor.layout), tuple(_tensor_content(torch, part) for part in parts)


def _why_not(torch: Any, tensor: Any) -> str | None:
    """Why a tensor's memory is not its content; None for the others."""
    if tensor.is_quantized:
        return "a quantized tensor: give its int_repr(), its scale and its zero point, or dequantize() it"
    if tensor.is_nested:
        return "a nested tensor: give its unbind() as a tuple"
    if tensor.device.type == "meta":
        return "a tensor on the meta device holds no data"
    if str(tensor.layout) == "torch._mkldnn":
        return "a tensor in the mkldnn layout: give its to_dense()"
    if torch.nn.parameter.is_lazy(tensor):
        return "a lazy module's parameter before its first call"
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "a tensor inside a transform of torch.func has no data of its own"
    return None


def _reduce_tensor(torch: Any, tensor: Any) -> Reduction | str | None:
    reason = _why_not(torch, tensor)
    if reason is not None:
        return reason
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return None, "tensor", *_tensor_content(torch, tensor)
    if (
        hasattr(type(tensor), "__torch_dispatch__")
        and type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    ):
        return "a subclass with its own __torch_dispatch__: its memory, if it has any, is not its content"
    base = tensor.detach().as_subclass(torch.Tensor).requires_grad_(tensor.requires_grad)
    parts = (class_name(type(tensor)), instance_state(tensor), _tensor_content(torch, base))
    return type(tensor), "tensor subclass", *parts


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


def _plain_setting(torch: Any, value: Any) -> bool:
    if isinstance(value, functools.partial):
        return _plain_setting(torch, (value.func, value.args, value.keywords))
    if isinstance(value, types.SimpleNamespace) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return not isinstance(value, torch.nn.Module) and _plain_setting(torch, instance_state(value))
    if isinstance(value, dict):
        return all(_plain_setting(torch, item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return all(_plain_setting(torch, item) for item in value)
    known = (bool, int, float, complex, str, bytes, range, slice, pathlib.PurePath, enum.Enum, *_FUNCTIONS)
    numpy = loaded("numpy", "ndarray")
    arrays = (torch.Tensor,) if numpy is None else (torch.Tensor, numpy.ndarray, numpy.generic)
    return value is None or isinstance(value, (*known, torch.dtype, torch.device, *arrays))


def _setting(value: Any) -> Any:
    return tuple(_setting(item) for item in value) if isinstance(value, (list, tuple)) else value


def _settings(torch: Any, state: dict[str, Any]) -> dict[str, Any]:
    return {name: _setting(value) for name, value in state.items() if _plain_setting(torch, value)}


@functools.lru_cache(maxsize=1)
def _module_own(torch: Any) -> frozenset[str]:
    """The private names of what torch keeps in every module, or in an RNN a second time."""
    names = (*vars(torch.nn.Module()), *dir(torch.nn.Module), "_flat_weights")
    return frozenset(name for name in names if name.startswith("_"))


def _hook(torch: Any, hook: Any) -> Any:
    """A hook by what it does, as far as that can be read. Not the object of a method: it may be the module itself."""
    if isinstance(hook, (*_FUNCTIONS, functools.partial)):
        return hook
    if isinstance(hook, types.MethodType):
        return "method", hook.__func__.__module__, hook.__func__.__qualname__
    return "object", class_name(type(hook)), _settings(torch, instance_state(hook))


def _hooks(torch: Any, module: Any) -> tuple[Any, ...]:
    """(before, after), for hooks that can change what a call of the module gives; or ()."""
    before, after = module._forward_pre_hooks.values(), module._forward_hooks.values()
    if not before and not after:
        return ()
    return tuple(_hook(torch, hook) for hook in before), tuple(_hook(torch, hook) for hook in after)


def _reduce_module(torch: Any, module: Any) -> Reduction | str:
    """Class, mode, plain settings (a stride, a dropout rate) and hooks of every submodule; the state: parameters, buffers."""
    parts = []
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, torch.jit.ScriptModule):
            return "the code of a scripted module cannot be read: give what it was made of"
        own = {key: value for key, value in vars(part).items() if key not in _module_own(torch)}
        parts.append((name, class_name(type(part)), part.training, _settings(torch, own), *_hooks(torch, part)))
    state = {**dict(module.named_buffers(remove_duplicate=False)), **module.state_dict(keep_vars=True)}
    return type(module), "module", tuple(parts), state


def reduce_torch(torch: Any, value: Any) -> Reduction | str | None:
    """A tensor, module or setting of torch in terms of simpler objects; None for anything else, a str why it is refused."""
    if isinstance(value, torch.Tensor):
        return _reduce_tensor(torch, value)
    if isinstance(value, torch.nn.Module):
        return _reduce_module(torch, value)
    if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return None, "torch " + type(value).__name__, str(value)
    if isinstance(value, torch.Generator):
        return None, "torch generator", str(value.device), value.get_state()
    return None
