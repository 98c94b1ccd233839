"""``gateways status``: the table, the JSON, and which server is asked."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways import cli
from gateways.cli import remote
from gateways.server.control import ControlServer, default_path
from tests.server.fake_master import FakeHandler, Loop, own_places, status_document

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
def path(handler: FakeHandler, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The control socket of a server that runs, where it is found by itself."""
    with own_places() as places:
        monkeypatch.delenv("GATEWAYS_CONTROL", raising=False)
        monkeypatch.setenv("XDG_RUNTIME_DIR", places)
        server = ControlServer(default_path(12, places), handler)
        with Loop(server):
            yield server.path


def test_the_table(path: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(["status"]) == 0
    assert capsys.readouterr().out == (
        "shop:app, pid 12, gateways 0.1.0 (CPython 3.11.2, plain)\n"
        "state     running, up for 1h02m, generation 1\n"
        "workers   2 of 2 ready, static, 2 threads each\n"
        "busy      1 of 4 threads, 13% of their time\n"
        "requests  28, 4 timed out, 5 slow\n"
        "times     half within 5ms, 99 % over 60s, mean 17.6s\n"
        "queued    half within 5ms, 99 % within 5ms, mean 2ms\n"
        "replaced  1 crash, 2 requests\n"
        "reloads   3, 1 failed\n"
        "listener  fastcgi on /run/shop.sock, 6 of 1024 waiting\n"
        "listener  http on 127.0.0.1:8000\n"
        "\n"
        "WORKER  STATE    FOR  REQUESTS  MEMORY  REQUEST\n"
        "13      ready  1h02m        14    8.0M  generation 1\n"
        "  0     busy    0.2s         7          fastcgi GET /xxxxxxxxxxxxxxxxxxxxxxxx...\n"
        "  1     idle     12s         7\n"
        "14      ready  1h02m        14       -  generation 1\n"
        "  0     idle     12s         7\n"
        "  1     idle     12s         7\n"
    )


def test_json(path: str, capsys: Capture, handler: FakeHandler) -> None:
    handler.document["app"] = "\x1b\x7f\u20ac\x9b"
    assert cli.run(["status", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == handler.document
    assert out.isascii()
    assert "\x1b" not in out
    assert "\x7f" not in out


def test_text_of_others_is_harmless(path: str, capsys: Capture, handler: FakeHandler) -> None:
    evil = "\x1b]0;owned\x07\r\nGET /\x9b2J\x7f"
    handler.document["app"] = handler.document["version"] = handler.document["state"] = evil
    handler.document["pool"] = evil
    handler.document["restarts"] = {evil: 1}
    handler.document["listeners"] = [{"protocol": evil, "address": evil, "queue": 1, "backlog": 1}]
    for worker in handler.document["workers"]:
        worker["state"] = evil
        for thread in worker["threads"]:
            thread.update(protocol=evil, request=evil)
    for command in ("status", "top"):
        assert cli.run([command]) == 0
        out = capsys.readouterr().out
        assert "\\x1b]0;owned\\x07" in out
        assert all(character == "\n" or character.isprintable() for character in out)


# Which server


def test_control_by_option_and_by_variable(path: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, variable in (
        (["--control", path], None),
        (["--control", path], "/nowhere"),
        ([], path),
        (["--pid", "12"], "/nowhere"),
    ):
        if variable:
            monkeypatch.setenv("GATEWAYS_CONTROL", variable)
        assert cli.run(["status", *arguments]) == 0
        assert "shop:app, pid 12" in capsys.readouterr().out


def test_control_of_the_server_s_file(
    path: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, other = tmp_path / "shop.toml", tmp_path / "other.toml"
    config.write_text(f'app = "shop:app"\nroot = "/srv"\ncontrol = "{path}"')
    other.write_text('control = "/nowhere"')
    assert cli.run(["status", "--config", str(config)]) == 0
    assert cli.run(["status", "--config", str(other)]) == 2
    assert "no server is listening on the control socket /nowhere" in capsys.readouterr().err
    assert cli.run(["status", "--config", str(other), "--control", path]) == 0
    assert cli.run(["status", "--config", str(other), "--pid", "12"]) == 0
    monkeypatch.setenv("GATEWAYS_CONFIG", str(other))
    assert cli.run(["status"]) == 2
    assert cli.run(["status", "--config", str(config)]) == 0
    other.write_text("workers = 2")
    assert cli.run(["status"]) == 0
    other.write_text("control = 2")
    capsys.readouterr()
    assert cli.run(["status"]) == 2
    assert capsys.readouterr().err.startswith(f"gateways: control in {other}: ")
    monkeypatch.setenv("GATEWAYS_CONFIG", "/nowhere.toml")
    assert cli.run(["status"]) == 2
    assert capsys.readouterr().err == (
        "gateways: cannot read the configuration file /nowhere.toml: No such file or directory\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--control", "/nowhere"], "no server is listening on the control socket /nowhere; is it running?"),
        (["--control", "off"], "GATEWAYS_CONTROL is off: a server without a control socket cannot be asked"),
        (["--pid", "99"], "no server with the pid 99 is running for this user"),
        (["--pid", "0"], "Invalid value for '--pid'"),
    ],
)
@pytest.mark.parametrize("command", ["status", "top", "reload", "stop", "reopen", "scale 2"])
def test_no_server_is_a_mistake(path: str, capsys: Capture, command: str, arguments: list[str], sentence: str) -> None:
    assert cli.run([*command.split(), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gateways: {sentence}")
    assert err.count("\n") == 1


def test_several_servers(path: str, capsys: Capture) -> None:
    handler = FakeHandler()
    handler.document = status_document(app="blog:app")
    with Loop(ControlServer(path.replace("12.sock", "13.sock"), handler)):
        assert cli.run(["status"]) == 2
        assert "several servers are running: 12 (shop:app), 13 (blog:app)" in capsys.readouterr().err
        assert cli.run(["status", "--pid", "13"]) == 0
        assert "blog:app" in capsys.readouterr().out


def test_what_goes_wrong_at_the_server_is_no_mistake(
    path: str, capsys: Capture, handler: FakeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler.failure = LookupError("a bug")
    assert cli.run(["status"]) == 1
    assert capsys.readouterr().err == "gateways: the server failed at this; its log has the reason\n"
    monkeypatch.setattr(remote.ask_once, "__defaults__", (0.05,))
    with own_places() as places, contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(f"{places}/s")
        sock.listen()
        assert cli.run(["status", "--control", f"{places}/s"]) == 1
        assert capsys.readouterr().err == "gateways: the server has not done this within 0.05 s: status\n"


@pytest.mark.parametrize("command", ["status", "top", "reload", "stop", "reopen", "scale"])
def test_the_help_loads_neither_server_nor_extras(command: str) -> None:
    code = (
        f"import sys; from gateways.cli import run; assert run(['{command}', '--help']) == 0; "
        "sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    loaded = set(done.stderr.split())
    assert not {name for name in loaded if name.startswith(("rich", "prometheus_client", "ssl", "asyncio"))}
    assert not loaded & {"gateways.server.master", "gateways.server.pool", "gateways.server.metrics"}
    assert max(map(len, done.stdout.splitlines())) <= 80
