"""Smaller cases with the same finding: legal ones are shrunk by hypothesis, which keeps them legal, others by bytes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

from hypothesis.errors import Flaky

from gateways.wire.fuzz.case import FuzzCase, Step
from gateways.wire.fuzz.generate import Generator

__all__ = ["Budget", "redraw", "reduce"]


class Budget:
    """How often, and how long, one finding's case may be tried in smaller forms."""

    def __init__(self, again: Callable[[FuzzCase], bool], plays: int, seconds: float) -> None:
        self._again = again
        self._left = plays
        self._deadline = time.monotonic() + seconds
        self.best: FuzzCase | None = None

    @property
    def spent(self) -> bool:
        """Whether nothing more is tried."""
        return self._left <= 0 or time.monotonic() > self._deadline

    def fails(self, case: FuzzCase) -> bool:
        """Whether the case still leads to the finding; False once the budget is spent."""
        if self.spent:
            return False
        self._left -= 1
        if not self._again(case):
            return False
        self.best = case
        return True


class _Found(Exception):
    """What hypothesis shrinks."""


def redraw(generator: Generator, case: FuzzCase, budget: Budget) -> FuzzCase:
    """Have hypothesis draw the case again and shrink it from there."""
    parts = case.number.split("/")
    if len(parts) != 4 or parts[0] != str(generator.seed) or parts[2] == "rules":
        return case  # another campaign's, or not drawn
    met = False

    def take(drawn: FuzzCase) -> None:
        nonlocal met
        if not met and drawn.number == case.number and drawn == case:
            met, budget.best = True, drawn
        elif not met or not budget.fails(drawn):
            return
        raise _Found  # in one place, for hypothesis tells errors apart by the line that raises them

    # A server needs not answer twice in the same way; what it did is in the budget.
    with contextlib.suppress(_Found, Flaky):
        generator.draw(int(parts[1]), parts[2], take, shrink=True)
    return replace(budget.best or case, number=case.number)


def reduce(case: FuzzCase, fails: Callable[[FuzzCase], bool]) -> FuzzCase:
    """Leave out connections, then steps, then bytes of connections where rules are broken."""
    for link in reversed(range(case.links)):
        smaller = without_link(case, link)
        if smaller.steps and fails(smaller):
            case = smaller
    links = [link for link in range(case.links) if not case.strict(link)]
    for link in links:
        merged = in_one_send(case, link)
        if merged != case and fails(merged):
            case = merged
    for link in links:
        case = fewer_steps(case, link, fails)
        for at, step in enumerate(case.steps):
            if step.do == "send" and step.link == link:
                case = fewer_bytes(case, at, fails)
    return case


def without_link(case: FuzzCase, link: int) -> FuzzCase:
    """The same case without a connection; those behind it move up."""

    def moved(at: int) -> int:
        return at - (at > link)

    return replace(
        case,
        steps=tuple(replace(each, link=moved(each.link)) for each in case.steps if each.link != link),
        asked=tuple(replace(each, link=moved(each.link)) for each in case.asked if each.link != link),
        loose=tuple(moved(each) for each in case.loose if each != link),
    )


def in_one_send(case: FuzzCase, link: int) -> FuzzCase:
    """A connection's bytes in one write, without pauses."""
    wire = b"".join(step.data for step in case.steps if step.link == link)
    others = [step for step in case.steps if step.link != link or step.do not in ("send", "pause")]
    at = next((at for at, step in enumerate(others) if step.link == link), len(others))
    others.insert(at, Step("send", link, wire))
    return replace(case, steps=tuple(others))


def fewer_steps(case: FuzzCase, link: int, fails: Callable[[FuzzCase], bool]) -> FuzzCase:
    """Without steps of one connection that are not needed."""
    for at in reversed(range(len(case.steps))):
        if case.steps[at].link == link and len(case.steps) > 1:
            smaller = replace(case, steps=case.steps[:at] + case.steps[at + 1 :])
            if fails(smaller):
                case = smaller
    return case


def fewer_bytes(case: FuzzCase, at: int, fails: Callable[[FuzzCase], bool]) -> FuzzCase:
    """Without bytes of one write that are not needed: first halves, at last single ones."""
    data = case.steps[at].data
    size = max(len(data) // 2, 1)

    def with_data(new: bytes) -> FuzzCase:
        return replace(case, steps=(*case.steps[:at], replace(case.steps[at], data=new), *case.steps[at + 1 :]))

    while data:
        start, shorter = 0, False
        while start < len(data):
            smaller = data[:start] + data[start + size :]
            if smaller and fails(with_data(smaller)):
                data, shorter = smaller, True
            else:
                start += size
        if size == 1 and not shorter:
            break
        size = max(size // 2, 1)
    return with_data(data)
