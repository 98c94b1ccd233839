"""Reloads: new workers first, then the old ones leave; what fails leaves the old ones as they are."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.peers import Peer, head_of, request
from tests.server.processes import (
    SOURCE,
    App,
    children,
    descriptors,
    gone,
    needs_proc,
    private_memory,
    run_command,
    served,
    wakeups,
)
from tests.servers import open_directory, wait_until

pytestmark = needs_proc


def set_version(server: App, version: str) -> None:
    (server.directory / "version").write_text(version)


def write_code(server: App, code: str) -> None:
    """Put other code in the application's place; its bytecode may be as old as that of the second before."""
    path = server.directory / "steered_app.py"
    path.write_text(code)
    later = time.time() + 10
    os.utime(path, (later, later))


def version(server: App) -> str:
    return server.get("/version").decode().split()[0]


def await_version(server: App, wanted: str) -> None:
    """Wait until new workers alone answer; old ones may take a last request after they were told to leave."""
    wait_until(lambda: {version(server) for _ in range(10)} == {wanted}, f"version {wanted} answers")


def reloaded(server: App, count: int = 1) -> None:
    server.await_log("reload: done", count)


@pytest.mark.parametrize("options", [(), ("--rolling",), ("--threads", "3")], ids=["plain", "rolling", "threads"])
def test_new_code_serves_and_the_old_workers_leave(options: tuple[str, ...]) -> None:
    with served("--workers", "2", *options) as server:
        old = server.workers()
        set_version(server, "two")
        with server.watched(2):
            os.kill(server.pid, signal.SIGHUP)
            reloaded(server)
        wait_until(lambda: all(gone(pid) for pid in old), "the old ones have gone")
        assert version(server) == "two"
        assert len(server.workers()) == 4
        status = server.status()
        assert (status["generation"], status["reloads"], status["reload_failures"]) == (2, 1, 0)
        assert status["state"] == "running"
        assert "killed" not in server.text()


def test_command_waits_for_the_new_workers() -> None:
    with served("--workers", "2") as server:
        set_version(server, "two")
        found = run_command("reload", "--control", server.control)
        assert (found.returncode, found.stdout, found.stderr) == (0, "reloaded\n", "")
        await_version(server, "two")


def test_running_requests_are_finished_by_the_old_workers() -> None:
    with served("--threads", "2") as server, server.begin("/wait") as peer:
        (old,) = server.workers()
        server.reload()
        assert len(server.status()["workers"]) == 2
        assert server.get() != b"pid %d" % old
        server.touch("go")
        assert peer.answer().body == b"pid %d" % old
        wait_until(lambda: gone(old), "the old one has gone")


def test_old_worker_that_does_not_finish() -> None:
    with served("--graceful-timeout", "300ms") as server, server.begin("/wait") as peer:
        (old,) = server.workers()
        server.reload()
        wait_until(lambda: gone(old), "the old one has gone")
        assert peer.read() == b""
        server.await_log(f"worker {old}: still busy 0.3 s after it was told to leave (--graceful-timeout); killed")
        server.await_log(f"worker {old} was serving http GET /wait")
        assert server.status()["restarts"]["crash"] == 0


def test_reloads_that_overtake_each_other() -> None:
    """What was booting for an older one ends, and that is no failure."""
    with served() as server:
        family = server.workers()
        server.touch("hang")
        for generation in (2, 3, 4):
            os.kill(server.pid, signal.SIGHUP)
            server.await_log(f"reload: starting workers of generation {generation}")
            family.extend(wait_until(lambda: set(children(server.pid)) - set(family), "one boots"))
        (server.directory / "hang").unlink()
        server.await_log("reload: done")
        text = server.text()
        assert text.count("superseded by another reload while it was booting; killed") == 2
        assert server.workers() == [family[0], family[3]]
        assert server.status()["reload_failures"] == 0
        assert "ERROR" not in text
        assert not re.search("WARNING worker", text)


