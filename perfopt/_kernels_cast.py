"""Arrays of one dtype as another: casts, 8-bit blocks, unscaling; the dtypes are found here, the work is done in C.

An argument ``x`` may be a NumPy array of float32, float16 or (with ml_dtypes) bfloat16, float8_e4m3fn, float8_e5m2;
a uint16 or uint8 array of raw codes whose dtype the caller names; or anything on the CPU with ``__dlpack__``, such
as a torch tensor.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfopt import _train
from perfopt._arguments import check_flag, check_number, check_whole

CAST_DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
RAW = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8}
BLOCK = 256


def name_of_dtype(dtype: Any, argument: str, accepted: tuple[str, ...] = CAST_DTYPES) -> str:
    """``numpy.float16``, ``torch.bfloat16``, ``"float32"``: the name, among those accepted; ValueError for others."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)
    name = name.removeprefix("torch.")
    if name not in accepted:
        raise ValueError(f"{argument}={dtype!r}; accepted: {', '.join(accepted)}")
    return str(name)


def _borrow(x: Any, argument: str, source: Any = None) -> tuple[NDArray[Any], str]:
    """x as an array and the name of what its elements are; no copy."""
    if not isinstance(x, np.ndarray):
        if not hasattr(x, "__dlpack__"):
            raise TypeError(
                f"{argument} is a {type(x).__name__}; accepted: numpy.ndarray, or an object with __dlpack__"
            )
        if source is not None:
            raise ValueError(f"source={source!r} is for raw uint8 and uint16 arrays; {argument} has a dtype of its own")
        return _train.from_dlpack(x, argument)
    name = x.dtype.name
    if source is not None:
        wanted = name_of_dtype(source, "source")
        if wanted not in RAW or x.dtype != RAW[wanted]:
            raise ValueError(
                f"source={source!r} with {argument} of dtype {x.dtype}; accepted: bfloat16 with uint16, "
                "float8_e4m3fn and float8_e5m2 with uint8"
            )
        return x, wanted
    if name not in CAST_DTYPES or not x.dtype.isnative:
        raise TypeError(
            f"{argument} has dtype {x.dtype}; accepted: {', '.join(CAST_DTYPES)} in native byte order, "
            "or raw uint16 or uint8 codes with source= naming what they are"
        )
    return (x.view(RAW[name]) if name in RAW else x), name


def _dense(x: NDArray[Any]) -> NDArray[Any]:
    """x itself where its elements lie densely in C or Fortran order, else a copy in C order."""
    return x if x.flags.forc else np.ascontiguousarray(x)


def _named(array: NDArray[Any], name: str, otherwise: str = ", or ask for the codes with raw=True") -> NDArray[Any]:
    """Raw codes as an array of their ml_dtypes dtype."""
    if name not in RAW:
        return array
    try:
        ml_dtypes = importlib.import_module("ml_dtypes")
    except ImportError:
        raise ImportError(f"dtype={name!r}: NumPy has no such dtype; install ml_dtypes{otherwise}") from None
    return array.view(getattr(ml_dtypes, name))


def _empty(like: NDArray[Any], name: str) -> NDArray[Any]:
    return np.empty_like(like, dtype=RAW[name] if name in RAW else np.dtype(name), subok=False)


def empty_like_values(x: Any, argument: str, name: str | None) -> NDArray[Any]:
    """A new array of the shape and memory order of ``x``, of dtype ``name`` or that of ``x``."""
    codes, own_name = _borrow(x, argument)
    return _named(_empty(codes, name or own_name), name or own_name, ', or ask for dtype="float32"')


def _check_out(out: NDArray[Any], like: NDArray[Any]) -> None:
    if out.shape != like.shape:
        raise ValueError(f"out has shape {out.shape} and the result {like.shape}; accepted: the same")
    same_order = (out.flags.c_contiguous and like.flags.c_contiguous) or (
        out.flags.f_contiguous and like.flags.f_contiguous
    )
    if not same_order:
        raise ValueError("out lies in another memory order than x; accepted: dense arrays of one order")


