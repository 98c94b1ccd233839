"""What the commands that talk to a running server share: their options, finding it, and how a failure is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from gateways.client.control import call, find
from gateways.errors import ConfigError, PeerClosed
from gateways.server.errorlog import escape
from gateways.values import duration

__all__ = ["Failure", "ask", "ask_once", "control_option", "take_time", "timeout_option"]

VARIABLE: Final = "GATEWAYS_CONTROL"
CONFIG_VARIABLE: Final = "GATEWAYS_CONFIG"
ANSWER_SECONDS: Final = 10.0
"""For what the master answers at once."""
Command = TypeVar("Command", bound=Callable[..., object])


class Failure(click.ClickException):
    """It did not work, and no mistake of the person who asked: exit code 1."""

    exit_code = 1

    def __init__(self, message: object) -> None:
        super().__init__("\n".join(escape(line) for line in str(message).splitlines()))


def take_time(ctx: click.Context, param: click.Parameter, value: object) -> float:
    """Read a time as the settings write it."""
    try:
        return duration(zero=False)(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def take_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:  # noqa: ARG001 - click's signature
    """Keep the file's name for ``take_control``."""
    ctx.meta[CONFIG_VARIABLE] = value


def take_control(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - as above
    """The path that was named, or else the one in the server's file."""
    file = ctx.meta.get(CONFIG_VARIABLE)
    if value or not file:
        return value
    from gateways.settings import control_in  # noqa: PLC0415 - only where there is a file

    return control_in(file)


def control_option(command: Command) -> Command:
    """Give a command the options that name the server."""
    for decorate in (
        click.option("--pid", type=click.IntRange(1), metavar="PID", help="Its master's process id, among several."),
        click.option(
            "--config", envvar=CONFIG_VARIABLE, metavar="FILE", is_eager=True, expose_value=False, callback=take_config,
            help=f"The server's TOML file, which may name its control socket [{CONFIG_VARIABLE}].",
        ),
        click.option(
            "--control", envvar=VARIABLE, metavar="PATH", callback=take_control,
            help=f"The server's control socket [{VARIABLE}, or found].",
        ),
    ):  # fmt: skip
        command = decorate(command)
    return command


def timeout_option(default: float, words: str) -> Callable[[Command], Command]:
    """Give a command the option ``--timeout``."""
    text = f"{words} [{default:g}s]."
    return click.option("--timeout", callback=take_time, default=f"{default:g}s", metavar="TIME", help=text)


def path_of(control: str | None, pid: int | None) -> str:
    """Return the path of the control socket that the options name; raises ConfigError."""
    if pid is None and control:
        if control == "off":
            raise ConfigError(f"{VARIABLE} is off: a server without a control socket cannot be asked")
        return control
    return find(os.environ.get("XDG_RUNTIME_DIR"), pid)


def ask(
    control: str | None, pid: int | None, command: str, timeout: float = ANSWER_SECONDS, **arguments: object
) -> Iterator[dict[str, Any]]:
    """Yield the answers of a server; raises Failure where it says no, or nothing in time."""
    try:
        for answer in call(path_of(control, pid), command, timeout, **arguments):
            if not answer["ok"]:
                raise Failure(answer.get("error", "the server said no"))
            yield answer
    except TimeoutError:
        raise Failure(f"the server has not done this within {timeout:g} s: {command}") from None
    except PeerClosed as error:
        raise Failure(error) from None


def ask_once(
    control: str | None, pid: int | None, command: str, timeout: float = ANSWER_SECONDS, **arguments: object
) -> dict[str, Any]:
    """Return the one answer of a server; raises Failure."""
    answers = list(ask(control, pid, command, timeout, **arguments))
    if not answers:
        raise Failure("the server ended before it answered")
    return answers[0]
