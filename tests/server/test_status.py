"""The status document, and the busy gauge, made of a scoreboard that the test writes."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.server.process import WorkerProcess
from gateways.server.scoreboard import BUCKETS, CLASSES, PROTOCOLS, Board, Seat
from gateways.server.status import Gauge, Tally, listener_status, times_status, workers_status
from gateways.server.workers import Workers

NOBODY = 2**22 + 1  # more than any process's number (proc(5), pid_max)


class Staff(Workers):
    """Workers without processes."""

    def __init__(self, workers: int = 4, threads: int = 2) -> None:
        super().__init__(Board(workers, threads), max_requests=0, max_age=0.0)
        self._sockets: list[socket.socket] = []

    def hire(self, slot: int, *, ready: bool = True, pid: int = 0, born: float = 50.0) -> WorkerProcess:
        self.board.clear(slot)
        ours, theirs = socket.socketpair()
        self._sockets += [ours, theirs]
        worker = WorkerProcess(pid or NOBODY + slot, ours, born, 3, slot, None)
        worker.ready = ready
        worker.base = tuple(row.done for row in self.board.rows(slot))
        self.adopt(worker)
        return worker

    def fire(self, worker: WorkerProcess) -> None:
        del self._living[worker.pid]
        self.board.clear(worker.slot)

    def seat(self, worker: WorkerProcess, thread: int) -> Seat:
        return self.board.seat(worker.slot, thread, 1)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def staff() -> Iterator[Staff]:
    staff = Staff()
    yield staff
    staff.close()


def serve(seat: Seat, begin: float, end: float, protocol: str = "http", status: str = "200 OK") -> None:
    seat.begin(protocol, b"GET /", begin)
    seat.end(protocol, status, end - begin, end)


# -- the gauge --------------------------------------------------------------------------------------------------------


def test_nobody_is_not_busy() -> None:
    staff = Staff()
    gauge = Gauge(100.0)
    assert gauge.sample(staff, 200.0) == 0.0


def test_the_share_of_thread_time(staff: Staff) -> None:
    """Two workers of two threads, over ten seconds."""
    one, two = staff.hire(0), staff.hire(1)
    gauge = Gauge(100.0)
    assert gauge.sample(staff, 101.0) == 0.0
    serve(staff.seat(one, 0), 102.0, 104.0)  # 2 s
    serve(staff.seat(one, 1), 103.0, 103.5)  # 0.5 s
    serve(staff.seat(one, 1), 104.0, 105.5)  # 1.5 s
    staff.seat(two, 0).begin("http", b"GET /", 107.0)  # 4 s so far
    assert gauge.sample(staff, 111.0) == pytest.approx(8.0 / 40.0)
    assert gauge.busy == pytest.approx(0.2)
    assert gauge.sample(staff, 112.0) == pytest.approx(1.0 / 4.0), "only since the last look"
    staff.seat(two, 0).end("http", "200 OK", 5.5, 112.5)
    assert gauge.sample(staff, 114.5) == pytest.approx(0.5 / 10.0)
    assert gauge.sample(staff, 120.0) == 0.0


def test_all_busy_is_one(staff: Staff) -> None:
    worker = staff.hire(0)
    gauge = Gauge(100.0)
    for thread in range(2):
        staff.seat(worker, thread).begin("http", b"GET /", 90.0)
    assert gauge.sample(staff, 105.0) == 1.0, "longer than the look, and no more than all of it"
    assert gauge.sample(staff, 106.0) == 1.0


def test_it_looks_once_a_second(staff: Staff) -> None:
    worker = staff.hire(0)
    gauge = Gauge(100.0)
    staff.seat(worker, 0).begin("http", b"GET /", 100.0)
    assert gauge.sample(staff, 100.99) == 0.0
    assert gauge.sample(staff, 101.0) == 0.5
    serve(staff.seat(worker, 1), 101.0, 101.9)
    assert gauge.sample(staff, 101.9) == 0.5


def test_a_new_worker_in_an_old_place(staff: Staff) -> None:
    """What its predecessors have done does not count."""
    gauge = Gauge(100.0)
    old = staff.hire(0)
    gauge.sample(staff, 101.0)
    serve(staff.seat(old, 0), 101.0, 109.0)
    staff.fire(old)
    new = staff.hire(0, pid=NOBODY + 77)
    assert gauge.sample(staff, 111.0) == 0.0
    serve(staff.seat(new, 0), 112.0, 113.0)
    assert gauge.sample(staff, 121.0) == pytest.approx(1.0 / 20.0)


def test_who_does_not_serve_does_not_count(staff: Staff) -> None:
    """Neither who boots nor who leaves: the pool's size is decided by the others."""
    serving, leaving, booting = staff.hire(0), staff.hire(1), staff.hire(2, ready=False)
    gauge = Gauge(100.0)
    gauge.sample(staff, 101.0)
    staff.retire(leaving, "age", 101.0)
    for worker in (leaving, booting):
        staff.seat(worker, 0).begin("http", b"GET /", 101.0)
    assert gauge.sample(staff, 111.0) == 0.0
    staff.seat(serving, 0).begin("http", b"GET /", 111.0)
    assert gauge.sample(staff, 121.0) == 0.5


def test_clocks_that_jump(staff: Staff) -> None:
    """Never out of its bounds."""
    worker = staff.hire(0)
    gauge = Gauge(100.0)
    staff.seat(worker, 0).begin("http", b"GET /", 500.0)
    for now in (300.0, 200.0, 200.0, 100.0, 600.0, 601.5, 10.0):
        assert 0.0 <= gauge.sample(staff, now) <= 1.0


