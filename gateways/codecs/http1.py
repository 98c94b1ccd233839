"""HTTP/1.1 (RFC 9110, RFC 9112), the application side: a thin adapter over httptools, which is llhttp.

llhttp reads header fields and chunks; from httptools 0.6.3 on it is strict in both. Done here is what it cannot do:
it knows a fixed list of methods, so one expression reads the request line; it tells no offsets, so heads are cut
out and bodies counted; it takes what follows an Upgrade for another protocol, which we never agree to.
This file knows nothing of PATH_INFO, addresses and clocks: the variables that a web server in front would send of
itself and of the client are given to the codec, and so is what tells the date.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateways.codecs import RAW_SIZE, Codec
from gateways.codecs.cgi import encode_head
from gateways.codecs.detect import looks_like
from gateways.codecs.events import (
    Body,
    Closed,
    Continue,
    EndOfBody,
    EndOfResponse,
    ErrorOutput,
    Event,
    RawBody,
    Request,
    ResponseHead,
)
from gateways.codecs.pairs import content_length
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits

__all__ = ["HTTP1Codec"]

_END_OF_HEAD: Final = b"\r\n\r\n"
_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # a token (RFC 9110 section 5.6.2)
_FIELD_NAME: Final = re.compile(_NAME)
_CODINGS: Final = re.compile(_NAME + r"(?:[ \t]*,[ \t]*" + _NAME + ")*")
_STATUS: Final = re.compile(r"[1-9][0-9][0-9](?: .*)?")
# RFC 9112 section 3, after at most one empty line (section 2.2). A target may hold raw bytes from 0x80 on: curl
# sends them, nginx passes them on. It holds no fragment.
_REQUEST_LINE: Final = re.compile(rb"(?:\r\n)?(" + _NAME.encode() + rb") ([^\x00-\x20\x7f#]+) HTTP/([0-9]\.[0-9])")
# Looked for in incomplete heads only, to refuse at once what will never end; llhttp refuses it in whole ones.
_NOT_IN_HEAD: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|\n(?<!\r\n)")
_HOST_CHARACTER: Final = r"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]"  # RFC 3986 section 3.2.2, and the port's colon
_HOST: Final = re.compile(_HOST_CHARACTER + "*")
_ABSOLUTE_FORM: Final = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://(" + _HOST_CHARACTER + r"+)(?:[/?].*)?")
_HOP_BY_HOP: Final = frozenset(  # RFC 9110 section 7.6.1
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
)

# How the body of a response is framed (RFC 9112 section 6).
_UNSENT: Final = 0
_NO_BODY: Final = 1
_LENGTH: Final = 2
_CHUNKED: Final = 3
_UNTIL_CLOSE: Final = 4


@dataclass(slots=True)
class _Exchange:
    """What must be known of a request until its response is whole."""

    stream: int
    head_only: bool = False
    http11: bool = False
    keep: bool = False
    waits: bool = False  # for 100 Continue
    received: bool = False
    framing: int = _UNSENT
    left: int = 0  # what the response's Content-Length still promises
    answered: bool = False


class _Sink:
    """What llhttp calls back, for one head or one chunked body."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.size = 0
        self.chunks = 0
        self.head_done = False
        self.done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.head_done = True

    def on_chunk_header(self) -> None:
        self.chunks += 1

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)

    def on_message_complete(self) -> None:
        self.done = True


