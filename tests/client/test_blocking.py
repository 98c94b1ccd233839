"""The blocking client against the server, and against peers that do what no server should."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateways.client import Client, Connection
from gateways.client.blocking import request_params
from gateways.codecs.events import Body, EndOfBody, EndOfResponse, Event, Request, ResponseHead
from gateways.codecs.fastcgi_front import FastCGIFrontCodec
from gateways.codecs.single_front import UWSGIFrontCodec
from gateways.errors import (
    LimitExceeded,
    LocalProtocolError,
    MalformedMessage,
    PeerClosed,
    RemoteProtocolError,
    TruncatedMessage,
)
from gateways.limits import Limits
from gateways.testing.framing.fastcgi_records import Record, encode_pairs as pairs
from tests.backends import backend, gateways, socket_directory

PROTOCOLS = ["fastcgi", "scgi", "uwsgi"]
SECONDS = 30.0


@pytest.fixture(scope="module")
def sockets() -> Iterator[dict[str, Path]]:
    with socket_directory() as directory:
        arguments, paths = gateways("tests.echo:app", directory, "--threads", "2")
        with backend(arguments, list(paths.values())):
            yield paths


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, sockets: dict[str, Path]) -> Iterator[Client]:
    with Client(request.param, str(sockets[request.param]), timeout=SECONDS) as made:
        yield made


# -- the server ---------------------------------------------------------------------------------------------------


def test_a_request(client: Client) -> None:
    response = client.request("GET", "/a%20b/caf%C3%A9?x=%20", params={"X_OWN": "\xe9", "HTTP_HOST": None})
    assert (response.status, response.reason, response.app_status, response.refused) == (200, "OK", 0, "")
    assert response.header("content-TYPE") == "text/plain"
    assert response.header("X-None") is None
    environ = json.loads(response.body)["environ"]
    assert environ["PATH_INFO"] == "/a b/caf\xc3\xa9"
    assert environ["REQUEST_URI"] == "/a%20b/caf%C3%A9?x=%20"
    assert environ["QUERY_STRING"] == "x=%20"
    assert environ["X_OWN"] == "\xe9"
    assert "HTTP_HOST" not in environ


@pytest.mark.parametrize("size", [0, 1, 65_528, 65_529, 3_000_000])
def test_a_body(client: Client, size: int) -> None:
    response = client.request("POST", "/", body=b"b" * size)
    seen = json.loads(response.body)
    assert seen["body"] == "b" * size
    assert seen["environ"]["CONTENT_LENGTH"] == str(size)


def test_a_body_in_blocks(client: Client) -> None:
    seen = json.loads(client.request("POST", "/", body=(b"%d" % n for n in range(5))).body)
    assert seen["body"] == "01234"
    assert ("CONTENT_LENGTH" in seen["environ"]) is (client.protocol != "fastcgi")
    blocks = [b"ab", b"", b"c"]
    seen = json.loads(client.request("POST", "/", params={"CONTENT_LENGTH": "3"}, body=blocks).body)
    assert (seen["body"], seen["environ"]["CONTENT_LENGTH"]) == ("abc", "3")


def test_an_answer_before_the_body_was_read(client: Client) -> None:
    for _ in range(3):
        assert client.request("POST", "/early", body=b"b" * 5_000_000).body == b"not read"
    assert client.request("GET", "/early").body == b"not read"


@pytest.mark.parametrize(
    ("path", "status", "reason", "size"),
    [
        ("/status", 404, "Not Here", 4),
        ("/empty", 204, "No Content", 0),
        ("/large", 200, "OK", 1_000_000),
        ("/blocks", 200, "OK", 389_000),
        ("/fail", 500, "Internal Server Error", 26),
    ],
)
def test_responses(client: Client, path: str, status: int, reason: str, size: int) -> None:
    for _ in range(2):
        response = client.request("GET", path)
        assert (response.status, response.reason, len(response.body)) == (status, reason, size)


def test_the_answer_to_head(client: Client) -> None:
    response = client.request("HEAD", "/large")
    assert (response.body, response.header("Content-Length")) == (b"", "1000000")


def test_error_output(client: Client) -> None:
    errors = client.request("GET", "/errors").errors
    assert errors == (b"a complaint\n" if client.protocol == "fastcgi" else b"")


def test_a_stream(client: Client) -> None:
    with client.stream("GET", "/blocks") as response:
        assert (response.status, response.reason) == (200, "OK")
        assert ("Content-Type", "text/plain") in response.headers
        blocks = iter(response)
        first = next(blocks)
        assert first.startswith(b"0,0,")
        assert len(first) + len(response.read()) == 389_000
    with client.stream("GET", "/large") as response:
        next(iter(response))
    assert client.request("GET", "/early").body == b"not read"


def test_kept_connections(sockets: dict[str, Path]) -> None:
    address = str(sockets["fastcgi"])
    with Client("fastcgi", address, timeout=SECONDS) as client:
        client.request("GET", "/")
        (connection,) = client._idle
        client.request("POST", "/", body=b"x" * 100_000)
        assert list(client._idle) == [connection]
        with client.stream("GET", "/") as one, client.stream("GET", "/") as two:
            assert one.connection is connection
            assert one.read() == two.read()
        assert len(client._idle) == 2
    assert list(client._idle) == []
    with Client("fastcgi", address, keep=False, timeout=SECONDS) as client:
        client.request("GET", "/")
        assert list(client._idle) == []


def test_threads_share_a_client(client: Client) -> None:
    seen: list[str] = []

    def ask(number: int) -> None:
        for turn in range(5):
            body = b"%d-%d" % (number, turn)
            seen.append(json.loads(client.request("POST", "/", body=body).body)["body"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(seen) == sorted(f"{number}-{turn}" for number in range(4) for turn in range(5))


def test_raw_bytes(sockets: dict[str, Path]) -> None:
    with Client("fastcgi", str(sockets["fastcgi"])).connect(SECONDS) as connection:
        connection.transcript = bytearray()
        assert connection.fileno() > 0
        params = pairs([("REQUEST_METHOD", "GET"), ("PATH_INFO", "/early")], long=[True])
        codec = connection.codec
        assert isinstance(codec, FastCGIFrontCodec)
        connection.send(Request(7, {"REQUEST_METHOD": "GET", "PATH_INFO": "/early"}, keep=True))
        connection.write(bytes(Record(1, 9, b"\0\1\1" + bytes(5))) + bytes(Record(4, 9, params)) + bytes(Record(4, 9)))
        connection.send(EndOfBody(7))
        answered: set[int] = set()
        while len(answered) < 1:
            event = connection.read()
            assert event is not None
            if isinstance(event, EndOfResponse):
                answered.add(event.stream)
        connection.write(bytes(Record(5, 9)))
        connection.write(codec.get_values(["FCGI_MPXS_CONNS"]))
        deadline = time.monotonic() + SECONDS
        while not codec.values or b"\1\3\0\x09" not in connection.transcript:
            connection.step(deadline)
        assert codec.values == {"FCGI_MPXS_CONNS": "1"}
        connection.end_writing()
        events = []
        while (last := connection.read()) is not None:
            events.append(last)
        assert connection.eof
        assert connection.read() is None


def test_a_ping(sockets: dict[str, Path]) -> None:
    codec = UWSGIFrontCodec()
    with Connection(codec, str(sockets["uwsgi"]), SECONDS) as connection:
        connection.write(codec.ping())
        while connection.read() is not None:
            pass
        assert codec.pong


def test_another_codec(sockets: dict[str, Path]) -> None:
    client = Client("uwsgi", str(sockets["uwsgi"]), make_codec=lambda: UWSGIFrontCodec(modifier1=9), timeout=SECONDS)
    assert client.request("GET", "/").status == 501


# -- peers ----------------------------------------------------------------------------------------------------------

Script = Callable[[socket.socket, int], None]


@contextlib.contextmanager
def serving(listener: socket.socket, *scripts: Script) -> Iterator[None]:
    """A peer in a thread: each connection gets the next script, run with the socket and the connection's number."""
    listener.settimeout(SECONDS)

    def run() -> None:
        for number, script in enumerate(scripts):
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(SECONDS)
                with connection:
                    script(connection, number)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(SECONDS)


