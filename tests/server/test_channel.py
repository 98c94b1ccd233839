"""Messages between master and worker: whole, in their order, each with its own descriptors."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateways.server.channel import CANCEL, CONNECTION, READY, REOPEN, STOP, Channel, Message
from tests.server.peers import SECONDS
from tests.server.processes import needs_proc
from tests.server.scarce import no_descriptor_left


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    one, two = socket.socketpair()
    for sock in (one, two):
        sock.setblocking(False)
    channels = (Channel(one), Channel(two))
    yield channels
    for channel in channels:
        channel.close()


def pipes(stack: ExitStack, count: int) -> list[tuple[int, int]]:
    """Return pipes whose reading ends the test closes; the writing ends are to be sent."""
    found = []
    for _ in range(count):
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        found.append((reading, writing))
    return found


def drained(channel: Channel) -> list[Message]:
    """Return all that waits; the kernel hands out at most one message with descriptors at a time."""
    found: list[Message] = []
    while channel.waits() and (messages := channel.receive()):
        found += messages
    return found


def test_nothing_waits(pair: tuple[Channel, Channel]) -> None:
    one, _ = pair
    assert not one.waits()
    assert one.receive() == []


def test_messages_in_both_directions(pair: tuple[Channel, Channel]) -> None:
    one, two = pair
    assert one.send(READY)
    assert one.send(CANCEL, 3, 1 << 63, b"text")
    assert two.send(STOP, 1)
    assert drained(two) == [Message(READY), Message(CANCEL, 3, 1 << 63, b"text")]
    assert drained(one) == [Message(STOP, 1)]


def test_descriptors_stay_with_their_message(pair: tuple[Channel, Channel]) -> None:
    one, two = pair
    with ExitStack() as stack:
        ends = pipes(stack, 5)
        assert one.send(READY)
        assert one.send(REOPEN, fds=[writing for _, writing in ends[:2]])
        assert one.send(STOP)
        for at in (2, 3, 4):
            assert one.send(CONNECTION, text=b"%d" % at, fds=[ends[at][1]])
        for _, writing in ends:
            os.close(writing)
        messages = drained(two)
        assert [message.kind for message in messages] == [READY, REOPEN, STOP, CONNECTION, CONNECTION, CONNECTION]
        assert [len(message.fds) for message in messages] == [0, 2, 0, 1, 1, 1]
        assert [message.text for message in messages[3:]] == [b"2", b"3", b"4"]
        for number, fd in enumerate(fd for message in messages for fd in message.fds):
            assert not os.get_inheritable(fd)
            os.write(fd, b"%d" % number)
            os.close(fd)
            assert os.read(ends[number][0], 10) == b"%d" % number


def test_message_that_comes_in_pieces(pair: tuple[Channel, Channel]) -> None:
    one, two = pair
    sender, receiver = socket.socketpair()
    with sender, receiver:
        channel = Channel(receiver)
        assert one.send(CANCEL, 1, 2, b"some text")
        first = two.sock.recv(1000)
        assert one.send(READY)
        data = first + two.sock.recv(1000)
        found = []
        for at in range(len(data)):
            sender.send(data[at : at + 1])
            messages = channel.receive()
            assert messages is not None
            found += [(at + 1, message) for message in messages]
        assert found == [(len(first), Message(CANCEL, 1, 2, b"some text")), (len(data), Message(READY))]


def test_end(pair: tuple[Channel, Channel]) -> None:
    """What was said before is heard."""
    one, two = pair
    one.send(READY)
    one.close()
    assert one.fileno() == -1
    assert two.receive() == [Message(READY)]
    assert two.waits()
    assert two.receive() is None
    assert not two.send(STOP)


def test_nobody_listens(pair: tuple[Channel, Channel]) -> None:
    """Sending does not wait, and says that it could not."""
    one, two = pair
    count = 0
    while one.send(CANCEL, count):
        count += 1
        assert count < 100_000
    assert [message.one for message in drained(two)] == list(range(count))
    assert one.send(STOP)


def test_long_text_is_cut(pair: tuple[Channel, Channel]) -> None:
    one, two = pair
    assert one.send(READY, text=b"x" * 1_000_000)
    (message,) = drained(two) or drained(two)
    assert message.text == b"x" * 65_536


def test_descriptors_that_nobody_has_taken_are_closed(pair: tuple[Channel, Channel]) -> None:
    """Their message has not come whole."""
    one, two = pair
    reading, writing = os.pipe()
    try:
        socket.send_fds(one.sock, [b"m"], [writing])
        assert two.receive() == []
        os.close(writing)
        two.close()
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)


def test_blocking_socket_is_waited_for() -> None:
    one, two = socket.socketpair()
    with one, two:
        one.settimeout(SECONDS)
        Channel(two).send(STOP)
        assert Channel(one).receive() == [Message(STOP)]


@needs_proc
def test_descriptors_that_find_no_room(pair: tuple[Channel, Channel]) -> None:
    """The message comes and tells how many are missing; those of the next one are not taken for its own."""
    one, two = pair
    with ExitStack() as stack:
        ends = pipes(stack, 3)
        for _, writing in ends:
            stack.callback(os.close, writing)
        one.send(REOPEN, fds=[ends[0][1], ends[1][1]])
        one.send(CONNECTION, fds=[ends[2][1]])
        with no_descriptor_left():
            first = two.receive()
        assert first == [Message(REOPEN, missing=2)]
        (second,) = two.receive() or []
        assert (second.kind, len(second.fds), second.missing) == (CONNECTION, 1, 0)
        os.close(second.fds[0])


def test_room(pair: tuple[Channel, Channel]) -> None:
    """Whoever looks for room first leaves some to those that do not."""
    one, two = pair
    count = 0
    while one.spacious():
        one.send(CANCEL, count)
        count += 1
    assert one.send(STOP)
    assert len(drained(two)) == count + 1
    assert one.spacious()
    one.close()
    assert not one.spacious()
    assert not one.waits()
