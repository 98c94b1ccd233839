"""The loop of a campaign: draw, play, judge; for each new class of findings the smallest case; bounded throughout."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gateways.wire.fuzz.case import FuzzCase, joined
from gateways.wire.fuzz.found import Store, saved_cases
from gateways.wire.fuzz.generate import Generator
from gateways.wire.fuzz.leaks import Growth
from gateways.wire.fuzz.oracles import Finding
from gateways.wire.fuzz.shrink import Budget, redraw, reduce
from gateways.wire.fuzz.trial import Trial

__all__ = ["Bounds", "Campaign"]

BEFORE: Final = (3, 15)
"""How many of the cases before are tried together with one that does nothing alone."""
LEAST: Final = 2.0
NOT_ALONE: Final = ("memory",)
"""Oracles that no single case can show."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a campaign goes, and which part of it."""

    count: int
    seconds: float
    shard: int = 1
    shards: int = 1
    plays: int = 400
    """For the smallest case of one class of findings."""
    play_seconds: float = 10.0
    """For the same; less where the campaign is to end, but never less than ``LEAST``."""


class Campaign:
    """One run. ``done`` and ``ended`` tell how far it has come."""

    def __init__(self, trial: Trial, generator: Generator, store: Store, bounds: Bounds) -> None:
        self.trial = trial
        self.generator = generator
        self.store = store
        self.bounds = bounds
        self.done = 0
        self.ended = ""
        """Why it has ended."""
        self.slowest = (0.0, "")
        """Seconds and number of the case that took longest, with the request after it."""
        self.started = time.monotonic()
        self._recent: deque[FuzzCase] = deque(maxlen=max(BEFORE))

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Cases a second."""
        return self.done / max(self.seconds, 1e-3)

    def cases(self) -> Iterator[FuzzCase]:
        """Those that others have found first, then this shard's chunks."""
        if self.store.database is not None:
            for case, _ in saved_cases(self.store.database, self.trial.target.protocol):
                yield case
        for number in itertools.count(self.bounds.shard - 1, self.bounds.shards):
            yield from self.generator.chunk(number)

    def run(self) -> Iterator[None]:
        """Play the cases, and come back after each."""
        growth = Growth(self.trial, self.trial.watch, self.bounds.count) if self.trial.watch is not None else None
        for case in self.cases():
            if self.done >= self.bounds.count or self.seconds >= self.bounds.seconds:
                self.ended = "count" if self.done >= self.bounds.count else "time"
                return
            start = time.monotonic()
            found = self.trial.run(case)
            self.done += 1
            self.slowest = max(self.slowest, (time.monotonic() - start, case.number))
            for finding in found:
                self.take(finding, case)
            if found and not self.trial.recovered():
                self.ended = "the server does not answer any more"
                yield
                return
            if growth is not None:
                for finding, guilty in growth.look(case):
                    self.take(finding, guilty)
            self._recent.append(case)
            yield

    def take(self, finding: Finding, case: FuzzCase) -> None:
        """Count a finding; the first of its class is tried again, and its case made small."""
        if not self.store.count(finding, case):
            return
        smallest = None
        if finding.oracle not in NOT_ALONE and self.trial.recovered():
            smallest = self.smallest(finding, case)
        if smallest is None and finding.oracle == "differs":
            self.store.unsure += 1  # when a connection is reset, it is chance what the peer has read by then
            return
        self.store.add(finding, smallest or case, again=smallest is not None)

    def smallest(self, finding: Finding, case: FuzzCase) -> FuzzCase | None:
        """The smallest case with this finding, None where it is not found again."""
        patient = self.trial.seconds
        left = max((self.bounds.seconds - self.seconds) / 4, LEAST)
        budget = Budget(
            lambda smaller: self.trial.again(smaller, finding), self.bounds.plays, min(left, self.bounds.play_seconds)
        )
        if not budget.fails(case):
            joint = self.with_those_before(case, budget.fails)
            if joint is None:
                return None
            case = joint
        self.trial.seconds = min(patient, self.trial.pace)  # most of what hangs is tried many times
        try:
            if not budget.fails(case):  # it takes longer to show
                return case
            smaller = redraw(self.generator, case, budget)
            if not (
                case.rule and finding.oracle in ("accepted", "differs")
            ):  # other bytes may break another rule, or none
                smaller = reduce(smaller, budget.fails)
        finally:
            self.trial.seconds = patient
        return smaller if smaller == case or self.trial.again(smaller, finding) else case

    def with_those_before(self, case: FuzzCase, fails: Callable[[FuzzCase], bool]) -> FuzzCase | None:
        """The case behind some of those before it, where these make the server do it again."""
        for count in BEFORE:
            trial = joined([*list(self._recent)[-count:], case])
            if fails(trial):
                return trial
        return None
