from __future__ import annotations

import random
import tracemalloc
from collections.abc import Mapping
from typing import Final

import pytest
from hypothesis import given, strategies as st

from gateways.codecs import Codec
from gateways.codecs.events import (
    Abort,
    Body,
    Closed,
    Continue,
    EndOfBody,
    EndOfResponse,
    ErrorOutput,
    Event,
    RawBody,
    Refused,
    Request,
    ResponseHead,
)
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.refusal import error_response
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits
from gateways.testing.framing.fastcgi_records import (
    ABORT,
    BEGIN,
    DATA,
    END,
    GET_VALUES,
    GET_VALUES_RESULT,
    KEEP,
    PARAMS,
    STDERR,
    STDIN,
    STDOUT,
    UNKNOWN_TYPE,
    Record,
    ask,
    begin,
    content,
    ended,
    pair,
    pairs,
    rec,
    records,
    request,
    stream_of,
    to8,
    unknown_type,
    values_result,
)
from gateways.testing.noise import chop, cuts
from gateways.testing.noisy import any_wire
from tests.codecs.vectors import LATIN1, MORE, NAMES, OFFSETS, Denied, Fault, Vector, check, plain, run

RECORD: Final = 8 + 65_535 + 255  # the longest record
MALFORMED: Final = Fault(MalformedMessage)
UNKNOWN_ROLE: Final = Fault(MalformedMessage, 501)
BUSY: Final = Fault(LimitExceeded, 503, "requests on one connection")


def of(parts: list[bytes], events: list[object], *clean: int, error: Fault | None = None, sent: bytes = b"") -> Vector:
    """A vector of whole records; ``clean`` are the numbers of records after which the peer may close, beside 0."""
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return Vector(b"".join(parts), events, error, sent, clean=frozenset(offsets[number] for number in (0, *clean)))


def asked(
    stream: int, params: Mapping[str, str], body: list[bytes] | None = None, *, keep: bool = False
) -> list[object]:
    """The events of one whole request."""
    length = int(params.get("CONTENT_LENGTH") or -1)
    head = Request(stream, dict(params), length, keep=keep)
    return [head, *(Body(stream, part) for part in body or []), EndOfBody(stream)]


# -- what web servers send ------------------------------------------------------------------------------------------

NGINX = {
    "QUERY_STRING": "", "REQUEST_METHOD": "GET", "CONTENT_TYPE": "", "CONTENT_LENGTH": "",
    "SCRIPT_NAME": "/caf\xc3\xa9",
    "REQUEST_URI": "/caf%C3%A9", "DOCUMENT_URI": "/caf\xc3\xa9", "DOCUMENT_ROOT": "/usr/share/nginx/html",
    "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_SCHEME": "http", "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "nginx/1.22.1",
    "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "51234", "REMOTE_USER": "", "SERVER_ADDR": "127.0.0.1",
    "SERVER_PORT": "80",
    "SERVER_NAME": "", "REDIRECT_STATUS": "200", "HTTP_HOST": "example.com", "HTTP_PROXY": "http://attacker.example/",
}  # fmt: skip
APACHE = {
    "HTTP_HOST": "example.com", "HTTP_COOKIE": "a=1, b=2", "PATH": "/usr/bin:/bin", "SERVER_SIGNATURE": "<address/>\n",
    "SERVER_ADMIN": "webmaster@localhost", "SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000/app/x",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_METHOD": "POST", "QUERY_STRING": "", "REQUEST_URI": "/app/x",
    "SCRIPT_NAME": "/app/x",
    "CONTENT_LENGTH": "20000",
}  # fmt: skip
CADDY = {
    "AUTH_TYPE": "", "CONTENT_LENGTH": "0", "CONTENT_TYPE": "", "GATEWAY_INTERFACE": "CGI/1.1", "PATH_INFO": "/x",
    "REMOTE_IDENT": "",
    "REMOTE_USER": "", "SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/2.0", "HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3",
    "HTTP_X_A": "1, 2",
}  # fmt: skip
BIG = {"HTTP_COOKIE": "c" * 60_000, "HTTP_B": "b" * 9_000, "A": "last"}
NOISE = bytes(range(256)) * 300


def nginx(params: Mapping[str, str], body: bytes = b"", flags: int = 0) -> list[bytes]:
    """BEGIN, all parameters in one record, STDIN in records of 32 KiB; every record padded to 8 bytes."""
    return [
        begin(1, flags),
        *stream_of(PARAMS, 1, pairs(params), 65_535, pad=True),
        *stream_of(STDIN, 1, body, 32_768, pad=True),
    ]


UPLOAD = NGINX | {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "70001"}
CHUNKED = NGINX | {"REQUEST_METHOD": "POST", "HTTP_TRANSFER_ENCODING": "chunked"}
NO_LENGTH = {name: value for name, value in APACHE.items() if name != "CONTENT_LENGTH"} | {
    "HTTP_TRANSFER_ENCODING": "chunked"
}
REPEATED = pair("HTTP_VIA", "a") + pair("HTTP_COOKIE", "a=1") + pair("HTTP_VIA", "b") + pair("HTTP_COOKIE", "b=2")

SERVERS: dict[str, Vector] = {
    "nginx": of(nginx(NGINX), asked(1, NGINX), 4),
    "nginx, kept": of(nginx(NGINX, flags=KEEP), asked(1, NGINX, keep=True), 4),
    "nginx, 32 KiB records": of(
        nginx(UPLOAD, NOISE[:70_001]), asked(1, UPLOAD, [NOISE[:32_768], NOISE[32_768:65_536], NOISE[65_536:70_001]]), 7
    ),
    "nginx, chunked and unbuffered": of(nginx(CHUNKED, b"dechunked"), asked(1, CHUNKED, [b"dechunked"]), 5),
    "nginx before 1.23, repeated fields": of(
        [begin(1), to8(PARAMS, 1, REPEATED), rec(PARAMS, 1), rec(STDIN, 1)],
        asked(1, {"HTTP_VIA": "a, b", "HTTP_COOKIE": "a=1; b=2"}),
        4,
    ),
    "Debian's nginx, REMOTE_USER twice": of(
        [begin(1), to8(PARAMS, 1, pair("REMOTE_USER", "") * 2), rec(PARAMS, 1),
        rec(STDIN, 1)], asked(1, {"REMOTE_USER": ""}), 4
    ),
    "Apache, 8 KiB records, no padding": of(
        [begin(1), *stream_of(PARAMS, 1, pairs(APACHE), 16_384), *stream_of(STDIN, 1, NOISE[:20_000], 8_192)],
        asked(1, APACHE, [NOISE[:8_192], NOISE[8_192:16_384], NOISE[16_384:20_000]]),
        7,
    ),
    "Apache, parameters split at 16 KiB": of(
        [begin(1), rec(PARAMS, 1, pairs({"A": "a" * 16_000})), rec(PARAMS, 1, pairs(NO_LENGTH)), rec(PARAMS, 1),
        rec(STDIN, 1)],
        asked(1, {"A": "a" * 16_000, **NO_LENGTH}),
        5,
    ),
    "Apache, no CONTENT_LENGTH": of(
        [begin(1), *stream_of(PARAMS, 1, pairs(NO_LENGTH), 16_384), rec(STDIN, 1, b"dechunked"), rec(STDIN, 1)],
        asked(1, NO_LENGTH, [b"dechunked"]),
        5,
    ),
    "lighttpd, 65,535-byte records": of(
        [begin(1), *stream_of(PARAMS, 1, pairs(UPLOAD), 65_535), *stream_of(STDIN, 1, NOISE[:70_001], 65_535)],
        asked(1, UPLOAD, [NOISE[:65_535], NOISE[65_535:70_001]]),
        6,
    ),
    "Caddy, padded": of(
        [begin(1), *stream_of(PARAMS, 1, pairs(CADDY), 65_500, pad=True), to8(STDIN, 1)],
        [Request(1, CADDY, 0), EndOfBody(1)],
        4,
    ),
    "Caddy, parameters over 65,500 bytes": of(
        [begin(1), *stream_of(PARAMS, 1, pairs(BIG), 65_500, pad=True), to8(STDIN, 1)], asked(1, BIG), 5
    ),
    "h2o, split inside a pair": of(
        [begin(1, KEEP), *stream_of(PARAMS, 1, pairs(BIG), 65_535), rec(STDIN, 1)], asked(1, BIG, keep=True), 5
    ),
    "HAProxy, values first and two at once": of(
        [
            ask("FCGI_MAX_REQS", "FCGI_MPXS_CONNS"), begin(1, KEEP), rec(PARAMS, 1, pairs({"A": "1"})), begin(2, KEEP),
            rec(PARAMS, 2, pairs({"A": "2"})), rec(PARAMS, 2), rec(PARAMS, 1), rec(STDIN, 1, b"one"), rec(STDIN, 2,
            b"two"),
            rec(STDIN, 2), rec(STDIN, 1),
        ],
        [
            Request(2, {"A": "2"}, keep=True), Request(1, {"A": "1"}, keep=True), Body(1, b"one"), Body(2, b"two"),
            EndOfBody(2), EndOfBody(1),
        ],
        1, 11,
        sent=values_result({"FCGI_MAX_REQS": "1024", "FCGI_MPXS_CONNS": "1"}),
    ),
    "mod_authnz_fcgi": of(
        [begin(1, 0, 2), rec(PARAMS, 1, pairs({"REQUEST_METHOD": "GET"})), rec(PARAMS, 1)],
        [Request(1, {"REQUEST_METHOD": "GET"}, 0, "authorizer"), EndOfBody(1)],
        3,
    ),
}  # fmt: skip