@contextlib.contextmanager
def peer(*scripts: Script) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(listener, *scripts):
        yield listener.getsockname()


ANSWER = bytes(Record(6, 1, b"Status: 200 OK\r\n\r\nhi")) + bytes(Record(6, 1)) + bytes(Record(3, 1, bytes(8)))


def request_end(connection: socket.socket) -> bytes:
    """Read as far as the empty FCGI_STDIN."""
    data = b""
    while not data.endswith(bytes(Record(5, 1))):
        block = connection.recv(65_536)
        if not block:
            break
        data += block
    return data


def answers(*replies: bytes) -> Script:
    def script(connection: socket.socket, number: int) -> None:
        for reply in replies:
            request_end(connection)
            connection.sendall(reply)

    return script


def reset(connection: socket.socket, number: int) -> None:
    request_end(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def silent(connection: socket.socket, number: int) -> None:
    connection.recv(10)
    with contextlib.suppress(OSError):
        while connection.recv(1 << 20):
            pass


def dripping(connection: socket.socket, number: int) -> None:
    request_end(connection)
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(bytes(Record(6, 1, b"A: b\r\n")))
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (b"", TruncatedMessage, "before the end of response 1"),
        (ANSWER[:-3], TruncatedMessage, "within a record"),
        (ANSWER[:-16], TruncatedMessage, "before the end of response 1"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", MalformedMessage, "version 72"),
        (bytes(Record(3, 1, bytes(8))), MalformedMessage, "no head"),
        (bytes(Record(3, 1, b"\0\0\0\0\2\0\0\0")), RemoteProtocolError, "declined the request: overloaded"),
        (bytes(Record(6, 1, b"A: " + b"x" * 300)), LimitExceeded, "response head"),
    ],
)
def test_a_bad_answer(reply: bytes, error: type[Exception], words: str) -> None:
    with peer(answers(reply)) as address, pytest.raises(error, match=words):
        Client("fastcgi", address, timeout=SECONDS, limits=Limits(params_bytes=200)).request("POST", "/", body=b"x")


