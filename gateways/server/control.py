"""The master's control socket: one line of JSON asks, lines of JSON answer. It decides nothing; the Handler does.

Who may write to the socket's path may ask, and in addition must be root or our own user.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from gateways.errors import ConfigError
from gateways.server.address import Address
from gateways.server.desk import PATIENCE, Desk, Visitor
from gateways.server.errorlog import ErrorLog
from gateways.server.rundir import NAME, control_directory, control_path, make_private
from gateways.server.sockets import UnixListener, bind, identity

__all__ = ["ControlServer", "Handler", "default_path"]

REQUEST_BYTES: Final = 65_536
"""The longest line that asks."""
COMMANDS: Final = {"ping": (), "status": (), "reload": (), "reopen": (), "stop": (), "scale": ("workers",)}
"""Command -> its arguments."""
_BACKLOG: Final = 128
_MODE: Final = 0o600
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_ROOT: Final = 0


class Handler(Protocol):
    """What the commands do. Each returns at once; ConfigError is answered with its sentence."""

    def status(self) -> dict[str, Any]:
        """Return the status document: values that JSON has."""

    def reload(self) -> None:
        """Begin a reload; its end is told to ``ControlServer.reloaded``."""

    def reopen(self) -> None:
        """Open the log files anew; raises ConfigError."""

    def stop(self) -> None:
        """Begin to stop."""

    def scale(self, workers: int) -> int:
        """Have so many workers, and return how many that will be."""


def default_path(pid: int, runtime: str | None) -> str:
    """Return the path for the control socket of the master ``pid``, in a directory that is made and checked.

    ``runtime`` is the user's runtime directory (XDG_RUNTIME_DIR), if there is one. Raises ConfigError.
    """
    directory = control_directory(runtime)
    make_private(directory)
    remove_stale(directory)
    return control_path(directory, pid)


def remove_stale(directory: str) -> None:
    """Remove the sockets of servers that were killed: nobody listens, and there is no such process."""
    for name in os.listdir(directory):
        match = NAME.fullmatch(name)
        if match is None:
            continue
        path = f"{directory}/{name}"
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            if stat.S_ISSOCK(os.lstat(path).st_mode) and probe.connect_ex(path) == errno.ECONNREFUSED:
                try:
                    os.kill(int(match[1]), 0)
                except (ProcessLookupError, OverflowError):  # else it may be about to listen
                    os.unlink(path)


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user on the other end of a unix socket; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    uid: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))[1]
    return uid


def place_of(sock: socket.socket) -> str:
    """Return the path of a handed-over control socket; "" where that leads nowhere any more."""
    path = str(sock.getsockname())
    try:
        os.lstat(path)
    except PermissionError:
        return path
    except OSError:
        return ""
    return path


def end(sock: socket.socket) -> None:
    """Close a handed-over control socket that is wanted no more, and remove its path."""
    path = sock.getsockname()
    sock.close()
    with contextlib.suppress(OSError):  # it has gone, or its directory has
        if isinstance(path, str) and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


class ControlServer(Desk):
    """The control socket at ``path``, for the master's poll loop (see Desk).

    After an exec, ``sock`` is the listening socket that ``fileno`` named before it, and ``waiting`` are the
    connections that ``waiting`` named, which wait for the end of a reload. Raises ConfigError.
    """

    def __init__(
        self,
        path: str,
        handler: Handler,
        clock: Callable[[], float] = time.monotonic,
        sock: socket.socket | None = None,
        waiting: Iterable[socket.socket] = (),
        log: ErrorLog | None = None,
    ) -> None:
        self.path = os.path.abspath(path)
        self.handler = handler
        self.uid = os.geteuid()
        super().__init__("control", self._adopt(sock) if sock is not None else self._bind(), clock, log)
        for each in waiting:
            each.setblocking(False)
            each.set_inheritable(False)
            visitor = self.welcome(each)
            self.visitors[visitor.fd] = visitor
            visitor.expects_reload = True
            visitor.wait()

    def waiting(self) -> list[int]:
        """Return the descriptors of those that wait for the end of a reload."""
        return [visitor.fd for visitor in self._waiting()]

    def reloaded(self, error: str | None) -> None:
        """Tell all that wait for a reload that it is done, or why it is not."""
        for visitor in self._waiting():
            if error is None:
                visitor.expects_reload = False
                visitor.answer(event="reloaded")
            else:
                visitor.refuse_because(error)

    def welcome(self, sock: socket.socket) -> _Asker:
        """Return the visitor of a new connection."""
        return _Asker(self, sock)

    def _waiting(self) -> list[_Asker]:
        return [one for one in self.visitors.values() if isinstance(one, _Asker) and one.expects_reload]

    def _bind(self) -> socket.socket:
        return bind(Address("unix", path=self.path), backlog=_BACKLOG, mode=_MODE, owner="")

    def _adopt(self, sock: socket.socket) -> socket.socket:
        """Take over a listening socket, and its path as if we had made it; without the path nobody can come.

        One at another path goes when there is one here. Raises ConfigError, and then it is as it was.
        """
        created = (0, 0)
        try:
            there = sock.getsockname() == self.path and stat.S_ISSOCK(os.lstat(self.path).st_mode)
            if there:
                created = identity(self.path)
        except PermissionError:  # privileges have been dropped since: it may be looked for by others only
            there = True
        except OSError:
            there = False
        if not there:
            elsewhere = sock.getsockname() != self.path
            listener = self._bind()
            if elsewhere:
                end(sock)
            sock.close()
            return listener
        listener = UnixListener(fileno=sock.detach())
        listener.path = self.path
        listener.created = created
        listener.maker = os.getpid()
        return listener


class _Asker(Visitor):
    """One who asks."""

    expects_reload: bool = False

    def __init__(self, server: ControlServer, sock: socket.socket) -> None:
        super().__init__(server, sock)
        self._server = server
        self._held = bytearray()

    def greet(self) -> None:
        """Refuse other users."""
        uid = peer_uid(self.sock)
        if uid not in (None, _ROOT, self._server.uid):
            self.refuse_because(f"user {uid} may not control this server: only root and user {self._server.uid} may")

    def refuse(self) -> None:
        """Say that there are too many."""
        self.refuse_because("too many connections are waiting here already")
        self.close()

    def late(self) -> None:
        """Say what did not come."""
        self.refuse_because(f"no whole line came within {PATIENCE:g} s")

    def fail(self) -> None:
        """Say where to look."""
        self.refuse_because("the server failed at this; its log has the reason")

    def take(self, data: bytes) -> None:
        """Wait for a whole line; the end of file may stand for its end. What follows it does not count."""
        self._held += data
        end = self._held.find(b"\n")
        if end < 0 and self.eof and self._held:
            end = len(self._held)
        if max(end, len(self._held) if end < 0 else 0) > REQUEST_BYTES:
            self.refuse_because(f"a request is at most {REQUEST_BYTES} bytes long")
        elif end >= 0:
            try:
                self._obey(bytes(self._held[:end]))
            except ConfigError as error:
                self.refuse_because(str(error))

    def answer(self, *, last: bool = True, **fields: object) -> None:
        """Send one line that says yes."""
        self._send({"ok": True, **fields}, last=last)

    def refuse_because(self, reason: str) -> None:
        """Send one line that says no, and nothing after it."""
        self.expects_reload = False
        self._send({"ok": False, "error": reason}, last=True)

    def _send(self, table: dict[str, object], *, last: bool) -> None:
        if last:
            self.waiting = False
        self.say(json.dumps(table, allow_nan=False).encode() + b"\n", last=last)

    def _obey(self, line: bytes) -> None:
        command, arguments = _parse(line)
        handler = self._server.handler
        if command == "status":
            self.answer(status=handler.status())
        elif command == "reload":
            self.expects_reload = True
            self.wait()
            self.answer(last=False, event="reloading")
            handler.reload()
        elif command == "stop":
            self.wait()
            self.answer(last=False, event="stopping")
            handler.stop()
        elif command == "scale":
            self.answer(workers=handler.scale(_workers(arguments["workers"])))
        else:
            if command == "reopen":
                handler.reopen()
            self.answer()


def _parse(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return command and arguments; raises ConfigError."""
    try:
        table = json.loads(line.decode())
    except (ValueError, RecursionError):
        table = None
    command = table.pop("command", None) if isinstance(table, dict) else None
    if not isinstance(table, dict) or not isinstance(command, str):
        raise ConfigError('a request is one line of JSON with a command, as in {"command": "status"}')
    if command not in COMMANDS:
        raise ConfigError(f"there is no command {command[:40]!r}; there are {', '.join(COMMANDS)}")
    if set(table) != set(COMMANDS[command]):
        wanted = " and ".join(f'"{name}"' for name in COMMANDS[command]) or "nothing else"
        raise ConfigError(f"the command {command} comes with {wanted}")
    return command, table


def _workers(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError('"workers" is a whole number from 1 up')
    return value
