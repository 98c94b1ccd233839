"""What SCGI and uwsgi share, by way of SCGI; how each reads a head is told in its own tests."""

from __future__ import annotations

from collections.abc import Callable
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
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.single import SingleRequestCodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import Limits

BOTH: Final[list[Callable[[], Codec]]] = [SCGICodec, UWSGICodec]
FIVE: Final = b"17:CONTENT_LENGTH\x005\x00,"
NONE: Final = b"17:CONTENT_LENGTH\x000\x00,"
HEAD: Final = ResponseHead(1, "200 OK", [("Content-Type", "text/plain"), ("X", "\xe9")])


@pytest.mark.parametrize("make", BOTH)
def test_what_the_protocols_are(make: Callable[[], Codec]) -> None:
    codec = make()
    assert not codec.multiplexed
    assert codec.raw_size > 1 << 20
    assert not codec.closing
    assert codec.buffered == 0
    assert codec.error_stream == 1
    assert codec.data_to_send() == b""
    assert codec.feed(b"") == []
    assert codec.feed_eof() == [Closed()]


def test_the_names() -> None:
    assert (SCGICodec().protocol, UWSGICodec().protocol) == ("scgi", "uwsgi")


def test_reading_a_head_is_left_to_the_protocol() -> None:
    with pytest.raises(NotImplementedError):
        SingleRequestCodec().feed(b"x")


def test_the_body_comes_as_it_arrives() -> None:
    codec = SCGICodec()
    request = Request(1, {"CONTENT_LENGTH": "5"}, 5)
    assert codec.feed(FIVE + b"ab") == [request, Body(1, b"ab")]
    assert codec.feed(b"") == []
    assert codec.feed(b"c") == [Body(1, b"c")]
    assert codec.buffered == 0
    assert codec.feed(b"defgh") == [Body(1, b"de"), EndOfBody(1)]
    assert codec.feed(b"ijk") == []
    assert codec.buffered == 0
    assert codec.feed_eof() == [Closed()]


def test_a_head_in_pieces() -> None:
    codec = SCGICodec()
    for number in range(len(NONE) - 1):
        assert codec.feed(NONE[number : number + 1]) == []
        assert codec.buffered == number + 1
    assert codec.feed(b",") == [Request(1, {"CONTENT_LENGTH": "0"}, 0), EndOfBody(1)]
    assert codec.buffered == 0


def test_the_end_follows_at_once_where_no_body_comes() -> None:
    assert SCGICodec().feed(NONE + b"more") == [Request(1, {"CONTENT_LENGTH": "0"}, 0), EndOfBody(1)]


def test_no_length_is_a_length_of_nothing() -> None:
    assert SCGICodec().feed(b"3:A\0\0,") == [Request(1, {"A": ""}, 0), EndOfBody(1)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FIVE[:1], "within the request head"),
        (FIVE[:-1], "within the request head"),
        (FIVE, "5 bytes before the end of the body"),
        (FIVE + b"abcd", "1 bytes before the end of the body"),
    ],
)
def test_truncated(data: bytes, message: str) -> None:
    codec = SCGICodec()
    codec.feed(data)
    with pytest.raises(TruncatedMessage, match=message) as caught:
        codec.feed_eof()
    assert caught.value.events == ()
    assert codec.feed(b"more") == []
    assert codec.feed_eof() == [Closed()]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"x", MalformedMessage),
        (b"9999999:", LimitExceeded),
        (b"4:A\0b\0;", MalformedMessage),
        (b"18:CONTENT_LENGTH\0+5\0,", MalformedMessage),
        (b"18:CONTENT_LENGTH\x0011\0,", LimitExceeded),
    ],
)
def test_dead_after_an_error_but_it_still_answers(data: bytes, error: type[RemoteProtocolError]) -> None:
    codec = SCGICodec(Limits(body_bytes=10))
    with pytest.raises(error):
        codec.feed(data)
    assert codec.buffered == 0
    assert codec.feed(FIVE + b"12345") == []
    assert codec.feed_eof() == [Closed()]
    assert not codec.closing
    assert (
        codec.send(ResponseHead(1, "400 Bad Request", [], b"no\n", end=True)) == b"Status: 400 Bad Request\r\n\r\nno\n"
    )
    assert codec.closing


def test_as_much_body_as_the_limit() -> None:
    codec = SCGICodec(Limits(body_bytes=5))
    assert codec.feed(FIVE + b"12345")[1:] == [Body(1, b"12345"), EndOfBody(1)]
    with pytest.raises(LimitExceeded) as caught:
        SCGICodec(Limits(body_bytes=4)).feed(FIVE)
    error = caught.value
    assert (error.limit, error.value, error.maximum, error.status_hint) == ("request body", 5, 4, 413)


