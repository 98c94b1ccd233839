"""FastCGI 1.0 sections 5.3 and 5.5, 3.3: the request's body, the response's streams, and how both end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.codecs.fastcgi_records import FCGI_PARAMS, FCGI_STDIN
from gateways.wire.case import Case, Context, Echo, Failure
from gateways.wire.fastcgi import KEEP, Reply, Talk, alive, begin, head_of, pairs, rec, request, stream

__all__ = ["CASES"]

STDIN: Final = "FastCGI 1.0, 5.3 FCGI_STDIN"
END: Final = "FastCGI 1.0, 5.5 FCGI_END_REQUEST"
OUT: Final = "FastCGI 1.0, 5.3 FCGI_STDOUT, FCGI_STDERR"
TYPES: Final = "FastCGI 1.0, 3.3 Types of Record Types"
RFC: Final = "RFC 3875, 4.1.2 CONTENT_LENGTH"
CHUNKED: Final = "nginx with fastcgi_request_buffering off, Apache with a chunked request"
NOISE: Final = bytes(range(256))


def noise(size: int) -> bytes:
    """Octets of every value."""
    return (NOISE * (size // 256 + 1))[:size]


def posting(context: Context, length: str | None, *, query: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """Parameters of a POST with this CONTENT_LENGTH, None is without; and what must be seen of them."""
    seen = {"CONFORM_A": "b", "REQUEST_METHOD": "POST"}
    params = context.params(seen | {"CONTENT_TYPE": "application/octet-stream"}, query=query)
    if length is not None:
        params["CONTENT_LENGTH"] = length
    return params, seen


def body(size: int, record: int = 65_535, *, length: str | None = "right") -> Callable[[Context], None]:
    """A body of any octets in records of one size."""

    def run(context: Context) -> None:
        params, seen = posting(context, str(size) if length == "right" else length)
        data = noise(size)
        talk = Talk(context)
        talk.expect(1)
        talk.send(head_of(1, params), stream(FCGI_STDIN, 1, data, record))
        talk.good(talk.answer(), seen, data)

    return run


def looks_like_records(context: Context) -> None:
    """A body that holds a whole request is a body."""
    data = request(1, {"A": "b"}) + request(2, {"A": "b"})
    params, seen = posting(context, str(len(data)))
    talk = Talk(context)
    talk.good(talk.ask(1, params, data), seen, data)


def mismatch(told: str, data: bytes) -> Callable[[Context], None]:
    """CONTENT_LENGTH and the stream disagree: an end of some kind, and the kept connection is not out of step."""

    def run(context: Context) -> None:
        params, _ = posting(context, told)
        talk = Talk(context)
        if talk.ask(1, params, data, KEEP).ended and not talk.link.is_closed():
            params, seen = posting(context, "0")
            reply = talk.ask(2, params)
            if reply.ended or reply.stdout:
                talk.good(reply, seen)
        alive(context)

    return run


def bad_length(text: str) -> Callable[[Context], None]:
    """A CONTENT_LENGTH that is no number of bytes is refused."""

    def run(context: Context) -> None:
        params, _ = posting(context, text)
        talk = Talk(context)
        talk.refused(talk.ask(1, params, b"12345"))
        alive(context)

    return run


def extra_end(context: Context) -> None:
    """One more empty FCGI_STDIN belongs to no request, and the next one is served."""
    talk = Talk(context)
    for number in (1, 2):
        params, seen = posting(context, "2")
        talk.expect(number)
        talk.send(request(number, params, b"ab", KEEP if number == 1 else 0), rec(FCGI_STDIN, number))
        talk.good(talk.answer(number), seen, b"ab")


def late_stdin(context: Context) -> None:
    """FCGI_STDIN after its end is not part of the body."""
    params, seen = posting(context, "2")
    talk = Talk(context)
    talk.expect(1)
    talk.send(request(1, params, b"ab"), rec(FCGI_STDIN, 1, b"late"), rec(FCGI_STDIN, 1))
    talk.good(talk.answer(), seen, b"ab")


def waits_for_end(context: Context) -> None:
    """A body in three parts, each sent when the one before was taken."""
    params, seen = posting(context, "6")
    talk = Talk(context)
    talk.expect(1)
    talk.send(head_of(1, params))
    for part in (b"on", b"et", b"wo"):
        talk.send(rec(FCGI_STDIN, 1, part))
    talk.send(rec(FCGI_STDIN, 1))
    talk.good(talk.answer(), seen, b"onetwo")


def disorder(*parts: bytes) -> Callable[[Context], None]:
    """Streams in the wrong order: one end of some kind, and the server lives."""

    def run(context: Context) -> None:
        params, _ = posting(context, "4")
        disordered(context, params, *parts)
        alive(context)

    return run


def disordered(context: Context, params: dict[str, str], *parts: bytes) -> Reply:
    """Send one request in these parts, and no more; its one answer."""
    talk = Talk(context)
    talk.expect(1)
    talk.send(begin(1), *[part or rec(FCGI_PARAMS, 1, pairs(params)) for part in parts])
    talk.link.end()
    reply = talk.answer()
    talk.ends()
    return reply


def early_body(context: Context) -> None:
    """A body that starts within the parameters is refused, or not lost: nothing else tells how long it is."""
    params, _ = posting(context, None)
    reply = disordered(context, params, GIVEN, DATA, END_PARAMS, END_STDIN)
    said = Echo.parse(reply.body) if reply.ended and reply.stdout and reply.status == 200 else None
    if said is not None and said.body != DATA[8:]:
        raise Failure("a refusal, a close or the whole body", f"a request with {len(said.body)} bytes of it was served")
    alive(context)


def sized(size: int) -> Callable[[Context], None]:
    """A response of so many bytes arrives whole."""

    def run(context: Context) -> None:
        talk = Talk(context)
        reply = talk.ask(1, context.params(query=f"size={size}"))
        talk.good_head(reply, 200)
        wanted = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        if reply.body != wanted:
            raise Failure(f"{size} bytes", f"{len(reply.body)} bytes, or others")

    return run


def whole_answer(check: Callable[[Talk], None], flags: int = 0, number: int = 1) -> Callable[[Context], None]:
    """A plain GET, of whose answer something is asked."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.good(talk.ask(number, context.params(), flags=flags))
        check(talk)

    return run


