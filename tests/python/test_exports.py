"""Every export read back by a reader that others wrote: json, pstats, csv, Prometheus' parser, Perfetto's own messages.

Captures that no profiler would make (crossing spans, broken UTF-8, ids that repeat) are described to the exporters' driver
program; the last part exports what the profiler has recorded. tests/c/test_export.c has failing sinks, sources and allocations.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import pstats
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from perfopt.profiler import PerformanceProfiler

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ["chrome", "perfetto", "speedscope", "collapsed", "pstats", "prometheus", "otel", "csv"]
EPOCH = 1_700_000_000_123_456_789
HOSTILE = [
    b"",
    b'a "b"\\',
    b"nul\0nul",
    b"line\r\nfeed\ttab",
    b"a;b,c",
    "\N{ROCKET} \u00e4".encode(),
    b"\xed\xa0\x80 lone",
    b"\xff\xfe",
    b"\x7f\x1b[0m",
]
REPAIRED = [
    repaired.decode("utf-8", "replace") for repaired in HOSTILE
]  # CPython, too, puts one U+FFFD for each byte of these


@dataclass
class Described:
    """A capture as tables of plain values, and the lines that describe it."""

    names: list[bytes] = field(default_factory=list)
    processes: list[tuple[int, bytes]] = field(default_factory=lambda: [(4242, b"train.py")])
    threads: list[tuple[int, int, bytes]] = field(default_factory=lambda: [(0, 4242, b"main")])
    rows: list[tuple[int, float, list[int]]] = field(default_factory=list)
    nodes: list[tuple[int, int, int, int, float, float]] = field(default_factory=list)
    spans: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)

    def lines(self) -> str:
        out = [f"capture {EPOCH} 5000000000 3 2 1"]
        out += [f"process {pid} x{command.hex()}" for pid, command in self.processes]
        out += [f"thread {process} {tid} x{name.hex()}" for process, tid, name in self.threads]
        out += [f"name x{name.hex()}" for name in self.names]
        out += [f"row {name} {scale!r} {len(ticks)} {' '.join(map(str, ticks))}" for name, scale, ticks in self.rows]
        out += [" ".join(map(str, ("node", *node))) for node in self.nodes]
        out += [" ".join(map(str, ("span", *span))) for span in self.spans]
        return "\n".join(out) + "\n"


Export = Callable[[str, Described], Path]


@pytest.fixture(scope="session")
def driver() -> Path:
    for tool in ("gcc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"the exporters' driver is a C program and {tool} is not here")
    target = "build/export/export_driver"
    made = subprocess.run(["make", "-s", target, f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return ROOT / target


@pytest.fixture
def export(driver: Path, tmp_path: Path) -> Export:
    def run(format: str, described: Described) -> Path:
        path = tmp_path / f"out.{format}"
        done = subprocess.run([driver, format, path], input=described.lines(), text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return path

    return run


def nests(intervals: list[tuple[float, float]]) -> bool:
    """Whether intervals (begin, end) of one track are pairwise disjoint or inside each other."""
    open_ends: list[float] = []
    for begin, end in sorted(intervals, key=lambda pair: (pair[0], -pair[1])):
        while open_ends and open_ends[-1] <= begin:
            open_ends.pop()
        if open_ends and end > open_ends[-1]:
            return False
        open_ends.append(end)
    return True


def random_spans(seed: int) -> list[tuple[int, int, int, int, int, int]]:
    """Spans of three threads, in the order of their ends, many of them crossing, touching, empty, or beginning together."""
    draw = random.Random(seed)
    ends = sorted(draw.randrange(-500, 3000) for _ in range(300))
    return [
        (
            end - (length := draw.choice([0, 1, 5, 50, 700])),
            length,
            draw.randrange(-1, 4),
            draw.randrange(-1, 3),
            draw.random() < 0.1,
            draw.randrange(5),
        )
        for end in ends
    ]


def hostile() -> Described:
    """Hostile names in every place that has text."""
    count = len(HOSTILE)
    return Described(
        names=[*HOSTILE, b"x" * (1 << 20)],
        processes=[(7, name) for name in HOSTILE],
        threads=[(i, 7, name) for i, name in enumerate(HOSTILE)],
        rows=[(i, 1.0, [1000 * (i + 1)]) for i in range(count + 1)] + [(-1, 1.0, [5])],
        nodes=[(-1, i, i % count, 1, 10.0, 10.0) for i in range(count + 1)] + [(-1, -1, 0, 1, 3.0, 3.0)],
        spans=[(100 * i, 50, i, i % count, 0, 0) for i in range(count + 1)] + [(9000, 5, -1, 0, 0, 0)],
    )


# ---- Chrome ------------------------------------------------------------------------------------


def chrome_spans(trace: dict[str, Any]) -> Counter[tuple[str, int, int]]:
    """(name, begin, duration) of all spans of a trace, in ns since 1970, asynchronous ones by their pairs."""
    found: Counter[tuple[str, int, int]] = Counter()
    opened: dict[str, tuple[str, int]] = {}
    base = trace["baseTimeNanoseconds"]
    for event in trace["traceEvents"]:
        if event["ph"] == "M":
            continue
        begin = base + round(event["ts"] * 1000)
        if event["ph"] == "X":
            found[event["name"], begin, round(event["dur"] * 1000)] += 1
        elif event["ph"] == "b":
            assert event["id"] not in opened
            opened[event["id"]] = (event["name"], begin)
        else:
            assert event["ph"] == "e"
            name, opened_at = opened.pop(event["id"])
            assert name == event["name"]
            found[name, opened_at, begin - opened_at] += 1
    assert not opened
    return found


@pytest.mark.parametrize("seed", range(8))
def test_chrome_keeps_every_span_and_nests(export: Export, seed: int) -> None:
    names = [b"a", b"b", b"c", b"d"]
    threads = [(0, 1, b"one"), (0, 2, b"two"), (-1, 1, b"three")]
    described = Described(names=names, threads=threads, spans=random_spans(seed))
    trace = json.loads(export("chrome", described).read_bytes())
    labels = ["a", "b", "c", "d", "(other names)"]
    assert chrome_spans(trace) == Counter(
        (labels[name], EPOCH + begin, length) for begin, length, name, *_ in described.spans
    )
    assert all(event["ts"] >= 0 for event in trace["traceEvents"] if "ts" in event)
    tracks = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            tracks[event["pid"], event["tid"]].append((begin, begin + round(event["dur"] * 1000)))
    assert len(tracks) == 4
    assert all(nests(intervals) for intervals in tracks.values())
    assert trace["otherData"] == {"producer": "perfopt", "dropped_spans": 3, "dropped_records": 2, "overflow_names": 1}


def test_chrome_nested_spans_are_complete_events(export: Export) -> None:
    spans = [(10, 5, 1, 0, 0, 1), (20, 5, 1, 0, 0, 1), (0, 100, 0, 0, 0, 0), (40, 500, 2, 0, 1, 0)]
    events = json.loads(export("chrome", Described(names=[b"step", b"part", b"task"], spans=spans)).read_bytes())[
        "traceEvents"
    ]
    assert [event["ph"] for event in events] == ["M", "M", "X", "X", "X", "b", "e"]
    assert events[2] == {"name": "part", "ph": "X", "ts": 0.01, "dur": 0.005, "pid": 4242, "tid": 4242}


def test_chrome_tells_processes_of_one_id_apart(export: Export) -> None:
    described = Described(processes=[(1, b"a"), (1, b"b")], threads=[(0, 1, b"m"), (1, 1, b"m")])
    events = json.loads(export("chrome", described).read_bytes())["traceEvents"]
    assert len({event["pid"] for event in events}) == 2
    assert len({event["tid"] for event in events if event["name"] == "thread_name"}) == 2
    assert [event["args"].get("system_id") for event in events] == [None, 1, None, 1]


# ---- Perfetto ----------------------------------------------------------------------------------


@dataclass
class PerfettoTrace:
    """What a reader makes of the packets: tracks, and slices as (track, name, begin, duration)."""

    tracks: dict[int, Any]
    slices: list[tuple[int, str, int, int]]
    processes: dict[int, str]
    threads: dict[tuple[int, int], str]


def read_perfetto(path: Path) -> PerfettoTrace:
    """Perfetto's own message classes decode; then what its trace processor does: a stable sort by time, a stack a track."""
    messages = pytest.importorskip(
        "perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="needs the package perfetto"
    )
    trace = messages.Trace()
    trace.ParseFromString(path.read_bytes())
    assert trace.packet[0].sequence_flags == 1
    assert [clock.clock_id for clock in trace.packet[0].clock_snapshot.clocks] == [6, 1]
    tracks: dict[int, Any] = {}
    names: dict[int, str] = {}
    events = []
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        if packet.HasField("track_descriptor"):
            assert packet.track_descriptor.uuid not in tracks
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        for name in packet.interned_data.event_names:
            names[name.iid] = name.name
        if packet.HasField("track_event"):
            assert packet.track_event.track_uuid in tracks
            events.append((packet.timestamp, packet.track_event))
    stacks: dict[int, list[tuple[str, int]]] = defaultdict(list)
    slices = []
    for at, event in sorted(events, key=lambda pair: pair[0]):
        if event.type == messages.TrackEvent.TYPE_SLICE_BEGIN:
            stacks[event.track_uuid].append((names[event.name_iid], at))
        else:
            name, begin = stacks[event.track_uuid].pop()
            slices.append((event.track_uuid, name, begin, at - begin))
    assert not any(stacks.values())
    described = tracks.values()
    return PerfettoTrace(
        tracks,
        slices,
        {track.process.pid: track.process.process_name for track in described if track.HasField("process")},
        {
            (track.thread.pid, track.thread.tid): track.thread.thread_name
            for track in described
            if track.HasField("thread")
        },
    )


