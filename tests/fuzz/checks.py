"""What every target asks of a codec, whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from gateways.codecs import Codec
from gateways.codecs.events import Body, ErrorOutput, Request, ResponseHead
from tests.wire import feed

__all__ = ["check_codec", "cut_of"]


def cut_of(data: bytes) -> int:
    """Where to cut: it follows from the bytes, so that the same ones are always cut at the same place."""
    return crc32(data) % (len(data) + 1)


def check_codec(make: Callable[[], Codec], data: bytes, most: int, *, answers: bool = True) -> None:
    """No exception but the codec's refusal, the same in two pieces, and never more held or said than came.

    ``most``: bytes that it may hold. ``answers``: it is the application side, which answers a refused request.
    """
    codec = make()
    whole = feed(codec, [data])
    assert codec.buffered <= most, f"it holds {codec.buffered} bytes"
    waiting = any(isinstance(event, Request) for event in whole.events)  # in HTTP, those are to be answered before
    if answers and whole.fault is not None and codec.error_stream and not waiting:
        assert codec.send(ResponseHead(codec.error_stream, "400 Bad Request", [], b"", end=True))
    cut = cut_of(data)
    pieces = [data[:cut], data[cut:]]
    assert feed(make(), pieces) == whole
    assert feed(make(), [data], eof=True) == feed(make(), pieces, eof=True)
    bodies = sum(len(event.data) for event in whole.events if isinstance(event, (Body, ErrorOutput)))
    assert bodies <= len(data), f"{bodies} bytes of body in {len(data)}"
    assert len(whole.sent) <= 8 * len(data) + 8, f"{len(whole.sent)} bytes sent for {len(data)}"
