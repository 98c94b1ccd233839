"""The program replaced in its process (SIGUSR2; SIGHUP with --preload): same pid, same sockets, no request lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateways.client.control import call
from tests.server.peers import Peer, request
from tests.server.processes import SOURCE, App, children, descriptors, gone, needs_proc, run_command, served
from tests.servers import free_port, open_directory, running, unprivileged, wait_until

pytestmark = needs_proc


def program_started(pid: int) -> str:
    """Something that is another after each execve: where the kernel has put the program's first stack page."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[25]


def version(server: App) -> str:
    return server.get("/version").decode().split()[0]


def set_version(server: App, text: str) -> None:
    (server.directory / "version").write_text(text)


def replace_program(server: App, number: signal.Signals = signal.SIGUSR2) -> None:
    """Have the program replaced, and wait until its new workers alone are there."""
    done = server.text().count("reload: done")
    before = program_started(server.pid)
    os.kill(server.pid, number)
    server.await_log("reload: done", done + 1)
    assert program_started(server.pid) != before
    wait_until(lambda: {entry["generation"] for entry in server.status()["workers"]} == {done + 2}, "the old ones left")


@pytest.mark.parametrize(
    ("options", "number"),
    [((), signal.SIGUSR2), (("--preload",), signal.SIGUSR2), (("--preload",), signal.SIGHUP)],
    ids=["usr2", "preload-usr2", "preload-hup"],
)
def test_program_is_replaced(options: tuple[str, ...], number: signal.Signals) -> None:
    with served("--workers", "2", "--pid-file", "pid", *options) as server:
        pid = server.pid
        old = server.workers()
        status = server.status()
        for round_ in range(3):
            set_version(server, f"version{round_}")
            replace_program(server, number)
            assert version(server) == f"version{round_}"
        wait_until(lambda: all(gone(worker) for worker in old), "the old ones have gone")
        now = server.status()
        assert (server.pid, now["pid"], now["reloads"], now["generation"]) == (pid, pid, 3, 4)
        assert now["started"] == status["started"]
        assert "killed" not in server.text()
        assert server.stop() == 0
        assert not os.path.exists(server.control)
        assert not (server.directory / "pid").exists()
        assert not any(os.path.exists(server.address["http", kind]) for kind in ("unix",))


def test_another_pid_file() -> None:
    """The old one goes; the lock on the one that stays is handed on."""
    with open_directory() as directory:
        config = directory / "gateways.toml"
        one, two = directory / "one", directory / "two"
        config.write_text(f'pid-file = "{one}"\n')
        with served("--config", str(config)) as server:
            assert one.read_text() == f"{server.pid}\n"
            config.write_text(f'pid-file = "{two}"\n')
            for _ in range(2):
                replace_program(server, signal.SIGUSR2)
                assert two.read_text() == f"{server.pid}\n"
                assert not one.exists()
                other = ("--fastcgi", str(directory / "s"), "--control", "off", "--pid-file", str(two))
                refused = run_command("serve", "steered_app:app", *other)
                assert f"is that of process {server.pid}, which runs" in refused.stderr
            assert server.stop() == 0
            assert not two.exists()


def test_no_counter_goes_back() -> None:
    with served("--workers", "2", "--threads", "2", "--request-timeout", "400ms", "--slow-request", "100ms") as server:
        for _ in range(5):
            server.get()
        with server.begin("/sleep") as peer:
            assert peer.answer().status == 504
        with server.begin("/wait") as peer:
            (worker,) = [one["pid"] for one in server.status()["workers"] if "busy" in str(one["threads"])]
            os.kill(worker, signal.SIGKILL)
            peer.read()
        server.await_ready(3)
        server.touch("broken")
        os.kill(server.pid, signal.SIGHUP)
        server.await_log("reload: failed")
        (server.directory / "broken").unlink()
        before = server.status()
        assert before["requests"] == 7
        names = ("requests", "timeouts", "slow", "reload_failures", "restarts", "times", "queue_time", "started")
        for round_ in (1, 2):
            os.kill(server.pid, signal.SIGUSR2)
            server.await_log("reload: done", round_)
            now = server.status()
            assert {name: now[name] for name in names} == {name: before[name] for name in names}
            assert now["reloads"] == round_
        server.get()
        assert server.status()["requests"] == 8


