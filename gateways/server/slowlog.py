"""Where the stacks of slow requests go: a file of their own, or the error log."""

from __future__ import annotations

import os
import time

from gateways.server.errorlog import ErrorLog, escape, set_in
from gateways.server.logfiles import LogTarget
from gateways.server.zone import stamp

__all__ = ["SlowLog"]


class SlowLog:
    """Writes entries of a request's line and the stacks of its worker; ``target`` None is the error log."""

    def __init__(self, target: LogTarget | None, log: ErrorLog) -> None:
        self._target = target
        self._log = log

    def stacks(self, request: str, seconds: float, worker: int, stacks: str, why: str) -> None:
        """Write one entry: ``request`` has taken ``seconds`` in the process ``worker``; ``why`` it is here."""
        message = f"{request}: {seconds:.3f} s in worker {worker} ({why})"
        if self._target is None:
            self._log.block(message, stacks)
            return
        entry = f"{stamp(time.time())} [{os.getpid()}] {escape(message)}\n{set_in(stacks)}\n"
        self._target.write(entry.encode("utf-8", "backslashreplace"))
