"""One raw connection to a server under test: any bytes out, all bytes in, a deadline on every wait.

It knows no protocol. While it writes it reads, so that a server that answers early blocks nobody; a server that
takes no more bytes is no error here, for it may have refused what was sent.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from typing import Final

from gateways.client.blocking import Address, connect

__all__ = ["Link", "Silent"]

READ_SIZE: Final = 65_536
SHOWN: Final = 4_096
"""Bytes of each direction that are kept for the report."""


class Silent(Exception):
    """The server did nothing until the deadline."""


class Link:
    """One connection; ``seconds`` is for each wait."""

    def __init__(self, address: Address, seconds: float) -> None:
        self.seconds = seconds
        self.buffer = bytearray()
        """What was read and not yet taken."""
        self.eof = False
        """The server has closed, or reset the connection."""
        self.broken = False
        """It takes no more bytes."""
        self.sent = bytearray()
        self.received = bytearray()
        self.sent_bytes = 0
        self.received_bytes = 0
        self._socket = connect(address, seconds)
        self._poll = select.poll()

    def close(self) -> None:
        """Close; may be called twice."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write all, as far as the server takes it; raises Silent."""
        self.sent_bytes += len(data)
        self.sent += data[: SHOWN - len(self.sent)] if len(self.sent) < SHOWN else b""
        left = memoryview(data)
        deadline = time.monotonic() + self.seconds
        while left and not self.broken:
            flags = self._ready(select.POLLOUT | (0 if self.eof else select.POLLIN), deadline)
            if flags & ~select.POLLOUT and not self.eof:
                self._read()
            if flags & ~select.POLLIN:
                try:
                    left = left[self._socket.send(left) :]
                except BlockingIOError:
                    continue
                except OSError:
                    self.broken = True

    def end(self) -> None:
        """Say that nothing more comes, and go on reading."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = True

    def reset(self) -> None:
        """Close with a reset, whatever is on its way."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
        self.eof = self.broken = True

    def more(self, seconds: float | None = None) -> bool:
        """Wait for more bytes; False at the end of the connection. Raises Silent."""
        if self.eof:
            return False
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        before = self.received_bytes
        while self.received_bytes == before and not self.eof:
            self._ready(select.POLLIN, deadline)
            self._read()
        return self.received_bytes > before

    def rest(self) -> bytes:
        """Return all until the server closes; raises Silent."""
        while self.more():
            pass
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    def is_closed(self) -> bool:
        """Whether the server has closed by now; never waits."""
        self._poll.register(self._socket, select.POLLIN)
        while not self.eof and self._poll.poll(0):
            self._read()
        return self.eof

    def _ready(self, events: int, deadline: float) -> int:
        self._poll.register(self._socket, events)
        left = deadline - time.monotonic()
        ready = self._poll.poll(int(left * 1000) + 1) if left > 0 else []
        if not ready:
            raise Silent
        return ready[0][1]

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.eof = True
            return
        self.received_bytes += len(data)
        if len(self.received) < SHOWN:
            self.received += data[: SHOWN - len(self.received)]
        self.buffer += data
