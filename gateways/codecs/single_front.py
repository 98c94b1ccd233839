"""SCGI and uwsgi, the web-server side: one request a connection, one CGI response, then the peer closes.

The end of file is what ends a response; a Content-Length only tells whether the body was whole.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs.cgi import HeadParser, body_length
from gateways.codecs.events import (
    Abort,
    Body,
    Closed,
    EndOfBody,
    EndOfResponse,
    ErrorOutput,
    Event,
    RawBody,
    Request,
    ResponseHead,
)
from gateways.codecs.front import FrontCodec
from gateways.codecs.pairs import content_length, encode_scgi_headers, encode_uwsgi_vars
from gateways.errors import LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits

__all__ = ["SCGIFrontCodec", "SingleFrontCodec", "UWSGIFrontCodec"]

_HEAD: Final = 0
_BODY: Final = 1
_PONG: Final = 2  # we have sent a ping
_DONE: Final = 3  # nothing more is read: the response is whole, or an error was raised

_UNCOUNTED: Final = -1
_PING_PACKET: Final = b"\x64\x00\x00\x00"  # modifier1 100, datasize 0, modifier2 0
_PONG_PACKET: Final = b"\x64\x00\x00\x01"


class SingleFrontCodec(FrontCodec):
    """The web-server side of a protocol with one request a connection; subclasses write the head of the request."""

    _state: int = _HEAD
    _sent: bool = False
    _method: str = ""
    _to_come: int = _UNCOUNTED  # bytes of our request's body
    _left: int = _UNCOUNTED  # bytes of the response's body

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._head = HeadParser(self.protocol, 1, limits.params_bytes)

    @property
    def buffered(self) -> int:
        """Bytes held of a response head that is not whole."""
        return self._head.buffered

    @property
    def active(self) -> int:
        """1 while the answer to the request is not whole."""
        return 1 if self._sent and self._state != _DONE else 0

    @property
    def complete(self) -> bool:
        """The response has all the bytes that its Content-Length promised."""
        return self._state == _BODY and self._left == 0

    # -- to the wire --------------------------------------------------------------------------------------------

    def send(self, event: Event) -> bytes:
        """Encode Request and Body; raises LocalProtocolError, also where a body is not as long as CONTENT_LENGTH says.

        A CONTENT_LENGTH that is no number goes out as it is, and the body after it is not counted. There is no form
        for Abort: close the connection.
        """
        if isinstance(event, Request):
            return self._begin(event)
        if isinstance(event, Body):
            if not self._sent:
                raise LocalProtocolError(self.protocol, "a body without a request")
            if self._to_come != _UNCOUNTED:
                if len(event.data) > self._to_come:
                    raise LocalProtocolError(self.protocol, "the body is longer than CONTENT_LENGTH")
                self._to_come -= len(event.data)
            return event.data
        if isinstance(event, EndOfBody):
            if self._to_come > 0:
                raise LocalProtocolError(self.protocol, f"the body ends {self._to_come} bytes before CONTENT_LENGTH")
        elif isinstance(event, Abort):
            self.closing = True
        elif isinstance(event, (ResponseHead, RawBody, ErrorOutput, EndOfResponse)):
            raise LocalProtocolError(self.protocol, "the web-server side sends no responses")
        return b""

    def _begin(self, event: Request) -> bytes:
        if self._sent:
            raise LocalProtocolError(self.protocol, "a second request on one connection")
        if event.stream != 1:
            raise LocalProtocolError(self.protocol, "the one request of a connection is stream 1")
        if event.role != "responder":
            raise LocalProtocolError(self.protocol, f"there is no role {event.role!r} here")
        params = dict(event.params)
        if "CONTENT_LENGTH" not in params and event.content_length > 0:
            params["CONTENT_LENGTH"] = str(event.content_length)
        try:
            to_come = max(0, content_length(params, self.protocol))
        except MalformedMessage:
            to_come = _UNCOUNTED
        try:
            data = self._packet(params)
        except UnicodeEncodeError:
            raise LocalProtocolError(self.protocol, "a parameter holds text outside latin-1") from None
        self._to_come = to_come
        self._method = params.get("REQUEST_METHOD", "")
        self._sent = True
        return data

    def _packet(self, params: dict[str, str]) -> bytes:
        """Return the head of a request; ``params`` is the callee's to change."""
        raise NotImplementedError

    # -- from the wire ------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the wire; raises RemoteProtocolError."""
        events: list[Event] = []
        try:
            if self._state == _HEAD:
                head = self._head.feed(data)
                if head is not None:
                    self._left = body_length(self.protocol, head, self._method)
                    self._state = _BODY
                    events.append(head)
                    self._feed_body(self._head.rest, events)
            elif self._state == _BODY:
                self._feed_body(data, events)
            elif self._state == _PONG:
                self._feed_pong(data)
        except RemoteProtocolError as error:
            self._state = _DONE
            self.closing = True
            error.events = events
            raise
        return events

    def _feed_body(self, data: bytes, events: list[Event]) -> None:
        surplus = 0
        if self._left != _UNCOUNTED:
            surplus = len(data) - self._left
            if surplus > 0:
                data = data[: self._left]
            self._left -= len(data)
        if data:
            events.append(Body(1, data))
        if surplus > 0:
            raise MalformedMessage(self.protocol, "the response is longer than its Content-Length", 502)

    def _feed_pong(self, data: bytes) -> None:
        raise NotImplementedError

    def feed_eof(self) -> list[Event]:
        """Take the end of file: EndOfResponse and Closed; raises TruncatedMessage where the response is not whole."""
        state = self._state
        self._state = _DONE
        self.closing = True
        if state == _BODY:
            if self._left > 0:
                words = f"the response ended {self._left} bytes before its Content-Length"
                raise TruncatedMessage(self.protocol, words, 502)
            return [EndOfResponse(1), Closed()]
        if state == _PONG:
            raise TruncatedMessage(self.protocol, "the peer closed before the answer to a ping", 502)
        if state == _HEAD and self._head.buffered:
            raise TruncatedMessage(self.protocol, "the peer closed within the response head", 502)
        if state == _HEAD and self._sent:
            raise TruncatedMessage(self.protocol, "the peer closed without a response", 502)
        return [Closed()]


