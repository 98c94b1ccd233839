"""The servers of ``tests.conform``, fit for bytes that nobody has thought of, and rules that only these break.

``dies``: nobody answers for a moment after what is no request; ``stuck``: the same, but connections are accepted;
``descriptors``: one stays open for each such; ``lower``: values of parameters become lower case; ``params-kept``: those
of the connection's request before are still there; ``many-records``: parameters in several records get another status.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import NoReturn

from tests.conform.fake_fastcgi import Asked, FastCGIFake, read_pairs
from tests.conform.fake_single import SCGIFake, SingleFake, UWSGIFake
from tests.conform.fakes import End, Fake

__all__ = ["BrokenFastCGI", "BrokenSCGI", "BrokenUWSGI"]

DOWN = {"dies": 0.15, "stuck": 1.0}
"""Seconds."""


class Broken(Fake):
    """What is common to them."""

    until = 0.0
    of_cases = False
    left: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.left = []

    def __exit__(self, *error: object) -> None:
        super().__exit__(None, None, None)
        for descriptor in self.left:
            os.close(descriptor)

    def handle(self, sock: socket.socket) -> None:
        if time.monotonic() < self.until:
            if self.broken == "stuck":
                self.ending.wait(self.until - time.monotonic())
            sock.close()
            return
        super().handle(sock)

    def serve(self, sock: socket.socket) -> None:
        try:
            super().serve(sock)
        except (ValueError, IndexError, struct.error):
            raise End from None

    def changed(self, params: dict[str, str]) -> dict[str, str]:
        params = super().changed(params)
        return {name: value.lower() for name, value in params.items()} if self.broken == "lower" else params

    def malformed(self) -> NoReturn:
        if self.broken in DOWN:
            self.until = time.monotonic() + DOWN[self.broken]
            raise End
        if self.broken == "descriptors":
            self.left.append(os.open(os.devnull, os.O_RDONLY))
        super().malformed()


def ambiguous(pairs: list[tuple[str, str]]) -> bool:
    """Whether a name has two values, which the servers of ``tests.conform`` do not mind."""
    found: dict[str, str] = {}
    return any(found.setdefault(name, value) != value and name == "REMOTE_USER" for name, value in pairs)


class BrokenFastCGI(Broken, FastCGIFake):
    def params(self, sock: socket.socket, active: dict[int, Asked], number: int, content: bytes) -> None:
        if (
            not content
            and not active[number].head
            and ambiguous(read_pairs(bytes(active[number].params), lenient=True))
        ):
            self.refuse(sock, active, number)
            return
        if content and active[number].params and self.broken == "many-records":
            active[number].late = True
        super().params(sock, active, number, content)

    def answer(self, sock: socket.socket, active: dict[int, Asked], number: int, leftover: list[bytes]) -> None:
        if self.broken == "many-records" and active[number].late:
            active[number].params = bytearray(b"\x0c\x0aQUERY_STRINGstatus=404")
        if self.broken == "params-kept":
            leftover.append(bytes(active[number].params))
            active[number].params = bytearray(b"".join(leftover))
        super().answer(sock, active, number, leftover)


class BrokenSingle(Broken, SingleFake):
    def head(self, data: bytes, eof: bool) -> tuple[list[tuple[str, str]], bytes] | None:
        found = super().head(data, eof)
        if found is not None and ambiguous(found[0]):
            self.malformed()
        return found


class BrokenSCGI(BrokenSingle, SCGIFake):
    pass


class BrokenUWSGI(BrokenSingle, UWSGIFake):
    pass