# -- every rule -----------------------------------------------------------------------------------------------------

HEAD: Final = [begin(1), rec(PARAMS, 1, pairs({"A": "b"})), rec(PARAMS, 1)]
END_OF_BODY: Final = rec(STDIN, 1)
ASKED: Final = Request(1, {"A": "b"})
ENDED: Final = EndOfBody(1)
ALL_VALUES = {"FCGI_MAX_CONNS": "1024", "FCGI_MAX_REQS": "1024", "FCGI_MPXS_CONNS": "1"}
ASK_ALL: Final = ask("FCGI_MPXS_CONNS", "FCGI_MAX_CONNS", "FCGI_MAX_REQS")
SPLIT: Final = pair("NAME", "value", long=2)


def lengths(text: str) -> Vector:
    """A request whose CONTENT_LENGTH is no number of bytes, with a body."""
    parts = [
        begin(1),
        rec(PARAMS, 1, pairs({"CONTENT_LENGTH": text})),
        rec(PARAMS, 1),
        rec(STDIN, 1, b"12345"),
        rec(STDIN, 1),
    ]
    return of(parts, [Denied(1, MALFORMED)], 3, 4, 5)


def length(text: str, number: int) -> Vector:
    params = {"CONTENT_LENGTH": text}
    parts = [begin(1), rec(PARAMS, 1, pairs(params)), rec(PARAMS, 1), rec(STDIN, 1, b"12345"), rec(STDIN, 1)]
    return of(parts, [Request(1, params, number), Body(1, b"12345"), ENDED], 5)


def bad_params(block: bytes) -> Vector:
    return of([begin(1), rec(PARAMS, 1, block), rec(PARAMS, 1), rec(STDIN, 1)], [Denied(1, MALFORMED)], 3, 4)


