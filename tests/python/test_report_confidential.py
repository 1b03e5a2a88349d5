"""Confidential reports: nothing of a path remains, whatever its folders are called, and what is no path does."""

from __future__ import annotations

from typing import Any

import pytest
from report_models import operation, report

from perfopt.report import document
from perfopt.report.compare import Comparison, Row
from perfopt.report.confidential import cleaned, confidential, confidential_difference

numpy = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("read /home/me/secret/a.bin", "read <path 1>"),
        ("read '/home/my name's/secret, (old)/a b' slowly", "read '<path 1>"),
        ("/", "<path 1>"),
        ("//host/share", "<path 1>"),
        ("/ a/b", "<path 1>"),
        ("(cached)/home/me", "<path 1>"),
        ("~/x y/z", "<path 1>"),
        ("at ~me/x and ../z/w", "at <path 1>"),
        (r"C:\Users\My Name\a.txt", "<path 1>"),
        ("on D:/My Name/a", "on <path 1>"),
        (r"\\server\My Name", "<path 1>"),
        (r"data\My Name", "<path 1>"),
        ("my src/me/model.py:12", "<path 1>"),
        ("gcc -I/home/me x.c", "gcc <path 1>"),
        ("-L../My Name", "<path 1>"),
        ("--out~me/x", "<path 1>"),
        ("half-open/step", None),
        ("data/my file.bin and/or", "<path 1>"),
        ("GET https://me:word@host:8080/a/b?c=d failed", "GET <path 1> failed"),
        ("file:///home/my name/x", "<path 1>"),
        ("s3://bucket/my key", "<path 1>"),
        ("wait and/or compute at 3 samples/s, 5 MB/s. More than 2.5 MB/s", None),
        ("train/step", None),
        ("Model.forward: 3/4 of it", None),
        ("a-" * 500_000, None),  # in linear time
        ("a/" * 500_000, None),
        ("~a" * 500_000, None),
        (" --a-" * 200_000, None),
        ("/ " * 500_000, "<path 1>"),
        ("a/" + "b.1 " * 250_000, None),
        ("a/" + "b.c " * 250_000 + "/", "<path 1>"),
    ],
)
def test_texts_are_hidden_from_where_a_path_begins(text: str, shown: str | None) -> None:
    assert cleaned(text) == (text if shown is None else shown)


def a_finding(**texts: str) -> document.Finding:
    return document.Finding(**({"rule": "slow", "subject": "f", "evidence": "f is slow", "advice": "See f."} | texts))


def test_a_confidential_report_tells_no_host_command_or_path_anywhere() -> None:
    secret = "/srv/secret/file.py"
    whole = report(
        {},
        title=f"run of {secret}",
        host=document.Host(name="secret-host", system="Linux", python="3.11", versions={secret: "1"}),
        command=["python", "secret.py"],
        operations=[
            document.Operation(
                **{
                    field: getattr(operation("step", numpy.ones(3)), field)
                    for field in document.Operation.__struct_fields__
                }
                | {"name": f"load {secret}", "callers": {secret: 1}}
            )
        ],
        tree=[document.Node(parent=-1, name=secret, count=1, total=1.0, self_time=1.0)],
        memory=document.MemoryRecord(
            seconds=[0.0], columns={"rss": [1]}, verdict={"verdict": "leak", "evidence": {"at": [secret]}}
        ),
        findings=[a_finding(subject=secret, evidence=f"{secret} is slow", advice=f"See {secret}.")],
        notes=[secret],
        extra={"anything": "secret"},
    )
    hidden = confidential(whole)
    assert b"secret" not in document.dumps(hidden)
    assert hidden.operations[0].name == "load <path 1>"
    assert hidden.operations[0].total == 3.0
    assert (hidden.findings[0].evidence, hidden.findings[0].advice) == ("<path 1> is slow", "See <path 1>.")
    assert document.loads(document.dumps(hidden)) == hidden


def test_a_subject_that_a_longer_path_begins_with_spares_nothing() -> None:
    finding = a_finding(subject="/my", evidence="/my secret/x is slow", advice="see /my secret/x")
    (hidden,) = confidential(report({}, findings=[finding])).findings
    assert (hidden.subject, hidden.evidence, hidden.advice) == ("<path 1>", "<path 2>", "see <path 3>")


hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies

# Every folder's name has the mark in it, between letters of all kinds that names of folders are made of.
MARK = "zq9x"
letters = strategies.text(alphabet=" '\"()[]{}<>,;:!&%=+-_.~#@äß日本語\U0001f600\u202e\u00a0aA0", max_size=6)
segments = strategies.builds(lambda before, after: f"{before}{MARK}{after}", letters, letters)
roots = strategies.sampled_from(
    [
        "/",
        "//",
        "~/",
        "~me/",
        "./",
        "../",
        "C:\\",
        "d:/",
        "\\\\server\\",
        "\\\\?\\C:\\",
        ".\\",
        "file:///",
        "s3://bucket/",
    ]
)


@strategies.composite
def paths(draw: Any) -> str:
    root = draw(roots)
    separators = strategies.sampled_from(["\\"] if "\\" in root else ["/"])
    parts = draw(strategies.lists(segments, min_size=1, max_size=4))
    return root + draw(separators).join(parts) + draw(strategies.sampled_from(["", "/", ".py", ".py:12"]))


# A first folder that ends in a quote, a tilde or the like cannot be told from a word before a path.
first = strategies.text(alphabet=" '\"()[]{}<>,;:!&%=+-_#@äß日本語\U0001f600aA0", max_size=6).map(
    lambda name: f"{MARK}{name}a"
)
relative = strategies.builds(
    lambda first, folders, separator, file: separator.join([first, *folders, f"{file}.bin"]),
    first,
    strategies.lists(segments, max_size=2),
    strategies.sampled_from(["/", "\\"]),
    segments,
)
around = strategies.sampled_from(["", "load ", "load(", "'", '"', "path=", "in: ", "\n"])
after = strategies.sampled_from(["", ")", "' failed", " is slow", ", see e.g. there", "\n"])


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(paths() | relative, around, after)
def test_nothing_of_a_path_remains(path: str, before: str, behind: str) -> None:
    text = f"{before}{path}{behind}"
    named = operation(text, numpy.ones(20))
    whole = report(
        {},
        title=text,
        host=document.Host(name=path, system="Linux", python="3.11", versions={text: text}),
        command=["python", path],
        operations=[named],
        tree=[document.Node(parent=-1, name=text, count=1, total=1.0, self_time=1.0)],
        loaders=[document.Loader(name=text, batches=1, wait_seconds=1.0, compute_seconds=1.0)],
        memory=document.MemoryRecord(
            seconds=[], columns={text: []}, verdict={"verdict": "leak", "evidence": {text: [text]}}
        ),
        findings=[
            a_finding(subject=path, evidence=f"{path} takes 3 s", advice=text),
            a_finding(subject=text, evidence=f"{text} ({path}:3) takes 3 s", advice=f"see {path!r}"),
            a_finding(subject="f", evidence=text, advice=f"{path} and {path}"),
        ],
        notes=[text, repr(path), str(OSError(2, "No such file or directory", path))],
        extra={text: [text]},
    )
    difference = Comparison(
        rows=[Row(name=text, verdict="new", reason=text)],
        runs_before=1,
        runs_after=1,
        fail_above=0.05,
        least_seconds=1e-3,
        run_noise=None,
        alpha=1e-3,
        warnings=[text],
    )
    hidden, hidden_difference = confidential_difference(whole, difference)
    assert MARK not in document.dumps(hidden).decode()
    assert MARK not in repr(hidden_difference)
