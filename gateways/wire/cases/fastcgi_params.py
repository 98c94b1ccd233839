"""FastCGI 1.0 sections 3.4 and 5.2: name-value pairs, and the stream that carries them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.codecs.fastcgi_records import FCGI_PARAMS, FCGI_STDIN
from gateways.wire.case import Case, Context, Failure
from gateways.wire.fastcgi import Talk, alive, begin, pair, pairs, rec, stream

__all__ = ["CASES"]

PAIRS: Final = "FastCGI 1.0, 3.4 Name-Value Pairs"
STREAM: Final = "FastCGI 1.0, 5.2 FCGI_PARAMS"
CVE: Final = "FastCGI 1.0, 3.4; CVE-2025-23016"
RFC: Final = "RFC 3875, 4.1"
ENDLESS_RECORDS: Final = 256
MARK: Final = pair("CONFORM_A", "value", long=2)
"""One pair of which every byte is a place to split."""


def sees(
    params: dict[str, str], block: Callable[[bytes], bytes], seen: dict[str, str] | None = None
) -> Callable[[Context], None]:
    """A request with more parameters; ``block`` makes the stream of the usual ones, and adds its own."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.expect(1)
        talk.send(begin(1), block(pairs(context.params())), rec(FCGI_STDIN, 1))
        talk.good(talk.answer(), params if seen is None else seen)

    return run


def extra(params: dict[str, str], size: int = 65_535) -> Callable[[Context], None]:
    """More parameters in records of ``size`` bytes."""
    return sees(params, lambda usual: stream(FCGI_PARAMS, 1, usual + pairs(params), size))


def split_at(at: int) -> Callable[[Context], None]:
    """One pair over two records."""

    def block(usual: bytes) -> bytes:
        return rec(FCGI_PARAMS, 1, usual + MARK[:at]) + rec(FCGI_PARAMS, 1, MARK[at:]) + rec(FCGI_PARAMS, 1)

    return sees({"CONFORM_A": "value"}, block)


def long_form(form: int) -> Callable[[Context], None]:
    """Lengths below 128 in four bytes."""
    return sees({"CONFORM_A": "b"}, lambda usual: stream(FCGI_PARAMS, 1, usual + pair("CONFORM_A", "b", long=form)))


def bad(tail: bytes, *, refuse: bool) -> Callable[[Context], None]:
    """A stream that ends in no pair: an end of some kind, a refusal where ``refuse`` says so, and the server lives."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.expect(1)
        talk.send(begin(1), stream(FCGI_PARAMS, 1, pairs(context.params()) + tail), rec(FCGI_STDIN, 1))
        reply = talk.answer()
        if refuse:
            talk.refused(reply)
        alive(context)

    return run


def nothing(context: Context) -> None:
    """A request without a parameter is answered in some way."""
    talk = Talk(context)
    talk.expect(1)
    talk.send(begin(1), rec(FCGI_PARAMS, 1), rec(FCGI_STDIN, 1))
    talk.link.end()
    talk.answer()
    alive(context)


def ends_or_serves(tail: Callable[[], bytes]) -> Callable[[Context], None]:
    """Much of something: served or refused, as the server's limits will have it, and the next request is served."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.expect(1)
        talk.send(begin(1), stream(FCGI_PARAMS, 1, pairs(context.params()) + tail()), rec(FCGI_STDIN, 1))
        reply = talk.answer()
        if reply.ended and reply.stdout and not 200 <= reply.status < 600:
            raise Failure("a status", str(reply.status))
        alive(context)

    return run


def endless(context: Context) -> None:
    """Parameters that never end are refused, or the connection ends, before they fill the memory."""
    talk = Talk(context)
    talk.expect(1)
    block = rec(FCGI_PARAMS, 1, pair("CONFORM_A", "v" * 65_500))
    talk.send(begin(1), rec(FCGI_PARAMS, 1, pairs(context.params())), *[block] * ENDLESS_RECORDS)
    talk.refused(talk.answer())
    alive(context)


def httpoxy(context: Context) -> None:
    """HTTP_PROXY never becomes the application's proxy."""
    talk = Talk(context)
    reply = talk.ask(1, context.params({"HTTP_PROXY": "http://attacker.example/"}))
    talk.good(reply)
    if b"\nHTTP_PROXY=" in reply.body:
        raise Failure("no HTTP_PROXY", "the application saw it")


MODEST: Final = 4_096
"""Bytes of parameters that every server takes; how many more is its own affair."""
TINY: Final = {"CONFORM_A": "value", "CONFORM_B": "v" * 40}
BYTES: Final = (
    ("utf-8", "caf\xc3\xa9 \xe2\x82\xac", "octets of UTF-8"),
    ("latin-1", "caf\xe9", "an octet of Latin-1"),
    ("high", "".join(map(chr, range(128, 256))), "all octets from 128"),
    ("controls", "".join(map(chr, range(1, 32))) + "\x7f", "control characters"),
    ("equals", "a=b=c", "an equals sign"),
    ("percent", "%41%2F+%00", "percent-encoding, which is not decoded again"),
    ("blanks", "  a  ", "blanks around a value"),
    ("newline", "a\r\nb: c", "a line break"),
)

