"""One request through one WSGI application, by every rule that PEP 3333 makes for servers.

It knows events and environs; not sockets, not which protocol carries them.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from typing import Any, Final, NoReturn, Protocol, TypeAlias

from gateways.apps import Exchange
from gateways.codecs.events import EndOfResponse, ErrorOutput
from gateways.codecs.refusal import error_response
from gateways.environ import to_environ, url_scheme
from gateways.errors import BodyError, LocalProtocolError, PeerClosed, RemoteProtocolError, RequestTimeout

__all__ = ["FileWrapper", "WSGIApp"]

Application: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_STATUS: Final = re.compile(r"[2-9][0-9][0-9](?: [^\x00-\x1f\x7f]*)?")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_IN_LINES: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # control characters but newline and tab

# Called so, mypyc's code does not look the methods up by their names each time.
_is_ascii: Final = str.isascii
_is_printable: Final = str.isprintable

_PLAIN: Final = 0
_CONTENT_LENGTH: Final = 1
_HOP_BY_HOP: Final = (
    frozenset(  # RFC 9110 section 7.6.1, PEP 3333 "Other HTTP Features"; Status is the server's to send
        ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "status")
    )
)

_CACHED: Final = 256  # names and statuses that applications use are few; the bound is against those that make them up
_names: dict[str, int] = {}
_statuses: dict[str, bool] = {}


class Log(Protocol):
    """What this file tells the log."""

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:
        """An application failed: the request's line, the message, and the traceback."""

    def notice(self, exchange: Exchange, message: str) -> None:
        """Something about one request that its operator should know."""

    def output(self, exchange: Exchange, text: str) -> None:
        """What an application wrote to wsgi.errors, as it did."""


class FileWrapper:
    """``wsgi.file_wrapper``: a file-like object as blocks; a real file may go out by os.sendfile."""

    def __init__(self, filelike: Any, blksize: int = 65_536) -> None:  # noqa: ANN401  (PEP 3333: any file-like object)
        self.filelike = filelike
        self.blksize = blksize

    def __iter__(self) -> Iterator[bytes]:
        """Return self."""
        return self

    def __next__(self) -> bytes:
        """Return the next block; raises StopIteration at the end."""
        data: bytes = self.filelike.read(self.blksize)
        if not data:
            raise StopIteration
        return data

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()


class ErrorStream:
    """``wsgi.errors``: whole lines go to the web server's log where the protocol has a way there, else to ours."""

    text: str = ""
    """What was written and not sent."""
    late: bool = False
    """The request is over: what comes now goes to our log."""

    def __init__(self, exchange: Exchange, log: Log) -> None:
        self._exchange = exchange
        self._log = log

    def write(self, text: str, /) -> int:
        """Take text; returns its length."""
        self.text += text
        if len(self.text) > 4096 or text.endswith("\n"):
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str], /) -> None:
        """Take each of ``lines``."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what was written; raises RequestTimeout."""
        text = self.text
        if not text:
            return
        self.text = ""
        exchange = self._exchange
        if exchange.error_output and not self.late:
            data = _NOT_IN_LINES.sub(_hex, text).encode("utf-8", "backslashreplace")
            try:
                exchange.send(ErrorOutput(exchange.request.stream, data))
            except (PeerClosed, LocalProtocolError):  # too late for the web server's log: ours has it
                self._log.output(exchange, text)
            except RequestTimeout:
                self._log.output(exchange, text)
                raise
        else:
            self._log.output(exchange, text)


