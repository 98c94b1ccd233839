"""Whether a server holds more and more descriptors or memory, and for descriptors which case it is that leaves one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateways.wire.fuzz.case import FuzzCase
from gateways.wire.fuzz.oracles import Finding
from gateways.wire.fuzz.trial import Trial
from gateways.wire.fuzz.watch import Usage, Watch

__all__ = ["Growth"]

WARM: Final = 300
"""Cases before anything is compared: pools fill, modules are imported, logs are opened."""
WINDOW: Final = 100
"""Cases between two looks."""
DESCRIPTORS: Final = 8
MEMORY: Final = 32 << 20
"""How much more than after the warm-up is no growth, beside a part of what there was."""
PART: Final = 4


class Growth:
    """The usage of a server over a campaign of ``count`` cases."""

    def __init__(self, trial: Trial, watch: Watch, count: int) -> None:
        self.trial = trial
        self.watch = watch
        self.warm = min(WARM, count // 4)
        self.base: Usage | None = None
        self.cases: list[FuzzCase] = []
        self.done = 0

    def look(self, case: FuzzCase) -> Iterator[tuple[Finding, FuzzCase]]:
        """After each case: what has grown, with the case that did it or else the last one."""
        self.done += 1
        self.cases.append(case)
        if self.done < self.warm or (self.base is not None and len(self.cases) < WINDOW):
            return
        if self.base is None:
            self.base = self.watch.settled(0, 0.2)
        else:
            yield from self.compare(self.base)
        self.cases.clear()

    def compare(self, base: Usage) -> Iterator[tuple[Finding, FuzzCase]]:
        """Look, and where there is growth, compare with that from then on."""
        allowed = base.descriptors + DESCRIPTORS + base.descriptors // PART
        now = self.watch.settled(allowed)
        if now.descriptors > allowed:
            guilty = next((case for case in self.cases if self.trial.leaks(case)), None)
            what = "stay open" if guilty is not None else "grow, and no single case shows it"
            yield (
                Finding("descriptors", what, f"{base.descriptors} after the warm-up, {now.descriptors} now"),
                guilty or self.cases[-1],
            )
        if now.memory > base.memory + MEMORY + base.memory // PART:
            yield (
                Finding("memory", "grows", f"{base.memory >> 20} MiB after the warm-up, {now.memory >> 20} MiB now"),
                self.cases[-1],
            )
        self.base = Usage(max(base.descriptors, now.descriptors), max(base.memory, now.memory))