LINES = {
    "status and fields": (HEAD, b"200 OK\r\nContent-Type: text/plain\r\nX: \xe9\r\n\r\n"),
    "with content": (ResponseHead(1, "404 Not Found", [], b"no"), b"404 Not Found\r\n\r\nno"),
    "fields in their order, repeated": (
        ResponseHead(1, "200 OK", [("Set-Cookie", "a=1"), ("A", ""), ("Set-Cookie", "b=2")]),
        b"200 OK\r\nSet-Cookie: a=1\r\nA: \r\nSet-Cookie: b=2\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_response_heads(name: str) -> None:
    head, data = LINES[name]
    for make, first in ((SCGICodec, b"Status: "), (UWSGICodec, b"HTTP/1.1 ")):
        codec = make()
        assert codec.send(head) == first + data
        assert not codec.closing


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("end", [False, True])
def test_a_response_in_pieces(make: Callable[[], Codec], end: bool) -> None:
    """The bytes of ``send``, the head first; the block is not copied."""
    one = make()
    other = make()
    block = b"\0" * 70_000
    head = ResponseHead(1, "200 OK", [("A", "b")], block, end)
    parts = other.head_parts(head)
    assert bytes(parts[0]).endswith(b" 200 OK\r\nA: b\r\n\r\n")
    assert parts[1] is block
    assert b"".join(parts) == one.send(head)
    assert other.closing is end
    assert other.body(1, block) is block
    assert other.body_parts(1, block)[0] is block
    assert other.send(EndOfResponse(1)) == b""
    assert other.closing


@pytest.mark.parametrize("make", BOTH)
def test_a_response_closes(make: Callable[[], Codec]) -> None:
    codec = make()
    codec.send(HEAD)
    assert codec.send(Body(1, b"\0" * 70_000)) == b"\0" * 70_000
    assert not codec.closing
    assert codec.send(EndOfResponse(1, 3)) == b""
    assert codec.closing


@pytest.mark.parametrize("make", BOTH)
def test_a_response_in_one_event_closes(make: Callable[[], Codec]) -> None:
    codec = make()
    assert codec.send(ResponseHead(1, "204 No Content", [], end=True)).endswith(b"204 No Content\r\n\r\n")
    assert codec.closing


@pytest.mark.parametrize(
    "event",
    [
        Continue(1),
        RawBody(1, 5),
        ErrorOutput(1, b"x"),
        EndOfBody(1),
        Abort(1),
        Closed(),
        Refused(1, TruncatedMessage("", "")),
    ],
)
def test_events_that_have_no_form_here(event: Event) -> None:
    for make in BOTH:
        codec = make()
        assert codec.send(event) == b""
        assert not codec.closing


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize(
    "event",
    [
        Request(1, {}),
        ResponseHead(1, "200 OK\r\nX: y"),
        ResponseHead(1, "200 OK", [("A", "b\r\nSet-Cookie: c=d")]),
        ResponseHead(1, "200 OK", [("A", "b\nc")]),
        ResponseHead(1, "200 OK", [("A", "b\rc")]),
        ResponseHead(1, "200 OK", [("A\0", "b")]),
        ResponseHead(1, "200 OK", [("A", "٣")]),
    ],
)
def test_what_our_caller_must_not_send(make: Callable[[], Codec], event: Event) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        make().send(event)
    assert caught.value.status_hint == 500


TEXT = st.text(max_size=12)
EVENTS = st.one_of(
    st.builds(
        ResponseHead,
        st.integers(),
        TEXT,
        st.lists(st.tuples(TEXT, TEXT), max_size=3),
        st.binary(max_size=4),
        st.booleans(),
    ),
    st.builds(Body, st.integers(), st.binary(max_size=4)),
    st.builds(EndOfResponse, st.integers(), st.integers()),
    st.builds(Request, st.integers(), st.just({})),
    st.builds(ErrorOutput, st.integers(), st.binary(max_size=4)),
    st.builds(Continue, st.integers()),
)


@given(st.sampled_from(BOTH), st.lists(EVENTS, max_size=5))
def test_sending_fails_as_ours_alone(make: Callable[[], Codec], events: list[Event]) -> None:
    codec = make()
    for event in events:
        try:
            data = codec.send(event)
        except LocalProtocolError:
            continue
        if isinstance(event, ResponseHead):
            assert data.endswith(b"\r\n\r\n" + event.content)
            assert data[: len(data) - len(event.content)].count(b"\n") == 2 + len(event.headers)
