"""FastCGI 1.0 as a web server sends it: records, the streams of a request, kept connections."""

from __future__ import annotations

from typing import Final

from gateways.codecs.fastcgi_records import FCGI_STDOUT
from gateways.wire.backend import Arrival
from gateways.wire.backend_fastcgi import FastCGIPeer, end_request
from gateways.wire.case import Failure, Level, Skip
from gateways.wire.cases import front_body, front_fastcgi_answers, front_multiplex, front_request, front_response
from gateways.wire.cases.front_request import framed
from gateways.wire.cases.front_response import gets
from gateways.wire.fastcgi import rec
from gateways.wire.front import AT_ONCE, PAUSE, FrontCase, FrontContext, Row, Run, head, plain, table

__all__ = ["CASES"]

RECORDS: Final = "FastCGI 1.0, 3.3 Records"
BEGIN: Final = "FastCGI 1.0, 5.1 FCGI_BEGIN_REQUEST"
PARAMS: Final = "FastCGI 1.0, 5.2 FCGI_PARAMS"
STDIN: Final = "FastCGI 1.0, 5.3 FCGI_STDIN"
KEEP: Final = "FastCGI 1.0, 5.1 and 3.5 (FCGI_KEEP_CONN)"
MANAGED: Final = "FastCGI 1.0, 4 Management Record Types"
NOT_KEPT: Final = "the web server does not ask for kept connections"

FAULTS: Final[tuple[tuple[str, str, str, Level, str], ...]] = (
    ("record.version", "every record has version 1", RECORDS, "MUST", "version"),
    ("record.types", "only types that web servers send", "FastCGI 1.0, 3.3 Types of Record Types", "MUST", "types"),
    ("record.id", "no request has the id 0", "FastCGI 1.0, 3.3 Managing Request IDs", "MUST", "id"),
    ("record.active", "records of active requests only", "FastCGI 1.0, 3.3 Managing Request IDs", "MUST", "inactive"),
    ("record.reserved", "the reserved byte is 0", RECORDS, "SHOULD", "reserved"),
    ("record.whole", "no connection ends within a record", RECORDS, "MUST", "cut"),
    ("management.id", "FCGI_GET_VALUES, if any, has the id 0", "FastCGI 1.0, 4.1 FCGI_GET_VALUES", "MUST",
     "management"),
    ("begin.once", "no id is begun while it is active", BEGIN, "MUST", "twice"),
    ("begin.length", "8 bytes", BEGIN, "MUST", "begin-length"),
    ("begin.role", "the role is FCGI_RESPONDER", BEGIN, "MUST", "role"),
    ("begin.flags", "no flag but FCGI_KEEP_CONN", BEGIN, "SHOULD", "flags"),
    ("begin.reserved", "the reserved bytes are 0", BEGIN, "SHOULD", "begin-reserved"),
    ("params.pairs", "pairs end where the stream ends", "FastCGI 1.0, 3.4 Name-Value Pairs", "MUST", "pairs"),
    ("params.end", "nothing follows the end of FCGI_PARAMS", PARAMS, "MUST", "params-end"),
    ("params.first", "FCGI_PARAMS ends before FCGI_STDIN begins", "measured: so do all web servers", "SHOULD", "order"),
    ("stdin.end", "nothing follows the end of FCGI_STDIN", STDIN, "MUST", "stdin-end"),
    ("stdin.length", "FCGI_STDIN is as long as CONTENT_LENGTH", "RFC 3875, 4.2", "MUST", "length"),
    ("stdin.data", "no FCGI_DATA for a Responder", "FastCGI 1.0, 6.2 Responder", "MUST", "data"),
)  # fmt: skip


def ends(method: str, body: bytes | None) -> Run:
    """FCGI_PARAMS and FCGI_STDIN end with an empty record, without a body too."""

    def run(context: FrontContext) -> None:
        exchange = context.ask(method, body=body)
        context.about_request = True
        if not context.hub.until(exchange.over, context.seconds):
            what = "FCGI_STDIN" if exchange.found() else "FCGI_PARAMS"
            raise Failure(f"an empty record at the end of {what}", f"nothing for {context.seconds:g} s")
        context.arrived(exchange)

    return run


def kept(context: FrontContext, *, body: bytes | None = None) -> Arrival:
    """Have one request served on a connection that is kept; raises Skip where the web server keeps none."""
    arrival = context.arrived(context.ask("GET" if body is None else "POST", body=body))
    if not arrival.keep:
        raise Skip(NOT_KEPT)
    context.hub.rest(PAUSE * 5)
    return arrival


def others(context: FrontContext) -> None:
    """The requests after something odd, on all connections that are kept, have each their own body and answer."""
    bodies = [b"body %d" % number * (number + 1) for number in range(AT_ONCE)]
    exchanges = [context.ask("POST", body=body) for body in bodies]
    arrivals = [exchange.arrives() for exchange in exchanges]
    for exchange, arrival, body in zip(exchanges, arrivals, bodies, strict=True):
        if arrival.body != body:
            raise Failure("the next request's own body", repr(bytes(arrival.body[:60])))
        arrival.answer(plain(context.protocol, body))
        gets(exchange.response(), body)


