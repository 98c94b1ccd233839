"""The workers of a master: real processes, which do what the test tells them over a pipe."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gateways.server.channel import CANCEL, CONNECTION, FAILED, LEAVING, LOST, READY, STOP, Channel
from gateways.server.policy import BusyThread
from gateways.server.process import WorkerProcess
from gateways.server.scoreboard import Board, Seat
from gateways.server.workers import private_memory
from tests.server import processes
from tests.server.families import SLOTS, Family, Script, orders, stay
from tests.server.forks import child, ended, forked
from tests.server.pools import within
from tests.server.processes import needs_proc


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


def echo(channel: Channel, board: Board, slot: int) -> None:
    """Be ready, and send each order back as a reason."""
    channel.send(READY)
    for message in orders(channel):
        channel.send(FAILED, text=b"%b %d %d %b" % (message.kind, message.one, message.two, message.text))
        if message.kind == STOP:
            return


def hear_reason(family: Family, worker: WorkerProcess) -> str:
    worker.reason = ""

    def look() -> bool:
        family.hear(worker)
        return bool(worker.reason)

    within(look, "it says something")
    return worker.reason


# -- from birth to death ----------------------------------------------------------------------------------------------


def test_nobody() -> None:
    family = Family()
    assert list(family) == family.serving == []
    assert list(family.reap()) == []
    assert (len(family), family.ready) == (0, 0)


def test_in_the_order_of_their_birth(family: Family) -> None:
    workers = [family.start(stay, generation, 100.0 + generation) for generation in (1, 2, 3)]
    assert list(family) == workers
    assert len(family) == 3
    assert [worker.generation for worker in family] == [1, 2, 3]
    assert [worker.born for worker in family] == [101.0, 102.0, 103.0]
    assert [family[worker.pid] for worker in workers] == workers
    assert len({worker.slot for worker in workers}) == 3
    assert family.ready == 0
    for worker in reversed(workers):
        family.await_ready(worker)
    assert family.ready == 3
    assert family.serving == workers
    family.retire(workers[1], "age", 200.0)
    assert family.serving == [workers[0], workers[2]]
    assert family.await_end(workers[1]) == (0, [])
    assert list(family) == [workers[0], workers[2]]


def test_places_on_the_scoreboard(family: Family) -> None:
    workers = [family.start(stay) for _ in range(SLOTS)]
    assert {worker.slot for worker in workers} == set(range(SLOTS))
    with pytest.raises(OSError, match="every place on the scoreboard") as refusal:
        family.start(stay)
    assert refusal.value.strerror
    family.kill(workers[2])
    family.await_end(workers[2])
    assert family.start(stay).slot == workers[2].slot


def test_a_fork_that_fails_costs_no_place(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    for _ in range(2 * SLOTS):
        with pytest.raises(OSError, match="temporarily unavailable"):
            family.start(stay)
    monkeypatch.undo()
    assert len(family) == 0
    assert len([family.start(stay) for _ in range(SLOTS)]) == SLOTS


def test_why_one_could_not_boot(family: Family) -> None:
    """Its last words are heard, however soon it ends."""

    def script(channel: Channel, board: Board, slot: int) -> int:
        channel.send(FAILED, text="cannot import \xe4".encode())
        return 2

    worker = family.start(script)
    assert family.await_end(worker) == (2, [])
    assert not worker.ready
    assert worker.reason == "cannot import \xe4"


def test_one_that_ends_as_soon_as_it_is_ready(family: Family) -> None:
    def script(channel: Channel, board: Board, slot: int) -> int:
        channel.send(READY)
        return 5

    worker = family.start(script)
    assert family.await_end(worker) == (5, [])
    assert worker.ready


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2])
def test_what_a_killed_one_was_serving(family: Family, number: signal.Signals) -> None:
    def script(channel: Channel, board: Board, slot: int) -> None:
        seats = [board.seat(slot, thread, 10 + thread) for thread in range(2)]
        for seat in seats:
            seat.begin("http", b"GET /done", 1.0)
            seat.end("http", "200 OK", 0.5, 1.5)
        seats[1].begin("scgi", b"POST /lost", 2.0)
        stay(channel, board, slot)

    worker = family.start_ready(script)
    assert family.requests(worker) == 2
    os.kill(worker.pid, number)
    code, (row,) = family.await_end(worker)
    assert code == -number
    assert (row.thread, row.protocol, row.line, row.ident) == (1, "scgi", "POST /lost", 11)
    assert not any(row.busy for row in family.board.rows(worker.slot))


def test_the_next_one_in_a_slot_starts_counting_at_nought(family: Family) -> None:
    def script(channel: Channel, board: Board, slot: int) -> None:
        for thread in range(2):
            serve(board.seat(slot, thread, 10 + thread), 3)
        stay(channel, board, slot)

    for turn in range(1, 4):
        worker = family.start_ready(script)
        assert worker.slot == 0
        assert family.requests(worker) == 6
        assert family.facts(worker).requests == 6
        assert sum(sum(found.counts) for found in family.board.times().values()) == 6 * turn
        family.kill(worker)
        family.await_end(worker)


def serve(seat: Seat, count: int) -> None:
    for _ in range(count):
        seat.begin("http", b"GET /", 1.0)
        seat.end("http", "200 OK", 0.5, 1.5)


def test_one_that_somebody_else_has_waited_for(family: Family) -> None:
    worker = family.start_ready()
    family.retire(worker, "age", 1.0)
    os.waitpid(worker.pid, 0)
    assert family.await_end(worker) == (0, [])


def test_one_that_another_master_has_forked(family: Family) -> None:
    """It can be told to leave, and is reaped; nothing is known of what it does."""
    ours, theirs = socket.socketpair()

    def body() -> None:
        ours.close()
        stay(Channel(theirs), family.board, 0)

    pid = child(body)
    theirs.close()
    ours.setblocking(False)
    worker = WorkerProcess(pid, ours, 1.0, 1, -1, None)
    family.adopt(worker)
    family.await_ready(worker)
    assert family.serving == [worker]
    assert family.rows(worker) == []
    facts = family.facts(worker)
    assert (facts.pid, facts.ready, facts.requests, facts.busy, facts.idle_since) == (pid, True, 0, (), None)
    family.retire(worker, "reload", 5.0)
    assert family.await_end(worker) == (0, [])
    assert len([family.start(stay) for _ in range(SLOTS)]) == SLOTS, "it had no place"


# -- orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "others", "number"), [("stop", 1, 0), ("age", 1, 1), ("age", 0, 0), ("reload", 1, 1)]
)
def test_to_leave(family: Family, cause: str, others: int, number: int) -> None:
    """Once; and it is told whether others serve, who go on with its connections."""
    worker = family.start_ready(echo)
    for _ in range(others):
        family.start_ready()
    family.retire(worker, cause, 50.0)
    family.retire(worker, "memory", 60.0)
    assert (worker.retiring_since, worker.cause) == (50.0, cause)
    assert hear_reason(family, worker) == f"s {number} 0 "
    assert family.await_end(worker) == (0, [])


def test_to_end_a_request(family: Family) -> None:
    worker = family.start_ready(echo)
    family.cancel(worker, 1, 2**63, 77.0)
    assert worker.cancelled == {1: (2**63, 77.0)}
    assert hear_reason(family, worker) == f"c 1 {2**63} "


def test_to_die(family: Family) -> None:
    worker = family.start_ready()
    assert family.kill(worker)
    assert not family.kill(worker), "once is enough"
    assert family.await_end(worker) == (-signal.SIGKILL, [])


def test_to_stand_still(family: Family) -> None:
    """What has been said by then is all; afterwards it goes on."""
    heard, out = os.pipe()
    os.set_blocking(heard, False)

    def count(channel: Channel, board: Board, slot: int) -> None:
        while True:
            os.write(out, b"x")

    def counted() -> int:
        found = 0
        with contextlib.suppress(BlockingIOError):
            while data := os.read(heard, 65_536):
                found += len(data)
        return found

    worker = family.start(count)
    within(counted, "it counts")
    family.halt(worker)
    counted()
    time.sleep(0.05)
    assert counted() == 0
    family.go_on(worker)
    within(counted, "it goes on")
    os.kill(worker.pid, signal.SIGKILL)
    family.await_end(worker)
    family.halt(worker)
    family.go_on(worker)
    os.close(heard)
    os.close(out)


def test_one_that_was_killed_does_not_become_ready(family: Family) -> None:
    """Though it had said so before."""
    worker = family.start(stay)
    within(worker.channel.waits, "it has said that it is ready")
    family.kill(worker)
    assert not family.hear(worker)
    assert not worker.ready
    family.await_end(worker)
    other = family.start_ready()
    assert family.ready == 1
    family.kill(other)
    assert family.ready == 0, "it serves nobody any more"


def test_orders_to_one_that_has_gone(family: Family) -> None:
    worker = family.start_ready()
    worker.channel.send(STOP)
    within(lambda: processes.gone(worker.pid), "it has gone")
    family.cancel(worker, 0, 1, 1.0)
    family.retire(worker, "age", 1.0)
    assert family.kill(worker)
    assert family.await_end(worker) == (0, [])


# -- kept connections of those that leave -----------------------------------------------------------------------------


def give(count: int) -> Script:
    """A script that leaves ``count`` connections behind, named by numbers."""

    def script(channel: Channel, board: Board, slot: int) -> None:
        channel.send(READY)
        for message in orders(channel):
            if message.kind == STOP:
                for number in range(count):
                    ours, theirs = socket.socketpair()
                    channel.send(CONNECTION, text=b"%d" % number, fds=[theirs.fileno()])
                    ours.sendall(b"from %d" % number)
                    theirs.close()
                    ours.close()
                return

    return script


def take(channel: Channel, board: Board, slot: int) -> None:
    """A script that tells what it gets."""
    channel.send(READY)
    for message in orders(channel):
        if message.kind == CONNECTION:
            (fd,) = message.fds
            with socket.socket(fileno=fd) as sock:
                found = b"%b: %b" % (message.text, sock.recv(100))
                found += b" end" if sock.recv(100) == b"" else b""
            channel.send(FAILED, text=found)


def test_others_go_on_with_them(family: Family) -> None:
    """Each with as many; and nobody else has them open."""
    heirs = [family.start_ready(take), family.start_ready(take)]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
    worker = family.start_ready(give(6))
    family.retire(worker, "age", 1.0)
    family.await_end(worker)
    assert [heir.given for heir in heirs] == [3, 3]
    found = [hear_one(family, heir) for heir in heirs for _ in range(3)]
    assert sorted(found) == [f"{number}: from {number} end" for number in range(6)]
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def hear_one(family: Family, worker: WorkerProcess) -> str:
    """As ``hear_reason``, for what may come in one piece with others."""
    pending: list[str] = worker.__dict__.setdefault("pending", [])

    def look() -> bool:
        pending.extend(message.text.decode() for message in worker.channel.receive() or [])
        return bool(pending)

    within(look, "it says something")
    return pending.pop(0)


@needs_proc
def test_they_wait_for_somebody_who_is_ready(family: Family) -> None:
    """Not even a worker that is born meanwhile keeps them open."""
    worker = family.start_ready(give(2))
    family.retire(worker, "age", 1.0)
    family.await_end(worker)
    assert len(family.homeless) == 2
    heir = family.start(take)
    assert heir.given == 0
    family.await_ready(heir)
    assert heir.given == 2
    assert len(family.homeless) == 0
    assert sorted(hear_one(family, heir) for _ in range(2)) == ["0: from 0 end", "1: from 1 end"]


@needs_proc
def test_a_worker_that_is_born_meanwhile_does_not_have_them_open(family: Family) -> None:
    def count(channel: Channel, board: Board, slot: int) -> None:
        channel.send(FAILED, text=b"%d" % len(os.listdir("/proc/self/fd")))
        channel.receive()

    worker = family.start_ready(give(3))
    before = hear_reason(family, family.start(count))
    family.retire(worker, "age", 1.0)
    family.await_end(worker)
    assert len(family.homeless) == 3
    assert hear_reason(family, family.start(count)) == before


def test_those_that_leave_wait_until_there_is_room() -> None:
    """A leaving worker serves its own as long as the master holds as many as it may."""

    def stop(channel: Channel, board: Board, slot: int) -> None:
        channel.send(READY)
        channel.receive()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            while channel.send(CONNECTION, text=b"{}", fds=[theirs.fileno()]):
                pass
            channel.receive()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, hard))
    try:
        family = Family()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        worker = family.start_ready(stop)
        assert family.events(worker) == select.POLLIN
        family.retire(worker, "age", 1.0)
        within(lambda: (family.hear(worker), family.homeless.full)[1], "many come")
        assert len(family.homeless) == 20
        assert family.events(worker) == 0
        heir = family.start_ready(stay)
        assert not family.homeless.full, "somebody goes on with them"
        assert family.events(worker) == select.POLLIN
        assert family.events(heir) == select.POLLIN
    finally:
        family.end()


def test_channels_of_those_that_have_no_room_are_waited_for(family: Family) -> None:
    worker = family.start_ready(give(3))
    family.retire(worker, "age", 1.0)
    family.await_end(worker)
    heir = family.start(stay)
    assert family.events(heir) == select.POLLIN, "it is not ready"
    heir.ready = True
    assert family.events(heir) == select.POLLIN | select.POLLOUT
    family.pass_on()
    assert family.events(heir) == select.POLLIN
    heir.channel.close()
    assert family.events(heir) == 0


def test_what_did_not_arrive_is_told(family: Family) -> None:
    def lose(channel: Channel, board: Board, slot: int) -> None:
        channel.send(READY)
        for _ in range(3):
            channel.send(LOST, text=b"it rained")
        channel.send(LEAVING, text=b"it does not like it here")
        channel.receive()

    worker = family.start(lose)
    within(lambda: (family.hear(worker), worker.leaving)[1], "it says that it leaves")
    assert worker.reason == "it does not like it here"
    assert family.ready == 0
    within(lambda: (family.homeless.wake() or 0) < time.monotonic(), "it is time to tell")
    assert family.homeless.news() == ["kept connections of a worker that left were lost: 3 (it rained)"]


# -- facts ------------------------------------------------------------------------------------------------------------


def test_facts_of_one_that_boots(family: Family) -> None:
    worker = family.start(stay, 7, 123.0)
    facts = family.facts(worker)
    assert (facts.pid, facts.ready, facts.born, facts.generation) == (worker.pid, False, 123.0, 7)
    assert (facts.requests, facts.busy, facts.idle_since, facts.retiring_since) == (0, (), None, None)


def test_facts_of_one_that_serves(family: Family) -> None:
    """Each mark is of one request, and not of the next one on the same thread."""
    worker = family.start_ready()
    worker.ready_since = 110.0
    seats = [family.board.seat(worker.slot, thread, 1) for thread in range(2)]  # in the worker's place
    assert family.facts(worker).idle_since == 110.0, "since it is ready"
    serve(seats[0], 4)
    seats[0].begin("http", b"GET /", 120.0)
    assert family.facts(worker).busy == (BusyThread(0, 5, 120.0, False, None),)
    assert family.facts(worker).idle_since is None
    worker.slow[0] = 5
    family.cancel(worker, 0, 5, 130.0)
    assert family.facts(worker).busy == (BusyThread(0, 5, 120.0, True, 130.0),)
    seats[1].begin("http", b"GET /", 140.0)
    assert family.facts(worker).busy == (BusyThread(0, 5, 120.0, True, 130.0), BusyThread(1, 1, 140.0, False, None))
    seats[0].end("http", "504 x", 30.0, 150.0)
    seats[0].begin("http", b"GET /", 160.0)
    assert family.facts(worker).busy == (BusyThread(0, 6, 160.0, False, None), BusyThread(1, 1, 140.0, False, None))
    seats[1].end("http", "200 OK", 30.0, 170.0)
    seats[0].end("http", "200 OK", 5.0, 165.0)
    facts = family.facts(worker)
    assert (facts.busy, facts.idle_since, facts.requests) == ((), 170.0, 7)
    family.retire(worker, "age", 180.0)
    assert family.facts(worker).retiring_since == 180.0


def test_limits_with_jitter() -> None:
    """Workers that are born together do not leave together; a limit is never undercut."""
    family = Family(max_requests=1000, max_age=50.0, slots=24)
    try:
        workers = [family.start(stay) for _ in range(24)]
        facts = [family.facts(worker) for worker in workers]
        assert all(1000 <= fact.request_limit <= 1100 for fact in facts)
        assert all(50.0 <= fact.age_limit <= 55.0 for fact in facts)
        assert len({fact.request_limit for fact in facts}) > 5
        assert [fact.request_limit for fact in facts] == [family.board.limits[worker.slot] for worker in workers]
        assert len({fact.age_limit for fact in facts}) > 5
    finally:
        family.end()


def test_no_limits(family: Family) -> None:
    facts = family.facts(family.start(stay))
    assert (facts.request_limit, facts.age_limit) == (0, 0.0)


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_small_limits_have_no_jitter(limit: int) -> None:
    family = Family(max_requests=limit)
    try:
        assert family.facts(family.start(stay)).request_limit == limit
    finally:
        family.end()


# -- memory -----------------------------------------------------------------------------------------------------------


def private_map(size: int) -> mmap.mmap:
    """Memory of so many bytes and no more."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def fill(memory: mmap.mmap) -> None:
    for at in range(0, len(memory), 4096):
        memory[at] = 1


