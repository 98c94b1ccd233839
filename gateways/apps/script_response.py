"""What a CGI script writes, as the response that it means (RFC 3875 section 6); and what it writes to stderr.

Heads are read more strictly here than from other servers: a script is this server's own to answer for.
"""

from __future__ import annotations

import http
import re
import signal
from collections.abc import Callable
from typing import Final

from gateways.apps import Exchange
from gateways.apps.pump import Failed
from gateways.codecs.cgi import HeadParser, body_length
from gateways.codecs.events import EndOfResponse, ErrorOutput, ResponseHead
from gateways.codecs.refusal import error_response
from gateways.errors import LocalProtocolError, PeerClosed, RemoteProtocolError

__all__ = ["ErrorLines", "ScriptResponse"]

HEAD: Final = 65_536
"""Bytes of a response head. Web servers take less: nginx one buffer of 4 or 8 KiB, Apache 8 KiB a line."""
LINE: Final = 4_096
"""Bytes of a line of stderr; a longer one is told in pieces."""
STDERR: Final = 1_048_576
"""Bytes of stderr that one script may put into the log."""
EARLY: Final = 65_536
"""Bytes of it that go to the web server before that has sent the whole body: it may read nothing until then."""
WRITTEN: Final = 1_024
"""Bytes that a line takes at least of a socket's buffer."""
SHORT: Final = 100
"""Bytes of it that a line counts for at least: each has the request's own line before it in the log."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DROPPED: Final = frozenset(  # RFC 3875 section 6.3.4: the connection is not the script's
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade")
)
_BESIDE: Final = frozenset(("location", "content-type", "content-length"))
"""Fields of a head that asks for a local redirect. With any other it is for the client, who would lose that."""
_LOCAL: Final = re.compile(r"/(?:[^/#][^#]*)?")


class ErrorLines:
    """A script's stderr, line by line: to the web server's error log where the protocol has a way there, or to ours."""

    def __init__(self, exchange: Exchange, name: str, tell: Callable[[str], None]) -> None:
        self._exchange = exchange
        self._name = name
        self._tell = tell
        self._text = b""
        self._left = STDERR
        self._early = EARLY
        self._fed = True
        self._detached = False

    def detach(self) -> None:
        """The request goes on without the script: what comes now is for our log, in whatever thread that is."""
        self._detached = True

    def write(self, data: bytes, *, fed: bool = True) -> None:
        """Take the next bytes; lines that are whole are told. ``fed``: the request's body has been taken."""
        self._fed = fed
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._text) > LINE:
            self._line(self._text[:LINE])
            self._text = self._text[LINE:]

    def end(self) -> None:
        """Tell what has come of a last line."""
        text, self._text = self._text, b""
        if text:
            self._line(text)

    def _line(self, line: bytes) -> None:
        if self._left < 0:
            return
        self._left -= max(len(line) + 1, SHORT)
        if self._left < 0:
            line = b"(what follows is left out: more than %d bytes)" % STDERR
        exchange = self._exchange
        if exchange.error_output and not self._detached and (self._fed or self._early > 0):
            if not self._fed:
                self._early -= max(len(line), WRITTEN)
            try:
                exchange.send(ErrorOutput(exchange.request.stream, b"[%b] %b\n" % (self._name.encode(), line)))
            except (PeerClosed, LocalProtocolError):  # too late for the web server's log: ours has it
                pass
            else:
                return
        self._tell("stderr: " + line.decode("utf-8", "backslashreplace"))


