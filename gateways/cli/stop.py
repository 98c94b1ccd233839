"""``gateways stop``: end a running server, and wait until it has ended."""

from __future__ import annotations

from typing import Final

import click

from gateways.cli.remote import Failure, ask, control_option, timeout_option

__all__ = ["command"]

SECONDS: Final = 60.0
"""Twice the time that running requests have by default."""


@click.command
@control_option
@timeout_option(SECONDS, "How long to wait for its end")
def command(control: str | None, pid: int | None, timeout: float) -> None:
    """Stop a running server: it finishes the requests that run. Returns when it has ended."""
    if not list(ask(control, pid, "stop", timeout)):
        raise Failure("the server ended before it answered")
    click.echo("stopped")
