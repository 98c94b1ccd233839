"""uwsgi, the web server's side: what comes back."""

from __future__ import annotations

from gateways.codecs.events import Request
from gateways.codecs.single_front import UWSGIFrontCodec
from gateways.limits import Limits
from tests.fuzz.checks import check_codec

LIMITS = Limits(params_bytes=2_000)


def make() -> UWSGIFrontCodec:
    codec = UWSGIFrontCodec(LIMITS)
    codec.send(Request(1, {"REQUEST_METHOD": "GET"}))
    return codec


def one_input(data: bytes) -> None:
    check_codec(make, data, LIMITS.params_bytes, answers=False)


def seeds() -> list[bytes]:
    from tests.codecs.test_single_front import MALFORMED, RESPONSES

    return [wire for _, wire, _ in RESPONSES.values()] + [wire for wire, _ in MALFORMED.values()]
