"""The wires of gateways.testing are what they say: the legal ones have exactly the expected events, by our codecs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings, strategies as st

from gateways.codecs import Codec
from gateways.codecs.events import Closed, Event, Refused, Request
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.fastcgi_front import FastCGIFrontCodec
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.single_front import SCGIFrontCodec, UWSGIFrontCodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import RemoteProtocolError
from gateways.limits import Limits
from gateways.testing.framing import ACCEPTED, ERROR, REFUSED, Illegal, Image, fastcgi, http1, scgi, uwsgi
from gateways.testing.framing.fastcgi_records import GET_VALUES_RESULT, UNKNOWN_TYPE, records
from gateways.testing.model import HTTPRequest, WireRequest, WireResponse, by_stream
from gateways.testing.noisy import pieces

FRAMINGS: Final[dict[str, ModuleType]] = {"fastcgi": fastcgi, "scgi": scgi, "uwsgi": uwsgi, "http": http1}
APPLICATIONS: Final[dict[str, Callable[[], Codec]]] = {
    "fastcgi": lambda: FastCGICodec(Limits(params_bytes=300_000)),
    "scgi": lambda: SCGICodec(Limits(params_bytes=300_000)),
    "uwsgi": UWSGICodec,
    "http": HTTP1Codec,
}
FRONTS: Final[dict[str, Callable[[], Codec]]] = {
    "fastcgi": FastCGIFrontCodec,
    "scgi": SCGIFrontCodec,
    "uwsgi": UWSGIFrontCodec,
}
LEGAL: Final = [(protocol, "request") for protocol in FRAMINGS] + [(protocol, "response") for protocol in FRONTS]
RULES: Final = [
    (protocol, side, name)
    for protocol, side in LEGAL
    for name in getattr(FRAMINGS[protocol], "RULES" if side == "request" else "RESPONSE_RULES")
]
ANY: Final = settings(max_examples=5_000, phases=[Phase.generate], database=None)
"""For the first example that will do, not the smallest."""
SMALL: Final = settings(max_examples=2_000, phases=[Phase.generate, Phase.shrink], database=None)
FEW: Final = settings(max_examples=max(10, settings().max_examples // 5), suppress_health_check=list(HealthCheck))


def receiver(protocol: str, side: str, streams: tuple[int, ...] = (1,)) -> Codec:
    if side == "request":
        return APPLICATIONS[protocol]()
    codec = FRONTS[protocol]()
    for number in streams:
        codec.send(Request(number, {}, keep=True))
    return codec


def images(protocol: str, side: str) -> st.SearchStrategy[Image]:
    found: st.SearchStrategy[Image] = getattr(FRAMINGS[protocol], f"{side}_images")()
    return found


def illegal(protocol: str, side: str, *names: str) -> st.SearchStrategy[Illegal]:
    found: st.SearchStrategy[Illegal] = getattr(FRAMINGS[protocol], f"illegal_{side}s")(*names)
    return found


def read(codec: Codec, data: list[bytes]) -> tuple[list[Event], bytes]:
    events: list[Event] = []
    sent = b""
    for piece in data:
        events += codec.feed(piece)
        sent += codec.data_to_send()
    return events, sent


@pytest.mark.parametrize(("protocol", "side"), LEGAL)
@given(data=st.data())
def test_legal_wires_mean_what_they_say(protocol: str, side: str, data: st.DataObject) -> None:
    image = data.draw(images(protocol, side))
    codec = receiver(protocol, side)
    events, sent = read(codec, data.draw(pieces(image.wire)))
    ended = codec.feed_eof() if side == "response" or protocol != "fastcgi" else []
    events += [event for event in ended if not isinstance(event, Closed)]
    assert by_stream(events) == image.expected
    answers = records(sent)
    assert tuple(each.content[0] for each in answers if each.kind == UNKNOWN_TYPE) == image.unknown_types
    assert len([each for each in answers if each.kind == GET_VALUES_RESULT]) == len(image.values_asked)


@given(st.data())
def test_answers_to_several_requests(data: st.DataObject) -> None:
    streams = tuple(data.draw(st.lists(fastcgi.ids(), min_size=1, max_size=3, unique=True)))
    image = data.draw(fastcgi.response_images(streams=streams))
    events, sent = read(receiver("fastcgi", "response", streams), data.draw(pieces(image.wire)))
    assert by_stream(events) == image.expected
    assert sent == b""


def outcome(codec: Codec, bad: Illegal) -> str:
    events: list[Event] = []
    try:
        events += codec.feed(bad.wire)
        if bad.eof:
            codec.feed_eof()
    except RemoteProtocolError:
        return ERROR
    return REFUSED if any(isinstance(event, Refused) for event in events) else ACCEPTED


@pytest.mark.parametrize(("protocol", "side", "name"), RULES)
@FEW
@given(data=st.data())
def test_illegal_wires_break_their_rule(protocol: str, side: str, name: str, data: st.DataObject) -> None:
    bad = data.draw(illegal(protocol, side, name))
    assert bad.rule.name == name
    assert outcome(receiver(protocol, side), bad) in bad.rule.outcomes


@pytest.mark.once
@pytest.mark.parametrize(("protocol", "side"), LEGAL)
def test_every_rule_is_reached(protocol: str, side: str) -> None:
    left = {name for at, of, name in RULES if (at, of) == (protocol, side)}

    def last_one(bad: Illegal) -> bool:
        assert str(bad).endswith(str(bad.rule))
        left.discard(bad.rule.name)
        return not left

    find(illegal(protocol, side), last_one, settings=ANY)


@pytest.mark.parametrize(
    ("protocol", "name", "wire"),
    [
        ("fastcgi", "begin-null-id", bytes.fromhex("0101000000080000 0001000000000000")),
        ("fastcgi", "stdin-before-params", bytes.fromhex("0101000700080000 0001010000000000 0105000700000000")),
        ("scgi", "length-zeros", b"024:CONTENT_LENGTH\x000\0SCGI\x001\0,"),
        ("uwsgi", "string-beyond-block", b"\0\3\0\0\2\0A"),
        ("http", "host-missing", b"GET / HTTP/1.1\r\n\r\n"),
    ],
)
def test_the_smallest_that_breaks_a_rule(protocol: str, name: str, wire: bytes) -> None:
    bad = find(illegal(protocol, "request", name), lambda _: True, settings=SMALL)
    assert bad.wire == wire


def test_a_rule_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        fastcgi.illegal_requests("no such rule")


# -- what they shrink to --------------------------------------------------------------------------------------------


def smallest(strategy: st.SearchStrategy[Image], wanted: Callable[[Image], bool]) -> bytes:
    return find(strategy, wanted, settings=SMALL).wire


def test_the_smallest_fastcgi_request() -> None:
    assert smallest(fastcgi.request_images(), lambda _: True) == bytes.fromhex(
        "0101000100080000 0001000000000000 0104000100000000 0105000100000000"
    )


@pytest.mark.once
def test_a_failure_with_padding_is_shown_with_little_else() -> None:
    found = smallest(fastcgi.request_images(), lambda image: any(each.padding for each in records(image.wire)))
    assert len(found) <= 32 + 4


@pytest.mark.once
def test_a_failure_with_interleaved_requests_is_shown_with_nothing_else() -> None:
    def mixed(image: Image) -> bool:
        order = [each.stream for each in records(image.wire) if each.stream in image.expected]
        return sum(here != there for here, there in pairwise(order)) > 1

    assert len(smallest(fastcgi.request_images(), mixed)) <= 96, "three empty requests at most"


@pytest.mark.parametrize(
    ("protocol", "wire"),
    [
        ("scgi", b"24:CONTENT_LENGTH\x000\x00SCGI\x001\x00,"),
        ("uwsgi", bytes(4)),
        ("http", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ],
)
def test_the_smallest_of_the_others(protocol: str, wire: bytes) -> None:
    assert smallest(images(protocol, "request"), lambda _: True) == wire


def test_the_smallest_responses() -> None:
    assert smallest(scgi.response_images(), lambda _: True) == b"Status: 200 OK\r\n\r\n"
    found = smallest(fastcgi.response_images(), lambda _: True)
    assert [bytes(each) for each in records(found)][1:] == [
        bytes.fromhex("0106000100000000"),
        bytes.fromhex("0103000100080000 0000000000000000"),
    ]


# -- the choices are all made ----------------------------------------------------------------------------------------


PROPERTIES: Final[dict[str, Callable[[Image], bool]]] = {
    "several requests": lambda image: len(image.expected) > 1,
    "unknown types": lambda image: bool(image.unknown_types),
    "values asked": lambda image: any(image.values_asked),
    "most padding": lambda image: any(len(each.padding) == 255 for each in records(image.wire)),
    "long length of a short string": lambda image: b"\x80\0\0\1" in image.wire,
    "pair in two records": lambda image: any(each.content == b"\1" for each in records(image.wire)),
    "a large one": lambda image: len(image.wire) > 65_535,
    "authorizer": lambda image: "authorizer" in repr(image.expected),
}


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # what is not shrunk may be long
def test_fastcgi_images_have_it_all() -> None:
    left = set(PROPERTIES)

    def last_one(image: Image) -> bool:
        left.difference_update([name for name in left if PROPERTIES[name](image)])
        return not left

    find(fastcgi.request_images(), last_one, settings=ANY)


def test_a_given_message_is_carried() -> None:
    asked = WireRequest((("A", "b"),), b"body")
    image = smallest(fastcgi.request_images(st.just(asked), most=1, streams=st.just(3)), lambda _: True)
    assert by_stream(FastCGICodec().feed(image)) == {3: asked.expected("fastcgi", 3)}
    assert smallest(scgi.request_images(st.just(asked)), lambda _: True) == b"4:A\0b\0,body"
    assert smallest(uwsgi.request_images(st.just(asked)), lambda _: True) == b"\0\6\0\0\1\0A\1\0bbody"
    get = HTTPRequest("GET", "/x")
    assert smallest(http1.request_images(st.just(get)), lambda _: True) == b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = WireResponse("404 Not Found", (("A", "b"),), b"x")
    assert smallest(uwsgi.response_images(st.just(answer)), lambda _: True) == b"Status: 404 Not Found\r\nA: b\r\n\r\nx"
