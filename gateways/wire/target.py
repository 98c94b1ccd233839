"""The URL of a server under test: which protocol, where it listens, which request is asked of it.

``fastcgi://HOST:PORT/path?query`` (also ``scgi``, ``uwsgi``) and ``fastcgi+unix:///run/x.sock``, whose path is the
socket's. No name is resolved and no socket touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from gateways.client.blocking import Address
from gateways.errors import ConfigError

__all__ = ["PROTOCOLS", "Target", "parse_target"]

PROTOCOLS: Final = ("fastcgi", "scgi", "uwsgi")
FORMS: Final = "fastcgi://HOST:PORT/path, fastcgi+unix:///path/of.sock, and so for scgi and uwsgi"


@dataclass(frozen=True, slots=True)
class Target:
    """One server and the request that it is asked."""

    protocol: str
    address: Address
    path: str = "/"
    query: str = ""
    params: dict[str, str] = field(default_factory=dict)
    """What the user wants beside, or in the place of, a request's usual parameters."""

    def request_params(self) -> dict[str, str]:
        """The parameters of the simplest request, as a web server sends them."""
        uri = self.path + ("?" + self.query if self.query else "")
        usual = {
            "REQUEST_METHOD": "GET",
            "REQUEST_URI": uri,
            "SCRIPT_NAME": self.path,
            "QUERY_STRING": self.query,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": "localhost",
        }
        return usual | self.params


def parse_target(url: str, params: dict[str, str] | None = None) -> Target:
    """Read a URL; raises ConfigError with what is allowed."""
    parts = urlsplit(url)
    protocol, _, kind = parts.scheme.partition("+")
    if protocol not in PROTOCOLS or kind not in ("", "unix"):
        raise ConfigError(f"{url!r} names no server: {FORMS}")
    if kind == "unix":
        if parts.netloc or not parts.path:
            raise ConfigError(f"{url!r} names no socket: {FORMS}")
        return Target(protocol, parts.path, "/", parts.query, params or {})
    try:
        port = parts.port
    except ValueError:
        port = None
    if not port or not parts.hostname:
        raise ConfigError(f"{url!r} has no host and port: {FORMS}")
    return Target(protocol, (parts.hostname, port), parts.path or "/", parts.query, params or {})
