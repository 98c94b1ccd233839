"""Requests that hold no thread while they wait: who goes on with them, when, and what becomes of their connections."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gateways.apps import Course, WatchedExchange
from gateways.apps.wait import Wait
from gateways.limits import Timeouts
from gateways.server.courses import Courses
from gateways.testing.framing.fastcgi_records import ABORT, rec
from tests.server.peers import PROTOCOLS, SECONDS, request
from tests.server.pools import Served, reply, within


class Waiting:
    """``/wait`` waits until ``open`` is called, without a thread; all is answered with the name of the thread."""

    def __init__(self) -> None:
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.waits = 0
        """How often a request has begun to wait."""
        self.looks = 0
        self._open = False
        self.until = float("inf")

    def __call__(self, exchange: WatchedExchange) -> Course | None:
        if exchange.request.params["REQUEST_URI"] != "/wait":
            self._reply(exchange)
            return None
        return self._course(exchange)

    def _course(self, exchange: WatchedExchange) -> Course:
        wait = Wait()
        pair = socket.socketpair()
        self._pairs.append(pair)
        wait.add(pair[0].fileno(), select.POLLIN)
        wait.until = self.until
        self.waits += 1
        if self._open:
            self.open()
        while True:
            yield wait
            self.looks += 1
            if wait.look() or time.monotonic() >= wait.until:
                break
        wait.clear()
        self._reply(exchange)

    def _reply(self, exchange: WatchedExchange) -> None:
        reply(exchange, threading.current_thread().name.encode())

    def open(self) -> None:
        """Also for those that come later."""
        self._open = True
        for _, waker in self._pairs:
            waker.send(b"x")

    def close(self) -> None:
        for wake, waker in self._pairs:
            wake.close()
            waker.close()


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    app = Waiting()
    yield app
    app.close()


def courses(served: Served) -> Courses:
    assert served.pool._courses is not None
    return served.pool._courses


def running(served: Served) -> int:
    """How many courses are under way."""
    return len(courses(served).running) if served.pool._courses is not None else 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_wait_than_there_are_threads(waiting: Waiting, protocol: str) -> None:
    with Served(waiting, protocol, threads=2) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(20)]
        for number, peer in enumerate(peers, 1):
            peer.send(request(protocol, "/wait"))
            within(lambda n=number: waiting.waits == n, "it waits")  # type: ignore[misc]
            with served.connect() as other:
                assert other.get().status == 200
        assert running(served) == 20
        assert waiting.looks == 0, "nobody was woken for nothing"
        waiting.open()
        assert all(peer.answer().status == 200 for peer in peers)
        within(lambda: not running(served), "all are over")


def test_one_thread_alone_waits_itself(waiting: Waiting) -> None:
    with Served(waiting, threads=1) as served, served.connect() as first, served.connect() as second:
        for peer in (first, second):
            peer.send(request("http", "/wait"))
        within(lambda: waiting.waits == 1, "the first waits")
        waiting.open()
        assert first.answer().status == second.answer().status == 200


def test_a_time_to_go_on(waiting: Waiting) -> None:
    waiting.until = time.monotonic() + 0.2
    with Served(waiting, threads=2) as served, served.connect() as peer:
        peer.send(request("http", "/wait"))
        assert peer.answer().status == 200
        assert 0.2 <= time.monotonic() - waiting.until + 0.2 < 5
    assert waiting.looks == 1


@pytest.mark.parametrize("protocol", ["http", "fastcgi"])
def test_kept_connections(waiting: Waiting, protocol: str) -> None:
    with Served(waiting, protocol, threads=2) as served, served.connect() as peer:
        waiting.open()
        for _ in range(5):
            assert peer.keep_get("/wait").status == 200
            assert peer.keep_get("/").status == 200


def test_requests_of_one_connection_come_one_after_another(waiting: Waiting) -> None:
    with Served(waiting, threads=3) as served, served.connect() as peer:
        peer.send(request("http", "/wait", keep=True) + request("http", "/", keep=True) + request("http", "/wait"))
        within(lambda: waiting.waits == 1, "the first waits")
        assert not select.select([peer.sock], [], [], 0.05)[0]
        waiting.open()
        assert peer.read().count(b"HTTP/1.1 200") == 3


def test_somebody_s_word() -> None:
    """Also where it comes before anybody waits for it."""
    waits: list[Wait] = []

    def app(exchange: WatchedExchange) -> Course:
        wait = Wait()
        if exchange.request.params["REQUEST_URI"] == "/early":
            wait.wake()
        waits.append(wait)
        yield wait
        reply(exchange, b"woken")

    with Served(app, threads=2) as served:
        with served.connect() as peer:
            assert peer.get("/early").body == b"woken"
        with served.connect() as peer:
            peer.send(request("http", "/later"))
            within(lambda: running(served) and len(waits) == 2, "it waits")
            waits[1].wake()
            assert peer.answer().body == b"woken"
        for wait in waits:
            wait.wake()  # nobody is there any more


def test_words_at_any_moment() -> None:
    """None is lost, however they fall."""

    def app(exchange: WatchedExchange) -> Course:
        wait = Wait()
        count = 0

        def tell() -> None:
            nonlocal count
            for _ in range(200):
                count += 1
                wait.wake()

        thread = threading.Thread(target=tell)
        thread.start()
        while count < 200:
            yield wait
        thread.join(SECONDS)
        reply(exchange, b"all")

    with Served(app, threads=4) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(4)]
        for peer in peers:
            peer.send(request("http", "/"))
        assert all(peer.answer().body == b"all" for peer in peers)


def test_numbers_of_descriptors_are_used_again() -> None:
    """Within a course, and by another one's while the first still waits for other things."""

    def app(exchange: WatchedExchange) -> Course:
        wait = Wait()
        for number in range(20):
            first, out = os.pipe()
            wait.add(first, select.POLLIN)
            timer = threading.Timer(0.005 * (number % 2), os.write, (out, b"x"))
            timer.start()
            while not wait.look():
                yield wait
            timer.join(SECONDS)
            wait.drop(first)
            os.close(first)
            os.close(out)
        reply(exchange, b"done")

    with Served(app, threads=4) as served, contextlib.ExitStack() as stack:
        start = time.monotonic()
        peers = [stack.enter_context(served.connect()) for _ in range(8)]
        for peer in peers:
            peer.send(request("http", "/"))
        assert all(peer.answer().body == b"done" for peer in peers)
        assert time.monotonic() - start < SECONDS / 2, "nobody was found by a deadline alone"


