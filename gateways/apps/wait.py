"""What a request waits for that has no thread meanwhile: descriptors, a time, somebody's word."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

__all__ = ["NEVER", "Wait"]

NEVER: Final = float("inf")


class Wait:
    """One for the length of a request, whose course yields it again and again.

    Whoever goes on after a wait looks what there is: a waking is a hint, and may have come of nothing.
    """

    until: float = NEVER
    """When to go on at the latest, by ``time.monotonic``."""
    woken: bool = False
    """Somebody has called ``wake`` since that was last looked at."""
    waker: Callable[[], None] | None = None
    """Called by ``wake``: set by whoever has the course go on."""

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}
        """Descriptors, with events as for poll()."""
        self.armed: dict[int, int] = {}
        """What of them somebody has been asked to report: for whoever has the course go on."""
        self._poll = select.poll()

    def add(self, fd: int, events: int) -> None:
        """Wait for ``events`` of ``fd``, too: the end of its peer is always among them."""
        if self.fds.get(fd) != events:
            self.fds[fd] = events
            self._poll.register(fd, events)

    def drop(self, fd: int) -> None:
        """Wait for ``fd`` no more: before or after it is closed, but before its number can be another's."""
        if self.fds.pop(fd, None) is not None:
            self._poll.unregister(fd)
            self.armed.pop(fd, None)

    def clear(self) -> None:
        """Wait for no descriptor."""
        for fd in list(self.fds):
            self.drop(fd)

    def look(self) -> list[tuple[int, int]]:
        """Return what there is of what is waited for, without waiting."""
        return self._poll.poll(0)

    def block(self, seconds: float) -> None:
        """Wait in the calling thread, at most so long."""
        self._poll.poll(max(0, int(seconds * 1000) + 1))

    def wake(self) -> None:
        """Have the course go on; from any thread."""
        self.woken = True
        waker = self.waker
        if waker is not None:
            waker()
