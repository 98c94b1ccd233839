"""FastCGI 1.0 section 3.3: records, whatever their padding, size and place in the packets; and bytes that are none."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from gateways.codecs.fastcgi_records import FCGI_BEGIN_REQUEST, FCGI_PARAMS, FCGI_STDIN
from gateways.wire.case import Case, Context, Echo, Failure
from gateways.wire.fastcgi import KEEP, Talk, alive, begin, pair, pairs, rec, request, stream
from gateways.wire.link import Silent

__all__ = ["CASES", "post"]

BODY: Final = b"the body"
RECORDS: Final = "FastCGI 1.0, 3.3 Records"
PAUSE: Final = 0.002
"""Between two writes that the server shall read apart; whether it does is its own affair."""


def post(context: Context, body: bytes = BODY, mark: str = "1") -> tuple[dict[str, str], dict[str, str]]:
    """All parameters of a request with a body, and those of them that the application must see."""
    seen = {"CONFORM_MARK": mark, "REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))}
    return context.params(seen | {"CONTENT_TYPE": "application/octet-stream"}), seen


def shaped(shape: Callable[[dict[str, str]], list[bytes]]) -> Callable[[Context], None]:
    """One POST whose packets ``shape`` makes of its parameters; its body is BODY and its id 1."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.expect(1)
        parts = shape(params)
        for at, part in enumerate(parts):
            if at:
                time.sleep(PAUSE if len(parts) < 50 else 0)
            talk.send(part)
        talk.good(talk.answer(), seen, BODY)

    return run


def padded(where: str, size: int, junk: bytes = b"\0", reserved: int = 0) -> Callable[[Context], None]:
    """One POST with padding, or a reserved byte, on some of its records."""

    def shape(params: dict[str, str]) -> list[bytes]:
        def one(kind: int, name: str, content: bytes = b"") -> bytes:
            chosen = where in (name, "all")
            return rec(
                kind, 1, content, size if chosen else 0, junk=junk[:1] if chosen else b"\0",
                reserved=reserved if chosen else 0,
            )  # fmt: skip

        return [
            one(FCGI_BEGIN_REQUEST, "BEGIN_REQUEST", begin(1)[8:])
            + one(FCGI_PARAMS, "PARAMS", pairs(params))
            + one(FCGI_PARAMS, "the end of PARAMS")
            + one(FCGI_STDIN, "STDIN", BODY)
            + one(FCGI_STDIN, "the end of STDIN")
        ]

    return shaped(shape)


def get_padded(size: int) -> Callable[[Context], None]:
    """A GET in one packet, its one record of parameters padded."""

    def run(context: Context) -> None:
        seen = {"CONFORM_A": "b"}
        talk = Talk(context)
        talk.expect(1)
        block = rec(FCGI_PARAMS, 1, pairs(context.params(seen)), size)
        talk.send(begin(1) + block + rec(FCGI_PARAMS, 1) + rec(FCGI_STDIN, 1))
        talk.good(talk.answer(), seen)

    return run


PLACES: Final = ("BEGIN_REQUEST", "PARAMS", "the end of PARAMS", "STDIN", "the end of STDIN", "all")


def slug(text: str) -> str:
    """A title as part of an id."""
    return text.lower().replace("the end of ", "end-").replace("_", "-")


def header_split(at: int) -> Callable[[dict[str, str]], list[bytes]]:
    """The packets are cut within each record's header."""

    def shape(params: dict[str, str]) -> list[bytes]:
        records = [begin(1), rec(FCGI_PARAMS, 1, pairs(params)), rec(FCGI_PARAMS, 1), rec(FCGI_STDIN, 1, BODY)]
        records.append(rec(FCGI_STDIN, 1))
        parts = [records[0][:at]]
        for before, after in pairwise(records):
            parts.append(before[at:] + after[:at])
        return [*parts, records[-1][at:]]

    return shape


def bytewise(params: dict[str, str]) -> list[bytes]:
    """One byte a packet."""
    data = request(1, params, BODY)
    return [data[at : at + 1] for at in range(len(data))]


def record_by_record(params: dict[str, str]) -> list[bytes]:
    """Each record in its own packet."""
    return [
        begin(1),
        rec(FCGI_PARAMS, 1, pairs(params)),
        rec(FCGI_PARAMS, 1),
        rec(FCGI_STDIN, 1, BODY),
        rec(FCGI_STDIN, 1),
    ]


