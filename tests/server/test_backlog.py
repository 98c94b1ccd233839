"""The length of a listening socket's queue, as the kernel tells it."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateways.server import backlog
from gateways.server.backlog import queue_length
from tests.servers import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")

Listen = Callable[[], socket.socket]
KINDS = ("tcp", "tcp6", "unix", "abstract")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listener(stack: ExitStack, kind: str, directory: Path, size: int = 16) -> socket.socket:
    if kind == "tcp6" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    family = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}.get(kind, socket.AF_UNIX)
    sock = stack.enter_context(socket.socket(family))
    names: dict[str, tuple[str, int] | str] = {
        "tcp": ("127.0.0.1", 0),
        "tcp6": ("::1", 0),
        "unix": str(directory / "s"),
        "abstract": f"\0gateways-test-{os.getpid()}-{sock.fileno()}",
    }
    sock.bind(names[kind])
    sock.listen(size)
    return sock


def connect(stack: ExitStack, sock: socket.socket) -> socket.socket:
    client = stack.enter_context(socket.socket(sock.family))
    client.settimeout(10)
    client.connect(sock.getsockname())
    return client


@pytest.mark.parametrize("kind", KINDS)
def test_those_that_nobody_has_accepted(stack: ExitStack, tmp_path: Path, kind: str) -> None:
    sock = listener(stack, kind, tmp_path)
    assert queue_length(sock) == 0
    for _ in range(3):
        connect(stack, sock)
    wait_until(lambda: queue_length(sock) == 3, "three wait")
    stack.enter_context(sock.accept()[0])
    assert queue_length(sock) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_each_listener_has_its_own(stack: ExitStack, tmp_path: Path, kind: str) -> None:
    (tmp_path / "other").mkdir()
    one, other = listener(stack, kind, tmp_path), listener(stack, kind, tmp_path / "other")
    connect(stack, one)
    wait_until(lambda: queue_length(one) == 1, "one waits")
    assert queue_length(other) == 0


def test_a_full_queue(stack: ExitStack, tmp_path: Path) -> None:
    sock = listener(stack, "unix", tmp_path, size=1)
    for _ in range(10):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        if client.connect_ex(sock.getsockname()):
            break
    assert queue_length(sock) == 2, "Linux holds one more than the backlog"


def test_a_socket_that_is_not_blocking_and_is_another_process_s_too(stack: ExitStack, tmp_path: Path) -> None:
    sock = listener(stack, "unix", tmp_path)
    sock.setblocking(False)
    copy = stack.enter_context(sock.dup())
    connect(stack, sock)
    assert queue_length(copy) == 1


def test_a_socket_that_does_not_listen_has_no_queue(stack: ExitStack, tmp_path: Path) -> None:
    for kind in ("tcp", "unix"):
        sock = listener(stack, kind, tmp_path)
        assert queue_length(connect(stack, sock)) is None
        assert queue_length(stack.enter_context(socket.socket(sock.family))) is None
    datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    assert queue_length(datagram) is None


def test_a_closed_socket(stack: ExitStack, tmp_path: Path) -> None:
    for kind in ("tcp", "unix"):
        sock = listener(stack, kind, tmp_path)
        sock.close()
        assert queue_length(sock) is None


def test_elsewhere(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sock = listener(stack, "tcp", tmp_path)
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert queue_length(sock) is None


def test_where_the_question_is_forbidden(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by RestrictAddressFamilies= without AF_NETLINK."""
    sock = listener(stack, "unix", tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    assert queue_length(sock) is None


def test_asking_leaves_no_descriptor_open_and_takes_no_time(stack: ExitStack, tmp_path: Path) -> None:
    socks = [listener(stack, kind, tmp_path) for kind in ("tcp", "unix")]
    before = os.listdir("/dev/fd")
    start = time.monotonic()
    for _ in range(100):
        for sock in socks:
            assert queue_length(sock) == 0
    assert time.monotonic() - start < 5, "200 answers"
    assert os.listdir("/dev/fd") == before


# Answers of the kernel

INODE = 4711
HEADER = struct.Struct("=IHHII")
MESSAGE = struct.Struct("=BBBxIII")


def answer(*attributes: bytes, kind: int = 20, family: int = 1, state: int = 10, inode: int = INODE) -> bytes:
    body = MESSAGE.pack(family, 1, state, inode, 0, 0) + b"".join(attributes)
    return HEADER.pack(16 + len(body), kind, 0, 1, 0) + body


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


LENGTHS = attribute(4, struct.pack("=II", 3, 16))


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (answer(LENGTHS), 3),
        (answer(attribute(0, b"name!"), attribute(6, b"\0"), LENGTHS), 3),
        (answer(attribute(0, b"name!")), None),
        (answer(), None),
        (answer(LENGTHS, kind=2), None),
        (answer(LENGTHS, family=2), None),
        (answer(LENGTHS, state=1), None),
        (answer(LENGTHS, inode=INODE + 1), None),
        (answer(struct.pack("=HH", 0, 9), LENGTHS), 3),
    ],
)
def test_an_answer(data: bytes, length: int | None) -> None:
    assert backlog.read_answer(data, INODE) == length


def test_an_answer_that_is_cut_never_hangs_and_never_lies() -> None:
    whole = answer(attribute(0, b"name!"), LENGTHS)
    for cut in range(len(whole)):
        try:
            assert backlog.read_answer(whole[:cut], INODE) is None
        except struct.error:
            continue
