"""HTTP/1.1 and 1.0 (RFC 9110, RFC 9112): legal and illegal wires of requests, as a server gets them."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from gateways.testing.framing import Illegal, Image
from gateways.testing.framing.illegal import breach, chosen, rules
from gateways.testing.model import HTTPRequest
from gateways.testing.noise import chop
from gateways.testing.noisy import offsets
from gateways.testing.requests import http_requests

__all__ = ["RULES", "illegal_requests", "request_images"]


def _chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """Draw a chunked body: sizes in either case and with zeros first, extensions, trailers (RFC 9112 section 7.1)."""
    size = draw(st.sampled_from([b"%x", b"%X", b"00%x"]))
    extension = draw(st.sampled_from([b"", b";a", b";a=1", b';a="b;c"']))
    trailers = draw(st.sampled_from([b"", b"A: b\r\n", b"Host: c\r\nX: \xe9\r\n"]))
    parts = [piece for piece in chop(body, draw(offsets(4))) if piece]
    chunks = [size % len(part) + extension + b"\r\n" + part + b"\r\n" for part in parts]
    return b"".join(chunks) + draw(st.sampled_from([b"0", b"000"])) + extension + b"\r\n" + trailers + b"\r\n"


@st.composite
def _framed(draw: st.DrawFn, requests: st.SearchStrategy[HTTPRequest]) -> tuple[bytes, HTTPRequest, str | None, bool]:
    """Draw a request together with its bytes; tell its Content-Length, and whether it is chunked."""
    request = draw(requests)
    case = draw(st.sampled_from(["", "lower", "upper"]))
    blank = draw(st.sampled_from([" ", "", "\t", "  "]))
    after = draw(st.sampled_from(["", " ", "\t"]))
    fields = list(request.fields)
    chunked = request.version == "1.1" and draw(st.booleans())
    length = None
    if chunked:
        fields.insert(
            draw(st.integers(0, len(fields))), ("Transfer-Encoding", draw(st.sampled_from(["chunked", "Chunked"])))
        )
    elif request.body or draw(st.booleans()):
        length = draw(st.sampled_from(["", "00"])) + str(len(request.body))
        fields.insert(draw(st.integers(0, len(fields))), ("Content-Length", length))
    first = draw(st.sampled_from(["", "\r\n"]))  # RFC 9112 section 2.2
    lines = [f"{first}{request.method} {request.target} HTTP/{request.version}"]
    for name, value in fields:
        cased = name.lower() if case == "lower" else name.upper() if case == "upper" else name
        lines.append(f"{cased}:{blank}{value}{after}")
    wire = "\r\n".join([*lines, "", ""]).encode("latin-1")
    wire += _chunks(draw, request.body) if chunked else request.body
    return wire, request, length, chunked


@st.composite
def request_images(
    draw: st.DrawFn,
    requests: st.SearchStrategy[HTTPRequest] | None = None,
    *,
    most: int = 3,
) -> Image:
    """Draw one to ``most`` requests, pipelined; ``requests`` are for the last, those before it keep the connection.

    Bodies have a Content-Length or come in chunks, names come in any case, with or without blanks round the value.
    """
    before = draw(st.lists(_framed(http_requests(last=False)), max_size=most - 1))
    asked = [*before, draw(_framed(http_requests() if requests is None else requests))]
    expected = {
        stream: request.expected(stream, length, chunked=chunked)
        for stream, (_, request, length, chunked) in enumerate(asked, 1)
    }
    return Image(b"".join([wire for wire, *_ in asked]), expected)


def _fields(*fields: bytes) -> st.SearchStrategy[bytes]:
    """Requests with one of these in its fields."""
    return st.sampled_from([b"POST / HTTP/1.1\r\nHost: a\r\n" + each + b"\r\n\r\n" for each in fields])


def _lines(*lines: bytes) -> st.SearchStrategy[bytes]:
    """Requests with one of these as their first line."""
    return st.sampled_from([line + b"\r\nHost: a\r\n\r\n" for line in lines])


def _chunked(*bodies: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + x for x in bodies])


_WHOLE: Final = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
_CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
_BREACHES: Final = (
    breach(
        "request-line",
        "RFC 9112 section 3",
        "a request line is method, target and version, with one space between them",
        _lines(
            b"GET  / HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET /", b"GET / http/1.1"
        ),
    ),
    breach("method", "RFC 9110 section 9.1", "a method is a token", _lines(b"G(T / HTTP/1.1", b"G\xe9T / HTTP/1.1")),
    breach(
        "target",
        "RFC 9112 section 3.2",
        "the target is a path, an absolute URI, or * for OPTIONS, without blanks and fragment",
        _lines(b"GET /a b HTTP/1.1", b"GET /#a HTTP/1.1", b"GET /\0 HTTP/1.1", b"GET * HTTP/1.1", b"GET a HTTP/1.1"),
    ),
    breach(
        "http-version",
        "RFC 9110 section 2.5",
        "the version is one that is spoken",
        _lines(b"GET / HTTP/2.0", b"GET / HTTP/0.9"),
    ),
    breach(
        "line-end",
        "RFC 9112 section 2.2",
        "lines end with CR LF; a bare CR is invalid, and a bare LF lets two readers see different messages",
        _fields(b"A: b\nC: d", b"A: b\rC: d", b"A: b\r", b"A\r: b"),
    ),
    breach(
        "host-missing",
        "RFC 9112 section 3.2",
        "a request of HTTP/1.1 has a Host",
        st.just(b"GET / HTTP/1.1\r\n\r\n"),
    ),
    breach("host-twice", "RFC 9112 section 3.2", "there is one Host", _fields(b"Host: a", b"Host: b")),
    breach(
        "host-value",
        "RFC 9110 section 7.2",
        "Host is a host, and perhaps a port",
        st.sampled_from([b"a b", b"a/b", b"u@a", b"\xe9", b"a, b"]).map(
            lambda host: b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        ),
    ),
    breach(
        "field-name",
        "RFC 9112 section 5",
        "a field is a token and a colon, without a blank between them",
        _fields(b"A : b", b"A\t: b", b": b", b"A", b"A(: b", b"A\xe9: b", b"A B: c"),
    ),
    breach("obs-fold", "RFC 9112 section 5.2", "a field is one line", _fields(b"A: b\r\n c", b"A:\r\n\tc")),
    breach(
        "field-value",
        "RFC 9110 section 5.5",
        "no value holds NUL or another control character",
        _fields(b"A: \0", b"A: b\x01", b"A: b\x7f", b"A: \x0b"),
    ),
    breach(
        "content-length",
        "RFC 9110 section 8.6",
        "Content-Length is digits, and there is one",
        _fields(
            *[
                b"Content-Length: " + each
                for each in (b"+5", b"-1", b"1_0", b"1 0", b"0x1", b"1, 2", b"five", b"9" * 30)
            ],
            b"Content-Length: 1\r\nContent-Length: 2",
        ),
    ),
    breach(
        "length-and-chunked",
        "RFC 9112 section 6.1",
        "no sender gives both Content-Length and Transfer-Encoding",
        _fields(
            b"Content-Length: 1\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 1",
        ),
    ),
    breach(
        "coding",
        "RFC 9112 section 6.1",
        "chunked is the last coding, comes once, and no other is asked for that the server does not have",
        _fields(
            *[b"Transfer-Encoding: " + each for each in (b"gzip", b"chunked, gzip", b"chunked, chunked", b"identity")],
            b"Transfer-Encoding: \x0bchunked",
        ),
    ),
    breach(
        "chunked-in-1.0",
        "RFC 9112 section 6.1",
        "a message of HTTP/1.0 has no Transfer-Encoding",
        st.just(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ),
    breach(
        "chunk-size",
        "RFC 9112 section 7.1",
        "the size of a chunk is hexadecimal digits",
        _chunked(
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n",
            b"0x1\r\na\r\n",
            b"1_0\r\n",
            b" 1\r\na\r\n",
            b"\r\n",
            b"f" * 17 + b"\r\n",
        ),
    ),
    breach(
        "chunk-end",
        "RFC 9112 section 7.1",
        "CR LF follows the size, and the data of a chunk",
        _chunked(b"1\r\nab\r\n", b"1\r\na0\r\n\r\n", b"1\na\r\n", b"1\r\na\n0\r\n\r\n"),
    ),
    breach(
        "request-cut",
        "RFC 9112 section 8",
        "head and body are whole before the connection ends",
        st.one_of(
            st.integers(1, len(_WHOLE) - 1).map(lambda end: _WHOLE[:end]),
            st.integers(1, len(_CHUNKED) - 1).map(lambda end: _CHUNKED[:end]),
        ),
        eof=True,
    ),
)
RULES: Final = rules(_BREACHES)
"""Every rule that ``illegal_requests`` breaks, by name."""


def illegal_requests(*names: str) -> st.SearchStrategy[Illegal]:
    """Wires that break one of these rules of ``RULES``, or any, alone or after requests that are right."""
    kept = request_images(http_requests(last=False), most=2).map(lambda image: image.wire)
    return st.builds(
        lambda start, bad: Illegal(start + bad.wire, bad.rule, bad.eof),
        st.one_of(st.just(b""), kept),
        chosen(_BREACHES, names),
    )
