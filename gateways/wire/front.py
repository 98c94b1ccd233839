"""What a case of a web server runs with: HTTP requests on one side, what reaches the backend on the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateways.wire.backend import Arrival, Peer
from gateways.wire.case import Failure, Level, Needs
from gateways.wire.hub import Hub, Wire
from gateways.wire.web import FrontEnd, Response, is_whole, read_response, request_bytes

__all__ = ["AT_ONCE", "PAUSE", "Exchange", "FrontCase", "FrontContext", "Row", "Run", "head", "plain", "table"]

PAUSE: Final = 0.002
"""Between two writes that the web server shall read apart; whether it does is its own affair."""
AT_ONCE: Final = 6
"""So many requests at the same time use every connection that is kept, as a rule."""
SEEN: Final = 0.05
"""Seconds in which a web server notices that a connection was closed."""
PATH: Final = "/conform"
TEXT: Final = "Content-Type: text/plain"
MARK: Final = "X-Conform"
TOKENS: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class FrontCase:
    """One rule and the requests that show whether a web server keeps it."""

    id: str
    title: str
    section: str
    """Of the specification, or the measured behaviour of a web server, that justifies it."""
    level: Level
    run: Callable[[FrontContext], None]
    needs: Needs = "wire"


Run: TypeAlias = "Callable[[FrontContext], None]"
Row: TypeAlias = tuple[str, str, str, Level, Run]
"""The end of an id, then a case's other fields."""


def table(prefix: str, rows: Iterable[Row]) -> list[FrontCase]:
    """Cases whose ids begin alike."""
    return [FrontCase(f"{prefix}.{name}", title, section, level, run) for name, title, section, level, run in rows]


def head(protocol: str, status: str, *lines: str, end: str = "\r\n") -> bytes:
    """A response head in the form that the web servers' modules for the protocol take; ``status`` may be empty."""
    first = [("HTTP/1.1 " if protocol == "uwsgi" else "Status: ") + status] if status else []
    return end.join([*first, *lines, "", ""]).encode("latin-1")


def plain(protocol: str, text: bytes = b"as asked\n", status: str = "200 OK", *lines: str) -> bytes:
    """A whole response."""
    return head(protocol, status, TEXT, f"Content-Length: {len(text)}", *lines) + text


class FrontContext:
    """The web server, the backend that it asks, and the connections of one case."""

    def __init__(self, front: FrontEnd, protocol: str, hub: Hub, seconds: float) -> None:
        self.front = front
        self.protocol = protocol
        self.hub = hub
        self.seconds = seconds
        self.exchanges: list[Exchange] = []
        self.about_request = False
        """A failure is about what the web server sends to the backend."""

    @property
    def peers(self) -> list[Peer]:
        """Its connections to the backend."""
        return [wire for wire in self.hub.wires if isinstance(wire, Peer)]

    def ask(
        self,
        method: str = "GET",
        *,
        tail: str = "",
        query: str = "",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        version: str = "1.1",
    ) -> Exchange:
        """Send one request to the web server; raises OSError."""
        token = str(next(TOKENS))
        target = self.target(tail, query)
        data = request_bytes(self.front, method, target, [(MARK, token), *headers], body, version)
        wire = Wire(self.front.connect(self.seconds))
        self.hub.add(wire)
        wire.send(data)
        exchange = Exchange(self, wire, method, token)
        self.exchanges.append(exchange)
        return exchange

    def target(self, tail: str = "", query: str = "") -> str:
        """The request target that ``ask`` sends."""
        return self.front.path + PATH + tail + (f"?{query}" if query else "")

    def arrived(self, exchange: Exchange) -> Arrival:
        """Answer this request when it is whole; raises Failure where it does not come or is not served."""
        self.about_request = True
        arrival = exchange.arrives()
        self.hub.rest(PAUSE)
        arrival.answer(plain(self.protocol) if exchange.method != "HEAD" else head(self.protocol, "200 OK", TEXT))
        response = exchange.response()
        if response.status != 200:
            raise Failure("status 200 for the client", str(response))
        return arrival

    def shown(self) -> tuple[bytes, bytes]:
        """What was sent and received, last: by the backend where the case is about that, else by the client."""
        if not self.exchanges:
            return b"", b""
        exchange = self.exchanges[-1]
        peer = exchange.arrival.peer if exchange.arrival else next(iter(self.peers[-1:]), None)
        if self.about_request or peer is None:
            return bytes(exchange.wire.sent), bytes(peer.received) if peer else bytes(exchange.wire.received)
        return bytes(peer.sent), bytes(exchange.wire.received)

    def close(self) -> None:
        """Close all connections but those to the backend that are idle and in order: they may be used again."""
        for exchange in self.exchanges:
            exchange.wire.close()
        unfit = [peer for peer in self.peers if not peer.is_idle]
        for peer in unfit:
            peer.end()
        self.hub.until(lambda: all(peer.eof for peer in unfit), SEEN)
        for peer in self.peers:
            if peer in unfit or not peer.is_idle:
                peer.close()
            else:
                peer.forget()
        self.hub.forget_closed()


