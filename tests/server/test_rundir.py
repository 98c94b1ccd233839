"""Where control sockets lie by default, and that nobody else can lay a trap there."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.errors import ConfigError
from gateways.server import rundir
from gateways.server.control import default_path
from tests.server.fake_master import other_user, short_directory


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's directories, all in one that is the test's."""
    with short_directory() as directory:
        make_places(directory, monkeypatch)
        yield directory


def make_places(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run", "user", "tmp"):
        (directory / name).mkdir()
        (directory / name).chmod(0o1777)
    monkeypatch.setattr(rundir, "SYSTEM", str(directory / "run"))
    monkeypatch.setattr(rundir, "USERS", str(directory / "user"))
    monkeypatch.setattr(tempfile, "tempdir", str(directory / "tmp"))


def as_ordinary() -> contextlib.AbstractContextManager[object]:
    return other_user() if os.geteuid() == 0 else contextlib.nullcontext()


@pytest.mark.skipif(os.geteuid() != 0, reason="this is root's")
def test_default_path_of_root(places: Path) -> None:
    assert default_path(12, "/run/user/0") == f"{places}/run/gateways/12.sock"
    assert stat.S_IMODE((places / "run" / "gateways").stat().st_mode) == 0o700
    (places / "run" / "gateways").rmdir()
    (places / "run").rmdir()
    assert default_path(12, None) == str(places / "tmp" / "gateways-0" / "12.sock")


def test_default_path_of_others(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with as_ordinary():
        runtime = places / "user" / "me"
        runtime.mkdir()
        own = str(places / "tmp" / f"gateways-{os.geteuid()}")
        assert default_path(12, str(runtime)) == f"{runtime}/gateways/12.sock"
        assert stat.S_IMODE((runtime / "gateways").stat().st_mode) == 0o700
        assert default_path(12, str(runtime)) == f"{runtime}/gateways/12.sock"
        for useless in (None, "", "relative", f"{places}/none"):
            assert default_path(12, useless) == f"{own}/12.sock"
        assert stat.S_IMODE(os.stat(own).st_mode) == 0o700
        assert rundir.search_directories(str(runtime)) == [f"{runtime}/gateways", own]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs directories of two users")
def test_a_runtime_directory_of_another_user_does_not_count(places: Path) -> None:
    (places / "user" / "root").mkdir()
    with as_ordinary():
        assert default_path(12, f"{places}/user/root") == str(places / "tmp" / f"gateways-{os.geteuid()}" / "12.sock")


@pytest.mark.parametrize("trap", ["link", "open", "file"])
def test_the_directory_must_be_ours_alone(places: Path, trap: str) -> None:
    with as_ordinary():
        own = places / "tmp" / f"gateways-{os.geteuid()}"
        if trap == "link":
            (places / "user" / "target").mkdir(mode=0o700)
            own.symlink_to(places / "user" / "target")
        elif trap == "open":
            own.mkdir()
            own.chmod(0o770)
        else:
            own.touch()
        with pytest.raises(ConfigError, match="must be a directory that belongs to the user who runs gateways"):
            default_path(12, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs directories of two users")
def test_the_directory_must_not_be_another_users(places: Path) -> None:
    with as_ordinary():
        uid = os.geteuid()
    (places / "tmp" / f"gateways-{uid}").mkdir(mode=0o700)
    with as_ordinary(), pytest.raises(ConfigError, match="must be a directory that belongs to"):
        default_path(12, None)


def test_a_directory_that_cannot_be_made(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(places / "none"))
    with as_ordinary(), pytest.raises(ConfigError, match=r"cannot make the directory .*--control off"):
        default_path(12, None)


def test_the_sockets_of_servers_that_were_killed_are_removed(places: Path) -> None:
    directory = Path(default_path(12, None)).parent
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = [f"{ended.pid}.sock", f"{os.getpid()}.sock", "1.sock.old", f"0{ended.pid}.sock"]
    for name in names:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(directory / name))
    (directory / "999999999.sock").write_text("no socket")
    default_path(12, None)
    assert sorted(os.listdir(directory)) == sorted([*names[1:], "999999999.sock"])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(directory / names[0]))
        sock.listen()
        default_path(12, None)
        assert (directory / names[0]).exists(), "somebody answers"