class WSGIApp:
    """A WSGI application as an App: one object for all requests of a worker.

    ``mount`` is as for ``to_environ``; ``threads`` and ``processes`` tell whether there are several, ``run_once``
    that there is one request only.
    """

    def __init__(
        self,
        application: Application,
        log: Log,
        *,
        mount: str | None,
        threads: bool,
        processes: bool,
        run_once: bool = False,
    ) -> None:
        self._application = application
        self._log = log
        self._process = os.getpid()
        # As PEP 3333 has all text of the environ: bytes as latin-1.
        self._mount = None if mount is None else mount.encode("utf-8", "surrogateescape").decode("latin-1")
        self._base: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": threads,
            "wsgi.multiprocess": processes,
            "wsgi.run_once": run_once,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        params = request.params
        protocol = exchange.protocol
        errors = ErrorStream(exchange, self._log)
        response = _Response(exchange, self._log, errors, params.get("REQUEST_METHOD", "") == "HEAD")
        try:
            environ = to_environ(params, protocol, self._mount)
            environ.update(self._base)
            environ["wsgi.url_scheme"] = url_scheme(environ)
            environ["wsgi.input"] = exchange.body
            environ["wsgi.errors"] = errors
            environ["gateways.protocol"] = protocol
            response.run(self._application, environ)
        except PeerClosed as error:
            self._log.notice(exchange, str(error))
        except (BodyError, RemoteProtocolError) as error:
            errors.flush()
            self._log.notice(exchange, str(error))
            response.fail(error.status_hint)
        except RequestTimeout:  # the master has told the log
            with contextlib.suppress(RequestTimeout):
                errors.flush()
            response.fail(504)
        except BaseException as error:  # noqa: BLE001  (an application may raise anything: SystemExit too)
            if os.getpid() != self._process:
                _end_fork(error)
            errors.flush()
            self._log.exception(exchange, "the application raised", error)
            response.fail(500)
        finally:
            try:
                if errors.text:
                    errors.flush()
            finally:
                errors.late = True