class ScriptResponse:
    """The response of one request: what its script has written, and how much has gone out.

    ``tell`` says something about the request in the log.
    """

    ended: bool = False
    """Nothing more goes out."""
    complete: bool = False
    """All of the body that the head has promised is there."""
    redirect: str = ""
    """Another path of ours answers."""
    _head_sent: bool = False
    _left: int = -1
    """Bytes of body that are to come; -1 where that is not known."""
    _bodiless: bool = False
    _beyond: bool = False
    """More has come than was promised."""

    def __init__(self, exchange: Exchange, name: str, tell: Callable[[str], None]) -> None:
        self._exchange = exchange
        self._name = name
        self._tell = tell
        self._stream = exchange.request.stream
        self._method = exchange.request.params.get("REQUEST_METHOD", "")
        self.head_only = self._method == "HEAD"
        self.begin()

    def begin(self) -> None:
        """Another script is to answer."""
        self.redirect = ""
        self._parser: HeadParser | None = HeadParser("cgi", self._stream, HEAD)
        self.lines = ErrorLines(self._exchange, self._name, self._tell)
        """Of this script."""

    # -- from the script (a Sink) -------------------------------------------------------------------------------

    def errors(self, data: bytes, *, fed: bool) -> None:
        """Take a block of its standard error; ``fed`` as for ``output``."""
        self.lines.write(data, fed=fed)

    def output(self, data: bytes, *, fed: bool) -> None:
        """Take a block of its standard output; ``fed``: it will get no more of the request's body.

        Raises Failed, PeerClosed, LocalProtocolError.
        """
        parser = self._parser
        if parser is None:
            if not self.redirect:
                data = self._measured(data)
                if data:
                    self._exchange.send_body(data)
            return
        try:
            head = parser.feed(data)
            if head is None:
                return
            self._parser = None
            self._check(head, parser.status_given)
        except RemoteProtocolError as error:
            raise Failed(502, f"has written a bad response head: {error.message}") from None
        if self.redirect:
            return
        head.content = self._measured(parser.rest)
        head.end = self.complete and fed
        self._head_sent = True
        self.ended = head.end
        self._exchange.send(head)

    def _check(self, head: ResponseHead, status_given: bool) -> None:
        """Check a head, and make it fit to be sent; raises Failed, MalformedMessage."""
        code = head.status[:3]
        if code.startswith("1"):
            raise Failed(502, f"has answered with the status {code}, which ends no request")
        if _CONTROL.search(head.status):
            raise Failed(502, "has written a control character into its status")
        names = set()
        location = ""
        headers = []
        for name, value in head.headers:
            lower = name.lower()
            if _CONTROL.search(value):
                raise Failed(502, f"has written a control character into the header {name}")
            if lower == "content-length" and lower in names:
                raise Failed(502, "has written two Content-Length headers")
            if lower == "transfer-encoding":
                raise Failed(502, "has written a Transfer-Encoding, which is the server's to choose")
            if lower == "location":
                if lower in names:
                    raise Failed(502, "has written two Location headers")
                location = value
            names.add(lower)
            if lower not in _DROPPED and not (lower == "content-length" and code == "204"):  # RFC 9110 section 8.6
                headers.append((name, value))
        if not status_given and _LOCAL.fullmatch(location) and names <= _BESIDE:
            self.redirect = location
            return
        head.headers = headers
        if len(head.status) == 3:
            head.status = f"{code} {phrase(int(code))}"
        self._left = body_length("cgi", head, self._method)
        self._bodiless = self.head_only or code in ("204", "304")
        self.complete = self._bodiless or self._left == 0

    def _measured(self, data: bytes) -> bytes:
        """Count a block of body, and return what of it may be sent."""
        if self._bodiless:  # RFC 3875 section 4.3.3: what a script writes for HEAD is the server's to throw away
            return b""
        if self._left < 0:
            return data
        if len(data) > self._left:
            self._beyond = True
            data = data[: self._left]
        self._left -= len(data)
        self.complete = self._left == 0
        return data

    # -- the end ------------------------------------------------------------------------------------------------

    def end_errors(self) -> None:
        """Nothing more comes of its standard error."""
        self.lines.end()

    def finish(self, script: str, code: int | None, *, cut: bool) -> None:
        """The script has written all. ``code``: its exit status, minus a signal, None where that is not known.

        ``cut``: what it had left behind would have written more. Raises Failed, PeerClosed, LocalProtocolError.
        """
        how = told(code)
        parser = self._parser
        if parser is not None:
            where = "within its response head" if parser.buffered else "without a response head"
            raise Failed(502, f"ended {where}{how and f', {how}'}")
        if how:
            self._tell(f"{script} ended, {how}")
        if self._beyond:
            self._tell(f"{script} has written more bytes than its Content-Length; they were cut off")
        if self.ended or self.redirect:
            return
        self.ended = True
        if self.complete:
            self._exchange.send(EndOfResponse(self._stream))
            return
        if self._left > 0:
            self._tell(f"{script} ended {self._left} bytes before its Content-Length")
        if self._left > 0 or cut or (code is not None and code < 0):
            self._exchange.abandon()
            return
        self._exchange.send(EndOfResponse(self._stream))

    def fail(self, status: int) -> None:
        """Answer in plain text if nothing has been sent; else make the peer see that the response is cut."""
        if self.ended:
            return
        self.ended = True
        try:
            if self._head_sent:
                self._exchange.abandon()
            else:
                self._exchange.send(error_response(self._stream, status, self.head_only))
        except (PeerClosed, LocalProtocolError) as error:
            self._tell(str(error))

    def pass_redirect_on(self) -> None:
        """Nothing here answers it: the client is to ask. Raises PeerClosed, LocalProtocolError."""
        self.ended = True
        headers = [("Location", self.redirect), ("Content-Length", "0")]
        self._exchange.send_head("302 Found", headers, end=True)

    def give_up(self) -> None:
        """Nobody wants an answer."""
        if not self.ended:
            self.ended = True
            if self._head_sent:
                self._exchange.abandon()


def told(code: int | None) -> str:
    """Return an exit status as text, "" for a good one."""
    if not code:
        return ""
    if code > 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"


def phrase(code: int) -> str:
    """Return the reason that belongs to a status."""
    try:
        return http.HTTPStatus(code).phrase
    except ValueError:
        return "Unknown"
