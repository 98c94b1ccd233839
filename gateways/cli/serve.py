"""``gateways serve``: the start of the server."""

from __future__ import annotations

import os
from typing import Any, Final

import click

from gateways.apps import loader
from gateways.cli.options import ADDRESSES, SettingsCommand, configured, printing_options, settings_options
from gateways.settings import Settings

__all__ = ["command", "start"]


def run(**arguments: Any) -> None:  # noqa: ANN401 - what click parsed
    """Check everything that can be checked before a process is forked, then serve."""
    settings = configured(arguments)
    if settings is None:
        return
    loader.parse(settings.app)
    start(settings)


def start(settings: Settings) -> None:
    """Serve, and end with the server's exit code."""
    from gateways.server.handover import VARIABLE  # noqa: PLC0415 - not for --help
    from gateways.server.inherited import erase_secret, fill_streams, take_variables  # noqa: PLC0415 - as above
    from gateways.server.service import serve  # noqa: PLC0415 - as above

    fill_streams()
    handover = os.environ.pop(VARIABLE, "")
    environment = dict(os.environ)
    if take_variables(os.environ):
        erase_secret()
    click.get_current_context().exit(serve(settings, environment=environment, handover=handover))


command: Final = SettingsCommand(
    "serve",
    run,
    f"Serve the WSGI application APP, named package.module:attribute.\n\n{ADDRESSES}",
    [*settings_options(), *printing_options()],
)
