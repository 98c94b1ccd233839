"""Bytes both ways at the same time, in constant memory; time, and clients that go away."""

from __future__ import annotations

import contextlib
import select
import subprocess
import tempfile
import time
from array import array
from fcntl import ioctl
from pathlib import Path
from termios import TIOCOUTQ

import pytest

from gateways.limits import ScriptLimits
from gateways.testing.framing.fastcgi_records import ABORT, STDIN, rec
from tests.apps.scripts import HEAD, MIB, Root, Sender, alive, answering, pid_in, receive, rss
from tests.server.peers import PROTOCOLS, SECONDS, head_of, request, reset
from tests.server.pools import within


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_large_body_to_the_script_in_constant_memory(root: Root, protocol: str) -> None:
    root.sh("count", *HEAD, "wc -c")
    size = 64 * MIB
    with answering(root, protocol) as (served, _), served.connect() as peer:
        before = rss()
        peer.send(head_of(protocol, "/count", length=size))
        sender = Sender(peer, size)
        most = 0
        while sender.thread.is_alive():
            most = max(most, rss() - before)
            time.sleep(0.005)
        assert peer.answer().body.strip() == str(size).encode()
        assert sender.error is None
    assert most < 16 * MIB


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_large_body_from_the_script_in_constant_memory(root: Root, protocol: str) -> None:
    size = 64 * MIB
    root.sh("zeros", *HEAD, f"head -c {size} /dev/zero")
    with answering(root, protocol) as (served, _), served.connect() as peer:
        peer.send(request(protocol, "/zeros"))
        _, count, most = receive(peer)
    assert count > size
    assert most < 16 * MIB


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_both_ways_at_the_same_time(root: Root, protocol: str) -> None:
    root.sh("echo", *HEAD, "exec cat")
    size = 32 * MIB
    with answering(root, protocol) as (served, _), served.connect() as peer:
        peer.send(head_of(protocol, "/echo", length=size))
        sender = Sender(peer, size)
        _, count, most = receive(peer)
        sender.join()
        assert sender.error is None
    assert count > size
    assert most < 16 * MIB


