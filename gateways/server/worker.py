"""One worker process: loads the application, serves every listener with one pool, leaves when told to.

The master gives its orders over ``control``, a socket: stop, reopen the logs, end a request; its end (the master is
gone) means stop too.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateways.apps import App
from gateways.apps.loader import load
from gateways.apps.secret import SecretApp
from gateways.apps.wsgi import WSGIApp
from gateways.errors import ConfigError, WorkerBootError
from gateways.server.accesslog import AccessLog
from gateways.server.admission import Admission, Networks
from gateways.server.channel import CANCEL, CONNECTION, DUE, LEAVING, READY, REOPEN, STOP, Channel, Message
from gateways.server.errorlog import ErrorLog
from gateways.server.listener import Listener
from gateways.server.observed import ObservedApp, ObservedCourses
from gateways.server.passing import Passing, Way
from gateways.server.poller import make_poller
from gateways.server.pool import TICK, Pool
from gateways.server.protocols import BehindProxy, Protocols
from gateways.server.scoreboard import Board
from gateways.server.stacks import attend
from gateways.settings import Scripts, Settings

if TYPE_CHECKING:
    from gateways.apps.script import ScriptApp

__all__ = ["LEAVE", "Place", "run_worker"]

_BEFORE: Final = 1.5
"""Seconds before the master kills a worker that has not left, in which scripts are ended that still run."""
_SCRIPTS_TICK: Final = 0.005
"""Seconds, for TICK: a script costs half a millisecond by itself, and holds a thread only where its peer is slow."""
LEAVE: Final = (signal.SIGTERM, signal.SIGQUIT)
"""What asks a worker itself to leave. Any other signal that has a handler is the application's own."""

_NO_LOG: Final = (
    "it has not got the new log files, as it had no file descriptor left; raise the limit of open files (ulimit -n)"
)


@dataclass(frozen=True, slots=True)
class Place:
    """What the master gives a worker beside the settings."""

    sockets: list[tuple[str, socket.socket]]
    """Protocol and listening socket."""
    control: socket.socket
    wakeup: int
    """A descriptor from which the numbers of the signals that came can be read."""
    board: Board
    slot: int
    access_log: AccessLog | None
    log_fds: tuple[int, ...]
    """Descriptors of the log files: what REOPEN brings takes their numbers."""
    admission: Admission
    application: Any = None
    """Loaded already, where it is loaded in the master."""


def run_worker(settings: Settings, place: Place, log: ErrorLog) -> None:
    """Serve until told to stop; raises WorkerBootError, ConfigError."""
    if settings.scripts is not None:
        with contextlib.closing(script_app(settings.scripts, settings.mount, log)) as scripts:
            # Who waits for its script or its turn holds no thread, who waits for its peer to take the answer does.
            threads = settings.scripts.limits.concurrency + 1
            serve_app(scripts, settings, place, log, threads=threads, leaving=scripts.end_in)
        return
    application = place.application
    if application is None:
        sys.path.insert(0, os.getcwd())
        application = load(settings.app)
    several = {"threads": settings.threads > 1, "processes": settings.workers > 1}
    if settings.warm_up is not None:
        from gateways.apps.rehearsal import rehearse  # noqa: PLC0415  (for those who ask for it)

        rehearse(application, settings.warm_up, log, mount=settings.mount, **several)
    app = WSGIApp(application, log, mount=settings.mount, **several)
    serve_app(app, settings, place, log, threads=settings.threads)


