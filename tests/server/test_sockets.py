"""Binding: real sockets, real paths, and the sentence for everything that a person can mend."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateways.errors import ConfigError
from gateways.server import sockets
from gateways.server.address import Address, parse_address

Bind = Callable[..., socket.socket]
ROOT = os.geteuid() == 0
NOBODY = 65_534


@pytest.fixture
def bind() -> Iterator[Bind]:
    """``sockets.bind`` on the text of an address; what it opened is closed after the test."""
    with ExitStack() as stack:

        def bind_text(text: str, *, backlog: int = 16, mode: int = 0o660, owner: str = "") -> socket.socket:
            listener = sockets.bind(parse_address(text), backlog=backlog, mode=mode, owner=owner)
            return stack.enter_context(listener)

        yield bind_text


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


# TCP


@pytest.mark.parametrize("text", ["127.0.0.1:0", "localhost:0", ":0", "0.0.0.0:0"])
def test_tcp(bind: Bind, text: str) -> None:
    listener = bind(text)
    assert listener.getblocking() is False
    assert listener.get_inheritable() is False
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    with socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=30) as client:
        listener.settimeout(5)
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"


@pytest.mark.skipif(sys.platform != "linux", reason="accepted sockets inherit TCP_NODELAY on Linux")
def test_accepted_sockets_have_no_delay(bind: Bind) -> None:
    listener = bind("127.0.0.1:0")
    with socket.create_connection(listener.getsockname(), timeout=30):
        listener.settimeout(5)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6_alone_and_every_interface_in_both_families(bind: Bind) -> None:
    alone = bind("[::1]:0")
    assert alone.family == socket.AF_INET6
    assert alone.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    everywhere = bind(":0").getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, everywhere), timeout=30).close()


def test_without_ipv6_every_interface_is_ipv4(bind: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert bind(":0").family == socket.AF_INET


def test_a_port_in_use(bind: Bind) -> None:
    port = bind("127.0.0.1:0").getsockname()[1]
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: the port is in use; .*another port"):
        bind(f"{port}")


def test_an_unknown_host(bind: Bind) -> None:
    with pytest.raises(ConfigError, match=r"the host name 'no-such-host\.invalid' does not resolve"):
        bind("no-such-host.invalid:80")


def test_a_host_name_that_idna_refuses(bind: Bind) -> None:
    with pytest.raises(ConfigError, match="does not resolve"):
        bind(f"{'a' * 70}.b:80")


def test_an_address_of_no_interface(bind: Bind) -> None:
    with pytest.raises(ConfigError, match=r"no interface of this machine has the address 192\.0\.2\.1"):
        bind("192.0.2.1:0")


@pytest.mark.parametrize(
    ("port", "number", "sentence"),
    [
        (80, errno.EACCES, "ports below 1024 are for root or CAP_NET_BIND_SERVICE; choose a higher port"),
        (8000, errno.EACCES, "Permission denied; choose another address"),
        (8000, None, "no IPv4 or IPv6 address"),
    ],
)
def test_other_failures_of_a_port(port: int, number: int | None, sentence: str) -> None:
    error = OSError(number, os.strerror(number)) if number is not None else None
    assert sentence in str(sockets.tcp_refusal(Address("tcp", "127.0.0.1", port), error))


# Unix sockets


def test_unix(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    listener = bind(str(path))
    assert listener.getblocking() is False
    assert listener.get_inheritable() is False
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_mode_does_not_depend_on_the_umask(bind: Bind, tmp_path: Path, mode: int, umask: int) -> None:
    old = os.umask(umask)
    try:
        bind(str(tmp_path / "s"), mode=mode)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode


def test_nobody_connects_before_owner_and_mode_are_set(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    seen: list[tuple[int, int]] = []
    chown = os.chown

    def traced(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401  (as it is called)
        with socket.socket(socket.AF_UNIX) as client:
            seen.append((stat.S_IMODE(path.stat().st_mode), client.connect_ex(str(path))))
        chown(*args, **kwargs)

    monkeypatch.setattr(os, "chown", traced)
    bind(str(path), mode=0o600, owner=f"{os.geteuid()}:{os.getegid()}")
    assert seen == [(0o600, errno.ECONNREFUSED)]


@pytest.mark.parametrize("owner", ["", f"{os.geteuid()}" if not ROOT else f"{NOBODY}:{NOBODY}"])
def test_a_link_that_takes_the_place_of_the_path_is_not_followed(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    """Whoever owns the directory may put one there at any moment: here it is the first after the bind."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o600)
    before = victim.stat()
    bind_with = sockets.bind_with

    def swapped(listener: socket.socket, path: str, mode: int) -> None:
        bind_with(listener, path, mode)
        os.rename(path, f"{path}.moved")
        os.symlink(victim, path)

    monkeypatch.setattr(sockets, "bind_with", swapped)
    for mode in (0o666, 0o777):
        bind(str(tmp_path / f"s{mode}"), mode=mode, owner=owner)
    after = victim.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's form of an ACL")
