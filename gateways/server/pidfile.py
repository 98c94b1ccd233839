"""The file that names the master's process, for scripts: one server's at a time, and removed by that one only.

It is locked (flock(2)) as long as the master lives. What a machine that lost its power has left behind is nobody's,
whatever process has its number by now; and workers close it, so that those that outlive their master do not hold it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from typing import Final

from gateways.errors import ConfigError

__all__ = ["PidFile"]

_MODE: Final = 0o644


class PidFile:
    """The file at ``path``, absolute; ``fd`` where the program before this one has it open. Raises ConfigError."""

    def __init__(self, path: str, fd: int = -1) -> None:
        self.path = path
        self.fd = fd
        """Open as long as the file is ours: to close it gives the lock up."""
        try:
            if fd < 0:
                self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, _MODE)
            text = b"%d\n" % os.getpid()
            if self._regular():  # else a device, which is everybody's
                self._lock()
            os.pwrite(self.fd, text, 0)
            if self._regular():
                os.ftruncate(self.fd, len(text))
        except OSError as error:
            self.let_go()
            raise ConfigError(f"cannot write the pid file {path}: {error.strerror}; choose another one") from error
        except ConfigError:
            self.let_go()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:  # else this file system has no locks
                owner = re.match(rb"[0-9]{1,10}\n", os.pread(self.fd, 16, 0))
                whose = f"process {int(owner[0])}" if owner else "another process"
                raise ConfigError(
                    f"the pid file {self.path} is that of {whose}, which runs; stop that one, or choose another file"
                ) from None

    def _regular(self) -> bool:
        return stat.S_ISREG(os.fstat(self.fd).st_mode)

    def let_go(self) -> None:
        """Close it, and leave the file: in a worker."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Remove the file, unless there is another one by now."""
        if self.fd < 0:
            return
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            ours = os.fstat(self.fd)
            if self._regular() and (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                os.unlink(self.path)
        self.let_go()
