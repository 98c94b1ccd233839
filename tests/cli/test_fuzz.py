from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways import codecs
from gateways.cli import run
from tests.fuzzing.broken import Broken, BrokenSCGI
from tests.servers import SECONDS, free_port, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "fuzzing.md"
TARGETS = Path(__file__).parents[1] / "fuzz"
SHORT = ("--seed", "7", "--count", "60", "--timeout", "5s")


def example() -> str:
    """The case that the documentation shows."""
    (found,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def _server() -> Iterator[Broken]:
    with BrokenSCGI() as broken:
        yield broken


@pytest.fixture
def server(_server: Broken) -> Broken:
    _server.breaks("")
    return _server


def url(server: Broken) -> str:
    return f"{server.protocol}://127.0.0.1:{server.port}/"


def test_nothing_is_found(server: Broken, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", url(server), *SHORT]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("seed 7: 60 cases, ")
    assert "/s, ended by: count; 0 findings in 0 classes; slowest: 0." in out
    assert err == ""


def test_time_is_a_bound(server: Broken, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", url(server), "--time", "100ms"]) == 0
    assert "ended by: time" in capfd.readouterr().out


def test_a_finding_is_kept_and_played_again(server: Broken, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server.breaks("body-plus")
    kept = tmp_path / "made" / "cases"
    assert run(["fuzz", url(server), *SHORT, "--cases", str(kept)]) == 1
    out = capfd.readouterr().out
    [file] = kept.iterdir()
    assert "  changed: the body (a body)\n" in out
    assert f", {file}\n" in out
    assert "findings in 1 classes" in out
    content = json.loads(file.read_text())
    assert (content["protocol"], content["finding"]["oracle"], content["finding"]["again"]) == ("scgi", "changed", True)
    for path in (file, kept):
        assert run(["fuzz", url(server), "--replay", str(path)]) == 1
        assert capfd.readouterr().out.startswith(f"FAIL  {file}: changed: the body\n")
    server.breaks("")
    assert run(["fuzz", url(server), "--replay", str(kept)]) == 0
    assert capfd.readouterr().out == f"pass  {file}: changed: the body\n"
    assert run(["fuzz", url(server), "--replay", str(kept), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == [
        {"file": str(file), "class": "changed: the body", "still": False, "found": []}
    ]


def test_the_case_of_the_documentation_is_one(
    server: Broken, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = tmp_path / "case.json"
    case.write_text(example())
    assert run(["fuzz", url(server), "--replay", str(case)]) == 0
    assert capfd.readouterr().out.startswith("pass  ")


def test_an_interrupt_loses_nothing(server: Broken, tmp_path: Path) -> None:
    """What was found until then is told, and that it is not all."""
    server.breaks("lower")
    argv = [
        sys.executable,
        "-m",
        "gateways",
        "fuzz",
        url(server),
        "--seed",
        "7",
        "--time",
        "60s",
        "--cases",
        str(tmp_path),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        wait_until(lambda: list(tmp_path.glob("*.json")), "something is found")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "ended by: interrupted" in out


def test_json(server: Broken, capfd: pytest.CaptureFixture[str]) -> None:
    server.breaks("body-plus")
    assert run(["fuzz", url(server), *SHORT, "--shard", "2/2", "--json"]) == 1
    result = json.loads(capfd.readouterr().out)
    assert (result["seed"], result["shard"], result["cases"], result["ended"]) == (7, "2/2", 60, "count")
    assert 0 < result["slowest"]["seconds"] < result["seconds"]
    assert result["server"] == {"echo": True, "kept": False, "multiplexed": False, "concurrent": True}
    [finding] = result["findings"]
    assert (finding["class"], finding["again"]) == ("changed: the body (a body)", True)


def test_two_urls(server: Broken, capfd: pytest.CaptureFixture[str]) -> None:
    with BrokenSCGI() as other:
        assert run(["fuzz", url(server), url(other), *SHORT]) == 0
        other.breaks("body-plus")
        assert run(["fuzz", url(server), url(other), *SHORT]) == 1
    assert "  differs: the body (a body)\n" in capfd.readouterr().out


def test_another_run_begins_with_what_one_has_found(
    server: Broken, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.breaks("body-plus")
    assert run(["fuzz", url(server), *SHORT, "--database", str(tmp_path)]) == 1
    assert run(["fuzz", url(server), "--seed", "8", "--count", "1", "--database", str(tmp_path), "--json"]) == 1
    out = capfd.readouterr().out
    assert json.loads(out[out.index("\n{\n") :])["findings"][0]["number"].startswith("7/")


def test_a_pid_is_watched(server: Broken, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", url(server), *SHORT, "--pid", str(os.getpid())]) == 0
    assert run(["fuzz", url(server), *SHORT, "--pid", str(2**30)]) == 2
    assert "there is no such process" in capfd.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not here")
@pytest.mark.skipif(not str(codecs.__file__).endswith(".py"), reason="the compiled build does not tell what it reaches")
def test_in_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = [path.stem.removeprefix("fuzz_") for path in sorted(TARGETS.glob("fuzz_*.py"))]
    options = ("--count", "50", "--time", "20s", "--seed", "1", "--cases", str(tmp_path))
    assert run(["fuzz", "--in-process", *options, "--json"]) == 0
    assert [(row["target"], row["error"]) for row in json.loads(capfd.readouterr().out)] == [
        (name, "") for name in names
    ]
    assert list(tmp_path.iterdir()) == []


def test_in_process_is_for_no_server(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", "--in-process", "scgi://127.0.0.1:1/"]) == 2
    assert "--in-process needs no server" in capfd.readouterr().err


def test_mistakes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nobody = f"scgi://127.0.0.1:{free_port()}/"
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[1]")
    difference = tmp_path / "difference.json"
    difference.write_text(example().replace("afterwards", "differs"))
    half = tmp_path / "half.json"
    half.write_text(example().replace('"kind"', '"kinds"'))
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ([], "which server? URL is missing"),
        (["http://127.0.0.1:80/"], "names no server"),
        ([nobody], "cannot connect to 127.0.0.1:"),
        ([nobody, "--shard", "3/2"], "is not I/N, from 1/N to N/N"),
        ([nobody, "--time", "0"], "--time"),
        ([nobody, "--replay", str(wrong)], "this is no case of gateways fuzz"),
        ([nobody, "--replay", str(half)], f"{half}: this is no case of gateways fuzz: it has no 'kind'"),
        ([nobody, "--replay", str(empty)], "has no cases"),
        ([nobody, "--replay", str(difference)], "give two URLs"),
        ([nobody, "--cases", str(wrong / "below")], "cannot make the directory"),
    ):
        assert run(["fuzz", *arguments]) == 2
        assert message in capfd.readouterr().err


def test_a_database_that_cannot_be_used(server: Broken, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", url(server), "--database", f"redis://127.0.0.1:{free_port()}/0"]) == 2
    assert "redis://127.0.0.1:" in capfd.readouterr().err
    assert run(["fuzz", url(server), "--database", "reddis://127.0.0.1"]) == 2
    assert "neither a directory nor redis://" in capfd.readouterr().err
    assert run(["fuzz", url(server), "--database", "/dev/null/cases"]) == 2
    assert "cannot use /dev/null/cases: " in capfd.readouterr().err


def test_without_hypothesis(server: Broken, tmp_path: Path) -> None:
    """Only what draws cases needs it."""
    server.breaks("body-plus")
    assert run(["fuzz", url(server), *SHORT, "--cases", str(tmp_path)]) == 1

    def without(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; sys.modules['hypothesis'] = None; from gateways.cli import run; sys.exit(run(sys.argv[1:]))"
        argv = [sys.executable, "-c", code, "fuzz", url(server), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    done = without(*SHORT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gateways: gateways fuzz draws its cases with hypothesis: pip install 'gateways[fuzz]'\n"
    assert without("--replay", str(tmp_path)).returncode == 1


def test_a_terminal_has_a_bar_and_the_directory_stays_clean(server: Broken, tmp_path: Path) -> None:
    """Both streams are a terminal of 80 columns."""
    server.breaks("body-plus")
    ours, theirs = pty.openpty()
    here = tmp_path / "here"
    here.mkdir()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        argv = [sys.executable, "-m", "gateways", "fuzz", url(server), *SHORT]
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
        environment |= {"TERM": "xterm", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=here)
    finally:
        os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # what Linux says when the last one has closed the other end
        while select.select([ours], [], [], 60)[0] and (block := os.read(ours, 65_536)):
            said += block
    os.close(ours)
    assert process.wait(60) == 1
    assert b"scgi  [" in said
    assert b" found, 1 classes" in said
    bar = [line for line in re.sub(rb"\x1b\[[?0-9;]*[A-Za-z]", b"", said).splitlines() if line.startswith(b"scgi  [")]
    assert bar
    assert max(map(len, bar)) < 80
    assert list(here.iterdir()) == []
