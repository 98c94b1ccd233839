"""One request and the way of its response: what an App is called with, between it and the connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NoReturn

from gateways.body import RequestBody
from gateways.codecs.events import Body, EndOfResponse, Event, RawBody, Request, ResponseHead
from gateways.errors import LocalProtocolError, PeerClosed

if TYPE_CHECKING:
    from gateways.server.connection import Connection

__all__ = ["Exchange"]

_LONG_HEAD: Final = 4096  # bytes: nginx's default fastcgi_buffer_size and the like, one memory page
_FILE_BLOCK: Final = 65_536


class Exchange:
    """One request and the way of its response: what an App is called with."""

    started: bool = False
    """A thread has begun to serve it."""
    ended: bool = False
    """The whole response has been written, or nothing more of it will be."""
    aborted: bool = False

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

    def send(self, event: Event) -> None:
        """Write one response event; raises PeerClosed, LocalProtocolError."""
        connection = self.connection
        if self.aborted or self.ended:
            self._refuse()
        if isinstance(event, Body):
            connection.send_body(event)
            return
        data = connection.codec.send(event)
        if isinstance(event, ResponseHead):
            self.ended = event.end  # before the last byte is out: the peer may use the stream again at once
            if len(data) > _LONG_HEAD:
                self._warn_long_head(len(data) - len(event.content))
        elif isinstance(event, EndOfResponse):
            self.ended = True
        if data:
            connection.write(data)
        if self.ended:
            connection.answered(self)

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

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Write part of an open file as body; raises PeerClosed, and LocalProtocolError where it is too short."""
        connection = self.connection
        while count and (most := connection.codec.raw_size):
            if self.aborted or self.ended:
                self._refuse()
            size = min(count, most)
            connection.send_raw(RawBody(self.request.stream, size), fd, offset)
            offset += size
            count -= size
        while count:
            data = os.pread(fd, min(count, _FILE_BLOCK), offset)
            if not data:
                raise LocalProtocolError(self.protocol, "the file became shorter while it was sent")
            self.send(Body(self.request.stream, data))
            offset += len(data)
            count -= len(data)

    def abandon(self) -> None:
        """Give the response up after its head."""
        self.ended = True
        self.connection.abandon(self)

    def on_ready(self) -> None:
        """Be served by the thread that calls."""
        self.connection.serve(self)
