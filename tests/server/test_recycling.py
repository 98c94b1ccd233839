"""Workers that are replaced: by number of requests, age and memory without a gap in capacity, and those that crash."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time

import pytest

from tests.server.peers import request
from tests.server.processes import App, children, gone, needs_proc, served
from tests.servers import wait_until

pytestmark = needs_proc


def ask_until(server: App, condition: str, seconds: float = 20.0) -> int:
    """Ask again and again until the log has these words; returns how often that was."""
    deadline = time.monotonic() + seconds
    count = 0
    while condition not in server.text():
        for _ in range(10):
            server.get()
            count += 1
        assert time.monotonic() < deadline, condition
    return count


def test_number_of_requests() -> None:
    with served("--workers", "2", "--max-requests", "50") as server:
        old = server.workers()
        with server.watched(2):
            asked = ask_until(server, "requests (--max-requests)")
            assert asked >= 50
            server.await_ready(3)
            ask_until(server, "worker " + str(old[0]) + " is told to leave")
            ask_until(server, "worker " + str(old[1]) + " is told to leave")
            wait_until(lambda: all(gone(pid) for pid in old), "both have gone")
        assert len(set(server.workers())) >= 4
        served_by_each = [int(count) for count in re.findall(r"it has served (\d+) requests", server.text())]
        assert min(served_by_each) >= 50
        status = server.status()
        assert status["restarts"]["requests"] >= 2
        assert status["restarts"]["crash"] == 0
        assert "killed" not in server.text()


def test_number_of_requests_is_noticed_at_once() -> None:
    """Also by a master that looks at nothing of itself; the worker serves on until its replacement is ready."""
    with served("--max-requests", "9") as server:
        (worker,) = server.workers()
        server.touch("hang")
        for _ in range(9):
            assert server.get() == b"pid %d" % worker
        wait_until(lambda: len(children(server.pid)) == 2, "a replacement boots")  # nobody has woken the master
        for _ in range(3):
            assert server.get() == b"pid %d" % worker
        (server.directory / "hang").unlink()
        server.await_log(f"worker {worker} is told to leave: it has served 12 requests (--max-requests)")
        wait_until(lambda: gone(worker), "it has gone")
        assert server.get() == b"pid %d" % server.workers()[1]


def test_age() -> None:
    with served("--workers", "2", "--max-age", "700ms") as server:
        old = server.workers()
        with server.watched(2):
            wait_until(lambda: all(gone(pid) for pid in old), "both have gone")
            server.await_ready(4)
        assert "it is older than 1 s (--max-age)" in server.text()
        assert server.get().startswith(b"pid ")
        assert server.status()["restarts"]["age"] >= 2


def test_memory() -> None:
    with served("--workers", "2", "--max-rss", "40M") as server:
        (first, second) = server.workers()
        with server.watched(2):
            for _ in range(20):
                server.get("/leak")
            server.await_log("of private memory (--max-rss)")
            wait_until(lambda: gone(first) or gone(second), "one has gone")
        (mebibytes,) = re.findall(r"it has (\d+) MiB of private memory", server.text())[:1]
        assert int(mebibytes) >= 40
        assert server.status()["restarts"]["memory"] >= 1


def test_memory_of_a_worker_that_serves_is_looked_at_every_second() -> None:
    with served("--max-rss", "60M") as server:
        server.get()
        for _ in range(20):
            server.get("/leak")
        wait_until(lambda: "of private memory (--max-rss)" in server.text(), "it is noticed", 3.5)


def test_worker_under_the_limit_of_memory_stays() -> None:
    with served("--max-rss", "1G") as server:
        (worker,) = server.workers()
        server.get("/leak")
        server.await_status(lambda status: status["workers"][0]["private_bytes"] > 4_000_000, "its memory is known")
        assert server.get() == b"pid %d" % worker


def test_crash_is_told_with_its_requests() -> None:
    with served("--workers", "2", "--threads", "2", "--access-log", "access.log") as server:
        with server.begin("/sleep?a") as first:
            (worker,) = [entry["pid"] for entry in server.status()["workers"] if busy(entry)]
            os.kill(worker, signal.SIGSEGV)
            assert first.read() == b""
        server.await_ready(3)
        text = server.text()
        assert f"worker {worker} was killed by SIGSEGV; it is replaced" in text
        assert f"worker {worker} was serving http GET /sleep?a" in text
        status = server.status()
        assert status["restarts"]["crash"] == 1
        assert (status["requests"], sum(status["times"]["http"]["5xx"]["counts"])) == (1, 1)
        (line,) = (server.directory / "access.log").read_text().splitlines()
        assert line.endswith('"GET /sleep?a -" 502 - "-" "-"')


def busy(worker: dict[str, list[dict[str, str]]]) -> bool:
    return any(thread["state"] == "busy" for thread in worker["threads"])


def test_out_of_memory() -> None:
    """The application's own MemoryError is a 500; the worker lives on."""
    with served() as server:
        (worker,) = server.workers()
        with server.peer() as peer:
            assert peer.get("/out-of-memory").status == 500
        assert server.get() == b"pid %d" % worker


