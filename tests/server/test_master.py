"""The process that starts, watches, replaces and stops the workers: real servers, real signals."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from tests.server.peers import Peer, request
from tests.server.processes import SOURCE, App, children, descriptors, gone, listens, needs_proc, run_command, served
from tests.servers import open_directory, wait_until


def run(*arguments: str, directory: str) -> subprocess.CompletedProcess[str]:
    """Run a ``gateways serve`` that ends by itself."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAYS_")}
    return subprocess.run(
        [sys.executable, "-m", "gateways", "serve", *arguments],
        cwd=directory,
        env=environment | {"STEER": directory},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def await_ready(count: int, lines: Iterable[str]) -> None:
    """Read a log until so many workers are ready."""
    for line in lines:
        count -= "is ready" in line
        if not count:
            return


def wait_request(server: App) -> Peer:
    """Return a peer whose request is being served until the file ``go`` is there."""
    peer = server.peer()
    peer.send(request("http", "/wait"))
    server.await_file("waiting")
    return peer


# -- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stops_when_asked(number: signal.Signals) -> None:
    with served("--workers", "2", "--threads", "2") as server:
        assert server.get().startswith(b"pid ")
        workers = server.workers()
        start = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - start < 2
        assert all(gone(pid) for pid in workers)
        assert f"{number.name}: finishing what runs" in server.text()
        assert "Traceback" not in server.text()


def test_log_files_that_cannot_be_opened_anew() -> None:
    """Whoever asked is told, and the rest goes on; USR1 tells the log."""
    with open_directory() as logs:
        path = logs / "in" / "access"
        path.parent.mkdir()
        with served("--access-log", str(path)) as server:
            path.parent.rename(logs / "moved")
            done = run_command("reopen", "--control", server.control)
            words = f"cannot open the access log {path}: No such file or directory; the old file is kept"
            assert (done.returncode, done.stdout) == (1, "")
            assert words in done.stderr
            os.kill(server.pid, signal.SIGUSR1)
            server.await_log(f"ERROR {words}", 2)
            assert "are open anew" not in server.text()
            path.parent.mkdir()
            done = run_command("reopen", "--control", server.control)
            assert (done.returncode, done.stdout) == (0, "reopened\n")
            assert path.exists()


def test_a_signal_for_the_whole_group() -> None:
    """The workers may get theirs first, and leave; nobody comes in their place."""
    with served("--workers", "2") as server:
        for worker in server.workers():
            os.kill(worker, signal.SIGTERM)
        server.await_log("it has been asked to by a signal", 2)
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait() == 0
        assert len(server.workers()) == 2
        assert "killed" not in server.text()


def test_worker_that_boots_while_the_server_stops() -> None:
    """Nobody is told that it is ready."""
    with served("--workers", "2", first=1) as server:
        (first, second) = server.await_ready(2)
        server.touch("hang")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: any(pid not in (first, second) for pid in children(server.pid)), "another one boots")
        os.kill(server.pid, signal.SIGTERM)
        server.await_log("finishing what runs")
        (server.directory / "hang").unlink()
        assert server.wait() == 0
        assert server.workers() == [first, second]


def test_workers_that_all_cannot_boot() -> None:
    """The first failure ends the server; of the others nothing is said that is not so."""
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        (directory / "broken").touch()
        done = run("steered_app:app", "--http", "./s", "--control", "off", "--workers", "4", directory=str(directory))
        assert done.returncode == 3
        assert "still busy" not in done.stderr
        assert "WARNING worker" not in done.stderr


@pytest.mark.parametrize("threads", ["1", "3"])
def test_running_requests_are_finished(threads: str) -> None:
    with served("--threads", threads) as server, wait_request(server) as peer:
        os.kill(server.pid, signal.SIGTERM)
        server.await_log("finishing what runs")
        assert not peer.is_closed()
        server.touch("go")
        assert peer.answer().status == 200
        assert server.wait() == 0
        assert "killed" not in server.text()


