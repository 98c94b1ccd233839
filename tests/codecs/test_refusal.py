from __future__ import annotations

import pytest

from gateways.codecs import Codec
from gateways.codecs.events import ResponseHead
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.refusal import error_response
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import MalformedMessage


def test_says_no_more_than_the_code() -> None:
    assert error_response(3, 400) == ResponseHead(
        3, "400 Bad Request", [("Content-Type", "text/plain"), ("Content-Length", "16")], b"400 Bad Request\n", True
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (403, "403 Forbidden"),
        (404, "404 Not Found"),
        (405, "405 Method Not Allowed"),
        (408, "408 Request Timeout"),
        (411, "411 Length Required"),
        (413, "413 Content Too Large"),
        (414, "414 URI Too Long"),
        (417, "417 Expectation Failed"),
        (431, "431 Request Header Fields Too Large"),
        (500, "500 Internal Server Error"),
        (501, "501 Not Implemented"),
        (502, "502 Bad Gateway"),
        (504, "504 Gateway Timeout"),
        (505, "505 HTTP Version Not Supported"),
        (599, "599 Error"),
    ],
)
def test_status_and_length(code: int, status: str) -> None:
    head = error_response(1, code)
    assert head.status == status
    assert head.content == status.encode() + b"\n"
    assert head.headers == [("Content-Type", "text/plain"), ("Content-Length", str(len(head.content)))]
    assert head.end


def test_busy_tells_when_to_come_again() -> None:
    head = error_response(1, 503)
    assert head.status == "503 Service Unavailable"
    assert head.headers[2:] == [("Retry-After", "1")]


def test_head_only_keeps_the_length() -> None:
    head = error_response(1, 500, head_only=True)
    assert head.content == b""
    assert head.headers == error_response(1, 500).headers


@pytest.mark.parametrize(
    ("codec", "first"),
    [(SCGICodec(), b"Status: 503 Service Unavailable\r\n"), (UWSGICodec(), b"HTTP/1.1 503 Service Unavailable\r\n")],
)
def test_in_the_form_of_the_protocol(codec: Codec, first: bytes) -> None:
    data = codec.send(error_response(1, 503))
    assert data.startswith(first)
    assert data.endswith(b"\r\nRetry-After: 1\r\n\r\n503 Service Unavailable\n")
    assert codec.closing


def test_over_fastcgi_it_ends_the_request() -> None:
    codec = FastCGICodec()
    codec.feed(b"\1\1\0\7\0\10\0\0" + b"\0\11\0\0\0\0\0\0")  # role 9
    data = codec.send(error_response(7, 501))
    assert b"Status: 501 Not Implemented\r\n" in data
    assert data.endswith(b"\1\3\0\7\0\10\0\0" + b"\0\0\0\0\3\0\0\0")  # FCGI_UNKNOWN_ROLE
    assert codec.closing


def test_over_http_after_a_head_that_cannot_be_read() -> None:
    codec = HTTP1Codec()
    with pytest.raises(MalformedMessage):
        codec.feed(b"GET\r\n\r\n")
    data = codec.send(error_response(codec.error_stream, 400))
    assert data.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert data.endswith(b"\r\n\r\n400 Bad Request\n")
