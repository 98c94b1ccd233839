"""Both sides of each protocol against each other: what one writes the other reads, however the bytes are carried.

Front codec to application codec and back. The bytes between are split anywhere; FastCGI's also get padding, records
that mean nothing, parameters and bodies cut into other records, lengths in 4 bytes, and other requests in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from gateways.codecs import Codec
from gateways.codecs.events import (
    Body,
    EndOfBody,
    EndOfResponse,
    ErrorOutput,
    Event,
    Request,
    ResponseHead,
)
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.fastcgi_front import FastCGIFrontCodec
from gateways.codecs.front import FrontCodec
from gateways.codecs.fronts import FRONT_CODECS
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.single_front import UWSGIFrontCodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.limits import DEFAULT_LIMITS
from gateways.testing.framing.fastcgi import ids
from gateways.testing.framing.fastcgi_records import (
    NOISE_TO_APPLICATION,
    NOISE_TO_FRONT,
    Record,
    add_noise,
    add_padding,
    encode_pairs as pairs,
    records,
    split_params,
    split_streams,
)
from gateways.testing.model import WireRequest, WireResponse, by_stream, merged
from gateways.testing.noise import chop
from gateways.testing.noisy import pieces
from gateways.testing.requests import names, requests, texts
from gateways.testing.responses import responses
from tests.wire import RefusedFault, feed

APPLICATION_CODECS: dict[str, Callable[[], Codec]] = {
    "fastcgi": FastCGICodec,
    "scgi": SCGICodec,
    "uwsgi": UWSGICodec,
}


@dataclass
class Exchange:
    """One request and its response; bodies are given to the codecs in pieces."""

    asked: WireRequest
    answer: WireResponse
    protocol: str
    body: list[bytes]
    output: list[bytes]

    def request(self, number: int) -> list[Event]:
        first, *_, last = self.asked.expected(self.protocol, number)
        return [first, *[Body(number, each) for each in self.body if each], last]

    def response(self, number: int) -> list[Event]:
        """Error output comes first, which by_stream puts last."""
        head, end = [
            event for event in self.answer.expected(number) if isinstance(event, (ResponseHead, EndOfResponse))
        ]
        errors: list[Event] = [ErrorOutput(number, self.answer.errors)] if self.answer.errors else []
        return [*errors, head, *[Body(number, each) for each in self.output if each], end]


@st.composite
def exchanges(draw: st.DrawFn, protocol: str) -> Exchange:
    """What a dict can hold: the codecs write no name twice."""
    asked = draw(requests(protocol))
    asked = replace(asked, params=tuple(merged(asked.params).items()))
    answer = draw(responses(protocol))
    return Exchange(asked, answer, protocol, draw(pieces(asked.body, 4)), draw(pieces(answer.body, 4)))


def of_stream(events: Sequence[Event | RefusedFault], number: int) -> list[Event]:
    assert not [event for event in events if isinstance(event, RefusedFault)]
    return by_stream(event for event in events if not isinstance(event, RefusedFault))[number]


EXCHANGES = {protocol: exchanges(protocol) for protocol in APPLICATION_CODECS}


@pytest.mark.parametrize("protocol", ["scgi", "uwsgi"])
@given(data=st.data())
def test_one_request_a_connection(protocol: str, data: st.DataObject) -> None:
    exchange = data.draw(EXCHANGES[protocol])
    front: FrontCodec = FRONT_CODECS[protocol](DEFAULT_LIMITS)
    application = APPLICATION_CODECS[protocol]()

    wire = b"".join([front.send(event) for event in exchange.request(1)])
    outcome = feed(application, data.draw(pieces(wire)))
    assert outcome.fault is None
    (read,) = [event for event in outcome.events if isinstance(event, Request)]
    assert list(read.params.items()) == list(exchange.asked.params)
    assert of_stream(outcome.events, 1) == of_stream(exchange.request(1), 1)

    wire = b"".join([application.send(event) for event in exchange.response(1)])
    assert application.closing
    back = feed(front, data.draw(pieces(wire)), eof=True)
    assert back.fault is None
    assert of_stream(back.events, 1) == of_stream(exchange.response(1), 1)
    assert front.closing
    assert front.active == 0


# -- FastCGI ------------------------------------------------------------------------------------------------------


def interleave(draw: Any, wires: list[bytes]) -> bytes:  # noqa: ANN401  # hypothesis's draw
    """Mix the records of several wires, each wire's in their order."""
    left = [records(wire) for wire in wires]
    mixed = b""
    while any(left):
        chosen = draw(st.sampled_from([index for index, each in enumerate(left) if each]))
        for _ in range(draw(st.integers(1, 4))):
            if left[chosen]:
                mixed += bytes(left[chosen].pop(0))
    return mixed


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=4)


