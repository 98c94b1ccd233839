from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, strategies as st

from gateways.codecs import Codec
from gateways.codecs.detect import looks_like
from gateways.codecs.events import Body, EndOfBody, Request
from gateways.codecs.pairs import encode_scgi_headers
from gateways.codecs.scgi import SCGICodec
from gateways.errors import LimitExceeded, MalformedMessage, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits
from gateways.testing.framing.scgi import headers as encode_headers, netstring as head
from gateways.testing.noise import chop, cuts
from gateways.testing.noisy import any_wire
from tests.codecs.vectors import LATIN1, MORE, NAMES, OFFSETS, Fault, Vector, check, run

HOLDS: Final = DEFAULT_LIMITS.params_bytes + 12  # the digits, the colon and the comma

# The example of the SCGI document.
SPECIFICATION: Final = (
    b"70:CONTENT_LENGTH\x0027\x00SCGI\x001\x00REQUEST_METHOD\x00POST\x00REQUEST_URI\x00/deepthought\x00,"
    b"What is the answer to life?"
)


def wire(body: bytes = b"", **headers: str) -> bytes:
    return head(encode_headers(headers.items())) + body


def served(message: bytes, params: dict[str, str], body: bytes = b"") -> Vector:
    """A whole request, after which any byte is dropped."""
    events: list[object] = [Request(1, params, len(body)), EndOfBody(1)]
    if body:
        events.insert(1, Body(1, body))
    return Vector(message, events, clean=frozenset({0, len(message)}))


def simple(body: bytes = b"", **headers: str) -> Vector:
    return served(wire(body, **headers), headers, body)


def bad(message: bytes, status: int = 400) -> Vector:
    return Vector(message, [], Fault(MalformedMessage, status))


NGINX = {
    "CONTENT_LENGTH": "0", "REQUEST_METHOD": "GET", "REQUEST_URI": "/caf%C3%A9?x=1", "QUERY_STRING": "x=1",
    "CONTENT_TYPE": "",
    "DOCUMENT_URI": "/caf\xc3\xa9", "DOCUMENT_ROOT": "/usr/share/nginx/html", "SCGI": "1",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "http", "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "51234", "SERVER_PORT": "80",
    "SERVER_NAME": "",
    "HTTP_HOST": "example.com", "HTTP_PROXY": "http://attacker.example/", "HTTP_COOKIE": "a=1; b=2",
}  # fmt: skip
APACHE = {
    "CONTENT_LENGTH": "5", "SCGI": "1", "HTTP_HOST": "example.com", "PATH": "/usr/bin:/bin",
    "SERVER_SIGNATURE": "<address/>\n",
    "SERVER_SOFTWARE": "Apache/2.4.71 (Debian)", "SCRIPT_FILENAME": "proxy:scgi://127.0.0.1:4000/app/x",
    "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_METHOD": "POST", "QUERY_STRING": "", "REQUEST_URI": "/app/x",
    "SCRIPT_NAME": "/app/x",
}  # fmt: skip
LIGHTTPD = {
    "CONTENT_LENGTH": "0", "QUERY_STRING": "", "REQUEST_URI": "/", "REDIRECT_STATUS": "200", "SCRIPT_NAME": "/",
    "PATH_INFO": "",
    "REMOTE_USER": "", "REQUEST_METHOD": "GET", "SCGI": "1",
}  # fmt: skip

