"""What one program hands to the next across an exec: the text, and descriptors that live on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateways.server.handover import GONE, VARIABLE, Handed, HandedListener, HandedWorker

PROGRAM = """
import os, socket
from gateways.server.handover import VARIABLE, Handed
handed = Handed.read(os.environ[VARIABLE])
inheritable = [os.get_inheritable(fd) for fd in handed.fds()]
listener = socket.socket(fileno=handed.listeners[0].fd)
control = socket.socket(fileno=handed.workers[0].control)
control.sendall(b"%d" % handed.workers[0].pid)
print(inheritable, handed.generation, listener.getsockname()[1])
"""


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    fds = [fd for _ in range(3) for fd in os.pipe()]
    yield fds
    for fd in fds:
        os.close(fd)


def handed(fds: list[int], **changed: Any) -> Handed:  # noqa: ANN401  (any field)
    whole = Handed(
        listeners=(
            HandedListener("fastcgi", "unix:/run/a b.sock", fds[0], "/run/a b.sock", (66_306, 2**63)),
            HandedListener("auto", "[::1]:8000", fds[1]),
        ),
        workers=(HandedWorker(4711, fds[2], 1234.5678901234, False), HandedWorker(4712, fds[3], 0.1, True)),
        generation=7,
        started=1_790_000_000.125,
        reloads=3,
        wanted=4,
        others={"control": fds[4], "watcher": 99_999},
        asking=(fds[5],),
        paths={"control": "", "access log": "/var/log/a b"},
        counts={"slow": 3, "times": {"http": {"2xx": {"counts": [1, 2], "total": 0.5}}}},
    )
    return replace(whole, **changed)


def test_there_and_back(pipes: list[int]) -> None:
    before = handed(pipes)
    text = before.text()
    assert text.isascii()
    assert Handed.read(text) == before


def test_nothing_but_the_server(pipes: list[int]) -> None:
    empty = Handed((), (), 1, 0.0, 0, 1, {})
    assert Handed.read(empty.text()) == empty
    odd = handed(pipes, listeners=(HandedListener("http", 'unix:/run/\u00e4"\n\\', pipes[0], "/run/\udcff"),))
    assert Handed.read(odd.text()) == odd


def test_an_older_program_tells_less(pipes: list[int]) -> None:
    table = json.loads(handed(pipes).text())
    found = Handed.read(json.dumps(without(without(table, "paths"), "counts")))
    assert found == handed(pipes, paths={}, counts={})


def test_descriptors_survive_the_exec_and_nothing_later(pipes: list[int]) -> None:
    whole = handed(pipes)
    assert whole.fds() == [*pipes[:4], pipes[5], pipes[4]]
    assert not any(os.get_inheritable(fd) for fd in pipes)
    text = whole.text()
    assert all(os.get_inheritable(fd) for fd in pipes)
    Handed.read(text)
    assert not any(os.get_inheritable(fd) for fd in pipes)
    whole.text()
    whole.keep()  # no exec came of it
    assert not any(os.get_inheritable(fd) for fd in pipes)


def test_a_descriptor_that_has_been_closed_meanwhile(pipes: list[int]) -> None:
    """The rest is taken over."""
    text = handed(pipes).text()
    gone = os.dup(pipes[0])
    os.close(gone)
    table = json.loads(text)
    table["listeners"][0]["fd"] = gone
    assert Handed.read(json.dumps(table)).listeners[0].fd == gone
    assert not any(os.get_inheritable(fd) for fd in pipes[1:])
    with pytest.raises(OSError, match="Bad file descriptor"):
        handed([gone, *pipes[1:]]).text()


def test_by_an_exec() -> None:
    """Another program, which has the descriptors under their numbers, and hands them on to nobody."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        listeners = (HandedListener("http", "127.0.0.1:0", listener.fileno()),)
        whole = Handed(listeners, (HandedWorker(17, theirs.fileno(), 1.0, False),), 5, 1.0, 0, 1, {})
        environment = {**os.environ, VARIABLE: whole.text()}
        words = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(words, env=environment, close_fds=False, capture_output=True, text=True, check=False)
        whole.keep()
        assert (done.stdout, done.stderr) == (f"[False, False] 5 {listener.getsockname()[1]}\n", "")
        assert ours.recv(10) == b"17"


def without(table: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != name}


