"""The desk: who gets a place and who loses it, with the control socket's visitors; the loop neither waits nor spins."""

from __future__ import annotations

import contextlib
import os
import resource
import select
from collections.abc import Iterator

import pytest

from gateways.server.control import ControlServer
from gateways.server.desk import GRACE, ROOM
from tests.server.fake_master import FakeClock, FakeHandler, Loop, ask, connect, ends, line, pump, short_directory
from tests.server.pools import MemoryLog, within


@pytest.fixture
def path() -> Iterator[str]:
    with short_directory() as directory:
        yield str(directory / "s")


@pytest.fixture
def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def timed(path: str, handler: FakeHandler, clock: FakeClock) -> Iterator[ControlServer]:
    """A server without a loop, whose time is the test's."""
    server = ControlServer(path, handler, clock)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server(path: str, handler: FakeHandler, log: MemoryLog) -> Iterator[ControlServer]:
    server = ControlServer(path, handler, log=log)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def loop(server: ControlServer) -> Iterator[Loop]:
    with Loop(server) as loop:
        yield loop


def test_a_hundred_connections(path: str, loop: Loop, server: ControlServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(path))
        assert ask(path, b'{"command": "ping"}\n') == {"ok": True}
        assert loop.do(lambda: len(server.visitors)) <= ROOM


def test_nobody_loses_the_place_at_once(path: str, timed: ControlServer, clock: FakeClock) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connect(path)) for _ in range(ROOM + 1)]
        pump(timed)
        assert len(timed.visitors) == ROOM
        assert timed.fileno() not in dict(timed.descriptors())
        assert timed.deadline() == clock.now + GRACE
        for peer in peers:
            peer.sendall(b'{"command": "ping"}\n')
        clock.now += GRACE
        for peer in peers:
            pump(timed)
            assert line(peer) == {"ok": True}
            peer.close()


def test_what_was_sent_meanwhile_is_heard_first(
    path: str, timed: ControlServer, clock: FakeClock, handler: FakeHandler
) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(path))
        others = [stack.enter_context(connect(path)) for _ in range(ROOM)]
        pump(timed)
        clock.now += GRACE
        first.sendall(b'{"command": "reopen"}\n')
        timed.on_ready(timed.fileno(), select.POLLIN)
        assert handler.calls == ["reopen"]
        assert line(first) == {"ok": True}
        pump(timed)
        assert len(timed.visitors) == ROOM
        assert ends(others[0])


def test_where_all_wait_for_a_reload(path: str, loop: Loop, server: ControlServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(ROOM):
            sock = stack.enter_context(connect(path))
            sock.sendall(b'{"command": "reload"}\n')
            line(sock)
        assert ask(path, b'{"command": "ping"}\n') == {
            "ok": False,
            "error": "too many connections are waiting here already",
        }
        loop.do(lambda: server.reloaded(None))
        within(lambda: ask(path, b'{"command": "ping"}\n')["ok"], "there is room again")


def test_no_descriptor_left(path: str, timed: ControlServer, clock: FakeClock, log: MemoryLog) -> None:
    timed.log = log
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with connect(path) as sock:
        sock.sendall(b'{"command": "ping"}\n')
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            timed.on_ready(timed.fileno(), select.POLLIN)
            timed.on_ready(timed.fileno(), select.POLLIN)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        log.only("control: cannot accept connections: Too many open files")
        assert timed.descriptors() == []
        deadline = timed.deadline()
        assert deadline is not None
        clock.now = deadline
        timed.expire(clock.now)
        pump(timed)
        assert line(sock) == {"ok": True}


def test_a_descriptor_that_is_no_more_is_none_of_ours(timed: ControlServer) -> None:
    timed.on_ready(99_999, select.POLLIN)
    timed.close()
    timed.on_ready(99_999, select.POLLIN)
    assert timed.descriptors() == []
    assert timed.deadline() is None


def test_who_goes_within_the_answer(path: str, timed: ControlServer, handler: FakeHandler) -> None:
    handler.document = {"long": "x" * 4_000_000}
    with connect(path) as sock:
        sock.sendall(b'{"command": "status"}\n')
        pump(timed)
        assert [events for fd, events in timed.descriptors() if fd != timed.fileno()] == [select.POLLOUT]
    pump(timed)
    assert timed.visitors == {}


def test_who_goes_without_reading_the_answer(path: str, timed: ControlServer) -> None:
    with connect(path) as sock:
        sock.sendall(b'{"command": "ping"}\n')
        pump(timed)
    pump(timed)
    assert timed.visitors == {}


def test_who_goes_before_the_answer(path: str, timed: ControlServer, handler: FakeHandler) -> None:
    with connect(path) as sock:
        sock.sendall(b'{"command": "reopen"}\n')
    pump(timed)
    assert handler.calls == ["reopen"]
    assert timed.visitors == {}
