"""Against flup 1.0.3, an independent implementation of both sides: the same requests, and what came of them.

Our client asks our server and flup's; flup's clients ask our server, as ours does. Whatever differs stands in a table
here with both behaviours and the reason. A line that has ceased to be true fails like a difference that has none.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from gateways.client import Client, Connection
from gateways.client.blocking import request_params
from gateways.codecs.events import Abort, Body, EndOfResponse, Refused, Request, ResponseHead
from gateways.codecs.fastcgi_front import FastCGIFrontCodec
from gateways.errors import GatewayError
from gateways.testing.framing.fastcgi_records import (
    NOISE_TO_APPLICATION,
    Record,
    add_noise,
    add_padding,
    encode_pairs as pairs,
    split_params,
)
from tests.backends import backend, gateways, socket_directory

SECONDS = 30.0
A_WHILE = 1.0
"""How long an answer is awaited that does not come."""

Fields: TypeAlias = dict[str, object]
"""What the application saw and what came back; long text is told by its start and length."""


@dataclass(frozen=True)
class Case:
    """One request."""

    method: str = "POST"
    path: str = "/"
    body: bytes = b"x"
    params: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Line:
    """One disagreement; ``case`` is a name, or several."""

    case: str | tuple[str, ...]
    field: str
    ours: object
    flup: object
    reason: str

    def is_of(self, name: str) -> bool:
        return name == self.case if isinstance(self.case, str) else name in self.case


CASES: dict[str, Case] = {
    "plain": Case(),
    "query and escapes": Case(path="/a%20b/caf%C3%A9?x=1&y=%20"),
    "own parameters": Case(params=(("X_OWN", "\xe9\xff"), ("REMOTE_USER", "me"), ("HTTPS", "on"), ("EMPTY", ""))),
    "lengths around 128": Case(params=tuple(("N" * size, "v" * size) for size in (127, 128, 300))),
    "60 KB of cookie": Case(params=(("HTTP_COOKIE", "c" * 60_000),)),
    "130 KB of parameters": Case(params=(("HTTP_COOKIE", "c" * 65_000), ("HTTP_X", "x" * 65_000))),
    "mounted": Case(path="/app/x", params=(("SCRIPT_NAME", "/app"), ("PATH_INFO", "/x"))),
    "whole path in SCRIPT_NAME": Case(path="/a/b", params=(("SCRIPT_NAME", "/a/b"), ("PATH_INFO", None))),
    "no PATH_INFO": Case(path="/a%20b", params=(("PATH_INFO", None),)),
    "httpoxy": Case(params=(("HTTP_PROXY", "http://evil"),)),
    "no body": Case("GET", body=b""),
    "empty CONTENT_LENGTH": Case("GET", body=b"", params=(("CONTENT_LENGTH", ""),)),
    "CONTENT_LENGTH 0": Case(body=b""),
    "any bytes": Case(body=bytes(range(256)) * 1_200),
    "status and headers": Case(path="/status"),
    "204": Case(path="/empty"),
    "error output": Case(path="/errors"),
    "a response of many blocks": Case(path="/blocks"),
    "a response of 1 MB": Case(path="/large"),
    "HEAD": Case("HEAD", "/large"),
    "an application that fails": Case(path="/fail"),
}


def short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:4]}... ({len(text)})"


def seen(status: str, headers: list[tuple[str, str]], body: bytes, errors: bytes = b"") -> Fields:
    fields: Fields = {"status": status, "errors": short(errors.decode("latin-1").partition("\n")[0])}
    fields |= {f"header {name.lower()}": value for name, value in headers}
    if body.startswith(b'{"environ"'):
        content = json.loads(body)
        del fields["header content-length"]  # that of the environ
        fields["request body"] = short(content["body"])
        environ = {name: value for name, value in content["environ"].items() if not name.startswith("gateways.")}
        fields |= {f"environ {short(name)}": short(value) for name, value in environ.items()}
    else:
        fields["body"] = short(body.decode("latin-1"))
    return fields


def ask(client: Client, case: Case) -> Fields:
    try:
        response = client.request(case.method, case.path, params=dict(case.params), body=case.body)
    except (GatewayError, OSError) as error:
        return {"error": type(error).__name__}
    return seen(f"{response.status} {response.reason}", response.headers, response.body, response.errors)


def compare(name: str, ours: Fields, theirs: Fields, table: list[Line]) -> None:
    fields = sorted({*ours, *theirs})
    found = [(field, ours.get(field), theirs.get(field)) for field in fields if ours.get(field) != theirs.get(field)]
    told = sorted((line.field, line.ours, line.flup) for line in table if line.is_of(name))
    assert found == told


@pytest.fixture(scope="module")
def ours() -> Iterator[dict[str, Path]]:
    """Our server's sockets."""
    with socket_directory() as directory:
        arguments, paths = gateways("tests.echo:app", directory, "--threads", "2")
        with backend(arguments, list(paths.values())):
            yield paths


