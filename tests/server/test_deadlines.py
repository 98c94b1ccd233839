"""Requests that are ended before their application does, by whoever plays the master: here the test."""

from __future__ import annotations

import collections
import contextlib
import gc
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from gateways.apps.wsgi import WSGIApp
from gateways.errors import BodyError, RequestTimeout
from gateways.limits import Timeouts
from gateways.server.deadlines import INTERRUPT, Deadlines
from gateways.server.multiplex import MultiplexConnection
from gateways.server.observed import ObservedApp
from gateways.server.scoreboard import Board, Row
from gateways.testing.framing.fastcgi_records import STDIN, begin, pairs, rec
from tests.server.forks import ended, forked
from tests.server.peers import SECONDS, Answer, Peer, head_of, request
from tests.server.pools import TIMEOUTS, Gate, MemoryLog, Served, every_protocol, reply, within

kept_protocols = pytest.mark.parametrize("protocol", ["http", "fastcgi"])
some_threads = pytest.mark.parametrize("threads", [1, 2, 4])
Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]
ORDER = struct.Struct("<Qq")
GATEWAY_TIMEOUT = b"504 Gateway Timeout\n"


class Gates(dict[str, Gate]):
    """One gate a path, whoever comes to it first: the test or the application. A defaultdict may make two."""

    def __missing__(self, path: str) -> Gate:
        return self.setdefault(path, Gate())


