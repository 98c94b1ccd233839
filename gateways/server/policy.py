"""What the master does about its workers: facts and a clock in, actions out. Pure; ``master`` carries them out.

The words used here: a worker *serves* that is ready and has not been told to leave; it is *due* when another has to
take its place, else *fresh*. A due worker leaves only when enough others serve, so that capacity never drops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = [
    "HUNG_GRACE",
    "Action",
    "BusyThread",
    "Cancel",
    "Cause",
    "Exit",
    "Facts",
    "Kill",
    "Retire",
    "Slow",
    "Spawn",
    "WorkerFacts",
    "back_off",
    "decide",
    "pool_size",
]

_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0
HUNG_GRACE: Final = 1.0
"""Seconds that an interrupted request has to end before its thread counts as hung."""
_BUSY: Final = 0.8  # the gauge at which a dynamic pool grows
_SLACK: Final = 0.5  # it shrinks only where the gauge stays below this
_GROWTH_PAUSE: Final = 1.0  # seconds from one growth to the next: the gauge has to see what came of it

Cause: TypeAlias = Literal["timeout", "reload", "memory", "requests", "age", "size"]
_ORDER: Final[tuple[Cause, ...]] = ("timeout", "reload", "memory", "requests", "age", "size")  # who leaves first


@dataclass(frozen=True, slots=True)
class BusyThread:
    """A thread that serves a request."""

    thread: int
    serial: int
    """Of the request."""
    since: float
    slow_told: bool = False
    """Its Slow has been carried out."""
    cancelled_at: float | None = None
    """When its Cancel was carried out."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One living worker; times on the master's clock, seconds."""

    pid: int
    ready: bool
    born: float
    """When it was forked."""
    generation: int = 0
    requests: int = 0
    request_limit: int = 0
    """It is due after so many requests; 0 is never. So for age_limit, in seconds."""
    age_limit: float = 0.0
    private_bytes: int = 0
    busy: tuple[BusyThread, ...] = ()
    idle_since: float | None = None
    """When its last thread became idle; None while one is busy, or where it is not known."""
    retiring_since: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision rests on; times on the master's clock, seconds."""

    workers: tuple[WorkerFacts, ...]
    wanted: int
    """Workers: exactly so many in a static pool, at most so many in another."""
    failures: int
    """Tries in a row of which no ready worker came: it died or was killed at boot, or could not be forked."""
    last_failure: float
    stopping_since: float | None = None
    boot_timeout: float = 60.0
    graceful_timeout: float = 30.0
    generation: int = 0
    """Workers of every other generation are to be replaced."""
    proving: bool = False
    """No worker of this generation has been ready yet: one has to come, also where nobody waits for it."""
    rolling: bool = False
    """At most one process more than the pool's size, those that leave included."""
    pool: str = "static"
    """static, dynamic or ondemand."""
    min_workers: int = 1
    worker_idle: float = 10.0
    busy_gauge: float = 0.0
    """Share of thread time spent in requests, 0 to 1, over the workers that serve, in the last second or more."""
    waiting: bool = False
    """Connections wait to be accepted."""
    threads: int = 1
    max_rss: int = 0
    """Bytes of private memory from which on a worker is due; 0 is no limit."""
    request_timeout: float = 0.0
    slow_request: float = 0.0
    last_spawn: float = -math.inf
    last_retire: float = -math.inf
    hold_until: float = -math.inf
    """No worker starts before."""
    size: int | None = None
    """What ``pool_size`` returned at the last decision. None: not known, so guessed from the workers there are."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start so many workers."""

    count: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Let a worker finish its requests and leave."""

    pid: int
    reason: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker by SIGKILL, and say why."""

    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Slow:
    """Write down what the worker does: this request takes long."""

    pid: int
    thread: int
    serial: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Answer and interrupt this request: it takes too long."""

    pid: int
    thread: int
    serial: int


@dataclass(frozen=True, slots=True)
class Exit:
    """Nothing is left to do."""


Action: TypeAlias = Spawn | Retire | Kill | Slow | Cancel | Exit


class _Clock:
    """The moment of a decision, and the later ones that a rule has asked about."""

    def __init__(self, now: float) -> None:
        self._now = now
        self.later: list[float] = []

    def reached(self, moment: float) -> bool:
        """Whether ``moment`` has come; if not, the decision is to be looked at again then."""
        if self._now >= moment:
            return True
        self.later.append(moment)
        return False

    def lasted(self, since: float, limit: float) -> bool:
        """Whether ``limit`` seconds have passed since then; 0 is no limit."""
        return limit > 0 and self.reached(since + limit)


class _Pool:
    """The workers, sorted."""

    def __init__(self, facts: Facts, clock: _Clock) -> None:
        staying = [worker for worker in facts.workers if worker.retiring_since is None]
        self.serving = [worker for worker in staying if worker.ready]
        self.booting = sum(not worker.ready and worker.generation == facts.generation for worker in staying)
        self.leaving = len(facts.workers) - len(self.serving) - self.booting
        found = {worker.pid: _due(worker, facts, clock) for worker in self.serving}
        self.due: dict[int, Cause] = {pid: cause for pid, cause in found.items() if cause is not None}
        self.fresh = len(self.serving) - len(self.due)


def decide(facts: Facts, now: float) -> tuple[list[Action], float | None]:
    """Return the actions due at ``now``, and when to ask again though nothing happens (None: never)."""
    if facts.stopping_since is not None and not facts.workers:
        return [Exit()], None
    clock = _Clock(now)
    kills = [Kill(worker.pid, why) for worker in facts.workers if (why := _overstayed(worker, facts, clock))]
    killed = {kill.pid for kill in kills}
    actions: list[Action] = [*kills]
    for worker in facts.workers:
        if worker.ready and worker.pid not in killed:
            actions += _deadlines(worker, facts, clock)
    if facts.stopping_since is None:
        pool = _Pool(facts, clock)
        size = _size(pool, facts, clock)
        actions += _retire(pool, size)
        actions += _spawn(pool, size, facts, clock)
    return actions, min(clock.later, default=None)


def pool_size(facts: Facts, now: float) -> int:
    """Return how many workers should serve: what the decision on these facts works towards, and the next one's size."""
    clock = _Clock(now)
    return _size(_Pool(facts, clock), facts, clock)


