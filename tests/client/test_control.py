"""The client of the control socket, against real sockets: a server that answers, and others that do not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateways.client.control import Live, call, find, live_servers
from gateways.errors import ConfigError, PeerClosed
from gateways.server.control import ControlServer, default_path
from tests.server.fake_master import FakeHandler, Loop, other_user, own_places, status_document
from tests.server.peers import SECONDS

Serve = Callable[[int, str], str]
"""Starts a server with this pid and application; returns the path of its control socket."""


@pytest.fixture
def places() -> Iterator[str]:
    with own_places() as directory:
        yield directory


@pytest.fixture
def serve(places: str) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(pid: int, app: str) -> str:
            handler = FakeHandler()
            handler.document = status_document(pid=pid, app=app)
            path = default_path(pid, places)
            stack.enter_context(Loop(ControlServer(path, handler)))
            return path

        yield start


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """Starts who sends these bytes to one peer, whatever it asks, and closes; without bytes it says nothing."""
    with contextlib.ExitStack() as stack:

        def start(answer: bytes) -> str:
            directory = stack.enter_context(own_places())
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(f"{directory}/s")
            sock.listen(1)
            if answer:
                thread = threading.Thread(target=reply, args=(sock, answer))
                thread.start()
                stack.callback(thread.join, SECONDS)
            return f"{directory}/s"

        yield start


def reply(listener: socket.socket, answer: bytes) -> None:
    peer, _ = listener.accept()
    with peer, contextlib.suppress(ConnectionError):
        peer.recv(1000)
        peer.sendall(answer)


# One command


def test_one_answer(serve: Serve) -> None:
    (answer,) = call(serve(12, "shop:app"), "status", SECONDS)
    assert answer["status"]["app"] == "shop:app"


def test_arguments_and_a_refusal(serve: Serve) -> None:
    path = serve(12, "shop:app")
    assert list(call(path, "scale", SECONDS, workers=3)) == [{"ok": True, "workers": 3}]
    (answer,) = call(path, "scale", SECONDS, workers=9)
    assert answer["ok"] is False


def test_answers_come_one_by_one(places: str) -> None:
    server = ControlServer(f"{places}/s", FakeHandler())
    with Loop(server) as loop, contextlib.closing(call(server.path, "reload", SECONDS)) as answers:
        assert next(answers) == {"ok": True, "event": "reloading"}
        loop.do(lambda: server.reloaded("no module"))
        assert list(answers) == [{"ok": False, "error": "no module"}]


def test_an_answer_of_many_pieces(places: str) -> None:
    handler = FakeHandler()
    handler.document = {"long": "\n\x1b" * 1_000_000}
    with Loop(ControlServer(f"{places}/s", handler)):
        assert list(call(f"{places}/s", "status", SECONDS)) == [{"ok": True, "status": handler.document}]


def test_two_answers_in_one_piece(stranger: Callable[[bytes], str]) -> None:
    path = stranger(b'{"ok": true}\n{"ok": false, "error": "\\u001b"}\n')
    assert list(call(path, "stop", SECONDS)) == [{"ok": True}, {"ok": False, "error": "\x1b"}]


def test_a_refusal_that_comes_before_the_request_is_read(places: str) -> None:
    server = ControlServer(f"{places}/s", FakeHandler())
    with Loop(server):
        (answer,) = call(server.path, "x" * 3_000_000, SECONDS)
        assert answer == {"ok": False, "error": "a request is at most 65536 bytes long"}


@pytest.mark.parametrize("make", ["nothing", "stale", "file", "directory", "long"])
def test_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = "s"
    if make == "long":
        path = "s" * 200
    elif make == "file":
        (tmp_path / "s").touch()
    elif make == "directory":
        (tmp_path / "s").mkdir()
    elif make == "stale":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
    with pytest.raises(ConfigError, match=r"no server is listening on the control socket s|is no control socket"):
        list(call(path, "ping", SECONDS))


def test_the_server_of_another_user(serve: Serve) -> None:
    path = serve(12, "shop:app")
    Path(path).parent.chmod(0o711)
    Path(path).parent.parent.chmod(0o711)
    with other_user(), pytest.raises(ConfigError, match="is another user's: ask as that user, or as root"):
        list(call(path, "ping", SECONDS))


def test_a_server_that_does_not_answer(stranger: Callable[[bytes], str]) -> None:
    path = stranger(b"")
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="has not answered in time"):
        list(call(path, "ping", 0.05))
    assert time.monotonic() - start < SECONDS


def test_a_backlog_that_stays_full(stranger: Callable[[bytes], str]) -> None:
    path = stranger(b"")
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(path)
        with pytest.raises(TimeoutError, match="has not answered in time"):
            list(call(path, "ping", 0.05))


def test_no_time_at_all(serve: Serve) -> None:
    with pytest.raises(TimeoutError, match="has not answered in time"):
        list(call(serve(12, "shop:app"), "ping", 0.0))


@pytest.mark.parametrize(
    "answer", [b"220 mail.example ESMTP\n", b"[]\n", b"{}\n", b'{"ok": 1}\n', b"\xff\n", b"[" * 9999 + b"\n"]
)
def test_what_answers_is_something_else(stranger: Callable[[bytes], str], answer: bytes) -> None:
    with pytest.raises(ConfigError, match="is no gateways server"):
        list(call(stranger(answer), "ping", SECONDS))


def test_the_server_ends_within_an_answer(stranger: Callable[[bytes], str]) -> None:
    with pytest.raises(PeerClosed, match="in the middle of an answer"):
        list(call(stranger(b'{"ok": tr'), "ping", SECONDS))


# Finding it


def test_the_only_server(serve: Serve, places: str) -> None:
    path = serve(12, "shop:app")
    assert find(places) == path
    assert find(places, 12) == path
    assert live_servers(places) == [Live(12, path, "shop:app")]


def test_none(places: str) -> None:
    with pytest.raises(ConfigError, match=r"no server is running for this user, .*--control PATH"):
        find(places)
    with pytest.raises(ConfigError, match="no server with the pid 12 is running"):
        find(places, 12)


def test_many(serve: Serve, places: str) -> None:
    serve(13, "blog:app")
    path = serve(9, "shop:app")
    with pytest.raises(ConfigError, match=r"several servers are running: 9 \(shop:app\), 13 \(blog:app\); choose one"):
        find(places)
    assert find(places, 9) == path


def test_what_else_lies_there(serve: Serve, places: str) -> None:
    path = serve(12, "shop:app")
    directory = Path(path).parent
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "11.sock"))
    for name in ("13.sock", "0.sock", "012.sock", "x.sock", "14.sock.old", "99999999999.sock"):
        (directory / name).touch()
    (directory / "15.sock").mkdir()
    assert find(places) == path


def test_a_server_that_does_not_answer_is_named(serve: Serve, places: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateways.client import control

    monkeypatch.setattr(control, "PROBE_SECONDS", 0.05)
    silent = default_path(7, places)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(silent)
        sock.listen()
        assert find(places) == silent
        serve(12, "shop:app")
        with pytest.raises(ConfigError, match=r"7 \(does not answer\), 12 \(shop:app\)"):
            find(places)


def test_a_directory_that_is_not_ours_alone_is_not_searched(serve: Serve, places: str) -> None:
    Path(serve(12, "shop:app")).parent.chmod(0o777)
    with pytest.raises(ConfigError, match="no server is running"):
        find(places)
