"""What the strategies of every protocol draw: bytes by the rules with their meaning, and bytes against one rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateways.codecs.events import Event
from gateways.testing.model import Shown, shown

__all__ = ["ACCEPTED", "ERROR", "REFUSED", "Illegal", "Image", "Rule"]

ERROR: Final = "error"
"""The connection is at an end: whatever is answered, the receiver reads no more of it."""
REFUSED: Final = "refused"
"""This request (or response) alone is refused; the connection may go on."""
ACCEPTED: Final = "accepted"
"""The bytes may be taken for what is meant: many receivers are as lenient, and some senders need it."""


@dataclass(frozen=True, repr=False)
class Image(Shown):
    """Bytes that keep every rule. Nothing in them is an error for any receiver of the protocol."""

    wire: bytes
    expected: dict[int, list[Event]] = field(repr=False)
    """What they mean, by stream, as ``model.by_stream`` has it."""
    unknown_types: tuple[int, ...] = ()
    """FastCGI: for each of these the receiver owes an FCGI_UNKNOWN_TYPE, in this order (section 4.2)."""
    values_asked: tuple[tuple[str, ...], ...] = ()
    """FastCGI: for each of these the receiver owes an FCGI_GET_VALUES_RESULT, in this order (section 4.1)."""


@dataclass(frozen=True)
class Rule:
    """A rule that a peer can break."""

    name: str
    source: str
    """Specification and section."""
    text: str
    """What the rule asks for."""
    outcomes: frozenset[str] = frozenset({ERROR})
    """What a receiver may make of it: ERROR, REFUSED, ACCEPTED."""

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


@dataclass(frozen=True, repr=False)
class Illegal(Shown):
    """Bytes that break one rule, and no other before it."""

    wire: bytes
    rule: Rule
    eof: bool = False
    """It is broken by the end of file after these bytes."""

    def __str__(self) -> str:
        return f"{shown(self.wire)} breaks {self.rule}"
