"""Moves bytes between one script and one request, both ways at the same time, in the thread that serves the request.

The body goes to the script's standard input as it comes and as the script takes it; what the script writes goes to the
caller as it is written once the script has all of the body. No more is held than one block of the body, and HOLD bytes
of output; what has to wait longer waits on disk. A peer that goes away is noticed while the script is silent. What the
bytes mean is not known here.
"""

from __future__ import annotations

import fcntl
import os
import select
import termios
import time
from array import array
from collections.abc import Callable
from typing import Final, Protocol

from gateways.apps import WatchedExchange
from gateways.apps.processes import Process, read_now
from gateways.apps.reaper import LEFT
from gateways.apps.spool import Spool
from gateways.errors import BodyError
from gateways.limits import ScriptLimits

__all__ = ["Failed", "Pump"]

BLOCK: Final = 65_536
HOLD: Final = 262_144
"""Bytes of output that wait for the end of the body. nginx sends nothing more of a request once it has passed on the
head of the answer (ngx_http_upstream.c: header_sent, preserve_output): a script that reads on would wait for ever.
Where more is written, the rest of the body is put aside first, on disk."""
PAUSE: Final = 1.0
"""Seconds without a byte of the body after which the answer goes on before it is whole: a client may wait for that."""
LOOK: Final = 0.25
"""Seconds between two looks at whether the script has ended."""
_BLOCKS: Final = 64
"""What of standard error, at most, is read after the script has ended: a pipe's content is less."""
_NEVER: Final = float("inf")
_READ: Final = select.POLLIN | select.POLLHUP | select.POLLERR


class Failed(Exception):
    """The script is to be ended; ``status`` is the answer if none has been sent, ``reason`` is for the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class Sink(Protocol):
    """Who takes what a script writes."""

    @property
    def ended(self) -> bool:
        """It wants no more."""

    def output(self, data: bytes, *, fed: bool) -> None:
        """A block of its standard output; ``fed``: the script will get no more of the request's body."""

    def errors(self, data: bytes, *, fed: bool) -> None:
        """A block of its standard error; ``fed`` as for ``output``."""