class _Response:
    """The response of one request: what start_response was told, and how much has gone out."""

    _status: str = ""
    _left: int = -1
    """Bytes that the application's Content-Length still allows; -1 where there is none."""
    _bodiless: bool = False
    """No body belongs to the status (RFC 9110 sections 15.3.5 and 15.4.5) or to HEAD."""
    _head_sent: bool = False
    _streaming: bool = False
    """The head is out and the body has no length: blocks go as they come."""
    _all_sent: bool = False
    """It has ended with the last byte that its length allows, and the application's blocks have not."""
    _cut: bool = False
    """The log knows that the application sends more than its Content-Length."""
    ended: bool = False

    def __init__(self, exchange: Exchange, log: Log, errors: ErrorStream, head_only: bool) -> None:
        self._exchange = exchange
        self._log = log
        self._errors = errors
        self._head_only = head_only
        self._headers: list[tuple[str, str]] = []

    def start_response(
        self,
        status: str,
        headers: list[Any],
        exc_info: Any = None,  # noqa: ANN401  (sys.exc_info())
        /,
    ) -> Callable[[bytes], None]:
        """Take status and headers; raises LocalProtocolError for bad ones, and exc_info again when it is too late."""
        if exc_info is not None:
            try:
                if self._head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no circle of frames
        elif self._status:
            raise LocalProtocolError("wsgi", "start_response was called again without exc_info")
        bodiless = _statuses.get(status)
        if bodiless is None:
            bodiless = _check_status(status)
        if type(headers) is not list:
            _check_list(headers)
        length = -1
        for field in headers:
            if not isinstance(field, tuple):  # PEP 3333: tuples; one build would take lists, the other not
                raise LocalProtocolError("wsgi", f"a header is {type(field).__name__}, not a tuple of name and value")
            name, value = field
            if type(value) is not str or not (_is_ascii(value) and _is_printable(value)):
                _check_value(name, value)
            kind = _names.get(name)
            if kind is None:
                kind = _check_name(name)
            if kind == _CONTENT_LENGTH:
                if length >= 0:
                    raise LocalProtocolError("wsgi", "two Content-Length headers")
                length = _length(value)
        if bodiless and length >= 0 and status.startswith("204"):  # RFC 9110 section 8.6: never with a Content-Length
            headers = [field for field in headers if field[0].lower() != "content-length"]
        self._bodiless = bodiless or self._head_only
        self._status = status
        self._headers = headers
        self._left = length
        return self.write

    def write(self, data: object) -> None:
        """Send a block of the body: what PEP 3333 has for applications that cannot return an iterable."""
        block = data if type(data) is bytes else _as_bytes(data)
        if block:
            self._send(block)

    def run(self, application: Application, environ: dict[str, Any]) -> None:
        """Call the application, send all that it returns, and end the response."""
        result: Any = application(environ, self.start_response)  # what it is, is found out below
        try:
            if (type(result) is list or type(result) is tuple) and len(result) == 1 and not self._head_sent:
                block = result[0]
                if self._errors.text:
                    self._errors.flush()
                self._send_whole(block if type(block) is bytes else _as_bytes(block))
            elif isinstance(result, FileWrapper) and self._send_file(result):
                self._errors.flush()
                self._end()
            else:
                for block in result:
                    if self._streaming and type(block) is bytes and block:
                        self._exchange.send_body(block)
                    elif self._is_surplus(block):
                        break
                    else:
                        self.write(block)
                        if self._all_sent and self._bodiless:
                            break
                self._errors.flush()
                self._end()
        finally:
            if type(result) is not list:  # to find that it has none would cost more than all the rest here
                close = getattr(result, "close", None)
                if close is not None:
                    self._close(close)

    def _is_surplus(self, block: object) -> bool:
        """A block after the last byte that may be sent: who goes on for it, perhaps for ever, would see no peer go.

        The iterable is asked for that block, since an application may have something to do behind its last one.
        """
        if not self._all_sent and not (self._head_sent and self._left == 0):
            return False
        if not self._bodiless:
            self._measured(block if type(block) is bytes else _as_bytes(block))
        return True

    def _close(self, close: Callable[[], object]) -> None:
        """Call the result's close(), once; what it raises concerns the log only if the response is whole."""
        try:
            close()
        except Exception as error:
            if not self.ended:
                raise
            self._log.exception(self._exchange, "close() of the response raised", error)

    # -- sending ------------------------------------------------------------------------------------------------

    def _started(self) -> None:
        if not self._status:
            raise LocalProtocolError("wsgi", "the application returned a body without having called start_response")

    def _send_whole(self, data: bytes) -> None:
        """Send a response of one block, in one piece; its length is known, so it is told."""
        if not self._status:
            self._started()
        headers = self._headers
        left = self._left
        if self._bodiless:
            if self._head_only and left < 0 and data:  # RFC 9110 section 8.6: what GET would have said
                headers = [*headers, ("Content-Length", str(len(data)))]
            data = b""
        elif left < 0:
            headers = [*headers, ("Content-Length", str(len(data)))]
        elif left != len(data):
            data = self._measured(data)
            if self._left > 0:
                self._head_sent = True
                self._exchange.send_head(self._status, headers, data)
                self._end()
                return
        self._head_sent = True
        self._exchange.send_head(self._status, headers, data, True)
        self.ended = True

    def _measured(self, data: bytes) -> bytes:
        """Count ``data`` against the Content-Length and return what of it may be sent."""
        if len(data) > self._left:
            if not self._cut:
                self._cut = True
                self._log.notice(
                    self._exchange, "the application sent more bytes than its Content-Length; they were cut off"
                )
            data = data[: self._left]
        self._left -= len(data)
        return data

    def _send(self, data: bytes) -> None:
        """Send one block, behind the head if that has not gone yet (PEP 3333: not before the first non-empty block)."""
        if not self._head_sent:
            self._started()
        elif self._all_sent:
            if not self._bodiless:
                self._measured(data)
            return
        elif self.ended:
            raise LocalProtocolError("wsgi", "write() was called after the response had ended")
        if self._bodiless:
            self._send_all(b"")
            return
        if self._left >= 0:
            data = self._measured(data)
        if self._head_sent:
            if data:
                self._exchange.send_body(data)
        elif self._left == 0:
            self._send_all(data)
        else:
            self._send_head(data)

    def _send_all(self, data: bytes) -> None:
        """Send the head with all that belongs to the response, and its end.

        A client that has the last byte may be gone before the end could follow, and nginx with it.
        """
        if self._errors.text:
            self._errors.flush()
        self._head_sent = True
        self._exchange.send_head(self._status, self._headers, data, True)
        self._all_sent = True
        self.ended = True

    def _send_head(self, data: bytes) -> None:
        self._head_sent = True
        self._streaming = self._left < 0 and not self._bodiless
        self._exchange.send_head(self._status, self._headers, data)

    def _end(self) -> None:
        """End the response; the head goes first where there was no body at all."""
        if self._all_sent:
            self._all_sent = False
            return
        if not self._head_sent:
            self._started()
            headers = self._headers
            if self._left < 0 and not self._bodiless:
                headers = [*headers, ("Content-Length", "0")]
            if self._left <= 0 or self._bodiless:
                self._head_sent = True
                self._exchange.send_head(self._status, headers, b"", True)
                self.ended = True
                return
            self._send_head(b"")
        if self._left > 0 and not self._bodiless:
            self._log.notice(self._exchange, f"the application ended {self._left} bytes before its Content-Length")
            self.ended = True
            self._exchange.abandon()
            return
        try:
            self._exchange.send(EndOfResponse(self._exchange.request.stream))
        except PeerClosed:
            if self._left != 0:  # else it has all that it waits for
                raise
        self.ended = True

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Send a regular file from where it stands, as a whole; False where it is none."""
        if wrapper.__class__ is not FileWrapper or self._head_sent:
            return False
        self._started()
        if self._bodiless:
            return True
        filelike = wrapper.filelike
        if type(getattr(filelike, "raw", filelike)) is not FileIO:  # GzipFile has a fileno() too, of other bytes
            return False
        try:
            fd = filelike.fileno()
            offset = filelike.tell()
            status = os.fstat(fd)
        except (AttributeError, OSError, ValueError):  # BytesIO, a pipe, a closed file: iteration says what is wrong
            return False
        size = status.st_size - offset
        if not stat.S_ISREG(status.st_mode) or size <= 0:  # files of /proc have no size, but content
            return False
        if self._left < 0:
            self._headers = [*self._headers, ("Content-Length", str(size))]
            self._left = size
        count = min(size, self._left)
        self._send_head(b"")
        if count:
            self._exchange.send_file(fd, offset, count)
        self._left -= count
        return True

    def fail(self, code: int) -> None:
        """Answer ``code`` in plain text if nothing has been sent; else make the peer see that the response is cut."""
        if self.ended:
            return
        self.ended = True
        try:
            if self._head_sent:
                self._exchange.abandon()
            else:
                self._head_sent = True
                self._exchange.send(error_response(self._exchange.request.stream, code, self._head_only))
        except (PeerClosed, LocalProtocolError) as error:
            self._log.notice(self._exchange, str(error))


def _hex(found: re.Match[str]) -> str:
    return f"\\x{ord(found.group()):02x}"


def _end_fork(error: BaseException) -> NoReturn:
    """End a process that the application forked and that comes back by an exception: the request is its parent's."""
    code: object = 1
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
    else:
        import traceback  # noqa: PLC0415  (not for the start of a CGI script)

        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code if isinstance(code, int) else 1)