@pytest.fixture(scope="module")
def flup() -> Iterator[dict[str, Path]]:
    """The sockets of flup's servers."""
    with socket_directory() as directory, contextlib.ExitStack() as stack:
        paths = {kind: directory / kind for kind in ("fastcgi", "fastcgi-multiplexed", "scgi")}
        for kind, path in paths.items():
            # It would wait for requests of which it still expects something.
            arguments = ["-m", "tests.differential.flup_server", kind, str(path)]
            stack.enter_context(backend(arguments, [path], end=signal.SIGKILL))
        yield paths


# -- our client against flup's servers ----------------------------------------------------------------------------

PAGE = "each server has a page of its own for an application that failed"
SERVERS: list[Line] = [
    Line("whole path in SCRIPT_NAME", "environ PATH_INFO", "/a/b", "", "flup takes nginx's SCRIPT_NAME for a mount"),
    Line("whole path in SCRIPT_NAME", "environ SCRIPT_NAME", "", "/a/b", "the same"),
    Line("no PATH_INFO", "environ PATH_INFO", "/a b", "/a%20b", "flup takes the path of REQUEST_URI undecoded"),
    Line("httpoxy", "environ HTTP_PROXY", None, "http://evil", "flup is open to httpoxy (CVE-2016-5385)"),
    Line("HEAD", "body", "", "xxxx... (1000000)", "flup sends the body of an answer to HEAD (RFC 9110 section 9.3.2)"),
    Line("an application that fails", "body", "500 Internal Server Error\n", "<!DO... (218)", PAGE),
    Line("an application that fails", "header content-length", "26", None, PAGE),
    Line("an application that fails", "header content-type", "text/plain", "text/html", PAGE),
]  # fmt: skip
CUT = "flup cuts a pair that goes on in the next FCGI_PARAMS record, says nothing, and takes the rest for other pairs"
FASTCGI_SERVERS: list[Line] = [
    *SERVERS,
    Line("130 KB of parameters", "environ HTTP_X", "xxxx... (65000)", "xxxx... (281)", CUT),
    Line("130 KB of parameters", "environ xxxx... (103)", None, "", CUT),
    Line("130 KB of parameters", "environ xxxx... (120)", None, "xxxx... (120)", CUT),
    Line("empty CONTENT_LENGTH", "environ CONTENT_LENGTH", None, "", "empty and absent are the same; int('') fails"),
    Line(
        "an application that fails", "errors", "", "Traceback (most recent call last):",
        "flup tells the web server's log; our traceback goes to our own",
    ),
]  # fmt: skip
NO_BYTES = "wsgi.input of a request without a body is a StringIO in flup"
SCGI_SERVER: list[Line] = [
    *SERVERS,
    Line(("no body", "CONTENT_LENGTH 0"), "request body", "", "no bytes: ''", NO_BYTES),
]


def test_the_tables_name_cases_that_exist() -> None:
    for table in (FASTCGI_SERVERS, SCGI_SERVER, FASTCGI_CLIENT, SCGI_CLIENT):
        for line in table:
            assert set([line.case] if isinstance(line.case, str) else line.case) <= set(CASES)
    assert {line.case for line in (*FASTCGI_WIRES, *MULTIPLEXED_WIRES)} <= set(WIRES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["fastcgi", "fastcgi-multiplexed", "scgi"])
def test_our_client_with_both_servers(kind: str, name: str, ours: dict[str, Path], flup: dict[str, Path]) -> None:
    protocol = kind.partition("-")[0]
    case = CASES[name]
    mine_client = Client(protocol, str(ours[protocol]), timeout=SECONDS)
    with mine_client, Client(protocol, str(flup[kind]), timeout=SECONDS) as other_client:
        for _ in range(2):
            mine, other = ask(mine_client, case), ask(other_client, case)
            if name == "empty CONTENT_LENGTH" and kind == "scgi":
                # flup closes without an answer: it takes no empty CONTENT_LENGTH, which SCGI does not allow.
                assert (mine["status"], other) == ("200 OK", {"error": "TruncatedMessage"})
                continue
            compare(name, mine, other, SCGI_SERVER if kind == "scgi" else FASTCGI_SERVERS)


# -- FastCGI connections, record by record ------------------------------------------------------------------------


def begin(number: int, role: int = 1, keep: bool = True) -> bytes:
    return bytes(Record(1, number, bytes((0, role, keep, 0, 0, 0, 0, 0))))


def params(number: int, path: str = "/early") -> bytes:
    return bytes(Record(4, number, pairs(request_params("GET", path, {}).items()))) + bytes(Record(4, number))


def stdin(number: int, body: bytes = b"") -> bytes:
    return (bytes(Record(5, number, body)) if body else b"") + bytes(Record(5, number))


