"""The command ``gateways`` itself: its help, its version, its start and how it tells a mistake."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

import gateways
from gateways import cli
from gateways.build import build, version_line
from gateways.errors import ConfigError, GatewayError, WorkerBootError


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.run(arguments) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert set(cli.COMMANDS) <= set(lines)


def test_every_command_is_there() -> None:
    context = click.Context(cli.gateways)
    for name in cli.COMMANDS:
        command = cli.gateways.get_command(context, name)
        assert command is not None
        assert command.name in (name, "command")


def test_help_imports_no_command_and_none_of_the_package() -> None:
    code = (
        "import sys; from gateways.cli import run; assert run(['--help']) == 0; "
        "sys.stderr.write(' '.join(name for name in sys.modules if name.startswith('gateways')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert set(done.stderr.split()) <= {"gateways", "gateways.cli", "gateways.errors"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == version_line() + "\n"
    assert version_line().startswith(f"gateways {gateways.__version__} (")
    assert platform.python_version() in version_line()
    assert version_line().endswith(f", {build()})")


def test_the_build_is_told_by_the_file_of_the_hot_path() -> None:
    from gateways.codecs import scgi

    assert scgi.__file__ is not None
    assert build() == ("plain" if scgi.__file__.endswith(".py") else "compiled")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        # The rest of each sentence is click's, and changes with its version.
        (["--xyzzy"], "gateways: No such option"),
        (["xyzzy"], "gateways: No such command 'xyzzy'"),
        (["serve", "a:b", "--wrokers", "2"], "gateways: No such option"),
        (["serve", "a:b", "--workers"], "gateways: Option '--workers' requires an argument"),
        (["serve", "a:b", "c:d"], "gateways: Got unexpected extra argument"),
    ],
)
def test_a_mistake_of_the_command_line_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert "requires an argument" in err or err.endswith("--help')\n")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let the command ``serve`` raise an exception."""

    def serve_raises(error: BaseException) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr(cli.gateways, "get_command", lambda ctx, name: click.Command(name, callback=fail))

    return serve_raises


@pytest.mark.parametrize("error", [ConfigError("the port is in use"), WorkerBootError("the port is in use")])
def test_a_mistake_in_the_configuration_is_one_sentence(
    capsys: pytest.CaptureFixture[str], command: Callable[[BaseException], None], error: GatewayError
) -> None:
    command(error)
    assert cli.run(["serve"]) == 2
    assert capsys.readouterr() == ("", "gateways: the port is in use\n")


def test_an_interrupt_is_no_traceback(command: Callable[[BaseException], None]) -> None:
    command(KeyboardInterrupt())
    assert cli.run(["serve"]) == 130


def test_a_bug_keeps_its_traceback(command: Callable[[BaseException], None]) -> None:
    command(LookupError("bug"))
    with pytest.raises(LookupError):
        cli.run(["serve"])


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["serve"], 2)])
def test_the_process_ends_with_the_code(arguments: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateways", *arguments], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
