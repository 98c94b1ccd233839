"""A connection whose requests are independent: served by several threads at once, answered in any order.

On top of what ``connection`` says of owners: where requests are being served, the poller owns the reading side only if
all their bodies are whole. While one is not, whichever thread waits for a body reads for all of them, one at a time.
"""

from __future__ import annotations

import contextlib
import select
import threading
from threading import Lock
from typing import TYPE_CHECKING, Final

from gateways.body import RequestBody
from gateways.codecs.events import Abort, Body, EndOfBody, EndOfResponse, Event, RawBody, Refused, Request
from gateways.codecs.refusal import error_response
from gateways.errors import BodyError, LocalProtocolError, PeerClosed, RemoteProtocolError, RequestTimeout
from gateways.server.connection import GONE, HALF, WATCH, Connection
from gateways.server.exchange import Exchange
from gateways.server.outgoing import LOOK

if TYPE_CHECKING:
    from gateways.codecs import Codec
    from gateways.server.pool import Pool

__all__ = ["MultiplexConnection"]

_NEVER: Final = float("inf")
_SHARED: Final = 0.02
"""As WATCH, where another thread may have read what this one waits for."""
_MOMENT: Final = 0.25
"""Seconds for which the reading stands still for a request that no thread serves yet."""
_NO_RECORD: Final = b"\xff" * 8  # its version is 255