class _Chunks:
    """One chunked body. llhttp tells that it has ended, but not where."""

    def __init__(self, limits: Limits) -> None:
        self.sink = _Sink()
        self._limits = limits
        self._taken = 0
        self._last_two = b""
        self._parser = HttpRequestParser(self.sink)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def feed(self, data: bytes, start: int) -> int:
        """Read ``data`` from ``start`` no further than the end of the body; return where it stopped.

        A chunked body ends with LF CR LF: where the data is cut behind each of these, its end is at a cut.
        """
        sink = self.sink
        while start < len(data) and not sink.done:
            seam = (self._last_two + data[start : start + 2]).find(b"\n\r\n")
            found = start + seam - len(self._last_two) if seam >= 0 else data.find(b"\n\r\n", start)
            piece = data[start : found + 3] if seam >= 0 or found >= 0 else data[start:]
            self._last_two = (self._last_two + piece[-2:])[-2:]
            try:
                self._parser.feed_data(piece)
            except (HttpParserError, HttpParserUpgrade) as error:
                raise _malformed(f"chunked body: {error}") from None
            start += len(piece)
            self._taken += len(piece)
            _check("request body", sink.size, self._limits.body_bytes or sink.size, 413)
            # Sizes, extensions and trailers: 16 bytes a chunk are free, as in Go's net/http.
            _check(
                "chunk sizes and trailers", self._taken - sink.size - 16 * sink.chunks, self._limits.params_bytes, 431
            )
            _check("number of trailers", len(sink.fields), self._limits.params_count, 431)  # the trailers are dropped
        return start


