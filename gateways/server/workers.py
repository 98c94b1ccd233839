"""The living workers of one master: forked, watched by their slots on the scoreboard, told to leave, killed, reaped.

It carries out and reports; what is to be done is the policy's to say, and the master's to ask.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

from gateways.server.channel import CANCEL, CONNECTION, FAILED, LEAVING, LOST, READY, STOP, Message
from gateways.server.homeless import Homeless
from gateways.server.policy import BusyThread, WorkerFacts
from gateways.server.process import WorkerProcess, fork_worker
from gateways.server.scoreboard import Board, Row

__all__ = ["Workers", "private_memory"]

_JITTER: Final = 10  # a limit is exceeded by up to a tenth: workers born together do not leave together
_ROUND: Final = 64  # times that one worker is heard before others get their turn
_MEASURE: Final = 1.0  # seconds between looks at the memory of a worker that serves
_MEASURE_IDLE: Final = 5.0  # of one that does not: a look costs the more the larger it is
_HALT: Final = 0.1  # seconds to wait until a worker stands still: one that waits for a disk does not
_GLANCE: Final = 0.0002  # seconds between looks whether it does
_PRIVATE: Final = re.compile(r"^Private_(?:Clean|Dirty): *(\d+) kB$", re.MULTILINE)


class Workers:
    """All workers of one server, those that boot and those that leave too."""

    def __init__(self, board: Board, *, max_requests: int, max_age: float, patience: float = 30.0) -> None:
        self.board = board
        self._max_requests = max_requests
        self._max_age = max_age
        self._living: dict[int, WorkerProcess] = {}
        self._free = list(range(board.workers - 1, -1, -1))
        self.homeless = Homeless(patience)

    def __iter__(self) -> Iterator[WorkerProcess]:
        """All, in the order in which they were born."""
        return iter(list(self._living.values()))

    def __len__(self) -> int:
        return len(self._living)

    def __getitem__(self, pid: int) -> WorkerProcess:
        return self._living[pid]

    @property
    def serving(self) -> list[WorkerProcess]:
        """Those that are ready and do not leave."""
        return [worker for worker in self if worker.ready and not (worker.leaves or worker.killed)]

    @property
    def ready(self) -> int:
        """How many serve."""
        return len(self.serving)

    def spawn(self, body: Callable[[socket.socket, int], int], generation: int, now: float) -> WorkerProcess:
        """Fork one that runs ``body`` with its control socket and its slot; raises OSError."""
        if not self._free:
            raise OSError(0, "every place on the scoreboard is taken by workers that have not left yet")
        slot = self._free[-1]
        self.board.clear(slot)
        base = tuple(row.done for row in self.board.rows(slot))
        limit = self._max_requests
        if limit:
            limit += random.randint(0, limit // _JITTER)  # noqa: S311
        self.board.limits[slot] = limit

        def run(control: socket.socket) -> int:
            self.homeless.close()  # they wait in the master alone
            return body(control, slot)

        worker = fork_worker(run, born=now, generation=generation, slot=slot, others=self)
        self._free.pop()
        worker.base = base
        worker.request_limit = limit
        if self._max_age:
            worker.age_limit = self._max_age * (1 + random.random() / _JITTER)  # noqa: S311
        self._living[worker.pid] = worker
        return worker

    def adopt(self, worker: WorkerProcess) -> None:
        """Take over one that another master of this process has forked."""
        self._living[worker.pid] = worker

    def retire(self, worker: WorkerProcess, cause: str, now: float, until: float = 0.0) -> None:
        """Have it finish what it serves and leave, before it is killed at ``until``, if that is known.

        Where others serve, they get its kept connections.
        """
        if worker.retiring_since is None:
            worker.retiring_since = now
            worker.cause = cause
            worker.channel.send(STOP, 1 if self.ready and cause != "stop" else 0, max(0, int(until * 1e6)))

    def hurry(self, worker: WorkerProcess, until: float) -> None:
        """Have one that leaves do so by ``until``."""
        worker.channel.send(STOP, 0, max(0, int(until * 1e6)))

    def cancel(self, worker: WorkerProcess, thread: int, serial: int, now: float) -> None:
        """Have it answer and interrupt a request."""
        worker.cancelled[thread] = (serial, now)
        worker.channel.send(CANCEL, thread, serial)

    def kill(self, worker: WorkerProcess) -> bool:
        """End it now; False where that has been done."""
        if worker.killed:
            return False
        worker.killed = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        return True

    def halt(self, worker: WorkerProcess) -> None:
        """Have it stand still (SIGSTOP): what it has said by then is all, and it does nothing more until ``go_on``.

        One that boots may become ready at any moment, and serve, before the master has heard of it.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGSTOP)
        deadline = time.monotonic() + _HALT
        while hasattr(os, "waitid") and time.monotonic() < deadline:
            try:
                if os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    break
            except ChildProcessError:
                break
            time.sleep(_GLANCE)

    def go_on(self, worker: WorkerProcess) -> None:
        """Have one that was halted go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGCONT)

    def hear(self, worker: WorkerProcess) -> bool:
        """Take what it says; True where that is that it has become ready."""
        was_ready = worker.ready
        for _ in range(_ROUND):  # the kernel hands out one connection at a time
            messages = worker.channel.receive()
            if messages is None:
                worker.channel.close()
                break
            for message in messages:
                self._take(worker, message)
            if self.homeless.full or not worker.channel.waits():
                break
        self.pass_on()
        return worker.ready and not was_ready

    def _take(self, worker: WorkerProcess, message: Message) -> None:
        text = message.text
        if message.kind == READY:
            worker.ready = not worker.killed
        elif message.kind == LEAVING:
            worker.leaving = True
            worker.reason = text.decode("utf-8", "replace")
        elif message.kind == FAILED:
            worker.reason = text.decode("utf-8", "replace")
        elif message.kind == CONNECTION:
            self.homeless.take(message)
        elif message.kind == LOST:
            self.homeless.lost(text.decode("utf-8", "replace"))

    def events(self, worker: WorkerProcess) -> int:
        """Return what is to be waited for at its channel; 0 is nothing, not even its end."""
        if worker.channel.fileno() < 0 or (worker.leaves and self.homeless.full):
            return 0
        if worker.ready and not worker.leaves and self.homeless.hopeful:
            return select.POLLIN | select.POLLOUT
        return select.POLLIN

    def pass_on(self) -> None:
        """Have those that serve go on with connections of others; they wait where nobody has room for them."""
        if len(self.homeless):
            self.homeless.pass_on(self.serving)

    def reap(self) -> Iterator[tuple[WorkerProcess, int, list[Row]]]:
        """Take out those that have ended: each with its exit code and what its threads were serving.

        What the master has of one is closed when the next is asked for.
        """
        for pid, worker in list(self._living.items()):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                found, status = pid, 0
            if found:
                while worker.channel.fileno() >= 0 and worker.channel.waits():
                    self.hear(worker)
                serving = [row for row in self.rows(worker) if row.busy]
                del self._living[pid]
                if worker.slot >= 0:
                    self.board.clear(worker.slot)
                    self._free.append(worker.slot)
                try:
                    yield worker, os.waitstatus_to_exitcode(status), serving
                finally:
                    worker.close()

    def rows(self, worker: WorkerProcess) -> list[Row]:
        """Return what its threads do; nothing is known of a worker that another master has forked."""
        return self.board.rows(worker.slot) if worker.slot >= 0 else []

    def requests(self, worker: WorkerProcess) -> int:
        """Return how many requests it has served."""
        return sum(row.done for row in self.rows(worker)) - sum(worker.base)

    def measure(self, worker: WorkerProcess) -> int | None:
        """Look up its private memory, in bytes; None where the system does not tell."""
        found = private_memory(worker.pid)
        worker.private_bytes = found or 0
        return found

    def watch_memory(self, now: float) -> None:
        """Look up the private memory of those that it may have grown in."""
        for worker in self:
            passed = now - worker.measured_at
            if passed < _MEASURE:
                continue
            rows = self.rows(worker)
            begun = sum(row.serial for row in rows)
            if begun != worker.measured_after or any(row.busy for row in rows) or passed >= _MEASURE_IDLE:
                worker.measured_at = now
                worker.measured_after = begun
                self.measure(worker)

    def facts(self, worker: WorkerProcess) -> WorkerFacts:
        """Return what the policy wants to know of one."""
        rows = self.rows(worker) if worker.ready else []
        busy = []
        for row in rows:
            if row.busy:
                serial, when = worker.cancelled.get(row.thread, (-1, 0.0))
                busy.append(
                    BusyThread(
                        row.thread, row.serial, row.since, worker.slow.get(row.thread) == row.serial,
                        when if serial == row.serial else None,
                    )
                )  # fmt: skip
        idle_since = max(row.since for row in rows) if rows and not busy else None
        return WorkerFacts(
            worker.pid,
            worker.ready,
            worker.born,
            generation=worker.generation,
            requests=sum(row.done for row in rows) - sum(worker.base) if rows else 0,
            request_limit=worker.request_limit,
            age_limit=worker.age_limit,
            private_bytes=worker.private_bytes,
            busy=tuple(busy),
            idle_since=None if idle_since is None else max(idle_since, worker.ready_since),
            retiring_since=worker.retiring_since,
        )


def private_memory(pid: int) -> int | None:
    """Return the bytes that belong to one process alone (proc(5), smaps_rollup); None where nobody tells."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return 1024 * sum(int(size) for size in _PRIVATE.findall(file.read()))
    except OSError:
        return None
