"""The options made from the settings' schema, their help in groups, and --print-config: for commands with settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import click

from gateways.errors import ConfigError
from gateways.settings import SETTINGS, Setting, Settings, load_settings

__all__ = ["ADDRESSES", "SettingsCommand", "configured", "printing_options", "settings_options"]

GROUPS: Final = (
    "Application",
    "Scripts",
    "Listen",
    "Workers",
    "Timeouts",
    "Limits",
    "Security",
    "Logs",
    "Control",
    "General",
)
COMMON_WIDTH: Final = 23
FULL_WIDTH: Final = 31
"""Each as wide as the longest option that is shown, so that each of them takes one line of 80 columns."""
WIDEST_VALUE: Final = 40
ADDRESSES: Final = (
    "ADDR is HOST:PORT, :PORT, PORT, a unix socket's path, @NAME or fd:N; without one it is what systemd or a FastCGI "
    "manager has passed, else --auto 127.0.0.1:8000. Each option is also a variable (GATEWAYS_MAX_RSS) and a name in "
    "FILE (max-rss)."
)
ALL: Final = "gateways.help-all"


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


class RareOption(click.Option):
    """An option that only --help-all shows."""


def settings_options(schema: tuple[Setting, ...] = SETTINGS) -> list[click.Parameter]:
    """An option for each setting, or the argument that it is, and the file that may hold them."""
    options = [
        click.Argument([setting.key], required=False) if setting.positional else SettingOption(setting)
        for setting in schema
    ]
    return [*options, click.Option(["--config"], metavar="FILE", help="TOML file with these names")]


def printing_options() -> list[click.Parameter]:
    """What ``configured`` obeys."""
    return [
        click.Option(["--print-config"], is_flag=True, help="show all settings and where they are from"),
        RareOption(["--json", "as_json"], is_flag=True, help="--print-config for programs"),
    ]


class SettingsCommand(click.Command):
    """A command with settings: its help is one screen with the common ones, --help-all has a line for each."""

    def __init__(self, name: str, callback: Callable[..., Any], words: str, options: Iterable[click.Parameter]) -> None:
        everything = click.Option(
            ["--help-all"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=show_all,
            help="show every option, and exit",
        )
        super().__init__(name, callback=callback, help=words, params=[*options, everything])

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """``--help``, in the words of the others."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "show the common options, and exit"
        return option

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group."""
        everything = ALL in ctx.meta
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, SettingOption):
                if everything or parameter.setting.common:
                    groups[parameter.setting.group].append(parameter.row())
            elif isinstance(parameter, RareOption) and not everything:
                continue
            elif isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None:
                groups["General"].append(record)
        width = FULL_WIDTH if everything else COMMON_WIDTH
        for group, lines in groups.items():
            if lines:
                with formatter.section(group):
                    formatter.write_dl([(f"{name:<{width}}", text) for name, text in lines], col_max=width)
        if not everything:
            formatter.write_paragraph()
            formatter.write_text(f"Every option, also timeouts and limits: {ctx.command_path} --help-all")


def show_all(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: ARG001 - click's signature
    """``--help-all``."""
    if value:
        ctx.meta[ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


def configured(arguments: dict[str, Any], schema: tuple[Setting, ...] = SETTINGS) -> Settings | None:
    """The settings that are asked for, or None where they were only to be shown. Raises ConfigError."""
    show, as_json = arguments.pop("print_config"), arguments.pop("as_json")
    if as_json and not show:
        raise ConfigError("--json says in which form, and --print-config what: give both")
    settings = load_settings(arguments, schema=schema)
    if not show:
        return settings
    click.echo(config_json(settings) if as_json else config_table(settings))
    return None


def config_table(settings: Settings) -> str:
    """Every setting, its value and where that came from, in columns."""
    from gateways.written import rows  # noqa: PLC0415 - not for --help

    lines = [(row.setting.name, visible(", ".join(row.texts)), visible(row.source)) for row in rows(settings)]
    name_width = max(len(name) for name, _, _ in lines)
    value_width = min(max(len(value) for _, value, _ in lines), WIDEST_VALUE)
    return "\n".join(f"{name:<{name_width}}  {value:<{value_width}}  {source}" for name, value, source in lines)


def config_json(settings: Settings) -> str:
    """The same as an array of objects: ``value`` is a text, null where it is unset, or a list where it may be many."""
    from gateways.written import rows  # noqa: PLC0415 - not for --help

    objects: list[dict[str, object]] = []
    for row in rows(settings):
        value = list(row.texts) if row.setting.many else (row.texts[0] if row.texts else None)
        objects.append({"name": row.setting.name, "value": value, "source": row.source})
    return json.dumps(objects, indent=1)


def visible(text: str) -> str:
    """One line, also of what a terminal or UTF-8 cannot show."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found.group()):02x}", plain)
