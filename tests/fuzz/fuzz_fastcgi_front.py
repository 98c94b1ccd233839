"""FastCGI, the web server's side: what comes back to two requests."""

from __future__ import annotations

from gateways.codecs.events import EndOfBody, Request
from gateways.codecs.fastcgi_front import FastCGIFrontCodec
from gateways.limits import Limits
from tests.fuzz.checks import check_codec

LIMITS = Limits(params_bytes=2_000)


def make() -> FastCGIFrontCodec:
    codec = FastCGIFrontCodec(LIMITS)
    for number in (1, 2):
        codec.send(Request(number, {"REQUEST_METHOD": "GET"}, keep=True))
        codec.send(EndOfBody(number))
    return codec


def one_input(data: bytes) -> None:
    check_codec(make, data, 8 + 65_535 + 255 + 2 * LIMITS.params_bytes, answers=False)


def seeds() -> list[bytes]:
    from tests.codecs.test_fastcgi_front import WIRES

    return WIRES