@pytest.mark.parametrize("seed", range(8))
def test_perfetto_keeps_every_span(export: Export, seed: int) -> None:
    names = [b"a", b"b", b"c", b"d"]
    threads = [(0, 1, b"one"), (0, 2, b"two"), (-1, 1, b"three")]
    described = Described(names=names, threads=threads, spans=random_spans(seed))
    trace = read_perfetto(export("perfetto", described))
    labels = ["a", "b", "c", "d", "(other names)"]
    assert Counter(slice[1:] for slice in trace.slices) == Counter(
        (labels[name], EPOCH + begin, length) for begin, length, name, *_ in described.spans
    )
    for uuid, track in trace.tracks.items():
        assert not track.parent_uuid or track.parent_uuid in trace.tracks
        if track.HasField("thread"):
            intervals = [(begin, begin + length) for at, _, begin, length in trace.slices if at == uuid]
            assert nests(intervals)


def test_perfetto_nested_spans_share_their_threads_track(export: Export) -> None:
    spans = [(10, 5, 1, 0, 0, 1), (20, 5, 1, 0, 0, 1), (0, 100, 0, 0, 0, 0), (40, 500, 2, 0, 1, 0)]
    trace = read_perfetto(export("perfetto", Described(names=[b"step", b"part", b"task"], spans=spans)))
    assert trace.processes == {4242: "train.py"}
    assert trace.threads == {(4242, 4242): "main"}
    on_thread = {name for uuid, name, *_ in trace.slices if trace.tracks[uuid].HasField("thread")}
    assert on_thread == {"step", "part"}
    assert [trace.tracks[uuid].name for uuid, name, *_ in trace.slices if name == "task"] == ["task"]


