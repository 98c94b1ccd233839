"""Connections that one worker gives up and another one goes on with: what is given, what is not, what comes of it."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from gateways.apps import Exchange
from gateways.limits import DEFAULT_LIMITS
from gateways.server.admission import Networks
from gateways.server.channel import CONNECTION, LOST, Channel, Message
from gateways.server.connection import Connection
from gateways.server.passing import Passing, Way
from gateways.server.protocols import BehindProxy, Connector, Protocols
from gateways.values import network
from tests.server.peers import SECONDS, Peer, head_of, request
from tests.server.pools import TIMEOUTS, Gate, Served, reply, within

KEPT = pytest.mark.parametrize("protocol", ["fastcgi", "http"])
EVERY = pytest.mark.parametrize("protocol", ["fastcgi", "scgi", "uwsgi", "http"])
THREADS = pytest.mark.parametrize("threads", [1, 3])
PROTOCOLS = Protocols(DEFAULT_LIMITS, host="localhost", port="80", max_conns=1, max_reqs=1)


class Heirs:
    """Takes what a pool gives, or says no; keeps a descriptor of its own."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.asked = 0
        self.given: list[socket.socket] = []

    def give(self, connection: Connection) -> bool:
        self.asked += 1
        if self.takes:
            self.given.append(socket.socket(fileno=os.dup(connection.fd)))
        return self.takes

    def close(self) -> None:
        for sock in self.given:
            sock.close()


@contextmanager
def leaving(served: Served, *, takes: bool = True) -> Iterator[Heirs]:
    """Have the pool leave, its connections to others."""
    heirs = Heirs(takes=takes)

    def stop() -> None:
        served.pool.stop(heirs)
        served.listener.finish()

    served.call(stop)
    try:
        yield heirs
    finally:
        heirs.close()


def ended(served: Served) -> None:
    """Wait until the pool has nothing left."""
    served.call(lambda: served.pool.unwatch(served._called.fd))
    served.thread.join(SECONDS)
    assert not served.thread.is_alive()


# -- what is given ----------------------------------------------------------------------------------------------------


@KEPT
@THREADS
def test_idle_connections_are_given_and_not_closed(protocol: str, threads: int) -> None:
    with Served(protocol=protocol, threads=threads) as served, ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(5)]
        for peer in peers:
            assert peer.keep_get().body == b"hello"
        served.await_connections(5)
        with leaving(served) as heirs:
            within(lambda: len(heirs.given) == 5, "all are given")
            assert not any(peer.is_closed() for peer in peers)
            peers[0].send(b"x")
            readable, _, _ = select.select(heirs.given, [], [], SECONDS)
            assert len(readable) == 1, "nobody else has read it"
            ended(served)


@EVERY
def test_new_connections_are_given(protocol: str) -> None:
    with Served(protocol=protocol, threads=2) as served, served.connect() as peer:
        served.await_connections(1)
        with leaving(served) as heirs:
            within(lambda: len(heirs.given) == 1, "it is given")
            assert not peer.is_closed()
            ended(served)


@KEPT
@THREADS
def test_connection_is_given_when_its_request_is_answered(protocol: str, threads: int) -> None:
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, b"late")

    with Served(app, protocol, threads=threads) as served, served.connect() as peer:
        peer.send(request(protocol, keep=True))
        gate.await_waiting(1)
        heirs = Heirs()
        served.pool.stop(heirs)  # as the thread that serves would not do it
        gate.open()
        assert peer.next_answer()[1].body == b"late"
        within(lambda: len(heirs.given) == 1, "it is given")
        assert not peer.is_closed()
        ended(served)
        heirs.close()


def test_what_comes_while_requests_are_served_is_left_to_others() -> None:
    """Else a connection that is never idle would stay until it is cut."""
    gate = Gate()

    def app(exchange: Exchange) -> None:
        gate.wait()
        reply(exchange, b"late")

    with Served(app, "fastcgi", threads=4) as served, served.connect() as peer:
        peer.send(request("fastcgi", keep=True))
        gate.await_waiting(1)
        heirs = Heirs()
        served.pool.stop(heirs)
        peer.send(request("fastcgi", keep=True, stream=2))  # for which it has been armed before
        gate.await_waiting(2)
        third = request("fastcgi", keep=True, stream=3)
        peer.send(third)
        gate.open()
        assert len(peer.answers(2)) == 2
        within(lambda: heirs.given, "it is given", 5)
        assert heirs.given[0].recv(65_536) == third
        ended(served)
        heirs.close()


@EVERY
@THREADS
def test_connections_that_nobody_has_accepted_are_given_with_what_they_have_sent(protocol: str, threads: int) -> None:
    """A leaving worker has no thread to spare for them; had it left them, nobody else might be woken."""
    with Served(protocol=protocol, threads=threads) as served, ExitStack() as stack:
        heirs = Heirs()
        stack.callback(heirs.close)

        def finish() -> None:
            served.pool.unwatch(served.listener.sock.fileno())  # else a thread that leads meanwhile accepts them
            for _ in range(3):
                stack.enter_context(served.connect()).send(request(protocol))
            served.pool.stop(heirs)
            served.listener.finish()

        served.call(finish)
        within(lambda: len(heirs.given) == 3, "all are given")
        assert all(sock.recv(65_536) == request(protocol) for sock in heirs.given)
        ended(served)


