"""How a protocol's table of broken rules becomes a strategy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from gateways.testing.framing import ERROR, Illegal, Rule

__all__ = ["Breach", "breach", "chosen", "rules"]


class Breach(NamedTuple):
    """A rule and the bytes that break it."""

    rule: Rule
    wires: st.SearchStrategy[bytes]
    eof: bool


def breach(
    name: str,
    source: str,
    text: str,
    wires: st.SearchStrategy[bytes],
    *outcomes: str,
    eof: bool = False,
) -> Breach:
    """Enter a rule; without ``outcomes`` the only one is ERROR."""
    return Breach(Rule(name, source, text, frozenset(outcomes or (ERROR,))), wires, eof)


def rules(table: Iterable[Breach]) -> dict[str, Rule]:
    """Return the rules of a table by their names."""
    return {each.rule.name: each.rule for each in table}


def chosen(table: Iterable[Breach], names: Iterable[str]) -> st.SearchStrategy[Illegal]:
    """Draw from the table, or from those of these names alone; raises KeyError for a name that it does not have."""
    entries = {each.rule.name: each for each in table}
    of_these = [entries[name] for name in names] or list(entries.values())
    return st.one_of([st.builds(Illegal, each.wires, st.just(each.rule), st.just(each.eof)) for each in of_these])
