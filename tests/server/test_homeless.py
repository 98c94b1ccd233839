"""Connections that wait in the master: passed on where there is room, closed where there is none in time, counted."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from gateways.server.channel import CONNECTION, STOP, Channel, Message
from gateways.server.homeless import Homeless
from gateways.server.process import WorkerProcess
from tests.server.fake_master import FakeClock
from tests.server.peers import SECONDS

PATIENCE = 10.0


class Heir(WorkerProcess):
    """A worker as the master has it, and in ``there`` its own end of the channel."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        super().__init__(0, ours, 0.0, 1, -1, None)
        self.ready = True
        self.there = Channel(theirs)

    def received(self) -> list[int]:
        """Take what has come, and return the numbers of the connections."""
        found: list[int] = []
        while messages := self.there.receive():
            for message in messages:
                for fd in message.fds:
                    os.close(fd)
                if message.kind == CONNECTION:
                    found.append(int(message.text))
        return found


class Estate(Homeless):
    """Connections by number; the test has their other ends."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(PATIENCE, self.clock)
        self.peers: list[socket.socket] = []

    def take_some(self, count: int) -> None:
        for _ in range(count):
            ours, theirs = socket.socketpair()
            ours.settimeout(SECONDS)
            self.take(Message(CONNECTION, text=b"%d" % len(self.peers), fds=(theirs.detach(),)))
            self.peers.append(ours)

    def ended(self) -> list[int]:
        """Those that nobody has open any more."""
        for peer in self.peers:
            peer.setblocking(False)
        found = []
        for number, peer in enumerate(self.peers):
            try:
                peer.recv(1)
            except BlockingIOError:
                continue
            found.append(number)
        return found


@pytest.fixture
def heirs() -> Iterator[list[Heir]]:
    heirs = [Heir(), Heir()]
    yield heirs
    for heir in heirs:
        heir.close()
        heir.there.close()


@pytest.fixture
def estate() -> Iterator[Estate]:
    estate = Estate()
    yield estate
    estate.close()
    for peer in estate.peers:
        peer.close()


def test_nobody(estate: Estate) -> None:
    assert (len(estate), estate.full, estate.hopeful, estate.wake(), estate.news()) == (0, False, False, None, [])
    estate.pass_on([])
    estate.take_some(2)
    estate.pass_on([])
    assert (len(estate), estate.hopeful) == (2, True)


def test_each_has_as_many(estate: Estate, heirs: list[Heir]) -> None:
    heirs[0].given = 2
    estate.take_some(6)
    estate.pass_on(heirs)
    assert [heir.given for heir in heirs] == [4, 4]
    assert sorted(heirs[0].received() + heirs[1].received()) == list(range(6))
    assert len(estate) == 0
    assert estate.ended() == list(range(6)), "nobody else has them open"
    assert estate.wake() is None


def test_a_full_channel_is_no_end(estate: Estate, heirs: list[Heir]) -> None:
    """What finds no room waits for it, in its order; orders find room always."""
    heir = heirs[0]
    estate.take_some(300)
    estate.pass_on([heir])
    assert 0 < len(estate) < 300
    assert not heir.channel.spacious()
    assert heir.channel.send(STOP), "there is room for orders"
    found: list[int] = []
    while len(estate):
        came = heir.received()
        assert came, "there is room, and nothing comes"
        found += came
        estate.pass_on([heir])
    assert found + heir.received() == list(range(300))
    assert estate.news() == []


def test_one_that_is_busy_does_not_hold_up_the_others(estate: Estate, heirs: list[Heir]) -> None:
    estate.take_some(300)
    estate.pass_on(heirs[:1])
    stuck = len(estate)
    taken = 0
    while len(estate):
        estate.pass_on(heirs)
        taken += len(heirs[1].received())
    assert taken == stuck


def test_those_that_nobody_takes_are_closed_and_counted_once(estate: Estate) -> None:
    estate.take_some(2)
    estate.clock.now += 4
    estate.take_some(1)
    assert estate.wake() == 1000 + PATIENCE
    estate.clock.now += 5.9
    estate.pass_on([])
    assert len(estate) == 3
    estate.clock.now = 1000 + PATIENCE
    estate.pass_on([])
    assert (len(estate), estate.ended()) == (1, [0, 1])
    assert estate.news() == [], "there may be more"
    assert estate.wake() == 1000 + PATIENCE + 1
    assert len(estate.news(at_once=True)) == 1
    estate.lost("no worker could go on with them for 10 s")
    estate.lost("no worker could go on with them for 10 s")
    assert estate.wake() == 1000 + PATIENCE + 1
    estate.clock.now += 1
    (line,) = estate.news()
    assert line == "kept connections of a worker that left were lost: 2 (no worker could go on with them for 10 s)"
    assert estate.news() == []
    assert estate.wake() == 1004 + PATIENCE


def test_no_more_than_the_process_can_hold() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, hard))
    try:
        estate = Estate()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = []
    for _ in range(20):
        found.append(estate.full)
        estate.take_some(1)
    assert found == [False] * 20
    assert estate.full
    estate.close()
    for peer in estate.peers:
        peer.close()


def test_what_did_not_come(estate: Estate) -> None:
    estate.take(Message(CONNECTION, text=b"0", missing=1))
    estate.take(Message(CONNECTION, text=b"1", missing=1))
    estate.lost("of another cause")
    assert (len(estate), estate.news()) == (0, [])
    estate.clock.now += 1
    assert estate.wake() == estate.clock.now
    some, other = estate.news()
    assert ": 2 (the master had no file descriptor left" in some
    assert ": 1 (of another cause)" in other


def test_one_that_takes_none(estate: Estate, heirs: list[Heir]) -> None:
    """It has room, and sending fails: it is tried again after a moment, not at once."""
    heirs[0].there.close()
    estate.take_some(1)
    assert heirs[0].channel.spacious()
    estate.pass_on(heirs[:1])
    assert (len(estate), estate.hopeful) == (1, False)
    moment = estate.wake()
    assert moment is not None
    assert moment < 1001
    estate.clock.now = moment
    assert estate.hopeful
    estate.pass_on(heirs)
    assert heirs[1].received() == [0]


def test_one_whose_channel_is_closed(estate: Estate, heirs: list[Heir]) -> None:
    heirs[0].close()
    estate.take_some(1)
    estate.pass_on(heirs)
    assert heirs[1].received() == [0]


def test_nobody_will_come(estate: Estate) -> None:
    estate.take_some(3)
    estate.give_up("no worker is left")
    assert (len(estate), estate.ended()) == (0, [0, 1, 2])
    estate.clock.now += 1
    assert estate.news() == ["kept connections of a worker that left were lost: 3 (no worker is left)"]


def test_the_server_stops(estate: Estate) -> None:
    """That they are closed is no loss, and nobody is kept from leaving by those that still come."""
    estate.take_some(1)
    estate.end()
    estate.take_some(1)
    assert (len(estate), estate.ended()) == (0, [0, 1])
    estate.clock.now += 1
    assert estate.news() == []
