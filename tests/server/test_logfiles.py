"""Where lines go: whole, at once, and without harm to a request, whatever becomes of the file, the pipe or syslog."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateways.errors import ConfigError
from gateways.server.logfiles import (
    ERROR,
    FACILITIES,
    LogTarget,
    SyslogTarget,
    open_target,
    reopen,
    syslog_facility,
)
from tests.server.pools import within

SECONDS = 60.0
PATIENCE = 1.0  # how long a line waits

Open = Callable[..., LogTarget]


@pytest.fixture
def open_log() -> Iterator[Open]:
    """``open_target``; what it opened is closed after the test."""
    with contextlib.ExitStack() as stack:

        def opened(spec: str, *, stream: int = 1, kind: str = "access", **rest: str) -> LogTarget:
            target = open_target(spec, stream=stream, kind=kind, **rest)
            if spec != "-":
                stack.callback(target.close)
            return target

        yield opened


class Pipe:
    """A pipe with a target at its end."""

    def __init__(self, *, blocking: bool = False) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(writer, blocking)
        self.target = LogTarget(writer, "access")
        self.said: list[str] = []
        self.target.complain = self.said.append

    def fill(self) -> int:
        """Write until nothing more goes in; returns how much went."""
        blocking = os.get_blocking(self.target.fd)
        os.set_blocking(self.target.fd, False)
        size = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                size += os.write(self.target.fd, b"." * 4096)
        os.set_blocking(self.target.fd, blocking)
        return size

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = os.read(self.reader, size - len(data))
            assert got, "the pipe has ended"
            data += got
        return data

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close(self) -> None:
        self.close_reader()
        self.target.close()


@pytest.fixture(params=[False, True], ids=["non-blocking", "blocking"])
def pipe(request: pytest.FixtureRequest) -> Iterator[Pipe]:
    made = Pipe(blocking=request.param)
    yield made
    made.close()


def python(code: str, *arguments: str, streams: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own, redirected as ``streams`` says in a shell."""
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file(open_log: Open, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"old\n")
    target = open_log(str(path))
    target.write(b"one\n")
    assert path.read_bytes() == b"old\none\n"
    target.write(b"two\n")
    assert path.read_bytes() == b"old\none\ntwo\n"
    assert target.path == str(path)
    assert target.lost == 0


