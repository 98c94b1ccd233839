"""The cuts and errors of ``noise`` as strategies: they shrink to one piece, and to bytes without an error."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from hypothesis import strategies as st

from gateways.testing.noise import chop, cuts, delete, duplicate, flip, insert, truncate

__all__ = ["any_wire", "mutated", "offsets", "pieces"]


@cache
def offsets(most: int = 12) -> st.SearchStrategy[list[int]]:
    """Offsets for ``noise.chop``, which takes them modulo the length of what it cuts."""
    return st.lists(st.integers(0, 1 << 20), max_size=most)


def pieces(wire: bytes, most: int = 12) -> st.SearchStrategy[list[bytes]]:
    """The wire in any ``most`` pieces or fewer, some of them empty; or cut at all of ``noise.cuts``."""
    return st.one_of(offsets(most - 1), st.builds(cuts, st.just(len(wire)))).map(lambda at: chop(wire, at))


@st.composite
def mutated(draw: st.DrawFn, wires: Sequence[bytes]) -> bytes:
    """One of the wires, or two, with a few bytes changed, left out, put in or repeated, or cut short."""
    wire = draw(st.sampled_from(wires))
    if draw(st.booleans()):
        wire += draw(st.sampled_from(wires))
    for _ in range(draw(st.integers(0, 3))):
        if not wire:
            break
        at = draw(st.integers(0, len(wire) - 1))
        kind = draw(st.sampled_from(["flip", "delete", "duplicate", "insert", "truncate"]))
        if kind == "flip":
            wire = flip(wire, at, draw(st.integers(0, 7)))
        elif kind == "delete":
            wire = delete(wire, at, draw(st.integers(1, 6)))
        elif kind == "duplicate":
            wire = duplicate(wire, at, draw(st.integers(1, 6)))
        elif kind == "insert":
            wire = insert(wire, at, draw(st.binary(min_size=1, max_size=6)))
        else:
            wire = truncate(wire, at)
    return wire


def any_wire(wires: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Any bytes, any bytes after a valid start, and valid bytes with errors in them."""
    valid = st.sampled_from(wires)
    starts = valid.flatmap(lambda wire: st.integers(0, len(wire)).map(lambda end: wire[:end]))
    return st.one_of(st.binary(max_size=80), st.builds(bytes.__add__, starts, st.binary(max_size=60)), mutated(wires))
