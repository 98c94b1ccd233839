"""Bytes to events and back, with no I/O of any kind.

A codec stands for one side of one connection. ``application side`` reads requests and writes responses;
``front side`` (what a web server is) writes requests and reads responses.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs.events import Body, Event, ResponseHead

__all__ = ["RAW_SIZE", "Codec"]

RAW_SIZE: Final = 1 << 30
"""Codec.raw_size where the protocol puts nothing between the bytes of a body."""


class Codec:
    """One side of one connection: the base of every codec.

    For any bytes ``feed`` and ``feed_eof`` return events or raise RemoteProtocolError, nothing else; after
    that the codec reads no more, but ``send`` still answers. ``send`` raises LocalProtocolError for an event
    that its protocol or state forbids.
    """

    protocol: str = ""
    """The registry's name: ``fastcgi``, ``scgi``, ``uwsgi``, ``http``."""
    multiplexed: bool = False
    """Requests of one connection may be answered in any order and at the same time."""
    closing: bool = False
    """Nothing more comes or goes after what ``send`` has returned so far: close the connection."""
    raw_size: int = 0
    """How many bytes of body the caller may write by itself at a time, announced by RawBody; 0 where it may not."""

    @property
    def buffered(self) -> int:
        """Bytes held of messages that are not whole."""
        return 0

    @property
    def error_stream(self) -> int:
        """The stream that an error raised by ``feed`` is answered on; 0 where nobody waits for an answer."""
        return 0

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the wire and return what they complete."""
        raise NotImplementedError

    def feed_eof(self) -> list[Event]:
        """Take the peer's end of file: ``[Closed]`` between messages, TruncatedMessage within one."""
        raise NotImplementedError

    def data_to_send(self) -> bytes:
        """Return, once, the bytes that the protocol itself answers with (GET_VALUES_RESULT, UNKNOWN_TYPE, ping)."""
        return b""

    def send(self, event: Event) -> bytes:
        """Encode one event."""
        raise NotImplementedError

    def head(
        self, stream: int, status: str, headers: list[tuple[str, str]], content: bytes = b"", end: bool = False
    ) -> bytes:
        """Encode a head as ``send`` does a ResponseHead, which need not be made: each response comes by here."""
        return self.send(ResponseHead(stream, status, headers, content, end))

    def body(self, stream: int, data: bytes) -> bytes:
        """Encode a block of body as ``send`` does a Body, which need not be made."""
        return self.send(Body(stream, data))

    def body_parts(self, stream: int, data: bytes) -> list[bytes | memoryview]:
        """Encode a block of body in pieces that follow each other, without a copy of it."""
        return [self.body(stream, data)]

    def head_parts(self, head: ResponseHead) -> list[bytes | memoryview]:
        """Encode a head as ``send`` does, in pieces that follow each other, the first of them without its block.

        The block is not copied.
        """
        return [self.send(head)]

    def last(self) -> None:
        """Have the next response end the connection, and say so, where the protocol's responses can."""
