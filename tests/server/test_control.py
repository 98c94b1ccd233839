"""The control socket: what it answers, to whom, and that nobody can make it wait."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateways.errors import ConfigError
from gateways.server.control import COMMANDS, REQUEST_BYTES, ControlServer
from gateways.server.desk import PATIENCE
from tests.server.fake_master import (
    FakeClock,
    FakeHandler,
    Loop,
    ask,
    connect,
    ends,
    line,
    other_user,
    pump,
    short_directory,
)
from tests.server.pools import MemoryLog, within


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


@pytest.fixture
def path(directory: Path) -> str:
    return str(directory / "control.sock")


@pytest.fixture
def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def server(path: str, handler: FakeHandler, log: MemoryLog) -> Iterator[ControlServer]:
    server = ControlServer(path, handler, log=log)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def loop(server: ControlServer) -> Iterator[Loop]:
    with Loop(server) as loop:
        yield loop


# Commands


def test_ping(path: str, loop: Loop) -> None:
    assert ask(path, b'{"command": "ping"}\n') == {"ok": True}


def test_status(path: str, loop: Loop, handler: FakeHandler) -> None:
    assert ask(path, b'{"command": "status"}\r\n') == {"ok": True, "status": handler.document}


def test_a_status_that_fills_the_socket(path: str, loop: Loop, handler: FakeHandler) -> None:
    handler.document = {"long": "\x1b\n\u20ac" * 1_000_000}
    assert ask(path, b'{"command": "status"}\n') == {"ok": True, "status": handler.document}


def test_reopen(path: str, loop: Loop, handler: FakeHandler) -> None:
    assert ask(path, b'{"command": "reopen"}\n') == {"ok": True}
    assert handler.calls == ["reopen"]


def test_scale(path: str, loop: Loop, handler: FakeHandler) -> None:
    assert ask(path, b'{"command": "scale", "workers": 3}\n') == {"ok": True, "workers": 3}
    assert ask(path, b'{"command": "scale", "workers": 9}\n') == {
        "ok": False,
        "error": "there is room for 8 workers; start it with more --workers",
    }
    assert handler.calls == ["scale 3", "scale 9"]


@pytest.mark.parametrize("value", [b"0", b"-1", b"true", b"1.5", b'"2"', b"null", b"[]", b"1e3"])
def test_scale_takes_a_number(path: str, loop: Loop, handler: FakeHandler, value: bytes) -> None:
    answer = ask(path, b'{"command": "scale", "workers": %b}\n' % value)
    assert answer == {"ok": False, "error": '"workers" is a whole number from 1 up'}
    assert handler.calls == []


@pytest.mark.parametrize(
    ("error", "last"),
    [(None, {"ok": True, "event": "reloaded"}), ("no module\nshop", {"ok": False, "error": "no module\nshop"})],
)
def test_reload_waits_for_its_end(
    path: str, loop: Loop, server: ControlServer, handler: FakeHandler, error: str | None, last: dict[str, Any]
) -> None:
    with connect(path) as one, connect(path) as two:
        for sock in (one, two):
            sock.sendall(b'{"command": "reload"}\n')
            assert line(sock) == {"ok": True, "event": "reloading"}
        within(lambda: handler.calls == ["reload", "reload"], "both were heard")
        assert len(loop.do(server.waiting)) == 2
        assert loop.do(server.deadline) is None
        loop.do(lambda: server.reloaded(error))
        for sock in (one, two):
            assert line(sock) == last
            assert ends(sock)
    assert loop.do(server.waiting) == []


def test_reload_that_ends_at_once(path: str, server: ControlServer, handler: FakeHandler) -> None:
    class Quick:
        status, reopen, stop, scale = handler.status, handler.reopen, handler.stop, handler.scale

        def reload(self) -> None:
            server.reloaded(None)

    server.handler = Quick()
    with connect(path) as sock:
        sock.sendall(b'{"command": "reload"}\n')
        pump(server)
        assert [line(sock), line(sock)] == [{"ok": True, "event": "reloading"}, {"ok": True, "event": "reloaded"}]
        assert ends(sock)


def test_reload_that_cannot_be(path: str, loop: Loop, server: ControlServer, handler: FakeHandler) -> None:
    handler.failure = ConfigError("the server is stopping")
    with connect(path) as sock:
        sock.sendall(b'{"command": "reload"}\n')
        assert line(sock) == {"ok": True, "event": "reloading"}
        assert line(sock) == {"ok": False, "error": "the server is stopping"}
        assert ends(sock)
    assert loop.do(server.waiting) == []


def test_stop_is_answered_and_the_connection_stays_until_the_end(path: str, loop: Loop, handler: FakeHandler) -> None:
    with connect(path) as sock:
        sock.sendall(b'{"command": "stop"}\n')
        assert line(sock) == {"ok": True, "event": "stopping"}
        within(lambda: handler.calls == ["stop"], "it was heard")
        assert select.select([sock], [], [], 0.0)[0] == []
        loop.end()
        assert ends(sock)
    assert not Path(path).exists()


def test_who_half_closes_is_still_answered(path: str, loop: Loop, server: ControlServer) -> None:
    with connect(path) as sock:
        sock.sendall(b'{"command": "reload"}\n')
        sock.shutdown(socket.SHUT_WR)
        assert line(sock)["event"] == "reloading"
        rounds = loop.rounds
        loop.do(lambda: server.reloaded(None))
        assert line(sock)["event"] == "reloaded"
        assert ends(sock)
        assert loop.rounds - rounds < 20, "the loop spins"


def test_the_end_of_file_ends_the_line(path: str, loop: Loop) -> None:
    with connect(path) as sock:
        sock.sendall(b'{"command": "ping"}')
        sock.shutdown(socket.SHUT_WR)
        assert line(sock) == {"ok": True}
        assert ends(sock)


def test_what_follows_the_line_does_not_count(path: str, loop: Loop, handler: FakeHandler) -> None:
    assert ask(path, b'{"command": "ping"}\n{"command": "stop"}\n') == {"ok": True}
    assert handler.calls == []


def test_byte_by_byte(path: str, loop: Loop) -> None:
    with connect(path) as sock:
        for byte in b'{"command": "ping"}\n':
            sock.sendall(bytes([byte]))
        assert line(sock) == {"ok": True}


def test_a_bug_costs_its_connection(path: str, loop: Loop, handler: FakeHandler, log: MemoryLog) -> None:
    handler.failure = LookupError("a bug")
    for command in ("status", "reopen"):
        answer = ask(path, json.dumps({"command": command}).encode() + b"\n")
        assert answer == {"ok": False, "error": "the server failed at this; its log has the reason"}
    assert [str(error) for error in log.failures] == ["a bug", "a bug"]
    handler.failure = None
    handler.document = {"never": float("nan")}  # which is no JSON
    assert ask(path, b'{"command": "status"}\n')["ok"] is False
    assert ask(path, b'{"command": "ping"}\n') == {"ok": True}


# Garbage


@pytest.mark.parametrize(
    "request_line",
    [
        b"",
        b"status",
        b"[]",
        b'"status"',
        b"{}",
        b'{"command": 1}',
        b'{"command": null}',
        b"GET / HTTP/1.1\r",
        b"\x00\xff\xfe",
        b"\xff\xfe{\x00}\x00",
        b"[" * 60_000,
        b'{"command": ' * 5_000,
        b"9" * 60_000,
        b'{"command": "ping"',
    ],
)
def test_what_is_no_request(path: str, loop: Loop, handler: FakeHandler, request_line: bytes) -> None:
    answer = ask(path, request_line + b"\n")
    assert answer == {
        "ok": False,
        "error": 'a request is one line of JSON with a command, as in {"command": "status"}',
    }
    assert handler.calls == []


@pytest.mark.parametrize(
    ("request_line", "words"),
    [
        (b'{"command": "Status"}', "there is no command 'Status'; there are ping, status, reload, reopen, stop, scale"),
        (b'{"command": "\\ud800\\n"}', "there is no command '\\ud800\\n'"),
        (b'{"command": "stop", "now": true}', "the command stop comes with nothing else"),
        (b'{"command": "scale"}', 'the command scale comes with "workers"'),
        (b'{"command": "scale", "workers": 1, "x": 1}', 'the command scale comes with "workers"'),
    ],
)
def test_what_is_no_command(path: str, loop: Loop, handler: FakeHandler, request_line: bytes, words: str) -> None:
    answer = ask(path, request_line + b"\n")
    assert answer["ok"] is False
    assert words in answer["error"]
    assert handler.calls == []


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long(path: str, loop: Loop, end: bytes) -> None:
    answer = ask(path, b" " * REQUEST_BYTES + b"{" + end)
    assert answer == {"ok": False, "error": "a request is at most 65536 bytes long"}


def test_a_line_of_the_longest_kind(path: str, loop: Loop) -> None:
    request = b'{"command": "ping"}'
    assert ask(path, request.ljust(REQUEST_BYTES) + b"\n") == {"ok": True}


def test_a_mebibyte_without_a_newline(path: str, loop: Loop) -> None:
    with connect(path) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"x" * 1_048_576)
        assert line(sock) == {"ok": False, "error": "a request is at most 65536 bytes long"}
        assert ends(sock)
    assert ask(path, b'{"command": "ping"}\n') == {"ok": True}


# Time


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def timed(path: str, handler: FakeHandler, clock: FakeClock) -> Iterator[ControlServer]:
    """A server without a loop, whose time is the test's."""
    server = ControlServer(path, handler, clock)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("sent", [b"", b'{"command": "pi'])
