"""How many workers there are: static, dynamic and ondemand pools, and what changes their size while they run."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from tests.server.peers import Peer, request
from tests.server.processes import App, children, needs_proc, run_command, served
from tests.servers import wait_until

pytestmark = needs_proc


def await_workers(server: App, count: int) -> None:
    wait_until(lambda: server.status()["ready"] == count, f"{count} workers serve")
    wait_until(lambda: len(children(server.pid)) == count, f"there are {count} processes")


def hold(server: App, count: int, stack: contextlib.ExitStack) -> list[Peer]:
    """Send requests that last until the file ``go`` is there."""
    peers = []
    for _ in range(count):
        peers.append(stack.enter_context(server.peer()))
        peers[-1].send(request("http", "/wait"))
    return peers


def test_static_pool_has_its_size() -> None:
    with served("--workers", "3") as server:
        await_workers(server, 3)
        status = server.status()
        assert (status["pool"], status["wanted"], status["ready"]) == ("static", 3, 3)


def test_dynamic_pool_grows_under_load_and_shrinks_again() -> None:
    with (
        served("--pool", "dynamic", "--workers", "4", "--worker-idle", "1s", first=1) as server,
        contextlib.ExitStack() as stack,
    ):
        await_workers(server, 1)
        peers = hold(server, 4, stack)
        await_workers(server, 4)
        server.touch("go")
        assert [peer.answer().status for peer in peers] == [200] * 4
        await_workers(server, 1)
        assert server.text().count("is told to leave: one more than are needed") == 3
        assert server.get().startswith(b"pid ")
        assert "killed" not in server.text()


def test_dynamic_pool_keeps_its_least() -> None:
    options = ("--pool", "dynamic", "--workers", "4", "--min-workers", "2", "--worker-idle", "100ms")
    with served(*options, first=2) as server, contextlib.ExitStack() as stack:
        await_workers(server, 2)
        peers = hold(server, 4, stack)
        wait_until(lambda: server.status()["ready"] > 2, "it grows")
        server.touch("go")
        assert [peer.answer().status for peer in peers] == [200] * 4
        await_workers(server, 2)


def test_ondemand_pool_comes_and_goes() -> None:
    with served("--pool", "ondemand", "--workers", "2", "--worker-idle", "300ms", first=0) as server:
        for round_ in range(3):
            await_workers(server, 0)
            start = time.monotonic()
            with server.peer(kind="unix" if round_ else "tcp") as peer:
                assert peer.get().status == 200
            assert time.monotonic() - start < 3
        await_workers(server, 0)
        assert len(server.workers()) == 3
        assert server.status()["requests"] == 3


def test_ondemand_pool_is_ready_while_it_can_serve() -> None:
    """Before the first request, and until its workers turn out not to boot."""
    with served("--pool", "ondemand", "--workers", "2", "--worker-idle", "300ms", first=0) as server:
        assert server.status()["state"] == "running"
        server.touch("broken")
        with server.peer() as peer:
            peer.send(request("http"))
            server.await_log("next try in 1 s")
            assert server.status()["state"] == "starting"
            (server.directory / "broken").unlink()
            assert peer.answer().status == 200
        assert server.status()["state"] == "running"


def test_ondemand_pool_grows_under_load() -> None:
    with (
        served("--pool", "ondemand", "--workers", "3", "--worker-idle", "300ms", first=0) as server,
        contextlib.ExitStack() as stack,
    ):
        peers = hold(server, 3, stack)
        await_workers(server, 3)
        server.touch("go")
        assert [peer.answer().status for peer in peers] == [200] * 3
        await_workers(server, 0)


def test_ondemand_worker_that_leaves_does_not_keep_others_from_coming() -> None:
    """One is leaving, with a request that lasts; another connection is served at once."""
    options = ("--pool", "ondemand", "--workers", "2", "--worker-idle", "30s")
    with served(*options, first=0) as server, server.begin("/wait") as peer:
        (worker,) = server.workers()
        os.kill(server.pid, signal.SIGHUP)
        server.await_ready(2)
        wait_until(lambda: len(server.status()["workers"]) == 2, "the old one still serves")
        start = time.monotonic()
        assert server.get() != b"pid %d" % worker
        assert time.monotonic() - start < 3
        server.touch("go")
        assert peer.answer().status == 200


def test_ondemand_pool_that_cannot_boot_backs_off() -> None:
    with served("--pool", "ondemand", "--workers", "2", first=0) as server:
        server.touch("broken")
        with server.peer() as peer:
            peer.send(request("http"))
            server.await_log("next try in 0.5 s")
            server.await_log("next try in 1 s")
            (server.directory / "broken").unlink()
            assert peer.answer().status == 200


def test_ondemand_pool_whose_workers_crash_backs_off() -> None:
    """Those that wait to be accepted are served when its time is over, though nobody else connects."""
    with (
        served("--pool", "ondemand", "--workers", "1", first=0) as server,
        contextlib.ExitStack() as stack,
    ):
        server.touch("short-lived")
        peers = hold(server, 8, stack)
        server.await_log("in a row died soon after their start; next try in 0.5 s")
        (server.directory / "short-lived").unlink()
        server.touch("go")
        assert peers[-1].answer().status == 200


def test_one_more_and_one_less_by_signal() -> None:
    with served("--workers", "2") as server:
        for number, count in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1), (signal.SIGTTOU, 1)):
            os.kill(server.pid, number)
            wait_until(lambda count=count: server.status()["wanted"] == count, f"{count} are wanted")  # type: ignore[misc]
            await_workers(server, count)
        assert server.get().startswith(b"pid ")
        assert "killed" not in server.text()


def test_scale() -> None:
    with served("--workers", "1") as server:
        found = run_command("scale", "3", "--control", server.control)
        assert (found.returncode, found.stderr) == (0, "")
        await_workers(server, 3)
        server.reload()
        await_workers(server, 3)
        assert run_command("scale", "1", "--control", server.control).returncode == 0
        await_workers(server, 1)


@pytest.mark.parametrize("pool", ["static", "ondemand"])
def test_scale_within_bounds(pool: str) -> None:
    with served("--workers", "1", "--pool", pool, first=0) as server:
        found = run_command("scale", "1000", "--control", server.control)
        assert found.returncode == 1
        assert "1000 workers cannot be; from 1 to 16 can, without a restart" in found.stderr
        assert run_command("scale", "0", "--control", server.control).returncode != 0
        assert server.status()["wanted"] == 1


def test_requests_go_on_while_it_shrinks() -> None:
    with served("--workers", "4", "--threads", "2") as server, server.peer() as kept:
        for number in range(3, 0, -1):
            assert server.ask("scale", workers=number) == [{"ok": True, "workers": number}]
            for _ in range(20):
                assert kept.keep_get().status == 200
                assert server.get().startswith(b"pid ")
        await_workers(server, 1)
        assert kept.keep_get().status == 200
