from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from gateways.codecs import Codec, events
from gateways.codecs.events import Body, Closed, EndOfResponse, Event, Request, ResponseHead


def test_the_vocabulary_is_whole() -> None:
    assert {kind.__name__ for kind in get_args(Event)} == set(events.__all__) - {"Event"}


@pytest.mark.parametrize("kind", get_args(Event))
def test_each_but_closed_belongs_to_a_stream(kind: type) -> None:
    names = [each.name for each in fields(kind)]
    assert names[:1] == ([] if kind is Closed else ["stream"])


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
