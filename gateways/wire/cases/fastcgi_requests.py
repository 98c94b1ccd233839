"""FastCGI 1.0 sections 3.3, 5.1, 5.4, 6: roles, kept connections, several requests at once, aborted ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.codecs.fastcgi_records import (
    FCGI_ABORT_REQUEST,
    FCGI_CANT_MPX_CONN,
    FCGI_DATA,
    FCGI_END_REQUEST,
    FCGI_OVERLOADED,
    FCGI_PARAMS,
    FCGI_STDIN,
    FCGI_UNKNOWN_ROLE,
)
from gateways.wire.case import Case, Context, Failure, Skip
from gateways.wire.cases.fastcgi_framing import BODY, post
from gateways.wire.cases.fastcgi_management import values_of
from gateways.wire.fastcgi import KEEP, Reply, Talk, alive, ask, begin, head_of, pairs, rec, request, stream

__all__ = ["CASES"]

BEGIN: Final = "FastCGI 1.0, 5.1 FCGI_BEGIN_REQUEST"
END: Final = "FastCGI 1.0, 5.5 FCGI_END_REQUEST"
KEPT: Final = "FastCGI 1.0, 3.5 and 5.1 FCGI_KEEP_CONN"
IDS: Final = "FastCGI 1.0, 3.3 Managing Request IDs"
WAITING: Final = 5_000
ABORT: Final = "FastCGI 1.0, 5.4 FCGI_ABORT_REQUEST"


def role(number: int) -> Callable[[Context], None]:
    """A role that nobody knows is answered with FCGI_UNKNOWN_ROLE."""

    def run(context: Context) -> None:
        params, _ = post(context)
        talk = Talk(context)
        reply = talk.ask(1, params, BODY, role=number)
        if not reply.ended or reply.protocol_status != FCGI_UNKNOWN_ROLE:
            raise Failure("protocolStatus FCGI_UNKNOWN_ROLE (3)", str(reply))

    return run


def role_then_next(context: Context) -> None:
    """A kept connection outlives a role that is refused."""
    params, seen = post(context)
    talk = Talk(context)
    reply = talk.ask(1, params, BODY, KEEP, 9)
    if not reply.ended:
        raise Failure("FCGI_END_REQUEST", str(reply))
    talk.good(talk.ask(1, params, BODY), seen, BODY)


def authorizer(context: Context) -> None:
    """An Authorizer has no FCGI_STDIN: it is answered without one, or refused as a role."""
    talk = Talk(context)
    talk.expect(1)
    talk.send(head_of(1, context.params(), role=2))
    served_or_unknown(talk.answer())


def filtered(context: Context) -> None:
    """A Filter with all of its streams is answered, or refused as a role."""
    talk = Talk(context)
    talk.expect(1)
    params = context.params({"FCGI_DATA_LAST_MOD": "1", "FCGI_DATA_LENGTH": "4"})
    talk.send(head_of(1, params, role=3), rec(FCGI_STDIN, 1), stream(FCGI_DATA, 1, b"data"))
    served_or_unknown(talk.answer())


def served_or_unknown(reply: Reply) -> None:
    """What there is to say to a role that one may lack."""
    if not reply.ended or reply.protocol_status not in (0, FCGI_UNKNOWN_ROLE):
        raise Failure("an answer, or FCGI_UNKNOWN_ROLE", str(reply))
    if not reply.protocol_status and not reply.status:
        raise Failure("an answer", "none")


def not_kept(context: Context) -> None:
    """Without FCGI_KEEP_CONN the server closes after its answer."""
    params, seen = post(context)
    talk = Talk(context)
    talk.good(talk.ask(1, params, BODY), seen, BODY)
    talk.closes()


def sequence(numbers: tuple[int, ...]) -> Callable[[Context], None]:
    """Requests one after another on a kept connection, each with parameters and a body of its own."""

    def run(context: Context) -> None:
        talk = Talk(context)
        for at, number in enumerate(numbers):
            body = b"%d" % at * (at + 1)
            params, seen = post(context, body, str(at))
            last = at == len(numbers) - 1
            talk.good(talk.ask(number, params, body, 0 if last else KEEP), seen, body)
        talk.closes()

    return run


def forgotten(context: Context) -> None:
    """No parameter of a request is seen by the next."""
    talk = Talk(context)
    talk.good(talk.ask(1, context.params({"CONFORM_OLD": "old"}), flags=KEEP))
    reply = talk.ask(1, context.params())
    talk.good(reply)
    if b"CONFORM_OLD" in reply.body:
        raise Failure("no parameter of the request before", "CONFORM_OLD")


def allowed(talk: Talk, reply: Reply, seen: dict[str, str], body: bytes, *, first: bool = False) -> bool:
    """Served rightly; or, but for the first, refused as one too many. Whether it was served."""
    if not first and reply.ended and reply.protocol_status in (FCGI_CANT_MPX_CONN, FCGI_OVERLOADED):
        return False
    talk.good(reply, seen, body)
    return True


def pipelined(count: int) -> Callable[[Context], None]:
    """Whole requests in one packet: none is lost; a server that takes one at a time may refuse the rest."""

    def run(context: Context) -> None:
        made = {number: post(context, b"%d" % number * 3, str(number)) for number in range(1, count + 1)}
        talk = Talk(context)
        talk.expect(*made)
        talk.send(*[request(number, params, b"%d" % number * 3, KEEP) for number, (params, _) in made.items()])
        for reply in talk.answers(*made):
            allowed(talk, reply, made[reply.number][1], b"%d" % reply.number * 3, first=reply.number == 1)

    return run


def interleaved(count: int, cut: int, order: Callable[[int], int] = int) -> Callable[[Context], None]:
    """Requests whose records come in turns: each is served with its own, or refused; none is mixed."""

    def run(context: Context) -> None:
        talk = Talk(context)
        bodies = {number: bytes([64 + number]) * (number * 10) for number in range(1, count + 1)}
        made = {number: post(context, bodies[number], str(number)) for number in bodies}
        turns: list[list[bytes]] = []
        for number in sorted(bodies, key=order):
            block = pairs(made[number][0])
            turns.append(
                [begin(number, KEEP)]
                + [rec(FCGI_PARAMS, number, block[at : at + cut]) for at in range(0, len(block), cut)]
                + [rec(FCGI_PARAMS, number)]
                + [rec(FCGI_STDIN, number, bodies[number][at : at + 7]) for at in range(0, len(bodies[number]), 7)]
                + [rec(FCGI_STDIN, number)]
            )
        talk.expect(*bodies)
        while any(turns):
            talk.send(*[parts.pop(0) for parts in turns if parts])
        for reply in talk.answers(*bodies):
            allowed(talk, reply, made[reply.number][1], bodies[reply.number], first=reply.number == order(1))

    return run


def beside_open(context: Context) -> None:
    """A whole request while another waits for its body; both end."""
    params, seen = post(context)
    talk = Talk(context)
    talk.expect(1, 2)
    talk.send(head_of(1, params, KEEP), request(2, params, BODY, KEEP), stream(FCGI_STDIN, 1, BODY))
    first, second = talk.answers(1, 2)
    talk.good(first, seen, BODY)
    allowed(talk, second, seen, BODY)


def as_told(context: Context) -> None:
    """A server that says FCGI_MPXS_CONNS 1 serves two requests at once."""
    talk = Talk(context)
    talk.send(ask("FCGI_MPXS_CONNS"))
    if values_of(talk.managed()[0]).get("FCGI_MPXS_CONNS") != "1":
        raise Skip("the server does not say FCGI_MPXS_CONNS 1")
    params, seen = post(context)
    talk.expect(1, 2)
    for number in (1, 2):
        talk.send(head_of(number, params, KEEP))
    for number in (2, 1):
        talk.send(stream(FCGI_STDIN, number, BODY))
    for reply in talk.answers(1, 2):
        talk.good(reply, seen, BODY)


def active_id(place: int) -> Callable[[Context], None]:
    """BEGIN_REQUEST for an id that is active: whatever the server does, it does not mix the two."""

    def run(context: Context) -> None:
        talk = Talk(context)
        talk.expect(1)
        old = context.params({"CONFORM_OLD": "old", "REQUEST_METHOD": "POST", "CONTENT_LENGTH": "3"})
        parts = [begin(1), rec(FCGI_PARAMS, 1, pairs(old)), rec(FCGI_PARAMS, 1), rec(FCGI_STDIN, 1, b"old")]
        params, _ = post(context, b"new")
        talk.send(*parts[:place], request(1, params, b"new"))
        talk.link.end()
        reply = talk.answer()
        if reply.ended and reply.protocol_status:  # the second is refused, and the first goes on
            talk.expect(1)
            reply = talk.answer()
        if reply.ended and b"CONFORM_OLD" in reply.stdout and b"CONFORM_MARK" in reply.stdout:
            raise Failure("one request's parameters", "those of both")
        if reply.ended and b"oldnew" in reply.stdout:
            raise Failure("one request's body", "that of both")
        talk.ends()
        alive(context)

    return run


def aborted(place: int, content: bytes = b"") -> Callable[[Context], None]:
    """An aborted request ends with FCGI_END_REQUEST, and the kept connection serves the next one."""

    def run(context: Context) -> None:
        params, seen = post(context)
        talk = Talk(context)
        talk.expect(1)
        parts = [begin(1, KEEP), rec(FCGI_PARAMS, 1, pairs(params)), rec(FCGI_PARAMS, 1), rec(FCGI_STDIN, 1, BODY[:2]),
                 rec(FCGI_STDIN, 1, BODY[2:]) + rec(FCGI_STDIN, 1)]  # fmt: skip
        talk.send(*parts[:place], rec(FCGI_ABORT_REQUEST, 1, content))
        if not talk.answer().ended:
            raise Failure("FCGI_END_REQUEST (section 5.4)", "the end of the connection")
        talk.good(talk.ask(2, params, BODY), seen, BODY)

    return run


def abort_beside(context: Context) -> None:
    """One request is aborted, the other of the same connection is served."""
    params, seen = post(context)
    talk = Talk(context)
    talk.expect(1, 2)
    talk.send(head_of(1, params, KEEP), begin(2, KEEP), rec(FCGI_ABORT_REQUEST, 2), stream(FCGI_STDIN, 1, BODY))
    talk.good(talk.answers(1)[0], seen, BODY)
    if not talk.answers(2)[0].ended:
        raise Failure("FCGI_END_REQUEST of the aborted one", "the end of the connection")


def abort_and_close(context: Context) -> None:
    """The web server aborts and closes at once, ten times; the server lives."""
    params, _ = post(context)
    for _ in range(10):
        link = context.open()
        link.send(head_of(1, params) + rec(FCGI_ABORT_REQUEST, 1))
        link.close()
    alive(context)


def disconnect(place: int) -> Callable[[Context], None]:
    """The web server closes within a request, as nginx does when its client goes; the server lives."""

    def run(context: Context) -> None:
        params, _ = post(context)
        for _ in range(5):
            link = context.open()
            link.send(
                (begin(1) + stream(FCGI_PARAMS, 1, pairs(params)) + rec(FCGI_STDIN, 1, BODY[:2]))[: place or None]
            )
            link.close()
        alive(context)

    return run


def many(count: int) -> Callable[[Context], None]:
    """Many requests at once on one connection: each that ends is served or refused, and the server lives."""

    def run(context: Context) -> None:
        params, _ = post(context)
        talk = Talk(context)
        talk.expect(*range(1, count + 1))
        talk.send(*[head_of(number, params, KEEP) for number in range(1, count + 1)])
        talk.send(*[stream(FCGI_STDIN, number, BODY) for number in range(1, count + 1)])
        talk.link.end()
        for reply in talk.answers(*range(1, count + 1)):
            if reply.ended and reply.stdout and not reply.status:
                raise Failure("an answer", str(reply))
        alive(context)

    return run


def waiting(context: Context) -> None:
    """Very many requests that wait for their bodies: some are refused, or the connection ends."""
    params, _ = post(context)
    talk = Talk(context)
    talk.expect(*range(1, WAITING + 1))
    talk.send(*[head_of(number, params, KEEP) for number in range(1, WAITING + 1)])
    while (found := talk.take()) is not None and found.kind != FCGI_END_REQUEST:
        pass
    alive(context)


CASES: Final[list[Case]] = [
    *(
        Case(f"fastcgi.role.{number}", f"role {number}, which nobody knows", f"{BEGIN}; {END}", "MUST", role(number))
        for number in (0, 4, 255, 256, 257, 65_535)
    ),
    Case(
        "fastcgi.role.then-next",
        "a kept connection after a role that is refused",
        f"{KEPT}; {END}",
        "SHOULD",
        role_then_next,
    ),
    Case(
        "fastcgi.role.authorizer", "Authorizer, without FCGI_STDIN", "FastCGI 1.0, 6.3 Authorizer", "MUST", authorizer
    ),
    Case("fastcgi.role.filter", "Filter", "FastCGI 1.0, 6.4 Filter", "SHOULD", filtered),
    Case("fastcgi.keep.not", "closed after the answer without FCGI_KEEP_CONN", KEPT, "MUST", not_kept),
    Case("fastcgi.keep.same-id", "twenty requests with one id", KEPT, "MUST", sequence((1,) * 20)),
    Case("fastcgi.keep.other-ids", "requests with other ids", KEPT, "MUST", sequence((1, 2, 3, 65_535, 256))),
    Case("fastcgi.keep.two", "a second request on a kept connection", KEPT, "MUST", sequence((1, 1))),
    Case("fastcgi.keep.forgotten", "no parameter lives on to the next request", KEPT, "MUST", forgotten, "echo"),
    *(
        Case(f"fastcgi.pipelined.{count}", f"{count} whole requests in one packet", IDS, "MUST", pipelined(count))
        for count in (2, 3, 10)
    ),
    Case("fastcgi.multiplex.2", "two interleaved requests", IDS, "MUST", interleaved(2, 1_000)),
    Case(
        "fastcgi.multiplex.2-params",
        "two requests, interleaved within their parameters",
        IDS,
        "MUST",
        interleaved(2, 13),
    ),
    Case(
        "fastcgi.multiplex.2-reversed",
        "two requests, the higher id first",
        IDS,
        "MUST",
        interleaved(2, 1_000, lambda number: 3 - number),
    ),
    Case("fastcgi.multiplex.8", "eight interleaved requests", IDS, "MUST", interleaved(8, 1_000)),
    Case("fastcgi.multiplex.as-told", "two at once where FCGI_MPXS_CONNS is 1", "FastCGI 1.0, 4.1", "MUST", as_told),
    Case("fastcgi.multiplex.beside-open", "a whole request while another waits for its body", IDS, "MUST", beside_open),
    *(
        Case(f"fastcgi.active-id.{name}", f"BEGIN_REQUEST for an active id {title}", IDS, "MUST", active_id(place))
        for name, title, place in (
            ("begin", "before its parameters", 1),
            ("params", "within its parameters", 2),
            ("stdin", "within its body", 4),
        )
    ),
    *(
        Case(f"fastcgi.abort.{name}", f"aborted {title}", ABORT, "MUST", aborted(place, content))
        for name, title, place, content in (
            ("begin", "before PARAMS", 1, b""),
            ("params", "within PARAMS", 2, b""),
            ("params-end", "after PARAMS", 3, b""),
            ("stdin", "within STDIN", 4, b""),
            ("stdin-end", "after STDIN", 5, b""),
            ("content", "with content in the record", 1, b"why"),
        )
    ),
    Case("fastcgi.abort.beside", "one of two is aborted", ABORT, "SHOULD", abort_beside),
    Case("fastcgi.abort.close", "aborted, and closed at once", ABORT, "MUST", abort_and_close),
    *(
        Case(
            f"fastcgi.disconnect.{name}",
            f"closed {title}",
            "nginx closes when its client goes",
            "MUST",
            disconnect(place),
        )
        for name, title, place in (
            ("begin", "after BEGIN_REQUEST", 16),
            ("params", "within PARAMS", 40),
            ("stdin", "within STDIN", 0),
        )
    ),
    *(
        Case(
            f"fastcgi.limits.requests.{count}",
            f"{count} requests at once on one connection",
            f"{IDS}; {END}",
            "MUST",
            many(count),
        )
        for count in (40, 100)
    ),
    Case(
        "fastcgi.limits.waiting",
        f"{WAITING:,} requests at once on one connection, of which none ends, are not all kept",
        f"{END}: FCGI_OVERLOADED; limits: memory is finite",
        "SHOULD",
        waiting,
    ),
]