def test_a_default_acl_does_not_take_the_mode_away(bind: Bind, tmp_path: Path) -> None:
    """acl(5): it counts in the place of the umask; here owner and group may do everything, and others may read."""
    entries = [(0x01, 7), (0x04, 7), (0x20, 4)]  # linux/posix_acl_xattr.h: tag, permissions, no id
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, 0xFFFF_FFFF) for tag, bits in entries)
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no ACL here: {error.strerror}")
    bind(str(tmp_path / "s"), mode=0o666)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o666


def test_a_stale_socket_is_replaced(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    bind(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_socket_is_not(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind(str(path))
    before = identity(path)
    with pytest.raises(ConfigError, match=f"another process is listening on {path}; stop it"):
        bind(str(path))
    assert identity(path) == before


def test_a_live_socket_with_a_full_backlog_is_not(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind(str(path), backlog=1)
    with ExitStack() as stack:
        number = 0
        for _ in range(100):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            number = client.connect_ex(str(path))
            if number:
                break
        assert number == errno.EAGAIN
        with pytest.raises(ConfigError, match="another process is listening"):
            bind(str(path))
    assert path.exists()


def test_a_live_datagram_socket_is_not(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(ConfigError, match="another process is listening"):
            bind(str(path))
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
def test_what_is_no_socket_is_never_removed(bind: Bind, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")
    else:
        path.symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="the path exists and is not a socket"):
        bind(str(path))
    assert os.path.lexists(path)


@pytest.mark.skipif(ROOT, reason="root may do everything")
def test_a_directory_without_permission(bind: Bind, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=f"no permission to write in {tmp_path}; choose a directory"):
        bind(str(tmp_path / "s"))


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_a_directory_of_root_for_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(tmp_path)
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            sockets.bind(parse_address("./s"), backlog=1, mode=0o660, owner="")
        except ConfigError as error:
            code = 0 if "no permission to write in ." in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_missing_directory(bind: Bind, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{tmp_path}/no is not a directory; make it \(mkdir -p {tmp_path}/no\)"):
        bind(f"{tmp_path}/no/s")


def test_a_file_in_the_place_of_the_directory(bind: Bind, tmp_path: Path) -> None:
    (tmp_path / "no").write_text("")
    with pytest.raises(ConfigError, match="is not a directory"):
        bind(f"{tmp_path}/no/s")


def test_a_path_that_is_too_long(bind: Bind, tmp_path: Path) -> None:
    path = f"{tmp_path}/{'x' * 108}"
    with pytest.raises(ConfigError, match=rf"is {len(path)} bytes long, and the system takes \d+; choose a shorter"):
        bind(path)


def test_the_longest_path_works(bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "./" + "é" * ((sockets.PATH_BYTES - 2) // 2) + "x" * (sockets.PATH_BYTES % 2)
    assert len(name.encode()) == sockets.PATH_BYTES
    bind(name)
    assert (tmp_path / name).is_socket()


@pytest.mark.parametrize(
    ("owner", "sentence"),
    [
        ("no-such-user", "the user 'no-such-user', whom this machine does not know"),
        (":no-such-group", "the group 'no-such-group', which this machine does not know"),
        ("root:", "ends in a colon"),
        (":", "ends in a colon"),
        ("a\0b", "the user 'a\\x00b', whom this machine does not know"),
        (":a\0b", "the group 'a\\x00b', which this machine does not know"),
        ("\ud800", "whom this machine does not know"),
        ("4294967295", "the number 4294967295, and the highest is 4294967294"),
        (":4294967295", "the number 4294967295, and the highest is 4294967294"),
        ("0:4294967296", "the number 4294967296, and the highest is 4294967294"),
        ("00000000000", "the number 00000000000, and the highest is 4294967294"),
        ("9" * 5000, "the number 99999999999999999999, and the highest"),
    ],
)
def test_a_bad_owner(bind: Bind, tmp_path: Path, owner: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        bind(str(tmp_path / "s"), owner=owner)
    assert not (tmp_path / "s").exists()


def test_the_highest_number_is_an_owner() -> None:
    assert sockets.owner_ids("4294967294:4294967294") == (4_294_967_294, 4_294_967_294)
    assert sockets.owner_ids("0:0000000005") == (0, 5)


def test_what_can_be_told_without_binding(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sockets.examine([parse_address(str(path)), parse_address("8000"), parse_address("fd:99")], ":0")
    assert not path.exists()
    with pytest.raises(ConfigError, match="the user 'no-such-user', whom this machine does not know"):
        sockets.examine([parse_address(str(path))], "no-such-user")
    sockets.examine([parse_address("8000")], "no-such-user")
    for text in (f"{path}{'x' * 108}", "@" + "x" * 108):
        with pytest.raises(ConfigError, match="bytes long, and the system takes"):
            sockets.examine([parse_address(text)], "")


def test_an_owner_by_name(bind: Bind, tmp_path: Path) -> None:
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    for number, owner in enumerate([user, f"{user}:{group}", f":{group}"]):
        bind(str(tmp_path / f"s{number}"), owner=owner)
        assert (tmp_path / f"s{number}").stat().st_uid == os.geteuid()


@pytest.mark.skipif(not ROOT, reason="only root may give a file away")
def test_the_owner_is_set(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind(str(path), owner="1:2")
    assert (path.stat().st_uid, path.stat().st_gid) == (1, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_an_owner_that_we_may_not_set_leaves_nothing_behind(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ConfigError, match="only root may give a socket to another user"):
        bind(str(tmp_path / "s"), owner="0")
    assert not (tmp_path / "s").exists()


def test_any_other_failure_is_told_as_it_is() -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    assert "/run/s: No space left on device" in str(sockets.unix_refusal(Address("unix", path="/run/s"), error))


# Removal


def test_cleanup_removes_what_we_made_wherever_we_are_now(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listeners = [bind("./s"), bind("127.0.0.1:0")]
    monkeypatch.chdir("/")
    sockets.cleanup(listeners)
    assert not (tmp_path / "s").exists()
    sockets.cleanup(listeners)


def test_cleanup_leaves_what_somebody_else_put_there(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "s"
    ours = bind(str(path))
    path.rename(tmp_path / "kept")  # keeps the inode's number in use
    theirs = bind(str(path))
    sockets.cleanup([ours])
    assert path.exists()
    sockets.cleanup([theirs])
    assert not path.exists()


def test_a_child_removes_nothing(bind: Bind, tmp_path: Path) -> None:
    listener = bind(str(tmp_path / "s"))
    child = os.fork()
    if child == 0:
        try:
            sockets.cleanup([listener])
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "s").exists()


# Abstract names and inherited descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_abstract(bind: Bind) -> None:
    name = f"@gateways-test-{os.getpid()}"
    listener = bind(name)
    assert listener.getblocking() is False
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name[1:])
    with pytest.raises(ConfigError, match=f"another process is listening on {name}"):
        bind(name)
    with pytest.raises(ConfigError, match="bytes long"):
        bind("@" + "x" * 108)


def test_abstract_elsewhere(bind: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="abstract sockets are Linux's; use a path"):
        bind("@x")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_an_inherited_descriptor(bind: Bind, tmp_path: Path, family: socket.AddressFamily) -> None:
    given = socket.socket(family)
    given.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "s"))
    given.listen()
    given.set_inheritable(True)
    number = given.detach()
    listener = bind(f"fd:{number}")
    assert listener.fileno() == number
    assert listener.family == family
    assert listener.getblocking() is False
    assert listener.get_inheritable() is False
    sockets.cleanup([listener])
    assert family == socket.AF_INET or (tmp_path / "s").exists()


def test_descriptor_0_stays_and_the_socket_has_a_number_of_its_own() -> None:
    """The next file would else be the standard input of what the application starts."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            given = socket.create_server(("127.0.0.1", 0))
            os.dup2(given.fileno(), 0)
            for fd in (1, 2):
                os.close(fd)
            listener = sockets.bind(parse_address("fd:0"), backlog=1, mode=0o660, owner="")
            same = listener.getsockname() == given.getsockname()
            private = listener.fileno() > 2 and not listener.get_inheritable() and not listener.getblocking()
            listener.close()
            still = os.path.samestat(os.fstat(0), os.fstat(given.fileno()))
            code = 0 if same and private and still else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_descriptor_that_is_not_open(bind: Bind) -> None:
    with pytest.raises(ConfigError, match="descriptor 999999 is not open"):
        bind("fd:999999")


def test_a_descriptor_that_is_no_socket(bind: Bind, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(ConfigError, match="is not a socket"):
            bind(f"fd:{file.fileno()}")
        file.write("still open")


@pytest.mark.parametrize(
    ("kind", "sentence"), [(socket.SOCK_STREAM, "is not listening"), (socket.SOCK_DGRAM, "is not a stream socket")]
)
def test_a_descriptor_of_the_wrong_kind_stays_open(bind: Bind, kind: socket.SocketKind, sentence: str) -> None:
    with socket.socket(socket.AF_INET, kind) as given:
        with pytest.raises(ConfigError, match=sentence):
            bind(f"fd:{given.fileno()}")
        assert given.getsockname()