def test_nothing_whole_in_time(path: str, timed: ControlServer, clock: FakeClock, sent: bytes) -> None:
    assert timed.deadline() is None
    with connect(path) as sock:
        sock.sendall(sent)
        pump(timed)
        assert timed.deadline() == clock.now + PATIENCE
        clock.now += PATIENCE - 0.1
        sock.sendall(b" ")
        pump(timed)  # a byte is no reason to wait longer
        timed.expire(clock.now)
        assert len(timed.visitors) == 1
        clock.now += 0.1
        timed.expire(clock.now)
        assert line(sock) == {"ok": False, "error": "no whole line came within 5 s"}
        assert ends(sock)
    pump(timed)
    assert timed.visitors == {}
    assert timed.deadline() is None


def test_who_does_not_read_the_answer(path: str, timed: ControlServer, clock: FakeClock, handler: FakeHandler) -> None:
    handler.document = {"long": "x" * 4_000_000}
    with connect(path) as sock:
        sock.sendall(b'{"command": "status"}\n')
        pump(timed)
        assert timed.deadline() == clock.now + PATIENCE
        clock.now += PATIENCE
        timed.expire(clock.now)
    assert timed.visitors == {}


def test_who_does_not_close_after_the_answer(path: str, timed: ControlServer, clock: FakeClock) -> None:
    with connect(path) as sock:
        sock.sendall(b'{"command": "ping"}\n')
        pump(timed)
        assert line(sock) == {"ok": True}
        assert ends(sock)
        deadline = timed.deadline()
        assert deadline is not None
        assert deadline <= clock.now + PATIENCE
        timed.expire(deadline)
    assert timed.visitors == {}


