"""Which sockets can be read: epoll, or kqueue where there is none. One poller for all threads of a worker.

A connection is armed for one event. With one thread in the worker (``one_shot`` false) it simply stays armed: nobody
polls while it is served, and no system call is spent on arming it again.
"""

from __future__ import annotations

import select
import sys
from typing import Protocol

__all__ = ["Poller", "make_poller"]


class Poller(Protocol):
    """Waits until descriptors can be read. ``wait`` may be called by several threads at once."""

    def listen(self, fd: int) -> None:
        """Watch a listening socket, or a pipe: level-triggered, for every thread."""

    def unlisten(self, fd: int) -> None:
        """Stop watching it."""

    def arm(self, fd: int, *, first: bool) -> None:
        """Report ``fd`` once when it can be read; ``first`` where this poller does not know it yet."""

    def wait(self, timeout: float) -> list[int]:
        """Return descriptors that can be read; waits at most ``timeout`` seconds, for ever if it is negative."""

    def close(self) -> None:
        """Give the poller's own descriptor back."""


if sys.platform == "linux":

    class EpollPoller:
        """epoll, with EPOLLEXCLUSIVE on listeners so that one connection wakes one worker."""

        def __init__(self, *, one_shot: bool) -> None:
            self._one_shot = one_shot
            self._mask = select.EPOLLIN | (select.EPOLLONESHOT if one_shot else 0)
            self._epoll = select.epoll()

        def listen(self, fd: int) -> None:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)

        def unlisten(self, fd: int) -> None:
            self._epoll.unregister(fd)

        def arm(self, fd: int, *, first: bool) -> None:
            if first:
                self._epoll.register(fd, self._mask)
            elif self._one_shot:
                self._epoll.modify(fd, self._mask)

        def wait(self, timeout: float) -> list[int]:
            return [fd for fd, _ in self._epoll.poll(timeout if timeout >= 0 else None, 64)]

        def close(self) -> None:
            self._epoll.close()

else:

    class KqueuePoller:
        """kqueue, with EV_DISPATCH in the place of EPOLLONESHOT."""

        def __init__(self, *, one_shot: bool) -> None:
            self._one_shot = one_shot
            self._flags = select.KQ_EV_ADD | select.KQ_EV_ENABLE | (select.KQ_EV_DISPATCH if one_shot else 0)
            self._kqueue = select.kqueue()

        def _change(self, fd: int, flags: int) -> None:
            self._kqueue.control([select.kevent(fd, select.KQ_FILTER_READ, flags)], 0)

        def listen(self, fd: int) -> None:
            self._change(fd, select.KQ_EV_ADD)

        def unlisten(self, fd: int) -> None:
            self._change(fd, select.KQ_EV_DELETE)

        def arm(self, fd: int, *, first: bool) -> None:
            if first or self._one_shot:
                self._change(fd, self._flags)

        def wait(self, timeout: float) -> list[int]:
            events = self._kqueue.control(None, 64, timeout if timeout >= 0 else None)
            return [event.ident for event in events]

        def close(self) -> None:
            self._kqueue.close()


def make_poller(*, one_shot: bool) -> Poller:
    """Return the poller of this platform."""
    if sys.platform == "linux":
        return EpollPoller(one_shot=one_shot)
    return KqueuePoller(one_shot=one_shot)
