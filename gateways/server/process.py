"""One worker process as the master has it: forked here, talked to over a channel, known by a slot of the scoreboard."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Final

from gateways.server.channel import Channel
from gateways.server.stacks import StackFile

__all__ = ["WorkerProcess", "flush", "fork_worker", "signal_name"]

_BROKEN: Final = 3


class WorkerProcess:
    """One living worker."""

    ready: bool = False
    ready_since: float = 0.0
    reason: str = ""
    """Why it could not boot, or leaves by itself."""
    killed: bool = False
    leaving: bool = False
    """It leaves though the master has not told it to."""
    retiring_since: float | None = None
    cause: str = ""
    """Why it retires."""
    private_bytes: int = 0
    measured_at: float = -float("inf")
    """When that was looked up."""
    measured_after: int = 0
    """Requests that had begun in its slot then."""
    base: tuple[int, ...] = ()
    """Requests that others had served in its slot before it came, by thread."""
    request_limit: int = 0
    age_limit: float = 0.0
    given: int = 0
    """Connections of other workers that it goes on with."""

    def __init__(
        self, pid: int, control: socket.socket, born: float, generation: int, slot: int, stacks: StackFile | None
    ) -> None:
        self.pid = pid
        self.channel = Channel(control)
        self.born = born
        self.generation = generation
        self.slot = slot
        """Its place on the scoreboard; -1 where another master has forked it."""
        self.stacks = stacks
        self.slow: dict[int, int] = {}
        """Thread -> serial of the request of which the slow log has the stacks."""
        self.cancelled: dict[int, tuple[int, float]] = {}
        """Thread -> serial of the request that was interrupted, and when."""

    @property
    def leaves(self) -> bool:
        """It takes no new connections, and gives away those it has."""
        return self.leaving or self.retiring_since is not None

    def close(self) -> None:
        """Give up what the master has of it."""
        self.channel.close()
        if self.stacks is not None:
            self.stacks.close()


def fork_worker(
    body: Callable[[socket.socket], int], *, born: float, generation: int, slot: int, others: Iterable[WorkerProcess]
) -> WorkerProcess:
    """Fork a worker that runs ``body`` with its end of the channel and exits with what that returns.

    Raises OSError where the system has no process or descriptor left.
    """
    flush()
    stacks = StackFile()
    try:
        ours, theirs = socket.socketpair()
    except OSError:
        stacks.close()
        raise
    try:
        pid = os.fork()
    except OSError:
        stacks.close()
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        code = _BROKEN
        try:
            ours.close()
            for worker in others:
                worker.close()
            stacks.listen()
            code = body(theirs)
        except BaseException:  # noqa: BLE001  (it ends here; the master only sees that it did)
            traceback.print_exc()
        finally:
            try:
                atexit._run_exitfuncs()  # noqa: SLF001  (the application's own, as in a process of its own)
                flush()
            finally:  # never back into the master's code, which would end the other workers
                os._exit(code)
    theirs.close()
    stacks.keep()
    ours.setblocking(False)
    return WorkerProcess(pid, ours, born, generation, slot, stacks)


def flush() -> None:
    """Write out what was printed; there may be no such stream, and nobody who reads it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def signal_name(number: int) -> str:
    """Real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