RULES: dict[str, Vector] = {
    "nothing": of([], []),
    # Parameters: one stream over any number of records.
    "no parameters": of([begin(1), rec(PARAMS, 1), rec(STDIN, 1)], [Request(1, {}), ENDED], 3),
    "one byte a record": of(
        [begin(1), *stream_of(PARAMS, 1, SPLIT, 1), rec(STDIN, 1)],
        [Request(1, {"NAME": "value"}), ENDED], len(SPLIT) + 3
    ),
    **{
        f"a pair split at {at}": of(
            [begin(1), rec(PARAMS, 1, SPLIT[:at]), rec(PARAMS, 1, SPLIT[at:]), rec(PARAMS, 1), rec(STDIN, 1)],
            [Request(1, {"NAME": "value"}), ENDED], 5,
        )
        for at in range(1, len(SPLIT))
    },
    **{
        f"a value of {size} bytes": of(
            [begin(1), *stream_of(PARAMS, 1, pair("A", "v" * size), 40_000), rec(STDIN, 1)],
            [Request(1, {"A": "v" * size}), ENDED], 4 if size < 39_995 else 5,
        )
        for size in (126, 127, 128, 129, 65_535, 65_536)
    },
    **{
        f"lengths in the form {form}": of(
            [begin(1), rec(PARAMS, 1, pair("A", "b", long=form)), rec(PARAMS, 1), rec(STDIN, 1)], [ASKED, ENDED], 4
        )
        for form in range(4)
    },
    "a length of 2^31-1": bad_params(b"\1\xff\xff\xff\xffAb"),
    "a name of 2^31-1": bad_params(b"\xff\xff\xff\xff\1Ab"),
    "lengths whose sum passes 32 bits": bad_params(b"\xff\xff\xff\xff\xff\xff\xff\xff" + b"A" * 40),
    "lengths whose sum passes 31 bits": bad_params(b"\x80\0\0\1\xff\xff\xff\xffA"),
    "a pair too long by one": bad_params(b"\1\2Ab"),
    "a length cut short": bad_params(b"\1\1Ab\1\x80\0"),
    "a name of nothing": bad_params(b"\0\1b"),
    "a name twice with two values": bad_params(pair("A", "b") + pair("A", "c")),
    "two lengths": bad_params(pair("CONTENT_LENGTH", "1") + pair("CONTENT_LENGTH", "2")),
    "a good request after a bad one": of(
        [begin(1), rec(PARAMS, 1, b"\1\2Ab"), rec(PARAMS, 1), rec(STDIN, 1), request(2, {"A": "b"})],
        [Denied(1, MALFORMED), Request(2, {"A": "b"}), EndOfBody(2)], 3, 4, 5,
    ),
    "first parameter, order": of(
        [begin(1), rec(PARAMS, 1, pairs({"Z": "", "A": "", "M": ""})), rec(PARAMS, 1), rec(STDIN, 1)],
        [Request(1, {"Z": "", "A": "", "M": ""}), ENDED], 4,
    ),
    # Padding, on any record, of any bytes; the reserved byte.
    "padding everywhere": of(
        [
            rec(BEGIN, 1, begin(1)[8:], 255), rec(PARAMS, 1, pairs({"A": "b"}), 1), rec(PARAMS, 1, b"", 255),
            rec(STDIN, 1, b"x", 7), rec(STDIN, 1, b"", 1), rec(GET_VALUES, 0, b"", 9), rec(99, 0, b"", 3),
        ],
        [ASKED, Body(1, b"x"), ENDED], 5, 6, 7,
        sent=values_result({}) + unknown_type(99),
    ),
    "padding that looks like records": of(
        [rec(BEGIN, 1, begin(1)[8:], 16, junk=b"\1"), rec(PARAMS, 1, b"", 8, junk=b"\2"), rec(STDIN, 1,
        b"", 80, junk=b"\1")],
        [Request(1, {}), ENDED], 3,
    ),
    "reserved bytes are anything": of(
        [
            rec(BEGIN, 1, b"\0\1\0\1\2\3\4\5", reserved=255), rec(PARAMS, 1, b"", reserved=1), rec(STDIN, 1, reserved=2)
        ],
        [Request(1, {}), ENDED], 3,
    ),
    "flags that nobody knows": of([begin(1, 0xFE), rec(PARAMS, 1), rec(STDIN, 1)], [Request(1, {}), ENDED], 3),
    "all flags": of([begin(1, 0xFF), rec(PARAMS, 1), rec(STDIN, 1)], [Request(1, {}, keep=True), ENDED], 3),
    # Bodies end at the empty record, whatever CONTENT_LENGTH says.
    "more body than CONTENT_LENGTH": of(
        [begin(1), rec(PARAMS, 1, pairs({"CONTENT_LENGTH": "1"})), rec(PARAMS, 1), rec(STDIN, 1, b"ab"), rec(STDIN, 1)],
        [Request(1, {"CONTENT_LENGTH": "1"}, 1), Body(1, b"ab"), ENDED], 5,
    ),
    "less body than CONTENT_LENGTH": of(
        [begin(1), rec(PARAMS, 1, pairs({"CONTENT_LENGTH": "3"})), rec(PARAMS, 1), rec(STDIN, 1, b"ab"), rec(STDIN, 1)],
        [Request(1, {"CONTENT_LENGTH": "3"}, 3), Body(1, b"ab"), ENDED], 5,
    ),
    "POST without a body, and one more empty STDIN": of([*HEAD, END_OF_BODY, END_OF_BODY], [ASKED, ENDED], 4, 5),
    "STDIN after its end": of([*HEAD, END_OF_BODY, rec(STDIN, 1, b"late"), END_OF_BODY], [ASKED, ENDED], 4, 5, 6),
    "a body in records of one byte": of(
        [*HEAD, *stream_of(STDIN, 1, b"abc", 1)], [ASKED, Body(1, b"a"), Body(1, b"b"), Body(1, b"c"), ENDED], 7
    ),
    "a body of 65,535 bytes": of(
        [*HEAD, rec(STDIN, 1, NOISE[:65_535]), END_OF_BODY], [ASKED, Body(1, NOISE[:65_535]), ENDED], 5
    ),
    **{f"CONTENT_LENGTH {text!r}": length(text, number) for text, number in (("", -1), ("0", 0), ("5", 5), ("05", 5),
    ("9" * 18, 10**18 - 1))},
    **{
        f"CONTENT_LENGTH {text!r}": lengths(text)
        for text in ("+5", "-1", "-0", " 5", "5 ", "1_0", "1,1", "5,5", "0x5", "five", "\xb2", "\xd9\xa3", "1" * 19,
        "1" * 90)
    },
    # Order: each breach ends its own request and no other.
    "STDIN before PARAMS": of([begin(1), END_OF_BODY, rec(PARAMS, 1), END_OF_BODY], [Denied(1, MALFORMED)], 2, 3, 4),
    "STDIN before the end of PARAMS": of(
        [*HEAD[:2], rec(STDIN, 1, b"body"), rec(PARAMS, 1), END_OF_BODY], [Denied(1, MALFORMED)], 3, 4, 5
    ),
    "PARAMS after its end": of(
        [*HEAD, rec(PARAMS, 1, pairs({"B": "c"})), rec(STDIN, 1, b"body"), END_OF_BODY],
        [ASKED, Denied(1, MALFORMED)], 4, 5, 6
    ),
    "a second end of PARAMS": of([*HEAD, rec(PARAMS, 1), END_OF_BODY], [ASKED, Denied(1, MALFORMED)], 4, 5),
    "PARAMS within the body": of(
        [*HEAD, rec(STDIN, 1, b"a"), rec(PARAMS, 1, b"x"), rec(STDIN, 1, b"b"), END_OF_BODY],
        [ASKED, Body(1, b"a"), Denied(1, MALFORMED)], 5, 6, 7,
    ),
    "PARAMS after the body": of([*HEAD, END_OF_BODY, rec(PARAMS, 1, b"x")], [ASKED, ENDED, Denied(1, MALFORMED)], 4, 5),
    "one breach beside a good request": of(
        [begin(2), *HEAD, END_OF_BODY, rec(STDIN, 2, b"x"), rec(PARAMS, 2)], [ASKED, ENDED, Denied(2, MALFORMED)], 6, 7
    ),
    # Identifiers.
    "BEGIN with id 0": of([begin(0)], [], error=MALFORMED),
    "BEGIN with id 0, other requests open": of(
        [*HEAD, END_OF_BODY, begin(0)], [ASKED, ENDED], 4, error=MALFORMED
    ),
    "BEGIN on an active id, in PARAMS": of([*HEAD[:2], begin(1), *HEAD[1:]], [], error=MALFORMED),
    "BEGIN on an active id, in STDIN": of([*HEAD, begin(1), *HEAD[1:]], [ASKED], error=MALFORMED),
    "BEGIN on an active id, not yet answered": of([*HEAD, END_OF_BODY, begin(1)], [ASKED, ENDED], 4, error=MALFORMED),
    "BEGIN on a refused id": of([begin(1, 0, 3), begin(1)], [Denied(1, UNKNOWN_ROLE)], 1, error=MALFORMED),
    "ids at the ends": of(
        [request(65_535, {"A": "1"}), request(256, {"A": "2"}), request(255, {"A": "3"})],
        [*asked(65_535, {"A": "1"}), *asked(256, {"A": "2"}), *asked(255, {"A": "3"})], 1, 2, 3,
    ),
    "records of inactive ids": of(
        [
            rec(PARAMS, 7, pairs({"A": "b"})), rec(PARAMS, 7), rec(STDIN, 7, b"x"), rec(STDIN, 7), rec(ABORT, 7),
            rec(DATA, 7, b"x"),
            *HEAD, rec(STDIN, 2, b"other"), rec(PARAMS, 257, b"other"), rec(STDIN, 257, b"other"), END_OF_BODY,
        ],
        [ASKED, ENDED], 1, 2, 3, 4, 5, 6, 13,
    ),
    "PARAMS, STDIN and ABORT with id 0": of(
        [rec(PARAMS, 0, b"x"), rec(PARAMS, 0), rec(STDIN, 0, b"x"), rec(STDIN, 0), rec(ABORT, 0)], [], 1, 2, 3, 4, 5
    ),
    "BEGIN too short": of([rec(BEGIN, 1, b"\0\1\0")], [], error=MALFORMED),
    "BEGIN empty": of([rec(BEGIN, 1)], [], error=MALFORMED),
    "BEGIN too long": of([rec(BEGIN, 1, b"\0\1" + b"\0" * 7)], [], error=MALFORMED),
    # Roles.
    "Authorizer": of(
        [begin(1, KEEP, 2), rec(PARAMS, 1, pairs({"CONTENT_LENGTH": "5"})), rec(PARAMS, 1), rec(STDIN, 1, b"x"),
        rec(STDIN, 1)],
        [Request(1, {"CONTENT_LENGTH": "5"}, 0, "authorizer", keep=True), ENDED], 3, 4, 5,
    ),
    **{
        f"role {role}": of(
            [begin(1, 0, role), rec(PARAMS, 1, b"x"), rec(PARAMS, 1), rec(STDIN, 1, b"x"), rec(STDIN, 1), rec(DATA, 1,
            b"x")],
            [Denied(1, UNKNOWN_ROLE)], 1, 2, 3, 4, 5, 6,
        )
        for role in (0, 3, 4, 255, 256, 257, 258, 65_535)
    },
    # Management records, at any time.
    "GET_VALUES of all": of([ASK_ALL], [], 1, sent=values_result(ALL_VALUES)),
    "GET_VALUES of one": of([ask("FCGI_MAX_REQS")], [], 1, sent=values_result({"FCGI_MAX_REQS": "1024"})),
    "GET_VALUES of none": of([ask()], [], 1, sent=values_result({})),
    "GET_VALUES of unknown names": of(
        [ask("FCGI_MAX_CONN", "fcgi_max_conns", "", "FCGI_MPXS_CONNS")],
        [], 1, sent=values_result({"FCGI_MPXS_CONNS": "1"})
    ),
    "GET_VALUES of a name twice": of(
        [rec(GET_VALUES, 0, pair("FCGI_MPXS_CONNS", "") * 2)], [], 1, sent=values_result({"FCGI_MPXS_CONNS": "1"})
    ),
    "GET_VALUES with values": of(
        [rec(GET_VALUES, 0, pair("FCGI_MPXS_CONNS", "9"))], [], 1, sent=values_result({"FCGI_MPXS_CONNS": "1"})
    ),
    "GET_VALUES in each state": of(
        [ask(), begin(1), ask(), *HEAD[1:2], ask(), rec(PARAMS, 1), ask(), rec(STDIN, 1, b"x"), ask(),
        rec(STDIN, 1), ask()],
        [ASKED, Body(1, b"x"), ENDED], 1, 10, 11, sent=values_result({}) * 6,
    ),
    "GET_VALUES that is none": of([rec(GET_VALUES, 0, b"\1\2A")], [], error=MALFORMED),
    "GET_VALUES that ends within a length": of([rec(GET_VALUES, 0, b"\x80\0")], [], error=MALFORMED),
    "GET_VALUES of 2^31-1": of([rec(GET_VALUES, 0, b"\xff\xff\xff\xff\xff\xff\xff\xff")], [], error=MALFORMED),
    "GET_VALUES of 1,024 bytes": of([ask("A" * 1_019)], [], 1, sent=values_result({})),
    "GET_VALUES of 1,025 bytes": of([ask("A" * 1_020)], [], error=Fault(LimitExceeded, 400, "FCGI_GET_VALUES")),
    **{
        f"type {kind} with id 0": of([rec(kind, 0, b"x", 3)], [], 1, sent=unknown_type(kind))
        for kind in (0, END, STDOUT, STDERR, DATA, GET_VALUES_RESULT, UNKNOWN_TYPE, 12, 42, 255)
    },
    **{
        f"type {kind} with another id": of([rec(kind, 9, b"x"), rec(kind, 1)], [], 1, 2, sent=unknown_type(kind) * 2)
        for kind in (0, 12, 42, 255)
    },
    **{
        f"type {kind}, which only an application sends": of([rec(kind, 9, b"x"), *HEAD, rec(kind, 1,
        b"x"), END_OF_BODY], [ASKED, ENDED], 1, 6)
        for kind in (END, STDOUT, STDERR, DATA, GET_VALUES_RESULT, UNKNOWN_TYPE)
    },
    "unknown types within a request": of(
        [rec(42, 1), begin(1), rec(42, 1, b"x"), *HEAD[1:], rec(43, 0), rec(STDIN, 1, b"x"), rec(44, 1), rec(STDIN, 1),
        rec(45, 1)],
        [ASKED, Body(1, b"x"), ENDED], 1, 9, 10, sent=b"".join(unknown_type(kind) for kind in (42, 42, 43, 44, 45)),
    ),
    # ABORT.
    "ABORT before PARAMS": of([begin(1, KEEP), rec(ABORT, 1)], [], 2, sent=rec(STDOUT, 1) + rec(END, 1, b"\0" * 8)),
    "ABORT within PARAMS, then the id again": of(
        [begin(1, KEEP), rec(PARAMS, 1, pairs({"B": "old"})), rec(ABORT, 1), rec(PARAMS, 1), rec(STDIN, 1, b"old"),
        *HEAD, END_OF_BODY],
        [ASKED, ENDED], 3, 4, 5, 9, sent=rec(STDOUT, 1) + rec(END, 1, b"\0" * 8),
    ),
    "ABORT within the body": of([*HEAD, rec(STDIN, 1, b"a"), rec(ABORT, 1)], [ASKED, Body(1, b"a"), Abort(1)]),
    "ABORT after the body": of([*HEAD, END_OF_BODY, rec(ABORT, 1)], [ASKED, ENDED, Abort(1)], 4, 5),
    "ABORT with content": of([*HEAD, END_OF_BODY, rec(ABORT, 1, b"why", 5)], [ASKED, ENDED, Abort(1)], 4, 5),
    "ABORT of another request": of(
        [*HEAD, begin(2, KEEP), rec(ABORT, 2), END_OF_BODY], [ASKED, ENDED], 6,
        sent=rec(STDOUT, 2) + rec(END, 2, b"\0" * 8),
    ),
    "ABORT of a refused request": of([begin(1, 0, 3), rec(ABORT, 1)], [Denied(1, UNKNOWN_ROLE), Abort(1)], 1, 2),
    # Records that are none.
    "version 0": of([b"\0" + begin(1)[1:]], [], error=MALFORMED),
    "version 2": of([b"\2" + begin(1)[1:]], [], error=MALFORMED),
    "version 2 after a request": of([*HEAD, END_OF_BODY, b"\2"], [ASKED, ENDED], 4, error=MALFORMED),
    "HTTP": of([b"GET / HTTP/1.1\r\n\r\n"], [], error=MALFORMED),
    "answers before an error": of(
        [ask(), rec(42, 0), b"\2"], [], 1, 2, error=MALFORMED, sent=values_result({}) + unknown_type(42)
    ),
    # Many requests on one connection.
    "one after another": of(
        [request(1, {"A": "1"}, b"one", KEEP), request(2, {"A": "2"}, flags=KEEP), request(3, {"A": "3"}, b"three")],
        [*asked(1, {"A": "1"}, [b"one"], keep=True), *asked(2, {"A": "2"}, keep=True), *asked(3, {"A": "3"},
        [b"three"])], 1, 2, 3,
    ),
}  # fmt: skip

