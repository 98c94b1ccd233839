"""Peers that stand still or dawdle: each costs a descriptor until its deadline, and nobody else anything."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.faults.conftest import Patient
from tests.server.peers import PROTOCOLS, Peer, answer_of, head_of, request

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@every_protocol
def test_slow_loris(patient: Patient, protocol: str) -> None:
    """A hundred heads come byte by byte; requests in between are answered at once; then each gets its 408."""
    wire = request(protocol, "/", b"a body")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(patient.server.peer(protocol, "tcp")) for _ in range(100)]
        for peer in peers:
            peer.send(wire[:20])
        slowest = 0.0
        for at in range(20, 25):
            for peer in peers:
                peer.send(wire[at : at + 1])
            start = time.monotonic()
            with patient.server.peer(protocol, "tcp") as good:
                assert good.get().status == 200
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 0.3
        assert all(answer_of(protocol, peer.read()).status == 408 for peer in peers)
    lines = patient.await_lines(100)
    assert len(lines) == 100
    assert all("no whole request head came in 0.4 s" in line for line in lines)


@pytest.mark.parametrize("protocol", ["fastcgi", "scgi", "auto"])
def test_silent_peers(patient: Patient, protocol: str) -> None:
    """They never say a word; when their time is over they are closed, and nothing is logged."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(patient.server.peer(protocol, "tcp")) for _ in range(100)]
        with patient.server.peer("scgi", "tcp") as good:
            assert good.get().status == 200
        assert all(peer.read() == b"" for peer in peers)
    assert patient.lines() == []


@every_protocol
def test_bodies_that_do_not_come(patient: Patient, protocol: str) -> None:
    """A thread waits for each, so with few threads the others wait too: until the deadline, no longer."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(patient.server.peer(protocol, "tcp")) for _ in range(2)]
        for peer in peers:
            peer.send(head_of(protocol, length=100))
        start = time.monotonic()
        with patient.server.peer(protocol, "tcp") as good:
            assert good.get().status == 200
        assert time.monotonic() - start < 3
        assert all(answer_of(protocol, peer.read()).status == 408 for peer in peers)
    assert len(patient.await_lines(2)) == 2


@every_protocol
def test_readers_that_do_not_read(patient: Patient, protocol: str) -> None:
    stalled: list[Peer] = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            peer = Peer(patient.server.address[protocol, "unix"], protocol)
            stack.enter_context(peer)
            peer.send(request(protocol, "/large"))
            stalled.append(peer)
        start = time.monotonic()
        with patient.server.peer(protocol, "tcp") as good:
            assert good.get().status == 200
        assert time.monotonic() - start < 3
        lines = patient.await_lines(2)
        assert len(lines) == 2
        assert all("the peer took no byte of the response for 0.4 s" in line for line in lines)


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
def test_idle_connections(patient: Patient, protocol: str) -> None:
    with contextlib.ExitStack() as stack:
        peers = []
        for _ in range(200):  # one by one: idle before its first request, too, a connection has its deadline
            peers.append(stack.enter_context(patient.server.peer(protocol, "tcp")))
            assert peers[-1].keep_get().status == 200
        start = time.monotonic()
        with patient.server.peer(protocol, "tcp") as good:
            assert good.get().status == 200
        assert time.monotonic() - start < 0.3
        assert all(peer.read() == b"" for peer in peers)
    assert patient.lines() == []


@every_protocol
def test_one_byte_at_a_time(patient: Patient, protocol: str) -> None:
    """A reader that takes a byte now and then is slow, not dead."""
    with patient.server.peer(protocol, "tcp") as peer:
        peer.send_bytewise(request(protocol, "/", b"a body"))
        data = b""
        while block := peer.sock.recv(1):
            data += block
        assert answer_of(protocol, data).body == b"a body"