# ---- from the tree: speedscope, collapsed, pstats ------------------------------------------------

# main(1) -> f -> f -> g, main -> g; a thread with g alone. Times in ns: (parent, name, thread, count, total, self)
TREE = [
    (-1, 0, 0, 1, 100.0, 10.0),
    (0, 1, 0, 2, 60.0, 20.0),
    (1, 1, 0, 3, 40.0, 15.0),
    (2, 2, 0, 4, 25.0, 25.0),
    (0, 2, 0, 1, 30.0, 30.0),
    (-1, 2, 1, 5, 50.0, 50.0),
]
TREE_CAPTURE = Described(names=[b"main", b"f", b"g"], threads=[(0, 4242, b"main"), (0, 4243, b"second")], nodes=TREE)

SPEEDSCOPE_SCHEMA = {
    "type": "object",
    "required": ["$schema", "shared", "profiles"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "https://www.speedscope.app/file-format-schema.json"},
        "exporter": {"type": "string"},
        "name": {"type": "string"},
        "shared": {
            "type": "object",
            "required": ["frames"],
            "additionalProperties": False,
            "properties": {
                "frames": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}},
                        "additionalProperties": False,
                    },
                }
            },
        },
        "profiles": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "name", "unit", "startValue", "endValue", "samples", "weights"],
                "properties": {
                    "type": {"const": "sampled"},
                    "name": {"type": "string"},
                    "unit": {"enum": ["none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"]},
                    "startValue": {"type": "number"},
                    "endValue": {"type": "number"},
                    "samples": {
                        "type": "array",
                        "items": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    },
                    "weights": {"type": "array", "items": {"type": "number"}},
                },
            },
        },
    },
}  # the part of speedscope's file format that is used, written down from its specification