@needs_proc
def test_private_memory_is_what_the_system_says(family: Family) -> None:
    """What a worker shares with its master does not count; what it makes, and what it changes, does."""
    shared = private_map(30_000_000)
    fill(shared)

    def script(channel: Channel, board: Board, slot: int) -> None:
        channel.send(READY)
        kept: list[mmap.mmap] = []
        for message in orders(channel):
            if message.one == 1:
                kept.append(private_map(20_000_000))
                fill(kept[-1])
            elif message.one == 2:
                fill(shared)
            channel.send(FAILED, text=b"done")

    worker = family.start_ready(script)

    def measured() -> int:
        found = family.measure(worker) or 0
        assert found == worker.private_bytes == family.facts(worker).private_bytes
        assert abs(found - processes.private_memory(worker.pid)) < 2_000_000  # pages that the master changes meanwhile
        return found

    def grown(number: int) -> int:
        before = measured()
        worker.channel.send(CANCEL, number)
        assert hear_reason(family, worker) == "done"
        return measured() - before

    assert 0 < measured() < 30_000_000
    assert abs(grown(0)) < 2_000_000
    assert 18_000_000 < grown(1) < 24_000_000
    assert 28_000_000 < grown(2) < 34_000_000


@needs_proc
def test_memory_of_nobody() -> None:
    with forked(lambda: None) as pid:
        assert ended(pid) == 0
        assert private_memory(pid) is None


@needs_proc
def test_memory_of_one_that_has_ended(family: Family) -> None:
    worker = family.start_ready()
    family.kill(worker)
    within(lambda: processes.gone(worker.pid), "it has ended")
    assert not family.measure(worker)
    assert worker.private_bytes == 0


def test_many_at_once() -> None:
    """Those that come and those that go, in any order; in the end everything is as it was."""
    family = Family(slots=8)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for turn in range(6):
        workers = [family.start_ready() for _ in range(4)]
        for number, worker in enumerate(workers):
            if (turn + number) % 2:
                family.kill(worker)
            else:
                family.retire(worker, "reload", time.monotonic())
        for worker in workers[::-1]:
            family.await_end(worker)
    assert len(family) == 0
    assert sorted(family._free) == list(range(8))
    assert threading.active_count() == 1
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
