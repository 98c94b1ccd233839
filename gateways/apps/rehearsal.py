"""One request to an application before it serves anybody: it imports what it imports late, and shows that it answers.

To import its module may show little: Django reads its URLs, and with them the views, at the first request. Where each
worker must answer one before it is ready, ``gateways check`` finds what is broken there, and a reload leaves the old
workers as they are.
"""

from __future__ import annotations

import re
from typing import Any, Final

from gateways import __version__
from gateways.apps import Exchange
from gateways.apps.loader import describe
from gateways.apps.wsgi import Log, WSGIApp
from gateways.body import RequestBody
from gateways.codecs.events import Body, Event, Request, ResponseHead
from gateways.environ import request_line
from gateways.errors import PeerClosed, WorkerBootError

__all__ = ["rehearse"]

_PORTS: Final = {"http": "80", "https": "443"}
_MOST: Final = 1 << 20
"""Bytes of an answer that are taken: some have no end."""
_CLIENT: Final = "127.0.0.1"


class _Nobody:
    """The exchange: nobody reads the answer, its status is noted."""

    protocol: str = "http"
    client: str = _CLIENT
    error_output: bool = False

    def __init__(self, params: dict[str, str]) -> None:
        self.request = Request(1, params, 0)
        self.line = request_line(params)
        self.body = RequestBody(0, self)
        self.body.end()
        self.status = ""
        self._taken = 0

    def pull(self, body: RequestBody) -> None:
        """There is nothing to read (BodySource)."""

    def send(self, event: Event) -> None:
        """Take one response event."""
        if isinstance(event, ResponseHead):
            self.send_head(event.status, event.headers, event.content, event.end)
        elif isinstance(event, Body):
            self.send_body(event.data)

    def send_head(
        self,
        status: str,
        headers: list[tuple[str, str]],  # noqa: ARG002  (Exchange)
        content: bytes = b"",
        end: bool = False,  # noqa: ARG002  (Exchange)
    ) -> None:
        """Note the status."""
        self.status = status
        self._take(len(content))

    def send_body(self, data: bytes) -> None:
        """Take a block of it."""
        self._take(len(data))

    def send_file(self, fd: int, offset: int, count: int) -> None:  # noqa: ARG002  (Exchange)
        """Take a file."""
        self._take(count)

    def _take(self, count: int) -> None:
        self._taken += count
        if self._taken > _MOST:
            raise PeerClosed("that is enough of an answer to a rehearsal")

    def abandon(self) -> None:
        """It was given up: why has been told."""


class _Heard:
    """The log: what the application prints goes on, and what it raises is kept."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.error: BaseException | None = None

    def notice(self, exchange: Exchange, message: str) -> None:
        """Nothing is served yet: a broken connection is ours."""

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:  # noqa: ARG002  (Log)
        """Keep it."""
        self.error = self.error or error

    def output(self, exchange: Exchange, text: str) -> None:
        """Pass it on."""
        self._log.output(exchange, text)


def rehearse(
    application: Any,  # noqa: ANN401  (what it is, it shows)
    url: tuple[str, str, str],
    log: Log,
    *,
    mount: str | None,
    threads: bool,
    processes: bool,
) -> None:
    """Have ``application`` answer a GET to nobody; raises WorkerBootError where it raises or answers with 5xx.

    ``url``: scheme, Host header, path with the query, percent-encoded. The others are those of ``WSGIApp``. What the
    application raised is the error's cause.
    """
    exchange = _Nobody(params_of(*url))
    heard = _Heard(log)
    WSGIApp(application, heard, mount=mount, threads=threads, processes=processes)(exchange)
    scheme, host, target = url
    asked = f"when it was asked for {scheme}://{host}{target} (--warm-up)"
    if heard.error is not None:
        raise WorkerBootError(f"the application raised {describe(heard.error)} {asked}") from heard.error
    if not exchange.status or exchange.status >= "5":
        status = exchange.status or "nothing"
        raise WorkerBootError(f"the application answered {status} {asked}; its own log may tell why", found=True)


def params_of(scheme: str, host: str, target: str) -> dict[str, str]:
    """Return the request as a web server would hand it on."""
    name, _, port = host.rpartition(":") if re.search(r":[0-9]+$", host) else (host, "", "")
    return {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": target,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_SCHEME": scheme,
        **({"HTTPS": "on"} if scheme == "https" else {}),
        "SERVER_NAME": name.strip("[]"),
        "SERVER_PORT": port or _PORTS[scheme],
        "REMOTE_ADDR": _CLIENT,
        "HTTP_HOST": host,
        "HTTP_USER_AGENT": f"gateways/{__version__} (warm-up)",
    }