def read_speedscope(path: Path) -> dict[str, Counter[tuple[str, ...]]]:
    """Weights by stack, for each profile."""
    jsonschema = pytest.importorskip("jsonschema")
    document = json.loads(path.read_bytes())
    jsonschema.validate(document, SPEEDSCOPE_SCHEMA)
    frames = [frame["name"] for frame in document["shared"]["frames"]]
    profiles: dict[str, Counter[tuple[str, ...]]] = {}
    for profile in document["profiles"]:
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["startValue"] == 0
        assert profile["endValue"] == sum(profile["weights"])
        weights: Counter[tuple[str, ...]] = Counter()
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True):
            weights[tuple(frames[index] for index in stack)] += weight
        profiles[profile["name"]] = weights
    return profiles


STACKS = {("main",): 10, ("main", "f"): 20, ("main", "f", "f"): 15, ("main", "f", "f", "g"): 25, ("main", "g"): 30}


def test_speedscope(export: Export) -> None:
    profiles = read_speedscope(export("speedscope", TREE_CAPTURE))
    assert profiles == {"train.py (4242), main (4242)": STACKS, "train.py (4242), second (4243)": {("g",): 50}}


def test_speedscope_of_nothing_has_a_profile(export: Export) -> None:
    assert read_speedscope(export("speedscope", Described())) == {"(unknown thread)": {}}


def test_collapsed(export: Export) -> None:
    lines = export("collapsed", TREE_CAPTURE).read_text().splitlines()
    stacks = {tuple(stack.split(";")): int(weight) for stack, _, weight in (line.rpartition(" ") for line in lines)}
    assert stacks == {**STACKS, ("g",): 50}


def test_pstats(export: Export) -> None:
    read: Any = pstats.Stats(str(export("pstats", TREE_CAPTURE)))
    main, f, g = (("~", 0, name) for name in ("main", "f", "g"))
    assert set(read.stats) == {main, f, g}
    figures = {key: (cc, nc, round(tt * 1e9), round(ct * 1e9)) for key, (cc, nc, tt, ct, _) in read.stats.items()}
    assert figures == {main: (1, 1, 10, 100), f: (2, 5, 35, 60), g: (10, 10, 105, 105)}
    callers = {
        key: {caller: (nc, cc, round(tt * 1e9), round(ct * 1e9)) for caller, (nc, cc, tt, ct) in row[4].items()}
        for key, row in read.stats.items()
    }
    assert callers == {
        main: {},
        f: {main: (2, 2, 20, 60), f: (3, 3, 15, 40)},
        g: {f: (4, 4, 25, 25), main: (1, 1, 30, 30)},
    }
    read.stream = io.StringIO()
    read.sort_stats("cumulative").print_stats().print_callers().print_callees()
    assert "main" in read.stream.getvalue()


def test_pstats_counts_recursion_as_cprofile_does(export: Export) -> None:
    depth = 40
    nodes = [(i - 1, 0, 0, 1, float(depth - i), 1.0) for i in range(depth)]
    read: Any = pstats.Stats(str(export("pstats", Described(names=[b"fact"], nodes=nodes))))
    (cc, nc, tt, ct, callers) = read.stats["~", 0, "fact"]
    assert (cc, nc, round(tt * 1e9), round(ct * 1e9)) == (1, depth, depth, depth)
    assert callers["~", 0, "fact"][:2] == (depth - 1, 1)


@pytest.mark.parametrize("count", [2**31 - 1, 2**31, 2**45 + 3, 2**62 + 12345])
def test_pstats_large_counts(export: Export, count: int) -> None:
    read: Any = pstats.Stats(str(export("pstats", Described(names=[b"f"], nodes=[(-1, 0, 0, count, 1.0, 1.0)]))))
    assert read.stats["~", 0, "f"][:2] == (count, count)


# ---- from the rows: Prometheus, OpenTelemetry, CSV -----------------------------------------------


def some_ticks(seed: int) -> list[int]:
    draw = random.Random(seed)
    return [int(math.exp(draw.uniform(0, 30))) if draw.random() > 0.05 else 0 for _ in range(2000)]


