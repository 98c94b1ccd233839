"""FastCGI for the cases: records that may be wrong in any way, and a strict reader of what a server answers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateways.codecs.fastcgi_records import (
    FCGI_BEGIN_REQUEST,
    FCGI_END_REQUEST,
    FCGI_GET_VALUES,
    FCGI_PARAMS,
    FCGI_STDERR,
    FCGI_STDIN,
    FCGI_STDOUT,
    FCGI_UNKNOWN_TYPE,
)
from gateways.wire.case import Context, Failure, response_head
from gateways.wire.link import Link, Silent

__all__ = [
    "KEEP",
    "Record",
    "Reply",
    "Talk",
    "alive",
    "ask",
    "begin",
    "head_of",
    "pair",
    "pairs",
    "rec",
    "request",
    "stream",
]

KEEP: Final = 1
HEADER: Final = struct.Struct(">BBHHBB")
LONGEST: Final = 65_535
NAMES: Final = {
    1: "BEGIN_REQUEST", 2: "ABORT_REQUEST", 3: "END_REQUEST", 4: "PARAMS", 5: "STDIN", 6: "STDOUT", 7: "STDERR",
    8: "DATA", 9: "GET_VALUES", 10: "GET_VALUES_RESULT", 11: "UNKNOWN_TYPE",
}  # fmt: skip


class Record(NamedTuple):
    """One record that the server sent."""

    kind: int
    number: int
    content: bytes
    padding: int = 0


def rec(
    kind: int,
    number: int,
    content: bytes = b"",
    padding: int = 0,
    *,
    junk: bytes = b"\0",
    reserved: int = 0,
    version: int = 1,
) -> bytes:
    """One record."""
    return HEADER.pack(version, kind, number, len(content), padding, reserved) + content + junk * padding


def begin(number: int, flags: int = 0, role: int = 1) -> bytes:
    """FCGI_BEGIN_REQUEST."""
    return rec(FCGI_BEGIN_REQUEST, number, struct.pack(">HB5x", role, flags))


def pair(name: str, value: str, *, long: int = 0) -> bytes:
    """One name-value pair; bit 0 of ``long``: the name's length in 4 bytes, bit 1: the value's."""
    lengths = b""
    for bit, text in enumerate((name, value)):
        wide = len(text) > 127 or long >> bit & 1
        lengths += struct.pack(">I", len(text) | 1 << 31) if wide else bytes([len(text)])
    return lengths + (name + value).encode("latin-1")


def pairs(params: Mapping[str, str]) -> bytes:
    """A block of pairs."""
    return b"".join([pair(name, value) for name, value in params.items()])


def stream(kind: int, number: int, data: bytes, size: int = LONGEST, *, end: bool = True) -> bytes:
    """A stream in records of ``size`` bytes, with its end."""
    parts = [rec(kind, number, data[at : at + size]) for at in range(0, len(data), size)]
    return b"".join(parts) + (rec(kind, number) if end else b"")


def head_of(number: int, params: Mapping[str, str], flags: int = 0, role: int = 1) -> bytes:
    """A request up to the end of its parameters."""
    return begin(number, flags, role) + stream(FCGI_PARAMS, number, pairs(params))


def request(number: int, params: Mapping[str, str], body: bytes = b"", flags: int = 0, role: int = 1) -> bytes:
    """A whole request."""
    return head_of(number, params, flags, role) + stream(FCGI_STDIN, number, body)


def ask(*names: str) -> bytes:
    """FCGI_GET_VALUES."""
    return rec(FCGI_GET_VALUES, 0, pairs(dict.fromkeys(names, "")))


@dataclass(slots=True)
class Reply:
    """What was answered to one request, so far."""

    number: int
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    stdout_ended: bool = False
    ended: bool = False
    """FCGI_END_REQUEST came; else the connection was closed before."""
    app_status: int = 0
    protocol_status: int = 0

    @property
    def status(self) -> int:
        """The response's status, 0 where there is no response; raises Failure."""
        return int(response_head(bytes(self.stdout), "fastcgi")[0].status[:3]) if self.stdout else 0

    @property
    def body(self) -> bytes:
        """What follows the response's head."""
        return response_head(bytes(self.stdout), "fastcgi")[1]

    def __str__(self) -> str:
        if not self.ended:
            return f"the connection closed after {len(self.stdout)} bytes of FCGI_STDOUT"
        return f"{bytes(self.stdout[:60])!r}, protocolStatus {self.protocol_status}"


