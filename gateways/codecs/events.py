"""The one vocabulary of all protocols: what codecs hand up from the wire and take down to it.

Nothing above the codecs asks which protocol it is talking to. ``stream`` tells apart the requests of one
connection: FastCGI's request id; a count from 1 for HTTP; always 1 for SCGI and uwsgi.

The classes are spelt out, and no dataclasses: those import ``inspect``, a third of what a CGI script may take to start.
"""

from __future__ import annotations

from typing import TypeAlias

from gateways.errors import RemoteProtocolError

__all__ = [
    "Abort",
    "Body",
    "Closed",
    "Continue",
    "EndOfBody",
    "EndOfResponse",
    "ErrorOutput",
    "Event",
    "RawBody",
    "Refused",
    "Request",
    "ResponseHead",
]


class _Event:  # noqa: PLW1641  (they can be changed, so none has a hash)
    """What is common to all: two of them are equal where all that they say is."""

    __slots__ = ()

    def _said(self) -> tuple[object, ...]:
        """All attributes, in their order."""
        return ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Event) and other.__class__ is self.__class__ and other._said() == self._said()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}{self._said()!r}"


class Request(_Event):
    """A whole request head: CGI meta-variables as latin-1 text, one value a name, in the order sent."""

    __slots__ = ("content_length", "expects_continue", "keep", "params", "role", "stream")

    stream: int
    params: dict[str, str]
    content_length: int
    """Bytes of body that CONTENT_LENGTH promises; -1 where it promises nothing."""
    role: str
    """``responder`` or ``authorizer`` (FastCGI 1.0 section 6)."""
    expects_continue: bool
    """The client waits for ``Continue`` before it sends the body (RFC 9110 section 10.1.1)."""
    keep: bool
    """The peer wants the connection kept after the answer (FCGI_KEEP_CONN, HTTP keep-alive)."""

    def __init__(
        self,
        stream: int,
        params: dict[str, str],
        content_length: int = -1,
        role: str = "responder",
        expects_continue: bool = False,
        keep: bool = False,
    ) -> None:
        self.stream = stream
        self.params = params
        self.content_length = content_length
        self.role = role
        self.expects_continue = expects_continue
        self.keep = keep

    def _said(self) -> tuple[object, ...]:
        return (self.stream, self.params, self.content_length, self.role, self.expects_continue, self.keep)


class Body(_Event):
    """Some bytes of a body, never none: of the request from the wire, of the response to it."""

    __slots__ = ("data", "stream")

    stream: int
    data: bytes

    def __init__(self, stream: int, data: bytes) -> None:
        self.stream = stream
        self.data = data

    def _said(self) -> tuple[object, ...]:
        return (self.stream, self.data)


class EndOfBody(_Event):
    """The request's body is whole. It follows every Request, also one without a body."""

    __slots__ = ("stream",)

    stream: int

    def __init__(self, stream: int) -> None:
        self.stream = stream

    def _said(self) -> tuple[object, ...]:
        return (self.stream,)


class Abort(_Event):
    """The web server wants no answer to this request any more (FCGI_ABORT_REQUEST)."""

    __slots__ = ("stream",)

    stream: int

    def __init__(self, stream: int) -> None:
        self.stream = stream

    def _said(self) -> tuple[object, ...]:
        return (self.stream,)


class Refused(_Event):
    """This request breaks the rules but its connection does not: answer ``error.status_hint``.

    It stands in the place of Request; where what is wrong comes later (the body is too long, parameters come again
    after their end) it follows Request. No Body comes after it. Errors of the connection are raised instead.
    """

    __slots__ = ("error", "stream")

    stream: int
    error: RemoteProtocolError

    def __init__(self, stream: int, error: RemoteProtocolError) -> None:
        self.stream = stream
        self.error = error

    def _said(self) -> tuple[object, ...]:
        return (self.stream, self.error)


class Closed(_Event):
    """The peer has closed its side between two messages; no event follows."""

    __slots__ = ()


class Continue(_Event):
    """To the wire: ask the client for the body (``100 Continue``); nothing where the protocol has no such thing."""

    __slots__ = ("stream",)

    stream: int

    def __init__(self, stream: int) -> None:
        self.stream = stream

    def _said(self) -> tuple[object, ...]:
        return (self.stream,)


class ResponseHead(_Event):
    """Status and header fields of a response; ``content`` and ``end`` save the events that often follow at once."""

    __slots__ = ("content", "end", "headers", "status", "stream")

    stream: int
    status: str
    """Code and reason: ``200 OK``."""
    headers: list[tuple[str, str]]
    content: bytes
    """The first block of the body."""
    end: bool
    """Nothing follows: as if EndOfResponse came next."""

    def __init__(
        self,
        stream: int,
        status: str,
        headers: list[tuple[str, str]] | None = None,
        content: bytes = b"",
        end: bool = False,
    ) -> None:
        self.stream = stream
        self.status = status
        self.headers = [] if headers is None else headers
        self.content = content
        self.end = end

    def _said(self) -> tuple[object, ...]:
        return (self.stream, self.status, self.headers, self.content, self.end)


class RawBody(_Event):
    """To the wire: the caller itself writes ``size`` bytes of body next (os.sendfile), after what ``send`` returns.

    ``size`` is at most the codec's ``raw_size``.
    """

    __slots__ = ("size", "stream")

    stream: int
    size: int

    def __init__(self, stream: int, size: int) -> None:
        self.stream = stream
        self.size = size

    def _said(self) -> tuple[object, ...]:
        return (self.stream, self.size)


class ErrorOutput(_Event):
    """Text for the web server's error log (FCGI_STDERR)."""

    __slots__ = ("data", "stream")

    stream: int
    data: bytes

    def __init__(self, stream: int, data: bytes) -> None:
        self.stream = stream
        self.data = data

    def _said(self) -> tuple[object, ...]:
        return (self.stream, self.data)


class EndOfResponse(_Event):
    """The response is whole."""

    __slots__ = ("app_status", "refused", "stream")

    stream: int
    app_status: int
    """FastCGI's appStatus: what the program would have returned from ``exit``."""
    refused: str
    """From the wire, FastCGI's protocolStatus of a refusal: ``cant_mpx_conn``, ``overloaded``, ``unknown_role``."""

    def __init__(self, stream: int, app_status: int = 0, refused: str = "") -> None:
        self.stream = stream
        self.app_status = app_status
        self.refused = refused

    def _said(self) -> tuple[object, ...]:
        return (self.stream, self.app_status, self.refused)


Event: TypeAlias = (
    Request
    | Body
    | EndOfBody
    | Abort
    | Refused
    | Closed
    | Continue
    | ResponseHead
    | RawBody
    | ErrorOutput
    | EndOfResponse
)
