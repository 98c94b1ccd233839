"""SCGI (the protocol document of 2006): the netstring of headers, and all that it has in common with uwsgi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.wire.case import Case, Context
from gateways.wire.cases import counted
from gateways.wire.cases.counted import hostile, served
from gateways.wire.single import netstring, strings

__all__ = ["CASES"]

REQUEST: Final = "SCGI, 3 Request Format"
NETSTRING: Final = "SCGI, 2 Protocol (netstrings)"
ORDER: Final = "SCGI, 3 Request Format; Apache, nginx and lighttpd differ"
HEADERS: Final = b"CONTENT_LENGTH\x000\0SCGI\x001\0REQUEST_METHOD\0GET\0SCRIPT_NAME\0/\0"


def arranged(
    arrange: Callable[[dict[str, str]], list[tuple[str, str]]], body: bytes = b"abc"
) -> Callable[[Context], None]:
    """A request whose headers come in another order, or without SCGI."""

    def run(context: Context) -> None:
        seen = {"CONFORM_A": "b", "REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))}
        served(context, seen, body, netstring(strings(arrange(context.params(seen)))) + body)

    return run


def last(params: dict[str, str]) -> list[tuple[str, str]]:
    """CONTENT_LENGTH last."""
    return [*((name, value) for name, value in params.items() if name != "CONTENT_LENGTH"), ("SCGI", "1"),
            ("CONTENT_LENGTH", params["CONTENT_LENGTH"])]  # fmt: skip


def scgi_last(params: dict[str, str]) -> list[tuple[str, str]]:
    """SCGI last, as lighttpd has it."""
    return [("CONTENT_LENGTH", params["CONTENT_LENGTH"]), *without(params), ("SCGI", "1")]


def without(params: dict[str, str]) -> list[tuple[str, str]]:
    """Neither."""
    return [(name, value) for name, value in params.items() if name != "CONTENT_LENGTH"]


def no_scgi(params: dict[str, str]) -> list[tuple[str, str]]:
    """No SCGI header, as nginx has it without scgi_params."""
    return [("CONTENT_LENGTH", params["CONTENT_LENGTH"]), *without(params)]


def first(params: dict[str, str]) -> list[tuple[str, str]]:
    """As the document has it."""
    return [("CONTENT_LENGTH", params["CONTENT_LENGTH"]), ("SCGI", "1"), *without(params)]


SIZE: Final = len(HEADERS)
BAD: Final = (
    ("plus", b"+%d:%s," % (SIZE, HEADERS), "a length with a sign"),
    ("minus", b"-1:%s," % HEADERS, "a length below nothing"),
    ("blank", b" %d:%s," % (SIZE, HEADERS), "a length with a blank first"),
    ("zero-first", b"0%d:%s," % (SIZE, HEADERS), "a length with a zero first"),
    ("nothing", b"0:,", "no headers at all"),
    ("hex", b"%x:%s," % (SIZE, HEADERS), "a hexadecimal length"),
    ("underscore", b"6_0:%s," % HEADERS, "an underscore in the length"),
    ("no-digits", b":%s," % HEADERS, "no length"),
    ("no-comma", b"%d:%s;" % (SIZE, HEADERS), "no comma"),
    ("short", b"%d:%s," % (SIZE - 2, HEADERS), "a length too small"),
    ("long", b"%d:%s," % (SIZE + 2, HEADERS), "a length too large"),
    ("huge", b"99999999999999999999:%s," % HEADERS, "a length of twenty digits"),
    ("2-31", b"2147483648:%s," % HEADERS, "a length of 2^31"),
    ("2-32", b"%d:%s," % (SIZE + 2**32, HEADERS), "a length that is right modulo 2^32"),
)
BLOCKS: Final = (
    ("no-last-nul", HEADERS[:-1], "no NUL at the end"),
    ("odd", HEADERS + b"A\0", "a name without a value"),
    ("after-nul", HEADERS + b"A\0b\0c", "bytes after the last NUL"),
    ("no-name", HEADERS + b"\0c\0", "a header without a name"),
    ("two-lengths", b"CONTENT_LENGTH\x000\0CONTENT_LENGTH\x005\0SCGI\x001\0REQUEST_METHOD\0GET\0", "two lengths"),
)

CASES: Final[list[Case]] = [
    Case("scgi.order.first", "the order of the document", REQUEST, "MUST", arranged(first)),
    Case("scgi.order.scgi-last", "SCGI last, as lighttpd sends it", ORDER, "MUST", arranged(scgi_last)),
    Case("scgi.order.length-last", "CONTENT_LENGTH last", ORDER, "SHOULD", arranged(last)),
    Case("scgi.order.no-scgi", "no SCGI header", ORDER, "SHOULD", arranged(no_scgi)),
    *(Case(f"scgi.netstring.{name}", title, NETSTRING, "SHOULD", hostile(data)) for name, data, title in BAD),
    Case(
        "scgi.netstring.endless",
        "16 MiB of headers, with a length of 10^9",
        "limits: memory is finite",
        "SHOULD",
        hostile(b"999999999:", lambda _: b"x" * (1 << 24), end=False),
    ),
    *(
        Case(f"scgi.headers.{name}", title, REQUEST, "SHOULD", hostile(netstring(block)))
        for name, block, title in BLOCKS
    ),
    *counted.cases("scgi", REQUEST, "SCGI, 3 Request Format (the body)"),
]
