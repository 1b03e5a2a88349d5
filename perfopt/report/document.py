"""The report: one versioned document of what a run was and what was measured in it.

A report is data and no judgement of a page: whatever makes one (the profiler, the code profiler, the command line) fills
these structs, and whatever shows, compares or watches one reads them. It is saved as JSON. Version rule: fields may be
added within a version, which raises ``MINOR``, and readers pass over what they do not know; a change that would make an old
reader wrong raises ``VERSION``, and a reader refuses a newer version by name.

Times are in seconds, moments in nanoseconds since 1970 UTC, memory in bytes; None says "not known here", never 0.
Instances are immutable; parts that do not fit together (a node before its parent, columns of unequal length) are refused with
ValueError, also when they are read, and so are a leak verdict and ``extra`` that are not what their readers take them for.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from perfopt.report._checks import check_extra, check_verdict
from perfopt.report.text import printable

__all__ = [
    "MINOR",
    "SCHEMA",
    "VERSION",
    "Clock",
    "Finding",
    "Histogram",
    "Host",
    "Loader",
    "MemoryRecord",
    "Node",
    "Operation",
    "Recording",
    "Reference",
    "Report",
    "Timing",
    "atomic_write",
    "dumps",
    "json_schema",
    "load",
    "loads",
    "map_texts",
    "save",
]

SCHEMA = "perfopt.report"
VERSION = 1
MINOR = 1  # 0: no reference
_LONGEST = 1e9  # seconds of a range


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine as the process saw it."""

    name: str | None = None  # left out of confidential reports
    system: str
    python: str
    processor: str | None = None
    processors: int | None = None  # that this process may run on
    memory_bytes: int | None = None
    limit_bytes: int | None = None  # smallest of the machine's memory and the limits of the process's cgroups
    limit_source: str = "unknown"
    accelerators: list[str] = []
    versions: dict[str, str] = {}  # of perfopt, numpy, torch ..., where they were loaded


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """Where ticks came from and what reading one costs."""

    source: str
    nanoseconds_per_tick: float
    read_cost_seconds: float


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that a fixed loop took, of several repetitions: the fastest, and the third quartile."""

    least: float
    upper: float

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.upper < math.inf:
            raise ValueError(
                f"least and upper time of a loop must be above 0 and in this order, not {self.least!r}, {self.upper!r}"
            )


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """How fast the machine was when the report was made; see :mod:`perfopt.report.reference`."""

    loops: int  # which loops: only equal ones can be compared
    interpreter: Timing
    memory: Timing
    cost_seconds: float  # of taking this reading; in no figure of the run


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What the profiler itself cost and what it lost."""

    range_cost_seconds: float  # of one range on this machine, measured
    overhead_seconds: float  # range cost times ranges
    memory_bytes: int
    ranges: int
    spans: int = 0
    dropped_ranges: int = 0  # memory was out
    dropped_spans: int = 0
    overflow_ranges: int = 0  # under names beyond the limit
    missing_processes: int = 0  # children that ended without reporting


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in buckets with counts above 0: bucket i holds values in [lower[i], upper[i]), in rising order."""

    lower: list[float]
    upper: list[float]
    counts: list[int]

    def __post_init__(self) -> None:
        if not len(self.lower) == len(self.upper) == len(self.counts):
            raise ValueError("lower, upper and counts of a histogram must be of one length")
        if any(count < 1 for count in self.counts):
            raise ValueError("the counts of a histogram must be above 0")
        if not all(0 <= low <= high <= _LONGEST for low, high in zip(self.lower, self.upper, strict=True)):
            raise ValueError(
                f"the buckets of a histogram must go from 0 or more to more, and to at most {_LONGEST:g} seconds"
            )


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One name over all threads and processes. Wall time from begin to end; active only while it ran (they differ for
    coroutines and generators); self is active time without that of the ranges inside."""

    name: str | None  # None: all names beyond the limit together
    count: int
    total: float
    active: float
    self_time: float = msgspec.field(name="self")
    mean: float
    deviation: float
    least: float
    greatest: float
    p50: float
    p90: float
    p99: float
    p999: float
    error: float  # bound of the relative error of the percentiles
    kind: str = "function"  # function, preprocessing, augmentation, loading, gpu, io
    callers: dict[str, int] = {}  # calls from each operation directly around it
    memory: dict[str, float] | None = (
        None  # deltas when asked for: {"measure": ..., "mean_bytes", "greatest_bytes", "total_bytes"}
    )
    cpu_seconds: float | None = None  # processor time, where it was taken
    histogram: Histogram | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A name under a path of names. Parents stand before their children; parent is an index or -1."""

    parent: int
    name: str | None
    thread: int = 0
    count: int
    total: float
    self_time: float = msgspec.field(name="self")


class MemoryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the memory monitor saw: columns of equal length over ``seconds``, None where a figure was not known."""

    seconds: list[float]
    columns: dict[str, list[int | None]]  # rss, uss, heap_in_use, heap_retained, cgroup_usage, cuda_allocated, ...
    peak_rss: int | None = None
    verdict: dict[str, Any] | None = None  # of perfopt.memory.leak_verdict
    collector: dict[str, float] | None = None  # garbage collections: count, seconds, collected, uncollectable
    events: dict[str, int] = {}  # cgroup events and pressure events since the start

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if len(column) != len(self.seconds):
                raise ValueError(f"column {name!r} has {len(column)} values for {len(self.seconds)} moments")
        check_verdict(self.verdict)


