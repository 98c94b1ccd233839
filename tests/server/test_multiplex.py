"""FastCGI connections that carry several requests at once: answered by several threads, never mixed."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gateways.apps import Exchange
from gateways.apps.wsgi import WSGIApp
from gateways.codecs.events import Body, EndOfResponse, ErrorOutput, ResponseHead
from gateways.errors import BodyError, PeerClosed
from gateways.limits import Limits
from gateways.testing.framing.fastcgi_records import (
    ABORT,
    END,
    KEEP,
    PARAMS,
    STDIN,
    STDOUT,
    ask,
    begin,
    pair,
    pairs,
    rec,
)
from tests.server.peers import Answer, Peer, answer_of, head_of, request
from tests.server.pools import QUICK, Gate, MemoryLog, Served, reply, timeouts, within

some_threads = pytest.mark.parametrize("threads", [1, 2, 4])
more_threads = pytest.mark.parametrize("threads", [2, 4])


class Router:
    """An App with a gate for each path below /wait; every answer names the path and the body."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {f"/wait/{number}": Gate() for number in range(1, 40)}
        self.threads: set[str] = set()
        self.aborted: list[str] = []
        self.failed: list[BodyError] = []

    def __call__(self, exchange: Exchange) -> None:
        path = exchange.request.params["REQUEST_URI"]
        self.threads.add(threading.current_thread().name)
        try:
            if path.startswith("/late/"):
                self.gates["/wait/" + path[6:]].wait()
            body = exchange.body.read() if not path.startswith("/unread") else b"-"
            if path in self.gates:
                self.gates[path].wait()
            reply(exchange, path.encode() + b" " + body)
        except PeerClosed:
            self.aborted.append(path)
        except BodyError as error:
            self.failed.append(error)
            with contextlib.suppress(PeerClosed):
                reply(exchange, b"", f"{error.status_hint} x")


def keep(path: str, stream: int, body: bytes = b"") -> bytes:
    return request("fastcgi", path, body, keep=True, stream=stream)


def start(path: str, stream: int, length: int) -> bytes:
    return head_of("fastcgi", path, length=length, keep=True, stream=stream)


# -- concurrency ------------------------------------------------------------------------------------------------------


@some_threads
def test_requests_in_one_piece(threads: int) -> None:
    with Served(Router(), "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(b"".join(keep(f"/{number}", number, b"%d" % number) for number in range(1, 31)))
        answers = peer.answers(30)
        assert {number: answer.body for number, answer in answers.items()} == {
            number: b"/%d %d" % (number, number) for number in range(1, 31)
        }
        assert served.open_connections() == 1


def test_answered_at_once_and_in_any_order() -> None:
    router = Router()
    with Served(router, "fastcgi", threads=4) as served, served.connect() as peer:
        for number in (1, 2, 3):
            peer.send(keep(f"/wait/{number}", number))
            router.gates[f"/wait/{number}"].await_waiting(1)
        peer.send(keep("/now", 4))
        assert peer.next_answer()[0] == 4
        for number in (2, 3, 1):
            router.gates[f"/wait/{number}"].open()
            stream, answer = peer.next_answer()
            assert (stream, answer.body) == (number, b"/wait/%d " % number)
        assert len(router.threads) == 4


def test_waiting_requests_of_one_read_go_to_other_threads() -> None:
    router = Router()
    with Served(router, "fastcgi", threads=3) as served, served.connect() as peer:
        peer.send(keep("/wait/1", 1) + keep("/wait/2", 2) + keep("/3", 3) + keep("/4", 4))
        assert set(peer.answers(2)) == {3, 4}
        router.gates["/wait/2"].open()
        router.gates["/wait/1"].open()
        assert set(peer.answers(2)) == {1, 2}


def test_get_values_is_answered_while_all_threads_are_busy_but_one() -> None:
    router = Router()
    with Served(router, "fastcgi", threads=2) as served, served.connect() as peer:
        peer.send(keep("/wait/1", 1))
        router.gates["/wait/1"].await_waiting(1)
        peer.send(ask("FCGI_MPXS_CONNS"))
        assert peer.record() == (10, 0, pair("FCGI_MPXS_CONNS", "1"))
        router.gates["/wait/1"].open()
        assert peer.next_answer()[1].status == 200


@some_threads
def test_a_stream_is_used_again_as_soon_as_it_is_answered(threads: int) -> None:
    """The next request may come before the thread that answered the last one has left it."""
    with Served(Router(), "fastcgi", threads=threads) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(3)]
        for number in range(150):
            for peer in peers:
                peer.send(start(f"/{number}", 1, 4))
            for peer in peers:
                peer.stdin(1, b"%04d" % number, end=True)
            for peer in peers:
                assert peer.next_answer()[1].body == b"/%d %04d" % (number, number)


