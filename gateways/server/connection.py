"""One socket and its codec: reading, serving, deadlines, draining; requests in, one after another, responses out.

A connection has one owner at any time: the poller, while it is armed, or the thread that took it from there. Only an
owner closes it; whoever else wants it closed shuts the socket down, and the event that follows wakes the owner.
What several requests at once need on top of this stands in ``multiplex``.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from os import close, read
from typing import TYPE_CHECKING, Final

from gateways.body import RequestBody
from gateways.codecs.events import (
    Body,
    Continue,
    EndOfBody,
    Event,
    Request,
)
from gateways.codecs.refusal import error_response
from gateways.errors import BodyError, LocalProtocolError, PeerClosed, RemoteProtocolError
from gateways.server.exchange import Exchange
from gateways.server.outgoing import Outgoing

if TYPE_CHECKING:
    from gateways.codecs import Codec
    from gateways.server.pool import Pool

__all__ = ["Connection"]

READ_SIZE: Final = 65_536
GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL
HALF: Final[int] = getattr(select, "POLLRDHUP", 0)
"""The peer has closed its sending side; Linux alone tells of it without a read."""
WATCH: Final = 0.25
"""Seconds between two looks at a request whose thread waits for something else than its peer."""


class Connection(Outgoing):
    """A connection whose requests are served one after another, in their order; ``fd`` is non-blocking."""

    armed: bool = False
    """The poller owns the connection."""
    registered: bool = False
    closed: bool = False
    expired: bool = False
    """Its deadline has passed; the event that comes is not a peer's."""
    in_head: bool = True
    """A request head is awaited, or has begun to come."""
    lingering: int = -1
    """Bytes that may still be read and thrown away before the close; -1 where it is not closing."""
    eof: bool = False
    failure: RemoteProtocolError | None = None
    newest: Exchange | None = None
    """The request that body bytes belong to, until its body is whole and it is answered."""
    cut: bool = False
    """The body of the newest request has failed: more of it may be on its way."""
    pulled: bool = False
    """An application has waited for a body."""
    pulling: bool = False
    """A thread waits for a body now."""
    unread: int = 0
    """Body bytes thrown away since their request was answered."""

    def __init__(self, pool: Pool, fd: int, codec: Codec, peer: object) -> None:
        self.pool = pool
        self.fd = fd
        self.codec = codec
        self.peer = peer
        self.deadline: float = pool.now + pool.timeouts.head
        self.backlog: list[Exchange] = []
        """Requests read and not yet served."""

    def peer_name(self) -> str:
        """Return the other end's address, ``unix`` for a unix socket."""
        peer = self.peer
        if isinstance(peer, tuple):
            return f"{peer[0]}:{peer[1]}"
        return "unix"

    # -- reading ------------------------------------------------------------------------------------------------

    def on_ready(self) -> None:
        """Read, serve what is whole, and hand the connection back to the poller; the caller owns it."""
        if self.expired and not self.last_words():
            self.expire()
            return
        try:
            data = read(self.fd, READ_SIZE)
        except BlockingIOError:
            if self.lingering < 0:
                self.proceed()
            else:
                self.wait()
            return
        except OSError as error:
            self.reset(error)
            return
        if self.lingering >= 0:
            self._linger_on(data)
            return
        self.take(data)
        self.proceed()

    def last_words(self) -> bool:
        """Bytes came between the last look and the deadline: a request, which is served before the close."""
        if self.lingering >= 0 or self.eof:
            return False
        sock = socket.socket(fileno=self.fd)
        try:
            return bool(sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False
        finally:
            sock.detach()

    def take(self, data: bytes) -> None:
        """Give bytes, or b"" for the end of file, to the codec and its events to their requests."""
        codec = self.codec
        try:
            events = codec.feed(data) if data else codec.feed_eof()
        except RemoteProtocolError as error:
            self.route(list(error.events))  # type: ignore[arg-type]  # errors.py knows no events
            self.fail(error)
        else:
            self.route(events)
        if not data:
            self.eof = True
        reply = codec.data_to_send()
        if reply:
            try:
                self.write(reply)
            except PeerClosed:
                self.eof = True

    def route(self, events: list[Event]) -> None:
        """Give each event to the request that it belongs to."""
        for event in events:
            if isinstance(event, Request):
                self.newest = exchange = Exchange(self, event)
                self.backlog.append(exchange)
                self.in_head = False
            elif isinstance(event, EndOfBody):
                newest = self.newest
                if newest is not None:
                    newest.body.end()
                    if newest.ended:
                        self.newest = None
                        self.cut = False
                        self.deadline = self.pool.idle_deadline()
            elif isinstance(event, Body):
                newest = self.newest
                if newest is None or newest.ended:
                    self.unread += len(event.data)
                else:
                    newest.body.put(event.data)

    def fail(self, error: RemoteProtocolError) -> None:
        """The codec reads no more: what has not come whole is refused."""
        newest = self.newest
        if newest is not None and not newest.body.whole:
            newest.body.fail(BodyError(str(error), error.status_hint))
            self.cut = True
        else:
            self.failure = error.with_traceback(None)  # whose frames would hold this connection

    def pull(self, body: RequestBody) -> None:
        """Read once more for ``body``, which its application waits for (BodySource)."""
        exchange = self.newest
        if exchange is None or exchange.body is not body:
            body.fail(BodyError("the request is over"))
        elif self.pool.timed:
            exchange.enter()
            try:
                self._pull(exchange, body)
            finally:
                exchange.leave()
        else:
            self._pull(exchange, body)

    def _pull(self, exchange: Exchange, body: RequestBody) -> None:
        if not self._begin_pull(exchange):
            body.fail(BodyError("the request is over"))
            return
        data: bytes | None = b""
        try:
            if exchange.request.expects_continue and not body.received:
                exchange.request.expects_continue = False
                self.write(self.codec.send(Continue(exchange.request.stream)))
            data = self.read_waiting()
        finally:
            over = self._end_pull(exchange)
        if over:
            body.fail(BodyError("the request is over"))
        elif data is None:
            body.fail(BodyError(f"no byte of the body came for {self.pool.timeouts.body:g} s", 408))
            self.cut = True
        else:
            self.take(data)

    def _begin_pull(self, exchange: Exchange) -> bool:
        """Note that a thread waits for the body; False where it may not, since the request is answered."""
        self.pulled = True
        with self.pool.guard:
            if self.closed or self.pulling or exchange.ended:
                return False
            self.pulling = True
            return True

    def _end_pull(self, exchange: Exchange) -> bool:
        """Return whether the request was answered meanwhile: by another thread than this one of the application's.

        Then what this thread has read may belong to the next request, so there must be none.
        """
        with self.pool.guard:
            self.pulling = False
            if self.closed:  # and the descriptor left to us
                close(self.fd)
            elif exchange.ended:
                self._shutdown(socket.SHUT_RDWR)
            else:
                return False
            return True

    def read_waiting(self) -> bytes | None:
        """Read once, waiting until the body's deadline; None when it passed, b"" at the end."""
        while True:
            try:
                return os.read(self.fd, READ_SIZE)
            except BlockingIOError:
                pass
            except OSError:
                return b""
            if not self.wait_for(select.POLLIN, self.pool.timeouts.body):
                return None

    def watch(self, exchange: Exchange, more: bool) -> tuple[int, float]:
        """Return what a request has to poll() for, and the seconds until it looks again; ``more``: for its body too."""
        # Over TCP a client that has gone has closed its sending side, at first, and no more: so nginx takes it, too.
        # SCGI has clients that say in this way that their body is whole.
        events = HALF if isinstance(self.peer, tuple) and self.codec.protocol != "scgi" else 0
        if more and not exchange.body.ended:
            if exchange.request.expects_continue and not exchange.body.received:
                exchange.request.expects_continue = False
                self.write(self.codec.send(Continue(exchange.request.stream)))
            events |= select.POLLIN
        return events, WATCH

    def hear(self, exchange: Exchange, events: int) -> bool:
        """Read what poll() has reported for ``exchange``, which this thread serves; True where the peer has gone."""
        if events & (GONE | HALF):
            return True
        if events & select.POLLIN and not exchange.body.ended:
            data = self.read_now()
            if data is not None:
                self.take(data)
        return False

    def read_now(self) -> bytes | None:
        """Read once, without waiting; None where nothing has come, b"" at the end."""
        try:
            return os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    # -- serving ------------------------------------------------------------------------------------------------

    def proceed(self) -> None:
        """Serve the requests that are there, then wait for more, or close."""
        pool = self.pool
        codec = self.codec
        backlog = self.backlog
        while backlog:
            exchange = backlog.pop(0)
            if not exchange.answer_by(pool.app) or not self._served(exchange):
                return
        if self.failure is not None:
            self.answer_failure(self.failure)
        elif self.eof or codec.closing:
            self.finish(self.eof or not self.cut)  # cut: what was thrown away has turned out not to be a body
        elif self.unread > pool.limits.drain_bytes:
            self.close()
        else:
            self.await_head()
            self.wait()

    def _served(self, exchange: Exchange) -> bool:
        """The App is through with a request: returns whether the connection can go on to the next."""
        if self.closed:
            return False
        if self.torn or not exchange.ended:  # given up; or an App's own bug: it returned without an answer
            self.abandon(exchange)
            return False
        if self.pulled and self.pulling:  # a thread of the application's own reads on
            self.close()
            return False
        whole = exchange.body.whole and not self.cut
        if self.codec.closing:
            self.finish(whole or self.eof)
            return False
        pool = self.pool
        if whole:
            self.deadline = pool.idle_deadline()
            if self.newest is exchange:
                self.newest = None
        else:  # what is left of the body is thrown away before the next head
            self.deadline = pool.clock() + pool.timeouts.drain
            self.unread = 0
        return True

    def resume(self, exchange: Exchange) -> None:
        """A request is over that held no thread while it waited; the caller owns the connection."""
        if self._served(exchange):
            self.proceed()

    def await_head(self) -> None:
        """Bytes have come and no whole head: the first of them start its deadline."""
        if not self.in_head and self.codec.buffered:
            self.in_head = True
            self.deadline = self.pool.clock() + self.pool.timeouts.head

    def answered(self, exchange: Exchange) -> None:
        """The response is written: close at once if that was all, so that the peer sees both in one waking."""
        if self.codec.closing and exchange.body.whole and not self.cut:
            self.close()

    def answered_elsewhere(self, exchange: Exchange) -> None:  # noqa: ARG002  (others share their connection)
        """Another thread than the owner has written the last response: the peer sees the end now, the owner closes."""
        self.cut = True  # what the peer may have sent behind the request is thrown away, and makes no reset
        self._shutdown(socket.SHUT_WR)

    def serve(self, exchange: Exchange) -> None:
        """Serve one request by itself: only where they are independent of each other."""
        raise NotImplementedError

    def answer_failure(self, error: RemoteProtocolError) -> None:
        """Answer a request that could not be read, in its protocol's own form, and close."""
        pool = self.pool
        pool.log.refused(error.protocol, self.peer_name(), error.message)
        stream = self.codec.error_stream
        if stream:
            try:
                self.write(self.codec.send(error_response(stream, error.status_hint)))
            except (PeerClosed, LocalProtocolError):
                self.close()
                return
        self.finish(self.eof)

    # -- waiting and closing ------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Hand the connection to the poller until it can be read, or its deadline passes."""
        pool = self.pool
        if pool.stopping and self.leave():
            return
        if pool.one_shot:
            with pool.guard:  # where it stops, the pool takes connections back from the poller
                self._arm()
        else:
            self._arm()

    def _arm(self) -> None:
        pool = self.pool
        self.armed = True
        known = self.registered
        if not known:
            if self.in_head and self.lingering < 0:
                self.deadline = pool.clock() + pool.timeouts.head  # pool.now may be old: others were served before
            self.registered = True
            pool.connections[self.fd] = self
        if self.deadline < pool.next_sweep:
            pool.sweep_by(self.deadline)
        if not known:
            pool.poller.add(self.fd)
        elif pool.one_shot:
            pool.poller.arm(self.fd)

    def wake(self) -> None:
        """The deadline has passed, or the worker stops: make an event, by which the owner learns of it."""
        self.expired = True
        self._shutdown(socket.SHUT_RD)

    def expire(self) -> None:
        """Answer where a head has begun to come; else close: an idle connection, or one that lingered too long."""
        error_stream = self.codec.error_stream
        if self.in_head and self.lingering < 0 and error_stream and self.codec.buffered:
            self.answer_failure(self.no_head())
        else:
            self.break_off()

    def no_head(self) -> RemoteProtocolError:
        """Return why a request is refused whose head is not whole."""
        pool = self.pool
        if pool.stopping and pool.clock() < self.deadline:
            return RemoteProtocolError(
                self.codec.protocol, "the worker leaves, and no whole request head has come", 503
            )
        return RemoteProtocolError(
            self.codec.protocol, f"no whole request head came in {pool.timeouts.head:g} s", 408
        )  # fmt: skip

    def untouched(self) -> bool:
        """It waits for a request, without a byte yet: another process could go on with it."""
        return (
            self.lingering < 0
            and self.newest is None
            and self.failure is None
            and not (self.eof or self.expired or self.cut or self.pulling)
            and not (self.codec.closing or self.codec.buffered)
        )

    def leave(self) -> bool:
        """Have another worker go on, where this one stops; False where that cannot be. The caller owns it."""
        heirs = self.pool.heirs
        if heirs is None or not self.untouched() or not heirs.give(self):
            return False
        self.close()
        return True

    def idle(self, fresh: bool) -> bool:
        """Nothing is under way: kept open between two requests, or ``fresh`` is False and none has come."""
        return self.lingering < 0 and (not fresh if self.in_head else self.newest is None)

    def finish(self, whole: bool) -> None:
        """Close after the last response; where unread bytes are under way, only when the peer has had time to read it.

        A close with unread bytes is a reset, which may overtake the response (RFC 9112 section 9.6).
        """
        if whole:
            self.close()
            return
        self._shutdown(socket.SHUT_WR)
        self.lingering = self.pool.limits.drain_bytes
        self.deadline = self.pool.clock() + self.pool.timeouts.drain
        self.wait()

    def _linger_on(self, data: bytes) -> None:
        self.lingering -= len(data)
        if not data or self.lingering < 0:
            self.close()
        else:
            self.wait()

    def abandon(self, exchange: Exchange) -> None:
        """Close so that the peer takes the response for cut: over TCP by a reset, which nobody takes for an end."""
        exchange.ended = True
        if self.closed:
            return
        self.reset_on_close()
        self.close()

    def reset_on_close(self) -> bool:
        """Make the close a reset; False where the socket knows no such thing (a unix socket)."""
        sock = socket.socket(fileno=self.fd)
        try:
            if sock.family == socket.AF_UNIX:
                return False
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            sock.detach()
        return True

    def reset(self, error: OSError) -> None:
        """The peer has reset the connection."""
        if self.in_head and self.lingering < 0 and self.codec.buffered:
            self.pool.log.refused(self.codec.protocol, self.peer_name(), f"the connection broke: {error.strerror}")
        self.break_off()

    def cut_off(self) -> None:
        """Make every reading and writing fail, by another thread than the owner, while the connection is open."""
        self._shutdown(socket.SHUT_RDWR)

    def _shutdown(self, how: int) -> None:
        sock = socket.socket(fileno=self.fd)  # no dup(): this works without a free descriptor too
        try:
            sock.shutdown(how)
        except OSError:  # the peer is gone already: its event comes by itself
            return
        finally:
            sock.detach()

    def break_off(self) -> None:
        """Read no more, and close as soon as nobody writes; the caller owns the connection."""
        self.close()

    def close(self) -> None:
        """Close the socket; the caller owns the connection."""
        if self.closed:
            return
        self.closed = True
        self.newest = None  # no circle of references: nothing is left to the garbage collector
        if self.registered:
            self.registered = False
            del self.pool.connections[self.fd]
            # Closing does not do it while another process has the socket open (epoll(7)), a worker that goes on with it
            # or a fork of the application: its events would come without end.
            with contextlib.suppress(OSError):  # it was not to be had
                self.pool.poller.unlisten(self.fd)
        if self.pulled:
            with self.pool.guard:
                if self.pulling:  # its number must not be another connection's while a thread still reads from it
                    self._shutdown(socket.SHUT_RDWR)
                    return
        close(self.fd)
