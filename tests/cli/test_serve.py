"""``gateways serve``: from the command line to the settings that the master gets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

from gateways import cli
from gateways.server.address import Address
from gateways.settings import SETTINGS, Setting, Settings


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """What each server in the place of the real one was told of the environment; GATEWAYS_* is taken away."""
    for name in [name for name in os.environ if name.startswith("GATEWAYS_")]:
        monkeypatch.delenv(name)
    return []


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, environments: list[Mapping[str, str]]) -> list[Settings]:
    """Put a server in place that notes the settings and returns 7."""
    calls: list[Settings] = []

    def serve(settings: Settings, *, environment: Mapping[str, str], handover: str) -> int:
        calls.append(settings)
        environments.append(environment)
        return 7

    service = ModuleType("gateways.server.service")
    vars(service)["serve"] = serve
    monkeypatch.setitem(sys.modules, "gateways.server.service", service)
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
    values |= {"KIND": "ondemand", "SIZE": "9M", "URL": "/x", "N": "1", "CIDR": "127.0.0.1"}
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


@pytest.mark.parametrize("opening", ["[", "{a="])
def test_a_file_that_is_nested_too_deep_is_one_sentence_too(
    served: list[Settings], capsys: pytest.CaptureFixture[str], tmp_path: Path, opening: str
) -> None:
    file = tmp_path / "gateways.toml"
    file.write_text(f"workers = {opening * 5000}")
    assert cli.run(["serve", "shop:app", "--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert err == f"gateways: the configuration file {file} is nested too deep; settings are names and values\n"


def test_the_application_does_not_get_what_is_meant_for_the_master(
    served: list[Settings], environments: list[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("GATEWAYS_SECRET", SECRET)
    assert cli.run(["serve", "shop:app"]) == 7
    assert environments[0]["NOTIFY_SOCKET"] == "/run/systemd/notify"
    assert not {"NOTIFY_SOCKET", "GATEWAYS_SECRET"} & set(os.environ)
    assert served[0].secret == SECRET


# The help


def help_lines(capsys: pytest.CaptureFixture[str], option: str, command: str = "serve") -> list[str]:
    assert cli.run([command, option]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def headings(lines: list[str]) -> list[str]:
    return [line.rstrip(":") for line in lines if re.fullmatch(r"[A-Z][a-z]+:", line)]


def is_told(setting: Setting, lines: list[str]) -> bool:
    """The setting has exactly one line, with its help and its default."""
    found = [line for line in lines if line.startswith(f"  {setting.option} ")]
    if found:
        (line,) = found
        assert line.endswith(setting.help + (f" [{setting.shown}]" if setting.shown else ""))
    return bool(found)


def test_the_help_is_one_screen_with_the_common_options(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_lines(capsys, "--help")
    assert len(lines) <= 60
    for setting in SETTINGS:
        assert setting.positional or is_told(setting, lines) == setting.common, setting.name
    assert headings(lines) == [
        "Application", "Listen", "Workers", "Timeouts", "Security", "Logs", "Control", "General",
    ]  # fmt: skip
    assert lines[-1] == "Every option, also timeouts and limits: gateways serve --help-all"


def test_the_other_help_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_lines(capsys, "--help-all")
    for setting in SETTINGS:
        assert setting.positional or is_told(setting, lines), setting.name
    assert headings(lines) == [
        "Application", "Listen", "Workers", "Timeouts", "Limits", "Security", "Logs", "Control", "General",
    ]  # fmt: skip
    assert any(line.startswith("  --json ") for line in lines)


def test_one_help_does_not_change_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    before = help_lines(capsys, "--help")
    help_lines(capsys, "--help-all")
    assert help_lines(capsys, "--help") == before


@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_the_help_loads_no_server(option: str) -> None:
    code = (
        f"import sys; from gateways.cli import run; assert run(['serve', {option!r}]) == 0; "
        "sys.stderr.write(' '.join(name for name in sys.modules if name.startswith('gateways.server')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert set(done.stderr.split()) <= {"gateways.server", "gateways.server.address"}


# --print-config

SECRET = "correct-horse-battery"


@pytest.mark.parametrize("command", ["serve", "check"])
def test_print_config(served: list[Settings], capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    file = tmp_path / "gateways.toml"
    file.write_text('max-age = "7d"\nfastcgi = ["/run/a.sock", "9000"]\n')
    assert cli.run([command, "no.such:app", "--config", str(file), "--threads", "4", "--print-config"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert served == []
    assert [line.split()[0] for line in lines] == [setting.name for setting in SETTINGS]
    by_name = {line.split()[0]: re.split(r" {2,}", line) for line in lines}
    assert by_name["app"] == ["app", "no.such:app", "APP"]
    assert by_name["threads"] == ["threads", "4", "--threads"]
    assert by_name["max-age"] == ["max-age", "7d", f"max-age in {file}"]
    assert by_name["fastcgi"] == ["fastcgi", "/run/a.sock, 127.0.0.1:9000", f"fastcgi in {file}"]
    assert by_name["mount"] == ["mount", "default"]
    assert by_name["head-timeout"] == ["head-timeout", "30s", "default"]
    starts = {line.index(line.split()[-1]) for line in lines if line.endswith(" default")}
    assert len(starts) == 1, "the column is aligned"


@pytest.mark.parametrize("command", ["serve", "check"])
def test_print_config_as_json(served: list[Settings], capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.run([command, "shop:app", "--http", "8000", "--preload", "--print-config", "--json"]) == 0
    objects = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in objects] == [setting.name for setting in SETTINGS]
    by_name = {each.pop("name"): each for each in objects}
    assert by_name["app"] == {"value": "shop:app", "source": "APP"}
    assert by_name["http"] == {"value": ["127.0.0.1:8000"], "source": "--http"}
    assert by_name["auto"] == {"value": [], "source": "default"}
    assert by_name["preload"] == {"value": "true", "source": "--preload"}
    assert by_name["metrics"] == {"value": None, "source": "default"}
    assert served == []


def test_json_of_what() -> None:
    assert cli.run(["serve", "shop:app", "--json"]) == 2


def test_print_config_of_a_mistake(served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "shop:app", "--workers", "0", "--print-config"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "gateways: --workers: '0' is not a whole number from 1 to 1024\n")


@pytest.mark.parametrize("more", [["--print-config"], ["--print-config", "--json"], ["--help-all"], ["--json"], []])
@pytest.mark.parametrize("place", ["option", "variable", "file", "wrong file"])
def test_the_secret_is_never_shown(
    served: list[Settings],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    more: list[str],
    place: str,
) -> None:
    arguments = ["serve", "shop:app", *more]
    if place == "option":
        arguments += ["--secret", SECRET]
    elif place == "variable":
        monkeypatch.setenv("GATEWAYS_SECRET", SECRET)
    else:
        file = tmp_path / "gateways.toml"
        file.write_text(f"secret = '{SECRET}'" if place == "file" else f"secret = ['{SECRET}']")
        arguments += ["--config", str(file)]
    cli.run(arguments)
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert SECRET not in repr(served)
    if place != "wrong file" and more[:1] == ["--print-config"]:
        assert "***" in out


def test_what_a_terminal_cannot_show_is_escaped(served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "shop:app", "--access-format", "a\n\x1b[2Jb\udcff", "--print-config"]) == 0
    out = capsys.readouterr().out
    assert "a\\x0a\\x1b[2Jb\\udcff" in out
    assert len(out.splitlines()) == len(SETTINGS)
