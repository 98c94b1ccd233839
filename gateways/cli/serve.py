"""``gateways serve``: the options made from the settings' schema, in groups, and the start of the server."""

from __future__ import annotations

from typing import Any, Final

import click

from gateways.apps import loader
from gateways.settings import SETTINGS, Setting, load_settings

__all__ = ["command"]

GROUPS: Final = ("Application", "Listen", "Workers", "Timeouts", "Limits", "General")
NAME_WIDTH: Final = 31
"""As wide as the longest option, so that each of them takes one line of 80 columns."""


class SettingOption(click.Option):
    """The option of one setting. It hands the text on: ``settings`` alone knows the types."""

    def __init__(self, setting: Setting) -> None:
        if setting.metavar:
            super().__init__([setting.option, setting.key], metavar=setting.metavar, multiple=setting.many)
        else:
            super().__init__([f"{setting.option}/--no-{setting.name}", setting.key], default=None)
        self.setting = setting

    def row(self) -> tuple[str, str]:
        """Its line of the help."""
        shown = f" [{self.setting.shown}]" if self.setting.shown else ""
        return f"{self.setting.option} {self.setting.metavar}".rstrip(), self.setting.help + shown


class ServeCommand(click.Command):
    """A command whose help lists the options by group, a line each."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, SettingOption):
                rows[parameter.setting.group].append(parameter.row())
            elif isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None:
                rows["General"].append(record)
        for group, lines in rows.items():
            with formatter.section(group):
                formatter.write_dl([(f"{name:<{NAME_WIDTH}}", text) for name, text in lines], col_max=NAME_WIDTH)


def parameters() -> list[click.Parameter]:
    """The argument and the options of ``serve``."""
    options: list[click.Parameter] = [SettingOption(setting) for setting in SETTINGS if not setting.positional]
    config = click.Option(["--config"], metavar="FILE", help="TOML file with these names")
    return [click.Argument(["app"], required=False), *options, config]


def run(**arguments: Any) -> None:  # noqa: ANN401 - what click parsed
    """Check everything that can be checked before a process is forked, then serve."""
    settings = load_settings(arguments)
    loader.parse(settings.app)
    from gateways.server.master import serve  # noqa: PLC0415 - not for --help

    click.get_current_context().exit(serve(settings))


command: Final = ServeCommand(
    "serve",
    params=parameters(),
    callback=run,
    short_help="Serve a WSGI application.",
    help=(
        "Serve the WSGI application APP, named package.module:attribute.\n\n"
        "ADDR is HOST:PORT, :PORT, PORT, a unix socket's path, @NAME or fd:N; without one it is "
        "--auto 127.0.0.1:8000. Each option is also a variable (GATEWAYS_HEAD_TIMEOUT) "
        "and a name in FILE (head-timeout)."
    ),
)
