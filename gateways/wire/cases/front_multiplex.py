"""FastCGI 1.0 section 3.3: several requests of a web server at the same time on one connection, where it does that."""

from __future__ import annotations

from typing import Final

from gateways.codecs.fastcgi_records import FCGI_STDOUT
from gateways.wire.backend import Arrival
from gateways.wire.backend_fastcgi import FastCGIPeer, end_request, stdout
from gateways.wire.case import Failure, Skip
from gateways.wire.cases.front_response import gets
from gateways.wire.fastcgi import rec
from gateways.wire.front import Exchange, FrontCase, FrontContext, Row, plain, table

__all__ = ["CASES"]

IDS: Final = "FastCGI 1.0, 3.3 Managing Request IDs"
ABORT: Final = "FastCGI 1.0, 5.4 FCGI_ABORT_REQUEST"
COUNT: Final = 3

Together = list[tuple[Exchange, Arrival]]


def together(context: FrontContext, *, body: bytes | None = None) -> Together:
    """Some requests that share connections; raises Skip where they do not."""
    context.arrived(context.ask())
    method = "GET" if body is None else "POST"
    exchanges = [context.ask(method, query=f"n={number}", body=body) for number in range(COUNT)]
    found = [(exchange, exchange.arrives()) for exchange in exchanges]
    if len({arrival.peer for _, arrival in found}) == COUNT:
        raise Skip("the web server sends one request at a time on a connection")
    return found


def own(arrival: Arrival) -> bytes:
    """A body that is this request's."""
    return b"of " + arrival.params.get("QUERY_STRING", "").encode("latin-1")


def end(arrival: Arrival) -> None:
    """End one response."""
    if isinstance(arrival.peer, FastCGIPeer):
        arrival.peer.complete(arrival, rec(FCGI_STDOUT, arrival.number) + end_request(arrival.number))


def ids(context: FrontContext) -> None:
    """Requests that are active at the same time have ids of their own."""
    found = together(context)
    used = [(id(arrival.peer), arrival.number) for _, arrival in found]
    twice = "; ".join([peer.faults["twice"] for peer in context.peers if "twice" in peer.faults])
    if len(set(used)) < len(used) or twice:
        raise Failure("ids of their own", twice or str([number for _, number in used]))
    for exchange, arrival in found:
        arrival.answer(plain(context.protocol, own(arrival)))
        gets(exchange.response(), own(arrival))


def bodies(context: FrontContext) -> None:
    """Each has its own body."""
    body = b"x" * 5_000
    for exchange, arrival in together(context, body=body):
        if arrival.body != body:
            raise Failure(f"a body of {len(body)} bytes", f"{len(arrival.body)} bytes")
        arrival.answer(plain(context.protocol, own(arrival)))
        gets(exchange.response(), own(arrival))


def interleaved(context: FrontContext) -> None:
    """Responses whose records alternate arrive each whole with its own client."""
    found = together(context)
    data = [plain(context.protocol, own(arrival) * 20) for _, arrival in found]
    for at in range(0, max(map(len, data)), 16):
        for (_, arrival), text in zip(found, data, strict=True):
            arrival.peer.send(stdout(arrival.number, text[at : at + 16]))
    for _, arrival in found:
        end(arrival)
    for exchange, arrival in found:
        gets(exchange.response(), own(arrival) * 20)


def reverse(context: FrontContext) -> None:
    """The request with the highest id is answered first; which client's that is depends on who was faster."""
    found = together(context)
    for exchange, arrival in sorted(found, key=lambda one: one[1].number, reverse=True):
        arrival.answer(plain(context.protocol, own(arrival)))
        gets(exchange.response(), own(arrival))


def left(context: FrontContext) -> None:
    """A client that leaves does no harm to the others on the connection."""
    found = together(context)
    found[0][0].wire.close()
    context.hub.until(lambda: found[0][1].left, min(context.seconds, 0.5))
    for exchange, arrival in found[1:]:
        arrival.answer(plain(context.protocol, own(arrival)))
        gets(exchange.response(), own(arrival))


def failed(context: FrontContext) -> None:
    """A response that is none does no harm to the others on the connection."""
    found = together(context)
    bad, wrong = found[0]
    wrong.answer(b"no head at all\n")
    if bad.response().status < 500:
        raise Failure("an error (5xx) for the client", str(bad.response()))
    for exchange, arrival in found[1:]:
        arrival.answer(plain(context.protocol, own(arrival)))
        gets(exchange.response(), own(arrival))


ROWS: Final[list[Row]] = [
    ("ids", "active requests have different ids", IDS, "MUST", ids),
    ("bodies", "active requests have each their body", IDS, "MUST", bodies),
    ("interleaved", "records of several answers in turn", IDS, "MUST", interleaved),
    ("reverse", "answers in the reverse order", IDS, "MUST", reverse),
    ("left", "one client leaves, and the others are served", ABORT, "MUST", left),
    ("failed", "one answer is none, and the others are served", IDS, "SHOULD", failed),
]
CASES: Final[list[FrontCase]] = table("fastcgi.front.multiplex", ROWS)
