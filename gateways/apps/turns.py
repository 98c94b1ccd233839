"""How many scripts run at the same time, in all and of one program; who waits, in order; who is sent away.

It has no clock, and knows neither scripts nor requests.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Turn", "Turns"]


class Turns:
    """At most ``total`` turns at the same time, ``each`` of one name (0: no limit), ``queue`` that wait for one."""

    def __init__(self, total: int, each: int, queue: int) -> None:
        self._total = total
        self._each = each
        self._queue = queue
        self._mutex = threading.Lock()
        self._names: dict[str, int] = {}
        self._waiting: deque[Turn] = deque()
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def ask(self, name: str, wake: Callable[[], None]) -> Turn:
        """Ask for a turn of ``name``: it is ``granted`` at once, refused for a ``reason``, or waits until ``wake``."""
        turn = Turn(name, wake)
        with self._mutex:
            if self._free(name):
                self._grant(turn)
            elif len(self._waiting) >= self._queue:
                turn.reason = self._full(name)
            else:
                self._waiting.append(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        """Nobody waits for it any more."""
        with self._mutex:
            if not turn.granted:
                self._waiting.remove(turn)
                return
        self.give(turn.name)  # it came in the last moment

    def give(self, name: str) -> None:
        """A turn of ``name`` is over."""
        with self._mutex:
            self.taken -= 1
            left = self._names[name] - 1
            if left:
                self._names[name] = left
            else:
                del self._names[name]
            self._pass_on()

    def _pass_on(self) -> None:
        """Let the first that may go, with the lock held."""
        for turn in list(self._waiting):
            if self.taken >= self._total:
                return
            if self._free(turn.name):
                self._waiting.remove(turn)
                self._grant(turn)
                turn.wake()

    def _free(self, name: str) -> bool:
        return self.taken < self._total and not 0 < self._each <= self._names.get(name, 0)

    def _grant(self, turn: Turn) -> None:
        self.taken += 1
        self._names[turn.name] = self._names.get(turn.name, 0) + 1
        turn.granted = True

    def _full(self, name: str) -> str:
        if self.taken < self._total:
            return f"{self._each} of {name} run already, and {len(self._waiting)} requests wait"
        return f"{self.taken} scripts run already, and {len(self._waiting)} requests wait"


class Turn:
    """One that somebody has asked for."""

    granted: bool = False
    reason: str = ""
    """Why there will be none."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self.name = name
        self.wake = wake
        """Called when it is granted later, with the lock of all turns held: it must not ask for any."""
