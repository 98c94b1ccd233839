"""What the listeners of each protocol make of a connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import pytest

from gateways.apps import Exchange
from gateways.codecs.events import Refused
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import LimitExceeded
from gateways.limits import DEFAULT_LIMITS, Limits
from gateways.server.multiplex import MultiplexConnection
from gateways.server.protocols import Protocols
from tests.codecs.fastcgi_wire import ask, pairs
from tests.server.peers import PROTOCOLS, Peer, request
from tests.server.pools import MemoryLog, Served, reply, within


def protocols(limits: Limits = DEFAULT_LIMITS, **changed: bool) -> Protocols:
    return Protocols(limits, host="example.org", port="8080", max_conns=12, max_reqs=34, **changed)


@contextlib.contextmanager
def served() -> Iterator[Served]:
    with Served(lambda exchange: None, "auto") as made:
        yield made


@pytest.mark.parametrize(
    ("protocol", "codec"),
    [("fastcgi", FastCGICodec), ("scgi", SCGICodec), ("uwsgi", UWSGICodec), ("http", HTTP1Codec)],
)
def test_codecs(protocol: str, codec: type) -> None:
    made = protocols().codec(protocol, ("192.0.2.1", 5))
    assert type(made) is codec
    assert made.protocol == protocol


def test_only_fastcgi_is_multiplexed() -> None:
    with served() as made:
        for protocol in PROTOCOLS:
            ours, theirs = socket.socketpair()
            with theirs:
                connection = protocols().connect(protocol, made.pool, ours.detach(), "")
                assert isinstance(connection, MultiplexConnection) == (protocol == "fastcgi")
                connection.close()


def test_every_connection_has_its_own_codec() -> None:
    made = protocols()
    for protocol in PROTOCOLS:
        assert made.codec(protocol, "") is not made.codec(protocol, "")


def test_fastcgi_front_ends_are_told_the_numbers() -> None:
    codec = protocols().codec("fastcgi", "")
    codec.feed(ask("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"))
    assert codec.data_to_send()[8:] == pairs({"FCGI_MAX_CONNS": "12", "FCGI_MAX_REQS": "34", "FCGI_MPXS_CONNS": "1"})


def test_modifier30_by_option_only() -> None:
    wire = b"\x1e" + request("uwsgi")[1:]
    assert protocols(modifier30=True).codec("uwsgi", "").feed(wire)
    with pytest.raises(Exception, match="modifier1 30"):
        protocols().codec("uwsgi", "").feed(wire)


def test_limits_reach_the_codecs() -> None:
    for protocol in PROTOCOLS:
        codec = protocols(Limits(params_bytes=100)).codec(protocol, "")
        wire = request(protocol, "/" + "x" * 200)
        if protocol == "fastcgi":  # which refuses the request alone
            (event,) = codec.feed(wire)
            assert isinstance(event, Refused)
            assert isinstance(event.error, LimitExceeded)
        else:
            with pytest.raises(LimitExceeded):
                codec.feed(wire)


def test_what_http_tells_of_both_ends() -> None:
    seen: list[dict[str, str]] = []

    def app(exchange: Exchange) -> None:
        seen.append(exchange.request.params)
        reply(exchange, b"x")

    for tcp in (True, False):
        with Served(app, "http", tcp=tcp) as made, made.connect() as peer:
            name = peer.sock.getsockname()
            answer = peer.get()
            params = seen.pop()
            assert params["GATEWAY_INTERFACE"] == "CGI/1.1"
            assert (params["SERVER_NAME"], params["SERVER_PORT"]) == ("localhost", "80")
            client = (name[0], str(name[1])) if tcp else ("", "")
            assert (params["REMOTE_ADDR"], params["REMOTE_PORT"]) == client
            (date,) = [line for line in answer.head.split(b"\r\n") if line.startswith(b"Date: ")]
            assert date.endswith(b" GMT")
            assert parsedate_to_datetime(date[6:].decode()).year > 2000


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("threads", [1, 3])
def test_auto_hands_the_socket_over(protocol: str, threads: int) -> None:
    """From the accept at once, and from the poller after a wait; the deadline goes with it."""

    def app(exchange: Exchange) -> None:
        reply(exchange, exchange.protocol.encode() + exchange.body.read())

    with Served(app, "auto", threads=threads) as made:
        for wait in (False, True):
            with Peer(made.address, protocol) as peer:
                if wait:
                    made.await_connections(1)
                peer.send(request(protocol, "/", b"1", keep=protocol in ("fastcgi", "http")))
                if protocol in ("fastcgi", "http"):
                    assert peer.next_answer()[1].body == protocol.encode() + b"1"
                    assert peer.keep_get("/", b"2").body == protocol.encode() + b"2"
                    assert made.open_connections() == 1
                else:
                    assert peer.answer().body == protocol.encode() + b"1"
            made.await_connections(0)


def test_auto_answers_a_ping() -> None:
    with Served(protocol="auto") as made, Peer(made.address) as peer:
        peer.send(b"\x64")
        made.await_connections(1)
        peer.send(b"\0\0\0")
        assert peer.read() == b"\x64\0\0\1"


def test_auto_leaves_nothing_behind() -> None:
    log = MemoryLog()
    with Served(protocol="auto", log=log) as made:
        for first in (b"", b"P", b"GET", b"\1", b"\0", b"12", b"\x16"):
            with Peer(made.address) as peer:
                peer.send(first)
                made.await_connections(1)
            made.await_connections(0)
    within(lambda: len(log.lines) == 6, "one line for each that had begun")
