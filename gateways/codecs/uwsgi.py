"""uwsgi (uWSGI 2.0, "The uwsgi protocol"): modifier1, datasize, modifier2, then variables, then the body.

The application side. ``UWSGI_*`` variables (UWSGI_SCRIPT, UWSGI_FILE, ...) are data like any other: nothing is
ever loaded or run because of one.
"""

from __future__ import annotations

from typing import Final

from gateways.codecs.detect import looks_like
from gateways.codecs.events import Event
from gateways.codecs.pairs import parse_uwsgi_vars
from gateways.codecs.single import SingleRequestCodec
from gateways.errors import LimitExceeded, MalformedMessage
from gateways.limits import DEFAULT_LIMITS, Limits

__all__ = ["UWSGICodec"]

_WSGI: Final = 0
_WSGI_SCRIPT_NAME: Final = 30  # as 0, for configurations older than manage-script-name
_PING: Final = 100
_PONG: Final = b"\x64\x00\x00\x01"  # modifier1 100, datasize 0, modifier2 1


class UWSGICodec(SingleRequestCodec):
    """The application side of one uwsgi connection; ``modifier30`` also serves modifier1 30."""

    protocol: str = "uwsgi"
    status_prefix: str = "HTTP/1.1 "  # mod_proxy_uwsgi answers 502 to a response without a status line

    _to_send: bytes = b""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, modifier30: bool = False) -> None:
        self._limits = limits
        self._modifier30 = modifier30

    def _feed_head(self, data: bytes) -> list[Event]:
        modifier1 = data[0] if data else _WSGI
        if modifier1 != _WSGI and modifier1 != _PING and not (modifier1 == _WSGI_SCRIPT_NAME and self._modifier30):
            hint = looks_like(modifier1)
            raise MalformedMessage("uwsgi", f"modifier1 {modifier1} is not served here{hint}", 501)
        if len(data) < 4:
            return self._wait(data)
        size = data[1] | (data[2] << 8)
        if size > self._limits.params_bytes:
            raise LimitExceeded("uwsgi", "block of variables", size, self._limits.params_bytes, 431)
        if modifier1 == _PING:
            self._to_send = _PONG
            self.closing = True
            return []
        end = 4 + size
        if len(data) < end:
            return self._wait(data)
        return self._begin(parse_uwsgi_vars(data[4:end], self._limits.params_count), data[end:])

    def data_to_send(self) -> bytes:
        """Return the answer to a ping, once."""
        data = self._to_send
        self._to_send = b""
        return data