def chunks(size: int) -> Callable[[dict[str, str]], list[bytes]]:
    """Packets of one size."""

    def shape(params: dict[str, str]) -> list[bytes]:
        data = request(1, params, BODY)
        return [data[at : at + size] for at in range(0, len(data), size)]

    return shape


def with_id(number: int) -> Callable[[Context], None]:
    """A request with this id is answered with it."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.good(talk.ask(number, params, BODY), seen, BODY)

    return run


def begin_bytes(content: bytes) -> Callable[[Context], None]:
    """A request whose BEGIN_REQUEST has this content."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.expect(1)
        talk.send(
            rec(FCGI_BEGIN_REQUEST, 1, content), stream(FCGI_PARAMS, 1, pairs(params)), stream(FCGI_STDIN, 1, BODY)
        )
        talk.good(talk.answer(), seen, BODY)

    return run


def not_served(
    *parts: bytes, whole: Callable[[Context], bytes] | None = None, end: bool = False
) -> Callable[[Context], None]:
    """These bytes are no request: they are refused or the connection is closed, and a new one is served."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.expect(1)
        talk.send(*parts, whole(context) if whole else b"")
        if end:
            talk.link.end()
        talk.refused(talk.answer())
        alive(context)

    return run


def versioned(version: int, place: int) -> Callable[[Context], bytes]:
    """A request in which one record has another version."""

    def make(context: Context) -> bytes:
        params, _ = post(context)
        contents = (begin(1)[8:], pairs(params), b"", BODY, b"")
        kinds = (FCGI_BEGIN_REQUEST, FCGI_PARAMS, FCGI_PARAMS, FCGI_STDIN, FCGI_STDIN)
        return b"".join(
            rec(kind, 1, content, version=version if at == place else 1)
            for at, (kind, content) in enumerate(zip(kinds, contents, strict=True))
        )

    return make


def foreign(data: bytes) -> Callable[[Context], None]:
    """Another protocol: no request of it is served as FastCGI, and the connection ends."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.send(data)
        talk.link.end()
        try:
            while talk.link.more():
                pass
        except Silent:
            raise Failure("the end of the connection", f"nothing for {context.seconds:g} s") from None
        if talk.link.buffer[:2] == b"\1\6":
            raise Failure("no answer in FastCGI", repr(bytes(talk.link.buffer[:40])))
        alive(context)

    return run


def truncated(context: Context, size: int) -> bytes:
    """The first bytes of a request; a negative size counts from its end."""
    params, _ = post(context)
    return request(1, params, BODY)[:size]


def cut(size: int) -> Callable[[Context], None]:
    """The web server closes its side within a request."""
    return not_served(whole=lambda context: truncated(context, size), end=True)


def cut_body(context: Context) -> None:
    """A body of which nothing tells the length ends with its stream, and not with the connection."""
    params, _ = post(context)
    del params["CONTENT_LENGTH"]
    talk = Talk(context)
    talk.expect(1)
    talk.send(begin(1), stream(FCGI_PARAMS, 1, pairs(params)), rec(FCGI_STDIN, 1, BODY))
    talk.link.end()
    reply = talk.answer()
    said = Echo.parse(reply.body) if reply.ended and reply.stdout and reply.status == 200 else None
    if said is not None and said.body:
        raise Failure("a refusal, or a close", f"a request with {len(said.body)} bytes of body was served")
    alive(context)


