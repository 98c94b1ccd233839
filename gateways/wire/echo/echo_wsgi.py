"""The echo application of ``gateways conform`` for WSGI servers; it needs nothing but this file.

The answer is text: ``gateways-echo 1``, a line NAME=VALUE for each parameter (both percent-encoded), ``length N``, an
empty line, and the N bytes of the request's body. The query string asks for something else: ``size=N`` for N bytes of
``0123456789abcdef`` again and again as the body, ``status=CODE``, ``read=no`` to leave the body unread,
``stderr=TEXT`` to write a line to the error stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, quote

__all__ = ["application"]

BLOCK = 65_536


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer with what came."""
    query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    if "stderr" in query:
        environ["wsgi.errors"].write(query["stderr"] + "\n")
        environ["wsgi.errors"].flush()
    if "size" in query:
        size = int(query["size"])
        content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    else:
        body = b"" if query.get("read") == "no" else read(environ)
        lines = [b"gateways-echo 1"]
        for name, value in sorted(environ.items()):
            if isinstance(value, str) and not name.startswith("wsgi."):
                lines.append(escape(name) + b"=" + escape(value))
        content = b"\n".join([*lines, b"length %d" % len(body), b"", body])
    code = query.get("status", "200")
    headers = [("Content-Type", "text/plain")]
    if code not in ("204", "304"):
        headers.append(("Content-Length", str(len(content))))
    start_response(f"{code} Echo", headers)
    return [b"" if code in ("204", "304") else content]


def escape(text: str) -> bytes:
    """Percent-encode the bytes that the text stands for."""
    return quote(text.encode("latin-1"), safe="").encode("ascii")


def read(environ: dict[str, Any]) -> bytes:
    """Return the whole body; past CONTENT_LENGTH only where the server says that the stream ends."""
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        return b"".join(iter(lambda: stream.read(BLOCK), b""))
    left = int(environ.get("CONTENT_LENGTH") or 0)
    parts = []
    while left > 0 and (block := stream.read(min(left, BLOCK))):
        parts.append(block)
        left -= len(block)
    return b"".join(parts)
