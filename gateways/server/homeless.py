"""Kept connections of workers that leave, as they wait in the master until another worker goes on with them.

No more wait than the process can hold: while all places are taken, workers that leave are not listened to, and serve
theirs themselves. What nobody takes in time is closed, and how many were lost is told in sums.
"""

from __future__ import annotations

import heapq
import os
import resource
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from gateways.server.channel import CONNECTION, Message
from gateways.server.process import WorkerProcess

__all__ = ["Homeless"]

_MOST: Final = 4096
_SHARE: Final = 4  # of the descriptors that the process may have, one in so many
_AGAIN: Final = 0.1  # seconds after which a worker is tried again that would not take one though it has room
_SUM: Final = 1.0  # seconds over which losses are added up


class Homeless:
    """Connections with which nobody goes on yet, the oldest first; each waits ``patience`` seconds at most."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._waiting: deque[tuple[float, Message]] = deque()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = _MOST if limit == resource.RLIM_INFINITY else max(1, min(_MOST, limit // _SHARE))
        self._refused_until = -float("inf")
        self._lost: Counter[str] = Counter()
        self._tell_at = -float("inf")
        self._over = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """No more can be taken."""
        return len(self._waiting) >= self._most

    @property
    def hopeful(self) -> bool:
        """As soon as a worker has room, one can be passed on."""
        return bool(self._waiting) and self._clock() >= self._refused_until

    def take(self, message: Message) -> None:
        """Take one of a worker that leaves."""
        if self._over:
            _close(message)
        elif message.missing:
            self.lost("the master had no file descriptor left; raise the limit of open files (ulimit -n)")
        else:
            self._waiting.append((self._clock(), message))

    def pass_on(self, workers: Iterable[WorkerProcess]) -> None:
        """Have those workers go on with them that have room, each with as many; close what has waited too long."""
        if not self._waiting:
            return
        heap = [(worker.given, number, worker) for number, worker in enumerate(workers)]
        heapq.heapify(heap)
        while heap and self._waiting:
            _, number, worker = heap[0]
            if self._give(worker):
                worker.given += 1
                heapq.heapreplace(heap, (worker.given, number, worker))
            else:
                heapq.heappop(heap)
        late = self._clock() - self._patience
        while self._waiting and self._waiting[0][0] <= late:
            _close(self._waiting.popleft()[1])
            self.lost(f"no worker could go on with them for {self._patience:g} s")

    def _give(self, worker: WorkerProcess) -> bool:
        """Pass the oldest on; a part of the worker's channel is left to orders, which do not wait."""
        message = self._waiting[0][1]
        if not worker.channel.spacious():
            return False
        if not worker.channel.send(CONNECTION, text=message.text, fds=message.fds):
            self._refused_until = self._clock() + _AGAIN  # too many descriptors are under way (ETOOMANYREFS)
            return False
        _close(self._waiting.popleft()[1])
        return True

    def give_up(self, reason: str) -> None:
        """Nobody will go on with those that wait."""
        while self._waiting:
            _close(self._waiting.popleft()[1])
            self.lost(reason)

    def lost(self, reason: str) -> None:
        """One more was lost."""
        if not self._lost:
            self._tell_at = self._clock() + _SUM
        self._lost[reason] += 1

    def news(self, *, at_once: bool = False) -> list[str]:
        """Return what is to be told of those that were lost, once; a moment after the first, to have sums."""
        if not self._lost or (self._clock() < self._tell_at and not at_once):
            return []
        found = [f"kept connections of a worker that left were lost: {n} ({why})" for why, n in self._lost.items()]
        self._lost.clear()
        return found

    def wake(self) -> float | None:
        """Return when to look again though nothing happens; None: never."""
        moments = []
        if self._waiting:
            moments.append(self._waiting[0][0] + self._patience)
            if self._refused_until > self._clock():
                moments.append(self._refused_until)
        if self._lost:
            moments.append(self._tell_at)
        return min(moments, default=None)

    def end(self) -> None:
        """The server stops: close those that wait, and those that still come."""
        self._over = True
        self.close()

    def close(self) -> None:
        """Let go of all of them, as in a worker that is born."""
        while self._waiting:
            _close(self._waiting.popleft()[1])


def _close(message: Message) -> None:
    for fd in message.fds:
        os.close(fd)
