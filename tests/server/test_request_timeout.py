"""Requests that take too long: --request-timeout and --slow-request, with real workers that hang in real ways."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.server.peers import Peer, head_of, request
from tests.server.processes import App, gone, needs_proc, served
from tests.servers import wait_until

pytestmark = needs_proc
TIMEOUT = "400ms"
PROTOCOLS = ("fastcgi", "scgi", "uwsgi", "http")


def told(server: App) -> list[str]:
    """The log's entries about requests that have taken too long, each with its stacks."""
    return re.findall(r"^.*\(--request-timeout\); interrupted\n(?:  \|.*\n)*", server.text(), re.MULTILINE)


def pid_of(server: App) -> int:
    return int(server.get("/version").split()[1])


@pytest.mark.parametrize(
    ("path", "protocol"), [("/loop", "fastcgi"), ("/loop", "http"), ("/sleep", "scgi"), ("/sleep", "uwsgi")]
)
def test_main_thread_is_freed(path: str, protocol: str) -> None:
    """Out of a loop and out of a system call."""
    with served("--request-timeout", TIMEOUT, "--slow-request", "200ms", protocols=(protocol,)) as server:
        worker = pid_of(server)
        start = time.monotonic()
        with server.begin(path, protocol) as peer:
            answer = peer.answer()
            assert answer.status == 504
        assert 0.4 <= time.monotonic() - start < 10
        assert pid_of(server) == worker
        (entry,) = told(server)
        assert f"{protocol} GET {path}: worker {worker} has served this for " in entry
        assert "This request's: " in entry
        assert f"in {path[1:]}" in entry
        status = server.status()
        assert (status["timeouts"], status["slow"], status["ready"]) == (1, 1, 1)
        assert status["times"][protocol]["5xx"]["total"] > 0.3
        assert status["restarts"]["timeout"] == 0


def test_another_thread_is_freed_from_a_loop() -> None:
    """The main thread, which was first, is in no hurry."""
    with served("--request-timeout", TIMEOUT, "--threads", "2") as server:
        worker = pid_of(server)
        with server.begin("/loop") as first, server.begin("/loop") as second:
            assert second.answer().status == 504
            assert first.answer().status == 504
        assert pid_of(server) == worker
        entries = told(server)
        assert len(entries) == 2
        assert sum("This request's: " in entry for entry in entries) == 2


def test_another_thread_that_stays_in_a_system_call() -> None:
    """Its client is answered, and the worker replaced; until then its other thread serves on, and loses nothing."""
    with served("--request-timeout", "2s", "--threads", "2", "--graceful-timeout", "20s") as server:
        (worker,) = server.workers()
        attempts = 0
        while "is told to leave" not in server.text():  # else it was the main thread that slept, and a signal woke it
            attempts += 1
            with server.begin("/wait") as main, server.begin("/sleep") as other:
                server.touch("go")
                assert main.answer().status == 200
                assert other.answer().status == 504
            (server.directory / "go").unlink()
            for _ in range(15):
                if "is told to leave" not in server.text():  # one of them is under way just then
                    with server.begin("/nap") as peer:
                        assert peer.answer().status == 200
        (_, second) = server.await_ready(2)
        server.await_log(f"worker {worker} is told to leave: a request was interrupted and did not end")
        wait_until(lambda: gone(worker), "the worker has gone")
        assert pid_of(server) == second
        status = server.status()
        assert (status["timeouts"], status["restarts"]["timeout"]) == (attempts, 1)


def test_hung_worker_lets_its_other_threads_finish() -> None:
    with served("--request-timeout", "1s", "--threads", "2", "--workers", "1") as server:
        (worker,) = server.workers()
        with server.begin("/sleep") as main, server.begin("/sleep") as other:
            assert main.answer().status == 504
            assert other.answer().status == 504
        server.await_log(f"worker {worker} is told to leave: a request was interrupted and did not end")
        wait_until(lambda: gone(worker), "the worker has gone")
        server.await_ready(2)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_stuck_in_c_with_the_interpreter_held(threads: str) -> None:
    """Nothing of the process runs, and yet it is told where it hangs; another takes its place."""
    with served("--request-timeout", TIMEOUT, "--threads", threads, "--workers", "2") as server:
        peer = server.peer()
        with peer:
            peer.send(request("http", "/hold-interpreter"))
            start = time.monotonic()
            with pytest.raises((ConnectionError, AssertionError, ValueError)):
                assert peer.answer().status
            assert time.monotonic() - start < 8
        server.await_ready(3)
        (entry,) = told(server)
        assert "GET /hold-interpreter" in entry
        assert "in hold_interpreter" in entry
        assert server.get().startswith(b"pid ")
        assert server.status()["restarts"]["timeout"] == 1
        assert "killed" in server.text()


def test_requests_that_end_with_their_worker_are_counted_and_logged_once() -> None:
    """Its main thread comes back, and counts for itself; for the others the master does, as its clients saw it."""
    options = ("--request-timeout", TIMEOUT, "--threads", "4", "--access-log", "access.log", "--access-format", "json")
    with served(*options) as server:
        (worker,) = server.workers()
        assert server.get() == b"pid %d" % worker
        peers = [server.begin("/sleep") for _ in range(4)]
        for peer in peers:
            with peer:
                assert peer.answer().status == 504
        wait_until(lambda: gone(worker), "the worker has gone")
        server.await_status(lambda status: status["requests"] == 5, "all are counted")
        status = server.status()
        assert sum(status["times"]["http"]["5xx"]["counts"]) == status["timeouts"] == 4
        assert 4 * 0.4 < status["times"]["http"]["5xx"]["total"] < 4 * 5.0
        lines = [json.loads(line) for line in (server.directory / "access.log").read_text().splitlines()]
        assert [line["status"] for line in lines] == [200, 504, 504, 504, 504]
        assert {(line["method"], line["uri"], line["worker"]) for line in lines[1:]} == {("GET", "/sleep", worker)}
        assert all(0.4 < line["duration"] < 5.0 and line["protocol"] == "http" for line in lines[1:])


