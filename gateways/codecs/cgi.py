"""The response head of CGI (RFC 3875 section 6): made for FastCGI, SCGI and uwsgi, and read from them.

``encode_head`` also makes the head of HTTP and uwsgi responses, which differ from CGI's in the first line only.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs.events import ResponseHead
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage

__all__ = ["HeadParser", "body_length", "encode_head"]

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MIN_STATUS: Final = 100
_MAX_STATUS: Final = 599
_MAX_DIGITS: Final = 18  # of a Content-Length: below 2**63
_CR: Final = 0x0D


def encode_head(protocol: str, first_line: str, headers: list[tuple[str, str]]) -> bytes:
    """Return the bytes of a response head, the blank line included.

    Raises LocalProtocolError where a CR, LF or NUL would start a line of its own (response splitting), and
    for text outside latin-1.
    """
    text = first_line
    for name, value in headers:
        text += f"\r\n{name}: {value}"
    text += "\r\n\r\n"
    ends = len(headers) + 2
    if text.count("\n") != ends or text.count("\r") != ends or "\0" in text:
        raise LocalProtocolError(protocol, "a CR, LF or NUL character within a response header")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError(protocol, "a response header holds text outside latin-1") from None


class HeadParser:
    """Reads one CGI response head from any pieces of it, each byte once; what follows the head is in ``rest``.

    CRLF and bare LF end a line. A status line (``HTTP/1.1 404 Not Found``), as uwsgi's backends send it, is read
    too and counts more than a Status field beside it, as in nginx. Without either, a Location means 302, else the
    status is 200 (RFC 3875 sections 6.2.4 and 6.3.3).
    """

    rest: bytes = b""
    status_given: bool = False
    """The head says what its status is."""
    _line: int = 0  # where the line starts that has no end yet
    _read: int = 0  # up to here there is no further LF

    def __init__(self, protocol: str, stream: int, limit: int) -> None:
        self.protocol = protocol
        self.stream = stream
        self._limit = limit
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes held of a head that is not whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> ResponseHead | None:
        """Return the head once it is whole; raises MalformedMessage and LimitExceeded.

        The limit is that of the head with its blank line. Bytes past it are not held, and not looked at.
        """
        buffer = self._buffer
        held = len(buffer)
        room = self._limit - held
        buffer += data if len(data) <= room else data[:room]
        after = self._after_blank_line()
        if after < 0:
            if len(data) > room:
                raise LimitExceeded(self.protocol, "response head", self._limit + 1, self._limit, 502)
            return None
        head = bytes(buffer[: self._line]).decode("latin-1")
        buffer.clear()
        self.rest = data[after - held :]
        return self._parse(head)

    def _after_blank_line(self) -> int:
        """Go on to the first empty line, which ``_line`` is then the start of; return its end, -1 where none came."""
        buffer = self._buffer
        while True:
            line = self._line
            end = buffer.find(b"\n", self._read)
            if end < 0:
                self._read = len(buffer)
                return -1
            self._read = end + 1
            if end == line or (end == line + 1 and buffer[line] == _CR):
                return end + 1
            self._line = end + 1

    def _parse(self, text: str) -> ResponseHead:
        """Read the lines of a head, each with its end."""
        if not text:
            raise MalformedMessage(self.protocol, "a response head without a header", 502)
        headers: list[tuple[str, str]] = []
        status_line = ""
        status = ""
        location = False
        lines = text.split("\n")
        lines.pop()  # what follows the last LF: nothing
        for number, raw in enumerate(lines):
            line = raw.removesuffix("\r")
            if "\r" in line or "\0" in line:
                raise MalformedMessage(self.protocol, "a CR or NUL within a response header", 502)
            if number == 0 and line.startswith("HTTP/"):
                status_line = self._status(line.partition(" ")[2])
                continue
            name, colon, value = line.partition(":")
            if not colon or not name or not _TOKEN.issuperset(name):
                raise MalformedMessage(self.protocol, f"not a response header: {line[:80]!r}", 502)
            lower = name.lower()
            if lower == "status":
                before, status = status, self._status(value)
                if before and before != status:
                    raise MalformedMessage(self.protocol, f"two statuses: {before[:80]!r} and {status[:80]!r}", 502)
            else:
                location = location or lower == "location"
                headers.append((name, value.strip(" \t")))
        self.status_given = bool(status_line or status)
        return ResponseHead(self.stream, status_line or status or ("302 Found" if location else "200 OK"), headers)

    def _status(self, text: str) -> str:
        """Return ``text`` without the blanks around it where it is three digits and perhaps a reason."""
        status = text.strip(" \t")
        code = status[:3]
        is_code = code.isdigit() and code.isascii() and _MIN_STATUS <= int(code) <= _MAX_STATUS
        if not is_code or status[3:4] not in ("", " "):
            raise MalformedMessage(self.protocol, f"not a status: {status[:80]!r}", 502)
        return status


def body_length(protocol: str, head: ResponseHead, method: str) -> int:
    """Return the bytes of body that ``head`` promises to a request of ``method``; -1 where it promises nothing.

    Raises MalformedMessage for a Content-Length that is no number, or two different ones. The answers that never
    have a body (RFC 9110 section 6.4.1) may carry the Content-Length of the one that they stand for.
    """
    values = {value for name, value in head.headers if name.lower() == "content-length"}
    if not values:
        return -1
    text = values.pop()
    if values or not (text.isdigit() and text.isascii()) or len(text) > _MAX_DIGITS:
        raise MalformedMessage(protocol, f"not one number of bytes in Content-Length: {text[:40]!r}", 502)
    code = head.status[:3]
    return -1 if method == "HEAD" or code.startswith("1") or code == "204" or code == "304" else int(text)
