"""A connection whose requests are independent: served by several threads at once, answered in any order.

On top of what ``connection`` says of owners: where requests are being served, the poller owns the reading side only if
all their bodies are whole. While one is not, whichever thread waits for a body reads for all of them, one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from gateways.body import RequestBody
from gateways.codecs.events import Abort, Body, EndOfBody, EndOfResponse, Event, Refused, Request
from gateways.codecs.refusal import error_response
from gateways.errors import BodyError, LocalProtocolError, PeerClosed, RemoteProtocolError
from gateways.server.connection import Connection, Exchange

if TYPE_CHECKING:
    from gateways.codecs import Codec
    from gateways.server.pool import Pool

__all__ = ["MultiplexConnection"]

_NEVER: Final = float("inf")


class MultiplexConnection(Connection):
    """A FastCGI connection."""

    arrived: threading.Condition | None = None
    """Made when first a thread has to wait for another one's reading."""
    reading: bool = True
    """A thread has taken the connection from the poller and reads."""

    def __init__(self, pool: Pool, fd: int, codec: Codec, peer: object) -> None:
        super().__init__(pool, fd, codec, peer)
        self.exchanges: dict[int, Exchange] = {}
        """The requests that are read, waiting or served, by stream."""
        self.lock = threading.Lock()
        self.write_lock = threading.Lock()

    def route(self, events: Iterable[Event]) -> None:
        """Give each event to the request that it belongs to."""
        for event in events:
            if isinstance(event, Request):
                exchange = Exchange(self, event)
                self.exchanges[event.stream] = exchange
                self.backlog.append(exchange)
                self.in_head = False
            elif isinstance(event, EndOfBody):
                found = self.exchanges.get(event.stream)
                if found is not None:
                    found.body.end()
            elif isinstance(event, Body):
                found = self.exchanges.get(event.stream)
                if found is not None and not found.ended:
                    self._put(found, event.data)
            elif isinstance(event, Refused):
                self._refused(event)
            elif isinstance(event, Abort):
                found = self.exchanges.get(event.stream)
                if found is not None:
                    found.aborted = True
                    found.body.fail(BodyError("the web server has aborted the request"))

    def _put(self, exchange: Exchange, data: bytes) -> None:
        """Hold body bytes for a request; one that no thread serves yet may hold so much and no more."""
        exchange.body.put(data)
        most = self.pool.limits.body_buffer
        if exchange.body.held > most and not exchange.started:
            message = f"over {most} bytes of body came before a thread was free for the request"
            exchange.body.fail(BodyError(message, 503))

    def _refused(self, event: Refused) -> None:
        error = event.error
        self.pool.log.refused(error.protocol, self.peer_name(), f"request {event.stream}: {error.message}")
        found = self.exchanges.get(event.stream)
        if found is not None:  # it is being answered already; what is wrong is its body
            found.body.fail(BodyError(str(error), error.status_hint))
            return
        try:
            self.write(self.codec.send(error_response(event.stream, error.status_hint)))
        except (PeerClosed, LocalProtocolError):
            self.eof = True

    def fail(self, error: RemoteProtocolError) -> None:
        """The codec reads no more: bodies that are not whole are broken, heads that are not are refused."""
        for exchange in self.exchanges.values():
            if not exchange.body.ended:
                exchange.body.fail(BodyError(str(error), error.status_hint))
        self.failure = error
        pool = self.pool
        pool.log.refused(error.protocol, self.peer_name(), error.message)
        while stream := self.codec.error_stream:
            try:
                self.write(self.codec.send(error_response(stream, error.status_hint)))
            except (PeerClosed, LocalProtocolError):
                break

    def proceed(self) -> None:
        """Serve one of the requests that are there, have the pool serve the others, and settle who owns the reading."""
        fresh = self.backlog
        if not fresh:
            self.await_head()
            with self.lock:
                self.reading = False
                self._settle()
            return
        first = fresh.pop(0)
        for other in fresh:
            self.pool.submit(other)
        fresh.clear()
        if self.pool.one_shot:  # another thread may read while this one serves
            with self.lock:
                self.reading = False
                self._settle()
        else:
            self.reading = False
        self.serve(first)

    def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        exchange.started = True
        self.pool.app(exchange)
        if not exchange.ended or exchange.aborted:
            self._give_up(exchange)

    def answered(self, exchange: Exchange) -> None:
        """The response is written, or given up: its stream is free, the reading side may have to change hands."""
        with self.lock:
            if self.exchanges.pop(exchange.request.stream, None) is not None:
                self.unread = 0 if exchange.body.ended else 1
                self._settle()

    def _give_up(self, exchange: Exchange) -> None:
        """End a request without a whole answer; its stream becomes free where the connection goes on."""
        exchange.ended = True
        try:
            self.write(self.codec.send(EndOfResponse(exchange.request.stream, 1)))
        except PeerClosed:
            self.eof = True
        except LocalProtocolError:  # it had ended before the abort came
            pass
        self.answered(exchange)

    def abandon(self, exchange: Exchange) -> None:
        """Give a response up: close without FCGI_END_REQUEST, the one sign of it that web servers heed.

        Where other requests would be lost with the connection, appStatus 1 must do.
        """
        exchange.ended = True
        if len(self.exchanges) > 1:
            self._give_up(exchange)
        else:
            self.eof = True
            self.answered(exchange)

    def _settle(self) -> None:
        """Decide, with the lock held, who owns the reading side next: the poller, a serving thread, or nobody any more."""
        if self.closed or self.reading:
            return
        if self.eof or self.failure is not None or self.codec.closing:
            if not self.exchanges:
                if self.armed:
                    self.wake()
                else:
                    self.finish(self.eof or self.failure is not None or not self.unread)
            return
        if not self.exchanges:
            if not self.in_head:
                self.deadline = self.pool.idle_deadline
        elif self.armed:
            return
        else:
            for exchange in self.exchanges.values():
                if not exchange.body.ended or not exchange.request.keep:
                    return  # its thread reads on, and settles when it has answered
            self.deadline = _NEVER
        if not self.armed:
            self.wait()

    def wait(self) -> None:
        """Hand the connection to the poller; whoever takes it from there reads."""
        self.reading = False
        super().wait()

    def idle(self) -> bool:
        """Nothing is under way: kept open between two requests."""
        return not self.exchanges and super().idle()

    def pull(self, body: RequestBody) -> None:
        """Read for ``body``, or wait while another thread does; return when there is news for it (BodySource)."""
        had = body.received
        with self.lock:
            while self.reading or self.armed or self._others_full(body):
                if self.arrived is None:
                    self.arrived = threading.Condition(self.lock)
                if not self.arrived.wait(self.pool.timeouts.body):
                    body.fail(BodyError(f"no byte of the body came for {self.pool.timeouts.body:g} s", 408))
                    return
                if body.received != had or body.ended:
                    return
            if self.closed or self.eof:
                body.fail(BodyError("the connection ended before the body did"))
                return
            self.reading = True
        try:
            data = self.read_waiting()
            if data is None:
                body.fail(BodyError(f"no byte of the body came for {self.pool.timeouts.body:g} s", 408))
            else:
                self.take(data)
        finally:
            for other in self.backlog:
                self.pool.submit(other)
            self.backlog = []
            with self.lock:
                self.reading = False
                if self.arrived is not None:
                    self.arrived.notify_all()
                self._settle()

    def _others_full(self, body: RequestBody) -> bool:
        """Another request, served by another thread, must first read what is held for it."""
        most = self.pool.limits.body_buffer
        for other in self.exchanges.values():
            if other.body is not body and other.started and not other.ended and other.body.held > most:
                return True
        return False

    def write(self, data: bytes) -> None:
        """Write whole records, one thread at a time; raises PeerClosed."""
        with self.write_lock:
            super().write(data)