AFTER: Final = [rec(STDIN, 9, b"nobody's"), rec(99, 9)[:7], rec(PARAMS, 9, b"x" * 300)[:200]]


@pytest.mark.parametrize("name", SERVERS)
def test_what_web_servers_send(name: str) -> None:
    check(FastCGICodec, SERVERS[name], trailing=AFTER, most=200_000)


@pytest.mark.parametrize("name", RULES)
def test_every_rule(name: str) -> None:
    check(FastCGICodec, RULES[name], trailing=AFTER, most=200_000)


@pytest.mark.parametrize("name", [name for name in RULES if RULES[name].error is None])
def test_junk_after_whole_records(name: str) -> None:
    vector = RULES[name]
    junk = Vector(vector.wire + b"GET /", vector.events, MALFORMED, vector.sent, clean=vector.clean)
    check(FastCGICodec, junk, trailing=[b"x", begin(1)])


def test_numbers_of_the_whole_application() -> None:
    codec = FastCGICodec(max_conns=7, max_reqs=99)
    codec.feed(ASK_ALL)
    assert codec.data_to_send() == values_result({"FCGI_MAX_CONNS": "7", "FCGI_MAX_REQS": "99", "FCGI_MPXS_CONNS": "1"})
    assert codec.data_to_send() == b""


# -- limits ---------------------------------------------------------------------------------------------------------

LIMITS: Final = Limits(params_bytes=40, params_count=3, body_bytes=10, requests_per_connection=2)
PARAMS_LIMIT: Final = Fault(LimitExceeded, 431, "stream of parameters")
BODY_LIMIT: Final = Fault(LimitExceeded, 413, "request body")


def small() -> Codec:
    return FastCGICodec(LIMITS)


FULL = {"A": "b" * 37}
THREE = {"A": "", "B": "", "C": ""}