def read_prometheus(path: Path) -> dict[str, Any]:
    parser = pytest.importorskip("prometheus_client.parser", reason="needs the package prometheus_client")
    return {
        family.name: family
        for family in parser.text_fd_to_metric_families(io.StringIO(path.read_bytes().decode(), newline="\n"))
    }


def test_prometheus_buckets_are_exact(export: Export) -> None:
    ticks = some_ticks(1)
    scale = 0.4271
    families = read_prometheus(export("prometheus", Described(names=[b"step"], rows=[(0, scale, ticks)])))
    family = families["perfopt_operation_duration_seconds"]
    assert family.type == "histogram"
    buckets = []
    for sample in family.samples:
        assert sample.labels["operation"] == "step"
        if sample.name.endswith("_bucket"):
            buckets.append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            assert sample.value == len(ticks)
        else:
            assert sample.value == pytest.approx(sum(ticks) * scale / 1e9)
    assert buckets == sorted(buckets)
    assert len({edge for edge, _ in buckets}) == len(buckets)
    assert buckets[-1] == (math.inf, len(ticks))
    for edge, cumulative in buckets:
        assert cumulative == sum(tick * scale / 1e9 <= edge for tick in ticks)
    for below, above in itertools.pairwise(buckets):  # a bucket that holds something is narrow
        if above[1] > below[1] and above[0] < math.inf:
            assert (above[0] - below[0]) * 1e9 / scale <= max(1.0, below[0] * 1e9 / scale / 63) + 1e-6
    assert families["perfopt_dropped_spans"].samples[0].value == 3
    assert {"perfopt_operation_active_seconds", "perfopt_operation_self_seconds"} <= set(families)


@pytest.mark.parametrize("seed", range(3))
def test_otel_buckets_are_within_the_stated_error(export: Export, seed: int) -> None:
    ticks = some_ticks(seed)
    scale = 0.4271 * (seed + 1)
    document = json.loads(export("otel", Described(names=[b"step"], rows=[(0, scale, ticks)])).read_bytes())
    (resource,) = document["resourceMetrics"]
    metrics = {metric["name"]: metric for metric in resource["scopeMetrics"][0]["metrics"]}
    histogram = metrics["perfopt.operation.duration"]["exponentialHistogram"]
    assert histogram["aggregationTemporality"] == 2
    (point,) = histogram["dataPoints"]
    assert point["attributes"] == [{"key": "operation", "value": {"stringValue": "step"}}]
    assert (point["startTimeUnixNano"], point["timeUnixNano"]) == (str(EPOCH), str(EPOCH + 5_000_000_000))
    assert (point["scale"], int(point["count"]), int(point["zeroCount"])) == (6, len(ticks), ticks.count(0))
    assert point["sum"] == pytest.approx(sum(ticks) * scale / 1e9)
    assert (point["min"], point["max"]) == (
        pytest.approx(min(ticks) * scale / 1e9),
        pytest.approx(max(ticks) * scale / 1e9),
    )
    counts = [int(count) for count in point["positive"]["bucketCounts"]]
    assert counts[0] > 0
    assert counts[-1] > 0
    assert sum(counts) + int(point["zeroCount"]) == len(ticks)
    # ordered values fall into buckets in order, so the n-th value is in the bucket that holds the n-th count
    places = [point["positive"]["offset"] + i for i, count in enumerate(counts) for _ in range(count)]
    values = sorted(tick * scale / 1e9 for tick in ticks if tick > 0)
    for value, place in zip(values, places, strict=True):
        own = math.ceil(math.log2(value) * 64) - 1  # lower edge exclusive, upper inclusive
        assert abs(place - own) <= 1
        middle = (2 ** (place / 64) + 2 ** ((place + 1) / 64)) / 2
        assert abs(middle / value - 1) < 0.014
    assert metrics["perfopt.dropped_spans"]["sum"]["dataPoints"][0]["asInt"] == "3"


