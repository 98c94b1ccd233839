"""What the listeners of each protocol make of a connection."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from typing import Final

import pytest

from gateways.apps import App, Exchange
from gateways.codecs.events import Refused
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import LimitExceeded
from gateways.limits import DEFAULT_LIMITS, Limits, Timeouts
from gateways.server.admission import Networks
from gateways.server.exchange import Exchange as ServerExchange
from gateways.server.multiplex import MultiplexConnection
from gateways.server.protocols import BehindProxy, Protocols
from gateways.testing.framing.fastcgi_records import ask, pairs
from tests.server.peers import PROTOCOLS, Peer, head_of, request
from tests.server.pools import TIMEOUTS, MemoryLog, Served, reply, within


def protocols(limits: Limits = DEFAULT_LIMITS, *, modifier30: bool = False) -> Protocols:
    return Protocols(limits, host="example.org", port="8080", max_conns=12, max_reqs=34, modifier30=modifier30)


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


# -- behind a proxy

V1: Final = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"
V1_6: Final = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n"
V1_UNKNOWN: Final = b"PROXY UNKNOWN\r\n"
V2: Final = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xcb\0\x71\x07\xc0\0\2\1\x12\x67\0\x50\4\0\0"  # with a TLV, PP2_TYPE_NOOP
)
V2_UNIX: Final = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8" + b"/run/client.sock".ljust(216, b"\0")
V2_LOCAL: Final = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
CLAIMED: Final = {
    V1: ("203.0.113.7", "4711"),
    V1_6: ("2001:db8::7", "4711"),
    V1_UNKNOWN: None,
    V2: ("203.0.113.7", "4711"),
    V2_UNIX: ("", ""),
    V2_LOCAL: None,
}
"""Header -> REMOTE_ADDR and REMOTE_PORT over HTTP; None is the connection's own peer."""
NOT_HERE: Final = "192.0.2.0/24"


def who(exchange: Exchange) -> None:
    """Answer with the peer, for the log and for the application, and with the body."""
    assert isinstance(exchange, ServerExchange)
    params = exchange.request.params
    parts = [exchange.peer, params["REMOTE_ADDR"], params.get("REMOTE_PORT", "-"), exchange.body.read().decode()]
    reply(exchange, "|".join(parts).encode())


def behind(
    protocol: str,
    networks: str = "127.0.0.0/8",
    *,
    app: App = who,
    threads: int = 1,
    tcp: bool = True,
    timeouts: Timeouts = TIMEOUTS,
    log: MemoryLog | None = None,
    failures: Iterable[type[BaseException]] = (),
) -> Served:
    """A server with --proxy-from."""
    made = Served(app, protocol, threads=threads, tcp=tcp, timeouts=timeouts, log=log, failures=failures)
    made.listener._connector = BehindProxy(
        made.listener._connector, Networks(ipaddress.ip_network(text) for text in networks.split())
    )
    return made


def expected(protocol: str, header: bytes, peer: Peer) -> str:
    own = peer.sock.getsockname()
    claimed = CLAIMED[header]
    host, port = (own[0], str(own[1])) if claimed is None else claimed
    logged = f"{host}:{port}" if host else "unix"
    # Over the other protocols the web server has told its client's address.
    return f"{logged}|{host}|{port}" if protocol == "http" else f"{logged}|192.0.2.7|-"


@pytest.mark.parametrize("header", CLAIMED, ids=["1", "1 by IPv6", "1 UNKNOWN", "2", "2 UNIX", "2 LOCAL"])
@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_source_becomes_the_peer(protocol: str, auto: bool, header: bytes) -> None:
    """With the request in one piece; in two; byte by byte; and from the poller."""
    wire = request(protocol, "/", b"body")
    with behind("auto" if auto else protocol) as made:
        for cut in (0, len(header), len(header) + 1, 5, 13):
            with Peer(made.address, protocol) as peer:
                peer.send((header + wire)[:cut])
                if cut:
                    made.await_connections(1)
                peer.send((header + wire)[cut:])
                assert peer.answer().body.decode() == expected(protocol, header, peer) + "|body"
        with Peer(made.address, protocol) as peer:
            peer.send_bytewise(header + wire)
            assert peer.answer().body.decode() == expected(protocol, header, peer) + "|body"
        made.await_connections(0)
        assert made.log.lines == []


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_source_is_that_of_the_whole_connection(protocol: str, auto: bool, threads: int) -> None:
    """A header begins a connection, not a request."""
    with behind("auto" if auto else protocol, threads=threads) as made, Peer(made.address, protocol) as peer:
        peer.send(V1)
        made.await_connections(1)
        for body in (b"", b"1", b"x" * 100_000):
            assert peer.keep_get("/", body).body.decode() == f"{expected(protocol, V1, peer)}|{body.decode()}"
            assert made.open_connections() == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_body_that_comes_later(protocol: str) -> None:
    with behind(protocol, threads=2) as made, Peer(made.address, protocol) as peer:
        peer.send(V2 + head_of(protocol, length=4))
        if protocol == "fastcgi":
            peer.stdin(1, b"late", end=True)
        else:
            peer.send(b"late")
        assert peer.answer().body.decode() == expected(protocol, V2, peer) + "|late"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("auto", [False, True])
