"""Requests that take too long: what is written of them, and who is interrupted; with real workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from gateways.server.channel import CANCEL, FAILED, READY, Channel
from gateways.server.logfiles import LogTarget
from gateways.server.overdue import Overdue
from gateways.server.process import WorkerProcess
from gateways.server.scoreboard import Board, Row
from gateways.server.slowlog import SlowLog
from tests.server.families import Family, orders
from tests.server.pools import MemoryLog, within
from tests.server.processes import gone


class Log(MemoryLog):
    """Keeps its blocks: message, text, level."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[str, str, str]] = []

    def block(self, message: str, text: str, level: str = "warning") -> None:
        self.blocks.append((message, text, level))


class Entries(LogTarget):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def write(self, line: bytes) -> None:
        self.found.append(line.decode())


class Watch:
    """A master that looks after long requests."""

    def __init__(self, family: Family, *, slow_log: bool = True) -> None:
        self.family = family
        self.log = Log()
        self.entries = Entries()
        slow = SlowLog(self.entries if slow_log else None, self.log)
        self.overdue = Overdue(family, self.log, slow, time.monotonic)

    def begin(self, worker: WorkerProcess, thread: int, *, cancel: bool) -> None:
        """Ask for the stacks because of what the thread serves now."""
        self.overdue.begin(worker, thread, row_of(self.family, worker, thread).serial, cancel=cancel)

    def collect(self, count: int) -> None:
        """Look until so many entries are written, in both logs."""

        def look() -> bool:
            self.overdue.collect()
            return len(self.log.blocks) + len(self.entries.found) >= count

        within(look, f"{count} entries")
        assert len(self.log.blocks) + len(self.entries.found) == count


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family(threads=3)
    yield family
    family.end()


def serve_long(channel: Channel, board: Board, slot: int) -> None:
    """Serve two long requests, and tell what is to be cancelled."""
    started = time.monotonic()
    for thread, line in enumerate((b"GET /idle", b"GET /first\n", b"POST /second")):
        seat = board.seat(slot, thread, 10 + thread)
        seat.begin("fastcgi", line, started - 5.0)
        if thread == 0:
            seat.end("fastcgi", "200 OK", 1.0, started - 4.0)
    channel.send(READY)
    hang(channel)


def hang(channel: Channel) -> None:
    for message in orders(channel):
        if message.kind == CANCEL:
            channel.send(FAILED, text=b"cancel %d %d" % (message.one, message.two))


def reason(family: Family, worker: WorkerProcess) -> str:
    def look() -> bool:
        family.hear(worker)
        return bool(worker.reason)

    within(look, "the worker is told")
    return worker.reason


def row_of(family: Family, worker: WorkerProcess, thread: int) -> Row:
    return family.rows(worker)[thread]


def test_a_slow_request_is_written_down(family: Family) -> None:
    worker = family.start_ready(serve_long)
    watch = Watch(family)
    assert watch.overdue.wake(50.0) is None
    watch.begin(worker, 1, cancel=False)
    assert watch.overdue.wake(50.0) == pytest.approx(50.0, abs=0.1)
    watch.collect(1)
    assert watch.overdue.wake(50.0) is None
    (entry,) = watch.entries.found
    assert "fastcgi GET /first\\x0a" in entry
    assert f"worker {worker.pid}" in entry
    assert "--slow-request" in entry
    assert "in serve_long" in entry
    assert (watch.overdue.slow, watch.overdue.timeouts) == (1, 0)
    assert worker.slow == {1: row_of(family, worker, 1).serial}
    assert worker.cancelled == {}
    assert watch.log.blocks == []


def test_without_a_slow_log(family: Family) -> None:
    worker = family.start_ready(serve_long)
    watch = Watch(family, slow_log=False)
    watch.begin(worker, 2, cancel=False)
    watch.collect(1)
    ((message, text, level),) = watch.log.blocks
    assert "POST /second" in message
    assert "in serve_long" in text
    assert level == "warning"


def test_one_that_has_had_its_time_is_interrupted(family: Family) -> None:
    worker = family.start_ready(serve_long)
    watch = Watch(family)
    watch.begin(worker, 2, cancel=True)
    watch.collect(1)
    ((message, text, level),) = watch.log.blocks
    assert message.startswith("fastcgi POST /second: ")
    assert f"worker {worker.pid} has served this for 5." in message
    assert "(--request-timeout); interrupted" in message
    assert "in serve_long" in text
    assert level == "error"
    serial = row_of(family, worker, 2).serial
    assert reason(family, worker) == f"cancel 2 {serial}"
    assert worker.cancelled[2][0] == serial
    assert (watch.overdue.slow, watch.overdue.timeouts) == (0, 1)


