"""A worker's part in --request-timeout: the master says which request has had its time, this answers and interrupts.

Where the thread is in the application, RequestTimeout is raised there, and a 504 goes out from here at once. In the
main thread a signal does it, which also ends a system call; in another one it waits for the next bytecode. Where the
thread is in the server's own code, waiting for its peer, that raises by itself. A thread that does not come back is the
master's to deal with.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from gateways.errors import LocalProtocolError, PeerClosed, RequestTimeout
from gateways.server.exchange import Exchange
from gateways.server.observed import ObservedApp
from gateways.server.stacks import DUMP

if TYPE_CHECKING:
    from gateways.server.pool import Pool

__all__ = ["Deadlines"]

INTERRUPT: Final = DUMP + 1
_TIMES: Final = 10
_LONG: Final = 50
_PAUSE: Final = 0.01  # seconds


class Deadlines:
    """Ends requests of one worker before their application does (an Interrupter). To be made in the main thread."""

    def __init__(self, pool: Pool, observed: ObservedApp) -> None:
        self._pool = pool
        self._observed = observed
        self._main = threading.get_ident()
        self._serving: dict[int, Exchange] = {}
        self._interrupted: set[int] = set()
        """Idents of threads for which an exception is on its way. Both change under the pool's guard."""
        self._answering = threading.RLock()
        self._reached = True
        """The main thread has noticed the signal that was sent."""
        signal.signal(INTERRUPT, self._in_main)
        pool.timed = True
        observed.interrupter = self

    def entered(self, ident: int, exchange: Exchange) -> None:
        """The thread begins to serve a request."""
        self._serving[ident] = exchange

    def left(self, ident: int) -> None:
        """The thread has served its request: what is on its way to it comes now. Raises RequestTimeout."""
        for lock in (self._pool.guard, self._answering):
            release_all(lock)
        with self._pool.guard:
            self._serving.pop(ident, None)
            self._pool.overdue.discard(ident)
        if ident in self._interrupted:
            with self._answering:  # the connection must not be closed, or used again, before that is written
                pass
            self._interrupted.discard(ident)
            if ident != self._main:
                # It comes here at the latest, whether it was on its way or not: where one is taken back by NULL,
                # CPython up to 3.12 looks for it for ever, and 3.11 hangs when something traces (sys.settrace).
                raise_in(ident)
                time.sleep(0)

    def cancel(self, thread: int, serial: int) -> None:
        """Answer and interrupt the request ``serial`` of a thread, if that still serves it. One thread calls this."""
        self._pool.overdue.add(threading.get_ident())  # this one, too, waits for no peer
        with self._answering:
            self._await_entered(thread, serial)
            exchange = self._interrupt(thread, serial)
            if exchange is not None:
                try:
                    exchange.answer_timeout()
                except (PeerClosed, LocalProtocolError) as error:  # gone, or aborted at this moment
                    self._pool.log.notice(exchange, str(error))
                except RequestTimeout:
                    self._pool.log.notice(exchange, "the peer takes no answer; the connection is closed")
                    exchange.connection.cut_off()
        if self._observed.seat(thread)[0] == self._main:
            self._insist()

    def _await_entered(self, thread: int, serial: int) -> None:
        """Wait for a thread that has begun with the request, as the board shows, and has not said so here yet."""
        for _ in range(_LONG):
            ident, current = self._observed.seat(thread)
            if current != serial or ident in self._serving:
                return
            time.sleep(_PAUSE)

    def _insist(self) -> None:
        """Send the signal again until it is noticed: one that comes just before a system call does not end that."""
        for _ in range(_TIMES):
            if self._reached:
                return
            time.sleep(_PAUSE)
            with self._pool.guard:
                if self._main not in self._interrupted:
                    return
                signal.pthread_kill(self._main, INTERRUPT)

    def _interrupt(self, thread: int, serial: int) -> Exchange | None:
        """Raise in the thread, or have it find out; returns the request if it is to be answered from here."""
        pool = self._pool
        with pool.guard:
            ident, current = self._observed.seat(thread)
            exchange = self._serving.get(ident)
            if exchange is None or current != serial:
                return None
            if exchange.sheltered:
                exchange.late = True
                pool.overdue.add(ident)
                return None
            exchange.timed_out = True
            self._interrupted.add(ident)
            if ident == self._main:
                self._reached = False
                signal.pthread_kill(ident, INTERRUPT)
            else:
                raise_in(ident)
            exchange.replaced = not (exchange.status or exchange.ended or exchange.aborted)
            return exchange if exchange.replaced else None

    def _in_main(self, number: int, frame: object) -> None:  # noqa: ARG002  (a signal handler's signature)
        """In the main thread: raise, if it still serves what the signal was for."""
        if self._main in self._serving and self._main in self._interrupted and not self._reached:
            self._reached = True
            raise RequestTimeout


def release_all(lock: Any) -> None:  # noqa: ANN401  (threading.RLock is no type)
    """Release what a ``with`` may have left held: CPython 3.10 may raise just before its end.

    It looks for the exception of one thread only when another's does not come at the same moment, else any time later.
    """
    while lock._is_owned():  # noqa: SLF001  (as threading.Condition asks it)
        lock.release()


def raise_in(ident: int) -> None:
    """Have RequestTimeout raised in a thread at its next bytecode, once, however often this is called before that."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(RequestTimeout))
