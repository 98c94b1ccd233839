"""Both sides of each protocol against each other: what one writes the other reads, however the bytes are carried.

Front codec to application codec and back. The bytes between are split anywhere; FastCGI's also get padding, records
that mean nothing, parameters and bodies cut into other records, lengths in 4 bytes, and other requests in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

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
from tests.wire import (
    NOISE_TO_APPLICATION,
    NOISE_TO_FRONT,
    Record,
    RefusedFault,
    add_noise,
    add_padding,
    feed,
    pairs,
    records,
    split_params,
    split_streams,
)

APPLICATION_CODECS: dict[str, Callable[[], Codec]] = {
    "fastcgi": FastCGICodec,
    "scgi": SCGICodec,
    "uwsgi": UWSGICodec,
}
Events: TypeAlias = list[Event | RefusedFault]

SIZES = st.one_of(st.integers(0, 3), st.integers(125, 130), st.integers(250, 260))
TOKENS = st.text("ABcd-!~", min_size=1, max_size=6).filter(lambda name: name.lower() != "status")


def texts(*, least: int = 0, without: str = "") -> st.SearchStrategy[str]:
    """Any latin-1 text, its length often one where the encoding of lengths changes."""
    short = st.text(st.characters(max_codepoint=255, exclude_characters=without), min_size=least, max_size=5)
    return st.one_of(short, st.builds(lambda text, size: text + "x" * size, short, SIZES))


@dataclass
class Exchange:
    """One request and its response."""

    params: dict[str, str]
    body: list[bytes]
    head: ResponseHead
    output: list[Event]
    """Body and ErrorOutput."""
    keep: bool
    content_length: bool

    def request(self, number: int) -> list[Event]:
        size = sum(map(len, self.body))
        params = dict(self.params)
        if self.content_length:
            params["CONTENT_LENGTH"] = str(size)
        length = size if self.content_length else -1
        return [
            Request(number, params, length, keep=self.keep),
            *[Body(number, each) for each in self.body],
            EndOfBody(number),
        ]

    def response(self, number: int) -> list[Event]:
        output = [type(event)(number, event.data) for event in self.output if isinstance(event, (Body, ErrorOutput))]
        return [ResponseHead(number, self.head.status, self.head.headers), *output, EndOfResponse(number)]


BLOCKS = st.lists(st.binary(min_size=1, max_size=40), max_size=4)
STATUSES = st.sampled_from(["200 OK", "404 Not Found", "599 \xe9", "204"])
HEADER_VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=9)
HEADERS = st.lists(st.tuples(TOKENS, HEADER_VALUES.map(lambda value: value.strip(" \t"))), max_size=3)


def sendable(name: str) -> bool:
    """Not a name that the codecs give a meaning of its own, or drop."""
    return name not in ("CONTENT_LENGTH", "SCGI", "FIRST") and not name.startswith("wsgi.")


def names(without: str = "") -> st.SearchStrategy[str]:
    return texts(least=1, without=without).filter(sendable)


PARAMS = {
    protocol: st.dictionaries(names(without), texts(without=without), max_size=5)
    for protocol, without in (("fastcgi", ""), ("scgi", "\0"), ("uwsgi", ""))
}


@st.composite
def exchanges(draw: st.DrawFn, protocol: str) -> Exchange:
    output: list[Event] = [Body(1, each) for each in draw(BLOCKS)]
    if protocol == "fastcgi":
        for text in draw(BLOCKS):
            output.insert(draw(st.integers(0, len(output))), ErrorOutput(1, text))
    return Exchange(
        draw(PARAMS[protocol]),
        draw(BLOCKS),
        ResponseHead(1, draw(STATUSES), draw(HEADERS)),
        output,
        draw(st.booleans()) if protocol == "fastcgi" else False,
        draw(st.booleans()) if protocol == "fastcgi" else True,
    )


EXCHANGES = {protocol: exchanges(protocol) for protocol in PARAMS}


def chop(wire: bytes, at: list[int]) -> list[bytes]:
    ends = sorted({0, len(wire), *[offset % (len(wire) + 1) for offset in at]})
    return [wire[start:end] for start, end in pairwise(ends)]


def of_stream(events: Events, number: int) -> Events:
    """Return one stream's events, its pieces of body joined, and apart from them its error output."""
    result: Events = []
    errors = b""
    for event in events:
        if getattr(event, "stream", 0) != number:
            continue
        last = result[-1] if result else None
        if isinstance(event, ErrorOutput):
            errors += event.data
        elif isinstance(event, Body) and isinstance(last, Body):
            result[-1] = Body(number, last.data + event.data)
        else:
            result.append(event)
    return [*result, ErrorOutput(number, errors)] if errors else result


