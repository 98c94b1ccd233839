"""``gateways reload``: have a running server load its application anew, and wait for what comes of it."""

from __future__ import annotations

from typing import Final

import click

from gateways.cli.remote import Failure, ask, control_option, timeout_option

__all__ = ["command"]

SECONDS: Final = 600.0
"""Workers may boot one after another, with a minute each."""


@click.command
@control_option
@timeout_option(SECONDS, "How long to wait for the new workers")
def command(control: str | None, pid: int | None, timeout: float) -> None:
    """Load the application anew, and wait until the new workers serve.

    Where the new code does not start, the old workers go on, and the reason is printed.
    """
    event = ""
    for answer in ask(control, pid, "reload", timeout):
        event = str(answer.get("event"))
    if event != "reloaded":
        raise Failure("the server ended before the reload was done")
    click.echo("reloaded")
