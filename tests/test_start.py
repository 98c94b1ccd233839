"""One program, started in each of the ways: what it takes itself for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gateways
from gateways import start
from tests.scripts import as_cgi, managed, write_script
from tests.server.peers import Peer

HELLO = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [environ["gateways.protocol"].encode()]
"""


def test_the_public_name() -> None:
    assert gateways.run is start.run
    assert "run" in gateways.__all__
    with pytest.raises(AttributeError, match="module 'gateways' has no attribute 'rum'"):
        _ = gateways.rum


def test_as_a_cgi_script(tmp_path: Path) -> None:
    assert as_cgi([write_script(tmp_path, HELLO)]).body == b"cgi"


def test_with_a_listening_descriptor_0(tmp_path: Path) -> None:
    with managed([write_script(tmp_path, HELLO)], tmp_path) as process:
        with Peer(process.address, "fastcgi") as peer:
            assert peer.get().body == b"fastcgi"
        assert process.end(signal.SIGTERM) == 0
        assert process.text() == ""


def test_a_listening_descriptor_0_counts_more_than_the_environment(tmp_path: Path) -> None:
    with (
        managed([write_script(tmp_path, HELLO)], tmp_path, REQUEST_METHOD="GET") as process,
        Peer(process.address, "fastcgi") as peer,
    ):
        assert peer.get().body == b"fastcgi"


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, None])
def test_from_a_shell(tmp_path: Path, stdin: int | None) -> None:
    script = write_script(tmp_path, HELLO, "gateways.run(application)\nprint('not here')")
    done = subprocess.run(
        [sys.executable, script], stdin=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("gateways: this program is for a web server to start, as a CGI script")
    assert done.stderr.count("\n") == 1


def test_it_returns_when_all_is_served(tmp_path: Path) -> None:
    script = write_script(tmp_path, HELLO, "gateways.run(application)\nimport sys; sys.exit(7)")
    assert as_cgi([script]).code == 7


def test_arguments_that_cannot_be() -> None:
    def application(environ: object, start_response: object) -> list[bytes]:
        return []

    with pytest.raises(ValueError, match="threads is 0"):
        gateways.run(application, threads=0)
    with pytest.raises(ValueError, match="is not a path prefix"):
        gateways.run(application, mount="/a?b")


def test_a_cgi_script_imports_little(tmp_path: Path) -> None:
    source = "def application(environ, start_response):\n    start_response('200 OK', [])\n    import sys\n"
    source += "    return [' '.join(sys.modules).encode()]\n"
    found = set(as_cgi([write_script(tmp_path, source)]).body.decode().split())
    heavy = {
        "click",
        "dataclasses",
        "httptools",
        "inspect",
        "logging",
        "signal",
        "socket",
        "threading",
        "traceback",
        "urllib",
    }
    assert not found & heavy
    assert {name for name in found if name.startswith("gateways.server")} == {"gateways.server", "gateways.server.once"}


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="/proc is Linux's")
def test_a_cgi_script_has_no_thread(tmp_path: Path) -> None:
    source = "def application(environ, start_response):\n    start_response('200 OK', [])\n    import os\n"
    source += "    return [str(len(os.listdir('/proc/self/task'))).encode()]\n"
    assert as_cgi([write_script(tmp_path, source)]).body == b"1"