def test_running_requests_and_kept_connections() -> None:
    with served("--threads", "2", protocols=("http", "fastcgi")) as server:
        (old,) = server.workers()
        kept = [server.peer("fastcgi") for _ in range(3)]
        for peer in kept:
            assert peer.keep_get().body == b"pid %d" % old
        with server.begin("/wait") as busy:
            before = program_started(server.pid)
            os.kill(server.pid, signal.SIGUSR2)
            server.await_log("reload: done")
            assert program_started(server.pid) != before
            new = server.workers()[-1]
            for peer in kept:
                wait_until(lambda peer=peer: peer.keep_get().body == b"pid %d" % new, "the new worker goes on")  # type: ignore[misc]
            server.touch("go")
            assert busy.answer().body == b"pid %d" % old
        wait_until(lambda: gone(old), "the old one has gone")
        for peer in kept:
            with peer:
                assert peer.keep_get().body == b"pid %d" % new


def test_preloaded_application_is_loaded_once() -> None:
    with served("--workers", "3", "--preload") as server:
        loaded = {int(json.loads(server.get("/about"))["loaded-by"]) for _ in range(10)}
        assert loaded == {server.pid}
        os.kill(server.workers()[0], signal.SIGKILL)
        server.await_ready(4)
        assert json.loads(server.get("/about"))["loaded-by"] == server.pid


@pytest.mark.parametrize(
    ("options", "number"),
    [((), signal.SIGUSR2), (("--preload",), signal.SIGUSR2), (("--preload",), signal.SIGHUP)],
    ids=["usr2", "preload-usr2", "preload-hup"],
)
def test_broken_application(options: tuple[str, ...], number: signal.Signals) -> None:
    """The check finds it; nothing is replaced."""
    with served("--workers", "2", *options) as server:
        old = server.workers()
        before = program_started(server.pid)
        server.touch("broken")
        os.kill(server.pid, number)
        server.await_log("reload: failed; the old code goes on serving")
        assert program_started(server.pid) == before
        assert server.text().count("RuntimeError: broken on purpose") <= 2
        assert server.text().count("Traceback") == 1
        assert {server.get() for _ in range(10)} <= {b"pid %d" % pid for pid in old}
        status = server.status()
        assert (status["state"], status["reload_failures"]) == ("running", 1)
        (server.directory / "broken").unlink()
        set_version(server, "two")
        replace_program(server, number)
        assert version(server) == "two"


def test_reload_command_with_preload() -> None:
    """Whoever asked is told by the new program."""
    with served("--workers", "2", "--preload") as server:
        set_version(server, "two")
        found = run_command("reload", "--control", server.control)
        assert (found.returncode, found.stdout, found.stderr) == (0, "reloaded\n", "")
        server.touch("broken")
        found = run_command("reload", "--control", server.control)
        assert found.returncode == 1
        assert "the check of the new program ended with exit code 3; the log has its reason" in found.stderr


def test_broken_configuration() -> None:
    with open_directory() as directory:
        (directory / "gateways.toml").write_text("workers = 1\n")
        with served("--config", str(directory / "gateways.toml"), first=1) as server:
            before = program_started(server.pid)
            (directory / "gateways.toml").write_text('workers = "many"\n')
            os.kill(server.pid, signal.SIGUSR2)
            server.await_log("the check of the new program ended with exit code 2")
            assert "many" in server.text()
            assert program_started(server.pid) == before
            assert server.get().startswith(b"pid ")
            (directory / "gateways.toml").write_text("workers = 3\nthreads = 2\n")
            replace_program(server)
            status = server.status()
            assert (status["wanted"], status["threads"]) == (3, 2)
            wait_until(lambda: server.status()["ready"] == 3, "all are there")


