"""``gateways cgi``: what ``gateways.run`` does, for an application that is named."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, Final

import click

from gateways.apps import loader
from gateways.cli.options import SettingOption, SettingsCommand, configured, printing_options, settings_options
from gateways.errors import WorkerBootError

__all__ = ["command"]

EXIT_BOOT: Final = 3
GROUPS: Final = ("Limits", "Timeouts")
NAMES: Final = ("mount", "chdir", "threads")
MASTERS: Final = ("request-timeout", "slow-request", "graceful-timeout", "boot-timeout")
"""Settings of the groups that only a master can keep."""


def options() -> list[click.Parameter]:
    """Those settings that concern a process by itself."""
    kept: list[click.Parameter] = []
    for option in settings_options():
        if isinstance(option, SettingOption):
            name = option.setting.name
            if name not in NAMES and (option.setting.group not in GROUPS or name in MASTERS):
                continue
        kept.append(option)
    return kept


def run(**arguments: Any) -> None:  # noqa: ANN401 - what click parsed
    """Find out how this process was started, and serve."""
    settings = configured(arguments)
    if settings is None:
        return
    loader.parse(settings.app)
    os.environ.pop("GATEWAYS_SECRET", None)  # of no use here, and not the application's
    from gateways.start import start  # noqa: PLC0415 - not for --help

    def load() -> Any:  # noqa: ANN401 - whatever the user's module holds
        os.chdir(settings.chdir)
        sys.path.insert(0, os.getcwd())
        return loader.load(settings.app)

    try:
        start(
            load, threads=settings.threads, mount=settings.mount, limits=settings.limits, timeouts=settings.timeouts
        )  # fmt: skip
    except WorkerBootError as error:
        if error.__cause__ is None:
            raise
        traceback.print_exception(error.__cause__)
        click.echo(f"gateways: {error}", err=True)
        click.get_current_context().exit(EXIT_BOOT)


command: Final = SettingsCommand(
    "cgi",
    run,
    "Serve the WSGI application APP, named package.module:attribute, in the way that this process was started for: one "
    "request of a CGI script, or FastCGI where descriptor 0 listens (mod_fcgid, lighttpd's bin-path, spawn-fcgi). "
    "There are no workers: the web server or the manager supervises the process.",
    [*options(), *printing_options()],
)
