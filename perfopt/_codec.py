"""How Python values become bytes of the disk tier, and how they come back: equal, of the same types, nothing executed.

The scalars that are stored most (None, bool, 64-bit int, float, str, bytes) are encoded in ``disk_tier.c`` and never come here.
``encode`` turns everything else into *(kind, file suffix, item bytes, buffers)*; ``decode`` turns a kind and bytes back. Kinds:

=============  =========================================================================================================
``npy/1``      one NumPy array: a ``.npy`` file whose data begins at a multiple of 64 bytes
``arrays/1``   a value with arrays inside: a ``.safetensors`` file; the structure around them is in its ``__metadata__``
``tensors/1``  the same with PyTorch tensors inside (to be mapped writable and private: PyTorch has no read-only tensors)
``arrow/1``    a value with one table inside (of pandas or Arrow): an ``.arrows`` file, Arrow's streaming format; the structure
               around the table is in the metadata of its schema
``struct/1``   a value without arrays: MessagePack, see below
``pickle/1``   HMAC-SHA256 of the user's key over context and pickle, then the pickle
=============  =========================================================================================================

Structures are MessagePack (``_codec_codes.py``), written by ``_codec_write.py`` and read by ``_codec_read.py``.
Tables are described by ``_codec_pandas.py`` and become streams in ``_codec_arrow.py``.
Hostile bytes give a ValueError, never more memory than a small multiple of their length (but for an Arrow stream that somebody
compressed, which nothing here does), and no recursion beyond the limit of the interpreter.
Other libraries are imported when bytes of theirs are read, never to write; but pyarrow writes what is of pandas.

Ownership: arrays are read-only views of the buffer that ``decode`` was given, tensors share its (private) memory; both keep it
alive.
"""

from __future__ import annotations

import hmac
import pickle
import struct
import sys
from typing import Any

import msgspec

from perfopt import _codec_arrays as arrays
from perfopt import _codec_arrow
from perfopt._codec_arrays import Unstorable
from perfopt._codec_read import Reader
from perfopt._codec_write import Writer

Encoded = tuple[str, str, int, tuple[Any, ...]]

_MAC_BYTES = 32
_STREAM_ALIGNMENT = 8  # what Arrow's own buffers in a stream have
_KINDS = ("npy/1", "arrays/1", "tensors/1", "arrow/1", "struct/1", "pickle/1")


def encode(value: Any, pickle_key: bytes | None, context: bytes) -> Encoded:
    """The bytes of a value: (kind, suffix of a file, width of its items in bytes, buffers whose concatenation is the payload).

    The buffers look into the value where it is contiguous, so it must not change while they are used.

    Args:
        value: any object.
        pickle_key: the user's key, which allows a pickle where no safe format holds the value; None: no pickles.
        context: what the entry belongs to (its key); a pickle is only read under the same context.

    Raises:
        Unstorable: no safe format holds the value, and a pickle is not allowed or not possible either.
        Exception: what the value's own ``__reduce__`` or ``__getstate__`` raises; but a TypeError, AttributeError or
            RecursionError, with which pickle itself says no, becomes Unstorable.
    """
    try:
        return _encode_safely(value)
    except Unstorable as error:
        if pickle_key is None:
            raise
        return _encode_pickle(value, pickle_key, context, error)


def _encode_safely(value: Any) -> Encoded:
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray:
        descr = arrays.npy_descr(value.dtype)
        if descr is not None:
            data, fortran = arrays.array_bytes(value), arrays.is_fortran(value)
            return "npy/1", ".npy", value.itemsize, (arrays.npy_header(descr, fortran, value.shape), data)
    writer = Writer()
    try:
        packed = msgspec.msgpack.encode(writer.write(value, (), 0))
    except RecursionError:
        raise Unstorable(
            arrays.named_culprit(f"{type(value).__name__} nested too deep for what is left of the stack")
        ) from None
    except OverflowError:  # msgspec's word for a member of 4 GiB
        raise Unstorable(arrays.named_culprit(f"{type(value).__name__} with a member of 4 GiB or more")) from None
    if len(writer.tables) == 1 and not writer.slots:
        (table,) = writer.tables.values()
        return "arrow/1", ".arrows", *_codec_arrow.pack(table, packed)
    for name, table in writer.tables.items():
        stream = b"".join(_codec_arrow.write(table))
        writer.slots.append(arrays.Slot(name, "U8", (len(stream),), _STREAM_ALIGNMENT, stream))
    if not writer.slots:
        return "struct/1", ".msgpack", 1, (packed,)
    widths = {slot.item_bytes for slot in writer.slots}
    kind = "tensors/1" if writer.has_tensors else "arrays/1"
    return kind, ".safetensors", widths.pop() if len(widths) == 1 else 1, arrays.pack(writer.slots, packed)


def _mac(key: bytes, context: bytes, pickled: bytes) -> bytes:
    """context is preceded by its length, so that nothing can move from it into the pickle."""
    mac = hmac.new(key, b"perfopt pickle/1\0" + struct.pack("<Q", len(context)) + context, "sha256")
    mac.update(pickled)
    return mac.digest()


def _encode_pickle(value: Any, key: bytes, context: bytes, error: Unstorable) -> Encoded:
    try:
        pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        raise error from None
    return "pickle/1", ".pickle", 1, (_mac(key, context, pickled), pickled)


def _decode_pickle(data: memoryview, key: bytes | None, context: bytes) -> Any:
    if key is None:
        raise ValueError("a pickle, which no key allows")
    pickled = bytes(
        data[_MAC_BYTES:]
    )  # a copy: what is checked is what is read, whoever may write to the file meanwhile
    if not hmac.compare_digest(bytes(data[:_MAC_BYTES]), _mac(key, context, pickled)):
        raise ValueError("a pickle that is not by this key")
    return pickle.loads(pickled)


def decode(kind: str, data: Any, pickle_key: bytes | None, context: bytes) -> Any:
    """The value of a payload.

    Args:
        kind: as encode() gave it.
        data: a buffer with the payload, which the value may look into and keep alive. For ``tensors/1`` it should be
            writable and private (tensors are copied out of one that is not).
        pickle_key: the user's key; None: a pickle is refused.
        context: as given to encode().

    Raises:
        ValueError: these are not the bytes of a value, or are of one that may not be read.
        MemoryError: out of memory.
    """
    try:
        return _decode(kind, memoryview(data), pickle_key, context)
    except MemoryError:
        raise
    except Exception as error:  # whatever hostile bytes, or the user's own unpickling, can raise
        raise ValueError(f"these bytes are no {kind} value: {error}") from error


def _decode(kind: str, data: memoryview, pickle_key: bytes | None, context: bytes) -> Any:
    if kind == "npy/1":
        return arrays.read_npy(data.toreadonly())
    if kind == "struct/1":  # a copy, as of every header: nobody shall change what was checked between two looks at it
        return Reader(data, {}).read(bytes(data))
    if kind in ("arrays/1", "tensors/1"):
        structure, spans = arrays.unpack(data)
        return Reader(data, spans).read(structure)
    if kind == "arrow/1":
        structure, table = _codec_arrow.unpack(data.toreadonly())
        return Reader(data, {}, table).read(structure)
    if kind == "pickle/1":
        return _decode_pickle(data, pickle_key, context)
    raise ValueError(
        f"the kind is unknown here (known: {', '.join(_KINDS)}); a newer version of perfopt may have written it"
    )
