"""How many connections wait on a listening socket until somebody accepts them; asks the kernel, and knows no protocol.

Only Linux tells. Each answer is there at once, so asking never waits.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Final

__all__ = ["queue_length"]

LISTEN: Final = 10  # TCP_LISTEN of the kernel's net/tcp_states.h, for unix sockets too
TCP_INFO_HEAD: Final = struct.Struct("=B23xI")
"""Of struct tcp_info (linux/tcp.h): tcpi_state and tcpi_unacked, which for a listening socket is the number of
connections to accept (tcp_get_info in net/ipv4/tcp.c; ss(8) shows it as Recv-Q)."""

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
NLM_F_REQUEST: Final = 1
HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr (netlink(7)): length, type, flags, sequence, port
REQUEST: Final = struct.Struct("=BBHIIIII")  # struct unix_diag_req (sock_diag(7)): family ... inode, show, cookie
ANSWER: Final = struct.Struct("=BBBxIII")  # struct unix_diag_msg: family, type, state, inode, cookie
ATTRIBUTE: Final = struct.Struct("=HH")  # struct nlattr: length, type
RQLEN: Final = struct.Struct("=II")  # struct unix_diag_rqlen: for a listening socket, connections to accept; backlog
UDIAG_SHOW_RQLEN: Final = 0x10
UNIX_DIAG_RQLEN: Final = 4
NO_COOKIE: Final = 0xFFFF_FFFF


def queue_length(sock: socket.socket) -> int | None:
    """Connections that wait on a listening TCP or unix socket, or None where the system cannot say."""
    if sys.platform != "linux":
        return None
    try:
        return unix_queue(sock) if sock.family == socket.AF_UNIX else tcp_queue(sock)
    except (OSError, struct.error):  # a socket that is closed, a kernel without unix_diag, a filter of system calls
        return None


def tcp_queue(sock: socket.socket) -> int | None:
    """By TCP_INFO (tcp(7)); raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_HEAD.size)
    state, waiting = TCP_INFO_HEAD.unpack(info)
    return int(waiting) if state == LISTEN else None


def unix_queue(sock: socket.socket) -> int | None:
    """By NETLINK_SOCK_DIAG, which finds the socket by its inode; raises OSError."""
    inode = os.fstat(sock.fileno()).st_ino & 0xFFFF_FFFF
    request = REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFF_FFFF, inode, UDIAG_SHOW_RQLEN, NO_COOKIE, NO_COOKIE)
    header = HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.setblocking(False)  # the kernel answers within send()
        netlink.sendto(header + request, (0, 0))
        answer = netlink.recv(4096)
    return read_answer(answer, inode)


def read_answer(answer: bytes, inode: int) -> int | None:
    """The queue in the kernel's answer; None where it is an error, or is about no listening socket."""
    length, kind, *_ = HEADER.unpack_from(answer)
    if kind != SOCK_DIAG_BY_FAMILY:
        return None
    family, _, state, number, *_ = ANSWER.unpack_from(answer, HEADER.size)
    if (family, state, number) != (socket.AF_UNIX, LISTEN, inode):
        return None
    place = HEADER.size + ANSWER.size
    while place + ATTRIBUTE.size <= min(length, len(answer)):
        size, attribute = ATTRIBUTE.unpack_from(answer, place)
        if attribute == UNIX_DIAG_RQLEN:
            waiting, _ = RQLEN.unpack_from(answer, place + ATTRIBUTE.size)
            return int(waiting)
        place += max(ATTRIBUTE.size, (size + 3) & ~3)  # NLA_ALIGN
    return None
