"""The scoreboard: what threads write in one process, another one reads, also in the middle of it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from gateways.server.scoreboard import BUCKETS, CLASSES, PROTOCOLS, Board, Histogram, Row, Seat
from tests.server.forks import forked
from tests.server.pools import within
from tests.server.processes import gone, needs_proc

EMPTY = (0,) * (len(BUCKETS) + 1)


def serve(
    seat: Seat, line: bytes = b"GET /", *, protocol: str = "http", status: str = "200 OK", taken: float = 0.5
) -> None:
    seat.begin(protocol, line, 10.0)
    seat.end(protocol, status, taken, 10.0 + taken)


def only(board: Board, worker: int = 0) -> Row:
    (row,) = board.rows(worker)
    return row


def counted(board: Board) -> dict[tuple[str, str], int]:
    return {place: sum(histogram.counts) for place, histogram in board.times().items() if any(histogram.counts)}


# -- one slot ---------------------------------------------------------------------------------------------------------


def test_a_slot_that_nobody_has_used() -> None:
    assert Board(2, 1).rows(1) == [Row(0, 0, 0, 0, False, 0.0, 0.0, "fastcgi", "")]


def test_the_life_of_a_request() -> None:
    board = Board(1, 1)
    seat = board.seat(0, 0, 4711)
    seat.begin("uwsgi", b"POST /orders?id=7", 12.5)
    assert only(board) == Row(0, 4711, 1, 0, True, 12.5, 0.0, "uwsgi", "POST /orders?id=7")
    assert seat.serial == 1
    seat.end("uwsgi", "201 Created", 2.25, 14.75)
    assert only(board) == Row(0, 4711, 1, 1, False, 14.75, 2.25, "uwsgi", "POST /orders?id=7")
    seat.begin("http", b"GET /", 20.0)
    assert only(board) == Row(0, 4711, 2, 1, True, 20.0, 2.25, "http", "GET /")
    seat.end("http", "200 OK", 0.5, 20.5)
    assert only(board) == Row(0, 4711, 2, 2, False, 20.5, 2.75, "http", "GET /")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"", ""),
        (b"- ", "- "),
        (b"x" * 383, "x" * 383),
        (b"x" * 384, "x" * 384),
        (b"x" * 385, "x" * 384),
        (b"GET /" + b"y" * 100_000, "GET /" + "y" * 379),
        (bytes(range(256)), bytes(range(256)).decode("latin-1")),
        ("GET /\u00f6".encode(), "GET /\xc3\xb6"),
        (b"GET /\r\n\0\x1b[31m", "GET /\r\n\0\x1b[31m"),
    ],
    ids=["empty", "no method", "under", "most", "over", "far over", "every byte", "utf-8", "control"],
)
def test_lines(line: bytes, shown: str) -> None:
    board = Board(1, 2)
    other = board.seat(0, 1, 2)
    other.begin("scgi", b"GET /neighbour", 3.0)
    seat = board.seat(0, 0, 1)
    seat.begin("http", b"z" * 384, 1.0)  # what was there before does not show
    seat.end("http", "200 OK", 0.0, 1.0)
    seat.begin("http", line, 2.0)
    first, second = board.rows(0)
    assert (first.line, first.serial, first.since, first.busy) == (shown, 2, 2.0, True)
    assert (second.line, second.protocol, second.serial) == ("GET /neighbour", "scgi", 1)


def test_neighbours() -> None:
    """Each slot is its thread's own, in every place of the board."""
    board = Board(3, 4)
    for worker in range(3):
        for thread in range(4):
            seat = board.seat(worker, thread, 100 * worker + thread)
            for number in range(worker * 4 + thread + 1):
                serve(seat, b"%d %d %d" % (worker, thread, number), protocol=PROTOCOLS[thread])
                seat.queued(0.25)
    for worker in range(3):
        assert [(row.thread, row.ident, row.done, row.line, row.protocol) for row in board.rows(worker)] == [
            (thread, 100 * worker + thread, worker * 4 + thread + 1, f"{worker} {thread} {worker * 4 + thread}", name)
            for thread, name in enumerate(PROTOCOLS)
        ]