class Pump:
    """One script and one request. ``deadline`` is when the script has had its time."""

    gone: bool = False
    """The peer has gone, or wants no answer."""
    left_behind: bool = False
    """The script has ended, and what it has started holds its standard output."""
    late: int = 0
    """Bytes that came of such."""
    _own: int = -1
    """Bytes in the pipe that the script itself has left there by its end; -1 while it runs."""
    _pending: bytes = b""
    """Of the body, for the script."""
    _blocked: bool = False
    """The script's standard input is full."""
    _received: int = 0
    _held: bytes = b""
    """Of the output."""
    _holds: bool = True
    """Output may wait for the body."""
    _aside: Spool | None = None
    """Of the body, what comes before ``_pending`` has the rest of it."""
    _last: float = _NEVER
    """Where the body is put aside: when the last of it came."""

    def __init__(
        self, exchange: WatchedExchange, process: Process, sink: Sink, limits: ScriptLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._exchange = exchange
        self._process = process
        self._sink = sink
        self._limits = limits
        self._clock = clock
        now = clock()
        self.deadline = now + limits.script_timeout if limits.script_timeout else _NEVER
        self._moved = now
        """When the last byte went to the script or came from it."""
        self._left_until = _NEVER

    def run(self) -> None:
        """Return when the script's standard output has ended, or nobody wants it; raises Failed, PeerClosed.

        The descriptor of that is closed if it has ended.
        """
        try:
            self._run()
        finally:
            if self._aside is not None:
                self._aside.close()

    def _run(self) -> None:
        process = self._process
        exchange = self._exchange
        connection = exchange.fileno()
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        poll.register(process.stderr, select.POLLIN)
        watched = -1
        standing = -1
        next_look = self._clock() + LOOK
        while True:
            if self._last < _NEVER and not self._put_aside():
                self._last = _NEVER
                self._holds = False
                poll.modify(process.stdout, select.POLLIN)
            self._feed()
            if self._held and (process.stdin < 0 or not self._holds):
                self._pass_on(b"")
                if self._sink.ended:
                    return
            events, seconds = exchange.watch(self._wants_body())
            if events != watched:
                poll.register(connection, events)
                watched = events
            stdin = process.stdin
            if stdin >= 0:  # without POLLOUT too, poll() tells of a reader that has gone
                poll.register(stdin, select.POLLOUT if self._blocked else 0)
            others, longest = exchange.stand_by()
            if others != standing:
                if standing >= 0:
                    poll.unregister(standing)
                if others >= 0:
                    poll.register(others, select.POLLIN)
                standing = others
            now = self._clock()
            until = min(now + seconds, now + longest, self._deadline(now), next_look)
            found: list[tuple[int, int]] = []
            try:
                found = poll.poll(max(0, int((until - now) * 1000) + 1))
            finally:
                if others >= 0:
                    exchange.go_on(ready=any(fd == others for fd, _ in found))
            if stdin >= 0:
                poll.unregister(stdin)
            now = self._clock()
            heard = 0
            output = 0
            for fd, event in found:
                if fd == process.stdout:
                    output = event
                elif fd == process.stderr:
                    self._read_errors(poll, event)
                elif fd == connection:
                    heard = event
                elif fd == stdin:
                    self._blocked = False
                    if event & (select.POLLERR | select.POLLHUP):  # nobody reads it any more
                        process.close_stdin()
            if output and self._read_output(output, now):
                process.close_stdout()
                self.left_behind = False  # nobody holds it any more, and all of it is here
                self.late = 0
                return
            if len(self._held) > HOLD and self._last == _NEVER:
                self._last = now
                poll.modify(process.stdout, 0)
            if self._sink.ended:  # and the connection perhaps closed
                return
            if (heard or not found) and exchange.hear(heard):
                self.gone = True
                return
            now = self._clock()  # the peer may have taken its time
            if now >= next_look:
                next_look = now + LOOK
                self._look_for_exit(now)
            if now >= self._left_until:
                self._pass_on(b"")
                return
            self._check_time(now)

    # -- from the script ----------------------------------------------------------------------------------------

    def _read_output(self, event: int, now: float) -> bool:
        """Pass on a block of output; returns whether that was the end of it. Raises Failed, PeerClosed."""
        data = read_now(self._process.stdout, BLOCK)
        if data is None:
            return False
        if data:
            self._moved = now
            self._received += len(data)
            self._own = max(0, self._own - len(data)) if self._own >= 0 else -1
            if self.left_behind:
                self.late += len(data)
            most = self._limits.max_output
            if 0 < most < self._received:
                raise Failed(502, f"wrote more than {most} bytes, the limit of its output")
        # Where the other end was closed already when poll() looked, a short read has brought all.
        ended = not data or (event & select.POLLHUP != 0 and len(data) < BLOCK)
        if ended or self._process.stdin < 0 or not self._holds:
            self._pass_on(data)
        else:
            self._held += data
        return ended

    def _pass_on(self, data: bytes) -> None:
        """Hand over what was held, and ``data``; raises Failed, PeerClosed."""
        data, self._held = self._held + data, b""
        if data:
            self._sink.output(data, fed=self._process.stdin < 0)
            self._moved = self._clock()

    def _read_errors(self, poll: select.poll, event: int) -> None:
        data = read_now(self._process.stderr, BLOCK)
        if data is None:
            return
        if data:
            self._moved = self._clock()
            self._sink.errors(data, fed=self._process.stdin < 0)
        if not data or (event & select.POLLHUP and len(data) < BLOCK):
            poll.unregister(self._process.stderr)
            self._process.close_stderr()

    def settle(self, seconds: float) -> bool:
        """After ``run``: wait until the script has ended, at most so long, and take what is left in its pipes.

        Returns whether it has ended. Ends of pipes that nobody writes to any more are closed.
        """
        if self._sink.ended:  # nobody waits: the ends of the pipes come with that of the script
            self._take_rest(seconds)
        ended = self._process.await_exit(seconds)
        self._take_rest(0.0)
        return ended

    def _take_rest(self, seconds: float) -> None:
        """Take what comes of standard error, and throw away what does of standard output, until both have ended."""
        process = self._process
        if process.stdout < 0 and process.stderr < 0:
            return
        poll = select.poll()
        for fd in (process.stderr, process.stdout):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        deadline = self._clock() + seconds
        for _ in range(_BLOCKS):
            found = poll.poll(int(max(0.0, deadline - self._clock()) * 1000) if seconds else 0)
            for fd, event in found:
                data = read_now(fd, BLOCK) if event & select.POLLIN else b""
                if data is None:
                    continue
                if data:
                    if fd == process.stderr:
                        self._sink.errors(data, fed=process.stdin < 0)
                    continue
                poll.unregister(fd)
                if fd == process.stderr:
                    process.close_stderr()
                else:
                    process.close_stdout()
            if not found or (process.stdout < 0 and process.stderr < 0):
                return

    def _look_for_exit(self, now: float) -> None:
        """Notice a script that has ended while others hold its output."""
        if self.left_behind or not self._process.exited():
            return
        stdout = self._process.stdout
        if self._own < 0:
            count = array("i", [0])
            fcntl.ioctl(stdout, termios.FIONREAD, count)
            self._own = count[0]
        if self._own > 0:
            return
        poll = select.poll()
        poll.register(stdout, 0)
        if not poll.poll(0):  # else its end is about to be read
            self.left_behind = True
            self._left_until = now + LEFT

    # -- to the script ------------------------------------------------------------------------------------------

    def _wants_body(self) -> bool:
        """More of the body could go on, or be thrown away, as soon as it comes."""
        return not ((self._pending and self._last == _NEVER) or self._exchange.body.ready)

    def _read_body(self) -> bytes:
        """Return what there is of the body, b"" at its end; raises Failed."""
        try:
            return self._exchange.body.read1(BLOCK)
        except BodyError as error:  # no end of file: half a body must not pass for a whole one
            raise Failed(error.status_hint, str(error)) from None

    def _put_aside(self) -> bool:
        """Put on disk what there is of the body; returns whether more is to be awaited. Raises Failed."""
        if self._process.stdin < 0:
            return False
        if self._aside is None:
            try:
                self._aside = Spool()
            except OSError as error:
                raise Failed(500, f"has a body that cannot be put aside: {error.strerror}") from None
        while self._exchange.body.ready:
            data = self._read_body()
            if not data:
                return False
            try:
                self._aside.put(data)
            except OSError as error:
                raise Failed(500, f"has a body that cannot be put aside: {error.strerror}") from None
            self._moved = self._last = self._clock()
        return self._clock() < self._last + PAUSE

    def _feed(self) -> None:
        """Write what there is of the body, as far as the script takes it; raises Failed."""
        process = self._process
        body = self._exchange.body
        while not self._blocked:
            if not self._pending and self._aside is not None:
                self._pending = self._aside.take(BLOCK)
            if not self._pending:
                if not body.ready:
                    return
                self._pending = self._read_body()
                if not self._pending:
                    process.close_stdin()
                    return
            if process.stdin < 0:  # it wants no more, and the web server may read nothing until it has sent all
                self._pending = b""
                continue
            try:
                sent = os.write(process.stdin, self._pending)
            except BlockingIOError:
                self._blocked = True
                return
            except BrokenPipeError:
                process.close_stdin()
                continue
            self._moved = self._clock()
            self._pending = self._pending[sent:]

    # -- time ---------------------------------------------------------------------------------------------------

    def _deadline(self, now: float) -> float:
        idle = self._limits.idle_timeout
        soonest = min(self.deadline, self._left_until)
        return max(now, min(soonest, self._moved + idle) if idle else soonest)

    def _check_time(self, now: float) -> None:
        limits = self._limits
        if now >= self.deadline:
            raise Failed(504, f"has run for {limits.script_timeout:g} s, the limit of its time")
        if limits.idle_timeout and now >= self._moved + limits.idle_timeout:
            if self._process.stdin >= 0 and self._wants_body():
                raise Failed(408, f"waited for {limits.idle_timeout:g} s for the request's body")
            raise Failed(504, f"has written and read nothing for {limits.idle_timeout:g} s")
