"""FastCGI 1.0, the application side: records to requests, responses to records.

Parameters are one stream over any number of records; a body ends at the empty FCGI_STDIN record, whatever
CONTENT_LENGTH says. A request that breaks a rule is ``Refused`` alone; what makes the record stream itself
unreadable, or would mix two requests, is raised and ends the connection.

May be used by two threads at once where one feeds and the others send: each touches the table of streams by
single dict operations only.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs import Codec
from gateways.codecs.cgi import encode_head
from gateways.codecs.detect import looks_like
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
    CONTENT_CHUNK,
    FCGI_ABORT_REQUEST,
    FCGI_AUTHORIZER,
    FCGI_BEGIN_REQUEST,
    FCGI_END_REQUEST,
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
    record_header,
    stream_parts,
    stream_records,
)
from gateways.codecs.pairs import content_length, encode_fastcgi_pairs, fastcgi_list, parse_fastcgi_pairs
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits

__all__ = ["FastCGICodec"]

_PARAMS: Final = 0
_BODY: Final = 1
_DONE: Final = 2
_REFUSED: Final = 3

_BEGIN_LEN: Final = 8
# What _whole_request looks for: the records of request 1.
_BEGIN_RESPONDER_1: Final = record(FCGI_BEGIN_REQUEST, 1, b"\0\1\0\0\0\0\0\0")[:10]
_PARAMS_AT: Final = FCGI_HEADER_LEN + _BEGIN_LEN
_PARAMS_1: Final = record(FCGI_PARAMS, 1)[:4]
_ENDS_1: Final = record(FCGI_PARAMS, 1) + record(FCGI_STDIN, 1)
_END_OF_BODY_1: Final = EndOfBody(1)
_FINISH_1: Final = record(FCGI_STDOUT, 1) + record(FCGI_END_REQUEST, 1, b"\0\0\0\0\0\0\0\0")
_RAW_SIZE: Final = 15 * 4096
"""Linux takes a file to a socket through a pipe of 16 buffers, a page in each: 15 pages are never over that, wherever
they start. The most that a record can hold would go in two turns, each of which wakes the peer."""
_MANY_PARTS: Final = 64
_GET_VALUES_MAX: Final = 1024  # three names of 15 bytes are all that the specification knows


class _Stream:
    """One active request: from its FCGI_BEGIN_REQUEST to our FCGI_END_REQUEST."""

    state: int = _PARAMS
    size: int = 0
    """Bytes of parameters so far."""
    received: int = 0
    """Bytes of body so far."""
    protocol_status: int = FCGI_REQUEST_COMPLETE

    def __init__(self, role: int, keep: bool) -> None:
        self.role = role
        self.keep = keep
        self.params: list[bytes] = []


def _wrong_version(version: int) -> MalformedMessage:
    hint = looks_like(version) if version else ""  # 0 is padding that was not told
    return MalformedMessage("fastcgi", f"version {version} in the header of a record{hint}")


class FastCGICodec(Codec):
    """The application side of one FastCGI connection.

    ``max_conns`` and ``max_reqs`` are what FCGI_GET_VALUES is told of the whole application (section 4.1).
    """

    protocol: str = "fastcgi"
    multiplexed: bool = True
    raw_size: int = _RAW_SIZE

    _buffer: bytes = b""
    _close_after: bool = False
    _to_send: bytes = b""
    _dead: bool = False
    _whole: _Stream | None = None
    """Stands for each request that comes whole, one after another, until it has to be refused."""
    _left: int = 0
    """Bytes, content and padding, that are still to come of an FCGI_STDIN record whose beginning was handed on."""
    _left_padding: int = 0
    _left_to: int = 0
    """The request that it belongs to."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, max_conns: int = 1024, max_reqs: int = 1024) -> None:
        self._limits = limits
        self._max_conns = max_conns
        self._max_reqs = max_reqs
        self._streams: dict[int, _Stream] = {}

    @property
    def buffered(self) -> int:
        """Bytes held of records and parameters that are not whole."""
        held = FCGI_HEADER_LEN if self._left else len(self._buffer)
        if not self._streams:
            return held
        return held + sum(stream.size for stream in list(self._streams.values()))

    @property
    def error_stream(self) -> int:
        """A request whose parameters are not whole, which nobody else would answer; or 0."""
        if not self._streams:
            return 0
        for number, stream in list(self._streams.items()):
            if stream.state == _PARAMS:
                return number
        return 0

    # -- from the wire ------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the wire; raises RemoteProtocolError."""
        events: list[Event] = []
        if self._dead:
            return events
        at = 0
        if self._buffer:
            data = self._buffer + data
        elif self._left:
            at = self._go_on(data, events)
        elif not self._streams and data.startswith(_BEGIN_RESPONDER_1):
            at = self._whole_request(data, events)
            if at == len(data):
                return events
        end = len(data)
        try:
            while end - at >= FCGI_HEADER_LEN:
                if data[at] != FCGI_VERSION_1:
                    raise _wrong_version(data[at])
                start = at + FCGI_HEADER_LEN
                size = (data[at + 4] << 8) | data[at + 5]
                after = start + size + data[at + 6]
                if after > end:
                    if data[at + 1] == FCGI_STDIN and end > start and size:
                        at = self._part_of_stdin(data, at, size, events)
                    break
                self._record(data[at + 1], (data[at + 2] << 8) | data[at + 3], data[start : start + size], events)
                at = after
            if at < end and data[at] != FCGI_VERSION_1:
                raise _wrong_version(data[at])
        except RemoteProtocolError as error:
            self._dead = True
            self._buffer = b""
            error.events = events
            raise
        self._buffer = data[at:] if at < end else b""
        return events

    def _whole_request(self, data: bytes, events: list[Event]) -> int:
        """Take a request without a body in the one form that nginx, Apache, lighttpd, Caddy and h2o all give it.

        That is: request 1, parameters in one record, read in one piece, nothing else under way. Returns how far it
        goes; 0 where it is not so, and record by record is the way. It saves a fifth of what such a request costs.
        """
        size = (data[20] << 8) | data[21] if len(data) > _PARAMS_AT + FCGI_HEADER_LEN else 0
        after = _PARAMS_AT + FCGI_HEADER_LEN + size + data[22] if size else 0
        if (
            not size
            or data[16:20] != _PARAMS_1
            or data[after : after + 16] != _ENDS_1
            or size > self._limits.params_bytes
        ):
            return 0
        keep = data[10] & FCGI_KEEP_CONN != 0
        stream = self._whole
        if stream is None or stream.state != _DONE or stream.keep != keep:
            self._whole = stream = _Stream(FCGI_RESPONDER, keep)
        self._streams[1] = stream
        if not keep:
            self._close_after = True
        self._head(1, stream, data[24 : 24 + size], events)
        if stream.state == _BODY:
            stream.state = _DONE
            events.append(_END_OF_BODY_1)
        return after + 16

    def _part_of_stdin(self, data: bytes, at: int, size: int, events: list[Event]) -> int:
        """Hand on what has come of a record that starts at ``at`` and is not whole, where a body goes on with it.

        To hold it until it is whole would copy an upload once more than needed, each time into fresh memory. Returns
        how far it goes.
        """
        number = (data[at + 2] << 8) | data[at + 3]
        stream = self._streams.get(number)
        if stream is None or stream.state != _BODY:
            return at
        start = at + FCGI_HEADER_LEN
        content = data[start : start + size]
        stream.received += size - len(content)  # whether the body is too long does not depend on how it is read
        self._stdin(number, stream, content, events)
        self._left_to = number
        self._left_padding = data[at + 6]
        self._left = size + self._left_padding - (len(data) - start)
        return len(data)

    def _go_on(self, data: bytes, events: list[Event]) -> int:
        """Take what comes of the record whose beginning was handed on; returns how far it goes."""
        left = self._left
        size = left - self._left_padding
        content = data if len(data) <= size else data[: max(0, size)]  # not even sliced: compiled, that is a copy
        stream = self._streams.get(self._left_to)
        if content and stream is not None and stream.state == _BODY:  # else it has been answered or refused meanwhile
            events.append(Body(self._left_to, content))
        taken = min(left, len(data))
        self._left = left - taken
        return taken

    def _record(self, kind: int, number: int, content: bytes, events: list[Event]) -> None:
        """Take one whole record. Records of streams that are not active are ignored (section 3.3)."""
        if kind == FCGI_PARAMS or kind == FCGI_STDIN:
            stream = self._streams.get(number)
            if stream is None or stream.state == _REFUSED:
                return
            if kind == FCGI_PARAMS:
                self._params(number, stream, content, events)
            else:
                self._stdin(number, stream, content, events)
        elif kind == FCGI_BEGIN_REQUEST:
            self._begin_request(number, content, events)
        elif kind == FCGI_ABORT_REQUEST:
            self._abort_request(number, events)
        elif kind == FCGI_GET_VALUES:
            self._get_values(content)
        elif kind > FCGI_UNKNOWN_TYPE or kind == 0 or number == FCGI_NULL_REQUEST_ID:
            # Section 4.2; also for the types that only an application sends, where they come as management records.
            self._to_send += record(FCGI_UNKNOWN_TYPE, FCGI_NULL_REQUEST_ID, bytes((kind, 0, 0, 0, 0, 0, 0, 0)))

    def _begin_request(self, number: int, content: bytes, events: list[Event]) -> None:
        if number == FCGI_NULL_REQUEST_ID:
            raise MalformedMessage("fastcgi", "FCGI_BEGIN_REQUEST with the null request id")
        if len(content) != _BEGIN_LEN:
            raise MalformedMessage("fastcgi", f"FCGI_BEGIN_REQUEST with {len(content)} bytes instead of 8")
        if number in self._streams:
            raise MalformedMessage("fastcgi", f"FCGI_BEGIN_REQUEST for request {number}, which is active")
        role = (content[0] << 8) | content[1]
        keep = content[2] & FCGI_KEEP_CONN != 0
        most = self._limits.requests_per_connection
        if len(self._streams) >= 2 * most:  # refused ones wait for our answer; a peer that does not read gets no more
            raise LimitExceeded("fastcgi", "requests on one connection", len(self._streams) + 1, 2 * most, 503)
        stream = _Stream(role, keep)
        self._streams[number] = stream
        if not keep:
            self._close_after = True
        if role != FCGI_RESPONDER and role != FCGI_AUTHORIZER:
            stream.protocol_status = FCGI_UNKNOWN_ROLE
            error = MalformedMessage("fastcgi", f"role {role} is not served; Responder and Authorizer are", 501)
            self._refuse(number, stream, error, events)
        elif len(self._streams) > most:
            stream.protocol_status = FCGI_OVERLOADED
            busy = LimitExceeded("fastcgi", "requests on one connection", len(self._streams), most, 503)
            self._refuse(number, stream, busy, events)

    def _refuse(self, number: int, stream: _Stream, error: RemoteProtocolError, events: list[Event]) -> None:
        stream.state = _REFUSED
        stream.params = []
        stream.size = 0
        events.append(Refused(number, error))

    def _params(self, number: int, stream: _Stream, content: bytes, events: list[Event]) -> None:
        if stream.state != _PARAMS:
            late = MalformedMessage("fastcgi", "FCGI_PARAMS after the end of the parameters")
            self._refuse(number, stream, late, events)
        elif content:
            size = stream.size + len(content)
            if size > self._limits.params_bytes:
                much = LimitExceeded("fastcgi", "stream of parameters", size, self._limits.params_bytes, 431)
                self._refuse(number, stream, much, events)
                return
            stream.size = size
            stream.params.append(content)
            if len(stream.params) > _MANY_PARTS:  # records of a few bytes each would take 20 times their size
                stream.params = [b"".join(stream.params)]
        else:
            self._end_of_params(number, stream, events)

    def _end_of_params(self, number: int, stream: _Stream, events: list[Event]) -> None:
        parts = stream.params
        block = parts[0] if len(parts) == 1 else b"".join(parts)
        stream.params = []
        stream.size = 0
        self._head(number, stream, block, events)

    def _head(self, number: int, stream: _Stream, block: bytes, events: list[Event]) -> None:
        """Take all parameters of a request."""
        try:
            params = parse_fastcgi_pairs(block, self._limits.params_count)
            length = content_length(params, "fastcgi") if params.get("CONTENT_LENGTH") else -1
            if length > 0:
                most = self._limits.body_bytes
                if most and length > most:
                    raise LimitExceeded("fastcgi", "request body", length, most, 413)
        except RemoteProtocolError as error:
            self._refuse(number, stream, error, events)
            return
        if stream.role == FCGI_AUTHORIZER:  # it has no FCGI_STDIN (section 6.3)
            stream.state = _DONE
            events.append(Request(number, params, 0, "authorizer", False, stream.keep))
            events.append(EndOfBody(number))
        else:
            stream.state = _BODY
            events.append(Request(number, params, length, "responder", False, stream.keep))

    def _stdin(self, number: int, stream: _Stream, content: bytes, events: list[Event]) -> None:
        if stream.state == _PARAMS:
            early = MalformedMessage("fastcgi", "FCGI_STDIN before the end of the parameters")
            self._refuse(number, stream, early, events)
        elif stream.state == _BODY:  # after its end another empty record, or any, belongs to nothing
            if content:
                stream.received += len(content)
                most = self._limits.body_bytes
                if most and stream.received > most:
                    much = LimitExceeded("fastcgi", "request body", stream.received, most, 413)
                    self._refuse(number, stream, much, events)
                else:
                    events.append(Body(number, content))
            else:
                stream.state = _DONE
                events.append(EndOfBody(number))

    def _abort_request(self, number: int, events: list[Event]) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        if stream.state == _PARAMS:  # nobody above knows of it yet: it is answered here (section 5.4)
            self._to_send += self._end_request(number, 0)
        else:
            events.append(Abort(number))

    def _get_values(self, content: bytes) -> None:
        """Answer with those variables that are asked for and known (section 4.1)."""
        if len(content) > _GET_VALUES_MAX:
            raise LimitExceeded("fastcgi", "FCGI_GET_VALUES", len(content), _GET_VALUES_MAX, 400)
        asked = {name for name, _ in fastcgi_list(content)}
        values = (("FCGI_MAX_CONNS", self._max_conns), ("FCGI_MAX_REQS", self._max_reqs), ("FCGI_MPXS_CONNS", 1))
        known = [(name, str(value)) for name, value in values if name in asked]
        self._to_send += record(FCGI_GET_VALUES_RESULT, FCGI_NULL_REQUEST_ID, encode_fastcgi_pairs(known))

    def feed_eof(self) -> list[Event]:
        """Take the end of file; raises TruncatedMessage within a record or a request."""
        if self._dead:
            return [Closed()]
        self._dead = True
        waiting = [number for number, stream in list(self._streams.items()) if stream.state in (_PARAMS, _BODY)]
        within = self._buffer or self._left
        if within or waiting:
            raise TruncatedMessage(
                "fastcgi",
                "the peer closed within a record" if within else f"the peer closed within request {waiting[0]}",
            )
        return [Closed()]

    # -- to the wire --------------------------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """Return, once, the answers to management records and to requests aborted before they began."""
        data = self._to_send
        if data:
            self._to_send = b""
        return data

    def send(self, event: Event) -> bytes:
        """Encode ResponseHead, Body, ErrorOutput, EndOfResponse; raises LocalProtocolError for a stream not active."""
        if isinstance(event, ResponseHead):
            return self.head(event.stream, event.status, event.headers, event.content, event.end)
        if isinstance(event, Body):
            self._check_active(event.stream)
            return stream_records(FCGI_STDOUT, event.stream, event.data)
        if isinstance(event, RawBody):
            self._check_active(event.stream)
            if not 0 < event.size <= _RAW_SIZE:
                raise LocalProtocolError("fastcgi", f"a record of a file cannot hold {event.size} bytes")
            return record_header(FCGI_STDOUT, event.stream, event.size)
        if isinstance(event, EndOfResponse):
            return self._end_request(event.stream, event.app_status)
        if isinstance(event, ErrorOutput):
            self._check_active(event.stream)
            return stream_records(FCGI_STDERR, event.stream, event.data)
        if isinstance(event, Request):
            raise LocalProtocolError("fastcgi", "the application side sends no requests")
        return b""

    def head(
        self, stream: int, status: str, headers: list[tuple[str, str]], content: bytes = b"", end: bool = False
    ) -> bytes:
        """Encode a head and the first block of body as FCGI_STDOUT; ``end``: and the end of the request."""
        content = encode_head("fastcgi", "Status: " + status, headers) + content
        if end and len(content) <= FCGI_MAX_LENGTH:
            finish = self._end_request(stream, 0)  # which knows whether the stream is active
            return record(FCGI_STDOUT, stream, content) + finish
        self._check_active(stream)
        data = stream_records(FCGI_STDOUT, stream, content)
        return data + self._end_request(stream, 0) if end else data

    def body_parts(self, stream: int, data: bytes) -> list[bytes | memoryview]:
        """Return a block of body as records, without a copy of it."""
        self._check_active(stream)
        return stream_parts(FCGI_STDOUT, stream, b"", data)

    def head_parts(self, head: ResponseHead) -> list[bytes | memoryview]:
        """As ``send``, without a copy of the block behind the head."""
        first = encode_head("fastcgi", "Status: " + head.status, head.headers)
        if len(first) > CONTENT_CHUNK:
            return [self.send(head)]
        self._check_active(head.stream)
        parts = stream_parts(FCGI_STDOUT, head.stream, first, head.content)
        if head.end:
            parts.append(self._end_request(head.stream, 0))
        return parts

    def _check_active(self, number: int) -> None:
        if number not in self._streams:
            raise LocalProtocolError("fastcgi", f"request {number} is not active")

    def _end_request(self, number: int, app_status: int) -> bytes:
        """Return the end of FCGI_STDOUT and FCGI_END_REQUEST (sections 5.5 and 6.2)."""
        stream = self._streams.pop(number, None)
        if stream is None:
            raise LocalProtocolError("fastcgi", f"request {number} is not active")
        if self._close_after and not self._streams:
            self.closing = True
        if number == 1 and app_status == 0 and stream.protocol_status == FCGI_REQUEST_COMPLETE:
            return _FINISH_1
        ended = (app_status & 0xFFFFFFFF).to_bytes(4, "big") + bytes((stream.protocol_status, 0, 0, 0))
        return record(FCGI_STDOUT, number) + record(FCGI_END_REQUEST, number, ended)
