"""The ``perfopt`` command. Each subcommand lives in its own module and is imported only when it is called."""

from __future__ import annotations

import importlib

import click

from perfopt._version import __version__

__all__ = ["main"]

COMMANDS = {
    "bottlenecks": ("perfopt.cli.bottlenecks", "Run a script and say what is worth changing."),
    "cache": ("perfopt.cli.cache", "Look after a cache directory; simulate caches on a trace of requests."),
    "compare": ("perfopt.cli.compare", "Say what became slower between two reports; an exit status for CI."),
    "demo": ("perfopt.cli.demo", "Train a small model on real text, plainly and with perfopt, and compare."),
    "info": ("perfopt.cli.info", "Show what perfopt found on this machine."),
    "profile": ("perfopt.cli.profile", "Run a script under the profiler and save a report."),
    "report": ("perfopt.cli.report", "Turn a report into an HTML page that needs no network."),
    "top": ("perfopt.cli.top", "Watch a running process that publishes its figures."),
}


class _LazyGroup(click.Group):
    """A group whose commands are named here and imported on use, so that ``perfopt info`` never loads torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="perfopt")
def main() -> None:
    """Perfopt makes training scripts faster and shows with numbers why."""
