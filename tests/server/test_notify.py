"""What the service manager is told: real datagrams, and a manager that is away, deaf or slow."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.server.notify import Notifier
from tests.server.peers import Peer
from tests.servers import Gateways, open_directory, running, wait_until

PID = 4711


class Manager:
    """The other end; ``address`` is as in NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = f"\0{address[1:]}" if address.startswith("@") else address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.name)
        self.sock.settimeout(10)

    def message(self) -> dict[str, str]:
        """The fields of the next message."""
        lines = self.sock.recv(65_536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def nothing(self) -> bool:
        self.sock.setblocking(False)
        try:
            self.sock.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(10)
        return False

    def drain(self) -> list[bytes]:
        found = []
        self.sock.setblocking(False)
        while True:
            try:
                found.append(self.sock.recv(65_536))
            except BlockingIOError:
                self.sock.settimeout(10)
                return found

    def close(self) -> None:
        self.sock.close()
        if not self.address.startswith("@"):
            Path(self.address).unlink(missing_ok=True)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify"))
    yield found
    found.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    found = Notifier(manager.address, clock=lambda: 123_456_789)
    yield found
    found.close()


# What is said


def test_the_life_of_a_server(manager: Manager, notifier: Notifier) -> None:
    assert notifier.active
    assert notifier.ready("2 workers")
    assert manager.message() == {"READY": "1", "STATUS": "2 workers"}
    assert notifier.reloading()
    assert manager.message() == {"RELOADING": "1", "MONOTONIC_USEC": "123456"}
    assert notifier.ready()
    assert manager.message() == {"READY": "1"}
    assert notifier.status("busy")
    assert manager.message() == {"STATUS": "busy"}
    assert notifier.watchdog()
    assert manager.message() == {"WATCHDOG": "1"}
    assert notifier.stopping("until then")
    assert manager.message() == {"STOPPING": "1", "STATUS": "until then"}
    assert manager.nothing()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_name() -> None:
    manager = Manager(f"@gateways-test-{os.getpid()}")
    notifier = Notifier(manager.address)
    try:
        assert notifier.ready()
        assert manager.message() == {"READY": "1"}
    finally:
        notifier.close()
        manager.close()


def test_the_clock_is_the_monotonic_one(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    assert before <= int(manager.message()["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.close()


def test_a_status_is_one_line_and_not_too_long(manager: Manager, notifier: Notifier) -> None:
    notifier.status("a\nREADY=1\r\x00\x85b")
    assert manager.message() == {"STATUS": "a READY=1 b"}
    notifier.status("\U0001f600" * 5000)
    assert len(manager.sock.recv(65_536)) < 4096
    notifier.status("\udcff")
    assert manager.message() == {"STATUS": "\\udcff"}


# Nobody wants to know


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1234", "/x\0y", "tcp:1"])
def test_nothing_is_done_without_a_socket(address: str | None) -> None:
    before = os.listdir("/dev/fd")
    notifier = Notifier(address, 10_000_000)
    assert not notifier.active
    assert notifier.watchdog_interval is None
    assert notifier.ready("x")
    assert notifier.reloading()
    assert notifier.status("x")
    assert notifier.watchdog()
    assert notifier.stopping()
    assert len(os.listdir("/dev/fd")) == len(before)
    notifier.close()


# The environment


def test_the_environment(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}
    notifier = Notifier.from_environ(environ, PID)
    assert notifier.active
    assert notifier.watchdog_interval == 15.0
    notifier.close()
    assert not Notifier.from_environ({}, PID).active


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("2000000", None, 1.0),
        ("2000000", str(PID), 1.0),
        ("2000000", str(PID + 1), None),
        ("2000000", "", None),
        ("0", None, None),
        ("", None, None),
        ("-5", None, None),
        ("1.5", None, None),
        ("٣", None, None),
        ("9" * 5000, None, None),
        (str(2**64 - 1), None, None),
        (str(2**64), None, None),
    ],
)
def test_the_watchdog(manager: Manager, usec: str, pid: str | None, interval: float | None) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": usec}
    if pid is not None:
        environ["WATCHDOG_PID"] = pid
    notifier = Notifier.from_environ(environ, PID)
    assert notifier.watchdog_interval == interval
    notifier.close()


# A manager that is away or slow


def test_a_manager_that_does_not_read_delays_nobody_and_misses_nothing_of_importance(
    manager: Manager, notifier: Notifier
) -> None:
    start = time.monotonic()
    sent = 0
    while notifier.watchdog():
        sent += 1
        assert sent < 100_000
    assert not notifier.status("old")
    assert not notifier.reloading()
    assert not notifier.ready("new")
    assert time.monotonic() - start < 5
    assert manager.drain() == [b"WATCHDOG=1"] * sent
    assert notifier.watchdog(), "what waits goes along"
    assert manager.message() == {"READY": "1", "STATUS": "new", "WATCHDOG": "1"}
    assert notifier.watchdog()
    assert manager.message() == {"WATCHDOG": "1"}


def test_a_manager_that_comes_back(manager: Manager, notifier: Notifier) -> None:
    assert notifier.ready()
    manager.close()
    assert not notifier.status("gone")
    assert not notifier.watchdog()
    again = Manager(manager.address)
    assert notifier.watchdog()
    assert again.message() == {"STATUS": "gone", "WATCHDOG": "1"}
    again.close()


def test_a_manager_with_a_new_socket_of_the_same_name(manager: Manager, notifier: Notifier) -> None:
    assert notifier.ready()
    manager.close()
    again = Manager(manager.address)
    assert notifier.stopping(), "at the first try"
    assert again.message() == {"STOPPING": "1"}
    again.close()


def test_a_manager_that_comes_late(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "late"))
    assert not notifier.ready()
    manager = Manager(str(tmp_path / "late"))
    assert notifier.status("up")
    assert manager.message() == {"READY": "1", "STATUS": "up"}
    notifier.close()
    manager.close()


@pytest.mark.parametrize("address", ["/no/such/directory/notify", "/" + "x" * 500, "/dev/null"])
def test_an_address_where_nobody_is(address: str) -> None:
    notifier = Notifier(address)
    assert not notifier.ready()
    notifier.close()
    notifier.close()


def test_without_a_descriptor_left(manager: Manager) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    held = []
    try:
        with contextlib.suppress(OSError):  # EMFILE
            while True:
                held.append(os.dup(0))
        notifier = Notifier(manager.address)
        assert not notifier.ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)
    assert notifier.watchdog()
    assert manager.message() == {"READY": "1", "WATCHDOG": "1"}
    notifier.close()