def test_otel_is_otlp(export: Export) -> None:
    """The published messages of OTLP accept every field, with its type, and nothing is left over."""
    messages = pytest.importorskip("opentelemetry.proto.metrics.v1.metrics_pb2", reason="needs opentelemetry-proto")
    json_format = pytest.importorskip("google.protobuf.json_format")
    described = Described(names=[b"a\xff", b"b"], rows=[(0, 0.5, [0, 7, 9000]), (1, 1.0, []), (-1, 1.0, [0])])
    data = json_format.Parse(export("otel", described).read_bytes(), messages.MetricsData())
    scope = data.resource_metrics[0].scope_metrics[0]
    histogram, *sums = scope.metrics
    assert [metric.sum.data_points[0].as_int for metric in sums] == [2, 3, 1]
    assert all(metric.sum.is_monotonic for metric in sums)
    points = histogram.exponential_histogram.data_points
    assert [(point.count, point.zero_count, point.scale) for point in points] == [(3, 1, 6), (0, 0, 6), (1, 1, 6)]
    assert [sum(point.positive.bucket_counts) for point in points] == [2, 0, 0]
    assert [[attribute.key for attribute in point.attributes] for point in points] == [
        ["operation", "id"],
        ["operation"],
        ["operation", "id"],
    ]
    assert {attribute.key for attribute in data.resource_metrics[0].resource.attributes} == {
        "service.name",
        "process.pid",
        "process.command_line",
    }


def test_csv(export: Export) -> None:
    described = Described(names=[b"a", b"b"], rows=[(0, 0.5, [2, 4, 6]), (1, 1.0, []), (-1, 1.0, [7])])
    with export("csv", described).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["overflow"], row["count"]) for row in rows] == [
        ("a", "0", "3"),
        ("b", "0", "0"),
        ("(other names)", "1", "1"),
    ]
    first = rows[0]
    assert [float(first[key]) for key in ("total_ns", "mean_ns", "min_ns", "p50_ns", "p999_ns", "max_ns")] == [
        6,
        2,
        1,
        2,
        3,
        3,
    ]
    assert all(value is not None for row in rows for value in row.values())


# ---- all formats -------------------------------------------------------------------------------