# -- bodies -----------------------------------------------------------------------------------------------------------


@more_threads
def test_interleaved_bodies(threads: int) -> None:
    with Served(Router(), "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(start("/1", 1, 3_000) + start("/2", 2, 3_000))
        for number in range(1_000):
            peer.stdin(1, b"%03d" % number)
            peer.stdin(2, b"%03x" % number)
        peer.stdin(2, end=True)
        peer.stdin(1, end=True)
        answers = peer.answers(2)
        assert answers[1].body == b"/1 " + b"".join(b"%03d" % number for number in range(1_000))
        assert answers[2].body == b"/2 " + b"".join(b"%03x" % number for number in range(1_000))


def test_interleaved_bodies_with_one_thread() -> None:
    """The one that began first is served; the other one's body is held meanwhile."""
    with Served(Router(), "fastcgi") as served, served.connect() as peer:
        peer.send(start("/1", 1, 300) + start("/2", 2, 300))
        for _ in range(100):
            peer.stdin(2, b"222")
            peer.stdin(1, b"111")
        peer.stdin(1, end=True)
        assert peer.next_answer()[1].body == b"/1 " + b"1" * 300
        peer.stdin(2, end=True)
        assert peer.next_answer()[1].body == b"/2 " + b"2" * 300


@more_threads
def test_a_slow_body_does_not_hold_up_a_whole_request(threads: int) -> None:
    with Served(Router(), "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(start("/slow", 1, 5))
        for number in range(2, 20):
            peer.send(keep(f"/{number}", number, b"whole"))
            assert peer.next_answer() == (
                number,
                Answer(200, b"Status: 200 OK\r\nContent-Length: %d" % len(f"/{number} whole"), b"/%d whole" % number),
            )  # fmt: skip
        peer.stdin(1, b"after", end=True)
        assert peer.next_answer()[1].body == b"/slow after"


def test_a_slow_reader_does_not_starve_its_neighbour_for_ever() -> None:
    """While too much is held for one request nobody reads; when that one is answered, the other one reads on."""
    router = Router()
    limits = Limits(body_buffer=1_000)
    with (
        Served(router, "fastcgi", threads=3, limits=limits, timeouts=timeouts(drain=0.5)) as served,
        served.connect() as peer,
    ):
        peer.send(start("/late/1", 1, 5_000))
        router.gates["/wait/1"].await_waiting(1)
        peer.send(start("/2", 2, 10))
        peer.stdin(1, b"x" * 5_000)
        peer.stdin(1, end=True)
        peer.stdin(2, b"0123456789", end=True)
        router.gates["/wait/1"].open()
        before = time.monotonic()
        answers = peer.answers(2)
        assert time.monotonic() - before < 2
        assert answers[1].body == b"/late/1 " + b"x" * 5_000
        assert answers[2].body == b"/2 0123456789"


def test_two_that_hold_much_and_both_want_more() -> None:
    """Each waits for the end of its body; neither is in the other one's way, though both hold more than the buffer."""
    router = Router()
    with Served(router, "fastcgi", threads=3, limits=Limits(body_buffer=10)) as served, served.connect() as peer:
        peer.send(start("/late/1", 1, 100) + start("/late/2", 2, 100))
        for number in (1, 2):
            router.gates[f"/wait/{number}"].await_waiting(1)
        peer.stdin(1, b"1" * 100)
        peer.stdin(2, b"2" * 100)
        for number in (1, 2):
            router.gates[f"/wait/{number}"].open()
        peer.stdin(1, end=True)
        peer.stdin(2, end=True)
        answers = peer.answers(2)
        assert answers[1].body == b"/late/1 " + b"1" * 100
        assert answers[2].body == b"/late/2 " + b"2" * 100


def test_too_much_body_for_a_request_that_waits() -> None:
    """Its turn comes with a 503; what was held for it is no more than the buffer and one read."""
    log = MemoryLog()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:  # noqa: ANN401
        data = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"%d" % len(data)]

    app = WSGIApp(application, log, mount=None, threads=False, processes=False)
    with Served(app, "fastcgi", limits=Limits(body_buffer=1_000), log=log) as served, served.connect() as peer:
        peer.send(start("/1", 1, 5) + start("/2", 2, 1_000_000))
        for _ in range(20):
            peer.stdin(2, b"x" * 500)
        peer.stdin(1, b"first", end=True)
        assert peer.next_answer()[1].body == b"5"
        stream, answer = peer.next_answer()
        assert (stream, answer.status) == (2, 503)
        assert b"Retry-After" in answer.head
        assert [line for line in log.lines if "before a thread was free" in line]
        peer.send(keep("/3", 3))
        assert peer.next_answer()[1].body == b"0"


def test_a_body_that_was_too_much_makes_no_reset_of_the_close() -> None:
    """Over TCP the 503 might be lost with it: the rest of the body is on its way."""
    log = MemoryLog()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:  # noqa: ANN401
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"read"]

    app = WSGIApp(application, log, mount=None, threads=False, processes=False)
    with (
        Served(app, "fastcgi", tcp=True, limits=Limits(body_buffer=1_000), log=log) as served,
        served.connect() as peer,
    ):
        peer.send(head_of("fastcgi", length=5, stream=1) + head_of("fastcgi", length=1_000_000, stream=2))
        peer.stdin(2, b"x" * 5_000)
        peer.stdin(1, b"first", end=True)
        answers = peer.answers(2)
        assert (answers[1].status, answers[2].status) == (200, 503)
        for _ in range(20):
            peer.stdin(2, b"x" * 1_000)
            time.sleep(0.005)
        peer.end()
        assert peer.read() == b""


