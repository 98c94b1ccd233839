"""``gateways serve`` in a process of its own, with an application that the tests can steer by files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateways.client.control import call
from tests.server.peers import SECONDS, Peer, request
from tests.servers import Gateways, open_directory, running, wait_until

__all__ = [
    "SECONDS",
    "App",
    "children",
    "descriptors",
    "gone",
    "needs_proc",
    "private_memory",
    "run_command",
    "served",
    "wakeups",
]

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

    def ready(self) -> bool:
        return "steered_app" in self.text()[self.before :] and super().ready()

    def get(self, path: str = "/") -> bytes:
        """Return the body of a good answer."""
        with self.peer(next(iter(self.address))[0]) as peer:
            answer = peer.get(path)
            assert answer.status == 200, answer
            return answer.body

    @property
    def control(self) -> str:
        """The path of the control socket."""
        return str(self.directory / "control")

    def ask(self, command: str, **arguments: object) -> list[dict[str, Any]]:
        """Send a command to the control socket; returns all answers."""
        return list(call(self.control, command, SECONDS, **arguments))

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        (answer,) = self.ask("status")
        assert answer["ok"], (answer, self.text())
        found: dict[str, Any] = answer["status"]
        return found

    def await_status(self, condition: Callable[[dict[str, Any]], object], what: str, seconds: float = SECONDS) -> None:
        wait_until(lambda: condition(self.status()), what, seconds)

    @contextlib.contextmanager
    def watched(self, least: int) -> Iterator[None]:
        """Meanwhile there are never fewer ready workers than ``least``."""
        stopping = threading.Event()
        found: list[int] = []

        def look() -> None:
            while not stopping.is_set():
                found.append(self.status()["ready"])
                stopping.wait(0.005)

        thread = threading.Thread(target=look, name="watcher")
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()
        assert found
        assert min(found) >= least

    def reload(self) -> None:
        """Have it load the application anew; returns when that is done."""
        answers = self.ask("reload")
        assert [answer.get("event") for answer in answers] == ["reloading", "reloaded"], answers

    def served_for(self, path: str) -> float:
        """For how long the last of the GETs of ``path`` is being served, in seconds."""
        threads = [thread for worker in self.status()["workers"] for thread in worker["threads"]]
        busy = [thread for thread in threads if thread["state"] == "busy" and thread["request"] == f"GET {path}"]
        return min((thread["for"] for thread in busy), default=float("inf"))

    def begin(self, path: str, protocol: str = "http") -> Peer:
        """Send a request, and return when a thread serves it."""
        peer = self.peer(protocol)
        try:
            sent = time.monotonic()
            peer.send(request(protocol, path))
            wait_until(lambda: self.served_for(path) <= time.monotonic() - sent, f"{path} is being served")
        except BaseException:
            peer.sock.close()
            raise
        return peer

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
def served(
    *options: str, protocols: tuple[str, ...] = ("http",), app: str = "steered_app:app", first: int | None = None
) -> Iterator[App]:
    """Serve the steered application; the block begins when ``first`` workers are ready, None is all."""
    with open_directory() as directory:
        directory.chmod(0o755)  # for workers with --user
        shutil.copy(SOURCE, directory)
        server = App(
            directory, app, "--control", str(directory / "control"), *options, python_path=directory,
            protocols=protocols, env={"STEER": str(directory)},
        )  # fmt: skip
        if first is not None:
            server.wanted = first
        with running(server):
            if first == 0:  # else it has said that its workers are ready
                wait_until(lambda: listens(server.control), "the master can be asked")
            yield server


def listens(path: str) -> bool:
    """Whether one can connect to a unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


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


def wakeups(pid: int) -> int:
    """How often a process has gone to sleep so far (proc(5))."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)$", text, re.MULTILINE)
    assert found
    return int(found[1])


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``gateways`` with a command that ends by itself."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAYS_")}
    return subprocess.run(
        [sys.executable, "-m", "gateways", *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
