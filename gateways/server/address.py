"""The text in which a person names a listening address, and its value; no socket is touched and no name resolved."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gateways.errors import ConfigError

__all__ = ["Address", "Kind", "parse_address"]

Kind: TypeAlias = Literal["tcp", "unix", "abstract", "fd"]

ALLOWED: Final = (
    "an address is HOST:PORT, [IPV6]:PORT, :PORT (every interface), PORT (127.0.0.1), "
    "a path with a slash or unix:PATH (unix socket), @NAME (Linux abstract socket) or fd:N (inherited socket)"
)
LOOPBACK: Final = "127.0.0.1"
HOST: Final = re.compile(r"[A-Za-z0-9._-]+")
MAXIMUM_PORT: Final = 65_535
DIGITS_OF_FD: Final = 9
"""Keeps ``int`` away from numbers that no C int holds."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Which fields count depends on ``kind``; ``str()`` gives the canonical text."""

    kind: Kind
    host: str = ""
    """tcp: a name or an address without brackets; empty is every interface."""
    port: int = 0
    """tcp: 0 lets the system choose."""
    path: str = ""
    """unix: the path as written, perhaps relative; abstract: the name without its ``@``."""
    fd: int = -1
    """fd: the number of an inherited descriptor."""

    def __str__(self) -> str:
        if self.kind == "tcp":
            return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if self.kind == "unix":
            plain = is_path(self.path) and not self.path.startswith(("@", "unix:")) and "://" not in self.path
            return self.path if plain else f"unix:{self.path}"
        return f"@{self.path}" if self.kind == "abstract" else f"fd:{self.fd}"


def parse_address(text: str) -> Address:
    """Read one address as a person writes it; raise ConfigError with what is allowed."""
    if text.startswith("unix:"):
        return unix_address(text, text.removeprefix("unix:"))
    if text.startswith("@"):
        if text == "@" or "\0" in text:
            raise refusal(text, "the abstract name is empty or holds a NUL")
        return Address("abstract", path=text[1:])
    if text.startswith("fd:"):
        number = text.removeprefix("fd:")
        if not is_number(number) or len(number) > DIGITS_OF_FD:
            raise refusal(text, "after fd: stands the number of a descriptor")
        return Address("fd", fd=int(number))
    if "://" in text:
        raise refusal(text, "leave the scheme away, the option already names the protocol")
    if is_path(text):
        return unix_address(text, text)
    return tcp_address(text)


def unix_address(text: str, path: str) -> Address:
    """The address of the unix socket at ``path``."""
    if not path or path.endswith("/") or "\0" in path:
        raise refusal(text, "the socket's path names no file")
    return Address("unix", path=path)


def tcp_address(text: str) -> Address:
    """Read PORT, :PORT, HOST:PORT or [IPV6]:PORT."""
    if is_number(text):
        return Address("tcp", LOOPBACK, port_number(text, text))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise refusal(text, "there is no port in it" if text else "it is empty")
    if not is_number(port):
        raise refusal(text, f"{port!r} is no port number")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise refusal(text, f"{host!r} is no IPv6 address") from None
    elif ":" in host:
        raise refusal(text, "an IPv6 address stands in brackets, as in [::1]:9000")
    elif host and not HOST.fullmatch(host):
        raise refusal(text, f"{host!r} is no host name (for every interface write :{port})")
    return Address("tcp", host, port_number(text, port))


def port_number(text: str, digits: str) -> int:
    """The port that ``digits`` name."""
    port = int(digits[:6])
    if port > MAXIMUM_PORT:
        raise refusal(text, f"the highest port is {MAXIMUM_PORT}")
    return port


def is_path(text: str) -> bool:
    """A slash anywhere, or a dot in front, makes it a path."""
    return "/" in text or text.startswith(".")


def is_number(text: str) -> bool:
    """ASCII digits only: ``int`` would take ``+5``, `` 5`` and ``1_0``."""
    return text.isascii() and text.isdigit()


def refusal(text: str, reason: str) -> ConfigError:
    """The one sentence for every address that cannot be read."""
    return ConfigError(f"{text!r} is not an address: {reason}; {ALLOWED}")