def test_events_come_before_the_error() -> None:
    reply = bytes(Record(6, 1, b"A: b\r\n\r\nhello")) + b"\0"
    with peer(answers(reply)) as address, Client("fastcgi", address, timeout=SECONDS).stream("POST", "/") as response:
        blocks = iter(response)
        assert next(blocks) == b"hello"
        with pytest.raises(MalformedMessage):
            next(blocks)


def test_a_reset() -> None:
    with peer(reset) as address, pytest.raises((PeerClosed, TruncatedMessage)):
        Client("fastcgi", address, timeout=SECONDS).request("POST", "/")


def test_a_kept_connection_that_was_closed_meanwhile() -> None:
    close = threading.Event()

    def first(connection: socket.socket, number: int) -> None:
        answers(ANSWER)(connection, number)
        close.wait(SECONDS)

    with peer(first, answers(ANSWER)) as address, Client("fastcgi", address, timeout=SECONDS) as client:
        assert client.request("POST", "/").body == b"hi"
        (connection,) = client._idle
        close.set()
        deadline = time.monotonic() + SECONDS
        while connection.is_idle():
            assert time.monotonic() < deadline
        assert client.request("POST", "/").body == b"hi"


def close_at_request(connection: socket.socket, number: int) -> None:
    """Answer once, then close when the next request has come."""
    answers(ANSWER, b"")(connection, number)


def test_a_request_on_a_kept_connection_is_sent_again_where_it_may_be() -> None:
    with peer(close_at_request, answers(ANSWER)) as address, Client("fastcgi", address, timeout=SECONDS) as client:
        client.request("GET", "/")
        assert client.request("GET", "/").body == b"hi"
    with peer(close_at_request) as address, Client("fastcgi", address, timeout=SECONDS) as client:
        client.request("GET", "/")
        with pytest.raises((TruncatedMessage, PeerClosed)):
            client.request("POST", "/")
    with peer(answers(b"")) as address, pytest.raises((TruncatedMessage, PeerClosed)):
        Client("fastcgi", address, timeout=SECONDS).request("GET", "/")


@pytest.mark.parametrize("script", [silent, dripping])
def test_the_deadline_of_a_response(script: Script) -> None:
    start = time.monotonic()
    with peer(script) as address, Client("fastcgi", address) as client:
        with pytest.raises(TimeoutError):
            client.request("GET", "/", timeout=0.3)
        assert 0.2 < time.monotonic() - start < SECONDS


def test_the_deadline_of_a_body() -> None:
    gone = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        gone.wait(SECONDS)

    with peer(script) as address, Client("fastcgi", address, timeout=0.3) as client:
        with pytest.raises(TimeoutError, match="took nothing"):
            client.request("POST", "/", body=b"x" * 50_000_000)
        with client.connect() as connection, pytest.raises(TimeoutError):
            connection.write(b"x" * 50_000_000)
        gone.set()


