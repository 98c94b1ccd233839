"""RFC 3875 section 6: how a web server takes a backend's response, over any of the protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.wire.case import Failure, Level
from gateways.wire.front import PAUSE, Exchange, FrontCase, FrontContext, Row, Run, head, plain, table
from gateways.wire.web import Response

__all__ = ["cases", "gets", "written"]

STATUS: Final = "RFC 3875, 6.3.3 Status"
LOCATION: Final = "RFC 3875, 6.2.3 Client Redirect Response"
HEAD: Final = "RFC 3875, 6.3 Response Header Fields"
BODY: Final = "RFC 3875, 6.4 Response Message-Body"
BROKEN: Final = "RFC 3875, 6.2; RFC 9110, 15.6.3"
STATUSES: Final = (200, 201, 301, 302, 400, 403, 404, 410, 422, 500, 503)
SIZES: Final = (0, 1, 4_096, 65_535, 65_536, 300_000)
TEXT: Final = "Content-Type: text/plain"
PIECES: Final = 100


def octets(size: int) -> bytes:
    """Octets of every value."""
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def gets(response: Response, body: bytes, status: int = 200) -> None:
    """The client got this whole response."""
    if response.status != status:
        raise Failure(f"status {status} for the client", str(response))
    if response.body != body or not response.whole:
        raise Failure(f"a whole body of {len(body)} bytes for the client", str(response))


def written(context: FrontContext, parts: list[bytes], *, end: bool = True) -> Response:
    """Have these parts of a response written one after another, and return what the client got."""
    exchange = context.ask()
    arrival = exchange.arrives()
    for part in parts:
        arrival.out(part)
        context.hub.until(lambda: not arrival.peer.pending, context.seconds)
        context.hub.rest(PAUSE)
    if end:
        arrival.end()
    return exchange.response()


def status(text: str, code: int, *lines: str, body: bytes = b"as asked\n", end: str = "\r\n") -> Run:
    """A response with this status, or none."""

    def run(context: FrontContext) -> None:
        answer = head(context.protocol, text, *lines, TEXT, end=end) + body
        gets(context.ask().served(answer), body, code)

    return run


def redirect(context: FrontContext) -> None:
    """Location alone."""
    target = "http://www.example.com/elsewhere?a=b"
    response = context.ask().served(head(context.protocol, "", f"Location: {target}"))
    if response.status != 302 or response.values("Location") != [target]:
        raise Failure(f"status 302 and {target}", f"{response}, Location {response.values('Location')}")


def moved(context: FrontContext) -> None:
    """Location beside a status."""
    target = "http://www.example.com/elsewhere"
    response = context.ask().served(head(context.protocol, "303 See Other", f"Location: {target}", TEXT) + b"there")
    gets(response, b"there", 303)
    if response.values("Location") != [target]:
        raise Failure(target, str(response.values("Location")))


def cut(at: Callable[[bytes], int]) -> Run:
    """A response in two parts."""

    def run(context: FrontContext) -> None:
        data = plain(context.protocol, b"in two parts\n")
        offset = at(data)
        gets(written(context, [data[:offset], data[offset:]]), b"in two parts\n")

    return run


def each_byte(context: FrontContext) -> None:
    """A response byte by byte."""
    data = plain(context.protocol, b"byte by byte\n")
    gets(written(context, [data[at : at + 1] for at in range(len(data))]), b"byte by byte\n")


def field(line: str, name: str, *wanted: str) -> Run:
    """The client gets these values of a field."""

    def run(context: FrontContext) -> None:
        lines = line.split("\n") if line.startswith("Content-Type") else [*line.split("\n"), TEXT]
        response = context.ask().served(head(context.protocol, "200 OK", *lines) + b"a")
        gets(response, b"a")
        if response.values(name) != list(wanted):
            raise Failure(f"{name} as {list(wanted)}", str(response.values(name)))

    return run


def large_head(count: int, size: int) -> Run:
    """A head of many fields."""

    def run(context: FrontContext) -> None:
        lines = [f"X-Conform-{at:02}: {'v' * size}" for at in range(count)]
        response = context.ask().served(head(context.protocol, "200 OK", *lines, TEXT) + b"a")
        gets(response, b"a")
        missing = [at for at in range(count) if response.values(f"X-Conform-{at:02}") != ["v" * size]]
        if missing:
            raise Failure(f"{count} fields of {size} bytes", f"{len(missing)} of them harmed")

    return run


def body(size: int, *, counted: bool) -> Run:
    """A body with or without Content-Length."""

    def run(context: FrontContext) -> None:
        data = octets(size)
        lines = [f"Content-Length: {size}"] if counted else []
        gets(context.ask().served(head(context.protocol, "200 OK", TEXT, *lines) + data), data)

    return run


def pieces(context: FrontContext) -> None:
    """A body in many parts."""
    parts = [b"part %02d\n" % number for number in range(PIECES)]
    gets(written(context, [head(context.protocol, "200 OK", TEXT), *parts]), b"".join(parts))


def to_head(context: FrontContext) -> None:
    """The body of an answer to HEAD does not reach the client."""
    exchange = context.ask("HEAD")
    response = exchange.served(plain(context.protocol, b"not for HEAD\n"))
    after = after_head(exchange)
    if response.status != 200 or after:
        raise Failure("status 200 and no body", f"status {response.status} and {after[:60]!r}")


def after_head(exchange: Exchange) -> bytes:
    """What the client got behind the head, whatever the head says of it."""
    return bytes(exchange.wire.buffer).partition(b"\r\n\r\n")[2]


def bodiless(code: int, body: bytes = b"") -> Run:
    """An answer that never has a body, even if the application sends one."""

    def run(context: FrontContext) -> None:
        exchange = context.ask()
        response = exchange.served(head(context.protocol, f"{code} Conform", 'ETag: "a"') + body)
        after = after_head(exchange)
        if response.status != code or after:
            raise Failure(f"status {code} and no body", f"{response}, then {after[:60]!r}")

    return run


def broken(*parts: bytes | Callable[[str], bytes]) -> Run:
    """What is no response makes an error."""

    def run(context: FrontContext) -> None:
        data = b"".join(part if isinstance(part, bytes) else part(context.protocol) for part in parts)
        response = context.ask().served(data)
        if response.status < 500:
            raise Failure("an error (5xx) for the client", str(response))

    return run


def length(told: int) -> Run:
    """Content-Length is wrong: never another's bytes, never a part as the whole, and never a hang."""

    def run(context: FrontContext) -> None:
        data = b"0123456789"
        exchange = context.ask()
        response = exchange.served(head(context.protocol, "200 OK", TEXT, f"Content-Length: {told}") + data)
        counted = response.values("Content-Length")
        if counted and len(after_head(exchange)) > int(counted[0]):
            raise Failure(f"at most the {counted[0]} bytes of Content-Length", repr(after_head(exchange)[:60]))
        if response.status < 500 and counted and response.whole and len(response.body) > len(data):
            raise Failure(f"at most {len(data)} bytes", str(response))
        if response.status < 500 and not data.startswith(response.body):
            raise Failure("no other bytes than the response's", str(response))

    return run


