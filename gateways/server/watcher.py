"""For development: a process of its own that watches the application's files and tells the master of a change (SIGHUP).

Run as ``python -m gateways.server.watcher DIRECTORY MASTER``. It ends when the master does.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from typing import Final

from gateways.errors import ConfigError

__all__ = ["start"]

_LOOK: Final = 1000  # milliseconds between looks whether the master still lives


def examine() -> None:
    """Raise ConfigError without watchfiles."""
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigError(f"--reload needs watchfiles: python3 -m pip --python {sys.executable} install watchfiles")


def start(directory: str) -> int:
    """Start watching ``directory``; returns the watcher's process id. Raises ConfigError without watchfiles."""
    examine()
    words = [sys.executable, "-m", "gateways.server.watcher", directory, str(os.getpid())]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)  # noqa: S603  (ourselves)
    process.returncode = 0  # else Popen complains that it still runs, when it is forgotten here
    return process.pid


def watch(directory: str, master: int) -> None:
    """Send SIGHUP to ``master`` whenever a Python file below ``directory`` changes, until it has gone."""
    from watchfiles import PythonFilter, watch as changes  # noqa: PLC0415  (an extra)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the master ends us
    for found in changes(directory, watch_filter=PythonFilter(), rust_timeout=_LOOK, yield_on_timeout=True):
        if os.getppid() != master:
            return
        if found:
            os.kill(master, signal.SIGHUP)


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
