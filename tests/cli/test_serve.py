"""``gateways serve``: from the command line to the settings that the master gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gateways import cli
from gateways.server.address import Address
from gateways.settings import SETTINGS, Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Put a master in place that notes the settings and returns 7, and take GATEWAYS_* away."""
    import os

    for name in [name for name in os.environ if name.startswith("GATEWAYS_")]:
        monkeypatch.delenv(name)
    calls: list[Settings] = []

    def serve(settings: Settings) -> int:
        calls.append(settings)
        return 7

    master = ModuleType("gateways.server.master")
    vars(master)["serve"] = serve
    monkeypatch.setitem(sys.modules, "gateways.server.master", master)
    return calls


def tcp(port: int) -> Address:
    return Address("tcp", "127.0.0.1", port)


def test_the_whole_way(served: list[Settings]) -> None:
    arguments = (
        "serve shop.wsgi:application --fastcgi /run/shop.sock --scgi 4000 --uwsgi 3031 --http 8000 --http 8001 "
        "--workers 2 --threads 4 --mount /shop/ --head-timeout 500ms --max-body-bytes 1M --uwsgi-modifier30"
    )
    assert cli.run(arguments.split()) == 7
    (settings,) = served
    assert settings.app == "shop.wsgi:application"
    assert settings.listeners == (
        ("fastcgi", Address("unix", path="/run/shop.sock")),
        ("scgi", tcp(4000)),
        ("uwsgi", tcp(3031)),
        ("http", tcp(8000)),
        ("http", tcp(8001)),
    )
    assert (settings.workers, settings.threads, settings.mount) == (2, 4, "/shop")
    assert settings.timeouts.head == 0.5
    assert settings.limits.body_bytes == 1_048_576
    assert settings.uwsgi_modifier30 is True


def test_command_line_environment_and_file(
    served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gateways.toml"
    config.write_text('app = "shop:app"\nthreads = 2\nworkers = 2\nuwsgi-modifier30 = true\n')
    monkeypatch.setenv("GATEWAYS_WORKERS", "3")
    assert cli.run(["serve", "--config", str(config), "--no-uwsgi-modifier30"]) == 7
    assert (served[0].app, served[0].threads, served[0].workers) == ("shop:app", 2, 3)
    assert served[0].uwsgi_modifier30 is False
    assert served[0].sources["uwsgi-modifier30"] == "--uwsgi-modifier30"


def test_every_setting_is_an_option(served: list[Settings], tmp_path: Path) -> None:
    values = {"ADDR": "9000", "MODE": "600", "OWNER": ":0", "PREFIX": "/p", "DIR": str(tmp_path), "LEVEL": "debug"}
    for setting in SETTINGS:
        if setting.positional:
            continue
        value = [values.get(setting.metavar, "9")] if setting.metavar else []
        assert cli.run(["serve", "shop:app", setting.option, *value]) == 7, setting.name
        assert served[-1].sources[setting.name] == setting.option


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "gateways: no application given: name it as package.module:attribute, for example: gateways serve shop"),
        (["app.py"], "gateways: 'app.py' names a file, and an application is named by its module: did you mean app:"),
        (["shop:app", "--workers", "0"], "gateways: --workers: '0' is not a whole number from 1 to 1024"),
        (["shop:app", "--http", "localhost"], "gateways: --http: 'localhost' is not an address: there is no port"),
        (["shop:app", "--config", "no.toml"], "gateways: cannot read the configuration file no.toml: No such file"),
    ],
)
def test_a_mistake_is_one_sentence(
    served: list[Settings], capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert cli.run(["serve", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert served == []


def test_the_help_is_one_screen_with_a_line_for_each_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    for setting in SETTINGS:
        if not setting.positional:
            (line,) = [line for line in lines if line.startswith(f"  {setting.option} ")]
            assert setting.help in line
            assert not setting.shown or line.endswith(f"[{setting.shown}]")
    headings = [line.rstrip(":") for line in lines if line and not line.startswith((" ", "Usage"))]
    assert headings == ["Application", "Listen", "Workers", "Timeouts", "Limits", "General"]


def test_the_help_loads_no_server() -> None:
    code = (
        "import sys; from gateways.cli import run; assert run(['serve', '--help']) == 0; "
        "sys.stderr.write(' '.join(name for name in sys.modules if name.startswith('gateways.server')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    assert set(done.stderr.split()) <= {"gateways.server", "gateways.server.address"}