def test_the_next_owner_of_a_slot_goes_on_counting() -> None:
    board = Board(2, 2)
    board.clear(1)
    seat = board.seat(1, 0, 1)
    for _ in range(3):
        serve(seat, taken=2.0)
    seat.begin("uwsgi", b"GET /died-here", 50.0)
    seat.queued(3.0)
    before = (board.times(), board.queue_times())
    board.clear(1)
    assert (board.times(), board.queue_times()) == before
    row, _ = board.rows(1)
    assert (row.ident, row.busy, row.since, row.line) == (0, False, 0.0, "")
    assert (row.serial, row.done, row.busy_time) == (4, 3, 6.0)
    heir = board.seat(1, 0, 2)
    serve(heir, b"GET /heir", taken=1.0)
    row, _ = board.rows(1)
    assert (row.ident, row.serial, row.done, row.busy_time, row.line) == (2, 5, 4, 7.0, "GET /heir")
    assert board.times()["http", "2xx"].total == 7.0
    assert board.queue_times().total == 3.0


# -- histograms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("200 OK", "2xx"),
        ("204", "2xx"),
        ("299 ", "2xx"),
        ("304 Not Modified", "3xx"),
        ("404 Not Found", "4xx"),
        ("499", "4xx"),
        ("500 Internal Server Error", "5xx"),
        ("599 x", "5xx"),
        ("", "other"),
        ("100 Continue", "other"),
        ("101 Switching Protocols", "other"),
        ("600 x", "other"),
        ("999 x", "other"),
        ("000", "other"),
        ("OK", "other"),
        (" 200 OK", "other"),
        ("\xb2", "other"),
        ("\u0662\u0660\u0660", "other"),
    ],
)
def test_classes_of_status(status: str, kind: str) -> None:
    board = Board(1, 1)
    board.clear(0)
    serve(board.seat(0, 0, 1), status=status)
    assert counted(board) == {("http", kind): 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("status", ["200 OK", "302 Found", "400 Bad", "503 Busy", ""])
def test_each_protocol_and_class_has_its_own_histogram(protocol: str, status: str) -> None:
    board = Board(1, 1)
    board.clear(0)
    seat = board.seat(0, 0, 1)
    serve(seat, protocol=protocol, status=status, taken=0.3)
    serve(seat, protocol=protocol, status=status, taken=0.3)
    kind = CLASSES["2345".find(status[:1])] if status else "other"
    times = board.times()
    assert list(times) == [(one, two) for one in PROTOCOLS for two in CLASSES]
    assert counted(board) == {(protocol, kind): 2}
    found = times[protocol, kind]
    assert found.counts[BUCKETS.index(0.5)] == 2
    assert found.total == pytest.approx(0.6)
    assert board.queue_times() == Histogram(EMPTY, 0.0)


def bounds() -> Iterator[tuple[float, int]]:
    for number, bound in enumerate(BUCKETS):
        yield bound, number  # le: the bound belongs to its bucket
        yield bound - 1e-9, number
        yield bound + 1e-9, number + 1
    yield 0.0, 0
    yield 1e9, len(BUCKETS)


@pytest.mark.parametrize(("seconds", "bucket"), list(bounds()))
def test_bounds_of_buckets(seconds: float, bucket: int) -> None:
    board = Board(1, 1)
    board.clear(0)
    seat = board.seat(0, 0, 1)
    serve(seat, taken=seconds)
    seat.queued(seconds)
    expected = Histogram(tuple(int(number == bucket) for number in range(len(BUCKETS) + 1)), seconds)
    assert board.times()["http", "2xx"] == expected
    assert board.queue_times() == expected


def test_totals_are_over_all_workers_that_were_ever_there() -> None:
    board = Board(5, 2)
    for worker in (0, 3):
        board.clear(worker)
        for thread in range(2):
            serve(board.seat(worker, thread, 1), taken=0.25)
            board.seat(worker, thread, 1).queued(7.0)
    board.clear(3)
    assert sum(board.times()["http", "2xx"].counts) == 4
    assert board.times()["http", "2xx"].total == 1.0
    assert board.queue_times().counts[BUCKETS.index(10.0)] == 4
    assert board.queue_times().total == 28.0


@needs_proc
def test_what_the_master_counts() -> None:
    """In a slot of its own, whoever comes and goes."""
    board = Board(2, 2)
    board.clear(1)
    serve(board.seat(1, 1, 7))
    board.count("http", "504 Gateway Timeout", 2.0)
    board.count("http", "502 Bad Gateway", 3.0)
    board.clear(1)
    assert counted(board) == {("http", "2xx"): 1, ("http", "5xx"): 2}
    assert board.times()["http", "5xx"].total == 5.0
    assert [row.done for worker in range(2) for row in board.rows(worker)] == [0, 0, 0, 1]


def test_room_for_many_workers_costs_no_memory_before_they_come() -> None:
    board = Board(500, 64)
    before = resident()
    board.clear(7)
    board.rows(7)
    board.times()
    board.queue_times()
    assert resident() - before < 4_000_000


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- read while it is written -----------------------------------------------------------------------------------------


def request_line(serial: int) -> bytes:
    """A line that tells its serial, of a length of its own."""
    return b"GET /%d/" % serial + b"%d" % (serial % 10) * (serial * 37 % 350)


def check(row: Row) -> None:
    """A row is of one request, as ``Writer`` makes them; nothing of what has been done is missing from an idle one."""
    if row.busy:
        assert row.line.encode("latin-1") == request_line(row.serial), row
        assert row.protocol == PROTOCOLS[row.serial % 4], row
        assert row.since in (2.0 * row.serial, 2.0 * row.serial + 1.0), row  # it is about to end
        assert row.done in (row.serial - 1, row.serial), row
    else:
        assert row.done in (row.serial - 1, row.serial), row  # the next one is about to begin
        assert row.busy_time in (row.done, row.done + 1.0), row  # it may outrun every try to read it whole
        assert not row.done or row.since >= 2.0 * row.done + 1.0, row


class Writer:
    """Serves requests whose lines, protocols and times follow from their serials, half a request a step."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.busy = False

    def step(self) -> None:
        serial = self.seat.serial
        if self.busy:
            self.seat.end(PROTOCOLS[serial % 4], "200 OK", 1.0, 2.0 * serial + 1.0)
        else:
            serial += 1
            self.seat.begin(PROTOCOLS[serial % 4], request_line(serial), 2.0 * serial)
        self.busy = not self.busy


@contextlib.contextmanager
def at_each_line(name: str, call: Callable[[], None]) -> Iterator[None]:
    """Call something before each line of a function of the scoreboard; the compiled build has no lines."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ANN401  (as sys.settrace has it)
        if frame.f_code.co_name != name or not frame.f_globals["__name__"].endswith("scoreboard"):
            return None
        if event != "call":
            call()  # nothing is traced meanwhile
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_read_at_each_step_of_a_request() -> None:
    board = Board(1, 1)
    writer = Writer(board.seat(0, 0, 1))
    rows: list[Row] = []
    for name in ["begin", "end"] * 12:
        with at_each_line(name, lambda: rows.extend(board.rows(0))):
            writer.step()
    for row in rows:
        check(row)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("busy", [False, True])
def test_requests_begin_and_end_at_each_step_of_a_look(busy: bool, steps: int) -> None:
    """Whatever happens between any two steps of the reader, its row is of one request."""
    board = Board(1, 1)
    writer = Writer(board.seat(0, 0, 1))
    left = 0

    def write() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            for _ in range(steps):
                writer.step()

    for pause in range(1, 30):
        while writer.busy is not busy:
            writer.step()
        left = pause
        with at_each_line("_row", write):
            row = only(board)
        check(row)


def test_a_writer_in_another_process_at_full_speed() -> None:
    """The parent reads while a child serves as fast as it can."""
    board = Board(1, 2)

    def work() -> None:
        writer = Writer(board.seat(0, 1, 77))
        while True:
            writer.step()

    with forked(work) as pid:
        within(lambda: board.rows(0)[1].done > 1000, "the child serves")
        seen: set[int] = set()
        while len(seen) < 300:
            idle, row = board.rows(0)
            assert idle == Row(0, 0, 0, 0, False, 0.0, 0.0, "fastcgi", "")
            assert row.ident == 77
            check(row)
            seen.add(row.serial)
            assert not gone(pid)
    # It was killed in the midst of anything, and what it counted is not lost; done comes last.
    _, row = board.rows(0)
    board.clear(0)
    assert sum(sum(histogram.counts) for histogram in board.times().values()) in (row.done, row.done + 1)
    assert board.rows(0)[1].busy is False


def test_counters_only_grow_while_threads_write() -> None:
    board = Board(1, 4)
    board.clear(0)
    stop = threading.Event()

    def work(thread: int) -> None:
        writer = Writer(board.seat(0, thread, thread + 1))
        while not stop.is_set() or writer.busy:
            writer.step()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        last = counted(board)
        done = [0] * 4
        for _ in range(200):
            now = counted(board)
            assert all(now[place] >= count for place, count in last.items())
            last = now
            rows = board.rows(0)
            assert all(row.done >= before for row, before in zip(rows, done, strict=True))
            done = [row.done for row in rows]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    rows = board.rows(0)
    assert sum(counted(board).values()) == sum(row.done for row in rows) == sum(row.serial for row in rows)
