from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, strategies as st

from gateways.codecs import Codec
from gateways.codecs.events import Body, EndOfBody, Request
from gateways.codecs.pairs import encode_uwsgi_vars
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import LimitExceeded, MalformedMessage
from gateways.limits import DEFAULT_LIMITS, Limits
from gateways.testing.framing.uwsgi import packet, variables as encode_variables
from gateways.testing.noise import chop, cuts
from gateways.testing.noisy import any_wire
from tests.codecs.vectors import LATIN1, MORE, NAMES, OFFSETS, Fault, Vector, check, run

HOLDS: Final = 4 + 65_535
PONG: Final = b"\x64\0\0\1"


def variables(params: dict[str, str]) -> bytes:
    return encode_variables(params.items())


def wire(body: bytes = b"", **params: str) -> bytes:
    return packet(variables(params)) + body


def served(message: bytes, params: dict[str, str], body: bytes = b"") -> Vector:
    """A whole request, after which any byte is dropped."""
    events: list[object] = [Request(1, params, len(body)), EndOfBody(1)]
    if body:
        events.insert(1, Body(1, body))
    return Vector(message, events, clean=frozenset({0, len(message)}))


def simple(body: bytes = b"", **params: str) -> Vector:
    return served(wire(body, **params), params, body)


def bad(message: bytes, status: int = 400) -> Vector:
    return Vector(message, [], Fault(MalformedMessage, status))


NGINX = {
    "QUERY_STRING": "x=1", "REQUEST_METHOD": "POST", "CONTENT_TYPE": "text/plain", "CONTENT_LENGTH": "4",
    "REQUEST_URI": "/caf%C3%A9?x=1", "PATH_INFO": "/caf\xc3\xa9", "DOCUMENT_ROOT": "/usr/share/nginx/html",
    "SERVER_PROTOCOL": "HTTP/2.0", "REQUEST_SCHEME": "https", "HTTPS": "on", "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "51234", "SERVER_PORT": "443", "SERVER_NAME": "", "HTTP_HOST": "example.com",
    "HTTP_PROXY": "http://attacker.example/", "HTTP_CONNECTION": "Upgrade", "HTTP_EXPECT": "100-continue",
}  # fmt: skip
APACHE = {
    "PATH_INFO": "/x", "UNIQUE_ID": "Zk", "HTTP_HOST": "example.com", "HTTP_AUTHORIZATION": "Basic YTpi",
    "PATH": "/usr/bin:/bin",
    "SERVER_SIGNATURE": "<address>Apache</address>\n", "SCRIPT_FILENAME": "proxy:uwsgi://127.0.0.1:3031/app/x",
    "REQUEST_METHOD": "GET", "QUERY_STRING": "", "REQUEST_URI": "/app/x", "SCRIPT_NAME": "/app",
}  # fmt: skip

GOOD: dict[str, Vector] = {
    "nginx": simple(b"body", **NGINX),
    "nginx without a body": simple(b"", **(NGINX | {"CONTENT_LENGTH": "", "CONTENT_TYPE": ""})),
    "Apache": simple(b"", **APACHE),
    "no variables": simple(),
    "datasize 65,535": simple(A="b" * 65_530),
    "datasize 65,535 and a body": simple(b"x", CONTENT_LENGTH="1", A="b" * 65_511),
    "any modifier2": served(packet(variables({"A": "b"}), 0, 255), {"A": "b"}),
    "REMOTE_USER empty": simple(REMOTE_USER=""),
    "UWSGI variables are data": simple(
        UWSGI_FILE="/etc/passwd", UWSGI_SCRIPT="os:system", UWSGI_MODULE="x", UWSGI_CALLABLE="y", UWSGI_PYHOME="/usr",
        UWSGI_CHDIR="/", UWSGI_TOUCH_RELOAD="/x", UWSGI_SETENV="A=b", UWSGI_APPID="1", UWSGI_SCHEME="https",
    ),
    "CONTENT_LENGTH 05": simple(b"12345", CONTENT_LENGTH="05"),
    "POST without a body": simple(CONTENT_LENGTH="0", REQUEST_METHOD="POST"),
    "a body of any octets": simple(bytes(range(256)), CONTENT_LENGTH="256"),
    "a body that looks like a request": simple(wire(A="b"), CONTENT_LENGTH="10"),
    "a repeated field": served(
        packet(variables({"HTTP_VIA": "a"}) + variables({"HTTP_VIA": "b"})), {"HTTP_VIA": "a, b"}
    ),
    "REMOTE_USER twice": served(packet(variables({"REMOTE_USER": ""}) * 2), {"REMOTE_USER": ""}),
    "a body of 40,000 bytes": simple(b"b" * 40_000, CONTENT_LENGTH="40000"),
}  # fmt: skip

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
    **{f"modifier1 {number}": bad(bytes([number]), 501) for number in range(1, 256) if number != 100},
    "modifier1 9, whole": bad(packet(variables({"A": "b"}), 9), 501),
    "modifier1 14, whole": bad(packet(variables({"A": "b"}), 14), 501),
    "modifier1 30, where it is not asked for": bad(packet(variables({"A": "b"}), 30), 501),
    "HTTP": bad(b"GET / HTTP/1.1\r\n\r\n", 501),
    "a variable too long": bad(packet(b"\1\0A\2\0b")),
    "a name without a value": bad(packet(b"\1\0A")),
    "half a length": bad(packet(b"\1\0A\1\0b\1")),
    "a variable of 65,535 bytes in a block of 6": bad(packet(b"\1\0A\xff\xffb")),
    "no name": bad(packet(b"\0\0\1\0b")),
    "two lengths": bad(packet(variables({"CONTENT_LENGTH": "1"}) + variables({"CONTENT_LENGTH": "2"}))),
    **{f"CONTENT_LENGTH {text!r}": bad(wire(b"12345", CONTENT_LENGTH=text)) for text in LENGTHS},
}


