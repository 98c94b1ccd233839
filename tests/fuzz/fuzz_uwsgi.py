"""uwsgi, the application side."""

from __future__ import annotations

from gateways.codecs.uwsgi import UWSGICodec
from gateways.limits import Limits
from tests.fuzz.checks import check_codec

LIMITS = Limits(params_bytes=2_000, params_count=20, body_bytes=2_000)


def one_input(data: bytes) -> None:
    check_codec(lambda: UWSGICodec(LIMITS), data, LIMITS.params_bytes + 16)


def seeds() -> list[bytes]:
    from tests.codecs.test_uwsgi import WIRES

    return WIRES
