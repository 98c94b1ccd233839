"""``gateways reopen``: have a running server open its log files anew."""

from __future__ import annotations

import click

from gateways.cli.remote import ANSWER_SECONDS, ask_once, control_option, timeout_option

__all__ = ["command"]


@click.command
@control_option
@timeout_option(ANSWER_SECONDS, "How long to wait for the answer")
def command(control: str | None, pid: int | None, timeout: float) -> None:
    """Have a running server open its log files anew, after they were renamed."""
    ask_once(control, pid, "reopen", timeout)
    click.echo("reopened")
