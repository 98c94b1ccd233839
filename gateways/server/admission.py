"""Who may connect: by TCP from which addresses, by unix socket as which users. Asked right after the accept.

--allow-from holds for every TCP connection. FCGI_WEB_SERVER_ADDRS (FastCGI 1.0 section 3.2) holds beside it for those
that speak FastCGI: on an ``auto`` listener as soon as that is known. --allow-user holds for unix sockets, and whoever
is not in it is refused, root and the server's own user too. It is always the address or the user at the other end of
the socket that counts, never what a PROXY header claims.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

from gateways.errors import ConfigError
from gateways.server.privileges import user_id

if TYPE_CHECKING:
    from gateways.server.pool import Pool

__all__ = ["WEB_SERVERS", "Accepted", "Admission", "Network", "Networks", "guarded"]

Network: TypeAlias = IPv4Network | IPv6Network
Accepted: TypeAlias = tuple[int, object]
"""A new socket's descriptor and its peer, as ``socket._accept`` returns them."""

WEB_SERVERS: Final = "FCGI_WEB_SERVER_ADDRS"
_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2
_QUIET: Final = 1.0  # seconds from one line about refused peers to the next
_UCRED: Final = struct.Struct("iII")  # pid, uid, gid (unix(7), SO_PEERCRED)


class Networks:
    """Some networks, kept as numbers. IPv4-mapped IPv6 addresses count as IPv4, also in the networks themselves."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._four: list[tuple[int, int]] = []
        """Mask and network."""
        self._six: list[tuple[int, int]] = []
        for network in networks:
            mask, number = int(network.netmask), int(network.network_address)
            if isinstance(network, IPv4Network):
                self._four.append((mask, number))
            elif network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
                self._four.append((mask & 0xFFFFFFFF, number & 0xFFFFFFFF))
            else:
                self._six.append((mask, number))

    def __bool__(self) -> bool:
        return bool(self._four or self._six)

    def have(self, peer: object) -> bool:
        """Whether a peer, as accept() tells it, has one of these addresses; a unix socket's never has."""
        host = peer[0] if isinstance(peer, tuple) else None
        if not isinstance(host, str):
            return False
        try:
            if ":" not in host:
                return _within(socket.inet_pton(socket.AF_INET, host), self._four)
            packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])  # less the zone (RFC 4007 section 11)
        except OSError:
            return False
        if packed.startswith(_MAPPED):
            return _within(packed[12:], self._four)
        return _within(packed, self._six)


def _within(packed: bytes, networks: list[tuple[int, int]]) -> bool:
    number = int.from_bytes(packed, "big")
    for mask, network in networks:  # noqa: SIM110  (any() would cost a generator)
        if number & mask == network:
            return True
    return False


