from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings, strategies as st

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
    Request,
    ResponseHead,
)
from gateways.codecs.http1 import HTTP1Codec
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits

GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def request(
    stream: int = 1,
    method: str = "GET",
    uri: str = "/",
    version: str = "1.1",
    length: int = 0,
    *,
    keep: bool = True,
    waits: bool = False,
    host: str | None = "a",
    **params: str,
) -> Request:
    variables = {
        "REQUEST_METHOD": method,
        "REQUEST_URI": uri,
        "QUERY_STRING": uri.partition("?")[2],
        "SERVER_PROTOCOL": "HTTP/" + version,
    }
    if host is not None:
        variables["HTTP_HOST"] = host
    return Request(stream, variables | params, length, expects_continue=waits, keep=keep)


def joined(events: list[Event]) -> list[Event]:
    """The same events with neighbouring Body events joined: where they are cut is not part of their meaning."""
    result: list[Event] = []
    for event in events:
        if isinstance(event, Body):
            assert event.data
            if result and isinstance(result[-1], Body):
                result[-1] = Body(event.stream, result[-1].data + event.data)
                continue
        result.append(event)
    return result


Outcome = tuple[list[Event], RemoteProtocolError | None, HTTP1Codec]


def run(pieces: list[bytes], limits: Limits = DEFAULT_LIMITS) -> Outcome:
    """Feed the pieces; return all events, the error that ended them, and the codec."""
    codec = HTTP1Codec(limits)
    events: list[Event] = []
    for piece in pieces:
        try:
            events += codec.feed(piece)
        except RemoteProtocolError as error:
            events += error.events  # type: ignore[arg-type]
            assert codec.feed(b"GET / HTTP/1.1\r\nHost: more\r\n\r\n") == []
            return joined(events), error, codec
        assert codec.buffered <= limits.params_bytes + 1
    return joined(events), None, codec


def splits(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *lines, b"", b""])


REQUESTS: dict[str, tuple[bytes, list[Event]]] = {
    "plain": (GET, [request(), EndOfBody(1)]),
    "fields": (
        head(
            b"X-One:1", b"x-one: \t2 \t", b"Empty:", b"Cookie: a=1", b"cookie: b=2", b"CONTENT-TYPE: t/x", b"X_Two: 2",
            b"Content_Length: 7", b"Transfer_Encoding: x",
        ).replace(b"POST /", b"GET /a%20b?c=d?e"),
        [
            request(
                uri="/a%20b?c=d?e", HTTP_X_ONE="1, 2", HTTP_EMPTY="", HTTP_COOKIE="a=1; b=2",
                CONTENT_TYPE="t/x",
            ),
            EndOfBody(1),
        ],
    ),
    "latin-1 in target and value": (
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\nX: \xe9\r\n\r\n",
        [request(uri="/\xc3\xa9", HTTP_X="\xe9"), EndOfBody(1)],
    ),
    "any method": (b"FOO!" + GET[3:], [request(method="FOO!"), EndOfBody(1)]),
    "empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", [request(host=""), EndOfBody(1)]),
    "empty line first": (b"\r\n" + GET, [request(), EndOfBody(1)]),
    "asterisk": (b"OPTIONS *" + GET[5:], [request(method="OPTIONS", uri="*"), EndOfBody(1)]),
    "absolute-form": (
        b"GET HTTP://b:8/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
        [request(uri="HTTP://b:8/x?y", host="b:8"), EndOfBody(1)],
    ),
    "two slashes are a path": (b"GET //b/x" + GET[5:], [request(uri="//b/x"), EndOfBody(1)]),
    "length": (
        POST + b"Content-Length: 0005\r\n\r\nhello",
        [request(method="POST", length=5, CONTENT_LENGTH="0005"), Body(1, b"hello"), EndOfBody(1)],
    ),
    "length 0": (
        POST + b"Content-Length: 0\r\n\r\n", [request(method="POST", CONTENT_LENGTH="0"), EndOfBody(1)],
    ),
    "chunked": (
        CHUNKED + b'5\r\nhello\r\nA;ext=1;q="a;b"\r\n' + b"0123\r\n\r\n89\r\n000\r\n\r\n",
        [request(method="POST", length=-1), Body(1, b"hello0123\r\n\r\n89"), EndOfBody(1)],
    ),
    "chunked, empty": (CHUNKED + b"0\r\n\r\n", [request(method="POST", length=-1), EndOfBody(1)]),
    "chunked, line ends within": (
        CHUNKED + b"9\r\n\n\r\n\n\r\n\r\n\r\r\n0\r\n\r\n",
        [request(method="POST", length=-1), Body(1, b"\n\r\n\n\r\n\r\n\r"), EndOfBody(1)],
    ),
    "trailers": (
        CHUNKED.replace(b"chunked", b"Chunked")
        + b"1\r\nx\r\n0\r\nA: b\r\nHost: c\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        [request(method="POST", length=-1), Body(1, b"x"), EndOfBody(1)],
    ),
    "pipelined": (
        GET + CHUNKED + b"1\r\nx\r\n0\r\n\r\n" + POST + b"Content-Length: 2\r\n\r\nab" + b"\r\n" + GET,
        [
            request(), EndOfBody(1),
            request(2, "POST", length=-1), Body(2, b"x"), EndOfBody(2),
            request(3, "POST", length=2, CONTENT_LENGTH="2"), Body(3, b"ab"), EndOfBody(3),
            request(4), EndOfBody(4),
        ],
    ),
    "expect": (
        POST + b"Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
        [
            request(method="POST", length=1, waits=True, HTTP_EXPECT="100-Continue", CONTENT_LENGTH="1"),
            Body(1, b"x"), EndOfBody(1),
        ],
    ),
    "expect without a body": (
        POST + b"Expect: 100-continue\r\n\r\n", [request(method="POST", HTTP_EXPECT="100-continue"), EndOfBody(1)],
    ),
    "upgrade with a body": (
        POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx" + GET,
        [
            request(method="POST", length=1, HTTP_CONNECTION="upgrade", HTTP_UPGRADE="h2c", CONTENT_LENGTH="1"),
            Body(1, b"x"), EndOfBody(1), request(2), EndOfBody(2),
        ],
    ),
    "upgrade with chunks": (
        CHUNKED.replace(b"Host", b"Connection: upgrade\r\nUpgrade: h2c\r\nHost") + b"1\r\nx\r\n0\r\n\r\n" + GET,
        [
            request(method="POST", length=-1, HTTP_CONNECTION="upgrade", HTTP_UPGRADE="h2c"),
            Body(1, b"x"), EndOfBody(1), request(2), EndOfBody(2),
        ],
    ),
    "1.0 kept": (
        b"GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n",
        [request(version="1.0", host=None, HTTP_CONNECTION="x, Keep-Alive"), EndOfBody(1)],
    ),
}  # fmt: skip