def test_all_that_wait_for_one_descriptor_are_told() -> None:
    """And who waits for something else there, or has ended, is in nobody's way."""
    ours, theirs = socket.socketpair()
    looks: list[str] = []

    def app(exchange: WatchedExchange) -> Course:
        uri = exchange.request.params["REQUEST_URI"]
        wait = Wait()
        wait.add(ours.fileno(), select.POLLRDHUP if uri == "/end" else select.POLLIN)
        looks.append(uri)
        if uri == "/late":
            wait.until = 0.0
            yield wait
            wait.until = float("inf")
        while not wait.look():
            yield wait
            looks.append(uri)
        reply(exchange, uri.encode())

    with ours, theirs, Served(app, threads=2) as served, contextlib.ExitStack() as stack:
        peers = {uri: stack.enter_context(served.connect()) for uri in ("/one", "/two", "/late", "/end")}
        for number, (uri, peer) in enumerate(peers.items(), 1):
            peer.send(request("http", uri))
            within(lambda n=number: running(served) == n, "it waits")  # type: ignore[misc]
        theirs.send(b"x")
        for uri in ("/one", "/two", "/late"):
            assert peers[uri].answer().body == uri.encode()
        assert looks.count("/end") == 1, "nobody is woken for what he does not wait for"
        ours.recv(1)
        with served.connect() as again:
            again.send(request("http", "/one"))
            within(lambda: running(served) == 2, "it waits")
            theirs.send(b"y")
            assert again.answer().status == 200
        ours.recv(1)
        theirs.shutdown(socket.SHUT_WR)  # nobody else has had it armed since the last byte
        assert peers["/end"].answer().status == 200


def test_what_was_waited_for_is_forgotten() -> None:
    """However often: a script may write for days."""
    owned: list[int] = []

    def app(exchange: WatchedExchange) -> Course:
        first, out = os.pipe()
        wait = Wait()
        wait.add(first, select.POLLIN)
        for _ in range(100):
            os.write(out, b"x")
            yield wait
            os.read(first, 1)
        [course] = courses(served).running
        owned.append(len(course._owned))
        wait.clear()
        os.close(first)
        os.close(out)
        reply(exchange, b"done")

    with Served(app, threads=2) as served:
        with served.connect() as peer:
            assert peer.get().body == b"done"
        assert owned == [1]
        within(lambda: not courses(served).owners, "nothing is left")


