"""Children of the test's own process: they share its memory and descriptors, and are ended whatever happens."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from tests.server.peers import SECONDS
from tests.server.pools import within

__all__ = ["alone", "child", "ended", "forked"]


def alone() -> None:
    """Wait for the last threads of earlier tests: from 3.12 on Python warns of a fork beside threads."""
    within(lambda: threading.active_count() == 1, "the other threads have ended")
    if sys.platform.startswith("linux"):
        within(lambda: len(os.listdir("/proc/self/task")) == 1, "the system knows of one thread")


def child(body: Callable[[], object]) -> int:
    """Fork; the child runs ``body`` and exits with 0, or with 1 where that raises, and never comes back here."""
    alone()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            atexit._clear()
            body()
            code = 0
        except BaseException:  # noqa: BLE001  (it must not come back into the tests)
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


@contextlib.contextmanager
def forked(body: Callable[[], object]) -> Iterator[int]:
    """A child for the length of a ``with`` block, killed at its end if it is still there."""
    pid = child(body)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def ended(pid: int) -> int:
    """Wait for the end of a child and return its exit code, less than 0 for a signal."""
    found: list[int] = []

    def look() -> bool:
        known, status = os.waitpid(pid, os.WNOHANG)
        if known:
            found.append(os.waitstatus_to_exitcode(status))
        return bool(known)

    within(look, f"process {pid} ends", SECONDS)
    return found[0]
