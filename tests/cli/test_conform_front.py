from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gateways.cli import run
from gateways.wire.cases.fronts import FRONT_SUITES
from tests.conform.fake_front import FakeFront
from tests.servers import free_port

EASY = ("--only", "scgi.front.netstring", "--only", "scgi.front.params.gateway", "--timeout", "500ms")


@pytest.fixture
def front() -> Iterator[FakeFront]:
    with FakeFront("scgi", keep=False) as fake:
        yield fake


def options(front: FakeFront) -> list[str]:
    return ["--front-end", f"http://127.0.0.1:{front.port}/", "--listen", f"scgi://127.0.0.1:{front.backend[1]}"]


def test_all_pass(front: FakeFront, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conform", *options(front), *EASY]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("3 cases: 3 pass, 0 fail, 0 skipped, ")
    assert err == ""


def test_a_must_fails(front: FakeFront, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    front.breaks("no-comma")
    file = tmp_path / "junit.xml"
    only = ("--only", "scgi.front.netstring.comma", "--only", "scgi.front.params.gateway")
    assert run(["conform", *options(front), *only, "--json", "--junit", str(file)]) == 1
    failed, passed = json.loads(capfd.readouterr().out)
    assert (passed["id"], passed["verdict"]) == ("scgi.front.params.gateway", "pass")
    assert (failed["id"], failed["verdict"], failed["level"]) == ("scgi.front.netstring.comma", "fail", "MUST")
    assert failed["got"].startswith("b';' after the netstring of ")
    assert failed["sent"].startswith("POST /conform HTTP/1.1")
    assert "CONTENT_LENGTH" in failed["received"]
    assert ET.parse(file).getroot().get("name") == "gateways conform --front-end scgi"  # noqa: S314 - our own


def test_a_should_fails(front: FakeFront) -> None:
    front.breaks("no-gateway")
    assert run(["conform", *options(front), *EASY]) == 0
    assert run(["conform", *options(front), *EASY, "--strict"]) == 1


def test_a_failure_of_the_response_shows_what_was_answered(front: FakeFront, capfd: pytest.CaptureFixture[str]) -> None:
    front.breaks("lower-dropped")
    assert run(["conform", *options(front), "--only", "scgi.front.response.head.lower", "--json"]) == 1
    (result,) = json.loads(capfd.readouterr().out)
    assert "x-conform-a: b" in result["sent"]
    assert result["received"].startswith("HTTP/1.1 200 OK")


def test_one_that_dies_is_given_up(front: FakeFront, capfd: pytest.CaptureFixture[str]) -> None:
    front.breaks("dies")
    assert run(["conform", *options(front), *EASY, "--all"]) == 1
    assert "the web server has not served any more since scgi.front.netstring.length" in capfd.readouterr().out


def test_list(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conform", "--list", "--json", "--front-end", "http://127.0.0.1/"]) == 0
    cases = json.loads(capfd.readouterr().out)
    assert len(cases) == sum(map(len, FRONT_SUITES.values()))
    assert set(cases[0]) == {"id", "title", "section", "level", "needs"}
    assert run(["conform", "--list", "--listen", "uwsgi://127.0.0.1:1"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"{len(FRONT_SUITES['uwsgi'])} uwsgi"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--front-end", "http://127.0.0.1/"], "go together"),
        (["--listen", "scgi://127.0.0.1:1"], "go together"),
        (["scgi://127.0.0.1:1", "--listen", "scgi://127.0.0.1:1"], "neither URL nor --param"),
        (["--front-end", "http://127.0.0.1/", "--listen", "http://127.0.0.1:1"], "names no server"),
        (["--front-end", "https://127.0.0.1/", "--listen", "scgi://127.0.0.1:1"], "no web server's URL"),
        (["--front-end", "http://127.0.0.1/", "--listen", "scgi://127.0.0.1:1", "--only", "x"], "no case is called"),
        (["--front-end", "http://127.0.0.1/", "--listen", "scgi://192.0.2.1:1"], "cannot listen on 192.0.2.1:1"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["conform", *arguments]) == 2
    assert message in capfd.readouterr().err


def test_a_web_server_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    ports = free_port(), free_port()
    arguments = ["--front-end", f"http://127.0.0.1:{ports[0]}/", "--listen", f"scgi://127.0.0.1:{ports[1]}"]
    assert run(["conform", *arguments]) == 2
    assert f"cannot connect to http://127.0.0.1:{ports[0]}/" in capfd.readouterr().err


def test_a_web_server_that_asks_another(front: FakeFront, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [*options(front)[:2], "--listen", f"scgi://127.0.0.1:{free_port()}", "--timeout", "500ms"]
    assert run(["conform", *arguments]) == 2
    assert "does not pass a plain request to scgi here" in capfd.readouterr().err
