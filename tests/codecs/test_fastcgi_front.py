"""The web-server side of FastCGI."""

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
from gateways.codecs.fastcgi_front import FastCGIFrontCodec
from gateways.codecs.fronts import FRONT_CODECS
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import Limits
from gateways.testing.framing.fastcgi_records import (
    NOISE_TO_FRONT,
    Record,
    add_noise,
    add_padding,
    encode_pairs as pairs,
    records,
    split_streams,
)
from tests.wire import Fault, RefusedFault, feed, runs, truncations

MALFORMED = Fault(MalformedMessage, 502, "")
TRUNCATED = Fault(TruncatedMessage, 502, "")


def out(content: bytes, number: int = 1) -> bytes:
    return bytes(Record(6, number, content))


def err(content: bytes, number: int = 1) -> bytes:
    return bytes(Record(7, number, content))


def end(number: int = 1, app_status: int = 0, protocol_status: int = 0) -> bytes:
    return bytes(Record(3, number, app_status.to_bytes(4, "big") + bytes((protocol_status, 0, 0, 0))))


def sent(
    *numbers: int, method: str = "GET", keep: bool = True, limits: Limits | None = None
) -> Callable[[], FastCGIFrontCodec]:
    """Return a function that makes codecs with requests of these ids."""

    def make() -> FastCGIFrontCodec:
        codec = FastCGIFrontCodec(limits or Limits())
        for number in numbers or (1,):
            codec.send(Request(number, {"REQUEST_METHOD": method}, keep=keep))
            codec.send(EndOfBody(number))
        return codec

    return make


# -- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "keep", "content"),
    [
        ("responder", False, b"\0\1\0"),
        ("responder", True, b"\0\1\1"),
        ("authorizer", True, b"\0\2\1"),
        ("filter", False, b"\0\3\0"),
        ("1", False, b"\0\1\0"),
        ("0", False, b"\0\0\0"),
        ("65535", True, b"\xff\xff\1"),
    ],
)
def test_a_request(role: str, keep: bool, content: bytes) -> None:
    wire = FastCGIFrontCodec().send(Request(0x1234, {"A": "b", "": ""}, role=role, keep=keep))
    assert records(wire) == [
        Record(1, 0x1234, content + bytes(5)),
        Record(4, 0x1234, b"\1\1Ab\0\0"),
        Record(4, 0x1234),
    ]


def test_a_request_without_parameters() -> None:
    assert FastCGIFrontCodec().send(Request(1, {})) == b"\1\1\0\1\0\x08\0\0\0\1\0\0\0\0\0\0" + b"\1\4\0\1\0\0\0\0"


@pytest.mark.parametrize("size", [127, 128, 65_525, 65_526, 65_527, 65_528, 200_000])
def test_long_parameters_straddle_records(size: int) -> None:
    wire = FastCGIFrontCodec().send(Request(1, {"NAME": "x" * size, "B": "c"}))
    found = records(wire)
    assert [each.kind for each in found] == [1] + [4] * (len(found) - 1)
    assert found[-1].content == b""
    assert all(each.content for each in found[:-1])
    assert b"".join(each.content for each in found[1:]) == pairs({"NAME": "x" * size, "B": "c"}.items())


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 200_000])
def test_a_body(size: int) -> None:
    codec = FastCGIFrontCodec()
    codec.send(Request(1, {}))
    assert codec.send(Body(1, b"")) == b""
    found = records(codec.send(Body(1, b"x" * size)))
    assert {(each.kind, each.stream) for each in found} == {(5, 1)}
    assert b"".join(each.content for each in found) == b"x" * size
    assert records(codec.send(EndOfBody(1))) == [Record(5, 1)]
    for event in (Body(1, b"x"), EndOfBody(1)):
        if isinstance(event, EndOfBody):
            assert codec.send(event) == b""
        else:
            with pytest.raises(LocalProtocolError, match="no more"):
                codec.send(event)


