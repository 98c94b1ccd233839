"""FastCGI, the application side."""

from __future__ import annotations

from gateways.codecs.fastcgi import FastCGICodec
from gateways.limits import Limits
from tests.fuzz.checks import check_codec

LIMITS = Limits(params_bytes=2_000, params_count=20, body_bytes=2_000, requests_per_connection=4)
MOST = 8 + 65_535 + 255 + 2 * LIMITS.requests_per_connection * LIMITS.params_bytes


def one_input(data: bytes) -> None:
    check_codec(lambda: FastCGICodec(LIMITS), data, MOST)


def seeds() -> list[bytes]:
    from tests.codecs.test_fastcgi import WIRES

    return WIRES
