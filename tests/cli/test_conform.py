from __future__ import annotations

import contextlib
import fcntl
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
from xml.etree import ElementTree as ET

import pytest

from gateways.cli import run
from gateways.wire.cases import SUITES
from tests.conform.fake_fastcgi import FastCGIFake
from tests.conform.fake_single import SCGIFake
from tests.conform.fakes import Fake
from tests.servers import SECONDS, wait_until

EASY = ("--only", "fastcgi.stdout", "--only", "fastcgi.params.value.1*", "--timeout", "300ms")


@pytest.fixture(scope="module")
def _server() -> Iterator[Fake]:
    with FastCGIFake() as fake:
        yield fake


@pytest.fixture
def server(_server: Fake) -> Fake:
    _server.breaks("")
    return _server


def url(server: Fake) -> str:
    return f"{server.protocol}://127.0.0.1:{server.port}/"


def test_all_pass(server: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conform", url(server), *EASY]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("19 cases: 19 pass, 0 fail, 0 skipped, ")
    assert err == ""


def test_a_must_fails(server: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    server.breaks("one-record")
    assert run(["conform", url(server), *EASY]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["FAIL", "MUST", "fastcgi.stdout.size.65528"]
    assert [line.split()[0] for line in lines[1:6]] == ["section", "expected", "got", "sent", "received"]
    assert lines[-1].startswith("19 cases: 14 pass, 5 fail (5 MUST), 0 skipped, ")


def test_a_should_fails(server: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    server.breaks("no-stdout-end")
    only = ("--only", "fastcgi.stdout.end")
    assert run(["conform", url(server), *only]) == 0
    assert run(["conform", url(server), *only, "--strict"]) == 1
    assert capfd.readouterr().out.count("(1 SHOULD)") == 2


def test_json(server: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    server.breaks("no-stdout-end")
    assert run(["conform", url(server), "--only", "fastcgi.stdout.end", "--only", "fastcgi.keep.two", "--json"]) == 0
    failed, passed = json.loads(capfd.readouterr().out)
    assert (passed["id"], passed["verdict"]) == ("fastcgi.keep.two", "pass")
    assert (failed["verdict"], failed["level"], failed["needs"]) == ("fail", "SHOULD", "wire")
    assert failed["got"] == "none"
    assert failed["sent"].startswith("\\x01\\x01\\x00\\x01")
    assert "Status: 200 Fake" in failed["received"]


def test_junit(server: Fake, tmp_path: Path) -> None:
    server.breaks("one-record")
    file = tmp_path / "junit.xml"
    assert run(["conform", url(server), *EASY, "--junit", str(file)]) == 1
    suite = ET.parse(file).getroot()  # noqa: S314 - our own
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("gateways conform fastcgi", "19", "5")
    failures = suite.findall("testcase/failure")
    assert len(failures) == 5
    assert {each.get("type") for each in failures} == {"MUST"}


def test_without_the_echo_application(server: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    server.breaks("no-echo")
    assert run(["conform", url(server), "--only", "fastcgi.stdout", "--all"]) == 0
    out = capfd.readouterr().out
    assert "the server does not run the echo application" in out
    assert "13 cases: 2 pass, 0 fail, 11 skipped, " in out


def test_one_that_waits_for_our_close_before_it_takes_the_next(server: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    """As libfcgi does, for two seconds."""
    server.breaks("serial-no-echo")
    assert run(["conform", url(server), "--only", "fastcgi.keep.not", "--timeout", "300ms"]) == 0, (
        capfd.readouterr().err
    )


def test_a_server_that_dies_is_given_up(server: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    server.breaks("fatal-errors")
    assert run(["conform", url(server), "--only", "fastcgi.hostile.values-bad", "--only", "fastcgi.keep", "--all",
                "--timeout", "300ms"]) == 1  # fmt: skip
    assert "the server has not answered any more since fastcgi.hostile.values-bad" in capfd.readouterr().out


def test_list(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conform", "--list", "--json"]) == 0
    cases = json.loads(capfd.readouterr().out)
    assert len(cases) == sum(map(len, SUITES.values()))
    assert set(cases[0]) == {"id", "title", "section", "level", "needs"}
    assert run(["conform", "--list", "scgi://127.0.0.1:1/"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"{len(SUITES['scgi'])} scgi"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which server? URL is missing"),
        (["http://127.0.0.1:80/"], "names no server"),
        (["fastcgi://127.0.0.1:1/", "--only", "scgi"], "no case is called 'scgi'"),
        (["fastcgi://127.0.0.1:1/", "--param", "X"], "'X' is not NAME=VALUE"),
        (["fastcgi://127.0.0.1:1/"], "cannot connect to 127.0.0.1:"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conform", *arguments]) == 2
    assert message in capfd.readouterr().err


def test_another_protocol_than_the_server_s(capfd: pytest.CaptureFixture[str]) -> None:
    with SCGIFake() as fake:
        assert run(["conform", f"fastcgi://127.0.0.1:{fake.port}/", "--timeout", "300ms"]) == 2
    assert "does not answer a plain request in fastcgi" in capfd.readouterr().err


@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_has_a_table_and_progress(server: Fake, colours: bool) -> None:
    """Both streams are a terminal of 60 columns."""
    server.breaks("no-stdout-end")
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 0, 0))
        argv = [sys.executable, "-m", "gateways", "conform", url(server), "--only", "fastcgi.stdout.end"]
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
        environment |= {"TERM": "xterm"} | ({} if colours else {"NO_COLOR": "1"})
        process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    finally:
        os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # what Linux says when the last one has closed the other end
        while select.select([ours], [], [], 30)[0] and (block := os.read(ours, 65_536)):
            said += block
    os.close(ours)
    assert process.wait(30) == 0
    assert b"100%" in said
    text = said.decode()
    assert ("\x1b[31m\x1b[1mFAIL" in text) is colours
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text[text.index("FAIL") :]).splitlines()
    assert lines[0].endswith("FCGI_STDOUT ends with an empty record")
    assert max(len(line) for line in lines[1:]) <= 60
    sent = lines.index(next(line for line in lines if line.startswith("       sent      ")))
    assert lines[sent] == "       sent      " + "".join(rf"\x{byte:02x}" for byte in (1, 1, 0, 1, 0, 8, 0, 0, 0, 1))
    assert lines[sent + 1].startswith(" " * 17 + r"\x")
    assert b"1 cases: 0 pass, 1 fail (1 SHOULD)" in said


def test_an_interrupt_loses_nothing(server: Fake) -> None:
    """What there is is told, and that it is not all."""
    server.breaks("errors-hang")
    before = server.accepted
    argv = [sys.executable, "-m", "gateways", "conform", url(server), "--json", "--only", "fastcgi.framing"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: server.accepted > before + 3, "it is at work")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert f"interrupted after {len(json.loads(out))} of " in err


def test_a_report_that_cannot_be_written(server: Fake, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conform", url(server), "--junit", str(tmp_path)]) == 2
    assert "--junit" in capfd.readouterr().err