# -- what is not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["fastcgi", "http", "scgi", "uwsgi", "auto"])
def test_head_that_is_not_whole_is_waited_for(protocol: str) -> None:
    speaks = "http" if protocol == "auto" else protocol
    whole = request(speaks)
    with Served(protocol=protocol, threads=2) as served, Peer(served.address, speaks) as peer:
        peer.send(whole[:3])
        served.await_connections(1)
        with leaving(served) as heirs:
            peer.send(whole[3:])
            assert peer.answer().body == b"hello"
            assert heirs.given == []
            ended(served)


@KEPT
@THREADS
def test_head_that_has_begun_on_a_kept_connection_has_time(protocol: str, threads: int) -> None:
    """As a request that runs has: others serve, so nothing is in a hurry."""
    whole = request(protocol)
    with Served(protocol=protocol, threads=threads) as served, served.connect() as peer:
        assert peer.keep_get().body == b"hello"
        peer.send(whole[:20])
        within(lambda: any(each.codec.buffered for each in served.pool.connections.values()), "it has begun")
        with leaving(served) as heirs:
            time.sleep(1.3)
            peer.send(whole[20:])
            assert peer.answer().body == b"hello"
            assert heirs.given == []
            ended(served)


@THREADS
@pytest.mark.parametrize("kept", [False, True])
def test_fastcgi_request_of_which_only_the_begin_record_has_come_is_waited_for(threads: int, kept: bool) -> None:
    """No byte of it is held, but nobody else knows that it has begun: mod_proxy_fcgi sends that record by itself."""
    whole = request("fastcgi", keep=True)
    with Served(protocol="fastcgi", threads=threads) as served, served.connect() as peer:
        if kept:
            assert peer.keep_get().body == b"hello"
        peer.send(whole[:16])
        within(lambda: any(each.codec.error_stream for each in served.pool.connections.values()), "it has begun")
        with leaving(served) as heirs:
            within(lambda: served.pool.stopping, "it leaves")
            time.sleep(0.1)
            assert heirs.given == []
            peer.send(whole[16:])
            assert peer.next_answer()[1].body == b"hello"
            within(lambda: len(heirs.given) == 1, "it is given when that is answered")
            ended(served)


@KEPT
@pytest.mark.parametrize("others", [False, True])
def test_head_that_does_not_come_whole_before_the_worker_leaves(protocol: str, others: bool) -> None:
    """The answer is that of a server that is about to be there again, and the log has the reason."""
    timeouts = TIMEOUTS._replace(graceful=0.6)
    with (
        Served(protocol=protocol, threads=2, timeouts=timeouts) as served,
        served.connect() as peer,
        ExitStack() as stack,
    ):
        assert peer.keep_get().body == b"hello"
        peer.send(request(protocol)[:20])
        within(lambda: any(each.codec.buffered for each in served.pool.connections.values()), "it has begun")
        if others:
            stack.enter_context(leaving(served))
        else:
            served.stop()
        answer = peer.next_answer()[1] if protocol == "fastcgi" else peer.answer()
        assert answer.status == 503
        assert b"Retry-After: 1" in answer.head
        assert protocol != "http" or b"Connection: close" in answer.head
        served.log.only("the worker leaves, and no whole request head has come")
        if others:
            ended(served)


def test_body_that_nobody_has_read_is_waited_for() -> None:
    """What is left of it belongs to nothing that another worker knows."""
    with Served(protocol="http", threads=2) as served, served.connect() as peer:
        peer.send(head_of("http", "/", length=10, keep=True))
        assert peer.next_answer()[1].body == b"hello"
        served.await_connections(1)
        with leaving(served) as heirs:
            peer.send(b"x" * 10)
            within(lambda: len(heirs.given) == 1, "now it can be given")
            ended(served)


@KEPT
def test_others_that_have_no_room_are_asked_again(protocol: str) -> None:
    with Served(protocol=protocol, threads=2) as served, served.connect() as peer:
        assert peer.keep_get().body == b"hello"
        with leaving(served, takes=False) as heirs:
            within(lambda: heirs.asked > 3, "it asks again")
            assert peer.keep_get().body == b"hello", "and serves meanwhile"
            heirs.takes = True
            within(lambda: len(heirs.given) == 1, "it is given")
            ended(served)


# -- what comes of it -------------------------------------------------------------------------------------------------


