"""FastCGI 1.0 section 4: management records, at any time; unknown types; records of no active request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.codecs.fastcgi_records import (
    FCGI_GET_VALUES,
    FCGI_GET_VALUES_RESULT,
    FCGI_PARAMS,
    FCGI_STDIN,
    FCGI_UNKNOWN_TYPE,
)
from gateways.codecs.pairs import parse_fastcgi_pairs
from gateways.errors import RemoteProtocolError
from gateways.wire.case import Case, Context, Failure
from gateways.wire.cases.fastcgi_framing import BODY, post
from gateways.wire.fastcgi import KEEP, Record, Talk, alive, ask, begin, pair, pairs, rec, request, stream

__all__ = ["CASES", "values_of"]

VALUES: Final = "FastCGI 1.0, 4.1 FCGI_GET_VALUES"
UNKNOWN: Final = "FastCGI 1.0, 4.2 FCGI_UNKNOWN_TYPE"
MANAGED: Final = "FastCGI 1.0, 3.3 Managing Request IDs"
KNOWN: Final = ("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS")


def values_of(record: Record) -> dict[str, str]:
    """Read FCGI_GET_VALUES_RESULT; raises Failure."""
    if record.kind != FCGI_GET_VALUES_RESULT:
        raise Failure("FCGI_GET_VALUES_RESULT", f"type {record.kind}")
    try:
        values = parse_fastcgi_pairs(record.content, 100)
    except RemoteProtocolError as error:
        raise Failure("name-value pairs", str(error)) from None
    for name, value in values.items():
        if not value.isdigit() or (name == "FCGI_MPXS_CONNS" and value not in ("0", "1")):
            raise Failure(f"a number as {name}", repr(value))
    return values


def values(sent: bytes, allowed: tuple[str, ...], wanted: tuple[str, ...] = ()) -> Callable[[Context], None]:
    """Ask once, before any request: an answer with no more than ``allowed`` and no less than ``wanted``."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.send(sent)
        got = values_of(talk.managed()[0])
        if not set(wanted) <= set(got) <= set(allowed):
            raise Failure(f"{', '.join(wanted) or 'none'} and no other than asked", ", ".join(got) or "none")

    return run


def then_served(sent: bytes, count: int = 1) -> Callable[[Context], None]:
    """Management records first, then a request on the same connection."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.send(sent)
        talk.managed(count)
        talk.good(talk.ask(1, params, BODY), seen, BODY)

    return run


def within(sent: bytes, place: int, kind: int) -> Callable[[Context], None]:
    """One management record after ``place`` records of a request; both are answered."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.expect(1)
        parts = [begin(1, KEEP), rec(FCGI_PARAMS, 1, pairs(params)), rec(FCGI_PARAMS, 1), rec(FCGI_STDIN, 1, BODY),
                 rec(FCGI_STDIN, 1)]  # fmt: skip
        talk.send(*parts[:place], sent, *parts[place:])
        talk.good(talk.answer(), seen, BODY)
        got = talk.managed()[0].kind
        if got != kind:
            raise Failure(f"a record of type {kind}", f"one of type {got}")

    return run


def unknown(kind: int, content: bytes = b"", padding: int = 0) -> Callable[[Context], None]:
    """A management type that nobody knows is named in FCGI_UNKNOWN_TYPE, and the connection goes on."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.send(rec(kind, 0, content, padding))
        got = talk.managed()[0]
        if got.kind != FCGI_UNKNOWN_TYPE or len(got.content) != 8 or got.content[0] != kind:
            raise Failure(f"FCGI_UNKNOWN_TYPE for type {kind}", f"type {got.kind}: {got.content!r}")
        talk.good(talk.ask(1, params, BODY), seen, BODY)

    return run


def ignored(*parts: bytes) -> Callable[[Context], None]:
    """Records of no active request before a good one, which is served and not mixed with them."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.send(*parts)
        talk.good(talk.ask(1, params, BODY), seen, BODY)

    return run


