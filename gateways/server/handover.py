"""What a master hands to the program that takes its place in the same process (execve): sockets, workers, counters.

The descriptors stay open across the exec under their numbers, and a text in the environment tells which is which. The
workers are its children before and after.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

__all__ = ["GONE", "VARIABLE", "Handed", "HandedListener", "HandedWorker"]

VARIABLE: Final = "GATEWAYS_HANDOVER"
GONE: Final = -1
"""In the place of a descriptor."""
_VERSION: Final = 1
_WATCHER: Final = "watcher"  # of the others
_MOST: Final = 0x7FFFFFFF  # a C int
_EXACT: Final = 1 << 53  # the whole numbers that a float can tell from each other
_KINDS: Final[dict[str, tuple[type, ...]]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}


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
    """The master's end of the control socket; -1 for one that has closed its own, or was killed: it is to be buried."""
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
    paths: dict[str, str] = field(default_factory=dict)
    """Name -> path, as in the settings, of the log files, the control socket ("" is the default) and the pid file."""
    counts: dict[str, Any] = field(default_factory=dict)
    """What has been counted, in the words of the status document; ``counts`` knows them."""

    def fds(self) -> list[int]:
        """Return every descriptor in it."""
        fds = [entry.fd for entry in self.listeners]
        fds += [worker.control for worker in self.workers if worker.control != GONE]
        fds += self.asking
        return fds + [fd for name, fd in self.others.items() if name != _WATCHER]

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
        except (KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{VARIABLE} holds nothing that this version understands") from None
        except ValueError as error:
            raise ValueError(f"{VARIABLE} holds nothing that this version understands: {error}") from None
        handed.keep()
        return handed

    def examine(self) -> None:
        """Raise ValueError where something in it is not what this process has got from the program before."""
        sockets = [entry.fd for entry in self.listeners]
        if "control" in self.others:
            sockets.append(self.others["control"])
        for fd in sockets:
            if not _listens(fd):
                raise ValueError(f"{VARIABLE} names descriptor {fd}, which is not a socket that listens")
        channels = [worker.control for worker in self.workers if worker.control != GONE]
        for fd in (*channels, *self.asking):
            if not _is_unix_socket(fd):
                raise ValueError(f"{VARIABLE} names descriptor {fd}, which is not a unix socket")
        for fd in self.fds():
            if not _is_open(fd):
                raise ValueError(f"{VARIABLE} names descriptor {fd}, which is not open")
        if len(set(self.fds())) != len(self.fds()):
            raise ValueError(f"{VARIABLE} names a descriptor twice")
        for pid in [worker.pid for worker in self.workers] + [self.others.get(_WATCHER, 0)]:
            if pid and not _is_child(pid):
                raise ValueError(f"{VARIABLE} names process {pid}, which is not a child of this one")


def _parsed(text: str) -> Handed:
    table = json.loads(text)
    if table.pop("version") != _VERSION:
        raise ValueError("another version")
    table["listeners"] = tuple(
        HandedListener(**{**entry, "created": tuple(entry["created"])}) for entry in table["listeners"]
    )
    table["workers"] = tuple(HandedWorker(**entry) for entry in table["workers"])
    table["asking"] = tuple(table["asking"])
    for name in ("paths", "counts"):  # which the first programs of this version did not have
        table[name] = dict(table.get(name, {}))
    handed = Handed(**table)
    records: list[Handed | HandedListener | HandedWorker] = [handed, *handed.listeners, *handed.workers]
    for record in records:
        _check_kinds(record)
    if not all(type(fd) is int and 0 <= fd <= _MOST for fd in handed.fds()):
        raise ValueError("a descriptor that cannot be one")
    numbers = (
        handed.generation,
        handed.started,
        handed.reloads,
        handed.wanted,
        *(each.born for each in handed.workers),
    )
    if not all(0 <= number < _EXACT for number in numbers):
        raise ValueError("a number out of its range")
    pids = [worker.pid for worker in handed.workers]
    if not all(type(pid) is int and 0 < pid <= _MOST for pid in [*pids, handed.others.get(_WATCHER, 1)]):
        raise ValueError("a process that cannot be one")
    if len(set(pids)) != len(pids):
        raise ValueError("a process that is there twice")
    if not all(type(path) is str for path in handed.paths.values()):
        raise ValueError("a path that cannot be one")
    for entry in handed.listeners:
        if "\0" in entry.path or [type(part) for part in entry.created] != [int, int]:
            raise ValueError("a path that cannot be one")
    return handed


def _check_kinds(record: Handed | HandedListener | HandedWorker) -> None:
    """Raise ValueError for a plain field that is of another type than it was declared."""
    for each in fields(record):
        kinds = _KINDS.get(str(each.type))
        if kinds is not None and type(getattr(record, each.name)) not in kinds:
            raise ValueError(f"{each.name} should be {each.type}")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _listens(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    sock.detach()
    return listens


def _is_unix_socket(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    family = sock.family
    sock.detach()
    return family == socket.AF_UNIX


def _is_child(pid: int) -> bool:
    """Whether it is ours to wait for; macOS cannot tell without burying it."""
    if not hasattr(os, "waitid"):
        return True
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
