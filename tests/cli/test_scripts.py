"""``gateways scripts``: its options become the settings of scripts; mistakes are one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateways import cli
from gateways.limits import ScriptLimits
from gateways.settings import SCRIPTS, Settings, load_settings
from gateways.written import rows
from tests.cli.test_serve import environments, headings, help_lines, is_told, served

__all__ = ["environments", "served"]  # fixtures


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "one.cgi"
    path.touch(0o755)
    return path


def loaded(arguments: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Settings:
    return load_settings(arguments, environ or {}, SCRIPTS)


def test_the_whole_way(served: list[Settings], tmp_path: Path) -> None:
    shell = shutil.which("sh")
    arguments = (
        f"scripts --root {tmp_path} --http 8000 --index index.cgi --index index.sh --interpreter .sh=sh "
        "--interpreter pl=/bin/sh --env LANG=C.UTF-8 --env NO_SUCH_VARIABLE --concurrency 4 --per-script 1 --queue 10 "
        "--script-timeout 5m --idle-timeout 0 --cpu-seconds 10 --memory 256M --open-files 64 --processes 100 "
        "--max-output 1G --script-user owner --python-warm --python-import a.b --python-import c "
        "--mount /cgi-bin/ --workers 2"
    )
    assert cli.run(arguments.split()) == 7
    (settings,) = served
    scripts = settings.scripts
    assert scripts is not None
    assert (scripts.root, scripts.script, settings.mount) == (str(tmp_path), "", "/cgi-bin")
    assert scripts.index == ("index.cgi", "index.sh")
    assert scripts.interpreters == {".sh": (shell,), ".pl": ("/bin/sh",)}
    assert scripts.passed == {"LANG": "C.UTF-8"}
    assert scripts.script_user == "owner"
    assert scripts.python_warm
    assert scripts.python_import == ("a.b", "c")
    assert scripts.limits == ScriptLimits(
        concurrency=4, per_script=1, queue=10, script_timeout=300.0, idle_timeout=0.0, cpu_seconds=10,
        memory=268_435_456, open_files=64, processes=100, max_output=1_073_741_824,
    )  # fmt: skip
    assert (settings.workers, settings.threads, settings.shape) == (2, 15, "2 x 4 scripts")
    assert settings.app == f"scripts in {tmp_path}"
    assert settings.chdir == os.getcwd()


def test_what_is_not_given(tmp_path: Path) -> None:
    scripts = loaded({"root": str(tmp_path)}).scripts
    assert scripts is not None
    assert scripts.limits == ScriptLimits()
    assert (scripts.index, scripts.interpreters, scripts.passed, scripts.script_user) == ((), {}, {}, "")
    assert (scripts.python_warm, scripts.python_import) == (False, ())


def test_a_single_script(script: Path) -> None:
    settings = loaded({"script": str(script)})
    assert settings.scripts is not None
    assert (settings.scripts.root, settings.scripts.script) == ("", str(script))
    assert settings.app == str(script)


def test_environment_and_file(script: Path, tmp_path: Path) -> None:
    config = tmp_path / "gateways.toml"
    config.write_text(
        f'root = "{tmp_path}"\ninterpreter = [".sh=/bin/sh -e"]\nenv = ["A=b c", "HOME"]\nmemory = "1G"\n'
    )
    environ = {
        "GATEWAYS_CONFIG": str(config),
        "GATEWAYS_CONCURRENCY": "3",
        "GATEWAYS_INDEX": "a.cgi,b.cgi",
        "HOME": "/h",
    }
    settings = loaded({}, environ)
    scripts = settings.scripts
    assert scripts is not None
    assert scripts.interpreters == {".sh": ("/bin/sh", "-e")}
    assert scripts.passed == {"A": "b c", "HOME": "/h"}
    assert (scripts.index, scripts.limits.concurrency, scripts.limits.memory) == (("a.cgi", "b.cgi"), 3, 2**30)
    assert settings.sources["memory"] == f"memory in {config}"


def test_every_setting_is_an_option(served: list[Settings], tmp_path: Path, script: Path) -> None:
    values = {"ADDR": "9000", "MODE": "600", "OWNER": ":0", "PREFIX": "/p", "DIR": str(tmp_path), "LEVEL": "debug"}
    values |= {
        "KIND": "ondemand",
        "SIZE": "9M",
        "N": "1",
        "CIDR": "127.0.0.1",
        "EXT=FILE": ".sh=/bin/sh",
        "FILE": str(script),
    }
    values |= {"NAME[=VALUE]": "A=1", "MODULE": "json"}
    for setting in SCRIPTS:
        value = [values.get(setting.metavar, "9")] if setting.metavar else []
        base = [] if setting.name in ("root", "script") else ["--root", str(tmp_path)]
        base += ["--python-warm"] if setting.name == "python-import" else []
        assert cli.run(["scripts", *base, setting.option, *value]) == 7, setting.name
        assert served[-1].sources[setting.name] == setting.option


def test_what_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    settings = loaded(
        {
            "root": str(tmp_path), "interpreter": ("sh=/bin/sh -e 'a b'",), "env": ("A=1", "B"), "memory": "1M",
            "script_timeout": "90", "mount": "/",
        },
    )  # fmt: skip
    again = loaded({row.setting.key: row.texts if row.setting.many else "".join(row.texts) for row in rows(settings)
                    if row.texts})  # fmt: skip
    assert again == settings


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no scripts given: name their directory with --root, or one with --script, for example: gateways scripts"),
        (
            ["--root", "@", "--script", "@/one.cgi"],
            "--root is for all scripts of a directory and --script for a single",
        ),
        (["--root", "@/nothing"], "--root: '@/nothing' is not a directory"),
        (["--script", "@/nothing"], "--script: '@/nothing' is not a file"),
        (["--script", "@/plain"], "--script @/plain cannot be executed; chmod +x it, or name its --interpreter"),
        (["--root", "@", "--index", "a/b"], "--index: 'a/b' is not a plain file name"),
        (["--root", "@", "--interpreter", "php"], "--interpreter: 'php' is not an extension and a program; write them"),
        (["--root", "@", "--interpreter", ".a=/no/such"], "--interpreter: '.a=/no/such' names no program that can be"),
        (["--root", "@", "--interpreter", ".a="], "--interpreter: '.a=' names no program that can be executed"),
        (["--root", "@", "--interpreter", ".a='"], '--interpreter: ".a=\'" cannot be read: No closing quotation'),
        (["--root", "@", "--env", "A-B=1"], "--env: 'A-B=1' is neither the name of a variable nor NAME=VALUE"),
        (["--root", "@", "--python-import", "json"], "--python-import is for the Python of --python-warm: give both"),
        (["--root", "@", "--python-warm", "--python-import", "a/b"], "--python-import: 'a/b' is not the name of a mod"),
        (["--root", "@", "--concurrency", "0"], "--concurrency: '0' is not a whole number from 1 up"),
        (["--root", "@", "--queue", "1020"], "--concurrency 20 and --queue 1020 are more than 1023 together; give the"),
        (["--root", "@", "--user", "me", "--script-user", "owner"], "--user gives up what --script-user needs"),
        (["--root", "@", "--threads", "4"], "No such option"),
        (["--root", "@", "--preload"], "No such option"),
        (["shop:app", "--root", "@"], "Got unexpected extra argument"),
    ],
)
def test_a_mistake_is_one_sentence(
    served: list[Settings], script: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    directory = str(script.parent)
    (script.parent / "plain").touch(0o644)
    assert cli.run(["scripts", *(argument.replace("@", directory) for argument in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"gateways: {sentence.replace('@', directory)}")
    assert err.count("\n") == 1
    assert served == []


def test_an_interpreter_makes_a_script_of_what_is_not_executable(script: Path) -> None:
    script.chmod(0o644)
    settings = loaded({"script": str(script), "interpreter": (".cgi=/bin/sh",)})
    assert settings.scripts is not None


def test_variables_of_applications_are_mistakes(
    served: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAYS_THREADS", "4")
    assert cli.run(["scripts", "--root", str(tmp_path)]) == 2
    assert "the environment variable GATEWAYS_THREADS is no setting" in capsys.readouterr().err


def test_check(environments: list[Mapping[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["scripts", "--root", str(tmp_path), "--http", "8000", "--check"]) == 0
    assert capsys.readouterr().out == f"configuration is good: scripts in {tmp_path}, http on 127.0.0.1:8000\n"
    assert cli.run(["scripts", "--root", str(tmp_path), "--user", "no-such-user", "--check"]) == 2
    assert "no-such-user" in capsys.readouterr().err
    assert cli.run(["scripts", "--root", str(tmp_path), "--script-user", "no-such-user", "--check"]) == 2
    assert "--script-user" in capsys.readouterr().err


def test_print_config(served: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["scripts", "--root", str(tmp_path), "--env", "A=1", "--print-config"]
    assert cli.run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [setting.name for setting in SCRIPTS]
    assert cli.run([*command, "--json"]) == 0
    found = {each.pop("name"): each for each in json.loads(capsys.readouterr().out)}
    assert found["root"] == {"value": str(tmp_path), "source": "--root"}
    assert found["env"] == {"value": ["A=1"], "source": "--env"}
    assert found["script-timeout"] == {"value": "60s", "source": "default"}
    assert found["index"] == {"value": [], "source": "default"}
    assert served == []


def test_the_help_is_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_lines(capsys, "--help", command="scripts")
    assert len(lines) <= 60
    for setting in SCRIPTS:
        assert is_told(setting, lines) == setting.common, setting.name
    assert headings(lines) == [
        "Scripts", "Listen", "Workers", "Timeouts", "Security", "Logs", "Control", "General",
    ]  # fmt: skip
    everything = help_lines(capsys, "--help-all", command="scripts")
    for setting in SCRIPTS:
        assert is_told(setting, everything), setting.name
