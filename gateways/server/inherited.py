"""Listening sockets that this process was started with: from systemd, or as descriptor 0 from a FastCGI manager.

``passed`` only looks: what it finds are addresses ``fd:N`` that ``sockets.bind`` adopts.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Final

from gateways.errors import ConfigError
from gateways.server.address import Address

__all__ = [
    "MASTER_ONLY",
    "empty_stdin",
    "erase_secret",
    "fill_streams",
    "is_listening",
    "meant",
    "passed",
    "take_variables",
]

FIRST: Final = 3  # SD_LISTEN_FDS_START
MASTER_ONLY: Final = (
    *("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"),  # sd_listen_fds(3)
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),  # sd_notify(3), sd_watchdog_enabled(3)
    "GATEWAYS_SECRET",
)
"""Variables that are none of the application's business, nor of the programs that it starts."""
_SECRET: Final = b"\0GATEWAYS_SECRET="
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def is_listening(fd: int) -> bool:
    """The descriptor is a stream socket that listens, by TCP or on a unix socket."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    stream = sock.type == socket.SOCK_STREAM and sock.family in FAMILIES
    listens = stream and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    sock.detach()
    return listens


def passed(
    environ: Mapping[str, str], pid: int, protocols: Sequence[str], listens: Callable[[int], bool] = is_listening
) -> list[tuple[str, Address]]:
    """Protocol and address of each socket that was passed; raises ConfigError for one that cannot be served.

    systemd's sockets (sd_listen_fds(3)) come first; each name tells the protocol. Where there are none, a descriptor 0
    that listens is FastCGI's (FastCGI 1.0, section 2.2: FCGI_LISTENSOCK_FILENO).
    """
    found = from_systemd(environ, pid, protocols, listens)
    if not found and listens(0):
        return [("fastcgi", Address("fd", fd=0))]
    return found


def from_systemd(
    environ: Mapping[str, str], pid: int, protocols: Sequence[str], listens: Callable[[int], bool]
) -> list[tuple[str, Address]]:
    """The sockets of LISTEN_FDS, where they are meant for this process."""
    if environ.get("LISTEN_PID") != str(pid):  # another process's, which started us without a thought for them
        return []
    count = descriptors(environ.get("LISTEN_FDS", "0"))
    names = environ["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environ else []
    if names and len(names) != count:
        raise ConfigError(
            f"LISTEN_FDS promises {count} sockets and LISTEN_FDNAMES has {len(names)} names; "
            "unset both, or leave them to systemd"
        )
    found: list[tuple[str, Address]] = []
    for place in range(count):
        fd = FIRST + place
        name = names[place] if names else ""
        if not listens(fd):
            raise ConfigError(
                f"systemd has passed descriptor {fd}{called(name)}, and it is not a stream socket that listens; its "
                "socket unit needs ListenStream=, and no Accept=yes"
            )
        found.append((protocol_of(name, fd, protocols), Address("fd", fd=fd)))
    return found


def descriptors(text: str) -> int:
    """The number in LISTEN_FDS."""
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII):
        raise ConfigError(f"LISTEN_FDS is {text!r} and should be how many sockets systemd has passed; unset it")
    return int(text)


def protocol_of(name: str, fd: int, protocols: Sequence[str]) -> str:
    """The protocol that a socket's name tells: the name up to its first dash or dot.

    So ``fastcgi``, ``scgi-internal`` and ``http.socket``. Any other name is refused: with ``auto`` in its place a
    mistyped name would also serve HTTP where nobody meant it, and go unnoticed.
    """
    word = re.split(r"[-.]", name, maxsplit=1)[0]
    if word not in protocols:
        raise ConfigError(
            f"systemd has passed descriptor {fd}{called(name)}, and a socket's name must tell its protocol: write "
            f"FileDescriptorName=fastcgi (or {', '.join(p for p in protocols if p != 'fastcgi')}) into its socket "
            f"unit, or give gateways --fastcgi fd:{fd}"
        )
    return word


def called(name: str) -> str:
    """How a sentence goes on about a descriptor."""
    return f", called {name!r}" if name else " without a name"


def meant(
    environ: Mapping[str, str], pid: int, listeners: Sequence[tuple[str, Address]]
) -> tuple[list[tuple[str, Address]], list[str]]:
    """The listeners, those that a passed socket already listens for as its ``fd:N``; and in words what none means.

    So a unit may pass the sockets that the server's configuration names. Nothing is refused here.
    """
    at = passed_at(environ, pid)
    found = [(protocol, at.pop(place(address), address)) for protocol, address in listeners]
    taken = [address for _, address in found]
    return found, [f"{address} ({where})" for where, address in at.items() if address not in taken]


def passed_at(environ: Mapping[str, str], pid: int) -> dict[str, Address]:
    """Where each passed socket listens, as ``place`` has it -> its address."""
    text = environ.get("LISTEN_FDS", "0") if environ.get("LISTEN_PID") == str(pid) else "0"
    count = int(text) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) else 0
    found: dict[str, Address] = {}
    for fd in range(FIRST, FIRST + count) if count else (0,):
        if is_listening(fd):
            sock = socket.socket(fileno=fd)
            name = sock.getsockname()
            sock.detach()
            if isinstance(name, tuple):
                found[str(Address("tcp", "" if name[0] == "::" else name[0], name[1]))] = Address("fd", fd=fd)
            else:
                found[f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else name] = Address("fd", fd=fd)
    return found


def place(address: Address) -> str:
    """The text of an address, the same for all ways of writing it."""
    if address.kind == "unix":
        return os.path.abspath(address.path)
    return str(address).replace("localhost", "127.0.0.1") if address.kind == "tcp" else str(address)


# For the processes of the server


def fill_streams() -> None:
    """Open /dev/null where a descriptor from 0 to 2 is closed, as section 2.2 allows.

    Else a socket would get the number, and read what some library prints to stderr.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            else:
                os.set_inheritable(fd, True)


def take_variables(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Remove MASTER_ONLY from ``environ``, and return what was there: a program that takes our place needs it again."""
    return {name: environ.pop(name) for name in MASTER_ONLY if name in environ}


def erase_secret() -> None:
    """Overwrite GATEWAYS_SECRET in the memory that /proc/self/environ shows, where the system has that.

    To be called when it has been taken out of ``os.environ``: nothing points there any more.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            data = b"\0" + file.read()
        at = data.find(_SECRET)
        with open("/proc/self/stat", "rb") as file:
            start = int(file.read().rpartition(b")")[2].split()[47])  # env_start (proc(5))
        if at < 0 or not start:
            return
        begin = at + len(_SECRET)
        length = data.find(b"\0", begin) - begin
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start + begin - 1)
            if length > 0 and memory.read(length) == data[begin : begin + length]:
                memory.seek(start + begin - 1)
                memory.write(bytes(length))
    except (OSError, ValueError, IndexError):  # another system, or none of our memory
        return


def empty_stdin() -> None:
    """Put /dev/null in the place of a descriptor 0 that listens.

    A program that the application starts would inherit it, and take itself for a FastCGI application (section 2.2).
    """
    if is_listening(0):
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
