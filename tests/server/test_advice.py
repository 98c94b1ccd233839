"""What a start warns of."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from gateways.server.address import Address
from gateways.server.advice import advise
from gateways.server.sockets import bind
from gateways.settings import Settings
from tests.server.fake_master import short_directory
from tests.server.pools import MemoryLog
from tests.servers import Gateways, open_directory, running

OUR_USER = pwd.getpwuid(os.geteuid()).pw_name
OUR_GROUP = grp.getgrgid(os.getegid()).gr_name


@pytest.mark.parametrize(
    ("directory_mode", "socket_mode", "owner", "warned"),
    [
        (0o700, 0o660, f":{OUR_GROUP}", True),
        (0o700, 0o666, "", True),
        (0o710, 0o666, "", True),
        (0o710, 0o660, f":{OUR_GROUP}", False),
        (0o701, 0o660, f":{OUR_GROUP}", False),
        (0o700, 0o660, "", False),  # nobody else is meant
        (0o700, 0o660, OUR_USER, False),
    ],
)
def test_a_socket_in_a_directory_that_keeps_the_web_server_away(
    directory_mode: int, socket_mode: int, owner: str, warned: bool
) -> None:
    with short_directory() as directory:
        directory.chmod(0o755)
        inner = directory / "shop"
        inner.mkdir()
        os.chown(inner, -1, os.getegid())
        inner.chmod(directory_mode)
        address = Address("unix", path=str(inner / "s"))
        log = MemoryLog()
        with bind(address, backlog=1, mode=socket_mode, owner=owner):
            advise(Settings("shop:app", (("fastcgi", address),), socket_mode=socket_mode, socket_owner=owner), log)
        said = [line for line in log.lines if "cannot connect" in line]
        assert len(said) == warned
        if warned:
            assert f"cannot connect to {inner}/s: its directory {inner} has mode {directory_mode:o}" in said[0]
            assert f"chmod o+x {inner}" in said[0]


@pytest.mark.parametrize(
    ("mode", "owner", "warned"),
    [
        (0o660, "", True),
        (0o600, "", True),
        (0o666, "", False),
        (0o660, f":{OUR_GROUP}", False),
        (0o660, OUR_USER, False),
    ],
)
@pytest.mark.parametrize("user", [0, 1000])
def test_a_socket_of_root_alone(
    monkeypatch: pytest.MonkeyPatch, mode: int, owner: str, warned: bool, user: int
) -> None:
    """It has not been made (gateways check)."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    log = MemoryLog()
    listeners = (("fastcgi", Address("unix", path="/none/s")), ("scgi", Address("tcp", "127.0.0.1", 4000)))
    advise(Settings("shop:app", listeners, socket_mode=mode, socket_owner=owner), log)
    sentence = "only root can connect to /none/s, and the workers of web servers are not root"
    assert [sentence in line for line in log.lines] == [True] * (warned and user == 0)


def test_no_socket_no_word(tmp_path: Path) -> None:
    log = MemoryLog()
    address = Address("unix", path=str(tmp_path / "s"))
    advise(Settings("shop:app", (("fastcgi", address),), socket_mode=0o666), log)
    assert log.lines == []


def test_a_start_tells_it() -> None:
    with open_directory() as directory:
        inner = directory / "closed"
        inner.mkdir(mode=0o700)
        options = ("--fastcgi", f"{inner}/s")
        server = Gateways(directory, "gateways.apps.demo:application", *options, python_path=directory, protocols=())
        with running(server):
            assert f"WARNING other users cannot connect to {inner}/s" in server.text()