def names_in(format: str, path: Path) -> set[str]:
    """The names that the reader of a format sees."""
    if format == "chrome":
        return {event["name"] for event in json.loads(path.read_bytes())["traceEvents"] if event["ph"] != "M"}
    if format == "perfetto":
        return {name for _, name, *_ in read_perfetto(path).slices}
    if format == "speedscope":
        return {stack[-1] for weights in read_speedscope(path).values() for stack in weights}
    if format == "collapsed":
        return {line.rpartition(" ")[0] for line in path.read_bytes().decode().split("\n")[:-1]}
    if format == "pstats":
        stats: Any = pstats.Stats(str(path))
        return {name for _, _, name in stats.stats} - {"(nothing recorded)"}  # pstats refuses an empty table
    if format == "prometheus":
        family = read_prometheus(path)["perfopt_operation_duration_seconds"]
        return {sample.labels["operation"] for sample in family.samples}
    if format == "otel":
        points = json.loads(path.read_bytes())["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0][
            "exponentialHistogram"
        ]["dataPoints"]
        return {point["attributes"][0]["value"]["stringValue"] for point in points}
    with path.open(newline="") as file:
        csv.field_size_limit(1 << 21)
        return {row["name"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("format", FORMATS)
def test_hostile_names(export: Export, format: str) -> None:
    expected = {*REPAIRED, "x" * (1 << 20), "(other names)"}
    if format == "csv":
        expected = {name.replace("\0", "\ufffd") for name in expected}
    if format == "collapsed":
        control = dict.fromkeys([*range(32), 127], " ")
        expected = {name.translate(control).replace(";", ":") or "(unnamed)" for name in expected}
    assert names_in(format, export(format, hostile())) == expected


@pytest.mark.parametrize("format", ["pstats", "prometheus"])
def test_names_that_are_written_alike_stay_apart(export: Export, format: str) -> None:
    """Two broken names become the same text, and a name may be what stands for the others."""
    names = [b"a\xff", b"a\xfe", b"(other names)"]
    described = Described(
        names=names,
        rows=[(i, 1.0, [5]) for i in (0, 1, 2, -1)],
        nodes=[(-1, i, 0, 1, 1.0, 1.0) for i in (0, 1, 2, -1)],
    )
    path = export(format, described)
    if format == "pstats":
        stats: Any = pstats.Stats(str(path))
        assert sorted(stats.stats) == [
            ("~", -1, "(other names)"),
            ("~", 0, "(other names)"),
            ("~", 1, "a\ufffd"),
            ("~", 2, "a\ufffd"),
        ]
    else:
        samples = read_prometheus(path)["perfopt_operation_duration_seconds"].samples
        keys = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
        assert len(keys) == len(set(keys))
        assert sum(sample.name.endswith("_count") for sample in samples) == 4


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_capture_can_be_read(export: Export, format: str) -> None:
    assert names_in(format, export(format, Described(processes=[], threads=[]))) == set()


# ---- what the profiler has recorded --------------------------------------------------------------


@pytest.fixture(scope="module")
def capture() -> Iterator[Any]:
    profiler = PerformanceProfiler(trace=True)

    def work() -> None:
        with profiler.profile("outer"):
            for _ in range(50):
                with profiler.profile('in"ner'):
                    pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return profiler.capture()


@pytest.mark.parametrize("format", FORMATS)
def test_a_recording_goes_to_a_path_and_to_a_file_alike(capture: Any, tmp_path: Path, format: str) -> None:
    path = tmp_path / "out"
    capture.export(format, path)
    kept = io.BytesIO()
    capture.export(format, kept)
    assert path.read_bytes() == kept.getvalue()
    names = names_in(format, path)
    assert {"outer", 'in"ner'} <= {name.rpartition(";")[2] for name in names}


@pytest.mark.spec("S3-35")
def test_the_profiler_exports_by_itself(tmp_path: Path) -> None:
    profiler = PerformanceProfiler(trace=True)
    for _ in range(100):
        with profiler.profile("model"):
            pass
    profiler.export("chrome", tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"]
    assert sum(event["ph"] == "X" and event["name"] == "model" for event in events) == 100
    taken = io.BytesIO()
    profiler.export("csv", taken)
    (line,) = csv.DictReader(io.StringIO(taken.getvalue().decode()))
    assert (line["name"], line["count"]) == ("model", "100")
    with pytest.raises(RuntimeError, match="no children are followed"):
        profiler.export("csv", taken, children=True)
    with pytest.raises(ValueError, match="format"):
        profiler.export("excel", taken)


def test_a_recording_nests_on_its_threads(capture: Any, tmp_path: Path) -> None:
    capture.export("chrome", str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"]
    assert Counter(event["ph"] for event in events)["X"] == capture.span_count == 4 * 51
    assert not any(event["ph"] in "be" for event in events)


@pytest.mark.parametrize("answer", [True, None, "all"])
def test_a_write_that_answers_no_number_took_all(capture: Any, answer: Any) -> None:
    pieces: list[bytes] = []

    class Takes:
        def write(self, piece: bytes) -> Any:
            assert len(pieces) < 1000, "the same bytes again and again"
            pieces.append(piece)
            return answer

    whole = io.BytesIO()
    capture.export("csv", whole)
    capture.export("csv", Takes())
    assert b"".join(pieces) == whole.getvalue()


def test_write_may_take_a_part_and_may_raise(capture: Any) -> None:
    class Slow(io.RawIOBase):
        """Takes seven bytes at a time, like a raw file that is nearly full."""

        def __init__(self) -> None:
            self.kept = b""

        def write(self, data: Any, /) -> int:
            self.kept += bytes(data[:7])
            return min(len(data), 7)

    slow, kept = Slow(), io.BytesIO()
    capture.export("csv", slow)
    capture.export("csv", kept)
    assert slow.kept == kept.getvalue()

    class Closed:
        def write(self, data: bytes, /) -> int:
            raise BrokenPipeError("gone")

    with pytest.raises(BrokenPipeError, match="gone"):
        capture.export("chrome", Closed())

    class Liar:
        def write(self, data: bytes, /) -> int:
            return len(data) + 1

    with pytest.raises(OSError, match=r"write\(\) took"):
        capture.export("chrome", Liar())


def test_what_is_refused(capture: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format is 'gif'; accepted: chrome perfetto"):
        capture.export("gif", tmp_path / "out")
    with pytest.raises(TypeError, match="format must be a str, not int"):
        capture.export(1, tmp_path / "out")
    with pytest.raises(TypeError, match="file must be a path or have a method write, not int"):
        capture.export("csv", 3)
    with pytest.raises(TypeError, match="takes 2 arguments"):
        capture.export("csv")
    with pytest.raises(ValueError, match="null"):
        capture.export("csv", "a\0b")
    with pytest.raises(OSError, match="No such file"):
        capture.export("csv", tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []
