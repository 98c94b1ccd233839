"""One worker process: loads the application, serves every listener with one pool, leaves when told to.

The master tells it over ``control``, a socket: a byte, or its end (the master is gone), means finish and leave.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from typing import Final

from gateways.apps.loader import load
from gateways.apps.wsgi import WSGIApp
from gateways.server.errorlog import ErrorLog
from gateways.server.listener import Listener
from gateways.server.poller import make_poller
from gateways.server.pool import Pool
from gateways.server.protocols import Protocols
from gateways.settings import Settings

__all__ = ["LEAVE", "READY", "run_worker"]

READY = b"r"
LEAVE: Final = (signal.SIGTERM, signal.SIGQUIT)
"""What asks a worker itself to leave. Any other signal that has a handler is the application's own."""


def run_worker(
    settings: Settings, sockets: list[tuple[str, socket.socket]], control: socket.socket, wakeup: int, log: ErrorLog
) -> None:
    """Serve until told to stop. ``wakeup`` has the numbers of the signals that came; raises WorkerBootError."""
    sys.path.insert(0, os.getcwd())
    application = load(settings.app)
    app = WSGIApp(application, log, mount=settings.mount, threads=settings.threads > 1, processes=settings.workers > 1)
    pool = Pool(
        app, log, threads=settings.threads, limits=settings.limits, timeouts=settings.timeouts,
        poller=make_poller(one_shot=settings.threads > 1),
    )  # fmt: skip
    listeners = [Listener(pool, sock, protocol, protocols_of(sock, settings)) for protocol, sock in sockets]
    stop = _Stop(pool, listeners, (control.fileno(), wakeup))
    pool.watch(control.fileno(), stop)
    pool.watch(wakeup, _Signals(stop, wakeup))
    gc.collect()
    gc.freeze()  # what the application's modules hold is never garbage, and need not be looked at
    control.sendall(READY)
    pool.run()


class _Signals:
    """Tells the signals that mean leave from those that the application has handlers for."""

    def __init__(self, stop: _Stop, fd: int) -> None:
        self._stop = stop
        self._fd = fd

    def on_ready(self) -> None:
        """Look which signals have come."""
        try:
            numbers = os.read(self._fd, 4096)
        except BlockingIOError:  # another thread has looked
            return
        if any(number in numbers for number in LEAVE):
            self._stop.on_ready()


class _Stop:
    """What the control socket and some signals of a worker mean: finish what runs, and leave."""

    def __init__(self, pool: Pool, listeners: list[Listener], fds: tuple[int, ...]) -> None:
        self._pool = pool
        self._listeners = listeners
        self.fds = fds

    def on_ready(self) -> None:
        """Take the last connections that wait, then no more."""
        for fd in self.fds:
            self._pool.unwatch(fd)
        self._pool.stop()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.finish()


def protocols_of(sock: socket.socket, settings: Settings) -> Protocols:
    """Return what makes the connections of one listening socket."""
    address = sock.getsockname()
    host, port = (str(address[0]), str(address[1])) if isinstance(address, tuple) else ("localhost", "80")
    return Protocols(
        settings.limits,
        host=host,
        port=port,
        max_conns=settings.backlog,
        max_reqs=settings.workers * settings.threads,
        modifier30=settings.uwsgi_modifier30,
    )