def test_scaled_pool_keeps_its_size() -> None:
    with served("--workers", "1") as server:
        server.ask("scale", workers=3)
        server.await_ready(3)
        replace_program(server)
        assert server.status()["wanted"] == 3


def test_listeners_that_come_and_go() -> None:
    """The new program's settings count, also for the sockets."""
    with open_directory() as directory:
        config = directory / "gateways.toml"
        paths = [str(directory / name) for name in ("one", "two", "three")]
        config.write_text(f"http = {paths[:2]}\n")
        with served("--config", str(config), protocols=()) as server:
            for path in paths[:2]:
                with Peer(path) as peer:
                    assert peer.get().status == 200
            config.write_text(f"http = {paths[1:]}\n")
            replace_program(server)
            for path in paths[1:]:
                with Peer(path) as peer:
                    assert peer.get().status == 200
            assert not os.path.exists(paths[0])
            config.write_text(f"http = {[*paths[1:], '/no/such/directory/s']}\nmetrics = '/no/such/directory/m'\n")
            replace_program(server)
            assert "/no/such/directory" in server.text()
            with Peer(paths[1]) as peer:
                assert peer.get().status == 200


def test_a_control_socket_that_moves() -> None:
    """It is where the new settings have it; where that cannot be, it stays; and it goes where none is wanted."""
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        config, http = directory / "gateways.toml", directory / "s"
        first, second = directory / "control", directory / "another"
        config.write_text(f"http = '{http}'\ncontrol = '{first}'\n")
        server = App(
            directory, "steered_app:app", "--config", str(config), protocols=(), python_path=directory,
            env={"STEER": str(directory)},
        )  # fmt: skip
        with running(server):
            for round_, (written, control) in enumerate(
                [(second, second), ("/no/such/directory/control", second), ("off", None)], 1
            ):
                config.write_text(f"http = '{http}'\ncontrol = '{written}'\n")
                os.kill(server.pid, signal.SIGUSR2)
                server.await_log("reload: done", round_)
                assert not first.exists()
                assert second.exists() == (control is not None)
                if control is not None:
                    (answer,) = call(str(control), "status", 10.0)
                    assert answer["status"]["pid"] == server.pid
            assert f"the control socket stays at {second}" in server.text()


def answers(address: str | tuple[str, int]) -> bool:
    with Peer(address) as peer:
        return peer.get().status == 200


def test_a_listener_in_other_words() -> None:
    """The socket is the one that listens there, whatever the settings call it and whichever protocol they want now."""
    with open_directory() as directory:
        config, port, path = directory / "gateways.toml", free_port(), str(directory / "s")
        config.write_text(f"http = ['127.0.0.1:{port}', '{path}']\n")
        with served("--config", str(config), protocols=()) as server, socket.socket(socket.AF_UNIX) as waiting:
            made = os.lstat(path)
            config.write_text(f"auto = ['localhost:{port}', '{directory}/./s']\n")
            replace_program(server)
            assert answers(("127.0.0.1", port))
            assert answers(path)
            assert os.path.samestat(os.lstat(path), made)
            listeners = server.status()["listeners"]
            assert [entry["protocol"] for entry in listeners] == ["auto", "auto"]
            assert listeners[0]["address"] == f"localhost:{port}"
            assert "cannot listen" not in server.text()
            waiting.connect(path)
            assert server.stop() == 0
        assert not os.path.exists(path)


