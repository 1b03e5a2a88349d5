"""Exports of a timeline against json.dumps of the same events, and in bytes a second.

The exporter writes into a sink that only counts; json.dumps makes one string of a list of dicts that is there already, which
spares it what the exporter does: reading the ring, telling whether spans nest, and writing nanoseconds as fractions.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from perfopt.profiler import PerformanceProfiler

STEPS = 10_000


class Counted:
    """A file that keeps nothing."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes, /) -> int:
        self.bytes += len(data)
        return len(data)


@pytest.fixture(scope="module")
def capture() -> Any:
    profiler = PerformanceProfiler(trace=True)
    step, forward, backward = (profiler.profile(name) for name in ("train.step", "forward", "backward"))
    for _ in range(STEPS):
        with step:
            with forward:
                pass
            with backward:
                pass
    return profiler.capture()


def test_chrome_trace(versus: Any, capture: Any, tmp_path: Path) -> None:
    counted = Counted()
    capture.export("chrome", counted)
    kept = tmp_path / "trace.json"
    capture.export("chrome", kept)
    document = json.loads(kept.read_bytes())
    assert len(document["traceEvents"]) >= 3 * STEPS
    versus(
        f"Chrome trace of {3 * STEPS} spans ({counted.bytes / 1e6:.1f} MB)",
        ours={"perfopt.Capture.export": ("export('chrome', sink)", {"export": capture.export, "sink": Counted()})},
        peers={"json.dumps": ("dumps(document)", {"dumps": json.dumps, "document": document})},
        bars={"json.dumps": ">=10x"},
    )


def test_perfetto_trace(versus: Any, capture: Any) -> None:
    messages = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    spans = capture.spans()

    def with_protobuf() -> bytes:
        trace = messages.Trace()
        for name, thread, begin, duration, _, _ in spans:
            for at, kind in ((begin, 1), (begin + duration, 2)):
                packet = trace.packet.add(timestamp=at, trusted_packet_sequence_id=1)
                packet.track_event.type = kind
                packet.track_event.track_uuid = thread + 1
                if kind == 1:
                    packet.track_event.name = name
        return bytes(trace.SerializeToString())

    versus(
        f"Perfetto trace of {3 * STEPS} spans",
        ours={"perfopt.Capture.export": ("export('perfetto', sink)", {"export": capture.export, "sink": Counted()})},
        peers={"protobuf (C)": with_protobuf},
        rounds=11,
    )


def test_rate(add_row: Any, capture: Any) -> None:
    """The bar of 100 MB a second, beside a peer that would write exactly that."""
    ours, bar = [], []
    for _ in range(31):
        counted = Counted()
        start = time.perf_counter()
        capture.export("chrome", counted)
        ours.append(time.perf_counter() - start)
        bar.append(counted.bytes / 100e6)
    add_row("Chrome trace, rate", "perfopt.Capture.export", "100 MB/s", ours, bar, bar=">=1x")