GET = begin(1) + params(1) + stdin(1)
WIRES: dict[str, tuple[list[int], bytes]] = {
    "plain": ([1], GET),
    "padding": ([1], add_padding(GET, [1, 0, 255])),
    "records of other requests": (
        [1], add_noise(GET, [(1, bytes(Record(5, 7, b"x"))), (2, bytes(Record(2, 7))), (3, bytes(Record(6, 7, b"x")))]),
    ),
    "lengths in 4 bytes": (
        [1],
        begin(1) + bytes(Record(4, 1, pairs(request_params("GET", "/early", {}).items(), [True]))) + bytes(Record(4, 1))
        + stdin(1),
    ),
    "a pair a record": (
        [1],
        begin(1) + b"".join(bytes(Record(4, 1, pairs([pair]))) for pair in request_params("GET", "/early", {}).items())
        + bytes(Record(4, 1)) + stdin(1),
    ),
    "a pair over two records": ([1], split_params(GET, [30])),
    "one after another": ([1, 2], GET + begin(2) + params(2) + stdin(2)),
    "the same id again": ([1], GET),
    "at the same time": ([1, 2], begin(1) + begin(2) + params(1) + params(2) + stdin(2) + stdin(1)),
    "authorizer": ([1], begin(1, 2) + params(1)),
    "filter": ([1], begin(1, 3) + params(1) + stdin(1)),
    "FCGI_STDIN before the end of FCGI_PARAMS": ([1], begin(1) + bytes(Record(5, 1, b"x")) + params(1) + stdin(1)),
    "FCGI_GET_VALUES": ([1], NOISE_TO_APPLICATION[-2] + GET),
    "unknown type": ([1], bytes(Record(42, 0, b"x")) + GET),
    "unknown type with an id": ([1], bytes(Record(42, 1, b"x")) + GET),
    "version 2": ([1], b"\2" + GET[1:]),
    "abort before the parameters": ([1], begin(1) + bytes(Record(2, 1))),
}  # fmt: skip


def talk(path: Path, numbers: list[int], wire: bytes) -> Fields:
    """Send the records; return what came back of each request and of the management records."""
    codec = FastCGIFrontCodec()
    fields: Fields = {}
    bodies: dict[int, str] = {}
    for number in numbers:
        codec.send(Request(number, {"REQUEST_METHOD": "GET"}, keep=True))
        if bytes(Record(2, number)) in wire:
            codec.send(Abort(number))
    with Connection(codec, str(path), A_WHILE) as connection:
        connection.write(wire)
        try:
            ended = 0
            while ended < len(numbers):
                event = connection.read()
                if event is None:
                    fields["end"] = "closed"
                    break
                if isinstance(event, ResponseHead):
                    fields[f"{event.stream} status"] = event.status
                elif isinstance(event, Body):
                    text = bodies[event.stream] = bodies.get(event.stream, "") + event.data.decode()
                    fields[f"{event.stream} body"] = short(text)
                elif isinstance(event, EndOfResponse):
                    fields[f"{event.stream} end"] = event.refused or "complete"
                    ended += 1
                elif isinstance(event, Refused):
                    fields[f"{event.stream} end"] = event.error.message
                    ended += 1
        except TimeoutError:
            fields["end"] = "silence"
        except GatewayError as error:
            fields["end"] = type(error).__name__
    fields["values"] = sorted(codec.values)
    fields["unknown types"] = sorted(codec.unknown_types)
    return fields


