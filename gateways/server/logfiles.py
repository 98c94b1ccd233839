"""Where the lines of a log go: a file, a standard stream, or syslog. What they say is not known here.

A line is one write(2) and is never held back, so a process that is killed loses none that it has written, and lines of
several processes do not mix. Whatever happens to a line, the request that it is about goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from typing import Final

from gateways.errors import ConfigError

__all__ = [
    "ERROR",
    "INFO",
    "SYSLOG",
    "WARNING",
    "LogTarget",
    "SyslogTarget",
    "examine",
    "obstacle",
    "open_target",
    "reopen",
    "syslog_facility",
]

SYSLOG: Final = "/dev/log"
FACILITIES: Final[dict[str, int]] = {
    "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
    "authpriv": 10, "ftp": 11, "local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21,
    "local6": 22, "local7": 23,
}  # fmt: skip
"""RFC 3164 section 4.1.1, all but the kernel's own."""
ERROR: Final = 3
WARNING: Final = 4
INFO: Final = 6
"""Severities, of the same section."""

_FACILITY: Final = "daemon"
_MODE: Final = 0o640
_PATIENCE: Final = 1.0  # seconds that a line waits for a pipe or for syslog
_SILENCE: Final = 60.0  # seconds between two complaints
_DATAGRAM: Final = 8192  # bytes: rsyslog's $MaxMessageSize; it cuts the rest off itself
_GONE: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.ENOENT, errno.EPIPE})
_UNSEEN: Final = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]")  # control characters, of Unicode too, in UTF-8


class LogTarget:
    """A file or a stream that takes lines. The descriptor keeps its number also when the file is another one."""

    def __init__(self, fd: int, kind: str, path: str = "") -> None:
        self.fd = fd
        self.kind = kind
        """Which log it is, in its messages: ``access``."""
        self.path = path
        """Where it is opened anew; empty for what is no file."""
        self.lost = 0
        """Lines that could not be written, by this process."""
        self.complain: Callable[[str], None] | None = None
        """Told of lost lines, once in a while."""
        self._lock = threading.Lock()
        self._regular = is_regular(fd)
        self._direct = self._regular
        """A write is whole, or the disk is full; and nothing has failed."""
        self._failing = False
        self._torn = False
        """What was written last has no end."""
        self._stalled = False
        """The last line has waited in vain: the next ones do not wait until one has gone."""
        self._complained: float | None = None
        self._told = False
        """It is known that lines were lost, and not that this is over."""

    def write(self, line: bytes) -> None:
        """Write a line, with its newline, at once; where that fails it is lost and counted, and nothing is raised."""
        done = 0
        if self._direct:
            try:
                done = os.write(self.fd, line)
            except OSError as error:
                self._lose(error)
                return
            if done == len(line):
                return
        self._write_carefully(line, done)

    def _write_carefully(self, line: bytes, done: int) -> None:
        """Write what a first write has left, or what does not go in one; one thread at a time, lest lines mix."""
        if not self._lock.acquire(timeout=_PATIENCE):
            self._lose(in_vain())
            return
        try:
            if self._torn and not done:
                line = b"\n" + line
            done, problem = self._push(line, done)
            self._torn = problem is not None and (self._torn or done > 0)
            self._stalled = isinstance(problem, BlockingIOError)
        finally:
            self._lock.release()
        if problem is not None:
            self._lose(problem)
        elif self._failing:
            self._recovered()

    def _push(self, line: bytes, done: int) -> tuple[int, OSError | None]:
        """Write from ``done`` on; returns how far it came, and why no further.

        A pipe is asked first, blocking or not: whoever reads it may stand still.
        """
        deadline = time.monotonic() + (0.0 if self._stalled else _PATIENCE)
        while done < len(line):
            try:
                if not self._regular:
                    await_writable(self.fd, deadline)
                done += os.write(self.fd, line[done:])
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    return done, error
            except OSError as error:
                return done, error
        return done, None

    def _lose(self, error: OSError) -> None:
        self.lost += 1
        self._failing = True
        self._direct = False
        now = time.monotonic()
        if self._complained is not None and now - self._complained < _SILENCE:
            return
        self._complained = now
        self._told = True
        self._say(f"the {self.kind} log loses lines: {error.strerror}; {self.lost} lost so far by this process")

    def _recovered(self) -> None:
        self._failing = False
        self._direct = self._regular
        if self._told:
            self._told = False
            self._say(f"the {self.kind} log is written again; {self.lost} lines were lost by this process")

    def _say(self, message: str) -> None:
        if self.complain is not None:
            self.complain(message)

    def replace(self, fd: int) -> None:
        """Write to ``fd`` from now on, under the old number; ``fd`` itself is closed."""
        os.dup2(fd, self.fd, inheritable=self.fd <= 2)  # 0 to 2 are for the programs that applications start too
        os.close(fd)
        self._regular = is_regular(self.fd)
        self._direct = self._regular and not self._failing
        self._torn = False

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def move(self, fd: int) -> None:
        """Be descriptor ``fd`` from now on: 2, where applications' own output is to land in the log."""
        if fd != self.fd:
            os.dup2(self.fd, fd, inheritable=fd <= 2)
            os.close(self.fd)
            self.fd = fd