def test_what_cannot_be_opened_ends_nothing() -> None:
    """The old listeners stay where the new ones fail; once these are mended, they go."""
    with open_directory() as directory:
        config, port, path = directory / "gateways.toml", free_port(), str(directory / "s")
        old, told = str(directory / "metrics"), "stays open: not everything that the settings name in its place"
        config.write_text(f"http = ['127.0.0.1:{port}', '{path}']\nmetrics = '{old}'\n")
        with served("--config", str(config), protocols=()) as server:
            for round_ in (1, 2):  # it is handed on as what it is
                config.write_text(f"auto = [':{port}']\nmetrics = '/no/such/directory/m'\n")
                replace_program(server)
                assert server.text().count(f"cannot listen on :{port}: the port is in use") == round_
                for listener in (f"http on 127.0.0.1:{port}", f"http on {path}", f"metrics on {old}"):
                    assert server.text().count(f"{listener} {told}") == round_
                assert answers(("127.0.0.1", port))
                assert answers(path)
                with socket.socket(socket.AF_UNIX) as metrics:
                    metrics.connect(old)
                    metrics.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                    assert metrics.recv(12) == b"HTTP/1.1 200"
            config.write_text(f"auto = ['127.0.0.1:{port}']\n")
            replace_program(server)
            assert answers(("127.0.0.1", port))
            assert not os.path.exists(path)
            assert not os.path.exists(old)


def test_a_directory_that_is_removed_and_made_anew() -> None:
    """As a deployment may: the program starts in the new one, and the socket is there again."""
    with open_directory() as directory:
        site, log = directory / "site", directory / "log"
        site.mkdir()
        shutil.copy(SOURCE, site)
        environment = os.environ | {"STEER": str(directory), "PWD": str(site)}
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateways", "serve", "steered_app:app", "--http", "./s", "--control", "off"],
                cwd=site, env=environment, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            wait_until(lambda: "is ready" in log.read_text(), "it serves")
            shutil.rmtree(site)
            os.kill(process.pid, signal.SIGUSR2)
            wait_until(lambda: "reload: failed" in log.read_text(), "it is told")
            site.mkdir()
            shutil.copy(SOURCE, site)
            os.kill(process.pid, signal.SIGUSR2)
            wait_until(lambda: "reload: done" in log.read_text(), "it is replaced")
            assert os.path.samefile(f"/proc/{process.pid}/cwd", site)
            assert answers(str(site / "s"))
            process.terminate()
            assert process.wait(60) == 0
            assert not (site / "s").exists()
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()
            process.wait()


def test_a_worker_that_boots_meanwhile_is_buried() -> None:
    with served() as server:
        (old,) = server.workers()
        server.touch("hang")
        os.kill(server.pid, signal.SIGHUP)
        new = wait_until(lambda: next((pid for pid in children(server.pid) if pid != old), None), "it boots")
        os.kill(new, signal.SIGSTOP)  # or it would go on
        (server.directory / "hang").unlink()
        replace_program_while_reloading(server)
        wait_until(lambda: set(children(server.pid)) == {server.workers()[-1]}, "the new one alone is there")
        assert new not in server.workers()
        assert server.stop() == 0