def test_listed_peers_must_begin_with_a_header(protocol: str, auto: bool) -> None:
    log = MemoryLog()
    with behind("auto" if auto else protocol, log=log) as made, Peer(made.address, protocol) as peer:
        host, port = peer.sock.getsockname()
        peer.send(request(protocol))
        assert peer.read() == b""
        log.only(f"refused: proxy {host}:{port}: the connection does not begin with a PROXY header")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize(("tcp", "networks"), [(True, NOT_HERE), (False, "0.0.0.0/0 ::/0")])
@pytest.mark.parametrize("header", [V1, V2], ids=["1", "2"])
def test_other_peers_may_not(protocol: str, auto: bool, tcp: bool, networks: str, header: bytes) -> None:
    """They are served as if there were no list, and those of a unix socket are never in it."""
    log = MemoryLog()
    with behind("auto" if auto else protocol, networks, tcp=tcp, log=log) as made:
        with Peer(made.address, protocol) as peer:
            assert b"203.0.113.7" not in peer.get("/", b"body").body
        assert log.lines == []
        with Peer(made.address, protocol) as peer:
            peer.send(header)
            peer.end()
            answer = peer.read()
            assert b"|" not in answer, "the application was not asked"
        within(lambda: len(log.lines) == 1, "it is logged")
        assert log.lines[0].startswith("refused: ")
        if auto:
            assert "the PROXY protocol is not accepted from here" in log.lines[0]


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "auto"])
def test_one_header_and_no_more(protocol: str) -> None:
    """The second one is the connection's own bytes, which are no request."""
    log = MemoryLog()
    with behind(protocol, log=log) as made, Peer(made.address, "http") as peer:
        peer.send(V1 + V2 + request("http"))
        assert b"|" not in peer.read()
        within(lambda: log.lines, "it is logged")
        assert log.lines[0].startswith(f"refused: {protocol} 203.0.113.7:4711: ")


def test_a_malformed_header() -> None:
    log = MemoryLog()
    with behind("http", log=log) as made, Peer(made.address) as peer:
        host, port = peer.sock.getsockname()
        peer.send(b"PROXY TCP4 203.0.113.777 192.0.2.1 4711 80\r\n" + request("http"))
        assert peer.read() == b"", "nothing is known in which to answer"
        log.only(f"refused: proxy {host}:{port}: '203.0.113.777' in a PROXY line is no IPv4 address")


@pytest.mark.parametrize("protocol", ["http", "fastcgi", "auto"])
def test_proxies_leave_nothing_behind(protocol: str) -> None:
    """They close before the header, within it, and behind it: one line for each that had begun."""
    log = MemoryLog()
    with behind(protocol, log=log) as made:
        for first in (b"", b"P", V1[:-1], V2[:14], V1, V2_LOCAL):
            with Peer(made.address) as peer:
                peer.send(first)
                made.await_connections(1)
            made.await_connections(0)
        within(lambda: len(log.lines) >= 3, "those that had begun")
    assert len(log.lines) == 3
    assert all("the peer closed within its PROXY header" in line for line in log.lines)


@pytest.mark.parametrize("protocol", ["http", "fastcgi", "auto"])
def test_the_deadline_of_a_head_holds_from_the_accept(protocol: str) -> None:
    """For the header and the request's head together."""
    log = MemoryLog()
    short = Timeouts(head=0.2, body=10.0, write=10.0, keepalive=10.0, drain=1.0)
    with behind(protocol, timeouts=short, log=log) as made:
        for first, words in ((b"", ""), (V2[:20], "no whole PROXY header came in 0.2 s"), (V1, "")):
            with Peer(made.address) as peer:
                peer.send(first)
                made.await_connections(1)
                assert peer.wait_closed() < 5
            assert [words for _ in log.lines] == [line.rpartition(": ")[2] for line in log.lines]
            log.lines.clear()


def test_proxies_when_the_worker_stops() -> None:
    with behind("http") as made, Peer(made.address) as peer:
        peer.send(V1)
        made.await_connections(1)
        made.stop()
        peer.wait_closed()


@pytest.mark.parametrize("protocol", ["http", "auto"])
def test_a_failure_of_the_successor_closes_the_socket(protocol: str) -> None:
    def app(exchange: Exchange) -> None:
        raise ZeroDivisionError

    with behind(protocol, app=app, failures=[ZeroDivisionError] * 2) as made:
        for wait in (False, True):
            with Peer(made.address) as peer:
                if wait:
                    made.await_connections(1)
                peer.send(V1 + request("http"))
                assert peer.read() == b""
        made.await_connections(0)


def test_without_a_list_nothing_stands_between() -> None:
    with behind("http", NOT_HERE) as made:
        inner = protocols()
        outer = BehindProxy(inner, Networks(()))
        ours, theirs = socket.socketpair()
        with theirs:
            connection = outer.connect("http", made.pool, ours.detach(), ("127.0.0.1", 1))
            assert type(connection) is type(inner.connect("http", made.pool, connection.fd, ""))
            connection.close()
