"""``gateways config``: configuration for other programs, from the options of ``serve``. It only prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click

from gateways.apps import loader
from gateways.cli.options import SettingsCommand, settings_options
from gateways.settings import load_settings

__all__ = ["command"]

FOLDER: Final = "/etc/systemd/system"
PATIENCE: Final = 5.0  # seconds for ``systemctl --version``


@click.group("config", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Print configuration for other programs, from the options of serve."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def systemd(name: str, systemd_version: int | None, **arguments: Any) -> None:  # noqa: ANN401 - what click parsed
    """Print the units."""
    from gateways.frontends.systemd import units  # noqa: PLC0415 - not for --help

    settings = load_settings(arguments)
    loader.parse(settings.app)
    version = systemd_version if systemd_version is not None else installed_version()
    files = units(settings, program(), (str(Path(sys.executable).resolve()),), name=name, version=version)
    click.echo("\n".join(f"# {FOLDER}/{file}\n{text}" for file, text in files.items()), nl=False)
    sockets = " ".join(file for file in files if file.endswith(".socket"))
    click.echo(f"\n# Then: systemctl daemon-reload && systemctl enable --now {sockets}")


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
            click.Option(["--name"], metavar="NAME", default="gateways", help="of the units [gateways]"),
            click.Option(["--systemd-version"], metavar="N", type=int, help="of another machine [this one's]"),
        ],
    )
)
