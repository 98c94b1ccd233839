"""HTTP/1.1 as a small client needs it: a request as bytes, and what a whole connection's bytes mean as a response."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from gateways.client.blocking import connect
from gateways.errors import ConfigError
from gateways.wire.case import Failure

__all__ = ["FrontEnd", "Response", "is_whole", "parse_front_end", "read_response", "request_bytes"]

FORM: Final = "http://HOST:PORT/path"


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """The web server under test; everything below ``path`` goes to the backend."""

    host: str
    port: int
    path: str = ""
    """Without a slash at its end."""

    @property
    def authority(self) -> str:
        """Host and port, as in the Host header field."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, seconds: float) -> socket.socket:
        """Open a connection; raises OSError."""
        return connect((self.host, self.port), seconds)


def parse_front_end(url: str) -> FrontEnd:
    """Read the web server's URL; raises ConfigError."""
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is no web server's URL: {FORM}")
    return FrontEnd(parts.hostname, port, parts.path.rstrip("/"))


def request_bytes(
    front: FrontEnd, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None, version: str
) -> bytes:
    """One request on a connection of its own. Without a body there is no Content-Length either."""
    lines = [f"{method} {target} HTTP/{version}", f"Host: {front.authority}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


@dataclass(frozen=True, slots=True)
class Response:
    """What the client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool
    """As far as its own framing tells."""

    def values(self, name: str) -> list[str]:
        """All fields of this name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def __str__(self) -> str:
        cut = "" if self.whole else " (cut)"
        return f"status {self.status}, {len(self.body)} bytes{cut}: {self.body[:60]!r}"


def is_whole(data: bytes, method: str) -> bool:
    """Whether a response is over by its own framing, though the connection is open."""
    found, blank, body = data.partition(b"\r\n\r\n")
    lines = found.lower().split(b"\r\n")
    if not blank or not lines[0].startswith(b"http/"):
        return False
    code = lines[0].partition(b" ")[2][:3]
    if code == b"100":
        return is_whole(body, method)
    if method == "HEAD" or code in (b"204", b"304"):
        return True
    fields = {name: value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if fields.get(b"transfer-encoding") == b"chunked":
        return body.endswith(b"0\r\n\r\n")
    length = fields.get(b"content-length", b"")
    return length.isdigit() and len(body) >= int(length)


class Recorded:
    """The bytes of a connection that is over, in the place of its socket."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, *_: object) -> io.BytesIO:
        """Return them as http.client wants them."""
        return io.BytesIO(self.data)


def read_response(data: bytes, method: str) -> Response:
    """Read all that came on a connection; raises Failure for what is no response."""
    response = http.client.HTTPResponse(cast("socket.socket", Recorded(data)), method=method)
    try:
        response.begin()
        try:
            body, whole = response.read(), True
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
    except (http.client.HTTPException, ValueError) as error:
        raise Failure("an HTTP response", f"{error!r}: {data[:80]!r}") from None
    return Response(response.status, response.getheaders(), body, whole)