def test_an_authorizer_has_no_body() -> None:
    codec = FastCGIFrontCodec()
    codec.send(Request(1, {}, role="authorizer"))
    assert codec.send(EndOfBody(1)) == b""
    with pytest.raises(LocalProtocolError, match="no body"):
        codec.send(Body(1, b"x"))


def test_an_abort() -> None:
    codec = FastCGIFrontCodec()
    codec.send(Request(1, {}))
    assert codec.send(Abort(1)) == bytes(Record(2, 1))
    with pytest.raises(LocalProtocolError):
        codec.send(Body(1, b"x"))
    assert (codec.active, codec.complete) == (1, False)
    assert codec.feed(end()) == [EndOfResponse(1)]
    assert (codec.active, codec.complete) == (0, True)


def test_nothing_is_sent_for_a_stream_that_the_peer_has_ended() -> None:
    codec = FastCGIFrontCodec()
    codec.send(Request(1, {}, keep=True))
    codec.feed(out(HEAD) + end())
    late: list[Event] = [Body(1, b"x"), EndOfBody(1), Abort(1)]
    assert [codec.send(event) for event in late] == [b"", b"", b""]
    codec.send(Request(1, {}, keep=True))
    assert codec.send(Body(1, b"x")) == bytes(Record(5, 1, b"x"))


def test_what_cannot_be_sent() -> None:
    codec = FastCGIFrontCodec()
    for request in (
        Request(0, {}),
        Request(65_536, {}),
        Request(1, {}, role="x"),
        Request(1, {}, role="65536"),
        Request(1, {}, role="²"),
        Request(1, {}, role="9" * 5_000),
        Request(1, {"A": "€"}),
    ):
        with pytest.raises(LocalProtocolError):
            codec.send(request)
    assert codec.active == 0
    codec.send(Request(1, {}))
    with pytest.raises(LocalProtocolError, match="is active"):
        codec.send(Request(1, {}))
    inactive: list[Event] = [Body(2, b"x"), EndOfBody(2), Abort(2)]
    for event in inactive:
        with pytest.raises(LocalProtocolError, match="not active"):
            codec.send(event)
    answers: list[Event] = [ResponseHead(1, "200 OK"), RawBody(1, 1), ErrorOutput(1, b"x"), EndOfResponse(1)]
    for event in answers:
        with pytest.raises(LocalProtocolError, match="no responses"):
            codec.send(event)
    assert codec.send(Continue(1)) == b""


# -- responses ----------------------------------------------------------------------------------------------------


def ok(number: int = 1) -> ResponseHead:
    return ResponseHead(number, "200 OK", [("A", "b")])


def sized(length: int) -> ResponseHead:
    return ResponseHead(1, "200 OK", [("Content-Length", str(length))])


HEAD = b"A: b\r\n\r\n"

