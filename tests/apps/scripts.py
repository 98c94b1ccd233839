"""Real CGI scripts, behind a real pool: what the tests of the script runner start."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from gateways.apps.choice import Chooser
from gateways.apps.script import ScriptApp
from gateways.limits import ScriptLimits, Timeouts
from tests.server.pools import TIMEOUTS, MemoryLog, Served, within
from tests.servers import open_directory, require

__all__ = ["USER", "Root", "alive", "answering", "root_directory"]

USER = "nobody" if os.geteuid() == 0 else ""
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
        return self.put(name, "\n".join([f"#!{require('python3')} -SE", "import os, sys, time", *lines, ""]))

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
