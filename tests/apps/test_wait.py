"""What a request waits for: what is there of it, what is forgotten, who is told."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

import pytest

from gateways.apps.wait import Wait

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_only_what_is_waited_for_is_found(pipe: Pipe) -> None:
    out, into = pipe
    wait = Wait()
    wait.add(out, select.POLLIN)
    assert wait.look() == []
    os.write(into, b"x")
    assert wait.look() == [(out, select.POLLIN)]
    wait.add(out, 0)
    assert wait.look() == []
    wait.add(into, select.POLLOUT)
    assert wait.look() == [(into, select.POLLOUT)]
    wait.clear()
    assert wait.look() == []
    assert wait.fds == {}


def test_what_is_dropped_has_not_been_asked_for(pipe: Pipe) -> None:
    """Its number may be another one's by then."""
    out, into = pipe
    wait = Wait()
    for fd in pipe:
        wait.add(fd, select.POLLIN)
        wait.armed[fd] = select.POLLIN
    wait.drop(out)
    wait.drop(out)  # nothing
    assert wait.fds == wait.armed == {into: select.POLLIN}
    wait.clear()
    assert wait.fds == wait.armed == {}


def test_a_thread_can_wait_itself(pipe: Pipe) -> None:
    out, into = pipe
    wait = Wait()
    wait.add(out, select.POLLIN)
    start = time.monotonic()
    wait.block(0.05)
    assert time.monotonic() - start >= 0.05
    os.write(into, b"x")
    start = time.monotonic()
    wait.block(60)
    assert time.monotonic() - start < 30


def test_a_word_is_kept_and_passed_on() -> None:
    wait = Wait()
    wait.wake()
    assert wait.woken, "also before anybody listens"
    heard: list[bool] = []
    wait.waker = lambda: heard.append(wait.woken)
    wait.woken = False
    wait.wake()
    assert heard == [True]