def flags(value: int, *, keeps: bool) -> Callable[[Context], None]:
    """Flags of which only bit 0 has a meaning."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.good(talk.ask(1, params, BODY, value), seen, BODY)
        if keeps:
            talk.good(talk.ask(2, params, BODY), seen, BODY)
        talk.closes()

    return run


SPEC_BEGIN: Final = "FastCGI 1.0, 5.1 FCGI_BEGIN_REQUEST"
OTHERS: Final = (
    ("http", b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP"),
    ("scgi", b"24:CONTENT_LENGTH\x000\x00SCGI\x001\x00,", "SCGI"),
    ("uwsgi", b"\0\x13\0\0\x0e\0REQUEST_METHOD\x03\0GET", "uwsgi"),
    ("tls", b"\x16\3\1\0\x05hello", "TLS"),
    ("zeros", b"\0" * 64, "zeros"),
    ("noise", bytes(range(255, 127, -1)), "noise"),
)

CASES: Final[list[Case]] = [
    *(
        Case(
            f"fastcgi.framing.padding.{slug(place)}.{size}",
            f"{size} bytes of padding on {place}",
            RECORDS,
            "MUST",
            padded(place, size),
        )
        for place in PLACES
        for size in (1, 7, 8, 255)
    ),
    *(
        Case(
            f"fastcgi.framing.padding.get.{size}",
            f"a GET in one packet, {size} bytes of padding on PARAMS",
            f"{RECORDS}; nginx sends it so",
            "MUST",
            get_padded(size),
        )
        for size in (1, 7, 255)
    ),
    *(
        Case(
            f"fastcgi.framing.padding-junk.{slug(place)}",
            f"padding on {place} that is not zero",
            RECORDS,
            "MUST",
            padded(place, 24, b"\1"),
        )
        for place in PLACES
    ),
    *(
        Case(
            f"fastcgi.framing.reserved.{slug(place)}",
            f"a reserved byte that is not zero on {place}",
            RECORDS,
            "SHOULD",
            padded(place, 0, reserved=255),
        )
        for place in PLACES
    ),
    *(
        Case(
            f"fastcgi.framing.split-header.{at}",
            f"packets that end after {at} bytes of a header",
            RECORDS,
            "MUST",
            shaped(header_split(at)),
        )
        for at in range(1, 8)
    ),
    Case("fastcgi.framing.split.bytewise", "one byte a packet", RECORDS, "MUST", shaped(bytewise)),
    Case("fastcgi.framing.split.records", "one record a packet", RECORDS, "MUST", shaped(record_by_record)),
    *(
        Case(f"fastcgi.framing.split.{size}", f"packets of {size} bytes", RECORDS, "MUST", shaped(chunks(size)))
        for size in (3, 9, 17, 64)
    ),
    *(
        Case(f"fastcgi.framing.id.{number}", f"request id {number}", RECORDS, "MUST", with_id(number))
        for number in (1, 2, 255, 256, 257, 32_768, 65_535)
    ),
    Case(
        "fastcgi.framing.begin-reserved",
        "reserved bytes of BEGIN_REQUEST that are not zero",
        SPEC_BEGIN,
        "SHOULD",
        begin_bytes(b"\0\1\0\1\2\3\4\5"),
    ),
    Case(
        "fastcgi.framing.flags.fe",
        "flags that nobody knows, without FCGI_KEEP_CONN",
        SPEC_BEGIN,
        "SHOULD",
        flags(0xFE, keeps=False),
    ),
    Case(
        "fastcgi.framing.flags.ff",
        "flags that nobody knows, with FCGI_KEEP_CONN",
        SPEC_BEGIN,
        "SHOULD",
        flags(0xFE | KEEP, keeps=True),
    ),
    *(
        Case(
            f"fastcgi.framing.version.{version}.{slug(place)}",
            f"version {version} on {place}",
            RECORDS,
            "SHOULD",
            not_served(whole=versioned(version, at)),
        )
        for version in (0, 2, 255)
        for at, place in enumerate(PLACES[:2])
    ),
    *(
        Case(f"fastcgi.framing.foreign.{name}", f"{title} in the place of FastCGI", RECORDS, "SHOULD", foreign(data))
        for name, data, title in OTHERS
    ),
    *(
        Case(f"fastcgi.framing.cut.{name}", f"the connection ends within {title}", RECORDS, "SHOULD", cut(size))
        for name, size, title in (
            ("header", 5, "a header"),
            ("begin", 12, "BEGIN_REQUEST"),
            ("params-header", 19, "the header of PARAMS"),
            ("params", 60, "PARAMS"),
        )
    ),
    Case(
        "fastcgi.framing.cut.stdin",
        "the connection ends within a body without CONTENT_LENGTH",
        "FastCGI 1.0, 3.3 Types of Record Types",
        "SHOULD",
        cut_body,
        "echo",
    ),
    *(
        Case(
            f"fastcgi.framing.begin-length.{size}",
            f"BEGIN_REQUEST of {size} bytes",
            SPEC_BEGIN,
            "SHOULD",
            not_served(
                rec(FCGI_BEGIN_REQUEST, 1, (b"\0\1" + b"\0" * 20)[:size]),
                stream(FCGI_PARAMS, 1, pair("REQUEST_METHOD", "GET")),
                stream(FCGI_STDIN, 1, b""),
                end=True,
            ),
        )
        for size in (0, 3, 7)
    ),
]
