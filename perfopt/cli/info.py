"""``perfopt info``: what was found on this machine and, for what was not, why."""

from __future__ import annotations

import json
from typing import Any

import click

__all__ = ["command", "gather"]


def gather() -> dict[str, Any]:
    """The facts as a JSON-ready dict; a part that cannot be found out carries its reason under ``error``."""
    import perfopt
    from perfopt import _core

    facts: dict[str, Any] = {"version": perfopt.__version__}
    try:
        facts["cpu"] = _core.cpu_info()
    except (ValueError, NotImplementedError) as error:
        facts["cpu"] = {"error": str(error)}
    facts["clock"] = _core.clock_info()
    facts["memory"] = _core.memory_info()
    facts["backend"] = _core.backend_info()
    return facts


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(as_json: bool) -> None:
    """Show what perfopt found on this machine."""
    from perfopt.report.text import size

    facts = gather()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    cpu, backend, memory, clock = facts["cpu"], facts["backend"], facts["memory"], facts["clock"]
    click.echo(f"perfopt {facts['version']}")
    if "error" in cpu:
        click.echo(f"cpu variant   not usable: {cpu['error']}")
    else:
        click.echo(
            f"cpu variant   {cpu['variant']} (supported: {', '.join(cpu['supported'])}), "
            f"{cpu['threads']} threads on {cpu['processors']} processors"
        )
    click.echo(f"clock         {clock['source']}, {clock['read_cost_ns']:.1f} ns a reading")
    click.echo(
        f"memory        resident {size(memory['rss'])}, limit {size(memory['limit'])} ({memory['limit_source']})"
    )
    if backend["available"]:
        click.echo(f"backend       {backend['name']}, {len(backend['devices'])} device(s), {backend['path']}")
    else:
        click.echo(f"backend       none: {backend['reason']}")