@pytest.mark.parametrize("protocol", ["http", "fastcgi"])
def test_its_own_connection(protocol: str) -> None:
    """A client that leaves, or aborts, while something else is waited for."""
    gone = threading.Event()

    def app(exchange: WatchedExchange) -> Course:
        wait = Wait()
        found: list[tuple[int, int]] = []
        while not exchange.hear(found[0][1] if found else 0):
            events, seconds = exchange.watch(more=False)
            wait.add(exchange.fileno(), events)
            wait.until = time.monotonic() + seconds
            yield wait
            found = wait.look()
        gone.set()

    with Served(app, protocol, threads=2) as served:
        for leave in (True, False):
            with served.connect() as peer:
                peer.send(request(protocol, "/"))
                within(lambda: running(served), "it waits")
                if leave or protocol == "http":
                    peer.sock.close()
                else:
                    peer.send(rec(ABORT, 1))
                assert gone.wait(SECONDS)
                gone.clear()
            within(lambda: not running(served), "it is over")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("waits", [0, 1])
def test_an_app_that_fails(protocol: str, waits: int) -> None:
    closed: list[bool] = []

    def app(exchange: WatchedExchange) -> Course | None:
        if exchange.request.params["REQUEST_URI"] != "/fails":
            reply(exchange, b"well")
            return None
        return fail()

    def fail() -> Course:
        wait = Wait()
        wait.until = 0.0
        try:
            for _ in range(waits):
                yield wait
            raise LookupError("on purpose")
        finally:
            closed.append(True)

    with Served(app, protocol, threads=2, failures=[LookupError]) as served:
        with served.connect() as peer:
            peer.send(request(protocol, "/fails"))
            peer.read()
        assert closed == [True]
        with served.connect() as peer:
            assert peer.get().body == b"well"
        assert not running(served)


def test_what_cannot_be_waited_for_ends_the_course() -> None:
    closed: list[bool] = []

    def app(_: WatchedExchange) -> Course:
        wait = Wait()
        wait.fds[10_000] = select.POLLIN
        try:
            yield wait
        finally:
            closed.append(True)

    with Served(app, threads=2, failures=[OSError]) as served:
        with served.connect() as peer:
            peer.send(request("http", "/"))
            assert peer.read() == b""
        assert closed == [True]
        assert not running(served)


def test_one_that_does_not_want_to_end_is_ended_all_the_same() -> None:
    def app(_: WatchedExchange) -> Course:
        wait = Wait()
        yield wait
        wait.fds[10_000] = select.POLLIN
        with contextlib.suppress(GeneratorExit):
            yield wait
        yield wait

    with Served(app, threads=2, failures=[RuntimeError]) as served:
        with served.connect() as peer:
            peer.send(request("http", "/"))
            within(lambda: running(served), "it waits")
            for course in list(courses(served).running):
                course.wake()
            assert peer.read() == b""
        assert not running(served)


def test_deadlines_of_others_are_seen(waiting: Waiting) -> None:
    timeouts = Timeouts(head=0.1)
    with Served(waiting, threads=2, timeouts=timeouts) as served, served.connect() as late, served.connect() as peer:
        peer.send(request("http", "/wait"))
        within(lambda: waiting.waits, "it waits")
        late.send(b"GET / HTTP/1.1\r\n")
        assert late.answer().status == 408
        waiting.open()
        assert peer.answer().status == 200


def test_stop_waits_for_them(waiting: Waiting) -> None:
    with Served(waiting, threads=2) as served, served.connect() as peer:
        peer.send(request("http", "/wait"))
        within(lambda: running(served), "it waits")
        served.stop()
        within(lambda: served.sock.fileno() < 0, "nobody listens any more")
        assert served.thread.is_alive()
        waiting.open()
        assert peer.answer().status == 200
        served.thread.join(SECONDS)
        assert not served.thread.is_alive()


def test_they_use_no_cpu(waiting: Waiting) -> None:
    with Served(waiting, threads=2) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(50)]
        for peer in peers:
            peer.send(request("http", "/wait"))
        within(lambda: waiting.waits == 50, "all wait")
        before = served.pool.beat
        looks = waiting.looks
        time.sleep(0.3)
        assert served.pool.beat - before < 5
        assert waiting.looks == looks
        waiting.open()
        assert all(peer.answer().status == 200 for peer in peers)


def test_large_answers_to_slow_peers_hold_only_their_threads() -> None:
    """The writing waits as it does for any App."""

    def app(exchange: WatchedExchange) -> Course:
        wait = Wait()
        wait.until = 0.0
        yield wait
        size = 4 << 20 if exchange.request.params["REQUEST_URI"] == "/large" else 1
        reply(exchange, bytes(size))

    with Served(app, threads=2) as served, served.connect(receive_buffer=4096) as slow:
        slow.send(request("http", "/large"))
        within(lambda: select.select([slow.sock], [], [], 0)[0], "the answer has begun")
        with served.connect() as peer:
            assert peer.get().body == b"\0"
        assert len(slow.answer().body) == 4 << 20
