"""``gateways scripts``: CGI programs in the place of an application."""

from __future__ import annotations

from typing import Any, Final

import click

from gateways.cli.options import ADDRESSES, SettingsCommand, configured, printing_options, settings_options
from gateways.cli.serve import start
from gateways.settings import SCRIPTS

__all__ = ["command"]


def run(*, check: bool, **arguments: Any) -> None:  # noqa: ANN401 - what click parsed
    """Check everything that can be checked before a process is forked, then serve."""
    settings = configured(arguments, SCRIPTS)
    if settings is None:
        return
    if not check:
        start(settings)
        return
    from gateways.apps.identities import Identities  # noqa: PLC0415 - not for every start
    from gateways.cli.check import examine  # noqa: PLC0415 - as above

    examine(settings)
    if settings.scripts is not None:
        Identities(settings.scripts.script_user)
    where = ", ".join(f"{protocol} on {address}" for protocol, address in settings.listeners)
    click.echo(f"configuration is good: {settings.app}, {where}")


command: Final = SettingsCommand(
    "scripts",
    run,
    f"Run CGI programs below a directory for requests of any protocol.\n\n{ADDRESSES}",
    [
        *settings_options(SCRIPTS),
        click.Option(["--check"], is_flag=True, help="say what is wrong, and serve nothing"),
        *printing_options(),
    ],
)
