"""What one program has counted, and the next one goes on from."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateways.server.counts import counted, go_on
from gateways.server.errorlog import ErrorLog
from gateways.server.overdue import Overdue
from gateways.server.scoreboard import Board
from gateways.server.slowlog import SlowLog
from gateways.server.status import Tally
from gateways.server.workers import Workers


class Server:
    """The parts of a master that count."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.board = Board(2, 2)
        log = ErrorLog()
        workers = Workers(self.board, max_requests=0, max_age=0.0)
        self.overdue = Overdue(workers, log, SlowLog(None, log), time.monotonic)

    def counted(self) -> dict[str, Any]:
        whole: dict[str, Any] = json.loads(json.dumps(counted(self.tally, self.overdue, self.board)))
        return whole

    def go_on(self, counts: dict[str, Any]) -> None:
        go_on(counts, self.tally, self.overdue, self.board)


def busy() -> Server:
    server = Server()
    server.tally.reload_failures = 2
    server.tally.restarts["crash"] = 3
    server.overdue.timeouts = 4
    server.overdue.slow = 5
    server.board.clear(1)
    seat = server.board.seat(1, 0, 7)
    for protocol, status, taken in (("fastcgi", "200 OK", 0.3), ("http", "", 100.0), ("uwsgi", "404 Not Found", 0.001)):
        seat.begin(protocol, b"GET /", 1.0)
        seat.queued(0.02)
        seat.end(protocol, status, taken, 2.0)
    server.board.count("scgi", "502 Bad Gateway", 1.5)
    return server


def test_from_one_program_to_the_next() -> None:
    server = busy()
    for _ in range(3):
        before = server.counted()
        assert before["requests"] == 4
        server = Server()
        server.go_on(before)
        assert server.counted() == before
    server.board.count("http", "200 OK", 0.5)
    assert server.counted()["requests"] == 5
    server.go_on({})
    assert server.counted()["requests"] == 5


@pytest.mark.parametrize("bad", [None, -1, 1.5, "x", True, [], [1], 2**60, {}, {"counts": [1], "total": 0.5}])
def test_what_is_not_understood_begins_at_0(bad: object) -> None:
    counts = busy().counted()
    for name in counts:
        Server().go_on(counts | {name: bad})
    histogram = counts["times"]["http"]["other"]
    for changed in ({"counts": bad}, {"total": bad}, {"counts": [bad] * len(histogram["counts"])}):
        Server().go_on({**counts, "times": {"http": {"other": histogram | changed}}, "queue_time": histogram | changed})
    server = Server()
    server.go_on(dict.fromkeys(counts, bad))
    assert server.counted() == Server().counted()
