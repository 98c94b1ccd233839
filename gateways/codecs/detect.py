"""Which protocol a connection speaks, told from its first bytes; and the codec of an ``auto`` listener.

The first bytes of the protocols differ (DESIGN section 2): FastCGI's version 1, uwsgi's modifier1, the digits of an
SCGI netstring, the letters of an HTTP method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateways.codecs import Codec
from gateways.codecs.events import Event
from gateways.errors import LocalProtocolError, MalformedMessage, TruncatedMessage

__all__ = ["AutoCodec", "detect"]

_PROXY_V1 = b"PROXY "
_PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def detect(data: bytes) -> str | None:
    """Return ``fastcgi``, ``scgi``, ``uwsgi``, ``http``, ``proxy`` or ``tls``; None where more bytes are needed.

    Raises MalformedMessage where the bytes start none of them.
    """
    if not data:
        return None
    first = data[0]
    if first == 1:
        return "fastcgi"
    if first in (0, 30):
        return "uwsgi"
    if 0x31 <= first <= 0x39:
        return "scgi"
    if first == 0x16:
        return "tls"
    if first == 100:  # "d", and the modifier1 of uwsgi's ping, whose datasize is 0
        if len(data) < 2:
            return None
        return "uwsgi" if data[1] == 0 else "http"
    for signature in (_PROXY_V1, _PROXY_V2):
        if data.startswith(signature):
            return "proxy"
        if signature.startswith(data):
            return None
    if 0x41 <= first <= 0x5A or 0x61 <= first <= 0x7A:
        return "http"
    raise MalformedMessage("auto", f"the first byte {first:#04x} starts none of FastCGI, SCGI, uwsgi and HTTP")


class AutoCodec:
    """Takes the first bytes, then is the codec that they call for; ``makers`` makes each from the peer's address."""

    def __init__(self, makers: Mapping[str, Callable[[object], Codec]], peer: object) -> None:
        self._makers = makers
        self._peer = peer
        self._buffer = b""
        self._chosen: Codec | None = None

    @property
    def protocol(self) -> str:
        """The chosen codec's name; ``auto`` before."""
        return self._chosen.protocol if self._chosen is not None else "auto"

    @property
    def multiplexed(self) -> bool:
        """True until it is known: a connection for many requests can carry one."""
        return self._chosen.multiplexed if self._chosen is not None else True

    @property
    def closing(self) -> bool:
        """As the chosen codec's."""
        return self._chosen is not None and self._chosen.closing

    @property
    def raw_body(self) -> bool:
        """As the chosen codec's."""
        return self._chosen is not None and self._chosen.raw_body

    @property
    def error_stream(self) -> int:
        """As the chosen codec's; before, nobody knows a form in which to answer."""
        return self._chosen.error_stream if self._chosen is not None else 0

    @property
    def buffered(self) -> int:
        """Bytes held."""
        return self._chosen.buffered if self._chosen is not None else len(self._buffer)

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the wire; raises RemoteProtocolError."""
        if self._chosen is not None:
            return self._chosen.feed(data)
        data = self._buffer + data
        self._buffer = b""
        name = detect(data)
        if name is None:
            self._buffer = data
            return []
        if name == "proxy":
            raise MalformedMessage("auto", "the PROXY protocol is not accepted here: send the request itself")
        # A TLS hello goes to HTTP, which answers that the port speaks no TLS.
        self._chosen = self._makers["http" if name == "tls" else name](self._peer)
        return self._chosen.feed(data)

    def feed_eof(self) -> list[Event]:
        """Take the end of file; raises TruncatedMessage."""
        if self._chosen is not None:
            return self._chosen.feed_eof()
        if self._buffer:
            raise TruncatedMessage("auto", "the peer closed before its protocol could be told")
        return []

    def data_to_send(self) -> bytes:
        """As the chosen codec's."""
        return self._chosen.data_to_send() if self._chosen is not None else b""

    def send(self, event: Event) -> bytes:
        """Encode one event; raises LocalProtocolError."""
        if self._chosen is None:
            raise LocalProtocolError("auto", "the protocol is not known yet")
        return self._chosen.send(event)