def test_request_that_always_kills() -> None:
    """Each worker is replaced at once, as long as not one follows the other too fast."""
    with served("--workers", "2") as server:
        for number in range(3):
            with server.peer() as peer:
                peer.send(request("http", "/die"))
                assert peer.read() == b""
            start = time.monotonic()
            server.await_ready(3 + number)
            assert time.monotonic() - start < 5
        assert "next try" not in server.text()
        assert server.status()["restarts"]["crash"] == 3


def test_crash_loop_backs_off_and_says_so() -> None:
    with served("--workers", "2") as server:
        server.touch("short-lived")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.await_log("died soon after their start; next try in 0.5 s")
        server.await_log("died soon after their start; next try in 1 s")
        server.await_log("died soon after their start; next try in 2 s")
        tries = len(server.workers())
        assert tries < 12
        (server.directory / "short-lived").unlink()
        wait_until(lambda: server.status()["ready"] == 2, "all serve again")
        assert server.get().startswith(b"pid ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_worker_that_somebody_ends(number: signal.Signals) -> None:
    """By SIGTERM it finishes what it serves."""
    with served("--workers", "2") as server:
        with server.begin("/nap") as peer:
            (worker,) = [entry["pid"] for entry in server.status()["workers"] if busy(entry)]
            os.kill(worker, number)
            if number == signal.SIGTERM:
                assert peer.answer().status == 200
            else:
                assert peer.read() == b""
        server.await_ready(3)
        wait_until(lambda: gone(worker), "it has gone")


@pytest.mark.parametrize("options", [("--workers", "1"), ("--workers", "2", "--threads", "2")], ids=["1", "2x2"])
def test_kept_connections_of_a_worker_that_somebody_ends(options: tuple[str, ...]) -> None:
    """Another one goes on with them, once there is another one."""
    with served(*options, protocols=("fastcgi",)) as server:
        peers = [server.peer("fastcgi") for _ in range(4)]
        for peer in peers:
            assert peer.keep_get().status == 200
        for round_ in range(3):
            ready = server.workers()
            worker = ready[-1]
            os.kill(worker, signal.SIGTERM)
            server.await_ready(len(ready) + 1)
            for peer in peers:
                assert peer.keep_get().status == 200
            wait_until(lambda worker=worker: gone(worker), f"it has gone, {round_}")  # type: ignore[misc]
        for peer in peers:
            peer.sock.close()
        text = server.text()
        assert text.count("leaves: it has been asked to by a signal") == 3
        assert server.status()["restarts"]["crash"] == 0


def test_kept_connections_of_a_worker_on_demand() -> None:
    """Nobody goes on with them: they are closed, and do not keep the next request waiting."""
    options = ("--pool", "ondemand", "--worker-idle", "200ms")
    with served(*options, protocols=("fastcgi",), first=0) as server:
        for number in (signal.SIGTERM, 0):
            with server.peer("fastcgi") as peer:
                worker = int(peer.keep_get().body.removeprefix(b"pid "))
                if number:
                    with contextlib.suppress(ProcessLookupError):  # it has been idle long enough
                        os.kill(worker, number)
                peer.wait_closed(5.0)
            wait_until(lambda worker=worker: gone(worker), "it has gone")  # type: ignore[misc]


def test_memory_is_looked_at_though_nobody_asks() -> None:
    with served("--max-rss", "40M") as server:
        (worker,) = server.workers()
        for _ in range(20):
            server.get("/leak")
        server.await_ready(2)
        wait_until(lambda: gone(worker), "it has gone")
        assert "of private memory (--max-rss)" in server.text()


def test_an_age_beyond_what_poll_can_wait_for() -> None:
    """25 days are more milliseconds than fit into the 31 bits of poll(2)."""
    with served("--max-age", "40d") as server:
        (worker,) = server.workers()
        for _ in range(2):  # each wakes the master, which then waits for the far moment again
            assert server.status()["ready"] == 1
        assert server.get() == b"pid %d" % worker
        assert server.stop() == 0
        assert "Traceback" not in server.text()
