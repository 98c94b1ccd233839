"""Which sockets can be read: epoll, or kqueue where there is none. One poller for all threads of a worker.

A connection is armed for one event. With one thread in the worker (``one_shot`` false) it simply stays armed: nobody
polls while it is served, and no system call is spent on arming it again.
"""

from __future__ import annotations

import errno
import select
import sys
from typing import Protocol

__all__ = ["Poller", "make_poller"]


class Poller(Protocol):
    """Waits until descriptors can be read. ``wait`` may be called by several threads at once."""

    def listen(self, fd: int) -> None:
        """Watch a listening socket, a pipe or another poller: level-triggered, for every thread."""

    def unlisten(self, fd: int) -> None:
        """Stop watching it."""

    def add(self, fd: int) -> None:
        """Report a descriptor that is new here when it can be read."""

    def arm(self, fd: int) -> None:
        """Report ``fd`` once more, where that is needed (``one_shot``)."""

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """Return descriptors that can be read, each with the kernel's flags.

        Waits at most ``timeout`` seconds, for ever if it is negative.
        """

    def fileno(self) -> int:
        """Return the poller's own descriptor, which can be read while ``wait`` would find something."""

    def close(self) -> None:
        """Give the poller's own descriptor back."""


if sys.platform == "linux":

    class EpollPoller:
        """epoll, with EPOLLEXCLUSIVE on listeners so that one connection wakes one worker."""

        def __init__(self, *, one_shot: bool) -> None:
            self._mask = select.EPOLLIN | (select.EPOLLONESHOT if one_shot else 0)
            self._epoll = select.epoll()

        def listen(self, fd: int) -> None:
            try:
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._epoll.register(fd, select.EPOLLIN)  # another epoll takes no EPOLLEXCLUSIVE (epoll_ctl(2))

        def unlisten(self, fd: int) -> None:
            self._epoll.unregister(fd)

        def add(self, fd: int) -> None:
            self._epoll.register(fd, self._mask)

        def arm(self, fd: int) -> None:
            self._epoll.modify(fd, self._mask)

        def wait(self, timeout: float) -> list[tuple[int, int]]:
            return self._epoll.poll(timeout, 64)

        def fileno(self) -> int:
            return self._epoll.fileno()

        def close(self) -> None:
            self._epoll.close()

    def make_poller(*, one_shot: bool) -> Poller:
        """Return the poller of this platform."""
        return EpollPoller(one_shot=one_shot)

else:

    class KqueuePoller:
        """kqueue, with EV_DISPATCH in the place of EPOLLONESHOT."""

        def __init__(self, *, one_shot: bool) -> None:
            self._flags = select.KQ_EV_ADD | select.KQ_EV_ENABLE | (select.KQ_EV_DISPATCH if one_shot else 0)
            self._kqueue = select.kqueue()

        def _change(self, fd: int, flags: int) -> None:
            self._kqueue.control([select.kevent(fd, select.KQ_FILTER_READ, flags)], 0)

        def listen(self, fd: int) -> None:
            self._change(fd, select.KQ_EV_ADD)

        def unlisten(self, fd: int) -> None:
            self._change(fd, select.KQ_EV_DELETE)

        def add(self, fd: int) -> None:
            self._change(fd, self._flags)

        def arm(self, fd: int) -> None:
            self._change(fd, self._flags)

        def wait(self, timeout: float) -> list[tuple[int, int]]:
            events = self._kqueue.control(None, 64, timeout if timeout >= 0 else None)
            return [(event.ident, event.filter) for event in events]

        def fileno(self) -> int:
            return self._kqueue.fileno()

        def close(self) -> None:
            self._kqueue.close()

    def make_poller(*, one_shot: bool) -> Poller:
        """Return the poller of this platform."""
        return KqueuePoller(one_shot=one_shot)