def test_a_new_file_is_not_for_everyone_and_not_inherited(open_log: Open, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        target = open_log(str(tmp_path / "access.log"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.fstat(target.fd).st_mode) == 0o640
    assert not os.get_inheritable(target.fd)
    assert fcntl.fcntl(target.fd, fcntl.F_GETFL) & os.O_APPEND


@pytest.mark.parametrize(
    ("name", "why"),
    [("none/access.log", "No such file or directory"), (".", "Is a directory"), ("pipe", "nobody reads")],
)
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = str(tmp_path / name)
    with pytest.raises(ConfigError, match=f"cannot open the slow log {re.escape(path)}: {why}"):
        open_target(path, stream=2, kind="slow")


@pytest.mark.parametrize(("kind", "blocking"), [("access", False), ("error", True)])
def test_a_named_pipe(open_log: Open, tmp_path: Path, kind: str, *, blocking: bool) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        target = open_log(str(path), kind=kind)
        assert os.get_blocking(target.fd) is blocking
        target.write(b"a line\n")
        assert os.read(reader, 100) == b"a line\n"
    finally:
        os.close(reader)


def test_reopened_under_the_same_number(open_log: Open, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    target = open_log(str(path))
    number = target.fd
    target.write(b"one\n")
    path.rename(tmp_path / "access.log.1")
    target.write(b"two\n")
    fd = reopen(target)
    assert fd not in (-1, number)
    target.write(b"three\n")
    target.replace(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    target.write(b"four\n")
    assert target.fd == number
    assert not os.get_inheritable(number)
    assert (tmp_path / "access.log.1").read_bytes() == b"one\ntwo\nthree\n"
    assert path.read_bytes() == b"four\n"


def test_a_file_that_cannot_be_reopened_is_kept(open_log: Open, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    target = open_log(str(folder / "access.log"))
    folder.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="cannot open the access log"):
        reopen(target)
    target.write(b"still\n")
    assert (tmp_path / "moved" / "access.log").read_bytes() == b"still\n"


def test_reopened_while_threads_write_no_line_is_lost(open_log: Open, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    target = open_log(str(path))
    done = threading.Event()
    written = [0] * 4

    def write(number: int) -> None:
        while not done.is_set():
            target.write(b"%d %d\n" % (number, written[number]))
            written[number] += 1

    def more_than(count: int) -> Callable[[], bool]:
        return lambda: sum(written) > count

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(20):
            within(more_than(sum(written) + 20), "lines")
            path.rename(tmp_path / f"access.log.{turn}")
            target.replace(reopen(target))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{number} {count}" for number in range(4) for count in range(written[number]))


def test_moved_to_a_standard_descriptor(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from gateways.server.logfiles import open_target, reopen
path, moved = sys.argv[1:]
target = open_target(path, stream=2, kind="error")
target.move(2)
print("from print", file=sys.stderr)
target.write(b"a line\\n")
subprocess.run(["sh", "-c", "echo from a program >&2"], check=True)
os.rename(path, moved)
target.replace(reopen(target))
print("after", file=sys.stderr)
subprocess.run(["sh", "-c", "echo program after >&2"], check=True)
print(target.fd)
"""
    path, moved = tmp_path / "error.log", tmp_path / "error.log.1"
    done = python(code, str(path), str(moved))
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
    assert moved.read_text() == "from print\na line\nfrom a program\n"
    assert path.read_text() == "after\nprogram after\n"


# -- many writers -----------------------------------------------------------------------------------------------------

WRITER = """
import os, sys, threading
from gateways.server.logfiles import LogTarget, open_target
target = open_target(sys.argv[1], stream=1, kind="access")
def write(thread):
    for number in range(int(sys.argv[2])):
        target.write(b"%d-%d-%d %s\\n" % (os.getpid(), thread, number, b"x" * (number * 97 % 5000)))
threads = [threading.Thread(target=write, args=(thread,)) for thread in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
WHOLE = re.compile(r"(\d+)-(\d)-(\d+) (x*)")


def check_whole(text: str) -> list[tuple[int, int, int]]:
    """Return process, thread and number of each line; fails where one is torn."""
    found = []
    assert text.endswith("\n")
    for line in text.splitlines():
        match = WHOLE.fullmatch(line)
        assert match is not None, line[:100]
        assert len(match[4]) == int(match[3]) * 97 % 5000
        found.append((int(match[1]), int(match[2]), int(match[3])))
    return found


def test_lines_of_threads_and_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), "300"]) for _ in range(3)]
    for process in processes:
        assert process.wait(SECONDS) == 0
    found = check_whole(path.read_text())
    assert sorted(found) == [
        (pid, thread, number)
        for pid in sorted(process.pid for process in processes)
        for thread in range(3)
        for number in range(300)
    ]


def test_a_killed_writer_has_lost_nothing_that_it_has_written(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), "100000000"])
    try:
        within(lambda: path.exists() and path.stat().st_size > 1_000_000, "lines", SECONDS)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
    # Linux ends a write at a page's end when its process is killed; only the last line can be cut so.
    whole, newline, _ = path.read_text().rpartition("\n")
    found = check_whole(whole + newline)
    for thread in range(3):
        numbers = [number for _, writer, number in found if writer == thread]
        assert numbers == list(range(len(numbers)))


def test_lines_of_threads_do_not_mix_in_a_pipe_that_takes_them_in_parts(pipe: Pipe) -> None:
    def write(name: bytes) -> None:
        for _ in range(10):
            pipe.target.write(name * 100_000 + b"\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    lines = pipe.read(30 * 100_001).decode().split("\n")
    for thread in threads:
        thread.join()
    assert sorted(lines) == ["", *(name * 100_000 for name in "abc" for _ in range(10))]
    assert pipe.target.lost == 0


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_full_disk(open_log: Open) -> None:
    target = open_log("/dev/full")
    said: list[str] = []
    target.complain = said.append
    for _ in range(100):
        target.write(b"a line\n")
    assert target.lost == 100
    assert said == ["the access log loses lines: No space left on device; 1 lost so far by this process"]


def test_without_a_place_to_complain(open_log: Open) -> None:
    target = open_log("/dev/full")
    target.write(b"a line\n")
    assert target.lost == 1


def test_a_file_that_fills_in_the_middle_of_a_line(tmp_path: Path) -> None:
    code = """
import resource, sys
from gateways.server.logfiles import open_target
target = open_target(sys.argv[1], stream=1, kind="access")
target.complain = print
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
limit(25)
target.write(b"a" * 19 + b"\\n")
target.write(b"b" * 19 + b"\\n")
target.write(b"c" * 19 + b"\\n")
print(target.lost)
limit(36)
target.write(b"d" * 19 + b"\\n")
limit(most)
target.write(b"e" * 19 + b"\\n")
target.write(b"f" * 19 + b"\\n")
limit(80)
target.write(b"g" * 19 + b"\\n")
print(target.lost)
"""
    path = tmp_path / "access.log"
    done = python(code, str(path))
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "the access log loses lines: File too large; 1 lost so far by this process",
        "2",
        "the access log is written again; 3 lines were lost by this process",
        "4",
    ]
    # What is torn stands alone: no line begins in the middle of another.
    assert path.read_text().split("\n") == ["a" * 19, "b" * 5, "d" * 10, "e" * 19, "f" * 19, "g" * 3]


def test_a_pipe_that_nobody_reads(pipe: Pipe) -> None:
    pipe.close_reader()
    pipe.target.write(b"a line\n")
    pipe.target.write(b"a line\n")
    assert pipe.target.lost == 2
    assert pipe.said == ["the access log loses lines: Broken pipe; 1 lost so far by this process"]


def test_a_full_pipe_whose_reader_goes_on(pipe: Pipe) -> None:
    size = pipe.fill()
    writer = threading.Thread(target=pipe.target.write, args=(b"a line\n",))
    writer.start()
    try:
        assert pipe.read(size) == b"." * size
        assert pipe.read(7) == b"a line\n"
    finally:
        writer.join()
    assert pipe.target.lost == 0


def test_a_pipe_whose_reader_stands_still(pipe: Pipe) -> None:
    size = pipe.fill()
    start = time.monotonic()
    pipe.target.write(b"waits\n")
    waited = time.monotonic() - start
    assert waited >= PATIENCE * 0.9
    assert waited < SECONDS
    start = time.monotonic()
    for _ in range(100):
        pipe.target.write(b"does not wait\n")
    assert time.monotonic() - start < PATIENCE * 0.9
    assert pipe.target.lost == 101
    pipe.read(size)
    pipe.target.write(b"is read\n")
    assert pipe.read(8) == b"is read\n"
    assert [line.split(";")[0] for line in pipe.said] == [
        "the access log loses lines: nothing is taken any more",
        "the access log is written again",
    ]


def test_a_line_that_was_torn_in_a_pipe_is_ended(pipe: Pipe) -> None:
    os.set_blocking(pipe.target.fd, False)  # a blocking write of more than PIPE_BUF cannot be left
    size = pipe.fill()
    pipe.read(8192)
    pipe.target.write(b"t" * 20_000 + b"\n")
    assert pipe.target.lost == 1
    rest = pipe.read(size)
    torn = rest.count(b"t")
    assert torn > 0
    pipe.target.write(b"next\n")
    assert pipe.read(6) == b"\nnext\n"


def test_a_thread_that_stands_still_holds_nobody_up_for_long(pipe: Pipe) -> None:
    pipe.fill()
    threads = [threading.Thread(target=pipe.target.write, args=(b"a line\n",)) for _ in range(8)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 4 * PATIENCE
    assert pipe.target.lost == 8


# -- standard streams -------------------------------------------------------------------------------------------------


def test_a_standard_stream_is_the_descriptor() -> None:
    code = """
from gateways.server.logfiles import open_target, reopen
for stream in (1, 2):
    target = open_target("-", stream=stream, kind="access")
    target.write(b"to %d\\n" % stream)
    assert (target.fd, target.path, reopen(target)) == (stream, "", -1)
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "to 1\n", "to 2\n")


def test_stderr_closed(tmp_path: Path) -> None:
    code = """
import os, socket, sys
from gateways.server.logfiles import open_target
target = open_target("-", stream=2, kind="error")
with socket.socket() as sock:
    assert sock.fileno() != 2
    target.write(b"nobody sees this\\n")
assert os.get_inheritable(2)
print(target.fd, target.lost)
"""
    done = python(code, streams="2>&-")
    assert (done.returncode, done.stdout) == (0, "2 0\n")


def test_stdout_closed() -> None:
    code = """
import sys
from gateways.errors import ConfigError
from gateways.server.logfiles import open_target
try:
    open_target("-", stream=1, kind="access")
except ConfigError as error:
    sys.stderr.write(str(error))
"""
    done = python(code, streams=">&-")
    assert done.stderr == "the access log is to go to descriptor 1, which is closed; give a file"


def test_a_file_takes_no_number_of_a_stream(tmp_path: Path) -> None:
    code = """
import os, sys
from gateways.server.logfiles import open_target
target = open_target(sys.argv[1], stream=1, kind="access")
target.write(b"%d\\n" % target.fd)
assert not os.get_inheritable(target.fd)
target.move(2)
target.move(2)
os.write(2, b"both\\n")
"""
    path = tmp_path / "access.log"
    python(code, str(path), streams="<&- >&- 2>&-")
    first, second = path.read_text().splitlines()
    assert int(first) >= 3
    assert second == "both"


# -- syslog -----------------------------------------------------------------------------------------------------------


class Daemon:
    """A syslog daemon."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(SECONDS)

    def receive(self) -> bytes:
        return self.socket.recv(65_536)

    def end(self) -> None:
        """End; its socket's file goes too."""
        self.socket.close()
        Path(self.path).unlink(missing_ok=True)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="gateways-") as folder:
        made = Daemon(f"{folder}/log")
        yield made
        made.end()


def syslog(open_log: Open, daemon: Daemon, spec: str = "syslog") -> SyslogTarget:
    target = open_log(spec, syslog=daemon.path)
    assert isinstance(target, SyslogTarget)
    return target


@pytest.mark.parametrize(
    ("spec", "priority"),
    [("syslog", 30), ("syslog:daemon", 30), ("syslog:user", 14), ("syslog:LOCAL7", 190), ("syslog:local0", 134)],
)
def test_a_line_in_syslog(open_log: Open, daemon: Daemon, spec: str, priority: int) -> None:
    target = syslog(open_log, daemon, spec)
    target.write(b"GET /\n")
    assert daemon.receive() == b"<%d>gateways[%d]: GET /" % (priority, os.getpid())
    assert (target.path, reopen(target)) == ("", -1)
    assert not os.get_inheritable(target.fd)


def test_each_line_is_a_message_with_its_severity(open_log: Open, daemon: Daemon) -> None:
    syslog(open_log, daemon).send(ERROR, b"failed\n  | one\n  | two\n")
    assert [daemon.receive().partition(b": ")[2] for _ in range(3)] == [b"failed", b"  | one", b"  | two"]
    syslog(open_log, daemon).send(ERROR, b"x")
    assert daemon.receive().startswith(b"<27>")


def test_no_control_character_reaches_syslog(open_log: Open, daemon: Daemon) -> None:
    syslog(open_log, daemon).write("a\rb\0c\x1b[2Jd\te\x7ff\x85g caf\xe9\n".encode())
    shown = b"a\\x0db\\x00c\\x1b[2Jd\\x09e\\x7ff\\xc2\\x85g caf\xc3\xa9"
    assert daemon.receive().partition(b": ")[2] == shown


@pytest.mark.parametrize("text", ["x" * 100_000, "\xe9" * 50_000, "x" + "\xe9" * 50_000, "\0" * 30_000])
def test_a_long_message_is_cut(open_log: Open, daemon: Daemon, text: str) -> None:
    syslog(open_log, daemon).write(text.encode())
    message = daemon.receive()
    assert 8188 <= len(message) <= 8192
    assert message.decode().endswith("...")


def test_the_process_that_writes_is_named(open_log: Open, daemon: Daemon) -> None:
    target = syslog(open_log, daemon)
    pid = os.fork()
    if pid == 0:
        try:
            target.write(b"child\n")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert daemon.receive() == b"<30>gateways[%d]: child" % pid


def test_a_daemon_that_was_started_anew(open_log: Open, daemon: Daemon) -> None:
    target = syslog(open_log, daemon)
    target.write(b"one\n")
    daemon.end()
    again = Daemon(daemon.path)
    try:
        target.write(b"two\n")
        assert again.receive().endswith(b": two")
        assert target.lost == 0
    finally:
        again.end()


def test_a_daemon_that_is_gone(open_log: Open, daemon: Daemon) -> None:
    target = syslog(open_log, daemon)
    said: list[str] = []
    target.complain = said.append
    daemon.end()
    for _ in range(3):
        target.write(b"lost\n")
    assert target.lost == 3
    again = Daemon(daemon.path)
    try:
        target.write(b"back\n")
        assert again.receive().endswith(b": back")
    finally:
        again.end()
    assert [line.split(";")[0] for line in said] == [
        "the access log loses lines: No such file or directory",
        "the access log is written again",
    ]


def test_a_daemon_that_stands_still(open_log: Open, daemon: Daemon) -> None:
    target = syslog(open_log, daemon)
    start = time.monotonic()
    sent = 0
    while not target.lost:
        target.write(b"a line\n")
        sent += 1
        assert time.monotonic() - start < SECONDS
    start = time.monotonic()
    for _ in range(100):
        target.write(b"a line\n")
    assert time.monotonic() - start < PATIENCE * 0.9
    assert target.lost == 101
    for _ in range(sent - 1):
        assert daemon.receive().endswith(b": a line")
    target.write(b"goes\n")
    assert daemon.receive().endswith(b": goes")


def test_without_a_daemon(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot reach syslog at .*/log for the access log: No such file"):
        open_target("syslog", stream=1, kind="access", syslog=str(tmp_path / "log"))


@pytest.mark.parametrize("spec", ["syslog:", "syslog:kern", "syslog:local8"])
def test_a_facility_that_is_none(spec: str) -> None:
    with pytest.raises(ConfigError, match="local0, local1") as caught:
        open_target(spec, stream=1, kind="access")
    assert repr(spec) in str(caught.value)


def test_what_is_syslog() -> None:
    assert syslog_facility("syslog", "access") == "daemon"
    assert syslog_facility("syslog:Mail", "access") == "mail"
    for spec in ("-", "/var/log/syslog", "/a/syslog:user"):
        assert syslog_facility(spec, "access") == ""
    assert all(syslog_facility(f"syslog:{name}", "error") == name for name in FACILITIES)
