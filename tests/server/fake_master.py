"""A master that only pretends: a status document, a note of what it was asked, and the poll loop that it would have.

The servers in the loop are real, and so are their sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, final

import pytest

from gateways.errors import ConfigError
from gateways.server import rundir
from gateways.server.desk import Desk
from gateways.server.scoreboard import BUCKETS
from tests.server.peers import SECONDS

__all__ = [
    "LONG_URI",
    "FakeClock",
    "FakeHandler",
    "Loop",
    "ask",
    "connect",
    "ends",
    "histogram",
    "line",
    "other_user",
    "own_places",
    "pump",
    "short_directory",
    "status_document",
]

Result = TypeVar("Result")
LONG_URI: Final = "GET /" + "x" * 300
NOBODY: Final = 65_534


def histogram(*durations: float) -> dict[str, Any]:
    """What the scoreboard makes of these durations."""
    counts = [0] * (len(BUCKETS) + 1)
    for duration in durations:
        counts[sum(duration > bound for bound in BUCKETS)] += 1
    return {"counts": counts, "total": sum(durations)}


def status_document(**changes: object) -> dict[str, Any]:
    """A server of two workers with two threads each, one of which is busy."""

    def thread(number: int, request: str = "", seconds: float = 12.0) -> dict[str, Any]:
        state = "busy" if request else "idle"
        protocol = "fastcgi" if request else ""
        return {
            "thread": number, "state": state, "for": seconds, "protocol": protocol, "request": request, "requests": 7,
        }  # fmt: skip

    def worker(pid: int, state: str, *threads: dict[str, Any]) -> dict[str, Any]:
        return {
            "pid": pid, "state": state, "generation": 1, "age": 3725.0, "requests": 14, "private_bytes": 8_400_000,
            "threads": list(threads),
        }  # fmt: skip

    document: dict[str, Any] = {
        "name": "gateways",
        "version": "gateways 0.1.0 (CPython 3.11.2, plain)",
        "pid": 12,
        "app": "shop:app",
        "started": 1_790_000_000.0,
        "uptime": 3725.0,
        "state": "running",
        "generation": 1,
        "reloads": 3,
        "reload_failures": 1,
        "pool": "static",
        "wanted": 2,
        "ready": 2,
        "threads": 2,
        "busy_threads": 1,
        "busy": 0.13,
        "requests": 28,
        "restarts": {"crash": 1, "requests": 2, "age": 0, "memory": 0, "timeout": 0},
        "timeouts": 4,
        "slow": 5,
        "listeners": [
            {"protocol": "fastcgi", "address": "/run/shop.sock", "queue": 6, "backlog": 1024},
            {"protocol": "http", "address": "127.0.0.1:8000", "queue": None, "backlog": 1024},
        ],
        "queue_time": histogram(0.002, 0.002),
        "times": {
            "fastcgi": {"2xx": histogram(0.004, 0.004, 0.2), "5xx": histogram(70.0)},
            "http": {"2xx": histogram()},
        },
        "workers": [
            worker(13, "ready", thread(0, LONG_URI, 0.24), thread(1)),
            worker(14, "ready", thread(0), thread(1)) | {"private_bytes": None},
        ],
    }
    return document | changes


class FakeClock:
    """A clock that goes where it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@final
class FakeHandler:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.document = status_document()
        self.calls: list[str] = []
        self.failure: Exception | None = None

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def status(self) -> dict[str, Any]:
        self._note("status")
        return self.document

    def reload(self) -> None:
        self._note("reload")

    def reopen(self) -> None:
        self._note("reopen")

    def stop(self) -> None:
        self._note("stop")

    def scale(self, workers: int) -> int:
        self._note(f"scale {workers}")
        if workers > 8:
            raise ConfigError("there is room for 8 workers; start it with more --workers")
        return workers


