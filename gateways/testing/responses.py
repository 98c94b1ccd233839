"""Strategies of responses: statuses, header fields and bodies that a CGI response can have (RFC 3875 section 6)."""

from __future__ import annotations

from functools import cache
from typing import Final

from hypothesis import strategies as st

from gateways.testing.model import Pairs, WireResponse
from gateways.testing.requests import bodies, tokens

__all__ = ["headers", "responses", "statuses"]

_OURS = ("content-length", "location", "status")


@cache
def statuses() -> st.SearchStrategy[str]:
    """Code and reason; the reason may be empty, and hold any latin-1."""
    return st.sampled_from(["200 OK", "204", "302 Found", "404 Not Found", "599 \xe9"])


@cache
@st.composite
def headers(draw: st.DrawFn, most: int = 3) -> Pairs:
    """Draw header fields without Status, Location and Content-Length."""
    name = tokens().filter(lambda name: name.lower() not in _OURS)
    value = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=9)
    return tuple(draw(st.lists(st.tuples(name, value.map(lambda text: text.strip(" \t"))), max_size=most)))


@cache
@st.composite
def responses(draw: st.DrawFn, protocol: str = "fastcgi") -> WireResponse:
    """Draw a response; Content-Length, if any, is true. FastCGI's may have error output and a program's status."""
    status, body, fields = draw(statuses()), draw(bodies()), list(draw(headers()))
    at = draw(st.none() | st.integers(0, len(fields)))
    errors, app_status = draw(_ERRORS) if protocol == "fastcgi" else (b"", 0)
    if status == "204":
        body = b""
    elif at is not None:
        fields.insert(at, ("Content-Length", str(len(body))))
    if status == "302 Found":
        fields.append(("Location", "/elsewhere"))
    return WireResponse(status, tuple(fields), body, errors, app_status)


_ERRORS: Final = st.tuples(st.binary(max_size=20), st.sampled_from([0, 1, 0xFFFFFFFF]))
