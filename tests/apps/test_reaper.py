"""What scripts leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from gateways.apps import Exchange
from gateways.apps.choice import Choice, Chooser
from gateways.apps.processes import Identity, Launcher, Process
from gateways.apps.script import ScriptApp
from gateways.apps.script_response import ErrorLines
from gateways.apps.wait import Wait
from gateways.limits import ScriptLimits
from tests.apps.scripts import HEAD, PASSED, USER, Root, alive, answering, has_ended, pid_in
from tests.server.peers import Peer, request
from tests.server.pools import MemoryLog, Served, within
from tests.server.processes import children, needs_proc
from tests.server.scarce import no_descriptor_left
from tests.servers import LOOPBACK, Server, free_port, running


def test_what_holds_the_standard_output_of_a_script_that_has_ended_is_killed(root: Root, note: Path) -> None:
    root.sh("forks", *HEAD, "echo all", f"sh -c 'echo $$ >{note}; exec sleep 60' &")
    with answering(root) as (served, _):
        start = time.monotonic()
        with served.connect() as peer:
            assert peer.get("/forks").body == b"all\n"
        assert time.monotonic() - start < 5
        within(lambda: not alive(pid_in(note)), "what was left is gone")
        assert "holds its standard output" in served.log.lines[-1]


def test_so_it_is_where_the_answer_was_whole_before(root: Root, note: Path) -> None:
    root.sh("counts", "echo Content-Length: 4", "echo", f"sh -c 'echo $$ >{note}; exec sleep 60' &", "echo all")
    with answering(root) as (served, _):
        with served.connect() as peer:
            assert peer.get("/counts").body == b"all\n"
        within(lambda: not alive(pid_in(note)), "what was left is gone")


def test_a_daemon_that_lets_go_of_its_descriptors_lives_on(root: Root, note: Path) -> None:
    root.sh("starts", *HEAD, f"setsid sh -c 'echo $$ >{note}; exec sleep 60' </dev/null >/dev/null 2>&1 &", "echo ok")
    with answering(root) as (served, app):
        with served.connect() as peer:
            assert peer.get("/starts").body == b"ok\n"
        pid = pid_in(note)
        within(lambda: not app.turns.taken, "the script has ended")
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_script_that_closes_its_standard_output_may_go_on(root: Root, note: Path) -> None:
    root.sh("on", *HEAD, "echo ok", "exec >&-", "sleep 0.8", "echo late >&2", f"echo done >{note}")
    with answering(root) as (served, app):
        with served.connect() as peer:
            assert peer.get("/on").body == b"ok\n"
        assert note.read_text() == ""
        assert app.turns.taken == 1
        within(note.read_text, "it has gone on")
        served.log.only("stderr: late")


def reapers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "gateways-reaper"}


def test_what_nobody_wants_is_taken_as_fast_as_it_is_written(root: Root) -> None:
    root.sh("download", *HEAD, "exec head -c 100000000 /dev/zero")
    with answering(root) as (served, app), served.connect() as peer:
        peer.send(b"HEAD /download HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert peer.read().startswith(b"HTTP/1.1 200")
        within(lambda: not app.turns.taken, "its turn is over", 5)


def test_its_thread_ends_with_the_worker(root: Root) -> None:
    root.sh("leaves", *HEAD, "sleep 60 &")
    before = reapers()
    with answering(root) as (served, _), served.connect() as peer:
        peer.get("/leaves")
        within(lambda: reapers() - before, "what the script has left is ended")
        (started,) = reapers() - before
    within(lambda: not started.is_alive(), "it ends")


@contextlib.contextmanager
def no_threads(root: Root, served: Served) -> Iterator[None]:
    """No more thread can be started: a stack would take more than there is."""
    root.sh("first", *HEAD, "echo ok")
    with served.connect() as peer:
        assert peer.get("/first").body == b"ok\n", "the pool has all of its threads"
    size = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(size)


def test_no_new_thread_is_needed_to_end_a_script(root: Root, note: Path) -> None:
    """There may be no room for one just then: because of what the script has started, for example."""
    root.sh("greedy", f"echo $$ >{note}", "exec sleep 60")
    with answering(root) as (served, app), no_threads(root, served):
        with served.connect() as peer:
            peer.send(request("http", "/greedy"))
            pid = pid_in(note)
        within(lambda: not alive(pid), "it is ended")
        within(lambda: not app.turns.taken, "its turn is over")


def test_nor_for_the_worker_to_leave(root: Root, note: Path) -> None:
    root.sh("greedy", f"echo $$ >{note}", "exec sleep 60")
    with answering(root) as (served, app), no_threads(root, served), served.connect() as peer:
        peer.send(request("http", "/greedy"))
        pid = pid_in(note)
        app.end_in(60.0)
        within(lambda: not alive(pid), "it is ended at once, since nobody could do it later")


def test_nothing_is_left_when_the_worker_ends(root: Root, note: Path) -> None:
    root.sh("stays", *HEAD, "echo ok", f"echo $$ >{note}", "exec >&- 2>&-", "exec sleep 60")
    with answering(root) as (served, app):
        with served.connect() as peer:
            assert peer.get("/stays").body == b"ok\n"
        pid = pid_in(note)
        app.close()
        within(lambda: not alive(pid), "it is killed")


def test_no_descriptor_of_the_server_gets_into_a_script(root: Root) -> None:
    root.sh("fds", *HEAD, "ls -l /proc/$$/fd")
    leak, other = os.pipe()
    os.set_inheritable(leak, True)
    try:
        with answering(root) as (served, _), served.connect() as peer:
            lines = peer.get("/fds").body.decode().splitlines()
    finally:
        os.close(leak)
        os.close(other)
    numbers = {line.split(" -> ")[0].split()[-1]: line.split(" -> ")[1] for line in lines if " -> " in line}
    assert {"0", "1", "2"} <= set(numbers)
    script = [target for number, target in numbers.items() if number not in ("0", "1", "2")]
    assert script in ([], [str(root.directory / "fds")]), "the shell's own"
    assert numbers["0"] == "/dev/null"


def test_nothing_outlives_a_worker_that_has_to_leave(root: Root, note: Path) -> None:
    root.sh("last", "trap '' TERM", f"echo $$ >{note}", "while :; do sleep 0.1; done")
    with answering(root) as (served, app), served.connect() as peer:
        peer.send(request("http", "/last"))
        pid = pid_in(note)
        app.end_in(0.1)
        assert peer.answer().status == 502
        within(lambda: not alive(pid), "it is killed")


def test_nor_does_what_has_waited_for_a_turn(root: Root, note: Path) -> None:
    root.sh("each", f"echo $$ >>{note}", "exec sleep 60")
    with answering(root, limits=ScriptLimits(concurrency=1)) as (served, app), contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(4)]
        for peer in peers:
            peer.send(request("http", "/each"))
        pid_in(note)
        within(lambda: app.turns.waiting == 3, "the others wait")
        app.end_in(0.0)
        assert [peer.answer().status for peer in peers].count(503) >= 2
        assert not [pid for pid in map(int, note.read_text().split()) if alive(pid)]


class Handed:
    """Starts nothing: returns what is there."""

    def __init__(self, *processes: Process) -> None:
        self.processes = list(processes)

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], directory: str, identity: Identity | None, *, stdin: bool
    ) -> Process:
        return self.processes.pop(0)

    def close(self) -> None:
        pass


def test_nor_does_what_has_the_number_of_one_that_is_reaped(root: Root) -> None:
    path = str(root.sh("again", "exec sleep 60"))
    launcher = Launcher(ScriptLimits())
    second = launcher.start([path], PASSED, "/", None, stdin=False)
    first = Process(second.pid, -1, -1, -1)
    first.code = 0
    choice = Choice(path, "/again", "", (path,), os.getuid() or 65_534, os.getgid() or 65_534, 0o755)
    app = ScriptApp(
        Chooser(None, script=path, index=(), interpreters={}), MemoryLog(), limits=ScriptLimits(), passed=PASSED,
        user=USER, launcher=Handed(first, second),
    )  # fmt: skip
    try:
        for _ in range(2):
            list(app.await_turn(choice, Wait(), lambda: False))
            app.start({}, choice, "name", stdin=False)
        app.part(first, choice, ErrorLines(cast("Exchange", None), "name", print), 0.0)
        app.close()
        assert has_ended(second, 5), "it is killed"
    finally:
        second.signal(signal.SIGKILL)
        second.reap()
        second.close()
        launcher.close()


@contextlib.contextmanager
def served_apart(root: Root, directory: Path, *options: str) -> Iterator[tuple[Server, tuple[str, int]]]:
    """``gateways scripts`` in processes of its own."""
    port = free_port()
    argv = [sys.executable, "-m", "gateways", "scripts", "--root", str(root.directory), "--http", f"{LOOPBACK}:{port}"]
    argv += ["--control", "off", *options]
    argv += ["--script-user", USER] if USER else []
    with running(Server(directory, argv, [port])) as server:
        yield server, (LOOPBACK, port)


def test_nor_does_anything_outlive_a_server(root: Root, note: Path, tmp_path: Path) -> None:
    root.sh("last", "trap '' TERM", f"echo $$ >{note}", "while :; do sleep 0.1; done")
    with served_apart(root, tmp_path, "--graceful-timeout", "2") as (server, address), Peer(address) as peer:
        peer.send(request("http", "/last"))
        pid = pid_in(note)
        assert server.stop() == 0
        assert not alive(pid), server.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nor_one_that_is_told_twice(root: Root, note: Path, tmp_path: Path, number: signal.Signals) -> None:
    """At once is not so soon that nobody is left to end the scripts."""
    root.sh("last", "trap '' TERM", f"echo $$ >{note}", "while :; do sleep 0.1; done")
    with served_apart(root, tmp_path, "--workers", "2") as (server, address), Peer(address) as peer:
        peer.send(request("http", "/last"))
        pid = pid_in(note)
        os.kill(server.pid, number)
        within(lambda: "finishing what runs, at most 30 s" in server.text(), "it has heard the first")
        time.sleep(1.1)  # what comes sooner is the same Ctrl-C
        start = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - start < 15, "not after the 30 s"
        assert not alive(pid), server.text()
        assert peer.answer().status == 502


def has_accepted(pid: int, peer: Peer) -> bool:
    """Whether the other end of a TCP connection is a descriptor of the process ``pid`` (proc(5), /proc/net/tcp)."""
    ends = f":{peer.sock.getpeername()[1]:04X}", f":{peer.sock.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()]
    inodes = [row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])]
    links = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    return any(f"socket:[{inode}]" in links for inode in inodes)


@needs_proc
def test_the_first_request_of_a_worker_without_a_descriptor_left(root: Root, tmp_path: Path) -> None:
    root.sh("ok", *HEAD, "echo fine")
    with served_apart(root, tmp_path) as (server, address):
        within(lambda: "is ready" in server.text(), "the worker is ready")
        (worker,) = children(server.pid)
        with Peer(address) as peer:
            within(lambda: has_accepted(worker, peer), "it has accepted")
            with no_descriptor_left(worker):
                peer.send(request("http", "/ok"))
                assert peer.answer().status == 503
        with Peer(address) as peer:
            assert peer.get("/ok").body == b"fine\n"
        assert "Traceback" not in server.text()