def gone(*, reset: bool) -> Run:
    """The backend closes without an answer."""

    def run(context: FrontContext) -> None:
        exchange = context.ask()
        arrival = exchange.arrives()
        if reset:
            arrival.peer.reset()
        else:
            arrival.peer.close()
        response = exchange.response()
        if response.status < 500:
            raise Failure("an error (5xx) for the client", str(response))

    return run


def gone_within(context: FrontContext) -> None:
    """The backend closes within a body whose length it told: the client can see that a part is missing."""
    exchange = context.ask()
    arrival = exchange.arrives()
    arrival.out(head(context.protocol, "200 OK", TEXT, "Content-Length: 100000") + octets(50_000))
    context.hub.until(lambda: not arrival.peer.pending, context.seconds)
    context.hub.rest(PAUSE)
    arrival.peer.end()
    response = exchange.response()
    if response.status < 500 and response.whole:
        raise Failure("a response that is seen to be cut, or an error (5xx)", str(response))


def early(context: FrontContext) -> None:
    """The answer comes before the body has been read; the rest of it is read nevertheless."""
    data = octets(200_000)
    exchange = context.ask("POST", headers=[("Content-Length", str(len(data)))])
    exchange.wire.send(data[:100_000])
    late = context.hub.until(exchange.found, PAUSE * 25)
    if not late:  # it keeps the body until it has all
        exchange.wire.send(data[100_000:])
    exchange.arrives(whole=False).answer(plain(context.protocol, b"too large\n", "413 Too Large"))
    context.hub.rest(PAUSE * 5)
    if late:
        exchange.wire.send(data[100_000:])
    gets(exchange.response(), b"too large\n", 413)


def slow(context: FrontContext) -> None:
    """The answer takes a moment, and stops for one."""
    parts = [head(context.protocol, "200 OK", TEXT), b"one ", b"two"]
    exchange = context.ask()
    arrival = exchange.arrives()
    for part in parts:
        context.hub.rest(PAUSE * 25)
        arrival.out(part)
    arrival.end()
    gets(exchange.response(), b"one two")


