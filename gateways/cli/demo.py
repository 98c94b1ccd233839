"""``gateways demo``: the bundled application on one port in every protocol, and what to try with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from gateways.errors import ConfigError
from gateways.frontends.nginx import PREFIXES, PrivateNginx, find_nginx
from gateways.server.address import Address, parse_address
from gateways.settings import Settings

__all__ = ["command"]

DEFAULT_ADDRESS: Final = "127.0.0.1:8000"
APPLICATION: Final = "gateways.apps.demo:application"
THREADS: Final = 4
SOCKET_MODE: Final = 0o666
"""An open door, as the port is: the nginx in front has another user when root tries the demo."""
EVERY_INTERFACE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""Where to connect to a server that listens on every interface."""
PASSES: Final = ("fastcgi", "scgi", "uwsgi")


def demo_settings(text: str) -> Settings:
    """The settings of the demo; nothing of the environment or a file gets in its way."""
    address = parse_address(text)
    if address.kind not in ("tcp", "unix") or (address.kind == "tcp" and address.port == 0):
        raise ConfigError(f"the demo says where to connect, so it takes a port or a path and not {address}")
    return Settings(APPLICATION, (("auto", address),), SOCKET_MODE, threads=THREADS, chdir=str(Path.cwd()))


def upstream(address: Address) -> str:
    """The address to connect to, as nginx's ``*_pass`` directives write it."""
    if address.kind == "tcp":
        return str(Address("tcp", EVERY_INTERFACE.get(address.host, address.host), address.port))
    path = str(Path(address.path).absolute())
    if not re.fullmatch(r"[\w./+-]+", path, re.ASCII):
        raise ConfigError(f"nginx cannot be told of {address}: choose a path of letters, digits and . / + - _")
    return f"unix:{path}"


def base_url(address: Address) -> str:
    """The URL of the demo itself; for a unix socket what curl's ``--unix-socket`` needs beside the path."""
    return f"http://{upstream(address)}" if address.kind == "tcp" else "http://localhost"


def trials(address: Address) -> Iterator[str]:
    """The lines that say what to try without any web server."""
    target = upstream(address)
    url = base_url(address)
    path = target.removeprefix("unix:")
    curl = "curl" if address.kind == "tcp" else f"curl --unix-socket {path}"
    yield f"gateways demo: HTTP, FastCGI, SCGI and uwsgi on {address}, Ctrl-C ends it"
    yield ""
    if address.kind == "tcp":
        yield f"  browser   {url}/"
    yield f"  curl      {curl} {url}/env"
    yield f"            {curl} -N {url}/stream"
    yield f"            {curl} -d hello {url}/echo"
    cgi_fcgi = shutil.which("cgi-fcgi")
    if cgi_fcgi is not None:
        yield "  FastCGI   env -i REQUEST_METHOD=GET SCRIPT_NAME= PATH_INFO=/env \\"
        yield f"            {cgi_fcgi} -bind -connect {path}"
    yield "  nginx     one of these in a server block:"
    for protocol in PASSES:
        yield f"            location / {{ include {protocol}_params;"
        yield f"                         {protocol}_pass {target}; }}"


def nginx_trials(port: int) -> Iterator[str]:
    """The lines about the private nginx."""
    for number, prefix in enumerate(PREFIXES):
        start = "  and through the nginx that this command has started:\n" if number == 0 else ""
        yield f"{start}            http://127.0.0.1:{port}{prefix}"


@click.command
@click.argument("addr", default=DEFAULT_ADDRESS)
@click.option("--nginx/--no-nginx", default=True, help="Start a private nginx in front, where it is installed.")
@click.pass_context
def command(ctx: click.Context, addr: str, nginx: bool) -> None:
    """Serve the bundled demonstration on ADDR (127.0.0.1:8000) in every protocol, and say what to try."""
    settings = demo_settings(addr)
    address = settings.listeners[0][1]
    binary = find_nginx() if nginx else None
    wanted = address.port + 1 if address.kind == "tcp" else 0
    front = PrivateNginx(binary, upstream(address), wanted) if binary is not None else None

    def on_ready() -> None:
        for line in trials(address):
            click.echo(line)
        if front is not None:
            try:
                front.start()
            except ConfigError as error:
                click.echo(f"gateways: {error}; the demo goes on without it", err=True)
            else:
                for line in nginx_trials(front.port):
                    click.echo(line)

    from gateways.server.service import serve  # noqa: PLC0415 - not for --help

    try:
        code = serve(settings, on_ready)
    finally:
        if front is not None:
            front.stop()
    ctx.exit(code)
