"""SCGI (the protocol document of 2006): a netstring of headers, then the body. The application side.

A front end is taken as it is: CONTENT_LENGTH need not come first, nor must ``SCGI: 1`` be there; Apache and
nginx are configured in ways that send neither. The netstring itself is read strictly.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs.detect import looks_like
from gateways.codecs.events import Event
from gateways.codecs.pairs import parse_scgi_headers
from gateways.codecs.single import SingleRequestCodec
from gateways.errors import LimitExceeded, MalformedMessage, RemoteProtocolError

__all__ = ["SCGICodec"]

_COMMA: Final = 0x2C
_MAX_DIGITS: Final = 10


class SCGICodec(SingleRequestCodec):
    """The application side of one SCGI connection."""

    protocol: str = "scgi"

    def _feed_head(self, data: bytes) -> list[Event]:
        limit = self._limits.params_bytes
        colon = data.find(b":", 0, 12)
        digits = data[:12] if colon < 0 else data[:colon]
        size = int(digits) if digits.isdigit() else 0
        if not 0 < size <= limit or digits.startswith(b"0") or len(digits) > _MAX_DIGITS:
            if not data:
                return self._wait(data)
            raise _length_error(digits, limit)
        if colon < 0:
            return self._wait(data)
        start = colon + 1
        end = start + size
        if len(data) <= end:
            return self._wait(data)
        if data[end] != _COMMA:
            raise MalformedMessage("scgi", "no comma after the netstring of headers")
        return self._begin(parse_scgi_headers(data[start:end], self._limits.params_count), data[end + 1 :])


def _length_error(digits: bytes, limit: int) -> RemoteProtocolError:
    """Return what the first wrong byte is an error of, so that it is the same however the bytes were split."""
    for end in range(1, len(digits) + 1):
        start = digits[:end]
        if not start.isdigit() or start.startswith(b"0") or end > _MAX_DIGITS:
            digits = start
            break
        if int(start) > limit:
            return LimitExceeded("scgi", "header netstring", int(start), limit, 431)
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"<{byte:02x}>" for byte in digits)
    hint = looks_like(digits[0]) if len(digits) == 1 else ""
    return MalformedMessage("scgi", f"not the length of a netstring: {shown}{hint}")
