"""uwsgi (uWSGI 2.0, "The uwsgi protocol"): legal and illegal wires of both directions."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from hypothesis import strategies as st

from gateways.testing.framing import Illegal, Image
from gateways.testing.framing.illegal import breach, chosen, rules
from gateways.testing.framing.single import response_breaches, single_response_images
from gateways.testing.model import WireRequest, WireResponse
from gateways.testing.requests import requests as any_requests

__all__ = [
    "RESPONSE_RULES",
    "RULES",
    "illegal_requests",
    "illegal_responses",
    "packet",
    "request_images",
    "response_images",
    "variables",
]


def packet(block: bytes, modifier1: int = 0, modifier2: int = 0) -> bytes:
    """Header and block of variables."""
    return struct.pack("<BHB", modifier1, len(block), modifier2) + block


def variables(params: Iterable[tuple[str, str]]) -> bytes:
    """Names and values, each after its length in 16 bits, little end first."""
    texts = [text.encode("latin-1") for pair in params for text in pair]
    return b"".join(struct.pack("<H", len(text)) + text for text in texts)


@st.composite
def request_images(draw: st.DrawFn, requests: st.SearchStrategy[WireRequest] | None = None) -> Image:
    """Draw a request of WSGI (modifier1 0), with any modifier2."""
    request = draw(any_requests("uwsgi") if requests is None else requests)
    wire = packet(variables(request.params), 0, draw(st.integers(0, 255))) + request.body
    return Image(wire, {1: request.expected("uwsgi")})


def response_images(responses: st.SearchStrategy[WireResponse] | None = None) -> st.SearchStrategy[Image]:
    """A CGI response, or one with a status line, which ends with the connection."""
    return single_response_images("uwsgi", responses)


_DOCUMENT: Final = "The uwsgi protocol"


def _request(*pairs: tuple[str, str]) -> bytes:
    return packet(variables(pairs))


_WHOLE: Final = _request(("CONTENT_LENGTH", "4"), ("A", "b")) + b"body"
_BREACHES: Final = (
    breach(
        "modifier1",
        f"{_DOCUMENT}: The uwsgi packet header, modifier1",
        "modifier1 is that of a plugin that the server has",
        st.sampled_from([1, 5, 9, 22, 255]).map(lambda number: packet(b"", number)),
    ),
    breach(
        "string-beyond-block",
        f"{_DOCUMENT}: The uwsgi vars",
        "names and values have as many bytes as their sizes say",
        st.sampled_from([b"\2\0A", b"\1\0A\2\0b", b"\1\0A\xff\xffb", b"\xff\xffA\1\0b"]).map(packet),
    ),
    breach(
        "size-cut",
        f"{_DOCUMENT}: The uwsgi vars",
        "every size has two bytes, and every name a value",
        st.sampled_from([b"\1", b"\1\0A", b"\1\0A\1", b"\1\0A\1\0b\0"]).map(packet),
    ),
    breach("name-empty", "RFC 3875 section 4.1", "a meta-variable has a name", st.just(_request(("", "a")))),
    breach(
        "name-twice",
        "RFC 3875 section 4.1",
        "a meta-variable has one value",
        st.sampled_from(["REMOTE_USER", "HTTP_HOST", "A"]).map(lambda name: _request((name, "a"), (name, "b"))),
    ),
    breach(
        "content-length",
        "RFC 3875 section 4.1.2",
        "CONTENT_LENGTH is digits",
        st.sampled_from(["-1", "+5", "1,1", "1_0", " 5", "0x5", "five", "\xb2"]).map(
            lambda text: _request(("CONTENT_LENGTH", text))
        ),
    ),
    breach(
        "request-cut",
        f"{_DOCUMENT}: The uwsgi packet header, datasize",
        "variables and body are whole before the connection ends",
        st.integers(1, len(_WHOLE) - 1).map(lambda end: _WHOLE[:end]),
        eof=True,
    ),
)
RULES: Final = rules(_BREACHES)
"""Every rule that ``illegal_requests`` breaks, by name."""


def illegal_requests(*names: str) -> st.SearchStrategy[Illegal]:
    """Wires that break one of these rules of ``RULES``, or any."""
    return chosen(_BREACHES, names)


_RESPONSE_BREACHES: Final = response_breaches()
RESPONSE_RULES: Final = rules(_RESPONSE_BREACHES)
"""Every rule that ``illegal_responses`` breaks, by name."""


def illegal_responses(*names: str) -> st.SearchStrategy[Illegal]:
    """Answers that break one of these rules of ``RESPONSE_RULES``, or any."""
    return chosen(_RESPONSE_BREACHES, names)
