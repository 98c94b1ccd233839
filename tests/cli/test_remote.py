"""``gateways reload``, ``stop``, ``reopen`` and ``scale``: what the server is told, what is printed, the exit code."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from gateways import cli
from gateways.errors import ConfigError
from gateways.server.control import ControlServer
from tests.server.fake_master import FakeHandler, Loop, own_places
from tests.server.peers import SECONDS
from tests.server.pools import within

Capture = pytest.CaptureFixture[str]


class Running:
    """A server, and a command line that runs beside the test."""

    def __init__(self, server: ControlServer, handler: FakeHandler, loop: Loop) -> None:
        self.server = server
        self.handler = handler
        self.loop = loop
        self.codes: list[int] = []

    def start(self, *arguments: str) -> threading.Thread:
        def run() -> None:
            self.codes.append(cli.run([*arguments, "--control", self.server.path]))

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def finish(self, thread: threading.Thread) -> int:
        thread.join(SECONDS)
        return self.codes.pop()

    def run(self, *arguments: str) -> int:
        return self.finish(self.start(*arguments))


@pytest.fixture
def running() -> Iterator[Running]:
    handler = FakeHandler()
    with own_places() as places:
        server = ControlServer(f"{places}/s", handler)
        with Loop(server) as loop:
            yield Running(server, handler, loop)


def test_reload_waits_for_the_new_workers(running: Running, capsys: Capture) -> None:
    thread = running.start("reload")
    within(lambda: running.loop.do(running.server.waiting), "the server was asked")
    assert thread.is_alive()
    assert capsys.readouterr().out == ""
    running.loop.do(lambda: running.server.reloaded(None))
    assert running.finish(thread) == 0
    assert capsys.readouterr() == ("reloaded\n", "")


def test_reload_to_broken_code(running: Running, capsys: Capture) -> None:
    thread = running.start("reload", "--timeout", "1h")
    within(lambda: running.loop.do(running.server.waiting), "the server was asked")
    running.loop.do(lambda: running.server.reloaded("shop.py, line 3:\n  imprt\x1b[2J os\nSyntaxError"))
    assert running.finish(thread) == 1
    assert capsys.readouterr() == ("", "gateways: shop.py, line 3:\n  imprt\\x1b[2J os\nSyntaxError\n")


def test_reload_of_a_server_that_stops(running: Running, capsys: Capture) -> None:
    running.handler.failure = ConfigError("the server is stopping")
    assert running.run("reload") == 1
    assert capsys.readouterr() == ("", "gateways: the server is stopping\n")


def test_the_server_ends_within_a_reload(running: Running, capsys: Capture) -> None:
    thread = running.start("reload")
    within(lambda: running.loop.do(running.server.waiting), "the server was asked")
    running.loop.end()
    assert running.finish(thread) == 1
    assert capsys.readouterr().err == "gateways: the server ended before the reload was done\n"


def test_a_reload_that_takes_too_long(running: Running, capsys: Capture) -> None:
    assert running.run("reload", "--timeout", "50ms") == 1
    assert capsys.readouterr().err == "gateways: the server has not done this within 0.05 s: reload\n"
    within(lambda: not running.loop.do(running.server.waiting), "nobody waits any more")


def test_stop_returns_when_the_server_has_ended(running: Running, capsys: Capture) -> None:
    thread = running.start("stop")
    within(lambda: running.handler.calls == ["stop"], "the server was asked")
    assert thread.is_alive()
    running.loop.end()
    assert running.finish(thread) == 0
    assert capsys.readouterr() == ("stopped\n", "")


def test_stop_of_a_server_that_takes_too_long(running: Running, capsys: Capture) -> None:
    assert running.run("stop", "--timeout", "0.05") == 1
    assert capsys.readouterr().err == "gateways: the server has not done this within 0.05 s: stop\n"


def test_reopen(running: Running, capsys: Capture) -> None:
    assert running.run("reopen") == 0
    assert running.handler.calls == ["reopen"]
    assert capsys.readouterr() == ("reopened\n", "")
    running.handler.failure = ConfigError("cannot open access.log: Permission denied")
    assert running.run("reopen") == 1
    assert capsys.readouterr() == ("", "gateways: cannot open access.log: Permission denied\n")


def test_scale(running: Running, capsys: Capture) -> None:
    assert running.run("scale", "3") == 0
    assert capsys.readouterr() == ("workers: 3\n", "")
    assert running.run("scale", "9") == 1
    assert capsys.readouterr() == ("", "gateways: there is room for 8 workers; start it with more --workers\n")
    assert running.handler.calls == ["scale 3", "scale 9"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["scale"],
        ["scale", "0"],
        ["scale", "many"],
        ["reload", "--timeout", "0"],
        ["stop", "--timeout", "soon"],
        ["stop", "x"],
    ],
)
def test_a_mistake_of_the_command_line(running: Running, capsys: Capture, arguments: list[str]) -> None:
    assert running.run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gateways: ")
    assert running.handler.calls == []


def test_a_server_that_breaks_off(capsys: Capture) -> None:
    import socket

    with own_places() as places, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{places}/s")
        listener.listen()

        def serve(answer: bytes) -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(answer)

        for command, answer, sentence in (
            ("reopen", b"", "the server ended before it answered"),
            ("stop", b"", "the server ended before it answered"),
            ("stop", b'{"ok": true', f"the server at {places}/s ended in the middle of an answer"),
            ("reopen", b'{"ok": false}\n', "the server said no"),
        ):
            thread = threading.Thread(target=serve, args=(answer,))
            thread.start()
            assert cli.run([command, "--control", f"{places}/s"]) == 1
            thread.join(SECONDS)
            assert capsys.readouterr().err == f"gateways: {sentence}\n"