def stdout_ended(talk: Talk) -> None:
    """FCGI_STDOUT ends with an empty record."""
    if not talk.replies[1].stdout_ended:
        raise Failure("an empty FCGI_STDOUT record before FCGI_END_REQUEST", "none")


def app_status(talk: Talk) -> None:
    """A good request ends with appStatus 0."""
    if talk.replies[1].app_status:
        raise Failure("appStatus 0", str(talk.replies[1].app_status))


def nothing_after(talk: Talk) -> None:
    """FCGI_END_REQUEST is the last that the connection carries."""
    talk.closes()


def stderr(context: Context) -> None:
    """What an application writes to its error stream never stands in the response."""
    talk = Talk(context)
    reply = talk.ask(1, context.params(query="stderr=CONFORM-STDERR&size=16"))
    talk.good_head(reply, 200)
    if b"CONFORM-STDERR" in reply.stdout:
        raise Failure("the error stream apart from FCGI_STDOUT", repr(bytes(reply.stdout[:80])))


def unread(size: int) -> Callable[[Context], None]:
    """A body that the application leaves unread does not cost it its answer."""

    def run(context: Context) -> None:
        params, seen = posting(context, str(size), query="read=no")
        talk = Talk(context)
        talk.expect(1)
        talk.send(head_of(1, params), stream(FCGI_STDIN, 1, noise(size), 8_192))
        talk.good(talk.answer(), seen)

    return run


def unread_then_next(context: Context) -> None:
    """The unread body of one request is not part of the next on a kept connection."""
    talk = Talk(context)
    params, seen = posting(context, "100000", query="read=no")
    talk.good(talk.ask(1, params, noise(100_000), KEEP), seen)
    params, seen = posting(context, "3")
    talk.good(talk.ask(1, params, b"new"), seen, b"new")


NOT_LENGTHS: Final = (
    ("plus", "+5"), ("minus", "-1"), ("minus-zero", "-0"), ("blank-before", " 5"), ("blank-after", "5 "),
    ("underscore", "1_0"), ("list", "5,5"), ("hex", "0x5"), ("word", "five"), ("superscript", "\xb2"),
    ("20-digits", "9" * 20),
)  # fmt: skip
DATA: Final = rec(FCGI_STDIN, 1, b"body")
END_STDIN: Final = rec(FCGI_STDIN, 1)
END_PARAMS: Final = rec(FCGI_PARAMS, 1)
GIVEN: Final = b""
"""Stands for the parameters."""

