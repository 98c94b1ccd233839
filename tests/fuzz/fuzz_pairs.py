"""Blocks of name-value pairs: what is read can be written, and is then read as the same."""

from __future__ import annotations

from gateways.codecs.pairs import (
    encode_fastcgi_pairs,
    encode_scgi_headers,
    encode_uwsgi_vars,
    parse_fastcgi_pairs,
    parse_scgi_headers,
    parse_uwsgi_vars,
)
from gateways.errors import RemoteProtocolError

MOST = 20
EACH = (
    (parse_fastcgi_pairs, encode_fastcgi_pairs),
    (parse_scgi_headers, encode_scgi_headers),
    (parse_uwsgi_vars, encode_uwsgi_vars),
)


def one_input(data: bytes) -> None:
    for parse, encode in EACH:
        try:
            params = parse(data, MOST)
        except RemoteProtocolError:
            continue
        assert len(params) <= MOST
        assert sum(len(name) + len(value) for name, value in params.items()) <= 2 * len(data)
        assert parse(encode(params.items()), MOST) == params


def seeds() -> list[bytes]:
    from tests.codecs.test_pairs import SAME

    return [wire for _, *wires in SAME.values() for wire in wires if len(wire) < 1_000]
