"""SCGI and uwsgi for the cases: messages that may be wrong in any way, and the one answer of a connection."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateways.wire.case import Context, Failure, response_head
from gateways.wire.link import Link, Silent

__all__ = [
    "Answer",
    "alive",
    "exchange",
    "good",
    "head",
    "message",
    "netstring",
    "packet",
    "refused",
    "strings",
    "variables",
]


def strings(pairs: Iterable[tuple[str, str]]) -> bytes:
    """SCGI headers without the netstring around them."""
    return b"".join([f"{name}\0{value}\0".encode("latin-1") for name, value in pairs])


def netstring(block: bytes) -> bytes:
    """A netstring."""
    return b"%d:%s," % (len(block), block)


def variables(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Variables of uwsgi."""
    return b"".join([struct.pack("<H", len(text)) + text.encode("latin-1") for pair in pairs for text in pair])


def packet(block: bytes, modifier1: int = 0, modifier2: int = 0, size: int = -1) -> bytes:
    """A uwsgi packet; ``size`` in the place of the right datasize."""
    return struct.pack("<BHB", modifier1, len(block) if size < 0 else size, modifier2) + block


def head(protocol: str, params: Mapping[str, str]) -> bytes:
    """A request without its body, for SCGI as the specification has it."""
    if protocol == "uwsgi":
        return packet(variables(params.items()))
    first = {"CONTENT_LENGTH": params.get("CONTENT_LENGTH") or "0", "SCGI": "1"}
    return netstring(strings([*first.items(), *((name, value) for name, value in params.items() if name not in first)]))


def message(protocol: str, params: Mapping[str, str], body: bytes = b"") -> bytes:
    """A whole request."""
    return head(protocol, params) + body


@dataclass(frozen=True, slots=True)
class Answer:
    """All that the server sent until it closed."""

    raw: bytes
    protocol: str

    @property
    def status(self) -> int:
        """0 where nothing came; raises Failure."""
        return int(response_head(self.raw, self.protocol)[0].status[:3]) if self.raw else 0

    @property
    def body(self) -> bytes:
        """What follows the head; raises Failure."""
        return response_head(self.raw, self.protocol)[1]


def send(link: Link, data: bytes) -> None:
    """Write; raises Failure."""
    try:
        link.send(data)
    except Silent:
        raise Failure("a server that reads", f"it took nothing for {link.seconds:g} s") from None


def rest(link: Link, protocol: str) -> Answer:
    """Read to the end of the connection; raises Failure."""
    try:
        return Answer(link.rest(), protocol)
    except Silent:
        got = f"{bytes(link.buffer[:60])!r}, then " if link.buffer else ""
        raise Failure("an answer and the end of the connection", f"{got}nothing for {link.seconds:g} s") from None


def exchange(context: Context, *parts: bytes, end: bool = False) -> Answer:
    """Send these bytes on a new connection, one packet after another, and read all that is answered."""
    link = context.open()
    for part in parts:
        send(link, part)
    if end:
        link.end()
    return rest(link, context.target.protocol)


def good(context: Context, answer: Answer, params: Mapping[str, str] | None = None, body: bytes = b"") -> None:
    """The request was served, with these parameters and this body where the echo application answers."""
    if not answer.raw:
        raise Failure("an answer", "the end of the connection")
    status = answer.status
    if context.echo:
        context.check_echo(status, answer.body, dict(params or {}), body)


def refused(answer: Answer) -> None:
    """The request was not served: an error status or a close."""
    if answer.raw and answer.status < 400:
        raise Failure("a refusal, or a close", f"status {answer.status}: {answer.body[:80]!r}")


def alive(context: Context) -> None:
    """A new connection is served, when those before are closed; raises Failure and OSError."""
    context.close()
    params = context.params({"CONFORM_ALIVE": "yes"})
    good(context, exchange(context, message(context.target.protocol, params)), {"CONFORM_ALIVE": "yes"})
