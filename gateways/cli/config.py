"""``gateways config``: configuration for other programs, from the options of ``serve``. Printed, or as files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from gateways.apps import loader
from gateways.cli.options import SettingsCommand, settings_options
from gateways.errors import ConfigError
from gateways.settings import CONFIG_VARIABLE, load_settings

__all__ = ["command"]

FOLDER: Final = "/etc/systemd/system"
PATIENCE: Final = 5.0  # seconds for ``systemctl --version``


@click.group("config", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Print configuration for other programs, from the options of serve."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def systemd(
    name: str, systemd_version: int | None, output: str | None, **arguments: Any  # noqa: ANN401 - what click parsed
) -> None:  # fmt: skip
    """Print the units, or write them into the directory ``output``."""
    from gateways.frontends.systemd import units  # noqa: PLC0415 - not for --help

    settings = load_settings(arguments)
    loader.parse(settings.app)
    version = systemd_version if systemd_version is not None else installed_version()
    config = str(arguments.get("config") or os.environ.get(CONFIG_VARIABLE) or "")
    python = str(Path(sys.executable).resolve())
    files = units(settings, program(), (python,), name=name, version=version, config=config)
    if output is None:
        click.echo("\n".join(f"# {FOLDER}/{file}\n{text}" for file, text in files.items()))
    else:
        write(Path(output), files)
    sockets = " ".join(file for file in files if file.endswith(".socket"))
    click.echo(f"# Then: systemctl daemon-reload && systemctl enable --now {sockets}")


def write(directory: Path, files: Mapping[str, str]) -> None:
    """Write the files, over those of the same names; raises ConfigError."""
    for file, text in files.items():
        path = directory / file
        try:
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise ConfigError(
                f"cannot write {path}: {error.strerror}; choose another directory with --output"
            ) from None
        click.echo(f"wrote {path}")


def program() -> list[str]:
    """How this very gateways is called, wherever the service starts it."""
    script = Path(sys.executable).parent / "gateways"
    return [str(script)] if script.is_file() else [sys.executable, "-m", "gateways"]


def installed_version() -> int | None:
    """The version of this machine's systemd, or None where it has none."""
    try:
        done = subprocess.run(
            ["systemctl", "--version"],  # noqa: S607 - found on PATH
            check=False, capture_output=True, text=True, errors="replace", timeout=PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"systemd ([0-9]{1,6})\b", done.stdout)
    return int(found[1]) if found else None


command.add_command(
    SettingsCommand(
        "systemd",
        systemd,
        "Print systemd's units for a server of APP. They are a service and the sockets that it is passed; the options "
        "are those of serve.",
        [
            *settings_options(),
            click.Option(["--output"], metavar="DIR", help="write them into DIR, in the place of printing"),
            click.Option(["--name"], metavar="NAME", default="gateways", help="of the units [gateways]"),
            click.Option(["--systemd-version"], metavar="N", type=int, help="of another machine [this one's]"),
        ],
    )
)
