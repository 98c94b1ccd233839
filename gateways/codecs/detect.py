"""Which protocol a connection speaks, told from its first bytes: what an ``auto`` listener goes by.

The first bytes of the protocols differ (DESIGN section 2): FastCGI's version 1, uwsgi's modifier1, the digits of an
SCGI netstring, the letters of an HTTP method.
"""

from __future__ import annotations

from gateways.errors import MalformedMessage

__all__ = ["detect", "looks_like"]

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


def looks_like(first: int) -> str:
    """Return how a sentence about the wrong first byte of a message goes on: which protocol it starts, if any."""
    if 0x41 <= first <= 0x5A or 0x61 <= first <= 0x7A:
        name = "HTTP"
    elif first == 0x16:
        name = "TLS (https)"
    elif 0x31 <= first <= 0x39:
        name = "SCGI"
    elif first == 1:
        name = "FastCGI"
    elif first == 0:
        name = "uwsgi"
    else:
        return ""
    return f"; this looks like {name}: is the listener's protocol right?"
