"""What the scoreboard and the access log are told of requests, in a real pool."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateways.apps import App, Course, Exchange, WatchedExchange
from gateways.apps.wait import Wait
from gateways.apps.wsgi import WSGIApp
from gateways.codecs.events import ResponseHead
from gateways.errors import RequestTimeout
from gateways.server.accesslog import AccessLog
from gateways.server.exchange import Exchange as ServersExchange
from gateways.server.logfiles import LogTarget, open_target
from gateways.server.observed import ObservedApp, ObservedCourses, queue_time
from gateways.server.scoreboard import BUCKETS, Board, Row
from gateways.testing.framing.fastcgi_records import request as fastcgi_request
from tests.server.peers import request
from tests.server.pools import Gate, MemoryLog, Served, every_protocol, hello, reply, within


class Records(LogTarget):
    """Where a log of JSON keeps its records."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        assert line.endswith(b"}\n")
        self.found.append(json.loads(line))


class Seen:
    """A pool whose requests are observed."""

    def __init__(
        self, app: App = hello, protocol: str = "http", *, threads: int = 1, log: LogTarget | None = None,
        clock: Callable[[], float] = time.monotonic, failures: tuple[type[BaseException], ...] = (), tcp: bool = False,
    ) -> None:  # fmt: skip
        self.board = Board(2, threads)
        self.board.clear(1)
        access_log = None if log is None else AccessLog(log, "json")
        self.observed = ObservedApp(app, self.board, 1, access_log, clock)
        self.served = Served(self.observed, protocol, threads=threads, failures=failures, tcp=tcp)

    def rows(self) -> list[Row]:
        return self.board.rows(1)

    def row(self) -> Row:
        (row,) = self.rows()
        return row

    def counted(self) -> dict[tuple[str, str], int]:
        return {place: sum(found.counts) for place, found in self.board.times().items() if any(found.counts)}


def wsgi(application: Any, threads: int = 1) -> WSGIApp:  # noqa: ANN401  (a WSGI application)
    return WSGIApp(application, MemoryLog(), mount=None, threads=threads > 1, processes=False)


# -- the scoreboard ---------------------------------------------------------------------------------------------------


@every_protocol
def test_a_request_while_it_is_served_and_after(protocol: str) -> None:
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, b"hello")

    seen = Seen(app, protocol)
    assert seen.observed.seat(0) == (0, -1)
    with seen.served as served, served.connect() as peer:
        before = time.monotonic()
        peer.send(request(protocol, "/orders?id=7", b"body"))
        gate.await_waiting(1)
        row = seen.row()
        assert (row.busy, row.protocol, row.line, row.serial, row.done) == (True, protocol, "POST /orders?id=7", 1, 0)
        assert before <= row.since <= time.monotonic()
        assert row.ident == served.thread.ident
        assert seen.observed.seat(0) == (row.ident, 1)
        gate.open()
        assert peer.answer().body == b"hello"
        within(lambda: not seen.row().busy, "the thread is idle")
        after = seen.row()
        assert (after.serial, after.done, after.line) == (1, 1, "POST /orders?id=7")
        assert after.since >= row.since
        assert after.busy_time == pytest.approx(after.since - row.since)
        assert seen.counted() == {(protocol, "2xx"): 1}
        assert seen.board.times()[protocol, "2xx"].total == after.busy_time
        assert seen.board.queue_times().total == 0.0
    assert seen.board.rows(0)[0].serial == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_the_last_request_that_a_worker_is_to_serve(threads: int) -> None:
    """It says so as soon as that has ended: once, and again with the next one where nobody could hear it."""
    board = Board(2, threads)
    board.clear(1)
    board.limits[1] = 20
    observed = ObservedApp(hello, board, 1, None)
    told: list[int] = []

    def on_limit() -> bool:
        told.append(sum(row.done for row in board.rows(1)))
        return len(told) > 1

    observed.on_limit = on_limit
    with Served(observed, "http", threads=threads) as served, served.connect() as peer:
        for number in range(1, 31):
            assert peer.keep_get("/").status == 200
            within(lambda number=number: sum(row.done for row in board.rows(1)) == number, "it has ended")  # type: ignore[misc]
    assert told == [20, 21]


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"REQUEST_METHOD": "GET", "REQUEST_URI": "/a?b", "PATH_INFO": "/c"}, "GET /a?b"),
        ({"REQUEST_METHOD": "PUT", "PATH_INFO": "/c"}, "PUT /c"),
        ({"REQUEST_METHOD": "PUT", "REQUEST_URI": "", "PATH_INFO": "/c"}, "PUT /c"),
        ({"REQUEST_URI": "/x"}, "- /x"),
        ({}, "- "),
        ({"REQUEST_METHOD": "GET", "REQUEST_URI": "/\xff\x00\x80"}, "GET /\xff\x00\x80"),
        ({"REQUEST_METHOD": "M" * 200, "REQUEST_URI": "/" + "u" * 60_000}, "M" * 200 + " /" + "u" * 182),
    ],
)
def test_lines(params: dict[str, str], line: str) -> None:
    seen = Seen(protocol="fastcgi")
    with seen.served as served, served.connect() as peer:
        peer.send(fastcgi_request(1, {**params, "X": "y"}))
        peer.answer()
        within(lambda: seen.row().done == 1, "it is done")
        assert seen.row().line == line


