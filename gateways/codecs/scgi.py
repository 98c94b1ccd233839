"""SCGI (the protocol document of 2006): a netstring of headers, then the body. The application side.

A front end is taken as it is: CONTENT_LENGTH need not come first, nor must ``SCGI: 1`` be there; Apache and
nginx are configured in ways that send neither. The netstring itself is read strictly.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs.events import Event
from gateways.codecs.pairs import parse_scgi_headers
from gateways.codecs.single import SingleRequestCodec
from gateways.errors import LimitExceeded, MalformedMessage

__all__ = ["SCGICodec"]

_COMMA: Final = 0x2C


class SCGICodec(SingleRequestCodec):
    """The application side of one SCGI connection."""

    protocol: str = "scgi"

    def _feed_head(self, data: bytes) -> list[Event]:
        limit = self._limits.params_bytes
        colon = data.find(b":", 0, 12)
        digits = data[:12] if colon < 0 else data[:colon]
        if not digits.isdigit() or digits.startswith(b"0") or len(digits) > 10:
            if colon < 0 and not digits:
                return self._wait(data)
            raise MalformedMessage("scgi", f"not the length of a netstring: {digits!r}")
        size = int(digits)
        if size > limit:
            raise LimitExceeded("scgi", "header netstring", size, limit, 431)
        if colon < 0:
            return self._wait(data)
        start = colon + 1
        end = start + size
        if len(data) <= end:
            return self._wait(data)
        if data[end] != _COMMA:
            raise MalformedMessage("scgi", "no comma after the netstring of headers")
        return self._begin(parse_scgi_headers(data[start:end], self._limits.params_count), data[end + 1 :])
