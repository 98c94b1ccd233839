"""One request and the way of its response: what an App is called with, between it and the connection."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Final, NoReturn

from gateways.body import RequestBody
from gateways.codecs.events import Body, EndOfResponse, Event, RawBody, Request, ResponseHead
from gateways.codecs.refusal import error_response
from gateways.environ import request_line
from gateways.errors import LocalProtocolError, PeerClosed, RequestTimeout

if TYPE_CHECKING:
    from gateways.apps import App, Course
    from gateways.server.connection import Connection

__all__ = ["Exchange"]

LARGE_BLOCK: Final = 4096
"""Bytes of body from which on a copy costs more than a system call with several pieces."""
_LONG_HEAD: Final = 4096  # bytes: nginx's default fastcgi_buffer_size and the like, one memory page
_FILE_BLOCK: Final = 65_536


class Exchange:
    """One request and the way of its response: what an App is called with."""

    started: bool = False
    """A thread has begun to serve it."""
    full_since: float = 0.0
    """When it was found that much of its body is held, and no thread serves it; 0.0 before that."""
    ended: bool = False
    """The whole response has been written, or nothing more of it will be."""
    aborted: bool = False
    timed_out: bool = False
    """Its time is over, and its thread has been interrupted: the application can send and read nothing more."""
    replaced: bool = False
    """It is answered in the application's place."""
    late: bool = False
    """Its time is over, and the server's own code that its thread is in has to find out."""
    sheltered: int = 0
    """How many threads are in the server's own code for it, out of which no exception may come just anywhere."""
    status: str = ""
    """That of the response, once its head is sent."""
    sent: int = 0
    """Bytes of the response's body so far."""
    client: str = ""
    """Who asks, for the log."""
    line: str = ""
    """Method and path, as they came, for the log. Both are known when it is served."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.protocol = connection.codec.protocol
        self.body = RequestBody(request.content_length, connection)

    @property
    def error_output(self) -> bool:
        """ErrorOutput reaches the web server's error log: so it is where requests share connections (FastCGI)."""
        return self.connection.codec.multiplexed

    @property
    def peer(self) -> str:
        """The other end of the connection, for the log."""
        return self.connection.peer_name()

    def answer_by(self, app: App) -> bool:
        """Have ``app`` answer, to which the parameters belong from then on: they may have become its environ.

        Returns False where the request has to wait, and no thread does: its connection is told to ``resume`` after it.
        """
        request = self.request
        params = request.params
        self.client = params.get("REMOTE_ADDR") or self.peer
        self.line = request_line(params)
        course: Course | None = None
        try:
            course = app(self)
        finally:
            if course is None:  # an environ knows its request, by wsgi.errors: no circle for the garbage collector
                request.params = {}
        return course is None or self.connection.pool.take_course(self, course)

    def send(self, event: Event, inside: bool = False) -> None:
        """Write one response event; raises PeerClosed, LocalProtocolError. ``inside`` is for this file alone."""
        connection = self.connection
        if connection.pool.timed and not inside:
            self._sheltered(self.send, event)
            return
        if self.aborted or self.ended:
            self._refuse()
        if isinstance(event, ResponseHead):
            self.send_head(event.status, event.headers, event.content, event.end, True)
        elif isinstance(event, Body):
            self.send_body(event.data, True)
        else:
            data = connection.codec.send(event)
            if isinstance(event, EndOfResponse):
                self.ended = True
            if data:
                connection.write(data)
            if self.ended:
                connection.answered(self)

    def send_head(
        self, status: str, headers: list[tuple[str, str]], content: bytes = b"", end: bool = False, inside: bool = False
    ) -> None:
        """Write a head, the first block behind it, and where ``end`` says so the end; raises as ``send`` does."""
        connection = self.connection
        if connection.pool.timed and not inside:
            self._sheltered(self.send_head, status, headers, content, end)
            return
        if self.aborted or self.ended:
            self._refuse()
        stream = self.request.stream
        size = len(content)
        if size >= LARGE_BLOCK:
            self._send_parts(ResponseHead(stream, status, headers, content, end))
            return
        data = connection.codec.head(stream, status, headers, content, end)
        self.status = status
        self.sent = size
        self.ended = end  # before the last byte is out: the peer may use the stream again at once
        if len(data) > _LONG_HEAD:
            self._warn_long_head(len(data) - size)
        if data:
            connection.write(data)
        if end:
            connection.answered(self)

    def send_body(self, data: bytes, inside: bool = False) -> None:
        """Write a block of body; raises as ``send`` does."""
        connection = self.connection
        if connection.pool.timed and not inside:
            self._sheltered(self.send_body, data)
            return
        if self.aborted or self.ended:
            self._refuse()
        self.sent += len(data)
        connection.send_body(self.request.stream, data)

    def _send_parts(self, event: ResponseHead) -> None:
        """Write a head and the large block behind it, which is not copied."""
        connection = self.connection
        parts = connection.codec.head_parts(event)
        self.status = event.status
        self.sent = len(event.content)
        self.ended = event.end
        self._warn_long_head(len(parts[0]))
        connection.write_parts(parts)
        if self.ended:
            connection.answered(self)

    def _sheltered(self, write: Callable[..., None], *arguments: object) -> None:
        """Where time is limited, write from within the server's own code: RequestTimeout comes where it waits."""
        self.enter()
        try:
            write(*arguments, True)
        finally:
            self.leave()

    def enter(self) -> None:
        """Where time is limited: a thread comes into the server's own code. Raises RequestTimeout where it is over."""
        with self.connection.pool.guard:
            if self.timed_out:
                raise RequestTimeout
            self.sheltered += 1

    def leave(self) -> None:
        """It goes back to the application; raises RequestTimeout where the time has passed meanwhile."""
        pool = self.connection.pool
        with pool.guard:
            self.sheltered -= 1
            late = self.late
            self.late = False
            pool.overdue.discard(get_ident())
        if late and not self.ended:
            raise RequestTimeout

    def answer_timeout(self) -> None:
        """Answer 504 from another thread than the application's, which is let in here no more.

        Raises PeerClosed, LocalProtocolError.
        """
        connection = self.connection
        head_only = self.line.startswith("HEAD ")
        response = error_response(self.request.stream, 504, head_only)
        self.status = response.status
        self.sent = len(response.content)
        connection.codec.last()  # nobody knows when that thread, which has the connection, comes back
        data = connection.codec.send(response)
        self.ended = True
        connection.write(data)
        connection.answered_elsewhere(self)

    def _refuse(self) -> NoReturn:
        if self.aborted:
            raise PeerClosed("the web server has aborted the request")
        raise LocalProtocolError(self.protocol, "the response has ended")

    def _warn_long_head(self, size: int) -> None:
        """Say, once a worker, what nginx answers with a 502 unless told otherwise."""
        pool = self.connection.pool
        if size > _LONG_HEAD and not pool.warned_of_heads:
            pool.warned_of_heads = True
            pool.log.notice(
                self,
                f"the response head has about {size} bytes; nginx refuses more than 4 or 8 KiB unless "
                f"{self.protocol}_buffer_size says otherwise (said once)",
            )

    def send_file(self, fd: int, offset: int, count: int, inside: bool = False) -> None:
        """Write part of an open file as body; raises PeerClosed, and LocalProtocolError where it is too short."""
        connection = self.connection
        if connection.pool.timed and not inside:
            self._sheltered(self.send_file, fd, offset, count)
            return
        while count and (most := connection.codec.raw_size):
            if self.aborted or self.ended:
                self._refuse()
            size = min(count, most)
            connection.send_raw(RawBody(self.request.stream, size), fd, offset)
            self.sent += size
            offset += size
            count -= size
        while count:
            data = os.pread(fd, min(count, _FILE_BLOCK), offset)
            if not data:
                raise LocalProtocolError(self.protocol, "the file became shorter while it was sent")
            self.send_body(data, inside)
            offset += len(data)
            count -= len(data)

    def fileno(self) -> int:
        """Return the connection's descriptor, for poll() alone."""
        return self.connection.fd

    def watch(self, more: bool) -> tuple[int, float]:
        """Return what to poll() for, and how long at most; ``more``: bytes of the body are wanted too."""
        return self.connection.watch(self, more)

    def hear(self, events: int) -> bool:
        """Take what poll() has reported; returns whether the peer has gone, or wants no answer."""
        return self.connection.hear(self, events)

    def write_by(self, until: float) -> None:
        """Wait for the peer until then and no longer; 0 is no limit."""
        self.connection.limit_writes(self, until)

    def abandon(self) -> None:
        """Give the response up after its head.

        Where time is limited, the connection does it when the App has returned. Until then RequestTimeout may be raised
        anywhere: in here it would leave the connection open, or its descriptor closed behind its back (socket.socket).
        """
        if self.connection.pool.timed:
            return
        self.ended = True
        self.connection.abandon(self)

    def on_ready(self) -> None:
        """Be served by the thread that calls."""
        self.connection.serve(self)
