"""HTTP/1.1, the application side."""

from __future__ import annotations

from gateways.codecs.http1 import HTTP1Codec
from gateways.limits import Limits
from tests.fuzz.checks import check_codec

LIMITS = Limits(params_bytes=2_000, params_count=20, body_bytes=2_000)


def one_input(data: bytes) -> None:
    check_codec(lambda: HTTP1Codec(LIMITS), data, LIMITS.params_bytes + 1)


def seeds() -> list[bytes]:
    from tests.codecs.test_http1 import LAST_REQUESTS, REFUSED, REFUSED_CHUNKS, REQUESTS, head

    chunks = [head(b"Transfer-Encoding: chunked") + wire for wire in REFUSED_CHUNKS.values()]
    whole = [wire for wire, *_ in (*REQUESTS.values(), *LAST_REQUESTS.values(), *REFUSED.values())]
    return [wire for wire in [*whole, *chunks] if len(wire) < 1_000]
