"""``gateways cgi``: as ``gateways.run``, with the application named."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateways import cli
from gateways.cli.cgi import command
from tests.scripts import Done, as_cgi, managed
from tests.server.peers import Peer

APP = """
print("at import")
def application(environ, start_response):
    start_response("200 OK", [])
    names = ("gateways.protocol", "SCRIPT_NAME", "PATH_INFO", "wsgi.multithread")
    return [" ".join(str(environ[name]) for name in names).encode()]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site_.py").write_text(APP)
    (tmp_path / "broken_.py").write_text("raise RuntimeError('no database')")
    return tmp_path


def run(site: Path, *options: str, **variables: str) -> Done:
    return as_cgi(["-m", "gateways", "cgi", *options, "--chdir", str(site)], b"", **variables)


def test_one_request(site: Path) -> None:
    done = run(site, "site_", "--mount", "/cgi-bin")
    assert (done.code, done.body) == (0, b"cgi /cgi-bin /app/path False")
    assert done.err == "at import\n"


def test_settings_of_the_environment(site: Path) -> None:
    assert run(site, "site_", GATEWAYS_MOUNT="/").body == b"cgi  /cgi-bin/app/path False"


def test_a_secret_is_not_the_application_s(site: Path) -> None:
    (site / "nosy_.py").write_text(f"import os\nassert 'GATEWAYS_SECRET' not in os.environ\n{APP}")
    assert run(site, "nosy_", GATEWAYS_SECRET="battery-staple").code == 0


def test_a_managed_process(site: Path) -> None:
    arguments = ["-m", "gateways", "cgi", "site_", "--threads", "2", "--chdir", str(site)]
    with managed(arguments, site) as process:
        with Peer(process.address, "fastcgi") as peer:
            assert peer.get("/x").body == b"fastcgi  /x True"
        assert process.end(signal.SIGTERM) == 0


def test_an_application_that_fails_to_load(site: Path) -> None:
    done = run(site, "broken_")
    assert (done.code, done.body) == (3, b"500 Internal Server Error\n")
    assert "RuntimeError: no database" in done.err
    assert "gateways: importing broken_ failed" in done.err


def test_no_such_application(site: Path) -> None:
    done = run(site, "none_")
    assert (done.code, done.body) == (2, b"500 Internal Server Error\n")
    assert done.err.startswith("gateways: cannot load the application 'none_'")


def test_from_a_shell(site: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateways", "cgi", "site_", "--chdir", site], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gateways: this program is for a web server to start")


def test_only_options_that_a_single_process_can_keep(capsys: pytest.CaptureFixture[str]) -> None:
    names = {name for parameter in command.params for name in parameter.opts}
    assert {"app", "--mount", "--chdir", "--threads", "--max-body-bytes", "--body-timeout", "--config"} <= names
    assert not names & {"--workers", "--fastcgi", "--request-timeout", "--user", "--reload", "--boot-timeout"}
    assert cli.run(["cgi", "--help"]) == 0
    assert "--threads" in capsys.readouterr().out
