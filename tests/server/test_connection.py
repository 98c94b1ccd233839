"""One connection: how requests come in, how answers and refusals go out, and when it is closed. In all protocols."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from gateways.apps import Exchange
from gateways.codecs.events import Body, EndOfResponse, ResponseHead
from gateways.errors import BodyError, LocalProtocolError, PeerClosed
from gateways.limits import Limits
from gateways.server.exchange import Exchange as ServerExchange
from gateways.testing.framing.fastcgi_records import rec, request as fastcgi_request
from tests.server.peers import PROTOCOLS, SECONDS, Peer, answer_of, head_of, request, reset
from tests.server.pools import (
    QUICK,
    Gate,
    MemoryLog,
    Served,
    both_families,
    every_protocol,
    hello,
    one_or_more_threads,
    reply,
    timeouts,
    within,
    wsgi,
)


def echo(exchange: Exchange) -> None:
    reply(exchange, exchange.body.read())


def reading(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """A WSGI application that reads its body."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"read %d" % len(body)]


def not_reading(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    return [b"early"]


# -- in ---------------------------------------------------------------------------------------------------------------


@every_protocol
@one_or_more_threads
@both_families
def test_whole_and_byte_by_byte(protocol: str, threads: int, tcp: bool) -> None:
    with Served(echo, protocol, threads=threads, tcp=tcp) as served:
        with served.connect() as peer:
            assert peer.get("/", b"a body").body == b"a body"
        with served.connect() as peer:
            peer.send_bytewise(request(protocol, "/", b"a body"))
            answer = peer.answer()
            assert (answer.status, answer.body) == (200, b"a body")
    assert not served.log.lines


@every_protocol
def test_auto_finds_every_protocol(protocol: str) -> None:
    with Served(echo, "auto") as served:
        with Peer(served.address, protocol) as peer:
            assert peer.get("/", b"a body").body == b"a body"
        with Peer(served.address, protocol) as peer:
            peer.send_bytewise(request(protocol, "/", b"a body"))
            assert peer.answer().body == b"a body"
    assert not served.log.lines


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_kept_connections(protocol: str, threads: int) -> None:
    with Served(echo, protocol, threads=threads) as served, served.connect() as peer:
        for number in range(20):
            assert peer.keep_get("/", b"%d" % number).body == b"%d" % number
        assert served.open_connections() == 1


@one_or_more_threads
def test_pipelined_requests(threads: int) -> None:
    def app(exchange: Exchange) -> None:
        reply(exchange, exchange.request.params["REQUEST_URI"].encode())

    with Served(app, threads=threads) as served, served.connect() as peer:
        peer.send(b"".join(request("http", f"/{number}", keep=True) for number in range(50)))
        assert [peer.next_answer()[1].body for _ in range(50)] == [b"/%d" % number for number in range(50)]


def test_large_body_both_ways() -> None:
    data = os.urandom(1_000_000)
    for protocol in PROTOCOLS:
        with Served(echo, protocol) as served, served.connect() as peer:
            sender = threading.Thread(target=peer.send, args=(request(protocol, "/", data),))
            sender.start()
            answer = peer.read()
            sender.join()
            assert answer_of(protocol, answer).body == data


@every_protocol
def test_half_closed_by_the_peer(protocol: str) -> None:
    """shutdown(SHUT_WR) behind the request is no wish to be spared the answer."""
    with Served(echo, protocol) as served, served.connect() as peer:
        peer.send(request(protocol, "/", b"a body"))
        peer.end()
        assert peer.answer().body == b"a body"
    assert not served.log.lines


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_half_closed_kept_connection(protocol: str, threads: int) -> None:
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, b"late")

    with Served(app, protocol, threads=threads) as served, served.connect() as peer:
        peer.send(request(protocol, keep=True))
        peer.end()
        gate.await_waiting(1)
        gate.open()
        assert peer.next_answer()[1].body == b"late"
        assert peer.read() == b""


