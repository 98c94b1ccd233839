"""FastCGI 1.0 sections 3.3 and 5: odd but legal records of an answer, and a few that are not legal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from gateways.codecs.fastcgi_records import FCGI_GET_VALUES_RESULT, FCGI_STDERR, FCGI_STDOUT, FCGI_UNKNOWN_TYPE
from gateways.wire.backend_fastcgi import FastCGIPeer, end_request, stdout
from gateways.wire.case import Failure
from gateways.wire.cases.front_response import gets, octets
from gateways.wire.fastcgi import LONGEST, pairs, rec
from gateways.wire.front import PAUSE, FrontCase, FrontContext, Row, Run, plain, table

__all__ = ["CASES"]

RECORDS: Final = "FastCGI 1.0, 3.3 Records"
IDS: Final = "FastCGI 1.0, 3.3 Managing Request IDs"
OUT: Final = "FastCGI 1.0, 5.3 FCGI_STDOUT, FCGI_STDERR"
END: Final = "FastCGI 1.0, 5.5 FCGI_END_REQUEST"
MANAGED: Final = "FastCGI 1.0, 4 Management Record Types"
BODY: Final = b"the answer, which is the same in every form of records\n"
JUNK: Final = b"\x01\x06\x00\x01\x00\x03\x00\x00Bad" * 24
OTHER: Final = 0x7FFF
"""An id that no web server here has active."""

Records = Callable[[int, bytes], Iterable[bytes]]


def answered(context: FrontContext, made: Records, body: bytes = BODY, *, apart: bool = False) -> None:
    """Send the records that ``made`` makes of an id and a response; the client gets the response."""
    exchange = context.ask()
    arrival = exchange.arrives()
    peer = arrival.peer
    if not isinstance(peer, FastCGIPeer):
        raise TypeError("not a connection of FastCGI")
    records = list(made(arrival.number, plain("fastcgi", body)))
    if apart:
        for record in records:
            peer.send(record)
            context.hub.until(lambda: not peer.pending, context.seconds)
            context.hub.rest(PAUSE)
        records = []
    peer.complete(arrival, b"".join(records))
    gets(exchange.response(), body)


def answer(made: Records, body: bytes = BODY, *, apart: bool = False) -> Run:
    """One answer in these records."""
    return lambda context: answered(context, made, body, apart=apart)


def ends(number: int) -> bytes:
    """The usual end."""
    return rec(FCGI_STDOUT, number) + end_request(number)


def sized(size: int, padding: int = 0) -> Records:
    """FCGI_STDOUT in records of this size and padding."""
    return lambda number, data: [stdout(number, data, size, padding), ends(number)]


def padded(padding: int) -> Records:
    """Every record has padding, which looks like a record."""

    def made(number: int, data: bytes) -> list[bytes]:
        wire = [rec(FCGI_STDOUT, number, data[at : at + 20]) for at in range(0, len(data), 20)]
        wire += [rec(FCGI_STDOUT, number), end_request(number)]
        return [each[:6] + bytes([padding]) + each[7:] + JUNK[:padding] for each in wire]

    return made


def sliced(size: int) -> Records:
    """The bytes of all records in packets of this size."""

    def made(number: int, data: bytes) -> list[bytes]:
        wire = stdout(number, data, 40) + ends(number)
        return [wire[at : at + size] for at in range(0, len(wire), size)]

    return made


def around(at: str, *kinds: tuple[int, bytes], zero: bool = False, other: bool = False) -> Records:
    """Put records of these types at one place of an answer: of its id, of none, or of another."""

    def made(number: int, data: bytes) -> list[bytes]:
        more = b"".join([rec(kind, OTHER if other else 0 if zero else number, content) for kind, content in kinds])
        blank = data.index(b"\r\n\r\n") + 4
        places = {"before": 0, "head": 10, "body": blank + 10, "after": len(data)}
        middle = places[at if at != "end" else "after"]
        first, last = stdout(number, data[:middle]), stdout(number, data[middle:])
        if at == "end":
            return [first, rec(FCGI_STDOUT, number), more, end_request(number)]
        return [first, more, last, ends(number)]

    return made


def without_end(number: int, data: bytes) -> list[bytes]:
    """FCGI_END_REQUEST without the empty FCGI_STDOUT."""
    return [stdout(number, data), end_request(number)]


def reserved(number: int, data: bytes) -> list[bytes]:
    """The reserved byte of each header is set."""
    return [rec(FCGI_STDOUT, number, data, reserved=255), rec(FCGI_STDOUT, number, reserved=1), end_request(number)]


def refused(protocol_status: int) -> Run:
    """FCGI_END_REQUEST alone, with this protocolStatus, is no answer."""

    def run(context: FrontContext) -> None:
        failing(context, lambda number: rec(FCGI_STDOUT, number) + end_request(number, 0, protocol_status))

    return run


def failing(context: FrontContext, made: Callable[[int], bytes]) -> None:
    """What the client gets of these records is an error."""
    exchange = context.ask()
    arrival = exchange.arrives()
    arrival.peer.send(made(arrival.number))
    arrival.peer.end()
    response = exchange.response()
    if response.status < 500:
        raise Failure("an error (5xx) for the client", str(response))


def bad(made: Callable[[int], bytes]) -> Run:
    """Records that are not legal."""
    return lambda context: failing(context, made)


def within_record(context: FrontContext) -> None:
    """The connection ends within a record: an error, or a response that is seen to be cut."""
    exchange = context.ask()
    arrival = exchange.arrives()
    arrival.peer.send(stdout(arrival.number, plain("fastcgi", octets(50_000)))[:-10_000])
    arrival.peer.end()
    response = exchange.response()
    if response.status < 500 and response.whole:
        raise Failure("a response that is seen to be cut, or an error (5xx)", str(response))


def no_end_request(context: FrontContext) -> None:
    """A close in the place of FCGI_END_REQUEST does not hang the client."""
    exchange = context.ask()
    arrival = exchange.arrives()
    arrival.peer.send(stdout(arrival.number, plain("fastcgi", BODY)) + rec(FCGI_STDOUT, arrival.number))
    arrival.peer.end()
    response = exchange.response()
    if response.status < 500 and not BODY.startswith(response.body):
        raise Failure("the response, or an error (5xx)", str(response))


ERR: Final = FCGI_STDERR
TYPE_42: Final = (42, b"what is this")
VALUES: Final = (FCGI_GET_VALUES_RESULT, pairs({"FCGI_MPXS_CONNS": "0"}))
UNKNOWN: Final = (FCGI_UNKNOWN_TYPE, b"\x2a" + bytes(7))
STRAY: Final = (FCGI_STDOUT, b"Status: 500 Stray\r\n\r\nof another request")

ROWS: Final[list[Row]] = [
    *((f"stdout.records.{size}", f"FCGI_STDOUT in records of {size} bytes", OUT, "MUST", answer(sized(size)))
      for size in (1, 2, 7, 50)),
    *((f"stdout.padded.{size}", f"padding of {size} bytes that looks like a record", RECORDS, "MUST",
       answer(padded(size))) for size in (1, 7, 8, 255)),
    ("stdout.longest", "records of 65535 bytes", RECORDS, "MUST", answer(sized(LONGEST), octets(200_000))),
    ("stdout.longest-padded", "records of 65535 bytes with 255 of padding", RECORDS, "MUST",
     answer(sized(LONGEST, 255), octets(200_000))),
    ("stdout.65528", "records of 65528 bytes, as libfcgi's", RECORDS, "MUST", answer(sized(65_528), octets(200_000))),
    ("stdout.many", "2000 records of 10 bytes", OUT, "MUST", answer(sized(10), octets(20_000))),
    *((f"packets.{size}", f"packets of {size} bytes", "TCP has no packets", "MUST", answer(sliced(size), apart=True))
      for size in (1, 3, 8, 9)),
    ("stdout.no-end", "FCGI_END_REQUEST without an empty FCGI_STDOUT", END, "MUST", answer(without_end)),
    ("end.apart", "FCGI_END_REQUEST in a packet of its own", END, "MUST",
     answer(lambda number, data: [stdout(number, data), rec(FCGI_STDOUT, number), end_request(number)], apart=True)),
    ("end.app-status", "appStatus 1 after a whole response", END, "MUST",
     answer(lambda number, data: [stdout(number, data), rec(FCGI_STDOUT, number), end_request(number, 1)])),
    ("end.app-status-high", "appStatus 2^32 - 1", END, "MUST",
     answer(lambda number, data: [stdout(number, data), rec(FCGI_STDOUT, number), end_request(number, 2**32 - 1)])),
    ("end.reserved", "reserved bytes of FCGI_END_REQUEST that are not 0", END, "SHOULD",
     answer(lambda number, data: [stdout(number, data), rec(FCGI_STDOUT, number),
                                  end_request(number, reserved=b"\1\2\3")])),
    ("end.missing", "a close in the place of FCGI_END_REQUEST", END, "MUST", no_end_request),
    ("record.reserved-set", "a reserved byte that is not 0", RECORDS, "SHOULD", answer(reserved)),
    ("stderr.before", "FCGI_STDERR before the head", OUT, "MUST", answer(around("before", (ERR, b"oops\n")))),
    ("stderr.head", "FCGI_STDERR within the head", OUT, "MUST", answer(around("head", (ERR, b"oops\n")))),
    ("stderr.body", "FCGI_STDERR within the body", OUT, "MUST", answer(around("body", (ERR, b"oops\n")))),
    ("stderr.after", "FCGI_STDERR after the body", OUT, "MUST", answer(around("after", (ERR, b"oops\n")))),
    ("stderr.end", "FCGI_STDERR after the end of FCGI_STDOUT", OUT, "MUST", answer(around("end", (ERR, b"oops\n")))),
    ("stderr.empty", "an empty FCGI_STDERR before the head", OUT, "MUST", answer(around("before", (ERR, b"")))),
    ("stderr.stream", "a whole FCGI_STDERR before the head", OUT, "MUST",
     answer(around("before", (ERR, b"oops\n"), (ERR, b"")))),
    ("stderr.like-head", "FCGI_STDERR that looks like a head", OUT, "MUST",
     answer(around("before", (ERR, b"Status: 500 No\r\n\r\n")))),
    ("stderr.large", "FCGI_STDERR of 65535 bytes", OUT, "MUST", answer(around("head", (ERR, b"e" * 65_535)))),
    ("stderr.much", "300000 bytes of FCGI_STDERR within the body", OUT, "MUST",
     answer(around("body", *[(ERR, b"line of an error log\n" * 500)] * 30))),
    ("stderr.alone", "FCGI_STDERR without a response is an error", OUT, "SHOULD",
     bad(lambda number: rec(ERR, number, b"died\n") + ends(number))),
    *((f"end.{name}", f"{title} without a response is an error", END, "MUST", refused(code))
      for name, title, code in (("cant-mpx", "FCGI_CANT_MPX_CONN", 1), ("overloaded", "FCGI_OVERLOADED", 2),
                                ("unknown-role", "FCGI_UNKNOWN_ROLE", 3))),
    ("unknown.management", "a management record of type 42", MANAGED, "SHOULD",
     answer(around("head", TYPE_42, zero=True))),
    ("unknown.unknown-type", "FCGI_UNKNOWN_TYPE that nothing has caused", MANAGED, "SHOULD",
     answer(around("before", UNKNOWN, zero=True))),
    ("unknown.values", "FCGI_GET_VALUES_RESULT that nothing has caused", MANAGED, "SHOULD",
     answer(around("before", VALUES, zero=True))),
    ("other.stdout", "FCGI_STDOUT of a request that is not active", IDS, "SHOULD",
     answer(around("head", STRAY, other=True))),
    ("bad.version", "version 2", RECORDS, "SHOULD",
     bad(lambda number: b"\2" + stdout(number, plain("fastcgi", BODY))[1:] + ends(number))),
    ("bad.id", "an answer to another request than the one asked", IDS, "SHOULD",
     bad(lambda number: stdout(number + 1, plain("fastcgi", BODY)) + ends(number + 1))),
    ("bad.cut", "a connection that ends within a record", RECORDS, "SHOULD", within_record),
]  # fmt: skip
CASES: Final[list[FrontCase]] = table("fastcgi.front.answer", ROWS)
