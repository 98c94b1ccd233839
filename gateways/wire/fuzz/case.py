"""What one case of a campaign is: steps on a few connections, the requests in them, and its form as a JSON file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

from gateways.errors import ConfigError
from gateways.testing.model import Pairs

__all__ = ["TOKEN", "Asked", "Do", "FuzzCase", "Step", "from_dict", "joined", "to_dict"]

Do: TypeAlias = Literal["send", "pause", "wait", "end", "reset"]
FORMAT: Final = 1
TOKEN: Final = re.compile(rb"GWFZ[0-9A-F]{16}")
"""What a request of a campaign carries, so that its data are known wherever they come out."""
LONGEST_PAUSE: Final = 5.0
_ESCAPED: Final = re.compile(rb"[^\x20-\x7e]|\\")
_UNESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")


class Printer(Protocol):
    """What hypothesis shows values with."""

    def text(self, obj: str) -> None:
        """Take a piece of text."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the peer does on connection ``link``."""

    do: Do
    link: int = 0
    data: bytes = b""
    """Of ``send``."""
    seconds: float = 0.0
    """Of ``pause``."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that the bytes of a case carry."""

    link: int
    number: int
    """FastCGI's id; 1 for the others."""
    token: str
    params: Pairs = ()
    """As an application should see them, without those that were sent twice."""
    body: bytes = b""
    role: str = "responder"
    turn: int = 0
    """It is sent after so many ``wait`` of its connection."""
    aborted: bool = False
    """FCGI_ABORT_REQUEST follows: it has to be ended, whatever the answer."""


@dataclass(frozen=True, slots=True, repr=False)
class FuzzCase:
    """Steps, and what is expected of them."""

    protocol: str
    kind: str
    steps: tuple[Step, ...]
    asked: tuple[Asked, ...] = ()
    loose: tuple[int, ...] = ()
    """Connections on which rules are broken: what their requests get is the server's affair."""
    rule: str = ""
    """The rule of ``gateways.testing.framing`` that is broken, for which nothing may be served."""
    number: str = field(default="", compare=False)
    """Of the campaign: seed, chunk and place in it."""

    def __repr__(self) -> str:
        return f"FuzzCase({self.number or self.kind}, {self.protocol}, {len(self.steps)} steps, {self.size} bytes)"

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:  # noqa: ARG002 - hypothesis's protocol
        printer.text(repr(self))

    @property
    def links(self) -> int:
        """How many connections."""
        return 1 + max((step.link for step in self.steps), default=-1)

    @property
    def size(self) -> int:
        """Bytes sent."""
        return sum(len(step.data) for step in self.steps)

    def strict(self, link: int) -> bool:
        """Whether every request of this connection has to be served."""
        return link not in self.loose


def joined(cases: Iterable[FuzzCase]) -> FuzzCase:
    """One case that does what these do, one after another; only of the last is anything expected."""
    every = list(cases)
    last = every[-1]
    steps: list[Step] = []
    asked: list[Asked] = []
    loose: list[int] = []
    shift = 0
    for case in every:
        steps += [replace(step, link=step.link + shift) for step in case.steps]
        asked += [replace(each, link=each.link + shift) for each in case.asked]
        loose += [link + shift for link in (case.loose if case is last else range(case.links))]
        shift += case.links
    return replace(last, steps=tuple(steps), asked=tuple(asked), loose=tuple(loose))


# -- files --------------------------------------------------------------------------------------------------------


def escape(data: bytes) -> str:
    r"""Bytes as ASCII text: what is not printable, and the backslash, as \xNN."""
    return _ESCAPED.sub(lambda found: b"\\x%02x" % found[0][0], data).decode("ascii")


def unescape(text: str) -> bytes:
    """Bytes from this form; raises ValueError."""
    if "\\" in _UNESCAPED.sub("", text):
        raise ValueError(f"a backslash that begins no \\xNN in {text[:60]!r}")
    return _UNESCAPED.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")


def to_dict(case: FuzzCase) -> dict[str, Any]:
    """The form of a file, which a person can read and change."""
    steps = []
    for step in case.steps:
        made: dict[str, Any] = {"link": step.link, "do": step.do}
        if step.do == "send":
            made["bytes"] = escape(step.data)
        elif step.do == "pause":
            made["seconds"] = step.seconds
        steps.append(made)
    requests = [
        {
            "link": each.link,
            "id": each.number,
            "turn": each.turn,
            "role": each.role,
            "token": each.token,
            "aborted": each.aborted,
            "params": [[escape(text.encode("latin-1")) for text in pair] for pair in each.params],
            "body": escape(each.body),
        }
        for each in case.asked
    ]
    return {
        "gateways-fuzz": FORMAT,
        "protocol": case.protocol,
        "kind": case.kind,
        "number": case.number,
        "rule": case.rule,
        "loose": list(case.loose),
        "steps": steps,
        "requests": requests,
    }


def from_dict(found: Any) -> FuzzCase:  # noqa: ANN401 - what JSON may hold
    """Read this form; raises ConfigError."""
    try:
        if found["gateways-fuzz"] != FORMAT:
            raise ConfigError(f"a case of form {found['gateways-fuzz']!r}; this version reads {FORMAT}")
        steps = tuple(map(read_step, found["steps"]))
        asked = tuple(
            Asked(
                int(each["link"]),
                int(each["id"]),
                str(each["token"]),
                tuple((plain(name), plain(value)) for name, value in each["params"]),
                unescape(each["body"]),
                str(each["role"]),
                int(each["turn"]),
                bool(each["aborted"]),
            )
            for each in found["requests"]
        )
        loose = tuple(int(link) for link in found["loose"])
        return FuzzCase(
            str(found["protocol"]),
            str(found["kind"]),
            steps,
            asked,
            loose,
            str(found.get("rule", "")),
            str(found.get("number", "")),
        )
    except KeyError as error:
        raise ConfigError(f"this is no case of gateways fuzz: it has no {error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"this is no case of gateways fuzz: {error}") from None


def read_step(found: dict[str, Any]) -> Step:
    """One of ``steps``; raises KeyError, TypeError and ValueError."""
    if found["do"] not in get_args(Do):
        raise ValueError(f"no step is called {found['do']!r}")
    seconds = min(float(found.get("seconds", 0)), LONGEST_PAUSE)
    return Step(found["do"], int(found["link"]), unescape(found.get("bytes", "")), seconds)


def plain(text: str) -> str:
    """Latin-1 text from its escaped form."""
    return unescape(text).decode("latin-1")
