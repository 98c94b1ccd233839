"""Cases drawn by hypothesis, in chunks, each from a seed of its own, so that any part of a campaign can be drawn again.

Which cases a seed gives depends on this package, on what the server can do, and on hypothesis's version.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from hypothesis import HealthCheck, Phase, Verbosity, given, seed as seeded, settings

from gateways.wire.fuzz.case import FuzzCase
from gateways.wire.fuzz.corpus import corpus
from gateways.wire.fuzz.kinds import broken, kinds_of
from gateways.wire.fuzz.mutate import damaged_case
from gateways.wire.fuzz.play import Ability
from gateways.wire.fuzz.wires import Wires
from gateways.wire.fuzz.wrong import WRONG
from gateways.wire.target import Target

__all__ = ["Generator"]

DRAWN: Final = 8
"""Of each kind, in a chunk."""
DAMAGED: Final = 3
"""For each that is drawn."""


class Generator:
    """The cases of one server and seed."""

    def __init__(self, target: Target, seed: int, ability: Ability) -> None:
        self.seed = seed
        self._wires = Wires(target, ability)
        self._kinds = kinds_of(self._wires)
        self._drawn = 0

    def chunk(self, number: int) -> list[FuzzCase]:
        """Return the cases of one chunk; the same again for the same number."""
        drawn: list[FuzzCase] = []
        for kind in self._kinds:
            self.draw(number, kind, drawn.append)
        found = [] if number else self.rules()
        chance = random.Random(f"{self.seed}/{number}")  # noqa: S311 - no secret
        chance.shuffle(drawn)
        wires = corpus(drawn[0].protocol)
        for case in drawn:
            more = [damaged_case(drawn, wires, chance) for _ in range(DAMAGED)]
            found += [case, *[replace(each, number=f"{case.number}/{at}") for at, each in enumerate(more, 1)]]
        return found

    def rules(self) -> list[FuzzCase]:
        """Return a case for each way to break a rule that a whole request can have; a campaign begins with them."""
        name = f"{self.seed}/0/rules"
        self._wires.start(name)
        return [
            replace(broken(self._wires, rule, build), number=f"{name}/{place}")
            for place, (rule, build) in enumerate(WRONG[self._wires.protocol])
        ]

    def draw(self, number: int, kind: str, take: Callable[[FuzzCase], None], *, shrink: bool = False) -> None:
        """Give the drawn cases of a chunk to ``take``; where that raises, ``shrink`` tries smaller ones.

        What it raised for the smallest is raised.
        """
        name = f"{self.seed}/{number}/{kind}"
        self._wires.start(name)
        self._drawn = 0

        @seeded(name)
        @settings(
            max_examples=DRAWN,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
        )
        @given(self._kinds[kind])
        def run(case: FuzzCase) -> None:
            place = self._drawn
            self._drawn += 1
            take(replace(case, number=f"{name}/{place}"))

        run()
