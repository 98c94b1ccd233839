"""One worker process: loads the application, serves every listener with one pool, leaves when told to.

The master tells it over ``control``, a socket: a byte, or its end (the master is gone), means finish and leave.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from email.utils import formatdate

from gateways.apps.loader import load
from gateways.apps.wsgi import WSGIApp
from gateways.codecs import Codec
from gateways.codecs.detect import AutoCodec
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.server.errorlog import ErrorLog
from gateways.server.listener import Listener
from gateways.server.poller import make_poller
from gateways.server.pool import Pool
from gateways.settings import Settings

__all__ = ["READY", "run_worker"]

READY = b"r"


def run_worker(
    settings: Settings, sockets: list[tuple[str, socket.socket]], control: socket.socket, wakeup: int, log: ErrorLog
) -> None:
    """Serve until told to stop. ``wakeup`` is readable once a signal has come; raises WorkerBootError."""
    sys.path.insert(0, os.getcwd())
    application = load(settings.app)
    app = WSGIApp(
        application, log, mount=settings.mount, threads=settings.threads > 1, processes=settings.workers > 1
    )
    pool = Pool(
        app, log, threads=settings.threads, limits=settings.limits, timeouts=settings.timeouts,
        poller=make_poller(one_shot=settings.threads > 1),
    )  # fmt: skip
    listeners = [Listener(pool, sock, codec_maker(protocol, sock, settings)) for protocol, sock in sockets]
    stop = _Stop(pool, listeners, (control.fileno(), wakeup))
    for fd in stop.fds:
        pool.watch(fd, stop)
    control.sendall(READY)
    pool.run()


class _Stop:
    """What the control socket and the signals of a worker mean: finish what runs, and leave."""

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
            listener.on_ready()
            listener.close()


def codec_maker(protocol: str, sock: socket.socket, settings: Settings) -> Callable[[object], Codec]:
    """Return what makes the codec of a connection, from its peer's address, on a listener of ``protocol``."""
    limits = settings.limits
    modifier30 = settings.uwsgi_modifier30
    host, port = _name(sock)
    requests = settings.workers * settings.threads

    def http(peer: object) -> Codec:
        client = peer if isinstance(peer, tuple) else ("", 0)
        return HTTP1Codec(
            limits,
            {
                "SERVER_NAME": host,
                "SERVER_PORT": port,
                "REMOTE_ADDR": str(client[0]),
                "REMOTE_PORT": str(client[1]),
                "GATEWAY_INTERFACE": "CGI/1.1",
            },
            http_date,
        )

    def fastcgi(_: object) -> Codec:
        return FastCGICodec(limits, max_conns=settings.backlog, max_reqs=requests)

    def uwsgi(_: object) -> Codec:
        return UWSGICodec(limits, modifier30=modifier30)

    def scgi(_: object) -> Codec:
        return SCGICodec(limits)

    makers: dict[str, Callable[[object], Codec]] = {"fastcgi": fastcgi, "scgi": scgi, "uwsgi": uwsgi, "http": http}
    if protocol == "auto":
        return lambda peer: AutoCodec(makers, peer)
    return makers[protocol]


_date: tuple[int, str] = (0, "")


def http_date() -> str:
    """Return the value of an HTTP Date field, made once a second."""
    global _date  # noqa: PLW0603  (one tuple, replaced whole)
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]


def _name(sock: socket.socket) -> tuple[str, str]:
    """Return SERVER_NAME and SERVER_PORT of a listener that clients talk to without a web server."""
    address = sock.getsockname()
    if isinstance(address, tuple):
        return str(address[0]), str(address[1])
    return "localhost", "80"
