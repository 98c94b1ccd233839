"""A real pool in a thread of the test, on real sockets. Everything in it is given as an argument: the compiled build
takes no monkeypatching.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import final

import pytest

from gateways.apps import App, Exchange
from gateways.apps.wsgi import WSGIApp
from gateways.codecs.events import ResponseHead
from gateways.limits import DEFAULT_LIMITS, Limits, Timeouts
from gateways.server.errorlog import ErrorLog
from gateways.server.listener import Listener
from gateways.server.poller import Poller, make_poller
from gateways.server.pool import Pool
from gateways.server.protocols import Protocols
from tests.server.peers import PROTOCOLS, SECONDS, Address, Peer

__all__ = [
    "QUICK",
    "TIMEOUTS",
    "Called",
    "Gate",
    "MemoryLog",
    "Served",
    "both_families",
    "every_protocol",
    "hello",
    "one_or_more_threads",
    "reply",
    "timeouts",
    "within",
    "wsgi",
]

TIMEOUTS = Timeouts(head=SECONDS, body=SECONDS, write=SECONDS, keepalive=SECONDS, drain=1.0)
QUICK = 0.15
"""Of a deadline that is to pass, in seconds."""
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
one_or_more_threads = pytest.mark.parametrize("threads", [1, 3])
both_families = pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])


def timeouts(**changed: float) -> Timeouts:
    """Those of TIMEOUTS, but for some."""
    return TIMEOUTS._replace(**changed)


def within(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Wait until ``condition`` holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.001)


def reply(exchange: Exchange, content: bytes, status: str = "200 OK") -> None:
    """Answer in one piece."""
    headers = [("Content-Length", str(len(content)))]
    exchange.send(ResponseHead(exchange.request.stream, status, headers, content, True))


def hello(exchange: Exchange) -> None:
    """The simplest App."""
    reply(exchange, b"hello")


def wsgi(application: Callable[..., Iterable[bytes]], log: ErrorLog) -> WSGIApp:
    """The App of a WSGI application."""
    return WSGIApp(application, log, mount=None, threads=False, processes=False)


class MemoryLog(ErrorLog):
    """Keeps its lines; ``failures`` are those with a traceback."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failures: list[BaseException] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    def warning(self, message: str) -> None:
        self.lines.append(message)

    def failure(self, message: str, error: BaseException | None = None) -> None:
        self.lines.append(message)
        if error is not None:
            self.failures.append(error)

    def refused(self, protocol: str, peer: str, reason: str) -> None:
        self.lines.append(f"refused: {protocol} {peer}: {reason}")

    def block(self, message: str, text: str, level: str = "warning") -> None:
        self.lines.append(message)

    def notice(self, exchange: Exchange, message: str) -> None:
        self.lines.append(f"{exchange.protocol}: {message}")

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:
        self.lines.append(f"{exchange.protocol}: {message}")
        self.failures.append(error)

    def output(self, exchange: Exchange, text: str) -> None:
        self.lines.append(text)

    def only(self, words: str) -> None:
        """Wait for one line with these words; there must be no other line."""
        within(lambda: self.lines, f"a line with {words!r}")
        assert len(self.lines) == 1, self.lines
        assert words in self.lines[0]


class Gate:
    """Where an App waits until the test lets it go on."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._mutex = threading.Lock()
        self.waiting = 0

    def wait(self) -> None:
        with self._mutex:
            self.waiting += 1
        assert self._open.wait(SECONDS), "nobody opened the gate"
        with self._mutex:
            self.waiting -= 1

    def open(self) -> None:
        self._open.set()

    def await_waiting(self, count: int) -> None:
        within(lambda: self.waiting == count, f"{count} wait at the gate")


class Called:
    """Calls functions in a thread of the pool: a task behind a pipe, as the worker's own control is."""

    def __init__(self) -> None:
        self.fd, self._out = os.pipe()
        os.set_blocking(self.fd, False)
        self._functions: list[Callable[[], object]] = []

    def on_ready(self) -> None:
        try:
            os.read(self.fd, 1)
        except BlockingIOError:  # another thread has taken it, promoted before the byte was read
            return
        self._functions.pop(0)()

    def call(self, function: Callable[[], object]) -> None:
        self._functions.append(function)
        os.write(self._out, b"c")

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._out)


@final
class Served:
    """An App served by a pool of ``threads``, for the length of a ``with`` block; it must end without a failure."""

    def __init__(
        self,
        app: App = hello,
        protocol: str = "http",
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        timeouts: Timeouts = TIMEOUTS,
        tcp: bool = False,
        poller: Poller | None = None,
        log: MemoryLog | None = None,
        failures: Iterable[type[BaseException]] = (),
        backlog: int = 1024,
    ) -> None:
        self.protocol = protocol
        self.log = log or MemoryLog()
        self._expected = tuple(failures)
        self._directory = tempfile.TemporaryDirectory(prefix="gateways-")
        self.sock = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        self.sock.bind(("127.0.0.1", 0) if tcp else str(Path(self._directory.name) / "s"))
        self.address: Address = self.sock.getsockname()
        self.sock.listen(backlog)
        self.sock.setblocking(False)
        self.poller = poller or make_poller(one_shot=threads > 1)
        self.pool = Pool(app, self.log, threads=threads, limits=limits, timeouts=timeouts, poller=self.poller)
        protocols = Protocols(limits, host="localhost", port="80", max_conns=100, max_reqs=100)
        self.listener = Listener(self.pool, self.sock, protocol, protocols)
        self._called = Called()
        self.pool.watch(self._called.fd, self._called)
        self.thread = threading.Thread(target=self._run, name="pool")
        self.crash: BaseException | None = None

    def _run(self) -> None:
        try:
            self.pool.run()
        except BaseException as error:  # noqa: BLE001  (told by the test's own thread)
            self.crash = error

    def __enter__(self) -> Served:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.thread.is_alive():
            self.stop()
        self.thread.join(SECONDS)
        alive = self.thread.is_alive()
        if not alive:
            self._called.close()
            self.poller.close()
        self.sock.close()
        self._directory.cleanup()
        if kind is None:
            assert self.crash is None, repr(self.crash)
            assert not alive, "the pool does not end"
            assert not self.pool.connections
            assert [type(each) for each in self.log.failures] == list(self._expected), self.log.lines

    def call(self, function: Callable[[], object]) -> None:
        """Have a thread of the pool call ``function``."""
        self._called.call(function)

    def stop(self) -> None:
        """Do what a worker does when it is told to stop."""

        def stop() -> None:
            self.pool.unwatch(self._called.fd)
            self.pool.stop()
            self.listener.finish()

        self.call(stop)

    def connect(self, **options: int) -> Peer:
        return Peer(self.address, self.protocol, **options)

    def open_connections(self) -> int:
        return len(self.pool.connections)

    def await_connections(self, count: int) -> None:
        within(lambda: len(self.pool.connections) == count, f"{count} connections wait in the poller")