def test_the_path_may_be_out_of_reach_later(manager: Manager, tmp_path: Path) -> None:
    """As after chroot, or as another user."""
    notifier = Notifier(manager.address)
    Path(manager.address).rename(tmp_path / "elsewhere")
    assert notifier.ready()
    assert manager.message() == {"READY": "1"}
    notifier.close()
    (tmp_path / "elsewhere").unlink()


def test_a_child_does_not_inherit_the_socket(manager: Manager, notifier: Notifier) -> None:
    notifier.ready()
    sockets = [int(fd) for fd in os.listdir("/dev/fd") if is_datagram(int(fd), manager)]
    assert sockets
    assert not any(os.get_inheritable(fd) for fd in sockets)


def is_datagram(fd: int, manager: Manager) -> bool:
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with sock:
        return sock.type == socket.SOCK_DGRAM and fd != manager.sock.fileno()


# A server


class Notifying(Gateways):
    """A server that tells ``manager`` how it is; it is ready when it says so."""

    def __init__(self, directory: Path, manager: Manager, *options: str, usec: int = 1_000_000) -> None:
        self.source = directory / "site_.py"
        self.source.write_text(APP)
        environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(usec)}
        super().__init__(
            directory, "site_:app", "--control", "off", *options,
            python_path=directory, protocols=("http",), env=environ,
        )  # fmt: skip
        self.manager = manager
        self.told: list[str] = []

    def ready(self) -> bool:
        return self.tells("READY=1")

    def tells(self, line: str) -> bool:
        """Whether the manager has been told this since the last time that the answer was yes."""
        for message in self.manager.drain():
            self.told += message.decode().split("\n")
        if line in self.told:
            del self.told[: self.told.index(line) + 1]
            return True
        return False

    def await_line(self, line: str) -> None:
        wait_until(lambda: self.tells(line), f"{line} is told")


APP = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'x']\n"


@pytest.mark.parametrize("options", [(), ("--pool", "ondemand"), ("--preload",), ("--workers", "2")])
def test_a_server_tells_when_it_is_ready_reloads_and_stops(options: tuple[str, ...]) -> None:
    with open_directory() as directory:
        manager = Manager(str(directory / "notify"))
        with contextlib.closing(manager), running(Notifying(directory, manager, *options)) as server:
            server.await_line("WATCHDOG=1")
            os.kill(server.pid, signal.SIGHUP)
            server.await_line("RELOADING=1")
            server.await_line("READY=1")
            server.await_line("WATCHDOG=1")
            assert server.stop() == 0
            assert server.tells("STOPPING=1")


def test_how_many_workers_serve() -> None:
    with open_directory() as directory:
        manager = Manager(str(directory / "notify"))
        options = ("--pool", "ondemand", "--worker-idle", "300ms")
        with contextlib.closing(manager), running(Notifying(directory, manager, *options)) as server:
            server.await_line("STATUS=0 workers serve site_:app, generation 1")
            with Peer(server.address["http", "unix"]) as peer:
                assert peer.get().status == 200
            server.await_line("STATUS=1 worker serves site_:app, generation 1")
            server.await_line("STATUS=0 workers serve site_:app, generation 1")


def test_a_reload_that_fails_is_over_too() -> None:
    with open_directory() as directory:
        manager = Manager(str(directory / "notify"))
        with contextlib.closing(manager), running(Notifying(directory, manager)) as server:
            server.source.write_text("1 / 0\n# longer than before, so that no cached file passes for it\n" + APP)
            os.kill(server.pid, signal.SIGHUP)
            server.await_line("RELOADING=1")
            server.await_line("READY=1")
            assert "ZeroDivisionError" in server.text()


@pytest.mark.parametrize("usec", [2**31 * 2000 + 2_000_000, 2**64 - 2])
def test_a_watchdog_with_more_patience_than_poll(usec: int) -> None:
    """poll(2) takes milliseconds of 31 bits."""
    with open_directory() as directory:
        manager = Manager(str(directory / "notify"))
        with contextlib.closing(manager), running(Notifying(directory, manager, usec=usec)) as server:
            os.kill(server.pid, signal.SIGHUP)
            server.await_line("RELOADING=1")
            server.await_line("READY=1")
            assert server.stop() == 0
            assert "Traceback" not in server.text()
