"""What a request and a response are, free of any framing, and what a receiver must make of them.

The rules are written here a second time, and the codecs not asked: what tests a codec must not be that codec.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final, Protocol, TypeAlias

from gateways.codecs.events import (
    Body,
    EndOfBody,
    EndOfResponse,
    ErrorOutput,
    Event,
    Request,
    ResponseHead,
)

__all__ = [
    "LAST_COUNTS",
    "ONE_VALUE",
    "HTTPRequest",
    "Pairs",
    "Shown",
    "WireRequest",
    "WireResponse",
    "by_stream",
    "merged",
    "shown",
]

Pairs: TypeAlias = tuple[tuple[str, str], ...]

LAST_COUNTS: Final = ("PATH_INFO", "SCRIPT_NAME")
"""Parameters that every recipe for nginx sets behind an included file that sets them too."""
ONE_VALUE: Final = ("HTTP_HOST", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING")
"""Fields that are no list, so that a second value makes them wrong."""


def merged(params: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the parameters that an application sees; raises ValueError where there is no one meaning.

    Repeated fields are one list (RFC 9110 section 5.3; Cookie by RFC 6265 section 5.4), of SCRIPT_NAME and PATH_INFO
    the last counts, any other name may be repeated with the same value only. ``wsgi.*`` is the server's.
    """
    values: dict[str, list[str]] = {}
    for name, value in params:
        if not name:
            raise ValueError("a parameter without a name")
        if not name.startswith("wsgi."):
            values.setdefault(name, []).append(value)
    result = {}
    for name, each in values.items():
        if name == "HTTP_COOKIE":
            result[name] = "; ".join(each)
        elif name.startswith("HTTP_") and name not in ONE_VALUE:
            result[name] = ", ".join(each)
        elif name in LAST_COUNTS or len(set(each)) == 1:
            result[name] = each[-1]
        else:
            raise ValueError(f"{name} came twice, with different values")
    return result


_RUN: Final = re.compile(r"(.)\1{40,}", re.DOTALL)


def shown(value: object) -> str:
    """Return ``repr(value)``, where text and bytes are short: of many equal characters there is one and a number."""
    if isinstance(value, tuple):
        return f"({''.join(shown(each) + ', ' for each in value)})"
    if not isinstance(value, (bytes, str)):
        return repr(value)
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    parts: list[tuple[str, int]] = []
    at = 0
    for run in _RUN.finditer(text):
        parts += [(text[at : run.start()], 1), (run[1], len(run[0]))]
        at = run.end()
    parts.append((text[at:], 1))
    terms = []
    for part, times in parts:
        literal = repr(part.encode("latin-1") if isinstance(value, bytes) else part)
        if part or len(parts) == 1:
            terms.append(literal if times == 1 else f"{literal} * {times}")
    return " + ".join(terms)


class _Printer(Protocol):
    def text(self, obj: str) -> None: ...


class Shown:
    """A dataclass that can be read where a test has failed."""

    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:  # noqa: ARG002  (IPython's protocol, and hypothesis's)
        printer.text(repr(self))

    def __repr__(self) -> str:
        said = [f"{each.name}={shown(getattr(self, each.name))}" for each in fields(self) if each.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True, repr=False)
class WireRequest(Shown):
    """A request of FastCGI, SCGI or uwsgi. Names and values are latin-1 text, in the order sent, perhaps repeated."""

    params: Pairs = ()
    body: bytes = b""
    role: str = "responder"
    """Or ``authorizer``, which has no body (FastCGI 1.0 section 6.3)."""
    keep: bool = False
    """FCGI_KEEP_CONN."""

    def expected(self, protocol: str, stream: int = 1) -> list[Event]:
        """Return the events of the request, its body in one piece."""
        params = merged(self.params)
        length = int(params.get("CONTENT_LENGTH") or -1)
        if protocol != "fastcgi":
            length = max(length, 0)
        if self.role == "authorizer":
            length = 0
        body: list[Event] = [Body(stream, self.body)] if self.body else []
        return [Request(stream, params, length, self.role, keep=self.keep), *body, EndOfBody(stream)]


@dataclass(frozen=True, repr=False)
class HTTPRequest(Shown):
    """A request of HTTP/1.1 or 1.0. ``fields`` are without those that frame: Content-Length, Transfer-Encoding."""

    method: str = "GET"
    target: str = "/"
    fields: Pairs = (("Host", "a"),)
    body: bytes = b""
    version: str = "1.1"

    def expected(self, stream: int = 1, length: str | None = None, *, chunked: bool = False) -> list[Event]:
        """Return the events where Content-Length was ``length``, or the body came in chunks."""
        fields = [*self.fields, *([] if length is None else [("Content-Length", length)])]
        params = [
            ("REQUEST_METHOD", self.method),
            ("REQUEST_URI", self.target),
            ("QUERY_STRING", self.target.partition("?")[2]),
            ("SERVER_PROTOCOL", f"HTTP/{self.version}"),
        ]
        options = ""
        for name, value in fields:
            key = name.upper().replace("-", "_")
            options = value.lower() if key == "CONNECTION" else options
            params.append((key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}", value))
        keep = options == "keep-alive" or (options != "close" and self.version == "1.1")
        body: list[Event] = [Body(stream, self.body)] if self.body else []
        request = Request(stream, merged(params), -1 if chunked else len(self.body), keep=keep)
        return [request, *body, EndOfBody(stream)]


@dataclass(frozen=True, repr=False)
class WireResponse(Shown):
    """A response of FastCGI, SCGI or uwsgi; the last two know neither error output nor a program's status."""

    status: str = "200 OK"
    headers: Pairs = ()
    body: bytes = b""
    errors: bytes = b""
    """FCGI_STDERR."""
    app_status: int = 0

    def expected(self, stream: int = 1) -> list[Event]:
        """Return the events of the response, its body in one piece, and its error output as ``by_stream`` puts it."""
        body: list[Event] = [Body(stream, self.body)] if self.body else []
        errors: list[Event] = [ErrorOutput(stream, self.errors)] if self.errors else []
        return [
            ResponseHead(stream, self.status, list(self.headers)),
            *body,
            EndOfResponse(stream, self.app_status),
            *errors,
        ]


def by_stream(events: Iterable[Event]) -> dict[int, list[Event]]:
    """Return the events without what framing decides: by stream, bodies in one piece, all error output last."""
    result: dict[int, list[Event]] = {}
    errors: dict[int, bytes] = {}
    for event in events:
        number: int = getattr(event, "stream", 0)
        mine = result.setdefault(number, [])
        last = mine[-1] if mine else None
        if isinstance(event, ErrorOutput):
            errors[number] = errors.get(number, b"") + event.data
        elif isinstance(event, Body) and isinstance(last, Body):
            mine[-1] = Body(number, last.data + event.data)
        else:
            mine.append(event)
    for number, data in errors.items():
        result[number].append(ErrorOutput(number, data))
    return result
