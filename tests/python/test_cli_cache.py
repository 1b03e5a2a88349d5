"""``perfopt cache simulate``: exact figures, traces from files, gzip and standard input, and what it says about bad ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from policy_models import POLICIES, Cache
from policy_streams import recency, trace, zipf

from perfopt import _core
from perfopt.cli import main
from perfopt.cli.cache import run_simulation

TITLES = "policy entries bytes requests hits misses hit rate bytes missed evictions"


def simulate(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, ["cache", "simulate", *map(str, arguments)], **options)


def figures(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def naive(policy: str, bounds: tuple[int | None, int | None], requests: list[tuple[int, int]]) -> dict[str, Any]:
    """The same figures from the naive model; only which keys are equal matters to fixed policies, not their hashes."""
    cache = Cache(POLICIES[policy], bounds)
    answers = [cache.request(key, size) for key, size in requests]
    missed = [size for (_, size), (hit, _) in zip(requests, answers, strict=True) if not hit]
    return {
        "requests": len(requests),
        "hits": len(requests) - len(missed),
        "misses": len(missed),
        "bytes_requested": sum(size for _, size in requests),
        "bytes_missed": sum(missed),
        "evictions": sum(len(evicted) for _, evicted in answers),
    }


@pytest.mark.parametrize("bounds", [(50, None), (None, 700), (50, 700)], ids=str)
def test_figures_are_those_of_the_models(tmp_path: Path, bounds: tuple[int | None, int | None]) -> None:
    keys = zipf(5000, 50)
    sizes = keys % 23 + 1
    path = tmp_path / "trace.txt"
    path.write_bytes(trace(keys, sizes))
    requests = [(int(key), int(size)) for key, size in zip(keys, sizes, strict=True)]
    for row in run_simulation(str(path), ("lru", "fifo", "sieve", "s3fifo"), (bounds,), quiet=True):
        expected = naive(row["policy"], bounds, requests)
        assert {name: row[name] for name in expected} == expected
        assert row["hit_rate"] == expected["hits"] / len(requests)


@pytest.mark.parametrize("policy", ["wtinylfu", "auto"])
def test_policies_that_use_hashes_count_exactly_too(policy: str) -> None:
    """The models get the hashes of the text that the trace is made of, so that sketch and sample agree."""
    xxhash = pytest.importorskip("xxhash", reason="xxhash is not installed")
    keys = [int(key) for key in recency(6000, 50)]
    hashes = {key: xxhash.xxh3_128_intdigest(str(key).encode()) & (2**64 - 1) for key in keys}
    chunks = iter([b"".join(b"%d,%d\n" % (key, key % 9) for key in keys), b""])
    [result] = _core.simulate(lambda: next(chunks), ((policy, 50, None),))
    assert dict(result) == naive(policy, (50, None), [(hashes[key], key % 9) for key in keys])


def test_a_key_alone_counts_one_byte_and_every_pair_of_bounds_is_simulated() -> None:
    rows = figures(
        simulate("-", "--policy", "sieve,lru", "--size", "1,2k", "--bytes", "1KiB,3", "--json", input="a\nb\n\na\n")
    )
    assert [(row["policy"], row["max_entries"], row["max_bytes"]) for row in rows[:4]] == [
        ("sieve", 1, 1024),
        ("lru", 1, 1024),
        ("sieve", 1, 3),
        ("lru", 1, 3),
    ]
    assert len(rows) == 8
    assert [row["hits"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert {row["bytes_requested"] for row in rows} == {3}


def test_the_table_shows_every_policy() -> None:
    result = simulate("-", "--size", 1, input="a\na\nb\n")
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head.split() == TITLES.split()
    assert [line.split()[0] for line in lines] == list(_core.policy_names())
    assert all(line.split()[1:] == ["1", "any", "3", "1", "2", "33.33", "%", "2", "1"] for line in lines)


def test_gzip_is_read_from_a_file_and_from_standard_input(tmp_path: Path) -> None:
    packed = gzip.compress(trace(zipf(3000, 20)))
    path = tmp_path / "trace.gz"
    path.write_bytes(packed)
    from_file = figures(simulate(path, "--size", 20, "--json"))
    assert from_file == figures(simulate("-", "--size", 20, "--json", input=packed))
    assert {row["requests"] for row in from_file} == {3000}


def test_an_empty_trace_has_no_hit_rate() -> None:
    assert "none" in simulate("-", "--size", 1, input="").stdout
    assert figures(simulate("-", "--size", 1, "--json", input=""))[0]["hit_rate"] is None


def test_long_traces_show_progress(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_bytes(b"some key that is long\n" * 150_000)
    loud, quiet = (simulate(path, "--size", 1, "--policy", "lru", *option) for option in ((), ("--quiet",)))
    assert "replaying, MiB: 4/4" in loud.stderr
    assert quiet.stderr == ""
    assert loud.stdout == quiet.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb,x\n", "line 2: size x is not accepted"),
        ("a,-3\n", "line 1: size -3 is not accepted"),
        ("a\n\n,3\n", "line 3: no key"),
        ("x" * (2**20 + 1), "line 1 is longer than 1048576 bytes"),
    ],
)
def test_a_bad_line_is_named(text: str, message: str) -> None:
    result = simulate("-", "--size", 1, input=text)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("size", ["0", "ten", "-1", "1.5", "10q", "", "1,,2", str(2**63)])
@pytest.mark.parametrize("option", ["--size", "--bytes"])
def test_a_bad_bound_is_refused(option: str, size: str) -> None:
    result = simulate("-", f"{option}={size}", input="a\n")
    assert result.exit_code == 2
    assert option in result.stderr
    assert "write whole numbers from 1" in " ".join(result.stderr.split())


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    unknown = simulate("-", "--size", 1, "--policy", "lru,clock", input="a\n")
    assert unknown.exit_code == 2
    assert "'clock' is unknown; accepted: lru, fifo, sieve, s3fifo, wtinylfu, auto, or all" in unknown.stderr
    assert "without a bound nothing is ever evicted" in simulate("-", input="a\n").stderr
    missing = simulate(tmp_path / "nowhere", "--size", 1)
    assert missing.exit_code == 1
    assert "nowhere cannot be read: No such file or directory" in missing.stderr
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(b"a\n" * 1000)[:-9])
    result = simulate(torn, "--size", 1)
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr


def test_the_engine_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="policy is 'clock'; accepted: lru, fifo"):
        _core.simulate(lambda: b"", (("clock", 1, None),))
    with pytest.raises(TypeError, match=r"caches\[0\] must be a tuple"):
        _core.simulate(lambda: b"", ("lru",))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _core.simulate(lambda: "text", (("lru", 1, None),))  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        _core.simulate(lambda: bytes(1 // 0), (("lru", 1, None),))
    with pytest.raises(OverflowError):
        _core.simulate(lambda: b"", (("lru", -1, None),))
    with pytest.raises(ValueError, match="operation is 'jump'"):
        _core.simulate_operations("lru", 1, None, [("jump",)])
