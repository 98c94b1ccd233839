"""One request of a CGI script (RFC 3875): its parameters in the environment, its body on stdin, its answer on stdout.

It is imported for each request anew, so it stands on as little as it can: the log is imported when there is
something to say.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from gateways.apps.wsgi import WSGIApp
from gateways.body import RequestBody
from gateways.codecs.cgi import encode_head
from gateways.codecs.events import Body, EndOfResponse, ErrorOutput, Event, Request, ResponseHead
from gateways.codecs.pairs import content_length
from gateways.codecs.refusal import error_response
from gateways.environ import request_line
from gateways.errors import BodyError, LimitExceeded, LocalProtocolError, PeerClosed, RemoteProtocolError
from gateways.limits import Limits, Timeouts

if TYPE_CHECKING:
    from gateways.apps import Exchange
    from gateways.server.errorlog import ErrorLog

__all__ = ["CGIExchange", "answer_once", "params_of", "take_streams"]

READ_SIZE: Final = 65_536


def answer_once(
    load: Callable[[], Any],
    environ: Mapping[bytes, bytes],
    *,
    mount: str | None,
    limits: Limits,
    timeouts: Timeouts,
) -> None:
    """Answer the request that this process was started for by the WSGI application that ``load`` returns.

    What ``load`` raises goes through, after a plain 500.
    """
    stdin, stdout = take_streams()
    log = LateLog()
    params = params_of(environ)
    error: RemoteProtocolError | None = None
    length = 0
    try:
        length = body_length(params, limits)
    except RemoteProtocolError as caught:
        error = caught
    exchange = CGIExchange(Request(1, params, length), stdin, stdout, limits, timeouts)
    code = 500 if error is None else error.status_hint
    try:
        if error is None:
            app = WSGIApp(load(), log, mount=mount, threads=False, processes=True, run_once=True)
            code = 0
            app(exchange)
        else:
            log.refused(error.protocol, exchange.client, error.message)
    finally:
        if code:
            _answer_error(exchange, code, log)
        unread = limits.drain_bytes if error is not None else length - exchange.body.received
        exchange.finish(min(unread, limits.drain_bytes))


def _answer_error(exchange: CGIExchange, code: int, log: LateLog) -> None:
    """Answer in the application's place."""
    try:
        exchange.send(error_response(1, code, exchange.request.params.get("REQUEST_METHOD", "") == "HEAD"))
    except PeerClosed as gone:
        log.notice(exchange, str(gone))