@pytest.mark.parametrize("protocol", ["http", "fastcgi"])
def test_requests_of_one_connection(protocol: str) -> None:
    statuses = {"/1": "201 Created", "/2": "304 Not Modified", "/3": "404 Not Found", "/4": "503 Busy", "/5": "999 Odd"}

    def app(exchange: Exchange) -> None:
        reply(exchange, b"", statuses[exchange.request.params["REQUEST_URI"]])

    seen = Seen(app, protocol)
    with seen.served as served, served.connect() as peer:
        for path, status in statuses.items():
            assert peer.keep_get(path).status == int(status[:3])
        within(lambda: seen.row().done == 5, "they are done")
        assert seen.row().serial == 5
        assert seen.counted() == {(protocol, kind): 1 for kind in ("2xx", "3xx", "4xx", "5xx", "other")}


@pytest.mark.parametrize("protocol", ["http", "fastcgi"])
def test_several_threads_have_their_own_slots(protocol: str) -> None:
    gate = Gate()

    def app(exchange: Exchange) -> None:
        if exchange.request.params["REQUEST_URI"] != "/quick":
            gate.wait()
        reply(exchange, b"hello")

    seen = Seen(app, protocol, threads=4)
    with seen.served as served:
        peers = [served.connect() for _ in range(4)]
        for number, peer in enumerate(peers[:3]):
            peer.send(request(protocol, f"/{number}"))
            gate.await_waiting(number + 1)
        busy = [row for row in seen.rows() if row.busy]
        assert sorted(row.line for row in busy) == ["GET /0", "GET /1", "GET /2"]
        assert len({row.ident for row in busy}) == 3
        for number in range(4):
            assert seen.observed.seat(number)[0] == seen.rows()[number].ident
        assert seen.observed.seat(4) == (0, -1)
        assert peers[3].keep_get("/quick").body == b"hello" if protocol != "http" else True
        gate.open()
        for peer in peers[:3]:
            assert peer.answer().body == b"hello"
        for peer in peers:
            peer.sock.close()


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
def test_threads_whose_first_requests_come_together() -> None:
    """Each gets a slot of its own, whoever was first."""
    count = 8
    streams = range(1, count + 1)
    for _ in range(10):
        gate = Gate()

        def app(exchange: Exchange, gate: Gate = gate) -> None:
            gate.wait()
            reply(exchange, b"hello")

        seen = Seen(app, "fastcgi", threads=count)
        with seen.served as served, served.connect() as peer:
            peer.send(b"".join(request("fastcgi", f"/{stream}", keep=True, stream=stream) for stream in streams))
            gate.await_waiting(count)
            rows = seen.rows()
            assert [seen.observed.seat(number) for number in range(count)] == [(row.ident, row.serial) for row in rows]
            assert sorted(row.line for row in rows) == sorted(f"GET /{stream}" for stream in streams)
            gate.open()
            peer.answers(count)


