"""Kept connections go from a worker that leaves to one that stays, so that the front end never finds one closed.

Whoever closes an idle connection may do so just when a request is sent into it, and the front end may not repeat that
where it is a POST. So a worker that leaves closes none: its descriptor goes by the master to another worker, whatever
bytes the kernel already holds of the next request.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateways.server.channel import CONNECTION, LOST, Channel, Message
from gateways.server.connection import Connection
from gateways.server.protocols import Connector, Protocols, ProxyConnection

if TYPE_CHECKING:
    from gateways.server.pool import Pool

__all__ = ["Passing", "Way"]

_EVERY: Final = ("0.0.0.0", "::")  # noqa: S104  (to be known, not to be bound)


@dataclass(frozen=True, slots=True)
class Way:
    """What becomes of the connections of one listening socket."""

    protocol: str
    sock: socket.socket
    protocols: Protocols
    connector: Connector
    """For connections that are new: something may have to be known of them first."""


class Passing:
    """Both directions, in one worker."""

    def __init__(self, pool: Pool, channel: Channel, ways: list[Way]) -> None:
        self._pool = pool
        self._channel = channel
        self._ways = [(way, way.sock.getsockname()) for way in ways]

    def give(self, connection: Connection) -> bool:
        """Have another worker go on with it; False where that cannot be now. The descriptor remains ours to close."""
        news = {
            "protocol": "" if connection.in_head else connection.codec.protocol,
            "peer": connection.peer if isinstance(connection.peer, tuple) else "",
            "header": isinstance(connection, ProxyConnection),  # its PROXY header is still to come
        }
        return self._channel.send(CONNECTION, text=json.dumps(news).encode(), fds=[connection.fd])

    def take(self, message: Message) -> None:
        """Go on with a connection of another worker, in a thread of the pool."""
        if not message.fds:
            why = "the worker that should go on had no file descriptor left; raise the limit of open files (ulimit -n)"
            self._channel.send(LOST, text=why.encode())
            return
        fd = message.fds[0]
        news = json.loads(message.text)
        way = self._way(fd)
        if way is None:
            os.close(fd)
            self._channel.send(LOST, text=b"the server does not listen there any more, or the peer has gone")
            return
        pool = self._pool
        protocol = news["protocol"]
        peer = tuple(news["peer"]) if news["peer"] else ""
        if protocol:
            connection = way.protocols.connect(protocol, pool, fd, peer)
            connection.in_head = False
            connection.deadline = pool.clock() + pool.timeouts.keepalive
        else:
            connector = way.connector if news["header"] else way.protocols
            connection = connector.connect(way.protocol, pool, fd, peer)
        pool.submit(connection)

    def _way(self, fd: int) -> Way | None:
        """Return the listener by which a connection has come; None where there is no such listener here."""
        sock = socket.socket(fileno=fd)
        try:
            name = sock.getsockname()
        except OSError:
            return None
        finally:
            sock.detach()
        wildcard = None
        for way, known in self._ways:
            if known == name:
                return way
            if isinstance(name, tuple) and isinstance(known, tuple) and known[0] in _EVERY and known[1] == name[1]:
                wildcard = way
        return wildcard