class Application:
    """A WSGI application; how it behaves is told by the path."""

    def __init__(self) -> None:
        self.gates = Gates()
        """Where /wait... waits, by path."""
        self.entered: list[str] = []
        self.ended: list[tuple[str, str]] = []
        """Path, and the exception that it has seen."""
        self.sent: list[int] = []
        """An item for each block of a flood."""

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        self.entered.append(path)
        try:
            return getattr(self, path.strip("/").split("/")[0], self.quick)(environ, start_response)
        except BaseException as error:
            self.ended.append((path, type(error).__name__))
            raise

    def quick(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"quick " + environ["PATH_INFO"].encode()]

    def loop(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Pure Python, for ever."""
        while True:
            pass

    def calls(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Short calls into C, for ever."""
        while True:
            time.sleep(0.001)

    def wait(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """One long call into C, which ends when the test says so."""
        self.gates[environ["PATH_INFO"]].wait()
        return self.quick(environ, start_response)

    def stubborn(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Goes on after any exception."""
        try:
            self.loop(environ, start_response)
        except BaseException as error:  # noqa: BLE001
            self.ended.append((environ["PATH_INFO"], type(error).__name__))
        return self.quick(environ, start_response)

    def stream(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Answers in part, then loops for ever."""
        start_response("200 OK", [])
        return self._stream(environ)

    def _stream(self, environ: Environ) -> Iterator[bytes]:
        try:
            yield b"part"
            self.entered.append("streaming")
            while True:
                pass
        finally:
            self.ended.append((environ["PATH_INFO"], type(sys.exc_info()[1]).__name__))

    def helper(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Has a thread of its own read the body."""

        def read() -> None:
            self.entered.append("reading")
            with contextlib.suppress(BodyError, RequestTimeout):
                environ["wsgi.input"].read()

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        return self.quick(environ, start_response)

    def flood(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Answers without an end."""
        start_response("200 OK", [])
        while True:
            yield b"x" * 100_000
            self.sent.append(1)

    def many(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Answers in blocks that need no Python between them."""
        start_response("200 OK", [])
        return [b"0123456789"] * 300_000

    def complain(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Writes to wsgi.errors without an end."""
        while True:
            environ["wsgi.errors"].write("complaint " * 1000 + "\n")
            self.sent.append(1)

    def read(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Reads its body."""
        body = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"read " + body]

    def late(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Reads its body when the test says so."""
        self.gates[environ["PATH_INFO"]].wait()
        return self.read(environ, start_response)


class Timed:
    """A pool whose requests can be timed out."""

    def __init__(
        self, protocol: str = "http", *, threads: int = 1, tcp: bool = False, timeouts: Timeouts = TIMEOUTS,
        application: Any = None,  # noqa: ANN401  (any WSGI application)
        board: Board | None = None,
    ) -> None:  # fmt: skip
        self.application = application or Application()
        self.log = MemoryLog()
        self.board = board or Board(1, threads)
        self.board.clear(0)
        app = WSGIApp(self.application, self.log, mount=None, threads=threads > 1, processes=False)
        self.observed = ObservedApp(app, self.board, 0, None)
        self.served = Served(self.observed, protocol, threads=threads, tcp=tcp, timeouts=timeouts)
        self.deadlines = Deadlines(self.served.pool, self.observed)

    def busy(self, path: str) -> Row | None:
        for row in self.board.rows(0):
            if row.busy and row.line.endswith(f" {path}"):
                return row
        return None

    def await_busy(self, path: str) -> Row:
        """Wait until the application has ``path``, and return who serves it."""
        within(lambda: path in self.application.entered, f"the application is called with {path}")
        row = self.busy(path)
        assert row is not None
        return row

    def last(self, path: str) -> Row:
        """Return who serves a path, or has just served it."""
        deadline = time.monotonic() + SECONDS
        while True:
            for row in self.board.rows(0):
                if row.line == f"GET {path}":
                    return row
            assert time.monotonic() < deadline, f"nobody serves {path}"
            time.sleep(0)

    def cancel(self, path: str) -> Row:
        """Do what the master and the worker do when the time of a request has passed."""
        row = self.await_busy(path)
        self.deadlines.cancel(row.thread, row.serial)
        return row

    def await_idle(self) -> None:
        within(lambda: not any(row.busy for row in self.board.rows(0)), "all threads are free")

    def counted(self) -> dict[tuple[str, str], int]:
        self.await_idle()
        return {place: sum(found.counts) for place, found in self.board.times().items() if any(found.counts)}


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Deadlines takes a signal, and keeps it as long as its worker lives."""
    before = signal.getsignal(INTERRUPT)
    yield
    signal.signal(INTERRUPT, before)


@pytest.fixture(autouse=True)
def no_gc() -> Iterator[None]:
    """CPython swallows what is raised in what the collector calls: the interruption would be lost there.

    That is what hypothesis leaves among its callbacks, and what weak references to threads of earlier tests call.
    """
    before = gc.callbacks[:]
    gc.callbacks.clear()
    gc.disable()
    yield
    gc.enable()
    gc.callbacks[:] = before


def answers_504(answer: Answer) -> bool:
    return (answer.status, answer.body) == (504, GATEWAY_TIMEOUT)


# -- nothing has been sent yet ----------------------------------------------------------------------------------------


@every_protocol
@some_threads
@pytest.mark.parametrize("path", ["/loop", "/calls"])
def test_an_application_that_can_be_interrupted(protocol: str, threads: int, path: str) -> None:
    timed = Timed(protocol, threads=threads)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request(protocol, path))
            timed.cancel(path)
            assert answers_504(peer.answer())
        within(lambda: timed.application.ended, "the application is interrupted")
        timed.await_idle()
        assert timed.application.ended == [(path, "RequestTimeout")]
        assert timed.counted() == {(protocol, "5xx"): 1}
        for number in range(3 * threads):
            with served.connect() as peer:
                assert peer.get(f"/{number}").body == b"quick /%d" % number
        assert timed.log.lines == []


@every_protocol
@some_threads
def test_an_application_that_sits_in_a_long_call(protocol: str, threads: int) -> None:
    """The client does not wait for it; the exception comes when the call returns."""
    timed = Timed(protocol, threads=threads)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request(protocol, "/wait"))
            timed.application.gates["/wait"].await_waiting(1)
            row = timed.cancel("/wait")
            assert answers_504(peer.answer())
        assert timed.busy("/wait") == row
        if threads > 1:
            with served.connect() as peer:
                assert peer.get("/meanwhile").body == b"quick /meanwhile"
        timed.application.gates["/wait"].open()
        timed.await_idle()
        assert timed.application.ended == [("/wait", "RequestTimeout")]
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"


@every_protocol
@some_threads
def test_an_application_that_goes_on_after_any_exception(protocol: str, threads: int) -> None:
    """Its answer comes too late: nobody gets it."""
    timed = Timed(protocol, threads=threads)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request(protocol, "/stubborn"))
            timed.cancel("/stubborn")
            assert answers_504(peer.answer())
        timed.await_idle()
        assert timed.application.ended == [("/stubborn", "RequestTimeout")]
        assert timed.counted() == {(protocol, "5xx"): 1}
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"


@some_threads
@pytest.mark.parametrize("path", ["/loop", "/wait", "/stubborn"])
def test_a_kept_fastcgi_connection_goes_on(threads: int, path: str) -> None:
    timed = Timed("fastcgi", threads=threads)
    with timed.served as served, served.connect() as peer:
        assert peer.keep_get("/before").body == b"quick /before"
        for number in range(3):
            peer.send(request("fastcgi", f"{path}/{number}", keep=True))
            timed.cancel(f"{path}/{number}")
            assert answers_504(peer.next_answer()[1])
            timed.application.gates[f"{path}/{number}"].open()
            assert peer.keep_get(f"/after/{number}").body == b"quick /after/%d" % number
        assert timed.counted() == {("fastcgi", "5xx"): 3, ("fastcgi", "2xx"): 4}


@some_threads
@pytest.mark.parametrize("path", ["/loop", "/wait", "/stubborn"])
@pytest.mark.parametrize("behind", [b"", request("http", "/behind", keep=True)], ids=["", "pipelined"])
def test_a_kept_http_connection_ends_with_the_504(threads: int, path: str, behind: bytes) -> None:
    """It is its thread's, which may never come back: the client is told so, and sees the end."""
    timed = Timed("http", threads=threads, tcp=True)
    with timed.served as served:
        for number in range(3):
            with served.connect() as peer:
                assert peer.keep_get("/before").body == b"quick /before"
                peer.send(request("http", f"{path}/{number}", keep=True) + behind)
                timed.cancel(f"{path}/{number}")
                answer = peer.next_answer()[1]
                assert answers_504(answer)
                assert answer.head.endswith(b"\r\nConnection: close")
                assert peer.read() == b""
                timed.application.gates[f"{path}/{number}"].open()
                timed.await_idle()
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"
        assert timed.counted() == {("http", "5xx"): 3, ("http", "2xx"): 4}
        assert "/behind" not in timed.application.entered


@every_protocol
def test_no_body_for_head(protocol: str) -> None:
    timed = Timed(protocol)
    with timed.served as served, served.connect() as peer:
        peer.send(
            request(protocol, "/loop").replace(b"GET", b"PUT") if protocol == "nothing" else head(protocol, "/loop")
        )
        timed.cancel("/loop")
        answer = peer.answer()
        assert (answer.status, answer.body) == (504, b"")


def head(protocol: str, path: str) -> bytes:
    """A HEAD request: a byte longer than GET."""
    data = request(protocol, path)
    if protocol == "http":
        return data.replace(b"GET", b"HEAD", 1)
    if protocol == "scgi":
        size, _, rest = data.partition(b":")
        return b"%d:" % (int(size) + 1) + rest.replace(b"\0GET\0", b"\0HEAD\0")
    if protocol == "uwsgi":
        length = int.from_bytes(data[1:3], "little") + 1
        return data[:1] + length.to_bytes(2, "little") + data[3:].replace(b"\3\0GET", b"\4\0HEAD")
    params = {"REQUEST_METHOD": "HEAD", "REQUEST_URI": path, "PATH_INFO": path, "SCRIPT_NAME": ""}
    return begin(1) + rec(4, 1, pairs(params)) + rec(4, 1) + rec(STDIN, 1)


# -- something has been sent ------------------------------------------------------------------------------------------


@every_protocol
@some_threads
def test_a_response_that_has_begun_is_cut(protocol: str, threads: int) -> None:
    """Over TCP by a reset, which nobody takes for an end."""
    timed = Timed(protocol, threads=threads, tcp=True)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request(protocol, "/stream"))
            within(lambda: "streaming" in timed.application.entered, "it streams")
            timed.cancel("/stream")
            with pytest.raises(ConnectionResetError):
                peer.read()
        timed.await_idle()
        assert ("/stream", "RequestTimeout") in timed.application.ended
        assert timed.counted() == {(protocol, "2xx"): 1}
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"


@kept_protocols
@some_threads
@pytest.mark.parametrize("keep", [False, True])
def test_a_response_that_has_begun_is_cut_on_a_unix_socket(protocol: str, threads: int, keep: bool) -> None:
    """Where there is no reset, its form tells that it has not ended."""
    timed = Timed(protocol, threads=threads)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request(protocol, "/stream", keep=keep))
            within(lambda: "streaming" in timed.application.entered, "it streams")
            timed.cancel("/stream")
            data = peer.read()
            assert b"part" in data
            assert not data.endswith(b"0\r\n\r\n")
            if protocol == "fastcgi":
                assert rec(3, 1, bytes(8)) not in data  # FCGI_END_REQUEST
                assert data.endswith(b"\xff" * 8)  # no record
        timed.await_idle()
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"


@some_threads
def test_a_response_in_blocks_that_run_no_python_is_cut(threads: int) -> None:
    """The exception may then be raised by the first Python that the server itself runs."""
    timed = Timed("http", threads=threads, tcp=True)
    noise = random.Random(threads)
    with timed.served as served:
        for number in range(10):
            with served.connect() as peer:
                peer.send(request("http", f"/many/{number}", keep=True))
                row = timed.await_busy(f"/many/{number}")
                peer.more()
                pause = time.perf_counter() + noise.random() * 0.002
                while time.perf_counter() < pause:
                    pass
                timed.deadlines.cancel(row.thread, row.serial)
                start = time.monotonic()
                with pytest.raises(ConnectionResetError):
                    peer.read()
                assert time.monotonic() - start < SECONDS / 3
            timed.await_idle()


@kept_protocols
@some_threads
def test_what_has_ended_is_not_given_up(protocol: str, threads: int) -> None:
    """As where the exception comes between the last byte and the end of what the server does for the request."""

    def app(exchange: Any) -> None:  # noqa: ANN401
        reply(exchange, b"whole")
        exchange.abandon()

    served = Served(app, protocol, threads=threads)
    served.pool.timed = True
    with served, served.connect() as peer:
        for _ in range(3):
            assert peer.keep_get().body == b"whole"


# -- its body is being read -------------------------------------------------------------------------------------------


@every_protocol
@some_threads
def test_an_application_that_waits_for_a_body(protocol: str, threads: int) -> None:
    """The client is answered at once; the thread is free when it goes."""
    timed = Timed(protocol, threads=threads)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(head_of(protocol, "/read", length=10))
            if protocol != "fastcgi":
                peer.send(b"abc")
            timed.await_busy("/read")
            time.sleep(0.02)  # until it waits
            timed.cancel("/read")
            answer = first_answer(peer)
            assert answers_504(answer)
        timed.await_idle()
        assert timed.application.ended[0][1] in ("RequestTimeout", "BodyError")
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"
        assert timed.counted() == {(protocol, "5xx"): 1, (protocol, "2xx"): 1}


def first_answer(peer: Peer) -> Answer:
    """Read an answer which the server may be slow to close behind."""
    if peer.protocol == "fastcgi":
        return peer.next_answer()[1]
    while not peer.buffer.endswith(GATEWAY_TIMEOUT):
        peer.more()
    head, _, body = peer.buffer.partition(b"\r\n\r\n")
    assert b" 504 " in head
    return Answer(504, head, body)


@kept_protocols
def test_a_thread_of_the_applications_own_that_waits_for_a_body(protocol: str) -> None:
    """As with a2wsgi. Whatever becomes of this request, the next one there may wait as long as it likes."""
    timed = Timed(protocol, threads=1)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(head_of(protocol, "/helper", length=6))
            row = timed.await_busy("/helper")
            within(lambda: "reading" in timed.application.entered, "the helper reads")
            time.sleep(0.02)
            timed.deadlines.cancel(row.thread, row.serial)
            if protocol == "fastcgi":
                peer.stdin(1, b"abcdef", end=True)
            else:
                peer.send(b"abcdef")
            timed.await_idle()
        with served.connect() as peer:
            peer.send(head_of(protocol, "/read", length=6))
            timed.await_busy("/read")
            time.sleep(0.3)  # longer than a thread that is overdue may wait
            if protocol == "fastcgi":
                peer.stdin(1, b"abcdef", end=True)
            else:
                peer.send(b"abcdef")
            assert peer.answer().body == b"read abcdef"


@pytest.mark.parametrize("threads", [2, 4])
def test_a_kept_connection_whose_body_comes_late(threads: int) -> None:
    """The rest of it belongs to nobody, and the next request is served."""
    timed = Timed("fastcgi", threads=threads)
    with timed.served as served, served.connect() as peer:
        for number in range(1, 4):
            peer.send(head_of("fastcgi", f"/read/{number}", length=6, keep=True, stream=number))
            peer.stdin(number, b"abc")
            timed.await_busy(f"/read/{number}")
            timed.cancel(f"/read/{number}")
            assert answers_504(peer.next_answer()[1])
            peer.stdin(number, b"def", end=True)
            assert peer.keep_get("/after").body == b"quick /after"
        timed.await_idle()
        assert timed.counted() == {("fastcgi", "5xx"): 3, ("fastcgi", "2xx"): 3}


@pytest.mark.parametrize("threads", [2, 4])
def test_nothing_is_raised_in_a_thread_that_takes_its_connections_lock_to_read(threads: int) -> None:
    """CPython 3.10 might leave the lock held."""
    timed = Timed("fastcgi", threads=threads)
    with timed.served as served, served.connect() as peer:
        peer.send(head_of("fastcgi", "/late", length=6, keep=True))
        timed.application.gates["/late"].await_waiting(1)
        (exchange,) = timed.deadlines._serving.values()
        connection = exchange.connection
        assert isinstance(connection, MultiplexConnection)
        with connection.lock:
            timed.application.gates["/late"].open()
            within(lambda: exchange.sheltered, "the thread is in the server's own code", SECONDS / 3)
        peer.stdin(1, b"abcdef", end=True)
        assert peer.next_answer()[1].body == b"read abcdef"
        assert peer.keep_get("/after").body == b"quick /after"


# -- several requests of one connection -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 4, 8])
@pytest.mark.parametrize("path", ["/loop", "/stubborn", "/stream", "/read"])
def test_other_requests_of_the_connection_are_unharmed(threads: int, path: str) -> None:
    timed = Timed("fastcgi", threads=threads)
    with timed.served as served, served.connect() as peer:
        for turn in range(5):
            slow, sick = f"/wait/{turn}", f"{path}/{turn}"
            peer.send(request("fastcgi", slow, keep=True, stream=1))
            timed.application.gates[slow].await_waiting(1)
            if path == "/read":
                peer.send(head_of("fastcgi", sick, length=6, keep=True, stream=2))
            else:
                peer.send(request("fastcgi", sick, keep=True, stream=2))
            if path == "/stream":
                within(lambda turn=turn: timed.application.entered.count("streaming") == turn + 1, "it streams")  # type: ignore[misc]
            timed.cancel(sick)
            number, answer = peer.next_answer()
            assert number == 2
            assert answers_504(answer) or (path == "/stream" and answer.body == b"part")
            if path == "/read":
                peer.stdin(2, b"abcdef", end=True)
            peer.send(request("fastcgi", "/quick", keep=True, stream=3))
            assert peer.next_answer() == (3, Answer(200, b"Status: 200 OK\r\nContent-Length: 12", b"quick /quick"))
            timed.application.gates[slow].open()
            number, answer = peer.next_answer()
            assert (number, answer.body) == (1, b"quick " + slow.encode())
        timed.await_idle()
        assert peer.keep_get("/after").body == b"quick /after"


# -- it comes too late ------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns five times as often as usual: what happens between two turns can be as much shorter."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    yield
    sys.setswitchinterval(before)


@every_protocol
@some_threads
@pytest.mark.parametrize("path", ["/whole", "/pieces", "/after"])
@pytest.mark.usefixtures("quick_switches")
def test_whenever_it_comes(protocol: str, threads: int, path: str) -> None:
    """Around the end of a request: that is answered, timed out or cut, and the next one is unharmed."""
    keep = protocol in ("http", "fastcgi") and path == "/whole"
    noise = random.Random(threads)
    timed = Timed(protocol, threads=threads, application=spin)
    peer = Peer(timed.served.address, protocol)
    outcomes: collections.Counter[str] = collections.Counter()

    def ask(path: str, cancel: bool = False) -> str:
        nonlocal peer
        if not keep or peer.sock.fileno() < 0:
            peer.sock.close()
            peer = Peer(timed.served.address, protocol)
        peer.send(request(protocol, path, keep=keep))
        if cancel:
            row = timed.last(path)
            pause = time.perf_counter() + noise.random() * 0.001
            while time.perf_counter() < pause:
                pass
            timed.deadlines.cancel(row.thread, row.serial)
        try:
            answer = peer.next_answer()[1] if keep else peer.answer()
        except (ConnectionError, AssertionError):  # what Peer says of half an answer
            peer.sock.close()
            return "cut"
        if answers_504(answer):
            if protocol == "http":
                peer.sock.close()
            return "timed out"
        assert answer.status == 200
        return "answered" if answer.body == path.encode() else "cut"

    allowed = {"answered", "timed out"} if path == "/whole" else {"answered", "timed out", "cut"}
    wanted = {"answered"} if path == "/after" else allowed
    deadline = time.monotonic() + 3 * SECONDS
    with timed.served as served:
        number = 0
        while number < 20 or not wanted <= set(outcomes):
            assert time.monotonic() < deadline, outcomes
            number += 1
            found = ask(f"{path}/{number}/{noise.choice((1, 200, 4_000, 40_000))}", cancel=True)
            assert found in allowed
            outcomes[found] += 1
            assert ask(f"/whole/{number}/1") == "answered"
        peer.sock.close()
        timed.await_idle()
        assert served.log.lines == []


def spin(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Compute a little, then answer; or between the pieces of the answer; or after it."""
    path: str = environ["PATH_INFO"]
    _, kind, _, count = path.split("/")
    if kind == "whole":
        work(int(count))
    start_response("200 OK", [("Content-Length", str(len(path)))])
    if kind == "whole":
        return [path.encode()]
    return Pieces(path.encode(), int(count), kind == "after")


def work(count: int) -> None:
    for _ in range(count):
        str(count)


class Pieces:
    def __init__(self, content: bytes, count: int, late: bool) -> None:
        self.content = content
        self.count = count
        self.late = late

    def __iter__(self) -> Iterator[bytes]:
        if self.late:
            yield self.content
            return
        work(self.count)
        for at in range(len(self.content)):
            yield self.content[at : at + 1]
            work(self.count // 10)

    def close(self) -> None:
        work(self.count)


def test_who_is_not_meant() -> None:
    """Another request, another thread, one that is over: nothing happens to anybody."""
    timed = Timed("fastcgi", threads=3)
    with timed.served as served, served.connect() as peer:
        timed.deadlines.cancel(0, 1)  # nobody has ever served
        peer.send(request("fastcgi", "/wait/1", keep=True, stream=1))
        peer.send(request("fastcgi", "/wait/2", keep=True, stream=2))
        first, second = timed.await_busy("/wait/1"), timed.await_busy("/wait/2")
        for thread, serial in (
            (first.thread, first.serial + 1), (first.thread, first.serial - 1), (first.thread, 0), (99, first.serial),
            (second.thread, 7), (3 - first.thread - second.thread, 1), (3 - first.thread - second.thread, -1),
        ):  # fmt: skip
            timed.deadlines.cancel(thread, serial)
        for path in ("/wait/1", "/wait/2"):
            timed.application.gates[path].open()
        assert {number: answer.body for number, answer in peer.answers(2).items()} == {
            1: b"quick /wait/1",
            2: b"quick /wait/2",
        }
        timed.await_idle()
        for row in (first, second):
            timed.deadlines.cancel(row.thread, row.serial)
        for number in range(10):
            assert peer.keep_get(f"/{number}").body == b"quick /%d" % number
        assert timed.counted() == {("fastcgi", "2xx"): 12}
        assert timed.application.ended == []


@some_threads
def test_a_request_that_has_only_just_begun(threads: int) -> None:
    """The board shows it, and its thread has not got far enough to be interrupted."""
    timed = Timed(threads=threads)
    deadlines = timed.deadlines

    class Late:
        """Begins only when the order is there."""

        ordered = threading.Event()

        def entered(self, ident: int, exchange: Any) -> None:  # noqa: ANN401
            assert self.ordered.wait(SECONDS)
            deadlines.entered(ident, exchange)

        def left(self, ident: int) -> None:
            deadlines.left(ident)

    timed.observed.interrupter = Late()
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request("http", "/loop"))
            row = timed.last("/loop")
            order = threading.Thread(target=deadlines.cancel, args=(row.thread, row.serial))
            order.start()
            within(lambda: order.ident in timed.served.pool.overdue, "the order is being carried out")
            Late.ordered.set()
            assert answers_504(peer.answer())
            order.join()
        timed.await_idle()


def test_a_request_that_takes_the_place_of_the_one_that_is_meant() -> None:
    """Between two looks the thread has gone on to its next request: that one is not meant."""
    timed = Timed()
    with timed.served as served, served.connect() as peer:
        row = None
        for number in range(200):
            peer.send(request("http", f"/{number}", keep=True))
            row = row or timed.last(f"/{number}")
            timed.deadlines.cancel(row.thread, row.serial + number - 1)  # the one before
            assert peer.next_answer()[1].body == b"quick /%d" % number
        assert timed.counted() == {("http", "2xx"): 200}


@some_threads
def test_twice(threads: int) -> None:
    timed = Timed("fastcgi", threads=threads)
    with timed.served as served, served.connect() as peer:
        peer.send(request("fastcgi", "/wait", keep=True))
        row = timed.cancel("/wait")
        timed.deadlines.cancel(row.thread, row.serial)
        timed.deadlines.cancel(row.thread, row.serial)
        assert answers_504(peer.next_answer()[1])
        timed.application.gates["/wait"].open()
        for number in range(5):
            assert peer.keep_get(f"/{number}").body == b"quick /%d" % number
        assert timed.counted() == {("fastcgi", "5xx"): 1, ("fastcgi", "2xx"): 5}


@pytest.mark.parametrize("protocol", ["http", "fastcgi"])
def test_all_threads_at_once(protocol: str) -> None:
    threads = 6
    timed = Timed(protocol, threads=threads)
    with timed.served as served:
        peers = [served.connect() for _ in range(threads)]
        for turn in range(3):
            if protocol == "http":  # each ends with its 504
                for peer in peers:
                    peer.sock.close()
                peers = [served.connect() for _ in range(threads)]
            for number, peer in enumerate(peers):
                peer.send(request(protocol, f"/loop/{turn}/{number}", keep=True))
            for number in range(threads):
                timed.cancel(f"/loop/{turn}/{number}")
            for peer in peers:
                assert answers_504(peer.next_answer()[1])
            timed.await_idle()
        for peer in peers:
            if protocol == "fastcgi":
                assert peer.keep_get("/after").body == b"quick /after"
            peer.sock.close()
        for _ in range(threads):
            with served.connect() as peer:
                assert peer.get("/after").body == b"quick /after"
        served_after = threads if protocol == "http" else 2 * threads
        assert timed.counted() == {(protocol, "5xx"): 3 * threads, (protocol, "2xx"): served_after}


@every_protocol
@pytest.mark.parametrize("tcp", [False, True])
def test_a_client_that_has_gone(protocol: str, tcp: bool) -> None:
    timed = Timed(protocol, threads=2, tcp=tcp)
    with timed.served as served:
        for number in range(5):
            with served.connect() as peer:
                peer.send(request(protocol, f"/loop/{number}"))
                timed.await_busy(f"/loop/{number}")
            timed.cancel(f"/loop/{number}")
            timed.await_idle()
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"


def test_what_is_traced_after_a_request_that_was_timed_out() -> None:
    """A debugger, a profiler, coverage: CPython 3.11 hangs where an exception was taken back from a thread."""

    def body() -> None:
        timed = Timed()
        with timed.served as served:
            for path in ("/loop", "/wait"):
                with served.connect() as peer:
                    peer.send(request("http", path))
                    timed.cancel(path)
                    assert answers_504(peer.answer())
                timed.application.gates[path].open()
                timed.await_idle()
        sys.settrace(lambda *_: None)
        for number in range(1000):
            GATEWAY_TIMEOUT.startswith(bytes(number % 10))
            answers_504(Answer(504, b"", b""))

    with forked(body) as pid:
        assert ended(pid) == 0


class Holding(Application):
    """Comes back with locks held, as CPython 3.10 may have it where RequestTimeout is raised at the end of a with."""

    def __init__(self) -> None:
        super().__init__()
        self.locks: list[Any] = []

    def hold(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        for lock in self.locks:
            lock.acquire()
        if environ["PATH_INFO"] == "/hold/raise":
            raise RequestTimeout
        return self.quick(environ, start_response)


@every_protocol
@some_threads
@pytest.mark.parametrize("path", ["/hold", "/hold/raise"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_lock_that_is_left_held(protocol: str, threads: int, path: str, times: int) -> None:
    """It is released at the end of the request, or nobody would be answered any more."""
    application = Holding()
    timed = Timed(protocol, threads=threads, application=application)
    locks = [timed.served.pool.guard, timed.deadlines._answering]
    application.locks = locks * times
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request(protocol, path))
            assert peer.answer().status == (504 if path == "/hold/raise" else 200)
        timed.await_idle()
        for lock in locks:
            assert lock.acquire(timeout=SECONDS / 3), "no other thread gets it"
            lock.release()
        with served.connect() as peer:
            peer.send(request(protocol, "/loop"))
            timed.cancel("/loop")
            assert answers_504(peer.answer())
        for _ in range(threads):
            with served.connect() as peer:
                assert peer.get("/after").body == b"quick /after"
        assert timed.log.lines == []


# -- slow clients -----------------------------------------------------------------------------------------------------


@every_protocol
@some_threads
def test_a_client_that_does_not_take_its_answer(protocol: str, threads: int) -> None:
    """The thread waits for it in the server's own code, and is freed all the same."""
    timed = Timed(protocol, threads=threads)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request(protocol, "/flood"))
            row = timed.await_busy("/flood")
            within(
                lambda: len(timed.application.sent) and stands(timed.application.sent), "the client's window is full"
            )
            before = time.monotonic()
            timed.deadlines.cancel(row.thread, row.serial)
            timed.await_idle()
            assert time.monotonic() - before < SECONDS / 3
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"


@some_threads
def test_a_web_server_that_takes_no_errors(threads: int) -> None:
    """An application that complains does not go on complaining when its time is over."""
    timed = Timed("fastcgi", threads=threads)
    with timed.served as served:
        with served.connect() as peer:
            peer.send(request("fastcgi", "/complain", keep=True))
            row = timed.await_busy("/complain")
            within(lambda: timed.application.sent and stands(timed.application.sent), "the web server's window is full")
            timed.deadlines.cancel(row.thread, row.serial)
            timed.await_idle()
            assert timed.application.ended == [("/complain", "RequestTimeout")]
            assert any(line == "complaint " * 1000 + "\n" for line in timed.log.lines)
        with served.connect() as peer:
            assert peer.get("/after").body == b"quick /after"


def stands(items: list[int]) -> bool:
    """Nothing has come for a while."""
    count = len(items)
    time.sleep(0.05)
    return len(items) == count


@pytest.mark.parametrize("threads", [2, 4])
def test_a_slow_client_delays_nobody_elses_deadline(threads: int) -> None:
    """Another request of its connection is being written: the 504 cannot go, so that connection ends, and no other."""
    timed = Timed("fastcgi", threads=threads)
    with timed.served as served, served.connect() as peer, served.connect() as other:
        peer.send(request("fastcgi", "/flood", keep=True, stream=1))
        timed.await_busy("/flood")
        within(lambda: len(timed.application.sent) and stands(timed.application.sent), "the client's window is full")
        peer.send(request("fastcgi", "/loop/1", keep=True, stream=2))
        row = timed.await_busy("/loop/1")
        done = threading.Event()

        def cancel() -> None:
            timed.deadlines.cancel(row.thread, row.serial)
            done.set()

        orders = threading.Thread(target=cancel)
        orders.start()
        try:
            assert done.wait(SECONDS / 3), "the worker hears no further order"
            within(lambda: timed.busy("/loop/1") is None, "the thread is free")
            assert other.keep_get("/after").body == b"quick /after"
            if threads > 2:
                other.send(request("fastcgi", "/loop/2", keep=True))
                timed.cancel("/loop/2")
                assert answers_504(other.next_answer()[1])
        finally:
            peer.sock.close()
            orders.join()


# -- in the main thread -----------------------------------------------------------------------------------------------


class MainThread:
    """A worker process, whose main thread serves and whose other one takes orders."""

    def __init__(self, protocol: str, threads: int, *, lost: int = 0) -> None:
        self.protocol = protocol
        self.threads = threads
        self.lost = lost
        """So many signals come a moment too early: just before the system call that they should end."""
        self.board = Board(1, threads)
        self.ours, self.theirs = socket.socketpair()
        self.address = b""
        self.released = mmap.mmap(-1, 1)
        """Shared with the worker: /held may go on."""

    def body(self) -> None:
        self.ours.close()
        timed = Timed(self.protocol, threads=self.threads, application=MainApplication(self.released), board=self.board)
        served = timed.served

        send = signal.pthread_kill

        def kill(ident: int, number: int) -> None:
            if self.lost:
                self.lost -= 1
            else:
                send(ident, number)

        signal.pthread_kill = kill

        def obey() -> None:
            while order := self.theirs.recv(16):
                if order == b"stop":
                    served.stop()
                    return
                timed.deadlines.cancel(*ORDER.unpack(order))
                self.theirs.sendall(b"d")

        threading.Thread(target=obey, daemon=True).start()
        self.theirs.sendall(str(served.address).encode())
        served._run()
        served.sock.close()
        served._directory.cleanup()
        assert served.crash is None
        assert served.log.lines == []
        assert not served.pool.connections

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        try:
            with forked(self.body) as pid:
                self.theirs.close()
                self.address = self.ours.recv(200)
                yield
                self.ours.sendall(b"stop")
                assert ended(pid) == 0
        finally:
            self.ours.close()

    def connect(self) -> Peer:
        return Peer(self.address, self.protocol)

    def busy(self, path: str) -> Row:
        found: list[Row] = []

        def look() -> bool:
            found[:] = [row for row in self.board.rows(0) if row.busy and row.line.endswith(f" {path}")]
            return bool(found)

        within(look, f"somebody serves {path}")
        return found[0]

    def cancel(self, row: Row) -> None:
        self.ours.sendall(ORDER.pack(row.thread, row.serial))
        assert self.ours.recv(1) == b"d"

    def release(self) -> None:
        self.released[0] = 1

    def await_idle(self) -> None:
        within(lambda: not any(row.busy for row in self.board.rows(0)), "all threads are free")


class MainApplication(Application):
    """What else may stand still in a main thread."""

    def __init__(self, released: mmap.mmap) -> None:
        super().__init__()
        self.released = released

    def held(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Pure Python, until the test says so."""
        while not self.released[0]:
            pass
        return self.quick(environ, start_response)

    def sleep(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        time.sleep(1000)
        return self.quick(environ, start_response)

    def lock(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        lock = threading.Lock()
        with lock, lock:
            return self.quick(environ, start_response)

    def pipe(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        readable, writable = os.pipe()
        try:
            os.read(readable, 1)
        finally:
            os.close(readable)
            os.close(writable)
        return self.quick(environ, start_response)

    def program(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        subprocess.run(["sleep", "1000"], check=True)
        return self.quick(environ, start_response)

    def spin(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        work(int(environ["PATH_INFO"].rpartition("/")[2]))
        return self.quick(environ, start_response)


@every_protocol
@pytest.mark.parametrize("path", ["/sleep", "/lock", "/pipe", "/program", "/loop", "/calls", "/stubborn"])
def test_the_main_thread(protocol: str, path: str) -> None:
    """A signal ends system calls too; what comes next is unharmed."""
    worker = MainThread(protocol, 1)
    with worker.run():
        for number in range(3):
            with worker.connect() as peer:
                peer.send(request(protocol, f"{path}/{number}"))
                row = worker.busy(f"{path}/{number}")
                worker.cancel(row)
                assert answers_504(peer.answer())
            worker.await_idle()
            with worker.connect() as peer:
                assert peer.get("/after").body == b"quick /after"


def test_a_signal_that_comes_too_early() -> None:
    """It is sent again until the thread has noticed it."""
    worker = MainThread("http", 1, lost=3)
    with worker.run():
        for path in ("/sleep", "/after"):
            with worker.connect() as peer:
                peer.send(request("http", path))
                if path == "/sleep":
                    worker.cancel(worker.busy(path))
                    assert answers_504(peer.answer())
                    worker.await_idle()
                else:
                    assert peer.answer().body == b"quick /after"


def test_a_main_thread_that_knows_no_signals() -> None:
    """Nobody waits for it long."""
    worker = MainThread("http", 2, lost=1000)
    with worker.run():
        row: Row | None = None
        # The main thread's ident is this one's, in a fork. Where it was slow for a moment another one leads, and hears.
        while row is None or row.ident != threading.get_ident():
            worker.await_idle()
            with worker.connect() as peer:
                peer.send(request("http", "/held"))
                row = worker.busy("/held")
                start = time.monotonic()
                worker.cancel(row)
                assert time.monotonic() - start < SECONDS / 3
                assert answers_504(peer.answer())
        assert worker.busy("/held") == row
        worker.release()
        worker.await_idle()


@kept_protocols
@pytest.mark.usefixtures("quick_switches")
def test_the_main_thread_around_the_end_of_its_requests(protocol: str) -> None:
    worker = MainThread(protocol, 1)
    noise = random.Random(3)
    outcomes: collections.Counter[int] = collections.Counter()
    deadline = time.monotonic() + 2 * SECONDS
    with worker.run():
        peer = worker.connect()
        number = 0
        while number < 100 or len(outcomes) < 2:
            assert time.monotonic() < deadline
            number += 1
            path = f"/spin/{number}/{noise.choice((1_000, 10_000, 100_000))}"
            peer.send(request(protocol, path, keep=True))
            pause = time.perf_counter() + noise.random() * 0.003
            while time.perf_counter() < pause:
                pass
            worker.cancel(worker.board.rows(0)[0])
            answer = peer.next_answer()[1]
            assert answers_504(answer) or answer.body == b"quick " + path.encode()
            outcomes[answer.status] += 1
            if protocol == "http" and answer.status == 504:
                peer.sock.close()
                peer = worker.connect()
            assert peer.keep_get("/after").body == b"quick /after"
        peer.sock.close()


@every_protocol
def test_the_main_thread_reads_a_body(protocol: str) -> None:
    worker = MainThread(protocol, 1)
    with worker.run():
        with worker.connect() as peer:
            peer.send(head_of(protocol, "/read", length=10))
            row = worker.busy("/read")
            worker.cancel(row)
            assert answers_504(first_answer(peer))
            worker.await_idle()
        with worker.connect() as peer:
            assert peer.get("/after").body == b"quick /after"
