"""Which of the sockets that were handed over is meant by a listener of the new settings."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateways.server import sockets
from gateways.server.address import parse_address
from gateways.server.adoption import Adoption
from gateways.server.handover import HandedListener
from gateways.server.sockets import UnixListener

Hand = Callable[..., HandedListener]


@pytest.fixture
def hand() -> Iterator[Hand]:
    """Open what a text says, as the program before has it, and return what that hands over."""
    with ExitStack() as stack:

        def hand_over(text: str, protocol: str = "http", *, ours: bool = True) -> HandedListener:
            sock = sockets.bind(parse_address(text), backlog=16, mode=0o660, owner="")
            path, created = (sock.path, sock.created) if ours and isinstance(sock, UnixListener) else ("", (0, 0))
            entry = HandedListener(protocol, text, os.dup(sock.fileno()), path, created)
            sock.close()
            stack.callback(os.close, entry.fd)
            return entry

        yield hand_over


def port_of(entry: HandedListener) -> int:
    sock = socket.socket(fileno=os.dup(entry.fd))
    with sock:
        port: int = sock.getsockname()[1]
        return port


def taken(entries: list[HandedListener], protocol: str, text: str) -> int | None:
    """Return the descriptor of the socket that a listener of the new settings gets."""
    adoption = Adoption(entries)
    sock = adoption.take(protocol, parse_address(text))
    for _, _, other in adoption.rest():
        other.detach()
    return None if sock is None else sock.detach()


def test_the_same_text(hand: Hand) -> None:
    """The system has chosen the port, so it is not in the text."""
    entries = [hand("127.0.0.1:0", "auto"), hand("127.0.0.1:0", "http")]
    assert taken(entries, "http", "127.0.0.1:0") == entries[1].fd
    assert taken(entries, "auto", "127.0.0.1:0") == entries[0].fd
    assert taken(entries, "scgi", "127.0.0.1:0") == entries[0].fd
    assert taken(entries, "http", "127.0.0.2:0") is None


def test_each_is_taken_once(hand: Hand) -> None:
    entries = [hand("127.0.0.1:0"), hand("127.0.0.1:0")]
    adoption = Adoption(entries)
    address = parse_address("127.0.0.1:0")
    found = [adoption.take("http", address) for _ in range(3)]
    assert [sock and sock.getblocking() for sock in found] == [False, False, None]
    assert [sock and sock.detach() for sock in found] == [entries[0].fd, entries[1].fd, None]
    assert list(adoption.rest()) == []


def test_a_port_in_other_words(hand: Hand) -> None:
    entry = hand("127.0.0.1:0")
    port = port_of(entry)
    for text in (f"127.0.0.1:{port}", f"localhost:{port}", str(port)):
        assert taken([entry], "auto", text) == entry.fd, text
    others = [f"127.0.0.2:{port}", f":{port}", f"[::1]:{port}", f"127.0.0.1:{port ^ 1}", f"no-such-host.invalid:{port}"]
    for text in (*others, "./s", "@s", "fd:999999"):
        assert taken([entry], "http", text) is None, text
    assert taken([entry], "http", f"fd:{entry.fd}") == entry.fd


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_both_families_are_more_than_one(hand: Hand) -> None:
    for text, other in ((":0", "[::]"), ("[::]:0", "")):
        entry = hand(text)
        assert taken([entry], "http", f"{other}:{port_of(entry)}") is None
        assert taken([entry], "http", f"{text[:-2]}:{port_of(entry)}") == entry.fd


def test_a_path_in_other_words(hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    entry = hand("./s")
    for text in ("./s", f"{tmp_path}/s", "unix:s", "./link/s"):
        assert taken([entry], "auto", text) == entry.fd, text
    for text in (f"{tmp_path}/t", "./nowhere/s", "./s/s", "8000"):
        assert taken([entry], "http", text) is None, text


def test_a_path_that_somebody_else_has_made(hand: Hand, tmp_path: Path) -> None:
    """systemd: the socket came as a descriptor."""
    path = f"{tmp_path}/s"
    entry = hand(path, ours=False)
    assert taken([entry], "http", path) == entry.fd
    (tmp_path / "s").unlink()
    assert taken([entry], "http", path) is None


@pytest.mark.parametrize("change", ["removed", "replaced", "elsewhere"])
def test_a_path_at_which_nobody_comes_to_the_socket(hand: Hand, tmp_path: Path, change: str) -> None:
    """Whoever needs it binds anew, though the text is the same."""
    path = tmp_path / "d" / "s"
    path.parent.mkdir()
    entry = hand(str(path))
    if change == "elsewhere":
        path.parent.rename(tmp_path / "old")
        path.parent.mkdir()
    else:
        path.rename(tmp_path / "kept")
    if change == "replaced":
        hand(str(path))
    assert taken([entry], "http", str(path)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_path_out_of_reach(hand: Hand, tmp_path: Path) -> None:
    """The master has given up root since; the text must do."""
    path = tmp_path / "s"
    entry = hand(str(path))
    tmp_path.chmod(0o700)
    os.seteuid(65_534)
    try:
        assert taken([entry], "auto", str(path)) == entry.fd
        assert taken([entry], "http", f"{path}t") is None
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_name(hand: Hand) -> None:
    name = f"@gateways-test-{os.getpid()}"
    entry = hand(name)
    assert taken([entry], "auto", name) == entry.fd
    assert taken([entry], "http", f"{name}x") is None
    assert taken([HandedListener("http", "fd:3", entry.fd)], "http", name) == entry.fd


def test_what_is_left(hand: Hand, tmp_path: Path) -> None:
    """A path that was ours still is."""
    entries = [hand("127.0.0.1:0"), hand(f"{tmp_path}/s", "scgi")]
    adoption = Adoption(entries)
    (_, _, first), (protocol, address, second) = adoption.rest()
    try:
        assert (protocol, address) == ("scgi", f"{tmp_path}/s")
        sockets.cleanup([first, second])
        assert not (tmp_path / "s").exists()
    finally:
        first.detach()
        second.detach()
