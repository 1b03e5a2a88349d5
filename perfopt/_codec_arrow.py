"""Arrow data as bytes: the IPC streaming format (``.arrows``), which any Arrow library reads, and pyarrow's values in it.

The parts of a stream are the value's own buffers, so writing copies nothing; what is read are views of the caller's buffer.
Arrow never changes what it has made, so these values need no protection.

What counts is what ``equals(check_metadata=True)`` compares. Chunks come back as they were, but for a table whose columns are cut
in different places. Extension types are refused both ways, since to read one calls what somebody registered under its name.
Sources: the Arrow columnar format, "Serialization and Interprocess Communication"; its security advice: what was read is
validated in full before anything looks at it, so that an offset that lies cannot lead out of the buffer. That takes no time for
numbers and one pass over text, lists and dictionary codes. pyarrow is imported when a table is written or read, never before.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from perfopt._codec_arrays import Unstorable, named_culprit

_STRUCTURE = b"perfopt"  # the key in the metadata of a schema under which the structure around the table is
_EXTENSION = b"ARROW:extension:name"
_SMALL = 4096  # parts up to this size are joined


class Content(NamedTuple):
    """What a stream holds: a schema and batches of exactly that schema."""

    schema: Any
    batches: list[Any]


# ---- streams -------------------------------------------------------------------------------------------------------------------


class _Parts:
    """A file for pyarrow to write to, which keeps the buffers that it is given."""

    closed = False

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.small = bytearray()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        if len(data) <= _SMALL:
            self.small += data
        else:
            self.flush()
            self.parts.append(data)
        return len(data)

    def flush(self) -> None:
        if self.small:
            self.parts.append(bytes(self.small))
            self.small.clear()


def write(content: Content) -> tuple[Any, ...]:
    """The parts of a stream, which look into the buffers of the batches.

    Raises:
        Unstorable: a type that the format, or this file, does not take; or values that Arrow's own validation does not.
    """
    import pyarrow as arrow

    parts = _Parts()
    try:
        _check_schema(arrow, content.schema)
        with arrow.ipc.new_stream(arrow.PythonFile(parts, mode="w"), content.schema) as stream:
            for batch in content.batches:
                batch.validate(full=True)  # as who reads it does
                stream.write_batch(batch)
    except arrow.ArrowException as error:
        raise Unstorable(named_culprit(f"Arrow data that no stream holds ({error})"[:200])) from error
    parts.flush()
    return tuple(parts.parts)


def _check_schema(arrow: Any, schema: Any) -> None:
    """Unstorable if the schema would not come back as it is, down to its metadata."""
    message = schema.serialize()
    if _EXTENSION in bytes(message):
        raise Unstorable(named_culprit("Arrow extension type (use .storage)"))
    if not arrow.ipc.read_schema(message).equals(schema, check_metadata=True):
        raise Unstorable(named_culprit("Arrow schema that its stream format changes"))


def read(data: memoryview) -> Content:
    """The content of a stream, as views of data. ValueError or an Arrow exception for anything else than a whole, valid one."""
    import pyarrow as arrow

    source = arrow.py_buffer(data)
    if _EXTENSION in bytes(arrow.ipc.read_message(source).metadata):
        raise ValueError("an Arrow extension type")
    with arrow.ipc.open_stream(source) as stream:
        content = Content(stream.schema, list(stream))
    for batch in content.batches:
        batch.validate(full=True)
    return content


def pack(content: Content, structure: bytes) -> tuple[int, tuple[Any, ...]]:
    """(width of an item in bytes, parts) of a stream with the structure in the metadata of its schema."""
    metadata = {**(content.schema.metadata or {}), _STRUCTURE: base64.b64encode(structure)}
    schema = content.schema.with_metadata(metadata)
    batches = [batch.replace_schema_metadata(metadata) for batch in content.batches]
    parts = write(Content(schema, batches))
    return _item_bytes(schema), parts


def unpack(data: memoryview) -> tuple[bytes, Content]:
    """The inverse of pack()."""
    schema, batches = read(data)
    metadata = dict(schema.metadata or {})
    structure = base64.b64decode(metadata.pop(_STRUCTURE), validate=True)
    kept = metadata or None
    return structure, Content(schema.with_metadata(kept), [batch.replace_schema_metadata(kept) for batch in batches])


def _item_bytes(schema: Any) -> int:
    """The width that all columns have in common, which helps compression; else 1."""
    widths = set()
    for kind in schema.types:
        try:
            widths.add(kind.bit_width)
        except ValueError:  # of no fixed width
            return 1
    width = widths.pop() if len(widths) == 1 else 8
    return max(width // 8, 1)


# ---- pyarrow's values ----------------------------------------------------------------------------------------------------------


def is_arrow(arrow: Any, kind: type) -> bool:
    """Whether values of this type are tables, batches or arrays of pyarrow."""
    return issubclass(kind, (arrow.Table, arrow.RecordBatch, arrow.Array, arrow.ChunkedArray))


def describe(arrow: Any, value: Any) -> tuple[Content, list[Any]]:
    """The content of a value for which is_arrow(), and what restore() needs to make it again."""
    if not getattr(value, "is_cpu", True):
        raise Unstorable(
            named_culprit(f"{type(value).__name__} on a device (use .copy_to() with the CPU's memory manager)")
        )
    if isinstance(value, (arrow.Table, arrow.RecordBatch)):
        is_table = isinstance(value, arrow.Table)
        taken = (value.schema.metadata or {}).get(_STRUCTURE)  # this was read from a file of ours by another reader
        content = Content(value.schema, value.to_batches() if is_table else [value])
        return content, ["table" if is_table else "batch", taken]
    chunks = value.chunks if isinstance(value, arrow.ChunkedArray) else [value]
    schema = arrow.schema([arrow.field("values", value.type)])
    content = Content(schema, [arrow.RecordBatch.from_arrays([chunk], schema=schema) for chunk in chunks])
    return content, ["chunks" if isinstance(value, arrow.ChunkedArray) else "array"]


def restore(content: Content, description: list[Any]) -> Any:
    """The value that describe() described."""
    import pyarrow as arrow

    match description:
        case ["table" | "batch" as kind, taken]:
            if taken is not None:
                metadata = {**(content.schema.metadata or {}), _STRUCTURE: taken}
                batches = [batch.replace_schema_metadata(metadata) for batch in content.batches]
                content = Content(content.schema.with_metadata(metadata), batches)
            if kind == "table":
                return arrow.Table.from_batches(content.batches, content.schema)
            (batch,) = content.batches
            return batch
        case ["chunks"]:
            (kind,) = content.schema.types
            return arrow.chunked_array([batch.column(0) for batch in content.batches], kind)
        case ["array"]:
            (batch,) = content.batches
            (column,) = batch.columns
            return column
    raise ValueError("an unknown description of Arrow data")