def _check_status(status: str) -> bool:
    """Check a status seen for the first time; returns whether no body belongs to it. Raises LocalProtocolError."""
    if type(status) is not str or _STATUS.fullmatch(status) is None:
        raise LocalProtocolError("wsgi", f"not a status such as '200 OK': {status!r}")
    try:
        status.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError("wsgi", f"the status holds text outside latin-1: {status!r}") from None
    bodiless = status.startswith(("204", "304"))
    if len(_statuses) < _CACHED:
        _statuses[sys.intern(status)] = bodiless
    return bodiless


def _check_list(headers: object) -> None:
    """An iterator would be empty after it was checked (PEP 3333: "It must be a Python list")."""
    if not isinstance(headers, list):
        raise LocalProtocolError("wsgi", f"the headers are {type(headers).__name__}, not a list")


def _check_name(name: str) -> int:
    """Return the kind of a header name seen for the first time; raises LocalProtocolError."""
    if type(name) is not str or _NAME.fullmatch(name) is None:
        raise LocalProtocolError("wsgi", f"not the name of a header: {name!r}")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        raise LocalProtocolError("wsgi", f"the header {name} belongs to the server, not to the application")
    kind = _CONTENT_LENGTH if lower == "content-length" else _PLAIN
    if len(_names) < _CACHED:
        _names[sys.intern(name)] = kind
    return kind


def _length(value: str) -> int:
    """Return a Content-Length; raises LocalProtocolError for what is none."""
    if not (value.isdigit() and value.isascii()) or len(value) > 18:
        raise LocalProtocolError("wsgi", f"not the length of a body: Content-Length: {value!r}")
    return int(value)


def _check_value(name: str, value: object) -> None:
    if not isinstance(value, str) or _CONTROL.search(value) is not None:
        raise LocalProtocolError(
            "wsgi", f"the value of the header {name} is no text without control characters: {value!r}"
        )
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError("wsgi", f"the header {name} holds text outside latin-1: {value!r}") from None


def _as_bytes(data: object) -> bytes:
    """Return a subclass of bytes, a bytearray or a memoryview as bytes; raises LocalProtocolError for the rest."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise LocalProtocolError("wsgi", f"a block of the body is {type(data).__name__}, not bytes")
