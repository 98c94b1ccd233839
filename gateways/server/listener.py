"""One listening socket of a worker: accepts, and serves what has come already, without asking the poller first."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final

from gateways.server.protocols import Protocols

if TYPE_CHECKING:
    from gateways.server.pool import Pool

__all__ = ["Listener"]

_ACCEPTS: Final = 64  # connections taken in a row before other ready connections get their turn
_FULL: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """Accepts connections for a pool on a socket of ``protocol`` (``auto``: whichever they speak)."""

    def __init__(self, pool: Pool, sock: socket.socket, protocol: str, protocols: Protocols) -> None:
        self.sock = sock
        self._pool = pool
        self._protocol = protocol
        self._protocols = protocols
        self._accept = sock._accept  # type: ignore[attr-defined]  # socket.accept less the socket object: 2 us
        pool.watch(sock.fileno(), self)

    def on_ready(self) -> None:
        """Accept and serve, until nobody waits."""
        pool = self._pool
        for _ in range(_ACCEPTS):
            try:
                fd, peer = self._accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:
                    pool.log.warning(f"cannot accept connections: {error.strerror}; raise the limit of open files (ulimit -n)")
                    pool.pause(self)
                    return
                continue  # the peer went away while it waited (ECONNABORTED)
            os.set_blocking(fd, False)
            connection = self._protocols.connect(self._protocol, pool, fd, peer)
            pool.beat += 1
            try:
                connection.on_ready()
            except Exception as error:  # noqa: BLE001  (a bug of ours costs its connection, not the listener)
                pool.log.error("a connection failed", error)
                connection.close()
            if pool.ready:
                return

    def resume(self) -> None:
        """Accept again, after a pause."""
        self._pool.watch(self.sock.fileno(), self)

    def close(self) -> None:
        """Stop accepting."""
        self._pool.unwatch(self.sock.fileno())
        self.sock.close()