def take_streams() -> tuple[int, int]:
    """Return descriptors of the request's body and of the answer, which are 0 and 1 no more.

    What the application prints goes to stderr, the web server's error log, also what programs print that it starts;
    and what they read is empty.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
            os.set_inheritable(null, True)
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return stdin, stdout


def params_of(environ: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the environment as the codecs have parameters: latin-1 text, without the names that are the server's."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in environ.items()
        if not name.startswith(b"wsgi.")
    }


def body_length(params: dict[str, str], limits: Limits) -> int:
    """Return the bytes of body that there are; raises MalformedMessage, LimitExceeded.

    RFC 3875 section 4.2: no more than CONTENT_LENGTH may be read, and without it there is none.
    """
    length = max(content_length(params, "cgi"), 0)
    if "HTTP_TRANSFER_ENCODING" in params and not params.get("CONTENT_LENGTH"):
        # Apache's mod_cgi and mod_cgid pass a chunked body on until its end, or until the client is gone: which of them
        # it was cannot be told.
        raise RemoteProtocolError("cgi", "a body in chunks, without its length, which CGI has no way to pass on", 411)
    most = limits.body_bytes
    if most and length > most:
        raise LimitExceeded("cgi", "request body", length, most, 413)
    return length


class CGIExchange:
    """The one request as an Exchange, on the descriptors ``stdin`` and ``stdout``; it closes both."""

    protocol: str = "cgi"
    error_output: bool = True
    """What goes to stderr is in the web server's log."""
    ended: bool = False

    def __init__(self, request: Request, stdin: int, stdout: int, limits: Limits, timeouts: Timeouts) -> None:
        self.request = request
        self.client: str = request.params.get("REMOTE_ADDR") or "-"
        self.line: str = request_line(request.params)
        self.body = RequestBody(request.content_length, self)
        if request.content_length == 0:
            self.body.end()
        self._stdin = stdin
        self._stdout = stdout
        self._most = limits.drain_bytes
        self._timeouts = timeouts

    def pull(self, body: RequestBody) -> None:
        """Read once more of what is left, and nothing behind it (BodySource)."""
        if _ready(self._stdin, select.POLLIN, self._timeouts.body):
            self._read(body)
        else:
            body.fail(BodyError(f"no byte of the body came for {self._timeouts.body:g} s", 408))

    def _read(self, body: RequestBody) -> None:
        left = body.expected - body.received
        try:
            data = os.read(self._stdin, min(left, READ_SIZE))
        except OSError as error:
            body.fail(BodyError(f"the body cannot be read: {error.strerror}"))
            return
        if not data:
            body.fail(BodyError(f"stdin ended {left} bytes before the end of the body"))
            return
        body.put(data)
        if len(data) == left:
            body.end()

    def send(self, event: Event) -> None:
        """Write one response event; raises PeerClosed, LocalProtocolError."""
        if isinstance(event, ErrorOutput):
            _write_error(event.data)
            return
        if isinstance(event, Body):
            self.send_body(event.data)
        elif isinstance(event, ResponseHead):
            self.send_head(event.status, event.headers, event.content, event.end)
        elif isinstance(event, EndOfResponse):
            self._check_open()
            self._end()

    def send_head(self, status: str, headers: list[tuple[str, str]], content: bytes = b"", end: bool = False) -> None:
        """Write a head and what comes with it; raises PeerClosed, LocalProtocolError."""
        self._check_open()
        self._write(encode_head("cgi", "Status: " + status, headers) + content)
        if end:
            self._end()

    def send_body(self, data: bytes) -> None:
        """Write a block of body; raises PeerClosed, LocalProtocolError."""
        self._check_open()
        self._write(data)

    def _check_open(self) -> None:
        if self.ended:
            raise LocalProtocolError("cgi", "the response has ended")

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Write part of an open file; raises PeerClosed, and LocalProtocolError where it is too short."""
        while count:
            data = os.pread(fd, min(count, READ_SIZE), offset)
            if not data:
                raise LocalProtocolError("cgi", "the file became shorter while it was sent")
            self._write(data)
            offset += len(data)
            count -= len(data)

    def abandon(self) -> None:
        """End what was begun: CGI has no way to show that a response was cut."""
        self._end()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._await_writable()
            try:
                sent = os.write(self._stdout, rest[: select.PIPE_BUF])  # so much never waits (poll(2))
            except OSError as error:
                raise PeerClosed(f"the web server went away: {error.strerror}") from None
            rest = rest[sent:]

    def _await_writable(self) -> None:
        """Wait for the web server, and hold meanwhile what comes of the body: Apache reads nothing before that is gone.

        Raises PeerClosed.
        """
        body = self.body
        while not _ready(self._stdout, select.POLLOUT, 0.0):
            poll = select.poll()
            poll.register(self._stdout, select.POLLOUT)
            if not body.ended and body.held < self._most:
                poll.register(self._stdin, select.POLLIN)
            found = dict(poll.poll(self._timeouts.write * 1000))
            if not found:
                raise PeerClosed(f"the web server took no byte of the response for {self._timeouts.write:g} s")
            if self._stdin in found:
                self._read(body)

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            os.close(self._stdout)

    def finish(self, left: int) -> None:
        """End the response, and take ``left`` bytes of a body that nobody has read, if they come.

        Apache's mod_cgid gives stdin and stdout as one socket, and a close with unread bytes would be a reset.
        """
        self._end()
        deadline = time.monotonic() + self._timeouts.drain
        while left > 0 and _ready(self._stdin, select.POLLIN, deadline - time.monotonic()):
            try:
                data = os.read(self._stdin, min(left, READ_SIZE))
            except OSError:
                break
            if not data:
                break
            left -= len(data)
        os.close(self._stdin)


def _write_error(data: bytes) -> None:
    """Write to stderr; where nobody reads that, it is no reason to fail the request."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
            while data:
                data = data[os.write(2, data) :]


def _ready(fd: int, event: int, timeout: float) -> bool:
    """Wait until ``fd`` can be read or written; False when ``timeout`` seconds have passed."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(max(timeout, 0.0) * 1000))


class LateLog:
    """The server's log, for a process that mostly has nothing to say in it."""

    _log: ErrorLog | None = None

    def _opened(self) -> ErrorLog:
        if self._log is None:
            from gateways.server.errorlog import ErrorLog, configure  # noqa: PLC0415  (a third of a start)

            configure("info")
            self._log = ErrorLog()
        return self._log

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:
        """An application failed: the request's line, the message, and the traceback."""
        self._opened().exception(exchange, message, error)

    def notice(self, exchange: Exchange, message: str) -> None:
        """Something about the request."""
        self._opened().notice(exchange, message)

    def refused(self, protocol: str, peer: str, reason: str) -> None:
        """The request was refused."""
        self._opened().refused(protocol, peer, reason)

    def output(self, exchange: Exchange, text: str) -> None:
        """What the application wrote to wsgi.errors when its request was over."""
        self._opened().output(exchange, text)