def test_application_that_goes_on_whatever_is_raised() -> None:
    with served("--request-timeout", TIMEOUT) as server:
        (worker,) = server.workers()
        with server.begin("/refuse-to-end") as peer:
            assert peer.answer().status == 504
        (_, second) = server.await_ready(2)
        wait_until(lambda: gone(worker), "the worker has gone")
        assert pid_of(server) == second
        assert len(told(server)) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_response_that_has_begun_is_cut(protocol: str) -> None:
    with served("--request-timeout", TIMEOUT, protocols=(protocol,)) as server:
        worker = pid_of(server)
        with server.begin("/first-then-hang", protocol) as peer:
            data = peer.read()  # over TCP that would be a reset
            assert b"first" in data
            assert b"504" not in data
            if protocol == "http":
                assert not data.endswith(b"0\r\n\r\n")
        assert pid_of(server) == worker
        assert len(told(server)) == 1


def test_other_requests_of_the_connection_are_unharmed() -> None:
    with served("--request-timeout", "1500ms", "--threads", "3", protocols=("fastcgi",)) as server:
        worker = pid_of(server)
        with server.peer("fastcgi") as peer:
            for stream, path in ((1, "/first-then-hang"), (2, "/loop")):
                peer.send(request("fastcgi", path, keep=True, stream=stream))
            server.await_status(lambda status: status["busy_threads"] == 2, "both are being served")
            peer.send(request("fastcgi", "/version", keep=True, stream=3))
            time.sleep(1.0)  # so that the next one is under way when the others are ended
            peer.send(request("fastcgi", "/nap", keep=True, stream=4))
            answers = peer.answers(4)
            assert {stream: answer.status for stream, answer in answers.items()} == {1: 200, 2: 504, 3: 200, 4: 200}
            assert answers[1].body == b"first"
            assert peer.keep_get("/version").body == b"one %d" % worker
        assert len(told(server)) == 2


def test_several_at_once_are_answered_once_each() -> None:
    with served("--request-timeout", TIMEOUT, "--threads", "4") as server:
        worker = pid_of(server)
        start = time.monotonic()
        peers = [server.begin("/loop") for _ in range(4)]
        for peer in peers:
            with peer:
                assert peer.answer().status == 504
        assert time.monotonic() - start < 10
        assert pid_of(server) == worker
        assert len(told(server)) == 4
        assert server.status()["timeouts"] == 4


def test_worker_that_is_leaving_keeps_its_deadlines() -> None:
    with served("--request-timeout", "600ms", "--threads", "2") as server:
        with server.begin("/loop") as peer:
            server.reload()
            assert peer.answer().status == 504
        assert len(told(server)) == 1
        wait_until(lambda: len(server.status()["workers"]) == 1, "the old worker has gone")
        assert "killed" not in server.text()


@pytest.mark.parametrize(
    ("protocol", "threads"), [("fastcgi", "1"), ("fastcgi", "2"), ("http", "1"), ("http", "2"), ("scgi", "2")]
)
def test_body_that_does_not_come(protocol: str, threads: str) -> None:
    """A slow client costs its own request and no worker."""
    with served("--request-timeout", TIMEOUT, "--threads", threads, protocols=(protocol,)) as server:
        worker = pid_of(server)
        peers: list[Peer] = []
        for _ in range(int(threads)):
            peers.append(server.peer(protocol))
            peers[-1].send(head_of(protocol, "/", length=10))
        for peer in peers:
            with peer:
                assert peer.answer().status == 504
        assert pid_of(server) == worker
        assert server.status()["restarts"]["timeout"] == 0
        assert len(told(server)) == int(threads)


def test_client_that_does_not_read() -> None:
    """The thread waits in the server's own code for a peer that takes no byte."""
    with served("--request-timeout", TIMEOUT, "--threads", "2") as server:
        (worker,) = server.workers()
        peers = [server.peer() for _ in range(2)]
        for peer in peers:
            peer.send(request("http", "/huge"))
        wait_until(lambda: len(told(server)) == 2, "both are interrupted")
        server.await_status(lambda status: status["busy_threads"] == 0, "both are over")
        assert pid_of(server) == worker
        for peer in peers:
            peer.sock.close()
        assert server.status()["restarts"]["timeout"] == 0


def test_slow_request_is_told_once_and_goes_on() -> None:
    with served("--slow-request", "150ms") as server:
        slow_log = server.directory / "slow.log"
        with server.begin("/nap") as peer:
            assert peer.answer().status == 200
        assert not slow_log.exists()
        text = server.text()
        assert len(re.findall(r"WARNING http GET /nap: \d\.\d+ s in worker \d+ \(--slow-request\)\n", text)) == 1
        assert "in nap" in text
        status = server.status()
        assert (status["slow"], status["timeouts"]) == (1, 0)
        with server.begin("/nap") as peer:
            assert peer.answer().status == 200
        assert server.text().count("(--slow-request)") == 2


def test_slow_log_of_its_own() -> None:
    with served("--slow-request", "150ms", "--slow-log", "slow.log") as server:
        with server.begin("/nap") as peer:
            assert peer.answer().status == 200
        text = (server.directory / "slow.log").read_text()
        assert text.count("(--slow-request)") == 1
        assert "http GET /nap: " in text
        assert "This request's: " in text
        assert "GET /nap" not in server.text()