# -- deadlines --------------------------------------------------------------------------------------------------------


@every_protocol
@one_or_more_threads
def test_head_too_slow(protocol: str, threads: int) -> None:
    with Served(echo, protocol, threads=threads, timeouts=timeouts(head=QUICK)) as served, served.connect() as peer:
        peer.send(request(protocol)[:30])
        answer = peer.answer()
        assert answer.status == 408
        served.log.only("no whole request head came in 0.15 s")


@every_protocol
def test_head_deadline_is_not_put_off_by_single_bytes(protocol: str) -> None:
    with Served(echo, protocol, timeouts=timeouts(head=3 * QUICK)) as served, served.connect() as peer:
        start = time.monotonic()
        peer.sock.settimeout(QUICK / 5)
        wire = request(protocol)
        data = b""
        peer.send(wire[:30])
        for at in range(30, len(wire)):
            with contextlib.suppress(BrokenPipeError):
                peer.send(wire[at : at + 1])
            with contextlib.suppress(TimeoutError):
                data = peer.sock.recv(65_536)
                break
        assert 2 * QUICK < time.monotonic() - start < 2
        assert answer_of(protocol, data).status == 408
        served.log.only("no whole request head")


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "auto"])
def test_nothing_comes(protocol: str) -> None:
    """Nobody asked for anything: nothing is answered, nothing logged."""
    with Served(echo, protocol, timeouts=timeouts(head=QUICK)) as served, served.connect() as peer:
        assert QUICK / 2 < peer.wait_closed() < 2
    assert not served.log.lines


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_second_head_too_slow(protocol: str, threads: int) -> None:
    with Served(echo, protocol, threads=threads, timeouts=timeouts(head=QUICK)) as served, served.connect() as peer:
        peer.keep_get()
        time.sleep(2 * QUICK)  # an idle connection is not under the deadline of a head
        peer.send(request(protocol, keep=True)[:30])
        assert peer.answer().status == 408
        served.log.only("no whole request head")


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_idle_connection_is_closed(protocol: str, threads: int) -> None:
    with (
        Served(echo, protocol, threads=threads, timeouts=timeouts(keepalive=QUICK)) as served,
        served.connect() as peer,
    ):
        peer.keep_get()
        assert peer.wait_closed() < 2
        within(lambda: not served.open_connections(), "it is forgotten")
    assert not served.log.lines


@one_or_more_threads
def test_an_empty_line_behind_a_request_is_no_head_that_has_begun(threads: int) -> None:
    """RFC 9112 section 2.2: old clients send one behind a body. A 408 would pass for the next request's answer."""
    with (
        Served(echo, threads=threads, timeouts=timeouts(head=QUICK, keepalive=0.4)) as served,
        served.connect() as peer,
    ):
        peer.send(request("http", "/", b"a body", keep=True) + b"\r\n")
        assert peer.next_answer()[1].body == b"a body"
        assert peer.wait_closed() > 0.3
        with served.connect() as other:
            assert other.keep_get().status == 200
            other.send(b"\r\n")
            assert other.keep_get("/", b"next").body == b"next"
    assert not served.log.lines


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_idle_deadline_counts_from_the_end_of_a_slow_head(protocol: str, threads: int) -> None:
    """The pool looks again as soon as the shorter deadline asks, not when the longer one of the head did."""
    with (
        Served(echo, protocol, threads=threads, timeouts=timeouts(keepalive=QUICK)) as served,
        served.connect() as peer,
    ):
        wire = request(protocol, keep=True)
        peer.send(wire[:30])
        served.await_connections(1)
        peer.send(wire[30:])
        peer.next_answer()
        assert peer.wait_closed() < 2


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
def test_idle_deadline_after_a_request_that_another_thread_served(protocol: str) -> None:
    """While it was served, the leader went to wait in the poller without any deadline."""
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, b"late")

    with Served(app, protocol, threads=2, timeouts=timeouts(keepalive=QUICK)) as served, served.connect() as peer:
        peer.send(request(protocol, keep=True))
        gate.await_waiting(1)
        time.sleep(QUICK)
        gate.open()
        peer.next_answer()
        assert peer.wait_closed() < 2


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_idle_deadline_after_a_request_that_took_longer_than_it(protocol: str, threads: int) -> None:
    """It counts from the answer, not from when the poller was left last."""

    def app(exchange: Exchange) -> None:
        if exchange.request.params["REQUEST_URI"] == "/slow":
            time.sleep(0.5)
        reply(exchange, b"late")

    with Served(app, protocol, threads=threads, timeouts=timeouts(keepalive=0.4)) as served, served.connect() as peer:
        peer.keep_get("/slow")
        assert peer.wait_closed() > 0.3
        with served.connect() as other:
            other.keep_get("/")
            other.keep_get("/slow", b"a body")
            assert other.wait_closed() > 0.3


