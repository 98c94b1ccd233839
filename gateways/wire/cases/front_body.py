"""RFC 3875 section 4.2: the request's body as it reaches a backend, over any of the protocols."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateways.wire.backend import Arrival
from gateways.wire.case import Failure, short
from gateways.wire.cases.fastcgi_streams import noise
from gateways.wire.front import FrontCase, FrontContext, Row, Run, table

__all__ = ["cases"]

BODY: Final = "RFC 3875, 4.2 Request Message-Body"
LENGTH: Final = "RFC 3875, 4.1.2 CONTENT_LENGTH"
CHUNKED: Final = "RFC 3875, 4.2; RFC 9112, 7.1"
SIZES: Final = (1, 8_192, 32_768, 65_535, 65_536, 65_537, 300_000)
APART: Final = 0.05
"""Seconds between two parts of a body."""
REFUSALS: Final = (400, 411, 413, 501)
"""What a body of unknown length may be answered with."""
LEAVES: Final = 2.0
"""Seconds in which a backend should learn that the client has left."""


def judge(context: FrontContext, arrival: Arrival, body: bytes) -> None:
    """The body is this one, and CONTENT_LENGTH agrees; FastCGI has an end of its own."""
    length = arrival.params.get("CONTENT_LENGTH") or ""
    if arrival.body != body:
        got = f"{len(arrival.body)} bytes: {bytes(arrival.body[:60])!r}"
        raise Failure(f"a body of {len(body)} bytes, unharmed", got)
    if length != str(len(body)) and (length or (body and context.protocol != "fastcgi")):
        raise Failure(f"CONTENT_LENGTH as {len(body)}", short(length))
    for peer in context.peers:
        for name in ("length", "surplus"):
            if name in peer.faults and (name, context.protocol) != ("length", "scgi"):
                raise Failure(f"a body of {len(body)} bytes, and CONTENT_LENGTH", peer.faults[name])


def body(data: bytes, method: str = "POST") -> Run:
    """A body of a known length."""

    def run(context: FrontContext) -> None:
        judge(context, context.arrived(context.ask(method, body=data)), data)

    return run


def none(context: FrontContext) -> None:
    """No body."""
    judge(context, context.arrived(context.ask()), b"")


def slow(context: FrontContext) -> None:
    """A body in three parts."""
    exchange = context.ask("POST", headers=[("Content-Length", "9")])
    for part in (b"one", b"two", b"six"):
        context.hub.rest(APART)
        exchange.wire.send(part)
    judge(context, context.arrived(exchange), b"onetwosix")


def expect(context: FrontContext) -> None:
    """A client that asks whether it may send."""
    exchange = context.ask("POST", headers=[("Content-Length", "3"), ("Expect", "100-continue")])
    context.hub.until(lambda: exchange.wire.buffer, APART)
    exchange.wire.send(b"abc")
    judge(context, context.arrived(exchange), b"abc")


def chunks(parts: Iterable[bytes], pause: float = 0.0, *, refusal: bool = True) -> Run:
    """A body of unknown length: served without its framing, or refused where that may be."""

    def run(context: FrontContext) -> None:
        exchange = context.ask("POST", headers=[("Transfer-Encoding", "chunked")])
        for part in parts:
            context.hub.rest(pause)
            exchange.wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        exchange.wire.send(b"0\r\n\r\n")
        context.hub.until(lambda: exchange.wire.eof or exchange.found(), context.seconds)
        if refusal and not exchange.found() and exchange.wire.eof and exchange.response().status in REFUSALS:
            return
        judge(context, context.arrived(exchange), b"".join(parts))

    return run


def short_body(context: FrontContext) -> None:
    """A client that leaves within its body: the backend does not take the part for the whole."""
    exchange = context.ask("POST", headers=[("Content-Length", "100000")])
    exchange.wire.send(noise(40_000))
    context.about_request = True
    context.hub.rest(APART)
    exchange.wire.close()
    if not context.hub.until(exchange.found, APART * 4):
        return  # it keeps the body until it has all
    context.hub.until(lambda: any(arrival.left for arrival in exchange.found()), min(context.seconds, LEAVES))
    for arrival in exchange.found():
        told = arrival.params.get("CONTENT_LENGTH")
        if arrival.whole and not arrival.aborted and told != "100000":
            raise Failure("no whole request, or CONTENT_LENGTH 100000", f"CONTENT_LENGTH {told}")
        if not arrival.left:
            raise Failure("an abort, or the end of the connection", f"{len(arrival.body)} bytes, then nothing")


def leaves(context: FrontContext) -> None:
    """A client that does not wait for the answer: the backend learns of it."""
    exchange = context.ask()
    arrival = exchange.arrives()
    context.about_request = True
    exchange.wire.close()
    seconds = min(context.seconds, LEAVES)
    if not context.hub.until(lambda: arrival.left, seconds):
        raise Failure("an abort, or the end of the connection", f"nothing for {seconds:g} s")


def cases(protocol: str) -> list[FrontCase]:
    """The cases of one protocol."""
    abort = "FastCGI 1.0, 5.4 FCGI_ABORT_REQUEST" if protocol == "fastcgi" else "RFC 3875, 3.4"
    rows: list[Row] = [
        ("body.none", "no body", LENGTH, "MUST", none),
        ("body.empty", "a POST without content", LENGTH, "MUST", body(b"")),
        ("body.octets", "octets of every value", BODY, "MUST", body(bytes(range(256)))),
        *(
            (f"body.size.{size}", f"a body of {size} bytes", BODY, "MUST", body(noise(size)))
            for size in SIZES
        ),
        ("body.put", "a PUT with a body", BODY, "MUST", body(b"abc", "PUT")),
        ("body.delete", "a DELETE with a body", BODY, "SHOULD", body(b"abc", "DELETE")),
        ("body.slow", "a body in three parts", BODY, "MUST", slow),
        ("body.expect", "Expect: 100-continue", "RFC 9110, 10.1.1", "MUST", expect),
        ("body.chunked.once", "a chunked body in one chunk, or a refusal", CHUNKED, "MUST", chunks([b"chunked"])),
        ("body.chunked.many", "a chunked body in 200 chunks, or a refusal", CHUNKED, "MUST",
         chunks([b"0123456789"] * 200)),
        ("body.chunked.slow", "a chunked body that comes slowly, or a refusal", CHUNKED, "MUST",
         chunks([b"one", b"two"], APART)),
        ("body.chunked.large", "a chunked body of 300000 bytes, or a refusal", CHUNKED, "MUST",
         chunks([noise(100_000)] * 3)),
        ("body.chunked.served", "a chunked body is not refused", CHUNKED, "SHOULD",
         chunks([b"one", b"two"], refusal=False)),
        ("client.short", "a client that leaves within its body", BODY, "MUST", short_body),
        ("client.leaves", "a client that leaves before the answer", abort, "SHOULD", leaves),
    ]  # fmt: skip
    return table(f"{protocol}.front", rows)
