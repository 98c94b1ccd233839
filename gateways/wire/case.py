"""What a case is, how it fails, and what it is given to run with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias
from urllib.parse import unquote_to_bytes

from gateways.codecs.cgi import HeadParser
from gateways.codecs.events import ResponseHead
from gateways.errors import RemoteProtocolError
from gateways.wire.link import Link
from gateways.wire.target import Target

__all__ = ["Case", "Context", "Echo", "Failure", "Level", "Needs", "Rule", "Skip", "response_head"]

Level: TypeAlias = Literal["MUST", "SHOULD"]
Needs: TypeAlias = Literal["wire", "echo"]
HEAD_LIMIT = 65_536


class Failure(Exception):
    """The server did something else than the rule asks for."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}; got {got}")
        self.expected = expected
        self.got = got


class Skip(Exception):
    """The case cannot be judged with this server; the message says why."""


class Rule(Protocol):
    """What there is to say of a case, whatever it runs with."""

    @property
    def id(self) -> str:
        """Its name: the protocol comes first."""

    @property
    def title(self) -> str:
        """In a few words."""

    @property
    def section(self) -> str:
        """Of the specification, or the measured behaviour that justifies it."""

    @property
    def level(self) -> Level:
        """How much a failure matters."""

    @property
    def needs(self) -> Needs:
        """What must be behind the server."""


@dataclass(frozen=True, slots=True)
class Case:
    """One rule and the connection that shows whether it holds."""

    id: str
    title: str
    section: str
    """Of the specification, or the measured behaviour of a web server, that justifies it."""
    level: Level
    run: Callable[[Context], None]
    needs: Needs = "wire"


@dataclass(frozen=True, slots=True)
class Echo:
    """What the echo application says it was given."""

    params: dict[str, str]
    body: bytes

    @staticmethod
    def parse(content: bytes) -> Echo | None:
        """Read its answer; None where it is none."""
        head, blank, body = content.partition(b"\n\n")
        lines = head.split(b"\n")
        if not blank or lines[0] != b"gateways-echo 1":
            return None
        params: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(b"=")
            if name.startswith(b"length "):
                if int(name[7:]) != len(body):
                    return None
            else:
                params[unquote_to_bytes(name).decode("latin-1")] = unquote_to_bytes(value).decode("latin-1")
        return Echo(params, body)


class Context:
    """What one case runs with: the server, its connections, and whether the echo application is behind it."""

    def __init__(self, target: Target, seconds: float, *, echo: bool) -> None:
        self.target = target
        self.seconds = seconds
        self.echo = echo
        self.links: list[Link] = []

    def open(self) -> Link:
        """Open a connection; raises OSError."""
        link = Link(self.target.address, self.seconds)
        self.links.append(link)
        return link

    def close(self) -> None:
        """Close all of them."""
        for link in self.links:
            link.close()

    def params(self, extra: dict[str, str] | None = None, *, query: str = "") -> dict[str, str]:
        """A request's parameters, ``extra`` last."""
        made = self.target.request_params()
        if query:
            made["QUERY_STRING"] = query
            made["REQUEST_URI"] = f"{self.target.path}?{query}"
        return made | (extra or {})

    def check_echo(self, status: int, content: bytes, params: dict[str, str], body: bytes) -> None:
        """Where the echo application answers: it saw these parameters, among others, and this body."""
        if not self.echo:
            return
        if status != 200:
            raise Failure("status 200 of the echo application", f"status {status}")
        said = Echo.parse(content)
        if said is None:
            raise Failure("the text of the echo application", repr(content[:200]))
        for name, value in params.items():
            got = said.params.get(name)
            if got != value:
                raise Failure(f"the parameter {name[:60]!r} as {short(value)}", short(got))
        if said.body != body:
            raise Failure(f"a body of {len(body)} bytes", f"{len(said.body)} bytes: {said.body[:60]!r}")


def short(value: str | None) -> str:
    """Return a value for a sentence."""
    if value is None:
        return "no such parameter"
    return repr(value) if len(value) <= 60 else f"{len(value)} bytes ({value[:40]!r}...)"


def response_head(content: bytes, protocol: str) -> tuple[ResponseHead, bytes]:
    """Return the head and the body of a CGI response; raises Failure."""
    parser = HeadParser(protocol, 1, HEAD_LIMIT)
    try:
        head = parser.feed(content)
    except RemoteProtocolError as error:
        raise Failure("a response head (RFC 3875 section 6)", f"{error}: {content[:80]!r}") from None
    if head is None:
        raise Failure("a response head that ends (RFC 3875 section 6)", repr(content[:80]))
    return head, parser.rest