SMALL: dict[str, Vector] = {
    "as many bytes as allowed": of([request(1, FULL)], asked(1, FULL), 1),
    "one more": of(
        [begin(1), rec(PARAMS, 1, pairs({"A": "b" * 38})), rec(PARAMS, 1), rec(STDIN, 1)], [Denied(1, PARAMS_LIMIT)], 2,
        3, 4,
    ),
    "one more, in many records": of(
        [begin(1), *stream_of(PARAMS, 1, pairs({"A": "b" * 38}), 8), rec(STDIN, 1)], [Denied(1, PARAMS_LIMIT)], 7, 8, 9
    ),
    "PARAMS without end": of([begin(1), *[rec(PARAMS, 1, b"\1" * 20)] * 9], [Denied(1, PARAMS_LIMIT)], *range(4, 11)),
    "as many parameters": of([request(1, THREE)], asked(1, THREE), 1),
    "one parameter more": of(
        [begin(1), rec(PARAMS, 1, pairs(THREE | {"D": ""})), rec(PARAMS, 1)],
        [Denied(1, Fault(LimitExceeded, 431, "number of parameters"))], 3,
    ),
    "as much body": of(
        [begin(1), rec(PARAMS, 1), rec(STDIN, 1, b"0" * 6), rec(STDIN, 1, b"1" * 4), rec(STDIN, 1)],
        [Request(1, {}), Body(1, b"0" * 6), Body(1, b"1" * 4), EndOfBody(1)], 5,
    ),
    "more body": of(
        [begin(1), rec(PARAMS, 1), rec(STDIN, 1, b"0" * 6), rec(STDIN, 1, b"1" * 5), rec(STDIN, 1, b"2"),
        rec(STDIN, 1)],
        [Request(1, {}), Body(1, b"0" * 6), Denied(1, BODY_LIMIT)], 4, 5, 6,
    ),
    "more body announced": of(
        [begin(1), rec(PARAMS, 1, pairs({"CONTENT_LENGTH": "11"})), rec(PARAMS, 1), rec(STDIN, 1, b"0")],
        [Denied(1, BODY_LIMIT)], 3, 4
    ),
    "a limit of one request is not another's": of(
        [begin(1), begin(2), rec(PARAMS, 1, pairs(FULL)), rec(PARAMS, 2, b"x" * 41), rec(PARAMS, 1), rec(STDIN, 1)],
        [Denied(2, PARAMS_LIMIT), *asked(1, FULL)], 6,
    ),
    "one request too many": of(
        [begin(1), begin(2), begin(3), rec(PARAMS, 3, b"x"), rec(STDIN, 3, b"x"), rec(PARAMS, 1), rec(PARAMS, 2),
        rec(STDIN, 2), rec(STDIN, 1)],
        [Denied(3, BUSY), Request(1, {}), Request(2, {}), EndOfBody(2), EndOfBody(1)], 9,
    ),
    "a role before the limit": of([begin(1), begin(2), begin(3, 0, 3)], [Denied(3, UNKNOWN_ROLE)]),
    "refused requests that nobody answers": of(
        [begin(1), begin(2), begin(3), begin(4), begin(5)], [Denied(3, BUSY), Denied(4, BUSY)], error=BUSY
    ),
    "roles that nobody answers": of(
        [begin(number, 0, 9) for number in range(1, 6)], [Denied(number, UNKNOWN_ROLE) for number in (1, 2, 3, 4)],
        1, 2, 3, 4, error=BUSY,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_limits(name: str) -> None:
    check(small, SMALL[name], trailing=AFTER, most=2 * 40 + 320)


def test_numbers_of_limits() -> None:
    def error(*parts: bytes) -> tuple[int, int]:
        events = small().feed(b"".join(parts))
        assert isinstance(events[-1], Refused)
        assert isinstance(events[-1].error, LimitExceeded)
        return events[-1].error.value, events[-1].error.maximum

    assert error(begin(1), rec(PARAMS, 1, b"x" * 40), rec(PARAMS, 1, b"y")) == (41, 40)
    assert error(begin(1), rec(PARAMS, 1, pairs(THREE | {"D": "", "E": ""})), rec(PARAMS, 1)) == (4, 3)
    assert error(begin(1), rec(PARAMS, 1), rec(STDIN, 1, b"x" * 12)) == (12, 10)
    assert error(begin(1), begin(2), begin(3)) == (3, 2)


def test_parameters_in_tiny_records_take_no_more_than_their_size() -> None:
    """Two bytes a record would be 20 times as much in memory."""
    codec = FastCGICodec()
    codec.feed(begin(1))
    tracemalloc.start()
    try:
        for _ in range(60):
            codec.feed(rec(PARAMS, 1, b"ab") * 1_000)
        assert codec.buffered == 120_000
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()


def test_never_more_held_than_one_record_and_the_parameters() -> None:
    codec = FastCGICodec(LIMITS)
    block = rec(PARAMS, 1, b"p" * 65_535, 255)
    for number in range(0, len(block), 97):
        codec.feed(block[number : number + 97])
        assert codec.buffered <= RECORD
    assert codec.buffered == 0
    for stream in (1, 2):
        codec.feed(begin(stream, KEEP) + rec(PARAMS, stream, b"p" * 40))
    assert codec.buffered == 80
    codec.feed(block[:-1])
    assert codec.buffered == 80 + RECORD - 1
    codec.feed(block[-1:])
    assert codec.buffered == 40  # the parameters of request 1 are too many


def test_what_a_request_holds_is_let_go() -> None:
    codec = FastCGICodec()
    codec.feed(
        begin(1, KEEP)
        + rec(PARAMS, 1, b"\1\1Ab")
        + begin(2, KEEP)
        + rec(PARAMS, 2, b"\1\1Cd")
        + begin(3)
        + rec(PARAMS, 3, b"\1\1Ef")
    )
    assert codec.buffered == 12
    codec.feed(rec(PARAMS, 1))
    assert codec.buffered == 8
    codec.feed(rec(STDIN, 2))
    assert codec.buffered == 4
    codec.feed(rec(ABORT, 3))
    assert codec.buffered == 0
    codec.feed(rec(STDIN, 1, b"x" * 1_000)[:-1])
    assert codec.buffered == 8  # all but the header has been handed on
    codec.feed(b"x" + rec(STDIN, 9, b"x" * 1_000)[:-1])
    assert codec.buffered == 1_007
    with pytest.raises(MalformedMessage):
        codec.feed(b"x\2")
    assert codec.buffered == 0


POSTED: Final = begin(1, KEEP) + rec(PARAMS, 1, pairs({"A": "b"})) + rec(PARAMS, 1)
IN_BYTES: Final = Limits(body_bytes=12)


def test_a_body_is_handed_on_as_it_comes() -> None:
    codec = FastCGICodec()
    codec.feed(POSTED)
    long = rec(STDIN, 1, b"0123456789", 3)
    assert codec.feed(long[:8]) == []
    for at in range(8, 18):
        assert codec.feed(long[at : at + 1]) == [Body(1, long[at : at + 1])]
        assert codec.buffered == 8
    assert codec.feed(long[18:20]) == []
    assert codec.buffered == 8
    assert codec.feed(long[20:]) == []
    assert codec.buffered == 0
    assert codec.feed(long[:12]) == [Body(1, b"0123")]
    assert codec.feed(long[12:] + long[:9]) == [Body(1, b"456789"), Body(1, b"0")]
    assert codec.feed(long[9:] + rec(STDIN, 1)) == [Body(1, b"123456789"), EndOfBody(1)]


def test_what_has_come_whole_is_not_copied() -> None:
    codec = FastCGICodec()
    codec.feed(POSTED + rec(STDIN, 1, b"x" * 60_000)[:9])
    piece = b"y" * 50_000
    (event,) = codec.feed(piece)
    assert isinstance(event, Body)
    assert event.data is piece


@pytest.mark.parametrize("at", [9, 12, 18, 19])
def test_the_rest_of_a_record_is_nobodys_once_its_request_is_answered(at: int) -> None:
    codec = FastCGICodec()
    long = rec(STDIN, 1, b"0123456789", 3)
    codec.feed(POSTED + long[:at])
    codec.send(ResponseHead(1, "200 OK", [], b"", end=True))
    assert codec.feed(long[at:]) == []
    assert codec.feed(long[:at]) == []
    assert codec.feed(long[at:] + POSTED) == [Request(1, {"A": "b"}, keep=True)]
    assert codec.feed(long[:10]) == [Body(1, b"01")]


@pytest.mark.parametrize("at", range(8, 25))
def test_a_body_is_too_long_from_the_record_on_that_says_so(at: int) -> None:
    """Also where only the beginning of that has come: what is handed on does not depend on the split."""
    codec = FastCGICodec(IN_BYTES)
    wire = rec(STDIN, 1, b"x" * 12) + rec(STDIN, 1, b"y" * 13, 4)
    cut = 20 + at
    events = [*codec.feed(POSTED), *codec.feed(wire[:cut]), *codec.feed(wire[cut:] + rec(STDIN, 1)), *codec.feed(b"")]
    too_long = Denied(1, Fault(LimitExceeded, 413, "request body"))
    assert plain(events) == [Request(1, {"A": "b"}, keep=True), Body(1, b"x" * 12), too_long]


@pytest.mark.parametrize("at", [1, 8, 9, 18, 20])
@pytest.mark.parametrize("answered", [False, True])
def test_an_end_within_a_record_of_a_body(at: int, *, answered: bool) -> None:
    codec = FastCGICodec()
    codec.feed(POSTED + rec(STDIN, 1, b"0123456789", 3)[:at])
    if answered:
        codec.send(ResponseHead(1, "200 OK", [], b"", end=True))
    with pytest.raises(TruncatedMessage, match="the peer closed within a record"):
        codec.feed_eof()


# -- answers --------------------------------------------------------------------------------------------------------


def started(*parts: bytes, limits: Limits = DEFAULT_LIMITS) -> FastCGICodec:
    codec = FastCGICodec(limits)
    codec.feed(b"".join(parts))
    return codec


def test_what_the_protocol_is() -> None:
    codec = FastCGICodec()
    assert (codec.protocol, codec.multiplexed, codec.raw_size, codec.closing) == ("fastcgi", True, 61_440, False)
    assert (codec.buffered, codec.error_stream, codec.data_to_send()) == (0, 0, b"")
    assert codec.feed(b"") == []
    assert codec.feed_eof() == [Closed()]
    assert codec.feed(request(1)) == []


def test_a_response() -> None:
    codec = started(request(1))
    assert records(codec.send(ResponseHead(1, "200 OK", [("Content-Type", "text/plain"), ("X", "\xe9")]))) == [
        Record(STDOUT, 1, b"Status: 200 OK\r\nContent-Type: text/plain\r\nX: \xe9\r\n\r\n")
    ]
    assert records(codec.send(Body(1, b"hello"))) == [Record(STDOUT, 1, b"hello")]
    assert records(codec.send(ErrorOutput(1, b"oh"))) == [Record(STDERR, 1, b"oh")]
    assert codec.send(Continue(1)) == b""
    assert not codec.closing
    assert records(codec.send(EndOfResponse(1, 0))) == ended(1)
    assert codec.closing


def test_a_response_in_one_event() -> None:
    codec = started(request(300))
    data = codec.send(ResponseHead(300, "404 Not Found", [("A", "b")], b"no", end=True))
    assert records(data) == [Record(STDOUT, 300, b"Status: 404 Not Found\r\nA: b\r\n\r\nno"), *ended(300)]
    assert codec.closing
    with pytest.raises(LocalProtocolError, match="request 300 is not active"):
        codec.send(EndOfResponse(300))


def test_no_body_is_no_record() -> None:
    codec = started(request(1))
    assert codec.send(Body(1, b"")) == b""  # an empty record would end the stream
    assert codec.send(ErrorOutput(1, b"")) == b""


@pytest.mark.parametrize("size", [65_535 - 18, 65_536 - 18, 65_535, 65_536, 200_000])
def test_a_long_first_block(size: int) -> None:
    for end in (False, True):
        codec = started(request(1))
        got = records(codec.send(ResponseHead(1, "200 OK", [], NOISE[:size] * 2, end=end)))
        assert content(got, STDOUT, 1) == b"Status: 200 OK\r\n\r\n" + NOISE[:size] * 2
        assert got[-2:] == ended(1) if end else got[-1].content
        assert codec.closing == end


@pytest.mark.parametrize("size", [0, 1, 10_000, 65_535 - 18, 65_536 - 18, 65_535, 65_536, 76_000])
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("fields", [[], [("A", "b" * 70_000)]], ids=["", "long head"])
def test_a_response_in_pieces(fields: list[tuple[str, str]], end: bool, size: int) -> None:
    """They are the bytes of ``send``, and those of the block are not copied."""
    one = started(request(300))
    other = started(request(300))
    block = NOISE[:size]
    head = ResponseHead(300, "200 OK", fields, block, end)
    parts = other.head_parts(head)
    assert b"".join(parts) == one.send(head)
    if not fields:
        assert parts[0][8:] == b"Status: 200 OK\r\n\r\n"
        assert all(part.obj is block for part in parts if isinstance(part, memoryview))
    if not end:
        blocks = other.body_parts(300, block)
        assert b"".join(blocks) == one.send(Body(300, block)) == one.body(300, block)
        assert all(part is block or part.obj is block for part in blocks[1::2])  # type: ignore[union-attr]
        assert other.send(EndOfResponse(300)) == one.send(EndOfResponse(300))
    assert one.closing
    assert other.closing
    with pytest.raises(LocalProtocolError, match="request 300 is not active"):
        other.head_parts(ResponseHead(300, "200 OK"))
    with pytest.raises(LocalProtocolError, match="request 300 is not active"):
        other.body_parts(300, b"x")


def test_what_is_refused_in_pieces_has_not_begun() -> None:
    codec = started(request(1))
    with pytest.raises(LocalProtocolError, match="CR, LF or NUL"):
        codec.head_parts(ResponseHead(1, "200 OK", [("A", "b\r\nc: d")], b"x", end=True))
    assert records(b"".join(codec.head_parts(ResponseHead(1, "500 Oops", [], b"", end=True))))[1:] == ended(1)


@pytest.mark.parametrize(("size", "count"), [(1, 1), (65_535, 1), (65_536, 2), (76_800, 2)])
@pytest.mark.parametrize(("event", "kind"), [(Body, STDOUT), (ErrorOutput, STDERR)])
def test_long_streams(size: int, count: int, event: type[Body | ErrorOutput], kind: int) -> None:
    got = records(started(request(9)).send(event(9, NOISE[:size])))
    assert [(each.kind, each.stream) for each in got] == [(kind, 9)] * count
    assert content(got, kind, 9) == NOISE[:size]


@pytest.mark.parametrize("app_status", [0, 1, 255, 256, -1, 2**31 - 1, 2**32 - 1, 2**32, -(2**31)])
def test_app_status(app_status: int) -> None:
    assert records(started(request(1)).send(EndOfResponse(1, app_status))) == ended(1, app_status)


def test_keep_conn() -> None:
    codec = FastCGICodec()
    for number in (1, 1, 2, 1, 65_535):
        assert codec.feed(request(number, {"A": "b"}, b"x", KEEP)) == asked(number, {"A": "b"}, [b"x"], keep=True)
        codec.send(ResponseHead(number, "200 OK", [], b"", end=True))
        assert not codec.closing
    codec.feed(request(1))
    codec.send(EndOfResponse(1))
    assert codec.closing


def test_what_is_wrong_with_a_request_is_not_the_next_ones() -> None:
    """Requests that come whole: one refused at once, one when it was whole already, and sound ones between."""
    codec = FastCGICodec()
    sound = request(1, {"A": "b"}, b"", KEEP)
    for wire, found in [
        (sound, asked(1, {"A": "b"}, keep=True)),
        (request(1, {"CONTENT_LENGTH": "x"}, b"", KEEP), [Refused]),
        (sound, asked(1, {"A": "b"}, keep=True)),
        (sound + rec(PARAMS, 1, pair("C", "d")) * 2, [*asked(1, {"A": "b"}, keep=True), Refused]),
        (sound, asked(1, {"A": "b"}, keep=True)),
    ]:
        events = codec.feed(wire)
        assert [type(event) if isinstance(event, Refused) else event for event in events] == found
        codec.send(ResponseHead(1, "200 OK", [], b"", end=True))
        assert not codec.closing
    assert codec.feed(request(1, {"A": "b"})) == asked(1, {"A": "b"})
    codec.send(EndOfResponse(1))
    assert codec.closing


def test_one_request_that_is_not_kept_closes_when_the_last_is_answered() -> None:
    codec = started(request(1, flags=KEEP), request(2), request(3, flags=KEEP))
    for number in (2, 3):
        codec.send(EndOfResponse(number))
        assert not codec.closing
    codec.send(EndOfResponse(1))
    assert codec.closing


def test_the_flag_counts_not_whether_it_was_served() -> None:
    for flags, closing in ((0, True), (KEEP, False)):
        codec = started(begin(1, flags, 3))
        assert not codec.closing
        codec.send(error_response(1, 501))
        assert codec.closing is closing


def test_aborted_before_it_began_closes_as_an_answer_does() -> None:
    for flags, closing in ((0, True), (KEEP, False)):
        codec = started(begin(1, flags), rec(ABORT, 1))
        assert records(codec.data_to_send()) == ended(1)
        assert codec.data_to_send() == b""
        assert codec.closing is closing


def test_aborted_in_the_body_is_ended_by_the_application() -> None:
    codec = started(begin(1, KEEP), rec(PARAMS, 1), rec(ABORT, 1))
    assert codec.data_to_send() == b""
    assert codec.feed(rec(STDIN, 1, b"late")) == [Body(1, b"late")]
    assert records(codec.send(EndOfResponse(1, 1))) == ended(1, 1)
    assert codec.feed(rec(STDIN, 1, b"later") + rec(ABORT, 1)) == []
    assert codec.data_to_send() == b""


def test_stdin_left_unread_at_the_end_is_nobody_s() -> None:
    codec = started(begin(1, KEEP), rec(PARAMS, 1), rec(STDIN, 1, b"some"))
    codec.send(ResponseHead(1, "413 Content Too Large", [], b"", end=True))
    assert codec.feed(rec(STDIN, 1, b"x" * 60_000) * 3 + rec(PARAMS, 1, b"x") + rec(STDIN, 1)) == []
    assert codec.feed(request(1, {"A": "b"}, b"new", KEEP)) == asked(1, {"A": "b"}, [b"new"], keep=True)
    assert codec.feed_eof() == [Closed()]


def test_busy_is_answered_as_busy() -> None:
    codec = started(begin(1, KEEP), begin(2, KEEP), limits=LIMITS)
    events = codec.feed(request(3, {"A": "b"}, b"x", KEEP))
    assert plain(events) == [Denied(3, BUSY)]
    got = records(codec.send(error_response(3, BUSY.status)))
    assert content(got, STDOUT, 3).startswith(b"Status: 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 1\r\n" in content(got, STDOUT, 3)
    assert got[-2:] == ended(3, 0, 2)  # FCGI_OVERLOADED
    assert not codec.closing
    assert plain(codec.feed(begin(4))) == [Denied(4, BUSY)]
    codec.send(error_response(4, 503))
    assert codec.feed(rec(ABORT, 2)) == []
    assert codec.feed(request(3, {"A": "b"}, flags=KEEP)) == asked(3, {"A": "b"}, keep=True)


@pytest.mark.parametrize("role", [0, 3, 4, 257])
def test_an_unknown_role_is_answered_as_one(role: int) -> None:
    codec = started(begin(1, KEEP, role), rec(PARAMS, 1, b"x"))
    got = records(codec.send(error_response(1, UNKNOWN_ROLE.status)))
    assert content(got, STDOUT, 1).startswith(b"Status: 501 Not Implemented\r\n")
    assert got[-2:] == ended(1, 0, 3)
    assert codec.feed(rec(STDIN, 1) + request(1, flags=KEEP)) == asked(1, {}, keep=True)


def test_other_refusals_are_complete_requests() -> None:
    codec = started(begin(1, KEEP), rec(STDIN, 1, b"x"))
    assert records(codec.send(error_response(1, 400)))[-2:] == ended(1, 0, 0)


def test_whom_an_error_of_the_connection_is_answered_to() -> None:
    codec = started(request(1), begin(7), rec(PARAMS, 7, b"x"))
    assert codec.error_stream == 7
    with pytest.raises(MalformedMessage):
        codec.feed(b"\2")
    assert codec.error_stream == 7
    assert records(codec.send(error_response(7, 400)))[-2:] == ended(7)
    assert codec.error_stream == 0
    assert not codec.closing
    assert records(codec.send(EndOfResponse(1))) == ended(1)  # what was served before is still answered
    assert codec.closing


@pytest.mark.parametrize("parts", [[], [request(1)], [begin(1), rec(PARAMS, 1)], [begin(1, 0, 3)]])
def test_nobody_waits_for_an_answer(parts: list[bytes]) -> None:
    assert started(*parts).error_stream == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([b"\1"], "within a record"),
        ([request(1), begin(2)[:-1]], "within a record"),
        ([begin(5)], "within request 5"),
        ([request(1), begin(6), rec(PARAMS, 6)], "within request 6"),
        ([begin(1), rec(PARAMS, 1), rec(ABORT, 1)], "within request 1"),
    ],
)
def test_truncated(parts: list[bytes], message: str) -> None:
    codec = started(*parts)
    with pytest.raises(TruncatedMessage, match=message):
        codec.feed_eof()
    assert codec.feed_eof() == [Closed()]


def test_interleaved_requests_are_never_mixed() -> None:
    noise = random.Random(5)
    waiting, expected = [], {}
    for number in range(1, 31):
        params = {f"NAME_{each}": f"{number}-{each}" for each in range(number)}
        body = bytes([number]) * (number * 37)
        expected[number] = (params, body)
        sent = [
            begin(number, KEEP),
            *stream_of(PARAMS, number, pairs(params), 13),
            *stream_of(STDIN, number, body, 41, pad=True),
        ]
        waiting.append(sent)
    codec = FastCGICodec()
    heads, bodies, ends = {}, dict.fromkeys(expected, b""), []
    while waiting:
        sent = noise.choice(waiting)
        for event in codec.feed(sent.pop(0)):
            if isinstance(event, Request):
                heads[event.stream] = event.params
            elif isinstance(event, Body):
                bodies[event.stream] += event.data
            else:
                assert isinstance(event, EndOfBody)
                ends.append(event.stream)
        waiting = [each for each in waiting if each]
    assert sorted(ends) == list(expected)
    assert {number: (heads[number], bodies[number]) for number in expected} == expected
    assert codec.buffered == 0
    answers = b"".join(codec.send(Body(number, bytes([number]) * 3)) for number in expected)
    answers += b"".join(codec.send(EndOfResponse(number, number)) for number in reversed(expected))
    got = records(answers)
    for number in expected:
        assert content(got, STDOUT, number) == bytes([number]) * 3
        assert [each for each in got if each.stream == number][-2:] == ended(number, number)


# -- what our caller must not send ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [0, 2, 65_535, 65_536, -1])
@pytest.mark.parametrize(
    "event",
    [
        ResponseHead(0, "200 OK"),
        ResponseHead(0, "200 OK", [], b"", end=True),
        Body(0, b"x"),
        ErrorOutput(0, b"x"),
        EndOfResponse(0),
    ],
)
def test_streams_that_are_not_active(stream: int, event: ResponseHead | Body | ErrorOutput | EndOfResponse) -> None:
    codec = started(request(1))
    event.stream = stream
    with pytest.raises(LocalProtocolError, match=f"request {stream} is not active"):
        codec.send(event)
    assert records(codec.send(EndOfResponse(1))) == ended(1)


@pytest.mark.parametrize(
    "event",
    [
        Request(1, {}),
        RawBody(1, 0),
        RawBody(1, 61_441),  # more than raw_size
        RawBody(2, 5),
        ResponseHead(1, "200 OK", [("A", "b\r\nc: d")]),
        ResponseHead(1, "200 OK\n"),
        ResponseHead(1, "200 OK", [("A", "٣")], b"", end=True),
    ],
)
def test_events_that_are_forbidden(event: Event) -> None:
    codec = started(request(1))
    with pytest.raises(LocalProtocolError):
        codec.send(event)
    assert records(codec.send(EndOfResponse(1))) == ended(1)  # a head that failed has not ended the request


@pytest.mark.parametrize("size", [1, 255, 256, 61_439, 61_440])
@pytest.mark.parametrize("stream", [1, 2, 257])
def test_raw_body_is_announced_by_a_header(stream: int, size: int) -> None:
    codec = started(request(stream))
    header = bytes((1, 6, stream >> 8, stream & 255, size >> 8, size & 255, 0, 0))
    assert codec.send(RawBody(stream, size)) == header


@pytest.mark.parametrize("event", [Continue(1), EndOfBody(1), Abort(1), Closed(), Refused(1, MalformedMessage("", ""))])
def test_events_that_have_no_form_here(event: Event) -> None:
    assert started(request(1)).send(event) == b""


TEXT = st.text(max_size=12)
STREAMS = st.one_of(st.integers(-1, 4), st.integers())
EVENTS = st.one_of(
    st.builds(
        ResponseHead, STREAMS, TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=2), st.binary(max_size=4), st.booleans()
    ),
    st.builds(Body, STREAMS, st.binary(max_size=4)),
    st.builds(ErrorOutput, STREAMS, st.binary(max_size=4)),
    st.builds(EndOfResponse, STREAMS, st.integers()),
    st.builds(Request, STREAMS, st.just({})),
    st.builds(RawBody, STREAMS, st.integers()),
)


