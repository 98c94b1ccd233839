"""The PROXY header, and which protocol the first bytes are of: more bytes never take back what was said."""

from __future__ import annotations

from collections.abc import Callable

from gateways.codecs.detect import detect
from gateways.codecs.proxy import parse_proxy_header
from gateways.errors import RemoteProtocolError
from tests.fuzz.checks import cut_of


def said(read: Callable[[bytes], object], data: bytes) -> object:
    try:
        return read(data)
    except RemoteProtocolError as error:
        return type(error)


def one_input(data: bytes) -> None:
    for read in (parse_proxy_header, detect):
        before, after = said(read, data[: cut_of(data)]), said(read, data)
        assert before in (None, after)
    found = said(parse_proxy_header, data)
    if isinstance(found, tuple):
        assert 0 < found[1] <= len(data)


def seeds() -> list[bytes]:
    from tests.codecs.test_proxy import WIRES

    return WIRES
