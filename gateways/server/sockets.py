"""From an Address to a listening socket, and its removal; knows nothing of protocols, workers or settings.

Every failure that a person can mend is a ConfigError whose sentence says how.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

from gateways.errors import ConfigError
from gateways.server.address import Address

__all__ = ["UnixListener", "bind", "cleanup", "examine", "examine_directory"]

PATH_BYTES: Final = 107 if sys.platform == "linux" else 103
"""sun_path without its NUL: 108 bytes on Linux (unix(7)), 104 on the BSDs and macOS."""
UNPRIVILEGED_PORT: Final = 1024
HIGHEST_ID: Final = 2**32 - 2  # the next one is -1, which chown(2) takes for "leave it as it is"
Name: TypeAlias = tuple[Any, ...]
"""A socket name as getaddrinfo gives it: (address, port) or (address, port, flow, scope)."""
Candidate: TypeAlias = tuple[socket.AddressFamily, Name]
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class UnixListener(socket.socket):
    """A unix socket whose path we made, with what tells that path from a later one of the same name."""

    __slots__ = ("created", "maker", "path")

    path: str
    """Absolute, since the process may change its directory before it cleans up."""
    created: tuple[int, int]
    """Device and inode of the path."""
    maker: int
    """The process that made it: a forked worker must not remove it."""


def bind(address: Address, *, backlog: int, mode: int, owner: str) -> socket.socket:
    """Open a listening socket, non-blocking and closed on exec.

    ``mode`` and ``owner`` ("user", "user:group", ":group", or "" for ours) are for unix paths. Raises ConfigError.
    """
    if address.kind == "tcp":
        return bind_tcp(address, backlog)
    if address.kind == "unix":
        return bind_unix(address, backlog, mode, owner)
    if address.kind == "abstract":
        return bind_abstract(address, backlog)
    return adopt(address)


def examine(addresses: Iterable[Address], owner: str) -> None:
    """Raise ConfigError for what ``bind`` would refuse on any day, without touching anything."""
    for address in addresses:
        if address.kind in ("unix", "abstract"):
            check_length(address)
        if address.kind == "unix":
            owner_ids(owner)


def examine_directory(address: Address, start: str) -> None:
    """Raise ConfigError, as ``bind`` in the directory ``start`` would, where the socket's path cannot be made today."""
    path = os.path.join(start, address.path)
    directory = os.path.dirname(path)
    try:
        if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise no_socket(address)
        if not os.path.isdir(directory):
            os.stat(directory)
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unix_refusal(address, error) from error


def cleanup(listeners: Iterable[socket.socket]) -> None:
    """Remove the unix paths that this process made, each only while it is still the file that we made."""
    for listener in listeners:
        if not isinstance(listener, UnixListener) or listener.maker != os.getpid():
            continue
        with contextlib.suppress(OSError):
            if identity(listener.path) == listener.created:
                Path(listener.path).unlink()


# TCP


def bind_tcp(address: Address, backlog: int) -> socket.socket:
    """Listen on the first usable address of the host, IPv4 before IPv6; without a host, on all of both."""
    failure: OSError | None = None
    for family, name in candidates(address):
        try:
            return listen_tcp(family, name, backlog, dual=not address.host)
        except OSError as error:
            failure = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    raise tcp_refusal(address, failure) from failure


def candidates(address: Address) -> list[Candidate]:
    """The families and socket names to try in turn."""
    if not address.host:
        every: list[Candidate] = [(socket.AF_INET, ("0.0.0.0", address.port))]  # noqa: S104 - what :PORT means
        return [(socket.AF_INET6, ("::", address.port)), *every] if socket.has_dualstack_ipv6() else every
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"cannot listen on {address}: the host name {address.host!r} does not resolve ({reason}); "
            f"use an IP address, or :{address.port} for every interface"
        ) from error
    usable: list[Candidate] = [(family, name) for family, _, _, _, name in found]
    return sorted(usable, key=lambda pair: FAMILIES.index(pair[0]))


