"""A FastCGI process under a manager, without a master: real processes with a listening descriptor 0."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import Managed, managed, write_script
from tests.server.peers import Peer, request
from tests.server.pools import within
from tests.server.processes import listens
from tests.servers import Server, open_directory, require, running

APP = """
import json, os, subprocess, sys, threading, time
def application(environ, start_response):
    path = environ["PATH_INFO"]
    found = {
        "pid": os.getpid(), "ppid": os.getppid(), "main": threading.current_thread() is threading.main_thread(),
        "flags": [environ["wsgi." + name] for name in ("multithread", "multiprocess", "run_once")],
    }
    if path == "/task":
        found["task"] = len(os.listdir("/proc/self/task"))
    elif path == "/print":
        print("printed", flush=True)
        subprocess.run(["sh", "-c", "cat; echo from a child"])
        found["stdin"] = os.path.realpath("/proc/self/fd/0")
    elif path == "/hold":
        open("begun", "w").close()
        while not os.path.exists("gate"):
            time.sleep(0.01)
    elif path == "/fork":
        heard, said = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(said, b"x")
            time.sleep(60)
            os._exit(0)
        os.read(heard, 1)
        os.kill(pid, __import__("signal").SIGTERM)
        found["fork"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    elif path == "/raise":
        raise ValueError("a secret")
    start_response("200 OK", [])
    return [json.dumps(found).encode()]
import atexit
atexit.register(print, "at exit")
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


@pytest.fixture
def process(directory: Path) -> Iterator[Managed]:
    script = write_script(directory, f"import os; os.chdir({str(directory)!r})\n{APP}")
    with managed([script], directory) as process:
        yield process


def ask(process: Managed, path: str) -> dict[str, Any]:
    with Peer(process.address, "fastcgi") as peer:
        peer.send(request("fastcgi", path))
        answer = peer.answer()
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


def test_it_is_the_process_that_the_manager_started(process: Managed) -> None:
    found = ask(process, "/")
    assert (found["pid"], found["ppid"]) == (process.process.pid, os.getpid())
    assert found["flags"] == [False, True, False]
    assert found["main"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="/proc is Linux's")
def test_one_thread_is_the_only_one(process: Managed) -> None:
    assert ask(process, "/task")["task"] == 1


def test_several_threads(directory: Path) -> None:
    script = write_script(
        directory, f"import os; os.chdir({str(directory)!r})\n{APP}", "gateways.run(application, threads=2)"
    )
    with managed([script], directory) as process, Peer(process.address, "fastcgi") as peer:
        peer.send(request("fastcgi", "/hold"))
        within((directory / "begun").exists, "one thread is busy")
        assert ask(process, "/")["flags"] == [True, True, False]
        (directory / "gate").touch()
        assert peer.answer().status == 200
        assert process.end(signal.SIGTERM) == 0


def test_a_kept_connection(process: Managed) -> None:
    with Peer(process.address, "fastcgi") as peer:
        for _ in range(3):
            assert peer.keep_get("/").status == 200
        assert process.end(signal.SIGTERM) == 0, "an idle connection holds nobody"


def test_what_is_printed_goes_to_stderr_and_stdin_is_empty(process: Managed) -> None:
    assert ask(process, "/print")["stdin"] == os.devnull
    assert process.text() == "printed\nfrom a child\n"


def test_an_application_that_fails(process: Managed) -> None:
    with Peer(process.address, "fastcgi") as peer:
        peer.send(request("fastcgi", "/raise"))
        answer = peer.answer()
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "GET /raise: the application raised" in process.text()
    assert ask(process, "/")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_it_after_the_request_that_runs(process: Managed, directory: Path, number: int) -> None:
    with Peer(process.address, "fastcgi") as peer:
        peer.send(request("fastcgi", "/hold"))
        within((directory / "begun").exists, "it is being served")
        process.process.send_signal(number)
        process.process.send_signal(number)
        (directory / "gate").touch()
        assert peer.answer().status == 200
    assert process.process.wait(60) == 0
    assert process.text() == "at exit\n"


def test_who_has_connected_before_the_end_is_served(process: Managed, directory: Path) -> None:
    with Peer(process.address, "fastcgi") as peer, Peer(process.address, "fastcgi") as other:
        peer.send(request("fastcgi", "/hold"))
        within((directory / "begun").exists, "it is being served")
        other.send(request("fastcgi", "/"))
        process.process.send_signal(signal.SIGTERM)
        (directory / "gate").touch()
        assert peer.answer().status == 200
        assert other.answer().status == 200
    assert process.process.wait(60) == 0


def test_a_second_signal_ends_it_at_once(process: Managed, directory: Path) -> None:
    with Peer(process.address, "fastcgi") as peer:
        peer.send(request("fastcgi", "/hold"))
        within((directory / "begun").exists, "it is being served")

        def gone() -> bool:
            process.process.send_signal(signal.SIGTERM)
            return process.process.poll() is not None

        within(gone, "it ends")
    assert process.process.returncode == -signal.SIGTERM


def test_sigpipe_does_not_end_it(process: Managed) -> None:
    ask(process, "/")
    process.process.send_signal(signal.SIGPIPE)
    ask(process, "/")


def test_a_signal_for_a_fork_of_the_application_is_the_fork_s(process: Managed) -> None:
    assert ask(process, "/fork")["fork"] == -signal.SIGTERM
    assert ask(process, "/")["pid"] == process.process.pid


def test_spawn_fcgi(directory: Path) -> None:
    program = require("spawn-fcgi")
    script = write_script(directory, f"import os; os.chdir({str(directory)!r})\n{APP}")
    server = Server(directory, [program, "-n", "-s", str(directory / "fcgi"), "--", str(script)])
    with running(server):
        within(lambda: listens(str(directory / "fcgi")), "spawn-fcgi has made the socket")
        assert server.process is not None
        process = Managed(server.process, str(directory / "fcgi"), server.log)
        assert ask(process, "/")["pid"] == server.pid, "it has become the program"
        assert server.stop() == 0


def test_web_servers_that_may_connect(directory: Path) -> None:
    with managed([write_script(directory, APP)], directory, FCGI_WEB_SERVER_ADDRS="nonsense") as process:
        assert process.process.wait(60) == 2
        assert "FCGI_WEB_SERVER_ADDRS" in process.text()
