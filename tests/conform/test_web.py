from __future__ import annotations

import pytest

from gateways.errors import ConfigError
from gateways.wire.case import Failure
from gateways.wire.web import FrontEnd, is_whole, parse_front_end, read_response, request_bytes


@pytest.mark.parametrize(
    ("url", "front", "authority"),
    [
        ("http://127.0.0.1:8080/", FrontEnd("127.0.0.1", 8080), "127.0.0.1:8080"),
        ("http://localhost/app/", FrontEnd("localhost", 80, "/app"), "localhost:80"),
        ("http://[::1]:81/a/b", FrontEnd("::1", 81, "/a/b"), "[::1]:81"),
    ],
)
def test_the_url_of_a_web_server(url: str, front: FrontEnd, authority: str) -> None:
    assert parse_front_end(url) == front
    assert front.authority == authority


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/", "127.0.0.1:80", "http:///path", "http://h:0x/", "http://h:99999/", "http://h/?q"]
)
def test_no_url_of_a_web_server(url: str) -> None:
    with pytest.raises(ConfigError, match="no web server's URL"):
        parse_front_end(url)


def test_a_request() -> None:
    data = request_bytes(FrontEnd("h", 80), "POST", "/a?b", [("X-A", "\xe9")], b"abc", "1.0")
    assert data == b"POST /a?b HTTP/1.0\r\nHost: h:80\r\nConnection: close\r\nX-A: \xe9\r\nContent-Length: 3\r\n\r\nabc"


def test_responses() -> None:
    response = read_response(b"HTTP/1.1 404 No\r\nA: b\r\nA: \xe9\r\nContent-Length: 5\r\n\r\nabc", "GET")
    assert (response.status, response.body, response.whole) == (404, b"abc", False)
    assert response.values("a") == ["b", "\xe9"]
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert read_response(chunked, "GET").body == b"abc"
    assert not read_response(chunked[:-8], "GET").whole
    with pytest.raises(Failure, match="an HTTP response"):
        read_response(b"hello\r\n\r\n", "GET")


@pytest.mark.parametrize(
    ("method", "data", "whole"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", False),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", False),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", True),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nabc", False),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", False),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", True),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\n", False),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", True),
    ],
)
def test_whether_a_response_is_whole(method: str, data: bytes, whole: bool) -> None:
    assert is_whole(data, method) is whole