class HTTP1Codec(Codec):
    """The application side of one HTTP/1.0 or HTTP/1.1 connection; streams count its requests from 1.

    ``variables`` (REMOTE_ADDR, SERVER_NAME, ...) become parameters of every request; ``date`` returns the value of
    the Date field (RFC 9110 section 6.6.1), without it there is none.

    After ``feed`` or ``feed_eof`` raised, ``send`` still answers the request that failed, ``error_stream``.
    """

    protocol: str = "http"

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        variables: Mapping[str, str] | None = None,
        date: Callable[[], str] | None = None,
    ) -> None:
        self._variables = variables or {}
        self._date = date
        self._current = 1
        self._limits = limits
        self._held = bytearray()  # an incomplete head, at most a byte more than the limit
        self._line: tuple[bytes, bytes, bool] | None = None  # its request line
        self._reading: _Exchange | None = None
        self._body_left = 0
        self._chunks: _Chunks | None = None
        self._last = False  # no further request is read, its bytes are ignored
        self._exchanges: deque[_Exchange] = deque()

    @property
    def error_stream(self) -> int:
        """The request that is being read, or the next one; 0 where it failed after its answer."""
        return self._current

    @property
    def buffered(self) -> int:
        """Bytes held of a message that is not whole."""
        # RFC 9112 section 2.2: an empty line in front of a head belongs to none
        return 0 if self._held == b"\r\n" else len(self._held)

    # -- from the wire ------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the wire; raises RemoteProtocolError."""
        events: list[Event] = []
        start = 0
        try:
            while start < len(data):
                if self._chunks is not None:
                    start = self._feed_chunks(self._chunks, data, start, events)
                elif self._body_left:
                    piece = data[start : start + self._body_left]
                    start += len(piece)
                    self._body_left -= len(piece)
                    events.append(Body(self._current, piece))
                    if not self._body_left:
                        self._end_of_body(events)
                elif self._last:
                    break
                else:
                    start = self._feed_head(data, start, events)
        except RemoteProtocolError as error:
            self._fail()
            error.events = events
            raise
        return events

    def feed_eof(self) -> list[Event]:
        """Take the end of file; raises TruncatedMessage within a head or a body."""
        if self._body_left or self._chunks is not None or bytes(self._held) not in (b"", b"\r\n"):
            self._fail()
            raise TruncatedMessage("http", "the peer closed within a request")
        self._last = True
        self._held.clear()
        if self._exchanges:
            self._exchanges[-1].keep = False
        else:
            self.closing = True
        return [Closed()]

    def _fail(self) -> None:
        if self._reading is None:
            self._reading = _Exchange(self._current)
            self._exchanges.append(self._reading)
        self._reading.keep = False
        self._last = True
        self._held.clear()
        self._body_left = 0
        self._chunks = None
        if self._reading.answered:
            self._current = 0
            self.closing = True

    def _feed_chunks(self, chunks: _Chunks, data: bytes, start: int, events: list[Event]) -> int:
        sink = chunks.sink
        try:
            start = chunks.feed(data, start)
        finally:
            if sink.parts:
                events.append(Body(self._current, b"".join(sink.parts)))
                sink.parts.clear()
        if sink.done:
            self._chunks = None
            self._end_of_body(events)
        return start

    def _end_of_body(self, events: list[Event]) -> None:
        events.append(EndOfBody(self._current))
        self._current += 1
        if self._reading is not None:
            self._reading.received = True
            self._reading = None

    def _feed_head(self, data: bytes, start: int, events: list[Event]) -> int:
        limit = self._limits.params_bytes
        held = self._held
        known = len(held)
        if not known:
            end = data.find(_END_OF_HEAD, start, start + limit)
            if end >= 0:
                self._request(data[start : end + 4], events)
                return end + 4
        held += data[start : start + limit + 1 - known]
        end = held.find(_END_OF_HEAD, max(known - 3, 0), limit)
        if end >= 0:
            head = bytes(held[: end + 4])
            held.clear()
            self._request(head, events)
            return start + end + 4 - known
        end = held.find(b"\r\n", max(known - 1, 2))
        if end >= 0 and self._line is None:  # a client of another protocol may be waiting for the answer
            self._line = _request_line(bytes(held[:end]))
        if _NOT_IN_HEAD.search(held, max(known - 1, 0)) is not None:
            raise _not_http(held[0])
        _check("request head", len(held), limit, 414 if self._line is None else 431)
        return len(data)

    def _request(self, head: bytes, events: list[Event]) -> None:
        line_end = head.index(b"\r\n", 2)
        method, target, http11 = self._line or _request_line(head[:line_end])
        self._line = None
        exchange = _Exchange(self._current, method == b"HEAD", http11)
        self._reading = exchange
        self._exchanges.append(exchange)
        count = head.count(b"\r\n", line_end) - 2
        if count > self._limits.params_count and _NOT_IN_HEAD.search(head) is not None:  # refused before all had come
            raise _not_http(head[0])
        _check("number of fields", count, self._limits.params_count, 431)
        params = {
            **self._variables,
            "REQUEST_METHOD": method.decode("latin-1"),
            "REQUEST_URI": target.decode("latin-1"),
            "QUERY_STRING": target.partition(b"?")[2].decode("latin-1"),
            "SERVER_PROTOCOL": "HTTP/1.1" if http11 else "HTTP/1.0",
        }
        _add_fields(params, head[line_end:])
        _check_target(params, http11)
        length = _body_length(params, http11)
        _check("request body", length, self._limits.body_bytes or length, 413)

        options = [option.strip(" \t") for option in params.get("HTTP_CONNECTION", "").lower().split(",")]
        exchange.keep = "close" not in options and (http11 or "keep-alive" in options)
        self._last = not exchange.keep
        expect = params.get("HTTP_EXPECT", "").lower()
        if expect not in ("", "100-continue"):
            raise _malformed("Expect other than 100-continue", 417)
        exchange.waits = expect != "" and http11 and length != 0  # RFC 9110 section 10.1.1
        events.append(Request(self._current, params, length, expects_continue=exchange.waits, keep=exchange.keep))
        if length == 0:
            self._end_of_body(events)
        elif length > 0:
            self._body_left = length
        else:
            self._chunks = _Chunks(self._limits)

    # -- to the wire --------------------------------------------------------------------------------------------

    def send(self, event: Event) -> bytes:
        """Encode an event of the oldest request without a whole response; raises LocalProtocolError for others."""
        if isinstance(event, ErrorOutput):
            return b""
        if not isinstance(event, (ResponseHead, Body, RawBody, EndOfResponse, Continue)):
            raise _local(f"the application side sends no {type(event).__name__}")
        if isinstance(event, ResponseHead):
            return b"".join(self.head_parts(event))
        if isinstance(event, Continue) and not (self._exchanges and event.stream >= self._exchanges[0].stream):
            return b""  # answered already
        exchange = self._oldest(event.stream)
        if isinstance(event, Continue):
            wanted = exchange.waits and not exchange.received and exchange.framing == _UNSENT
            exchange.waits = exchange.waits and not wanted
            return b"HTTP/1.1 100 Continue\r\n\r\n" if wanted else b""
        if exchange.framing == _UNSENT:
            raise _local("a response without a head")
        if isinstance(event, Body):
            return self._body(exchange, event.data)
        if isinstance(event, EndOfResponse):
            return self._end(exchange)
        if not self.raw_size:
            raise _local("a body that goes past the codec, where it must not go as it is")
        self._count(exchange, event.size)
        return b""

    def head_parts(self, head: ResponseHead) -> list[bytes | memoryview]:
        """As ``send``, without a copy of the block behind the head."""
        return self._response(self._oldest(head.stream), head)

    def _oldest(self, stream: int) -> _Exchange:
        """Return the oldest request without a whole response, which must be ``stream``; raises LocalProtocolError."""
        if self._held and not self._exchanges and stream == self._current:
            self._fail()  # an answer to a head that did not come in time
        if not self._exchanges or self._exchanges[0].stream != stream:
            raise _local(f"request {stream} is not the one to answer")
        return self._exchanges[0]

    def last(self) -> None:
        """Answer the oldest request with ``Connection: close`` (RFC 9112 section 9.6)."""
        if self._exchanges:
            self._exchanges[0].keep = False

    def _response(self, exchange: _Exchange, event: ResponseHead) -> list[bytes | memoryview]:
        if exchange.framing != _UNSENT or _STATUS.fullmatch(event.status) is None:
            raise _local(f"a second response head, or not a status: {event.status!r}")
        code = event.status[:3]
        first_line = "HTTP/1.1 " + (event.status if len(event.status) > 3 else code + " ")  # RFC 9112 section 4
        length = -1
        headers: list[tuple[str, str]] = []
        for name, value in event.headers:
            lower = name.lower()
            if lower in _HOP_BY_HOP or _FIELD_NAME.fullmatch(name) is None:
                raise _local(f"{name!r} may not be a response's field")
            if lower == "content-length":
                if length >= 0 or not (value.isdigit() and value.isascii()):
                    raise _local(f"two of Content-Length, or not a number: {value!r}")
                length = int(value)
                if code[0] == "1" or code == "204":  # RFC 9110 section 8.6
                    continue
            headers.append((name, value))
        if code[0] == "1":  # RFC 9110 section 15.2: the response is still to come; HTTP/1.0 knows no such thing
            if code == "101" or event.end:
                raise _local(f"{event.status} is no final response, or asks for another protocol")
            exchange.waits = exchange.waits and code != "100"
            return [encode_head("http", first_line, headers) if exchange.http11 else b""]

        if self._date is not None and not any(name.lower() == "date" for name, _ in headers):
            headers.append(("Date", self._date()))
        keep = exchange.keep and (exchange.received or not exchange.waits)  # else nobody knows if a body comes
        left = 0
        if exchange.head_only or code in ("204", "304"):
            framing = _NO_BODY
        elif length >= 0 or event.end:
            framing = _LENGTH
            left = length if length >= 0 else len(event.content)
        else:
            framing = _CHUNKED if exchange.http11 else _UNTIL_CLOSE
            keep = keep and exchange.http11
        if length < 0 and event.end and (framing == _LENGTH or (event.content and code not in ("204", "304"))):
            headers.append(("Content-Length", str(len(event.content))))
        if framing == _CHUNKED:
            headers.append(("Transfer-Encoding", "chunked"))
        if not keep:
            headers.append(("Connection", "close"))
        elif not exchange.http11:
            headers.append(("Connection", "keep-alive"))
        head = encode_head("http", first_line, headers)  # what it refuses changes no state
        exchange.framing = framing
        exchange.left = left
        exchange.keep = keep
        self._last = self._last or not keep
        self.raw_size = RAW_SIZE if framing == _LENGTH or framing == _UNTIL_CLOSE else 0
        parts: list[bytes | memoryview] = [head, self._body(exchange, event.content)]
        if event.end:
            parts.append(self._end(exchange))
        return parts

    def _body(self, exchange: _Exchange, data: bytes) -> bytes:
        if exchange.framing == _NO_BODY or not data:
            return b""
        if exchange.framing == _CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data)
        self._count(exchange, len(data))
        return data

    def _count(self, exchange: _Exchange, count: int) -> None:
        if exchange.framing == _LENGTH:
            if count > exchange.left:
                raise _local("more body than the response's Content-Length")
            exchange.left -= count

    def _end(self, exchange: _Exchange) -> bytes:
        exchange.answered = True
        self.raw_size = 0
        self._exchanges.popleft()
        if exchange.left or not exchange.keep:  # what is left would be taken from the next response
            exchange.keep = False
            self._last = self.closing = True
            self._exchanges.clear()
        return b"0\r\n\r\n" if exchange.framing == _CHUNKED else b""


