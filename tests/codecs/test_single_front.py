"""The web-server side of SCGI and uwsgi."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

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
from gateways.codecs.fronts import FRONT_CODECS
from gateways.codecs.single_front import SCGIFrontCodec, SingleFrontCodec, UWSGIFrontCodec
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import Limits
from tests.wire import Fault, feed, runs, truncations

BOTH = pytest.mark.parametrize("kind", [SCGIFrontCodec, UWSGIFrontCodec])
Kind = type[SCGIFrontCodec] | type[UWSGIFrontCodec]


def sent(kind: Kind, method: str = "GET", limits: Limits | None = None) -> Callable[[], SingleFrontCodec]:
    """Return a function that makes codecs whose request has been written."""

    def make() -> SingleFrontCodec:
        codec = kind(limits or Limits())
        codec.send(Request(1, {"REQUEST_METHOD": method}))
        return codec

    return make


# -- requests -----------------------------------------------------------------------------------------------------


def test_scgi_starts_with_its_length_and_its_mark() -> None:
    wire = SCGIFrontCodec().send(Request(1, {"A": "b", "CONTENT_LENGTH": "7", "C": ""}))
    assert wire == b"31:CONTENT_LENGTH\x007\0A\0b\0C\0\0SCGI\x001\0,"


@pytest.mark.parametrize(
    ("params", "length", "wire"),
    [
        ({}, -1, b"24:CONTENT_LENGTH\x000\0SCGI\x001\0,"),
        ({}, 5, b"24:CONTENT_LENGTH\x005\0SCGI\x001\0,"),
        ({"CONTENT_LENGTH": ""}, 5, b"23:CONTENT_LENGTH\0\0SCGI\x001\0,"),
        ({"SCGI": "2"}, -1, b"24:CONTENT_LENGTH\x000\0SCGI\x002\0,"),
    ],
)
def test_scgi_requests(params: dict[str, str], length: int, wire: bytes) -> None:
    before = dict(params)
    assert SCGIFrontCodec().send(Request(1, params, length)) == wire
    assert params == before


@pytest.mark.parametrize(
    ("params", "length", "wire"),
    [
        ({}, -1, b"\0\0\0\0"),
        ({"A": "bc"}, -1, b"\0\7\0\0\1\0A\2\0bc"),
        ({"A": "b"}, 5, b"\0\x19\0\0\1\0A\1\0b\x0e\0CONTENT_LENGTH\1\x005"),
    ],
)
def test_uwsgi_requests(params: dict[str, str], length: int, wire: bytes) -> None:
    assert UWSGIFrontCodec().send(Request(1, params, length)) == wire


def test_uwsgi_modifiers() -> None:
    assert UWSGIFrontCodec(modifier1=30, modifier2=7).send(Request(1, {"A": "b"})) == b"\x1e\6\0\7\1\0A\1\0b"
    for modifiers in ((256, 0), (0, -1)):
        with pytest.raises(LocalProtocolError, match="one byte"):
            UWSGIFrontCodec(modifier1=modifiers[0], modifier2=modifiers[1])


def test_the_largest_uwsgi_packet() -> None:
    wire = UWSGIFrontCodec().send(Request(1, {"A": "b" * 65_530}))
    assert wire[:4] == b"\0\xff\xff\0"
    with pytest.raises(LocalProtocolError, match="65535"):
        UWSGIFrontCodec().send(Request(1, {"A": "b" * 65_531}))


@BOTH
def test_a_body_is_as_long_as_it_said(kind: Kind) -> None:
    codec = kind()
    codec.send(Request(1, {"CONTENT_LENGTH": "5"}))
    assert codec.send(Body(1, b"abc")) == b"abc"
    with pytest.raises(LocalProtocolError, match="2 bytes before"):
        codec.send(EndOfBody(1))
    with pytest.raises(LocalProtocolError, match="longer"):
        codec.send(Body(1, b"def"))
    assert codec.send(Body(1, b"de")) == b"de"
    assert codec.send(EndOfBody(1)) == b""
    assert codec.active == 1


@BOTH
def test_a_length_that_is_none_goes_out_as_it_is(kind: Kind) -> None:
    codec = kind()
    assert b"-1" in codec.send(Request(1, {"CONTENT_LENGTH": "-1"}))
    assert codec.send(Body(1, b"abc")) == b"abc"
    assert codec.send(EndOfBody(1)) == b""


@BOTH
def test_what_cannot_be_sent(kind: Kind) -> None:
    for request in (Request(2, {}), Request(1, {}, role="authorizer"), Request(1, {"A": "€"})):
        with pytest.raises(LocalProtocolError):
            kind().send(request)
    codec = kind()
    with pytest.raises(LocalProtocolError, match="without a request"):
        codec.send(Body(1, b"a"))
    codec.send(Request(1, {}))
    with pytest.raises(LocalProtocolError, match="second"):
        codec.send(Request(1, {}))
    answers: list[Event] = [ResponseHead(1, "200 OK"), RawBody(1, 1), ErrorOutput(1, b"x"), EndOfResponse(1)]
    for event in answers:
        with pytest.raises(LocalProtocolError, match="no responses"):
            codec.send(event)
    assert codec.send(Continue(1)) == b""
    assert not codec.closing
    assert codec.send(Abort(1)) == b""
    assert codec.closing


@pytest.mark.parametrize("params", [{"A": "b\0"}, {"A\0": "b"}, {"": "b"}])
def test_scgi_has_no_nul_within_a_header(params: dict[str, str]) -> None:
    with pytest.raises(LocalProtocolError, match="NUL"):
        SCGIFrontCodec().send(Request(1, params))


# -- responses ----------------------------------------------------------------------------------------------------

OK = ResponseHead(1, "200 OK", [("A", "b")])
END: list[Event] = [EndOfResponse(1), Closed()]


def sized(length: int, status: str = "200 OK") -> ResponseHead:
    return ResponseHead(1, status, [("Content-Length", str(length))])


RESPONSES: dict[str, tuple[str, bytes, list[Event]]] = {
    "no body": ("GET", b"A: b\r\n\r\n", [OK, *END]),
    "until the end": ("GET", b"A: b\r\n\r\nhello\r\n\r\n", [OK, Body(1, b"hello\r\n\r\n"), *END]),
    "status line": ("GET", b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nx", [OK, Body(1, b"x"), *END]),
    "bare LF": ("GET", b"A: b\n\nx", [OK, Body(1, b"x"), *END]),
    "length": ("GET", b"Content-Length: 3\r\n\r\nabc", [sized(3), Body(1, b"abc"), *END]),
    "length 0": ("GET", b"Content-Length: 0\r\n\r\n", [sized(0), *END]),
    "HEAD": ("HEAD", b"Content-Length: 3\r\n\r\n", [sized(3), *END]),
    "HEAD with a body": ("HEAD", b"Content-Length: 3\r\n\r\nabc", [sized(3), Body(1, b"abc"), *END]),
    "304": ("GET", b"Status: 304\r\nContent-Length: 3\r\n\r\n", [sized(3, "304"), *END]),
}


@BOTH
@pytest.mark.parametrize("name", RESPONSES)
def test_responses(kind: Kind, name: str) -> None:
    method, wire, events = RESPONSES[name]
    outcome = runs(sent(kind, method), wire, eof=True)
    assert (outcome.events, outcome.fault, outcome.sent, outcome.closing) == (events, None, b"", True)


@BOTH
@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_that_is_cut_short(kind: Kind, name: str) -> None:
    method, wire, _ = RESPONSES[name]
    counted = b"Content-Length" in wire and method == "GET" and b"304" not in wire
    head = len(wire) if counted else (wire.find(b"\r\n\r\n") + 4 if b"\r" in wire else wire.find(b"\n\n") + 2)
    for at, outcome in truncations(sent(kind, method), wire):
        if at < head:
            assert outcome.fault == Fault(TruncatedMessage, 502, ""), at
        else:
            assert outcome.fault is None
            assert outcome.events[-2:] == END
        assert outcome.closing


MALFORMED: dict[str, tuple[bytes, list[Event]]] = {
    "not a header": (b"A: b\r\nnonsense\r\n\r\n", []),
    "empty head": (b"\r\n", []),
    "status": (b"Status: 1000\r\n\r\n", []),
    "length": (b"Content-Length: +3\r\n\r\nabc", []),
    "longer than it said": (b"Content-Length: 3\r\n\r\nabcd", [sized(3), Body(1, b"abc")]),
    "longer than nothing": (b"Content-Length: 0\r\n\r\nd", [sized(0)]),
}


@BOTH
@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("more", [b"", b"\r\nmore: x\r\n\r\n"])
def test_malformed_responses(kind: Kind, name: str, more: bytes) -> None:
    wire, events = MALFORMED[name]
    outcome = runs(sent(kind), wire + more)
    assert outcome.events == events
    assert outcome.fault == Fault(MalformedMessage, 502, "")
    assert outcome.closing


@BOTH
def test_a_head_past_the_limit(kind: Kind) -> None:
    make = sent(kind, limits=Limits(params_bytes=50))
    for wire in (b"A: " + b"x" * 43 + b"\r\n\r\n", b"A" * 60):
        outcome = runs(make, wire)
        assert outcome.fault == (Fault(LimitExceeded, 502, "") if len(wire) > 50 else None)
    assert runs(make, b"A: " + b"x" * 44 + b"\r\n\r\n").fault == Fault(LimitExceeded, 502, "")


@BOTH
def test_closed_before_anything(kind: Kind) -> None:
    assert kind().feed_eof() == [Closed()]
    outcome = feed(sent(kind)(), [], eof=True)
    assert outcome.fault is not None
    assert "without a response" in outcome.fault.words


@BOTH
def test_properties(kind: Kind) -> None:
    codec = kind()
    assert FRONT_CODECS[codec.protocol] is kind
    assert (codec.multiplexed, codec.raw_size, codec.error_stream, codec.active, codec.closing) == (
        False, 0, 0, 0, False,
    )  # fmt: skip
    codec.send(Request(1, {}))
    codec.feed(b"A: b")
    assert (codec.buffered, codec.active) == (4, 1)
    codec.feed(b"\r\nContent-Length: 1\r\n\r\n")
    assert (codec.buffered, codec.active, codec.complete) == (0, 1, False)
    codec.feed(b"x")
    assert (codec.active, codec.complete) == (1, True)
    codec.feed_eof()
    assert (codec.active, codec.closing) == (0, True)
    assert codec.feed(b"more") == []
    assert codec.feed_eof() == [Closed()]


# -- uwsgi's ping -------------------------------------------------------------------------------------------------


def pinged() -> UWSGIFrontCodec:
    codec = UWSGIFrontCodec()
    assert codec.ping() == b"\x64\0\0\0"
    return codec


def test_a_ping() -> None:
    for wire in (b"\x64\0\0\1", b"\x64\0\0\1more"):
        outcome = runs(pinged, wire)
        assert (outcome.events, outcome.fault, outcome.closing) == ([], None, True)
    codec = pinged()
    codec.feed(b"\x64\0\0")
    assert (codec.pong, codec.buffered, codec.active) == (False, 3, 1)
    codec.feed(b"\1")
    assert (codec.pong, codec.buffered, codec.active) == (True, 0, 0)
    assert codec.feed_eof() == [Closed()]
    with pytest.raises(LocalProtocolError):
        codec.ping()


def test_no_answer_to_a_ping() -> None:
    assert runs(pinged, b"\x64\0\0\0").fault == Fault(MalformedMessage, 502, "")
    assert runs(pinged, b"Status: 200 OK\r\n\r\n").fault == Fault(MalformedMessage, 502, "")
    for at, outcome in truncations(pinged, b"\x64\0\0\1"):
        assert outcome.fault == Fault(TruncatedMessage, 502, ""), at


@BOTH
@given(wire=st.lists(st.sampled_from([b"A: b", b"Status: 200", b"\r\n", b"\n", b"Content-Length: 2", b"x", b"\0"])))
def test_events_or_a_remote_error(kind: Kind, wire: list[bytes]) -> None:
    codec = sent(kind, limits=Limits(params_bytes=30))()
    try:
        for piece in wire:
            codec.feed(piece)
            assert codec.buffered <= 30
        codec.feed_eof()
    except RemoteProtocolError as error:
        assert error.status_hint == 502  # noqa: PT017  # nothing else may be raised
    runs(sent(kind), b"".join(wire), eof=True)
