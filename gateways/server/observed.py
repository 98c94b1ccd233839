"""An App around the App of a worker: who serves what goes to the scoreboard, what was served to the access log.

Every request passes here, so it costs two looks at the clock and a few cells of shared memory, and no lock unless
the time of requests is limited.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from threading import Lock, get_ident
from typing import Final, Protocol

from gateways import apps
from gateways.errors import RequestTimeout
from gateways.server.accesslog import AccessLog
from gateways.server.exchange import Exchange
from gateways.server.scoreboard import Board, Seat

__all__ = ["ObservedApp", "ObservedCourses", "queue_time"]

_NO_THREAD: Final = 1  # where the ident of one would be: no thread has it
_LONGEST_WAIT: Final = 3600.0  # seconds: a start stamp further away than that is a wrong clock


class Interrupter(Protocol):
    """What may end a request before its application does."""

    def entered(self, ident: int, exchange: Exchange) -> None:
        """The thread ``ident`` begins to serve a request."""

    def left(self, ident: int) -> None:
        """It has done so, and may not be interrupted any more."""


class ObservedApp:
    """``app``, seen by the master: slot ``worker`` of ``board``."""

    def __init__(
        self, app: apps.App, board: Board, worker: int, access_log: AccessLog | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._app = app
        self._board = board
        self._worker = worker
        self._access_log = access_log
        self._clock = clock
        self._seats: dict[int, Seat] = {}
        self._mutex = Lock()
        self._limit: int = board.limits[worker]
        self._ended: Iterator[int] = count(1)  # no number comes twice, whichever threads ask
        self._told = False
        self.on_limit: Callable[[], bool] | None = None
        """Called once, when as many requests have been served as the board allows; again where it returns False."""
        self.interrupter: Interrupter | None = None
        """Where the time of requests is limited."""

    def seat(self, thread: int) -> tuple[int, int]:
        """Return the ident of a thread and the serial of the request that it serves; -1 where it serves none."""
        for number, (ident, seat) in enumerate(list(self._seats.items())):
            if number == thread:
                return ident, seat.serial if seat.busy else -1
        return 0, -1

    def __call__(self, exchange: apps.Exchange) -> apps.Course | None:
        """Have one request served."""
        assert isinstance(exchange, Exchange)  # noqa: S101  (the server's own)
        ident = get_ident()
        seat = self._seats.get(ident)
        if seat is None:
            seat = self._take_seat(ident)
        started = self._clock()
        queued = self._begin(seat, exchange, started)
        try:
            interrupter = self.interrupter
            if interrupter is None:
                self._app(exchange)
            else:
                self._interruptible(interrupter, exchange, ident)
        finally:
            self._end(seat, exchange, started, queued)
        return None

    def _begin(self, seat: Seat, exchange: Exchange, started: float) -> float:
        """Tell that a request is served; returns the seconds that it had to wait for that, -1.0 if it is not known."""
        seat.begin(exchange.protocol, exchange.line.encode("latin-1"), started)
        stamp = exchange.request.params.get("HTTP_X_REQUEST_START")
        if not stamp:
            return -1.0
        queued = queue_time(stamp, time.time())
        if queued >= 0.0:
            seat.queued(queued)
        return queued

    def _end(self, seat: Seat, exchange: Exchange, started: float, queued: float) -> None:
        """Tell that it has been served."""
        protocol = exchange.protocol
        now = self._clock()
        taken = now - started
        seat.end(protocol, exchange.status, taken, now)
        if self._limit and next(self._ended) >= self._limit and not self._told:
            self._tell()
        log = self._access_log
        if log is not None:
            told = exchange.request.params  # what the application has made of them
            peer = "" if "REMOTE_ADDR" in told else exchange.peer
            log.record(told, protocol, peer, exchange.status, exchange.sent, time.time(), taken, queued)

    def _tell(self) -> None:
        """Say that as many requests have been served as shall be."""
        self._told = True
        if self.on_limit is not None and not self.on_limit():
            self._told = False

    def _take_seat(self, ident: int) -> Seat:
        """Return the slot of a thread that serves for the first time; others may do so at this moment."""
        with self._mutex:
            seat = self._board.seat(self._worker, len(self._seats), ident)
            self._seats[ident] = seat
            return seat

    def _interruptible(self, interrupter: Interrupter, exchange: Exchange, ident: int) -> None:
        """Serve a request which RequestTimeout may end at any point, and let none of that out."""
        try:  # noqa: SIM105  (suppress() is Python, into which it may be raised too)
            self._until_left(interrupter, exchange, ident)
        except RequestTimeout:  # behind the application: CPython 3.10 may raise it between any two opcodes
            pass

    def _until_left(self, interrupter: Interrupter, exchange: Exchange, ident: int) -> None:
        try:
            interrupter.entered(ident, exchange)
            self._app(exchange)
        except RequestTimeout:  # between the application and here
            pass
        finally:
            while True:
                try:
                    interrupter.left(ident)
                    break
                except RequestTimeout:  # it comes once
                    continue


class ObservedCourses(ObservedApp):
    """The same for an App whose requests may wait without a thread: each has a slot to itself, whoever goes on with it.

    Where there are more requests than slots, those beyond are counted when they are over, in the last one.
    """

    def __init__(
        self, app: apps.App, board: Board, worker: int, access_log: AccessLog | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        super().__init__(app, board, worker, access_log, clock)
        last = board.threads - 1
        self._last = board.seat(worker, last, _NO_THREAD)
        self._free: list[int] = list(range(last - 1, -1, -1))
        """Numbers of slots; those that were used last come first."""

    def __call__(self, exchange: apps.Exchange) -> apps.Course | None:
        """Return the course of one request."""
        assert isinstance(exchange, Exchange)  # noqa: S101  (the server's own)
        return self._course(exchange)

    def _course(self, exchange: Exchange) -> apps.Course:
        started = self._clock()
        number = self._take_slot()
        queued = self._begin(self._seats[number], exchange, started) if number >= 0 else -1.0
        try:
            course = self._app(exchange)
            if course is not None:
                yield from course
        finally:
            if number >= 0:
                self._end(self._seats[number], exchange, started, queued)
                self._free.append(number)
            else:
                with self._mutex:
                    self._end(self._last, exchange, started, queued)

    def _take_slot(self) -> int:
        """Return the number of a slot that is nobody else's now; -1 where there is none."""
        try:
            number = self._free.pop()
        except IndexError:
            return -1
        if number not in self._seats:
            self._seats[number] = self._board.seat(self._worker, number, _NO_THREAD)
        return number


def queue_time(stamp: str, now: float) -> float:
    """Return the seconds since the web server took the request, or -1.0 where the stamp is none.

    ``stamp`` is as nginx's ``t=${msec}`` has it: seconds with a fraction since 1970. Other web servers write
    milliseconds or microseconds, which are told by their size (Apache: ``t=%t``, microseconds).
    """
    digits = stamp.removeprefix("t=")
    if len(digits) > 24 or not digits.replace(".", "", 1).isdigit() or not digits.isascii():
        return -1.0
    since = float(digits)
    while since > 1e11:
        since /= 1000.0
    waited = now - since
    if -1.0 < waited < 0.0:  # two clocks
        return 0.0
    return waited if 0.0 <= waited <= _LONGEST_WAIT else -1.0
