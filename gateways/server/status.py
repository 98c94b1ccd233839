"""The status document: what ``gateways status`` shows and the metrics are made of. It reads, and changes nothing.

Its shape: name, version, pid, app, started, uptime, state, generation, reloads, reload_failures, pool, wanted, ready,
threads, busy_threads, busy, requests, restarts, timeouts, slow, listeners, queue_time, times, workers.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from gateways.server.backlog import queue_length
from gateways.server.process import WorkerProcess
from gateways.server.scoreboard import CLASSES, PROTOCOLS, Board
from gateways.server.workers import Workers

__all__ = ["Gauge", "Tally", "listener_status", "times_status", "workers_status"]

_WINDOW: Final = 1.0  # seconds that the busy gauge looks back, at least


@dataclass(slots=True)
class Tally:
    """What the master has counted."""

    reloads: int = 0
    reload_failures: int = 0
    restarts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("crash", "requests", "age", "memory", "timeout"), 0)
    )


class Gauge:
    """The share of thread time that was spent in requests, lately."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._before: dict[tuple[int, int], float] = {}
        self.busy = 0.0
        """0..1"""

    def sample(self, workers: Workers, now: float) -> float:
        """Look at the scoreboard; returns the share since the last look that was a second ago or more."""
        passed = now - self._since
        if 0 <= passed < _WINDOW:
            return self.busy
        spent = 0.0
        threads = 0
        seen: dict[tuple[int, int], float] = {}
        for worker in workers:
            if not worker.ready or worker.retiring_since is not None:
                continue
            for row in workers.rows(worker):
                total = row.busy_time + (max(0.0, now - row.since) if row.busy else 0.0)
                place = (worker.pid, row.thread)
                seen[place] = total
                threads += 1
                if place in self._before:
                    spent += min(max(0.0, total - self._before[place]), passed)
                elif row.busy:
                    spent += min(max(0.0, now - row.since), passed)
        self._before = seen
        self._since = now
        self.busy = min(1.0, spent / (threads * passed)) if threads and passed > 0 else 0.0
        return self.busy


def workers_status(workers: Workers, now: float) -> list[dict[str, Any]]:
    """Return the part of the document about the workers."""
    return [_worker(workers, worker, now) for worker in workers]


def _worker(workers: Workers, worker: WorkerProcess, now: float) -> dict[str, Any]:
    state = "booting" if not worker.ready else "ready" if worker.retiring_since is None else "retiring"
    rows = workers.rows(worker) if worker.ready else []
    return {
        "pid": worker.pid,
        "state": state,
        "generation": worker.generation,
        "age": max(0.0, now - worker.born),
        "requests": workers.requests(worker) if rows else 0,
        "private_bytes": workers.measure(worker),
        "threads": [
            {
                "thread": row.thread,
                "state": "busy" if row.busy else "idle",
                "for": max(0.0, now - (row.since or worker.born)),
                "protocol": row.protocol if row.ident else "",
                "request": row.line,
                "requests": row.done - base,
            }
            for row, base in zip(rows, worker.base, strict=False)  # no rows while it boots
        ],
    }


def listener_status(sockets: Sequence[tuple[str, str, socket.socket]], backlog: int) -> list[dict[str, Any]]:
    """Return the part about the listeners: protocol, address and socket of each."""
    return [
        {"protocol": protocol, "address": address, "queue": queue_length(sock), "backlog": backlog}
        for protocol, address, sock in sockets
        if sock.fileno() >= 0
    ]


def times_status(board: Board) -> dict[str, Any]:
    """Return the histograms and the number of requests."""
    times = board.times()
    return {
        "requests": sum(sum(histogram.counts) for histogram in times.values()),
        "queue_time": asdict(board.queue_times()),
        "times": {protocol: {kind: asdict(times[protocol, kind]) for kind in CLASSES} for protocol in PROTOCOLS},
    }