def test_the_deadline_of_a_full_backlog() -> None:
    with socket_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "s"))
        listener.listen(0)
        client = Client("scgi", str(directory / "s"), timeout=0.2)
        with contextlib.ExitStack() as stack, pytest.raises(TimeoutError, match="backlog"):  # noqa: PT012
            for _ in range(10):  # the system decides how many there is room for
                stack.enter_context(client.connect())


def test_an_early_answer_while_the_body_is_written() -> None:
    """The peer answers at once, and again and again while it reads: nobody waits for the other."""
    large = bytes(Record(6, 1, b"y" * 65_000)) * 100

    def script(connection: socket.socket, number: int) -> None:
        connection.recv(100)
        connection.sendall(bytes(Record(6, 1, b"A: b\r\n\r\n")) + large)
        request_end(connection)
        connection.sendall(bytes(Record(3, 1, bytes(8))))
        connection.recv(1)

    with peer(script) as address, Client("fastcgi", address, timeout=SECONDS) as client:
        assert client.request("POST", "/", body=b"x" * 5_000_000).body == b"y" * 6_500_000
        assert len(client._idle) == 1


def test_an_answer_and_a_close_while_the_body_is_written() -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.recv(100)
        connection.sendall(b"Status: 413 No\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while connection.recv(1 << 20):
                pass

    with peer(script) as address, Client("scgi", address, timeout=SECONDS) as client:
        assert client.request("POST", "/", body=b"x" * 20_000_000).status == 413


def test_an_answer_and_a_reset_while_the_body_is_written() -> None:
    """What was promised has come; that the peer did not read all of ours is no matter."""
    whole = b"Status: 413 No\r\nContent-Length: 2\r\n\r\nno"

    def script(connection: socket.socket, number: int) -> None:
        connection.recv(100)
        connection.sendall(whole if number == 0 else whole[:-1])

    with socket_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "s"))
        listener.listen()
        with serving(listener, script, script), Client("scgi", str(directory / "s"), timeout=SECONDS) as client:
            assert client.request("POST", "/", body=b"x" * 5_000_000).body == b"no"
            with pytest.raises((PeerClosed, TruncatedMessage)):
                client.request("POST", "/", body=b"x" * 5_000_000)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Client("scgi", str(tmp_path / "none")).request("GET", "/")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        Client("scgi", address).request("GET", "/")


def test_an_abstract_address() -> None:
    name = f"gateways-test-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind("\0" + name)
        except OSError:
            pytest.skip("this system has no abstract sockets")
        listener.listen()
        Client("scgi", "@" + name, timeout=SECONDS).connect().close()


def test_what_cannot_be_asked() -> None:
    with pytest.raises(LocalProtocolError, match="fastcgi, scgi, uwsgi"):
        Client("http", "/x")
    with pytest.raises(LocalProtocolError, match="percent-encode"):
        request_params("GET", "/€", {})
    with peer(silent) as address, pytest.raises(LocalProtocolError, match="longer"):
        Client("scgi", address, timeout=SECONDS).request("POST", "/", params={"CONTENT_LENGTH": "1"}, body=b"xy")


def test_the_parameters() -> None:
    params = request_params("POST", "/a%2Fb?c=%64", {"X": "y", "SERVER_NAME": None}, b"123")
    assert params["PATH_INFO"] == "/a/b"
    assert params["QUERY_STRING"] == "c=%64"
    assert (params["CONTENT_LENGTH"], params["X"]) == ("3", "y")
    assert "SERVER_NAME" not in params
    assert "CONTENT_LENGTH" not in request_params("GET", "/", {})
    assert request_params("POST", "/", {})["CONTENT_LENGTH"] == "0"
    assert "CONTENT_LENGTH" not in request_params("POST", "/", {}, iter([b"x"]))


def test_low_level_events() -> None:
    with peer(answers(ANSWER)) as address, Connection(FastCGIFrontCodec(), address, SECONDS) as connection:
        connection.send(Request(1, {}))
        connection.send(Body(1, b"x"))
        connection.send(EndOfBody(1))
        events: list[Event | None] = [connection.read() for _ in range(3)]
        assert events == [ResponseHead(1, "200 OK"), Body(1, b"hi"), EndOfResponse(1)]
        assert not connection.is_idle()