@every_protocol
@one_or_more_threads
def test_body_too_slow(protocol: str, threads: int) -> None:
    log = MemoryLog()
    with Served(
        wsgi(reading, log), protocol, threads=threads, timeouts=timeouts(body=QUICK, drain=QUICK), log=log
    ) as served, served.connect() as peer:  # fmt: skip
        peer.send(head_of(protocol, length=10))
        assert peer.answer().status == 408
        log.only("no byte of the body came for 0.15 s")


@one_or_more_threads
@pytest.mark.parametrize("wrong", [b"no chunk\r\n", b"8000\r\n" + b"x" * 32_768 + b"\r\n"], ids=["broken", "too long"])
def test_unread_body_that_is_refused_after_the_answer_makes_no_reset_of_the_close(threads: int, wrong: bytes) -> None:
    """Over TCP the answer might be lost with it: the peer is still sending."""
    log = MemoryLog()
    with (
        Served(wsgi(not_reading, log), threads=threads, tcp=True, limits=Limits(body_bytes=20_000), log=log) as served,
        served.connect() as peer,
    ):
        peer.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        served.await_connections(1)
        peer.send(wrong)
        for _ in range(20):
            peer.send(b"3e8\r\n" + b"x" * 1_000 + b"\r\n")
            time.sleep(0.005)
        peer.end()
        assert answer_of("http", peer.read()).body == b"early"


@every_protocol
@one_or_more_threads
def test_body_that_is_read_after_the_answer_makes_no_reset_of_the_close(protocol: str, threads: int) -> None:
    """The application gets no more of it; but over TCP the answer might be lost while the peer is still sending."""
    log = MemoryLog()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"early"
        with contextlib.suppress(BodyError):
            environ["wsgi.input"].read()

    with Served(wsgi(application, log), protocol, threads=threads, tcp=True, log=log) as served:
        with served.connect() as peer:
            peer.send(head_of(protocol, length=1_000_000))
            peer.more()
            for _ in range(20):
                body = b"x" * 1_000
                peer.send(rec(5, 1, body) if protocol == "fastcgi" else body)
                time.sleep(0.005)
            peer.end()
            assert peer.answer().body == b"early"
        with served.connect() as peer:
            if protocol == "http":
                for _ in range(3):
                    assert peer.keep_get("/", b"x" * 100_000).body == b"early"


