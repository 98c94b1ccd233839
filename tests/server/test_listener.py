"""Accepting: many in a row, fairness towards others, and what is done where it cannot be."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from gateways.apps import App, Exchange
from gateways.limits import DEFAULT_LIMITS
from gateways.server.admission import Admission
from gateways.server.listener import Listener
from gateways.server.poller import make_poller
from gateways.server.pool import Pool
from gateways.server.protocols import Protocols
from tests.server.peers import Peer, request
from tests.server.pools import TIMEOUTS, Gate, MemoryLog, Served, hello, reply, within


class Refusing(socket.socket):
    """A listening socket that cannot accept for so many times."""

    def __init__(self, number: int, times: int) -> None:
        super().__init__(socket.AF_UNIX)
        self.error = OSError(number, os.strerror(number))
        self.times = times

    def _accept(self) -> tuple[int, object]:
        if self.times:
            self.times -= 1
            raise self.error
        return super()._accept()  # type: ignore[misc, no-any-return]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A pool that the test itself leads, step by step."""

    def __init__(self, sock: socket.socket, app: App, threads: int = 1, admission: Admission | None = None) -> None:
        self.log = MemoryLog()
        self.clock = Clock()
        self.poller = make_poller(one_shot=threads > 1)
        self.pool = Pool(
            app,
            self.log,
            threads=threads,
            limits=DEFAULT_LIMITS,
            timeouts=TIMEOUTS,
            poller=self.poller,
            clock=self.clock,
        )
        protocols = Protocols(DEFAULT_LIMITS, host="a", port="1", max_conns=1, max_reqs=1)
        self.listener = Listener(self.pool, sock, "http", protocols, admission)
        self.address = sock.getsockname()

    def step(self) -> None:
        """Poll once, and do what is ready."""
        me = self.pool._leader
        self.pool._poll(me)
        self.do()

    def do(self) -> None:
        """Do what is ready."""
        while self.pool.ready:
            self.pool.ready.popleft().on_ready()


@contextlib.contextmanager
def bench(sock: socket.socket, app: App = hello, admission: Admission | None = None) -> Iterator[Bench]:
    sock.bind(f"\0gateways-test-{os.getpid()}-{sock.fileno()}")
    sock.listen(100)
    sock.setblocking(False)
    made = Bench(sock, app, admission=admission)
    try:
        yield made
    finally:
        made.listener.close()
        made.poller.close()
        for fd in (made.pool._wake_in, made.pool._wake_out):
            os.close(fd)


def test_those_that_wait_are_served_in_one_go() -> None:
    with bench(socket.socket(socket.AF_UNIX)) as made, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(made.address)) for _ in range(10)]
        for peer in peers:
            peer.send(request("http"))
        made.step()
        assert all(peer.answer().status == 200 for peer in peers)
        assert not made.pool.connections, "what was served at once never came to the poller"


def test_no_more_than_64_in_a_row() -> None:
    """Other ready connections get their turn."""
    served = 0

    def app(exchange: Exchange) -> None:
        nonlocal served
        served += 1
        hello(exchange)

    with bench(socket.socket(socket.AF_UNIX), app) as made, contextlib.ExitStack() as stack:
        for _ in range(80):
            stack.enter_context(Peer(made.address)).send(request("http"))
        made.step()
        assert served == 64
        made.step()
        assert served == 80


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_pause_where_descriptors_are_out(number: int) -> None:
    with bench(Refusing(number, 3)) as made, Peer(made.address) as peer:
        peer.send(request("http"))
        for _ in range(3):
            made.step()
            assert made.listener.sock.fileno() not in made.pool.watched
            assert made.pool.next_sweep == pytest.approx(made.clock.now + 0.1)
            made.clock.now += 0.11
            made.step()
            assert made.listener.sock.fileno() in made.pool.watched
        made.step()
        assert peer.answer().status == 200
        made.log.only("cannot accept connections: " + os.strerror(number))


def test_the_complaint_is_repeated_only_after_a_while() -> None:
    with bench(Refusing(errno.EMFILE, 100)) as made, Peer(made.address):
        for _ in range(20):
            made.clock.now += 1
            made.step()
            made.step()
        assert 2 <= len(made.log.lines) <= 3


def test_closed_while_paused() -> None:
    """The end of the pause finds a socket that is closed."""
    with bench(Refusing(errno.EMFILE, 1)) as made, Peer(made.address):
        made.step()
        made.listener.close()
        made.clock.now += 1
        made.pool._sweep(made.clock.now)
        assert made.pool.watched == {}


def test_paused_by_two_threads_at_once() -> None:
    with bench(Refusing(errno.EMFILE, 2)) as made, Peer(made.address):
        made.listener.on_ready()
        made.listener.on_ready()
        made.clock.now += 1
        made.pool._sweep(made.clock.now)
        assert list(made.pool.watched) == [made.listener.sock.fileno()]


def test_a_peer_that_went_away_while_it_waited() -> None:
    with bench(Refusing(errno.ECONNABORTED, 5)) as made, Peer(made.address) as peer:
        peer.send(request("http"))
        made.step()
        assert peer.answer().status == 200
        assert not made.log.lines


