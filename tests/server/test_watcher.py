"""Files of the application that change, with watchfiles: the master gets SIGHUP."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.errors import ConfigError
from gateways.server import watcher
from tests.server.forks import child
from tests.server.pools import within
from tests.server.processes import children, gone, needs_proc

pytestmark = needs_proc


class Hangups:
    """Counts SIGHUP."""

    def __init__(self) -> None:
        self.count = self.total = 0

    def __call__(self, number: int, frame: object) -> None:
        self.count += 1
        self.total += 1


@pytest.fixture
def hangups() -> Iterator[Hangups]:
    hangups = Hangups()
    before = signal.signal(signal.SIGHUP, hangups)
    yield hangups
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def watching(tmp_path: Path, hangups: Hangups) -> Iterator[int]:
    """A watcher that watches: it has told of a first change."""
    pytest.importorskip("watchfiles")
    (tmp_path / "shop" / "__pycache__").mkdir(parents=True)
    pid = watcher.start(str(tmp_path))
    try:
        first = tmp_path / "first.py"

        def look() -> bool:
            first.write_text(str(time.monotonic()))
            time.sleep(0.05)
            return hangups.count > 0

        within(look, "it watches")
        settle(hangups)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def settle(hangups: Hangups) -> None:
    """Wait until nothing more comes of what was changed so far: changes are gathered for 50 ms."""
    while True:
        hangups.count = 0
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline and not hangups.count:
            time.sleep(0.01)
        if not hangups.count:
            return


def test_changes(tmp_path: Path, watching: int, hangups: Hangups) -> None:
    module = tmp_path / "shop" / "models.py"
    for change in (lambda: module.write_text("a"), lambda: module.write_text("b"), module.unlink):
        change()
        within(lambda: hangups.count > 0, "it is told")
        settle(hangups)
    told = hangups.total
    for name in ("data.txt", "access.log", "shop/shop.pid", "models.pyc", "shop/__pycache__/models.py"):
        (tmp_path / name).write_text("x")
    settle(hangups)
    assert hangups.total == told, "what is no source of the application"
    assert not gone(watching)


def test_an_interrupt_of_the_terminal_is_the_masters(watching: int, hangups: Hangups, tmp_path: Path) -> None:
    """Ctrl-C reaches all of its processes; the master ends the watcher when it has done with the rest."""
    os.kill(watching, signal.SIGINT)
    (tmp_path / "later.py").write_text("x")
    within(lambda: hangups.count > 0, "it goes on")
    os.kill(watching, signal.SIGTERM)
    within(lambda: gone(watching), "it ends")


def test_it_ends_with_its_master(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    found, out = os.pipe()

    def master() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.write(out, b"%d " % watcher.start(str(tmp_path)))
        time.sleep(1000)

    pid = child(master)
    watching = int(os.read(found, 20))
    os.close(found)
    os.close(out)
    within(lambda: not gone(watching), "it runs")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    within(lambda: gone(watching), "it has gone")


@pytest.mark.filterwarnings("error")
def test_its_start_leaves_nothing_behind(tmp_path: Path, hangups: Hangups) -> None:
    """Its number is all that the master keeps."""
    pytest.importorskip("watchfiles")
    before = set(children(os.getpid()))
    files = len(os.listdir("/proc/self/fd"))
    pid = watcher.start(str(tmp_path))
    gc.collect()
    assert set(children(os.getpid())) - before == {pid}
    assert len(os.listdir("/proc/self/fd")) == files
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_without_watchfiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--reload needs watchfiles: python3 -m pip .* install watchfiles"):
        watcher.start(str(tmp_path))