@pytest.mark.parametrize("protocol", ["fastcgi", "scgi"])
def test_a_web_server_that_sends_no_more_once_it_is_answered(root: Root, protocol: str) -> None:
    """nginx, with a script that writes while it reads."""
    root.sh("upper", *HEAD, "exec tr '\\0' x")
    size = 8 * MIB
    block = bytes(32_768)
    with answering(root, protocol) as (served, _), served.connect() as peer:
        before = rss()
        peer.send(head_of(protocol, "/upper", length=size))
        for _ in range(size // len(block)):
            assert not select.select([peer.sock], [], [], 0)[0], "answered before all was sent"
            peer.send(rec(5, 1, block) if protocol == "fastcgi" else block)
        if protocol == "fastcgi":
            peer.stdin(1, end=True)
        assert rss() - before < 4 * MIB
        assert peer.answer().body == b"x" * size


@pytest.mark.parametrize("tcp", [False, True])
def test_a_body_beside_another_request_on_its_connection(root: Root, tcp: bool) -> None:
    """Neither that nor its end makes the body slower."""
    root.sh("count", *HEAD, "wc -c")
    root.sh("other", *HEAD, "sleep 0.5", "echo other")
    size = 4 * MIB
    with answering(root, "fastcgi", tcp=tcp) as (served, app), served.connect() as peer:
        peer.send(head_of("fastcgi", "/count", length=size, keep=True))
        within(lambda: app.turns.taken == 1, "it has begun")
        peer.send(request("fastcgi", "/other", keep=True, stream=2))
        assert peer.next_answer()[1].body == b"other\n"
        start = time.monotonic()
        Sender(peer, size).join()
        assert int(peer.next_answer()[1].body) == size
        assert time.monotonic() - start < 5


def test_a_web_server_that_reads_nothing_before_all_is_sent(root: Root) -> None:
    """Its script has much to say on its standard error."""
    root.python("noisy", "os.write(1, b'A: b\\n\\n')", "for i in range(9000):\n os.write(2, b'e' * 99 + b'\\n')",
                "while data := os.read(0, 65536):\n pass", "print('done')")  # fmt: skip
    with answering(root, "fastcgi") as (served, _), served.connect() as peer:
        peer.send(head_of("fastcgi", "/noisy", length=16 * MIB))
        sender = Sender(peer, 16 * MIB)
        sender.join()
        answer = peer.answer()
        assert answer.body == b"done\n"
        assert 50 <= answer.errors.count(b"\n") <= 64
        assert len(served.log.lines) + answer.errors.count(b"\n") == 9000


def test_no_room_for_what_has_to_wait(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root.sh("filter", *HEAD, "exec tr '\\0' x")
    with answering(root) as (served, _), served.connect() as peer:
        monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
        peer.send(head_of("http", "/filter", length=4 * MIB))
        Sender(peer, 4 * MIB).join()
        assert peer.answer().status == 500
        served.log.only("has a body that cannot be put aside")


def test_a_client_that_sends_more_once_it_is_answered(root: Root) -> None:
    root.sh("echo", *HEAD, "exec cat")
    with answering(root) as (served, _), served.connect() as peer:
        peer.send(head_of("http", "/echo", length=2 * MIB) + bytes(MIB))
        assert peer.sock.recv(12) == b"HTTP/1.1 200"
        sender = Sender(peer, MIB)
        _, count, _ = receive(peer)
        sender.join()
        assert sender.error is None
        assert count > 2 * MIB


def test_a_slow_client_holds_the_script_back(root: Root, note: Path) -> None:
    root.python("fast", f"note = open({str(note)!r}, 'w')", "print('A: b\\n', flush=True)",
                "for i in range(1024):\n os.write(1, bytes(65536))\n note.write('x'); note.flush()")  # fmt: skip
    with answering(root) as (served, _), served.connect(receive_buffer=4096) as peer:
        peer.send(request("http", "/fast"))
        within(lambda: note.stat().st_size > 2, "the script writes")
        last = -1
        while last != (last := note.stat().st_size):
            time.sleep(0.2)
        assert last < 100, "blocks that nobody has taken"
        assert receive(peer)[1] > 64 * MIB


def test_a_script_that_has_ended_before_a_slow_client_has_all(root: Root, note: Path) -> None:
    """What is left in the pipe is its own, not of something that it has left behind."""
    root.python("full", "os.write(1, b'A: b\\n\\n'); os.set_blocking(1, False); count = 0; last = time.monotonic()",
                "while time.monotonic() < last + 0.5:",
                " try:\n  count += os.write(1, bytes(4096)); last = time.monotonic()",
                " except BlockingIOError:\n  time.sleep(0.01)",
                f"open({str(note)!r}, 'w').write(f'{{count}}\\n')")  # fmt: skip
    with answering(root, "http") as (served, _), served.connect() as peer:
        peer.send(request("http", "/full"))
        within(lambda: note.read_text().endswith("\n"), "the script has filled all that is between, and ends")
        for _ in range(3):
            time.sleep(1.2)
            peer.buffer += peer.sock.recv(65_536)
        assert len(peer.answer().body) == int(note.read_text())
        assert served.log.lines == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_script_that_never_reads(root: Root, protocol: str) -> None:
    root.sh("deaf", *HEAD, "echo no")
    size = 10 * MIB
    with answering(root, protocol) as (served, _), served.connect() as peer:
        peer.send(head_of(protocol, "/deaf", length=size))
        sender = Sender(peer, size)
        sender.join()  # before a byte of the answer is read
        assert sender.error is None
        assert peer.answer().body == b"no\n"


def test_a_script_that_closes_its_standard_input_and_goes_on(root: Root) -> None:
    root.python("closes", "os.close(0)", "print('A: b\\n', flush=True)", "time.sleep(0.3)", "os.write(1, b'done')")
    size = 10 * MIB
    with answering(root) as (served, _), served.connect() as peer:
        peer.send(head_of("http", "/closes", length=size))
        Sender(peer, size).join()
        assert peer.answer().body == b"done"


def test_its_answer_waits_for_no_more_of_the_body(root: Root) -> None:
    root.sh("ignores", "exec <&-", *HEAD, "echo ok", "exec sleep 60")
    with answering(root) as (served, _), served.connect() as peer:
        peer.send(head_of("http", "/ignores", length=100) + b"some")
        peer.sock.settimeout(5)
        assert peer.sock.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
def test_half_a_body_does_not_pass_for_a_whole_one(root: Root, note: Path, protocol: str) -> None:
    root.sh("store", f"cat >/dev/null; echo stored >{note}", *HEAD)
    with answering(root, protocol) as (served, app), served.connect() as peer:
        peer.send(head_of(protocol, "/store", length=1000))
        within(lambda: app.turns.taken, "the script runs")
        if protocol == "fastcgi":
            peer.stdin(1, b"half", end=True)
        else:
            peer.send(b"half")
            peer.end()
        answer = peer.answer()
        assert answer.status == 400
        within(lambda: not app.turns.taken, "the script is gone")
    assert note.read_text() == ""


def test_several_bodies_at_the_same_time_over_one_connection(root: Root) -> None:
    root.sh("sizes", *HEAD, "wc -c")
    with answering(root, "fastcgi", threads=8) as (served, _), served.connect() as peer:
        for stream in range(1, 6):
            peer.send(head_of("fastcgi", "/sizes", length=100_000 * stream, keep=True, stream=stream))
        for _ in range(10):
            for stream in range(1, 6):
                peer.stdin(stream, bytes(10_000 * stream))
        for stream in range(1, 6):
            peer.stdin(stream, end=True)
        answers = peer.answers(5)
    assert {stream: int(answer.body) for stream, answer in answers.items()} == {n: 100_000 * n for n in range(1, 6)}


@pytest.mark.parametrize("ended", [False, True])
def test_a_body_of_which_no_more_comes_does_not_stop_the_reading(root: Root, note: Path, ended: bool) -> None:
    root.sh("late", f"while [ ! -s {note} ]; do sleep 0.02; done", *HEAD, "wc -c")
    root.sh("sizes", *HEAD, "wc -c")
    size = 200_000
    left = array("i", [1])
    with answering(root, "fastcgi") as (served, _), served.connect() as peer:
        peer.send(head_of("fastcgi", "/late", length=size, keep=True))
        peer.send(head_of("fastcgi", "/sizes", length=1, keep=True, stream=2))
        for _ in range(4):
            peer.stdin(1, bytes(size // 4))
        if ended:
            peer.stdin(1, end=True)
        within(lambda: ioctl(peer.sock, TIOCOUTQ, left) or not left[0], "all of the first body has come")
        # The pipe has 64 KiB at most, and so has the pump: the rest is more than may be held, from here on.
        served.pool.limits = served.pool.limits._replace(body_buffer=(size - 2 * 65_536) // 2)
        peer.stdin(2, b"x", end=True)
        answers = peer.answers(1)
        note.write_text("go\n")
        if not ended:
            peer.stdin(1, end=True)
        answers |= peer.answers(1)
    assert {stream: int(answer.body) for stream, answer in answers.items()} == {2: 1, 1: size}


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (ScriptLimits(script_timeout=0.3), "has run for 0.3 s"),
        (ScriptLimits(idle_timeout=0.3), "nothing for 0.3 s"),
    ],
)
def test_504_where_nothing_has_been_sent(root: Root, note: Path, limits: ScriptLimits, told: str) -> None:
    root.sh("sleeps", f"echo $$ >{note}", "sleep 60")
    with answering(root, limits=limits) as (served, _):
        with served.connect() as peer:
            assert peer.get("/sleeps").status == 504
        served.log.only(told)
        within(lambda: not alive(pid_in(note)), "the script is gone")


def test_a_script_that_says_something_now_and_then_is_not_idle(root: Root) -> None:
    root.sh("slowly", *HEAD, "for i in 1 2 3 4 5; do sleep 0.15; echo $i; done")
    with answering(root, limits=ScriptLimits(idle_timeout=0.5)) as (served, _), served.connect() as peer:
        assert peer.get("/slowly").body == b"1\n2\n3\n4\n5\n"


def test_408_where_the_client_sends_no_body(root: Root) -> None:
    root.sh("reads", "cat >/dev/null", *HEAD)
    with answering(root, limits=ScriptLimits(idle_timeout=0.3)) as (served, _), served.connect() as peer:
        peer.send(head_of("http", "/reads", length=10))
        assert peer.answer().status == 408


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_takes_its_time_has_no_more_than_the_script(root: Root, protocol: str) -> None:
    root.python("endless", "print('A: b\\n', flush=True)", "while True:\n os.write(1, bytes(65536))")
    with answering(root, protocol, limits=ScriptLimits(script_timeout=0.8)) as (served, app):
        with served.connect(receive_buffer=4096) as peer:
            peer.send(request(protocol, "/endless"))
            within(lambda: app.turns.taken, "the script runs")
            within(lambda: not app.turns.taken, "its turn is over", 5)
        served.log.only("in the time that its request has")


def test_a_script_whose_output_others_take_has_no_more_time_than_said(root: Root) -> None:
    """Its own children can do so, by /proc/self/fd/1."""
    lines = ["end = time.monotonic() + 0.5", "while time.monotonic() < end:\n os.write(1, b'x')", "time.sleep(30)"]
    root.python("taken", "os.write(1, b'A: b\\n\\n')", *lines)
    with answering(root, limits=ScriptLimits(script_timeout=1.0)) as (served, app):
        with served.connect() as peer:
            peer.send(request("http", "/taken"))
            assert peer.sock.recv(1), "the head has come"
            (process,) = app._running
            thieves = []
            for _ in range(3):
                with open(f"/proc/self/fd/{process.stdout}", "rb") as output:
                    thieves.append(subprocess.Popen(["cat"], stdin=output, stdout=subprocess.DEVNULL))
            with contextlib.suppress(ConnectionResetError):
                while peer.sock.recv(65536):
                    pass
        for thief in thieves:
            thief.wait(SECONDS)
        assert not served.log.failures
        served.log.only("has run for 1 s")


def test_an_answer_that_takes_too_long_is_cut(root: Root) -> None:
    root.sh("half", *HEAD, "echo part", "sleep 60")
    with answering(root, limits=ScriptLimits(script_timeout=0.8)) as (served, _), served.connect() as peer:
        peer.send(request("http", "/half"))
        data = peer.read()
        assert b"part" in data
        assert not data.endswith(b"0\r\n\r\n")


def test_a_script_that_does_not_heed_sigterm_is_killed_with_all_its_children(root: Root, note: Path) -> None:
    root.sh("stubborn", "trap '' TERM", f"sh -c 'trap \"\" TERM; echo $$ >{note}; while :; do sleep 0.1; done'")
    with answering(root, limits=ScriptLimits(script_timeout=0.8)) as (served, app):
        with served.connect() as peer:
            assert peer.get("/stubborn").status == 504
        pid = pid_in(note)
        assert alive(pid)
        assert app.turns.taken == 1, "its turn is not over"
        within(lambda: not alive(pid), "the child is killed")


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_goes_away_ends_a_silent_script(root: Root, note: Path, protocol: str, tcp: bool) -> None:
    root.sh("silent", f"echo $$ >{note}", "sleep 60")
    with answering(root, protocol, tcp=tcp) as (served, _):
        with served.connect() as peer:
            peer.send(request(protocol, "/silent"))
            pid = pid_in(note)
            if protocol == "scgi":
                reset(peer.sock)  # over TCP nothing less can be told from a client that says that its body is whole
        within(lambda: not alive(pid), "the script is gone")
        served.log.only("the peer has gone")


@pytest.mark.parametrize("lines", [[], [*HEAD, "echo part"]])
@pytest.mark.parametrize("keep", [False, True])
def test_an_aborted_request_ends_its_script(root: Root, note: Path, keep: bool, lines: list[str]) -> None:
    root.sh("aborted", *lines, f"echo $$ >{note}", "sleep 60")
    root.sh("other", *HEAD, "echo ok")
    with answering(root, "fastcgi") as (served, _), served.connect() as peer:
        peer.send(request("fastcgi", "/aborted", keep=keep))
        pid = pid_in(note)
        peer.send(rec(ABORT, 1))
        within(lambda: not alive(pid), "the script is gone")
        if keep:
            peer.next_answer()
            assert peer.keep_get("/other").body == b"ok\n"


@pytest.mark.parametrize("stream", [1, 2])
def test_an_abort_is_read_while_a_request_with_half_a_body_waits_for_its_turn(
    root: Root, note: Path, stream: int
) -> None:
    root.sh("turns", f"echo $$ >{note}", "sleep 60")
    with (
        answering(root, "fastcgi", limits=ScriptLimits(concurrency=1)) as (served, app),
        served.connect() as first,
        served.connect() as peer,
    ):
        (peer if stream == 1 else first).send(request("fastcgi", "/turns", keep=True))
        pid = pid_in(note)
        peer.send(head_of("fastcgi", "/turns", length=10, keep=True, stream=2) + rec(STDIN, 2, b"half"))
        within(lambda: app.turns.waiting == 1, "the other waits")
        peer.send(rec(ABORT, stream))
        if stream == 1:
            within(lambda: not alive(pid), "the first is ended", 5)
        else:
            within(lambda: not app.turns.waiting, "the other waits no more", 5)


@pytest.mark.parametrize(("protocol", "tcp"), [("scgi", True), ("scgi", False), ("uwsgi", False), ("http", False)])
def test_a_client_that_only_says_that_its_body_is_whole_gets_its_answer(root: Root, protocol: str, tcp: bool) -> None:
    root.sh("later", "cat >/dev/null", "sleep 0.6", *HEAD, "echo ok")
    with answering(root, protocol, tcp=tcp) as (served, _), served.connect() as peer:
        peer.send(request(protocol, "/later", b"body"))
        peer.end()
        assert peer.answer().body == b"ok\n"


def test_a_client_that_goes_away_during_the_answer(root: Root, note: Path) -> None:
    root.sh("endless", *HEAD, f"echo $$ >{note}", "exec cat /dev/zero")
    with answering(root) as (served, _):
        with served.connect() as peer:
            peer.send(request("http", "/endless"))
            assert peer.sock.recv(1000)
            pid = pid_in(note)
        within(lambda: not alive(pid), "the script is gone")