class SyslogTarget(LogTarget):
    """The syslog daemon of this machine, by datagrams. Processes share the socket, and so a connection made anew."""

    def __init__(self, path: str, kind: str, facility: str) -> None:
        self._address = path
        self._facility = FACILITIES[facility] << 3
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        super().__init__(self._socket.fileno(), kind)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def write(self, line: bytes) -> None:
        """Send what is a line of a file as information."""
        self.send(INFO, line)

    def send(self, severity: int, text: bytes) -> None:
        """Send each line of ``text`` as a message: RFC 3164, without date and host as programs do."""
        head = b"<%d>gateways[%d]: " % (self._facility | severity, os.getpid())
        deadline = time.monotonic() + (0.0 if self._stalled else _PATIENCE)
        try:
            for line in text.rstrip(b"\n").split(b"\n"):
                self._send(cut(head + _UNSEEN.sub(_hex, line)), deadline)
        except OSError as error:
            self._stalled = isinstance(error, BlockingIOError)
            self._lose(error)
            return
        self._stalled = False
        if self._failing:
            self._recovered()

    def _send(self, datagram: bytes, deadline: float) -> None:
        connected = False
        while True:
            try:
                self._socket.send(datagram)
            except BlockingIOError:  # the daemon is behind
                await_writable(self.fd, deadline)
            except OSError as error:
                if connected or error.errno not in _GONE:
                    raise
                self._socket.connect(self._address)  # the daemon was started anew
                connected = True
            else:
                return


def _hex(found: re.Match[bytes]) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in found.group())


def cut(datagram: bytes) -> bytes:
    """Return what fits, in whole characters."""
    if len(datagram) <= _DATAGRAM:
        return datagram
    return datagram[: _DATAGRAM - 3].decode("utf-8", "ignore").encode() + b"..."


def is_regular(fd: int) -> bool:
    """Whether a descriptor is of a plain file."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def in_vain() -> BlockingIOError:
    """Say that nobody has taken anything in time."""
    return BlockingIOError(errno.EAGAIN, "nothing is taken any more")


def await_writable(fd: int, deadline: float) -> None:
    """Return when something may go; raises BlockingIOError where that is not so by ``deadline``."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000.0):
        raise in_vain()


def open_target(spec: str, *, stream: int, kind: str, syslog: str = SYSLOG) -> LogTarget:
    """Open what a setting names: a path, ``-`` for the descriptor ``stream``, ``syslog`` or ``syslog:FACILITY``.

    ``kind`` is which log it is (``access``, ``error``, ``slow``), ``syslog`` the daemon's socket. To be called before
    any socket is opened, which would get the number of a stream that is closed. Raises ConfigError.
    """
    if spec == "-":
        return LogTarget(standard_stream(stream, kind), kind)
    facility = syslog_facility(spec, kind)
    if facility:
        try:
            return SyslogTarget(syslog, kind, facility)
        except OSError as error:
            raise ConfigError(
                f"cannot reach syslog at {syslog} for the {kind} log: {error.strerror}; "
                "start a syslog daemon, or give a file"
            ) from error
    return LogTarget(open_path(spec, kind), kind, spec)


def syslog_facility(spec: str, kind: str) -> str:
    """Return the facility that a setting asks for; "" where it is not syslog. Raises ConfigError."""
    word, colon, facility = spec.partition(":")
    if word != "syslog":
        return ""
    name = facility.lower() if colon else _FACILITY
    if name not in FACILITIES:
        raise ConfigError(f"the {kind} log {spec!r}: syslog has no facility {name!r}; it has {', '.join(FACILITIES)}")
    return name


def reopen(target: LogTarget) -> int:
    """Open the path of ``target`` anew, for its ``replace``; -1 where it has none. Raises ConfigError."""
    return open_path(target.path, target.kind) if target.path else -1


def open_path(path: str, kind: str) -> int:
    """Return a descriptor that appends to ``path``, above those of the standard streams; raises ConfigError."""
    # O_NONBLOCK: a named pipe that nobody reads is an error, not a wait
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, _MODE)
        if fd <= 2:
            low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
    except OSError as error:
        why = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror
        raise ConfigError(f"cannot open the {kind} log {path}: {why}") from error
    if kind == "error":  # applications print there, and do not expect to be told to wait
        os.set_blocking(fd, True)
    return fd


def examine(spec: str, kind: str) -> None:
    """Raise ConfigError, as ``open_target`` would, where a file cannot be opened. It is not made."""
    if spec not in ("", "-") and not syslog_facility(spec, kind) and (why := obstacle(spec)):
        raise ConfigError(f"cannot open the {kind} log {spec}: {why}")


def obstacle(path: str) -> str:
    """Return why a file can be neither written nor made, as the system says it; "" where it can."""
    number = 0
    directory = os.path.dirname(path)
    try:
        if os.path.isdir(path):
            number = errno.EISDIR
        elif not os.path.exists(path) and not stat.S_ISDIR(os.stat(directory).st_mode):
            number = errno.ENOTDIR
        elif not (os.access(path, os.W_OK) if os.path.exists(path) else os.access(directory, os.W_OK | os.X_OK)):
            number = errno.EACCES
    except OSError as error:
        return error.strerror or str(error)
    return os.strerror(number) if number else ""


def standard_stream(stream: int, kind: str) -> int:
    """Return ``stream`` if it is open. A closed stderr becomes /dev/null: there is nobody to be told."""
    with contextlib.suppress(OSError):
        os.fstat(stream)
        return stream
    if stream != 2:
        raise ConfigError(f"the {kind} log is to go to descriptor {stream}, which is closed; give a file")
    null = os.open(os.devnull, os.O_WRONLY)
    if null != stream:
        os.dup2(null, stream)
        os.close(null)
    os.set_inheritable(stream, True)
    return stream
