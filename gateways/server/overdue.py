"""Requests that take too long: their stacks are asked for, waited for, written down; then, maybe, they are interrupted.

The master's loop never waits here: a dump is begun, and looked after whenever the loop comes round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateways.server.errorlog import ErrorLog
from gateways.server.process import WorkerProcess
from gateways.server.scoreboard import Row
from gateways.server.slowlog import SlowLog
from gateways.server.workers import Workers

__all__ = ["Overdue"]

_LOOK: Final = 0.01  # seconds between looks at a dump that is being written
_NONE: Final = "(no stacks came: the process does not run, not even its signal handlers)"


@dataclass(slots=True)
class _Entry:
    row: Row
    cancel: bool


@dataclass(slots=True)
class _Dump:
    worker: WorkerProcess
    asked: float
    entries: list[_Entry]


class Overdue:
    """The dumps of all workers, at most one of each at a time."""

    def __init__(self, workers: Workers, log: ErrorLog, slow_log: SlowLog, clock: Callable[[], float]) -> None:
        self._workers = workers
        self._log = log
        self._slow_log = slow_log
        self._clock = clock
        self._dumps: dict[int, _Dump] = {}
        self.slow = 0
        self.timeouts = 0

    def begin(self, worker: WorkerProcess, thread: int, serial: int, *, cancel: bool) -> None:
        """Ask for the stacks of ``worker`` for request ``serial`` of ``thread``; ``cancel`` it when they are there.

        The thread may have gone on to the next request since the policy had its facts: that one is not meant.

        A dump that is being written will do for what was served already when it was asked for. For the rest the policy
        asks again.
        """
        row = self._workers.rows(worker)[thread]
        if not row.busy or worker.stacks is None or row.serial != serial:
            return
        dump = self._dumps.get(worker.pid)
        if dump is None:
            now = self._clock()
            try:
                worker.stacks.ask(worker.pid, now)
            except ProcessLookupError:  # it has ended, and is about to be reaped
                return
            self._dumps[worker.pid] = _Dump(worker, now, [_Entry(row, cancel)])
        elif row.since <= dump.asked and not any(
            entry.row.thread == thread and entry.cancel == cancel for entry in dump.entries
        ):
            dump.entries.append(_Entry(row, cancel))

    def wake(self, now: float) -> float | None:
        """Return when to look again."""
        return now + _LOOK if self._dumps else None

    def collect(self) -> None:
        """Write down the dumps that are whole."""
        now = self._clock()
        for pid, dump in list(self._dumps.items()):
            worker = dump.worker
            if worker.stacks is None or not worker.stacks.ready(now):
                continue
            del self._dumps[pid]
            self._write(dump, now, self._workers.rows(worker))

    def forget(self, worker: WorkerProcess) -> None:
        """The worker has ended: what has come of its dump is written."""
        dump = self._dumps.pop(worker.pid, None)
        if dump is not None:
            self._write(dump, self._clock(), [])

    def _write(self, dump: _Dump, now: float, rows: list[Row]) -> None:
        """Write all entries, the stacks of the other threads only once; ``rows`` is what the threads serve now."""
        worker = dump.worker
        for number, entry in enumerate(dump.entries):
            row = entry.row
            stacks = (worker.stacks.read(row.ident) if worker.stacks is not None else "") or _NONE
            if number:
                stacks = stacks.partition("\n\n")[0] + "\n\nThe other threads: see the entry above"
            goes_on = any(each.thread == row.thread and each.serial == row.serial and each.busy for each in rows)
            request = f"{row.protocol} {row.line}"
            taken = now - row.since
            if entry.cancel:
                end = "interrupted" if goes_on else "it has ended meanwhile"
                message = f"{request}: worker {worker.pid} has served this for {taken:.1f} s (--request-timeout); {end}"
                self._log.block(message, stacks, "error")
                if goes_on:
                    self.timeouts += 1
                    self._workers.cancel(worker, row.thread, row.serial, now)
            else:
                self.slow += 1
                worker.slow[row.thread] = row.serial
                self._slow_log.stacks(request, taken, worker.pid, stacks, "--slow-request")