LAST_REQUESTS: dict[str, tuple[bytes, list[Event]]] = {
    "close": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Close\r\n\r\n",
        [request(keep=False, HTTP_CONNECTION="keep-alive, Close"), EndOfBody(1)],
    ),
    "1.0": (b"GET / HTTP/1.0\r\n\r\n", [request(version="1.0", host=None, keep=False), EndOfBody(1)]),
    "1.0 does not wait": (
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        [
            request(1, "POST", "/", "1.0", 1, keep=False, host=None, HTTP_EXPECT="100-continue", CONTENT_LENGTH="1"),
            Body(1, b"x"), EndOfBody(1),
        ],
    ),
}  # fmt: skip


ALL_REQUESTS: Final = REQUESTS | LAST_REQUESTS


def test_is_a_codec() -> None:
    codec: Codec = HTTP1Codec()
    assert (codec.protocol, codec.multiplexed, codec.closing, codec.raw_size) == ("http", False, False, 0)
    assert codec.data_to_send() == b""


@pytest.mark.parametrize(("data", "expected"), ALL_REQUESTS.values(), ids=ALL_REQUESTS.keys())
def test_requests_at_every_split(data: bytes, expected: list[Event]) -> None:
    for pieces in splits(data):
        events, error, codec = run(pieces)
        assert (events, error) == (expected, None), pieces
        assert codec.buffered == 0
        assert codec.feed_eof() == [Closed()]


@pytest.mark.parametrize(("data", "expected"), REQUESTS.values(), ids=REQUESTS.keys())
def test_bytes_after_a_kept_request_are_the_next_one(data: bytes, expected: list[Event]) -> None:
    following = sum(isinstance(event, Request) for event in expected) + 1
    assert run([data + GET])[0] == [*expected, request(following), EndOfBody(following)]
    assert run([data + b"GET / HT"])[:2] == (expected, None)
    assert isinstance(run([data + b"GET\r\n"])[1], MalformedMessage)


@pytest.mark.parametrize(("data", "expected"), LAST_REQUESTS.values(), ids=LAST_REQUESTS.keys())
@pytest.mark.parametrize("more", [GET, b"\x00junk", b"\n"])
def test_bytes_after_the_last_request_are_ignored(data: bytes, expected: list[Event], more: bytes) -> None:
    events, error, codec = run([data + more, more * 10])
    assert (events, error, codec.buffered) == (expected, None, 0)


@pytest.mark.parametrize(("data", "expected"), ALL_REQUESTS.values(), ids=ALL_REQUESTS.keys())
def test_truncated_at_every_byte(data: bytes, expected: list[Event]) -> None:
    for end in range(len(data)):
        events, error, codec = run([data[:end]])
        assert error is None
        requests = sum(isinstance(event, Request) for event in events)
        whole = sum(isinstance(event, EndOfBody) for event in events) == requests
        at_a_start = data[:end] in (b"", b"\r\n") or (whole and end > 2 and codec.buffered in (0, 2) and requests > 0)
        if whole and at_a_start and (codec.buffered == 0 or data[:end].endswith(b"\r\n")):
            assert codec.feed_eof() == [Closed()]
        else:
            with pytest.raises(TruncatedMessage):
                codec.feed_eof()
            assert codec.error_stream == (requests if not whole else requests + 1)
            assert codec.feed(GET) == []
            assert codec.feed_eof() == [Closed()]