def cases(protocol: str) -> list[FrontCase]:
    """The cases of one protocol. A uwsgi backend sends a status line, so other heads are no rule there."""
    cgi: Level = "SHOULD" if protocol == "uwsgi" else "MUST"
    start = 9 if protocol == "uwsgi" else 7
    cuts = (
        ("1", "after its first byte", lambda _: 1),
        ("status", "before its status", lambda _: start),
        ("digit", "within its status", lambda _: start + 2),
        ("cr", "between CR and LF", lambda data: data.index(b"\r") + 1),
        ("line", "between two lines", lambda data: data.index(b"\n") + 1),
        ("colon", "before a colon", lambda data: data.index(b"-Type:") + 5),
        ("blank", "before the blank line", lambda data: data.index(b"\r\n\r\n") + 2),
        ("blank-cr", "within the blank line", lambda data: data.index(b"\r\n\r\n") + 3),
        ("body", "before its body", lambda data: data.index(b"\r\n\r\n") + 4),
    )
    rows: list[Row] = [
        *((f"status.{code}", f"status {code}", STATUS, "MUST", status(f"{code} Conform", code)) for code in STATUSES),
        ("status.no-reason", "a status without a reason", STATUS, cgi, status("404", 404)),
        ("status.unknown", "a status that nobody knows", STATUS, "SHOULD", status("299 Odd", 299)),
        ("status.none", "no status is 200", STATUS, cgi, status("", 200)),
        ("status.204", "status 204 has no body", BODY, "MUST", bodiless(204)),
        ("status.304", "status 304 has no body", BODY, "MUST", bodiless(304)),
        ("status.204-body", "a body with status 204 is dropped", BODY, "SHOULD", bodiless(204, b"dropped")),
        ("location.alone", "Location alone is 302", LOCATION, cgi, redirect),
        ("location.status", "Location with status 303", "RFC 3875, 6.2.4", "MUST", moved),
        ("head.lf", "lines that end with LF alone", HEAD, cgi, status("404 None", 404, end="\n")),
        *((f"head.split.{name}", f"a response cut {title}", HEAD, "MUST", cut(at)) for name, title, at in cuts),
        ("head.bytes", "a response byte by byte", HEAD, "MUST", each_byte),
        ("head.cookies", "two Set-Cookie fields stay two", "RFC 6265, 3", "MUST",
         field("Set-Cookie: a=b; Path=/\nSet-Cookie: c=d", "Set-Cookie", "a=b; Path=/", "c=d")),
        ("head.type", "Content-Type is passed on", "RFC 3875, 6.3.1", "MUST",
         field('Content-Type: text/x-conform; a="b"', "Content-Type", 'text/x-conform; a="b"')),
        ("head.lower", "names in lower case", HEAD, "MUST", field("x-conform-a: b", "X-Conform-A", "b")),
        ("head.no-blank", "no blank after the colon", HEAD, "MUST", field("X-Conform-A:b:c", "X-Conform-A", "b:c")),
        ("head.empty", "a field without a value", HEAD, "SHOULD",
         field("X-Conform-A:\nX-Conform-B: b", "X-Conform-B", "b")),
        ("head.octets", "octets beyond ASCII in a value", HEAD, "SHOULD",
         field("X-Conform-A: caf\xc3\xa9 \xe9", "X-Conform-A", "caf\xc3\xa9 \xe9")),
        ("head.long", "a value of 2000 bytes", HEAD, "MUST", large_head(1, 2_000)),
        ("head.many", "40 fields", HEAD, "MUST", large_head(40, 20)),
        ("head.large.7000", "a head of 7000 bytes", "measured: Apache and lighttpd pass it", "SHOULD",
         large_head(7, 1_000)),
        ("head.large.30000", "a head of 30000 bytes", "measured: lighttpd passes it", "SHOULD", large_head(30, 1_000)),
        *((f"body.counted.{size}", f"{size} bytes with Content-Length", BODY, "MUST", body(size, counted=True))
          for size in SIZES),
        *((f"body.uncounted.{size}", f"{size} bytes without Content-Length", BODY, "MUST", body(size, counted=False))
          for size in SIZES),
        ("body.pieces", f"a body in {PIECES} parts", BODY, "MUST", pieces),
        ("body.slow", "an answer that takes a moment", BODY, "MUST", slow),
        ("body.to-head", "a body does not answer HEAD", "RFC 3875, 4.3.3", "MUST", to_head),
        ("body.early", "an answer before the body has been read", "RFC 3875, 4.2", "MUST", early),
        ("broken.nothing", "an empty answer", BROKEN, "SHOULD", broken()),
        ("broken.no-head", "a body without a head", BROKEN, "SHOULD", broken(b"this is no head at all\n")),
        ("broken.line", "a line that is no field", BROKEN, "SHOULD",
         broken(lambda name: head(name, "200 OK", TEXT, "this is no field"), b"a")),
        ("broken.status", "a status of two digits", BROKEN, "SHOULD",
         broken(lambda name: head(name, "99 Low", TEXT), b"a")),
        ("broken.cut", "a head without its end", BROKEN, "SHOULD",
         broken(lambda name: head(name, "200 OK", TEXT)[:-2])),
        ("broken.length.short", "Content-Length less than the body", BROKEN, "SHOULD", length(5)),
        ("broken.length.long", "Content-Length more than the body", BROKEN, "SHOULD", length(20)),
        ("gone.closed", "a backend that closes without an answer", BROKEN, "MUST", gone(reset=False)),
        ("gone.reset", "a backend that resets the connection", BROKEN, "MUST", gone(reset=True)),
        ("gone.within", "a backend that closes within the body", BROKEN, "SHOULD", gone_within),
    ]  # fmt: skip
    return table(f"{protocol}.front.response", rows)