class Admission:
    """Who may connect to a server, one for all its listeners; what is empty allows everybody.

    ``allow_user`` are names or numbers; ``web_servers`` is FCGI_WEB_SERVER_ADDRS, addresses between commas. Raises
    ConfigError for a user whom the machine does not know, a bad address, and where the system tells no users.
    """

    rest_after: float = 3.0
    """Seconds after which those that no line tells of are told, where nobody has come since."""

    def __init__(
        self, allow_from: Iterable[Network] = (), allow_user: Iterable[str] = (), web_servers: str = ""
    ) -> None:
        self._allow_from = Networks(allow_from)
        self._web_servers = Networks(_addresses(web_servers))
        self._users = frozenset(user_id(name, "--allow-user") for name in allow_user)
        if self._users and sys.platform != "linux":
            raise ConfigError("--allow-user needs SO_PEERCRED, which is Linux's; leave it away and use --socket-mode")
        self._quiet_until = float("-inf")
        self._unsaid = 0
        """Refused peers that no line tells of."""
        self._lock = threading.Lock()

    def concerns(self, family: int, protocol: str) -> bool:
        """Whether anybody may be refused right after the accept, on a listener of ``family`` and ``protocol``."""
        if family == socket.AF_UNIX:
            return bool(self._users)
        return bool(self._allow_from or (protocol == "fastcgi" and self._web_servers))

    def admits(self, pool: Pool, protocol: str, fd: int, peer: object) -> bool:
        """Whether the peer of a socket just accepted may stay. It is closed by the caller, and logged here."""
        if not isinstance(peer, tuple):
            if self._users:
                uid = _peer_uid(fd)
                if uid not in self._users:
                    self._refused(pool, protocol, f"unix (uid {uid})", "none of --allow-user")
                    return False
        elif self._allow_from and not self._allow_from.have(peer):
            self._refused(pool, protocol, f"{peer[0]}:{peer[1]}", "its address is not in --allow-from")
            return False
        elif protocol == "fastcgi" and self._web_servers and not self._web_servers.have(peer):
            self._refused(pool, protocol, f"{peer[0]}:{peer[1]}", f"its address is not in {WEB_SERVERS}")
            return False
        return True

    def admits_fastcgi(self, pool: Pool, fd: int) -> bool:
        """Whether the peer of a socket may stay now that it is known to speak FastCGI. Close and log as ``admits``."""
        if not self._web_servers:
            return True
        sock = socket.socket(fileno=fd)
        try:
            peer = sock.getpeername()
        except OSError:  # it has reset the connection: there is nobody left to serve
            return False
        finally:
            sock.detach()
        return not isinstance(peer, tuple) or self.admits(pool, "fastcgi", fd, peer)

    def _refused(self, pool: Pool, protocol: str, peer: str, reason: str) -> None:
        """Write a line, one a second at most: whoever floods the listener shall not flood the log."""
        now = pool.clock()
        with self._lock:
            if now < self._quiet_until:
                self._unsaid += 1
                if self._unsaid == 1:
                    timer = threading.Timer(self.rest_after, self._tell_rest, (pool, protocol))
                    timer.daemon = True
                    timer.start()
                return
            more, self._unsaid = self._unsaid, 0
            self._quiet_until = now + _QUIET
        pool.log.refused(protocol, peer, f"{reason} ({more} more since the last such line)" if more else reason)

    def _tell_rest(self, pool: Pool, protocol: str) -> None:
        """Tell of those whom no line has told of, if it is still so."""
        with self._lock:
            more, self._unsaid = self._unsaid, 0
        if more:
            pool.log.refused(protocol, "others", f"{more} more since the last such line")


def guarded(accept: Callable[[], Accepted], admission: Admission, pool: Pool, protocol: str) -> Callable[[], Accepted]:
    """Return ``accept`` for admitted peers only: the others are closed, as if they had gone away while they waited."""

    def accept_admitted() -> Accepted:
        fd, peer = accept()
        admitted = False
        try:
            admitted = admission.admits(pool, protocol, fd, peer)
        finally:
            if not admitted:
                os.close(fd)
        if not admitted:
            raise ConnectionAbortedError(errno.ECONNABORTED, "not admitted")
        return fd, peer

    return accept_admitted


def _peer_uid(fd: int) -> int:
    """Return the user id that the peer of a unix socket had when it connected."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)  # so told, it is not asked for
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    finally:
        sock.detach()
    uid: int = _UCRED.unpack(credentials)[1]
    return uid


def _addresses(text: str) -> Iterable[Network]:
    """Read FCGI_WEB_SERVER_ADDRS. IPv6 addresses are taken too, as php-fpm does; an empty text is no list."""
    for word in text.split(",") if text.strip() else ():
        try:
            yield ip_network(ip_address(word.strip()))
        except ValueError:
            raise ConfigError(
                f"{WEB_SERVERS}: {word.strip()!r} is no IP address; write addresses between commas, as in "
                "192.0.2.7,192.0.2.8, or unset it and use --allow-from"
            ) from None