RESPONSES: dict[str, tuple[bytes, list[Event]]] = {
    "no body": (out(HEAD) + out(b"") + end(), [ok(), EndOfResponse(1)]),
    "no end of the stream": (out(HEAD) + end(), [ok(), EndOfResponse(1)]),
    "body": (out(HEAD + b"xy") + out(b"z") + end(), [ok(), Body(1, b"xyz"), EndOfResponse(1)]),
    "head over records": (out(b"A: ") + out(b"b\r\n\r") + out(b"\nx") + end(), [ok(), Body(1, b"x"), EndOfResponse(1)]),
    "length": (out(b"Content-Length: 2\r\n\r\nx") + out(b"y") + end(), [sized(2), Body(1, b"xy"), EndOfResponse(1)]),
    "errors": (
        err(b"a") + err(b"b") + out(HEAD) + err(b"c") + err(b"") + out(b"x") + end(1, 0xFFFFFFFE),
        [
            ErrorOutput(1, b"ab"), ok(), ErrorOutput(1, b"c"), Body(1, b"x"),
            EndOfResponse(1, 0xFFFFFFFE),
        ],
    ),
    "declined": (end(1, 1, 1), [EndOfResponse(1, 1, "cant_mpx_conn")]),
    "overloaded, with a response": (
        out(HEAD) + end(1, 0, 2), [ok(), EndOfResponse(1, 0, "overloaded")],
    ),
    "unknown role, within a head": (out(b"A") + end(1, 0, 3), [EndOfResponse(1, 0, "unknown_role")]),
    "records of other requests": (
        out(b"x", 2) + err(b"x", 2) + end(2) + out(HEAD) + bytes(Record(3, 2, b"")) + end() + end() + out(b"late"),
        [ok(), EndOfResponse(1)],
    ),
    "records that a web server sends": (
        b"".join(bytes(Record(kind, 1, b"x" * 8)) for kind in (1, 2, 4, 5, 8, 9, 10, 11, 12, 255)) + out(HEAD) + end(),
        [ok(), EndOfResponse(1)],
    ),
    "management records": (
        bytes(Record(6, 0, b"x")) + bytes(Record(3, 0)) + bytes(Record(1, 0)) + out(HEAD) + end(),
        [ok(), EndOfResponse(1)],
    ),
    "64 KiB in a record": (
        out(HEAD + b"x" * 65_527) + end(), [ok(), Body(1, b"x" * 65_527), EndOfResponse(1)],
    ),
}  # fmt: skip
SHORT_RESPONSES = [name for name in RESPONSES if "64 KiB" not in name]


def test_a_full_record() -> None:
    wire, events = RESPONSES["64 KiB in a record"]
    for pieces in ([wire], [wire[at : at + 1] for at in range(len(wire))], [wire[:9], wire[9:]]):
        assert feed(sent()(), pieces).events == events


@pytest.mark.parametrize("name", SHORT_RESPONSES)
@pytest.mark.parametrize("more", [b"", out(b"late") + end()])
def test_responses(name: str, more: bytes) -> None:
    wire, events = RESPONSES[name]
    outcome = runs(sent(), wire + more)
    assert (outcome.events, outcome.fault, outcome.sent, outcome.closing) == (events, None, b"", False)


@pytest.mark.parametrize("name", SHORT_RESPONSES)
def test_padding_noise_and_other_records_change_nothing(name: str) -> None:
    wire, events = RESPONSES[name]
    assert runs(sent(), add_padding(wire, [1, 0, 255, 7])).events == events
    noisy = add_noise(wire, enumerate(NOISE_TO_FRONT))
    assert runs(sent(), noisy).events == events
    assert feed(sent()(), [split_streams(wire, (6, 7), [1])]).events == events


@pytest.mark.parametrize("name", SHORT_RESPONSES)
def test_a_response_that_is_cut_short(name: str) -> None:
    wire = RESPONSES[name][0]
    last = max(at for at in range(len(wire)) if wire.startswith(b"\1\3\0\1", at))
    last = wire.index(b"\1\3\0\1") + 16 if name == "records of other requests" else last + 16
    boundaries = {0}
    for each in records(wire):
        boundaries.add(max(boundaries) + len(bytes(each)))
    for at, outcome in truncations(sent(), wire):
        if at in boundaries and at >= last:
            assert outcome.fault is None
            assert outcome.events[-1] == Closed()
        else:
            assert outcome.fault == TRUNCATED, at
        assert outcome.closing