def between(*parts: bytes) -> Callable[[Context], None]:
    """The same within a good request."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.expect(1)
        talk.send(begin(1), rec(FCGI_PARAMS, 1, pairs(params)), *parts, rec(FCGI_PARAMS, 1), rec(FCGI_STDIN, 1, BODY))
        talk.send(*parts, rec(FCGI_STDIN, 1))
        talk.good(talk.answer(), seen, BODY)

    return run


def instead(context: Context) -> None:
    """The parameters of another id are not those of a request that has none of its own."""
    talk = Talk(context)
    talk.expect(1)
    other = rec(FCGI_PARAMS, 7, pairs(context.params({"CONFORM_OTHER": "other"})))
    talk.send(begin(1) + other + rec(FCGI_PARAMS, 1) + rec(FCGI_STDIN, 1))
    talk.link.end()
    if b"CONFORM_OTHER" in talk.answer().stdout:
        raise Failure("no parameter of request 7", "CONFORM_OTHER")
    alive(context)


def hostile(*parts: bytes) -> Callable[[Context], None]:
    """What no web server sends: whatever comes back has the protocol's form, and the server lives."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.expect(1)
        talk.send(*parts)
        talk.link.end()
        talk.ends()
        alive(context)

    return run


def two_results(context: Context) -> None:
    """Each FCGI_GET_VALUES has its own answer."""
    talk = Talk(context)
    talk.send(ask("FCGI_MAX_REQS"), ask("FCGI_MPXS_CONNS"))
    for record, allowed in zip(talk.managed(2), ("FCGI_MAX_REQS", "FCGI_MPXS_CONNS"), strict=False):
        if not set(values_of(record)) <= {allowed}:
            raise Failure(f"only {allowed}", str(values_of(record)))


def after_request(context: Context) -> None:
    """Asked between two requests of a kept connection."""
    params, seen = post(context)
    talk = Talk(context)
    talk.good(talk.ask(1, params, BODY, KEEP), seen, BODY)
    talk.send(ask(*KNOWN))
    values_of(talk.managed()[0])
    talk.good(talk.ask(2, params, BODY), seen, BODY)


STATES: Final = ("before", "after BEGIN_REQUEST", "within PARAMS", "after PARAMS", "within STDIN", "after STDIN")
STRAY: Final = b"".join((rec(FCGI_PARAMS, 7, pair("CONFORM_MARK", "7")), rec(FCGI_PARAMS, 7)))

