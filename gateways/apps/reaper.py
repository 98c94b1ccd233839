"""What becomes of scripts that no request waits for any more: one thread ends them, and reaps them when they are dead.

A request's own thread is free at once, whatever its script does. A script's turn is over when it is reaped.
"""

from __future__ import annotations

import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from gateways.apps.processes import Process, read_now

__all__ = ["GRACE", "LEFT", "Reaper"]

GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL."""
LEFT: Final = 1.0
"""Seconds that what a script has left behind may hold its standard output."""
TICK: Final = 0.02
_SLOW_TICK: Final = 0.25
_BLOCK: Final = 65_536


class Errors(Protocol):
    """Who takes what a script writes to its standard error."""

    def write(self, data: bytes) -> None:
        """The next bytes."""

    def end(self) -> None:
        """Nothing more comes."""


class Reaper:
    """Its thread is there from the start: when a script has to be ended there may be no room for one."""

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._news = threading.Condition()
        self._cases: list[_Case] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._start()

    def take(self, process: Process, errors: Errors, done: Callable[[], None], until: float = 0.0) -> None:
        """End a script and all of its group, but not before ``until``; then call ``done``.

        ``until`` is a time of ``time.monotonic``: 0 is at once, infinity for a script that may go on.
        """
        case = _Case(process, errors, done, until, self._grace)
        case.look(time.monotonic())
        if not case.told:  # to one that is to end the end of half a body would look like that of the whole
            process.close_stdin()
        with self._news:
            if self._closed:
                process.signal(signal.SIGKILL)
            self._cases.append(case)
            if self._thread is None:  # it has been closed
                self._start()
            self._news.notify()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="gateways-reaper", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 1.0) -> None:
        """Kill all that is left, since the process ends; waits so long for them to be gone."""
        with self._news:
            self._closed = True
            for case in self._cases:
                case.process.signal(signal.SIGKILL)
            self._news.notify()
        deadline = time.monotonic() + seconds
        while self._cases and time.monotonic() < deadline:
            time.sleep(TICK)

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._cases:
                    if self._closed:
                        self._thread = None
                        return
                    self._news.wait()
                cases = list(self._cases)
            now = time.monotonic()
            over = [case for case in cases if case.look(now)]
            for case in over:
                with self._news:
                    self._cases.remove(case)
                case.finish()
            if not over:
                await_output(cases, TICK if any(case.told for case in cases) else _SLOW_TICK)


def await_output(cases: list[_Case], seconds: float) -> None:
    """Wait until one of them has written something, at most so long."""
    poll = select.poll()
    for case in cases:
        for fd in (case.process.stdout, case.process.stderr):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
    poll.poll(seconds * 1000)


class _Case:
    """One script that is to end."""

    def __init__(self, process: Process, errors: Errors, done: Callable[[], None], until: float, grace: float) -> None:
        self.process = process
        self._errors = errors
        self.told = False
        """It has got SIGTERM."""
        self._done = done
        self._until = until
        self._grace = grace
        self._kill_at = 0.0
        self._left_since = 0.0

    def look(self, now: float) -> bool:
        """Do what is due; returns whether the script has ended, and nothing of it is left that holds its pipes."""
        process = self.process
        self._drain()
        exited = process.exited()
        if not self.told:
            if exited:
                if process.stdout < 0:
                    return True
                self._until = min(self._until, self._left(now))
            if now < self._until:
                return False
            self.told = True
            self._kill_at = now + self._grace
            process.signal(signal.SIGTERM)
            return False
        if exited and process.stdout < 0:
            process.signal(signal.SIGKILL)  # whoever holds nothing, and has not heeded the first one
            return True
        if now >= self._kill_at:
            process.signal(signal.SIGKILL)
            # What is in a session of its own lives on, and gets SIGPIPE when it writes.
            return exited
        return False

    def _left(self, now: float) -> float:
        """Return until when what it has left behind may hold its output."""
        if not self._left_since:
            self._left_since = now
        return self._left_since + LEFT

    def _drain(self) -> None:
        """Take what is written, so that nobody is stuck with it instead of ending."""
        process = self.process
        poll = select.poll()
        for fd in (process.stdout, process.stderr):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(0):
            data = read_now(fd, _BLOCK)
            if data is None:
                continue
            if fd == process.stdout:
                if not data:
                    process.close_stdout()
            elif data:
                self._errors.write(data)
            else:
                process.close_stderr()

    def finish(self) -> None:
        """Reap it, and tell."""
        self._errors.end()
        self.process.close()
        self.process.reap()
        self._done()
