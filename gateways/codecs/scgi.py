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
from gateways.errors import LimitExceeded, MalformedMessage

__all__ = ["SCGICodec"]

_ZERO: Final = 0x30
_COMMA: Final = 0x2C
_MAX_DIGITS: Final = 10


class SCGICodec(SingleRequestCodec):
    """The application side of one SCGI connection."""

    protocol: str = "scgi"

    def _feed_head(self, data: bytes) -> list[Event]:
        colon = data.find(b":", 0, _MAX_DIGITS + 1)
        digits = data[:colon] if colon > 0 else b""
        size = int(digits) if digits.isdigit() and digits[0] != _ZERO else 0
        if not 0 < size <= self._limits.params_bytes:
            self._check_length(data)
            return self._wait(data)
        start = colon + 1
        end = start + size
        if len(data) <= end:
            return self._wait(data)
        if data[end] != _COMMA:
            raise MalformedMessage("scgi", "no comma after the netstring of headers")
        return self._begin(parse_scgi_headers(data[start:end], self._limits.params_count), data[end + 1 :])

    def _check_length(self, data: bytes) -> None:
        """Raise at the first byte that no netstring of headers can begin with, wherever the bytes were split."""
        size = 0
        for at in range(len(data)):
            digit = data[at] - _ZERO
            if not 0 <= digit <= 9 or not (digit or size) or at == _MAX_DIGITS:
                raise _no_length(data[: at + 1])
            size = size * 10 + digit
            if size > self._limits.params_bytes:
                raise LimitExceeded("scgi", "header netstring", size, self._limits.params_bytes, 431)


def _no_length(wrong: bytes) -> MalformedMessage:
    """Tell what stands where a length should; its last byte is the first wrong one."""
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"<{byte:02x}>" for byte in wrong)
    hint = looks_like(wrong[0]) if len(wrong) == 1 else ""
    return MalformedMessage("scgi", f"not the length of a netstring: {shown}{hint}")
