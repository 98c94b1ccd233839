"""What a master hands to the program that takes its place in the same process (execve): sockets, workers, counters.

The descriptors stay open across the exec under their numbers, and a text in the environment tells which is which. The
workers are its children before and after.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from typing import Final

__all__ = ["VARIABLE", "Handed", "HandedListener", "HandedWorker"]

VARIABLE: Final = "GATEWAYS_HANDOVER"
_VERSION: Final = 1
_MOST: Final = 0x7FFFFFFF  # a C int


@dataclass(frozen=True, slots=True)
class HandedListener:
    """One listening socket."""

    protocol: str
    address: str
    """As in the settings."""
    fd: int
    path: str = ""
    """Of a unix socket that the first master has made, absolute."""
    created: tuple[int, int] = (0, 0)
    """Its device and inode."""


@dataclass(frozen=True, slots=True)
class HandedWorker:
    """One worker: of the old code, and it serves until the new ones are ready."""

    pid: int
    control: int
    """The master's end of the control socket."""
    born: float
    retiring: bool


@dataclass(frozen=True, slots=True)
class Handed:
    """All of it."""

    listeners: tuple[HandedListener, ...]
    workers: tuple[HandedWorker, ...]
    generation: int
    started: float
    """When the first master began, in seconds since 1970."""
    reloads: int
    wanted: int
    """Workers, where somebody has asked for another number than the settings'; else 0."""
    others: dict[str, int]
    """Name -> descriptor of the control socket and log files; and the watcher's process id."""
    asking: tuple[int, ...] = ()
    """Descriptors of those that have asked for a reload by the control socket, and wait for its end."""

    def fds(self) -> list[int]:
        """Return every descriptor in it."""
        fds = [entry.fd for entry in self.listeners] + [worker.control for worker in self.workers]
        fds += self.asking
        return fds + [fd for name, fd in self.others.items() if name != "watcher"]

    def text(self) -> str:
        """Return it for the environment; every descriptor in it survives the exec."""
        for fd in self.fds():
            os.set_inheritable(fd, True)
        return json.dumps({"version": _VERSION, **asdict(self)})

    def keep(self) -> None:
        """Have the descriptors end with this program, where they are still open."""
        for fd in self.fds():
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)

    @classmethod
    def read(cls, text: str) -> Handed:
        """Take it over; raises ValueError where the text is another program's or version's."""
        try:
            handed = _parsed(text)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{VARIABLE} holds nothing that this version understands: {error}") from None
        handed.keep()
        return handed


def _parsed(text: str) -> Handed:
    table = json.loads(text)
    if table.pop("version") != _VERSION:
        raise ValueError("another version")
    table["listeners"] = tuple(
        HandedListener(**{**entry, "created": tuple(entry["created"])}) for entry in table["listeners"]
    )
    table["workers"] = tuple(HandedWorker(**entry) for entry in table["workers"])
    table["asking"] = tuple(table["asking"])
    handed = Handed(**table)
    if not all(type(fd) is int and 0 <= fd <= _MOST for fd in handed.fds()):
        raise ValueError("a descriptor that cannot be one")
    return handed


def listener_of(entry: HandedListener) -> socket.socket:
    """Return the socket of a handed listener; raises OSError."""
    sock = socket.socket(fileno=entry.fd)
    sock.setblocking(False)
    return sock