@some_threads
def test_unread_body_of_an_answered_request_is_drained_where_the_worker_stops(threads: int) -> None:
    """Over TCP a close would be a reset, and the answer might be lost with it: the peer is still sending."""

    def app(exchange: Exchange) -> None:
        reply(exchange, b"early")

    with Served(app, "fastcgi", tcp=True, threads=threads) as served, served.connect() as peer:
        peer.send(start("/", 1, 1_000_000))
        peer.more()
        served.await_connections(1)
        served.stop()
        for _ in range(20):
            peer.stdin(1, b"x" * 1_000)
            time.sleep(0.005)
        assert peer.next_answer()[1].body == b"early"
        peer.end()
        assert peer.read() == b""


@more_threads
def test_much_body_for_a_request_that_a_free_thread_is_about_to_take(threads: int) -> None:
    """Whoever reads for all waits for that thread, and drops nothing."""
    router = Router()
    with (
        Served(router, "fastcgi", threads=threads, limits=Limits(body_buffer=200_000)) as served,
        served.connect() as peer,
    ):
        for _ in range(5):
            records = b"".join(rec(STDIN, 2, b"x" * 30_000) for _ in range(30))
            peer.send(start("/1", 1, 5) + start("/2", 2, 900_000) + records + rec(STDIN, 2, b""))
            stream, answer = peer.next_answer()
            assert (stream, answer.status, len(answer.body)) == (2, 200, 900_003)
            peer.stdin(1, b"first", end=True)
            assert peer.next_answer()[1].body == b"/1 first"


@some_threads
def test_body_too_slow_beside_others(threads: int) -> None:
    router = Router()
    with Served(router, "fastcgi", threads=threads, timeouts=timeouts(body=QUICK)) as served, served.connect() as peer:
        peer.send(start("/slow", 1, 5) + keep("/2", 2))
        answers = peer.answers(2)
        assert answers[1].status == 408
        assert answers[2].status == 200
        peer.send(keep("/3", 3))
        assert peer.next_answer()[1].body == b"/3 ", "the connection goes on"


