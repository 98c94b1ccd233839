"""What goes out of one socket: all of it, however little the peer's window takes at a time, or PeerClosed.

Whoever writes waits for the peer, and no longer than it may. What is written, and when, is decided in ``exchange``; a
connection (``connection``) is this and all the rest.
"""

from __future__ import annotations

import select
from os import sendfile, write, writev
from threading import get_ident
from typing import TYPE_CHECKING, Final

from gateways.codecs.events import RawBody
from gateways.errors import LocalProtocolError, PeerClosed, RequestTimeout

if TYPE_CHECKING:
    from gateways.codecs import Codec
    from gateways.server.exchange import Exchange
    from gateways.server.pool import Pool

__all__ = ["LOOK", "Outgoing"]

LOOK: Final = 0.1
"""Seconds after which a thread that waits for its peer looks whether its request's time is over."""
_IOV_MAX: Final = 1024
"""Pieces that one system call may write (limits.h; POSIX wants at least 16, everybody has 1024)."""
_TRIES: Final = 2
"""How often os.sendfile is tried again where the peer's window is full, before its thread waits. A peer that reads on
another core makes room within microseconds; to sleep and to be woken costs ten of them, and cold caches."""


class Outgoing:
    """The sending side of a non-blocking socket, and how it is waited for; a connection sets its attributes."""

    pool: Pool
    fd: int
    codec: Codec
    writes_until: float = 0.0
    """When the time of the request that is answered is over, 0 where that has no end."""
    torn: bool = False
    """A write has stopped, or is, within its bytes: what came next would pass for the rest of them."""

    def write(self, data: bytes) -> None:
        """Write all of ``data``, waiting for the peer where its window is full; raises PeerClosed."""
        if self.torn:
            raise PeerClosed("the peer has not taken all of what was written before")
        try:
            sent = write(self.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerClosed(f"the peer went away: {error.strerror}") from None
        if sent != len(data):
            self._write_rest([data], sent)

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """As ``write``, for what is in several pieces; ``parts`` may be changed."""
        if self.torn:
            raise PeerClosed("the peer has not taken all of what was written before")
        sent = self._writev(parts)
        size = 0
        for part in parts:
            size += len(part)
        if sent != size:
            self._write_rest(parts, sent)

    def _write_rest(self, parts: list[bytes | memoryview], sent: int) -> None:
        """Write what is left of ``parts`` after ``sent`` bytes, waiting for the peer."""
        self.torn = True
        while True:
            _take_off(parts, sent)
            if not parts:
                break
            self._wait_writable()
            sent = self._writev(parts)
        self.torn = False

    def _writev(self, parts: list[bytes | memoryview]) -> int:
        """Write what there is room for, and return how much that is."""
        try:
            return writev(self.fd, parts if len(parts) <= _IOV_MAX else parts[:_IOV_MAX])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerClosed(f"the peer went away: {error.strerror}") from None

    def limit_writes(self, exchange: Exchange, until: float) -> None:  # noqa: ARG002  (others share their connection)
        """Wait for the peer until then and no longer; 0 is no limit."""
        self.writes_until = until

    def _wait_writable(self) -> None:
        until = self.writes_until
        if until:
            left = until - self.pool.clock()
            if left < self.pool.timeouts.write:
                if not self.wait_for(select.POLLOUT, max(left, 0.0)):
                    raise PeerClosed("the peer has not taken the response in the time that its request has")
                return
        if not self.wait_for(select.POLLOUT, self.pool.timeouts.write):
            raise PeerClosed(f"the peer took no byte of the response for {self.pool.timeouts.write:g} s")

    def send_body(self, stream: int, block: bytes) -> None:
        """Write a block of body; raises PeerClosed, LocalProtocolError."""
        data = self.codec.body(stream, block)
        if data:
            self.write(data)

    def send_raw(self, event: RawBody, fd: int, offset: int) -> None:
        """Write part of an open file by os.sendfile; raises PeerClosed, LocalProtocolError where it is too short."""
        header = self.codec.send(event)
        if header:
            Outgoing.write(self, header)
        count = event.size
        tries = 0
        while count:
            try:
                sent = sendfile(self.fd, fd, offset, count)
            except BlockingIOError:
                tries += 1
                if tries > _TRIES:
                    tries = 0
                    self._wait_writable()
                continue
            except OSError as error:
                raise PeerClosed(f"the peer went away: {error.strerror}") from None
            if sent == 0:
                if header:  # what has been announced must come, or nobody finds the next record
                    Outgoing.write(self, bytes(count))
                raise LocalProtocolError(self.codec.protocol, "the file became shorter while it was sent")
            offset += sent
            count -= sent

    def wait_for(self, event: int, timeout: float) -> bool:
        """Wait until the socket is ready; False when ``timeout`` seconds have passed. Raises RequestTimeout."""
        pool = self.pool
        if not pool.timed:
            return wait_for(self.fd, event, timeout)
        deadline = pool.clock() + timeout
        while (left := deadline - pool.clock()) > 0:
            if wait_for(self.fd, event, min(left, LOOK)):
                return True
            if get_ident() in pool.overdue:
                raise RequestTimeout
        return False


def wait_for(fd: int, event: int, timeout: float) -> bool:
    """Wait until ``fd`` can be read or written; False when ``timeout`` seconds have passed."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(timeout * 1000))


def _take_off(parts: list[bytes | memoryview], sent: int) -> None:
    """Take the first ``sent`` bytes off ``parts``."""
    count = 0
    for part in parts:
        if sent < len(part):
            parts[count] = memoryview(part)[sent:]
            break
        sent -= len(part)
        count += 1
    del parts[:count]
