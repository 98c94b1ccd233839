"""Listening sockets of the program before this one, each for whichever listener of the new settings means it.

A socket is known by where it really listens: the settings may say that in other words now, or name another protocol.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator

from gateways.errors import ConfigError
from gateways.server.address import Address
from gateways.server.handover import HandedListener
from gateways.server.sockets import UnixListener, candidates, identity

__all__ = ["Adoption"]


class Adoption:
    """The sockets that have been handed over, less those that were taken. Whoever takes one closes it."""

    def __init__(self, entries: Iterable[HandedListener]) -> None:
        self._left = [(entry, _socket(entry)) for entry in entries]

    def take(self, protocol: str, address: Address) -> socket.socket | None:
        """Return the socket that listens on ``address``, by preference one that did so for ``protocol``."""
        fitting = [place for place, (entry, sock) in enumerate(self._left) if _is_at(entry, sock, address)]
        if not fitting:
            return None
        text = str(address)

        def strangeness(place: int) -> tuple[bool, bool]:
            entry, _ = self._left[place]
            return entry.address != text, entry.protocol != protocol

        return self._left.pop(min(fitting, key=strangeness))[1]

    def rest(self) -> Iterator[tuple[str, str, socket.socket]]:
        """Take what is left: protocol and address as in the settings before, and the socket."""
        while self._left:
            entry, sock = self._left.pop(0)
            yield entry.protocol, entry.address, sock


def _socket(entry: HandedListener) -> socket.socket:
    if not entry.path:
        sock = socket.socket(fileno=entry.fd)
    else:
        sock = UnixListener(fileno=entry.fd)
        sock.path = entry.path
        sock.created = entry.created
        sock.maker = os.getpid()
    sock.setblocking(False)
    return sock


def _is_at(entry: HandedListener, sock: socket.socket, address: Address) -> bool:
    """Whether whoever connects to ``address`` comes to this socket."""
    same_text = entry.address == str(address)
    if address.kind == "unix":
        return _is_at_path(entry, sock, address.path, same_text=same_text)
    if same_text:
        return True
    if address.kind == "tcp":
        return _is_at_port(sock, address)
    if address.kind == "abstract":
        return sock.family == socket.AF_UNIX and sock.getsockname() == b"\0" + os.fsencode(address.path)
    return entry.fd == address.fd


def _is_at_path(entry: HandedListener, sock: socket.socket, path: str, *, same_text: bool) -> bool:
    """A path that is gone, or leads to something else by now, is one at which nobody comes to the socket."""
    if sock.family != socket.AF_UNIX:
        return False
    name = sock.getsockname()
    try:
        made = entry.created if entry.path else identity(name) if isinstance(name, str) and name else None
        return identity(path) == made
    except PermissionError:  # privileges have been dropped since
        return same_text
    except OSError:
        return False


def _is_at_port(sock: socket.socket, address: Address) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        family, name = candidates(address)[0]
    except (ConfigError, IndexError):
        return False
    if family != sock.family or (*name, 0, 0)[:4] != (*sock.getsockname(), 0, 0)[:4]:  # flow and scope may be left away
        return False
    # Without a host it is both families (sockets.listen_tcp).
    return sock.family == socket.AF_INET or bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)) == bool(
        address.host
    )
