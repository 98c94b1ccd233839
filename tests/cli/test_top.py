"""``gateways top``: one picture, and many in a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gateways import cli
from gateways.cli.top import Rate, sorted_rows
from gateways.server.control import ControlServer, default_path
from tests.server.fake_master import FakeHandler, Loop, own_places, status_document
from tests.server.peers import SECONDS

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
def loop(handler: FakeHandler) -> Iterator[Loop]:
    """A server, whose loop can be ended before the test is."""
    with own_places() as places:
        server = ControlServer(default_path(12, places), handler)
        with pytest.MonkeyPatch.context() as patch, Loop(server) as loop:
            patch.setenv("GATEWAYS_CONTROL", server.path)
            yield loop


@pytest.mark.parametrize("arguments", [["--once"], []])
def test_one_picture(loop: Loop, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(["top", *arguments]) == 0
    out = capsys.readouterr().out
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0] == "shop:app, pid 12, gateways 0.1.0 (CPython 3.11.2, plain)"
    assert "state     running, up for 1h02m, generation 1" in lines
    assert "rate      0.0 a second" in lines
    assert "13      ready  1h02m        14    8.0M  generation 1" in lines
    assert any(line.startswith("  0     busy    0.2s         7          fastcgi GET /xxx") for line in lines)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out


def test_markup_in_a_request_is_text(loop: Loop, capsys: Capture, handler: FakeHandler) -> None:
    handler.document["workers"][0]["threads"][0]["request"] = "GET /[bold]x[/nothing]:smile:"
    assert cli.run(["top", "--once"]) == 0
    assert "GET /[bold]x[/nothing]:smile:" in capsys.readouterr().out


def test_the_longest_request_comes_first() -> None:
    document = status_document()
    worker = document["workers"][0]
    worker["threads"] = [
        {"thread": number, "state": state, "for": seconds, "protocol": "scgi", "request": "GET /", "requests": 0}
        for number, (state, seconds) in enumerate([("idle", 99.0), ("busy", 1.0), ("busy", 7.0), ("idle", 100.0)])
    ]
    assert [row[0].strip() for row in sorted_rows(document)][:5] == ["13", "2", "1", "3", "0"]


def test_the_rate() -> None:
    rate = Rate()
    assert rate.text(10.0, 50) == "5.0 a second"
    assert rate.text(12.0, 51) == "0.5 a second"
    assert rate.text(12.0, 51) == "-"
    assert rate.text(1.0, 3) == "-"
    assert rate.text(2.0, 7) == "4.0 a second"


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--interval", "soon"]])
def test_an_interval_that_is_none(loop: Loop, capsys: Capture, arguments: list[str]) -> None:
    assert cli.run(["top", *arguments]) == 2
    assert "Invalid value for '--interval'" in capsys.readouterr().err


def test_rich_is_missing(loop: Loop, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert cli.run(["top", "--once"]) == 2
    error = (
        "gateways: gateways top needs rich, which is not installed: "
        f"python3 -m pip --python {sys.executable} install rich\n"
    )
    assert capsys.readouterr() == ("", error)


class Terminal:
    """``gateways top`` in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.fd, inner = pty.openpty()
        environ = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateways", "top", *arguments],
            stdin=inner, stdout=inner, stderr=subprocess.PIPE, env=environ, text=True,
        )  # fmt: skip
        os.close(inner)
        self.seen = ""

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + SECONDS
        while self.seen.count(text) < times:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come: {self.seen[-500:]!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 65_536).decode()

    def close(self) -> tuple[int, str]:
        """Take what comes until it ends; return exit code and standard error."""
        try:
            while select.select([self.fd], [], [], SECONDS)[0]:
                try:
                    data = os.read(self.fd, 65_536)
                except OSError:  # EIO: the other side is closed
                    break
                if not data:
                    break
                self.seen += data.decode()
            _, errors = self.process.communicate(timeout=SECONDS)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.communicate()
            os.close(self.fd)
        return self.process.returncode, errors


def test_live_until_ctrl_c(loop: Loop, handler: FakeHandler) -> None:
    handler.document["workers"] = handler.document["workers"] * 20
    terminal = Terminal("--interval", "100ms")
    try:
        terminal.wait_for("shop:app", 2)
        terminal.wait_for("more")
        handler.document["app"] = "blog:app"
        terminal.wait_for("blog:app")
        terminal.process.send_signal(signal.SIGINT)
    finally:
        code, errors = terminal.close()
    assert (code, errors) == (0, "")
    assert "\x1b[?1049l" in terminal.seen, "the screen was not given back"


def test_the_server_ends_meanwhile(loop: Loop) -> None:
    terminal = Terminal("--interval", "100ms")
    try:
        terminal.wait_for("shop:app")
        loop.end()
    finally:
        code, errors = terminal.close()
    assert code == 2
    assert errors.startswith("gateways: no server is listening on the control socket ")
    assert errors.count("\n") == 1
