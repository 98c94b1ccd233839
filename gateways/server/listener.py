"""One listening socket of a worker: accepts, and serves what has come already, without asking the poller first."""

from __future__ import annotations

import errno
import socket
from os import set_blocking
from typing import TYPE_CHECKING, Final

from gateways.server.admission import Admission, guarded
from gateways.server.protocols import Connector

if TYPE_CHECKING:
    from gateways.server.pool import Pool

__all__ = ["Listener"]

_ACCEPTS: Final = 64  # connections taken in a row before other ready connections get their turn
_LAST: Final = 1.0  # seconds for those that wait when the listener closes
_QUIET: Final = 10.0  # seconds between complaints that the process is out of descriptors
_FULL: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """Accepts connections for a pool on a socket of ``protocol`` (``auto``: whichever they speak).

    ``admission`` says who may connect; without it, or where it concerns nobody here, the accept costs nothing more.
    """

    _quiet_until: float = 0.0

    def __init__(
        self,
        pool: Pool,
        sock: socket.socket,
        protocol: str,
        connector: Connector,
        admission: Admission | None = None,
    ) -> None:
        self.sock = sock
        self._pool = pool
        self._protocol = protocol
        self._connector = connector
        self._accept = sock._accept  # type: ignore[attr-defined]  # noqa: SLF001  (accept() less its socket object: 2 us)
        if admission is not None and admission.concerns(sock.family, protocol):
            self._accept = guarded(self._accept, admission, pool, protocol)
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
                    self._complain(error)
                    pool.pause(self)
                    return
                continue  # the peer went away while it waited, or may not connect (ECONNABORTED)
            set_blocking(fd, False)
            connection = self._connector.connect(self._protocol, pool, fd, peer)
            pool.beat += 1
            try:
                connection.on_ready()
            except Exception as error:  # noqa: BLE001  (a bug of ours costs its connection, not the listener)
                pool.log.failure("a connection failed", error)
                connection.break_off()
            if pool.ready or pool.waits:  # the poller tells of these, too, and costs no more than one accept too many
                return

    def _complain(self, error: OSError) -> None:
        """Say why nobody is accepted: once in a while, for it is tried again many times a second."""
        now = self._pool.clock()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            self._pool.log.warning(
                f"cannot accept connections: {error.strerror}; raise the limit of open files (ulimit -n)"
            )

    def resume(self) -> None:
        """Accept again, after a pause."""
        if self.sock.fileno() >= 0:
            self._pool.watch(self.sock.fileno(), self)

    def finish(self) -> None:
        """Take those that wait already, then stop accepting: other workers go on with them, or the pool serves them.

        None is served here: behind a long request the others would wait, and whoever comes meanwhile would be accepted.
        """
        pool = self._pool
        until = pool.clock() + _LAST
        while pool.clock() < until:
            try:
                fd, peer = self._accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _FULL:
                    self._complain(error)
                if error.errno in _FULL or error.errno == errno.EBADF:  # closed by another thread
                    break
                continue
            set_blocking(fd, False)
            connection = self._connector.connect(self._protocol, pool, fd, peer)
            if not connection.leave():
                pool.submit(connection)
        self.close()

    def close(self) -> None:
        """Stop accepting."""
        self._pool.unwatch(self.sock.fileno())
        self.sock.close()
