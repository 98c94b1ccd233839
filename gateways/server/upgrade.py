"""The master's own exchange: the same command once more, in this process, with the sockets and the workers it has.

Before that a child runs ``gateways check`` with the same options, so that a program that would not start does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Final

from gateways.server.handover import GONE, VARIABLE, Handed
from gateways.server.process import flush

__all__ = ["Upgrade"]

_SCRIPTS: Final = "scripts"
_COMMAND: Final = "serve"
_CHECK: Final = "check"
_DIRECTORY: Final[int] = getattr(os, "O_PATH", os.O_RDONLY)  # enough for fchdir(2), also where it may not be read


class Upgrade:
    """Starts the program again. To be made before the directory changes; ``environment`` is what it shall have."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._directory = _here(environment.get("PWD", ""))
        self._words = [sys.executable, *sys.orig_argv[1:]]
        self._check: subprocess.Popen[bytes] | None = None
        self.deadline: float | None = None
        """When the check that is under way has taken too long, on the monotonic clock."""

    @property
    def possible(self) -> bool:
        """The command line is one of ``gateways serve`` or ``scripts``, which can be repeated."""
        return sys.argv[1:2] in ([_COMMAND], [_SCRIPTS]) and sys.orig_argv[-len(sys.argv) + 1 :] == sys.argv[1:]

    @property
    def checking(self) -> bool:
        """A check is under way."""
        return self._check is not None

    def begin(self, seconds: float) -> None:
        """Start the check, which may take so long; raises OSError."""
        words = list(self._words)
        at = len(words) - len(sys.argv) + 1
        words[at : at + 1] = [_CHECK] if words[at] == _COMMAND else [_SCRIPTS, f"--{_CHECK}"]
        self._check = subprocess.Popen(  # noqa: S603  (our own command line)
            words, env={**self._environment, VARIABLE: _CHECK}, cwd=self._directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.deadline = time.monotonic() + seconds

    def result(self) -> int | None:
        """Return the exit code of the check, once; None while it runs. One that has taken too long was killed."""
        if self._check is None or self.deadline is None:
            return None
        code = self._check.poll()
        if code is None and time.monotonic() >= self.deadline:
            self.end_check()
            return -signal.SIGKILL
        if code is not None:
            self._check = self.deadline = None
        return code

    def end_check(self) -> None:
        """The server stops: nobody wants the result."""
        if self._check is not None:
            self._check.kill()
            self._check.wait()
            self._check = self.deadline = None

    def execute(self, handed: Handed, signals: Iterable[signal.Signals]) -> None:
        """Become the new program; returns only by OSError. The signals wait until that has its own handlers."""
        before = GONE
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        flush()
        try:
            before = os.open(".", _DIRECTORY)  # which need not have a name any more
            environment = {**self._environment, VARIABLE: handed.text()}
            os.chdir(self._directory)
            os.execve(self._words[0], self._words, environment)  # noqa: S606
        except OSError:
            if before != GONE:
                os.fchdir(before)
                os.close(before)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            handed.keep()
            raise


def _here(logical: str) -> str:
    """Return the current directory, by the name that the shell has for it: a deployment switches a symbolic link."""
    try:
        if os.path.samefile(logical, "."):
            return logical
    except OSError:  # no such name
        pass
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return "."
