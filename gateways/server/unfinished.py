"""Requests that ended with their worker: it can neither count nor log them any more, so the master does, once each.

All that is known of one is in its slot of the scoreboard. The web server has had a 504 of --request-timeout, or finds
the connection closed, and answers 502 itself.
"""

from __future__ import annotations

import time
from typing import Final

from gateways.server.accesslog import AccessLog
from gateways.server.process import WorkerProcess
from gateways.server.scoreboard import Board, Row

__all__ = ["record_unfinished"]

_TIMEOUT: Final = "504 Gateway Timeout"
_DIED: Final = "502 Bad Gateway"


def record_unfinished(board: Board, log: AccessLog | None, worker: WorkerProcess, row: Row, now: float) -> None:
    """Count what a thread of a dead worker was serving, and write its line; ``now`` is on the monotonic clock."""
    serial, answered = worker.cancelled.get(row.thread, (-1, 0.0))
    status, end = (_TIMEOUT, answered) if serial == row.serial else (_DIED, now)
    taken = max(0.0, end - row.since)
    board.count(row.protocol, status, taken)
    if log is None:
        return
    method, _, uri = row.line.partition(" ")
    log.worker = worker.pid
    try:
        params = {"REQUEST_METHOD": method, "REQUEST_URI": uri}
        log.record(params, row.protocol, "", status, 0, time.time() - (now - end), taken, -1.0)
    finally:
        log.worker = 0