def _malformed(message: str, status: int = 400) -> MalformedMessage:
    return MalformedMessage("http", message, status)


def _local(message: str) -> LocalProtocolError:
    return LocalProtocolError("http", message)


def _check(limit: str, value: int, maximum: int, status: int) -> None:
    if value > maximum:
        raise LimitExceeded("http", limit, value, maximum, status)


def _not_http(first: int) -> MalformedMessage:
    if first == 0x16:  # handshake (RFC 8446 section 5.1)
        return _malformed("this port speaks plain HTTP, and the client began a TLS handshake (https)")
    hint = looks_like(first) if first <= 0x39 else ""  # a letter is as it should be
    return _malformed(f"not a request line, or a control character, bare CR or bare LF in the head{hint}")


def _request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise _not_http(line[0])
    method, target, version = match.groups()
    if version not in (b"1.0", b"1.1"):
        raise _malformed("a version other than HTTP/1.0 and HTTP/1.1", 505)
    if method == b"CONNECT":
        raise _malformed("CONNECT is for proxies", 501)
    return method, target, version == b"1.1"


def _add_fields(params: dict[str, str], fields: bytes) -> None:
    """Add ``fields``, which start with the request line's CRLF, as CGI meta-variables (RFC 3875 section 4.1.18)."""
    sink = _Sink()
    refusal = ""
    try:
        HttpRequestParser(sink).feed_data(b"GET / HTTP/1.1" + fields)
    except HttpParserUpgrade:
        pass  # RFC 9110 section 7.8: a server may ignore it
    except HttpParserError as error:
        refusal = str(error)
    for name, value in sink.fields:
        if b"_" in name:  # X_A would pass for X-A (nginx: underscores_in_headers)
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            key = "HTTP_" + key
        text = value.strip(b" \t").decode("latin-1")
        if key in params:
            if key == "HTTP_HOST":
                raise _malformed("more than one Host")
            text = params[key] + ("; " if key == "HTTP_COOKIE" else ", ") + text
        params[key] = text
    # A coding that llhttp refuses behind the last field gets a status of its own, in _body_length.
    if refusal and not (sink.head_done and "HTTP_TRANSFER_ENCODING" in params):
        raise _malformed(f"header fields: {refusal}")