def test_several_of_one_worker(family: Family) -> None:
    """Each is written once, however often the policy asks while the stacks are on their way."""
    worker = family.start_ready(serve_long)
    watch = Watch(family)
    for _ in range(3):
        watch.begin(worker, 1, cancel=False)
        watch.begin(worker, 2, cancel=True)
        watch.begin(worker, 1, cancel=True)
    watch.collect(3)
    assert [("/first" in message, "/second" in message) for message, _, _ in watch.log.blocks] == [
        (False, True), (True, False)
    ]  # fmt: skip
    assert (watch.overdue.slow, watch.overdue.timeouts) == (1, 2)
    assert sorted(worker.cancelled) == [1, 2]


def test_several_workers(family: Family) -> None:
    """Nobody waits for another one's stacks."""
    workers = [family.start_ready(serve_long) for _ in range(3)]
    os.kill(workers[0].pid, signal.SIGSTOP)
    watch = Watch(family)
    start = time.monotonic()
    for worker in workers:
        watch.begin(worker, 1, cancel=True)
    watch.collect(2)
    assert time.monotonic() - start < 0.9
    watch.collect(3)
    message, text, _ = watch.log.blocks[2]
    assert f"worker {workers[0].pid} " in message
    assert "no stacks came" in text
    os.kill(workers[0].pid, signal.SIGCONT)
    assert reason(family, workers[0]) == f"cancel 1 {row_of(family, workers[0], 1).serial}"


def test_a_thread_that_is_idle(family: Family) -> None:
    worker = family.start_ready(serve_long)
    watch = Watch(family)
    watch.begin(worker, 0, cancel=True)
    assert watch.overdue.wake(1.0) is None


def test_a_request_that_ends_meanwhile(family: Family) -> None:
    """It is written down, for it took its time; nobody is interrupted, least of all the next one."""
    worker = family.start_ready(serve_long)
    watch = Watch(family)
    seat = family.board.seat(worker.slot, 1, 11)  # in the worker's place
    serial = seat.serial
    watch.begin(worker, 1, cancel=True)
    seat.end("fastcgi", "200 OK", 5.0, time.monotonic())
    seat.begin("fastcgi", b"GET /next", time.monotonic())
    watch.collect(1)
    ((message, _, _),) = watch.log.blocks
    assert "GET /first" in message
    assert "interrupted" not in message
    assert watch.overdue.timeouts == 0
    assert worker.cancelled == {}
    assert row_of(family, worker, 1).serial == serial + 1


def test_a_request_that_has_ended_before_it_is_looked_at(family: Family) -> None:
    """Between the policy's facts and what is done about them the thread has gone on: the next one is not meant."""
    worker = family.start_ready(serve_long)
    watch = Watch(family)
    seat = family.board.seat(worker.slot, 1, 11)
    serial = seat.serial
    seat.end("fastcgi", "200 OK", 5.0, time.monotonic())
    seat.begin("fastcgi", b"GET /next", time.monotonic())
    watch.overdue.begin(worker, 1, serial, cancel=True)
    assert watch.overdue.wake(1.0) is None
    watch.overdue.begin(worker, 1, serial + 1, cancel=True)
    watch.collect(1)
    assert "GET /next" in watch.log.blocks[0][0]


@pytest.mark.parametrize("cancel", [False, True])
def test_a_worker_that_dies_meanwhile(family: Family, cancel: bool) -> None:
    """What it was serving is written, with the stacks if they have come."""
    worker = family.start_ready(serve_long)
    watch = Watch(family)
    watch.begin(worker, 1, cancel=cancel)
    assert worker.stacks is not None
    stacks = worker.stacks
    within(lambda: "in serve_long" in stacks.read(0), "the stacks have come")
    family.kill(worker)
    within(lambda: gone(worker.pid), "it has gone")
    for each, code, _ in family.reap():  # as the master does
        assert (each, code) == (worker, -signal.SIGKILL)
        watch.overdue.forget(each)
    watch.collect(1)
    found = watch.log.blocks[0][0] + watch.log.blocks[0][1] if cancel else watch.entries.found[0]
    assert "GET /first" in found
    assert "in serve_long" in found
    assert watch.overdue.wake(1.0) is None
    watch.overdue.forget(worker)
    watch.collect(1)


def test_a_worker_that_is_about_to_be_reaped(family: Family) -> None:
    worker = family.start_ready(serve_long)
    watch = Watch(family)
    family.kill(worker)
    os.waitpid(worker.pid, 0)
    watch.begin(worker, 1, cancel=True)
    assert watch.overdue.wake(1.0) is None
