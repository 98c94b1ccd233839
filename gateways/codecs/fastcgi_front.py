"""FastCGI 1.0, the web-server side: requests to records, records to responses.

FCGI_STDOUT is a CGI response, FCGI_STDERR text for the error log; a response ends at FCGI_END_REQUEST and nowhere
else. A response that breaks a rule is ``Refused`` alone, in the place of what is left of it; what makes the record
stream itself unreadable is raised and ends the connection. Records that are none of a web server's business, and
those of ids that are not active, are ignored (sections 3.3 and 4.2).
"""

from __future__ import annotations

from collections.abc import Iterable
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
    Refused,
    Request,
    ResponseHead,
)
from gateways.codecs.fastcgi_records import (
    FCGI_ABORT_REQUEST,
    FCGI_AUTHORIZER,
    FCGI_BEGIN_REQUEST,
    FCGI_CANT_MPX_CONN,
    FCGI_END_REQUEST,
    FCGI_FILTER,
    FCGI_GET_VALUES,
    FCGI_GET_VALUES_RESULT,
    FCGI_HEADER_LEN,
    FCGI_KEEP_CONN,
    FCGI_MAX_LENGTH,
    FCGI_NULL_REQUEST_ID,
    FCGI_OVERLOADED,
    FCGI_PARAMS,
    FCGI_REQUEST_COMPLETE,
    FCGI_RESPONDER,
    FCGI_STDERR,
    FCGI_STDIN,
    FCGI_STDOUT,
    FCGI_UNKNOWN_ROLE,
    FCGI_UNKNOWN_TYPE,
    FCGI_VERSION_1,
    record,
    stream_records,
)
from gateways.codecs.front import FrontCodec
from gateways.codecs.pairs import encode_fastcgi_pairs, fastcgi_list
from gateways.errors import LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits

__all__ = ["FastCGIFrontCodec"]

_ROLES: Final = {"responder": FCGI_RESPONDER, "authorizer": FCGI_AUTHORIZER, "filter": FCGI_FILTER}
_REFUSALS: Final = {
    FCGI_REQUEST_COMPLETE: "",
    FCGI_CANT_MPX_CONN: "cant_mpx_conn",
    FCGI_OVERLOADED: "overloaded",
    FCGI_UNKNOWN_ROLE: "unknown_role",
}
_FIXED_LEN: Final = 8  # the content of FCGI_END_REQUEST and FCGI_UNKNOWN_TYPE


class _Stream:
    """One active request: from our FCGI_BEGIN_REQUEST to the peer's FCGI_END_REQUEST."""

    takes_body: bool = True
    aborted: bool = False
    refused: bool = False
    """The response broke a rule; what is left of it is ignored."""
    ended: bool = False
    """The empty FCGI_STDOUT came."""
    left: int = -1
    """Bytes that Content-Length still promises; -1 where it promised nothing."""

    def __init__(self, number: int, method: str, limit: int) -> None:
        self.method = method
        self.head: HeadParser | None = HeadParser("fastcgi", number, limit)


