from __future__ import annotations

from typing import Any, get_args

import pytest

from gateways.codecs import Codec, events
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
from gateways.errors import RemoteProtocolError

ERRORS = RemoteProtocolError("scgi", "one"), RemoteProtocolError("scgi", "other")
ALL: dict[type, dict[str, tuple[Any, Any]]] = {
    Request: {
        "stream": (1, 2),
        "params": ({"A": "b"}, {}),
        "content_length": (3, 4),
        "role": ("responder", "authorizer"),
        "expects_continue": (False, True),
        "keep": (False, True),
    },
    Body: {"stream": (1, 2), "data": (b"a", b"b")},
    EndOfBody: {"stream": (1, 2)},
    Abort: {"stream": (1, 2)},
    Refused: {"stream": (1, 2), "error": ERRORS},
    Closed: {},
    Continue: {"stream": (1, 2)},
    ResponseHead: {
        "stream": (1, 2),
        "status": ("200 OK", "404 Not Found"),
        "headers": ([("A", "b")], []),
        "content": (b"a", b""),
        "end": (True, False),
    },
    RawBody: {"stream": (1, 2), "size": (3, 4)},
    ErrorOutput: {"stream": (1, 2), "data": (b"a", b"b")},
    EndOfResponse: {"stream": (1, 2), "app_status": (0, 1), "refused": ("", "overloaded")},
}
"""Every attribute of every event, with two values."""


def test_the_vocabulary_is_whole() -> None:
    assert {kind.__name__ for kind in get_args(Event)} == set(events.__all__) - {"Event"}


@pytest.mark.parametrize("kind", get_args(Event))
def test_each_but_closed_belongs_to_a_stream(kind: type) -> None:
    assert list(ALL[kind])[:1] == ([] if kind is Closed else ["stream"])


@pytest.mark.parametrize("kind", get_args(Event))
def test_all_that_an_event_says_counts(kind: type) -> None:
    said = {name: values[0] for name, values in ALL[kind].items()}
    event = kind(*said.values())
    assert event == kind(**said)
    assert repr(event) == repr(kind(**said))
    for name, (first, second) in ALL[kind].items():
        assert getattr(event, name) == first
        assert event != kind(**{**said, name: second})
        assert repr(event) != repr(kind(**{**said, name: second}))
    assert EndOfBody(1) != Abort(1)
    with pytest.raises(AttributeError):
        event.other = 1
    with pytest.raises(TypeError):
        hash(event)


def test_equal_when_all_is_equal() -> None:
    assert Body(1, b"a") == Body(1, b"a")
    assert Body(1, b"a") != Body(2, b"a")
    assert Closed() == Closed()


def test_what_is_not_said() -> None:
    request = Request(1, {})
    assert (request.content_length, request.role, request.expects_continue, request.keep) == (
        -1,
        "responder",
        False,
        False,
    )
    head = ResponseHead(1, "200 OK")
    assert (head.headers, head.content, head.end) == ([], b"", False)
    assert head.headers is not ResponseHead(1, "200 OK").headers
    assert EndOfResponse(1) == EndOfResponse(1, 0, "")


def test_a_codec_that_does_nothing() -> None:
    codec = Codec()
    assert (codec.protocol, codec.multiplexed, codec.closing, codec.raw_size) == ("", False, False, 0)
    assert (codec.buffered, codec.error_stream, codec.data_to_send()) == (0, 0, b"")
    with pytest.raises(NotImplementedError):
        codec.feed(b"")
    with pytest.raises(NotImplementedError):
        codec.feed_eof()
    with pytest.raises(NotImplementedError):
        codec.send(Closed())
    with pytest.raises(NotImplementedError):
        codec.body(1, b"x")
