"""The shared secret: who brings it is served, nobody behind sees it; over every protocol, on real sockets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import pytest

from gateways.apps import Exchange, WatchedExchange
from gateways.apps.secret import SecretApp
from gateways.codecs.events import Event, Request, ResponseHead
from gateways.errors import PeerClosed
from gateways.testing.framing.fastcgi_records import BEGIN, PARAMS, STDIN, pair, rec
from tests.server.peers import PROTOCOLS, Peer, params_of
from tests.server.pools import MemoryLog, Served, reply, within

SECRET: Final = "correct horse, battery staple"
PARAMETER: Final = "GATEWAYS_SECRET"
FIELD: Final = "HTTP_GATEWAYS_SECRET"

Pairs = list[tuple[str, str]]


def shown(exchange: Exchange) -> None:
    """Answer with the names and values of all parameters, and the body."""
    params = exchange.request.params
    lines = [f"{name}={value}" for name, value in params.items()]
    reply(exchange, "\n".join([*lines, exchange.body.read().decode()]).encode("latin-1"))


def wire(protocol: str, extra: Pairs, body: bytes = b"", *, keep: bool = False, method: str = "") -> bytes:
    """A request with these parameters more; over HTTP with the fields that become them."""
    params = params_of("/", body, None)
    params["REQUEST_METHOD"] = method = method or params["REQUEST_METHOD"]
    items = [*params.items(), *extra]
    if protocol == "http":
        lines = [f"{method} / HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name.removeprefix('HTTP_').replace('_', '-')}: {value}" for name, value in extra]
        if not keep:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    if protocol == "fastcgi":
        block = b"".join(pair(name, value) for name, value in items)
        records = [
            rec(BEGIN, 1, struct.pack(">HB5x", 1, int(keep))), rec(PARAMS, 1, block), rec(PARAMS, 1),
            *(rec(STDIN, 1, body[at : at + 60_000]) for at in range(0, len(body), 60_000)), rec(STDIN, 1),
        ]  # fmt: skip
        return b"".join(records)
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in items]
    if protocol == "scgi":
        block = b"".join(name + b"\0" + value + b"\0" for name, value in raw)
        return b"%d:%b,%b" % (len(block), block, body)
    block = b"".join(struct.pack("<H", len(text)) + text for item in raw for text in item)
    return struct.pack("<BHB", 0, len(block), 0) + block + body


def right(protocol: str, secret: str = SECRET) -> tuple[str, str]:
    """What a front end sends."""
    return (FIELD if protocol == "http" else PARAMETER), secret


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def served(protocol: str, log: MemoryLog) -> Iterator[Served]:
    with Served(SecretApp(shown, SECRET, log), protocol, log=log) as made:
        yield made


def ask(served: Served, extra: Pairs, body: bytes = b"", method: str = "") -> tuple[int, bytes]:
    with served.connect() as peer:
        peer.send(wire(served.protocol, extra, body, method=method))
        answer = peer.answer()
        return answer.status, answer.body


def test_who_brings_it_is_served(served: Served, protocol: str, log: MemoryLog) -> None:
    status, body = ask(served, [right(protocol), ("HTTP_X_A", "b")], b"the body")
    assert status == 200
    assert b"HTTP_X_A=b" in body
    assert body.endswith(b"the body")
    assert b"SECRET" not in body
    assert SECRET.encode() not in body
    assert log.lines == []


def test_without_it(served: Served, protocol: str, log: MemoryLog) -> None:
    status, body = ask(served, [], b"the body")
    assert status == 403
    assert body == b"403 Forbidden\n"
    what = "header field Gateways-Secret" if protocol == "http" else "parameter GATEWAYS_SECRET"
    assert log.lines == [f"{protocol}: 403: the {what} is missing (--secret)"]


@pytest.mark.parametrize(
    "wrong", [SECRET[:-1], SECRET + "x", SECRET.upper(), "x" * len(SECRET), "0", "caf\xe9", "\xff" * 30]
)
def test_a_wrong_one(served: Served, protocol: str, wrong: str, log: MemoryLog) -> None:
    status, body = ask(served, [right(protocol, wrong)])
    assert status == 403
    assert wrong.encode("latin-1") not in body or wrong == "0"
    assert len(log.lines) == 1
    assert " is wrong (--secret)" in log.lines[0]
    assert wrong not in log.lines[0] or wrong == "0", "it may be the right one of another server, or nearly right"


def test_an_empty_one_is_a_missing_one(served: Served, protocol: str, log: MemoryLog) -> None:
    assert ask(served, [right(protocol, "")])[0] == 403
    assert "is missing" in log.lines[0]


def test_head_gets_no_body(served: Served) -> None:
    assert ask(served, [], method="HEAD") == (403, b"")


def test_a_client_cannot_bring_it(served: Served, protocol: str) -> None:
    """Its fields come as HTTP_*: that is what counts over HTTP alone. There, no field can become GATEWAYS_SECRET."""
    if protocol == "http":
        for field in ("Gateways_Secret", "GATEWAYS_SECRET", "Http-Gateways-Secret", "X-Gateways-Secret"):
            with served.connect() as peer:
                peer.send(f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}: {SECRET}\r\n\r\n".encode())
                assert peer.answer().status == 403
    else:
        assert ask(served, [(FIELD, SECRET)])[0] == 403


def test_both_names_are_always_taken_away(protocol: str) -> None:
    """Also the one that does not count here, and where the request is refused."""
    seen: list[dict[str, str]] = []
    inner = SecretApp(shown, SECRET, MemoryLog())

    def noting(exchange: WatchedExchange) -> None:
        inner(exchange)
        seen.append(exchange.request.params)

    with Served(noting, protocol) as made:
        sent = [(FIELD, SECRET)] if protocol == "http" else [(FIELD, "a client's"), (PARAMETER, SECRET)]
        assert ask(made, sent)[0] == 200
        assert ask(made, [(name, "wrong") for name, _ in sent])[0] == 403
    assert len(seen) == 2
    for params in seen:
        assert params["REQUEST_METHOD"] == "GET"
        assert PARAMETER not in params
        assert FIELD not in params
        assert SECRET not in params.values()


def test_repeated_ones(protocol: str, log: MemoryLog) -> None:
    """The same one twice is one; where two differ, nobody guesses."""
    with Served(SecretApp(shown, SECRET, log), protocol, log=log) as made:
        name = right(protocol)[0]
        if protocol != "http":
            assert ask(made, [(name, SECRET), (name, SECRET)])[0] == 200
        for one, two in ((SECRET, "x"), ("x", SECRET)):
            assert ask(made, [(name, one), (name, two)])[0] == (403 if protocol == "http" else 400)


def test_a_secret_of_other_letters(protocol: str, log: MemoryLog) -> None:
    """Compared as UTF-8, as configuration files are written."""
    with Served(SecretApp(shown, "schlüssel", log), protocol, log=log) as made:
        assert ask(made, [right(protocol, "schlüssel".encode().decode("latin-1"))])[0] == 200
        assert ask(made, [right(protocol, "schlüssel")])[0] == 403


def test_the_body_is_drained(protocol: str, log: MemoryLog) -> None:
    """Else the close would be a reset, which overtakes the answer; and a kept connection goes on."""
    body = bytes(3_000_000)
    with Served(SecretApp(shown, SECRET, log), protocol, tcp=True, log=log) as made:
        with Peer(made.address, protocol) as peer:
            peer.send(wire(protocol, [], body))
            assert peer.answer().status == 403
        if protocol in ("fastcgi", "http"):
            with Peer(made.address, protocol) as peer:
                peer.send(wire(protocol, [], body, keep=True))
                assert peer.next_answer()[1].status == 403
                peer.send(wire(protocol, [right(protocol)], keep=True))
                assert peer.next_answer()[1].status == 200
    assert len(log.lines) == (2 if protocol in ("fastcgi", "http") else 1)


class Gone:
    """An exchange whose peer has gone away."""

    protocol = "scgi"
    peer = "unix"
    error_output = False

    def __init__(self) -> None:
        self.request = Request(1, {"REQUEST_METHOD": "GET"})
        self.sent: list[Event] = []

    def send(self, event: Event) -> None:
        self.sent.append(event)
        raise PeerClosed("the peer went away: Broken pipe")


def test_a_peer_that_is_gone() -> None:
    log = MemoryLog()
    exchange = Gone()
    SecretApp(shown, SECRET, log)(exchange)  # type: ignore[arg-type]  # as much of one as is needed
    assert isinstance(exchange.sent[0], ResponseHead)
    assert log.lines[1:] == ["scgi: the peer went away: Broken pipe"]


def test_no_secret_is_an_error() -> None:
    with pytest.raises(ValueError, match="no secret"):
        SecretApp(shown, "", MemoryLog())


def test_the_apps_own_failure_is_its_own(protocol: str, log: MemoryLog) -> None:
    def failing(exchange: Exchange) -> None:
        raise ZeroDivisionError

    with Served(SecretApp(failing, SECRET, log), protocol, log=log, failures=[ZeroDivisionError]) as made:
        with made.connect() as peer:
            peer.send(wire(protocol, [right(protocol)]))
            peer.read()
        within(lambda: log.failures, "it is not swallowed")
