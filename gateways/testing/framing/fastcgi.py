"""FastCGI 1.0: legal and illegal wires of both directions. Numbers of sections are those of its specification."""

from __future__ import annotations

from functools import cache
from itertools import cycle
from typing import Final

from hypothesis import strategies as st

from gateways.codecs.events import Event
from gateways.testing.framing import ERROR, REFUSED, Illegal, Image
from gateways.testing.framing.cgi import HEAD_BREACHES, heads
from gateways.testing.framing.fastcgi_records import (
    BEGIN,
    END,
    GET_VALUES,
    GET_VALUES_RESULT,
    IDLE_ID,
    PARAMS,
    STDERR,
    STDIN,
    STDOUT,
    UNKNOWN_TYPE,
    Record,
    begin,
    encode_pairs,
    rec,
    request,
)
from gateways.testing.framing.illegal import breach, chosen, rules
from gateways.testing.model import WireRequest, WireResponse
from gateways.testing.noise import chop
from gateways.testing.noisy import offsets
from gateways.testing.requests import requests as any_requests
from gateways.testing.responses import responses as any_responses

__all__ = [
    "RESPONSE_RULES",
    "RULES",
    "ids",
    "illegal_requests",
    "illegal_responses",
    "request_images",
    "response_images",
]

_ROLES: Final = {"responder": 1, "authorizer": 2}
_MOST: Final = 65_535
_JUNK: Final = b"\1\6\0\1\0\0\0\0" * 32  # padding that looks like records
_LONG: Final = st.lists(st.booleans(), max_size=4)
_TURNS: Final = st.lists(st.integers(0, 5), max_size=30)
_PADDING: Final = st.lists(st.integers(0, 255), max_size=4)


@cache
def ids() -> st.SearchStrategy[int]:
    """Ids of requests: of one byte, of two, and the last."""
    return st.sampled_from([1, 2, 255, 256, 65_535])


def _stream(draw: st.DrawFn, kind: int, number: int, data: bytes) -> list[Record]:
    """Cut a stream anywhere, with no regard to pairs, and end it (section 3.3)."""
    at = [*draw(offsets(5)), *range(_MOST, len(data), _MOST)]
    return [Record(kind, number, piece) for piece in chop(data, at) if piece] + [Record(kind, number)]


@st.composite
def _carried(
    draw: st.DrawFn, requests: st.SearchStrategy[WireRequest], streams: st.SearchStrategy[int]
) -> tuple[int, WireRequest, list[Record]]:
    """Draw a request together with its records: what is drawn together is left out together when it shrinks."""
    number, asked = draw(streams), draw(requests)
    content = bytes([0, _ROLES[asked.role], int(asked.keep), 0, 0, 0, 0, 0])
    block = encode_pairs(asked.params, draw(_LONG))
    body = _stream(draw, STDIN, number, asked.body)
    if asked.role == "authorizer":  # it has no such stream (section 6.3)
        body = []
    return number, asked, [Record(BEGIN, number, content), *_stream(draw, PARAMS, number, block), *body]


def _weave(draw: st.DrawFn, wires: list[list[Record]]) -> list[Record]:
    """Mix the records of several requests, each one's in their order."""
    left = [list(wire) for wire in wires]
    mixed = []
    for turn in draw(_TURNS):
        mixed += left[turn % len(left)][:1]
        del left[turn % len(left)][:1]
    return mixed + [each for wire in left for each in wire]


def _disturb(draw: st.DrawFn, wire: list[Record], noise: st.SearchStrategy[list[tuple[int, Record]]]) -> list[Record]:
    """Put records that change nothing between the others."""
    for at, each in draw(noise):
        wire.insert(at % (len(wire) + 1), each)
    return wire


def _padded(draw: st.DrawFn, wire: list[Record]) -> bytes:
    """Give the records padding of any size, with any content (section 3.3)."""
    sizes = cycle(draw(_PADDING) or [0])
    return b"".join(bytes(Record(each.kind, each.stream, each.content, _JUNK[: next(sizes)])) for each in wire)


