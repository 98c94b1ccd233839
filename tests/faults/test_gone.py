"""Peers that go away: at every byte of a request, and of a response."""

from __future__ import annotations

import contextlib

import pytest

from tests.faults.conftest import Patient
from tests.server.peers import PROTOCOLS, Peer, answer_of, request, reset
from tests.servers import wait_until

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
both_families = pytest.mark.parametrize("kind", ["unix", "tcp"])
BODY = b"a body"


def prefixes(protocol: str) -> list[bytes]:
    wire = request(protocol, "/a/path", BODY)
    return [wire[:at] for at in range(len(wire) + 1)]


@every_protocol
@both_families
def test_end_of_file_at_every_byte_of_a_request(patient: Patient, protocol: str, kind: str) -> None:
    """Who can still read gets an answer, as soon as there is a request to be answered; each refusal is one line."""
    statuses = []
    refused = 0
    for wire in prefixes(protocol):
        with patient.server.peer(protocol, kind) as peer:
            peer.send(wire)
            peer.end()
            data = peer.read()
            statuses.append(answer_of(protocol, data).status if data else 0)
        if statuses[-1] != 200 and wire:
            refused += 1
    assert statuses[-1] == 200
    begins = statuses.index(400)
    assert begins <= 16, "the header of FCGI_BEGIN_REQUEST is the longest that no request is known in"
    assert set(statuses[begins:-1]) == {400}
    assert set(statuses[:begins]) == {0}
    assert statuses.count(200) == 1
    lines = patient.await_lines(refused)
    assert len(lines) == refused, "one line for each refusal"
    assert all("within" in line or "before the end" in line for line in lines)


@every_protocol
@both_families
@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_at_every_byte_of_a_request(patient: Patient, protocol: str, kind: str, how: str) -> None:
    wires = prefixes(protocol)
    for wire in wires:
        peer = patient.server.peer(protocol, kind)
        peer.send(wire)
        if how == "reset":
            reset(peer.sock)
        peer.sock.close()
    patient.is_well()
    assert len(patient.lines()) <= 2 * len(wires)


@every_protocol
@both_families
@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_at_many_bytes_of_a_response(patient: Patient, protocol: str, kind: str, how: str) -> None:
    for at in [*range(40), 200, 5_000, 9_999, 10_000, 10_001, 65_536, 100_000, 300_000]:
        peer = patient.server.peer(protocol, kind)
        peer.send(request(protocol, "/large"))
        left = at
        while left and (data := peer.sock.recv(left)):
            left -= len(data)
        if how == "reset":
            reset(peer.sock)
        peer.sock.close()
    with patient.server.peer(protocol, kind) as peer:
        assert len(peer.get("/large").body) == 500_000
    assert len(patient.lines()) <= 48, "at most a line for each"


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@both_families
def test_gone_at_every_byte_of_a_second_request(patient: Patient, protocol: str, kind: str) -> None:
    wire = request(protocol, "/", BODY, keep=True)
    for at in range(len(wire)):
        with patient.server.peer(protocol, kind) as peer:
            assert peer.keep_get("/", BODY).body == BODY
            peer.send(wire[:at])
    wait_until(lambda: len(patient.lines()) >= len(wire) // 2, "they are told of")


@every_protocol
def test_connections_that_are_only_opened(patient: Patient, protocol: str) -> None:
    """Port scans and health checks are no refusals: nothing is logged."""
    for kind in ("unix", "tcp"):
        for _ in range(50):
            peer = patient.server.peer(protocol, kind)
            reset(peer.sock)
            with patient.server.peer(protocol, kind):
                pass
    patient.is_well()
    assert patient.lines() == []


@every_protocol
def test_all_at_once(patient: Patient, protocol: str) -> None:
    """Hundreds of peers, each at another byte, gone in the same moment."""
    with contextlib.ExitStack() as stack:
        peers: list[Peer] = []
        for wire in prefixes(protocol):
            peers.append(stack.enter_context(patient.server.peer(protocol, "tcp")))
            peers[-1].send(wire)
        for peer in peers:
            reset(peer.sock)
