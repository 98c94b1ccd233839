"""SCGI (the protocol document of 2006, and netstrings): legal and illegal wires of both directions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hypothesis import strategies as st

from gateways.testing.framing import ACCEPTED, ERROR, Illegal, Image
from gateways.testing.framing.illegal import breach, chosen, rules
from gateways.testing.framing.single import response_breaches, single_response_images
from gateways.testing.model import WireRequest, WireResponse
from gateways.testing.requests import requests as any_requests

__all__ = [
    "RESPONSE_RULES",
    "RULES",
    "headers",
    "illegal_requests",
    "illegal_responses",
    "netstring",
    "request_images",
    "response_images",
]


def netstring(data: bytes) -> bytes:
    """Length, colon, data, comma."""
    return b"%d:%b," % (len(data), data)


def headers(params: Iterable[tuple[str, str]]) -> bytes:
    """Names and values, each ended by NUL."""
    return b"".join(text.encode("latin-1") + b"\0" for pair in params for text in pair)


@st.composite
def request_images(draw: st.DrawFn, requests: st.SearchStrategy[WireRequest] | None = None) -> Image:
    """Draw a request: the document leaves no choice of framing."""
    request = draw(any_requests("scgi") if requests is None else requests)
    return Image(netstring(headers(request.params)) + request.body, {1: request.expected("scgi")})


def response_images(responses: st.SearchStrategy[WireResponse] | None = None) -> st.SearchStrategy[Image]:
    """A CGI response, which ends with the connection."""
    return single_response_images("scgi", responses)


_DOCUMENT: Final = "SCGI, Request Format"


def _head(*pairs: tuple[str, str], first: str = "0") -> bytes:
    return netstring(headers([("CONTENT_LENGTH", first), ("SCGI", "1"), *pairs]))


_WHOLE: Final = _head(("A", "b"), first="4") + b"body"
_BLOCK: Final = b"CONTENT_LENGTH\x000\0SCGI\x001\0"
_BREACHES: Final = (
    breach(
        "length-digits",
        "netstrings, and " + _DOCUMENT,
        "the length of the headers is digits and a colon",
        st.sampled_from([b"+", b"-", b" ", b"0x", b"", b"1_", b"GET "]).map(lambda start: start + b":A\0b\0,"),
    ),
    breach(
        "length-zeros",
        "netstrings, and " + _DOCUMENT,
        "the length of the headers has no leading zero",
        st.integers(1, 3).map(lambda count: b"0" * count + _head()),
    ),
    breach(
        "comma",
        "netstrings, and " + _DOCUMENT,
        "a comma follows the headers, where their length says that they end",
        st.sampled_from([b"%d:%b;" % (len(_BLOCK), _BLOCK), b"%d:%b," % (len(_BLOCK) - 1, _BLOCK)]),
    ),
    breach(
        "last-nul",
        _DOCUMENT,
        "every header ends with NUL",
        st.sampled_from([netstring(_BLOCK + b"A\0b"), netstring(_BLOCK[:-1]), netstring(b"A")]),
    ),
    breach(
        "odd-string",
        _DOCUMENT,
        "every name has a value",
        st.sampled_from([netstring(_BLOCK + b"A\0"), netstring(_BLOCK + b"\0")]),
    ),
    breach("no-headers", _DOCUMENT, "there are headers, CONTENT_LENGTH at least", st.just(b"0:,")),
    breach("name-empty", _DOCUMENT, "no name is empty", st.just(_head(("", "a")))),
    breach(
        "name-twice",
        _DOCUMENT,
        "no name comes twice",
        st.sampled_from(["REMOTE_USER", "HTTP_HOST", "A"]).map(lambda name: _head((name, "a"), (name, "b"))),
    ),
    breach(
        "content-length",
        _DOCUMENT,
        "CONTENT_LENGTH is digits",
        st.sampled_from(["-1", "+5", "1,1", "1_0", " 5", "0x5", "five", "\xb2"]).map(lambda text: _head(first=text)),
    ),
    breach(
        "content-length-first",
        _DOCUMENT,
        "CONTENT_LENGTH is the first header",
        st.sampled_from([netstring(b"SCGI\x001\0CONTENT_LENGTH\x000\0"), netstring(b"SCGI\x001\0")]),
        ERROR,
        ACCEPTED,
    ),
    breach(
        "scgi-1",
        _DOCUMENT,
        "there is the header SCGI, with the value 1",
        st.sampled_from([netstring(b"CONTENT_LENGTH\x000\0"), netstring(b"CONTENT_LENGTH\x000\0SCGI\x002\0")]),
        ERROR,
        ACCEPTED,
    ),
    breach(
        "request-cut",
        _DOCUMENT,
        "headers and body are whole before the connection ends",
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
