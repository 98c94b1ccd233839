"""Talk to a running server's control socket: one command, and its answers as they come; and find that socket."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

from gateways.errors import ConfigError, PeerClosed
from gateways.server.rundir import NAME, is_private, search_directories

__all__ = ["Live", "call", "find", "live_servers"]

READ_SIZE: Final = 65_536
ANSWER_BYTES: Final = 256 * 1024 * 1024
"""The longest line taken: the status of 1,024 workers with 1,024 threads each is about so long."""
PROBE_SECONDS: Final = 2.0
"""How long a server may take to say what it is, while one is looked for."""
BACKLOG_PAUSE: Final = 0.005
"""A unix socket whose backlog is full refuses at once, and no descriptor tells when to come again."""


@dataclass(frozen=True, slots=True)
class Live:
    """One running server."""

    pid: int
    path: str
    """Of its control socket."""
    app: str
    """Empty where it has not answered."""


def call(path: str, command: str, timeout: float, **arguments: object) -> Generator[dict[str, Any], None, None]:
    """Send one command to the control socket at ``path`` and yield each answer, until the server closes.

    ``timeout`` is in seconds, for all of it. Raises ConfigError where no server is there, or none that may be asked;
    TimeoutError; PeerClosed where it ended within an answer.
    """
    deadline = time.monotonic() + timeout
    request = json.dumps({"command": command, **arguments}).encode() + b"\n"
    with contextlib.closing(connect(path, deadline)) as sock:
        send(sock, request, deadline, path)
        held = bytearray()
        while data := receive(sock, deadline, path):
            seen = len(held)
            held += data
            while (end := held.find(b"\n", seen)) >= 0:
                yield parse(bytes(held[:end]), path)
                del held[: end + 1]
                seen = 0
            if len(held) > ANSWER_BYTES:
                raise stranger(path)
        if held:
            raise PeerClosed(f"the server at {path} ended in the middle of an answer")


def find(runtime: str | None, pid: int | None = None) -> str:
    """Return the path of the control socket of our user's one running server, or of the one with this pid.

    ``runtime`` is the user's runtime directory, if there is one. Raises ConfigError, which names all there are.
    """
    found = live_servers(runtime, pid)
    if len(found) == 1:
        return found[0].path
    if found:
        those = ", ".join(f"{one.pid} ({one.app or 'does not answer'})" for one in found)
        raise ConfigError(f"several servers are running: {those}; choose one with --pid PID or --control PATH")
    who = f"no server with the pid {pid} is running" if pid is not None else "no server is running"
    raise ConfigError(
        f"{who} for this user, as far as their control sockets tell; "
        "where it was given a socket, name that with --control PATH, or its file with --config FILE"
    )


def live_servers(runtime: str | None, pid: int | None = None) -> list[Live]:
    """Return our user's running servers, or those with this pid, as far as their sockets have the default names."""
    found: list[Live] = []
    for directory in filter(is_private, search_directories(runtime)):
        names = [match for name in os.listdir(directory) if (match := NAME.fullmatch(name)) is not None]
        for match in sorted(names, key=lambda match: int(match[1])):
            if pid is None or int(match[1]) == pid:
                found += probe(int(match[1]), f"{directory}/{match[0]}")
    return found


def probe(pid: int, path: str) -> list[Live]:
    """Return the server at ``path``, if one lives there."""
    try:
        with contextlib.closing(call(path, "status", PROBE_SECONDS)) as answers:
            answer = next(answers, {})
    except (ConfigError, PeerClosed):
        return []
    except TimeoutError:
        return [Live(pid, path, "")]
    status = answer.get("status")
    return [Live(pid, path, str(status.get("app", "")) if isinstance(status, dict) else "")]


def connect(path: str, deadline: float) -> socket.socket:
    """Connect to a unix socket."""
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(left(deadline, path))
            sock.connect(path)
        except BlockingIOError:
            sock.close()
            time.sleep(BACKLOG_PAUSE)
        except OSError as error:
            sock.close()
            if isinstance(error, TimeoutError):
                raise late(path) from None
            raise absent(path, error) from error
        else:
            return sock


def absent(path: str, error: OSError) -> ConfigError:
    """Why nobody can be asked at ``path``."""
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return ConfigError(f"no server is listening on the control socket {path}; is it running?")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(f"the control socket {path} is another user's: ask as that user, or as root")
    return ConfigError(f"{path} is no control socket: {error.strerror or error}")


def send(sock: socket.socket, data: bytes, deadline: float, path: str) -> None:
    """Send all, or as much as the server takes before it refuses."""
    sock.settimeout(left(deadline, path))
    try:
        sock.sendall(data)
    except TimeoutError:
        raise late(path) from None
    except ConnectionError:  # its reason is there to be read
        pass


def receive(sock: socket.socket, deadline: float, path: str) -> bytes:
    """Return what comes next, b"" at the end."""
    sock.settimeout(left(deadline, path))
    try:
        return sock.recv(READ_SIZE)
    except TimeoutError:
        raise late(path) from None
    except ConnectionError:  # it has closed without having read all
        return b""


def left(deadline: float, path: str) -> float:
    """Return the seconds until the deadline; raises TimeoutError past it."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise late(path)
    return seconds


def late(path: str) -> TimeoutError:
    """What is said past the deadline."""
    return TimeoutError(f"the server at {path} has not answered in time")


def parse(line: bytes, path: str) -> dict[str, Any]:
    """Return one answer."""
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or not isinstance(table.get("ok"), bool):
        raise stranger(path)
    return table


def stranger(path: str) -> ConfigError:
    """Somebody else lives there."""
    return ConfigError(f"what answers on {path} is no gateways server")