CUTS = st.lists(st.integers(0, 1 << 16), max_size=8)


@pytest.mark.parametrize("protocol", ["scgi", "uwsgi"])
@given(data=st.data())
def test_one_request_a_connection(protocol: str, data: st.DataObject) -> None:
    exchange = data.draw(EXCHANGES[protocol])
    front: FrontCodec = FRONT_CODECS[protocol](DEFAULT_LIMITS)
    application = APPLICATION_CODECS[protocol]()

    wire = b"".join([front.send(event) for event in exchange.request(1)])
    outcome = feed(application, chop(wire, data.draw(CUTS)))
    assert outcome.fault is None
    expected = exchange.request(1)
    (request,) = [event for event in expected if isinstance(event, Request)]
    if protocol == "scgi":
        request.params = {"CONTENT_LENGTH": request.params.pop("CONTENT_LENGTH"), **request.params, "SCGI": "1"}
        (read,) = [event for event in outcome.events if isinstance(event, Request)]
        assert list(read.params.items()) == list(request.params.items())
    assert of_stream(outcome.events, 1) == of_stream([*expected], 1)

    wire = b"".join([application.send(event) for event in exchange.response(1)])
    assert application.closing
    back = feed(front, chop(wire, data.draw(CUTS)), eof=True)
    assert back.fault is None
    assert of_stream(back.events, 1) == of_stream([*exchange.response(1)], 1)
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
    if draw(st.booleans()):
        wire = split_params(wire, draw(LENGTHS))
    if draw(st.booleans()):
        wire = split_streams(wire, (5, 6, 7), draw(LENGTHS))
    if draw(st.booleans()):
        wire = add_noise(wire, draw(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(noise)), max_size=5)))
    if draw(st.booleans()):
        wire = add_padding(wire, draw(st.lists(st.integers(0, 255), min_size=1, max_size=4)))
    return wire


@given(data=st.data())
def test_fastcgi_requests_at_the_same_time(data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.sampled_from([1, 2, 255, 256, 65_535]), min_size=1, max_size=3, unique=True))
    all_of_them = {number: data.draw(EXCHANGES["fastcgi"]) for number in numbers}
    front = FastCGIFrontCodec()
    application = FastCGICodec()

    wires = [b"".join([front.send(event) for event in each.request(number)]) for number, each in all_of_them.items()]
    wire = disturb(data.draw, interleave(data.draw, wires), NOISE_TO_APPLICATION)
    outcome = feed(application, chop(wire, data.draw(CUTS)))
    assert outcome.fault is None
    for number, exchange in all_of_them.items():
        assert of_stream(outcome.events, number) == of_stream([*exchange.request(number)], number)
        (read,) = [each for each in outcome.events if isinstance(each, Request) and each.stream == number]
        assert list(read.params)[: len(exchange.params)] == list(exchange.params)

    before = feed(front, chop(outcome.sent, data.draw(CUTS)))  # what the noise was answered with
    assert (before.events, before.fault) == ([], None)

    wires = [
        b"".join([application.send(event) for event in each.response(number)]) for number, each in all_of_them.items()
    ]
    assert application.closing == any(not each.keep for each in all_of_them.values())
    wire = disturb(data.draw, interleave(data.draw, wires), NOISE_TO_FRONT)
    back = feed(front, chop(wire, data.draw(CUTS)))
    assert back.fault is None
    for number, exchange in all_of_them.items():
        assert of_stream(back.events, number) == of_stream([*exchange.response(number)], number)
    assert front.active == 0
    assert front.closing == application.closing


@given(data=st.data())
def test_fastcgi_requests_one_after_another(data: st.DataObject) -> None:
    front = FastCGIFrontCodec()
    application = FastCGICodec()
    for _ in range(data.draw(st.integers(1, 3))):
        exchange = data.draw(EXCHANGES["fastcgi"])
        exchange.keep = True
        wire = b"".join([front.send(event) for event in exchange.request(1)])
        events: Events = []
        for piece in chop(disturb(data.draw, wire, NOISE_TO_APPLICATION), data.draw(CUTS)):
            events += application.feed(piece)
            front.feed(application.data_to_send())
        assert of_stream(events, 1) == of_stream([*exchange.request(1)], 1)
        wire = b"".join([application.send(event) for event in exchange.response(1)])
        events = []
        for piece in chop(disturb(data.draw, wire, NOISE_TO_FRONT), data.draw(CUTS)):
            events += front.feed(piece)
        assert of_stream(events, 1) == of_stream([*exchange.response(1)], 1)
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