_IDLE: Final = st.builds(Record, st.integers(2, 8), st.just(IDLE_ID), st.binary(max_size=8))
_UNKNOWN: Final = st.builds(Record, st.integers(12, 255), st.just(0), st.binary(max_size=8))
_NAMES: Final = ("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS", "OTHER")
_ASK: Final = st.lists(st.sampled_from(_NAMES), unique=True).map(
    lambda names: Record(GET_VALUES, 0, encode_pairs([(name, "") for name in names]))
)
_RESULT: Final = st.just(Record(GET_VALUES_RESULT, 0, encode_pairs([("FCGI_MPXS_CONNS", "1")])))
_NOT_KNOWN: Final = st.builds(
    Record, st.just(UNKNOWN_TYPE), st.just(0), st.integers(12, 255).map(lambda kind: bytes([kind]) + bytes(7))
)
_TO_APPLICATION: Final = st.lists(st.tuples(st.integers(0, 40), st.one_of(_IDLE, _UNKNOWN, _ASK)), max_size=3)
_TO_FRONT: Final = st.lists(st.tuples(st.integers(0, 40), st.one_of(_IDLE, _RESULT, _NOT_KNOWN)), max_size=3)


@st.composite
def request_images(
    draw: st.DrawFn,
    requests: st.SearchStrategy[WireRequest] | None = None,
    *,
    most: int = 3,
    streams: st.SearchStrategy[int] | None = None,
    noise: bool = True,
) -> Image:
    """Draw one to ``most`` requests on one connection, at the same time, in any records that carry them.

    Lengths in 1 or 4 bytes (section 3.4), streams in any records, padding, requests interleaved (section 3.3); with
    ``noise`` also records of ids that are not active (3.3), FCGI_GET_VALUES (4.1) and types that nobody knows (4.2).
    """
    one = _carried(any_requests() if requests is None else requests, ids() if streams is None else streams)
    carried = draw(st.lists(one, min_size=1, max_size=most, unique_by=lambda each: each[0]))
    wire = _weave(draw, [records for _, _, records in carried])
    if noise:
        wire = _disturb(draw, wire, _TO_APPLICATION)
    return Image(
        _padded(draw, wire),
        {number: asked.expected("fastcgi", number) for number, asked, _ in carried},
        tuple(each.kind for each in wire if each.stream == 0 and each.kind != GET_VALUES),
        tuple(
            tuple(name for name in _NAMES if name.encode() in each.content) for each in wire if each.kind == GET_VALUES
        ),
    )


def _response(draw: st.DrawFn, number: int, answer: WireResponse) -> list[Record]:
    output = _stream(draw, STDOUT, number, draw(heads(answer)) + answer.body)
    # A program without errors may leave the whole stream out (section 6.1).
    errors = _stream(draw, STDERR, number, answer.errors) if answer.errors or draw(st.booleans()) else []
    ended = Record(END, number, answer.app_status.to_bytes(4, "big") + bytes(4))
    return [*_weave(draw, [output, errors]), ended]


@st.composite
def response_images(
    draw: st.DrawFn,
    responses: st.SearchStrategy[WireResponse] | None = None,
    *,
    streams: tuple[int, ...] = (1,),
    noise: bool = True,
) -> Image:
    """Draw the answers to the requests ``streams``, which the receiver must have asked before.

    Anything as in ``request_images``; error output comes anywhere between the rest.
    """
    carried = {number: draw(any_responses() if responses is None else responses) for number in streams}
    wire = _weave(draw, [_response(draw, number, answer) for number, answer in carried.items()])
    if noise:
        wire = _disturb(draw, wire, _TO_FRONT)
    expected: dict[int, list[Event]] = {number: answer.expected(number) for number, answer in carried.items()}
    return Image(_padded(draw, wire), expected)


# -- against the rules --------------------------------------------------------------------------------------------

_ID: Final = 7  # no other request here has it
_EITHER: Final = (REFUSED, ERROR)


def _asks(block: bytes) -> bytes:
    """A request with this block of parameters, of which nothing is checked."""
    return begin(_ID, 1) + (rec(PARAMS, _ID, block) if block else b"") + rec(PARAMS, _ID) + rec(STDIN, _ID)