class FastCGIFrontCodec(FrontCodec):
    """The web-server side of one FastCGI connection."""

    protocol: str = "fastcgi"
    multiplexed: bool = True

    _need: int = 0  # bytes of the record that _buffer holds the start of
    _close_after: bool = False
    _dead: bool = False

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.values: dict[str, str] = {}
        """What FCGI_GET_VALUES_RESULT records have said."""
        self.results = 0
        """How many FCGI_GET_VALUES_RESULT records came."""
        self.unknown_types: set[int] = set()
        """Record types that the peer has said it does not know."""
        self._limits = limits
        self._buffer = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._ended: set[int] = set()

    @property
    def buffered(self) -> int:
        """Bytes held of records and response heads that are not whole."""
        heads = [stream.head for stream in self._streams.values() if stream.head is not None]
        return len(self._buffer) + sum([head.buffered for head in heads])

    @property
    def active(self) -> int:
        """Requests that the peer has not ended."""
        return len(self._streams)

    @property
    def complete(self) -> bool:
        """All requests are answered."""
        return not self._streams and not self._buffer and not self._dead

    # -- to the wire --------------------------------------------------------------------------------------------

    def get_values(self, names: Iterable[str]) -> bytes:
        """Return the FCGI_GET_VALUES record that asks for these; the answer comes into ``values`` (section 4.1)."""
        block = self._pairs([(name, "") for name in names])
        if len(block) > FCGI_MAX_LENGTH:
            raise LocalProtocolError("fastcgi", f"{len(block)} bytes of names do not fit into one record")
        return record(FCGI_GET_VALUES, FCGI_NULL_REQUEST_ID, block)

    def send(self, event: Event) -> bytes:
        """Encode Request, Body, EndOfBody, Abort; raises LocalProtocolError where the stream is not in that state.

        Nothing is sent for a stream that the peer has ended meanwhile, which the caller cannot know.
        """
        if isinstance(event, Request):
            return self._begin(event)
        if isinstance(event, (Body, EndOfBody, Abort)) and event.stream in self._ended:
            return b""
        if isinstance(event, Body):
            if not self._stream(event.stream).takes_body:
                raise LocalProtocolError("fastcgi", f"request {event.stream} takes no body, or no more of it")
            return stream_records(FCGI_STDIN, event.stream, event.data)
        if isinstance(event, EndOfBody):
            stream = self._stream(event.stream)
            if not stream.takes_body:  # an Authorizer has no FCGI_STDIN (section 6.3)
                return b""
            stream.takes_body = False
            return record(FCGI_STDIN, event.stream)
        if isinstance(event, Abort):
            stream = self._stream(event.stream)
            stream.takes_body = False
            stream.aborted = True
            return record(FCGI_ABORT_REQUEST, event.stream)
        if isinstance(event, (ResponseHead, RawBody, ErrorOutput, EndOfResponse)):
            raise LocalProtocolError("fastcgi", "the web-server side sends no responses")
        return b""

    def _begin(self, event: Request) -> bytes:
        """Return FCGI_BEGIN_REQUEST and the whole stream of parameters; a role may also be told by its number."""
        number = event.stream
        if not FCGI_NULL_REQUEST_ID < number <= FCGI_MAX_LENGTH:
            raise LocalProtocolError("fastcgi", f"{number} is no request id")
        if number in self._streams:
            raise LocalProtocolError("fastcgi", f"request {number} is active")
        role = _ROLES.get(event.role, -1)
        if role < 0:
            digits = event.role.isdigit() and event.role.isascii() and len(event.role) <= 5
            if not digits or int(event.role) > FCGI_MAX_LENGTH:
                raise LocalProtocolError("fastcgi", f"{event.role!r} is no role")
            role = int(event.role)
        flags = FCGI_KEEP_CONN if event.keep else 0
        begin = record(FCGI_BEGIN_REQUEST, number, bytes((role >> 8, role & 255, flags, 0, 0, 0, 0, 0)))
        block = self._pairs(list(event.params.items()))
        stream = _Stream(number, event.params.get("REQUEST_METHOD", ""), self._limits.params_bytes)
        stream.takes_body = role != FCGI_AUTHORIZER
        self._streams[number] = stream
        self._ended.discard(number)
        if not event.keep:
            self._close_after = True
        return begin + stream_records(FCGI_PARAMS, number, block) + record(FCGI_PARAMS, number)

    def _pairs(self, pairs: list[tuple[str, str]]) -> bytes:
        try:
            return encode_fastcgi_pairs(pairs)
        except UnicodeEncodeError:
            raise LocalProtocolError("fastcgi", "a parameter holds text outside latin-1") from None

    def _stream(self, number: int) -> _Stream:
        stream = self._streams.get(number)
        if stream is None:
            raise LocalProtocolError("fastcgi", f"request {number} is not active")
        return stream

    # -- from the wire ------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the wire; raises RemoteProtocolError."""
        events: list[Event] = []
        if self._dead:
            return events
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return events
            data = bytes(self._buffer)
            self._buffer.clear()
        try:
            at = self._records(data, events)
        except RemoteProtocolError as error:
            self._dead = True
            error.events = events
            raise
        self._buffer += data[at:]
        return events

    def _records(self, data: bytes, events: list[Event]) -> int:
        """Take the whole records in ``data``; return the offset of the one that is not whole, and set ``_need``."""
        at = 0
        end = len(data)
        while at < end:
            if data[at] != FCGI_VERSION_1:
                raise MalformedMessage("fastcgi", f"version {data[at]} in the header of a record", 502)
            start = at + FCGI_HEADER_LEN
            if start > end:
                self._need = FCGI_HEADER_LEN
                break
            size = (data[at + 4] << 8) | data[at + 5]
            after = start + size + data[at + 6]
            if after > end:
                self._need = after - at
                break
            self._record(data[at + 1], (data[at + 2] << 8) | data[at + 3], data[start : start + size], events)
            at = after
        return at

    def _record(self, kind: int, number: int, content: bytes, events: list[Event]) -> None:
        """Take one whole record."""
        if number == FCGI_NULL_REQUEST_ID:
            if kind == FCGI_GET_VALUES_RESULT:
                self.values.update(_values(content))
                self.results += 1
            elif kind == FCGI_UNKNOWN_TYPE:
                self.unknown_types.add(_fixed(kind, content)[0])
            return
        stream = self._streams.get(number)
        if stream is None:
            return
        if kind == FCGI_END_REQUEST:
            self._end_request(number, stream, _fixed(kind, content), events)
        elif stream.refused:
            return
        elif kind == FCGI_STDERR:
            if content:
                events.append(ErrorOutput(number, content))
        elif kind == FCGI_STDOUT:
            try:
                self._stdout(number, stream, content, events)
            except RemoteProtocolError as error:
                self._refuse(number, stream, error, events)

    def _stdout(self, number: int, stream: _Stream, content: bytes, events: list[Event]) -> None:
        if stream.ended:
            raise MalformedMessage("fastcgi", "FCGI_STDOUT after its end", 502)
        if not content:
            stream.ended = True
            return
        if stream.head is not None:
            head = stream.head.feed(content)
            if head is None:
                return
            content = stream.head.rest
            stream.head = None
            stream.left = body_length("fastcgi", head, stream.method)
            events.append(head)
        if not content:
            return
        if stream.left >= 0:
            surplus = len(content) - stream.left
            if surplus > 0:
                content = content[: stream.left]
            stream.left -= len(content)
            if content:
                events.append(Body(number, content))
            if surplus > 0:
                raise MalformedMessage("fastcgi", "the response is longer than its Content-Length", 502)
        else:
            events.append(Body(number, content))

    def _refuse(self, number: int, stream: _Stream, error: RemoteProtocolError, events: list[Event]) -> None:
        stream.refused = True
        stream.head = None
        events.append(Refused(number, error))

    def _end_request(self, number: int, stream: _Stream, content: bytes, events: list[Event]) -> None:
        """End a response. One that was declined or aborted needs no head, and no whole body."""
        del self._streams[number]
        self._ended.add(number)
        if self._close_after and not self._streams:
            self.closing = True
        if stream.refused:
            return
        status = content[4]
        refused = _REFUSALS.get(status)
        if refused is None:
            events.append(Refused(number, MalformedMessage("fastcgi", f"protocolStatus {status}", 502)))
            return
        if not refused and not stream.aborted:
            if stream.head is not None:
                words = "ended within its head" if stream.head.buffered else "has no head"
                events.append(Refused(number, MalformedMessage("fastcgi", f"the response {words}", 502)))
                return
            if stream.left > 0:
                words = f"the response ended {stream.left} bytes before its Content-Length"
                events.append(Refused(number, TruncatedMessage("fastcgi", words, 502)))
                return
        app_status = (content[0] << 24) | (content[1] << 16) | (content[2] << 8) | content[3]
        events.append(EndOfResponse(number, app_status, refused))

    def feed_eof(self) -> list[Event]:
        """Take the end of file; raises TruncatedMessage within a record or before an FCGI_END_REQUEST."""
        if self._dead:
            return [Closed()]
        self._dead = True
        self.closing = True
        if self._buffer:
            self._buffer.clear()
            raise TruncatedMessage("fastcgi", "the peer closed within a record", 502)
        for number, stream in self._streams.items():
            if not stream.refused:
                raise TruncatedMessage("fastcgi", f"the peer closed before the end of response {number}", 502)
        return [Closed()]


def _values(content: bytes) -> dict[str, str]:
    """Read the content of FCGI_GET_VALUES_RESULT; raises MalformedMessage."""
    try:
        return dict(fastcgi_list(content))
    except MalformedMessage as error:
        raise MalformedMessage("fastcgi", f"FCGI_GET_VALUES_RESULT: {error.message}", 502) from None


def _fixed(kind: int, content: bytes) -> bytes:
    """Return the content of a record that has exactly 8 bytes of it; raises MalformedMessage."""
    if len(content) != _FIXED_LEN:
        raise MalformedMessage("fastcgi", f"a record of type {kind} with {len(content)} bytes instead of 8", 502)
    return content
