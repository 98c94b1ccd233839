"""The response head of CGI (RFC 3875 section 6): made for FastCGI, SCGI and uwsgi, and read from them.

``encode_head`` also makes the head of HTTP and uwsgi responses, which differ from CGI's in the first line only.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs.events import ResponseHead
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage

__all__ = ["HeadParser", "encode_head"]

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MIN_STATUS: Final = 100
_MAX_STATUS: Final = 599


def encode_head(protocol: str, first_line: str, headers: list[tuple[str, str]]) -> bytes:
    """Return the bytes of a response head, the blank line included.

    Raises LocalProtocolError where a CR, LF or NUL would start a line of its own (response splitting), and
    for text outside latin-1.
    """
    lines = [first_line]
    for name, value in headers:
        lines.append(name + ": " + value)
    lines.append("\r\n")
    text = "\r\n".join(lines)
    ends = len(lines)
    if text.count("\n") != ends or text.count("\r") != ends or "\0" in text:
        raise LocalProtocolError(protocol, "a CR, LF or NUL character within a response header")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError(protocol, "a response header holds text outside latin-1") from None


class HeadParser:
    """Reads one CGI response head from any pieces of it; what follows the head is in ``rest``.

    CRLF and bare LF end a line; a status line (``HTTP/1.1 404 Not Found``), as uwsgi's backends send it, is read
    too. Without Status, a Location means 302, else 200 (RFC 3875 sections 6.2 and 6.3.3).
    """

    def __init__(self, protocol: str, stream: int, limit: int) -> None:
        self.protocol = protocol
        self.stream = stream
        self.rest = b""
        self._limit = limit
        self._buffer = b""

    def feed(self, data: bytes) -> ResponseHead | None:
        """Return the head once it is whole; raises MalformedMessage and LimitExceeded."""
        self._buffer += data
        end, after = self._end()
        if end < 0:
            if len(self._buffer) > self._limit:
                raise LimitExceeded(self.protocol, "response head", len(self._buffer), self._limit, 502)
            return None
        head = self._buffer[:end].decode("latin-1")
        self.rest = self._buffer[after:]
        self._buffer = b""
        return self._parse(head)

    def _end(self) -> tuple[int, int]:
        """Find the blank line: where the last header line ends, where the body starts."""
        buffer = self._buffer
        if buffer.startswith((b"\n", b"\r\n")):
            return 0, buffer.index(b"\n") + 1
        found = -1, -1
        for mark in (b"\n\r\n", b"\n\n"):
            at = buffer.find(mark)
            if at >= 0 and (found[0] < 0 or at < found[0]):
                found = at, at + len(mark)
        return found

    def _parse(self, text: str) -> ResponseHead:
        headers: list[tuple[str, str]] = []
        status = ""
        location = False
        lines = text.split("\n") if text else []
        if not lines:
            raise MalformedMessage(self.protocol, "a response head without a header", 502)
        for number, raw in enumerate(lines):
            line = raw[:-1] if raw.endswith("\r") else raw
            if "\r" in line or "\0" in line:
                raise MalformedMessage(self.protocol, "a CR or NUL within a response header", 502)
            if number == 0 and line.startswith("HTTP/"):
                status = line.partition(" ")[2].strip()
                continue
            name, colon, value = line.partition(":")
            if not colon or not name or not _TOKEN.issuperset(name):
                raise MalformedMessage(self.protocol, f"not a response header: {line[:80]!r}", 502)
            value = value.strip(" \t")
            lower = name.lower()
            if lower == "status":
                status = value
            else:
                location = location or lower == "location"
                headers.append((name, value))
        if not status:
            status = "302 Found" if location else "200 OK"
        code = status[:3]
        if not (code.isdigit() and code.isascii() and _MIN_STATUS <= int(code) <= _MAX_STATUS and status[3:4] in ("", " ")):
            raise MalformedMessage(self.protocol, f"not a status: {status[:80]!r}", 502)
        return ResponseHead(self.stream, status, headers)
