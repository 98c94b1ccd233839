"""What the master does about its workers: facts and a clock in, actions out. Pure; ``master`` carries them out.

For now: spawn what is missing, with a back-off after failed boots; stop all; kill what overstays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["Action", "Exit", "Facts", "Kill", "Spawn", "WorkerFacts", "back_off", "decide"]

_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One living worker."""

    pid: int
    ready: bool
    born: float
    """When it was forked, on the master's clock, seconds."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision rests on; times on the master's clock, seconds."""

    workers: tuple[WorkerFacts, ...]
    wanted: int
    failures: int
    """Workers in a row that died without having become ready, or had to be killed at boot."""
    last_failure: float
    stopping_since: float | None = None
    boot_timeout: float = 60.0
    graceful_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start so many workers."""

    count: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker by SIGKILL, and say why."""

    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exit:
    """Nothing is left to do."""


Action: TypeAlias = Spawn | Kill | Exit


def back_off(failures: int) -> float:
    """Return how many seconds to wait after so many failed boots in a row: 0, 0.5, 1, 2 ... 30."""
    if failures <= 0:
        return 0.0
    return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(failures - 1, 10)))


def decide(facts: Facts, now: float) -> tuple[list[Action], float | None]:
    """Return the actions due at ``now``, and when to ask again though nothing happens (None: never)."""
    actions: list[Action] = []
    wakes: list[float] = []
    if facts.stopping_since is not None:
        if not facts.workers:
            return [Exit()], None
        deadline = facts.stopping_since + facts.graceful_timeout
        if now >= deadline:
            reason = f"still busy {facts.graceful_timeout:g} s after it was told to stop (--graceful-timeout)"
            return [Kill(worker.pid, reason) for worker in facts.workers], None
        return [], deadline
    for worker in facts.workers:
        if not worker.ready:
            if now >= worker.born + facts.boot_timeout:
                reason = f"not ready {facts.boot_timeout:g} s after its start (--boot-timeout)"
                actions.append(Kill(worker.pid, reason))
            else:
                wakes.append(worker.born + facts.boot_timeout)
    missing = facts.wanted - len(facts.workers)
    if missing > 0:
        due = facts.last_failure + back_off(facts.failures)
        if now >= due:
            actions.append(Spawn(missing))
        else:
            wakes.append(due)
    return actions, min(wakes, default=None)
