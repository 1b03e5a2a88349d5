"""The report as one HTML page that needs no network: what ``perfopt report`` writes.

The page is the template ``page.html`` with ``page.css``, ``page.js`` and plotly's own script inside; its figures are those of
:mod:`perfopt.report.view`, given to the script as JSON. A content security policy in the page forbids it to load anything.
Text of the report is escaped by jinja2, and in the JSON as well, so that no name can become markup.
"""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from perfopt.report import text, view
from perfopt.report.compare import Comparison
from perfopt.report.confidential import confidential_difference
from perfopt.report.document import MemoryRecord, Report, atomic_write

__all__ = ["render", "write"]

_COLUMN_NAMES = {
    "rss": "resident (RSS)",
    "uss": "unique (USS)",
    "heap_in_use": "heap in use",
    "heap_retained": "heap kept by malloc",
    "cgroup_usage": "cgroup usage",
    "limit": "limit",
    "cuda_allocated": "CUDA allocated",
    "cuda_reserved": "CUDA reserved",
}
_NOT_BYTES = frozenset({"time_ns", "minor_faults", "major_faults", "throttled", "limit_hits", "oom_kills"})


def _moment(nanoseconds: int) -> str:
    import datetime

    try:
        moment = datetime.datetime.fromtimestamp(nanoseconds / 1e9, tz=datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{nanoseconds} ns since 1970"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _memory_lines(memory: MemoryRecord) -> list[dict[str, Any]]:
    lines = []
    for name, values in memory.columns.items():
        if name not in _NOT_BYTES and any(value is not None for value in values):
            seconds, thin = view.thinned(memory.seconds, values)
            lines.append(
                {
                    "name": _COLUMN_NAMES.get(name, text.printable(name)),
                    "x": seconds,
                    "y": thin,
                    "limit": name == "limit",
                }
            )
    return lines


def _script_json(value: Any) -> str:
    """JSON that can stand inside <script>: no text of it can end the element or begin a comment."""
    plain = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render(report: Report, *, comparison: Comparison | None = None, confidential: bool = False) -> str:
    """The page as text.

    Args:
        report: what to show.
        comparison: adds the difference against a baseline; ``report`` is its later side.
        confidential: leaves out host name, command line and paths; see :mod:`perfopt.report.confidential`.

    Raises:
        ModuleNotFoundError: jinja2 or plotly is missing; they come with ``pip install perfopt[report]``.
    """
    try:
        import jinja2
        import markupsafe
        import plotly.offline
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"a page needs {error.name}, which is not installed: pip install 'perfopt[report]'", name=error.name
        ) from error
    if confidential:
        report, comparison = confidential_difference(report, comparison)
    here = resources.files("perfopt.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        seconds=text.seconds,
        size=text.size,
        percent=text.percent,
        count=text.count,
        printable=text.printable,
        moment=_moment,
        label=view.label,
    )
    template = environment.from_string(here.joinpath("page.html").read_text("utf-8"))
    icicle = view.icicle(report.tree)
    data = {
        "icicle": icicle | {"labels": [text.printable(label) for label in icicle["labels"]]},
        "memory": [] if report.memory is None else _memory_lines(report.memory),
        "loaders": [
            {"name": text.printable(loader.name), "wait": loader.wait_seconds, "compute": loader.compute_seconds}
            for loader in report.loaders
        ],
    }
    return template.render(
        report=report,
        comparison=comparison,
        confidential=confidential,
        slices=view.breakdown(report),
        operations=view.by_total(report),
        waiting=view.waiting_share,
        overhead_share=report.recording.overhead_seconds / report.duration if report.duration > 0 else None,
        style=markupsafe.Markup(here.joinpath("page.css").read_text("utf-8")),
        script=markupsafe.Markup(here.joinpath("page.js").read_text("utf-8")),
        plotly=markupsafe.Markup(plotly.offline.get_plotlyjs()),
        data=markupsafe.Markup(_script_json(data)),
    )


def write(
    report: Report,
    path: str | os.PathLike[str],
    *,
    comparison: Comparison | None = None,
    confidential: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes the page to ``path``, whole or not at all; arguments as for :func:`render`.

    Raises:
        FileExistsError: there is a file already and ``overwrite`` is False.
        OSError: it cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is there already; overwrite it with overwrite=True")
    return atomic_write(
        target, render(report, comparison=comparison, confidential=confidential).encode("utf-8", "backslashreplace")
    )
