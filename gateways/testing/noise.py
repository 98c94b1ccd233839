"""Bytes cut into pieces, and bytes with errors in them: plain functions, the same again for the same arguments.

``noisy`` has the same as strategies of hypothesis.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Final

__all__ = [
    "MUTATIONS",
    "byte_by_byte",
    "chop",
    "cuts",
    "delete",
    "duplicate",
    "flip",
    "insert",
    "mutate",
    "random_pieces",
    "splits",
    "truncate",
]

_EVERY: Final = 400  # up to this many bytes, every offset is tried; of longer wires the two ends and a sample


def chop(wire: bytes, at: Iterable[int]) -> list[bytes]:
    """Cut at these offsets, in any order and each modulo the length; the same one twice makes an empty piece."""
    ends = [0, *sorted(offset % (len(wire) + 1) for offset in at), len(wire)]
    return [wire[start:end] for start, end in pairwise(ends)]


def cuts(size: int) -> list[int]:
    """Return the offsets within ``size`` bytes at which to cut: all, or of many those near both ends and a sample."""
    if size <= _EVERY:
        return list(range(1, size))
    edge = _EVERY // 2
    return sorted({*range(1, edge), *range(edge, size - edge, 1 + size // 50), *range(size - edge, size)})


def byte_by_byte(wire: bytes) -> list[bytes]:
    """Return each byte as a piece."""
    return [wire[at : at + 1] for at in range(len(wire))]


def splits(wire: bytes) -> Iterator[list[bytes]]:
    """Yield the wire in one piece; cut at all of ``cuts`` (a short one: byte by byte); in every two pieces."""
    yield [wire]
    yield chop(wire, cuts(len(wire)))
    for at in cuts(len(wire)):
        yield [wire[:at], wire[at:]]


def random_pieces(wire: bytes, seed: int, most: int = 8) -> list[bytes]:
    """Return the wire in ``most`` pieces or fewer, none of them empty."""
    chance = random.Random(seed)
    at = {chance.randrange(1, len(wire)) for _ in range(chance.randrange(most))} if len(wire) > 1 else set()
    return chop(wire, at) if wire else []


# -- errors -------------------------------------------------------------------------------------------------------


def flip(wire: bytes, at: int, bit: int = 0) -> bytes:
    """Change one bit of the byte at ``at``."""
    return wire[:at] + bytes([wire[at] ^ 1 << bit]) + wire[at + 1 :]


def delete(wire: bytes, at: int, size: int = 1) -> bytes:
    """Leave out ``size`` bytes."""
    return wire[:at] + wire[at + size :]


def duplicate(wire: bytes, at: int, size: int = 1) -> bytes:
    """Have ``size`` bytes twice."""
    return wire[: at + size] + wire[at:]


def insert(wire: bytes, at: int, data: bytes) -> bytes:
    """Put other bytes in."""
    return wire[:at] + data + wire[at:]


def truncate(wire: bytes, at: int) -> bytes:
    """Leave out all from ``at`` on."""
    return wire[:at]


MUTATIONS: Final[dict[str, Callable[[bytes, int, random.Random], bytes]]] = {
    "flip": lambda wire, at, chance: flip(wire, at, chance.randrange(8)),
    "delete": lambda wire, at, chance: delete(wire, at, chance.randrange(1, 7)),
    "duplicate": lambda wire, at, chance: duplicate(wire, at, chance.randrange(1, 17)),
    "insert": lambda wire, at, chance: insert(wire, at, chance.randbytes(chance.randrange(1, 7))),
    "truncate": lambda wire, at, _: truncate(wire, at),
}
"""What ``mutate`` chooses from: each takes the wire, an offset in it, and where chance comes from."""


def mutate(wire: bytes, seed: int, count: int = 1, kinds: Iterable[str] = tuple(MUTATIONS)) -> bytes:
    """Return the wire with ``count`` errors of these kinds, at places that follow from ``seed``."""
    chance = random.Random(seed)
    names = list(kinds)
    for _ in range(count):
        if wire:
            wire = MUTATIONS[chance.choice(names)](wire, chance.randrange(len(wire)), chance)
    return wire
