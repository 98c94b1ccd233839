"""What SCGI and uwsgi share: one request a connection, its body counted by CONTENT_LENGTH, one response, then close.

It does not know how a request head looks; ``scgi`` and ``uwsgi`` do.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs import RAW_SIZE, Codec
from gateways.codecs.cgi import encode_head
from gateways.codecs.events import Body, Closed, EndOfBody, EndOfResponse, Event, Request, ResponseHead
from gateways.codecs.pairs import content_length
from gateways.errors import LimitExceeded, LocalProtocolError, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits

__all__ = ["SingleRequestCodec"]

_HEAD: Final = 0
_BODY: Final = 1
_DONE: Final = 2  # the request is whole: further bytes are dropped
_DEAD: Final = 3  # an error was raised

_END_OF_BODY: Final = EndOfBody(1)


class SingleRequestCodec(Codec):
    """The application side of a protocol with one request a connection; subclasses read the head."""

    raw_size: int = RAW_SIZE
    status_prefix: str = "Status: "
    """How the response's first line starts."""

    _state: int = _HEAD
    _buffer: bytes = b""
    _remaining: int = 0

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits

    @property
    def buffered(self) -> int:
        """Bytes held of a message that is not whole."""
        return len(self._buffer)

    @property
    def error_stream(self) -> int:
        """The one request."""
        return 1

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the wire; raises RemoteProtocolError."""
        state = self._state
        if state == _HEAD:
            self._state = _DEAD  # until the head has been read without an error
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            return self._feed_head(data)
        events: list[Event] = []
        if state == _BODY:
            self._feed_body(data, events)
        return events

    def _feed_head(self, data: bytes) -> list[Event]:
        """Read a request head from all the bytes that came so far; end in ``_wait`` or ``_begin``."""
        raise NotImplementedError

    def _wait(self, data: bytes) -> list[Event]:
        """The head is not whole: hold its bytes, which the subclass has checked against the limits."""
        self._buffer = data
        self._state = _HEAD
        return []

    def _begin(self, params: dict[str, str], rest: bytes) -> list[Event]:
        """The head is whole: its body, if any, starts with ``rest``."""
        text = params.get("CONTENT_LENGTH")
        length = content_length(params, self.protocol) if text and text != "0" else 0  # empty and absent are the same
        if length == 0:
            self._state = _DONE
            return [Request(1, params, 0), _END_OF_BODY]
        most = self._limits.body_bytes
        if most and length > most:
            raise LimitExceeded(self.protocol, "request body", length, most, 413)
        self._remaining = length
        self._state = _BODY
        events: list[Event] = [Request(1, params, length)]
        if rest:
            self._feed_body(rest, events)
        return events

    def _feed_body(self, data: bytes, events: list[Event]) -> None:
        if len(data) > self._remaining:  # bytes after the body belong to nothing
            data = data[: self._remaining]
        if data:
            self._remaining -= len(data)
            events.append(Body(1, data))
        if self._remaining == 0:
            self._state = _DONE
            events.append(_END_OF_BODY)

    def feed_eof(self) -> list[Event]:
        """Take the end of file; raises TruncatedMessage within a head or a body."""
        state = self._state
        if state == _BODY:
            self._state = _DEAD
            raise TruncatedMessage(self.protocol, f"the peer closed {self._remaining} bytes before the end of the body")
        if state == _HEAD and self._buffer:
            self._state = _DEAD
            raise TruncatedMessage(self.protocol, "the peer closed within the request head")
        return [Closed()]

    def send(self, event: Event) -> bytes:
        """Encode ResponseHead, Body, EndOfResponse; the others have no form here and cost no bytes."""
        if isinstance(event, ResponseHead):
            return self.head(event.stream, event.status, event.headers, event.content, event.end)
        if isinstance(event, Body):
            return event.data
        if isinstance(event, EndOfResponse):
            self.closing = True
        elif isinstance(event, Request):
            raise LocalProtocolError(self.protocol, "the application side sends no requests")
        return b""

    def head(
        self,
        stream: int,  # noqa: ARG002  (the interface)
        status: str,
        headers: list[tuple[str, str]],
        content: bytes = b"",
        end: bool = False,
    ) -> bytes:
        """Encode a head and the first block of body; ``end``: the connection is to be closed behind it."""
        if end:
            self.closing = True
        head = encode_head(self.protocol, self.status_prefix + status, headers)
        return head + content if content else head

    def body(self, stream: int, data: bytes) -> bytes:  # noqa: ARG002  (the interface)
        """Return ``data``: nothing is put around it."""
        return data

    def head_parts(self, head: ResponseHead) -> list[bytes | memoryview]:
        """As ``send``, without a copy of the block behind the head."""
        return [self.head(head.stream, head.status, head.headers, b"", head.end), head.content]