@final
class Loop:
    """The master's loop, in a thread, for the length of a ``with`` block; it must end without a failure."""

    def __init__(self, *desks: Desk) -> None:
        self._desks = desks
        self._wake_in, self._wake_out = os.pipe()
        self._jobs: list[Callable[[], bool]] = []
        self._thread = threading.Thread(target=self._run, name="loop")
        self._crash: BaseException | None = None
        self.rounds = 0

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """Close everything, as the master's end does."""
        if self._thread.is_alive():
            self._send(lambda: False)
            self._thread.join(SECONDS)
            assert not self._thread.is_alive(), "the loop does not end"
        if self._wake_in >= 0:
            os.close(self._wake_in)
            os.close(self._wake_out)
            self._wake_in = -1
        crash, self._crash = self._crash, None
        if crash is not None:
            raise crash

    def do(self, function: Callable[[], Result]) -> Result:
        """Call a function in the loop's thread, and return what it returns."""
        future: Future[Result] = Future()

        def job() -> bool:
            future.set_result(function())
            return True

        self._send(job)
        return future.result(SECONDS)

    def _send(self, job: Callable[[], bool]) -> None:
        self._jobs.append(job)
        os.write(self._wake_out, b"j")

    def _run(self) -> None:
        try:
            while self._round():
                self.rounds += 1
        except BaseException as error:  # noqa: BLE001  (raised again in the test)
            self._crash = error
        finally:
            for desk in self._desks:
                desk.close()

    def _round(self) -> bool:
        poll = select.poll()
        poll.register(self._wake_in, select.POLLIN)
        owners: dict[int, Desk] = {}
        for desk in self._desks:
            for fd, events in desk.descriptors():
                poll.register(fd, events)
                owners[fd] = desk
        deadlines = [deadline for desk in self._desks if (deadline := desk.deadline()) is not None]
        wait = max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1 if deadlines else None
        go_on = True
        for fd, events in poll.poll(wait):
            if fd == self._wake_in:
                os.read(fd, 1)
                go_on = self._jobs.pop(0)()
            else:
                owners[fd].on_ready(fd, events)
        for desk in self._desks:
            desk.expire(time.monotonic())
        return go_on


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(SECONDS)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def line(sock: socket.socket) -> dict[str, Any]:
    """Read one line, and nothing of what follows."""
    data = b""
    while not data.endswith(b"\n"):
        there = sock.recv(65_536, socket.MSG_PEEK)
        assert there, "the end of file within a line"
        data += sock.recv(there.find(b"\n") + 1 or len(there))
    answer = json.loads(data)
    assert isinstance(answer, dict)
    return answer


def ends(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:  # it has closed without having read all
        return True


def ask(path: str, request: bytes) -> dict[str, Any]:
    """Send bytes and return the one line that comes back before the end."""
    with connect(path) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
        answer = line(sock)
        assert ends(sock)
        return answer


def pump(server: Desk) -> None:
    """Run the loop until there is nothing to do."""
    for _ in range(1000):
        poll = select.poll()
        for fd, events in server.descriptors():
            poll.register(fd, events)
        found = poll.poll(0)
        if not found:
            return
        for fd, events in found:
            server.on_ready(fd, events)
    pytest.fail("the loop spins")


@contextlib.contextmanager
def own_places() -> Iterator[str]:
    """Have all places where control sockets are looked for in a directory of the test's; yield that."""
    with tempfile.TemporaryDirectory(prefix="gateways-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rundir, "SYSTEM", directory)
        patch.setattr(rundir, "USERS", directory)
        patch.setattr(tempfile, "tempdir", directory)
        yield directory


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory whose name is short enough for sockets, and which other users may pass."""
    with tempfile.TemporaryDirectory(prefix="gateways-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextlib.contextmanager
def other_user() -> Iterator[int]:
    """Be another user, as far as root can be one; yield its number."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    os.seteuid(NOBODY)
    try:
        yield NOBODY
    finally:
        os.seteuid(0)
