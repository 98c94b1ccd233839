"""Moves bytes between one script and one request, both ways at the same time, and holds no thread while there are none.

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
from collections.abc import Callable, Generator
from typing import Final, Protocol

from gateways.apps import Course, WatchedExchange
from gateways.apps.processes import Process, read_now
from gateways.apps.reaper import LEFT
from gateways.apps.spool import Spool
from gateways.apps.wait import NEVER, Wait
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
_SHORTEST: Final = 0.0005
_LONGEST: Final = 0.01
"""Seconds between looks for the end of a script where the system tells of none."""


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
    _last: float = NEVER
    """Where the body is put aside: when the last of it came."""

    def __init__(
        self, exchange: WatchedExchange, process: Process, sink: Sink, limits: ScriptLimits, wait: Wait,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._exchange = exchange
        self._process = process
        self._sink = sink
        self._limits = limits
        self._wait = wait
        self._clock = clock
        now = clock()
        self.deadline = now + limits.script_timeout if limits.script_timeout else NEVER
        self._moved = now
        """When the last byte went to the script or came from it."""
        self._left_until = NEVER

    def run(self) -> Course:
        """Go on until the script's standard output has ended, or nobody wants it; raises Failed, PeerClosed.

        The descriptor of that is closed if it has ended. Nothing is waited for any more.
        """
        try:
            yield from self._run()
        finally:
            self._wait.clear()
            if self._aside is not None:
                self._aside.close()

    def _run(self) -> Course:
        process = self._process
        exchange = self._exchange
        wait = self._wait
        connection = exchange.fileno()
        wait.add(process.stdout, select.POLLIN)
        wait.add(process.stderr, select.POLLIN)
        next_look = self._clock() + LOOK
        watched = False
        while True:
            if self._last < NEVER and not self._put_aside():
                self._last = NEVER
                self._holds = False
                wait.add(process.stdout, select.POLLIN)
            self._feed()
            if self._held and (process.stdin < 0 or not self._holds):
                self._pass_on(b"")
                if self._sink.ended:
                    return
            wanted = self._wants_body()
            events, seconds = exchange.watch(wanted)
            watched = watched or (wanted and events != 0)
            if watched:  # most scripts have ended before anybody has looked whether their peer has gone
                wait.add(connection, events)
            stdin = process.stdin
            if stdin >= 0:  # without POLLOUT too, it is told when its reader has gone
                wait.add(stdin, select.POLLOUT if self._blocked else 0)
            now = self._clock()
            wait.until = min(now + seconds, self._deadline(now), next_look)
            yield wait
            found = wait.look()
            now = self._clock()
            heard = 0
            output = 0
            for fd, event in found:
                if fd == process.stdout:
                    output = event
                elif fd == process.stderr:
                    self._read_errors(event)
                elif fd == connection:
                    heard = event
                elif fd == stdin:
                    self._blocked = False
                    if event & (select.POLLERR | select.POLLHUP):  # nobody reads it any more
                        self._close_stdin()
            if output and self._read_output(output, now):
                self._close_stdout()
                self.left_behind = False  # nobody holds it any more, and all of it is here
                self.late = 0
                return
            if len(self._held) > HOLD and self._last == NEVER:
                self._last = now
                wait.add(process.stdout, 0)
            if self._sink.ended:  # and the connection perhaps closed
                return
            if (heard or not found) and exchange.hear(heard):
                self.gone = True
                return
            now = self._clock()  # the peer may have taken its time
            if now >= next_look:
                next_look = now + LOOK
                watched = True
                self._look_for_exit(now)
            if now >= self._left_until:
                self._pass_on(b"")
                return
            self._check_time(now)

    def _close_stdin(self) -> None:
        self._wait.drop(self._process.stdin)
        self._process.close_stdin()

    def _close_stdout(self) -> None:
        self._wait.drop(self._process.stdout)
        self._process.close_stdout()

    def _close_stderr(self) -> None:
        self._wait.drop(self._process.stderr)
        self._process.close_stderr()

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

    def _read_errors(self, event: int) -> None:
        data = read_now(self._process.stderr, BLOCK)
        if data is None:
            return
        if data:
            self._moved = self._clock()
            self._sink.errors(data, fed=self._process.stdin < 0)
        if not data or (event & select.POLLHUP and len(data) < BLOCK):
            self._close_stderr()

    def settle(self, seconds: float) -> Generator[Wait, None, bool]:
        """After ``run``: wait until the script has ended, at most so long, and take what is left in its pipes.

        Returns whether it has ended. Ends of pipes that nobody writes to any more are closed.
        """
        deadline = self._clock() + seconds
        process = self._process
        if self._sink.ended and (process.stdout >= 0 or process.stderr >= 0):  # nobody waits: they end with the script
            yield from self._take_rest(deadline)
        ended = process.exited()
        if not ended:
            ended = yield from self._await_end(deadline)
        self._take_now()
        return ended

    def _await_end(self, deadline: float) -> Generator[Wait, None, bool]:
        wait = self._wait
        process = self._process
        pause = _SHORTEST
        fd = process.watch_end()
        if fd >= 0:
            wait.add(fd, select.POLLIN)
        try:
            while (now := self._clock()) < deadline:
                wait.until = deadline if fd >= 0 else min(deadline, now + pause)
                pause = min(2 * pause, _LONGEST)
                yield wait
                if process.exited():
                    return True
            return False
        finally:
            wait.clear()
            process.unwatch_end(fd)

    def _take_rest(self, deadline: float) -> Course:
        """Take what still comes until both pipes have ended."""
        process = self._process
        wait = self._wait
        wait.until = deadline
        for _ in range(_BLOCKS):
            self._take_now()
            wait.clear()
            for fd in (process.stderr, process.stdout):
                if fd >= 0:
                    wait.add(fd, select.POLLIN)
            if not wait.fds or self._clock() >= deadline:
                break
            yield wait
        wait.clear()

    def _take_now(self) -> None:
        """Take what has come of standard error, and throw away what has of standard output."""
        process = self._process
        if process.stdout < 0 and process.stderr < 0:
            return
        for fd in (process.stderr, process.stdout):
            for _ in range(_BLOCKS):
                data = read_now(fd, BLOCK) if fd >= 0 else None
                if data is None:
                    break
                if fd == process.stderr:
                    if not data:
                        process.close_stderr()
                        break
                    self._sink.errors(data, fed=process.stdin < 0)
                elif not data:
                    process.close_stdout()
                    break

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
        return not ((self._pending and self._last == NEVER) or self._exchange.body.ready)

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
                    self._close_stdin()
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
                self._close_stdin()
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
