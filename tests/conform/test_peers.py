"""That other servers are started, asked and stopped: shown with our own, and with what is not there."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from gateways.wire.cases import SUITES
from tests.backends import socket_directory
from tests.conform import peers
from tests.conform.front_peers import VERSIONS, chosen
from tests.conform.peers import Missing, Started, gateways, run, running
from tests.conform.table import read


@pytest.mark.processes
def test_our_own(tmp_path: Path) -> None:
    said = run("gateways", tmp_path)
    [file] = tmp_path.iterdir()
    results = json.loads(file.read_text())
    assert [result["id"] for result in results] == [case.id for suite in SUITES.values() for case in suite]
    assert {result["verdict"] for result in results} == {"pass"}
    assert said.startswith(f"gateways {gateways(tmp_path)[0]}: {{'pass': {len(results)}, 'fail': 0, 'skip': 0}}, ")
    assert list(read([file])) == [f"gateways {gateways(tmp_path)[0]}"]


def test_one_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(directory: Path) -> tuple[str, list[Started]]:
        return peers.program("no-such-server"), []

    monkeypatch.setitem(peers.PEERS, "absent", absent)
    assert run("absent", tmp_path) == "absent: not here: no-such-server is not installed"
    assert not list(tmp_path.iterdir())


def test_processes_that_share_a_socket_end_with_the_block() -> None:
    with socket_directory() as directory:
        shared = Started(["sleep", "60"], descriptor=True, count=2)
        with running(shared, directory) as processes:
            assert [process.poll() for process in processes] == [None, None]
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(directory / "fastcgi"))
        assert [process.returncode for process in processes] == [-9, -9]
        with pytest.raises(Missing, match="it did not start: "), running(Started(["false"], ("scgi",)), directory):
            pytest.fail("it listens")


def test_a_web_server_is_asked_once_for_each_protocol() -> None:
    assert chosen("nginx") == ["nginx-fastcgi-keep", "nginx-scgi", "nginx-uwsgi"]
    assert chosen("HAProxy") == ["haproxy-fastcgi"]
    for name in VERSIONS:
        assert len({each.split("-")[1] for each in chosen(name)}) == len(chosen(name)) > 0