class SCGIFrontCodec(SingleFrontCodec):
    """The web-server side of one SCGI connection."""

    protocol: str = "scgi"

    def _packet(self, params: dict[str, str]) -> bytes:
        """Return the netstring: CONTENT_LENGTH comes first, and is always there, as ``SCGI: 1`` is."""
        length = params.pop("CONTENT_LENGTH", "0")
        params.setdefault("SCGI", "1")
        block = encode_scgi_headers([("CONTENT_LENGTH", length), *params.items()])
        return b"%d:%b," % (len(block), block)


class UWSGIFrontCodec(SingleFrontCodec):
    """The web-server side of one uwsgi connection; the modifiers are those of its packet."""

    protocol: str = "uwsgi"
    pong: bool = False
    """The answer to ``ping`` came."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, modifier1: int = 0, modifier2: int = 0) -> None:
        super().__init__(limits)
        if not (0 <= modifier1 <= 255 and 0 <= modifier2 <= 255):
            raise LocalProtocolError("uwsgi", f"a modifier is one byte: {modifier1}, {modifier2}")
        self._modifier1 = modifier1
        self._modifier2 = modifier2
        self._pong = b""

    @property
    def buffered(self) -> int:
        """Bytes held of a response head, or an answer to a ping, that is not whole."""
        return self._head.buffered + len(self._pong)

    def ping(self) -> bytes:
        """Return the packet that asks whether a server is there, instead of a request; see ``pong``."""
        if self._sent:
            raise LocalProtocolError("uwsgi", "a ping after a request")
        self._sent = True
        self._state = _PONG
        return _PING_PACKET

    def _packet(self, params: dict[str, str]) -> bytes:
        block = encode_uwsgi_vars(params.items())
        size = len(block)
        return bytes((self._modifier1, size & 255, size >> 8, self._modifier2)) + block

    def _feed_pong(self, data: bytes) -> None:
        self._pong += data[: len(_PONG_PACKET) - len(self._pong)]
        if not _PONG_PACKET.startswith(self._pong):
            raise MalformedMessage("uwsgi", "not the answer to a ping", 502)
        if self._pong == _PONG_PACKET:
            self.pong = True
            self.closing = True
            self._pong = b""
            self._state = _DONE