def script_app(scripts: Scripts, mount: str | None, log: ErrorLog) -> ScriptApp:
    """Return what runs CGI scripts; raises WorkerBootError, ConfigError."""
    from gateways.apps.choice import Chooser  # noqa: PLC0415  (for those who ask for it)
    from gateways.apps.processes import Launcher, Starter  # noqa: PLC0415  (as above)
    from gateways.apps.script import ScriptApp  # noqa: PLC0415  (as above)

    try:
        chooser = Chooser(
            scripts.root or None, script=scripts.script or None, index=scripts.index,
            interpreters=scripts.interpreters, mount=mount,
        )  # fmt: skip
    except OSError as error:
        raise WorkerBootError(f"cannot run {scripts}: {error.strerror}") from None
    launcher: Starter
    if not scripts.python_warm:
        launcher = Launcher(scripts.limits)
    elif not hasattr(os, "pidfd_open"):
        log.warning("--python-warm needs Linux; scripts are started cold")
        launcher = Launcher(scripts.limits)
    else:
        from gateways.apps.warm import WarmLauncher  # noqa: PLC0415  (as above)

        launcher = WarmLauncher(
            scripts.limits, log, scripts=scripts.root or scripts.script, named=scripts.python_import,
            passed=scripts.passed,
        )  # fmt: skip
    return ScriptApp(
        chooser, log, limits=scripts.limits, passed=scripts.passed, user=scripts.script_user, launcher=launcher
    )


def serve_app(
    app: App, settings: Settings, place: Place, log: ErrorLog, *, threads: int,
    leaving: Callable[[float], None] | None = None,
) -> None:  # fmt: skip
    """Serve one App until told to stop; ``leaving`` is called then, with the seconds that the App has."""
    if settings.secret:
        app = SecretApp(app, settings.secret, log)
    observe = ObservedApp if settings.scripts is None else ObservedCourses
    observed = observe(app, place.board, place.slot, place.access_log)
    pool = Pool(
        observed, log, threads=threads, limits=settings.limits, timeouts=settings.timeouts,
        poller=make_poller(one_shot=threads > 1), tick=TICK if settings.scripts is None else _SCRIPTS_TICK,
    )  # fmt: skip
    if settings.scripts is not None:
        pool.expect_courses()
    ways = [way_of(sock, protocol, settings, place.admission) for protocol, sock in place.sockets]
    listeners = [Listener(pool, way.sock, way.protocol, way.connector, place.admission) for way in ways]
    channel = Channel(place.control)
    observed.on_limit = lambda: channel.send(DUE)
    passing = Passing(pool, channel, ways)
    stop = _Stop(pool, listeners, passing, leaving)
    pool.watch(place.wakeup, _Signals(stop, place.wakeup, channel))
    orders = _Orders(channel, place.log_fds, stop, passing)
    if settings.request_timeout:
        from gateways.server.deadlines import Deadlines  # noqa: PLC0415  (ctypes, for those who ask for it)

        orders.listen_in_thread(pool, Deadlines(pool, observed).cancel)
    else:
        orders.listen(pool)
    if settings.request_timeout or settings.slow_request:
        attend()  # faulthandler may crash where it walks the stack of a thread that runs: the thread holds the GIL
    gc.collect()
    gc.freeze()  # what the application's modules hold is never garbage, and need not be looked at
    channel.send(READY)
    pool.run()


class _Signals:
    """Tells the signals that mean leave from those that the application has handlers for."""

    def __init__(self, stop: _Stop, fd: int, channel: Channel) -> None:
        self._stop = stop
        self._fd = fd
        self._channel = channel

    def on_ready(self) -> None:
        """Look which signals have come."""
        try:
            numbers = os.read(self._fd, 4096)
        except BlockingIOError:  # another thread has looked
            return
        if any(number in numbers for number in LEAVE):
            leave_by_itself(self._stop, self._channel)