def back_off(failures: int) -> float:
    """Return how many seconds to wait after so many failed boots in a row: 0, 0.5, 1, 2 ... 30."""
    if failures <= 0:
        return 0.0
    return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(failures - 1, 10)))


# One worker


def _overstayed(worker: WorkerFacts, facts: Facts, clock: _Clock) -> str:
    """Why it must be killed, or nothing."""
    told = [moment for moment in (worker.retiring_since, facts.stopping_since) if moment is not None]
    if told:
        if worker.busy and all(_hung(thread, clock) for thread in worker.busy):
            return "all that it still serves was interrupted and did not end (--request-timeout)"
        if clock.reached(min(told) + facts.graceful_timeout):
            word = "stop" if facts.stopping_since == min(told) else "leave"
            if facts.graceful_timeout <= 0:
                return f"it was told to {word} at once"
            return f"still busy {facts.graceful_timeout:g} s after it was told to {word} (--graceful-timeout)"
        return ""
    if worker.ready:
        return ""
    if worker.generation != facts.generation:
        return "superseded by another reload while it was booting"
    if clock.reached(worker.born + facts.boot_timeout):
        return f"not ready {facts.boot_timeout:g} s after its start (--boot-timeout)"
    return ""


def _hung(thread: BusyThread, clock: _Clock) -> bool:
    """Whether its request was interrupted and did not end."""
    return thread.cancelled_at is not None and clock.reached(thread.cancelled_at + HUNG_GRACE)


def _deadlines(worker: WorkerFacts, facts: Facts, clock: _Clock) -> list[Slow | Cancel]:
    """What is to be done about its long requests, once each."""
    actions: list[Slow | Cancel] = []
    for busy in worker.busy:
        if not busy.slow_told and clock.lasted(busy.since, facts.slow_request):
            actions.append(Slow(worker.pid, busy.thread, busy.serial))
        if busy.cancelled_at is None and clock.lasted(busy.since, facts.request_timeout):
            actions.append(Cancel(worker.pid, busy.thread, busy.serial))
    return actions


def _due(worker: WorkerFacts, facts: Facts, clock: _Clock) -> Cause | None:
    """Why another has to take its place."""
    if any(_hung(thread, clock) for thread in worker.busy):
        return "timeout"
    if worker.generation != facts.generation:
        return "reload"
    if 0 < facts.max_rss <= worker.private_bytes:
        return "memory"
    if 0 < worker.request_limit <= worker.requests:
        return "requests"
    if clock.lasted(worker.born, worker.age_limit):
        return "age"
    return None