@contextmanager
def heir(served: Served, protocol: str, connector: Connector = PROTOCOLS) -> Iterator[tuple[Passing, Channel]]:
    """Both ends of what ``served`` may be given, as if by its worker's channel."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        way = Way(protocol, served.sock, PROTOCOLS, connector)
        yield Passing(served.pool, Channel(theirs), [way]), Channel(ours)


@contextmanager
def connected(served: Served) -> Iterator[tuple[Peer, int]]:
    """A connection that the pool has not accepted: the listener is the test's for a moment."""
    served.pool.unwatch(served.sock.fileno())
    with served.connect() as peer:
        sock, _ = served.sock.accept()
        sock.setblocking(False)
        yield peer, sock.detach()


def passed_on(passing: Passing, channel: Channel, connection: Connection) -> Message:
    assert passing.give(connection)
    messages = channel.receive()
    assert messages is not None
    (message,) = messages
    assert message.kind == CONNECTION
    return message


@KEPT
@THREADS
@pytest.mark.parametrize("tcp", [False, True])
def test_kept_connection_goes_on(protocol: str, threads: int, tcp: bool) -> None:
    with (
        Served(protocol=protocol, threads=threads, tcp=tcp) as served,
        heir(served, "auto") as (passing, channel),
        connected(served) as (peer, fd),
    ):
        connection = PROTOCOLS.connect(protocol, served.pool, fd, ("192.0.2.1", 7) if tcp else "")
        connection.in_head = False
        peer.send(request(protocol, keep=True))  # it is there already, and stays
        message = passed_on(passing, channel, connection)
        os.close(fd)
        served.call(lambda: passing.take(message))
        assert peer.next_answer()[1].body == b"hello"
        assert peer.keep_get().body == b"hello"
        assert served.open_connections() == 1


@EVERY
def test_new_connection_goes_on(protocol: str) -> None:
    with (
        Served(protocol=protocol, threads=2) as served,
        heir(served, "auto") as (passing, channel),
        connected(served) as (peer, fd),
    ):
        message = passed_on(passing, channel, PROTOCOLS.connect("auto", served.pool, fd, ""))
        os.close(fd)
        served.call(lambda: passing.take(message))
        assert peer.get().body == b"hello"


def test_new_connection_still_owes_its_proxy_header() -> None:
    connector = BehindProxy(PROTOCOLS, Networks((network("127.0.0.1"),)))

    def app(exchange: Exchange) -> None:
        reply(exchange, exchange.request.params["REMOTE_ADDR"].encode())

    with (
        Served(app, threads=2, tcp=True) as served,
        heir(served, "http", connector) as (passing, channel),
        connected(served) as (peer, fd),
    ):
        connection = connector.connect("http", served.pool, fd, peer.sock.getsockname())
        message = passed_on(passing, channel, connection)
        os.close(fd)
        served.call(lambda: passing.take(message))
        peer.send(b"PROXY TCP4 192.0.2.9 192.0.2.1 5 80\r\n" + request("http"))
        assert peer.answer().body == b"192.0.2.9"


def test_peer_of_a_proxy_header_goes_along() -> None:
    def app(exchange: Exchange) -> None:
        reply(exchange, exchange.request.params["REMOTE_ADDR"].encode())

    with (
        Served(app, threads=2, tcp=True) as served,
        heir(served, "http") as (passing, channel),
        connected(served) as (peer, fd),
    ):
        connection = PROTOCOLS.connect("http", served.pool, fd, ("192.0.2.9", 5))
        connection.in_head = False
        message = passed_on(passing, channel, connection)
        os.close(fd)
        served.call(lambda: passing.take(message))
        assert peer.keep_get().body == b"192.0.2.9"


def test_connection_of_a_listener_that_is_no_more() -> None:
    """After an upgrade with other settings: nobody knows what it speaks."""
    with (
        Served(threads=2) as served,
        Served(threads=2) as other,
        heir(other, "http") as (passing, channel),
        connected(served) as (peer, fd),
    ):
        message = passed_on(passing, channel, PROTOCOLS.connect("http", served.pool, fd, ""))
        os.close(fd)
        other.call(lambda: passing.take(message))
        peer.wait_closed()
        (said,) = channel.receive() or []
        assert said.kind == LOST
        assert b"does not listen there any more" in said.text


def test_no_descriptor_is_left() -> None:
    """The kernel closes what it cannot hand out; the master is told."""
    with Served(threads=2) as served, heir(served, "http") as (passing, channel):
        passing.take(Message(CONNECTION, text=b"{}", missing=1))
        assert served.open_connections() == 0
        (said,) = channel.receive() or []
        assert said.kind == LOST
        assert b"no file descriptor left" in said.text


def test_connection_that_was_reset_meanwhile() -> None:
    with Served(threads=2, tcp=True) as served, heir(served, "http") as (passing, channel):
        with connected(served) as (peer, fd):
            message = passed_on(passing, channel, PROTOCOLS.connect("http", served.pool, fd, ("127.0.0.1", 1)))
            os.close(fd)
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.sock.close()
            served.call(lambda: passing.take(message))
        within(lambda: served.open_connections() == 0, "it is closed")
