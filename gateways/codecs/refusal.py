"""The plain response with which the server itself answers an error, in the vocabulary of events."""

from __future__ import annotations

from typing import Final

from gateways.codecs.events import ResponseHead

__all__ = ["error_response"]

_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


def error_response(stream: int, code: int, head_only: bool = False) -> ResponseHead:
    """Return the whole plain answer that says no more than ``code``; 503 with Retry-After."""
    status = f"{code} {_REASONS.get(code, 'Error')}"
    content = (status + "\n").encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
    if code == 503:
        headers.append(("Retry-After", "1"))
    return ResponseHead(stream, status, headers, b"" if head_only else content, True)
