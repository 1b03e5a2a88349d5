"""``perfopt report``: the page holds the figures, no markup of names, and loads nothing; a real browser draws it."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from perfopt.cli import main
from perfopt.report import document
from perfopt.report.text import printable

numpy = pytest.importorskip("numpy")
pytest.importorskip("jinja2", reason="pages need jinja2 (pip install perfopt[report])")
pytest.importorskip("plotly", reason="pages need plotly (pip install perfopt[report])")

from report_models import operation, program, report  # noqa: E402

HOSTILE = "</script><script>document.title='broken'</script> \"'&<b>bold</b> \u2603 \x00 {{ 1 }}"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)], catch_exceptions=False)


def full_report(**changes: Any) -> document.Report:
    """A report in which every part of a page has something to show."""
    samples = program(numpy.random.default_rng(0))
    samples[HOSTILE] = numpy.full(100, 1e-3)
    operations = [operation(name, values) for name, values in samples.items()]
    tree = [document.Node(parent=-1, name="epoch", count=1, total=100.0, self_time=1.0)]
    tree += [
        document.Node(parent=0, name=one.name, count=one.count, total=one.total, self_time=one.self_time)
        for one in operations
    ]
    fields: dict[str, Any] = {
        "title": f"title {HOSTILE}",
        "command": ["train.py", "--data", "/srv/secret/data"],
        "tree": tree,
        "operations": operations,
        "memory": document.MemoryRecord(
            seconds=[0.0, 1.0, 2.0],
            columns={"rss": [2**30, None, 2**31], "limit": [2**33] * 3},
            peak_rss=2**31,
            verdict={
                "verdict": "leak",
                "slope_per_hour": 2.0**40,
                "interval": [1e12, 2e12],
                "seconds_to_limit": 7200.0,
            },
            collector={"collections": 3.0},
            events={"high": 2},
        ),
        "loaders": [document.Loader(name=f"train {HOSTILE}", batches=10, wait_seconds=1.0, compute_seconds=3.0)],
        "findings": [
            document.Finding(
                rule="slow_functions",
                subject=HOSTILE,
                evidence="Evidence of it.",
                share=0.5,
                gain_bound=2.0,
                advice="Do less.",
            )
        ],
        "notes": ["no GPU here"],
    }
    return report({}, **(fields | changes))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return document.save(full_report(), tmp_path / "run.json")


class _Text(html.parser.HTMLParser):
    """Collects the text outside scripts and styles, and the elements."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.append(data)


def parsed(page: Path) -> _Text:
    parser = _Text()
    parser.feed(page.read_text("utf-8"))
    return parser


@pytest.mark.parametrize(("count", "tile", "lost"), [(1, "1 range", "1 range, 0"), (2, "2 ranges", "2 ranges, 0")])
def test_one_range_is_not_many(tmp_path: Path, count: int, tile: str, lost: str) -> None:
    recording = document.Recording(
        range_cost_seconds=1e-7, overhead_seconds=0.0, memory_bytes=0, ranges=count, dropped_ranges=count
    )
    saved, page = tmp_path / "run.json", tmp_path / "run.html"
    document.save(report({"step": numpy.full(4, 1.0)}, recording=recording), saved)
    assert run(saved, "--html", page).exit_code == 0
    text = " ".join(" ".join(parsed(page).text).split())
    assert f"{tile} " in text
    assert lost in text


def test_the_page_shows_every_part(saved: Path, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    result = run(saved, "--html", page)
    assert result.exit_code == 0, result.output
    text = " ".join(parsed(page).text)
    for expected in (
        "smooth",
        "two modes",
        "Evidence of it.",
        "Do less.",
        "leak",
        "1.00 TiB an hour",
        "2.00 h",
        "no GPU here",
        "25.0%",
        "train.py",
    ):
        assert expected in text
    assert text.count("bold") >= 4  # the hostile name, as text


def test_names_do_not_become_markup_and_nothing_is_loaded(saved: Path, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    run(saved, "--html", page)
    elements = parsed(page).elements
    assert [tag for tag, _ in elements].count("script") == 3
    for tag, attributes in elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert not {"src", "srcset"} & attributes.keys()
        assert tag != "a" or (attributes["href"] or "").startswith("#")
    policy = next(attributes["content"] for _, attributes in elements if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_data_in_the_page_are_json(saved: Path, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    run(saved, "--html", page)
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert match is not None
    data = json.loads(match[1])
    assert printable(HOSTILE) in data["icicle"]["labels"]
    assert data["memory"][0] == {"name": "resident (RSS)", "x": [0, 1, 2], "y": [2**30, None, 2**31], "limit": False}


def test_a_baseline_adds_the_difference(saved: Path, tmp_path: Path) -> None:
    slow = full_report(operations=[operation("smooth", numpy.full(1000, 1.0))])
    page = tmp_path / "run.html"
    assert run(document.save(slow, tmp_path / "slow.json"), "--baseline", saved, "--html", page).exit_code == 0
    text = " ".join(parsed(page).text)
    assert "Difference against the baseline" in text
    assert "slower: +" in text


def test_confidential_pages_and_data_keep_their_secrets(saved: Path, tmp_path: Path) -> None:
    page, data = tmp_path / "run.html", tmp_path / "clean.json"
    assert run(saved, "--html", page, "--json", data, "--confidential").exit_code == 0
    for path in (page, data):
        assert "/srv/secret" not in path.read_text("utf-8")
        assert "train.py" not in path.read_text("utf-8")
    assert "confidential" in " ".join(parsed(page).text)
    assert document.load(data).command is None


def test_an_empty_report_has_a_page(tmp_path: Path) -> None:
    page = tmp_path / "empty.html"
    assert run(document.save(report({}, duration=0.0), tmp_path / "empty.json"), "--html", page).exit_code == 0
    text = " ".join(parsed(page).text)
    assert "Nothing exceeded its threshold." in text
    assert "No time was recorded." in text


def test_files_are_replaced_only_with_force(saved: Path, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    page.write_text("mine")
    result = run(saved, "--html", page)
    assert result.exit_code == 2
    assert "is there already; --force replaces it" in result.output
    assert page.read_text() == "mine"
    assert run(saved, "--html", page, "--force").exit_code == 0
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.json"]


def test_wrong_use_is_explained(saved: Path, tmp_path: Path) -> None:
    result = run(saved)
    assert result.exit_code == 2
    assert "give --html OUT, --json OUT or both" in result.output
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    result = run(bad, "--html", tmp_path / "x.html")
    assert result.exit_code == 2
    assert "not a perfopt report" in result.output


def test_a_missing_extra_is_named(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = run(saved, "--html", tmp_path / "x.html")
    assert result.exit_code == 2
    assert "pip install 'perfopt[report]'" in result.output


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no Chromium on this machine"
)
def test_a_browser_draws_all_plots_without_an_error(saved: Path, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    run(saved, "--html", page)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser is not None
    shown = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr[-2000:]
    drawn = shown.stdout[shown.stdout.index("<body") : shown.stdout.rindex('<script id="data"')]
    for plot in ("icicle", "lines", "loaders"):
        assert re.search(rf'id="{plot}" class="plot[^"]*js-plotly-plot', drawn)
    assert drawn.count("main-svg") >= 3
    assert "broken" not in re.search(r"<title>(.*?)</title>", shown.stdout, re.DOTALL)[1].split("'")[0]  # type: ignore[index]