GOOD: dict[str, Vector] = {
    "the document's example": served(
        SPECIFICATION,
        {"CONTENT_LENGTH": "27", "SCGI": "1", "REQUEST_METHOD": "POST", "REQUEST_URI": "/deepthought"},
        b"What is the answer to life?",
    ),
    "nginx": simple(b"", **NGINX),
    "nginx, chunked by the client": simple(
        b"body", **(NGINX | {"CONTENT_LENGTH": "4", "HTTP_TRANSFER_ENCODING": "chunked"})
    ),
    "Apache": simple(b"a=b&c", **APACHE),
    "lighttpd": simple(b"", **LIGHTTPD),
    "CONTENT_LENGTH not first": simple(b"b", REQUEST_METHOD="POST", CONTENT_LENGTH="1"),
    "CONTENT_LENGTH empty": simple(CONTENT_LENGTH="", SCGI="1"),
    "CONTENT_LENGTH absent": simple(SCGI="1"),
    "CONTENT_LENGTH 05": simple(b"12345", CONTENT_LENGTH="05"),
    "CONTENT_LENGTH 00": simple(CONTENT_LENGTH="00"),
    "POST without a body": simple(CONTENT_LENGTH="0", REQUEST_METHOD="POST"),
    "a body of any octets": simple(bytes(range(256)), CONTENT_LENGTH="256"),
    "a body that looks like a request": simple(SPECIFICATION, CONTENT_LENGTH=str(len(SPECIFICATION))),
    "no SCGI header": simple(CONTENT_LENGTH="0"),
    "one octet of header": served(head(b"A\0\0"), {"A": ""}),
    "a repeated field": served(
        head(b"CONTENT_LENGTH\0000\0HTTP_VIA\0a\0HTTP_VIA\0b\0HTTP_COOKIE\0c=1\0HTTP_COOKIE\0d=2\0"),
        {"CONTENT_LENGTH": "0", "HTTP_VIA": "a, b", "HTTP_COOKIE": "c=1; d=2"},
    ),
    "X_A beside X-A": served(head(b"HTTP_X_A\0a\0HTTP_X_A\0b\0"), {"HTTP_X_A": "a, b"}),
    "UWSGI_FILE is data": simple(UWSGI_FILE="/etc/passwd"),
    "headers of 9,000 bytes": simple(b"x", HTTP_COOKIE="c" * 9_000, CONTENT_LENGTH="1"),
    "a cookie of 60,000 bytes": simple(HTTP_COOKIE="c" * 60_000),
    "a body of 40,000 bytes": simple(b"b" * 40_000, CONTENT_LENGTH="40000"),
}

LENGTHS = [
    "+5",
    "-1",
    "-0",
    " 5",
    "5 ",
    "1_0",
    "1,1",
    "5,5",
    "0x5",
    "five",
    "\xb2",
    "٣".encode().decode("latin-1"),
    "1" * 19,
]

BAD: dict[str, Vector] = {
    "length with a sign": bad(b"+5:A\0b\0,"),
    "length below nothing": bad(b"-1:"),
    "length with a space": bad(b" 5:"),
    "length with a zero first": bad(b"05:A\0bc\0,"),
    "length of nothing": bad(b"0:,"),
    "length with an underscore": bad(b"1_0:"),
    "length with a space after": bad(b"5 :A\0bc\0,"),
    "length with another digit": bad(b"1\xb2:"),
    "no length": bad(b":A\0b\0,"),
    "hexadecimal": bad(b"1f:"),
    "HTTP": bad(b"GET / HTTP/1.1\r\n\r\n"),
    "FastCGI": bad(b"\1\1\0\1\0\10\0\0"),
    "uwsgi": bad(b"\0\0\0\0"),
    "digits, then something else": bad(b"12x456789012"),
    "no comma": bad(b"4:A\0b\0;"),
    "a length too small": bad(b"3:A\0b\0,"),
    "bytes after the last NUL": bad(head(b"A\0b\0c")),
    "an odd string": bad(head(b"A\0b\0c\0")),
    "no NUL": bad(head(b"CONTENT_LENGTH")),
    "no name": bad(head(b"A\0b\0\0c\0")),
    "two lengths": bad(head(b"CONTENT_LENGTH\0001\0CONTENT_LENGTH\0002\0") + b"xx"),
    "a limit passed": Vector(b"131073:", [], Fault(LimitExceeded, 431, "header netstring")),
    "a limit passed before the colon": Vector(b"999999", [], Fault(LimitExceeded, 431, "header netstring")),
    "a limit passed by far": Vector(b"99999999999999999999:", [], Fault(LimitExceeded, 431, "header netstring")),
    "a limit passed before another error": Vector(b"999999x:", [], Fault(LimitExceeded, 431, "header netstring")),
    **{f"CONTENT_LENGTH {text!r}": bad(wire(b"12345", CONTENT_LENGTH=text)) for text in LENGTHS},
}


