"""Kept connections at a reload, many of them, where the workers that should go on with them have no time or no room."""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.server.peers import Peer, request
from tests.server.processes import App, children, descriptors, gone, needs_proc, served
from tests.server.scarce import no_descriptor_left
from tests.servers import wait_until

pytestmark = needs_proc

MANY = 400
"""More than a worker's channel takes at a time."""


@contextmanager
def kept(server: App, count: int = MANY) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        peers = [stack.enter_context(server.peer()) for _ in range(count)]
        for peer in peers:
            assert peer.keep_get().status == 200
        yield peers


@contextmanager
def reloaded_while_busy(server: App) -> Iterator[Peer]:
    """Reload; the old worker gives its connections away when the new one is busy, until the file ``go`` is there."""
    (old,) = server.workers()
    with server.begin("/wait") as last:
        server.reload()
        with server.begin("/wait") as busy:
            server.touch(f"go-{old}")
            assert last.answer().status == 200
            wait_until(lambda: gone(old), "the old one has gone")
            yield busy


def lost(server: App) -> int:
    """How many the log says were lost."""
    return sum(map(int, re.findall(r"kept connections of a worker that left were lost: (\d+)", server.text())))


def closed(peers: list[Peer]) -> int:
    """How many are closed so far; nothing else has come there."""
    poll = select.poll()
    for peer in peers:
        poll.register(peer.sock, select.POLLIN)
    ready = poll.poll(0)
    assert all(peer.sock.recv(1) == b"" for peer in peers for fd, _ in ready if peer.sock.fileno() == fd)
    return len(ready)


def test_new_worker_that_is_busy() -> None:
    """All are answered as soon as it has time, though nothing else happens in the server."""
    with served("--backlog", "1000") as server, kept(server) as peers:
        held = descriptors(server.pid)
        with reloaded_while_busy(server) as busy:
            for peer in peers:
                peer.send(request("http", keep=True))
            server.touch("go")
            assert busy.answer().status == 200
        for peer in peers:
            assert peer.next_answer()[1].body == b"pid %d" % server.workers()[-1]
        assert lost(server) == 0
        wait_until(lambda: descriptors(server.pid) <= held, "the master holds none of them")


def test_new_worker_that_has_no_time_for_long() -> None:
    """What waits in the master is closed after --graceful-timeout, and it is said how many; the rest is answered."""
    with served("--backlog", "1000", "--graceful-timeout", "2s") as server, kept(server) as peers:
        with reloaded_while_busy(server) as busy:
            wait_until(lambda: lost(server), "some are lost")
            wait_until(lambda: closed(peers) == lost(server), "they are closed")
            assert server.text().count("no worker could go on with them for 2 s") <= 2
            gone_ = lost(server)
            assert 0 < gone_ < MANY
            server.touch("go")
            assert busy.answer().status == 200
        answered = 0
        for peer in peers:
            answered += not peer.is_closed() and peer.keep_get().status == 200
        assert answered == MANY - gone_


def test_stop_while_they_wait() -> None:
    """Nobody waits for a worker that will not come."""
    with served("--backlog", "1000") as server, kept(server) as peers:
        with reloaded_while_busy(server) as busy:
            os.kill(server.pid, signal.SIGTERM)
            wait_until(lambda: closed(peers) > 0, "they are closed")
            server.touch("go")
            assert busy.answer().status == 200
            assert server.wait() == 0
        assert lost(server) == 0


def test_program_that_is_replaced_while_they_wait() -> None:
    with served("--backlog", "1000") as server, kept(server) as peers:
        with reloaded_while_busy(server) as busy:
            os.kill(server.pid, signal.SIGUSR2)
            server.await_log("the program is replaced")
            assert lost(server) > 0
            wait_until(lambda: closed(peers) == lost(server), "they are closed")
            server.touch("go")
            assert busy.answer().status == 200
        wait_until(lambda: server.status()["reloads"] == 2, "the new program serves")
        for peer in peers:
            assert peer.is_closed() or peer.keep_get().status == 200
        assert closed(peers) == lost(server)


# -- no descriptor left -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--threads", "2"), ("--request-timeout", "20s")], ids=["one", "two", "timed"])
def test_worker_that_cannot_get_the_new_log(options: tuple[str, ...]) -> None:
    """It leaves, and says why; another one writes to the new file."""
    with served("--access-log", "access.log", *options) as server:
        log = server.directory / "access.log"
        (old,) = server.workers()
        with no_descriptor_left(old):
            log.rename(log.with_suffix(".old"))
            server.ask("reopen")
            server.await_log(f"worker {old} leaves: it has not got the new log files")
            wait_until(lambda: gone(old), "it has gone")
        server.await_ready(2)
        server.get("/later")
        wait_until(lambda: "/later" in log.read_text(), "the line is in the new file")
        assert server.text().count("WARNING worker") == 1
        assert children(server.pid) == server.workers()[1:]


@pytest.mark.parametrize("options", [(), ("--request-timeout", "20s")], ids=["plain", "timed"])
def test_worker_that_cannot_get_the_connections(options: tuple[str, ...]) -> None:
    """They are lost, and counted; the worker serves on."""
    with served("--workers", "2", *options) as server, kept(server, 12) as peers:
        answers = [peer.keep_get().body for peer in peers]
        old, heir = sorted(server.workers(), key=lambda pid: answers.count(b"pid %d" % pid), reverse=True)
        with no_descriptor_left(heir):
            os.kill(old, signal.SIGTERM)
            wait_until(lambda: gone(old), "it has gone")
            wait_until(lambda: lost(server) == answers.count(b"pid %d" % old), "they are counted")
        server.await_ready(3)
        assert {server.get() for _ in range(20)} <= {b"pid %d" % pid for pid in [*server.workers()[1:], heir]}


def test_master_that_cannot_get_the_connections() -> None:
    with served("--workers", "2") as server, kept(server, 12) as peers:
        answers = [peer.keep_get().body for peer in peers]
        old, _ = sorted(server.workers(), key=lambda pid: answers.count(b"pid %d" % pid), reverse=True)
        with no_descriptor_left(server.pid):
            os.kill(old, signal.SIGTERM)
            wait_until(lambda: lost(server) == answers.count(b"pid %d" % old), "they are counted")
        server.await_ready(3)
        assert server.get().startswith(b"pid ")