class MultiplexConnection(Connection):
    """A FastCGI connection."""

    arrived: threading.Condition | None = None
    """Made when first a thread has to wait for another one's reading."""
    reading: bool = True
    """The reading side has an owner: the poller, the thread that took it from there, or one that waits for a body."""
    broken: bool = False
    """A record may have been written in part, so nothing more can be."""
    drained_by: float = 0.0
    """Until then what is left of an unread body may come, where ``unread`` says that there may be more."""

    readers: tuple[RequestBody, ...] = ()
    """Bodies whose threads wait in ``pull``."""

    def __init__(self, pool: Pool, fd: int, codec: Codec, peer: object) -> None:
        super().__init__(pool, fd, codec, peer)
        self.exchanges: dict[int, Exchange] = {}
        """The requests that are read, waiting or served, by stream."""
        self.lock = Lock()
        self.write_lock = Lock()

    def route(self, events: list[Event]) -> None:
        """Give each event to the request that it belongs to."""
        for event in events:
            if isinstance(event, Request):
                exchange = Exchange(self, event)
                if self.pool.one_shot:
                    with self.lock:  # the thread of the stream's last request may be about to take that out
                        self.exchanges[event.stream] = exchange
                else:
                    self.exchanges[event.stream] = exchange
                self.backlog.append(exchange)
                self.in_head = False
                self.unread = 0
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
                if found is not None and not found.ended:
                    found.aborted = True
                    found.body.fail(BodyError("the web server has aborted the request"))

    def _put(self, exchange: Exchange, data: bytes) -> None:
        """Hold body bytes for a request; one that no thread serves yet may hold so much and no more."""
        exchange.body.put(data)
        most = self.pool.limits.body_buffer
        if exchange.body.taking > most and not exchange.started:
            message = f"over {most} bytes of body came before a thread was free for the request"
            exchange.body.fail(BodyError(message, 503))

    def _refused(self, event: Refused) -> None:
        error = event.error
        self.pool.log.refused(error.protocol, self.peer_name(), f"request {event.stream}: {error.message}")
        self._leave_unread()
        found = self.exchanges.get(event.stream)
        if found is not None and not found.ended:  # it is being answered; what is wrong is its body
            found.body.fail(BodyError(str(error), error.status_hint))
            return
        try:
            self.write(self.codec.send(error_response(event.stream, error.status_hint)))
        except (PeerClosed, LocalProtocolError):
            self.eof = True

    def fail(self, error: RemoteProtocolError) -> None:
        """The codec reads no more: bodies that are not whole are broken, heads that are not are refused."""
        told = False
        for exchange in list(self.exchanges.values()):
            if not exchange.body.ended:
                exchange.body.fail(BodyError(str(error), error.status_hint))
                told = True  # by whoever reads the body
        self.failure = error.with_traceback(None)  # whose frames would hold this connection
        if not told or self.codec.error_stream:
            self.pool.log.refused(error.protocol, self.peer_name(), error.message)
        while stream := self.codec.error_stream:
            try:
                self.write(self.codec.send(error_response(stream, error.status_hint)))
            except (PeerClosed, LocalProtocolError):
                break

    def proceed(self) -> None:
        """Serve one of the requests that are there, have the pool serve the others, and settle who owns the reading."""
        fresh = self.backlog
        if not fresh:
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
        try:
            if not exchange.aborted and not exchange.answer_by(self.pool.app):
                return
        except Exception as error:  # noqa: BLE001  (a bug of the App costs its request, not the others)
            self.pool.log.failure("an application failed", error)
        self.resume(exchange)

    def resume(self, exchange: Exchange) -> None:
        """The App is through with a request."""
        if not exchange.ended:
            if exchange.status and not exchange.aborted:
                self.abandon(exchange)
            else:
                self._give_up(exchange)
        elif self.exchanges.get(exchange.request.stream) is exchange:  # its last write failed
            self.answered(exchange)

    def answered(self, exchange: Exchange) -> None:
        """The response is written, or given up: its stream is free, the reading side may have to change hands."""
        with self.lock:
            stream = exchange.request.stream
            if self.exchanges.get(stream) is exchange:  # else a peer that has read the answer has begun the next
                del self.exchanges[stream]
                if not (exchange.body.whole or exchange.aborted):
                    self._leave_unread()
                if self.arrived is not None:
                    self.arrived.notify_all()
                self._settle()

    def answered_elsewhere(self, exchange: Exchange) -> None:
        """As if its own thread had written it: the connection waits for no thread."""
        self.answered(exchange)

    def cut_off(self) -> None:
        """A request that is over could not be answered, since another one's writing stands still: end them all."""
        self.broken = True
        self.eof = True
        super().cut_off()

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
        """Give a response up: break the connection without FCGI_END_REQUEST.

        nginx takes a plain close for a good end unless it has asked for FCGI_KEEP_CONN, and heeds no appStatus. A
        reset it understands, and where there is none (a unix socket) a record that is none. Where other requests
        would be lost with the connection, appStatus 1 must do. Who has aborted a request needs no sign.
        """
        exchange.ended = True
        if exchange.aborted or len(self.exchanges) > 1:
            self._give_up(exchange)
            return
        self.eof = True
        if not self.reset_on_close():
            with contextlib.suppress(PeerClosed):
                self.write(_NO_RECORD)
        self.answered(exchange)

    def _settle(self) -> None:
        """Decide, with the lock held, who owns the reading side next: the poller, a serving thread, or nobody."""
        if self.closed or self.lingering >= 0:
            return
        over = self.eof or self.failure is not None or self.codec.closing
        if self.exchanges:
            if self.reading or over:
                return
            if self.pool.heirs is not None:  # what comes now is for another worker, who gets it when all is answered
                return
            for exchange in self.exchanges.values():
                if not exchange.body.ended or not exchange.request.keep:
                    return  # its thread reads on, and settles when it has answered
            self.await_head()
            if not self.in_head:
                self.deadline = _NEVER
            self.wait()
            return
        armed = self.armed
        if self.reading and not armed:
            return  # the thread that reads settles when it has read
        if over:
            if armed:
                self.wake()
            else:
                self.finish(self.eof or (self.failure is None and not self.unread))
            return
        self.await_head()
        if not self.in_head:
            self.deadline = self.drained_by if self.unread else self.pool.idle_deadline()
        if not armed:
            self.wait()
        elif self.deadline < self.pool.next_sweep:
            self.pool.sweep_by(self.deadline)

    def wait(self) -> None:
        """Hand the connection to the poller; whoever takes it from there reads."""
        self.reading = True
        super().wait()

    def await_head(self) -> None:
        """A request has begun, and its head is not whole: that starts its deadline, whatever else is served."""
        codec = self.codec
        begun = codec.error_stream != 0
        if begun:
            self.unread = 0
        if not self.in_head and (begun or (codec.buffered and not (self.unread or self.exchanges))):
            self.in_head = True
            self.deadline = self.pool.clock() + self.pool.timeouts.head

    def untouched(self) -> bool:
        """It waits for a request, without a byte yet: another process could go on with it."""
        if self.exchanges or self.readers or self.unread or self.codec.error_stream:
            return False
        return super().untouched()

    def idle(self, fresh: bool) -> bool:
        """Nothing is under way: kept open between two requests, or ``fresh`` is False and none has come."""
        return not (self.exchanges or self.unread) and super().idle(fresh)

    def expire(self) -> None:
        """Answer where a head has begun to come; requests that are served are finished before the close."""
        if self.in_head and self.lingering < 0 and self.codec.error_stream:
            self.fail(self.no_head())
        self.break_off()

    def break_off(self) -> None:
        """Read no more, and close as soon as nobody writes; the caller owns the reading side."""
        with self.lock:
            for exchange in self.exchanges.values():
                if not exchange.body.ended:
                    exchange.body.fail(BodyError("the connection ended before the body did"))
            self.eof = True
            self.reading = False
            if self.arrived is not None:
                self.arrived.notify_all()
            if self.exchanges:
                self._settle()
            else:
                self.close()

    def pull(self, body: RequestBody) -> None:
        """Read for ``body``, or wait while another thread does; return when there is news for it (BodySource)."""
        exchange = self._exchange_of(body)
        if exchange is None or exchange.ended:
            body.fail(BodyError("the request is over"))
        elif self.pool.timed:
            exchange.enter()
            try:
                self._pull_in_turn(body)
            finally:
                exchange.leave()
        else:
            self._pull_in_turn(body)

    def watch(self, exchange: Exchange, more: bool) -> tuple[int, float]:
        """Return what to poll() for: where the poller does not read, the threads that wait do, for aborts too."""
        events = HALF if isinstance(self.peer, tuple) else 0
        more = more and not exchange.body.ended
        with self.lock:
            shared = more and len(self.exchanges) > 1
            # Who waits for no body leaves the reading to those that do.
            mine = more or all(other.body.ended for other in self.exchanges.values())
            if mine and not (self.reading or self.eof or self.closed) and not self._others_full():
                events |= select.POLLIN
        return events, _SHARED if shared else WATCH

    def limit_writes(self, exchange: Exchange, until: float) -> None:
        """Only where the request has the connection for itself: others would lose it too."""
        if not until or (len(self.exchanges) == 1 and not exchange.request.keep):
            self.writes_until = until

    def hear(self, exchange: Exchange, events: int) -> bool:
        """Read what poll() has reported, for all requests; True where the peer has gone, or has aborted this one."""
        if events & (GONE | HALF):
            return True
        if events & select.POLLIN:
            with self.lock:
                if self.reading or self.eof or self.closed or self._others_full():
                    return exchange.aborted or self.eof
                self.reading = True
            try:
                data = self.read_now()
                if data is not None:
                    self.take(data)
            finally:
                self._read_for_all()
        return exchange.aborted or self.eof

    def _read_for_all(self, body: RequestBody | None = None) -> None:
        """A thread that serves a request has read, for ``body``: pass on what came, and the reading side."""
        for other in self.backlog:
            self.pool.submit(other)
        self.backlog = []
        with self.lock:
            if body is not None:
                self._reads_no_more(body)
            self.reading = False
            if self.arrived is not None:
                self.arrived.notify_all()
            self._settle()

    def _pull_in_turn(self, body: RequestBody) -> None:
        turn = False
        with self.lock:
            self.readers += (body,)
            try:
                turn = self._await_turn(body)
            finally:
                if not turn:
                    self._reads_no_more(body)
        if not turn:
            return
        try:
            data = self.read_waiting()
            if data is None:
                self._too_slow(body)
            else:
                self.take(data)
        finally:
            self._read_for_all(body)

    def _reads_no_more(self, body: RequestBody) -> None:
        self.readers = tuple(other for other in self.readers if other is not body)

    def _await_turn(self, body: RequestBody) -> bool:
        """Become the one that reads, with the lock held; False where another thread has brought news first."""
        had = body.received
        if self.arrived is not None:
            self.arrived.notify_all()  # this one reads what is held for it: it is in nobody's way
        while self.reading or self._others_full():
            if self.arrived is None:
                self.arrived = threading.Condition(self.lock)
            if not self._await_arrival(self.arrived):
                self._too_slow(body)
                return False
            if body.received != had or body.ended:
                return False
        if self.closed or self.eof:
            body.fail(BodyError("the connection ended before the body did"))
            return False
        self.reading = True
        return True

    def _await_arrival(self, arrived: threading.Condition) -> bool:
        """Wait, with the lock held, for what another thread does; False past the deadline. Raises RequestTimeout."""
        pool = self.pool
        deadline = pool.clock() + pool.timeouts.body
        while (left := deadline - pool.clock()) > 0:
            if arrived.wait(min(left, LOOK)):
                return True
            if pool.timed and threading.get_ident() in pool.overdue:
                raise RequestTimeout
            if not self.reading and not self._others_full():  # as where the last free thread has gone to another one
                return True
        return False

    def _exchange_of(self, body: RequestBody) -> Exchange | None:
        """Return the request of ``body``, while it is served."""
        # The lock is not for threads into which an exception may be raised; and list() lets no other thread run.
        for exchange in list(self.exchanges.values()):
            if exchange.body is body:
                return exchange
        return None

    def _too_slow(self, body: RequestBody) -> None:
        body.fail(BodyError(f"no byte of the body came for {self.pool.timeouts.body:g} s", 408))
        self._leave_unread()

    def _leave_unread(self) -> None:
        """More of a request may be on its way that nobody wants: it must not make a reset of the close."""
        self.unread = 1
        self.drained_by = self.pool.clock() + self.pool.timeouts.drain

    def _others_full(self) -> bool:
        """Another request must first read what is held for it, or is about to be taken up by a thread that is free."""
        most = self.pool.limits.body_buffer
        for other in self.exchanges.values():
            body = other.body
            if body.held <= most // 2 or body.ended or other.ended:  # of what has ended no more comes
                continue
            if not other.started:
                if self._is_taken_up(other):
                    return True
            # What is not ready lacks no more than its end: only reading brings that.
            elif body.held > most and body.ready and body not in self.readers:
                return True
        return False

    def _is_taken_up(self, exchange: Exchange) -> bool:
        """A thread is free for a request that none serves yet, or may become free at any moment."""
        pool = self.pool
        if not pool.one_shot:
            return False
        if not exchange.full_since:
            exchange.full_since = pool.clock()
        return pool.spare or pool.clock() < exchange.full_since + _MOMENT

    def send_body(self, stream: int, block: bytes) -> None:
        """Write a block of body, which is not copied behind the headers of its records."""
        parts = self.codec.body_parts(stream, block)
        if parts:
            self.write_parts(parts)

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """Write whole records in pieces, one thread at a time; raises PeerClosed."""
        self._begin_write()
        try:
            Connection.write_parts(self, parts)
        except (PeerClosed, RequestTimeout):
            self._break()
            raise
        finally:
            self.write_lock.release()

    def send_raw(self, event: RawBody, fd: int, offset: int) -> None:
        """Write a record from an open file, one thread at a time; raises PeerClosed, LocalProtocolError."""
        self._begin_write()
        try:
            Connection.send_raw(self, event, fd, offset)
        except (PeerClosed, RequestTimeout):
            self._break()
            raise
        finally:
            self.write_lock.release()

    def write(self, data: bytes) -> None:
        """Write whole records, one thread at a time; raises PeerClosed."""
        self._begin_write()
        try:
            Connection.write(self, data)
        except (PeerClosed, RequestTimeout):
            self._break()
            raise
        finally:
            self.write_lock.release()

    def _begin_write(self) -> None:
        """Wait until no other thread writes, and take the write lock; raises PeerClosed, RequestTimeout without it."""
        lock = self.write_lock
        if self.pool.timed:
            while not lock.acquire(timeout=LOOK):
                if threading.get_ident() in self.pool.overdue:
                    raise RequestTimeout
        else:
            lock.acquire()
        if self.broken:
            lock.release()
            raise PeerClosed("the peer went away, or stood still, while another response was written")

    def _break(self) -> None:
        """Part of a record may have been written."""
        self.broken = True
        self.eof = True
