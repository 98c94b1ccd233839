"""``gateways status``: what a running server does, as a table or as JSON."""

from __future__ import annotations

import json
import shutil

import click

from gateways.cli.display import status_text
from gateways.cli.remote import ask_once, control_option

__all__ = ["command"]


@click.command
@control_option
@click.option("--json", "as_json", is_flag=True, help="The whole status document.")
def command(control: str | None, pid: int | None, as_json: bool) -> None:
    """Show what a running server does: its workers, their threads and requests."""
    status = ask_once(control, pid, "status")["status"]
    if as_json:
        click.echo(json.dumps(status, indent=2).replace("\x7f", "\\u007f"))
    else:
        click.echo(status_text(status, shutil.get_terminal_size().columns))