BAD: Final = (
    ("value-too-long", b"\1\2Ab", "a value longer than the stream by one", PAIRS),
    ("name-too-long", b"\5\0Ab", "a name longer than the stream", PAIRS),
    ("length-cut", b"\1\1Ab\1\x80\0", "a length that is cut short", PAIRS),
    ("one-byte", b"\1", "one byte too many", PAIRS),
    ("value-2-31", b"\1\xff\xff\xff\xffAb", "a value of 2^31-1 bytes", CVE),
    ("name-2-31", b"\xff\xff\xff\xff\1Ab", "a name of 2^31-1 bytes", CVE),
    ("sum-32", b"\xff\xff\xff\xff\xff\xff\xff\xff" + b"A" * 40, "lengths whose sum passes 32 bits", CVE),
    ("sum-31", b"\x80\0\0\1\xff\xff\xff\xffA", "lengths whose sum passes 31 bits", CVE),
)

CASES: Final[list[Case]] = [
    *(
        Case(
            f"fastcgi.params.value.{size}",
            f"a value of {size} bytes",
            PAIRS,
            "MUST" if size <= MODEST else "SHOULD",
            extra({"CONFORM_A": "v" * size}),
            "echo",
        )
        for size in (0, 1, 126, 127, 128, 129, 255, 256, 257, 8_191, 16_384, 32_768, 60_000)
    ),
    *(
        Case(
            f"fastcgi.params.name.{size}",
            f"a name of {size} bytes",
            PAIRS,
            "MUST",
            extra({"CONFORM_" + "N" * (size - 8): "v"}),
            "echo",
        )
        for size in (9, 126, 127, 128, 129, 1_000)
    ),
    *(
        Case(
            f"fastcgi.params.long-form.{name}",
            f"a length below 128 in four bytes: {title}",
            PAIRS,
            "MUST",
            long_form(form),
        )
        for form, name, title in ((1, "name", "the name's"), (2, "value", "the value's"), (3, "both", "both"))
    ),
    *(
        Case(
            f"fastcgi.params.split.{at}",
            f"a pair over two records, cut after {at} of its {len(MARK)} bytes",
            STREAM,
            "MUST",
            split_at(at),
        )
        for at in range(1, len(MARK))
    ),
    *(
        Case(
            f"fastcgi.params.records.{size}",
            f"parameters in records of {size} bytes",
            STREAM,
            "MUST",
            extra(TINY, size),
        )
        for size in (1, 2, 3, 7, 8, 64, 255)
    ),
    Case(
        "fastcgi.params.over-64k",
        "parameters of more than 65,535 bytes (Apache, Caddy and h2o send them)",
        STREAM,
        "SHOULD",
        extra({"CONFORM_A": "a" * 40_000, "CONFORM_B": "b" * 40_000}),
        "echo",
    ),
    Case(
        "fastcgi.params.pair-over-64k",
        "one pair of more than 65,535 bytes",
        STREAM,
        "SHOULD",
        extra({"CONFORM_A": "a" * 66_000}),
        "echo",
    ),
    Case(
        "fastcgi.params.hundreds",
        "300 parameters",
        STREAM,
        "SHOULD",
        extra({f"CONFORM_{at}": str(at) for at in range(300)}),
        "echo",
    ),
    *(
        Case(
            f"fastcgi.params.bytes.{name}",
            title,
            f"{PAIRS}; {RFC}",
            "SHOULD" if name == "controls" else "MUST",
            extra({"CONFORM_A": value}),
            "echo",
        )
        for name, value, title in BYTES
    ),
    Case("fastcgi.params.none", "no parameters at all", STREAM, "SHOULD", nothing),
    Case(
        "fastcgi.params.httpoxy",
        "HTTP_PROXY does not reach the application",
        "CVE-2016-5385; nginx sends it",
        "SHOULD",
        httpoxy,
        "echo",
    ),
    *(
        Case(f"fastcgi.params.bad.{name}", f"{title} is refused", section, "SHOULD", bad(tail, refuse=True))
        for name, tail, title, section in BAD
    ),
    *(
        Case(
            f"fastcgi.params.survives.{name}", f"the server survives {title}", section, "MUST", bad(tail, refuse=False)
        )
        for name, tail, title, section in BAD
    ),
    *(
        Case(
            f"fastcgi.params.much.{name}",
            title,
            "limits: an answer, and the server lives",
            "MUST",
            ends_or_serves(tail),
        )
        for name, tail, title in (
            ("1m", lambda: pair("CONFORM_A", "v" * 1_000_000), "a parameter of 1,000,000 bytes"),
            ("10000", lambda: b"".join(pair(f"CONFORM_{at}", "") for at in range(10_000)), "10,000 parameters"),
            ("empty-names", lambda: pair("", "v") * 3, "names of nothing"),
        )
    ),
    Case(
        "fastcgi.limits.params",
        "16 MiB of FCGI_PARAMS without an end are refused",
        "limits: memory is finite; nginx sends 32 KiB of fields at most, as it comes",
        "SHOULD",
        endless,
    ),
]
