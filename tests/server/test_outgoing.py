"""What goes out of one connection: all of it, whatever the peer's window has room for, or nothing after it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from gateways.apps import Exchange
from gateways.codecs.events import Body, EndOfResponse, ResponseHead
from gateways.errors import LocalProtocolError, PeerClosed
from tests.server.peers import PROTOCOLS, SECONDS, answer_of, request
from tests.server.pools import (
    QUICK,
    MemoryLog,
    Served,
    both_families,
    every_protocol,
    one_or_more_threads,
    reply,
    timeouts,
    within,
    wsgi,
)


@every_protocol
@one_or_more_threads
@both_families
def test_a_large_block_behind_the_head(protocol: str, threads: int, tcp: bool) -> None:
    """It goes out in pieces, in which nothing of it may be lost, whatever the peer's window has room for."""
    data = os.urandom(3_000_000)

    def app(exchange: Exchange) -> None:
        reply(exchange, data[: int(exchange.request.params["REQUEST_URI"][1:])])

    with Served(app, protocol, threads=threads, tcp=tcp) as served:
        for size in (4_095, 4_096, 60_000, 65_535, 65_536, 131_057, 3_000_000):
            with served.connect() as peer:
                peer.send(request(protocol, f"/{size}"))
                assert answer_of(protocol, peer.read()).body == data[:size]
            with served.connect(receive_buffer=4_096) as peer:
                peer.send(request(protocol, f"/{size}"))
                got = b""
                while block := peer.sock.recv(50_021):
                    got += block
                assert answer_of(protocol, got).body == data[:size]
    assert not served.log.lines


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@one_or_more_threads
def test_large_blocks_on_a_kept_connection(protocol: str, threads: int) -> None:
    data = os.urandom(300_000)
    with Served(lambda exchange: reply(exchange, data), protocol, threads=threads) as served, served.connect() as peer:
        for _ in range(20):
            assert peer.keep_get().body == data
        assert served.open_connections() == 1


@every_protocol
@one_or_more_threads
def test_blocks_as_events_and_as_bytes(protocol: str, threads: int) -> None:
    """They are the same; an empty one is none, and behind the end there is no more."""
    blocks = [os.urandom(size) for size in (1, 0, 100, 4_095, 4_096, 65_528, 65_536, 0, 200_000)]
    over = threading.Event()

    def app(exchange: Exchange) -> None:
        stream = exchange.request.stream
        exchange.send(ResponseHead(stream, "200 OK", [("Content-Type", "text/plain")]))
        for block in blocks:
            exchange.send_body(block)
            exchange.send(Body(stream, block))
        exchange.send(EndOfResponse(stream))
        with pytest.raises(LocalProtocolError, match="the response has ended"):
            exchange.send_body(b"x")
        with pytest.raises(LocalProtocolError, match="the response has ended"):
            exchange.send(Body(stream, b"x"))
        over.set()

    with Served(app, protocol, threads=threads) as served, served.connect() as peer:
        peer.send(request(protocol))
        assert answer_of(protocol, peer.read()).body == b"".join(block * 2 for block in blocks)
        assert over.wait(SECONDS)


def test_more_pieces_than_one_system_call_takes() -> None:
    data = os.urandom(1_000_000) * 36  # 550 records, a header and a block each: IOV_MAX is 1,024
    with Served(lambda exchange: reply(exchange, data), "fastcgi") as served, served.connect() as peer:
        peer.send(request("fastcgi"))
        assert answer_of("fastcgi", peer.read()).body == data


def test_a_large_block_is_not_copied() -> None:
    """Over FastCGI four copies of it were made once; the application's one is all there need be."""
    data = os.urandom(100_000) * 300
    held: list[int] = []

    def app(exchange: Exchange) -> None:
        tracemalloc.start()
        try:
            reply(exchange, data)
            held.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    room = bytearray(31_000_000)
    for protocol in PROTOCOLS:
        with Served(app, protocol) as served, served.connect() as peer:
            peer.send(request(protocol))
            got = 0
            while count := peer.sock.recv_into(memoryview(room)[got:]):  # which takes no memory
                got += count
        assert answer_of(protocol, bytes(room[:got])).body == data
    assert max(held) < 1_000_000, held


