"""Strategies of requests: the names, values and bodies at which readers of them break, put together by the rules.

They are made once for the same arguments: hypothesis checks every new strategy, which costs more than to draw from it.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from hypothesis import strategies as st

from gateways.testing.model import LAST_COUNTS, ONE_VALUE, HTTPRequest, Pairs, WireRequest

__all__ = ["bodies", "http_requests", "names", "params", "requests", "texts", "tokens", "values"]

SIZES: Final = st.one_of(st.integers(0, 3), st.integers(125, 130), st.integers(250, 260))
"""Lengths around those at which their encoding changes: 127 and 128 for FastCGI, 255 and 256 for uwsgi."""
LARGE: Final = st.sampled_from([32_768, 65_535])
_COMMON: Final = (
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "REMOTE_USER",
    "HTTP_COOKIE",
    "HTTP_VIA",
    "HTTP_X_A",
    "HTTPS",
)
_TOKEN: Final = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FRAMING: Final = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@cache
def texts(*, least: int = 0, without: str = "") -> st.SearchStrategy[str]:
    """Any latin-1 text, control characters and all, its length often one where the encoding of lengths changes."""
    short = st.text(st.characters(max_codepoint=255, exclude_characters=without), min_size=least, max_size=5)
    return st.one_of(short, st.builds(lambda text, size: text + "x" * size, short, SIZES))


@cache
def tokens(most: int = 6) -> st.SearchStrategy[str]:
    """Names of HTTP fields: tokens (RFC 9110 section 5.6.2)."""
    return st.text(_TOKEN, min_size=1, max_size=most)


@cache
def names(protocol: str = "fastcgi") -> st.SearchStrategy[str]:
    """Names of parameters: the usual ones, those of header fields, and any text; none that frames a request."""
    fields = tokens().map(lambda name: "HTTP_" + name.upper().replace("-", "_"))
    any_text = texts(least=1, without="\0" if protocol == "scgi" else "")
    reserved = ("CONTENT_LENGTH", "SCGI")
    return st.one_of(st.sampled_from(_COMMON), fields, any_text).filter(lambda name: name not in reserved)


@cache
def values(protocol: str = "fastcgi") -> st.SearchStrategy[str]:
    """Values of parameters; SCGI's hold no NUL."""
    return texts(without="\0" if protocol == "scgi" else "")


@cache
@st.composite
def params(draw: st.DrawFn, protocol: str = "fastcgi", most: int = 5) -> Pairs:
    """Draw parameters without CONTENT_LENGTH; one may come twice, where that has a meaning; seldom one is large."""
    first = draw(st.lists(st.tuples(names(protocol), values(protocol)), max_size=most, unique_by=lambda pair: pair[0]))
    result = list(first)
    if draw(st.booleans()):
        repeatable = [*first, ("HTTP_COOKIE", "a=1"), ("HTTP_VIA", "a"), ("PATH_INFO", "/a"), ("REMOTE_USER", "a")]
        name, value = draw(st.sampled_from(repeatable))
        if name not in dict(first):
            result.append((name, value))
        value = dict(result)[name]
        if name in LAST_COUNTS or (name.startswith("HTTP_") and name not in ONE_VALUE):
            value = draw(values(protocol))
        result.insert(draw(st.integers(0, len(result))), (name, value))
    elif draw(st.integers(0, 19)) == 19 and protocol != "uwsgi":
        result.append(("HTTP_X_LARGE", "x" * draw(LARGE)))
    return tuple(result)


@cache
def bodies(most: int = 40) -> st.SearchStrategy[bytes]:
    """Bodies: mostly short, some that look like the start of a request, some of a length where readers stop."""
    telling = [b"\1\5\0\1\0\0\0\0", b"0\r\n\r\n", b"\r\n\r\n", b"4:A\0b\0,", b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n"]
    short = st.binary(max_size=most)
    long = st.sampled_from([4_096, 65_535, 65_536]).map(lambda size: b"x" * size)
    return st.one_of(short, short, short, st.sampled_from(telling), st.sampled_from(telling), long)


@cache
@st.composite
def requests(draw: st.DrawFn, protocol: str = "fastcgi", *, most: int = 5) -> WireRequest:
    """Requests of ``fastcgi``, ``scgi`` or ``uwsgi``, with ``most`` parameters of their own, or two more.

    SCGI's and uwsgi's have a body only where CONTENT_LENGTH promises it; FastCGI's may go without.
    """
    # All is drawn in any case: hypothesis takes for simplest what makes the fewest choices.
    given, body, keep = draw(params(protocol, most)), draw(bodies()), draw(st.booleans())
    role, form, at = draw(_ROLES), draw(_LENGTHS), draw(st.integers(0, most))
    if protocol == "scgi":
        return WireRequest((("CONTENT_LENGTH", str(len(body))), ("SCGI", "1"), *given), body)
    if protocol != "fastcgi":
        role, keep = "responder", False
        form = form or ("{}" if body else "")
    elif role == "authorizer":
        body = b""
    if form:
        text = "" if form == "none" and not body else form.replace("none", "{}").format(len(body))
        given = (*given[:at], ("CONTENT_LENGTH", text), *given[at:])
    return WireRequest(given, body, role, keep=keep)


_ROLES: Final = st.sampled_from(["responder", "responder", "responder", "authorizer"])
_LENGTHS: Final = st.sampled_from(["", "{}", "0{}", "none"])
"""Forms of CONTENT_LENGTH that RFC 3875 section 4.1.2 allows: absent, digits, and empty where there is no body."""

_METHODS: Final = st.one_of(
    st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]), tokens().filter(lambda name: name != "CONNECT")
)
_PATHS: Final = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="#\x7f"), max_size=9)
_NAMES: Final = tokens().filter(lambda name: "_" not in name and name.lower() not in _FRAMING)
_INNER: Final = st.characters(
    min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f", include_characters="\t"
)
_FIELDS: Final = st.lists(
    st.tuples(_NAMES, st.text(_INNER, max_size=9).map(lambda text: text.strip(" \t"))), max_size=4
)


@cache
@st.composite
def http_requests(draw: st.DrawFn, *, last: bool = True) -> HTTPRequest:
    """Requests of HTTP/1.1 and 1.0; the connection goes on after them unless they may be its ``last``."""
    version = draw(st.sampled_from(["1.1", "1.0"]))
    method = draw(_METHODS)
    target = "/" + draw(_PATHS)
    if draw(st.integers(0, 7)) == 7:
        method, target = "OPTIONS", "*"
    fields = draw(_FIELDS)
    host = ("Host", draw(st.sampled_from(["a", "", "a.example:8080", "[::1]:80"])))
    fields.insert(draw(st.integers(0, len(fields))), host)
    options = ["", "keep-alive", "close"] if last else [""] if version == "1.1" else ["keep-alive"]
    if option := draw(st.sampled_from(options)):
        fields.append(("Connection", option))
    return HTTPRequest(method, target, tuple(fields), draw(bodies()), version)