class Exchange:
    """One request of the client, and what becomes of it."""

    def __init__(self, context: FrontContext, wire: Wire, method: str, token: str) -> None:
        self.context = context
        self.wire = wire
        self.method = method
        self.token = token
        self.arrival: Arrival | None = None

    def found(self) -> list[Arrival]:
        """What has come to the backend of it."""
        name = "HTTP_" + MARK.upper().replace("-", "_")
        return [
            arrival
            for peer in self.context.peers
            for arrival in peer.arrivals
            if arrival.ready and arrival.params.get(name) == self.token
        ]

    def over(self) -> bool:
        """Whether the whole request has come, or the client got something in its place."""
        return self.wire.eof or any(arrival.whole for arrival in self.found())

    def arrives(self, *, whole: bool = True) -> Arrival:
        """Wait for the request at the backend, or for its parameters alone; raises Failure."""
        context = self.context

        def there() -> bool:
            if any(peer.unreadable for peer in context.peers) or self.wire.eof:
                return True
            return any(arrival.whole or not whole for arrival in self.found())

        context.hub.until(there, context.seconds)
        arrivals = [arrival for arrival in self.found() if arrival.whole or not whole]
        if arrivals:
            self.arrival = arrivals[-1]
            return self.arrival
        context.about_request = True
        for peer in context.peers:
            if peer.unreadable:
                raise Failure("a request that can be read", peer.unreadable)
        what = "a whole request" if whole else "a request"
        raise Failure(f"{what} at the backend", self.instead())

    def instead(self) -> str:
        """What has come in the place of a request."""
        if self.wire.received_bytes:
            return f"{read_response(bytes(self.wire.buffer), self.method)} for the client"
        if self.wire.eof:
            return "the web server closed the client's connection"
        faults = [f"{name}: {text}" for peer in self.context.peers for name, text in peer.faults.items()]
        part = ", ".join(f"{len(arrival.body)} bytes of its body" for arrival in self.found())
        return f"nothing more for {self.context.seconds:g} s ({'; '.join(faults) or part or 'nothing came'})"

    def response(self) -> Response:
        """Wait for the client's response; raises Failure. What the web server asks again is not answered again."""
        context = self.context

        def ended() -> bool:
            for again in self.found():
                if self.arrival is not None and again is not self.arrival and again.peer is not self.arrival.peer:
                    again.peer.close()
            return self.wire.eof or is_whole(bytes(self.wire.buffer), self.method)

        if not context.hub.until(ended, context.seconds):
            got = f"{bytes(self.wire.buffer[:60])!r}, then " if self.wire.buffer else ""
            raise Failure("a response and its end", f"{got}nothing for {context.seconds:g} s")
        context.hub.until(lambda: self.wire.eof, PAUSE * 50)
        if not self.wire.buffer:
            raise Failure("a response", "the web server closed the client's connection")
        return read_response(bytes(self.wire.buffer), self.method)

    def served(self, answer: bytes) -> Response:
        """Give this answer to the whole request, and return what becomes of it."""
        self.arrives().answer(answer)
        return self.response()