@both_families
def test_cut_response_is_told_from_a_whole_one(tcp: bool) -> None:
    """Over TCP the peer reads a reset, since an end of file is how SCGI and uwsgi end a response."""

    def app(exchange: Exchange) -> None:
        exchange.send(ResponseHead(1, "200 OK", [], b"some"))
        exchange.abandon()

    for protocol in ("scgi", "uwsgi", "http"):
        with Served(app, protocol, tcp=tcp) as served, served.connect() as peer:
            peer.send(request(protocol))
            if tcp:
                with pytest.raises(ConnectionResetError):
                    peer.read()
            else:
                assert b"some" in peer.read()


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_closed_connection_that_a_fork_of_the_application_has_too(protocol: str, threads: int) -> None:
    """The kernel goes on to watch it (epoll(7)); the worker must not run round for as long as that process lives."""
    copies: list[int] = []

    def app(exchange: Exchange) -> None:
        if exchange.request.params["REQUEST_URI"] == "/fork":
            copies.extend(map(os.dup, served.pool.connections))
        reply(exchange, b"forked")

    with Served(app, protocol, threads=threads) as served:
        with served.connect() as peer:
            peer.keep_get()
            served.await_connections(1)
            peer.keep_get("/fork")
        within(lambda: not served.open_connections(), "it is closed")
        assert len(copies) == 1
        within(lambda: not served.poller.wait(0.0), "the poller finds nothing", 2)
        os.close(copies[0])


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused_wires() -> list[Any]:
    long_path = "/" + "x" * 5_000
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(60))
    cases: list[tuple[str, bytes, int, str]] = [
        ("http", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1\r\n\r\n", 400, "http"),
        ("http", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5_000 + b"\r\n\r\n", 431, "request head"),
        ("http", b"GET / HTTP/1.1\r\nHost: a\r\n" + many + b"\r\n", 431, "number of fields"),
        ("http", b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\n\r\n", 414, "request head"),
        ("http", request("http", body=b"x" * 2_000), 413, "request body"),
        ("http", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(40), 400, "http"),
        ("scgi", b"05:abcde,", 400, "netstring"),
        ("scgi", request("scgi", long_path), 431, "netstring"),
        ("scgi", request("scgi", body=b"x" * 2_000), 413, "request body"),
        ("scgi", b"GET / HTTP/1.1\r\n\r\n", 400, "netstring"),
        ("uwsgi", request("uwsgi", long_path), 431, "block of variables"),
        ("uwsgi", request("uwsgi", body=b"x" * 2_000), 413, "request body"),
        ("uwsgi", b"\x05" + request("uwsgi")[1:], 501, "modifier1 5"),
        ("uwsgi", b"\x00\x05\x00\x00\xff\xff\x00\x00\x00", 400, "uwsgi"),
        ("fastcgi", request("fastcgi", long_path), 431, "parameters"),
        ("fastcgi", request("fastcgi", body=b"x" * 2_000), 413, "request body"),
        ("fastcgi", b"\1\1\0\1\0\x08\0\0\0\x03\0\0\0\0\0\0" + request("fastcgi")[16:], 501, "role 3"),
        ("fastcgi", request("fastcgi")[:16] + b"\1\4\0\1\0\1\0\0\x09\1\4\0\1\0\0\0\0", 400, "fastcgi"),
        ("fastcgi", request("fastcgi")[:16] + b"HTTP" * 4, 400, "version 72"),
    ]
    return [pytest.param(*case, id=f"{case[0]}-{case[2]}-{case[3].split()[0]}") for case in cases]


@pytest.mark.parametrize(("protocol", "wire", "status", "words"), refused_wires())
@both_families
def test_refused_in_the_protocols_own_form(protocol: str, wire: bytes, status: int, words: str, tcp: bool) -> None:
    limits = Limits(params_bytes=4_000, params_count=50, body_bytes=1_000)
    for threads in (1, 3):
        with Served(echo, protocol, threads=threads, limits=limits, tcp=tcp) as served:
            with served.connect() as peer:
                peer.send(wire)
                answer = peer.answer()
                assert answer.status == status
                served.log.only(words)
                assert served.log.lines[0].startswith(f"refused: {protocol} {'127.0.0.1' if tcp else 'unix'}")
            with served.connect() as peer:
                assert peer.get().status == 200


@pytest.mark.parametrize(
    "first", [b"\xff\xfe\xfd", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\n!!!", b"\r\nx"]
)
def test_auto_refuses_what_is_none(first: bytes) -> None:
    with Served(echo, "auto") as served, served.connect() as peer:
        peer.send(first)
        assert peer.read() == b""
        served.log.only("refused: auto unix")


def test_auto_cut_within_the_first_bytes() -> None:
    with Served(echo, "auto") as served:
        with served.connect() as peer:
            peer.send(b"PRO")
            peer.end()
            assert peer.read() == b""
        served.log.only("before its protocol could be told")


def test_auto_tells_tls_that_there_is_none() -> None:
    with Served(echo, "auto") as served, served.connect() as peer:
        peer.send(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500))
        assert answer_of("http", peer.read()).status == 400
        served.log.only("refused: http")


def test_busy_says_when_to_come_again() -> None:
    """The answer of a request that came while too many were there."""
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, b"served")

    with (
        Served(app, "fastcgi", threads=2, limits=Limits(requests_per_connection=1)) as served,
        served.connect() as peer,
    ):
        peer.send(request("fastcgi", keep=True, stream=1))
        gate.await_waiting(1)
        peer.send(request("fastcgi", keep=True, stream=2))
        stream, answer = peer.next_answer()
        assert (stream, answer.status) == (2, 503)
        assert b"Retry-After: 1" in answer.head
        gate.open()
        assert peer.next_answer()[1].body == b"served"
        served.log.only("requests on one connection")


@every_protocol
def test_truncated_request_is_answered(protocol: str) -> None:
    """Who closed only its own side can read why."""
    wire = request(protocol)
    with Served(echo, protocol) as served, served.connect() as peer:
        peer.send(wire[: 2 * len(wire) // 3])
        peer.end()
        assert peer.answer().status == 400
        served.log.only("the peer closed within")


@every_protocol
def test_truncated_body_is_answered(protocol: str) -> None:
    log = MemoryLog()
    with Served(wsgi(reading, log), protocol, log=log) as served, served.connect() as peer:
        peer.send(head_of(protocol, length=10) + (b"12345" if protocol != "fastcgi" else b""))
        peer.end()
        assert peer.answer().status == 400
        within(lambda: log.lines, "it is logged")


def test_chunked_body_over_the_limit() -> None:
    """The rest of it is still on the way when the answer goes out: that must not reset the connection."""
    log = MemoryLog()
    for tcp in (False, True):
        with (
            Served(wsgi(reading, log), limits=Limits(body_bytes=100_000), tcp=tcp, log=log) as served,
            served.connect() as peer,
        ):
            chunk = b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000)
            head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            sender = threading.Thread(target=send_all, args=(peer, head + 60 * chunk + b"0\r\n\r\n"))
            sender.start()
            assert answer_of("http", peer.read()).status == 413
            sender.join()


def send_all(peer: Peer, data: bytes) -> None:
    """Send, though the server may close meanwhile."""
    with contextlib.suppress(ConnectionError):
        peer.send(data)


# -- bodies that nobody reads -----------------------------------------------------------------------------------------


@every_protocol
@one_or_more_threads
@both_families
@pytest.mark.parametrize("keep", [False, True], ids=["close", "keep"])
def test_unread_body(protocol: str, threads: int, tcp: bool, keep: bool) -> None:
    """The answer comes though the body is not read, and a peer that goes on sending sees no reset."""
    log = MemoryLog()
    data = os.urandom(3_000_000)
    with (
        Served(wsgi(not_reading, log), protocol, threads=threads, tcp=tcp, log=log) as served,
        served.connect() as peer,
    ):
        wire = request(protocol, "/", data, keep=keep)
        peer.send(wire[:100_000])
        if keep and protocol in ("fastcgi", "http"):
            answer = peer.next_answer()[1]
            peer.send(wire[100_000:])
            assert peer.keep_get().body == b"early", "what is left of the body is no next request"
        else:
            poll = select.poll()
            poll.register(peer.sock, select.POLLIN)
            assert poll.poll(SECONDS * 1000), "the answer comes before the body is read"
            peer.send(wire[100_000:])
            peer.end()
            answer = peer.answer()
        assert (answer.status, answer.body) == (200, b"early")
    assert not log.lines


@every_protocol
@both_families
def test_unread_body_is_drained_so_far_and_no_further(protocol: str, tcp: bool) -> None:
    log = MemoryLog()
    with (
        Served(wsgi(not_reading, log), protocol, tcp=tcp, limits=Limits(drain_bytes=200_000), log=log) as served,
        served.connect() as peer,
    ):
        peer.send(head_of(protocol, length=10**9))
        with pytest.raises(ConnectionError):
            peer.send(b"x" * 65_536_000)
        within(lambda: not served.open_connections(), "it is closed")


@every_protocol
@one_or_more_threads
def test_unread_body_is_drained_so_long_and_no_longer(protocol: str, threads: int) -> None:
    with Served(
        hello, protocol, threads=threads, timeouts=timeouts(drain=QUICK)
    ) as served, served.connect() as peer:  # fmt: skip
        start = time.monotonic()
        peer.send(head_of(protocol, length=1_000))
        assert answer_of(protocol, peer.read()).status == 200
        served.await_connections(1)
        served.await_connections(0)
        assert QUICK / 2 < time.monotonic() - start < 2


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_unread_body_of_a_kept_connection_is_waited_for_so_long(protocol: str, threads: int) -> None:
    with Served(
        hello, protocol, threads=threads, timeouts=timeouts(drain=QUICK)
    ) as served, served.connect() as peer:  # fmt: skip
        start = time.monotonic()
        peer.send(head_of(protocol, length=1_000, keep=True))
        assert peer.next_answer()[1].body == b"hello"
        peer.wait_closed()
        assert QUICK / 2 < time.monotonic() - start < 2


@every_protocol
def test_drain_counts_from_the_answer(protocol: str) -> None:
    """Also where the application took longer than the whole time to drain."""

    def app(exchange: Exchange) -> None:
        time.sleep(2 * QUICK)
        hello(exchange)

    with Served(app, protocol, timeouts=timeouts(drain=QUICK), tcp=True) as served, served.connect() as peer:
        peer.send(head_of(protocol, length=1_000))
        data = peer.sock.recv(65_536)
        peer.send(b"x" * 500)
        assert answer_of(protocol, data + peer.read()).status == 200


def test_expect_continue() -> None:
    log = MemoryLog()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    with Served(wsgi(reading, log)) as served, served.connect() as peer:
        peer.send(head)
        assert peer.sock.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"body")
        assert peer.answer().body == b"read 4"
    with Served(wsgi(not_reading, log)) as served, served.connect() as peer:
        peer.send(head)
        assert peer.answer().body == b"early"


# -- peers that go away -----------------------------------------------------------------------------------------------


@every_protocol
@both_families
@pytest.mark.parametrize("how", ["close", "reset"])
def test_peer_gone_at_every_byte_of_a_request(protocol: str, tcp: bool, how: str) -> None:
    log = MemoryLog()
    wire = request(protocol, "/", b"body")
    with Served(wsgi(reading, log), protocol, tcp=tcp, log=log) as served:
        for at in range(len(wire) + 1):
            peer = served.connect()
            peer.send(wire[:at])
            if how == "reset":
                reset(peer.sock)
            peer.sock.close()
        within(lambda: not served.open_connections(), "all are closed")
        with served.connect() as peer:
            assert peer.get().status == 200
        assert len(log.lines) <= 2 * len(wire)


def test_reset_while_the_application_reads() -> None:
    gone: list[BaseException] = []

    def app(exchange: Exchange) -> None:
        try:
            exchange.body.read()
        except BodyError as error:
            gone.append(error)
        with pytest.raises(PeerClosed):
            exchange.send(ResponseHead(exchange.request.stream, "200 OK", [], b"x" * 10_000))

    for protocol in PROTOCOLS:
        gone.clear()
        with Served(app, protocol, tcp=True) as served:
            peer = served.connect()
            peer.send(head_of(protocol, length=10))
            reset(peer.sock)
            within(lambda: gone, "the application is told")
            within(lambda: not served.open_connections(), "it is closed")


# -- applications that break the rules --------------------------------------------------------------------------------


@every_protocol
@one_or_more_threads
def test_app_that_does_not_answer(protocol: str, threads: int) -> None:
    with Served(lambda exchange: None, protocol, threads=threads) as served:
        for _ in range(3):
            with served.connect() as peer:
                peer.send(request(protocol, keep=True))
                if protocol == "fastcgi":
                    assert peer.next_answer()[1].status == 0
                else:
                    assert peer.read() == b""
        within(lambda: not served.open_connections(), "nothing is left")


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "auto"])
@one_or_more_threads
def test_app_that_raises(protocol: str, threads: int) -> None:
    def app(exchange: Exchange) -> None:
        if exchange.request.params["REQUEST_URI"] == "/fail":
            raise ZeroDivisionError("on purpose")
        hello(exchange)

    spoken = "http" if protocol == "auto" else protocol
    with Served(app, protocol, threads=threads, failures=[ZeroDivisionError] * 6) as served:
        for wait in (False, True):
            for _ in range(3):
                with Peer(served.address, spoken) as peer:
                    if wait:  # for the poller, not the listener
                        served.await_connections(1)
                    peer.send(request(spoken, "/fail", keep=True))
                    if spoken == "fastcgi":
                        assert peer.next_answer()[1].status == 0
                    else:
                        assert peer.read() == b""
                within(lambda: not served.open_connections(), "nothing is left")
        with Peer(served.address, spoken) as peer:
            assert peer.get().status == 200


