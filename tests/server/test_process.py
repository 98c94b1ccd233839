"""The fork of one worker: what it has, what it has not, and how it ends."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from gateways.server.channel import READY, STOP, Channel
from gateways.server.process import WorkerProcess, fork_worker, signal_name
from tests.server.forks import alone, ended
from tests.server.pools import within
from tests.server.processes import needs_proc

Body = Callable[[socket.socket], int]


class Family:
    """Workers that are killed at the end of the test."""

    def __init__(self) -> None:
        self.workers: list[WorkerProcess] = []

    def fork(self, body: Body, others: Iterable[WorkerProcess] | None = None) -> WorkerProcess:
        def run(control: socket.socket) -> int:
            atexit._clear()  # the test runner's
            return body(control)

        alone()
        others = self.workers if others is None else others
        worker = fork_worker(run, born=12.5, generation=3, slot=len(self.workers), others=others)
        self.workers.append(worker)
        return worker

    def end(self) -> None:
        for worker in self.workers:
            try:
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            worker.close()


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


def heard(worker: WorkerProcess) -> list[tuple[bytes, bytes]]:
    """Wait for what the worker says: kind and text."""
    within(worker.channel.waits, "the worker says something")
    return [(message.kind, message.text) for message in worker.channel.receive() or []]


def stay(control: socket.socket) -> int:
    """Say ready, and leave when told to."""
    channel = Channel(control)
    channel.send(READY)
    while True:
        messages = channel.receive()
        if messages is None or any(message.kind == STOP for message in messages):
            return 0


def test_what_the_master_has_of_it(family: Family) -> None:
    worker = family.fork(stay)
    assert (worker.born, worker.generation, worker.slot) == (12.5, 3, 0)
    assert (worker.ready, worker.killed, worker.retiring_since, worker.reason) == (
        False, False, None, ""
    )  # fmt: skip
    assert (worker.slow, worker.cancelled) == ({}, {})
    assert heard(worker) == [(READY, b"")]
    assert worker.channel.receive() == [], "nobody waits for a worker"
    assert worker.channel.send(STOP)
    assert ended(worker.pid) == 0
    assert worker.channel.receive() is None
    assert not worker.channel.send(STOP)


@pytest.mark.parametrize("code", [0, 2, 3, 77])
def test_its_exit_code(family: Family, code: int) -> None:
    assert ended(family.fork(lambda control: code).pid) == code


def fail(control: socket.socket) -> int:
    raise RuntimeError("on purpose")


def leave(control: socket.socket) -> int:
    raise SystemExit(0)


@pytest.mark.parametrize(("body", "words"), [(fail, "RuntimeError: on purpose"), (leave, "SystemExit")])
def test_an_exception_ends_it_and_nobody_else(
    family: Family, body: Body, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended(family.fork(body).pid) == 3
    assert words in capfd.readouterr().err


def test_it_dies_of_a_signal(family: Family) -> None:
    worker = family.fork(stay)
    heard(worker)
    os.kill(worker.pid, signal.SIGUSR2)
    assert ended(worker.pid) == -signal.SIGUSR2
    within(lambda: worker.channel.receive() is None, "the master sees the end")


def test_it_notices_that_its_master_has_gone(family: Family) -> None:
    """Its end of the channel is in no other process."""
    first, second = family.fork(stay), family.fork(stay)
    for worker in (first, second):
        heard(worker)
    first.channel.close()
    assert ended(first.pid) == 0
    second.channel.close()
    assert ended(second.pid) == 0


PROGRAM = """
import atexit, os, sys
from gateways.server.process import fork_worker
atexit.register(print, "the master's end")
def body(control):
    atexit._clear()
    atexit.register(print, "the worker's end")
    print("of the worker", end="; ")
    return 0
print("before", end="; ")
worker = fork_worker(body, born=0.0, generation=1, slot=0, others=[])
os.waitpid(worker.pid, 0)
print("after", end="; ")
"""


def test_what_is_printed_comes_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "before; of the worker; the worker's end\nafter; the master's end\n"
    assert done.stderr == ""


def test_without_streams() -> None:
    """As a daemon is started."""
    program = PROGRAM.replace("import atexit", "import sys; sys.stdout = sys.stderr = None; import atexit", 1)
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


# -- descriptors ------------------------------------------------------------------------------------------------------


def open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # that of listdir itself
            continue
    return found


def report(control: socket.socket) -> int:
    """Send what is open here, then stay."""
    channel = Channel(control)
    channel.send(READY, text="\n".join(sorted(open_files())).encode())
    channel.receive()
    return 0


@needs_proc
def test_later_workers_have_nothing_of_earlier_ones(family: Family) -> None:
    before = open_files()
    found: list[set[str]] = []
    for _ in range(4):
        ((_, text),) = heard(family.fork(report))
        found.append(set(text.decode().split("\n")))
    ends = {os.readlink(f"/proc/self/fd/{worker.channel.fileno()}") for worker in family.workers}
    for number, files in enumerate(found):
        new = {name for name in files - before if not name.startswith("/proc/")}
        assert (
            sorted(name.partition(":")[0] for name in new) == ["/memfd", "socket", "socket"] or sys.platform != "linux"
        )
        assert not new & ends, f"worker {number} has the master's end of a channel"
    sockets = [name for files in found for name in files - before if name.startswith("socket:")]
    assert len(set(sockets)) == 8, "each has its own"


@needs_proc
def test_the_master_gives_everything_back(family: Family) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        ended(family.fork(lambda control: 0).pid)
    family.end()
    family.workers.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def refuse(*_: object, **__: object) -> object:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@needs_proc
@pytest.mark.parametrize(("module", "name"), [(os, "fork"), (socket, "socketpair"), (os, "memfd_create")])
def test_what_the_system_refuses(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
    """The master goes on, without a descriptor less."""
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(module, name, refuse)
    for _ in range(3):
        with pytest.raises(OSError, match="temporarily unavailable"):
            fork_worker(lambda control: 0, born=0.0, generation=1, slot=0, others=[])
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_memfd(monkeypatch: pytest.MonkeyPatch, family: Family, tmp_path: Path) -> None:
    """An unnamed file does as well."""
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker = family.fork(stay)
    heard(worker)
    assert worker.stacks is not None
    worker.stacks.ask(worker.pid, time.monotonic())
    within(lambda: worker.stacks is not None and worker.stacks.ready(time.monotonic()), "the dump is there")
    assert "in stay" in worker.stacks.read(0)
    assert list(tmp_path.iterdir()) == []


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_its_stacks(family: Family) -> None:
    """It can be asked for them from its first moment on."""
    worker = family.fork(stay)
    heard(worker)
    assert worker.stacks is not None
    worker.stacks.ask(worker.pid, time.monotonic())
    within(lambda: worker.stacks is not None and worker.stacks.ready(time.monotonic()), "the dump is there")
    assert "in stay" in worker.stacks.read(0)


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM"), (200, "signal 200")])
def test_names_of_signals(number: int, name: str) -> None:
    assert signal_name(number) == name


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="the system has no real-time signals")
def test_names_of_real_time_signals() -> None:
    assert signal_name(signal.SIGRTMIN + 1) == f"signal {signal.SIGRTMIN + 1}"
