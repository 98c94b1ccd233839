"""The private nginx: what it really sends in each protocol, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.errors import ConfigError
from gateways.frontends import nginx
from gateways.frontends.nginx import PrivateNginx, configuration, find_nginx, free_port
from tests.servers import require, wait_until

SECONDS = 30.0


class Recorder:
    """A backend that takes one connection, keeps what came and closes."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.received = b""
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        self.listener.settimeout(SECONDS)
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(SECONDS)
                while b"trial-end" not in self.received:
                    block = connection.recv(65_536)
                    if not block:
                        break
                    self.received += block


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Recorder(listener)


def ask(port: int, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"X-Trial": "trial-end"})
        return connection.getresponse()


@contextlib.contextmanager
def running(target: str, wanted_port: int = 0) -> Iterator[PrivateNginx]:
    front = PrivateNginx(require("nginx"), target, wanted_port)
    front.start()
    try:
        yield front
    finally:
        front.stop()


def pairs(protocol: str, data: bytes) -> list[tuple[bytes, bytes]]:
    """The parameters of a request that has short ones only."""
    if protocol == "scgi":
        length, _, rest = data.partition(b":")
        items = rest[: int(length)].split(b"\0")[:-1]
        return list(zip(items[::2], items[1::2], strict=True))
    found = []
    if protocol == "uwsgi":
        size = int.from_bytes(data[1:3], "little")
        block, width = data[4 : 4 + size], 2
    else:  # BEGIN_REQUEST takes 16 bytes, then comes the header of the one PARAMS record
        size = int.from_bytes(data[20:22], "big")
        block, width = data[24 : 24 + size], 1
    while block:
        if width == 2:
            cut = int.from_bytes(block[:2], "little")
            name, block = block[2 : 2 + cut], block[2 + cut :]
            cut = int.from_bytes(block[:2], "little")
            value, block = block[2 : 2 + cut], block[2 + cut :]
        else:
            first, second = block[0], block[1]
            name, value = block[2 : 2 + first], block[2 + first : 2 + first + second]
            block = block[2 + first + second :]
        found.append((name, value))
    return found


@pytest.mark.parametrize("protocol", ["fastcgi", "scgi", "uwsgi"])
def test_each_location_sends_the_prefix_and_the_decoded_rest_once(recorder: Recorder, protocol: str) -> None:
    host, port = recorder.listener.getsockname()
    with running(f"{host}:{port}") as front:
        ask(front.port, f"/{protocol}/caf%C3%A9%2Fa%0Ab?q=1")
        recorder.thread.join(SECONDS)
    found = pairs(protocol, recorder.received)
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), names
    params = dict(found)
    assert params[b"SCRIPT_NAME"] == f"/{protocol}".encode()
    assert params[b"PATH_INFO"] == "/café/a\nb".encode()
    assert params[b"QUERY_STRING"] == b"q=1"
    assert params[b"REQUEST_URI"] == f"/{protocol}/caf%C3%A9%2Fa%0Ab?q=1".encode()
    assert params[b"HTTP_HOST"] == f"127.0.0.1:{front_port(params)}".encode()
    assert (b"SCGI" in params) is (protocol == "scgi")


def front_port(params: dict[bytes, bytes]) -> str:
    return params[b"SERVER_PORT"].decode()


def test_http_cuts_the_prefix_off_and_tells_it(recorder: Recorder) -> None:
    host, port = recorder.listener.getsockname()
    with running(f"{host}:{port}") as front:
        address = f"127.0.0.1:{front.port}"
        ask(front.port, "/http/caf%C3%A9?q=1")
        recorder.thread.join(SECONDS)
    lines = recorder.received.decode().split("\r\n")
    assert lines[0] == "GET /caf%C3%A9?q=1 HTTP/1.1"
    assert f"Host: {address}" in lines
    assert "X-Forwarded-Prefix: /http" in lines


@pytest.mark.parametrize("prefix", ["/fastcgi/", "/scgi/", "/uwsgi/", "/http/"])
def test_a_unix_socket(prefix: str) -> None:
    # Not in tmp_path: nginx's worker may have another user than the tests, and pytest keeps its directory closed.
    with tempfile.TemporaryDirectory(prefix="gateways-test-") as directory, socket.socket(socket.AF_UNIX) as listener:
        Path(directory).chmod(0o755)
        path = Path(directory) / "s"
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        recorder = Recorder(listener)
        with running(f"unix:{path}") as front:
            ask(front.port, prefix)
            recorder.thread.join(SECONDS)
    assert b"trial-end" in recorder.received


def test_a_prefix_without_its_slash_is_redirected() -> None:
    with running("127.0.0.1:1") as front:
        for prefix in nginx.PREFIXES:
            response = ask(front.port, prefix.rstrip("/"))
            assert (response.status, response.getheader("Location")) == (302, prefix)
        assert ask(front.port, "/").getheader("Location") == "/fastcgi/"


def test_nothing_stays_behind() -> None:
    front = PrivateNginx(require("nginx"), "127.0.0.1:1")
    front.start()
    pid, port = front.pid, front.port
    assert front._directory is not None
    directory = Path(front._directory.name)
    pid_file = directory / "nginx.pid"  # written after it has begun to listen
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() == str(pid), "nginx has written its pid")
    front.stop()
    assert not directory.exists()
    assert (front.pid, front.port) == (0, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    front.stop()


def test_a_port_that_is_taken_gives_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        with running("127.0.0.1:1", wanted) as front:
            assert front.port not in (0, wanted)


def test_the_wanted_port_is_taken_where_it_is_free() -> None:
    port = free_port(0)
    assert free_port(port) == port
    assert 0 < free_port(65_536) < 65_536


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'nginx: [emerg] bind() failed' >&2; exit 1", "nginx did not start: bind() failed"),
        ("exit 1", "nginx did not start: it said nothing"),
    ],
)
def test_an_nginx_that_does_not_start_says_why(tmp_path: Path, script: str, words: str) -> None:
    binary = tmp_path / "nginx"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    front = PrivateNginx(str(binary), "127.0.0.1:1")
    with pytest.raises(ConfigError) as caught:
        front.start()
    assert str(caught.value) == words
    assert (front.pid, front.port, front._directory) == (0, 0, None)


def test_a_binary_that_cannot_be_run() -> None:
    front = PrivateNginx("/no/such/nginx", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"nginx did not start: .*No such file"):
        front.start()
    assert front._directory is None


def test_nginx_is_found_outside_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nginx").write_text("#!/bin/sh\n")
    (tmp_path / "nginx").chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(nginx, "SBIN", (str(tmp_path),))
    assert find_nginx() == str(tmp_path / "nginx")
    monkeypatch.setattr(nginx, "SBIN", ("/nowhere",))
    assert find_nginx() is None


def test_every_path_of_the_configuration_is_relative() -> None:
    text = configuration("127.0.0.1:8001", "127.0.0.1:8000")
    directives = [line.split() for line in text.splitlines() if line.strip().endswith(";")]
    paths = [words[1] for words in directives if words[0] in ("pid", "error_log") or words[0].endswith("_path")]
    assert len(paths) == 7
    assert not any(path.startswith("/") for path in paths)