CASES: Final[list[Case]] = [
    Case("fastcgi.values.all", "all three values", VALUES, "SHOULD", values(ask(*KNOWN), KNOWN, KNOWN)),
    *(
        Case(f"fastcgi.values.{name.lower()[5:]}", f"{name} alone", VALUES, "MUST", values(ask(name), (name,)))
        for name in KNOWN
    ),
    Case("fastcgi.values.none", "no name at all", VALUES, "MUST", values(ask(), ())),
    Case(
        "fastcgi.values.unknown",
        "names that nobody knows are left out",
        VALUES,
        "MUST",
        values(ask("FCGI_NO_SUCH", "fcgi_max_conns", "FCGI_MPXS_CONNS"), ("FCGI_MPXS_CONNS",)),
    ),
    Case(
        "fastcgi.values.given",
        "a name that comes with a value",
        VALUES,
        "SHOULD",
        values(rec(FCGI_GET_VALUES, 0, pair("FCGI_MPXS_CONNS", "9")), ("FCGI_MPXS_CONNS",)),
    ),
    Case(
        "fastcgi.values.twice",
        "a name twice",
        VALUES,
        "SHOULD",
        values(rec(FCGI_GET_VALUES, 0, pair("FCGI_MPXS_CONNS", "") * 2), ("FCGI_MPXS_CONNS",)),
    ),
    Case(
        "fastcgi.values.long-form",
        "lengths in four bytes",
        VALUES,
        "MUST",
        values(rec(FCGI_GET_VALUES, 0, pair("FCGI_MPXS_CONNS", "", long=3)), ("FCGI_MPXS_CONNS",)),
    ),
    Case(
        "fastcgi.values.padded",
        "padding",
        VALUES,
        "MUST",
        values(rec(FCGI_GET_VALUES, 0, pair("FCGI_MPXS_CONNS", ""), 255, junk=b"\1"), ("FCGI_MPXS_CONNS",)),
    ),
    Case("fastcgi.values.two", "two questions, two answers", VALUES, "MUST", two_results),
    Case("fastcgi.values.then-request", "a request after the question", VALUES, "MUST", then_served(ask(*KNOWN))),
    Case("fastcgi.values.between-requests", "asked between two requests", VALUES, "MUST", after_request),
    *(
        Case(
            f"fastcgi.values.within.{at}",
            f"asked {state} of a request",
            VALUES,
            "MUST",
            within(ask(*KNOWN), at, FCGI_GET_VALUES_RESULT),
        )
        for at, state in enumerate(STATES[:5])
    ),
    *(
        Case(
            f"fastcgi.unknown-type.{kind}",
            f"management record of type {kind}",
            UNKNOWN,
            "MUST",
            unknown(kind, content, padding),
        )
        for kind, content, padding in (
            (12, b"", 0),
            (42, b"x", 3),
            (99, b"x" * 300, 0),
            (127, b"", 255),
            (128, b"", 0),
            (255, b"\1\1\0\1\0\x08\0\0", 0),
        )
    ),
    *(
        Case(
            f"fastcgi.unknown-type.within.{at}",
            f"an unknown management record {state} of a request",
            UNKNOWN,
            "MUST",
            within(rec(42, 0), at, FCGI_UNKNOWN_TYPE),
        )
        for at, state in enumerate(STATES[:5])
    ),
    *(
        Case(f"fastcgi.inactive.{name}", f"{title} of no active request", MANAGED, "MUST", ignored(*parts))
        for name, title, parts in (
            ("params", "FCGI_PARAMS", (STRAY,)),
            ("stdin", "FCGI_STDIN", (stream(FCGI_STDIN, 7, b"other"),)),
            ("abort", "FCGI_ABORT_REQUEST", (rec(2, 7),)),
            ("data", "FCGI_DATA", (rec(8, 7, b"other"), rec(8, 7))),
        )
    ),
    *(
        Case(
            f"fastcgi.inactive.within.{name}",
            f"{title} of another id within a request",
            MANAGED,
            "MUST",
            between(*parts),
        )
        for name, title, parts in (
            ("params", "FCGI_PARAMS", (STRAY,)),
            ("stdin", "FCGI_STDIN", (rec(FCGI_STDIN, 257, b"other"), rec(FCGI_STDIN, 257))),
            ("abort", "FCGI_ABORT_REQUEST", (rec(2, 257),)),
            ("data", "FCGI_DATA", (rec(8, 257, b"other"),)),
        )
    ),
    Case(
        "fastcgi.inactive.within.instead",
        "FCGI_PARAMS of another id in the place of a request's own",
        MANAGED,
        "MUST",
        instead,
        "echo",
    ),
    *(
        Case(f"fastcgi.hostile.{name}", title, section, "MUST", hostile(*parts))
        for name, title, section, parts in (
            ("begin-0", "BEGIN_REQUEST with id 0", MANAGED, (request(0, {"REQUEST_METHOD": "GET"}),)),
            ("end", "END_REQUEST from the web server", "FastCGI 1.0, 8", (begin(1), rec(3, 1, b"\0" * 8))),
            ("stdout", "STDOUT from the web server", "FastCGI 1.0, 8", (begin(1), rec(6, 1, b"x"), rec(6, 1))),
            (
                "result",
                "GET_VALUES_RESULT from the web server",
                "FastCGI 1.0, 8",
                (rec(10, 0, pair("FCGI_MAX_REQS", "9")),),
            ),
            ("values-bad", "GET_VALUES that holds no pairs", VALUES, (rec(FCGI_GET_VALUES, 0, b"\1\2A"),)),
            ("values-cut", "GET_VALUES that ends within a length", VALUES, (rec(FCGI_GET_VALUES, 0, b"\x80\0"),)),
            ("values-2-31", "GET_VALUES with lengths of 2^31-1", VALUES, (rec(FCGI_GET_VALUES, 0, b"\xff" * 8),)),
            ("values-64k", "GET_VALUES of 65,535 bytes", VALUES, (rec(FCGI_GET_VALUES, 0, pair("A" * 65_526, "")),)),
            ("empties", "10,000 empty records of no request", MANAGED, (rec(FCGI_STDIN, 9) * 10_000,)),
        )
    ),
]