REFUSED: dict[str, tuple[bytes, int]] = {
    "length and chunked": (head(b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400),
    "chunked and length": (head(b"Transfer-Encoding: chunked", b"Content-Length: 1"), 400),
    "unknown coding and length": (head(b"Transfer-Encoding: gzip", b"Content-Length: 1"), 400),
    "empty coding and length": (head(b"Transfer-Encoding:", b"Content-Length: 1"), 400),
    "gzip": (head(b"Transfer-Encoding: gzip"), 501),
    "gzip, chunked": (head(b"Transfer-Encoding: gzip, chunked"), 501),
    "gzip and chunked": (head(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"), 501),
    "identity": (head(b"Transfer-Encoding: identity"), 501),
    "xchunked": (head(b"Transfer-Encoding: xchunked"), 501),
    "chunked, chunked": (head(b"Transfer-Encoding: chunked, chunked"), 400),
    "chunked twice": (head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "chunked, gzip": (head(b"Transfer-Encoding: chunked, gzip"), 400),
    "chunked,": (head(b"Transfer-Encoding: chunked,"), 400),
    ", chunked": (head(b"Transfer-Encoding: , chunked"), 400),
    "chunked;q=1": (head(b"Transfer-Encoding: chunked;q=1"), 400),
    "quoted chunked": (head(b'Transfer-Encoding: "chunked"'), 400),
    "coding with a tab": (head(b"Transfer-Encoding: \x0bchunked"), 400),
    "empty coding": (head(b"Transfer-Encoding:"), 400),
    "chunked in 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "two lengths": (head(b"Content-Length: 1", b"Content-Length: 2"), 400),
    "two equal lengths": (head(b"Content-Length: 1", b"Content-Length: 1"), 400),
    **{
        f"length {value!r}": (head(b"Content-Length: " + value), 400)
        for value in (b"1, 1", b"+5", b"-1", b"1_0", b"1 0", b"0x1", b"", b"5;", b"\xb2", b"9" * 20, b"9" * 400, b"1.0")
    },
    "two hosts": (head(b"Host: a"), 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    **{
        f"host {value!r}": (b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n", 400)
        for value in (b"a b", b"a, b", b"a/b", b"u@a", b"\xe9", b"a?b")
    },
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF in a field": (head(b"A: b\nC: d"), 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare CR in a field": (head(b"A: b\rC: d"), 400),
    "bare CR before CRLF": (head(b"A: b\r"), 400),
    "bare CR in a name": (head(b"A\r: b"), 400),
    "bare CR in the target": (b"GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space before the colon": (head(b"A : b"), 400),
    "tab before the colon": (head(b"A\t: b"), 400),
    "obs-fold": (head(b"A: b", b" c"), 400),
    "obs-fold, tab": (head(b"A: b", b"\tc"), 400),
    "obs-fold of nothing": (head(b"A:", b" c"), 400),
    "obs-fold first": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "obs-fold of a length": (head(b"Content-Length:", b" 5"), 400),
    **{
        f"{value!r} in a value": (head(b"A: b" + value), 400) for value in (b"\0", b"\x01", b"\x0b", b"\x1f", b"\x7f")
    },
    "no name": (head(b": b"), 400),
    "no colon": (head(b"A"), 400),
    **{
        f"{value!r} in a name": (head(b"A" + value + b"B: b"), 400)
        for value in (b"(", b'"', b"/", b"\0", b"\xe9", b"@")
    },
    **{
        f"target {value!r}": (b"GET " + value + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400)
        for value in (b"/a b", b"/\t", b"/\0", b"/\x7f", b"/#a", b"*", b"a", b"", b"ftp://a/", b"http://", b"http:///x",
                      b"http://u@a/", b"http:/a", b"a:80", b"?a", b"http://a\xe9/")
    },
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab for a space": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space at the end": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "space first": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no method": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bad method": (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two empty lines": (b"\r\n\r\n" + GET, 400),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "HTTP/0.9 by name": (b"GET / HTTP/0.9\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n", 505),
    "HTTP/2.0": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/11": (b"GET / HTTP/11\r\n", 400),
    "http/1.1": (b"GET / http/1.1\r\n", 400),
    "HTTP/1.2, then a control character": (b"GET / HTTP/1.2\r\nA: \0\r\n\r\n", 505),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
    "CONNECT, then a control character": (b"CONNECT a:443 HTTP/1.1\r\nA: \0\r\n\r\n", 501),
    "a control character, then HTTP/1.2": (b"GET /\0 HTTP/1.2\r\n\r\n", 400),
    "expect": (head(b"Expect: 200-ok", b"Content-Length: 1"), 417),
    "expect two": (head(b"Expect: 100-continue, x", b"Content-Length: 1"), 417),
    "TLS": (bytes.fromhex("160301008b01000087"), 400),
    "FastCGI": (bytes.fromhex("0101000100080000"), 400),
    "SCGI": (b"24:CONTENT_LENGTH\x000\x00SCGI\x001\x00,", 400),
    "uwsgi": (bytes.fromhex("0012000005484f5354"), 400),
}  # fmt: skip

REFUSED_CHUNKS: dict[str, bytes] = {
    "LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "LF after the last size": b"0\n\r\n",
    "LF at the end": b"0\r\n\n",
    "LFs at the end": b"0\n\n",
    "LF after an extension": b"5;a\nhello\r\n0\r\n\r\n",
    "LF in quotes": b'5;a="\n"\r\nhello\r\n0\r\n\r\n',
    "CRLF in quotes": b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n',
    "CR after the size": b"5\rhello\r\n0\r\n\r\n",
    "CR CR LF": b"5\r\r\nhello\r\n0\r\n\r\n",
    "CR for LF": b"5\r\rhello\r\n0\r\n\r\n",
    "CR after the data": b"5\r\nhello\r0\r\n\r\n",
    "CR at the end": b"0\r\n\rX",
    "CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;\0\r\n",
    "no line end after the data": b"5\r\nhelloX\n0\r\n\r\n",
    "too much data": b"4\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello",
    "hex prefix": b"0x5\r\n",
    "sign": b"+5\r\n",
    "minus": b"-5\r\n",
    "underscore": b"1_0\r\n",
    "space after the size": b"5 \r\n",
    "space before the size": b" 5\r\n",
    "overflow": b"10000000000000000\r\n",
    "trailer with LF": b"0\r\nA: b\n\r\n",
    "trailer folded": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nA : b\r\n\r\n",
    "trailer with a control character": b"0\r\nA: \x01\r\n\r\n",
    "trailer Content-Length": b"0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_at_every_split(data: bytes, status: int) -> None:
    for pieces in splits(data):
        events, error, codec = run([GET, *pieces])
        assert isinstance(error, MalformedMessage), pieces
        assert (events, error.status_hint) == ([request(), EndOfBody(1)], status), pieces
        assert (codec.error_stream, codec.buffered, codec.closing) == (2, 0, False)
    assert run([GET + data])[0] == [request(), EndOfBody(1)]  # what was whole before the error comes with it


@pytest.mark.parametrize("data", REFUSED_CHUNKS.values(), ids=REFUSED_CHUNKS.keys())
def test_chunks_refused_at_every_split(data: bytes) -> None:
    for pieces in splits(data):
        events, error, codec = run([CHUNKED, *pieces])
        assert isinstance(error, MalformedMessage), pieces
        assert error.status_hint == 400
        assert events[0] == request(method="POST", length=-1)
        assert not any(isinstance(event, EndOfBody) for event in events)
        assert codec.error_stream == 1


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_refused_request_is_answered(method: bytes) -> None:
    _, error, codec = run([method + b" / HTTP/1.1\r\n\r\n"])
    assert error is not None
    answer = codec.send(ResponseHead(codec.error_stream, "400 Bad Request", [], b"no", end=True))
    content = b"" if method == b"HEAD" else b"no"
    assert answer == b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n" + content
    assert codec.closing
    with pytest.raises(LocalProtocolError):
        codec.send(ResponseHead(codec.error_stream, "400 Bad Request"))


def test_the_tls_hint() -> None:
    for data in (b"\x16", b"\x16\x03\x01\r\n\r\n"):
        with pytest.raises(MalformedMessage, match="plain HTTP"):
            HTTP1Codec().feed(data)


def test_a_refused_request_is_answered_in_turn() -> None:
    _, error, codec = run([GET + b"\0"])
    assert error is not None
    with pytest.raises(LocalProtocolError):
        codec.send(ResponseHead(2, "400 Bad Request", end=True))
    assert b"Connection" not in codec.send(ResponseHead(1, "200 OK", end=True))
    assert not codec.closing
    assert b"Connection: close" in codec.send(ResponseHead(2, "400 Bad Request", end=True))
    assert codec.closing


def test_a_broken_body_behind_an_answer_closes() -> None:
    codec = HTTP1Codec()
    codec.feed(CHUNKED)
    codec.send(ResponseHead(1, "200 OK", end=True))
    assert not codec.closing
    with pytest.raises(MalformedMessage):
        codec.feed(b"x\r\n")
    assert (codec.closing, codec.error_stream) == (True, 0)


def test_a_head_that_does_not_come_in_time_is_answered() -> None:
    codec = HTTP1Codec()
    with pytest.raises(LocalProtocolError):
        codec.send(ResponseHead(1, "408 Request Timeout", end=True))
    codec.feed(b"GET / HT")
    assert b"Connection: close" in codec.send(ResponseHead(1, "408 Request Timeout", end=True))
    assert (codec.closing, codec.feed(GET)) == (True, [])


LIMITS: Final = Limits(params_bytes=100, params_count=3, body_bytes=10)
LIMITED: dict[str, tuple[bytes, str, int]] = {
    "endless target": (b"GET /" + b"a" * 200, "request head", 414),
    "endless value": (b"GET / HTTP/1.1\r\nHost: " + b"a" * 200, "request head", 431),
    "endless spaces": (b"GET / HTTP/1.1\r\nHost:" + b" " * 200, "request head", 431),
    "long head": (b"GET / HTTP/1.1\r\nHost: " + b"a" * 75 + b"\r\n\r\n", "request head", 431),
    "fields": (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC:\r\nD:\r\n\r\n", "number of fields", 431),
    "length": (POST + b"Content-Length: 11\r\n\r\n", "request body", 413),
    "chunks": (CHUNKED + b"6\r\n123456\r\n5\r\n12345\r\n0\r\n\r\n", "request body", 413),
    "extension": (CHUNKED + b"1;" + b"a" * 200, "chunk sizes and trailers", 431),
    "extensions": (CHUNKED + (b"1;" + b"a" * 49 + b"\r\nx\r\n") * 4, "chunk sizes and trailers", 431),
    "trailer": (CHUNKED + b"0\r\nA: " + b"a" * 200, "chunk sizes and trailers", 431),
    "trailers": (CHUNKED + b"0\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", "number of trailers", 431),
    "zeros": (CHUNKED + b"0" * 200, "chunk sizes and trailers", 431),
}  # fmt: skip


@pytest.mark.parametrize(("data", "limit", "status"), LIMITED.values(), ids=LIMITED.keys())
def test_limits_at_every_split(data: bytes, limit: str, status: int) -> None:
    for pieces in splits(data):
        _, error, codec = run(pieces, LIMITS)
        assert isinstance(error, LimitExceeded)
        assert (error.limit, error.status_hint, codec.buffered) == (limit, status, 0)
        assert error.value > error.maximum


def test_a_control_character_among_too_many_fields_at_every_split() -> None:
    for pieces in splits(b"GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\nC:\r\nD:\r\nE:\r\n\r\n"):
        _, error, _ = run(pieces, LIMITS)
        assert isinstance(error, MalformedMessage)
        assert error.status_hint == 400


def test_at_the_limits() -> None:
    body = b"6\r\n123456\r\n" + b"1;ext\r\nx\r\n" * 4 + b"0\r\nA: b\r\nC: d\r\n\r\n"
    whole = b"POST / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 23 + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    longest = whole.replace(b"A: ", b"A: " + b"a" * (100 - len(whole)))
    for pieces in splits(longest + body + POST + b"Content-Length: 10\r\n\r\n0123456789"):
        events, error, _ = run(pieces, LIMITS)
        assert error is None
        assert [event.data for event in events if isinstance(event, Body)] == [b"123456xxxx", b"0123456789"]


def test_what_is_held_of_endless_bytes() -> None:
    for first in (b"GET /", b"GET / HTTP/1.1\r\nA: ", b"GET / HTTP/1.1\r\n", CHUNKED + b"1;", CHUNKED + b"0\r\nA:"):
        codec = HTTP1Codec(LIMITS._replace(params_bytes=1_000))
        codec.feed(first)
        fed = 0
        error = None
        while error is None and fed < 2_000:
            fed += 1
            try:
                codec.feed(b"a")
            except LimitExceeded as exceeded:
                error = exceeded
            assert codec.buffered <= 1_000
        assert error is not None
        assert (fed <= 1_100, codec.buffered) == (True, 0)


def test_no_body_limit_by_default() -> None:
    codec = HTTP1Codec()
    codec.feed(POST + b"Content-Length: 999999999999999\r\n\r\n")
    for _ in range(8):
        assert codec.feed(b"x" * 65_536) == [Body(1, b"x" * 65_536)]


# -- responses ----------------------------------------------------------------------------------------------------

HEAD_REQUEST: Final = b"HEAD" + GET[3:]
OLD: Final = b"GET / HTTP/1.0\r\n\r\n"
OLD_KEPT: Final = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
CLOSE: Final = GET[:-2] + b"Connection: close\r\n\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\n"
CLOSED: Final = b"Connection: close\r\n"
LENGTH_3: Final = ("Content-Length", "3")

X_17: Final = b"x" * 17

RESPONSES: dict[str, tuple[bytes, list[Event], bytes, bool]] = {
    "one block": (
        GET, [ResponseHead(1, "200 OK", [("A", "b: \xe9")], b"hi", end=True)],
        OK + b"A: b: \xe9\r\nContent-Length: 2\r\n\r\nhi", False,
    ),
    "empty": (
        GET, [ResponseHead(1, "404 Not Found", end=True)],
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", False,
    ),
    "status without a reason": (
        GET, [ResponseHead(1, "299", end=True)], b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n", False,
    ),
    "chunked": (
        GET,
        [ResponseHead(1, "200 OK", [], b"ab"), Body(1, b""), ErrorOutput(1, b"!"), Body(1, X_17), EndOfResponse(1)],
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n", False,
    ),
    "length": (
        GET, [ResponseHead(1, "200 OK", [LENGTH_3]), Body(1, b"ab"), Body(1, b"c"), EndOfResponse(1)],
        OK + b"Content-Length: 3\r\n\r\nabc", False,
    ),
    "too short": (
        GET, [ResponseHead(1, "200 OK", [LENGTH_3], b"ab", end=True)], OK + b"Content-Length: 3\r\n\r\nab", True,
    ),
    "close": (
        CLOSE, [ResponseHead(1, "200 OK", [], b"ab"), EndOfResponse(1)],
        OK + b"Transfer-Encoding: chunked\r\n" + CLOSED + b"\r\n2\r\nab\r\n0\r\n\r\n", True,
    ),
    "1.0": (
        OLD, [ResponseHead(1, "200 OK", [], b"ab"), Body(1, b"c"), EndOfResponse(1)], OK + CLOSED + b"\r\nabc", True,
    ),
    "1.0 kept": (
        OLD_KEPT, [ResponseHead(1, "200 OK", [LENGTH_3], b"abc"), EndOfResponse(1)],
        OK + b"Content-Length: 3\r\nConnection: keep-alive\r\n\r\nabc", False,
    ),
    "1.0 kept, no length": (
        OLD_KEPT, [ResponseHead(1, "200 OK", [], b"ab"), EndOfResponse(1)], OK + CLOSED + b"\r\nab", True,
    ),
    "HEAD": (HEAD_REQUEST, [ResponseHead(1, "200 OK"), Body(1, b"abc"), EndOfResponse(1)], OK + b"\r\n", False),
    "HEAD, length": (
        HEAD_REQUEST, [ResponseHead(1, "200 OK", [LENGTH_3], end=True)], OK + b"Content-Length: 3\r\n\r\n", False,
    ),
    "HEAD, one block": (
        HEAD_REQUEST, [ResponseHead(1, "200 OK", [], b"abc", end=True)], OK + b"Content-Length: 3\r\n\r\n", False,
    ),
    "HEAD, empty": (HEAD_REQUEST, [ResponseHead(1, "200 OK", end=True)], OK + b"\r\n", False),
    "204": (
        GET, [ResponseHead(1, "204 No Content", [("content-length", "0")], b"abc"), Body(1, b"x"), EndOfResponse(1)],
        b"HTTP/1.1 204 No Content\r\n\r\n", False,
    ),
    "304": (
        GET, [ResponseHead(1, "304 Not Modified", [LENGTH_3], b"abc", end=True)],
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", False,
    ),
    "304, one block": (
        GET, [ResponseHead(1, "304 Not Modified", [], b"abc", end=True)], b"HTTP/1.1 304 Not Modified\r\n\r\n", False,
    ),
    "103, then 200": (
        GET, [ResponseHead(1, "103 Early Hints", [("Link", "x"), LENGTH_3], b"x"), ResponseHead(1, "200 OK", end=True)],
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", False,
    ),
    "103 to 1.0": (
        OLD, [ResponseHead(1, "103 Early Hints"), ResponseHead(1, "200 OK", end=True)],
        OK + b"Content-Length: 0\r\n" + CLOSED + b"\r\n", True,
    ),
    "pipelined": (
        GET + CLOSE, [ResponseHead(1, "200 OK", end=True), ResponseHead(2, "200 OK", end=True)],
        OK + b"Content-Length: 0\r\n\r\n" + OK + b"Content-Length: 0\r\n" + CLOSED + b"\r\n", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "events", "wire", "closing"), RESPONSES.values(), ids=RESPONSES.keys())
def test_responses(data: bytes, events: list[Event], wire: bytes, closing: bool) -> None:
    codec = HTTP1Codec()
    codec.feed(data)
    assert b"".join(map(codec.send, events)) == wire
    assert (codec.closing, codec.raw_size) == (closing, 0)
    assert bool(codec.feed(GET)) is not closing


@pytest.mark.parametrize(("data", "events", "wire", "closing"), RESPONSES.values(), ids=RESPONSES.keys())
def test_responses_in_pieces(data: bytes, events: list[Event], wire: bytes, closing: bool) -> None:
    codec = HTTP1Codec()
    codec.feed(data)
    got = b""
    for event in events:
        if isinstance(event, ResponseHead):
            parts = codec.head_parts(event)
            assert not parts[0] or bytes(parts[0]).endswith(b"\r\n\r\n"), "a head"
            got += b"".join(parts)
        elif isinstance(event, Body):
            got += b"".join(codec.body_parts(event.stream, event.data))
        else:
            got += codec.send(event)
    assert got == wire
    assert codec.closing is closing


def test_the_block_behind_a_head_is_not_copied() -> None:
    codec = HTTP1Codec()
    codec.feed(GET)
    block = b"x" * 100_000
    assert codec.head_parts(ResponseHead(1, "200 OK", [], block, end=True))[1] is block
    with pytest.raises(LocalProtocolError, match="request 1 is not the one to answer"):
        codec.head_parts(ResponseHead(1, "200 OK", [], block, end=True))


@pytest.mark.parametrize(
    ("data", "fields", "raw"),
    [
        (GET, [], False),
        (GET, [LENGTH_3], True),
        (OLD, [], True),
        (OLD, [LENGTH_3], True),
        (HEAD_REQUEST, [LENGTH_3], False),
        (HEAD_REQUEST, [], False),
    ],
)
def test_raw_size(data: bytes, fields: list[tuple[str, str]], raw: bool) -> None:
    codec = HTTP1Codec()
    codec.feed(data)
    assert not codec.raw_size
    codec.send(ResponseHead(1, "200 OK", fields))
    assert bool(codec.raw_size) is raw
    codec.send(EndOfResponse(1))
    assert not codec.raw_size


def test_bytes_sent_past_the_codec_count() -> None:
    codec = HTTP1Codec()
    codec.feed(GET)
    codec.send(ResponseHead(1, "200 OK", [LENGTH_3], b"a"))
    assert codec.send(RawBody(1, 2)) == b""
    with pytest.raises(LocalProtocolError):
        codec.send(RawBody(1, 1))
    codec.send(EndOfResponse(1))
    assert not codec.closing


@pytest.mark.parametrize(
    "field",
    [
        ("A", "b\r\nC: d"), ("A", "b\n"), ("A", "b\r"), ("A", "\0"), ("A", "\u0100"), ("A\r\nB", "c"), ("A:", "b"),
        ("", "b"), ("A ", "b"), ("\xe9", "b"), ("Connection", "close"), ("keep-alive", "x"),
        ("Transfer-Encoding", "chunked"), ("TE", "x"), ("Trailer", "x"), ("Upgrade", "x"),
        ("Proxy-Connection", "x"), ("Content-Length", "+1"), ("Content-Length", ""),
        ("Content-Length", "\xb2"), ("Content-Length", "1, 1"),
    ],
)  # fmt: skip
def test_fields_that_may_not_be_sent(field: tuple[str, str]) -> None:
    codec = HTTP1Codec()
    codec.feed(GET)
    with pytest.raises(LocalProtocolError):
        codec.send(ResponseHead(1, "200 OK", [field], end=True))
    # Nothing of it went out, so the server can still say that it failed.
    assert codec.send(ResponseHead(1, "500 Oops", end=True)) == b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "events",
    [
        [ResponseHead(2, "200 OK")],
        [ResponseHead(0, "200 OK")],
        [Body(1, b"x")],
        [EndOfResponse(1)],
        [Continue(2)],
        [ResponseHead(1, "200 OK"), ResponseHead(1, "200 OK")],
        [ResponseHead(1, "200 OK"), Body(2, b"x")],
        [ResponseHead(1, "200 OK"), RawBody(1, 1)],
        [RawBody(1, 1)],
        [ResponseHead(1, "200 OK"), EndOfResponse(1), Body(1, b"x")],
        [ResponseHead(1, "200 OK", [LENGTH_3, LENGTH_3])],
        [ResponseHead(1, "200 OK", [LENGTH_3], b"abcd")],
        [ResponseHead(1, "200 OK", [LENGTH_3], b"abc"), Body(1, b"d")],
        [ResponseHead(1, "200 OK\r\nA: b")],
        [ResponseHead(1, "200 OK\n")],
        [ResponseHead(1, "OK")],
        [ResponseHead(1, "20")],
        [ResponseHead(1, "200OK")],
        [ResponseHead(1, "")],
        [ResponseHead(1, "101 Switching Protocols")],
        [ResponseHead(1, "103 Early Hints", end=True)],
        [ResponseHead(1, "103 Early Hints"), Body(1, b"x")],
        [Request(1, {})],
        [Abort(1)],
        [Closed()],
    ],
    ids=repr,
)
def test_events_that_may_not_be_sent(events: list[Event]) -> None:
    codec = HTTP1Codec()
    codec.feed(GET)
    for event in events[:-1]:
        codec.send(event)
    with pytest.raises(LocalProtocolError):
        codec.send(events[-1])


EXPECTING: Final = POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_continue_is_sent_once() -> None:
    codec = HTTP1Codec()
    codec.feed(EXPECTING)
    assert [codec.send(Continue(1)) for _ in range(2)] == [CONTINUE, b""]
    codec.feed(b"ab")
    assert b"Connection" not in codec.send(ResponseHead(1, "200 OK", end=True))
    assert (codec.closing, codec.send(Continue(1))) == (False, b"")


def test_continue_by_status() -> None:
    codec = HTTP1Codec()
    codec.feed(EXPECTING)
    assert codec.send(ResponseHead(1, "100 Continue")) == CONTINUE
    assert codec.send(Continue(1)) == b""


@pytest.mark.parametrize("data", [GET, OLD, EXPECTING + b"ab", POST + b"Content-Length: 2\r\n\r\n"])
def test_continue_that_nobody_waits_for(data: bytes) -> None:
    codec = HTTP1Codec()
    codec.feed(data)
    assert codec.send(Continue(1)) == b""


def test_no_continue_means_close() -> None:
    codec = HTTP1Codec()
    codec.feed(EXPECTING)
    assert b"Connection: close" in codec.send(ResponseHead(1, "200 OK"))
    assert codec.send(Continue(1)) == b""
    assert codec.feed(b"ab" + GET) == [Body(1, b"ab"), EndOfBody(1)]  # the client may have sent it all the same
    codec.send(EndOfResponse(1))
    assert codec.closing


def test_body_without_continue_is_kept() -> None:
    codec = HTTP1Codec()
    codec.feed(EXPECTING + b"ab")
    assert b"Connection" not in codec.send(ResponseHead(1, "200 OK", end=True))
    assert not codec.closing


@pytest.mark.parametrize("data", [GET, GET + GET, POST + b"Content-Length: 4\r\n\r\na"])
def test_the_last_response(data: bytes) -> None:
    """It says so, and what was read or comes behind its request is not answered."""
    codec = HTTP1Codec()
    codec.last()  # there is nothing to answer
    codec.feed(data)
    codec.last()
    assert b"Connection: close" in codec.send(ResponseHead(1, "504 Gateway Timeout", end=True))
    assert codec.closing
    assert not [event for event in codec.feed(b"bcd" + GET) if isinstance(event, Request)]
    with pytest.raises(LocalProtocolError):
        codec.send(ResponseHead(2, "200 OK", end=True))


@pytest.mark.parametrize("kept", [True, False])
def test_an_unread_body_is_drained(kept: bool) -> None:
    codec = HTTP1Codec()
    codec.feed((POST if kept else POST + b"Connection: close\r\n") + b"Content-Length: 4\r\n\r\na")
    codec.send(ResponseHead(1, "200 OK", end=True))
    assert codec.closing is not kept
    assert codec.feed(b"bc") == [Body(1, b"bc")]
    following: list[Event] = [request(2), EndOfBody(2)] if kept else []
    assert codec.feed(b"d" + GET) == [Body(1, b"d"), EndOfBody(1), *following]


def test_the_end_of_file_closes_after_the_answer() -> None:
    codec = HTTP1Codec()
    codec.feed(GET)
    assert codec.feed_eof() == [Closed()]
    assert not codec.closing
    assert CLOSED in codec.send(ResponseHead(1, "200 OK", end=True))
    assert codec.closing


# -- properties ---------------------------------------------------------------------------------------------------

FRAGMENTS: Final = [
    GET, CHUNKED, b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n", b"HEAD /a HTTP/1.0\r\n", b"Host: a\r\n",
    b"Content-Length: 3\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: x\r\n", b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n",
    b"\n", b"\r", b" ", b":", b";a=b", b"Connection: close\r\n", b"X: y\r\n",
    b"\0", b"\xff", b"Host: ", b"http://a/",
]  # fmt: skip
noise = st.binary(max_size=60) | st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=14).map(b"".join)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[first:second] for first, second in pairwise(places)]


@settings(max_examples=3 * settings().max_examples // 2)
@given(noise, st.lists(st.integers(0, 10_000), max_size=5))
def test_any_bytes_give_events_or_a_remote_error_at_any_split(data: bytes, cuts: list[int]) -> None:
    small = Limits(params_bytes=80, params_count=4, body_bytes=8)
    events, error, codec = run([data], small)
    pieces = cut(data, cuts)
    assert run(pieces, small)[0] == events
    for other in (run(pieces, small)[1], run([data[at : at + 1] for at in range(len(data))], small)[1]):
        assert (other is None) == (error is None)
    try:
        assert codec.feed_eof() == [Closed()]
    except TruncatedMessage:
        assert error is None


names = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-.!", min_size=1, max_size=8).map("X-".__add__)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=12)
bodies = st.none() | st.binary(max_size=40) | st.lists(st.binary(min_size=1, max_size=40), max_size=4)


@given(
    st.lists(
        st.tuples(
            st.text("ABCGETPOSTabc!#$%&'*+-.^_`|~", min_size=1, max_size=6),
            st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="#\x7f"), max_size=10),
            st.dictionaries(names, values, max_size=4),
            bodies,
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_requests_round_trip(
    requests: list[tuple[str, str, dict[str, str], bytes | list[bytes] | None]],
    cuts: list[int],
) -> None:
    wire = b""
    expected: list[Event] = []
    for stream, (method, rest, fields, body) in enumerate(requests, 1):
        wire += f"{method} /{rest} HTTP/1.1\r\nHost: a\r\n".encode("latin-1")
        wire += "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1")
        params: dict[str, str] = {}
        for name, value in fields.items():
            key = "HTTP_" + name.upper().replace("-", "_")
            params[key] = params[key] + ", " + value.strip(" ") if key in params else value.strip(" ")
        content = b"".join(body) if isinstance(body, list) else body
        if isinstance(body, list):
            wire += b"Transfer-Encoding: chunked\r\n\r\n"
            wire += b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in body) + b"0\r\n\r\n"
        elif body is not None:
            wire += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            params["CONTENT_LENGTH"] = str(len(body))
        else:
            wire += b"\r\n"
        length = -1 if isinstance(body, list) else len(body or b"")
        if method == "CONNECT":  # only this one means something else
            return
        one = request(stream, method, "/" + rest, length=length)
        one.params |= params
        expected.append(one)
        if content:
            expected.append(Body(stream, content))
        expected.append(EndOfBody(stream))
    events, error, _ = run(cut(wire, cuts))
    assert (events, error) == (expected, None)


@given(
    st.sampled_from([GET, HEAD_REQUEST, OLD, OLD_KEPT, CLOSE]),
    st.lists(st.binary(max_size=20), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_responses_are_framed_for_any_blocks(data: bytes, blocks: list[bytes], with_length: bool, end: bool) -> None:
    codec = HTTP1Codec()
    codec.feed(data)
    content = b"".join(blocks)
    fields = [("Content-Length", str(len(content)))] if with_length else []
    if end:
        wire = codec.send(ResponseHead(1, "200 OK", fields, content, end=True))
    else:
        wire = codec.send(ResponseHead(1, "200 OK", fields))
        wire += b"".join(codec.send(Body(1, block)) for block in blocks) + codec.send(EndOfResponse(1))
    first, _, rest = wire.partition(b"\r\n\r\n")
    assert codec.closing is (b"Connection: close" in first)
    if data == HEAD_REQUEST:
        assert rest == b""
    elif b"Content-Length" in first:
        assert (rest, b"Transfer-Encoding" in first) == (content, False)
    elif b"chunked" in first:
        assert data in (GET, CLOSE)
        client = HTTP1Codec()
        received = client.feed(CHUNKED + rest)
        assert b"".join(event.data for event in received if isinstance(event, Body)) == content
        assert received[-1] == EndOfBody(1)
    else:
        assert (rest, codec.closing) == (content, True)
