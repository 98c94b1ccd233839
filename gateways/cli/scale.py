"""``gateways scale``: change how many workers a running server has."""

from __future__ import annotations

import click

from gateways.cli.remote import ANSWER_SECONDS, ask_once, control_option, timeout_option

__all__ = ["command"]


@click.command
@click.argument("workers", type=click.IntRange(1), metavar="N")
@control_option
@timeout_option(ANSWER_SECONDS, "How long to wait for the answer")
def command(workers: int, control: str | None, pid: int | None, timeout: float) -> None:
    """Have a running server use N workers, until it is restarted."""
    answer = ask_once(control, pid, "scale", timeout, workers=workers)
    click.echo(f"workers: {answer['workers']}")