def test_what_may_not_follow_the_end() -> None:
    wrong: list[BaseException] = []

    def app(exchange: Exchange) -> None:
        hello(exchange)
        for event in (Body(1, b"more"), EndOfResponse(1), ResponseHead(1, "200 OK")):
            with pytest.raises((LocalProtocolError, PeerClosed)) as caught:
                exchange.send(event)
            wrong.append(caught.value)

    for protocol in PROTOCOLS:
        with Served(app, protocol) as served, served.connect() as peer:
            peer.send(request(protocol, keep=True))
            data = peer.next_answer()[1] if protocol in ("fastcgi", "http") else peer.answer()
            assert data.body == b"hello"
    assert len(wrong) == 3 * len(PROTOCOLS)


def test_body_read_after_the_end() -> None:
    """There is nothing to wait for once a request is over."""
    found: list[object] = []

    def app(exchange: Exchange) -> None:
        hello(exchange)
        try:
            found.append(exchange.body.read())
        except BodyError as error:
            found.append(error)

    for protocol in ("fastcgi", "scgi", "uwsgi"):
        found.clear()
        for threads in (1, 2):
            with Served(app, protocol, threads=threads) as served, served.connect() as peer:
                peer.send(head_of(protocol, length=10, keep=True))
                peer.end()
                peer.read()
                within(lambda: found, "the application goes on")
                assert isinstance(found[0], BodyError)