@pytest.mark.parametrize("command", ["reload", "stop"])
def test_who_waits_for_the_end_has_no_deadline(path: str, timed: ControlServer, clock: FakeClock, command: str) -> None:
    with connect(path) as sock:
        sock.sendall(json.dumps({"command": command}).encode() + b"\nmore")
        pump(timed)
        assert timed.deadline() is None
        clock.now += 1e6
        timed.expire(clock.now)
        assert len(timed.visitors) == 1
        assert line(sock)["ok"] is True
    pump(timed)
    assert timed.visitors == {}


def test_who_leaves_while_the_reload_runs(path: str, loop: Loop, server: ControlServer) -> None:
    with connect(path) as sock:
        sock.sendall(b'{"command": "reload"}\n')
        line(sock)
    within(lambda: loop.do(server.waiting) == [], "it is forgotten")
    loop.do(lambda: server.reloaded(None))
    assert ask(path, b'{"command": "ping"}\n') == {"ok": True}


# Who may ask


def test_only_the_owner_may_connect(path: str, loop: Loop) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with other_user(), pytest.raises(PermissionError):
        connect(path)


def test_another_user_is_refused_in_spite_of_the_mode(path: str, loop: Loop, handler: FakeHandler) -> None:
    Path(path).chmod(0o666)
    with other_user() as uid:
        sock = connect(path)
    with sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b'{"command": "stop"}\n')
        error = f"user {uid} may not control this server: only root and user {os.geteuid()} may"
        assert line(sock) == {"ok": False, "error": error}
        assert ends(sock)
    assert handler.calls == []


