"""The application behind the tests with a real server: it answers with what it saw. PATH_INFO chooses how."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/early":
        return answer(start_response, [b"not read"])
    body = read(environ)
    if path == "/status":
        start_response("404 Not Here", [("X-One", "1"), ("X-Two", "\xe9")])
        return [b"lost"]
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    if path == "/errors":
        environ["wsgi.errors"].write("a complaint\n")
        environ["wsgi.errors"].flush()
        return answer(start_response, [b"said"])
    if path == "/blocks":
        return answer(start_response, (b"%d," % number * 100 for number in range(1_000)))
    if path == "/large":
        return answer(start_response, [b"x" * 1_000_000])
    if path == "/fail":
        raise RuntimeError("on purpose")
    seen = {name: value for name, value in environ.items() if isinstance(value, str)}
    content = {"environ": seen, "body": body.decode("latin-1") if isinstance(body, bytes) else f"no bytes: {body!r}"}
    return answer(start_response, [json.dumps(content).encode()])


def answer(start_response: Callable[..., Any], blocks: Iterable[bytes]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return blocks


def read(environ: dict[str, Any]) -> object:
    """Read the body, to its end where the server says that there is one."""
    if environ.get("wsgi.input_terminated"):
        return environ["wsgi.input"].read()
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