@given(st.lists(EVENTS, max_size=6))
def test_sending_fails_as_ours_alone(events: list[Event]) -> None:
    codec = started(request(1, flags=KEEP), request(2, flags=KEEP), request(3, flags=KEEP))
    for event in events:
        try:
            data = codec.send(event)
        except LocalProtocolError:
            continue
        if isinstance(event, RawBody):  # the content is the caller's
            data += bytes(event.size)
        assert all(1 <= each.stream <= 3 for each in records(data))


# -- any bytes ------------------------------------------------------------------------------------------------------

WIRES = [
    vector.wire for vector in (*SERVERS.values(), *RULES.values(), *SMALL.values()) if 0 < len(vector.wire) < 700
]  # fmt: skip


USUAL = st.builds(
    lambda stream, flags, role, block, padding, ends: b"".join(
        [begin(stream, flags, role), rec(PARAMS, stream, block, padding), *ends]
    ),
    st.sampled_from([1, 1, 1, 2]),
    st.sampled_from([0, 1, 255]),
    st.sampled_from([1, 1, 1, 2, 3]),
    st.sampled_from(
        [b"", pairs({"A": "b"}), pair("A", "b") * 2, b"\0\1b", b"\1\2Ab", b"\x80", b"x" * 41, pairs({"A": "b" * 37})]
        + [pairs({"CONTENT_LENGTH": text}) for text in ("", "0", "3", "11", "-1")]
        + [pairs(THREE), pairs(THREE | {"D": ""})]
    ),
    st.sampled_from([0, 0, 1, 7, 255]),
    st.lists(
        st.sampled_from(
            [
                rec(PARAMS, 1),
                rec(STDIN, 1),
                rec(PARAMS, 1) + rec(STDIN, 1),
                rec(STDIN, 1, b"abc"),
                rec(PARAMS, 1, b"", 8),
                rec(ABORT, 1),
                request(1, {"A": "c"}),
                request(2, {"A": "d"}),
                ask(),
                b"\1",
                b"\2",
                begin(1),
            ]
        ),
        max_size=4,
    ),
)


