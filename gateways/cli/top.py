"""``gateways top``: what a running server does, live, the longest request first."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from gateways.cli.display import Row, head_lines, table, worker_rows
from gateways.cli.remote import ask_once, control_option, take_time
from gateways.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["command"]

DEFAULT_INTERVAL: Final = 1.0
SHORTEST: Final = 0.1
FEWEST_ROWS: Final = 3
"""Shown also where the terminal is too low for them."""
STYLES: Final = {"busy": "yellow", "idle": "dim"}
"""Of a thread's row, by its state."""


class Rate:
    """Requests a second, between one look and the next."""

    def __init__(self) -> None:
        self._before: tuple[float, int] | None = None

    def text(self, uptime: float, requests: int) -> str:
        """Return the rate since the last look; since the start at the first one."""
        then, done = self._before or (0.0, 0)
        self._before = (uptime, requests)
        if uptime <= then or requests < done:  # another server has taken over meanwhile
            return "-"
        return f"{(requests - done) / (uptime - then):.1f} a second"


def make_console() -> Console:
    """Return rich's console; raises ConfigError where rich is missing."""
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            f"gateways top needs rich, which is not installed: python3 -m pip --python {sys.executable} install rich"
        ) from error
    return Console(highlight=False, emoji=False, markup=False)


def sorted_rows(status: Mapping[str, Any]) -> list[Row]:
    """Return the rows of all workers and threads; threads within their worker, the longest busy ones first."""
    rows: list[Row] = []
    for worker in status["workers"]:
        threads = sorted(worker["threads"], key=lambda thread: (thread["state"] != "busy", -thread["for"]))
        rows += worker_rows({**worker, "threads": threads})
    return rows


def frame(status: Mapping[str, Any], rate: str, width: int, height: int | None) -> Text:
    """Return one picture of at most ``height`` lines."""
    from rich.text import Text  # noqa: PLC0415 - an extra

    lines = [(line, "bold" if number == 0 else "") for number, line in enumerate(head_lines(status, width))]
    lines += [(f"rate      {rate}", ""), ("", "")]
    rows = sorted_rows(status)
    headings, *texts = table(rows, width)
    body = [(text, STYLES.get(row[1], "bold")) for text, row in zip(texts, rows, strict=True)]
    if height is not None and len(body) > (room := max(height - len(lines) - 1, FEWEST_ROWS)):
        body[room - 1 :] = [(f"and {len(body) - room + 1} more", "dim")]
    return Text("\n").join(Text(line, style) for line, style in [*lines, (headings, "reverse"), *body])


def watch(console: Console, control: str | None, pid: int | None, interval: float) -> None:
    """Draw one picture after another until Ctrl-C."""
    from rich.live import Live  # noqa: PLC0415 - an extra

    rate = Rate()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                status = ask_once(control, pid, "status")["status"]
                text = rate.text(status["uptime"], status["requests"])
                live.update(frame(status, text, console.width, console.height), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        return


@click.command
@control_option
@click.option(
    "--interval",
    callback=take_time,
    default=f"{DEFAULT_INTERVAL:g}s",
    metavar="TIME",
    help=f"Between two pictures [{DEFAULT_INTERVAL:g}s].",
)
@click.option("--once", is_flag=True, help="One picture, as where the output is no terminal.")
def command(control: str | None, pid: int | None, interval: float, once: bool) -> None:
    """Show live what a running server does, the longest running requests first; Ctrl-C ends it."""
    console = make_console()
    if once or not console.is_terminal:
        status = ask_once(control, pid, "status")["status"]
        text = Rate().text(status["uptime"], status["requests"])
        console.print(frame(status, text, console.width, None), soft_wrap=True)
        return
    watch(console, control, pid, max(interval, SHORTEST))