CASES: Final[list[Case]] = [
    *(
        Case(f"fastcgi.stdin.body.{size}", f"a body of {size} bytes", STDIN, "MUST", body(size), "echo")
        for size in (0, 1, 2, 127, 255, 256, 8_192, 65_535, 65_536, 200_000)
    ),
    *(
        Case(
            f"fastcgi.stdin.records.{size}",
            f"a body in records of {size} bytes",
            STDIN,
            "MUST",
            body(total, size),
            "echo",
        )
        for size, total in ((1, 100), (2, 100), (7, 700), (8_192, 20_000), (32_768, 70_001), (65_528, 70_001))
    ),
    Case(
        "fastcgi.stdin.no-length",
        "a body without CONTENT_LENGTH",
        f"{STDIN}; {CHUNKED}",
        "SHOULD",
        body(5_000, length=None),
        "echo",
    ),
    Case(
        "fastcgi.stdin.empty-length",
        "a body with an empty CONTENT_LENGTH",
        f"{STDIN}; {CHUNKED}",
        "SHOULD",
        body(5_000, length=""),
        "echo",
    ),
    Case(
        "fastcgi.stdin.no-body-empty-length",
        "no body and an empty CONTENT_LENGTH, as nginx sends it",
        RFC,
        "MUST",
        body(0, length=""),
    ),
    Case(
        "fastcgi.stdin.no-body-no-length",
        "no body and no CONTENT_LENGTH, as Apache sends it",
        RFC,
        "MUST",
        body(0, length=None),
    ),
    Case("fastcgi.stdin.records-in-body", "a body that looks like records", STDIN, "MUST", looks_like_records, "echo"),
    Case(
        "fastcgi.stdin.shorter",
        "a stream shorter than CONTENT_LENGTH",
        f"{STDIN}; {RFC}",
        "MUST",
        mismatch("10", b"abc"),
    ),
    Case(
        "fastcgi.stdin.longer",
        "a stream longer than CONTENT_LENGTH",
        f"{STDIN}; {RFC}",
        "MUST",
        mismatch("2", request(1, {"A": "b"})),
    ),
    Case("fastcgi.stdin.extra-end", "one more empty FCGI_STDIN", STDIN, "SHOULD", extra_end),
    Case("fastcgi.stdin.late", "FCGI_STDIN after its end", f"{STDIN}; {TYPES}", "SHOULD", late_stdin, "echo"),
    Case("fastcgi.stdin.parts", "a body in three records", STDIN, "MUST", waits_for_end, "echo"),
    *(
        Case(f"fastcgi.stdin.bad-length.{name}", f"CONTENT_LENGTH {text[:20]!r}", RFC, "SHOULD", bad_length(text))
        for name, text in NOT_LENGTHS
    ),
    *(
        Case(f"fastcgi.order.{name}", title, TYPES, "MUST", disorder(*parts))
        for name, title, parts in (
            ("stdin-first", "FCGI_STDIN before FCGI_PARAMS", (DATA, END_STDIN, GIVEN, END_PARAMS)),
            ("stdin-within", "FCGI_STDIN before the end of FCGI_PARAMS", (GIVEN, DATA, END_PARAMS, END_STDIN)),
            ("params-late", "FCGI_PARAMS after its end", (GIVEN, END_PARAMS, GIVEN, END_PARAMS, DATA, END_STDIN)),
            ("params-in-body", "FCGI_PARAMS within the body", (GIVEN, END_PARAMS, DATA, GIVEN, DATA, END_STDIN)),
            ("no-params-end", "no end of FCGI_PARAMS", (GIVEN, END_STDIN)),
        )
    ),
    Case(
        "fastcgi.order.early-body",
        "FCGI_STDIN before the end of FCGI_PARAMS, without CONTENT_LENGTH: refused, or not lost",
        f"{TYPES}; {CHUNKED}",
        "SHOULD",
        early_body,
        "echo",
    ),
    *(
        Case(f"fastcgi.stdout.size.{size}", f"a response of {size} bytes", OUT, "MUST", sized(size), "echo")
        for size in (0, 1, 255, 8_191, 8_192, 65_528, 65_535, 65_536, 131_072, 1_000_000)
    ),
    Case("fastcgi.stdout.end", "FCGI_STDOUT ends with an empty record", TYPES, "SHOULD", whole_answer(stdout_ended)),
    Case("fastcgi.stdout.app-status", "appStatus 0", END, "SHOULD", whole_answer(app_status), "echo"),
    Case("fastcgi.stdout.nothing-after", "nothing follows FCGI_END_REQUEST", END, "MUST", whole_answer(nothing_after)),
    Case("fastcgi.stderr.apart", "the error stream is apart", OUT, "MUST", stderr, "echo"),
    *(
        Case(
            f"fastcgi.stdin.unread.{size}",
            f"{size} bytes of body left unread",
            "FastCGI 1.0, 6.2 Responder",
            "MUST",
            unread(size),
            "echo",
        )
        for size in (10, 65_536, 1_000_000)
    ),
    Case(
        "fastcgi.stdin.unread-kept",
        "an unread body and the next request",
        "FastCGI 1.0, 3.3 and 6.2",
        "MUST",
        unread_then_next,
        "echo",
    ),
]