def not_asked(context: FrontContext) -> None:
    """Where it has not asked for a kept connection, it uses none again, even if the application leaves it open."""
    first = context.ask()
    arrival = first.arrives()
    if arrival.keep:
        raise Skip("the web server asks for kept connections")
    arrival.keep = True  # the backend does as if
    arrival.answer(plain(context.protocol))
    if not context.hub.until(lambda: first.wire.eof or arrival.peer.eof, PAUSE * 50):
        arrival.peer.end()  # nginx waits for the close that is the application's to do
    first.response()
    context.about_request = True
    again = context.ask().arrives()
    if again.peer is arrival.peer:
        raise Failure("a new connection", "another request after one without FCGI_KEEP_CONN")


def reused(context: FrontContext) -> None:
    """A connection that the web server has asked to keep serves its next request."""
    used = [*context.peers, kept(context).peer]
    later = [context.arrived(context.ask()) for _ in range(3)]
    if all(arrival.peer not in used for arrival in later):
        raise Failure("another request on a kept connection", "a new connection for each")


def own(context: FrontContext) -> None:
    """Each request on kept connections has its own parameters and body."""
    kept(context, body=b"first")
    for number in range(4):
        body = b"%d" % number * number
        arrival = context.arrived(context.ask("POST", headers=[(f"X-Conform-{number}", "a")], body=body))
        before = f"HTTP_X_CONFORM_{number - 1}"
        if arrival.body != body or before in arrival.params or f"HTTP_X_CONFORM_{number}" not in arrival.params:
            raise Failure(f"the parameters and the body of request {number}", f"{arrival.params}, {arrival.body!r}")


def closed(context: FrontContext) -> None:
    """A kept connection that the application has closed meanwhile loses no request."""
    for _ in range(3):
        kept(context).peer.close()
        context.hub.rest(PAUSE * 10)
        context.arrived(context.ask())
        for peer in context.peers:
            peer.close()
        context.hub.rest(PAUSE * 10)


def early(context: FrontContext) -> None:
    """After an answer that came before the end of the body, a kept connection is not out of step."""
    kept(context)
    exchange = context.ask("POST", headers=[("Content-Length", "60000")])
    exchange.wire.send(b"x" * 20_000)
    late = context.hub.until(exchange.found, PAUSE * 25)
    if not late:  # it keeps the body until it has all
        exchange.wire.send(b"x" * 40_000)
    exchange.arrives(whole=False).answer(plain(context.protocol, b"no\n", "403 No"))
    context.hub.until(lambda: exchange.wire.eof, PAUSE * 25)
    if late:
        exchange.wire.send(b"x" * 40_000)
    exchange.response()
    others(context)


def failed(context: FrontContext) -> None:
    """An answer that is broken does not become the next client's on a kept connection."""
    kept(context)
    exchange = context.ask()
    start = head("fastcgi", "200 OK", "Content-Type: text/plain", "Content-Length: 3")
    exchange.arrives().answer(start + b"only three, then more")
    exchange.response()
    others(context)


def end_split(context: FrontContext) -> None:
    """FCGI_END_REQUEST in two packets leaves nothing behind for the next request on the connection."""
    kept(context)
    for offset in (3, 8, 12):
        exchange = context.ask()
        arrival = exchange.arrives()
        peer, end = arrival.peer, end_request(arrival.number)
        arrival.out(plain(context.protocol))
        peer.send(rec(FCGI_STDOUT, arrival.number) + end[:offset])
        context.hub.rest(PAUSE * 5)
        if isinstance(peer, FastCGIPeer):
            peer.complete(arrival, end[offset:])
        gets(exchange.response(), b"as asked\n")
        others(context)


def management(context: FrontContext) -> None:
    """A management record on an idle kept connection harms no later request."""
    first = kept(context)
    first.peer.send(b"\x01\x0b\x00\x00\x00\x08\x00\x00" + b"\x2a" + bytes(7))  # FCGI_UNKNOWN_TYPE
    context.hub.rest(PAUSE * 10)
    others(context)


KEPT: Final[list[Row]] = [
    ("ends.get", "both streams end, of a GET", STDIN, "MUST", ends("GET", None)),
    ("ends.empty", "both streams end, of an empty POST", STDIN, "MUST", ends("POST", b"")),
    ("ends.post", "both streams end, of a POST", STDIN, "MUST", ends("POST", b"abc")),
    ("keep.not-asked", "no second request without FCGI_KEEP_CONN", KEEP, "MUST", not_asked),
    ("keep.reused", "a kept connection is used again", KEEP, "SHOULD", reused),
    ("keep.own", "each request has its own parameters and body", KEEP, "MUST", own),
    ("keep.closed", "a kept connection that was closed loses no request", KEEP, "MUST", closed),
    ("keep.early", "an early answer on a kept connection", KEEP, "MUST", early),
    ("keep.failed", "a broken answer on a kept connection", KEEP, "SHOULD", failed),
    ("keep.end-split", "FCGI_END_REQUEST in two packets on a kept connection", KEEP, "MUST", end_split),
    ("keep.management", "a management record on an idle connection", MANAGED, "SHOULD", management),
]
CASES: Final[list[FrontCase]] = [
    *table(
        "fastcgi.front",
        [(name, title, section, level, framed(rule, title)) for name, title, section, level, rule in FAULTS],
    ),
    *table("fastcgi.front", KEPT),
    *front_multiplex.CASES,
    *front_request.cases("fastcgi"),
    *front_body.cases("fastcgi"),
    *front_response.cases("fastcgi"),
    *front_fastcgi_answers.CASES,
]
