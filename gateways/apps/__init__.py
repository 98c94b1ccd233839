"""Who answers a request. An application is called with an Exchange and has answered it when it returns.

Or it returns a Course, and has answered when that has ended: a generator that yields whenever it has to wait for
something else than its peer, so that no thread does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol, TypeAlias

from gateways.apps.wait import Wait
from gateways.body import RequestBody
from gateways.codecs.events import Event, Request

__all__ = ["App", "Course", "Exchange", "WatchedExchange"]


class Exchange(Protocol):
    """One request and the way of its response; the server makes it, an application uses it."""

    @property
    def request(self) -> Request:
        """What is asked for."""

    @property
    def body(self) -> RequestBody:
        """The request's body, to be read as a file."""

    @property
    def protocol(self) -> str:
        """``fastcgi``, ``scgi``, ``uwsgi``, ``http``."""

    @property
    def client(self) -> str:
        """Who asks, for the log: REMOTE_ADDR, or the other end of the connection."""

    @property
    def line(self) -> str:
        """What is asked for, for the log: method and path, as they came."""

    @property
    def error_output(self) -> bool:
        """ErrorOutput reaches the web server's error log (FCGI_STDERR)."""

    def send(self, event: Event) -> None:
        """Write one response event; returns when the socket has taken it. Raises PeerClosed, LocalProtocolError."""

    def send_head(self, status: str, headers: list[tuple[str, str]], content: bytes = b"", end: bool = False) -> None:
        """Write a head and what comes with it, as ``send`` does a ResponseHead. Raises as that."""

    def send_body(self, data: bytes) -> None:
        """Write a block of body, as ``send`` does a Body. Raises PeerClosed, LocalProtocolError."""

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Write ``count`` bytes of an open file as body, by os.sendfile where the protocol allows it.

        Raises PeerClosed; and LocalProtocolError where the file has become shorter.
        """

    def abandon(self) -> None:
        """Give the response up after its head: make the peer see that it was cut, not ended."""


class WatchedExchange(Exchange, Protocol):
    """One whose peer can be watched while the application waits for something else."""

    def fileno(self) -> int:
        """Return the connection's descriptor, for poll() alone."""

    def watch(self, more: bool) -> tuple[int, float]:
        """What an application that waits for something else has to poll() for beside it, so that it can ``hear``.

        Returns the events for ``fileno``, and the seconds after which it is to ``hear`` without any. ``more``: bytes of
        the body are wanted too. Only the thread that serves the request or goes on with its course may call this and
        the next.
        """

    def hear(self, events: int) -> bool:
        """Take what poll() has reported, without waiting; returns whether the peer has gone, or wants no answer.

        Bytes that came for the body are in it then, as is its end. Where requests have a connection of their own, a
        peer that has only closed its sending side is still there (nc -N), but for HTTP and uwsgi over TCP, where that
        cannot be told from a client that has gone. FastCGI has no such half.
        """

    def write_by(self, until: float) -> None:
        """Raise PeerClosed where the peer has not taken what is sent until then, by ``time.monotonic``; 0 is no limit.

        It is without effect where other requests may be on the same connection.
        """


Course: TypeAlias = Generator[Wait, None, None]
"""The way of a request from one wait to the next; any thread may go on with it, one at a time."""
App: TypeAlias = Callable[[WatchedExchange], Course | None]