def replace_program_while_reloading(server: App) -> None:
    before = program_started(server.pid)
    os.kill(server.pid, signal.SIGUSR2)
    server.await_log("reload: done")
    assert program_started(server.pid) != before


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"version": 99}, "holds nothing that this version understands: another version"),
        ({"generation": "x"}, "generation should be int"),
        ({"others": {"control": 55}}, "names descriptor 55, which is not a socket that listens"),
        ({"others": {"access log": 55}}, "names descriptor 55, which is not open"),
        (
            {"workers": [{"pid": 1, "control": -1, "born": 1.0, "retiring": False}]},
            "names process 1, which is not a child",
        ),
    ],
)
def test_a_handover_that_is_none(changed: dict[str, object], sentence: str) -> None:
    """The variable is left over, or somebody has made it up: one sentence, and nothing is touched."""
    whole: dict[str, object] = {
        "version": 1, "listeners": [], "workers": [], "generation": 1, "started": 1.0, "reloads": 0, "wanted": 1,
        "others": {}, "asking": [], "paths": {}, "counts": {},
    }  # fmt: skip
    with open_directory() as directory:
        shutil.copy(SOURCE, directory)
        environment = os.environ | {"STEER": str(directory), "GATEWAYS_HANDOVER": json.dumps(whole | changed)}
        done = subprocess.run(
            [sys.executable, "-m", "gateways", "serve", "steered_app:app", "--http", "./s", "--control", "off"],
            cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert sentence in line
        assert "unset GATEWAYS_HANDOVER" in line
        assert not (directory / "s").exists()


def test_a_program_that_cannot_be_executed() -> None:
    """As while a package is being installed: the check does not even start."""
    with open_directory() as directory:
        program = directory / "python"
        program.symlink_to(sys.executable)
        shutil.copy(SOURCE, directory)
        path = directory / "s"
        environment = os.environ | {"STEER": str(directory), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        log = directory / "log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [program, "-m", "gateways", "serve", "steered_app:app", "--http", path, "--control", "off"],
                cwd=directory, env=environment, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            wait_until(lambda: "is ready" in log.read_text(), "it serves")
            program.unlink()
            os.kill(process.pid, signal.SIGUSR2)
            wait_until(lambda: "reload: failed" in log.read_text(), "it is told")
            with Peer(str(path)) as peer:
                assert peer.get().status == 200
            program.symlink_to(sys.executable)
            os.kill(process.pid, signal.SIGUSR2)
            wait_until(lambda: "reload: done" in log.read_text(), "it is replaced")
            with Peer(str(path)) as peer:
                assert peer.get().status == 200
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


def test_check_that_hangs_and_a_stop_meanwhile() -> None:
    with served("--boot-timeout", "30s") as server:
        server.touch("hang")
        os.kill(server.pid, signal.SIGUSR2)
        server.await_log("checking the program that is to take over")
        wait_until(lambda: len(children(server.pid)) == 2, "the check runs")
        assert server.status()["state"] == "reloading"
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 5


def test_check_that_takes_too_long() -> None:
    with served("--boot-timeout", "500ms") as server:
        server.touch("hang")
        os.kill(server.pid, signal.SIGUSR2)
        server.await_log("reload: failed")
        assert server.get().startswith(b"pid ")


def test_worker_that_dies_while_the_program_is_replaced() -> None:
    with served("--workers", "3") as server:
        for _ in range(3):
            done = server.text().count("reload: done")
            old = server.workers()[-3:]
            os.kill(server.pid, signal.SIGUSR2)
            os.kill(old[0], signal.SIGKILL)
            server.await_log("reload: done", done + 1)
            os.kill(server.workers()[-1], signal.SIGKILL)
            wait_until(lambda: server.status()["ready"] == 3, "all are there")
            wait_until(lambda: len(server.status()["workers"]) == 3, "the old ones have gone")
        assert server.get().startswith(b"pid ")
        assert len(children(server.pid)) == 3


def test_many_leave_nothing_behind() -> None:
    options = ("--workers", "2", "--metrics", "unix:metrics", "--access-log", "access")
    with served(*options) as server, server.peer() as peer:
        replace_program(server)
        held = descriptors(server.pid)
        for _ in range(3):
            replace_program(server)
            assert peer.keep_get().status == 200
        wait_until(lambda: descriptors(server.pid) <= held, "the master holds no more than before")
        wait_until(lambda: len(children(server.pid)) == 2, "the dead are buried")


def test_signals_in_the_midst_of_it() -> None:
    """None is lost, and none kills: SIGHUP is a reload more, SIGTERM the end."""
    with served("--workers", "2") as server:
        os.kill(server.pid, signal.SIGUSR2)
        server.await_log("the program is replaced")
        os.kill(server.pid, signal.SIGHUP)
        server.await_log("starting workers of generation 3")
        server.await_log("reload: done")
        os.kill(server.pid, signal.SIGUSR2)
        server.await_log("the program is replaced", 2)
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait() == 0
        assert not os.path.exists(server.address["http", "unix"])


@pytest.fixture
def user() -> str:
    """Somebody who may run this Python, whom root can become."""
    found = unprivileged()
    if found is None:
        pytest.skip("only root can become somebody else")
    try:
        subprocess.run([sys.executable, "-c", "import gateways.cli.serve"], user=found[0], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{found[0]} may not run this Python")
    return found[0]


@contextmanager
def left_behind(path: str) -> Iterator[None]:
    """Remove at the end what a server may not remove itself."""
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)


def test_with_user_and_preload(user: str) -> None:
    """The master has given up root before it loads the application; what root has opened goes on from there."""
    with open_directory() as directory, open_directory() as closed:
        shutil.copy(SOURCE, directory)
        closed.chmod(0o700)
        kinds = ("error", "access", "slow")
        logs = [word for kind in kinds for word in (f"--{kind}-log", str(closed / kind))]
        server = App(
            directory, "steered_app:app", "--preload", "--user", user, *logs, "--pid-file", str(closed / "pid"),
            python_path=directory, protocols=("http",), env={"STEER": str(directory)},
        )  # fmt: skip
        server.log = closed / "error"
        directory.chmod(0o755)

        def command(*words: str) -> subprocess.CompletedProcess[str]:
            return run_command(*words, "--pid", str(server.pid))

        with running(server), left_behind(f"/run/gateways/{server.pid}.sock"):
            pid = server.pid
            for number in range(1, 3):
                set_version(server, f"v{number}")
                before = program_started(pid)
                done = command("reload")
                assert (done.returncode, done.stderr) == (0, "")
                assert program_started(pid) != before
                assert version(server) == f"v{number}"
                assert json.loads(command("status", "--json").stdout)["reloads"] == number
            wait_until(lambda: (closed / "access").read_text().count("GET /version") == 2, "both are in the log")
            assert (closed / "pid").read_text() == f"{pid}\n"
            assert "ERROR" not in server.text()
            assert "cannot" not in server.text()
            (closed / "access").rename(closed / "access.1")
            refused = command("reopen")
            assert refused.returncode == 1
            for kind in kinds:
                words = f"cannot open the {kind} log {closed}/{kind}: Permission denied; the old file is kept; "
                assert f"{words}--preload: --user {user} must be allowed to open it" in refused.stderr
            assert version(server) == "v2"
            wait_until(lambda: (closed / "access.1").read_text().count("GET /version") == 3, "it is in the old file")
            closed.chmod(0o755)
            for kind in kinds:
                (closed / kind).touch()
                shutil.chown(closed / kind, user)
            assert command("reopen").returncode == 0
            wait_until(lambda: version(server) and (closed / "access").read_text(), "the worker has the new file")
            assert command("stop").returncode == 0
            server.wait()


@contextmanager
def activated(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """A server whose listening socket came as descriptor 3, as systemd has it."""
    with open_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        shutil.copy(SOURCE, directory)
        path = directory / "s"
        listener.bind(str(path))
        listener.listen(100)
        environment = os.environ | {"STEER": str(directory), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
        log = directory / "log"
        script = (
            "import os,sys;os.dup2(int(sys.argv[1]),3);os.environ['LISTEN_PID']=str(os.getpid());"
            "os.execv(sys.executable,[sys.executable,'-m','gateways','serve','steered_app:app',*sys.argv[2:]])"
        )
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(listener.fileno()), "--control", "off", *options],
                cwd=directory, env=environment, stdout=file, stderr=file, pass_fds=[listener.fileno()],
            )  # fmt: skip
        try:
            wait_until(lambda: "is ready" in log.read_text(), "it serves")
            yield process, path, log
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_socket_of_systemd(options: tuple[str, ...]) -> None:
    with activated(*options) as (process, path, log):
        for count in (1, 2):
            with Peer(str(path)) as peer:
                assert peer.get().status == 200
            os.kill(process.pid, signal.SIGUSR2)
            wait_until(lambda count=count: log.read_text().count("reload: done") == count, "it is replaced")  # type: ignore[misc]
        with Peer(str(path)) as peer:
            peer.send(request("http"))
            assert peer.answer().status == 200
        assert process.poll() is None
