"""uwsgi (uWSGI 2.0, "The uwsgi protocol"): the packet of variables, and all that it has in common with SCGI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.wire.case import Case, Context, Failure
from gateways.wire.cases import counted
from gateways.wire.cases.counted import hostile, served
from gateways.wire.single import alive, exchange, packet, refused, variables

__all__ = ["CASES", "LAST"]

PACKET: Final = "The uwsgi protocol, packet format"
VARS: Final = "The uwsgi protocol, vars"
LINE: Final = "mod_proxy_uwsgi answers 502 without a status line"
ANSWER: Final = b"\xff"
"""modifier1 of an answer that is a packet, as uWSGI's spooler gives it."""
GET: Final = variables([("REQUEST_METHOD", "GET"), ("REQUEST_URI", "/"), ("PATH_INFO", "/"), ("SCRIPT_NAME", "")])


def modified(modifier1: int) -> Callable[[Context], None]:
    """A modifier that stands for another plugin than Python's is not taken for a request; a packet may say so."""

    def run(context: Context) -> None:
        answer = exchange(context, packet(GET, modifier1), end=True)
        if answer.raw[:1] != ANSWER:
            refused(answer)
        alive(context)

    return run


def modifier2(context: Context) -> None:
    """modifier2 says nothing to this plugin."""
    params = context.params({"CONFORM_A": "b"})
    served(context, {"CONFORM_A": "b"}, b"", packet(variables(params.items()), 0, 255))


def full(context: Context) -> None:
    """A block of exactly 65,535 bytes, the most that datasize can say."""
    params = context.params()
    room = 65_535 - len(variables([*params.items(), ("CONFORM_A", "")]))
    params["CONFORM_A"] = "v" * room
    served(context, {"CONFORM_A": "v" * room}, b"", packet(variables(params.items())))


def status_line(context: Context) -> None:
    """The response starts with a status line."""
    answer = exchange(context, packet(variables(context.params().items())))
    if not answer.raw.startswith(b"HTTP/1."):
        raise Failure("a status line", repr(answer.raw[:60]))


def never_loads(context: Context) -> None:
    """Variables that name a file or a module are data: nothing is loaded, and the next request is as before."""
    names = {"UWSGI_FILE": "/etc/passwd", "UWSGI_SCRIPT": "os:system", "UWSGI_MODULE": "os", "UWSGI_CALLABLE": "abort"}
    params = context.params({"CONFORM_A": "b"} | names)
    served(context, {"CONFORM_A": "b"}, b"", packet(variables(params.items())))
    alive(context)


CASES: Final[list[Case]] = [
    *(
        Case(f"uwsgi.modifier1.{number}", f"modifier1 {number}: {title}", PACKET, "SHOULD", modified(number))
        for number, title in (
            (5, "Perl"),
            (7, "Ruby"),
            (9, "CGI"),
            (14, "PHP"),
            (17, "spooler"),
            (22, "eval"),
            (111, "cache"),
            (255, "answer"),
        )
    ),
    Case("uwsgi.modifier2", "any modifier2", PACKET, "SHOULD", modifier2),
    Case("uwsgi.datasize.full", "datasize 65,535", PACKET, "SHOULD", full, "echo"),
    Case("uwsgi.datasize.nothing", "datasize 0", PACKET, "SHOULD", hostile(packet(b""))),
    *(
        Case(f"uwsgi.vars.{name}", title, VARS, "SHOULD", hostile(packet(GET + tail)))
        for name, tail, title in (
            ("value-too-long", b"\1\0A\2\0b", "a value longer than the block"),
            ("name-too-long", b"\5\0A", "a name longer than the block"),
            ("no-value", b"\1\0A", "a name without a value"),
            ("half-length", b"\1\0A\1\0b\1", "half a length"),
            ("value-64k", b"\1\0A\xff\xffb", "a value of 65,535 bytes in a block of less"),
            ("no-name", b"\0\0\1\0b", "a variable without a name"),
        )
    ),
    Case(
        "uwsgi.datasize.too-large",
        "datasize larger than what comes",
        PACKET,
        "SHOULD",
        hostile(packet(GET, size=len(GET) + 9)),
    ),
    Case(
        "uwsgi.datasize.too-small",
        "datasize that cuts a variable",
        PACKET,
        "SHOULD",
        hostile(packet(GET, size=len(GET) - 1)),
    ),
    Case("uwsgi.response.line", "a status line", LINE, "SHOULD", status_line),
    *counted.cases("uwsgi", PACKET, "The uwsgi protocol, the body after the packet"),
]

LAST: Final[list[Case]] = [
    Case(
        "uwsgi.variables.data",
        "UWSGI_FILE and its like load nothing",
        "nginx passes what it is configured to",
        "SHOULD",
        never_loads,
    ),
]
"""To be run last: uWSGI serves nothing more after it, for it loads what it was told to, and keeps that for the path."""