def cast(
    x: Any,
    dtype: Any,
    *,
    saturate: bool = False,
    stochastic: bool = False,
    seed: int = 0,
    stream: int = 0,
    out: Any = None,
    source: Any = None,
    raw: bool = False,
) -> Any:
    """The elements of ``x`` as ``dtype``, on all threads and with the GIL released.

    Rounds to nearest, ties to even, denormals like all other numbers; NaN stays NaN and keeps its sign. What is too
    large becomes infinity; in float8_e4m3fn, which has none (OCP 8-bit floating point, 1.0), NaN; ``saturate`` gives
    what torch makes of it.

    Args:
        x: array of any shape: float32, float16, bfloat16, float8_e4m3fn or float8_e5m2; or an object with
        ``__dlpack__``
            on the CPU (a torch tensor). A strided array is copied first.
        dtype: one of these, as a name or as a NumPy, ml_dtypes or torch dtype.
        saturate: what is too large for an 8-bit float, infinity too, becomes its largest finite value.
        stochastic: round up with the probability of the dropped fraction, down otherwise. The random bits are
            Philox4x32-7 (Salmon et al., 2011) of ``seed``, ``stream`` and the element's place in memory: the same
            on any number of threads.
        seed: of the random bits, ``0 <= seed < 2**64``.
        stream: another series of random bits for each stream, ``0 <= stream < 2**64``.
        out: array (or object with ``__dlpack__``) of x's shape and memory order and of ``dtype``, to be written.
        source: what the raw codes in a uint16 or uint8 ``x`` are.
        raw: give bfloat16 and 8-bit floats as uint16 and uint8 codes, and take such an ``out``; without it they are
        ml_dtypes arrays.

    Returns:
        ``out`` if given, else a new array.

    Raises:
        TypeError: ``x`` or ``out`` is no array, or of a dtype not listed.
        ValueError: a name or number out of range; ``out`` of another shape, order or dtype, read-only, or sharing
        memory with ``x``.
        ImportError: bfloat16 or an 8-bit float is asked for, ml_dtypes is not installed and ``raw`` is False.
    """
    name = name_of_dtype(dtype, "dtype")
    saturate = check_flag("saturate", saturate)
    raw = check_flag("raw", raw)
    codes, source_name = _borrow(x, "x", source)
    codes = _dense(codes)
    seed = check_whole("seed", seed, 0, 2**64 - 1)
    stream = check_whole("stream", stream, 0, 2**64 - 1)
    stochastic = check_flag("stochastic", stochastic)
    if out is None:
        target = _empty(codes, name)
        result: Any = target if raw else _named(target, name)
    else:
        target, out_name = _borrow(out, "out", name if raw and name in RAW else None)
        if out_name != name:
            raise ValueError(f"out has dtype {out_name} and dtype={name!r}; accepted: the same")
        _check_out(target, codes)
        result = out
    _train.convert(codes, source_name, None, target, name, None, saturate, stochastic, seed, stream)
    return result