# -- what the application is told -------------------------------------------------------------------------------------


def test_what_an_exchange_knows() -> None:
    seen: list[tuple[str, str, bool]] = []

    def app(exchange: Exchange) -> None:
        assert isinstance(exchange, ServerExchange)
        seen.append((exchange.protocol, exchange.peer, exchange.error_output))
        hello(exchange)

    for protocol in PROTOCOLS:
        for tcp in (False, True):
            with Served(app, protocol, tcp=tcp) as served, served.connect() as peer:
                port = f"127.0.0.1:{peer.sock.getsockname()[1]}" if tcp else "unix"
                peer.get()
                assert seen.pop() == (protocol, port, protocol == "fastcgi")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("params", "client", "line"),
    [
        ({}, "unix", "- "),
        ({"REMOTE_ADDR": "::1", "REQUEST_METHOD": "PUT", "REQUEST_URI": "/a?b"}, "::1", "PUT /a?b"),
        ({"REMOTE_ADDR": "", "REQUEST_METHOD": "GET", "PATH_INFO": "/p"}, "unix", "GET /p"),
        ({"REQUEST_URI": "/u", "PATH_INFO": "/p"}, "unix", "- /u"),
    ],
)
def test_what_the_log_is_told_of_a_request(params: dict[str, str], client: str, line: str, when: str) -> None:
    """Afterwards too, when its parameters are given up; they are the application's as soon as it has them."""
    seen: list[Exchange] = []

    def app(exchange: Exchange) -> None:
        seen.append(exchange)
        if when == "before":
            assert (exchange.client, exchange.line) == (client, line)
            exchange.request.params.update({"REQUEST_METHOD": "OTHER", "PATH_INFO": "/other"})
        hello(exchange)

    with Served(app, "fastcgi") as served, served.connect() as peer:
        peer.send(fastcgi_request(1, params))
        assert answer_of("fastcgi", peer.read()).body == b"hello"
        within(lambda: not seen[0].request.params, "the parameters are given up")
    assert (seen[0].client, seen[0].line) == (client, line)