def _check_target(params: dict[str, str], http11: bool) -> None:
    """Allow the forms of RFC 9112 section 3.2, with one Host; in absolute-form the target's counts."""
    host = params.get("HTTP_HOST")
    if (http11 and host is None) or (host is not None and _HOST.fullmatch(host) is None):
        raise _malformed("no Host, or not a host")
    target = params["REQUEST_URI"]
    if target[0] != "/" and (target != "*" or params["REQUEST_METHOD"] != "OPTIONS"):
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is None:
            raise _malformed("the target is neither a path nor an http URI")
        params["HTTP_HOST"] = absolute[1]


def _body_length(params: dict[str, str], http11: bool) -> int:
    """RFC 9112 section 6.3: -1 for a chunked body."""
    codings = params.pop("HTTP_TRANSFER_ENCODING", None)
    if codings is None:
        return max(content_length(params, "http"), 0)
    if "CONTENT_LENGTH" in params or not http11:
        raise _malformed("Transfer-Encoding with Content-Length, or in HTTP/1.0")
    if codings.lower() != "chunked":
        others = [name.strip(" \t") for name in codings.lower().split(",") if name.strip(" \t") != "chunked"]
        raise _malformed(f"codings {codings[:40]!r}", 501 if others and _CODINGS.fullmatch(codings) else 400)
    return -1
