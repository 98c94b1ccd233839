from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gateways.testing.noise import (
    MUTATIONS,
    byte_by_byte,
    chop,
    cuts,
    delete,
    duplicate,
    flip,
    insert,
    mutate,
    random_pieces,
    splits,
    truncate,
)
from gateways.testing.noisy import any_wire, mutated, pieces

WIRES = st.binary(max_size=30)


def test_splits_of_a_short_wire() -> None:
    assert list(splits(b"abc")) == [[b"abc"], [b"a", b"b", b"c"], [b"a", b"bc"], [b"ab", b"c"]]
    assert list(splits(b"")) == [[b""], [b""]]
    assert byte_by_byte(b"ab") == [b"a", b"b"]


def test_a_long_wire_is_cut_at_both_ends_and_here_and_there() -> None:
    at = cuts(100_000)
    assert at[:199] == list(range(1, 200))
    assert at[-200:] == list(range(99_800, 100_000))
    assert len(at) < 500


def test_chop() -> None:
    assert chop(b"abc", [2, 2, 5]) == [b"a", b"b", b"", b"c"]
    assert chop(b"", [7]) == [b"", b""]


@given(WIRES, st.integers(0, 99))
def test_random_pieces_are_the_wire(wire: bytes, seed: int) -> None:
    found = random_pieces(wire, seed, 4)
    assert b"".join(found) == wire
    assert all(found)
    assert len(found) <= 4
    assert found == random_pieces(wire, seed, 4)


@given(WIRES.flatmap(lambda wire: st.tuples(st.just(wire), pieces(wire, 5))))
def test_drawn_pieces_are_the_wire(both: tuple[bytes, list[bytes]]) -> None:
    wire, found = both
    assert b"".join(found) == wire


def test_mutations() -> None:
    assert flip(b"abc", 1, 0) == b"acc"
    assert delete(b"abcd", 1, 2) == b"ad"
    assert duplicate(b"abc", 1) == b"abbc"
    assert duplicate(b"abc", 1, 9) == b"abcbc"
    assert insert(b"abc", 3, b"d") == b"abcd"
    assert truncate(b"abc", 1) == b"a"


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_seed_is_a_mutation(kind: str) -> None:
    wire = bytes(range(20))
    found = {mutate(wire, seed, kinds=[kind]) for seed in range(50)}
    assert wire not in found
    assert len(found) > 10
    assert mutate(wire, 1, 3, [kind]) == mutate(wire, 1, 3, [kind])
    assert mutate(b"", 1, 3, [kind]) == b""


@given(mutated([b"abc", b"1234", b""]), any_wire([b"abc", b""]))
def test_drawn_mutations_are_short(one: bytes, other: bytes) -> None:
    assert len(one) <= 8 + 3 * 6
    assert len(other) <= 80
