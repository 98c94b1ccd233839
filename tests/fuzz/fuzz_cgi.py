"""The response head of CGI."""

from __future__ import annotations

from gateways.codecs.cgi import HeadParser
from gateways.codecs.events import ResponseHead
from gateways.errors import RemoteProtocolError
from tests.fuzz.checks import cut_of

LIMIT = 2_000


def read(pieces: list[bytes]) -> tuple[ResponseHead | None, bytes, type[Exception] | None]:
    parser = HeadParser("fastcgi", 1, LIMIT)
    for at, piece in enumerate(pieces):
        try:
            head = parser.feed(piece)
        except RemoteProtocolError as error:
            return None, b"", type(error)
        assert parser.buffered <= LIMIT
        if head is not None:
            return head, parser.rest + b"".join(pieces[at + 1 :]), None
    return None, b"", None


def one_input(data: bytes) -> None:
    cut = cut_of(data)
    assert read([data]) == read([data[:cut], data[cut:]])


def seeds() -> list[bytes]:
    from tests.codecs.test_cgi import HEADS, REFUSED

    return [wire for wire, *_ in HEADS.values()] + list(REFUSED)
