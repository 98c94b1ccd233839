"""Sockets that the process was started with: what the environment says, real descriptors, programs that pass them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateways.errors import ConfigError
from gateways.server import inherited
from gateways.server.address import Address
from tests.server.peers import Address as PeerAddress, Peer, request
from tests.server.processes import gone
from tests.servers import LOOPBACK, Server, accepts, free_port, open_directory, require, running, wait_until

PROTOCOLS = ("fastcgi", "scgi", "uwsgi", "http", "auto")
PID = 4711
APP = """
import json, os, subprocess, sys

def app(environ, start_response):
    names = sorted(name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_", "GATEWAYS_")))
    names = [name for name in names if name != "GATEWAYS_EXPECT_BUILD" and not name.startswith("GATEWAYS_TEST_")]
    child = subprocess.run([sys.executable, "-c", "import os; print(os.path.realpath('/proc/self/fd/0'))"],
                           stdout=subprocess.PIPE, text=True)
    linux = sys.platform == "linux"
    start = open("/proc/self/environ", "rb").read().count(b"battery-staple") if linux else 0
    body = json.dumps({"path": environ["PATH_INFO"], "names": names, "stdin": child.stdout.strip(),
                       "secrets": start}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def passed(environ: Mapping[str, str], *listening: int, pid: int = PID) -> list[tuple[str, Address]]:
    return inherited.passed(environ, pid, PROTOCOLS, listening.__contains__)


def variables(names: str | None, count: int | str = 1, pid: int | str = PID) -> dict[str, str]:
    given = {"LISTEN_PID": str(pid), "LISTEN_FDS": str(count)}
    return given if names is None else given | {"LISTEN_FDNAMES": names}


def fd(number: int) -> Address:
    return Address("fd", fd=number)


# What the environment says


def test_nothing_was_passed() -> None:
    assert passed({}) == []


def test_several_sockets_each_with_its_protocol() -> None:
    names = "fastcgi:scgi:uwsgi:http:auto:http"
    found = passed(variables(names, 6), 3, 4, 5, 6, 7, 8)
    assert found == [(name, fd(3 + place)) for place, name in enumerate(names.split(":"))]


@pytest.mark.parametrize("name", ["http", "http-internal", "http-a.b-c", "http.socket", "http-shop.socket", "http-"])
def test_a_name_tells_the_protocol_up_to_the_first_dash_or_dot(name: str) -> None:
    assert passed(variables(name), 3) == [("http", fd(3))]


@pytest.mark.parametrize("name", ["", "unknown", "gateways.socket", "shop-http", "shop.http", "HTTP", "https", "httpd"])
def test_a_name_that_tells_none_is_refused_with_what_to_write(name: str) -> None:
    called = f"called {name!r}" if name else "without a name"
    sentence = rf"has passed descriptor 3,? {re.escape(called)}, and a socket's name must tell its protocol"
    with pytest.raises(ConfigError, match=sentence) as caught:
        passed(variables(name), 3)
    assert "FileDescriptorName=fastcgi (or scgi, uwsgi, http, auto)" in str(caught.value)
    assert str(caught.value).endswith("or give gateways --fastcgi fd:3")


def test_without_names() -> None:
    with pytest.raises(ConfigError, match="descriptor 3 without a name, and a socket's name must tell its protocol"):
        passed(variables(None), 3)


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_names_as_sockets(count: int) -> None:
    with pytest.raises(ConfigError, match=f"LISTEN_FDS promises {count} sockets and LISTEN_FDNAMES has 2 names"):
        passed(variables("http:scgi", count), 3, 4, 5)


@pytest.mark.parametrize("text", ["", "-1", "two", "1_0", "٣", "1" * 30])
def test_no_number_of_sockets(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^LISTEN_FDS is '.*' and should be how many sockets systemd has passed"):
        passed(variables("http", text), 3)


@pytest.mark.parametrize("pid", [PID + 1, "", "x", f"0{PID}"])
def test_what_is_meant_for_another_process_is_not_touched(pid: int | str) -> None:
    assert passed(variables("rubbish", 99, pid), 3) == []


def test_no_sockets_for_us() -> None:
    assert passed({"LISTEN_PID": str(PID)}) == []
    assert passed(variables(None, 0)) == []


def test_a_descriptor_that_does_not_listen_is_refused() -> None:
    with pytest.raises(ConfigError, match="descriptor 4, called 'scgi', and it is not a stream socket that listens"):
        passed(variables("http:scgi", 2), 3)
    with pytest.raises(ConfigError, match="ListenStream=, and no Accept=yes"):
        passed(variables(None, 999_999))


def test_descriptor_0_is_fastcgi() -> None:
    assert passed({}, 0) == [("fastcgi", fd(0))]
    assert passed(variables("rubbish", 1, PID + 1), 0, 3) == [("fastcgi", fd(0))]


def test_systemd_counts_before_descriptor_0() -> None:
    assert passed(variables("http"), 0, 3) == [("http", fd(3))]


def test_what_is_the_master_s_alone_is_taken_and_can_be_given_back() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "@x", "GATEWAYS_SECRET": "s", "PATH": "/bin"}
    before = dict(environ)
    taken = inherited.take_variables(environ)
    assert environ == {"PATH": "/bin"}
    assert environ | taken == before
    assert inherited.take_variables(environ) == {}


# Real descriptors


def test_what_listens(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket() as idle,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        socket.create_connection(tcp.getsockname()) as connection,
        (tmp_path / "file").open("w") as file,
    ):
        unix.bind(str(tmp_path / "s"))
        assert not inherited.is_listening(unix.fileno())
        unix.listen()
        assert inherited.is_listening(tcp.fileno())
        assert inherited.is_listening(unix.fileno())
        for other in (idle, datagram, connection, file):
            assert not inherited.is_listening(other.fileno())
        assert tcp.getsockname()[1], "it is still open"
    assert not inherited.is_listening(999_999)
    assert not inherited.is_listening(-1)


def in_child(code: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    """Run Python code that uses ``inherited`` in a process with this descriptor 0."""
    source = f"import os, socket\nfrom gateways.server import inherited\n{code}"
    return subprocess.run(
        [sys.executable, "-c", source], check=False, timeout=60, stdin=stdin, stderr=subprocess.PIPE, text=True
    )


def test_a_listening_descriptor_0_is_emptied() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = in_child(
            "assert inherited.is_listening(0)\n"
            "inherited.empty_stdin()\n"
            "assert os.readlink('/proc/self/fd/0') == os.devnull\n"
            "assert os.get_inheritable(0)\n"
            "assert os.read(0, 1) == b''",
            stdin=listener.fileno(),
        )
    assert done.returncode == 0, done.stderr


def test_any_other_descriptor_0_is_kept() -> None:
    done = in_child(
        "before = os.fstat(0)\ninherited.empty_stdin()\nassert os.path.samestat(before, os.fstat(0))",
        stdin=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2), (0, 2)])
def test_closed_streams_are_filled(closed: tuple[int, ...]) -> None:
    done = in_child(
        f"for fd in {closed!r}:\n"
        "    os.close(fd)\n"
        "inherited.fill_streams()\n"
        f"for fd in {closed!r}:\n"
        "    assert os.readlink(f'/proc/self/fd/{fd}') == os.devnull\n"
        "    assert os.get_inheritable(fd)\n"
        "assert socket.socket().fileno() > 2\n"
    )
    assert done.returncode == 0, done.stderr


# Servers

LAUNCHER = """
import fcntl, os, socket, sys
addresses, names, command = eval(sys.argv[1]), sys.argv[2], sys.argv[3:]
first = 3 if names else 0
for place, address in enumerate(addresses):
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.listen()
    high = fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 50)  # no number that another one is to have
    sock.close()
    os.dup2(high, first + place)
if names:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(addresses)), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""
"""Does what systemd does between fork and exec, or where there are no names what spawn-fcgi does."""


class Activated(Server):
    """``gateways serve`` started by a program that has the sockets; ``command`` makes that program's command line."""

    name = "gateways"

    def __init__(self, directory: Path, command: Callable[[list[str]], list[str]], marker: str = " is ready") -> None:
        (directory / "site_.py").write_text(APP)
        serve = [sys.executable, "-m", "gateways", "serve", "site_:app", "--chdir", str(directory), "--control", "off"]
        super().__init__(directory, command(serve))
        self.marker = marker

    def ready(self) -> bool:
        return self.marker in self.text()


def launched(directory: Path, addresses: Sequence[PeerAddress], names: str) -> Activated:
    """gateways with sockets at these addresses: by their names from descriptor 3 on, or without names descriptor 0."""
    return Activated(directory, lambda serve: [sys.executable, "-c", LAUNCHER, repr(addresses), names, *serve])


def ask(address: PeerAddress, protocol: str) -> dict[str, Any]:
    """What the application sees of one request."""
    with Peer(address, protocol) as peer:
        peer.send(request(protocol, "/shop"))
        answer = peer.answer()
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    assert found["path"] == "/shop"
    return found


@pytest.fixture
def directory() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


def test_a_server_with_sockets_of_systemd(directory: Path) -> None:
    port, path = free_port(), str(directory / "socket")
    with running(launched(directory, [(LOOPBACK, port), path], "scgi.socket:fastcgi-main")) as server:
        assert ask((LOOPBACK, port), "scgi")["names"] == []
        assert ask(path, "fastcgi")["names"] == []
        assert "fastcgi on fd:4, scgi on fd:3" in server.text()
        assert server.stop() == 0
    assert Path(path).is_socket(), "the path is systemd's"


def test_a_passed_socket_that_no_listener_means_is_warned_of(directory: Path) -> None:
    port, other, path = free_port(), free_port(), str(directory / "socket")
    server = launched(directory, [path, (LOOPBACK, port)], "fastcgi:http")
    server.argv += ["--http", str(other)]
    with running(server):
        ask((LOOPBACK, other), "http")
        assert f"was passed as fd:3 ({path}), fd:4 (127.0.0.1:{port}): listeners are named" in server.text()


def test_a_passed_socket_may_be_named_by_where_it_listens(directory: Path) -> None:
    port, path = free_port(), str(directory / "socket")
    server = launched(directory, [path, (LOOPBACK, port)], "gateways.socket:gateways.socket")
    server.argv += ["--scgi", path, "--http", str(port)]
    with running(server):
        ask(path, "scgi")
        ask((LOOPBACK, port), "http")
        assert "scgi on fd:3, http on fd:4" in server.text()
        assert "WARNING nobody" not in server.text()
        assert server.stop() == 0
    assert Path(path).is_socket(), "the path is systemd's"


def test_the_secret_is_in_no_environment(directory: Path) -> None:
    """Not in that either which /proc shows: a file that an application can be talked into reading."""
    port = free_port()
    server = Activated(directory, lambda serve: ["env", "GATEWAYS_SECRET=battery-staple", "OTHER=1", *serve])
    server.argv += ["--http", str(port)]
    with running(server), Peer((LOOPBACK, port)) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nGateways-Secret: battery-staple\r\nConnection: close\r\n\r\n")
        answer = peer.answer()
        assert answer.status == 200
        found = json.loads(answer.body)
        assert (found["names"], found["secrets"]) == ([], 0)


def test_a_server_with_descriptor_0(directory: Path) -> None:
    port = free_port()
    with running(launched(directory, [(LOOPBACK, port)], "")) as server:
        assert "fastcgi on fd:0" in server.text()
        ask((LOOPBACK, port), "fastcgi")
        assert server.stop() == 0


def test_programs_that_the_application_starts_do_not_get_descriptor_0(directory: Path) -> None:
    port = free_port()
    with running(launched(directory, [(LOOPBACK, port)], "")):
        assert ask((LOOPBACK, port), "fastcgi")["stdin"] == os.devnull


def test_a_name_without_a_protocol_is_a_mistake(directory: Path) -> None:
    server = launched(directory, [str(directory / "socket")], "gateways.socket")
    done = subprocess.run(server.argv, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("gateways: systemd has passed descriptor 3, called 'gateways.socket', and a socket's")
    assert done.stderr.count("\n") == 1


def test_systemd_socket_activate(directory: Path) -> None:
    program = require("systemd-socket-activate")
    port = free_port()

    def command(serve: list[str]) -> list[str]:
        return [program, "--listen", f"127.0.0.1:{port}", "--fdname", "http-trial", *serve]

    with running(Activated(directory, command, "Listening on")) as server:  # it starts gateways for the first request
        assert ask((LOOPBACK, port), "http")["names"] == []
        assert "http on fd:3" in server.text()


def test_spawn_fcgi(directory: Path) -> None:
    program = shutil.which("spawn-fcgi")
    if program is None:  # a convenience, and no server of ours: what it does is tested without it too
        pytest.skip("spawn-fcgi is not installed")
    port = free_port()
    server = Activated(directory, lambda serve: [program, "-n", "-a", LOOPBACK, "-p", str(port), "--", *serve])
    with running(server):
        ask((LOOPBACK, port), "fastcgi")
        assert "fastcgi on fd:0" in server.text()
        assert server.stop() == 0


def test_lighttpd_starts_it_by_bin_path(directory: Path) -> None:
    program = require("lighttpd")
    port = free_port()
    folder = directory / "lighttpd"
    folder.mkdir()

    def command(serve: list[str]) -> list[str]:
        (folder / "conf").write_text(
            'server.modules = ("mod_fastcgi")\n'
            f'server.document-root = "{folder}"\n'
            f'server.bind = "127.0.0.1"\nserver.port = {port}\n'
            'fastcgi.server = ("/" => (("bin-path" => '
            f'"{" ".join(serve)}", "socket" => "{folder}/socket", "max-procs" => 1, "check-local" => "disable", '
            '"fix-root-scriptname" => "enable")))\n'
        )
        return [program, "-D", "-f", str(folder / "conf")]

    with running(Activated(directory, command)) as server:
        wait_until(lambda: accepts(port), "lighttpd listens")
        ask((LOOPBACK, port), "http")
        assert "fastcgi on fd:0" in server.text()
        (gateways,) = set(map(int, re.findall(r"\[(\d+)\] INFO gateways", server.text())))
        server.stop()
        wait_until(lambda: gone(gateways), "gateways has ended with lighttpd")
