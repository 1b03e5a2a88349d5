"""Progress of long work: a bar on a terminal that can draw one, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Progress"]

PLAIN_LINES = 10


class Progress:
    """Counts steps of one piece of work; ``total=None`` is work of unknown length (no plain lines then).

    Use as a context manager; :meth:`advance` once a step. Shown on standard error, so that standard output stays a result.
    """

    def __init__(self, title: str, total: int | None, *, quiet: bool = False, console: Console | None = None) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self._quiet = quiet
        self._console = console
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}", markup=False),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        return self

    def advance(self, note: str = "") -> None:
        """One step is done; ``note`` is shown beside the bar."""
        self.done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, note=note)
        elif not self._quiet and self._console is not None and self.total:
            tenth = self.done * PLAIN_LINES // self.total
            if tenth != (self.done - 1) * PLAIN_LINES // self.total:
                self._console.print(f"{self.title}: {self.done}/{self.total} {note}", highlight=False, markup=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