class Talk:
    """One FastCGI connection of a case."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.link: Link = context.open()
        self.management: list[Record] = []
        self.replies: dict[int, Reply] = {}

    def send(self, *parts: bytes) -> None:
        """Write; raises Failure where the server takes nothing for too long."""
        try:
            self.link.send(b"".join(parts))
        except Silent:
            raise Failure("a server that reads", f"it took nothing for {self.link.seconds:g} s") from None

    def record(self) -> Record | None:
        """Return the next record, None at the end of the connection; raises Failure for what is no record."""
        buffer = self.link.buffer
        while True:
            if buffer and buffer[0] != 1:
                raise Failure("a record of version 1 (section 3.3)", f"{bytes(buffer[:16])!r}")
            if len(buffer) >= HEADER.size:
                _, kind, number, size, padding, _ = HEADER.unpack_from(buffer)
                end = HEADER.size + size + padding
                if len(buffer) >= end:
                    content = bytes(buffer[HEADER.size : HEADER.size + size])
                    del buffer[:end]
                    return Record(kind, number, content, padding)
            try:
                if not self.link.more():
                    if buffer:
                        raise Failure("a whole record", f"the end of the connection after {bytes(buffer[:16])!r}")
                    return None
            except Silent:
                raise Failure(
                    "an answer, or the end of the connection", f"nothing for {self.link.seconds:g} s"
                ) from None

    def expect(self, *numbers: int) -> None:
        """Say which requests are under way; a record of any other is an error."""
        for number in numbers:
            self.replies[number] = Reply(number)

    def take(self) -> Record | None:
        """Take one record to the reply that it belongs to; raises Failure."""
        found = self.record()
        if found is None:
            return None
        kind, number, content, _ = found
        name = NAMES.get(kind, str(kind))
        if number == 0:
            if kind not in (10, FCGI_UNKNOWN_TYPE):
                raise Failure("a management record that applications send", f"type {name} with id 0")
            self.management.append(found)
            return found
        reply = self.replies.get(number)
        if reply is None or reply.ended:
            raise Failure("records of active requests only (section 3.3)", f"type {name} of request {number}")
        if kind == FCGI_STDOUT:
            if reply.stdout_ended:
                raise Failure("no FCGI_STDOUT after its end", f"{len(content)} bytes")
            reply.stdout += content
            reply.stdout_ended = not content
        elif kind == FCGI_STDERR:
            reply.stderr += content
        elif kind == FCGI_END_REQUEST:
            if len(content) != 8:
                raise Failure("FCGI_END_REQUEST of 8 bytes (section 5.5)", f"{len(content)} bytes")
            reply.ended = True
            reply.app_status, reply.protocol_status = struct.unpack(">IB3x", content)
            if reply.protocol_status > 3:
                raise Failure("a protocolStatus from 0 to 3 (section 5.5)", str(reply.protocol_status))
        else:
            raise Failure("a type that applications send (section 8)", f"type {name}")
        return found

    def answers(self, *numbers: int) -> list[Reply]:
        """Wait until each of these requests is answered, or the connection ends."""
        while not all(self.replies[number].ended for number in numbers):
            if self.take() is None:
                break
        return [self.replies[number] for number in numbers]

    def answer(self, number: int = 1) -> Reply:
        """Wait for one."""
        return self.answers(number)[0]

    def ask(self, number: int, params: Mapping[str, str], body: bytes = b"", flags: int = 0, role: int = 1) -> Reply:
        """Send a whole request and wait for its answer."""
        self.expect(number)
        self.send(request(number, params, body, flags, role))
        return self.answer(number)

    def managed(self, count: int = 1) -> list[Record]:
        """Wait for so many management records."""
        while len(self.management) < count:
            if self.take() is None:
                raise Failure(
                    f"{count} management records (section 4)", f"the end of the connection after {self.management}"
                )
        return self.management

    def good(self, reply: Reply, params: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """The request was served: whole, and with these parameters and body where the echo application answers."""
        if not reply.ended:
            raise Failure("FCGI_END_REQUEST (section 5.5)", str(reply))
        if reply.protocol_status:
            raise Failure("protocolStatus FCGI_REQUEST_COMPLETE", str(reply.protocol_status))
        status = reply.status
        if not status:
            raise Failure("a response on FCGI_STDOUT", "none")
        if self.context.echo:
            self.context.check_echo(status, reply.body, dict(params or {}), body)

    def good_head(self, reply: Reply, status: int) -> None:
        """The request was served with this status."""
        if not reply.ended or reply.protocol_status:
            raise Failure("a whole answer", str(reply))
        if reply.status != status:
            raise Failure(f"status {status}", str(reply.status))

    def refused(self, reply: Reply) -> None:
        """The request was not served: an error status, a protocolStatus, an empty answer or a close."""
        if reply.ended and not reply.protocol_status and reply.stdout and reply.status < 400:
            raise Failure("a refusal, or a close", f"status {reply.status}: {bytes(reply.body[:80])!r}")

    def ends(self) -> None:
        """Nothing more of any request comes, until the server closes."""
        while self.take() is not None:
            pass

    def closes(self) -> None:
        """The server closes, and sends nothing more before."""
        try:
            if self.link.buffer or self.link.more():
                raise Failure("the end of the connection", repr(bytes(self.link.buffer[:40])))
        except Silent:
            raise Failure("the end of the connection", f"nothing for {self.link.seconds:g} s") from None


def alive(context: Context) -> None:
    """A new connection is served, when those before are closed; raises Failure and OSError."""
    context.close()
    talk = Talk(context)
    params = context.params({"CONFORM_ALIVE": "yes"})
    talk.good(talk.ask(1, params), {"CONFORM_ALIVE": "yes"})
