"""``perfopt profile``: run a script under the code profiler, or the short tours of what it shows (``--mode``)."""

from __future__ import annotations

import builtins
import io
import os
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any

import click

from perfopt.profiling.config import LEVELS, create_profiler_config
from perfopt.report import text
from perfopt.report.document import Report
from perfopt.report.terminal import operations_table

__all__ = ["command", "profiled_run", "show_findings", "show_operations"]

MODES = ("basic", "data_loading", "memory", "gpu", "comprehensive", "bottlenecks", "monitoring", "all")
_SENTENCE = 1000  # characters


def profiled_run(
    script: Path, arguments: tuple[str, ...], *, level: str, stacks: bool, output_dir: str
) -> tuple[Report, int]:
    """Runs a script as ``__main__`` under a profiler; its report, and the exit status that it asked for.

    Ranges of ``@perfopt.profile_operation`` are in the report; with ``stacks``, so are functions that nobody decorated. A child
    that the script forks ends here with its part of the script: what it recorded goes to the parent's report.
    """
    from perfopt.profiler import default_profiler
    from perfopt.profiling.code_profiler import CodeProfiler

    config = create_profiler_config(level, enable_cprofile=stacks, save_profiles=False, output_dir=output_dir)
    profiler = CodeProfiler(config, profiler=default_profiler())
    process = os.getpid()
    before = sys.argv, sys.path[:]
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    ended: BaseException | None = None
    try:
        with profiler:
            try:
                _run_as_main(script)
            except BaseException as error:
                ended = error
            if os.getpid() == process:
                _join_threads()
    finally:
        sys.argv, sys.path[:] = before
    status = _status(ended, script)
    if os.getpid() != process:
        sys.exit(status)
    return profiler.report(script.name), status


def _run_as_main(script: Path) -> None:
    """Runs a script as the module ``__main__``, which it stays: what runs at exit may pickle its classes, too."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=str(script), __builtins__=builtins)
    sys.modules["__main__"] = module
    with io.open_code(str(script.absolute())) as file:
        code = compile(file.read(), str(script), "exec", dont_inherit=True)
    exec(code, module.__dict__)


def _join_threads() -> None:
    """Waits for the threads that the interpreter would wait for at its end."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()


def _status(ended: BaseException | None, script: Path) -> int:
    """The exit status of what ended a script, as the interpreter would give it; prints what the interpreter would print."""
    if ended is None:
        return 0
    if isinstance(ended, SystemExit):
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    if isinstance(ended, KeyboardInterrupt):
        return 130
    frames = ended.__traceback__  # from the script on, without the frames that ran it
    while frames is not None and frames.tb_frame.f_code.co_filename != str(script):
        frames = frames.tb_next
    traceback.print_exception(type(ended), ended, frames)
    return 1


def show_operations(report: Report, most: int = 20) -> None:
    """Prints the operations with most time as a table, and what was lost or left out."""
    from rich.console import Console
    from rich.text import Text

    rows = sorted(report.operations, key=lambda row: -row.total)
    table = operations_table(rows[:most], long_names="fold")
    for call in report.extra.get("call_stacks", ())[: max(0, most - len(rows))]:
        where = f"{call['function']} ({Path(call['file']).name}:{call['line']})" if call["line"] else call["function"]
        mean = call["total"] / max(1, call["calls"])
        times = [text.seconds(figure) for figure in (call["total"], call["self"], mean)]
        table.add_row(Text(text.printable(where), style="dim"), f"{call['calls']:,}", *times)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    recording = report.recording
    share = recording.overhead_seconds / report.duration if report.duration > 0 else 0.0
    click.echo(f"{text.seconds(report.duration)} profiled, recording {share:.2%} of it, {recording.ranges:,} ranges")
    if len(rows) > most:
        click.echo(f"{len(rows) - most} more operations are in the report")
    for note in report.notes:
        click.echo(f"note: {text.printable(note, _SENTENCE)}")


def show_findings(report: Report) -> None:
    """Prints what is worth changing."""
    if not report.findings:
        click.echo("no bottleneck: nothing exceeds its threshold")
    for finding in report.findings:
        share = "" if finding.share is None else f" [{finding.share:.1%} of the run"
        if finding.gain_bound is not None and finding.gain_bound <= 100:
            share += f", at most {finding.gain_bound:.2f}x faster without it"
        rule = text.printable(finding.rule.replace("_", " "))
        click.echo(f"{rule}: {text.printable(finding.subject)}{share + ']' if share else ''}")
        click.echo(f"  {text.printable(finding.evidence, _SENTENCE)}")
        click.echo(f"  advice: {text.printable(finding.advice, _SENTENCE)}")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--mode", type=click.Choice(MODES), help="A short tour on a small workload of its own, without a script.")
@click.option(
    "--level", type=click.Choice(LEVELS), default="detailed", show_default=True, help="How much is taken down."
)
@click.option("--save-reports", is_flag=True, help="Save the reports of a tour into --output-dir.")
@click.option("--output-dir", default="profiles", show_default=True, help="Folder of saved reports.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where the report of a script is saved.")
@click.option(
    "--stacks/--no-stacks", default=True, show_default=True, help="Record functions that are not decorated, too."
)
@click.option("--top", "most", type=click.IntRange(min=1), default=20, show_default=True, help="Rows of the table.")
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    mode: str | None,
    level: str,
    save_reports: bool,
    output_dir: str,
    out: Path | None,
    stacks: bool,
    most: int,
    script: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Run SCRIPT with ARGUMENTS under the profiler, print where its time went and save a report.

    What the script decorated with @perfopt.profile_operation is timed exactly; --stacks also records functions that are not
    decorated, which slows Python code down. Look at the report with `perfopt report FILE --html OUT`, and compare two with
    `perfopt compare`.

    Exit status: that of the script.
    """
    if (mode is None) == (script is None):
        raise click.UsageError("give either a SCRIPT or --mode")
    if mode is not None:
        from perfopt.cli.profile_modes import run_modes

        run_modes(mode, level=level, save_reports=save_reports, output_dir=output_dir)
        return
    assert script is not None  # by the check above
    path = Path.cwd() / (out or Path(output_dir) / f"{script.stem}-{os.getpid()}.json")  # the script may go elsewhere
    report, status = profiled_run(script, arguments, level=level, stacks=stacks, output_dir=output_dir)
    show_operations(report, most)
    _save(report, path)
    sys.exit(status)


def _save(report: Report, path: Path) -> None:
    from perfopt.report import document

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        document.save(report, path)
    except OSError as error:
        click.echo(f"error: the report could not be saved: {error}", err=True)
        return
    click.echo(f"saved {text.printable(str(path), _SENTENCE)}")


def system_lines() -> list[str]:
    """What the machine has, a line each."""
    facts: dict[str, Any] = {"CPU cores": os.cpu_count()}
    try:
        import torch
    except ModuleNotFoundError:
        facts["CUDA available"] = "False (torch is not installed)"
    else:
        facts["CUDA available"] = torch.cuda.is_available()
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            facts["GPU"] = properties.name
            facts["GPU memory"] = f"{properties.total_memory / 2**30:.1f}GB"
    return [f"  {name}: {value}" for name, value in facts.items()]
