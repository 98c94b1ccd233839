"""Requests that hold no thread while they wait: each is gone on with by whichever thread is free when there is news.

Their descriptors are in a poller of their own, which lies in that of the pool, so that a connection may be in both.
What it reports is a hint and no more: numbers of descriptors are used again, and events may be late. Several may wait
for one and the same descriptor, as their connection: it is armed for all of them.
"""

from __future__ import annotations

import contextlib
import select
import threading
from typing import TYPE_CHECKING, Final

from gateways.apps import Course
from gateways.apps.wait import NEVER, Wait

if TYPE_CHECKING:
    from gateways.server.exchange import Exchange
    from gateways.server.pool import Pool

__all__ = ["Courses"]

GONE: Final = select.POLLHUP | select.POLLERR  # reported whatever is asked for
_MOST: Final = 64  # descriptors reported at a time
_LOOK: Final = 0.05  # seconds between looks for a word of others, where a thread has to wait


class Courses:
    """All such requests of a pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.lock = threading.Lock()
        """Held for moments: while it is told whether a course waits, and what it waits for."""
        self.owners: dict[int, tuple[_Course, ...]] = {}
        """By descriptor. Changed under the lock."""
        self.running: dict[_Course, None] = {}
        """Those that are not over."""
        # With one thread connections stay armed while they are served, and nobody may poll. Not every system has epoll.
        self.epoll: select.epoll | None = select.epoll() if pool.one_shot and hasattr(select, "epoll") else None
        if self.epoll is not None:
            pool.watch(self.epoll.fileno(), self)

    def begin(self, exchange: Exchange, course: Course) -> bool:
        """Go with ``course`` until it waits; returns whether it is over, else its connection resumes when it is."""
        if self.epoll is None:
            for wait in course:
                wait.block(max(0.0, min(_LOOK, wait.until - self.pool.clock())))
            return True
        return _Course(self, exchange, course).go()

    def on_ready(self) -> None:
        """Go on with whoever has news: with one here, with others in threads that are free."""
        assert self.epoll is not None  # noqa: S101  (what is polled)
        owners = self.owners
        first: _Course | None = None
        for fd, events in self.epoll.poll(0, _MOST):
            left = 0
            for course in owners.get(fd, ()):
                if course.claim(fd, events):
                    if first is None:
                        first = course
                    else:
                        self.pool.submit(course)
                left |= course.asks_for(fd)
            if left:
                self._arm_again(fd)
        if first is not None:
            first.on_ready()

    def _arm_again(self, fd: int) -> None:
        """What has been reported was not for all that wait for ``fd``."""
        assert self.epoll is not None  # noqa: S101  (what is polled)
        with self.lock:
            mask = 0
            for course in self.owners.get(fd, ()):
                mask |= course.asks_for(fd)
            if mask:
                with contextlib.suppress(OSError):  # it is closed by now
                    self.epoll.modify(fd, mask | select.EPOLLONESHOT)

    def sweep(self, now: float) -> float:
        """Go on with those whose time has come; returns when the next one's does."""
        earliest = NEVER
        for course in list(self.running):
            if course.waiting:
                if course.until <= now:
                    course.wake()
                elif course.until < earliest:
                    earliest = course.until
        return earliest

    def close(self) -> None:
        """Give the poller back; no course is left."""
        if self.epoll is not None:
            self.pool.unwatch(self.epoll.fileno())
            self.epoll.close()


