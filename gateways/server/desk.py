"""The master's visitors: the connections of a listening socket, served within a poll loop that must never wait.

What they say and hear is for a subclass of Visitor; this file knows no protocol. There is a bound on everything: the
number of visitors, how long each may take, and what is read of one that has had its answer.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Final

from gateways.server.errorlog import ErrorLog
from gateways.server.sockets import cleanup

__all__ = ["PATIENCE", "ROOM", "Desk", "Visitor"]

ROOM: Final = 16
"""Visitors at a time."""
PATIENCE: Final = 5.0
"""Seconds for a whole request, then for taking the whole answer; also those of an idle kept connection."""
GRACE: Final = 0.25
"""Seconds that a visitor has before another may take its place where all are taken."""
READ_SIZE: Final = 16_384
_LINGER: Final = 1.0  # seconds in which the peer may close first, so that no reset overtakes the answer
_DRAIN: Final = 1_048_576  # bytes read and thrown away meanwhile
_ACCEPTS: Final = 64  # in a row, before other descriptors get their turn
_PAUSE: Final = 1.0  # seconds without accepting, where the process has no descriptor left
_FULL: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Visitor:
    """One connection. A subclass says what is done with bytes (``take``), and after its deadline (``late``)."""

    waiting: bool = False
    """It waits for something that takes its time: it has no deadline, and no more is read of it."""
    closed: bool = False
    eof: bool = False
    """It sends no more."""
    _leaving: bool = False  # its answer is whole
    _shut: bool = False  # and sent
    _drained: int = 0

    def __init__(self, desk: Desk, sock: socket.socket) -> None:
        self.desk = desk
        self.sock = sock
        self.fd = sock.fileno()
        self.since: float = desk.clock()
        """When it came, or had its last answer."""
        self.deadline: float | None = self.since + PATIENCE
        self._out = bytearray()

    def greet(self) -> None:
        """It has just come."""

    def refuse(self) -> None:
        """It has just come, and there is no room for it."""
        self.close()

    def take(self, data: bytes) -> None:
        """Bytes have come, or with b"" the end of file."""
        raise NotImplementedError

    def late(self) -> None:
        """Nothing whole came in time."""
        self.close()

    def fail(self) -> None:
        """A bug of ours: it is in the log already."""
        self.close()

    def say(self, data: bytes, *, last: bool = False) -> None:
        """Send, as far as that goes at once; ``last`` is the end of the conversation."""
        if self.closed:
            return
        self._out += data
        self._leaving = self._leaving or last
        self.since = self.desk.clock()
        self.deadline = self.since + PATIENCE
        self._write()

    def wait(self) -> None:
        """Stay without a deadline until there is something to say."""
        self.waiting = True
        if not self._out:
            self.deadline = None

    def close(self) -> None:
        """Close at once."""
        if not self.closed:
            self.closed = True
            self.desk.forget(self)
            self.sock.close()

    def events(self) -> int:
        """Return what to poll for; that the peer is gone is reported in any case (poll(2))."""
        if self._out:
            return select.POLLOUT
        return 0 if self.waiting else select.POLLIN

    def on_ready(self, events: int) -> None:
        """Something of what was polled for has happened, or not."""
        if self._out:
            self._write()
        elif not self.waiting:
            self._read()
        elif events & _GONE:
            self.close()

    def expire(self) -> None:
        """The deadline has passed."""
        if self._out or self._leaving:
            self.close()
        else:
            self.late()

    def _write(self) -> None:
        try:
            del self._out[: self.sock.send(self._out)]
        except BlockingIOError:
            return
        except OSError:  # it does not want to know
            self.close()
            return
        if self._out:
            return
        if self.waiting:
            self.deadline = None
        if self._leaving and not self._shut:
            self._leave()

    def _leave(self) -> None:
        """All is said: close, or wait for the peer to close where that may still be sending."""
        self._shut = True
        if self.eof:
            self.close()
            return
        self.deadline = self.desk.clock() + _LINGER
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone
            self.close()

    def _read(self) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:  # a reset
            self.close()
            return
        self.eof = not data
        if not self._shut:
            self.take(data)
            if self.eof and not (self._out or self.waiting):
                self.close()
            return
        self._drained += len(data)
        if self.eof or self._drained > _DRAIN:
            self.close()


class Desk:
    """A listening socket and its visitors, for a poll loop: ``descriptors``, ``on_ready``, ``deadline``, ``expire``.

    The loop polls what ``descriptors`` returns anew each time, gives what it finds to ``on_ready``, does not sleep
    past ``deadline`` and then calls ``expire``. None of them blocks, none raises. ``close`` may be called in a forked
    process too: it then takes nothing away from the others.
    """

    def __init__(self, name: str, sock: socket.socket, clock: Callable[[], float], log: ErrorLog | None) -> None:
        self.name = name
        self.sock = sock
        self.clock = clock
        self.log = log or ErrorLog()
        self.visitors: dict[int, Visitor] = {}
        self._paused_until: float | None = None
        sock.setblocking(False)
        sock.set_inheritable(False)

    def welcome(self, sock: socket.socket) -> Visitor:
        """Return the visitor of a new connection, to which nothing is said yet."""
        raise NotImplementedError

    def fileno(self) -> int:
        """Return the listening socket's descriptor; -1 once closed."""
        return self.sock.fileno()

    def descriptors(self) -> list[tuple[int, int]]:
        """Return descriptors and what to poll for."""
        found = [(visitor.fd, visitor.events()) for visitor in self.visitors.values()]
        if self.fileno() >= 0 and self._opens_at() is None:
            found.append((self.fileno(), select.POLLIN))
        return found

    def on_ready(self, fd: int, events: int) -> None:
        """Handle what poll() has reported; a descriptor that is no more is none of ours."""
        if fd == self.fileno():
            self._accept()
        elif fd in self.visitors:
            self._serve(self.visitors[fd], events)

    def deadline(self) -> float | None:
        """Return when ``expire`` is due, None for never."""
        times = [visitor.deadline for visitor in self.visitors.values() if visitor.deadline is not None]
        if self.fileno() >= 0 and (opens := self._opens_at()) is not None:
            times.append(opens)
        return min(times, default=None)

    def expire(self, now: float) -> None:
        """Send those away whose time is over."""
        for visitor in list(self.visitors.values()):
            if visitor.deadline is not None and visitor.deadline <= now:
                self._guard(visitor, visitor.expire)

    def forget(self, visitor: Visitor) -> None:
        """It has gone."""
        self.visitors.pop(visitor.fd, None)

    def close(self) -> None:
        """Close everything, and remove the socket's path where this process has made it."""
        for visitor in list(self.visitors.values()):
            visitor.close()
        cleanup([self.sock])
        self.sock.close()

    def _serve(self, visitor: Visitor, events: int) -> None:
        self._guard(visitor, lambda: visitor.on_ready(events))

    def _guard(self, visitor: Visitor, act: Callable[[], None]) -> None:
        """A bug of ours costs its visitor, not the server."""
        try:
            act()
        except Exception as error:  # noqa: BLE001  (see above)
            self.log.failure(f"{self.name}: a request failed", error)
            visitor.fail()

    def _opens_at(self) -> float | None:
        """Return when the next may come; None for now."""
        now = self.clock()
        if self._paused_until is not None and self._paused_until > now:
            return self._paused_until
        if len(self.visitors) < ROOM:
            return None
        ends = [visitor.since + GRACE for visitor in self.visitors.values() if not visitor.waiting]
        return min(ends) if ends and min(ends) > now else None

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            full = len(self.visitors) >= ROOM and not self._make_room()
            if self._opens_at() is not None:
                return
            try:
                sock, _ = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _FULL:
                    continue  # the peer went away while it waited (ECONNABORTED)
                if self._paused_until is None:
                    self.log.warning(f"{self.name}: cannot accept connections: {error.strerror}")
                self._paused_until = self.clock() + _PAUSE
                return
            self._paused_until = None
            sock.setblocking(False)
            visitor = self.welcome(sock)
            self.visitors[visitor.fd] = visitor
            self._guard(visitor, visitor.refuse if full else visitor.greet)
            if len(self.visitors) >= ROOM:  # the next one costs somebody the place: it must be there for certain
                return

    def _make_room(self) -> bool:
        """Send the one away that has been idle the longest; who has sent something meanwhile is heard first."""
        for visitor in sorted(self.visitors.values(), key=lambda visitor: visitor.since):
            if visitor.waiting or visitor.since + GRACE > self.clock():
                continue
            before = visitor.since
            self._serve(visitor, 0)
            if visitor.since == before and not visitor.waiting:
                visitor.close()
            if visitor.closed:
                return True
        return False
