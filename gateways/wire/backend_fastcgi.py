"""FastCGI as an application reads it from a web server under test: strictly, each breach with a name."""

from __future__ import annotations

import socket
import struct
from typing import Final

from gateways.codecs.fastcgi_records import (
    FCGI_ABORT_REQUEST,
    FCGI_BEGIN_REQUEST,
    FCGI_DATA,
    FCGI_END_REQUEST,
    FCGI_GET_VALUES,
    FCGI_GET_VALUES_RESULT,
    FCGI_PARAMS,
    FCGI_RESPONDER,
    FCGI_STDIN,
    FCGI_STDOUT,
)
from gateways.wire.backend import Arrival, Peer
from gateways.wire.fastcgi import HEADER, LONGEST, NAMES, pairs, rec

__all__ = ["FastCGIPeer", "end_request", "stdout"]

FROM_A_SERVER: Final = (1, 2, 4, 5, 8, 9)


def stdout(number: int, data: bytes, size: int = LONGEST, padding: int = 0) -> bytes:
    """FCGI_STDOUT in records of ``size`` bytes, without its end."""
    return b"".join([rec(FCGI_STDOUT, number, data[at : at + size], padding) for at in range(0, len(data), size)])


def end_request(number: int, app_status: int = 0, protocol_status: int = 0, *, reserved: bytes = bytes(3)) -> bytes:
    """FCGI_END_REQUEST."""
    return rec(FCGI_END_REQUEST, number, struct.pack(">IB", app_status, protocol_status) + reserved)


class FastCGIPeer(Peer):
    """A connection of FastCGI."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.active: dict[int, Arrival] = {}
        self.blocks: dict[int, bytearray] = {}
        self.kept = True
        """Every request so far has asked for it."""

    @property
    def is_idle(self) -> bool:
        """Another request may come."""
        served = all(arrival.whole for arrival in self.arrivals)
        return served and self.kept and not (self.faults or self.active or self.buffer or self.eof or self.broken)

    def output(self, arrival: Arrival, data: bytes) -> bytes:
        """FCGI_STDOUT."""
        return stdout(arrival.number, data)

    def finish(self, arrival: Arrival) -> None:
        """The end of FCGI_STDOUT, FCGI_END_REQUEST, and the close where nobody asked for a kept connection."""
        self.complete(arrival, rec(FCGI_STDOUT, arrival.number) + end_request(arrival.number))

    def complete(self, arrival: Arrival, data: bytes) -> None:
        """Send these bytes, with which the request is over."""
        self.send(data)
        self.active.pop(arrival.number, None)
        if not arrival.keep:
            self.end()

    def read(self) -> None:
        """Take whole records."""
        buffer = self.buffer
        while len(buffer) >= HEADER.size and not self.unreadable:
            version, kind, number, size, padding, reserved = HEADER.unpack_from(buffer)
            if version != 1:
                self.give_up("version", f"version {version}: {bytes(buffer[:16])!r}")
                return
            end = HEADER.size + size + padding
            if len(buffer) < end:
                return
            content = bytes(buffer[HEADER.size : HEADER.size + size])
            del buffer[:end]
            if reserved:
                self.fault("reserved", f"reserved {reserved}")
            self.record(kind, number, content)

    def record(self, kind: int, number: int, content: bytes) -> None:
        """Take one."""
        name = NAMES.get(kind, str(kind))
        if kind not in FROM_A_SERVER:
            self.fault("types", f"type {name}")
        elif kind == FCGI_GET_VALUES:
            if number:
                self.fault("management", f"{name} with id {number}")
            names = [asked for asked, _ in self.decode(bytearray(content))]
            answer = {asked: "1" if asked.startswith("FCGI_MAX") else "0" for asked in names}
            self.send(rec(FCGI_GET_VALUES_RESULT, 0, pairs(answer)))
        elif number == 0:
            self.fault("id", f"{name} with id 0")
        elif kind == FCGI_BEGIN_REQUEST:
            self.begin(number, content)
        elif number not in self.active:
            known = any(arrival.number == number for arrival in self.arrivals)
            # What was under way when the request was answered may still come.
            if not known or kind == FCGI_PARAMS:
                self.fault("inactive", f"{name} of request {number}")
        elif kind == FCGI_ABORT_REQUEST:
            self.active[number].aborted = True
        elif kind == FCGI_DATA:
            self.fault("data", "FCGI_DATA for a Responder")
        elif kind == FCGI_PARAMS:
            self.params(number, self.active[number], content)
        elif kind == FCGI_STDIN:
            self.stdin(self.active[number], content)

    def begin(self, number: int, content: bytes) -> None:
        """Begin a request."""
        if number in self.active:
            self.fault("twice", f"request {number}, which is active")
            return
        if len(content) != 8:
            self.fault("begin-length", f"{len(content)} bytes")
        role, flags, *reserved = struct.unpack(">HB5B", content[:8].ljust(8, b"\0"))
        if role != FCGI_RESPONDER:
            self.fault("role", f"role {role}")
        if flags & ~1:
            self.fault("flags", f"flags {flags:#x}")
        if any(reserved):
            self.fault("begin-reserved", repr(content[3:]))
        if not self.kept:
            self.fault("not-kept", "another request after one without FCGI_KEEP_CONN")
        self.kept = bool(flags & 1)
        self.active[number] = Arrival(self, number, keep=self.kept)
        self.blocks[number] = bytearray()
        self.arrivals.append(self.active[number])

    def params(self, number: int, arrival: Arrival, content: bytes) -> None:
        """Take a part of the parameters, or their end."""
        if arrival.ready:
            self.fault("params-end", f"{len(content)} bytes of FCGI_PARAMS after their end")
            return
        if content:
            self.blocks[number] += content
            return
        arrival.pairs = self.decode(self.blocks.pop(number))
        arrival.ready = True
        if any(not name for name, _ in arrival.pairs):
            self.fault("names", "a parameter without a name")
        names = [name for name, _ in arrival.pairs]
        if len(set(names)) < len(names):
            self.fault("duplicates", f"{next(name for name in names if names.count(name) > 1)} twice")

    def stdin(self, arrival: Arrival, content: bytes) -> None:
        """Take a part of the body, or its end."""
        if not arrival.ready:
            self.fault("order", "FCGI_STDIN before the end of FCGI_PARAMS")
        if arrival.whole:
            self.fault("stdin-end", f"{len(content)} bytes of FCGI_STDIN after its end")
        elif content:
            arrival.body += content
        else:
            arrival.whole = True
            length = arrival.params.get("CONTENT_LENGTH")
            if length and length != str(len(arrival.body)) and not arrival.aborted:
                self.fault("length", f"CONTENT_LENGTH {length!r} and {len(arrival.body)} bytes")

    def decode(self, block: bytearray) -> list[tuple[str, str]]:
        """Read name-value pairs (section 3.4)."""
        found, at = [], 0
        while at < len(block):
            sizes = []
            for _ in range(2):
                size, wide = (block[at], block[at] > 127) if at < len(block) else (0, False)
                if wide:
                    size = int.from_bytes(block[at : at + 4], "big") & 0x7FFFFFFF
                sizes.append(size)
                at += 4 if wide else 1
            end = at + sum(sizes)
            if end > len(block):
                self.fault("pairs", f"a pair ends after the block of {len(block)} bytes")
                break
            text = block[at:end].decode("latin-1")
            found.append((text[: sizes[0]], text[sizes[0] :]))
            at = end
        return found