class _Orders:
    """What the master says."""

    def __init__(self, channel: Channel, log_fds: tuple[int, ...], stop: _Stop, passing: Passing) -> None:
        self._channel = channel
        self._log_fds = log_fds
        self._stop = stop
        self._passing = passing
        self._lock = threading.Lock()

    def listen(self, pool: Pool) -> None:
        """Take it in the pool."""
        self._channel.sock.setblocking(False)
        pool.watch(self._channel.fileno(), self)

    def on_ready(self) -> None:
        """Take what has come, one thread at a time."""
        with self._lock:
            messages = self._channel.receive()
            if messages is None:
                self._stop.unwatch(self._channel.fileno())
                messages = [Message(STOP)]
            for message in messages:
                self._obey(message)

    def listen_in_thread(self, pool: Pool, cancel: Callable[[int, int], None]) -> None:
        """Take it in a thread: a request is to be ended while every thread of the pool is in the application."""
        heard, hearing = os.pipe()
        os.set_blocking(heard, False)
        relay = _Relay(heard, self._obey)
        pool.watch(heard, relay)

        def listen() -> None:
            while (messages := self._channel.receive()) is not None:
                for message in messages:
                    if message.kind == CANCEL:
                        cancel(message.one, message.two)
                    elif message.kind == REOPEN and not message.missing:
                        self._obey(message)
                    else:
                        relay.messages.append(message)
                        os.write(hearing, b"m")
            relay.messages.append(Message(STOP))
            os.write(hearing, b"m")

        threading.Thread(target=listen, name="gateways-orders", daemon=True).start()

    def _obey(self, message: Message) -> None:
        """Do it, in the pool."""
        if message.kind == STOP:
            self._stop.leave(others=message.one == 1, until=message.two / 1e6)
        elif message.kind == CONNECTION:
            self._passing.take(message)
        elif message.kind == REOPEN:
            for new, old in zip(message.fds, self._log_fds, strict=False):
                os.dup2(new, old, inheritable=old <= 2)
                os.close(new)
            if message.missing:  # or it would write to the old files for as long as it lives
                leave_by_itself(self._stop, self._channel, _NO_LOG)
        elif message.kind != CANCEL:  # which came without --request-timeout: of a master of other settings
            raise ConfigError(f"the master gave an order that this worker does not know: {message.kind!r}")


def leave_by_itself(stop: _Stop, channel: Channel, why: str = "") -> None:
    """Leave though the master has not said so; another worker comes for this one."""
    channel.send(LEAVING, text=why.encode())  # before the connections, lest they come back
    stop.leave(others=True)


class _Relay:
    """Has messages that one thread has heard obeyed by a thread of the pool, one after another."""

    def __init__(self, fd: int, obey: Callable[[Message], None]) -> None:
        self._fd = fd
        self._obey = obey
        self.messages: deque[Message] = deque()

    def on_ready(self) -> None:
        """Take one."""
        try:
            os.read(self._fd, 1)
        except BlockingIOError:  # another thread has taken it
            return
        self._obey(self.messages.popleft())


class _Stop:
    """What the master's order, its end, and some signals of a worker mean: finish what runs, and leave."""

    def __init__(
        self, pool: Pool, listeners: list[Listener], passing: Passing, leaving: Callable[[float], None] | None
    ) -> None:
        self._pool = pool
        self._listeners = listeners
        self._passing = passing
        self._leaving = leaving
        self._until = float("inf")

    def leave(self, *, others: bool, until: float = 0.0) -> None:
        """Take the last connections that wait, then no more; others, if there are any, go on with the kept ones.

        ``until``: when the master kills this worker, by ``time.monotonic``; 0 where it has not said so.
        """
        now = time.monotonic()
        until = until or now + self._pool.timeouts.graceful
        if self._leaving is not None and until < self._until:
            self._leaving(max(0.0, until - _BEFORE - now))
        self._until = min(self._until, until)
        self._pool.stop(self._passing if others else None, max(0.0, until - now))
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.finish()

    def unwatch(self, fd: int) -> None:
        """Listen no more there."""
        self._pool.unwatch(fd)


def way_of(sock: socket.socket, protocol: str, settings: Settings, admission: Admission) -> Way:
    """Return what makes the connections of one listening socket."""
    address = sock.getsockname()
    host, port = (str(address[0]), str(address[1])) if isinstance(address, tuple) else ("localhost", "80")
    protocols = Protocols(
        settings.limits,
        host=host,
        port=port,
        max_conns=settings.backlog,
        max_reqs=settings.workers * settings.threads,
        modifier30=settings.uwsgi_modifier30,
        admission=admission,
    )
    connector = BehindProxy(protocols, Networks(settings.proxy_from)) if settings.proxy_from else protocols
    return Way(protocol, sock, protocols, connector)