def listen_tcp(family: socket.AddressFamily, name: Name, backlog: int, *, dual: bool) -> socket.socket:
    """One listening TCP socket; raises OSError."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        no_delay(listener)
        listener.bind(name)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def no_delay(listener: socket.socket) -> None:
    """Accepted sockets inherit the option on Linux, which saves a system call on each connection."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def tcp_refusal(address: Address, error: OSError | None) -> ConfigError:
    """What went wrong with a TCP address and what to do about it."""
    number = error.errno if error is not None else None
    if number == errno.EADDRINUSE:
        return ConfigError(
            f"cannot listen on {address}: the port is in use; stop the process that has it "
            f"('ss -ltnp sport = :{address.port}' shows it) or choose another port"
        )
    if number in (errno.EACCES, errno.EPERM) and 0 < address.port < UNPRIVILEGED_PORT:
        return ConfigError(
            f"cannot listen on {address}: ports below {UNPRIVILEGED_PORT} are for root or CAP_NET_BIND_SERVICE; "
            "choose a higher port and let the web server take this one"
        )
    if number == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"cannot listen on {address}: no interface of this machine has the address {address.host}; "
            f"use 127.0.0.1:{address.port}, or :{address.port} for every interface"
        )
    reason = error.strerror if error is not None else "the host has no IPv4 or IPv6 address"
    return ConfigError(f"cannot listen on {address}: {reason}; choose another address")


# Unix sockets


def bind_unix(address: Address, backlog: int, mode: int, owner: str) -> UnixListener:
    """Make the path, give it its owner, then listen: until then no one can connect (connect(2): ECONNREFUSED).

    Whoever owns the directory can put a symbolic link in the place of the path meanwhile; nothing here follows it.
    """
    check_length(address)
    user, group = owner_ids(owner)
    listener = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    made = False
    try:
        bind_path(listener, address, mode)
        made = True
        if owner:
            give(address, user, group, owner)
        set_mode(address.path, mode)
        listener.path = str(Path(address.path).absolute())
        listener.created = identity(listener.path)
        listener.maker = os.getpid()
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException as error:
        listener.close()
        if made:
            with contextlib.suppress(OSError):
                Path(address.path).unlink()
        if isinstance(error, OSError):
            raise unix_refusal(address, error) from error
        raise
    return listener


def bind_path(listener: socket.socket, address: Address, mode: int) -> None:
    """Bind to the path, which is made with ``mode``, in the place of a stale socket if there is one."""
    try:
        bind_with(listener, address.path, mode)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    else:
        return
    remove_stale(address)
    bind_with(listener, address.path, mode)


def bind_with(listener: socket.socket, path: str, mode: int) -> None:
    """The mode is what the umask leaves of 0777, and the umask is the process's: no other thread may make files now."""
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(path)
    finally:
        os.umask(before)


def set_mode(path: str, mode: int) -> None:
    """Undo what a default ACL of the directory has masked (acl(5)); chmod(2) alone would follow a symbolic link."""
    if sys.platform != "linux" or stat.S_IMODE(os.lstat(path).st_mode) == mode:
        return
    pin = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if stat.S_ISSOCK(os.fstat(pin).st_mode):
            os.chmod(f"/proc/self/fd/{pin}", mode)
    finally:
        os.close(pin)


def no_socket(address: Address) -> ConfigError:
    """What is said where the path of a socket is that of something else."""
    return ConfigError(
        f"cannot listen on {address}: the path exists and is not a socket; "
        "remove it yourself if it is not needed, or choose another path"
    )