@every_protocol
@one_or_more_threads
def test_peer_that_reads_nothing(protocol: str, threads: int) -> None:
    """The response is given up once the peer has taken no byte for the length of the deadline."""
    log = MemoryLog()

    def large(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return (b"x" * 65_536 for _ in range(1_000))

    with (
        Served(wsgi(large, log), protocol, threads=threads, timeouts=timeouts(write=QUICK), log=log) as served,
        served.connect() as peer,
    ):
        peer.send(request(protocol, keep=True))
        log.only("the peer took no byte of the response for 0.15 s")
        within(lambda: not served.open_connections(), "the connection is closed")
        assert len(peer.read()) < 65_536_000


@every_protocol
@one_or_more_threads
@both_families
def test_nothing_follows_an_answer_that_was_not_taken_whole(protocol: str, threads: int, tcp: bool) -> None:
    """Sent in one piece, it counts as ended before it is out: the next answer would pass for the rest of it."""
    log = MemoryLog()

    def large(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"x" * 20_000_000 if environ["PATH_INFO"] == "/large" else b"next"]

    with (
        Served(wsgi(large, log), protocol, threads=threads, tcp=tcp, timeouts=timeouts(write=QUICK), log=log) as served,
        served.connect() as peer,
    ):
        peer.send(request(protocol, "/large", keep=True))
        if protocol == "http":
            peer.send(request(protocol, "/next", keep=True))
        within(lambda: log.lines, "it is given up")
        within(lambda: not served.open_connections(), "the connection is closed", 2)
        data = b""
        with contextlib.suppress(ConnectionError):
            while block := peer.sock.recv(65_536):
                data += block
        assert len(data) < 20_000_000
        assert b"next" not in data
    log.only("the peer took no byte of the response for 0.15 s")


def test_an_application_that_goes_on_after_a_failed_write_sends_no_more() -> None:
    log = MemoryLog()

    def stubborn(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Length", "20000004")])
        with contextlib.suppress(PeerClosed):
            write(b"x" * 20_000_000)
        peer.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while peer.sock.recv(65_536):
                pass
        return [b"more"]

    with (
        Served(wsgi(stubborn, log), timeouts=timeouts(write=QUICK), log=log) as served,
        served.connect() as peer,
    ):
        peer.send(request("http", keep=True))
        within(lambda: log.lines, "it is given up")
        within(lambda: not served.open_connections(), "the connection is closed", 2)
        peer.sock.settimeout(SECONDS)
        assert b"more" not in peer.read()


@every_protocol
@both_families
def test_peer_gone_at_many_bytes_of_a_response(protocol: str, tcp: bool) -> None:
    log = MemoryLog()

    def blocks(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return (b"x" * 40_000 for _ in range(20))

    with Served(wsgi(blocks, log), protocol, tcp=tcp, log=log) as served:
        for at in [*range(60), 1_000, 30_000, 100_000, 300_000]:
            with served.connect() as peer:
                peer.send(request(protocol))
                left = at
                while left and (data := peer.sock.recv(left)):
                    left -= len(data)
        within(lambda: not served.open_connections(), "all are closed")
        with served.connect() as peer:
            assert len(peer.get().body) == 800_000


@every_protocol
@one_or_more_threads
def test_files(protocol: str, threads: int) -> None:
    data = os.urandom(300_000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()

        def app(exchange: Exchange) -> None:
            stream = exchange.request.stream
            exchange.send(ResponseHead(stream, "200 OK", [("Content-Length", "299990")]))
            exchange.send_file(file.fileno(), 10, 299_990)
            exchange.send(EndOfResponse(stream))

        with Served(app, protocol, threads=threads) as served, served.connect() as peer:
            assert peer.get().body == data[10:]


@every_protocol
def test_file_that_is_too_short(protocol: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"short")
        file.flush()

        def app(exchange: Exchange) -> None:
            exchange.send(ResponseHead(exchange.request.stream, "200 OK", [("Content-Length", "10")]))
            with pytest.raises(LocalProtocolError):
                exchange.send_file(file.fileno(), 0, 10)
            exchange.abandon()

        with Served(app, protocol) as served, served.connect() as peer:
            peer.send(request(protocol))
            data = peer.read()
            assert b"short" in data