def test_garbage_is_refused(pipes: list[int]) -> None:
    whole = handed(pipes)
    good = json.loads(whole.text())
    whole.keep()
    listener, worker = good["listeners"][0], good["workers"][0]
    numbers: tuple[object, ...] = ("x", None, [], 2**70, float("nan"))
    others: tuple[object, ...] = (None, [])
    bad: list[object] = [
        None, True, 1, "x", [], [1], {}, {"version": 1},
        *(without(good, name) for name in good if name not in ("asking", "paths", "counts")),
        {**good, "version": 2}, {**good, "version": "1"}, {**good, "version": None},
        {**good, "more": 1},
        {**good, "listeners": None}, {**good, "listeners": 5}, {**good, "listeners": ["x"]},
        {**good, "listeners": [[]]}, {**good, "asking": [-1]}, {**good, "asking": [2**31]}, {**good, "asking": [2**70]},
        {**good, "listeners": [without(listener, "fd")]}, {**good, "listeners": [without(listener, "created")]},
        {**good, "listeners": [{**listener, "fd": "3"}]}, {**good, "listeners": [{**listener, "fd": None}]},
        {**good, "listeners": [{**listener, "fd": 1.5}]}, {**good, "listeners": [{**listener, "fd": True}]},
        {**good, "listeners": [{**listener, "created": 5}]}, {**good, "listeners": [{**listener, "more": 5}]},
        {**good, "workers": {}, "listeners": {"a": 1}}, {**good, "workers": 1}, {**good, "workers": [worker, 1]},
        {**good, "workers": [{**worker, "control": "x"}]}, {**good, "workers": [without(worker, "pid")]},
        {**good, "others": []}, {**good, "others": None}, {**good, "others": {"control": "x"}},
        {**good, "asking": None}, {**good, "asking": ["x"]}, {**good, "asking": 3},
        {**good, "counts": None}, {**good, "counts": 5}, {**good, "counts": "x"},
        {**good, "paths": None}, {**good, "paths": 1}, {**good, "paths": {"control": None}},
        *({**good, name: value} for name in ("generation", "started", "reloads", "wanted")
          for value in (*numbers, True, -1, float("inf"))),
        *({**good, "workers": [{**worker, name: value}]} for name in worker for value in (*numbers, -2)),
        *({**good, "listeners": [{**listener, name: value}]} for name in listener for value in (*others, 5.5, -1)),
        {**good, "workers": [worker, worker]}, {**good, "workers": [{**worker, "pid": 0}]},
        {**good, "listeners": [{**listener, "path": "/a\0b"}]}, {**good, "listeners": [{**listener, "created": [1]}]},
        {**good, "listeners": [{**listener, "created": [1, "2"]}]},
        *({**good, "others": {"watcher": pid}} for pid in (0, -1, "x", None, 1.5, True, 2**31)),
    ]  # fmt: skip
    for table in bad:
        with pytest.raises(ValueError, match=f"{VARIABLE} holds nothing that this version understands"):
            Handed.read(json.dumps(table))
    for text in ("", " ", "1", "{", "version=1", '{"version": 1}x', "\0", "NaN", "\udcff", "[" * 100_000, "9" * 5000):
        with pytest.raises(ValueError, match=f"{VARIABLE} holds nothing"):
            Handed.read(text)
    assert not any(os.get_inheritable(fd) for fd in pipes)


def test_a_worker_that_is_to_be_buried(pipes: list[int]) -> None:
    """There is no descriptor of it."""
    whole = handed(pipes, workers=(HandedWorker(4711, GONE, 1.0, True),))
    assert GONE not in whole.fds()
    assert Handed.read(whole.text()) == whole


@pytest.fixture
def real() -> Iterator[Handed]:
    """What a server has: a socket that listens, a worker, a client of the control socket, a log file, a watcher."""
    ours, theirs = socket.socketpair()
    children = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    one, two = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    with ours, theirs, one, two, open(os.devnull, "wb") as log:
        yield Handed(
            (HandedListener("http", "127.0.0.1:0", one.fileno()),),
            (HandedWorker(children[0].pid, ours.fileno(), 1.0, False),),
            1, 1.0, 0, 0,
            {"control": two.fileno(), "access log": log.fileno(), "watcher": children[1].pid},
            (theirs.fileno(),),
        )  # fmt: skip
    for child in children:
        child.communicate()


def test_what_this_process_has_got(real: Handed) -> None:
    real.examine()
    (worker,) = real.workers
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    replace(real, workers=(replace(worker, control=GONE),)).examine()  # dead, and not buried


def test_what_this_process_has_not_got(real: Handed) -> None:
    (listener,), (worker,) = real.listeners, real.workers
    closed = os.dup(0)
    os.close(closed)
    file, unix, tcp = real.others["access log"], worker.control, listener.fd
    wrong = [
        *(({"listeners": (replace(listener, fd=fd),)}, "not a socket that listens") for fd in (closed, file, unix)),
        *(({"others": {"control": fd}}, "not a socket that listens") for fd in (closed, file, unix)),
        *(({"workers": (replace(worker, control=fd),)}, "not a unix socket") for fd in (closed, file, tcp)),
        *(({"asking": (fd,)}, "not a unix socket") for fd in (closed, file, tcp)),
        ({"others": {"access log": closed}}, "not open"),
        ({"asking": (unix,)}, "a descriptor twice"),
        ({"listeners": (listener, listener)}, "a descriptor twice"),
        *(({"workers": (replace(worker, pid=pid),)}, "not a child of this one") for pid in (os.getpid(), 2**31 - 1)),
        ({"others": {"watcher": os.getpid()}}, "not a child of this one"),
    ]
    for changed, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            replace(real, **changed).examine()  # type: ignore[arg-type]
    assert all(os.fstat(fd) for fd in real.fds()), "nothing was closed"