@every_protocol
@pytest.mark.parametrize("late", [False, True])
def test_an_application_may_put_anything_into_its_environ(protocol: str, late: bool) -> None:
    def application(environ: dict[Any, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        if late:
            yield b"first"
        environ.update(
            {"REMOTE_ADDR": None, "REQUEST_METHOD": 7, "REQUEST_URI": b"/", "PATH_INFO": [], "wsgi.input": 0}
        )
        environ[1] = environ
        environ["wsgi.errors"].write("odd\n")
        if late:
            environ.clear()
        yield b"last"

    log = MemoryLog()
    with Served(wsgi(application, log), protocol, log=log) as served:
        for _ in range(2):
            with served.connect() as peer:
                peer.send(request(protocol))
                answer = answer_of(protocol, peer.read())
                assert (answer.status, answer.body) == (200, b"firstlast" if late else b"last")
                assert answer.errors == (b"odd\n" if protocol == "fastcgi" else b"")
    assert log.lines == ([] if protocol == "fastcgi" else ["odd\n"] * 2)
    assert not log.failures


def test_linger_option_is_what_the_kernel_takes() -> None:
    """struct linger, as ``abandon`` writes it."""
    with socket.socket() as sock:
        assert struct.pack("ii", 1, 0) == b"\x01\0\0\0\0\0\0\0"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("tcp", [False, True])
def test_a_thread_that_reads_on_after_the_answer_reads_nobody_elses_bytes(threads: int, tcp: bool) -> None:
    """Its connection is closed, but its descriptor's number is not free before that thread has let go."""
    errors: list[BaseException] = []
    readers: list[threading.Thread] = []
    seen: list[Any] = []

    def read(exchange: Exchange) -> None:
        try:
            exchange.body.read()
        except BodyError as error:
            errors.append(error)

    def app(exchange: Exchange) -> None:
        if exchange.request.params["REQUEST_URI"] == "/reads":
            readers.append(threading.Thread(target=read, args=(exchange,)))
            readers[-1].start()
            seen.append(exchange.connection)  # type: ignore[attr-defined]
            within(lambda: seen[-1].pulling, "it reads")
        reply(exchange, b"answer")

    with Served(app, "http", threads=threads, tcp=tcp) as served:
        for _ in range(5):
            with served.connect() as peer:
                peer.send(head_of("http", "/reads", length=10, keep=True))
                assert peer.next_answer()[1].body == b"answer"
                peer.wait_closed()
            with served.connect() as peer:
                assert peer.get().body == b"answer"
        for reader in readers:
            reader.join(SECONDS)
            assert not reader.is_alive()
        assert [str(error) for error in errors] == ["the request is over"] * 5
        for connection in seen:
            assert connection.closed
        served.await_connections(0)
