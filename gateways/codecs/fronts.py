"""The registry of the web-server side: which codec writes the requests of a protocol and reads its responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.codecs.fastcgi_front import FastCGIFrontCodec
from gateways.codecs.front import FrontCodec
from gateways.codecs.single_front import SCGIFrontCodec, UWSGIFrontCodec
from gateways.limits import Limits

__all__ = ["FRONT_CODECS"]

FRONT_CODECS: Final[dict[str, Callable[[Limits], FrontCodec]]] = {
    "fastcgi": FastCGIFrontCodec,
    "scgi": SCGIFrontCodec,
    "uwsgi": UWSGIFrontCodec,
}
