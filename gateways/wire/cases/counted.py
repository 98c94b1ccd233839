"""What SCGI and uwsgi have in common: one request a connection, its body counted by CONTENT_LENGTH, then the close."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from gateways.wire.case import Case, Context, Echo, Failure, Level, Needs
from gateways.wire.cases.fastcgi_framing import PAUSE, post
from gateways.wire.cases.fastcgi_params import BYTES, MODEST
from gateways.wire.cases.fastcgi_streams import NOT_LENGTHS, noise, posting
from gateways.wire.single import alive, exchange, good, head, message, refused, rest, send

__all__ = ["cases", "hostile", "served"]

BODY: Final = b"the body"
RFC: Final = "RFC 3875, 4.1.2 CONTENT_LENGTH"


def served(context: Context, seen: dict[str, str], body: bytes, *parts: bytes) -> None:
    """These packets are one request, which is served."""
    link = context.open()
    for at, part in enumerate(parts):
        if at:
            time.sleep(PAUSE if len(parts) < 50 else 0)
        send(link, part)
    good(context, rest(link, context.target.protocol), seen, body)


def shaped(cut: Callable[[bytes], list[bytes]]) -> Callable[[Context], None]:
    """One POST, its bytes cut into packets."""

    def run(context: Context) -> None:
        params, seen = post(context, BODY)
        served(context, seen, BODY, *cut(message(context.target.protocol, params, BODY)))

    return run


def pieces(size: int) -> Callable[[bytes], list[bytes]]:
    """Packets of one size."""
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]


def body(size: int, packet: int = 0) -> Callable[[Context], None]:
    """A body of any octets, behind the head or in packets of its own."""

    def run(context: Context) -> None:
        params, seen = posting(context, str(size))
        data = noise(size)
        start = head(context.target.protocol, params)
        parts = [start, *pieces(packet)(data)] if packet else [start + data]
        served(context, seen, data, *parts)

    return run


def like_request(context: Context) -> None:
    """A body that holds a whole request is a body."""
    data = message(context.target.protocol, context.params())
    params, seen = posting(context, str(len(data)))
    served(context, seen, data, message(context.target.protocol, params, data))


def after(tail: Callable[[Context], bytes]) -> Callable[[Context], None]:
    """Bytes after the body belong to nothing, and one answer comes."""

    def run(context: Context) -> None:
        params, seen = post(context, BODY)
        served(context, seen, BODY, message(context.target.protocol, params, BODY) + tail(context))

    return run


def extra(params: dict[str, str]) -> Callable[[Context], None]:
    """More parameters."""

    def run(context: Context) -> None:
        served(context, params, b"", message(context.target.protocol, context.params(params)))

    return run


def without_body(length: str | None) -> Callable[[Context], None]:
    """A GET with this CONTENT_LENGTH; in SCGI it is left as it is."""

    def run(context: Context) -> None:
        params, seen = posting(context, length)
        served(context, seen, b"", hostile_head(context, params))

    return run


def hostile_head(context: Context, params: dict[str, str]) -> bytes:
    """A head with CONTENT_LENGTH as given, absent or wrong."""
    from gateways.wire.single import netstring, strings  # noqa: PLC0415

    if context.target.protocol == "uwsgi":
        return head("uwsgi", params)
    length = [(name, value) for name, value in params.items() if name == "CONTENT_LENGTH"]
    others = [(name, value) for name, value in params.items() if name != "CONTENT_LENGTH"]
    return netstring(strings([*length, ("SCGI", "1"), *others]))


def bad_length(text: str) -> Callable[[Context], None]:
    """A CONTENT_LENGTH that is no number of bytes is refused."""

    def run(context: Context) -> None:
        params, _ = posting(context, text)
        link = context.open()
        send(link, hostile_head(context, params) + b"12345")
        link.end()
        refused(rest(link, context.target.protocol))
        alive(context)

    return run


def hostile(*parts: bytes | Callable[[Context], bytes], end: bool = True) -> Callable[[Context], None]:
    """What is no request: refused or closed, and the server lives."""

    def run(context: Context) -> None:
        made = [part if isinstance(part, bytes) else part(context) for part in parts]
        refused(exchange(context, *made, end=end))
        alive(context)

    return run


def cut(size: int, *, in_body: bool) -> Callable[[Context], None]:
    """The web server closes its side within a request, which is not served as if it were whole; the server lives."""

    def run(context: Context) -> None:
        params, _ = post(context, BODY)
        start = head(context.target.protocol, params)
        data = start + BODY[:size] if in_body else start[:size]
        answer = exchange(context, data, end=True)
        if not in_body:
            refused(answer)
        elif answer.raw and context.echo and answer.status == 200 and Echo.parse(answer.body):
            raise Failure("a refusal, or a close", f"a request with {size} of {len(BODY)} bytes of body was served")
        alive(context)

    return run


def disconnect(size: int) -> Callable[[Context], None]:
    """The web server closes altogether, five times."""

    def run(context: Context) -> None:
        params, _ = post(context, BODY)
        for _ in range(5):
            link = context.open()
            send(link, message(context.target.protocol, params, BODY)[:size])
            link.close()
        alive(context)

    return run


def unread(size: int) -> Callable[[Context], None]:
    """A body that is left unread does not cost the application its answer."""

    def run(context: Context) -> None:
        params, seen = posting(context, str(size), query="read=no")
        served(context, seen, b"", head(context.target.protocol, params), noise(size))

    return run


def sized(size: int) -> Callable[[Context], None]:
    """A response of so many bytes arrives whole, and then the connection ends."""

    def run(context: Context) -> None:
        answer = exchange(context, message(context.target.protocol, context.params(query=f"size={size}")))
        if not answer.raw or answer.status != 200 or answer.body != (b"0123456789abcdef" * (size // 16 + 1))[:size]:
            raise Failure(f"{size} bytes", f"{len(answer.raw)} bytes with the head, or others")

    return run


def stderr(context: Context) -> None:
    """What an application writes to its error stream never stands in the response."""
    answer = exchange(context, message(context.target.protocol, context.params(query="stderr=CONFORM-STDERR&size=16")))
    if not answer.raw or b"CONFORM-STDERR" in answer.raw:
        raise Failure("a response without the error stream", repr(answer.raw[:80]))


def httpoxy(context: Context) -> None:
    """HTTP_PROXY never becomes the application's proxy."""
    answer = exchange(context, message(context.target.protocol, context.params({"HTTP_PROXY": "http://a.example/"})))
    good(context, answer)
    if b"\nHTTP_PROXY=" in answer.body:
        raise Failure("no HTTP_PROXY", "the application saw it")


