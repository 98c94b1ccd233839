"""Responses of the protocols with one request a connection, SCGI and uwsgi: a CGI response, then the end of file."""

from __future__ import annotations

from hypothesis import strategies as st

from gateways.testing.framing import Image
from gateways.testing.framing.cgi import HEAD_BREACHES, heads
from gateways.testing.framing.illegal import Breach, breach
from gateways.testing.model import WireResponse
from gateways.testing.responses import responses as any_responses

__all__ = ["response_breaches", "single_response_images"]


@st.composite
def single_response_images(
    draw: st.DrawFn, protocol: str, responses: st.SearchStrategy[WireResponse] | None = None
) -> Image:
    """Draw a response; uwsgi's may have a status line in the place of Status."""
    response = draw(any_responses(protocol) if responses is None else responses)
    status_line = protocol == "uwsgi" and draw(st.booleans())
    return Image(draw(heads(response, status_line=status_line)) + response.body, {1: response.expected()})


def response_breaches() -> tuple[Breach, ...]:
    """Return the broken heads, and what only the end of file breaks."""
    return (
        *HEAD_BREACHES,
        breach(
            "response-shorter",
            "RFC 9110 section 8.6",
            "the body has as many bytes as Content-Length says",
            st.sampled_from([b"Content-Length: 2\r\n\r\na", b"Content-Length: 1\n\n"]),
            eof=True,
        ),
        breach(
            "head-cut",
            "RFC 3875 section 6.2",
            "an empty line ends the header",
            st.sampled_from([b"", b"S", b"Status: 200 OK\r\n", b"Status: 200 OK\r\n\r"]),
            eof=True,
        ),
    )