@MORE
@given(st.lists(USUAL, min_size=1, max_size=2), OFFSETS)
def test_a_request_in_its_usual_form_is_the_same_in_one_piece(parts: list[bytes], at: list[int]) -> None:
    data = b"".join(parts)
    for eof in (False, True):
        whole = run(small, [data], eof=eof)
        assert run(small, chop(data, at), eof=eof) == whole
        assert run(small, chop(data, cuts(len(data))), eof=eof) == whole
        assert run(small, parts, eof=eof) == whole


@MORE
@given(any_wire(WIRES), OFFSETS)
def test_any_bytes_are_events_or_an_error_of_the_peer_however_split(data: bytes, at: list[int]) -> None:
    for make in (small, FastCGICodec):
        for eof in (False, True):
            whole = run(make, [data], eof=eof)
            assert run(make, chop(data, at), eof=eof) == whole
            assert run(make, chop(data, cuts(len(data))), eof=eof) == whole


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.binary(max_size=60), st.integers(0, 9)), max_size=12),
    OFFSETS,
)
def test_any_records_are_events_or_an_error_of_the_peer(
    parts: list[tuple[int, int, bytes, int]], at: list[int]
) -> None:
    data = b"".join(rec(*part) for part in parts)
    whole = run(small, [data])
    assert whole.error is None or issubclass(whole.error.kind, RemoteProtocolError)
    assert run(small, chop(data, at), most=4 * 40 + 8 + 60 + 9) == whole


