"""Who answers a request. An application is called with an Exchange and has answered it when it returns."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from collections.abc import Callable

from gateways.body import RequestBody
from gateways.codecs.events import Event, Request

__all__ = ["App", "Exchange"]


class Exchange(Protocol):
    """One request and the way of its response; the server makes it, an application uses it."""

    request: Request
    body: RequestBody
    protocol: str
    """``fastcgi``, ``scgi``, ``uwsgi``, ``http``."""
    peer: str
    """The other end of the connection, for the log: the web server's, or the client's over HTTP."""
    error_output: bool
    """ErrorOutput reaches the web server's error log (FCGI_STDERR)."""

    def send(self, event: Event) -> None:
        """Write one response event; returns when the socket has taken it. Raises PeerClosed, LocalProtocolError."""

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Write ``count`` bytes of an open file as body, by os.sendfile where the protocol allows it.

        Raises PeerClosed; and LocalProtocolError where the file has become shorter.
        """

    def abandon(self) -> None:
        """Give the response up after its head: make the peer see that it was cut, not ended."""


App: TypeAlias = Callable[[Exchange], None]
