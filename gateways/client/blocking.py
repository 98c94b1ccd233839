"""One blocking client for FastCGI, SCGI and uwsgi: requests as a web server sends them, responses as events or whole.

Three layers, each of use by itself: ``Connection`` (bytes and events of one connection), ``Client.stream`` (one
request, its response in pieces), ``Client.request`` (all of it). It knows no protocol: the codecs do. Every wait has
a deadline and goes through poll(), so any number of descriptors will do; what the peer sends is read while a body is
still being written, so a backend that answers early blocks nobody.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, TypeAlias, final
from urllib.parse import unquote_to_bytes

from gateways.codecs.events import Body, EndOfBody, EndOfResponse, ErrorOutput, Event, Refused, Request, ResponseHead
from gateways.codecs.front import FrontCodec
from gateways.codecs.fronts import FRONT_CODECS
from gateways.errors import LocalProtocolError, PeerClosed, RemoteProtocolError, TruncatedMessage
from gateways.limits import DEFAULT_LIMITS, Limits

__all__ = ["Address", "Client", "Connection", "Response", "StreamedResponse"]

Address: TypeAlias = str | tuple[str, int]
"""The path of a unix socket (``@name`` for an abstract one), or host and port."""
RequestBody: TypeAlias = bytes | Iterable[bytes]

TIMEOUT: Final = 30.0
READ_SIZE: Final = 65_536
BLOCK_SIZE: Final = 65_528
"""Of a body given as bytes: the longest FastCGI record that needs no padding."""
BACKLOG_PAUSE: Final = 0.005
"""A unix socket whose backlog is full refuses at once, and no descriptor tells when to come again."""
IDEMPOTENT: Final = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"))
"""RFC 9110 section 9.2.2: what may be sent again where the connection ended without a byte of an answer."""
WITH_BODY: Final = frozenset(("PATCH", "POST", "PUT"))
FOREVER: Final = float("inf")


@final
class Connection:
    """One connection to a backend; what is read while something is written is kept for ``read``.

    ``timeout`` is that of each call, in seconds. Raises OSError where the backend cannot be reached, and TimeoutError,
    which is one, past the timeout.
    """

    def __init__(self, codec: FrontCodec, address: Address, timeout: float = TIMEOUT) -> None:
        self.codec = codec
        self.timeout = timeout
        self.received = 0
        """Bytes."""
        self.eof = False
        """The peer has closed its side."""
        self.broken = False
        """The peer takes no more bytes."""
        self._events: deque[Event] = deque()
        self._error: RemoteProtocolError | PeerClosed | None = None
        self.transcript: bytearray | None = None
        """Set it to have every byte that is read appended."""
        self._out = bytearray()
        self._socket = connect(address, timeout)
        self._poll = select.poll()

    @property
    def pending(self) -> int:
        """Bytes that wait to be written."""
        return len(self._out)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def queue(self, data: bytes) -> None:
        """Have these bytes written by the waits that follow."""
        if not self.broken:
            self._out += data

    def write(self, data: bytes) -> None:
        """Write any bytes, valid or not, as far as the peer takes them; raises TimeoutError."""
        deadline = time.monotonic() + self.timeout
        self.queue(data)
        while self._out and not self.eof and self._error is None:
            self._wait(deadline)

    def send(self, event: Event) -> None:
        """Write one event; raises LocalProtocolError and TimeoutError."""
        self.write(self.codec.send(event))

    def read(self, deadline: float = FOREVER) -> Event | None:
        """Return the next event, None after the last; raises RemoteProtocolError, PeerClosed and TimeoutError."""
        deadline = min(deadline, time.monotonic() + self.timeout)
        while not self._events:
            if self._error is not None:
                raise self._error
            if self.eof:
                return None
            self._wait(deadline)
        return self._events.popleft()

    def step(self, deadline: float) -> Event | None:
        """Return an event that is there; else wait until something can be read or written, and perhaps return None."""
        if not self._events and self._error is None and not self.eof:
            self._wait(min(deadline, time.monotonic() + self.timeout))
        if self._events:
            return self._events.popleft()
        if self._error is not None:
            raise self._error
        return None

    def is_idle(self) -> bool:
        """Between two requests and, as far as one can tell, not closed by the peer meanwhile."""
        if self.eof or self.broken or self._error is not None or self._out or self._events:
            return False
        if self.codec.closing or self.codec.active or self.codec.buffered:
            return False
        self._poll.register(self._socket, select.POLLIN)
        return not self._poll.poll(0)

    def _wait(self, deadline: float) -> None:
        """Wait once; write what the peer takes, feed what it sent."""
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
        left = deadline - time.monotonic()
        ready = self._poll.poll(max(0, int(left * 1000) + 1)) if left > 0 else []
        if not ready:
            raise TimeoutError(f"the backend {'took' if self._out else 'sent'} nothing within the timeout")
        flags = ready[0][1]
        if self._out and flags & ~select.POLLIN:
            self._write()
        if flags & ~select.POLLOUT:
            self._read()

    def _write(self) -> None:
        try:
            count = self._socket.send(self._out)
        except BlockingIOError:
            return
        except OSError:  # what it sent before may still be there to be read
            self.broken = True
            self._out.clear()
        else:
            del self._out[:count]

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self.eof = self.broken = True
            if self.codec.complete:  # it has answered, and closed without reading the rest of the body
                self._events += self.codec.feed_eof()
            else:
                self._error = PeerClosed(f"the backend has reset the connection: {error.strerror}")
            return
        self.received += len(data)
        if self.transcript is not None:
            self.transcript += data
        self.eof = not data
        try:
            self._events += self.codec.feed(data) if data else self.codec.feed_eof()
        except RemoteProtocolError as error:
            self._events += error.events  # type: ignore[arg-type]  # errors.py knows no events
            self._error = error

    def end_writing(self) -> None:
        """Close our side alone; the peer reads an end of file."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Connection:
        """Return self; leaving closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def connect(address: Address, timeout: float) -> socket.socket:
    """Return a connected socket that does not block; raises OSError."""
    deadline = time.monotonic() + timeout
    if isinstance(address, tuple):
        made = socket.create_connection(address, timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        return made
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        while True:
            try:
                made.connect("\0" + address[1:] if address.startswith("@") else address)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the backlog of {address} is full") from None
                time.sleep(BACKLOG_PAUSE)
            else:
                return made
    except BaseException:
        made.close()
        raise


@dataclass(slots=True)
class Response:
    """One whole response."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    errors: bytes
    """FCGI_STDERR."""
    app_status: int = 0
    refused: str = ""
    """FastCGI's protocolStatus, as in EndOfResponse, where it came after a response."""

    def header(self, name: str) -> str | None:
        """Return the first field of that name, in any case; None where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@final
@dataclass(slots=True)
class StreamedResponse:
    """One response whose body is read block by block; leave the ``with`` block or call ``close`` when done.

    Until then the request's body goes on being written, as far as the backend reads it.
    """

    client: Client
    connection: Connection
    stream: int
    body: Iterator[bytes]
    deadline: float
    """Of the whole, on the monotonic clock."""
    head: ResponseHead = field(default_factory=lambda: ResponseHead(0, ""))
    errors: bytes = b""
    """FCGI_STDERR so far."""
    end: EndOfResponse | None = None
    sent: bool = False
    """The whole request has been handed to the connection."""
    _blocks: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The code."""
        return int(self.head.status[:3])

    @property
    def reason(self) -> str:
        """The words after the code, perhaps none."""
        return self.head.status[4:]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields."""
        return self.head.headers

    def start(self) -> None:
        """Read as far as the head; raises RemoteProtocolError, PeerClosed and TimeoutError."""
        while not self.head.status:
            self._advance()
            if self.end is not None and not self.head.status:
                words = f"the backend declined the request: {self.end.refused}"
                raise RemoteProtocolError(self.connection.codec.protocol, words, 503)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the blocks of the body as they come."""
        while True:
            while self._blocks:
                yield self._blocks.pop(0)
            if self.end is not None:
                return
            self._advance()

    def read(self) -> bytes:
        """Return what is left of the body."""
        return b"".join(self)

    def _advance(self) -> None:
        """Write and read what can be, once."""
        connection = self.connection
        # An answer that is whole already leaves the rest of the body unsent, and the connection unfit for another.
        while not self.sent and connection.codec.active and connection.pending < BLOCK_SIZE:
            block = next(self.body, None)
            if block is None:
                connection.queue(connection.codec.send(EndOfBody(self.stream)))
                self.sent = True
            else:
                connection.queue(connection.codec.send(Body(self.stream, block)))
        event = connection.step(self.deadline)
        if isinstance(event, ResponseHead):
            self.head = event
        elif isinstance(event, Body):
            self._blocks.append(event.data)
        elif isinstance(event, ErrorOutput):
            self.errors += event.data
        elif isinstance(event, Refused):
            raise event.error
        elif isinstance(event, EndOfResponse):
            self.end = event
        elif connection.eof:
            raise TruncatedMessage(connection.codec.protocol, "the peer closed before the end of the response", 502)

    def close(self) -> None:
        """Give the connection back where another request can use it; else close it."""
        self.client._give_back(self.connection, whole=self.end is not None and self.sent)  # noqa: SLF001 - one module

    def __enter__(self) -> StreamedResponse:
        """Return self; leaving closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@final
class Client:
    """Sends requests to one backend, from any number of threads; kept connections are used again.

    ``protocol`` is ``fastcgi``, ``scgi`` or ``uwsgi``. ``make_codec`` makes another codec than the registry's, for
    instance one with modifiers. ``timeout`` is in seconds. ``keep`` asks for kept connections where the protocol has
    them.
    """

    def __init__(
        self,
        protocol: str,
        address: Address,
        *,
        timeout: float = TIMEOUT,
        keep: bool = True,
        limits: Limits = DEFAULT_LIMITS,
        make_codec: Callable[[], FrontCodec] | None = None,
    ) -> None:
        if protocol not in FRONT_CODECS:
            raise LocalProtocolError(protocol, f"no such protocol here; there are {', '.join(FRONT_CODECS)}")
        self.protocol = protocol
        self.address = address
        self.timeout = timeout
        self.keep = keep
        self._make_codec = make_codec or (lambda: FRONT_CODECS[protocol](limits))
        self._idle: deque[Connection] = deque()

    def connect(self, timeout: float | None = None) -> Connection:
        """Return a new connection for events or bytes of one's own."""
        return Connection(self._make_codec(), self.address, self.timeout if timeout is None else timeout)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | None] | None = None,
        body: RequestBody = b"",
        timeout: float | None = None,
    ) -> Response:
        """Send one request and return the whole response; ``timeout`` is that of the whole.

        ``params`` are added to those that ``request_params`` makes, and replace them. Raises OSError (TimeoutError),
        RemoteProtocolError, PeerClosed, LocalProtocolError.
        """
        seconds = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        with self.stream(method, path, params=params, body=body, timeout=seconds, deadline=deadline) as response:
            content = response.read()
            end = response.end or EndOfResponse(response.stream)
            head = response.head
            return Response(
                response.status, response.reason, head.headers, content, response.errors, end.app_status, end.refused
            )

    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | None] | None = None,
        body: RequestBody = b"",
        timeout: float | None = None,
        deadline: float = FOREVER,
        role: str = "responder",
    ) -> StreamedResponse:
        """Send one request and return its response once the head is there; ``timeout`` is that of each wait.

        A body in blocks goes to FastCGI without CONTENT_LENGTH, unless ``params`` holds one; for the other protocols
        it is joined before. Raises as ``request`` does.
        """
        again = method in IDEMPOTENT and isinstance(body, bytes)
        if not isinstance(body, bytes) and self.protocol != "fastcgi" and not (params and "CONTENT_LENGTH" in params):
            body = b"".join(body)
        all_params = request_params(method, path, params or {}, body)
        seconds = self.timeout if timeout is None else timeout
        while True:
            connection, used = self._take(seconds)
            response = StreamedResponse(self, connection, 1, blocks(body), deadline)
            try:
                request = Request(1, all_params, role=role, keep=self.keep)
                connection.queue(connection.codec.send(request))
                response.start()
            except (TruncatedMessage, PeerClosed):
                connection.close()
                if not (used and again and connection.received == 0):
                    raise
                again = False
            except BaseException:
                connection.close()
                raise
            else:
                return response

    def _take(self, timeout: float) -> tuple[Connection, bool]:
        """Return a connection, and whether it has been used before."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self.connect(timeout), False
            if connection.is_idle():
                connection.timeout = timeout
                connection.received = 0
                return connection, True
            connection.close()

    def _give_back(self, connection: Connection, *, whole: bool) -> None:
        if whole and self.keep and connection.is_idle():
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Client:
        """Return self; leaving closes the idle connections."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def request_params(method: str, path: str, params: Mapping[str, str | None], body: RequestBody = b"") -> dict[str, str]:
    """Return the parameters of a request from localhost for ``path``, a request target with its query.

    ``params`` replace or, where None, remove them. Raises LocalProtocolError where ``path`` is not latin-1 text.
    """
    before, _, query = path.partition("?")
    try:
        decoded = unquote_to_bytes(before.encode("latin-1")).decode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError("cgi", f"not a request target: {path[:80]!r}; percent-encode it") from None
    made: dict[str, str | None] = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": method,
        "REQUEST_URI": path,
        "SCRIPT_NAME": "",
        "PATH_INFO": decoded,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
    }
    if isinstance(body, bytes) and (body or method in WITH_BODY):
        made["CONTENT_LENGTH"] = str(len(body))
    made.update(params)
    return {name: value for name, value in made.items() if value is not None}


def blocks(body: RequestBody) -> Iterator[bytes]:
    """Yield a body in pieces, none of them empty."""
    if isinstance(body, bytes):
        for at in range(0, len(body), BLOCK_SIZE):
            yield body[at : at + BLOCK_SIZE]
    else:
        for block in body:
            if block:
                yield block
