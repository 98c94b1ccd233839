"""A script that a fork server has started: the same Process for those who move its bytes, with another parent.

Its end is seen through a pidfd, whoever reaps it. The fork server reaps when told to, so that until then the group can
be signalled by its number, as with a child of our own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Final

from gateways.apps.processes import Process, pipe
from gateways.apps.warm_server import COLD, LENGTH, NUMBER, REAP

__all__ = ["ServerGone", "WarmProcess", "start_in"]

_PATIENCE: Final = 5.0
"""Seconds for the fork server's answer, which forks and does nothing else."""
_READY: Final = 10.0
"""Seconds for the child to be what the script needs."""
_STATUS: Final = 2.0


class ServerGone(Exception):
    """The fork server does not answer; no script has been started. ``stuck``: it is there."""

    def __init__(self, reason: str, *, stuck: bool = False) -> None:
        super().__init__(reason)
        self.stuck = stuck


class WarmProcess(Process):
    """A script that runs, the child of a fork server: ``line`` is what that speaks of it on."""

    def __init__(
        self, pid: int, pidfd: int, line: int, stdin: int, stdout: int, stderr: int, *, cold: bool = False
    ) -> None:
        super().__init__(pid, stdin, stdout, stderr)
        self.cold = cold
        """It had to start the interpreter."""
        self._pidfd = pidfd
        self._line = line

    def exited(self) -> bool:
        """Whether it has ended; it is not reaped by that."""
        return self.code is not None or ready(self._pidfd, 0)

    def watch_end(self) -> int:
        """Return a descriptor that can be read once it has ended, -1 where none is to be had; see ``unwatch_end``."""
        return self._pidfd

    def unwatch_end(self, fd: int) -> None:
        """Nothing: it is kept until the script is reaped."""

    def reap(self) -> int:
        """Take the exit status of a script that has ended; 0 where the fork server has not lived to tell it."""
        with self._reaping:
            if self.code is None:
                ready(self._pidfd, None)
                self.code = self._status()
                os.close(self._line)
                os.close(self._pidfd)
        return self.code

    def _status(self) -> int:
        with contextlib.suppress(OSError):
            os.write(self._line, REAP)
            if ready(self._line, _STATUS):
                return os.waitstatus_to_exitcode(number_from(self._line))
        return 0

    def signal(self, number: int) -> None:
        """Send a signal to all of its group; nothing where it is reaped."""
        with self._reaping, contextlib.suppress(ProcessLookupError, PermissionError):
            if self.code is not None:
                return
            # Without the fork server, which says nothing before it is asked, init reaps: the number may be another's.
            if not (ready(self._line, 0) and ready(self._pidfd, 0)):
                os.killpg(self.pid, number)


def start_in(send: Callable[[list[int]], None], request: bytes, null: int, *, stdin: bool) -> WarmProcess:
    """Have a fork server start a script; ``null`` is its input if it has none. Raises ServerGone, OSError.

    ``send`` gives the server descriptors, and raises OSError where it has gone.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        try:
            line = pair(ours, theirs)
            talk = pair(ours, theirs)
            fed = -1
            if stdin:
                opened: list[int] = []
                given, fed = pipe(opened)
                theirs.append(given)
                ours.append(fed)
                os.set_blocking(fed, False)
            else:
                theirs.append(os.dup(null))
            out, err = outlet(ours, theirs), outlet(ours, theirs)
            try:
                send(theirs)
            except OSError as error:
                raise ServerGone(str(error), stuck=isinstance(error, TimeoutError)) from None
        finally:
            for fd in theirs:
                os.close(fd)
        pid = pid_from(line)
        pidfd = os.pidfd_open(pid)
        ours.append(pidfd)
        try:
            cold = instruct(talk, pidfd, request)
        except BaseException:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            raise
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    os.close(talk)
    return WarmProcess(pid, pidfd, line, fed, out, err, cold=cold)


def pid_from(line: int) -> int:
    """Return the child's number; raises ServerGone, and OSError where there is none."""
    try:
        if not ready(line, _PATIENCE):
            raise ServerGone(f"no answer for {_PATIENCE:g} s", stuck=True)
        pid = number_from(line)
    except OSError as error:
        raise ServerGone(str(error)) from None
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def instruct(talk: int, pidfd: int, request: bytes) -> bool:
    """Tell a child what script it is; returns whether that starts cold. Raises OSError with its reason not to be it."""
    with socket.socket(fileno=os.dup(talk)) as sock:
        sock.settimeout(_READY)
        sock.sendall(LENGTH.pack(len(request)) + request)
    poll = select.poll()
    poll.register(talk, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(_READY * 1000):
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    reason = number_from(talk)
    if reason > 0:
        raise OSError(reason, os.strerror(reason))
    return reason == COLD


def number_from(fd: int) -> int:
    """Read one; raises OSError where there is none."""
    data = os.read(fd, NUMBER.size)
    if len(data) != NUMBER.size:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return int(NUMBER.unpack(data)[0])


def ready(fd: int, seconds: float | None) -> bool:
    """Wait until there is something to read, or an end; returns whether there is."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def pair(ours: list[int], theirs: list[int]) -> int:
    """Make a socket pair; returns our end."""
    one, two = (sock.detach() for sock in socket.socketpair())
    ours.append(one)
    theirs.append(two)
    return one


def outlet(ours: list[int], theirs: list[int]) -> int:
    """Make a pipe that the script writes; returns our end."""
    read, write = os.pipe()
    ours.append(read)
    theirs.append(write)
    return read