@some_threads
def test_unread_body_and_the_next_requests(threads: int) -> None:
    with Served(Router(), "fastcgi", threads=threads) as served, served.connect() as peer:
        for number in range(1, 10):
            peer.send(start("/unread", 1, 10_000))
            assert peer.next_answer()[1].body == b"/unread -"
            peer.stdin(1, b"x" * 10_000, end=True)
            peer.send(keep(f"/{number}", 1, b"body"))
            assert peer.next_answer()[1].body == b"/%d body" % number


# -- abort ------------------------------------------------------------------------------------------------------------


def test_abort_within_the_parameters() -> None:
    with Served(Router(), "fastcgi") as served, served.connect() as peer:
        peer.send(begin(1, KEEP) + rec(PARAMS, 1, pair("A", "b")) + rec(ABORT, 1))
        assert [peer.record()[:2], peer.record()[:2]] == [(STDOUT, 1), (END, 1)]
        peer.send(keep("/2", 1))
        assert peer.next_answer()[1].status == 200


@more_threads
def test_abort_within_the_body(threads: int) -> None:
    router = Router()
    with Served(router, "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(start("/1", 1, 10))
        peer.stdin(1, b"some")
        within(lambda: router.threads, "it is served")
        peer.send(rec(ABORT, 1))
        assert peer.next_answer()[1].status == 0
        assert str(router.failed[0]) == "the web server has aborted the request"
        peer.send(keep("/2", 1))
        assert peer.next_answer()[1].body == b"/2 "


def test_abort_within_the_body_of_the_only_thread() -> None:
    router = Router()
    with Served(router, "fastcgi") as served, served.connect() as peer:
        peer.send(start("/1", 1, 10))
        peer.send(rec(ABORT, 1))
        assert peer.next_answer()[1].status == 0
        peer.send(keep("/2", 1))
        assert peer.next_answer()[1].body == b"/2 "


def test_abort_while_it_is_served() -> None:
    """The application learns of it when it writes; the answer is an FCGI_END_REQUEST and nothing before it."""
    router = Router()
    with Served(router, "fastcgi", threads=2) as served, served.connect() as peer:
        peer.send(keep("/wait/1", 1))
        router.gates["/wait/1"].await_waiting(1)
        peer.send(rec(ABORT, 1) + keep("/2", 2))
        assert peer.next_answer()[0] == 2
        router.gates["/wait/1"].open()
        assert peer.next_answer() == (1, Answer(0, b"", b""))
        assert router.aborted == ["/wait/1"]
        peer.send(keep("/3", 1))
        assert peer.next_answer()[1].body == b"/3 "


def test_abort_of_a_request_that_waits_for_a_thread() -> None:
    """It is never started."""
    router = Router()
    with Served(router, "fastcgi", threads=2) as served, contextlib.ExitStack() as stack:
        peer, other = (stack.enter_context(served.connect()) for _ in range(2))
        other.send(keep("/wait/9", 1))
        router.gates["/wait/9"].await_waiting(1)
        peer.send(start("/1", 1, 5) + keep("/2", 2))
        peer.send(rec(ABORT, 2))
        peer.stdin(1, b"whole", end=True)
        answers = peer.answers(2)
        assert answers[1].body == b"/1 whole"
        assert answers[2].status == 0
        router.gates["/wait/9"].open()
        assert other.next_answer()[1].status == 200


def test_abort_of_nothing() -> None:
    with Served(Router(), "fastcgi") as served, served.connect() as peer:
        peer.send(rec(ABORT, 7) + keep("/1", 1) + rec(ABORT, 1) + keep("/2", 2))
        found = peer.answers(2)
        assert found[2].body == b"/2 "


# -- too many ---------------------------------------------------------------------------------------------------------


@more_threads
def test_overload(threads: int) -> None:
    router = Router()
    with Served(router, "fastcgi", threads=threads) as served, served.connect() as peer:
        for number in range(1, threads):
            peer.send(keep(f"/wait/{number}", number))
        for number in range(1, threads):
            router.gates[f"/wait/{number}"].await_waiting(1)
        peer.send(b"".join(start(f"/{number}", number, 1) for number in range(threads, 34)))
        stream, answer = peer.next_answer()
        assert (stream, answer.status) == (33, 503)
        assert b"Retry-After: 1" in answer.head
        for number in range(threads, 33):
            peer.stdin(number, b"x", end=True)
        for number in range(1, threads):
            router.gates[f"/wait/{number}"].open()
        answers = peer.answers(32)
        assert all(answer.status == 200 for answer in answers.values())
        served.log.only("requests on one connection is 33, more than the limit of 32")


def test_refusals_that_nobody_reads() -> None:
    """A peer that only begins requests is cut off, and not at the cost of memory."""
    limits = Limits(drain_bytes=100_000)
    with Served(Router(), "fastcgi", threads=2, limits=limits) as served, served.connect() as peer:
        many = b"".join(begin(number, KEEP) for number in range(1, 65_536))
        with pytest.raises(ConnectionError):
            peer.send(many)
        within(lambda: not served.open_connections(), "it is closed")


# -- the end of a connection ------------------------------------------------------------------------------------------


@some_threads
def test_closed_after_the_last_request_when_one_asked_for_it(threads: int) -> None:
    """Without FCGI_KEEP_CONN the application closes (section 5.1), once all that is active is answered."""
    with Served(Router(), "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(keep("/1", 1) + request("fastcgi", "/2", stream=2) + keep("/3", 3))
        data = peer.read()
        assert [answer_of("fastcgi", data, number).body for number in (1, 2, 3)] == [b"/1 ", b"/2 ", b"/3 "]


@more_threads
def test_end_of_file_while_requests_are_served(threads: int) -> None:
    """They are answered, though nothing more can come."""
    router = Router()
    with Served(router, "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(keep("/wait/1", 1))
        router.gates["/wait/1"].await_waiting(1)
        peer.send(keep("/2", 2))
        assert peer.next_answer()[0] == 2
        peer.end()
        time.sleep(0.05)
        router.gates["/wait/1"].open()
        assert peer.next_answer()[1].body == b"/wait/1 "
        assert peer.read() == b""


@some_threads
def test_end_of_file_within_a_body(threads: int) -> None:
    router = Router()
    with Served(router, "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(keep("/1", 1) + start("/2", 2, 10))
        peer.stdin(2, b"some")
        peer.end()
        data = peer.read()
        assert answer_of("fastcgi", data, 1).body == b"/1 "
        assert answer_of("fastcgi", data, 2).status == 400


@more_threads
def test_end_of_file_within_the_parameters_of_one(threads: int) -> None:
    router = Router()
    with Served(router, "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(keep("/wait/1", 1))
        router.gates["/wait/1"].await_waiting(1)
        peer.send(begin(2, KEEP))
        peer.end()
        assert peer.next_answer() == (2, Answer(400, *peer_parts(400)))
        router.gates["/wait/1"].open()
        assert peer.next_answer()[1].body == b"/wait/1 "
        assert peer.read() == b""
        served.log.only("the peer closed within request")


def peer_parts(code: int) -> tuple[bytes, bytes]:
    assert code == 400
    return b"Status: 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 16", b"400 Bad Request\n"


@more_threads
def test_a_slow_head_beside_a_request_that_is_served(threads: int) -> None:
    """The deadline of the head holds; the request that is served is answered all the same, then it closes."""
    router = Router()
    with Served(router, "fastcgi", threads=threads, timeouts=timeouts(head=QUICK)) as served, served.connect() as peer:
        peer.send(keep("/wait/1", 1))
        router.gates["/wait/1"].await_waiting(1)
        peer.send(begin(2, KEEP))
        stream, answer = peer.next_answer()
        assert (stream, answer.status) == (2, 408)
        router.gates["/wait/1"].open()
        assert peer.next_answer()[1].body == b"/wait/1 "
        assert peer.read() == b""
        served.log.only("no whole request head")


@some_threads
def test_a_slow_head_that_began_behind_a_whole_request(threads: int) -> None:
    """It has the deadline of heads and its answer, though no further byte has come since it was read."""
    with (
        Served(Router(), "fastcgi", threads=threads, timeouts=timeouts(head=QUICK)) as served,
        served.connect() as peer,
    ):
        peer.send(keep("/1", 1) + begin(2, KEEP))
        assert peer.next_answer()[1].body == b"/1 "
        stream, answer = peer.next_answer()
        assert (stream, answer.status) == (2, 408)
        assert peer.read() == b""
        served.log.only("no whole request head")


@more_threads
def test_a_slow_head_that_began_behind_a_request_that_is_served(threads: int) -> None:
    router = Router()
    with Served(router, "fastcgi", threads=threads, timeouts=timeouts(head=QUICK)) as served, served.connect() as peer:
        peer.send(keep("/wait/1", 1) + begin(2, KEEP))
        stream, answer = peer.next_answer()
        assert (stream, answer.status) == (2, 408)
        router.gates["/wait/1"].open()
        assert peer.next_answer()[1].body == b"/wait/1 "
        assert peer.read() == b""
        served.log.only("no whole request head")


@some_threads
def test_a_head_that_began_behind_a_whole_request_is_waited_for_where_the_worker_stops(threads: int) -> None:
    whole = keep("/2", 2)
    with Served(Router(), "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(keep("/1", 1) + whole[:30])
        assert peer.next_answer()[1].body == b"/1 "
        served.stop()
        within(lambda: served.listener.sock.fileno() < 0, "it stops")
        time.sleep(0.1)
        peer.send(whole[30:])
        assert peer.next_answer()[1].body == b"/2 "


@more_threads
def test_garbage_beside_a_request_that_is_served(threads: int) -> None:
    router = Router()
    with Served(router, "fastcgi", threads=threads) as served, served.connect() as peer:
        peer.send(keep("/wait/1", 1))
        router.gates["/wait/1"].await_waiting(1)
        peer.send(b"GET / HTTP/1.1\r\n\r\n")
        served.log.only("version 71")
        router.gates["/wait/1"].open()
        assert peer.next_answer()[1].body == b"/wait/1 "
        assert peer.read() == b""


@more_threads
def test_reset_beside_a_request_that_is_served(threads: int) -> None:
    """The descriptor is not given back while a thread may still write to it: by then it could be another peer's."""
    router = Router()
    with Served(router, "fastcgi", threads=threads, tcp=True) as served, contextlib.ExitStack() as stack:
        peer = served.connect()
        peer.send(keep("/wait/1", 1))
        router.gates["/wait/1"].await_waiting(1)
        peer.sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER
        peer.sock.close()
        others = [stack.enter_context(served.connect()) for _ in range(20)]
        served.await_connections(21)
        router.gates["/wait/1"].open()
        served.await_connections(20)
        for other in others:
            other.send(keep("/2", 1))
            assert other.next_answer()[1].body == b"/2 "


@some_threads
def test_a_response_that_is_given_up(threads: int) -> None:
    """Alone on its connection it ends in what is no record; beside others it must not take them along."""
    gate = Gate()

    def app(exchange: Exchange) -> None:
        if exchange.request.params["REQUEST_URI"] == "/wait":
            gate.wait()
            reply(exchange, b"whole")
        else:
            exchange.send(ResponseHead(exchange.request.stream, "200 OK", [], b"part"))
            exchange.abandon()

    with Served(app, "fastcgi", threads=threads) as served:
        with served.connect() as peer:
            peer.send(keep("/cut", 1))
            assert peer.record()[0] == STDOUT
            rest = peer.read()
            assert rest
            assert rest[0] != 1
        if threads > 1:
            with served.connect() as peer:
                peer.send(keep("/wait", 1))
                gate.await_waiting(1)
                peer.send(keep("/cut", 2))
                assert peer.next_answer()[1].body == b"part"
                gate.open()
                assert peer.next_answer()[1].body == b"whole"
                peer.send(keep("/wait", 3))
                assert peer.next_answer()[1].body == b"whole"


def test_a_stalled_peer_costs_all_its_requests_one_deadline() -> None:
    """After a record written in part nothing may follow it; the other threads do not each wait for it."""
    told: deque[PeerClosed] = deque()

    def app(exchange: Exchange) -> None:
        try:
            exchange.send(ResponseHead(exchange.request.stream, "200 OK"))
            while True:
                exchange.send(Body(exchange.request.stream, b"x" * 65_536))
        except PeerClosed as error:
            told.append(error)

    with Served(app, "fastcgi", threads=4, timeouts=timeouts(write=2 * QUICK)) as served, served.connect() as peer:
        before = time.monotonic()
        peer.send(b"".join(keep("/", number) for number in range(1, 9)))
        within(lambda: len(told) == 8, "all have given up")
        assert time.monotonic() - before < 6 * QUICK
        within(lambda: not served.open_connections(), "it is closed")


def test_error_output_goes_to_its_request() -> None:
    def app(exchange: Exchange) -> None:
        stream = exchange.request.stream
        exchange.send(ErrorOutput(stream, b"complaint %d\n" % stream))
        exchange.send(ResponseHead(stream, "200 OK"))
        exchange.send(Body(stream, b"%d" % stream))
        exchange.send(EndOfResponse(stream))

    with Served(app, "fastcgi", threads=3) as served, served.connect() as peer:
        peer.send(b"".join(keep("/", number) for number in range(1, 20)))
        for number, answer in peer.answers(19).items():
            assert (answer.body, answer.errors) == (b"%d" % number, b"complaint %d\n" % number)


# -- everything at once -----------------------------------------------------------------------------------------------


class Chaos:
    """An App whose answers are made of what only its request has: in pieces, with pauses, by the body or without it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, exchange: Exchange) -> None:
        choice = self._random.random()
        stream = exchange.request.stream
        token = exchange.request.params["REQUEST_URI"].encode()
        if choice < 0.2:
            time.sleep(self._random.random() * 0.004)
        if choice > 0.9:
            reply(exchange, token + b"|unread")
            return
        body = exchange.body.read()
        parts = [token, b"|", *(body[at : at + 7_000] for at in range(0, len(body), 7_000))]
        exchange.send(ResponseHead(stream, "200 OK"))
        for part in parts:
            exchange.send(Body(stream, part))
        exchange.send(EndOfResponse(stream))


def interleave(source: random.Random, wires: Iterable[list[bytes]]) -> Iterable[bytes]:
    """Yield the records of several requests in a random order that keeps each request's own."""
    queues = [deque(wire) for wire in wires]
    while queues:
        queue = source.choice(queues)
        yield queue.popleft()
        if not queue:
            queues.remove(queue)


def client(served: Served, seed: int, rounds: int, problems: list[str]) -> None:
    """Send rounds of interleaved requests, and look at every answer."""
    source = random.Random(seed)
    try:
        with served.connect() as peer:
            for turn in range(rounds):
                bodies: dict[int, bytes] = {}
                wires = []
                for stream in source.sample(range(1, 60), source.randint(1, 8)):
                    size = source.choice((0, 0, 10, 1_000, 30_000, 90_000))
                    bodies[stream] = os.urandom(size // 2).hex().encode()
                    body = bodies[stream]
                    params = {"REQUEST_URI": f"/{seed}/{turn}/{stream}", "CONTENT_LENGTH": str(len(body))}
                    block = pairs(params)
                    half = source.randrange(len(block))
                    wire = [begin(stream, KEEP), rec(PARAMS, stream, block[:half]), rec(PARAMS, stream, block[half:])]
                    wire = [each for each in wire if each[4:6] != b"\0\0"] + [rec(PARAMS, stream)]
                    at = 0
                    while at < len(body):
                        step = source.choice((100, 5_000, 40_000))
                        wire.append(rec(STDIN, stream, body[at : at + step]))
                        at += step
                    wires.append([*wire, rec(STDIN, stream)])
                data = b"".join(interleave(source, wires))
                sender = threading.Thread(target=send_in_pieces, args=(peer, data, source.randint(1, 100_000)))
                sender.start()
                answers = peer.answers(len(bodies))
                sender.join()
                for stream, answer in answers.items():
                    token = f"/{seed}/{turn}/{stream}|".encode()
                    if answer.body not in (token + bodies[stream], token + b"unread"):
                        problems.append(f"{token!r}: {answer.status} {answer.body[:80]!r}")
    except Exception as error:  # noqa: BLE001  (told by the test's own thread)
        problems.append(f"client {seed}: {error!r}")


def send_in_pieces(peer: Peer, data: bytes, size: int) -> None:
    for at in range(0, len(data), size if len(data) // size < 400 else len(data) // 400 + 1):
        peer.send(data[at : at + size if len(data) // size < 400 else at + len(data) // 400 + 1])


@some_threads
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_chaos(threads: int, tcp: bool) -> None:
    """Every answer belongs to its request, whatever comes between whatever."""
    problems: list[str] = []
    limits = Limits(body_buffer=1_000_000)  # else a request that waits long enough is refused
    with Served(Chaos(threads), "fastcgi", threads=threads, limits=limits, tcp=tcp) as served:
        clients = [threading.Thread(target=client, args=(served, seed, 8, problems)) for seed in range(6)]
        for each in clients:
            each.start()
        for each in clients:
            each.join(60)
        assert not problems, problems[:5]
    assert not served.log.lines, served.log.lines[:5]


# -- a stream that is used again the moment its answer has been read -------------------------------------------------


def test_a_stream_used_again_and_refused_is_answered() -> None:
    gate = Gate()
    seen: list[Any] = []

    def app(exchange: Exchange) -> None:
        seen.append(exchange)
        gate.wait()
        reply(exchange, b"first")

    with Served(app, "fastcgi", threads=2) as served, served.connect() as peer:
        peer.send(request("fastcgi", keep=True))
        gate.await_waiting(1)
        with seen[0].connection.lock:  # its thread gets no further than the last write
            gate.open()
            assert peer.next_answer()[1].body == b"first"
            peer.send(begin(1, KEEP, role=9))
            assert peer.next_answer()[1].status == 501
        peer.send(request("fastcgi", keep=True))
        assert peer.next_answer()[1].body == b"first"


def test_a_late_abort_does_not_end_the_next_request() -> None:
    first, second = Gate(), Gate()

    def app(exchange: Exchange) -> None:
        if exchange.request.params["REQUEST_URI"] == "/1":
            reply(exchange, b"first")
            first.wait()
            setattr(exchange, "aborted", True)  # noqa: B010  (as the thread that reads does, at the worst of times)
        else:
            second.wait()
            reply(exchange, b"second")

    with Served(app, "fastcgi", threads=3) as served, served.connect() as peer:
        peer.send(request("fastcgi", "/1", keep=True))
        assert peer.next_answer()[1].body == b"first"
        peer.send(request("fastcgi", "/2", keep=True))
        second.await_waiting(1)
        first.open()
        first.await_waiting(0)
        peer.send(request("fastcgi", "/1", keep=True, stream=2))
        assert peer.next_answer()[0] == 2
        second.open()
        stream, answer = peer.next_answer()
        assert (stream, answer.body) == (1, b"second")


def test_many_small_pieces_of_a_waiting_body_count_for_more_than_their_bytes() -> None:
    def app(exchange: Exchange) -> None:
        try:
            reply(exchange, b"%d" % len(exchange.body.read()))
        except BodyError as error:
            reply(exchange, b"", f"{error.status_hint} x")

    with Served(app, "fastcgi", limits=Limits(body_buffer=65_536)) as served, served.connect() as peer:
        peer.send(head_of("fastcgi", length=1, keep=True))  # the only thread waits for this body, and reads for both
        peer.send(head_of("fastcgi", length=4000, keep=True, stream=2))
        peer.send(rec(STDIN, 2, b"x") * 4000 + rec(STDIN, 2))
        peer.stdin(1, b"x", end=True)
        answers = peer.answers(2)
        assert (answers[1].body, answers[2].status) == (b"1", 503)


def test_a_file_is_sent_no_further_once_its_request_is_aborted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    outcome: list[type[BaseException]] = []

    def app(exchange: Exchange) -> None:
        exchange.send(ResponseHead(exchange.request.stream, "200 OK"))
        setattr(exchange, "aborted", True)  # noqa: B010  (as the thread that reads does)
        with path.open("rb") as file:
            try:
                exchange.send_file(file.fileno(), 0, 1_000_000)
            except PeerClosed as error:
                outcome.append(type(error))

    with Served(app, "fastcgi") as served, served.connect() as peer:
        peer.send(request("fastcgi", keep=True))
        assert peer.next_answer()[1].body == b""
    assert outcome == [PeerClosed]
