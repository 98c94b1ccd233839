"""The server's log files, together: opened before the workers are forked, reopened for all when they have been moved.

A worker never opens one: it may have lost the right to, or its root directory. It gets the new file from the master and
puts it under the number of the old one.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from typing import Final

from gateways.errors import ConfigError
from gateways.server.accesslog import Plan
from gateways.server.errorlog import ErrorLog, configure
from gateways.server.logfiles import LogTarget, open_target, reopen
from gateways.server.slowlog import SlowLog
from gateways.settings import Settings

__all__ = ["Outlets", "check_format"]

_NAME: Final = "{} log"


def check_format(settings: Settings) -> None:
    """Raise ConfigError for a bad --access-format, whether or not there is an access log."""
    if settings.access_format not in ("combined", "json"):
        Plan(settings.access_format)


class Outlets:
    """The access log, the error log and the slow log of one server.

    Raises ConfigError where one cannot be opened. With ``kept`` and ``paths``, which are ``others()`` and ``paths()``
    of the program before this one, the old file or stderr is taken then, and the log tells why.
    """

    def __init__(
        self, settings: Settings, kept: Mapping[str, int] | None = None, paths: Mapping[str, str] | None = None
    ) -> None:
        check_format(settings)
        self.log = ErrorLog()
        self._files: list[LogTarget] = []
        self._kept = kept
        self._paths = paths or {}
        self._user = settings.user if settings.preload and os.geteuid() != 0 else ""
        """Whose rights the master has left; the files may be another's."""
        self._problems: list[str] = []
        self._starter = -1
        """What was stderr before it became the error log: until the server is ready, somebody may look there."""
        self._where = settings.error_log
        error = self._open(settings.error_log, stream=2, kind="error")
        if settings.error_log != "-" and kept is None:
            self._starter = os.dup(2)
        self._output: LogTarget | None = None
        """Descriptor 1, where that goes to the error log too."""
        if error.path:  # what the application prints belongs there too
            error.move(2)
            self._files.append(error)
            if settings.access_log != "-":
                os.dup2(2, 1)
                self._output = LogTarget(1, "error", error.path)
                self._files.append(self._output)
                if isinstance(sys.stdout, io.TextIOWrapper):  # or a worker that is killed would take lines with it
                    sys.stdout.reconfigure(line_buffering=True)
        configure(settings.log_level, error)
        try:
            self.access = self._other(settings.access_log, stream=1, kind="access")
            slow = self._other(settings.slow_log, stream=2, kind="slow")
        except ConfigError as why:
            self.refuse(why)
            raise
        self.slow = SlowLog(slow, self.log)
        for target in (self.access, slow):
            if target is not None:
                target.complain = self.log.warning
        for problem in self._problems:
            self.log.failure(problem)
        for kind in ("access", "slow"):
            fd = (kept or {}).get(_NAME.format(kind))
            if fd is not None and fd not in self.fds:
                os.close(fd)

    def _other(self, spec: str, *, stream: int, kind: str) -> LogTarget | None:
        """Open one beside the error log; None where it is off."""
        if not spec:
            return None
        target = self._open(spec, stream=stream, kind=kind)
        if target.path:
            self._files.append(target)
        return target

    def _open(self, spec: str, *, stream: int, kind: str) -> LogTarget:
        try:
            return open_target(spec, stream=stream, kind=kind)
        except ConfigError as error:
            if self._kept is None:
                raise
            fd = self._kept.get(_NAME.format(kind))
            same = self._paths.get(_NAME.format(kind)) == spec
            if kind == "error" and same:
                fd = stream
            if fd is not None:
                os.set_inheritable(fd, fd == stream)
                if not (same and self._user):  # who was root when it was opened
                    self._problems.append(f"{error}; the old file is kept")
                return LogTarget(fd, kind, spec)
            self._problems.append(f"{error}; stderr is taken instead")
            return open_target("-", stream=2, kind=kind)

    def not_started(self, reason: str) -> None:
        """Tell whoever has started the server, too, why it ends before it was ready; the error log has it already."""
        if self._starter >= 0:
            with contextlib.suppress(OSError):
                text = f"gateways: {reason} (all of it is in the error log: {self._where})\n"
                os.write(self._starter, text.encode("utf-8", "backslashreplace"))

    def refuse(self, error: ConfigError) -> None:
        """A start ends with ``error``, which is printed on stderr: have that back, and the log know it too."""
        if self._starter >= 0:
            self.log.failure(str(error))
            os.dup2(self._starter, 2)
            self.started()

    def started(self) -> None:
        """Nobody waits for the start any more."""
        starter, self._starter = self._starter, -1
        if starter >= 0:
            os.close(starter)

    def others(self) -> dict[str, int]:
        """Return the names and descriptors of the files, for the program that takes over; it has 1 and 2 anyway."""
        return {_NAME.format(target.kind): target.fd for target in self._files if target.fd > 2}

    def paths(self) -> dict[str, str]:
        """Return the names and paths of the files, for the program that takes over."""
        return {_NAME.format(target.kind): target.path for target in self._files}

    @property
    def fds(self) -> tuple[int, ...]:
        """The numbers of the files that ``reopen`` opens anew, in its order."""
        return tuple(target.fd for target in self._files)

    def reopen(self) -> tuple[list[int], list[str]]:
        """Open every file anew, here under its old number, or keep it.

        Returns descriptors for the workers, to be closed, and why files could not be opened.
        """
        fds = []
        problems = []
        hint = f"; --preload: --user {self._user} must be allowed to open it" if self._user else ""
        for target in self._files:
            try:
                new = os.dup(2) if target is self._output else reopen(target)
            except ConfigError as error:
                problems.append(f"{error}; the old file is kept{hint}")
                self.log.failure(problems[-1])
                new = os.dup(target.fd)
            else:
                target.replace(os.dup(new))
            fds.append(new)
        return fds, problems