VERSION = "flup does not look at the version of a record; we close, since nothing after it can be trusted"
AUTHORIZER = "flup serves Responders only, unless its roles are set"
FILTER = "we send a response with FCGI_UNKNOWN_ROLE, for the web servers that look at nothing else"
ORDER = "we refuse a request whose body comes before its parameters are whole"
MULTIPLEXED_WIRES: list[Line] = [
    Line("a pair over two records", "1 body", "not read", '{"en... (541)', CUT),
    Line("authorizer", "1 body", "not read", None, AUTHORIZER),
    Line("authorizer", "1 end", "complete", "unknown_role", AUTHORIZER),
    Line("authorizer", "1 status", "200 OK", None, AUTHORIZER),
    Line("filter", "1 body", "501 Not Implemented\n", None, FILTER),
    Line("filter", "1 status", "501 Not Implemented", None, FILTER),
    Line("FCGI_STDIN before the end of FCGI_PARAMS", "1 body", "400 Bad Request\n", "not read", ORDER),
    Line("FCGI_STDIN before the end of FCGI_PARAMS", "1 status", "400 Bad Request", "200 OK", ORDER),
    Line("FCGI_GET_VALUES", "values", ["FCGI_MPXS_CONNS"], [], "flup looks for bytes among names that are text"),
    Line(
        "unknown type with an id", "unknown types", [42], [],
        "flup ignores an unknown type that has a request id; section 4.2 is about management records, and answers all",
    ),
    Line("version 2", "1 body", None, "not read", VERSION),
    Line("version 2", "1 end", None, "complete", VERSION),
    Line("version 2", "1 status", None, "200 OK", VERSION),
    Line("version 2", "end", "TruncatedMessage", None, VERSION),
    Line("abort before the parameters", "1 end", "complete", None, "flup aborts nothing: it sets a flag"),
    Line("abort before the parameters", "end", None, "silence", "the same"),
]  # fmt: skip
MPX = "flup, unless it is told otherwise, serves one request of a connection at a time"
FASTCGI_WIRES: list[Line] = [
    *MULTIPLEXED_WIRES,
    Line("at the same time", "2 body", "not read", None, MPX),
    Line("at the same time", "2 end", "complete", "cant_mpx_conn", MPX),
    Line("at the same time", "2 status", "200 OK", None, MPX),
]  # fmt: skip
FASTCGI_CLIENT: list[Line] = [
    Line(
        "130 KB of parameters", "error", None, "error",
        "struct.error: flup's client writes all parameters into one record, whose length has 16 bits",
    ),
    Line("error output", "error", None, "NameError", "flup's client uses sys for FCGI_STDERR and does not import it"),
]  # fmt: skip
SCGI_CLIENT: list[Line] = [
    Line(
        "empty CONTENT_LENGTH", "environ CONTENT_LENGTH", None, "0",
        "SCGI requires a number, and flup's client makes one; ours sends what it is given, and the server drops it",
    ),
]  # fmt: skip


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("kind", ["fastcgi", "fastcgi-multiplexed"])
def test_records_to_both_servers(kind: str, name: str, ours: dict[str, Path], flup: dict[str, Path]) -> None:
    numbers, wire = WIRES[name]
    mine, other = talk(ours["fastcgi"], numbers, wire), talk(flup[kind], numbers, wire)
    compare(name, mine, other, FASTCGI_WIRES if kind == "fastcgi" else MULTIPLEXED_WIRES)


# -- flup's clients against our server ----------------------------------------------------------------------------


class OneWrite:
    """A socket that writes all at once before it reads.

    flup's client sends an empty FCGI_DATA record after FCGI_STDIN, which is for Filters alone; a server may have
    answered and closed by then, and the client die of a broken pipe instead of reading.
    """

    def __init__(self, made: socket.socket) -> None:
        self.made = made
        self.waiting = b""
        self.fileno = made.fileno
        self.close = made.close

    def send(self, data: bytes) -> int:
        self.waiting += data
        return len(data)

    def recv(self, size: int) -> bytes:
        if self.waiting:
            self.made.sendall(self.waiting)
            self.waiting = b""
        return self.made.recv(size)


def flup_client(protocol: str, made: socket.socket) -> Any:  # noqa: ANN401  # flup has no types
    """A client of flup's with a connection: its own way to make one needs types.StringTypes, gone with Python 3."""
    module = importlib.import_module("flup.client.fcgi_app" if protocol == "fastcgi" else "flup.client.scgi_app")
    base = module.FCGIApp if protocol == "fastcgi" else module.SCGIApp

    class Connecting(base):  # type: ignore[misc, valid-type]  # flup has no types
        def _getConnection(self) -> socket.socket | OneWrite:  # noqa: N802  # flup's name
            return OneWrite(made) if protocol == "fastcgi" else made

    return Connecting(connect="", filterEnviron=False)


def ask_by_flup(protocol: str, path: Path, case: Case) -> Fields:
    environ: dict[str, Any] = dict(request_params(case.method, case.path, dict(case.params), case.body))
    environ["wsgi.input"] = io.BytesIO(case.body)
    environ["wsgi.errors"] = io.StringIO()
    answer: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        answer.append((status.decode(), [(name.decode(), value.decode("latin-1")) for name, value in headers]))

    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(SECONDS)
        made.connect(str(path))
        try:
            body = b"".join(flup_client(protocol, made)(environ, start_response))
        except Exception as error:  # noqa: BLE001  # any that flup has
            return {"error": type(error).__name__}
    return seen(*answer[0], body, environ["wsgi.errors"].getvalue().encode())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("protocol", ["fastcgi", "scgi"])
def test_both_clients_with_our_server(protocol: str, name: str, ours: dict[str, Path]) -> None:
    case = CASES[name]
    with Client(protocol, str(ours[protocol]), timeout=SECONDS) as client:
        mine = ask(client, case)
    other = ask_by_flup(protocol, ours[protocol], case)
    table = FASTCGI_CLIENT if protocol == "fastcgi" else SCGI_CLIENT
    if "error" in other:
        mine = {"error": None}
    compare(name, mine, other, table)