class _Course:
    """One of them."""

    waiting: bool = False
    """No thread goes with it."""
    until: float = NEVER
    _woken: bool = False
    """There was news while a thread went with it."""
    _wait: Wait | None = None

    def __init__(self, courses: Courses, exchange: Exchange, steps: Course) -> None:
        self._courses = courses
        self._exchange = exchange
        self._steps = steps
        self._owned: set[int] = set()
        """Descriptors that it has had reported, ever."""

    def claim(self, fd: int = -1, events: int = 0) -> bool:
        """There is news, of ``fd``: returns whether the caller is to have it gone on with; else it is about to look."""
        with self._courses.lock:
            if fd >= 0 and self._wait is not None:
                armed = self._wait.armed.get(fd, -1)
                if armed >= 0:
                    if not events & (armed | GONE):  # for others that wait for it
                        return False
                    self._wait.armed[fd] = -1  # reported once
            if self.waiting:
                self.waiting = False
                return True
            self._woken = True
            return False

    def wake(self) -> None:
        """There is news: have a thread go on."""
        if self.claim():
            self._courses.pool.submit(self)

    def on_ready(self) -> None:
        """Go on, and with the connection where that was all."""
        exchange = self._exchange
        connection = exchange.connection
        pool = self._courses.pool
        try:
            over = self.go()
        except Exception as error:  # noqa: BLE001  (a bug of the App costs its request, not the others)
            pool.log.failure("an application failed", error)
            over = True
        if over:
            try:
                connection.resume(exchange)
            except Exception as error:  # noqa: BLE001  (a bug of ours costs its connection, never the thread)
                pool.log.failure("a connection failed", error)
                connection.break_off()

    def go(self) -> bool:
        """Go on until it waits; returns whether it is over."""
        try:
            for wait in self._steps:
                if self._rest(wait):
                    return False
        except BaseException:
            try:
                self._steps.close()
            finally:
                self._end()
            raise
        self._end()
        return True

    def _rest(self, wait: Wait) -> bool:
        """Ask for what it waits for; returns False where there is news already."""
        courses = self._courses
        first = self._wait is None
        if first:
            self._wait = wait
            wait.waker = self.wake
            courses.running[self] = None
        self._arm(wait)
        self.until = wait.until
        with courses.lock:
            if self._woken or wait.woken:
                self._woken = wait.woken = False
                return False
            self.waiting = True
        if self.until < courses.pool.next_sweep:  # another thread may be going on with it by now
            courses.pool.sweep_by(self.until)
        return True

    def _arm(self, wait: Wait) -> None:
        """Have each descriptor reported once."""
        armed = wait.armed
        for fd, events in wait.fds.items():
            before = armed.get(fd)
            if before != events:
                with self._courses.lock:
                    self._ask_for(wait, fd, events, new=before is None)

    def _ask_for(self, wait: Wait, fd: int, events: int, *, new: bool) -> None:
        """Have one reported, with the lock held: to all that wait for it."""
        courses = self._courses
        epoll = courses.epoll
        assert epoll is not None  # noqa: S101  (else there are no courses)
        owners = courses.owners.get(fd, ())
        wait.armed[fd] = events
        mask = events | select.EPOLLONESHOT
        if owners != (self,):
            self._owned.add(fd)
            others = [other for other in owners if other is not self and other.waits_for(fd)]
            courses.owners[fd] = (self, *others)
            for other in others:
                mask |= other.asks_for(fd)
        try:
            if new:
                epoll.register(fd, mask)
            else:
                epoll.modify(fd, mask)
        except FileExistsError:  # a connection: from its last request, or from another one's
            epoll.modify(fd, mask)
        except FileNotFoundError:  # another one with the same number
            epoll.register(fd, mask)

    def waits_for(self, fd: int) -> bool:
        """``fd`` is still that which it has had reported; else the number may be another one's."""
        return self._wait is not None and fd in self._wait.fds

    def asks_for(self, fd: int) -> int:
        """Return what of ``fd`` is still to be reported to it."""
        return max(0, self._wait.armed.get(fd, 0)) if self._wait is not None else 0

    def _end(self) -> None:
        """It is over: nothing is reported to it any more."""
        wait = self._wait
        if wait is None:
            return
        courses = self._courses
        courses.running.pop(self, None)
        wait.waker = None  # no circle of references
        with courses.lock:
            for fd in self._owned:
                owners = courses.owners.get(fd, ())
                if owners == (self,):
                    del courses.owners[fd]
                    if fd in wait.fds and courses.epoll is not None:  # else it is closed, and gone from there by that
                        with contextlib.suppress(OSError):
                            courses.epoll.unregister(fd)
                elif self in owners:
                    courses.owners[fd] = tuple([other for other in owners if other is not self])