def _params(*pairs: tuple[str, str]) -> bytes:
    return _asks(encode_pairs(pairs))


_WRONG_NUMBERS: Final = ["-1", "+5", "1,1", "1_0", " 5", "0x5", "five", "\xb2"]
_WHOLE: Final = request(_ID, {"A": "b"}, b"body", flags=1)
_BREACHES: Final = (
    breach(
        "version",
        "FastCGI 1.0 section 3.3",
        "the version of every record is 1",
        st.integers(0, 255).filter(lambda version: version != 1).map(lambda version: bytes([version]) + bytes(7)),
    ),
    breach(
        "begin-null-id",
        "FastCGI 1.0 section 3.3",
        "the id of a request is not 0, which is for management records",
        st.just(begin(0)),
    ),
    breach(
        "begin-length",
        "FastCGI 1.0 section 5.1",
        "FCGI_BEGIN_REQUEST has 8 bytes",
        st.binary(max_size=16).filter(lambda data: len(data) != 8).map(lambda data: rec(BEGIN, _ID, data)),
    ),
    breach(
        "begin-active",
        "FastCGI 1.0 section 3.3",
        "no request begins with the id of one that is active",
        st.sampled_from([begin(_ID, 1), _WHOLE]).map(lambda wire: wire + begin(_ID, 1)),
    ),
    breach(
        "role",
        "FastCGI 1.0 section 5.1",
        "the role is one that the application has; others are answered with FCGI_UNKNOWN_ROLE (5.5)",
        st.sampled_from([0, 4, 257, 65_535]).map(lambda role: begin(_ID, 1, role)),
        REFUSED,
    ),
    breach(
        "pair-beyond-stream",
        "FastCGI 1.0 section 3.4",
        "names and values have as many bytes as their lengths say",
        st.sampled_from([b"\2\2AA", b"\1\1A", b"\x80\0\0\5\0A", b"\7\xff\xff\xff\xff", b"\xff\xff\xff\xff\1A"]).map(
            _asks
        ),
        *_EITHER,
    ),
    breach(
        "length-cut",
        "FastCGI 1.0 section 3.4",
        "a length of 4 bytes has 4 bytes, and both lengths are there",
        st.sampled_from([b"\x80", b"\x80\0\0", b"\1", b"\1\x80\0\0"]).map(_asks),
        *_EITHER,
    ),
    breach(
        "name-empty",
        "RFC 3875 section 4.1",
        "a meta-variable has a name",
        st.sampled_from([_params(("", "")), _params(("A", "b"), ("", "c"))]),
        *_EITHER,
    ),
    breach(
        "name-twice",
        "RFC 3875 section 4.1",
        "a meta-variable has one value",
        st.sampled_from(["REMOTE_USER", "REQUEST_METHOD", "HTTP_HOST", "A"]).map(
            lambda name: _params((name, "a"), (name, "b"))
        ),
        *_EITHER,
    ),
    breach(
        "content-length",
        "RFC 3875 section 4.1.2",
        "CONTENT_LENGTH is digits",
        st.sampled_from(_WRONG_NUMBERS).map(lambda text: _params(("CONTENT_LENGTH", text))),
        *_EITHER,
    ),
    breach(
        "params-after-end",
        "FastCGI 1.0 section 3.3",
        "nothing follows the empty record that ends a stream",
        st.binary(max_size=4).map(
            lambda data: begin(_ID, 1) + rec(PARAMS, _ID, b"\1\1Ab") + rec(PARAMS, _ID) + rec(PARAMS, _ID, data)
        ),
        *_EITHER,
    ),
    breach(
        "stdin-before-params",
        "FastCGI 1.0 section 6.2",
        "the body comes after the end of the parameters",
        st.binary(max_size=4).map(lambda data: begin(_ID, 1) + rec(STDIN, _ID, data)),
        *_EITHER,
    ),
    breach(
        "values-pairs",
        "FastCGI 1.0 section 4.1",
        "FCGI_GET_VALUES holds whole name-value pairs",
        st.sampled_from([b"\1", b"\5\0A", b"\x80\0"]).map(lambda data: rec(GET_VALUES, 0, data)),
    ),
    breach(
        "request-cut",
        "FastCGI 1.0 section 3.3",
        "records and streams end before the connection does",
        st.integers(1, len(_WHOLE) - 1).map(lambda end: _WHOLE[:end]),
        eof=True,
    ),
)
RULES: Final = rules(_BREACHES)
"""Every rule that ``illegal_requests`` breaks, by name."""


