"""What each protocol's listeners make of a new connection: its codec, and the connection around it.

The one place above the codecs that knows them by name.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from gateways.codecs import Codec
from gateways.codecs.detect import detect
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import RemoteProtocolError, TruncatedMessage
from gateways.limits import Limits
from gateways.server.connection import Connection
from gateways.server.multiplex import MultiplexConnection

if TYPE_CHECKING:
    from gateways.server.pool import Pool

__all__ = ["Protocols"]


class Protocols:
    """Makes connections for the listeners of one socket name.

    ``host`` and ``port`` are SERVER_NAME and SERVER_PORT where clients come without a web server (HTTP);
    ``max_conns`` and ``max_reqs`` are what FastCGI front ends are told when they ask.
    """

    def __init__(
        self, limits: Limits, *, host: str, port: str, max_conns: int, max_reqs: int, modifier30: bool = False
    ) -> None:
        self._limits = limits
        self._host = host
        self._port = port
        self._max_conns = max_conns
        self._max_reqs = max_reqs
        self._modifier30 = modifier30

    def connect(self, protocol: str, pool: Pool, fd: int, peer: object) -> Connection:
        """Return the connection of a socket just accepted on a listener of ``protocol``."""
        if protocol == "auto":
            return DetectConnection(pool, fd, peer, self)
        codec = self.codec(protocol, peer)
        if codec.multiplexed:
            return MultiplexConnection(pool, fd, codec, peer)
        return Connection(pool, fd, codec, peer)

    def codec(self, protocol: str, peer: object) -> Codec:
        """Return a new codec: ``fastcgi``, ``scgi``, ``uwsgi`` or ``http``."""
        if protocol == "uwsgi":
            return UWSGICodec(self._limits, modifier30=self._modifier30)
        if protocol == "scgi":
            return SCGICodec(self._limits)
        if protocol == "fastcgi":
            return FastCGICodec(self._limits, max_conns=self._max_conns, max_reqs=self._max_reqs)
        client = peer if isinstance(peer, tuple) else ("", "")
        variables = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_NAME": self._host,
            "SERVER_PORT": self._port,
            "REMOTE_ADDR": str(client[0]),
            "REMOTE_PORT": str(client[1]),
        }
        return HTTP1Codec(self._limits, variables, _clock.date)


class DetectConnection(Connection):
    """A connection on an ``auto`` listener until its first bytes tell the protocol; then another has its socket."""

    def __init__(self, pool: Pool, fd: int, peer: object, protocols: Protocols) -> None:
        super().__init__(pool, fd, _Unknown(), peer)
        self._protocols = protocols
        self._first = b""

    def take(self, data: bytes) -> None:
        """Go by the first bytes; nothing is known in which an error could be answered."""
        self._first += data
        try:
            if not data and self._first:
                raise TruncatedMessage("auto", "the peer closed before its protocol could be told")
            name = detect(self._first)
        except RemoteProtocolError as error:
            self.failure = error
            return
        if name == "proxy":
            self.failure = RemoteProtocolError("auto", "the PROXY protocol is not accepted here")
            return
        if not data:
            self.eof = True
        elif name is not None:
            # A TLS hello goes to HTTP, which answers that it speaks none.
            successor = self._protocols.connect("http" if name == "tls" else name, self.pool, self.fd, self.peer)
            successor.deadline = self.deadline
            successor.registered = self.registered
            if self.registered:
                self.pool.connections[self.fd] = successor
            self.closed = True  # this one: the socket lives on
            try:
                successor.take(self._first)
                successor.proceed()
            except BaseException:
                successor.break_off()
                raise

    def proceed(self) -> None:
        """Wait for more bytes, or close; nothing where the socket has a new owner."""
        if not self.closed:
            super().proceed()


class _Unknown(Codec):
    """What stands in the codec's place until the protocol is known."""

    protocol: str = "auto"


class _Clock:
    """The date as HTTP writes it, made once a second."""

    _second: int = 0
    _text: str = ""

    def date(self) -> str:
        """Return the value of a Date field (RFC 9110 section 5.6.7)."""
        now = int(time.time())
        if now != self._second:
            self._second, self._text = now, formatdate(now, usegmt=True)
        return self._text


_clock = _Clock()