def beside_silent(context: Context) -> None:
    """Connections that send nothing, or half a head, keep no other from being served."""
    params, seen = post(context, BODY)
    data = message(context.target.protocol, params, BODY)
    for size in (0, 1, 10, len(data) - len(BODY) - 3):
        send(context.open(), data[:size])
    served(context, seen, BODY, data)


def interleaved(context: Context) -> None:
    """Four connections whose packets come in turns, each with its own body."""
    protocol = context.target.protocol
    made = [post(context, bytes([65 + at]) * (at + 5), str(at)) for at in range(4)]
    bodies = [bytes([65 + at]) * (at + 5) for at in range(4)]
    links = [context.open() for _ in made]
    heads = [head(protocol, params) for params, _ in made]
    for link, data in zip(links, heads, strict=True):
        send(link, data[:9])
    for link, data in zip(links, heads, strict=True):
        send(link, data[9:])
    for link, data in zip(links, bodies, strict=True):
        send(link, data)
    for link, (_, seen), data in zip(links, made, bodies, strict=True):
        good(context, rest(link, protocol), seen, data)


def early_end(context: Context) -> None:
    """A web server that says that nothing more comes still gets its answer."""
    params, seen = post(context, BODY)
    answer = exchange(context, message(context.target.protocol, params, BODY), end=True)
    good(context, answer, seen, BODY)


