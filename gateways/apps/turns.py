"""How many scripts run at the same time, in all and of one program; who waits, in order; who is sent away.

It has no clock but the one that it is given, and knows neither scripts nor requests.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["Turns"]

LOOK: Final = 0.25
"""Seconds after which one that waits looks whether there still is a reason to."""


class Turns:
    """At most ``total`` turns at the same time, ``each`` of one name (0: no limit), ``queue`` that wait for one."""

    def __init__(self, total: int, each: int, queue: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._each = each
        self._queue = queue
        self._clock = clock
        self._mutex = threading.Lock()
        self._names: dict[str, int] = {}
        self._waiting: deque[_Waiter] = deque()
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take(self, name: str, seconds: float, hopeless: Callable[[], bool]) -> str:
        """Wait for a turn of ``name``; returns why there is none, "" where there is.

        Waits ``seconds`` at most (0: for ever), and no longer than ``hopeless`` is false.
        """
        with self._mutex:
            if self._free(name):
                self._grant(name)
                return ""
            if len(self._waiting) >= self._queue:
                return self._full(name)
            waiter = _Waiter(name)
            self._waiting.append(waiter)
        deadline = self._clock() + seconds if seconds else float("inf")
        try:
            reason = self._wait(waiter, deadline, hopeless)
        except BaseException:
            self._leave(waiter)
            raise
        if reason:
            self._leave(waiter)
        return reason

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
        for waiter in list(self._waiting):
            if self.taken >= self._total:
                return
            if self._free(waiter.name):
                self._waiting.remove(waiter)
                self._grant(waiter.name)
                waiter.granted = True
                waiter.gate.release()

    def _free(self, name: str) -> bool:
        return self.taken < self._total and not 0 < self._each <= self._names.get(name, 0)

    def _grant(self, name: str) -> None:
        self.taken += 1
        self._names[name] = self._names.get(name, 0) + 1

    def _full(self, name: str) -> str:
        if self.taken < self._total:
            return f"{self._each} of {name} run already, and {len(self._waiting)} requests wait"
        return f"{self.taken} scripts run already, and {len(self._waiting)} requests wait"

    def _wait(self, waiter: _Waiter, deadline: float, hopeless: Callable[[], bool]) -> str:
        start = self._clock()
        while not waiter.gate.acquire(timeout=max(0.0, min(LOOK, deadline - self._clock()))):
            if self._clock() >= deadline:
                return f"no turn came in {self._clock() - start:.0f} s"
            if hopeless():
                return "nobody waits for the answer any more"
        return ""

    def _leave(self, waiter: _Waiter) -> None:
        with self._mutex:
            if not waiter.granted:
                self._waiting.remove(waiter)
                return
        self.give(waiter.name)  # it came in the last moment


class _Waiter:
    """One that waits."""

    __slots__ = ("gate", "granted", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.granted = False
        self.gate = threading.Lock()
        self.gate.acquire()
