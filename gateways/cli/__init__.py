"""The command line's entrance: the list of commands and how a mistake is told.

A command's module is imported when that command runs, so that ``gateways --help`` costs no more than click.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

__all__ = ["main", "run"]

COMMANDS: Final = {
    "serve": "Serve a WSGI application over FastCGI, SCGI, uwsgi and HTTP.",
    "scripts": "Run CGI programs over the same protocols.",
    "cgi": "Be a CGI script, or the FastCGI process of a manager.",
    "check": "Validate options and application, and serve nothing.",
    "config": "Print the units that systemd needs for a server.",
    "demo": "Serve the bundled demonstration and say what to try.",
    "status": "Show what a running server does.",
    "top": "Show it live.",
    "reload": "Have a running server load its application anew.",
    "stop": "Stop a running server.",
    "reopen": "Have a running server open its log files anew.",
    "scale": "Change how many workers a running server has.",
    "conform": "Check any server against its protocol, rule by rule.",
    "fuzz": "Look for what a server does wrong with drawn and damaged requests.",
}
"""Command, which is also its module in this package -> its line in the help."""
EXIT_MISTAKE: Final = 2
EXIT_INTERRUPTED: Final = 130
HELP_WIDTH: Final = 80


class LazyGroup(click.Group):
    """Commands by name; each module has its command in ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gateways.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: ARG001 - click's signature
    """``--version``."""
    if not value:
        return
    from gateways.build import version_line  # noqa: PLC0415 - not for every start

    click.echo(version_line())
    ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the version, the Python and the build.",
)
@click.pass_context
def gateways(ctx: click.Context) -> None:
    """One Python application behind any web server, over FastCGI, SCGI, uwsgi or HTTP."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Run the command line of this process and end it."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. A mistake is one sentence on stderr and exit code 2."""
    from gateways.errors import ConfigError, WorkerBootError  # noqa: PLC0415 - the package is not loaded for --help

    try:
        result = gateways.main(args=arguments, prog_name="gateways", standalone_mode=False)
    except click.ClickException as error:
        ctx = getattr(error, "ctx", None)
        hint = f" (see '{ctx.command_path} --help')" if ctx is not None else ""
        click.echo(f"gateways: {error.format_message()}{hint}", err=True)
        return error.exit_code
    except (ConfigError, WorkerBootError) as error:
        click.echo(f"gateways: {error}", err=True)
        return EXIT_MISTAKE
    except click.Abort:
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0
