"""``perfopt report``: a saved report as a page, or as JSON without what is confidential."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from perfopt.report import confidential as confidentiality
from perfopt.report import document
from perfopt.report.compare import compare

__all__ = ["command"]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", "page_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the page here.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the data here.")
@click.option(
    "--baseline",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another report: the page shows the difference from it.",
)
@click.option("--confidential", is_flag=True, help="Leave out host name, command line and paths.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def command(
    file: Path, page_path: Path | None, json_path: Path | None, baseline: Path | None, confidential: bool, force: bool
) -> None:
    """Turn the report FILE into one HTML page that needs no network.

    The page has the breakdown of the run, all operations with percentiles, the call tree, memory, data loading and findings,
    and with --baseline the difference between two runs.

    Exit status: 0, or 2 when a file is no report or cannot be written.
    """
    if page_path is None and json_path is None:
        raise click.UsageError("nothing to write: give --html OUT, --json OUT or both")
    try:
        report = document.load(file)
        comparison = None if baseline is None else compare([document.load(baseline)], [report])
        for path in (page_path, json_path):
            if path is not None and path.exists() and not force:
                raise FileExistsError(f"{path} is there already; --force replaces it")
        if page_path is not None:
            from perfopt.report import page

            page.write(report, page_path, comparison=comparison, confidential=confidential, overwrite=force)
            click.echo(f"wrote {page_path}")
        if json_path is not None:
            document.save(confidentiality.confidential(report) if confidential else report, json_path)
            click.echo(f"wrote {json_path}")
    except (OSError, ValueError, ModuleNotFoundError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
