"""A FastCGI process that a manager supervises: mod_fcgid, lighttpd's bin-path, spawn-fcgi. It has no master.

The manager has made the listening socket, which is descriptor 0 (FastCGI 1.0 section 2.2), starts as many processes as
it likes, and ends them by a signal.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateways.apps.wsgi import WSGIApp
from gateways.limits import Limits, Timeouts
from gateways.server.admission import WEB_SERVERS, Admission
from gateways.server.errorlog import ErrorLog, configure
from gateways.server.inherited import empty_stdin, fill_streams
from gateways.server.listener import Listener
from gateways.server.poller import make_poller
from gateways.server.pool import Pool
from gateways.server.protocols import Protocols
from gateways.server.signals import note_signals

__all__ = ["serve_managed"]

LEAVE: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""mod_fcgid and lighttpd send the first, Ctrl-C is the second; the third is FastCGI's own custom."""
_AGAIN: Final = 1.0  # seconds within which a second signal is the same wish: Ctrl-C reaches the manager too
_MAX_CONNS: Final = 1024


def serve_managed(
    load: Callable[[], Any],
    environ: Mapping[str, str],
    *,
    threads: int,
    mount: str | None,
    limits: Limits,
    timeouts: Timeouts,
) -> None:
    """Serve the application that ``load`` returns on descriptor 0 until a signal of LEAVE; what runs is finished.

    What the application prints goes to stderr. With one thread it runs in this one, and there is no other.
    """
    fill_streams()
    sock = socket.socket(fileno=os.dup(0))
    sock.setblocking(False)
    empty_stdin()
    os.dup2(2, 1)
    configure("info")
    log = ErrorLog()
    app = WSGIApp(load(), log, mount=mount, threads=threads > 1, processes=True)
    pool = Pool(
        app, log, threads=threads, limits=limits, timeouts=timeouts, poller=make_poller(one_shot=threads > 1)
    )  # fmt: skip
    protocols = Protocols(limits, host="localhost", port="80", max_conns=_MAX_CONNS, max_reqs=threads)
    listener = Listener(pool, sock, "fastcgi", protocols, Admission(web_servers=environ.get(WEB_SERVERS, "")))
    leave = _Leave(pool, listener)
    pool.watch(leave.fd, leave)
    pool.run()
    leave.close()


class _Leave:
    """What a signal of LEAVE means: take the connections that wait, then no more, finish what runs, and end."""

    def __init__(self, pool: Pool, listener: Listener) -> None:
        self._pool = pool
        self._listener: Listener | None = listener
        self._asked = 0.0
        self.fd, self._signalled = os.pipe()
        for fd in (self.fd, self._signalled):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        note_signals(LEAVE, self._signalled, self._note)

    def _note(self, number: int, frame: object) -> None:  # noqa: ARG002  (the signature of a handler)
        """The wake-up descriptor has the signal's number; a second signal ends the process at once."""
        now = time.monotonic()
        if not self._asked:
            self._asked = now
        elif now > self._asked + _AGAIN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def on_ready(self) -> None:
        """Look which signals have come: the application may have handlers for others."""
        try:
            numbers = os.read(self.fd, 4096)
        except BlockingIOError:  # another thread has looked
            return
        listener = self._listener
        if listener is not None and any(number in numbers for number in LEAVE):
            self._listener = None
            self._pool.stop()
            listener.finish()

    def close(self) -> None:
        """Leave signals to themselves again."""
        for number in LEAVE:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._signalled)