def disturb(draw: Any, wire: bytes, noise: list[bytes]) -> bytes:  # noqa: ANN401
    """Carry the same meaning in other records, with padding and with records that mean nothing."""
    short = len(wire) < 5_000  # else there would be thousands of records
    if draw(st.booleans()) and short:
        wire = split_params(wire, draw(LENGTHS))
    if draw(st.booleans()) and short:
        wire = split_streams(wire, (5, 6, 7), draw(LENGTHS))
    if draw(st.booleans()):
        wire = add_noise(wire, draw(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(noise)), max_size=5)))
    if draw(st.booleans()):
        wire = add_padding(wire, draw(st.lists(st.integers(0, 255), min_size=1, max_size=4)))
    return wire


@given(data=st.data())
def test_fastcgi_requests_at_the_same_time(data: st.DataObject) -> None:
    numbers = data.draw(st.lists(ids(), min_size=1, max_size=3, unique=True))
    all_of_them = {number: data.draw(EXCHANGES["fastcgi"]) for number in numbers}
    front = FastCGIFrontCodec()
    application = FastCGICodec()

    wires = [b"".join([front.send(event) for event in each.request(number)]) for number, each in all_of_them.items()]
    wire = disturb(data.draw, interleave(data.draw, wires), NOISE_TO_APPLICATION)
    outcome = feed(application, data.draw(pieces(wire)))
    assert outcome.fault is None
    for number, exchange in all_of_them.items():
        assert of_stream(outcome.events, number) == of_stream(exchange.request(number), number)
        (read,) = [each for each in outcome.events if isinstance(each, Request) and each.stream == number]
        assert list(read.params.items()) == list(exchange.asked.params)

    before = feed(front, data.draw(pieces(outcome.sent)))  # what the noise was answered with
    assert (before.events, before.fault) == ([], None)

    wires = [
        b"".join([application.send(event) for event in each.response(number)]) for number, each in all_of_them.items()
    ]
    assert application.closing == any(not each.asked.keep for each in all_of_them.values())
    wire = disturb(data.draw, interleave(data.draw, wires), NOISE_TO_FRONT)
    back = feed(front, data.draw(pieces(wire)))
    assert back.fault is None
    for number, exchange in all_of_them.items():
        assert of_stream(back.events, number) == of_stream(exchange.response(number), number)
    assert front.active == 0
    assert front.closing == application.closing


@given(data=st.data())
def test_fastcgi_requests_one_after_another(data: st.DataObject) -> None:
    front = FastCGIFrontCodec()
    application = FastCGICodec()
    for _ in range(data.draw(st.integers(1, 3))):
        exchange = data.draw(EXCHANGES["fastcgi"])
        exchange.asked = replace(exchange.asked, keep=True)
        wire = b"".join([front.send(event) for event in exchange.request(1)])
        events: list[Event] = []
        for piece in data.draw(pieces(disturb(data.draw, wire, NOISE_TO_APPLICATION))):
            events += application.feed(piece)
            front.feed(application.data_to_send())
        assert of_stream(events, 1) == of_stream(exchange.request(1), 1)
        wire = b"".join([application.send(event) for event in exchange.response(1)])
        events = []
        for piece in data.draw(pieces(disturb(data.draw, wire, NOISE_TO_FRONT))):
            events += front.feed(piece)
        assert of_stream(events, 1) == of_stream(exchange.response(1), 1)
    assert not application.closing
    assert not front.closing


@given(
    st.lists(st.tuples(names(), texts()), max_size=5, unique_by=lambda item: item[0]),
    st.lists(st.booleans(), min_size=1, max_size=5),
    LENGTHS,
)
def test_short_strings_may_have_long_lengths(
    items: list[tuple[str, str]], long: list[bool], lengths: list[int]
) -> None:
    items = [("FIRST", ""), *items]
    wire = bytes(Record(1, 1, b"\0\1\1" + bytes(5))) + split_params(bytes(Record(4, 1, pairs(items, long))), lengths)
    wire += bytes(Record(4, 1)) + bytes(Record(5, 1))
    assert feed(FastCGICodec(), [wire]).events == [Request(1, dict(items), keep=True), EndOfBody(1)]
    values = bytes(Record(10, 0, pairs(items, long)))
    front = FastCGIFrontCodec()
    assert front.feed(values) == []
    assert front.values == dict(items)


