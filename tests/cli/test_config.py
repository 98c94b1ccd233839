"""``gateways config``: what is printed, and what it is printed from."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateways import cli
from gateways.cli import config

SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take GATEWAYS_* away."""
    import os

    for name in [name for name in os.environ if name.startswith("GATEWAYS_")]:
        monkeypatch.delenv(name)


def files(text: str) -> dict[str, str]:
    """The files in the output of ``config systemd``, each behind its path as in ``systemctl cat``."""
    parts = re.split(r"^# (/etc/systemd/system/\S+)\n", text, flags=re.MULTILINE)
    assert parts[0] == ""
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_units_one_after_the_other(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAYS_WORKERS", "3")
    arguments = "shop:app --fastcgi /run/shop.sock --http 8000 --name shop --systemd-version 255"
    assert cli.run(["config", "systemd", *arguments.split()]) == 0
    out = capsys.readouterr().out
    found = files(out)
    folder = "/etc/systemd/system"
    assert list(found) == [f"{folder}/shop-fastcgi.socket", f"{folder}/shop-http.socket", f"{folder}/shop.service"]
    assert "ListenStream=/run/shop.sock\n" in found[f"{folder}/shop-fastcgi.socket"]
    service = found[f"{folder}/shop.service"]
    assert "Type=notify\n" in service
    assert " serve shop:app --workers 3 --control " in service
    assert out.splitlines()[-1] == (
        "# Then: systemctl daemon-reload && systemctl enable --now shop-fastcgi.socket shop-http.socket"
    )


def test_the_units_as_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["config", "systemd", "shop:app", "--name", "shop", "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"wrote {tmp_path}/shop.socket", f"wrote {tmp_path}/shop.service"]
    assert lines[2].startswith("# Then: systemctl daemon-reload")
    assert (tmp_path / "shop.service").read_text().startswith("[Unit]\n")
    assert cli.run(["config", "systemd", "shop:app", "--output", f"{tmp_path}/no"]) == 2
    assert f"cannot write {tmp_path}/no/gateways.socket: No such file" in capsys.readouterr().err


def test_the_file_of_the_variable_is_named_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shop.toml").write_text('app = "shop:app"')
    monkeypatch.setenv("GATEWAYS_CONFIG", "shop.toml")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["config", "systemd"]) == 0
    assert f" serve --config {tmp_path}/shop.toml --auto 127.0.0.1:8000 --control" in capsys.readouterr().out


def test_the_secret_is_never_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.run(["config", "systemd", "shop:app", "--secret", SECRET]) == 0
    monkeypatch.setenv("GATEWAYS_SECRET", SECRET)
    assert cli.run(["config", "systemd", "shop:app"]) == 0
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert "EnvironmentFile=/etc/gateways.env" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "gateways: no application given"),
        (["app.py"], "gateways: 'app.py' names a file"),
        (["shop:app", "--workers", "0"], "gateways: --workers: '0' is not a whole number"),
        (["shop:app", "--http", "fd:3"], "gateways: systemd numbers the descriptors itself"),
        (["shop:app", "--name", "a b"], "gateways: 'a b' is no name for a unit"),
        (["shop:app", "--systemd-version", "new"], "gateways: Invalid value for '--systemd-version'"),
    ],
)
def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert cli.run(["config", "systemd", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(sentence)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("systemd 252 (252.38-1~deb12u1)\n+PAM", 252),
        ("systemd 257~rc1 (257~rc1)", 257),
        ("elogind 252", None),
        ("", None),
        ("systemd 9999999999", None),
    ],
)
def test_the_version_of_systemd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: str, version: int | None
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\ncat <<'EOF'\n{output}\nEOF\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert config.installed_version() == version


def test_without_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert config.installed_version() is None


def test_the_program_is_this_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert config.program() == [str(tmp_path / "python"), "-m", "gateways"]
    (tmp_path / "gateways").touch()
    assert config.program() == [str(tmp_path / "gateways")]


@pytest.mark.parametrize("arguments", [["config"], ["config", "--help"], ["config", "systemd", "--help"]])
def test_help(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateways", *arguments], check=False, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Print systemd's units for a server of APP." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