def test_on_ready_after_the_close() -> None:
    """It may have been in the queue when the worker was told to stop."""
    with bench(socket.socket(socket.AF_UNIX)) as made:
        made.listener.close()
        made.listener.on_ready()
        made.listener.close()


def test_a_failure_in_one_connection_is_not_the_listeners() -> None:
    def app(exchange: Exchange) -> None:
        raise ZeroDivisionError

    with bench(socket.socket(socket.AF_UNIX), app) as made, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(made.address)) for _ in range(3)]
        for peer in peers:
            peer.send(request("http"))
        made.step()
        assert [peer.read() for peer in peers] == [b"", b"", b""]
        assert len(made.log.failures) == 3


def test_head_deadline_counts_from_when_a_connection_comes_to_the_poller() -> None:
    """Those accepted after others had been served for a long time are not late by that."""
    made_by: list[Bench] = []

    def app(exchange: Exchange) -> None:
        made_by[0].clock.now += 100
        hello(exchange)

    with bench(socket.socket(socket.AF_UNIX), app) as made, contextlib.ExitStack() as stack:
        made_by.append(made)
        for _ in range(3):
            stack.enter_context(Peer(made.address)).send(request("http"))
        late = stack.enter_context(Peer(made.address))
        made.step()
        (connection,) = made.pool.connections.values()
        assert connection.deadline == made.clock.now + TIMEOUTS.head
        late.send(request("http"))
        made.step()
        assert late.answer().status == 200


def test_several_threads_accept() -> None:
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, threading.current_thread().name.encode())

    with Served(app, threads=3) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(3)]
        for peer in peers:
            peer.send(request("http"))
        gate.await_waiting(3)
        gate.open()
        assert len({peer.answer().body for peer in peers}) == 3


def test_finish_serves_all_that_wait() -> None:
    with bench(socket.socket(socket.AF_UNIX)) as made, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(made.address)) for _ in range(90)]
        for peer in peers:
            peer.send(request("http"))
        made.listener.finish()
        made.do()
        assert all(peer.answer().status == 200 for peer in peers)
        within(lambda: made.listener.sock.fileno() < 0, "it is closed")


@pytest.mark.parametrize("threads", [1, 3])
def test_finish_takes_nobody_who_comes_while_those_that_waited_are_served(threads: int) -> None:
    """They may take long. Who comes meanwhile is another worker's, or finds nobody."""
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, b"late")

    with Served(app, threads=threads) as served, contextlib.ExitStack() as stack:

        def finish() -> None:
            peers.append(stack.enter_context(served.connect()))
            peers[0].send(request("http"))
            served.pool.unwatch(served._called.fd)
            served.pool.stop()
            served.listener.finish()

        peers: list[Peer] = []
        served.call(finish)
        gate.await_waiting(1)
        assert served.listener.sock.fileno() < 0
        gate.open()
        assert peers[0].answer().body == b"late"


def test_those_that_wait_at_the_end_do_not_wait_for_each_other() -> None:
    """Every thread serves them."""
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, b"late")

    with Served(app, threads=3) as served, contextlib.ExitStack() as stack:

        def finish() -> None:
            peers.extend(stack.enter_context(served.connect()) for _ in range(3))
            for peer in peers:
                peer.send(request("http"))
            served.pool.unwatch(served._called.fd)
            served.pool.stop()
            served.listener.finish()

        peers: list[Peer] = []
        served.call(finish)
        gate.await_waiting(3)
        gate.open()
        assert [peer.answer().body for peer in peers] == [b"late"] * 3


def test_who_may_connect_costs_nothing_where_it_concerns_nobody() -> None:
    """What is called is the socket's own accept, and nothing around it."""
    by_address = Admission([ipaddress.ip_network("192.0.2.0/24")], web_servers="192.0.2.7")
    by_user = Admission(allow_user=["0"])
    for admission, plain in ((None, True), (Admission(), True), (by_address, True), (by_user, False)):
        with bench(socket.socket(socket.AF_UNIX), admission=admission) as made:
            accept = made.listener.sock._accept  # type: ignore[attr-defined]
            assert (made.listener._accept == accept) is plain


class Some(Admission):
    """Refuses the first ones."""

    def __init__(self, refused: int) -> None:
        super().__init__()
        self.refused = refused

    def concerns(self, family: int, protocol: str) -> bool:
        return True

    def admits(self, pool: Pool, protocol: str, fd: int, peer: object) -> bool:
        self.refused -= 1
        return self.refused < 0


def test_those_who_may_not_connect_are_skipped() -> None:
    """They are closed, and whoever waits behind them is served in the same go."""
    with bench(socket.socket(socket.AF_UNIX), admission=Some(2)) as made, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(made.address)) for _ in range(4)]
        for peer in peers[2:]:
            peer.send(request("http"))
        made.step()
        for peer in peers[:2]:
            peer.wait_closed()
        assert all(peer.answer().status == 200 for peer in peers[2:])
        assert made.log.lines == []


def test_finish_serves_those_that_wait_behind_many_who_may_not_connect() -> None:
    with bench(socket.socket(socket.AF_UNIX), admission=Some(70)) as made, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(made.address)) for _ in range(75)]
        for peer in peers[70:]:
            peer.send(request("http"))
        made.listener.finish()
        made.do()
        assert all(peer.answer().status == 200 for peer in peers[70:])