@pytest.mark.parametrize("protocol", APPLICATION_CODECS)
def test_names_that_are_the_servers_own_are_dropped(protocol: str) -> None:
    front: FrontCodec = FRONT_CODECS[protocol](DEFAULT_LIMITS)
    events = feed(APPLICATION_CODECS[protocol](), [front.send(Request(1, {"A": "wsgi.", "wsgi.errors": "x"}))]).events
    (request,) = [event for event in events if isinstance(event, Request)]
    assert {name: value for name, value in request.params.items() if name not in ("CONTENT_LENGTH", "SCGI")} == {
        "A": "wsgi."
    }


@pytest.mark.parametrize("role", ["responder", "authorizer", "filter", "7"])
def test_roles(role: str) -> None:
    front = FastCGIFrontCodec()
    application = FastCGICodec()
    outcome = feed(application, [front.send(Request(1, {}, role=role, keep=True)) + front.send(EndOfBody(1))])
    if role in ("responder", "authorizer"):
        assert outcome.events == [Request(1, {}, 0 if role == "authorizer" else -1, role=role, keep=True), EndOfBody(1)]
        answer = application.send(ResponseHead(1, "200 OK", end=True))
        assert front.feed(answer) == [ResponseHead(1, "200 OK"), EndOfResponse(1)]
    else:
        (refused,) = outcome.events
        assert isinstance(refused, RefusedFault)
        assert refused.fault.status_hint == 501
        answer = application.send(EndOfResponse(1))
        assert front.feed(answer) == [EndOfResponse(1, 0, "unknown_role")]


def test_values_and_unknown_types() -> None:
    front = FastCGIFrontCodec()
    application = FastCGICodec(max_conns=5, max_reqs=7)
    application.feed(front.get_values(["FCGI_MAX_REQS", "FCGI_MAX_CONNS", "FCGI_MPXS_CONNS", "X"]))
    application.feed(bytes(Record(42, 0)))
    front.feed(application.data_to_send())
    assert front.values == {"FCGI_MAX_CONNS": "5", "FCGI_MAX_REQS": "7", "FCGI_MPXS_CONNS": "1"}
    assert front.unknown_types == {42}


def test_a_ping() -> None:
    front = UWSGIFrontCodec()
    application = UWSGICodec()
    assert application.feed(front.ping()) == []
    assert front.feed(application.data_to_send()) == []
    assert front.pong
    assert application.closing


@pytest.mark.parametrize("protocol", APPLICATION_CODECS)
def test_large_requests_and_responses(protocol: str) -> None:
    size = 65_000 if protocol == "uwsgi" else 130_000
    params = {"HTTP_COOKIE": "c" * size, "CONTENT_LENGTH": "200000"}
    front: FrontCodec = FRONT_CODECS[protocol](DEFAULT_LIMITS)
    application = APPLICATION_CODECS[protocol]()
    wire = front.send(Request(1, params)) + front.send(Body(1, b"b" * 200_000)) + front.send(EndOfBody(1))
    events = feed(application, chop(wire, list(range(0, len(wire), 50_000)))).events
    (request,) = [event for event in events if isinstance(event, Request)]
    assert {"SCGI": "1", **request.params} == {"SCGI": "1", **params}
    assert [Body(1, b"b" * 200_000), EndOfBody(1)] == events[1:]
    wire = application.send(ResponseHead(1, "200 OK", [("A", "a" * 70_000)], b"x" * 70_000))
    wire += application.send(Body(1, b"y" * 65_536)) + application.send(EndOfResponse(1))
    back = feed(front, chop(wire, list(range(0, len(wire), 30_000))), eof=protocol != "fastcgi")
    assert of_stream(back.events, 1) == [
        ResponseHead(1, "200 OK", [("A", "a" * 70_000)]), Body(1, b"x" * 70_000 + b"y" * 65_536), EndOfResponse(1),
    ]  # fmt: skip
