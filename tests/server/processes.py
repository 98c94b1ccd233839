"""``gateways serve`` in a process of its own, with an application that the tests can steer by files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.peers import SECONDS, Peer
from tests.servers import Gateways, open_directory, running, wait_until

__all__ = ["SECONDS", "App", "children", "descriptors", "gone", "needs_proc", "private_memory", "served"]

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
SOURCE = Path(__file__).parent / "steered_app.py"


class App(Gateways):
    """A server that runs ``steered_app``; every file is in ``directory``."""

    def peer(self, protocol: str = "http", kind: str = "unix") -> Peer:
        address = self.address[protocol, kind]
        if kind == "unix":
            return Peer(address, protocol)
        host, _, port = address.rpartition(":")
        return Peer((host, int(port)), protocol)

    def get(self, path: str = "/") -> bytes:
        """Return the body of a good answer."""
        with self.peer(next(iter(self.address))[0]) as peer:
            answer = peer.get(path)
            assert answer.status == 200, answer
            return answer.body

    def workers(self) -> list[int]:
        """The workers that have ever been ready, in that order."""
        return [int(number) for number in re.findall(r"worker (\d+) is ready", self.text())]

    def await_ready(self, count: int) -> list[int]:
        """Wait until so many workers have been ready, all in all."""
        wait_until(lambda: len(self.workers()) >= count, f"{count} workers have been ready")
        return self.workers()

    def await_log(self, words: str, count: int = 1) -> None:
        wait_until(lambda: self.text().count(words) >= count, f"{words!r} in the log")

    def touch(self, name: str) -> None:
        """Make a file that the application looks for."""
        (self.directory / name).touch()

    def await_file(self, name: str, content: str | None = None) -> None:
        """Wait for a file that the application makes."""
        path = self.directory / name
        wait_until(lambda: path.exists() and content in (None, path.read_text()), f"{name} is there")

    def wait(self) -> int:
        """Wait for the end of a server that ends by itself, and return its exit code."""
        assert self.process is not None
        code = self.process.wait(SECONDS)
        self._forget()
        return code


@contextlib.contextmanager
def served(*options: str, protocols: tuple[str, ...] = ("http",), app: str = "steered_app:app") -> Iterator[App]:
    """Serve the steered application; the server is stopped at the end unless the test has done it."""
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        server = App(
            directory, app, *options, python_path=directory, protocols=protocols, env={"STEER": str(directory)}
        )
        with running(server):
            yield server


def gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have waited for it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    except ProcessLookupError:
        return True
    return state in "ZX"


def children(pid: int) -> list[int]:
    """The living and the dead that nobody has waited for."""
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def private_memory(pid: int) -> int:
    """Bytes that belong to one process alone (proc(5), smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return 1024 * sum(int(size) for size in re.findall(r"Private_(?:Clean|Dirty): *(\d+) kB", text))
