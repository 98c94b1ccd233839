"""The one vocabulary of all protocols: what codecs hand up from the wire and take down to it.

Nothing above the codecs asks which protocol it is talking to. ``stream`` tells apart the requests of one
connection: FastCGI's request id; a count from 1 for HTTP; always 1 for SCGI and uwsgi.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(slots=True, init=False)
class Request:
    """A whole request head: CGI meta-variables as latin-1 text, one value a name, in the order sent."""

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

    # Spelt out, as in ResponseHead, since mypyc compiles it then: 0.2 us a request.
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


@dataclass(slots=True)
class Body:
    """Some bytes of a body, never none: of the request from the wire, of the response to it."""

    stream: int
    data: bytes


@dataclass(slots=True)
class EndOfBody:
    """The request's body is whole. It follows every Request, also one without a body."""

    stream: int


@dataclass(slots=True)
class Abort:
    """The web server wants no answer to this request any more (FCGI_ABORT_REQUEST)."""

    stream: int


@dataclass(slots=True)
class Refused:
    """This request breaks the rules but its connection does not: answer ``error.status_hint``.

    It stands in the place of Request; where what is wrong comes later (the body is too long, parameters come again
    after their end) it follows Request. No Body comes after it. Errors of the connection are raised instead.
    """

    stream: int
    error: RemoteProtocolError


@dataclass(slots=True)
class Closed:
    """The peer has closed its side between two messages; no event follows."""


@dataclass(slots=True)
class Continue:
    """To the wire: ask the client for the body (``100 Continue``); nothing where the protocol has no such thing."""

    stream: int


@dataclass(slots=True, init=False)
class ResponseHead:
    """Status and header fields of a response; ``content`` and ``end`` save the events that often follow at once."""

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


@dataclass(slots=True)
class RawBody:
    """To the wire: the caller itself writes ``size`` bytes of body next (os.sendfile), after what ``send`` returns.

    ``size`` is at most the codec's ``raw_size``.
    """

    stream: int
    size: int


@dataclass(slots=True)
class ErrorOutput:
    """Text for the web server's error log (FCGI_STDERR)."""

    stream: int
    data: bytes


@dataclass(slots=True)
class EndOfResponse:
    """The response is whole."""

    stream: int
    app_status: int = 0
    """FastCGI's appStatus: what the program would have returned from ``exit``."""
    refused: str = ""
    """From the wire, FastCGI's protocolStatus of a refusal: ``cant_mpx_conn``, ``overloaded``, ``unknown_role``."""


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