REFUSED: dict[str, tuple[bytes, list[Event], Fault]] = {
    "no head": (end(), [], MALFORMED),
    "an empty stream": (out(b"") + end(), [], MALFORMED),
    "part of a head": (out(b"A: b\r\n") + end(), [], MALFORMED),
    "not a head": (out(b"nonsense\r\n\r\n") + out(b"x") + err(b"x") + end(), [], MALFORMED),
    "after the end": (out(HEAD) + out(b"") + out(b"x") + end(), [ok()], MALFORMED),
    "protocolStatus": (out(HEAD) + end(1, 0, 4), [ok()], MALFORMED),
    "length": (out(b"Content-Length: -1\r\n\r\n") + end(), [], MALFORMED),
    "too long": (out(b"Content-Length: 1\r\n\r\nxy") + end(), [sized(1), Body(1, b"x")], MALFORMED),
    "too short": (out(b"Content-Length: 2\r\n\r\nx") + end(), [sized(2), Body(1, b"x")], TRUNCATED),
    "limit": (out(b"A" * 60) + end(), [], Fault(LimitExceeded, 502, "")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_response_leaves_the_others_alone(name: str) -> None:
    wire, events, fault = REFUSED[name]
    make = sent(1, 2, limits=Limits(params_bytes=50))
    outcome = runs(make, wire + out(HEAD, 2) + end(2))
    assert outcome.events == [*events, RefusedFault(1, fault), ok(2), EndOfResponse(2)]
    assert outcome.fault is None


def test_a_refused_response_is_over_at_its_end() -> None:
    codec = sent()()
    codec.feed(out(b"nonsense\r\n\r\n"))
    assert (codec.active, codec.buffered) == (1, 0)
    with pytest.raises(LocalProtocolError, match="is active"):
        codec.send(Request(1, {}))
    assert codec.feed(end()) == []
    assert codec.active == 0
    codec.send(Request(1, {}))


def test_a_refused_response_does_not_truncate() -> None:
    assert runs(sent(), out(b"nonsense\r\n\r\n"), eof=True).events == [RefusedFault(1, MALFORMED), Closed()]


def test_the_answer_to_head() -> None:
    outcome = runs(sent(method="HEAD"), out(b"Content-Length: 5\r\n\r\n") + end())
    assert outcome.events == [sized(5), EndOfResponse(1)]


def test_an_aborted_response_needs_no_body() -> None:
    codec = FastCGIFrontCodec()
    codec.send(Request(1, {}))
    codec.feed(out(b"Content-Length: 5\r\n\r\n"))
    codec.send(Abort(1))
    assert codec.feed(end()) == [EndOfResponse(1)]


MALFORMED_WIRES: dict[str, bytes] = {
    "version 0": b"\0",
    "version 2": b"\2\6\0\1\0\0\0\0",
    "text": b"HTTP/1.1 200 OK\r\n\r\n",
    "a short end": bytes(Record(3, 1, b"\0" * 7)),
    "a long end": bytes(Record(3, 1, b"\0" * 9)),
    "an empty end": bytes(Record(3, 1)),
    "a short unknown type": bytes(Record(11, 0, b"\1")),
    "values": bytes(Record(10, 0, b"\1")),
    "values past the record": bytes(Record(10, 0, b"\1\5ab")),
    "a length of values": bytes(Record(10, 0, b"\x80\0\0")),
}


@pytest.mark.parametrize("name", MALFORMED_WIRES)
@pytest.mark.parametrize("more", [b"", b"\1\6\0\1\0"])
def test_a_malformed_wire(name: str, more: bytes) -> None:
    outcome = runs(sent(), out(HEAD + b"x") + MALFORMED_WIRES[name] + more)
    assert outcome.events == [ok(), Body(1, b"x")]
    assert outcome.fault == MALFORMED
    assert feed(sent()(), [MALFORMED_WIRES[name]], eof=True).fault == MALFORMED


# -- several requests ---------------------------------------------------------------------------------------------


def test_one_after_another() -> None:
    codec = sent()()
    assert feed(codec, [out(HEAD) + end()]).events == [ok(), EndOfResponse(1)]
    codec.send(Request(1, {}, keep=True))
    assert feed(codec, [out(HEAD + b"x") + end(1, 3)]).events == [ok(), Body(1, b"x"), EndOfResponse(1, 3)]
    assert feed(codec, [], eof=True).closing
    assert codec.feed_eof() == [Closed()]


def test_at_the_same_time() -> None:
    wire = out(b"A: b\r", 3) + out(HEAD, 1) + err(b"e", 2) + out(b"\n\r\nx", 3) + out(b"y", 1) + end(3)
    wire += out(HEAD, 2) + out(b"z", 1) + end(1) + end(2)
    assert runs(sent(1, 2, 3), wire).events == [
        ok(1), ErrorOutput(2, b"e"), ok(3), Body(3, b"x"), Body(1, b"y"), EndOfResponse(3),
        ok(2), Body(1, b"z"), EndOfResponse(1), EndOfResponse(2),
    ]  # fmt: skip


def test_without_keep_the_connection_is_over_after_the_last() -> None:
    codec = sent(1, 2, keep=False)()
    codec.feed(out(HEAD) + end())
    assert not codec.closing
    codec.feed(out(HEAD, 2) + end(2))
    assert codec.closing


# -- management records -------------------------------------------------------------------------------------------


def test_get_values() -> None:
    codec = FastCGIFrontCodec()
    names = ["FCGI_MAX_CONNS", "FCGI_MPXS_CONNS"]
    wire = codec.get_values(names)
    assert records(wire) == [Record(9, 0, pairs((name, "") for name in names))]
    assert (codec.values, codec.results) == ({}, 0)
    assert codec.feed(bytes(Record(10, 0))) == []
    assert (codec.values, codec.results) == ({}, 1)
    codec.feed(bytes(Record(10, 0, pairs([("FCGI_MPXS_CONNS", "1"), ("X", "")], [True, False]))))
    assert (codec.values, codec.results) == ({"FCGI_MPXS_CONNS": "1", "X": ""}, 2)
    for bad in (["€"], ["x" * 65_536]):
        with pytest.raises(LocalProtocolError):
            codec.get_values(bad)


def test_unknown_types() -> None:
    codec = FastCGIFrontCodec()
    codec.feed(bytes(Record(11, 0, b"\x2a" + bytes(7))) * 2)
    assert codec.unknown_types == {42}


def test_properties() -> None:
    codec = FastCGIFrontCodec()
    assert FRONT_CODECS["fastcgi"] is FastCGIFrontCodec
    assert (codec.protocol, codec.multiplexed, codec.raw_size, codec.error_stream) == ("fastcgi", True, 0, 0)
    codec.send(Request(1, {}))
    codec.feed(out(b"A: b") + b"\1\6\0")
    assert (codec.buffered, codec.active) == (7, 1)
    with pytest.raises(TruncatedMessage, match="within a record"):
        codec.feed_eof()
    assert codec.feed(b"x") == []
    with pytest.raises(TruncatedMessage, match="response 1"):
        sent()().feed_eof()


WIRES = [wire for wire, _ in (RESPONSES[name] for name in SHORT_RESPONSES)] + [
    *NOISE_TO_FRONT,
    *MALFORMED_WIRES.values(),
]


@given(
    st.lists(st.sampled_from(WIRES), max_size=3).map(b"".join),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3),
)
def test_events_or_a_remote_error(wire: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(wire)
    for at, value in changes:
        if changed:
            changed[at % len(changed)] = value
    codec = sent(1, 2, limits=Limits(params_bytes=100))()
    try:
        for at in range(0, len(changed), 13):
            codec.feed(bytes(changed[at : at + 13]))
            assert codec.buffered <= 2 * 100 + 8 + 65_535 + 255
        codec.feed_eof()
    except RemoteProtocolError as error:
        assert error.status_hint == 502  # noqa: PT017  # nothing else may be raised
    pieces = [bytes(changed[at : at + 1]) for at in range(len(changed))]
    assert feed(sent(1, 2)(), pieces, eof=True) == feed(sent(1, 2)(), [bytes(changed)], eof=True)
