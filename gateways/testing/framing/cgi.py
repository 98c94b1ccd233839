"""The head of a CGI response (RFC 3875 section 6.2) in its legal forms, and heads that are none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hypothesis import strategies as st

from gateways.testing.framing.illegal import Breach, breach
from gateways.testing.model import WireResponse

__all__ = ["HEAD_BREACHES", "heads"]


_STATUS: Final = st.tuples(st.booleans(), st.sampled_from(["Status", "status", "STATUS"]), st.integers(0, 3))


@st.composite
def heads(draw: st.DrawFn, response: WireResponse, *, status_line: bool = False) -> bytes:
    """Draw the head with either line end, Status anywhere or left out where it is implied, and blanks round values.

    ``status_line`` is the form that backends of uwsgi answer in: ``HTTP/1.1 200 OK`` in the place of Status.
    """
    colon = draw(st.sampled_from([": ", ":", ":\t"]))
    after = draw(st.sampled_from(["", " "]))
    lines = [f"{name}{colon}{value}{after}" for name, value in response.headers]
    implied = "302 Found" if any(name.lower() == "location" for name, _ in response.headers) else "200 OK"
    left_out, name, at = draw(_STATUS)
    if status_line:
        lines.insert(0, f"HTTP/1.1 {response.status}")
    elif response.status != implied or not lines or not left_out:
        lines.insert(at % (len(lines) + 1), f"{name}{colon}{response.status}")
    end = draw(st.sampled_from(["\r\n", "\n"]))
    return end.join([*lines, "", ""]).encode("latin-1")


def _lines(lines: Iterable[bytes]) -> st.SearchStrategy[bytes]:
    """Put one of these lines into a head that is right without it."""
    around = st.sampled_from([b"%b\r\n\r\n", b"Status: 200 OK\r\n%b\r\n\r\n", b"A: b\n%b\n\n"])
    return st.builds(lambda line, head: head % line, st.sampled_from(list(lines)), around)


HEAD_BREACHES: Final[tuple[Breach, ...]] = (
    breach(
        "head-empty",
        "RFC 3875 section 6.2",
        "a response has at least one header field",
        st.sampled_from([b"\r\n", b"\n", b"\r\n\r\nbody"]),
    ),
    breach(
        "head-no-colon",
        "RFC 3875 section 6.3",
        "a header field is a name and a colon",
        _lines([b"A", b"Traceback (most recent call last)", b" "]),
    ),
    breach(
        "head-name",
        "RFC 3875 section 6.3",
        "the name of a header field is a token",
        _lines([b": b", b"A B: c", b"A : b", b" A: b", b"\xe9: b", b"A(: b"]),
    ),
    breach(
        "head-control",
        "RFC 3875 section 6.3, RFC 9110 section 5.5",
        "no header field holds a NUL, or a CR within the line",
        _lines([b"A: \0", b"A: b\rC: d", b"A\0: b"]),
    ),
    breach(
        "status",
        "RFC 3875 section 6.3.3",
        "Status is a code of three digits, and perhaps a reason",
        _lines([b"Status: OK", b"Status: 20", b"Status: 2000", b"Status:", b"Status: +20 x", b"Status: 200-OK"]),
    ),
    breach(
        "two-statuses",
        "RFC 3875 section 6.3",
        "a header field comes once",
        st.sampled_from([b"Status: 200 OK\r\nStatus: 404 Not Found\r\n\r\n"]),
    ),
    breach(
        "response-length",
        "RFC 9110 section 8.6",
        "Content-Length is one number",
        _lines([b"Content-Length: -1", b"Content-Length: 1_0", b"Content-Length: 1\nContent-Length: 2"]),
    ),
    breach(
        "response-longer",
        "RFC 9110 section 8.6",
        "the body has as many bytes as Content-Length says",
        st.sampled_from([b"Content-Length: 1\r\n\r\nab", b"Content-Length: 0\n\nx"]),
    ),
)
"""Heads that every protocol of CGI responses shares; FastCGI's receivers may refuse the one response alone."""