@pytest.mark.usefixtures("impatient")
def test_threads_whose_first_requests_come_at_the_same_moment() -> None:
    """As above, without a pool between the threads."""
    count = 16
    exchange = one_exchange()
    for _ in range(100):
        board = Board(1, count)
        observed = ObservedApp(lambda exchange: None, board, 0, None)
        barrier = threading.Barrier(count)

        def first(observed: ObservedApp = observed, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            observed(exchange)
            barrier.wait()  # nobody has the ident of one that has ended

        threads = [threading.Thread(target=first) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = board.rows(0)
        assert [row.done for row in rows] == [1] * count
        assert len({row.ident for row in rows}) == count


def one_exchange() -> Exchange:
    """An exchange that has been answered."""
    found: list[Exchange] = []

    def app(exchange: Exchange) -> None:
        found.append(exchange)
        hello(exchange)

    with Served(app) as served, served.connect() as peer:
        peer.get()
    return found[0]


# -- how it ends ------------------------------------------------------------------------------------------------------


def test_by_its_clock() -> None:
    moments = iter([100.0, 107.5])
    log = Records()
    seen = Seen(clock=lambda: next(moments), log=log)
    with seen.served as served, served.connect() as peer:
        peer.get()
        within(lambda: log.found, "it is logged")
        assert seen.row() == Row(0, served.thread.ident or 0, 1, 1, False, 107.5, 7.5, "http", "GET /")
        assert seen.board.times()["http", "2xx"].counts[BUCKETS.index(10.0)] == 1
        assert log.found[0]["duration"] == 7.5


@every_protocol
@pytest.mark.parametrize("threads", [1, 2])
def test_an_app_that_raises(protocol: str, threads: int) -> None:
    """The request is over, without a status; the exception is the pool's to deal with."""

    def app(exchange: Exchange) -> None:
        raise RuntimeError("on purpose")

    log = Records()
    seen = Seen(app, protocol, threads=threads, log=log, failures=(RuntimeError,))
    with seen.served as served:
        with served.connect() as peer:
            peer.send(request(protocol))
            peer.read()
        within(lambda: log.found, "it is logged")
        assert [row.busy for row in seen.rows()] == [False] * threads
        assert seen.counted() == {(protocol, "other"): 1}
        assert (log.found[0]["status"], log.found[0]["bytes"]) == (499, 0)
        within(lambda: served.log.failures, "it is told")


def test_an_app_that_raises_in_its_response() -> None:
    def app(exchange: Exchange) -> None:
        exchange.send(ResponseHead(1, "206 Partial", [("Content-Length", "9")], b"abc"))
        raise RuntimeError("on purpose")

    log = Records()
    seen = Seen(app, log=log, failures=(RuntimeError,))
    with seen.served as served, served.connect() as peer:
        peer.send(request("http"))
        peer.read()
        within(lambda: served.log.failures, "it is told")
        assert seen.counted() == {("http", "2xx"): 1}
        assert (log.found[0]["status"], log.found[0]["bytes"]) == (206, 3)


@every_protocol
def test_a_wsgi_application_that_raises(protocol: str) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        raise SystemExit(3)

    log = Records()
    seen = Seen(wsgi(application), protocol, log=log)
    with seen.served as served, served.connect() as peer:
        assert peer.get("/").status == 500
        within(lambda: log.found, "it is logged")
        assert seen.counted() == {(protocol, "5xx"): 1}
        assert (log.found[0]["status"], log.found[0]["bytes"]) == (500, len(b"500 Internal Server Error\n"))


@every_protocol
def test_a_client_that_goes_away(protocol: str) -> None:
    """What was sent counts, and nothing is busy for ever."""
    gate = Gate()

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x" * 1000
        gate.wait()
        while True:
            yield b"y" * 100_000

    log = Records()
    seen = Seen(wsgi(application), protocol, log=log)
    with seen.served as served:
        with served.connect() as peer:
            peer.send(request(protocol))
            gate.await_waiting(1)
        gate.open()
        within(lambda: log.found, "it is logged")
        assert log.found[0]["status"] == 200
        assert log.found[0]["bytes"] >= 1000
        assert not seen.row().busy


@every_protocol
@pytest.mark.parametrize(
    ("path", "sent"), [("/one", 5), ("/two", 10), ("/stream", 30_000), ("/none", 0), ("/file", 70_000), ("/cut", 4)]
)
def test_bytes_of_the_response(protocol: str, path: str, sent: int, tmp_path: Path) -> None:
    """Of its body: what went out, whichever way, and nothing of its head or framing."""
    file = tmp_path / "file"
    file.write_bytes(b"f" * 70_000)

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Any:  # noqa: ANN401  (any iterable)
        if path == "/none":
            start_response("204 No Content", [])
            return []
        start_response("200 OK", [("Content-Length", "4")] if path == "/cut" else [])
        if path == "/file":
            return environ["wsgi.file_wrapper"](file.open("rb"))
        if path == "/stream":
            return (b"x" * 10_000 for _ in range(3))
        return [b"hello", b"world"] if path == "/two" else [b"hello"]

    log = Records()
    seen = Seen(wsgi(application), protocol, log=log)
    with seen.served as served, served.connect() as peer:
        assert len(peer.get(path).body) == sent
        within(lambda: log.found, "it is logged")
        assert log.found[0]["bytes"] == sent


# -- queue time -------------------------------------------------------------------------------------------------------

NOW = 1_790_000_000.5


@pytest.mark.parametrize(
    ("stamp", "waited"),
    [
        ("t=1790000000.250", 0.25),  # nginx
        ("1790000000.250", 0.25),
        ("1790000000", 0.5),
        ("t=1790000000250", 0.25),  # milliseconds, as Heroku
        ("t=1790000000250000", 0.25),  # microseconds, as Apache
        ("t=1790000000250000000", 0.25),  # nanoseconds
        ("1789999990.5", 10.0),
        ("t=1789996400.5", 3600.0),
        ("t=1790000000.5", 0.0),
        ("t=1790000000.501", 0.0),  # a clock that is a little ahead
        ("t=1790000001.499", 0.0),
        ("t=1790000001.501", -1.0),
        ("t=1790000600", -1.0),
        ("t=9999999999", -1.0),
        ("t=1789996400.4", -1.0),
        ("t=0", -1.0),
        ("0", -1.0),
        ("t=1", -1.0),
        ("", -1.0),
        ("t=", -1.0),
        (".", -1.0),
        ("t=.", -1.0),
        ("t=1.2.3", -1.0),
        ("t=-1790000000", -1.0),
        ("t=+1790000000", -1.0),
        ("t=1_790_000_000", -1.0),
        ("t= 1790000000", -1.0),
        ("1790000000.25 ", -1.0),
        ("t=1e9", -1.0),
        ("t=inf", -1.0),
        ("nan", -1.0),
        ("T=1790000000", -1.0),
        ("t=t=1790000000", -1.0),
        ("start=1790000000", -1.0),
        ("1790000000,25", -1.0),
        ("\u0661\u0667\u0669", -1.0),
        ("\xb2\xb3", -1.0),
        ("9" * 24, -1.0),
        ("1" * 10_000, -1.0),
        ("t=1790000000.250000000000000000000", -1.0),
    ],
)
def test_start_stamps(stamp: str, waited: float) -> None:
    assert queue_time(stamp, NOW) == pytest.approx(waited, abs=1e-5)


@pytest.mark.parametrize("protocol", ["http", "fastcgi"])
def test_queue_time_goes_to_the_scoreboard_and_the_log(protocol: str) -> None:
    log = Records()
    seen = Seen(protocol=protocol, log=log)

    def ask(stamp: str) -> None:
        with served.connect() as peer:
            if protocol == "http":
                peer.send(
                    f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-Start: {stamp}\r\n\r\n".encode()
                )
            else:
                peer.send(fastcgi_request(1, {"REQUEST_METHOD": "GET", "HTTP_X_REQUEST_START": stamp}))
            peer.answer()

    with seen.served as served:
        ask(f"t={time.time() - 2.0:.3f}")
        ask(f"t={(time.time() - 40.0) * 1e6:.0f}")
        ask("yesterday")
        ask(f"t={time.time() + 500:.3f}")
        within(lambda: len(log.found) == 4, "all are logged")
        counts = seen.board.queue_times().counts
        assert (counts[BUCKETS.index(2.5)], counts[BUCKETS.index(60.0)], sum(counts)) == (1, 1, 2)
        first, second, third, fourth = (record["queue"] for record in log.found)
        assert 1.9 < first < 2.5
        assert 39.9 < second < 60.0
        assert third is fourth is None
        assert seen.board.queue_times().total == pytest.approx(first + second, abs=1e-5)


# -- the access log ---------------------------------------------------------------------------------------------------


@every_protocol
@pytest.mark.parametrize("tcp", [False, True])
def test_what_the_access_log_is_told(protocol: str, tcp: bool) -> None:
    log = Records()
    seen = Seen(protocol=protocol, log=log, tcp=tcp)
    with seen.served as served, served.connect() as peer:
        before = time.time()
        peer.get("/x?y=1")
        within(lambda: log.found, "it is logged")
        (record,) = log.found
        assert (record["uri"], record["method"]) == ("/x?y=1", "GET")
        assert (record["protocol"], record["status"], record["bytes"]) == (protocol, 200, 5)
        assert (record["queue"], record["worker"]) == (None, os.getpid())
        client = "127.0.0.1" if tcp else ""  # HTTP has no web server in front that could say
        assert record["client"] == (client or None if protocol == "http" else "192.0.2.7")
        assert record["duration"] == pytest.approx(seen.board.times()[protocol, "2xx"].total, abs=1e-6)
        stamp = datetime.strptime(record["time"], "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()
        assert before - 0.001 <= stamp <= time.time()


@pytest.mark.parametrize("tcp", [False, True])
def test_a_client_that_the_web_server_does_not_name(tcp: bool) -> None:
    log = Records()
    seen = Seen(protocol="fastcgi", log=log, tcp=tcp)
    with seen.served as served, served.connect() as peer:
        peer.send(fastcgi_request(1, {"REQUEST_METHOD": "GET"}))
        peer.answer()
        within(lambda: log.found, "it is logged")
        expected = "{}:{}".format(*peer.sock.getsockname()) if tcp else "unix"
        assert log.found[0]["client"] == expected


def test_what_the_application_has_made_of_its_environ() -> None:
    """The scoreboard has what came; the log gets the environ as it has become."""

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        environ["REQUEST_URI"] = object()
        environ["REMOTE_USER"] = "anna"
        del environ["REQUEST_METHOD"], environ["REMOTE_ADDR"]
        start_response("200 OK", [])
        return [b"hello"]

    log = Records()
    seen = Seen(wsgi(application), log=log)
    with seen.served as served, served.connect() as peer:
        assert peer.get("/kept").status == 200
        within(lambda: log.found, "it is logged")
        assert seen.row().line == "GET /kept"
        assert (log.found[0]["user"], log.found[0]["method"]) == ("anna", None)


class Mark:
    """Something in an environ, by which a test sees when that is gone."""


class QuietLog(MemoryLog):
    """One that holds no failures, whose frames hold everything."""

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:
        self.lines.append(f"{exchange.protocol}: {message}")


@every_protocol
@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failed"])
@pytest.mark.parametrize("observed", [True, False], ids=["with a master", "managed"])
def test_nothing_of_a_request_waits_for_the_garbage_collector(protocol: str, observed: bool, fails: bool) -> None:
    marks: list[weakref.ref[Mark]] = []

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        mark = environ["test.mark"] = Mark()
        marks.append(weakref.ref(mark))
        print("a line", file=environ["wsgi.errors"])
        body: bytes = environ["wsgi.input"].read()
        if fails:
            raise ZeroDivisionError
        start_response("200 OK", [])
        return [body]

    app = WSGIApp(application, QuietLog(), mount=None, threads=False, processes=False)
    gc.disable()
    try:
        with Seen(app, protocol).served if observed else Served(app, protocol) as served:
            for _ in range(3):
                with served.connect() as peer:
                    assert peer.get("/", b"a body").status == (500 if fails else 200)
            within(lambda: served.open_connections() == 0, "all connections are closed")
            within(lambda: not any(mark() for mark in marks), "all environs are gone")
        assert len(marks) == 3
    finally:
        gc.enable()


@every_protocol
@pytest.mark.parametrize("threads", [1, 3])
def test_a_real_log(protocol: str, threads: int, tmp_path: Path) -> None:
    """One line a request, whole, at once; nobody has to wait for the end of the worker."""
    path = tmp_path / "access.log"
    target = open_target(str(path), stream=1, kind="access")

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start_response("404 Not Found", [])
        return [b"hello"]

    seen = Seen(wsgi(application), protocol, threads=threads, log=target)
    with seen.served as served:
        for number in range(20):
            with served.connect() as peer:
                assert peer.get(f"/{number}?%22").status == 404
            within(lambda number=number: path.read_bytes().count(b"\n") == number + 1, "the line is there")  # type: ignore[misc]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["status"] for line in lines] == [404] * 20
    assert {(line["protocol"], line["bytes"], line["queue"], line["worker"]) for line in lines} == {
        (protocol, 5, None, os.getpid())
    }
    assert [line["uri"].split("?")[0] for line in lines] == [f"/{number}" for number in range(20)]
    assert all(0.0 <= line["duration"] < 10.0 for line in lines)
    os.close(target.fd)


# -- who may interrupt it ---------------------------------------------------------------------------------------------


class Steps:
    """An Interrupter that notes its calls, and raises RequestTimeout in ``left`` so many times."""

    def __init__(self, late: int = 0) -> None:
        self.calls: list[str] = []
        self.late = late

    def entered(self, ident: int, exchange: ServersExchange) -> None:
        assert ident == threading.get_ident()
        self.calls.append(f"entered {exchange.request.params['REQUEST_URI']}")

    def left(self, ident: int) -> None:
        assert ident == threading.get_ident()
        if self.late:
            self.late -= 1
            raise RequestTimeout
        self.calls.append("left")


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("ending", ["answered", "timed out", "failed"])
def test_an_interrupter_knows_when_a_thread_may_be_interrupted(late: int, ending: str) -> None:
    """RequestTimeout does not get out, wherever it comes; another exception does."""
    steps = Steps(late)
    log = Records()

    def app(exchange: Exchange) -> None:
        steps.calls.append("app")
        reply(exchange, b"hello")
        if ending == "timed out":
            raise RequestTimeout
        if ending == "failed":
            raise RuntimeError("on purpose")

    seen = Seen(app, "fastcgi", log=log, failures=(RuntimeError,) if ending == "failed" else ())
    seen.observed.interrupter = steps
    with seen.served as served, served.connect() as peer:
        peer.send(request("fastcgi", "/a", keep=True))
        assert peer.next_answer()[1].body == b"hello"
        within(lambda: log.found, "it is logged")
        assert steps.calls == ["entered /a", "app", "left"]
        assert (seen.row().busy, seen.row().done) == (False, 1)
        assert log.found[0]["status"] == 200
        if ending != "failed":
            peer.send(request("fastcgi", "/b", keep=True))
            assert peer.next_answer()[1].body == b"hello"
            within(lambda: len(steps.calls) == 6, "it is served")
            assert steps.calls[3:] == ["entered /b", "app", "left"]


def test_an_interrupter_that_interrupts_before_the_application() -> None:
    """Nothing has been sent, so the connection is cut."""

    class Early(Steps):
        def entered(self, ident: int, exchange: ServersExchange) -> None:
            raise RequestTimeout

    seen = Seen()
    steps = Early()
    seen.observed.interrupter = steps
    with seen.served as served, served.connect() as peer:
        peer.send(request("http"))
        assert peer.read() == b""
        within(lambda: seen.row().done == 1, "it is over")
        assert seen.counted() == {("http", "other"): 1}
        assert steps.calls == ["left"]


# -- requests that hold no thread -------------------------------------------------------------------------------------


class Together:
    """Requests that wait, without a thread, until ``go`` is called."""

    def __init__(self, slots: int) -> None:
        self.board = Board(1, slots)
        self.board.clear(0)
        self.log = Records()
        self.observed = ObservedCourses(self._course, self.board, 0, AccessLog(self.log, "json"))
        self._waits: list[Wait] = []

    def _course(self, exchange: WatchedExchange) -> Course:
        wait = Wait()
        self._waits.append(wait)
        yield wait
        reply(exchange, b"together", "201 Created")

    @property
    def waiting(self) -> int:
        return len(self._waits)

    @property
    def busy(self) -> list[str]:
        return [row.line for row in self.board.rows(0) if row.busy]

    def go(self) -> None:
        for wait in self._waits:
            wait.wake()
        self._waits.clear()


def test_each_request_without_a_thread_has_a_slot() -> None:
    """Those beyond the slots are counted, when they are over."""
    app = Together(4)
    with Served(app.observed, threads=2) as served, contextlib.ExitStack() as stack:
        for round_ in range(3):
            peers = [stack.enter_context(served.connect()) for _ in range(6)]
            for number, peer in enumerate(peers, 1):
                peer.send(request("http", f"/{number}"))
                within(lambda n=number: app.waiting == n, "it waits")  # type: ignore[misc]
                assert sorted(app.busy) == [f"GET /{n}" for n in range(1, min(number, 3) + 1)]
            assert {row.ident for row in app.board.rows(0)} == {1}, "of no thread"
            app.go()
            assert all(peer.answer().status == 201 for peer in peers)
            within(lambda r=round_: sum(row.done for row in app.board.rows(0)) == 6 * (r + 1), "all have ended")  # type: ignore[misc]
            assert app.busy == []
    assert sum(app.board.times()["http", "2xx"].counts) == 18
    assert [line["status"] for line in app.log.found] == [201] * 18


def test_a_request_without_a_thread_that_fails_gives_its_slot_back() -> None:
    board = Board(1, 2)
    board.clear(0)

    def app(exchange: WatchedExchange) -> Course | None:
        if exchange.request.params["REQUEST_URI"] == "/none":
            reply(exchange, b"at once")
            return None
        wait = Wait()
        wait.until = 0.0
        return fails(wait)

    def fails(wait: Wait) -> Course:
        yield wait
        raise LookupError("on purpose")

    with Served(ObservedCourses(app, board, 0, None), threads=2, failures=[LookupError] * 3) as served:
        for _ in range(3):
            with served.connect() as peer:
                peer.send(request("http", "/"))
                peer.read()
            with served.connect() as peer:
                assert peer.get("/none").body == b"at once"
    assert board.rows(0)[0].done == 6
    assert sum(board.times()["http", "other"].counts) == 3