FOREIGN: Final = (
    ("http", b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP"),
    ("fastcgi", b"\1\1\0\1\0\x08\0\0\0\1\0\0\0\0\0\0\1\4\0\1\0\0\0\0\1\5\0\1\0\0\0\0", "FastCGI"),
    ("tls", b"\x16\3\1\0\x05hello", "TLS"),
    ("noise", bytes(range(255, 127, -1)), "noise"),
)


def cases(protocol: str, request: str, body_rule: str) -> list[Case]:
    """The common cases of one of the two; ``request`` and ``body_rule`` are what its specification calls them."""
    made: list[Case] = []

    def add(
        name: str, title: str, section: str, level: Level, run: Callable[[Context], None], needs: Needs = "wire"
    ) -> None:
        made.append(Case(f"{protocol}.{name}", title, section, level, run, needs))

    for size in (0, 1, 2, 127, 255, 256, 8_192, 65_535, 65_536, 200_000):
        add(f"body.{size}", f"a body of {size} bytes", body_rule, "MUST", body(size), "echo")
    for size, packet in ((100, 1), (5_000, 100), (20_000, 8_192)):
        add(
            f"body.packets.{packet}",
            f"a body in packets of {packet} bytes",
            body_rule,
            "MUST",
            body(size, packet),
            "echo",
        )
    add("body.like-request", "a body that looks like a request", body_rule, "MUST", like_request, "echo")
    for name, tail, title in (
        ("crlf", lambda _: b"\r\n", "a line break"),
        ("bytes", lambda _: b"x" * 1_000, "1,000 bytes"),
        ("request", lambda context: message(protocol, context.params()), "another request"),
    ):
        add(f"body.after.{name}", f"{title} after the body", body_rule, "SHOULD", after(tail))
    for length, name, title in ((None, "absent", "no CONTENT_LENGTH"), ("", "empty", "an empty CONTENT_LENGTH"),
                                ("0", "zero", "CONTENT_LENGTH 0")):  # fmt: skip
        level: Level = "SHOULD" if protocol == "scgi" and length != "0" else "MUST"
        add(f"length.{name}", f"no body and {title}", RFC, level, without_body(length))
    for name, text in NOT_LENGTHS:
        add(f"length.bad.{name}", f"CONTENT_LENGTH {text[:20]!r}", RFC, "SHOULD", bad_length(text))
    add("split.bytewise", "one byte a packet", request, "MUST", shaped(pieces(1)))
    for size in (3, 9, 17, 64):
        add(f"split.{size}", f"packets of {size} bytes", request, "MUST", shaped(pieces(size)))
    for at in range(1, 9):
        add(f"split.after-{at}", f"the first packet is {at} bytes long", request, "MUST",
            shaped(lambda data, at=at: [data[:at], data[at:]]))  # type: ignore[misc]  # fmt: skip
    add("split.head", "head and body in two packets", request, "MUST",
        shaped(lambda data: [data[: -len(BODY)], data[-len(BODY) :]]))  # fmt: skip
    add("end.early", "the web server closes its side after the request", request, "SHOULD", early_end)
    for size in (0, 1, 127, 128, 255, 256, 8_191, 32_768, 60_000):
        add(
            f"params.value.{size}",
            f"a value of {size} bytes",
            request,
            "MUST" if size <= MODEST else "SHOULD",
            extra({"CONFORM_A": "v" * size}),
            "echo",
        )
    for size in (9, 127, 256, 1_000):
        add(f"params.name.{size}", f"a name of {size} bytes", request, "MUST",
            extra({"CONFORM_" + "N" * (size - 8): "v"}), "echo")  # fmt: skip
    for name, value, title in BYTES:
        add(f"params.bytes.{name}", title, request, "SHOULD" if name == "controls" else "MUST",
            extra({"CONFORM_A": value}), "echo")  # fmt: skip
    add("params.hundreds", "300 parameters", request, "SHOULD",
        extra({f"CONFORM_{at}": str(at) for at in range(300)}), "echo")  # fmt: skip
    add(
        "params.httpoxy",
        "HTTP_PROXY does not reach the application",
        "CVE-2016-5385; nginx sends it",
        "SHOULD",
        httpoxy,
        "echo",
    )
    for size in (1, 3, 20, 60):
        add(f"cut.head.{size}", f"the connection ends after {size} bytes of the head", request, "SHOULD",
            cut(size, in_body=False))  # fmt: skip
    for size in (0, 3):
        add(f"cut.body.{size}", f"the connection ends after {size} bytes of the body", body_rule, "SHOULD",
            cut(size, in_body=True))  # fmt: skip
    for size, name in ((1, "first"), (20, "head"), (-2, "body")):
        add(
            f"disconnect.{name}",
            f"closed within the {name}",
            "nginx closes when its client goes",
            "MUST",
            disconnect(size),
        )
    for name, data, title in FOREIGN:
        add(f"foreign.{name}", f"{title} in the place of {protocol}", request, "SHOULD", hostile(data))
    for size in (10, 65_536, 1_000_000):
        add(f"body.unread.{size}", f"{size} bytes of body left unread", body_rule, "MUST", unread(size), "echo")
    for size in (0, 1, 8_192, 65_535, 65_536, 1_000_000):
        add(
            f"response.size.{size}",
            f"a response of {size} bytes",
            "ends with the connection",
            "MUST",
            sized(size),
            "echo",
        )
    add("response.stderr", "the error stream is apart", "RFC 3875, 6", "MUST", stderr, "echo")
    add("connections.silent", "silent connections keep no other from being served", "slow and idle peers", "SHOULD",
        beside_silent)  # fmt: skip
    add("connections.interleaved", "four connections in turns", request, "MUST", interleaved)
    return made