def test_one_that_has_just_become_ready_is_not_killed_by_the_next_reload() -> None:
    """It serves already, and the master, which wants to write to a log that stands still, has not heard of it."""
    with open_directory() as directory, contextlib.ExitStack() as stack:
        heard, out = os.pipe()
        stack.callback(os.close, heard)
        shutil.copy(SOURCE, directory)
        server = App(
            directory, "steered_app:app", "--control", str(directory / "control"),
            python_path=directory, protocols=("http",), env={"STEER": str(directory)},
        )  # fmt: skip
        with os.fdopen(out, "wb", buffering=0) as stderr:
            server.process = subprocess.Popen(server.argv, cwd=directory, env=server.env, stderr=stderr)
            stack.callback(server.kill)
            text = b""

            def drain() -> str:
                nonlocal text
                while select.select([heard], [], [], 0)[0]:
                    text += os.read(heard, 65_536)
                return text.decode().replace("#", "")

            def said(words: str) -> Callable[[], bool]:
                return lambda: words in drain()

            wait_until(said("is ready"), "it serves")
            old = set(children(server.pid))
            busy = stack.enter_context(server.peer())
            busy.send(request("http", "/wait"))
            server.await_file("waiting")
            server.touch("hang")
            os.kill(server.pid, signal.SIGHUP)
            wait_until(said("starting workers of generation 2"), "it is reloaded")
            new = wait_until(lambda: set(children(server.pid)) - old, "the new one boots").pop()
            drain()
            os.set_blocking(stderr.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while stderr.write(b"#" * 64):
                    pass
            os.set_blocking(stderr.fileno(), True)
            os.kill(server.pid, signal.SIGHUP)
            (directory / "hang").unlink()
            assert server.get() == b"pid %d" % new, "the other one is busy"
            server.touch("go")
            wait_until(said("reload: done"), "the second reload is over")
            assert f"worker {new} is told to leave: reloaded" in drain()
            assert "killed" not in drain()
            assert server.stop() == 0


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_kept_connections_go_on(protocol: str, threads: str) -> None:
    """They are spread over the new workers, and none of them is ever closed."""
    with served("--workers", "2", "--threads", threads, protocols=("fastcgi", "http")) as server:
        peers = [server.peer(protocol, kind) for kind in ("unix", "tcp") for _ in range(4)]
        for round_ in range(3):
            answers = [peer.keep_get("/", b"body%d" % round_) for peer in peers]
            assert {answer.body for answer in answers} == {b"body%d" % round_}
            old = server.workers()[-2:]
            server.reload()
            wait_until(lambda old=old: all(gone(pid) for pid in old), "the old ones have gone")  # type: ignore[misc]
            served_by = [peer.keep_get().body for peer in peers]
            assert sorted(served_by.count(b"pid %d" % pid) for pid in server.workers()[-2:]) == [4, 4]
        for peer in peers:
            peer.sock.close()


def test_kept_connections_while_their_requests_are_served() -> None:
    """The request is the old worker's, the next one on the same connection a new one's."""
    with served("--threads", "2", protocols=("fastcgi",)) as server, server.peer("fastcgi") as peer:
        (old,) = server.workers()
        peer.send(request("fastcgi", "/wait", keep=True))
        server.await_status(lambda status: status["busy_threads"] == 1, "it is being served")
        server.reload()
        server.touch("go")
        assert peer.next_answer()[1].body == b"pid %d" % old
        wait_until(lambda: peer.keep_get().body == b"pid %d" % server.workers()[-1], "the new one serves")
        wait_until(lambda: gone(old), "the old one has gone")


@pytest.mark.parametrize("protocol", ["fastcgi", "scgi", "uwsgi", "http", "auto"])
def test_connections_that_have_not_said_anything_go_on(protocol: str) -> None:
    with served("--workers", "2", protocols=(protocol,)) as server:
        speaks = "http" if protocol == "auto" else protocol
        address = server.address[protocol, "unix"]
        peers = [Peer(address, speaks) for _ in range(6)]
        old = server.workers()
        server.reload()
        wait_until(lambda: all(gone(pid) for pid in old), "the old ones have gone")
        for peer in peers:
            with peer:
                assert peer.get("/", b"whole").body == b"whole"


def test_request_that_is_half_there() -> None:
    """The old worker waits for its body, and serves it."""
    with served() as server, server.peer() as peer:
        (old,) = server.workers()
        peer.send(head_of("http", "/", length=4))
        server.await_status(lambda status: status["busy_threads"] == 1, "it is being served")
        server.reload()
        peer.send(b"body")
        assert peer.answer().body == b"body"
        wait_until(lambda: gone(old), "the old one has gone")


@pytest.mark.parametrize("threads", ["1", "2"])
def test_head_that_is_half_there(threads: str) -> None:
    """The old worker waits for the rest of it, on a kept connection too, and serves it."""
    with served("--threads", threads) as server, server.peer() as peer:
        (old,) = server.workers()
        whole = request("http")
        assert peer.keep_get().status == 200
        peer.send(whole[:20])
        server.reload()
        time.sleep(1.3)
        peer.send(whole[20:])
        assert peer.answer().body == b"pid %d" % old
        wait_until(lambda: gone(old), "the old one has gone")
        assert "refused" not in server.text()


def test_head_that_stays_half_where_the_order_to_leave_was_heard_late() -> None:
    """Its 503 comes before the worker is killed, which is so long after the order was given, not heard."""
    with served("--graceful-timeout", "4s") as server, server.peer() as half:
        (old,) = server.workers()
        assert half.keep_get().status == 200
        half.send(request("http")[:20])
        with server.begin("/wait") as busy:
            os.kill(server.pid, signal.SIGHUP)
            server.await_log(f"worker {old} is told to leave")
            time.sleep(1.5)
            server.touch("go")
            assert busy.answer().status == 200
        assert half.answer().status == 503
        wait_until(lambda: gone(old), "the old one has gone")
        assert "killed" not in server.text()


# -- code that is no good ---------------------------------------------------------------------------------------------

BROKEN = {
    "syntax": ("def app(:\n", "SyntaxError"),
    "import": ("import no_such_module_at_all\n", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
    "no application": ("apple = 1\n", "steered_app has no attribute 'app'"),
    "raises": ("def helper():\n    1 / 0\n\nhelper()\n", "ZeroDivisionError: division by zero"),
    "exits": ("import os\nos._exit(5)\n", "ended with exit code 5 before it was ready"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_code(kind: str) -> None:
    """The old workers go on, the whole error is told once, and good code is taken again."""
    code, words = BROKEN[kind]
    with served("--workers", "2") as server:
        good = (server.directory / "steered_app.py").read_text()
        old = server.workers()
        write_code(server, code)
        found = run_command("reload", "--control", server.control)
        assert found.returncode == 1
        assert words.partition(":")[0] in found.stderr
        assert "Traceback" not in found.stderr
        assert {server.get() for _ in range(20)} <= {b"pid %d" % pid for pid in old}
        text = server.text()
        assert text.count("reload: failed; the old code goes on serving") == 1
        assert text.count("Traceback") == (1 if "Error: " in words or kind == "syntax" else 0)
        assert 1 <= text.count(words) <= 2, "in the message, and as the traceback's end"
        status = server.status()
        assert (status["generation"], status["reloads"], status["reload_failures"]) == (1, 0, 1)
        assert (status["state"], status["ready"]) == ("running", 2)
        write_code(server, good)
        set_version(server, "two")
        server.reload()
        await_version(server, "two")
        assert server.workers()[:2] == old
        assert len(server.workers()) == 4


def test_code_that_does_not_get_ready() -> None:
    with served("--workers", "2", "--boot-timeout", "500ms") as server:
        old = server.workers()
        server.touch("hang")
        start = time.monotonic()
        found = run_command("reload", "--control", server.control)
        assert time.monotonic() - start < 5
        assert found.returncode == 1
        assert "not ready 0.5 s after its start (--boot-timeout); killed" in found.stderr
        assert "not ready 0.5 s after its start (--boot-timeout); killed" in server.text()
        assert server.text().count("reload: failed") == 1
        assert {server.get() for _ in range(10)} <= {b"pid %d" % pid for pid in old}
        (server.directory / "hang").unlink()
        server.reload()
        assert server.status()["generation"] == 3


def test_broken_code_and_a_worker_that_dies_meanwhile() -> None:
    """What replaces it has the code that is there: it is tried again, ever more seldom, until that is good."""
    with served("--workers", "2") as server:
        first, second = server.workers()
        server.touch("broken")
        assert run_command("reload", "--control", server.control).returncode == 1
        os.kill(first, signal.SIGKILL)
        server.await_log("next try in 1 s")
        assert server.get() == b"pid %d" % second
        (server.directory / "broken").unlink()
        server.await_ready(3)


def test_reload_during_a_reload() -> None:
    """The first one's workers are not wanted any more, and both who asked are told."""
    with served("--workers", "2") as server:
        server.touch("hang")
        os.kill(server.pid, signal.SIGHUP)
        server.await_log("starting workers of generation 2")
        wait_until(lambda: server.status()["state"] == "reloading", "it reloads")
        os.kill(server.pid, signal.SIGHUP)
        server.await_log("starting workers of generation 3")
        set_version(server, "three")
        (server.directory / "hang").unlink()
        reloaded(server)
        await_version(server, "three")
        wait_until(lambda: len(server.status()["workers"]) == 2, "the others have gone")
        status = server.status()
        assert (status["generation"], status["reloads"]) == (3, 1)


def test_stop_during_a_reload() -> None:
    with served("--workers", "2", "--graceful-timeout", "1s") as server:
        server.touch("hang")
        os.kill(server.pid, signal.SIGHUP)
        server.await_log("starting workers of generation 2")
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 5


def test_ondemand_pool_without_workers() -> None:
    """One is started to see whether the new code is any good, and idles away as others do."""
    with served("--pool", "ondemand", "--worker-idle", "300ms", first=0) as server:
        set_version(server, "two")
        server.reload()
        assert len(server.workers()) == 1
        wait_until(lambda: server.status()["workers"] == [], "it has left")
        assert version(server) == "two"


def test_broken_code_in_an_ondemand_pool_without_workers() -> None:
    with served("--pool", "ondemand", "--workers", "2", "--worker-idle", "300ms", first=0) as server:
        good = (server.directory / "steered_app.py").read_text()
        write_code(server, "import no_such_module_at_all\n")
        found = run_command("reload", "--control", server.control)
        assert found.returncode == 1
        assert "no_such_module_at_all" in found.stderr
        assert "reload: failed; there is no worker of the old code that could go on" in server.text()
        status = server.status()
        assert status["workers"] == []
        assert (status["reloads"], status["reload_failures"]) == (0, 1)
        time.sleep(0.7)
        assert server.text().count("reload: failed") == 1, "it is not tried again until somebody comes"
        write_code(server, good)
        set_version(server, "two")
        server.reload()
        assert version(server) == "two"


def test_ondemand_worker_that_is_idle_while_the_new_code_boots() -> None:
    """It stays until the new code is seen to be good."""
    with served("--pool", "ondemand", "--worker-idle", "300ms", first=0) as server:
        assert version(server) == "one"
        server.touch("hang")
        os.kill(server.pid, signal.SIGHUP)
        server.await_log("starting workers of generation 2")
        time.sleep(0.7)
        assert server.status()["state"] == "reloading"
        (server.directory / "hang").unlink()
        set_version(server, "two")
        reloaded(server)
        assert version(server) == "two"


# -- many -------------------------------------------------------------------------------------------------------------


def test_fifty_reloads_leave_nothing_behind() -> None:
    with served("--workers", "2", "--threads", "2", protocols=("http", "fastcgi")) as server:
        peers = [server.peer(protocol) for protocol in ("http", "fastcgi") for _ in range(2)]

        def settled() -> bool:
            return len(children(server.pid)) == 2 and server.status()["state"] == "running"

        def one() -> None:
            server.reload()
            for peer in peers:
                assert peer.keep_get().status == 200
            wait_until(settled, "the old ones have gone")

        for _ in range(5):
            one()
        held, memory = descriptors(server.pid), private_memory(server.pid)
        each = [descriptors(pid) for pid in children(server.pid)]
        for _ in range(45):
            one()
        wait_until(lambda: descriptors(server.pid) <= held, "the master holds no more than before")
        assert private_memory(server.pid) - memory < 500_000
        assert max(descriptors(pid) for pid in children(server.pid)) <= max(each) + len(peers)
        for peer in peers:
            peer.sock.close()
        assert server.status()["reloads"] == 50
        assert "WARNING worker" not in server.text()


# -- files that change ------------------------------------------------------------------------------------------------


def test_watched_files() -> None:
    pytest.importorskip("watchfiles")
    with served("--reload") as server:
        (watcher,) = set(children(server.pid)) - set(server.workers())
        source = server.directory / "steered_app.py"
        good = source.read_text()
        wait_until(lambda: "watchfiles" in Path(f"/proc/{watcher}/maps").read_text(), "the watcher is at work")

        def change() -> bool:
            write_code(server, good.replace('"one"', '"changed"'))
            return bool(server.status()["reloads"])

        wait_until(change, "a change is noticed")
        assert version(server) == "changed"
        write_code(server, "broken (\n")
        server.await_log("reload: failed")
        assert version(server) == "changed"
        assert server.stop() == 0
        wait_until(lambda: gone(watcher), "the watcher has gone")


def test_watcher_that_dies() -> None:
    """It is told, and the server goes on."""
    pytest.importorskip("watchfiles")
    with served("--reload") as server:
        (watcher,) = set(children(server.pid)) - set(server.workers())
        os.kill(watcher, signal.SIGKILL)
        server.await_log("what watches the application's files has ended (--reload)")
        assert children(server.pid) == server.workers()
        server.reload()
        assert server.get().startswith(b"pid ")


def test_watcher_of_a_master_that_was_killed() -> None:
    pytest.importorskip("watchfiles")
    with served("--reload") as server:
        (watcher,) = set(children(server.pid)) - set(server.workers())
        server.kill()
        wait_until(lambda: gone(watcher), "the watcher has gone")


# -- logs, status, idleness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["signal", "command"])
def test_logs_are_reopened(how: str) -> None:
    options = ("--access-log", "access", "--error-log", "log", "--slow-log", "slow", "--slow-request", "9s")
    with served("--workers", "2", *options) as server:
        logs = {name: server.directory / name for name in ("access", "log", "slow")}
        server.get("/before")
        for path in logs.values():
            path.rename(path.with_suffix(".old"))
        if how == "signal":
            os.kill(server.pid, signal.SIGUSR1)
        else:
            assert run_command("reopen", "--control", server.control).returncode == 0
        wait_until(lambda: all(path.exists() for path in logs.values()), "they are there again")

        def written() -> bool:
            for _ in range(4):
                server.get("/after")
                server.get("/print-error")
            return "/after" in logs["access"].read_text() and "an error" in logs["log"].read_text()

        wait_until(written, "the workers write there")
        old = [path.with_suffix(".old").read_text() for path in logs.values()]
        assert "/before" in old[0]
        assert "the log files are open anew" in logs["log"].read_text()
        server.get("/again")
        server.get("/print-error")
        wait_until(lambda: "/again" in logs["access"].read_text(), "the line is there")
        assert old == [path.with_suffix(".old").read_text() for path in logs.values()]


def test_logs_are_reopened_while_every_thread_is_busy() -> None:
    with served("--access-log", "access.log", "--request-timeout", "20s") as server:
        log = server.directory / "access.log"
        (worker,) = server.workers()
        with server.begin("/wait") as peer:
            log.rename(log.with_suffix(".old"))
            server.ask("reopen")
            files = [Path(entry.path) for entry in os.scandir(f"/proc/{worker}/fd")]
            wait_until(lambda: any(str(file.readlink()) == str(log) for file in files), "the worker has the new file")
            server.touch("go")
            assert peer.answer().status == 200
        wait_until(lambda: "/wait" in log.read_text(), "the line is in the new file")


def test_status_answers_while_every_thread_sleeps() -> None:
    with served("--workers", "2", "--threads", "4") as server:
        peers = []
        for _ in range(8):
            peers.append(server.peer())
            peers[-1].send(request("http", "/wait"))
        server.await_status(lambda status: status["busy_threads"] == 8, "all are busy")
        times = []
        status = server.status()
        for _ in range(20):
            start = time.monotonic()
            status = server.status()
            times.append(time.monotonic() - start)
            assert status["busy_threads"] == 8
        assert sorted(times)[10] < 0.1, times
        rows = [thread for worker in status["workers"] for thread in worker["threads"]]
        assert {row["request"] for row in rows} == {"GET /wait"}
        assert {row["protocol"] for row in rows} == {"http"}
        server.touch("go")
        for peer in peers:
            with peer:
                assert peer.answer().status == 200


def test_idle_master_wakes_at_most_once_a_second() -> None:
    options = (
        "--request-timeout", "30s", "--slow-request", "10s", "--max-requests", "1000", "--max-age", "1h", "--max-rss",
        "1G", "--pool", "dynamic", "--min-workers", "2", "--metrics", "unix:metrics", "--access-log", "access.log",
    )  # fmt: skip
    with served("--workers", "4", "--threads", "2", *options, first=2) as server:
        server.get()
        server.await_status(lambda status: status["ready"] == 2 and not status["busy_threads"], "it is idle")
        time.sleep(1)
        before, start = wakeups(server.pid), time.monotonic()
        time.sleep(3.5)
        passed = time.monotonic() - start
        assert wakeups(server.pid) - before <= passed + 1


def test_code_that_fails_at_its_first_request_is_not_taken() -> None:
    """Which it imports late, perhaps: with --warm-up a worker is ready when it has answered."""
    with served("--workers", "2", "--warm-up", "/healthz") as server:
        old = server.workers()
        server.touch("sick")
        done = run_command("reload", "--control", server.control)
        assert done.returncode == 1
        raised = "the application raised RuntimeError: sick on purpose"
        reason = f"{raised} when it was asked for http://localhost/healthz (--warm-up)"
        assert reason in done.stderr
        server.await_log(reason)
        assert server.text().count("Traceback") == 1
        assert server.get() in [b"pid %d" % pid for pid in old]
        (server.directory / "sick").unlink()
        assert run_command("reload", "--control", server.control).returncode == 0
        assert server.get() not in [b"pid %d" % pid for pid in old]


def test_pid_file() -> None:
    with served("--pid-file", "server.pid") as server:
        path = server.directory / "server.pid"
        assert path.read_text() == f"{server.pid}\n"
        server.reload()
        assert path.read_text() == f"{server.pid}\n"
        assert server.stop() == 0
        assert not path.exists()


def test_stop_by_the_control_socket() -> None:
    """It lets requests finish, and the command waits for the end."""
    with served("--workers", "2") as server, server.begin("/nap") as peer:
        found = run_command("stop", "--control", server.control)
        assert found.returncode == 0, found.stderr
        assert peer.answer().status == 200
        assert server.wait() == 0
        assert not os.path.exists(server.control)


def test_control_socket_of_a_master_that_stops_is_answered() -> None:
    with served() as server, server.begin("/wait") as peer:
        os.kill(server.pid, signal.SIGTERM)
        server.await_log("finishing what runs")
        assert server.status()["state"] == "stopping"
        assert server.ask("reload")[-1] == {"ok": False, "error": "the server is stopping"}
        server.touch("go")
        assert peer.answer().status == 200
        assert server.wait() == 0


def test_signal_for_all_processes_of_the_name() -> None:
    """As a killall of a log rotation sends it: workers take no notice."""
    with served("--workers", "2") as server:
        workers = server.workers()
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP, signal.SIGINT):
            for pid in workers:
                os.kill(pid, number)
        assert {server.get() for _ in range(20)} <= {b"pid %d" % pid for pid in workers}
        assert server.status()["restarts"]["crash"] == 0
