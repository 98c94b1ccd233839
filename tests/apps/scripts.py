"""Real CGI scripts, behind a real pool: what the tests of the script runner start."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from gateways.apps.choice import Chooser
from gateways.apps.processes import Process
from gateways.apps.script import ScriptApp
from gateways.limits import ScriptLimits, Timeouts
from gateways.testing.framing.fastcgi_records import rec
from tests.server.peers import SECONDS, Peer
from tests.server.pools import TIMEOUTS, MemoryLog, Served, within
from tests.servers import open_directory, require

__all__ = [
    "HEAD", "MIB", "USER", "Root", "Sender", "alive", "answering", "has_ended", "pid_in", "receive", "root_directory",
    "rss",
]  # fmt: skip

MIB = 1 << 20
HEAD = ("echo Content-Type: text/plain", "echo")
"""Of a script for the shell."""
USER = "nobody" if os.geteuid() == 0 else ""
# As root, scripts run as somebody who may not be let into the directory of the Python that runs the tests.
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") if USER else sys.executable
PASSED = {"PATH": os.environ.get("PATH", os.defpath)}


class Root:
    """A directory of scripts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, name: str, text: str, mode: int = 0o755) -> Path:
        """Write a script."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def sh(self, name: str, *lines: str) -> Path:
        return self.put(name, "\n".join(["#!/bin/sh", *lines, ""]))

    def python(self, name: str, *lines: str) -> Path:
        return self.put(name, "\n".join([f"#!{PYTHON} -SE", "import os, sys, time", *lines, ""]))

    def c(self, name: str, source: str) -> Path:
        path = self.directory / name
        code = self.put(name + ".c", source, 0o644)
        subprocess.run([require("gcc"), "-O1", "-o", str(path), str(code)], check=True, timeout=60)
        path.chmod(0o755)
        return path

    def note(self, name: str) -> Path:
        """Return where a script may write something."""
        path = self.directory / name
        path.touch()
        path.chmod(0o666)
        return path


@contextlib.contextmanager
def root_directory() -> Iterator[Root]:
    with open_directory() as directory:
        yield Root(directory)


@contextlib.contextmanager
def answering(
    root: Root,
    protocol: str = "http",
    *,
    threads: int = 4,
    tcp: bool = False,
    log: MemoryLog | None = None,
    timeouts: Timeouts = TIMEOUTS,
    limits: ScriptLimits | None = None,
) -> Iterator[tuple[Served, ScriptApp]]:
    """Serve a root; at the end nothing may be left of its scripts."""
    log = log or MemoryLog()
    chooser = Chooser(str(root.directory), script=None, index=(), interpreters={})
    app = ScriptApp(chooser, log, limits=limits or ScriptLimits(), passed=PASSED, user=USER)
    try:
        with Served(app, protocol, threads=threads, tcp=tcp, log=log, timeouts=timeouts) as served:
            yield served, app
            within(lambda: not app.turns.taken, "every script has ended")
    finally:
        app.close()


def alive(pid: int) -> bool:
    """Whether a process lives, and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(process: Process, seconds: float) -> bool:
    """Wait until a script has ended, at most so long; returns whether it has."""
    fd = process.watch_end()
    try:
        return bool(select.select([fd], [], [], seconds)[0]) and process.exited()
    finally:
        process.unwatch_end(fd)


def pid_in(note: Path, what: str = "the script has told its pid") -> int:
    within(lambda: note.read_text().endswith("\n"), what)
    return int(note.read_text().split()[-1])


def rss() -> int:
    """Return the bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Sender:
    """Sends ``size`` zeros as a request's body, from a thread."""

    def __init__(self, peer: Peer, size: int) -> None:
        self.peer = peer
        self.size = size
        self.error: OSError | None = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        block = bytes(32_768)
        try:
            for _ in range(self.size // len(block)):
                self.peer.send(rec(5, 1, block) if self.peer.protocol == "fastcgi" else block)
            if self.peer.protocol == "fastcgi":
                self.peer.stdin(1, end=True)
        except OSError as error:
            self.error = error

    def join(self) -> None:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


def receive(peer: Peer) -> tuple[bytes, int, int]:
    """Read until the server closes; returns the first bytes, how many came, and how much memory was taken at most."""
    first = b""
    count = 0
    before = rss()
    most = 0
    while data := peer.sock.recv(262_144):
        first = first or data[:1000]
        count += len(data)
        if count // (4 * MIB) != (count - len(data)) // (4 * MIB):
            most = max(most, rss() - before)
    return first, count, most