# -- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_of_each_state(staff: Staff) -> None:
    booting, ready, retiring = staff.hire(0, ready=False), staff.hire(1), staff.hire(2)
    staff.retire(retiring, "age", 60.0)
    found = workers_status(staff, 80.0)
    assert [(each["pid"], each["state"], each["generation"], each["age"]) for each in found] == [
        (booting.pid, "booting", 3, 30.0),
        (ready.pid, "ready", 3, 30.0),
        (retiring.pid, "retiring", 3, 30.0),
    ]
    assert [len(each["threads"]) for each in found] == [0, 2, 2]
    assert [each["private_bytes"] for each in found] == [None, None, None]
    assert json.loads(json.dumps(found)) == found


def test_threads(staff: Staff) -> None:
    worker = staff.hire(1)
    serve(staff.seat(worker, 0), 55.0, 56.0, "uwsgi")
    staff.seat(worker, 0).begin("scgi", b"GET /a?b=\xe4", 70.0)
    (found,) = workers_status(staff, 72.5)
    assert found["requests"] == 1
    assert found["threads"] == [
        {"thread": 0, "state": "busy", "for": 2.5, "protocol": "scgi", "request": "GET /a?b=\xe4", "requests": 1},
        {"thread": 1, "state": "idle", "for": 22.5, "protocol": "", "request": "", "requests": 0},
    ]
    staff.seat(worker, 0).end("scgi", "200 OK", 3.0, 73.0)
    (found,) = workers_status(staff, 75.0)
    assert found["requests"] == 2
    assert found["threads"][0] == {
        "thread": 0, "state": "idle", "for": 2.0, "protocol": "scgi", "request": "GET /a?b=\xe4", "requests": 2
    }  # fmt: skip


def test_a_worker_has_not_done_what_its_predecessors_did(staff: Staff) -> None:
    old = staff.hire(1)
    for _ in range(5):
        serve(staff.seat(old, 0), 55.0, 56.0, "uwsgi")
    staff.fire(old)
    new = staff.hire(1, pid=NOBODY + 99, born=60.0)
    (found,) = workers_status(staff, 70.0)
    idle = {"state": "idle", "for": 10.0, "protocol": "", "request": "", "requests": 0}
    assert found["requests"] == 0
    assert found["threads"] == [{"thread": 0, **idle}, {"thread": 1, **idle}]
    serve(staff.seat(new, 0), 61.0, 62.0)
    (found,) = workers_status(staff, 70.0)
    assert found["requests"] == 1
    assert [thread["requests"] for thread in found["threads"]] == [1, 0]
    assert times_status(staff.board)["requests"] == 6


def test_a_worker_of_another_master(staff: Staff) -> None:
    """Nothing is known of what it does."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = WorkerProcess(NOBODY, ours, 50.0, 1, -1, None)
        worker.ready = True
        staff.adopt(worker)
        (found,) = workers_status(staff, 60.0)
        assert (found["state"], found["requests"], found["threads"]) == ("ready", 0, [])


def test_a_clock_behind_the_workers(staff: Staff) -> None:
    worker = staff.hire(0)
    staff.seat(worker, 0).begin("http", b"GET /", 70.0)
    (found,) = workers_status(staff, 40.0)
    assert found["age"] == found["threads"][0]["for"] == 0.0


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell")
def test_private_memory(staff: Staff) -> None:
    worker = staff.hire(0, pid=os.getpid())
    (found,) = workers_status(staff, 60.0)
    assert found["private_bytes"] == worker.private_bytes > 1_000_000


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_times(staff: Staff) -> None:
    one, two = staff.hire(0), staff.hire(1)
    serve(staff.seat(one, 0), 50.0, 50.02, "fastcgi", "404 x")
    serve(staff.seat(two, 1), 50.0, 53.0, "fastcgi", "404 x")
    serve(staff.seat(two, 1), 50.0, 90.0, "http", "")
    staff.seat(one, 1).queued(0.2)
    found = times_status(staff.board)
    assert found["requests"] == 3
    assert list(found["times"]) == list(PROTOCOLS)
    assert all(list(kinds) == list(CLASSES) for kinds in found["times"].values())
    histogram = found["times"]["fastcgi"]["4xx"]
    assert histogram["total"] == pytest.approx(3.02)
    assert [at for at, count in enumerate(histogram["counts"]) if count] == [BUCKETS.index(0.025), BUCKETS.index(5.0)]
    assert found["times"]["http"]["other"]["counts"][BUCKETS.index(60.0)] == 1
    assert found["queue_time"]["total"] == 0.2
    assert len(found["queue_time"]["counts"]) == 14
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, default=list))


def test_listeners(tmp_path: Path) -> None:
    closed = socket.socket()
    closed.close()
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as client,
    ):
        path = str(tmp_path / "s")
        unix.bind(path)
        unix.listen(5)
        client.connect(path)
        sockets = [("http", "127.0.0.1:0", tcp), ("fastcgi", f"unix:{path}", unix), ("scgi", "gone", closed)]
        first, second = listener_status(sockets, 77)
        assert {**first, "queue": None} == {"protocol": "http", "address": "127.0.0.1:0", "queue": None, "backlog": 77}
        assert first["queue"] in (0, None)
        assert second["address"] == f"unix:{path}"
        assert second["queue"] in (1, None)
        assert json.dumps([first, second])


def test_what_is_counted_begins_at_nought() -> None:
    tally = Tally()
    tally.restarts["crash"] += 1
    assert Tally().restarts == {"crash": 0, "requests": 0, "age": 0, "memory": 0, "timeout": 0}
    assert (tally.reloads, tally.reload_failures) == (0, 0)