class Loader(msgspec.Struct, frozen=True, kw_only=True):
    """One data loader: where its consumer's time went."""

    name: str
    batches: int
    samples: int | None = None
    workers: int = 0
    wait_seconds: float  # the consumer waited for a batch
    compute_seconds: float  # the consumer worked between batches
    start_seconds: float | None = None  # until the first batch, workers' start included
    wait_p50: float | None = None
    wait_p99: float | None = None
    queue_depth_mean: float | None = None
    bytes_read: int | None = None
    cache_hits: int | None = None
    cache_misses: int | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something worth changing, with what it rests on. An empty list of findings says that nothing was found."""

    rule: str  # slow_functions, memory_intensive_functions, slow_data_loading, slow_preprocessing, slow_gpu_operations, ...
    subject: str  # the operation, loader or series
    evidence: str  # one sentence with the figures
    figures: dict[str, float] = {}  # the same as numbers, with the threshold
    share: float | None = None  # of the run's time
    gain_bound: float | None = (
        None  # the run cannot become faster than by this factor if the subject took no time (Amdahl 1967)
    )
    advice: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    schema: str = SCHEMA
    version: int = VERSION
    minor: int = MINOR  # of the perfopt that made it
    title: str
    created_ns: int
    duration: float  # of what was measured, wall time
    command: list[str] | None = None  # left out of confidential reports
    host: Host
    clock: Clock
    recording: Recording
    reference: Reference | None = None  # None in live reports, and in those without histograms
    operations: list[Operation]
    tree: list[Node] = []
    memory: MemoryRecord | None = None
    loaders: list[Loader] = []
    findings: list[Finding] = []
    notes: list[str] = []  # what was not measured here, and why
    extra: dict[str, Any] = {}  # for callers: JSON values under names of their own

    def __post_init__(self) -> None:
        for index, node in enumerate(self.tree):
            if not -1 <= node.parent < index:
                raise ValueError(
                    f"node {index} of the tree has the parent {node.parent}, which does not stand before it"
                )
        check_extra(self.extra)

    def operation(self, name: str) -> Operation:
        """The operation of that name; KeyError names those there are."""
        for operation in self.operations:
            if operation.name == name:
                return operation
        raise KeyError(f"no operation {name!r} in this report; it has {[known.name for known in self.operations]}")


class _Envelope(msgspec.Struct):
    """The fields that every version has; the first documents had no ``minor``."""

    schema: str = ""
    version: int = 0
    minor: int = 0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Report)
_envelope = msgspec.json.Decoder(_Envelope)


def json_schema() -> Mapping[str, Any]:
    """The document's JSON Schema (draft 2020-12)."""
    return msgspec.json.schema(Report)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """value with change() applied to every text in it, keys of dicts included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_texts(item, change) for item in value]
    if isinstance(value, tuple):
        return tuple(map_texts(item, change) for item in value)
    if isinstance(value, dict):
        return {map_texts(key, change): map_texts(item, change) for key, item in value.items()}
    if isinstance(value, msgspec.Struct) and not isinstance(value, Histogram):
        fields = {name: map_texts(getattr(value, name), change) for name in value.__struct_fields__}
        return type(value)(**fields)
    return value


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def dumps(report: Report) -> bytes:
    """The report as JSON. ValueError when it could not be read back: JSON has no infinity and no NaN.

    Lone surrogates, which names of files and arguments of the command hold for bytes that are no UTF-8, are written as
    backslash escapes."""
    try:
        data = _encoder.encode(report)
    except UnicodeEncodeError:
        data = _encoder.encode(map_texts(report, _without_surrogates))
    try:
        _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(
            f"report holds a figure that JSON cannot hold (not finite, or of another type): {error}"
        ) from error
    return data


def loads(data: bytes | str, source: str = "the report") -> Report:
    """The report in ``data``. ValueError, begun with ``source``, when it is no report, is damaged or of a newer version."""
    try:
        envelope = _envelope.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{source} is not a perfopt report: {printable(str(error), 1000)}") from error
    if envelope.schema != SCHEMA:
        raise ValueError(f"{source} is not a perfopt report: its schema is {envelope.schema!r}, not {SCHEMA!r}")
    if envelope.version > VERSION:
        raise ValueError(
            f"{source} is a report of version {envelope.version}; this perfopt reads versions up to {VERSION}"
        )
    try:
        report = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{source} is a damaged perfopt report: {printable(str(error), 1000)}") from error
    return report if report.minor == envelope.minor else msgspec.structs.replace(report, minor=envelope.minor)


def load(path: str | os.PathLike[str]) -> Report:
    """The report saved at ``path``. OSError when it cannot be read, ValueError as for :func:`loads`."""
    return loads(Path(path).read_bytes(), source=str(path))


def save(report: Report, path: str | os.PathLike[str]) -> Path:
    """Writes the report as JSON to ``path``, whole or not at all; a file that is there is replaced. Returns the path."""
    return atomic_write(Path(path), dumps(report))


def atomic_write(target: Path, data: bytes) -> Path:
    """Writes a file whole or not at all: under another name first, with the permissions of a new file. Returns target.

    What is there and is no regular file (a device, a pipe) is written to and not replaced."""
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return target
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target
