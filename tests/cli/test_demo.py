"""``gateways demo``: its settings, what it says, and the nginx that it starts and stops."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from gateways import cli
from gateways.cli import demo
from gateways.errors import ConfigError
from gateways.frontends.nginx import find_nginx
from gateways.server.address import Address, parse_address
from gateways.settings import Settings
from tests.servers import free_port, require

Serve = Callable[[Settings, Callable[[], None]], int]
Install = Callable[[Serve], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a function in the place of the master's ``serve``."""

    def put(serve: Serve) -> None:
        master = ModuleType("gateways.server.service")
        vars(master)["serve"] = serve
        monkeypatch.setitem(sys.modules, "gateways.server.service", master)

    return put


def ready(settings: Settings, on_ready: Callable[[], None]) -> int:
    on_ready()
    return 0


def test_settings() -> None:
    settings = demo.demo_settings("9000")
    assert settings.app == "gateways.apps.demo:application"
    assert settings.listeners == (("auto", Address("tcp", "127.0.0.1", 9000)),)
    assert (settings.workers, settings.threads) == (1, 4)


def test_the_default_is_port_8000_and_the_environment_does_not_matter(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Settings] = []
    monkeypatch.setenv("GATEWAYS_WORKERS", "99")

    def serve(settings: Settings, on_ready: Callable[[], None]) -> int:
        calls.append(settings)
        return 3

    install(serve)
    assert cli.run(["demo", "--no-nginx"]) == 3
    assert calls[0].listeners == (("auto", Address("tcp", "127.0.0.1", 8000)),)
    assert calls[0].workers == 1
    assert capsys.readouterr().out == ""


def test_what_to_try(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(ready)
    assert cli.run(["demo", "9000", "--no-nginx"]) == 0
    out = capsys.readouterr().out
    assert "http://127.0.0.1:9000/\n" in out
    assert "curl http://127.0.0.1:9000/env\n" in out
    for protocol in ("fastcgi", "scgi", "uwsgi"):
        assert f"location / {{ include {protocol}_params;\n" in out
        assert f"{protocol}_pass 127.0.0.1:9000; }}\n" in out
    assert max(map(len, out.splitlines())) <= 80


def test_cgi_fcgi_is_named_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/{name}")
    assert any("/opt/cgi-fcgi -bind -connect 127.0.0.1:9000" in line for line in demo.trials(parse_address("9000")))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not any("cgi-fcgi" in line for line in demo.trials(parse_address("9000")))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (":9000", "127.0.0.1:9000"),
        ("0.0.0.0:9000", "127.0.0.1:9000"),
        ("[::]:9000", "[::1]:9000"),
        ("[::1]:9000", "[::1]:9000"),
        ("/run/app.sock", "unix:/run/app.sock"),
    ],
)
def test_where_to_connect(text: str, target: str) -> None:
    assert demo.upstream(parse_address(text)) == target


def test_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(demo.trials(parse_address("./demo.sock")))
    assert any(f"curl --unix-socket {Path.cwd()}/demo.sock http://localhost/env" in line for line in lines)
    assert not any("browser" in line for line in lines)
    assert demo.demo_settings("./demo.sock").socket_mode == 0o666


@pytest.mark.parametrize("text", ["0", "fd:3", "@x"])
def test_an_address_that_nobody_could_be_told(text: str) -> None:
    with pytest.raises(ConfigError, match="takes a port or a path"):
        demo.demo_settings(text)


def test_a_path_that_nginx_would_misread() -> None:
    with pytest.raises(ConfigError, match="nginx cannot be told of"):
        demo.upstream(parse_address("/run/a b;$c"))


def test_mistakes_are_one_sentence(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def serve(settings: Settings, on_ready: Callable[[], None]) -> int:
        raise ConfigError("cannot listen on 127.0.0.1:8000: the port is in use")

    install(serve)
    assert cli.run(["demo"]) == 2
    assert cli.run(["demo", "localhost"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gateways: cannot listen on 127.0.0.1:8000: the port is in use\ngateways: 'localhost' is not")
    assert err.count("\n") == 2


def test_nginx_runs_as_long_as_the_server(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    require("nginx")
    port = free_port()
    seen: list[int] = []

    def serve(settings: Settings, on_ready: Callable[[], None]) -> int:
        on_ready()
        line = next(line for line in capsys.readouterr().out.splitlines() if line.endswith("/fastcgi/"))
        seen.append(int(line.rpartition(":")[2].partition("/")[0]))
        connection = http.client.HTTPConnection("127.0.0.1", seen[0], timeout=30)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert (response.status, response.getheader("Location")) == (302, "/fastcgi/")
        connection.close()
        raise KeyboardInterrupt  # as if the master had no handler yet

    install(serve)
    assert cli.run(["demo", str(port)]) == 130
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", seen[0])) != 0


def test_without_a_working_nginx_the_demo_goes_on(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "nginx"
    broken.write_text("#!/bin/sh\necho 'nginx: [emerg] out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_nginx() == str(broken)
    install(ready)
    assert cli.run(["demo", "9000"]) == 0
    assert capsys.readouterr().err == "gateways: nginx did not start: out of order; the demo goes on without it\n"


def test_the_real_server_behind_the_real_nginx() -> None:
    require("nginx")
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAYS_")}
    with subprocess.Popen(
        [sys.executable, "-m", "gateways", "demo", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    ) as process:
        try:
            assert process.stdout is not None
            urls = [f"http://127.0.0.1:{port}/"]
            for line in process.stdout:
                if line.startswith(" " * 12 + "http://"):
                    urls.append(line.strip())
                if line.endswith("/http/\n"):
                    break
            found = {}
            for url in urls:
                with urllib.request.urlopen(f"{url}env?q=1", timeout=30) as response:  # noqa: S310 - our own URL
                    answer = json.load(response)
                found[url.partition(":")[2].partition(":")[2].partition("/")[2]] = (
                    answer["gateways.protocol"],
                    answer["SCRIPT_NAME"],
                    answer["PATH_INFO"],
                )
            assert found == {
                "": ("http", "", "/env"),
                "fastcgi/": ("fastcgi", "/fastcgi", "/env"),
                "scgi/": ("scgi", "/scgi", "/env"),
                "uwsgi/": ("uwsgi", "/uwsgi", "/env"),
                "http/": ("http", "", "/env"),
            }
            second = subprocess.run(
                [sys.executable, "-m", "gateways", "demo", str(port)],
                check=False,
                capture_output=True,
                text=True,
                env=environ,
                timeout=60,
            )
            assert second.returncode == 2
            assert f"gateways: cannot listen on 127.0.0.1:{port}: the port is in use" in second.stderr
            assert "Traceback" not in second.stderr
        finally:
            process.send_signal(signal.SIGINT)  # not SIGKILL: nginx would stay
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    for url in urls:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(url.split(":")[2].partition("/")[0]))) != 0