@pytest.mark.parametrize("name", GOOD)
def test_requests(name: str) -> None:
    check(SCGICodec, GOOD[name], trailing=[b"\r\n", b"x", SPECIFICATION], most=HOLDS)


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_request(name: str) -> None:
    check(SCGICodec, BAD[name], trailing=[b"x", SPECIFICATION], most=HOLDS)


def test_our_own_encoding_is_the_document_s() -> None:
    pairs = [("CONTENT_LENGTH", "27"), ("SCGI", "1"), ("REQUEST_METHOD", "POST"), ("REQUEST_URI", "/deepthought")]
    assert head(encode_scgi_headers(pairs)) + b"What is the answer to life?" == SPECIFICATION


def test_params_in_the_order_sent() -> None:
    event = SCGICodec().feed(GOOD["lighttpd"].wire)[0]
    assert isinstance(event, Request)
    assert list(event.params) == list(LIGHTTPD)


LIMITS: Final = Limits(params_bytes=40, params_count=3, body_bytes=10)


def small() -> Codec:
    return SCGICodec(LIMITS)


SMALL: dict[str, Vector] = {
    "as many bytes as allowed": served(head(b"A\0" + b"b" * 37 + b"\0"), {"A": "b" * 37}),
    "one more": Vector(head(b"A\0" + b"b" * 38 + b"\0"), [], Fault(LimitExceeded, 431, "header netstring")),
    "as many headers": simple(A="", B="", C=""),
    "one header more": Vector(wire(A="", B="", C="", D=""), [], Fault(LimitExceeded, 431, "number of headers")),
    "as much body": simple(b"0123456789", CONTENT_LENGTH="10"),
    "one byte more": Vector(wire(b"0123456789a", CONTENT_LENGTH="11"), [], Fault(LimitExceeded, 413, "request body")),
    "a body of 10**18 - 1": Vector(wire(CONTENT_LENGTH="9" * 18), [], Fault(LimitExceeded, 413, "request body")),
}


@pytest.mark.parametrize("name", SMALL)
def test_limits(name: str) -> None:
    check(small, SMALL[name], trailing=[b"x"], most=LIMITS.params_bytes + 4)


def test_a_length_has_ten_digits_at_most_whatever_the_limit() -> None:
    vector = bad(b"11111111111:")
    check(lambda: SCGICodec(Limits(params_bytes=10**13)), vector)


def test_a_head_that_does_not_end_is_not_held_past_its_length() -> None:
    codec = SCGICodec()
    assert codec.feed(b"131072:") == []
    for _ in range(2):
        assert codec.feed(b"x" * 65_536) == []
    assert codec.buffered == 131_072 + 7
    with pytest.raises(MalformedMessage, match="no comma"):
        codec.feed(b"x")
    assert codec.buffered == 0


def test_the_message_shows_what_is_wrong() -> None:
    outcome = run(SCGICodec, [b"GET / HTTP/1.1\r\n"])
    assert outcome.message == "scgi: not the length of a netstring: G" + looks_like(0x47)


WIRES = [vector.wire for vector in (*GOOD.values(), *BAD.values()) if len(vector.wire) < 1_000]


@MORE
@given(any_wire(WIRES), OFFSETS)
def test_any_bytes_are_events_or_an_error_of_the_peer_however_split(data: bytes, at: list[int]) -> None:
    for eof in (False, True):
        whole = run(small, [data], eof=eof)
        assert run(small, chop(data, at), eof=eof, most=44) == whole
        assert run(small, chop(data, cuts(len(data))), eof=eof, most=44) == whole


@given(st.dictionaries(NAMES, LATIN1, max_size=8), st.binary(max_size=300), OFFSETS)
def test_round_trip(headers: dict[str, str], body: bytes, at: list[int]) -> None:
    sent = {name.replace("\0", "N"): value.replace("\0", "N") for name, value in headers.items()}
    sent["CONTENT_LENGTH"] = str(len(body))
    message = head(encode_scgi_headers(sent.items())) + body
    assert run(SCGICodec, chop(message, at)).events == served(message, sent, body).events


def test_truncated_within_the_body() -> None:
    outcome = run(SCGICodec, [SPECIFICATION[:-1]], eof=True)
    assert outcome.error == Fault(TruncatedMessage)
    assert outcome.message == "scgi: the peer closed 1 bytes before the end of the body"
