"""One worker process, as its application and its operator see it."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from gateways.server.admission import Admission
from gateways.server.worker import way_of
from gateways.settings import Settings
from gateways.testing.framing.fastcgi_records import ask, pairs
from tests.server.peers import request
from tests.server.processes import gone, needs_proc, private_memory, served
from tests.servers import wait_until


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 1), (1, 3)])
def test_what_the_application_finds(workers: int, threads: int) -> None:
    with served("--workers", str(workers), "--threads", str(threads)) as server:
        about = json.loads(server.get("/about"))
        assert about["pid"] in server.workers()
        if threads == 1:
            assert about["main"] is True, "the application runs in the main thread"
        assert about["frozen"] > 1_000
        assert about["path"] == str(server.directory)
        assert about["multithread"] == (threads > 1)
        assert about["multiprocess"] == (workers > 1)


def test_all_threads_serve() -> None:
    with served("--threads", "4") as server:
        peers = [server.peer() for _ in range(4)]
        for peer in peers:
            peer.send(request("http", "/wait"))
        server.await_file("waiting")
        wait_until(lambda: thread_count(server.workers()[0]) >= 4, "there are four threads")
        server.touch("go")
        for peer in peers:
            with peer:
                assert peer.answer().status == 200


def thread_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_sigterm_to_a_worker_is_a_request_to_leave() -> None:
    """It finishes what it serves; the master, who did not ask for it, puts another in its place."""
    with served("--threads", "2") as server, server.peer() as peer:
        (worker,) = server.workers()
        peer.send(request("http", "/wait"))
        server.await_file("waiting")
        os.kill(worker, signal.SIGTERM)
        time.sleep(0.05)
        server.touch("go")
        assert peer.answer().status == 200
        server.await_ready(2)
        wait_until(lambda: gone(worker), "it has gone")
        assert f"worker {worker} leaves: it has been asked to by a signal" in server.text()


def test_sigint_and_sighup_do_not_concern_a_worker() -> None:
    """A Ctrl-C reaches all processes of the terminal; the master alone acts."""
    with served() as server:
        (worker,) = server.workers()
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(worker, number)
        assert server.get() == b"pid %d" % worker


@pytest.mark.parametrize("threads", ["1", "2"])
def test_signals_of_the_application_do_not_concern_the_server(threads: str) -> None:
    """Only SIGTERM and SIGQUIT ask a worker to leave; with one thread the application may have handlers."""
    with served("--threads", threads) as server:
        (worker,) = server.workers()
        if threads == "1":
            server.get("/alarm")
            server.await_file("alarm")
        assert server.get("/terminate-a-fork") == b"status 15"
        assert server.get("/interrupt-a-program") == b"status -2"
        assert server.get("/hang-up-a-program") == b"status -1"
        time.sleep(0.1)
        assert server.get() == b"pid %d" % worker


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_fork_that_exits_does_not_answer(threads: str) -> None:
    with served("--threads", threads) as server:
        (worker,) = server.workers()
        assert server.get("/exit-in-a-fork") == b"status 0"
        assert server.get() == b"pid %d" % worker
        assert "Traceback" not in server.text()


@pytest.mark.parametrize("path", ["/close-descriptors", "/close-descriptors-later"])
@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_an_application_that_closes_every_descriptor(threads: str, path: str) -> None:
    """The worker cannot serve any more, so it ends and is replaced, whichever thread finds out.

    Later: another thread waits in the poller already, which goes on with what is closed.
    """
    with served("--threads", threads) as server:
        for count in (2, 3, 4):
            with server.peer() as peer:
                peer.send(request("http", path))
                server.await_ready(count)
        assert server.get().startswith(b"pid ")


def test_what_was_registered_for_the_end_is_run() -> None:
    with served() as server:
        assert server.stop() == 0
        server.await_file("at-exit", "done")


def test_an_exception_costs_one_request() -> None:
    with served() as server:
        (worker,) = server.workers()
        with server.peer() as peer:
            assert peer.get("/fail").status == 500
        server.await_log("RuntimeError: failed on purpose")
        assert server.text().count("Traceback") == 1
        assert server.get() == b"pid %d" % worker


@needs_proc
@pytest.mark.parametrize("threads", ["1", "4"])
def test_private_memory(threads: str) -> None:
    """Under 20 MB a worker, after it has served in every protocol."""
    protocols = ("http", "fastcgi", "scgi", "uwsgi")
    with served("--workers", "2", "--threads", threads, protocols=protocols) as server:
        for number in range(100):
            with server.peer(protocols[number % 4]) as peer:
                assert peer.get("/large").status == 200
        for pid in server.workers():
            assert private_memory(pid) < 20_000_000


def test_fastcgi_front_ends_are_told_what_the_server_can_take() -> None:
    with (
        served("--workers", "2", "--threads", "3", "--backlog", "77", protocols=("fastcgi",)) as server,
        server.peer("fastcgi") as peer,
    ):
        peer.send(ask("FCGI_MAX_CONNS", "FCGI_MAX_REQS"))
        assert peer.record() == (10, 0, pairs({"FCGI_MAX_CONNS": "77", "FCGI_MAX_REQS": "6"}))


def test_connections_of_a_socket() -> None:
    import socket

    settings = Settings("a:b")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        way = way_of(sock, "http", settings, Admission())
        assert way.connector is way.protocols
        codec = way.protocols.codec("http", ("192.0.2.1", 7))
        events = codec.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        params = events[0].params  # type: ignore[union-attr]
        assert (params["SERVER_NAME"], params["SERVER_PORT"]) == ("127.0.0.1", str(sock.getsockname()[1]))
