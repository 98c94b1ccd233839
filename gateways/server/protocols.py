"""What each protocol's listeners make of a new connection: its codec, and the connection around it.

The one place above the codecs that knows them by name. A connection of which something must be known first, its
protocol or on whose behalf it is made, reads until that has come; then another one has its socket.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from gateways.codecs import Codec
from gateways.codecs.detect import detect
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.proxy import parse_proxy_header
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import Limits
from gateways.server.admission import Admission, Networks
from gateways.server.connection import Connection
from gateways.server.multiplex import MultiplexConnection

if TYPE_CHECKING:
    from gateways.server.pool import Pool

__all__ = ["BehindProxy", "Connector", "Protocols"]


class Connector:
    """What a listener gives its sockets to."""

    def connect(self, protocol: str, pool: Pool, fd: int, peer: object) -> Connection:
        """Return the connection of a socket just accepted on a listener of ``protocol``."""
        raise NotImplementedError


class Protocols(Connector):
    """Makes connections for the listeners of one socket name.

    ``host`` and ``port`` are SERVER_NAME and SERVER_PORT where clients come without a web server (HTTP);
    ``max_conns`` and ``max_reqs`` are what FastCGI front ends are told when they ask; ``admission`` says who may speak
    FastCGI on an ``auto`` listener.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        host: str,
        port: str,
        max_conns: int,
        max_reqs: int,
        modifier30: bool = False,
        admission: Admission | None = None,
    ) -> None:
        self._limits = limits
        self._host = host
        self._port = port
        self._max_conns = max_conns
        self._max_reqs = max_reqs
        self._modifier30 = modifier30
        self.admission = admission

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


class BehindProxy(Connector):
    """Has connections from some networks begin with a PROXY header (--proxy-from); the rest is ``connector``'s.

    The header is demanded of those and refused from everybody else: who might leave it away, or bring one unasked,
    could choose an address (proxy-protocol.txt section 2). A unix socket's peer has none, so it is in no network.
    """

    def __init__(self, connector: Connector, networks: Networks) -> None:
        self._connector = connector
        self._networks = networks

    def connect(self, protocol: str, pool: Pool, fd: int, peer: object) -> Connection:
        """Return the connection of a socket just accepted."""
        if self._networks.have(peer):
            return ProxyConnection(pool, fd, peer, protocol, self._connector)
        return self._connector.connect(protocol, pool, fd, peer)


class FirstBytes(Connection):
    """A connection until its first bytes have told what must be known; nothing is known in which to answer an error."""

    gone: str = ""
    """What is said where the peer closes before."""

    def __init__(self, pool: Pool, fd: int, peer: object, name: str) -> None:
        super().__init__(pool, fd, _Unknown(name), peer)
        self.first = b""

    def take(self, data: bytes) -> None:
        """Go by all the bytes that have come."""
        self.first += data
        try:
            if not data and self.first:
                raise TruncatedMessage(self.codec.protocol, self.gone)
            successor = self.decide()
        except RemoteProtocolError as error:
            self.failure = error
            return
        if successor is not None:
            self.hand_over(successor)
        elif not data:
            self.eof = True

    def decide(self) -> Connection | None:
        """Return the connection that goes on with what is then ``first``; None while that cannot be told.

        Raises RemoteProtocolError.
        """
        raise NotImplementedError

    def hand_over(self, successor: Connection) -> None:
        """Give socket, deadline and place in the poller to ``successor``, and have it served."""
        successor.deadline = self.deadline
        successor.registered = self.registered
        if self.registered:
            self.pool.connections[self.fd] = successor
        self.closed = True  # this one: the socket lives on
        try:
            if self.first:
                successor.take(self.first)
            successor.proceed()
        except BaseException:
            successor.break_off()
            raise

    def untouched(self) -> bool:
        """Not a byte has come."""
        return not self.first and super().untouched()

    def proceed(self) -> None:
        """Wait for more bytes, or close; nothing where the socket has a new owner."""
        if not self.closed:
            super().proceed()


class DetectConnection(FirstBytes):
    """A connection on an ``auto`` listener until its first bytes tell the protocol."""

    gone: str = "the peer closed before its protocol could be told"

    def __init__(self, pool: Pool, fd: int, peer: object, protocols: Protocols) -> None:
        super().__init__(pool, fd, peer, "auto")
        self._protocols = protocols

    def decide(self) -> Connection | None:
        """Go by the protocol; raises MalformedMessage for none that is known."""
        name = detect(self.first)
        if name is None:
            return None
        if name == "proxy":
            raise MalformedMessage("auto", "the PROXY protocol is not accepted from here")
        if name == "tls":  # HTTP answers that it speaks none
            name = "http"
        admission = self._protocols.admission
        if name == "fastcgi" and admission is not None and not admission.admits_fastcgi(self.pool, self.fd):
            self.close()
            return None
        return self._protocols.connect(name, self.pool, self.fd, self.peer)


class ProxyConnection(FirstBytes):
    """A connection that has to begin with a PROXY header, until that is whole: its source becomes the peer."""

    gone: str = "the peer closed within its PROXY header"

    def __init__(self, pool: Pool, fd: int, peer: object, protocol: str, connector: Connector) -> None:
        super().__init__(pool, fd, peer, "proxy")
        self._protocol = protocol
        self._connector = connector

    def decide(self) -> Connection | None:
        """Go by the header; raises MalformedMessage, LimitExceeded."""
        found = parse_proxy_header(self.first)
        if found is None:
            return None
        source, size = found
        self.first = self.first[size:]
        peer = self.peer if source is None else source
        return self._connector.connect(self._protocol, self.pool, self.fd, peer)

    def expire(self) -> None:
        """Say what was missing where a header had begun."""
        if self.first and self.lingering < 0:
            reason = self.no_head().message.replace("request head", "PROXY header")
            self.pool.log.refused("proxy", self.peer_name(), reason)
        super().expire()


class _Unknown(Codec):
    """What stands in the codec's place until the protocol is known."""

    def __init__(self, name: str) -> None:
        self.protocol = name


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