@pytest.mark.parametrize("name", GOOD)
def test_requests(name: str) -> None:
    check(UWSGICodec, GOOD[name], trailing=[b"x", wire(A="b")], most=HOLDS)


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_request(name: str) -> None:
    check(UWSGICodec, BAD[name], trailing=[b"x", wire(A="b")], most=HOLDS)


@pytest.mark.parametrize("message", [b"\x64\0\0\0", b"\x64\0\0\7", b"\x64\1\0\0A", b"\x64\xff\xff\0"])
def test_ping(message: bytes) -> None:
    at = frozenset({0, *range(4, len(message) + 1)})
    check(UWSGICodec, Vector(message, [], sent=PONG, closing=True, clean=at), trailing=[b"x", message], most=4)


def modifier30() -> Codec:
    return UWSGICodec(modifier30=True)


def test_modifier1_30_by_option() -> None:
    check(modifier30, served(packet(variables({"SCRIPT_NAME": "/app"}), 30), {"SCRIPT_NAME": "/app"}), trailing=[b"x"])
    check(modifier30, simple(b"body", **NGINX))
    check(modifier30, bad(b"\x1f", 501))


def test_modifier1_that_is_not_served_is_named() -> None:
    assert run(UWSGICodec, [b"\x09"]).message == "uwsgi: modifier1 9 is not served here"


def test_our_own_encoding_is_the_same() -> None:
    assert encode_uwsgi_vars(NGINX.items()) == variables(NGINX)


def test_params_in_the_order_sent() -> None:
    event = UWSGICodec().feed(GOOD["Apache"].wire)[0]
    assert isinstance(event, Request)
    assert list(event.params) == list(APACHE)


LIMITS: Final = Limits(params_bytes=40, params_count=3, body_bytes=10)


def small() -> Codec:
    return UWSGICodec(LIMITS, modifier30=True)


SMALL: dict[str, Vector] = {
    "as many bytes as allowed": simple(A="b" * 35),
    "one more": Vector(wire(A="b" * 36), [], Fault(LimitExceeded, 431, "block of variables")),
    "one more, told by the header alone": Vector(b"\0\x29\0\0", [], Fault(LimitExceeded, 431, "block of variables")),
    "a ping has the same limit": Vector(b"\x64\x29\0\0", [], Fault(LimitExceeded, 431, "block of variables")),
    "as many variables": simple(A="", B="", C=""),
    "one variable more": Vector(wire(A="", B="", C="", D=""), [], Fault(LimitExceeded, 431, "number of variables")),
    "as much body": simple(b"0123456789", CONTENT_LENGTH="10"),
    "one byte more": Vector(wire(b"0123456789a", CONTENT_LENGTH="11"), [], Fault(LimitExceeded, 413, "request body")),
}


@pytest.mark.parametrize("name", SMALL)
def test_limits(name: str) -> None:
    check(small, SMALL[name], trailing=[b"x"], most=4 + LIMITS.params_bytes)


def test_any_datasize_is_within_the_default_limit() -> None:
    assert DEFAULT_LIMITS.params_bytes >= 65_535
    codec = UWSGICodec()
    assert codec.feed(b"\0\xff\xff\0" + b"A" * 65_534) == []
    assert codec.buffered == 65_538


WIRES = [vector.wire for vector in (*GOOD.values(), *BAD.values()) if len(vector.wire) < 1_000] + [b"\x64\0\0\0"]


@MORE
@given(any_wire(WIRES), OFFSETS)
def test_any_bytes_are_events_or_an_error_of_the_peer_however_split(data: bytes, at: list[int]) -> None:
    for eof in (False, True):
        whole = run(small, [data], eof=eof)
        assert run(small, chop(data, at), eof=eof, most=44) == whole
        assert run(small, chop(data, cuts(len(data))), eof=eof, most=44) == whole


@given(st.dictionaries(NAMES, LATIN1, max_size=8), st.binary(max_size=300), OFFSETS)
def test_round_trip(params: dict[str, str], body: bytes, at: list[int]) -> None:
    sent = params | {"CONTENT_LENGTH": str(len(body))}
    message = packet(encode_uwsgi_vars(sent.items())) + body
    assert run(UWSGICodec, chop(message, at)).events == served(message, sent, body).events