def quantize(
    x: Any, *, signed: bool = True, stochastic: bool = False, seed: int = 0, stream: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """``x`` in 8 bits an element and one float32 for each block of 256, the code of 8-bit optimizer state.

    A block's largest magnitude is kept to 2**-20 of it. Others are off by at most 1/64 (narrow blocks) to 1/16
    (blocks over many octaves) of themselves, or, below 3 to 15 octaves (unsigned: 3 to 31) under the largest, by an
    even step. ``signed=False`` is for what is never negative (second moments): a positive number never becomes 0, a
    negative one always does. A block with inf or NaN reads back as NaN throughout; a block of zeros as zeros.
    csrc/kernels/quantize_math.h defines the code.

    Args:
        x: float32, float16, bfloat16 or 8-bit floats, any shape; see :func:`cast`.
        signed: see above.
        stochastic: as in :func:`cast`; for averages that change by less than a code a step.
        seed: as in :func:`cast`.
        stream: as in :func:`cast`.

    Returns:
        ``(codes, scales)``: uint8 of x's shape, float32 of shape ``(ceil(x.size / 256),)``. The scales' lowest bits
        are part of the
        code: keep them as they are. Blocks follow each other in memory order.

    Raises:
        TypeError, ValueError: as in :func:`cast`.
    """
    values, source_name = _borrow(x, "x")
    values = _dense(values)
    codes: NDArray[np.uint8] = np.empty_like(values, dtype=np.uint8, subok=False)
    scales = np.empty(-(-values.size // BLOCK), np.float32)
    seed = check_whole("seed", seed, 0, 2**64 - 1)
    stream = check_whole("stream", stream, 0, 2**64 - 1)
    stochastic = check_flag("stochastic", stochastic)
    block = "block8" if check_flag("signed", signed) else "ublock8"
    _train.convert(values, source_name, None, codes, block, scales, False, stochastic, seed, stream)
    return codes, scales


def dequantize(
    codes: NDArray[np.uint8], scales: NDArray[np.float32], *, signed: bool = True, out: Any = None
) -> NDArray[np.float32]:
    """What :func:`quantize` made of an array, as float32 of the shape of ``codes``.

    Args:
        codes: uint8, dense.
        scales: float32, one for each 256 codes.
        signed: as given to :func:`quantize`.
        out: float32 array of the shape and memory order of ``codes``, to be written.

    Raises:
        TypeError: ``codes`` or ``out`` of another kind or dtype.
        ValueError: another number of scales; ``codes`` strided; ``out`` of another shape or order, read-only, or
        sharing memory.
    """
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8:
        raise TypeError(f"codes is {getattr(codes, 'dtype', type(codes).__name__)}; accepted: numpy.ndarray of uint8")
    if out is None:
        out = np.empty_like(codes, dtype=np.float32, subok=False)
    elif not isinstance(out, np.ndarray) or out.dtype != np.float32:
        raise TypeError(f"out is {getattr(out, 'dtype', type(out).__name__)}; accepted: numpy.ndarray of float32")
    _check_out(out, codes)
    block = "block8" if check_flag("signed", signed) else "ublock8"
    _train.convert(codes, block, scales, out, "float32", None, False, False, 0, 0)
    result: NDArray[np.float32] = out
    return result


def unscale(grads: Sequence[Any], inv_scale: float) -> bool:
    """Multiplies every array by ``inv_scale``, in place, and tells whether any product was inf or NaN.

    The first half of a loss scaler's step (``torch.amp.GradScaler.unscale_``); products are taken in float32.

    Args:
        grads: float32, float16 or bfloat16 arrays, or objects with ``__dlpack__``; dense, of any shape.
        inv_scale: the reciprocal of the loss scale, finite.

    Returns:
        True if a gradient overflowed (or was inf or NaN before): leave the step out.

    Raises:
        TypeError: ``grads`` is no list of such arrays.
        ValueError: an array is strided or read-only. Those before it in the list are checked, none is changed.
    """
    if isinstance(grads, (np.ndarray, str)) or not isinstance(grads, Iterable):
        raise TypeError(f"grads is a {type(grads).__name__}; accepted: a list of arrays")
    borrowed = [_borrow(grad, f"grads[{index}]") for index, grad in enumerate(grads)]
    for index, (array, name) in enumerate(borrowed):
        if name not in ("float32", "bfloat16", "float16"):
            raise TypeError(f"grads[{index}] has dtype {name}; accepted: float32, float16, bfloat16")
        if not array.flags.forc or not array.flags.writeable or not array.flags.aligned:
            raise ValueError(f"grads[{index}] is strided, read-only or misaligned; accepted: dense, writable arrays")
    inv_scale = check_number("inv_scale", inv_scale, least=None, finite=True)
    found = False
    for array, name in borrowed:
        found |= _train.scale(array, name, inv_scale)
    return found
