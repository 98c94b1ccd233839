"""Several sockets of one thread: what is to be written goes out and what comes is read while somebody waits.

It knows no protocol. Every wait has a deadline, and a socket that the other side has left is no error here.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Hub", "Wire"]

READ_SIZE: Final = 65_536
SHOWN: Final = 4_096
"""Bytes of each direction that are kept for the report."""


class Wire:
    """One socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.buffer = bytearray()
        """What was read and not yet taken."""
        self.eof = False
        """The other side has closed, or reset the connection."""
        self.broken = False
        """It takes no more bytes."""
        self.closed = False
        self.sent = bytearray()
        self.received = bytearray()
        self.received_bytes = 0
        self._out = bytearray()
        self._ending = False

    @property
    def pending(self) -> int:
        """Bytes that are still to be written."""
        return len(self._out)

    def send(self, data: bytes) -> None:
        """Write, as soon as the other side takes it."""
        self.sent += data[: max(0, SHOWN - len(self.sent))]
        if not self.broken and not self._ending:
            self._out += data

    def end(self) -> None:
        """Say, when all is written, that nothing more comes; what comes is still read."""
        self._ending = True
        if not self._out:
            self._shut_down()

    def reset(self) -> None:
        """Close with a reset where the family has one."""
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close; may be called twice."""
        self.closed = self.eof = self.broken = True
        self._out.clear()
        self.socket.close()

    def fresh(self) -> None:
        """More has come, or the end: for those who read at once."""

    @property
    def events(self) -> int:
        """What to wait for; 0 is nothing."""
        return (0 if self.eof else select.POLLIN) | (select.POLLOUT if self._out else 0)

    def ready(self, flags: int) -> None:
        """Write and read what can be."""
        if self._out and flags & ~select.POLLIN:
            self._write()
        if not self.eof and flags & ~select.POLLOUT:
            self._read()

    def _write(self) -> None:
        try:
            count = self.socket.send(self._out)
        except BlockingIOError:
            return
        except OSError:
            self.broken = True
            self._out.clear()
        else:
            del self._out[:count]
        if self._ending and not self._out:
            self._shut_down()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        try:
            data = self.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.eof = not data
        self.received_bytes += len(data)
        self.received += data[: max(0, SHOWN - len(self.received))]
        self.buffer += data
        self.fresh()


class Hub:
    """All sockets; ``listener`` makes a Wire of each connection that comes."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self._listener: socket.socket | None = None
        self._make: Callable[[socket.socket], Wire] = Wire

    def listen(self, listener: socket.socket, make: Callable[[socket.socket], Wire]) -> None:
        """Accept from this socket."""
        listener.setblocking(False)
        self._listener = listener
        self._make = make

    def add(self, wire: Wire) -> None:
        """Look after one more."""
        self.wires.append(wire)

    def until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Read and write until the condition is true; False where it has not become so in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._turn(left)
        return True

    def rest(self, seconds: float) -> None:
        """Read and write for so long."""
        self.until(lambda: False, seconds)

    def forget_closed(self) -> None:
        """Look no more after those that were closed."""
        self.wires = [wire for wire in self.wires if not wire.closed]

    def _turn(self, seconds: float) -> None:
        """Wait once."""
        poll = select.poll()
        self.forget_closed()
        found = {wire.socket.fileno(): wire for wire in self.wires if wire.events}
        for number, wire in found.items():
            poll.register(number, wire.events)
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)
        for number, flags in poll.poll(int(seconds * 1000) + 1):
            if number in found:
                found[number].ready(flags)
            else:
                self._accept()

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.add(self._make(sock))

    def close(self) -> None:
        """Close the connections; the listener is its owner's."""
        for wire in self.wires:
            wire.close()
        self.wires.clear()
