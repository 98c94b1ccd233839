from __future__ import annotations

import pytest

from gateways.codecs.events import Body, EndOfBody, EndOfResponse, ErrorOutput, Event, Request, ResponseHead
from gateways.codecs.pairs import merge_repeated
from gateways.errors import MalformedMessage
from gateways.testing.framing import Image
from gateways.testing.model import HTTPRequest, WireRequest, WireResponse, by_stream, merged, shown


@pytest.mark.parametrize(
    "pairs",
    [
        [("A", "b"), ("A", "b")],
        [("A", "b"), ("A", "c")],
        [("HTTP_COOKIE", "a=1"), ("HTTP_VIA", "x"), ("HTTP_COOKIE", "b=2"), ("HTTP_VIA", "y")],
        [("HTTP_HOST", "a"), ("HTTP_HOST", "b")],
        [("PATH_INFO", ""), ("PATH_INFO", "/a"), ("SCRIPT_NAME", "x"), ("SCRIPT_NAME", "")],
        [("wsgi.input", "x"), ("A", "wsgi.")],
        [("", "x")],
    ],
)
def test_repeated_names_as_the_codecs_have_them(pairs: list[tuple[str, str]]) -> None:
    try:
        expected = merge_repeated(pairs, "fastcgi")
    except MalformedMessage:
        with pytest.raises(ValueError, match=r"parameter without|came twice"):
            merged(pairs)
    else:
        assert merged(pairs) == expected


def test_what_a_request_means() -> None:
    request = WireRequest((("CONTENT_LENGTH", "2"), ("A", "")), b"ab", keep=True)
    params = {"CONTENT_LENGTH": "2", "A": ""}
    assert request.expected("fastcgi", 3) == [Request(3, params, 2, keep=True), Body(3, b"ab"), EndOfBody(3)]
    assert WireRequest().expected("fastcgi") == [Request(1, {}, -1), EndOfBody(1)]
    assert WireRequest().expected("scgi") == [Request(1, {}, 0), EndOfBody(1)]
    assert WireRequest(role="authorizer").expected("fastcgi") == [Request(1, {}, 0, "authorizer"), EndOfBody(1)]
    get = HTTPRequest(target="/a?b", version="1.0").expected()[0]
    assert isinstance(get, Request)
    assert (get.keep, get.params["QUERY_STRING"], get.params["HTTP_HOST"]) == (False, "b", "a")


def test_what_a_response_means() -> None:
    response = WireResponse("200 OK", (("A", "b"),), b"x", b"oops", 2)
    head = ResponseHead(1, "200 OK", [("A", "b")])
    assert response.expected() == [head, Body(1, b"x"), EndOfResponse(1, 2), ErrorOutput(1, b"oops")]


def test_events_by_stream() -> None:
    events: list[Event] = [
        ErrorOutput(2, b"x"),
        Body(1, b"a"),
        Body(2, b"b"),
        Body(1, b"c"),
        ErrorOutput(2, b"y"),
        EndOfBody(2),
    ]
    assert by_stream(events) == {
        1: [Body(1, b"ac")],
        2: [Body(2, b"b"), EndOfBody(2), ErrorOutput(2, b"xy")],
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", "b''"),
        ("a'b", '"a\'b"'),
        (b"x" * 40, repr(b"x" * 40)),
        (b"a\0" + b"x" * 65_535 + b"b", "b'a\\x00' + b'x' * 65535 + b'b'"),
        (b"\n" * 50, "b'\\n' * 50"),
        ("\xe9" * 50, "'\xe9' * 50"),
        ((("A", "b" * 300),), "(('A', 'b' * 300, ), )"),
        (7, "7"),
    ],
)
def test_long_values_are_shown_short_and_can_be_pasted(value: object, text: str) -> None:
    assert shown(value) == text
    assert eval(shown(value)) == value  # noqa: S307


def test_the_repr_of_what_is_drawn() -> None:
    assert repr(WireRequest(body=b"x" * 99)) == "WireRequest(params=(), body=b'x' * 99, role='responder', keep=False)"
    image = Image(b"\0" * 99, {1: []})
    assert repr(image) == r"Image(wire=b'\x00' * 99, unknown_types=(), values_asked=())"