def test_nobody_new_is_let_in_meanwhile() -> None:
    """A web server is refused at once, instead of waiting in a backlog that nobody will look at."""
    with served("--workers", "2", "--threads", "2") as server, wait_request(server) as peer:
        os.kill(server.pid, signal.SIGTERM)

        def refused() -> bool:
            results = []
            for kind in ("unix", "tcp"):
                with contextlib.suppress(ConnectionError), server.peer(kind=kind) as late:
                    late.sock.settimeout(0.01)
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        late.sock.recv(1)
                    results.append(kind)
            return not results

        wait_until(refused, "new connections are refused")
        server.touch("go")
        assert peer.answer().status == 200
        assert server.wait() == 0


def test_asked_twice_it_stops_at_once() -> None:
    """A terminal and a process manager may both pass on one Ctrl-C: what follows within a moment is the same wish."""
    with served() as server, wait_request(server) as peer:
        start = time.monotonic()

        asked: list[float] = []

        def asked_again() -> bool:
            if not asked or time.monotonic() - asked[-1] > 0.4:
                asked.append(time.monotonic())
                os.kill(server.pid, signal.SIGINT)
            return peer.is_closed()

        wait_until(asked_again, "the running request is ended")
        assert 1.0 <= time.monotonic() - start < 5.0
        assert server.wait() == 0
        assert peer.read() == b""
        assert server.text().count("finishing what runs") == 1


def test_graceful_timeout() -> None:
    with served("--workers", "2", "--graceful-timeout", "300ms") as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(wait_request(server))
        workers = server.workers()
        start = time.monotonic()
        assert server.stop() == 0
        assert 0.25 < time.monotonic() - start < 3
        assert all(gone(pid) for pid in workers)
        killed = server.text().count("still busy 0.3 s after it was told to stop")
        assert 1 <= killed <= 2, "each is told of once"


@needs_proc
def test_master_killed() -> None:
    """The workers learn of it, and leave."""
    with served("--workers", "2") as server:
        workers = server.workers()
        server.kill()
        wait_until(lambda: all(gone(pid) for pid in workers), "the workers are gone")


def test_master_killed_while_a_request_is_served() -> None:
    with served("--threads", "2") as server, wait_request(server) as peer:
        (worker,) = server.workers()
        server.kill()
        time.sleep(0.05)
        server.touch("go")
        assert peer.answer().status == 200
        wait_until(lambda: gone(worker), "the worker is gone")


# -- replacing --------------------------------------------------------------------------------------------------------


def test_killed_worker_is_replaced_while_others_serve() -> None:
    with served("--workers", "2") as server:
        first, second = server.workers()
        os.kill(first, signal.SIGKILL)
        for _ in range(20):
            assert server.get().startswith(b"pid ")
        _, _, third = server.await_ready(3)
        assert f"worker {first} was killed by SIGKILL; it is replaced" in server.text()
        os.kill(second, signal.SIGKILL)
        _, _, _, fourth = server.await_ready(4)
        pids = {b"pid %d" % third, b"pid %d" % fourth}
        assert server.get() in pids


def test_worker_that_ends_itself_is_replaced() -> None:
    with served() as server:
        with server.peer() as peer:
            peer.send(request("http", "/die"))
            assert peer.read() == b""
        server.await_ready(2)
        assert "ended with exit code 9; it is replaced" in server.text()
        assert server.get().startswith(b"pid ")


def test_worker_killed_by_a_signal_without_a_name() -> None:
    with served() as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGRTMIN + 6)
        server.await_ready(2)
        assert f"worker {worker} was killed by signal {signal.SIGRTMIN + 6}; it is replaced" in server.text()
        assert server.get().startswith(b"pid ")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit is Linux's")
def test_no_descriptor_left_for_another_worker() -> None:
    """The master lives on, and tries again when it may work."""
    with served("--workers", "2") as server:
        first, second = server.workers()
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
        os.kill(first, signal.SIGKILL)
        server.await_log("cannot start a worker: Too many open files")
        server.await_log("next try in 0.5 s")
        assert server.get() == b"pid %d" % second
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
        server.await_ready(3)
        assert "Traceback" not in server.text()


