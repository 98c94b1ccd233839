"""Damaged wires: the errors of ``gateways.testing.noise``, and those that know of lengths and of the protocols' words.

All follows from a ``random.Random``, at a tenth of what it costs to draw a legal wire.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from gateways.testing.noise import chop, delete, duplicate, flip, insert, truncate
from gateways.wire.fuzz.case import FuzzCase, Step

__all__ = ["damaged", "damaged_case"]

Damage: TypeAlias = Callable[[bytes, int, int], bytes]

LONGEST: Final = 16_384
"""Of a wire that is damaged."""
_EDGES: Final = (
    0,
    1,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)
"""Where the encodings of lengths change, or arithmetic on them goes wrong."""
_DIGITS: Final = re.compile(rb"[0-9]+")
_NUMBERS: Final = (
    b"0",
    b"00",
    b"-1",
    b"+1",
    b" 1",
    b"1_0",
    b"0x1",
    b"65536",
    b"999999999",
    b"99999999999999999999",
    b"",
)
_WORDS: Final = (
    b"\0", b"\r\n", b"\r\n\r\n", b":", b",", b"\xff", b"\x80", b"\0\0\0\0\0\0\0\0",
    b"CONTENT_LENGTH", b"HTTP_PROXY", b"HTTP_TRANSFER_ENCODING", b"wsgi.input", b"SCGI",
    b"\1\2\0\1\0\0\0\0", b"\1\4\0\1\0\0\0\0", b"\1\5\0\1\0\0\0\0", b"\1\1\0\1\0\10\0\0\0\1\0\0\0\0\0\0",
    b"\1\x0b\0\0\0\0\0\0",
)  # fmt: skip


def _binary(size: int, order: str) -> Damage:
    """Put an edge in the place of a number of this size."""

    def damage(wire: bytes, at: int, chance: int) -> bytes:
        number = _EDGES[chance % len(_EDGES)] & (1 << 8 * size) - 1
        return wire[:at] + number.to_bytes(size, "big" if order == "big" else "little") + wire[at + size :]

    return damage


def _digits(wire: bytes, at: int, chance: int) -> bytes:
    """Put another number in the place of the next one in decimals."""
    found = _DIGITS.search(wire, at) or _DIGITS.search(wire)
    if found is None:
        return wire
    return wire[: found.start()] + _NUMBERS[chance % len(_NUMBERS)] + wire[found.end() :]


def _add(wire: bytes, at: int, chance: int) -> bytes:
    """Add a little to one byte, or take it away."""
    return wire[:at] + bytes([(wire[at] + (1, -1, 16, -16)[chance % 4]) % 256]) + wire[at + 1 :]


def _turn(wire: bytes, at: int, chance: int) -> bytes:
    """Have two neighbouring pieces in the other order."""
    size = 1 + chance % 24
    return wire[:at] + wire[at + size : at + 2 * size] + wire[at : at + size] + wire[at + 2 * size :]


DAMAGES: Final[tuple[Damage, ...]] = (
    lambda wire, at, chance: flip(wire, at, chance % 8),
    _add,
    lambda wire, at, chance: delete(wire, at, 1 + chance % 16),
    lambda wire, at, chance: duplicate(wire, at, 1 + chance % 64),
    lambda wire, at, chance: insert(wire, at, _WORDS[chance % len(_WORDS)]),
    _digits,
    _turn,
    *[_binary(size, order) for size in (1, 2, 4) for order in ("big", "little")],
)
"""Each takes a wire, an offset in it, and a number to choose by."""


def damaged(wire: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Return the wire with one to four errors; some have a piece of another one, or are cut short."""
    for _ in range(chance.randint(1, 4)):
        if wire:
            wire = chance.choice(DAMAGES)(wire, chance.randrange(len(wire)), chance.randrange(256))
    if chance.random() < 0.2:
        other = chance.choice(others)
        start = chance.randrange(len(other))
        wire = insert(wire, chance.randint(0, len(wire)), other[start : start + chance.randint(1, 64)])
    return truncate(wire, chance.randint(1, len(wire))) if wire and chance.random() < 0.1 else wire


def damaged_case(made: Sequence[FuzzCase], corpus: Sequence[bytes], chance: random.Random) -> FuzzCase:
    """A case like one of those that were drawn, or a wire of the corpus, with errors on all of its connections."""
    if chance.random() < 0.5:
        base = chance.choice(made)
        links = [b"".join(step.data for step in base.steps if step.link == link) for link in range(base.links)]
        at = chance.randrange(len(links)) if links else 0
        wire = links[at][:LONGEST] if links else b""
        asked = tuple(replace(each, link=0, turn=0) for each in base.asked if each.link == at)
    else:
        wire, asked = chance.choice(corpus), ()
    wire = damaged(wire, corpus, chance)
    if chance.random() < 0.1:  # and more on the same connection
        wire += damaged(chance.choice(corpus), corpus, chance)
    at_places = [chance.randrange(len(wire) + 1) for _ in range(chance.choice((0, 0, 1, 3)))]
    steps = [Step("send", 0, piece) for piece in chop(wire, at_places) if piece]
    left = chance.random()
    if left < 0.3:
        steps.append(Step("reset") if left < 0.1 else Step("end"))
    return FuzzCase(made[0].protocol, "damaged", tuple(steps), asked, (0,))
