"""Wires to damage: what the cases of ``gateways conform`` send, and the first bytes of other protocols."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Final

from gateways.wire.case import Context, Failure, Skip
from gateways.wire.cases import SUITES
from gateways.wire.link import Link, Silent
from gateways.wire.target import PROTOCOLS, Target

__all__ = ["FOREIGN", "corpus", "foreign"]

LONGEST: Final = 4_096
"""Of a wire: those that test limits are long and say nothing more when they are damaged."""
ASKING: Final = (b"size=", b"status=")
"""What asks the echo application for something: damaged, it asks for a gigabyte, or for a status that is none."""
FOREIGN: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1\0\1\0\2",
    b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + bytes(32) + b"\0\0\2\x13\1\1\0",
    b"SSH-2.0-x\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"\0" * 64,
    b"\xff" * 64,
)
"""HTTP/1.1 and 2, PROXY 1 and 2, TLS, SSH, Redis, and two lines that nobody drives."""


class Recorder(Link):
    """No connection: it keeps what a case sends, and closes before it answers."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buffer = bytearray()
        self.eof = self.broken = False
        self.sent = bytearray()
        self.received = bytearray()
        self.sent_bytes = self.received_bytes = 0
        self.parts: list[bytes] = []

    def close(self) -> None:
        """Nothing is open."""

    def send(self, data: bytes) -> None:
        """Keep the bytes, but not of a case that sends without end."""
        self.parts.append(data)
        self.sent_bytes += len(data)
        if self.sent_bytes > LONGEST:
            raise Silent

    def end(self) -> None:
        """Nothing follows."""

    def more(self, seconds: float | None = None) -> bool:  # noqa: ARG002 - a Link's signature
        """It has ended."""
        self.eof = True
        return False

    def is_closed(self) -> bool:
        """It has ended."""
        return True


class Recording(Context):
    """A case's context without a server."""

    def open(self) -> Link:
        """Open nothing."""
        link = Recorder()
        self.links.append(link)
        return link


@cache
def corpus(protocol: str) -> tuple[bytes, ...]:
    """The first bytes that the cases of a protocol send on each connection, shortest first."""
    target = Target(protocol, "")
    found: set[bytes] = set()
    for case in SUITES[protocol]:
        context = Recording(target, 0.0, echo=False)
        with contextlib.suppress(Failure, Skip, Silent, OSError):
            case.run(context)
        for link in context.links:
            if isinstance(link, Recorder) and 0 < link.sent_bytes <= LONGEST:
                wire = b"".join(link.parts)
                if not any(text in wire for text in ASKING):
                    found.add(wire)
    return tuple(sorted(found, key=lambda wire: (len(wire), wire)))


@cache
def foreign(protocol: str) -> tuple[bytes, ...]:
    """Bytes of other protocols."""
    others = [corpus(other)[at] for other in PROTOCOLS if other != protocol for at in (-1, 0)]
    return (*FOREIGN, *others)