def illegal_requests(*names: str) -> st.SearchStrategy[Illegal]:
    """Wires that break one of these rules of ``RULES``, or any, alone or after requests that are right."""
    before = st.one_of(st.just(b""), request_images(most=2, noise=False).map(lambda image: image.wire))
    return st.builds(lambda start, bad: Illegal(start + bad.wire, bad.rule, bad.eof), before, chosen(_BREACHES, names))


_ANSWER: Final = rec(STDOUT, 1, b"Status: 200 OK\r\n\r\nbody")
_END: Final = rec(END, 1, bytes(8))
_RESPONSE_BREACHES: Final = (
    *[
        breach(
            each.rule.name,
            each.rule.source,
            each.rule.text,
            each.wires.map(lambda head: rec(STDOUT, 1, head) + rec(STDOUT, 1) + _END),
            *_EITHER,
        )
        for each in HEAD_BREACHES
    ],
    breach(
        "response-shorter",
        "RFC 9110 section 8.6",
        "the body has as many bytes as Content-Length says",
        st.just(rec(STDOUT, 1, b"Content-Length: 2\r\n\r\na") + rec(STDOUT, 1) + _END),
        *_EITHER,
    ),
    breach(
        "version",
        "FastCGI 1.0 section 3.3",
        "the version of every record is 1",
        st.integers(0, 255).filter(lambda version: version != 1).map(lambda version: bytes([version]) + bytes(7)),
    ),
    breach(
        "head-cut",
        "RFC 3875 section 6.2",
        "an empty line ends the header",
        st.sampled_from([b"", b"Status: 200 OK", b"A: b\r\n"]).map(lambda data: rec(STDOUT, 1, data) + _END),
        *_EITHER,
    ),
    breach(
        "stdout-after-end",
        "FastCGI 1.0 section 3.3",
        "nothing follows the empty record that ends a stream",
        st.binary(min_size=1, max_size=4).map(lambda data: _ANSWER + rec(STDOUT, 1) + rec(STDOUT, 1, data) + _END),
        *_EITHER,
    ),
    breach(
        "end-length",
        "FastCGI 1.0 section 5.5",
        "FCGI_END_REQUEST has 8 bytes",
        st.binary(max_size=16).filter(lambda data: len(data) != 8).map(lambda data: _ANSWER + rec(END, 1, data)),
        *_EITHER,
    ),
    breach(
        "protocol-status",
        "FastCGI 1.0 section 5.5",
        "protocolStatus is one of four",
        st.integers(4, 255).map(lambda status: _ANSWER + rec(END, 1, bytes([0, 0, 0, 0, status, 0, 0, 0]))),
        *_EITHER,
    ),
    breach(
        "values-pairs",
        "FastCGI 1.0 section 4.1",
        "FCGI_GET_VALUES_RESULT holds whole name-value pairs",
        st.sampled_from([b"\1", b"\5\0A", b"\x80\0"]).map(lambda data: rec(GET_VALUES_RESULT, 0, data)),
    ),
    breach(
        "response-cut",
        "FastCGI 1.0 section 5.5",
        "a response ends with FCGI_END_REQUEST, before the connection does",
        st.integers(0, len(_ANSWER + _END) - 1).map(lambda end: (_ANSWER + _END)[:end]),
        eof=True,
    ),
)
RESPONSE_RULES: Final = rules(_RESPONSE_BREACHES)
"""Every rule that ``illegal_responses`` breaks, by name."""


def illegal_responses(*names: str) -> st.SearchStrategy[Illegal]:
    """Answers to request 1 that break one of these rules of ``RESPONSE_RULES``, or any."""
    return chosen(_RESPONSE_BREACHES, names)