def test_nobody_reads_the_log_any_more() -> None:
    """Workers are still replaced, and applications may still write to wsgi.errors."""
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        path = directory / "s"
        command = [sys.executable, "-m", "gateways", "serve", "steered_app:app", "--http", str(path), "--workers", "2"]
        out, log = os.pipe()
        process = subprocess.Popen(
            command, cwd=directory, env=os.environ | {"STEER": str(directory)}, stdout=log, stderr=log
        )
        try:
            os.close(log)
            with open(out, encoding="utf-8") as lines:
                await_ready(2, lines)
            workers = children(process.pid)
            os.kill(workers[0], signal.SIGKILL)
            wait_until(lambda: set(children(process.pid)) - set(workers) and gone(workers[0]), "it is replaced")
            for _ in range(4):
                with Peer(str(path), "http") as peer:
                    assert peer.get("/errors").status == 200
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


@needs_proc
def test_a_worker_that_cannot_flush_does_not_harm_the_others() -> None:
    """What the application printed has nowhere to go at the end; another worker still serves a request."""
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        path = directory / "s"
        command = [sys.executable, "-m", "gateways", "serve", "steered_app:app", "--http", str(path), "--workers", "2"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        reader, writer = os.pipe()
        process = subprocess.Popen(
            command, cwd=directory, env=environment | {"STEER": str(directory)}, stdout=writer, stderr=subprocess.PIPE
        )
        try:
            os.close(writer)
            os.close(reader)
            assert process.stderr is not None
            await_ready(2, (line.decode() for line in process.stderr))
            first, second = children(process.pid)
            files = [directory / f"waiting-{pid}" for pid in (first, second)]
            with contextlib.ExitStack() as stack:
                peers = []
                for count in (1, 2):  # one by one: a worker that is free might accept both
                    peers.append(stack.enter_context(Peer(str(path), "http")))
                    peers[-1].send(request("http", "/print-and-wait"))
                    wait_until(lambda count=count: sum(file.exists() for file in files) == count, "each serves")  # type: ignore[misc]
                process.terminate()
                (directory / f"go-{second}").touch()
                wait_until(lambda: gone(second), "the second one has ended")
                (directory / f"go-{first}").touch()
                assert [peer.answer().status for peer in peers] == [200, 200]
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                for pid in (*children(process.pid), process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.parametrize("closed", [1, 2])
def test_started_without_stdout_or_stderr(closed: int) -> None:
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        path = directory / "s"
        command = f'exec "$0" -m gateways serve steered_app:app --http "$1" {closed}>&-'
        process = subprocess.Popen(
            ["sh", "-c", command, sys.executable, str(path)], cwd=directory, env=os.environ | {"STEER": str(directory)}
        )
        try:
            wait_until(lambda: listens(str(path)) or process.poll() is not None, "it listens")
            with Peer(str(path), "http") as peer:
                assert peer.get("/errors").status == 200
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("trouble", ["broken", "deadly"])
def test_back_off_while_the_application_does_not_load(trouble: str) -> None:
    """It has worked once, so it may work again: it is tried, ever more seldom."""
    with served() as server:
        (worker,) = server.workers()
        server.touch(trouble)
        start = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        server.await_log("next try in 0.5 s")
        server.await_log("next try in 1 s")
        assert time.monotonic() - start > 0.45
        (server.directory / trouble).unlink()
        server.await_ready(2)
        assert server.get().startswith(b"pid ")
        text = server.text()
        if trouble == "broken":
            assert text.count("RuntimeError: broken on purpose") >= 2
        else:
            assert "ended with exit code 9 before it was ready" in text
        assert server.stop() == 0


def test_stopped_between_two_tries() -> None:
    with served() as server:
        (worker,) = server.workers()
        server.touch("broken")
        os.kill(worker, signal.SIGKILL)
        server.await_log("next try in 0.5 s")
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 2


def test_boot_timeout_of_a_later_worker() -> None:
    with served("--workers", "2", "--boot-timeout", "300ms") as server:
        first, _ = server.workers()
        server.touch("hang")
        os.kill(first, signal.SIGKILL)
        server.await_log("not ready 0.3 s after its start (--boot-timeout); killed")
        server.await_log("next try in 0.5 s")
        assert server.get().startswith(b"pid ")
        (server.directory / "hang").unlink()
        server.await_ready(3)


# -- a start that fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["no_such_module:app", "steered_app:no_such_name"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_application_not_found(app: str, workers: str) -> None:
    with open_directory() as directory:
        (directory / "steered_app.py").write_text("app = print\n")
        found = run(app, "--workers", workers, "--http", f"{directory}/s", directory=str(directory))
        assert found.returncode == 2
        assert "Traceback" not in found.stderr
        assert found.stderr.count(app.partition(":")[0]) >= 1
        assert os.listdir(directory) != [], found.stderr
        assert not (directory / "s").exists()


def test_application_that_raises_at_import() -> None:
    with open_directory() as directory:
        (directory / "steered_app.py").write_text("def helper():\n    1 / 0\n\nhelper()\n")
        found = run("steered_app:app", "--http", f"{directory}/s", directory=str(directory))
        assert found.returncode == 3
        assert found.stderr.count("Traceback") == 1
        assert "ZeroDivisionError: division by zero" in found.stderr
        assert "in helper" in found.stderr
        assert "gateways/server" not in found.stderr.replace("\\", "/"), "only the application's own frames matter"


def test_boot_timeout() -> None:
    with open_directory() as directory:
        (directory / "steered_app.py").write_text("import time\ntime.sleep(60)\n")
        start = time.monotonic()
        found = run(
            "steered_app:app", "--boot-timeout", "300ms", "--http", f"{directory}/s", directory=str(directory)
        )  # fmt: skip
        assert time.monotonic() - start < 10
        assert found.returncode == 3
        assert "not ready 0.3 s after its start (--boot-timeout); killed" in found.stderr
        assert "Traceback" not in found.stderr


def test_stopped_while_it_boots() -> None:
    """Nobody is served yet, so there is nothing to wait for but the import."""
    with open_directory() as directory:
        (directory / "steered_app.py").write_text(SOURCE.read_text(encoding="utf-8"))
        (directory / "hang").touch()
        server = App(
            directory, "steered_app:app", "--graceful-timeout", "300ms", python_path=directory, protocols=("http",),
            env={"STEER": str(directory)},
        )  # fmt: skip
        with server.log.open("ab") as log:
            server.process = subprocess.Popen(server.argv, cwd=directory, env=server.env, stdout=log, stderr=log)
        try:
            server.await_log("steered_app:app")
            assert server.stop() == 0
        finally:
            server.kill()


# -- what is left behind ----------------------------------------------------------------------------------------------


def test_unix_sockets_are_removed_at_the_end() -> None:
    with served(protocols=("http", "fastcgi")) as server:
        paths = [server.address[protocol, "unix"] for protocol in ("http", "fastcgi")]
        assert all(os.path.exists(path) for path in paths)
        server.stop()
        assert not any(os.path.exists(path) for path in paths)


def test_stale_socket_is_replaced_and_a_live_one_is_not() -> None:
    with served() as server:
        path = server.address["http", "unix"]
        server.kill()
        assert os.path.exists(path), "nobody could remove it"
        wait_until(lambda: all(gone(pid) for pid in server.workers()), "the workers are gone")
        server.start()
        assert server.get().startswith(b"pid ")
        found = run("steered_app:app", "--http", path, directory=str(server.directory))
        assert found.returncode == 2
        assert "another process is listening" in found.stderr
        assert "Traceback" not in found.stderr
        assert server.get().startswith(b"pid ")


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, open_directory() as directory:
        port = taken.getsockname()[1]
        found = run("steered_app:app", "--http", str(port), directory=str(directory))
        assert found.returncode == 2
        assert "the port is in use" in found.stderr
        assert "Traceback" not in found.stderr


@needs_proc
def test_nothing_leaks() -> None:
    with served("--workers", "2", "--threads", "2", protocols=("http", "fastcgi", "scgi", "uwsgi")) as server:
        for _ in range(10):
            server.get()
        workers = server.workers()
        before = descriptors(server.pid)
        each = [descriptors(pid) for pid in workers]
        for number in range(200):
            protocol = ("http", "fastcgi", "scgi", "uwsgi")[number % 4]
            with server.peer(protocol) as peer:
                assert peer.get("/large").status == 200
        wait_until(lambda: [descriptors(pid) for pid in workers] <= each, "the connections are closed")
        for number in range(3):
            os.kill(server.workers()[-1], signal.SIGKILL)
            workers = server.await_ready(3 + number)
        assert server.get()
        wait_until(lambda: len(children(server.pid)) == 2, "the dead are buried")
        assert descriptors(server.pid) == before
        wait_until(lambda: descriptors(workers[-1]) <= max(each), "a late worker holds no more than an early one")


@needs_proc
def test_idle_master_sleeps() -> None:
    with served("--workers", "2", "--threads", "2") as server:
        server.get()
        time.sleep(0.3)

        def ticks() -> list[str]:
            found = []
            for pid in (server.pid, *server.workers()):
                with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                    found += file.read().rpartition(")")[2].split()[11:13]
            return found

        before = ticks()
        time.sleep(1)
        assert ticks() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stopped_while_it_loads_the_application_itself(number: signal.Signals) -> None:
    """With --preload: the import is left where it is, and nothing stays behind."""
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        (directory / "hang").touch()
        server = App(
            directory, "steered_app:app", "--preload", "--pid-file", "pid", "--control", "control",
            python_path=directory, protocols=("http",), env={"STEER": str(directory)},
        )  # fmt: skip
        with server.log.open("ab") as log:
            server.process = subprocess.Popen(server.argv, cwd=directory, env=server.env, stdout=log, stderr=log)
        try:
            wait_until((directory / "control").exists, "it is loading")
            os.kill(server.pid, signal.SIGHUP)
            assert server.stop(number) == 0
            assert "Traceback" not in server.text()
            assert not any((directory / name).exists() for name in ("pid", "control", "http.sock"))
        finally:
            server.kill()


@pytest.mark.parametrize("options", [[], ["--preload"]])
def test_a_start_whose_first_request_fails(options: list[str]) -> None:
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        (directory / "sick").touch()
        server = App(
            directory, "steered_app:app", "--warm-up", "/healthz", *options,
            python_path=directory, protocols=("http",), env={"STEER": str(directory)},
        )  # fmt: skip
        done = subprocess.run(
            server.argv, cwd=directory, env=server.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 3
        assert "sick on purpose when it was asked for http://localhost/healthz (--warm-up)" in done.stderr


# -- asked ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/sleep", "/hold-interpreter"])
def test_status_while_every_thread_of_every_worker_is_stuck(path: str) -> None:
    """The scoreboard needs nobody's help: at most 0.1 s, in the best of some tries."""
    # Who holds the interpreter lets no second thread of its worker take a request up.
    threads = 2 if path == "/sleep" else 1
    options = ("--workers", "2", "--threads", str(threads), "--graceful-timeout", "0.2s")
    with served(*options) as server, contextlib.ExitStack() as stack:
        for _ in range(2 * threads):
            peer = server.peer()
            stack.callback(peer.sock.close)
            peer.send(request("http", path))
        server.await_status(lambda found: found["busy_threads"] == 2 * threads, "every thread is busy")
        taken = []
        for _ in range(20):
            began = time.monotonic()
            found = server.status()
            taken.append(time.monotonic() - began)
            lines = [each["request"] for worker in found["workers"] for each in worker["threads"]]
            assert lines == [f"GET {path}"] * 2 * threads
        assert min(taken) < 0.1, taken
