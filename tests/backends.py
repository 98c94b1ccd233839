"""Backends in processes of their own: started, awaited until they listen, and stopped whatever happened."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS = 60.0


@contextlib.contextmanager
def socket_directory() -> Iterator[Path]:
    """A directory with a short name: the path of a unix socket has 107 bytes, and pytest's are long."""
    with tempfile.TemporaryDirectory(prefix="gateways-") as name:
        yield Path(name)


@contextlib.contextmanager
def backend(
    arguments: Sequence[str], paths: Sequence[Path], *, end: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """Run this Python with ``arguments`` until the block is left; it has to listen on the unix sockets ``paths``."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            await_listening(process, paths)
            yield process
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            stop(process, end)


def await_listening(process: subprocess.Popen[bytes], paths: Sequence[Path]) -> None:
    deadline = time.monotonic() + SECONDS
    for path in paths:
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    break
            assert process.poll() is None, f"it exited with {process.returncode}"
            assert time.monotonic() < deadline, f"nothing listens on {path.name}"
            time.sleep(0.01)


def stop(process: subprocess.Popen[bytes], end: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(end)
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def gateways(application: str, directory: Path, *options: str) -> tuple[list[str], dict[str, Path]]:
    """Return the arguments that serve ``application``, and the socket of each protocol."""
    sockets = {protocol: directory / protocol for protocol in ("fastcgi", "scgi", "uwsgi")}
    listen = [text for protocol, path in sockets.items() for text in (f"--{protocol}", str(path))]
    return ["-m", "gateways", "serve", application, *listen, *options], sockets