def remove_stale(address: Address) -> None:
    """Remove a socket on which no one listens; ConfigError for anything else."""
    try:
        found = os.lstat(address.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise no_socket(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        number = probe.connect_ex(address.path)
    if number == errno.ENOENT:
        return
    if number in (errno.EACCES, errno.EPERM):
        raise ConfigError(
            f"cannot listen on {address}: a socket of another user is there; remove it, or choose another path"
        )
    # A full backlog is EAGAIN and a datagram socket EPROTOTYPE: both have an owner that lives.
    if number != errno.ECONNREFUSED:
        raise ConfigError(
            f"another process is listening on {address}; stop it ('ss -lxp' shows it) or choose another path"
        )
    if identity(address.path) == (found.st_dev, found.st_ino):
        Path(address.path).unlink()


def identity(path: str) -> tuple[int, int]:
    """Device and inode of ``path`` itself."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def owner_ids(owner: str) -> tuple[int, int]:
    """Numbers of "user", "user:group" or ":group"; -1 is for leaving it as it is, as in chown(2)."""
    user, colon, group = owner.partition(":")
    if colon and not group:
        raise ConfigError(f"the socket owner {owner!r} ends in a colon; write USER, USER:GROUP or :GROUP")
    return user_id(user, owner), group_id(group, owner)


def user_id(name: str, owner: str) -> int:
    """The uid of a name or number; -1 for none."""
    if not name:
        return -1
    if name.isascii() and name.isdigit():
        return number_of(name, owner)
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: a NUL, or what the system's encoding has not
        raise ConfigError(
            f"the socket owner {owner!r} names the user {name!r}, whom this machine does not know; "
            "write USER, USER:GROUP or :GROUP"
        ) from None


def group_id(name: str, owner: str) -> int:
    """The gid of a name or number; -1 for none."""
    if not name:
        return -1
    if name.isascii() and name.isdigit():
        return number_of(name, owner)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):  # as above
        raise ConfigError(
            f"the socket owner {owner!r} names the group {name!r}, which this machine does not know; "
            "write USER, USER:GROUP or :GROUP"
        ) from None


def number_of(digits: str, owner: str) -> int:
    """A uid or gid that was written as a number."""
    if len(digits) > len(str(HIGHEST_ID)) or int(digits) > HIGHEST_ID:
        raise ConfigError(
            f"the socket owner {owner!r} names the number {digits[:20]}, and the highest is {HIGHEST_ID}; "
            "write USER, USER:GROUP or :GROUP"
        )
    return int(digits)


def give(address: Address, user: int, group: int, owner: str) -> None:
    """Give the path to its owner."""
    try:
        os.chown(address.path, user, group, follow_symlinks=False)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot give {address} to {owner!r}: only root may give a socket to another user, and others only to "
            "a group they belong to; start as root, or leave --socket-owner away"
        ) from error


def check_length(address: Address) -> None:
    """Refuse what sun_path cannot hold."""
    size = len(os.fsencode(address.path))
    if size > PATH_BYTES:
        raise ConfigError(
            f"the socket path {address.path} is {size} bytes long, and the system takes {PATH_BYTES}; choose a "
            "shorter one, for example under /run"
        )


def unix_refusal(address: Address, error: OSError) -> ConfigError:
    """What went wrong with a unix path and what to do about it."""
    directory = Path(address.path).parent
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ConfigError(
            f"cannot listen on {address}: {directory} is not a directory; make it (mkdir -p {directory}) "
            "or choose another path"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ConfigError(
            f"cannot listen on {address}: no permission to write in {directory}; choose a directory that belongs to "
            "the user who runs gateways, or change the permissions of this one"
        )
    return ConfigError(f"cannot listen on {address}: {error.strerror}; choose another path")


# Abstract names and inherited descriptors


def bind_abstract(address: Address, backlog: int) -> socket.socket:
    """Listen on a name of Linux's abstract namespace, which has neither path nor permissions (unix(7))."""
    if sys.platform != "linux":
        raise ConfigError(f"cannot listen on {address}: abstract sockets are Linux's; use a path")
    check_length(address)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind("\0" + address.path)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"another process is listening on {address}; stop it or choose another name") from error
        raise ConfigError(f"cannot listen on {address}: {error.strerror}; choose another name") from error
    return listener


def adopt(address: Address) -> socket.socket:
    """Take over an inherited descriptor that already listens.

    Descriptor 0 stays what it is, and the socket gets a number of its own: a closed 0 would be given to the next file,
    which then is the standard input of every program that is started.
    """
    try:
        listener = socket.socket(fileno=address.fd)
    except OSError as error:
        what = "is not open" if error.errno == errno.EBADF else "is not a socket"
        raise ConfigError(
            f"cannot listen on {address}: descriptor {address.fd} {what}; "
            "whoever starts gateways must pass a listening socket under this number"
        ) from error
    wrong = ""
    if listener.type != socket.SOCK_STREAM:
        wrong = "is not a stream socket"
    elif not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        wrong = "is not listening"
    if wrong:
        listener.detach()
        raise ConfigError(
            f"cannot listen on {address}: descriptor {address.fd} {wrong}; "
            "whoever starts gateways must call listen() on a stream socket first (systemd: ListenStream=)"
        )
    if address.fd == 0:
        listener.detach()
        listener = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3))
    listener.set_inheritable(False)
    listener.setblocking(False)
    if listener.family in FAMILIES:
        no_delay(listener)
    return listener
