"""SCGI and uwsgi as a web server sends them: the netstring, the packet, and one request a connection."""

from __future__ import annotations

from typing import Final

from gateways.wire.case import Failure, Level
from gateways.wire.cases import front_body, front_request, front_response
from gateways.wire.cases.front_request import fault, framed
from gateways.wire.front import FrontCase, FrontContext, table

__all__ = ["SCGI", "UWSGI"]

FORMAT: Final = "SCGI, 3 Request Format"
NETSTRING: Final = "SCGI, 2 Protocol (netstrings)"
PACKET: Final = "uwsgi protocol, the packet"


def one(context: FrontContext) -> None:
    """A connection carries one request."""
    for number in range(3):
        context.arrived(context.ask("POST", body=b"%d" % number))
    fault(context, "surplus", "nothing after the body")
    if len(context.peers) != 3:
        raise Failure("3 connections for 3 requests", str(len(context.peers)))


def faults(protocol: str, rows: tuple[tuple[str, str, str, Level, str], ...]) -> list[FrontCase]:
    """Cases whose rule is a fault of that name."""
    return table(
        f"{protocol}.front",
        [(name, title, section, level, framed(rule, title)) for name, title, section, level, rule in rows],
    )


def common(protocol: str, section: str) -> list[FrontCase]:
    """What both have."""
    return [
        FrontCase(f"{protocol}.front.connection.one", "one request a connection", section, "MUST", one),
        *front_request.cases(protocol),
        *front_body.cases(protocol),
        *front_response.cases(protocol),
    ]


SCGI: Final[list[FrontCase]] = [
    *faults(
        "scgi",
        (
            ("netstring.length", "the length of the netstring in plain decimal", NETSTRING, "MUST", "netstring"),
            ("netstring.comma", "a comma behind the netstring", NETSTRING, "MUST", "comma"),
            ("headers.strings", "names and values, each ended by NUL", FORMAT, "MUST", "strings"),
            ("headers.first", "CONTENT_LENGTH is the first header", FORMAT, "MUST", "first"),
            ("headers.length", "CONTENT_LENGTH is always there, and a number", FORMAT, "MUST", "length"),
            ("headers.scgi", "SCGI is 1", FORMAT, "MUST", "scgi"),
            ("headers.once", "no header twice", FORMAT, "MUST", "duplicates"),
            ("body.counted", "nothing comes after the body", FORMAT, "MUST", "surplus"),
        ),
    ),
    *common("scgi", FORMAT),
]
UWSGI: Final[list[FrontCase]] = [
    *faults(
        "uwsgi",
        (
            ("packet.modifiers", "modifier1 and modifier2 are 0", PACKET, "SHOULD", "modifiers"),
            ("packet.size", "the variables end where datasize says", PACKET, "MUST", "block"),
            ("packet.length", "CONTENT_LENGTH is a number, empty or absent", "RFC 3875, 4.1.2", "MUST", "length"),
            ("body.counted", "nothing comes after the body", PACKET, "MUST", "surplus"),
        ),
    ),
    *common("uwsgi", PACKET),
]
