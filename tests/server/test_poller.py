"""The poller: what it reports, how often, and to how many."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from gateways.server.poller import Poller, make_poller

both = pytest.mark.parametrize("one_shot", [False, True], ids=["always armed", "one shot"])


@contextlib.contextmanager
def poller(*, one_shot: bool) -> Iterator[tuple[Poller, socket.socket, socket.socket]]:
    """A poller, and two ends of a connection."""
    made = make_poller(one_shot=one_shot)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            yield made, ours, theirs
        finally:
            made.close()


def found(made: Poller, timeout: float = 0.0) -> list[int]:
    return [fd for fd, _ in made.wait(timeout)]


@both
def test_reports_what_can_be_read(one_shot: bool) -> None:
    with poller(one_shot=one_shot) as (made, ours, theirs):
        made.add(ours.fileno())
        assert found(made) == []
        theirs.send(b"x")
        assert found(made, 5) == [ours.fileno()]


@both
def test_reports_what_could_be_read_before(one_shot: bool) -> None:
    with poller(one_shot=one_shot) as (made, ours, theirs):
        theirs.send(b"x")
        made.add(ours.fileno())
        assert found(made, 5) == [ours.fileno()]


def test_one_shot_reports_once_until_it_is_armed() -> None:
    with poller(one_shot=True) as (made, ours, theirs):
        made.add(ours.fileno())
        theirs.send(b"x")
        assert found(made, 5) == [ours.fileno()]
        assert found(made) == []
        theirs.send(b"y")
        assert found(made) == [], "news do not arm it"
        made.arm(ours.fileno())
        assert found(made) == [ours.fileno()], "what was not read is reported again"


def test_without_one_shot_it_stays_armed() -> None:
    with poller(one_shot=False) as (made, ours, theirs):
        made.add(ours.fileno())
        theirs.send(b"x")
        assert found(made, 5) == found(made, 5) == [ours.fileno()]
        ours.recv(1)
        assert found(made) == []


@both
@pytest.mark.parametrize("how", ["end of file", "close", "our own shutdown"])
def test_reports_the_end(one_shot: bool, how: str) -> None:
    with poller(one_shot=one_shot) as (made, ours, theirs):
        made.add(ours.fileno())
        if how == "close":
            theirs.close()
        elif how == "end of file":
            theirs.shutdown(socket.SHUT_WR)
        else:
            ours.shutdown(socket.SHUT_RD)
        assert found(made, 5) == [ours.fileno()]
        if one_shot:
            assert found(made) == []


@both
def test_a_listener_is_reported_until_it_is_forgotten(one_shot: bool) -> None:
    with poller(one_shot=one_shot) as (made, _, _), socket.create_server(("127.0.0.1", 0)) as listener:
        made.listen(listener.fileno())
        with socket.create_connection(listener.getsockname()):
            assert found(made, 5) == found(made, 5) == [listener.fileno()]
            made.unlisten(listener.fileno())
            assert found(made) == []


@both
def test_a_closed_descriptor_is_forgotten_by_itself(one_shot: bool) -> None:
    with poller(one_shot=one_shot) as (made, ours, theirs):
        made.add(ours.fileno())
        theirs.send(b"x")
        ours.close()
        assert found(made) == []


@both
def test_wait_ends_in_time(one_shot: bool) -> None:
    with poller(one_shot=one_shot) as (made, ours, _):
        made.add(ours.fileno())
        start = time.monotonic()
        assert found(made, 0.05) == []
        assert 0.04 < time.monotonic() - start < 1


def test_wait_without_end_is_woken_by_what_another_thread_arms() -> None:
    with poller(one_shot=True) as (made, ours, theirs):
        result: list[int] = []
        theirs.send(b"x")
        waiter = threading.Thread(target=lambda: result.extend(found(made, -1)))
        waiter.start()
        made.add(ours.fileno())
        waiter.join(60)
        assert result == [ours.fileno()]


@pytest.mark.skipif(sys.platform != "linux", reason="EPOLLEXCLUSIVE is Linux's")
def test_one_connection_wakes_one_worker() -> None:
    """Eight pollers wait on one listener, as those of eight workers do; not all of them learn of one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        woken: list[int] = []

        def wait(each: Poller) -> None:
            woken.extend(found(each, 0.4))

        pollers = [make_poller(one_shot=False) for _ in range(8)]
        for made in pollers:
            stack.callback(made.close)
            made.listen(listener.fileno())
        threads = [threading.Thread(target=wait, args=(each,)) for each in pollers]
        for thread in threads:
            thread.start()
        time.sleep(0.1)  # all of them wait
        with socket.create_connection(listener.getsockname()):
            for thread in threads:
                thread.join(60)
        assert 1 <= len(woken) < 8