def test_root_may_control_the_server_of_another_user(directory: Path, handler: FakeHandler) -> None:
    directory.chmod(0o777)
    with other_user() as uid:
        server = ControlServer(str(directory / "s"), handler)
    assert server.uid == uid
    with Loop(server):
        assert ask(server.path, b'{"command": "ping"}\n') == {"ok": True}


# The path


def test_no_directory_is_made_for_a_path_that_was_named(directory: Path, handler: FakeHandler) -> None:
    with pytest.raises(ConfigError, match=rf"{directory}/run is not a directory; make it \(mkdir -p {directory}/run\)"):
        ControlServer(str(directory / "run" / "s"), handler)
    assert not (directory / "run").exists()


def test_a_relative_path_survives_chdir(directory: Path, handler: FakeHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    server = ControlServer("s", handler)
    monkeypatch.chdir("/")
    assert server.path == str(directory / "s")
    server.close()
    assert not (directory / "s").exists()


def test_a_live_socket_is_not_replaced(path: str, loop: Loop, handler: FakeHandler) -> None:
    with pytest.raises(ConfigError, match="another process is listening on"):
        ControlServer(path, handler)
    assert ask(path, b'{"command": "ping"}\n') == {"ok": True}


def test_a_stale_socket_is_replaced(path: str, handler: FakeHandler) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with Loop(ControlServer(path, handler)):
        assert ask(path, b'{"command": "ping"}\n') == {"ok": True}


def test_close_leaves_the_path_of_a_successor(path: str, handler: FakeHandler) -> None:
    server = ControlServer(path, handler)
    os.unlink(path)
    with contextlib.closing(ControlServer(path, handler)):
        server.close()
        assert Path(path).exists()
    assert not Path(path).exists()


def test_close_in_a_forked_process_takes_nothing_away(path: str, server: ControlServer) -> None:
    with connect(path) as sock:
        sock.sendall(b'{"command": "reload"}\n')
        pump(server)
        pid = os.fork()
        if pid == 0:
            server.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert Path(path).exists()
        server.reloaded(None)
        assert [line(sock)["event"], line(sock)["event"]] == ["reloading", "reloaded"]


# After an exec


def inherited(fd: int) -> socket.socket:
    """As after an exec: another object for the same socket, inheritable and blocking."""
    number = os.dup(fd)
    os.set_inheritable(number, True)
    os.set_blocking(number, True)
    return socket.socket(fileno=number)


def test_the_socket_and_those_who_wait_are_taken_over(path: str, handler: FakeHandler) -> None:
    old = ControlServer(path, handler)
    with connect(path) as waits:
        waits.sendall(b'{"command": "reload"}\n')
        pump(old)
        sock, waiting = inherited(old.fileno()), [inherited(fd) for fd in old.waiting()]
        for each in (old.sock, *(visitor.sock for visitor in old.visitors.values())):
            each.close()
        new = ControlServer(path, handler, sock=sock, waiting=waiting)
        assert not os.get_inheritable(new.fileno())
        assert not os.get_blocking(new.fileno())
        with Loop(new) as loop:
            assert ask(path, b'{"command": "ping"}\n') == {"ok": True}
            assert line(waits)["event"] == "reloading"
            loop.do(lambda: new.reloaded(None))
            assert line(waits)["event"] == "reloaded"
            assert ends(waits)
    assert not Path(path).exists()


@pytest.mark.parametrize("what", ["gone", "moved"])
def test_an_inherited_socket_without_its_path(path: str, directory: Path, handler: FakeHandler, what: str) -> None:
    old = ControlServer(path, handler)
    sock = inherited(old.fileno())
    old.sock.close()
    other = str(directory / "other.sock")
    if what == "gone":
        os.unlink(path)
        other = path
    with Loop(ControlServer(other, handler, sock=sock)):
        assert ask(other, b'{"command": "ping"}\n') == {"ok": True}
    assert sock.fileno() == -1


def test_the_commands_are_those_of_the_documentation() -> None:
    assert set(COMMANDS) == {"ping", "status", "reload", "reopen", "stop", "scale"}