@given(
    st.dictionaries(NAMES, LATIN1, max_size=8),
    st.binary(max_size=300),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 2**16 - 1),
    OFFSETS,
)
def test_noise_changes_nothing(
    params: dict[str, str], body: bytes, step: int, size: int, seed: int, at: list[int]
) -> None:
    """Lengths in either form, records of any size, padding, records that are nobody's: the same request."""
    noise = random.Random(seed)
    params.pop("CONTENT_LENGTH", None)
    block = b"".join(pair(name, value, long=noise.randrange(4)) for name, value in params.items())
    parts = [(BEGIN, begin(3, KEEP)[8:])]
    parts += [(PARAMS, block[start : start + step]) for start in range(0, len(block), step)] + [(PARAMS, b"")]
    parts += [(STDIN, body[start : start + size]) for start in range(0, len(body), size)] + [(STDIN, b"")]
    wire = b""
    for kind, data in parts:
        wire += noise.choice(
            [b"", b"", ask(), rec(42, 0), rec(STDIN, 4, b"x"), rec(PARAMS, 4, b"x"), rec(DATA, 3, b"x")]
        )
        wire += rec(kind, 3, data, noise.choice([0, 0, 1, 7, 255]), junk=bytes([noise.randrange(256)]))
    got = run(FastCGICodec, chop(wire, at))
    assert got.events == asked(3, params, [body] if body else [], keep=True)
    assert got.error is None