def _reason(worker: WorkerFacts, cause: Cause) -> str:
    """The cause in words."""
    return {
        "timeout": "a request was interrupted and did not end (--request-timeout)",
        "reload": "reloaded",
        "memory": f"it has {worker.private_bytes / 1_048_576:.0f} MiB of private memory (--max-rss)",
        "requests": f"it has served {worker.requests} requests (--max-requests)",
        "age": f"it is older than {worker.age_limit:.0f} s (--max-age)",
        "size": "one more than are needed",
    }[cause]


# All of them


def _retire(pool: _Pool, size: int) -> list[Retire]:
    """Let go of all that serve beyond ``size``: due ones first, then who has been idle longest, then the oldest."""

    def rank(worker: WorkerFacts) -> tuple[int, float, float]:
        idle_since = math.inf if worker.idle_since is None else worker.idle_since
        return _ORDER.index(pool.due.get(worker.pid, "size")), idle_since, worker.born

    leave = sorted(pool.serving, key=rank)[: max(0, len(pool.serving) - size)]
    causes = [(worker, pool.due.get(worker.pid, "size")) for worker in leave]
    return [Retire(worker.pid, _reason(worker, cause), cause) for worker, cause in causes]


def _spawn(pool: _Pool, size: int, facts: Facts, clock: _Clock) -> list[Spawn]:
    """Start what is missing, and replacements for the due ones: for some causes all at once, else one at a time."""
    causes = list(pool.due.values())
    at_once = causes.count("timeout")  # their capacity is gone already
    if not facts.rolling:
        at_once += causes.count("reload")
    extra = at_once + min(1, len(causes) - at_once)
    there = len(pool.serving) + pool.booting
    crowd = there + pool.leaving if facts.rolling else there
    replacements = min(size - pool.fresh - pool.booting, size + extra - crowd)
    count = max(size - there, replacements)
    if count <= 0 or not clock.reached(facts.hold_until):
        return []
    if facts.failures > 0 and not clock.reached(facts.last_failure + back_off(facts.failures)):
        return []
    return [Spawn(count)]


def _size(pool: _Pool, facts: Facts, clock: _Clock) -> int:
    """How many workers should serve."""
    if facts.pool == "static":
        return facts.wanted
    least = min(1, facts.wanted) if facts.proving else 0
    held = len(pool.due) if facts.size is None else facts.size
    if facts.pool == "ondemand":
        held = min(held, len(pool.serving) + pool.booting)  # whoever crashed is missed only when something waits
    else:
        least = min(max(1, facts.min_workers), facts.wanted)
    size = max(least, min(facts.wanted, max(held, pool.fresh + pool.booting)))
    if _grows(pool, size, facts, clock):
        return min(facts.wanted, max(1, 2 * size))
    return _shrunk(pool, size, least, facts, clock)


def _grows(pool: _Pool, size: int, facts: Facts, clock: _Clock) -> bool:
    """Whether more are needed than the pool has; not while some are still to come."""
    if pool.booting or len(pool.serving) < size or size >= facts.wanted:
        return False
    full = facts.waiting and all(len(worker.busy) >= facts.threads for worker in pool.serving)
    if not full and (facts.pool == "ondemand" or facts.busy_gauge < _BUSY):
        return False
    return not pool.serving or clock.reached(facts.last_spawn + _GROWTH_PAUSE)


def _shrunk(pool: _Pool, size: int, least: int, facts: Facts, clock: _Clock) -> int:
    """The size without those that are not needed. While boots fail all stay: none of them could come back."""
    idle = [worker.idle_since + facts.worker_idle for worker in pool.serving if worker.idle_since is not None]
    if not idle or facts.waiting or pool.booting or facts.failures > 0:
        return size
    there = len(pool.serving)
    if facts.pool == "ondemand":
        return max(least, min(size, there - sum(clock.reached(moment) for moment in idle)))
    fewer = min(size, there) - 1
    if fewer < least or facts.busy_gauge * there >= _SLACK * (there - 1):
        return size
    return fewer if clock.reached(max(min(idle), facts.last_retire + facts.worker_idle)) else size
