"""What master and worker say to each other, over a socket pair: whole messages, some with descriptors beside them.

The kinds of message are told here once; what is done about them is the business of both ends.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["CANCEL", "CONNECTION", "DUE", "FAILED", "LEAVING", "LOST", "READY", "REOPEN", "STOP", "Channel", "Message"]

READY: Final = b"r"
"""From the worker: it serves."""
FAILED: Final = b"f"
"""From the worker: why it cannot boot, as text."""
LEAVING: Final = b"l"
"""From the worker: it leaves though the master has not told it to; the text says why, where that is no signal."""
DUE: Final = b"d"
"""From the worker: it has served as many requests as it is to serve, as the scoreboard shows."""
LOST: Final = b"x"
"""From the worker: it cannot go on with a connection that was passed to it; the text says why."""
CONNECTION: Final = b"m"
"""A kept connection's descriptor, and as text what must be known of it: to a worker that goes on with it."""
STOP: Final = b"s"
"""To the worker: finish what runs, and leave. The first number is 1 where others serve, who get its kept connections;
the second is when it is killed, by time.monotonic, in microseconds. A second order may make that sooner."""
REOPEN: Final = b"o"
"""To the worker: the new log files' descriptors, in the order of their old ones."""
CANCEL: Final = b"c"
"""To the worker: end a request, told by a thread's number and the request's serial."""

_HEAD: Final = struct.Struct("<cBQQI")  # kind, number of descriptors, two numbers, bytes of text
_INT: Final = struct.Struct("i")
_LONGEST: Final = 1 << 16  # bytes of text
_READ: Final = 1 << 16
_CLOSED_ON_EXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none
_FDS: Final = 32  # descriptors beside one read; the kernel keeps those of two messages apart (unix(7))


@dataclass(frozen=True, slots=True)
class Message:
    """One message; whoever gets it owns its descriptors."""

    kind: bytes
    one: int = 0
    two: int = 0
    text: bytes = b""
    fds: tuple[int, ...] = ()
    missing: int = 0
    """Descriptors that were sent with it, and that this process had no room for; the kernel has closed them."""


class Channel:
    """One end. ``send`` may be called by several threads, ``receive`` by one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._held = b""
        self._fds: list[int] = []

    def send(self, kind: bytes, one: int = 0, two: int = 0, text: bytes = b"", fds: Iterable[int] = ()) -> bool:
        """Send a message in one piece, without waiting; False where the other end has gone, or has no room for it."""
        fds = list(fds)
        text = text[:_LONGEST]
        data = _HEAD.pack(kind, len(fds), one, two, len(text)) + text
        try:
            sent = socket.send_fds(self.sock, [data], fds, socket.MSG_DONTWAIT)
        except OSError:
            return False
        return sent == len(data)

    def receive(self) -> list[Message] | None:
        """Read once, and return the messages that are whole; None at the end. On a blocking socket it waits."""
        try:
            data, beside, _, _ = self.sock.recvmsg(_READ, socket.CMSG_LEN(_FDS * _INT.size), _CLOSED_ON_EXEC)
        except BlockingIOError:
            return []
        except OSError:
            return None
        for _, _, content in beside:  # only one kind is possible here: SCM_RIGHTS (unix(7))
            self._fds += [fd for (fd,) in _INT.iter_unpack(content[: len(content) // _INT.size * _INT.size])]
        if not _CLOSED_ON_EXEC:
            for fd in self._fds:
                os.set_inheritable(fd, False)
        self._held += data
        messages = self._messages()
        return messages if messages or data else None

    def _messages(self) -> list[Message]:
        found = []
        while len(self._held) >= _HEAD.size:
            kind, count, one, two, size = _HEAD.unpack_from(self._held)
            end = _HEAD.size + size
            if len(self._held) < end:
                break
            fds, self._fds = tuple(self._fds[:count]), self._fds[count:]
            found.append(Message(kind, one, two, self._held[_HEAD.size : end], fds, count - len(fds)))
            self._held = self._held[end:]
        return found

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 once closed."""
        return self.sock.fileno()

    def waits(self) -> bool:
        """Whether there is something to receive, be it the end."""
        return bool(self._ready(select.POLLIN))

    def spacious(self) -> bool:
        """Whether there is room for many: on Linux, while at most a quarter is taken (unix_writable in af_unix.c)."""
        return bool(self._ready(select.POLLOUT) & select.POLLOUT)

    def _ready(self, event: int) -> int:
        if self.fileno() < 0:
            return 0
        poll = select.poll()
        poll.register(self.sock, event)
        return sum(found for _, found in poll.poll(0))

    def close(self) -> None:
        """Give it up, with descriptors that nobody has taken."""
        self.sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
