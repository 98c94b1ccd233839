"""The log files of one server, in a process of their own: an error log takes the place of stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateways.errors import ConfigError
from gateways.server.outlets import Outlets
from gateways.settings import Settings
from tests.server.forks import child, ended
from tests.server.processes import run_command


def apart(body: Callable[[], object]) -> None:
    """Have ``body`` run in a process of its own, where it must not fail."""
    assert ended(child(body)) == 0


def settings(**given: Any) -> Settings:  # noqa: ANN401  (any of them)
    return Settings("shop:app", **given)


def lines(path: Path) -> list[str]:
    """What a log says, without time and process."""
    return [line.partition("] ")[2] or line for line in path.read_text(encoding="utf-8").splitlines()]


def test_by_default_everything_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        outlets = Outlets(settings())
        assert outlets.fds == ()
        assert outlets.others() == {}
        assert outlets.reopen() == ([], [])
        assert outlets.access is None
        outlets.log.warning("a warning")
        outlets.slow.stacks("http GET /", 1.5, 77, "Thread 0x1", "--slow-request")

    apart(body)
    told = capfd.readouterr().err
    assert "WARNING a warning\n" in told
    assert "http GET /: 1.500 s in worker 77 (--slow-request)\n  | Thread 0x1\n" in told


def test_what_applications_print_belongs_to_the_error_log(tmp_path: Path) -> None:
    """Also what the programs print that they start."""
    path = tmp_path / "error.log"

    def body() -> None:
        outlets = Outlets(settings(error_log=str(path), log_level="warning"))
        assert outlets.fds == (2, 1)
        assert outlets.others() == {}, "they are there anyway"
        assert os.get_inheritable(2)
        assert os.get_inheritable(1)
        outlets.log.info("nobody wants to know")
        outlets.log.warning("a warning")
        os.write(2, b"from C\n")
        os.write(1, b"from C by stdout\n")
        subprocess.run([sys.executable, "-c", "import sys; print('from a program', file=sys.stderr)"], check=True)
        subprocess.run([sys.executable, "-c", "print('by stdout')"], check=True)

    apart(body)
    assert lines(path) == ["WARNING a warning", "from C", "from C by stdout", "from a program", "by stdout"]


def test_where_the_access_log_is_stdout_it_has_that_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "error.log"

    def body() -> None:
        outlets = Outlets(settings(error_log=str(path), access_log="-"))
        assert outlets.fds == (2,)
        assert outlets.access is not None
        outlets.access.write(b"GET /\n")

    apart(body)
    assert lines(path) == []
    assert capfd.readouterr().out == "GET /\n"


def test_all_are_moved_and_opened_anew(tmp_path: Path) -> None:
    """In the master under their old numbers; the workers get descriptors of the new files, in the same order."""
    paths = {kind: tmp_path / f"{kind}.log" for kind in ("error", "access", "slow")}

    def body() -> None:
        outlets = Outlets(settings(**{f"{kind}_log": str(path) for kind, path in paths.items()}))
        access = outlets.access
        assert access is not None
        fds = outlets.fds
        assert len(set(fds)) == 4
        assert fds[:2] == (2, 1)
        assert fds[2] == access.fd
        assert outlets.others() == {"access log": fds[2], "slow log": fds[3]}

        def write(text: str) -> None:
            outlets.log.warning(text)
            access.write(f"{text}\n".encode())
            outlets.slow.stacks(text, 1.0, 7, "stacks", "--slow-request")

        for number in range(3):
            write(f"turn {number}")
            for path in paths.values():
                path.rename(path.with_suffix(f".{number}"))
            write(f"moved {number}")
            new, problems = outlets.reopen()
            assert len(new) == 4
            assert not problems
            for fd, old, path in zip(new, fds, [paths["error"], *paths.values()], strict=True):
                assert os.fstat(fd).st_ino == os.fstat(old).st_ino == path.stat().st_ino
                assert not os.get_inheritable(fd)
                assert os.get_inheritable(old) == (old in (1, 2))
                os.write(fd, b"by a worker\n")
                os.close(fd)
            assert outlets.fds == fds

    apart(body)
    for number in range(3):
        said = ["by a worker"] if number else []
        access = (tmp_path / f"access.{number}").read_text().splitlines()
        assert access == [*said, f"turn {number}", f"moved {number}"]
        error = lines(tmp_path / f"error.{number}")
        assert error[-2:] == [f"WARNING turn {number}", f"WARNING moved {number}"]
        assert (tmp_path / f"slow.{number}").read_text().count("s in worker 7") == 2
    assert paths["access"].read_text() == "by a worker\n"


def test_a_file_that_cannot_be_opened_anew(tmp_path: Path) -> None:
    """The old one is kept, here and in the workers, and the log says so; the others are opened."""
    directory = tmp_path / "logs"
    directory.mkdir()
    error, access, slow = tmp_path / "error.log", directory / "access.log", tmp_path / "slow.log"

    def body() -> None:
        outlets = Outlets(settings(error_log=str(error), access_log=str(access), slow_log=str(slow)))
        assert outlets.access is not None
        directory.rename(tmp_path / "moved")
        slow.rename(tmp_path / "slow.old")
        for _ in range(3):
            new, problems = outlets.reopen()
            assert os.fstat(new[2]).st_ino == os.fstat(outlets.fds[2]).st_ino
            (problem,) = problems
            assert problem.startswith(f"cannot open the access log {access}: ")
            outlets.access.write(b"kept\n")
            os.write(new[2], b"by a worker\n")
            for fd in new:
                os.close(fd)
        directory.mkdir()
        for fd in outlets.reopen()[0]:
            os.close(fd)
        outlets.access.write(b"new\n")

    apart(body)
    assert (tmp_path / "moved" / "access.log").read_text() == "kept\nby a worker\n" * 3
    assert access.read_text() == "new\n"
    assert slow.exists()
    said = lines(error)
    assert len(said) == 3
    assert all("cannot open the access log" in line and "the old file is kept" in line for line in said)


def test_streams_and_syslog_are_not_opened_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        outlets = Outlets(settings(access_log="-"))
        assert outlets.access is not None
        assert outlets.fds == ()
        assert outlets.reopen() == ([], [])
        outlets.access.write(b"a line\n")

    apart(body)
    assert capfd.readouterr().out == "a line\n"


@pytest.mark.parametrize("kind", ["error", "access", "slow"])
def test_a_file_that_cannot_be_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "log"

    def body() -> None:
        before = os.fstat(2).st_ino
        with pytest.raises(ConfigError, match=f"cannot open the {kind} log {path}"):
            Outlets(settings(**{f"{kind}_log": str(path)}))
        assert os.fstat(2).st_ino == before

    apart(body)


@pytest.mark.parametrize("kind", ["access", "slow"])
def test_the_next_program_goes_on_with_the_old_file(kind: str, tmp_path: Path) -> None:
    """Where the path cannot be opened any more: what is being served goes on."""
    path = tmp_path / "logs" / "log"
    path.parent.mkdir()
    error = tmp_path / "error.log"
    given = {f"{kind}_log": str(path), "error_log": str(error)}

    def body() -> None:
        first = Outlets(settings(**given))
        kept = first.others()
        (fd,) = kept.values()
        os.set_inheritable(fd, True)  # as for the exec
        path.parent.rename(tmp_path / "moved")
        second = Outlets(settings(**given), kept)
        assert second.fds == (2, 1, fd)
        assert not os.get_inheritable(fd)
        if second.access is not None:
            second.access.write(b"a line\n")
        else:
            second.slow.stacks("http GET /", 1.0, 7, "stacks", "--slow-request")
        path.parent.mkdir()
        for new in second.reopen()[0]:
            os.close(new)

    apart(body)
    assert (tmp_path / "moved" / "log").read_text()
    assert path.exists()
    (said,) = lines(error)
    assert f"cannot open the {kind} log" in said
    assert "the old file is kept" in said


def test_the_next_program_opens_what_it_can(tmp_path: Path) -> None:
    """And closes what it has been given."""
    path = tmp_path / "access.log"

    def body() -> None:
        first = Outlets(settings(access_log=str(path)))
        kept = first.others()
        before = os.fstat(kept["access log"]).st_ino
        path.rename(tmp_path / "old")
        second = Outlets(settings(access_log=str(path)), kept)
        assert second.access is not None
        assert os.fstat(second.access.fd).st_ino == path.stat().st_ino != before
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(kept["access log"])

    apart(body)


def test_the_next_program_has_no_access_log_any_more(tmp_path: Path) -> None:
    def body() -> None:
        kept = Outlets(settings(access_log=str(tmp_path / "a"), slow_log=str(tmp_path / "s"))).others()
        second = Outlets(settings(), kept)
        assert second.access is None
        for fd in kept.values():
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    apart(body)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("kind", ["access", "slow"])
def test_lines_that_are_lost_are_told(kind: str, tmp_path: Path) -> None:
    error = tmp_path / "error.log"

    def body() -> None:
        outlets = Outlets(settings(**{f"{kind}_log": "/dev/full", "error_log": str(error)}))
        for _ in range(3):
            if outlets.access is not None:
                outlets.access.write(b"a line\n")
            else:
                outlets.slow.stacks("http GET /", 1.0, 7, "stacks", "--slow-request")

    apart(body)
    (said,) = lines(error)
    assert f"the {kind} log loses lines" in said


# -- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "options", "code", "words"),
    [
        ("none:app", [], 2, "no module named 'none'"),
        ("none:app", ["--preload"], 2, "no module named 'none'"),
        ("bad:app", [], 3, "importing bad failed with ZeroDivisionError"),
        ("bad:app", ["--preload"], 3, "importing bad failed with ZeroDivisionError"),
        ("good:app", ["--fastcgi", "none/socket"], 2, "none is not a directory; make it (mkdir -p "),
        ("good:app", ["--slow-log", "none/slow"], 2, "none/slow: No such file or directory"),
    ],
)
def test_why_a_start_fails_is_told_to_who_starts(
    tmp_path: Path, app: str, options: list[str], code: int, words: str
) -> None:
    """In one sentence on stderr, and in the log, wherever that is."""
    (tmp_path / "bad.py").write_text("1 / 0\n")
    (tmp_path / "good.py").write_text("def app(environ, start_response): ...\n")
    log = tmp_path / "error.log"
    where = ["--scgi", str(tmp_path / "s"), "--control", "off", "--chdir", str(tmp_path), "--error-log", str(log)]
    done = run_command("serve", app, *where, *options)
    assert done.returncode == code
    assert done.stderr.startswith("gateways: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert [words in line for line in log.read_text().splitlines() if " ERROR " in line] == [True]


def test_who_starts_is_let_go_when_the_server_is_ready(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("def app(environ, start_response): ...\n")
    log = tmp_path / "error.log"
    where = ["--scgi", str(tmp_path / "s"), "--control", "off", "--chdir", str(tmp_path), "--error-log", str(log)]
    command = [sys.executable, "-m", "gateways", "serve", "good:app", "--workers", "2", *where]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.read() == b"", "until the last one has closed it"
            assert log.read_text().count("is ready") == 2
        finally:
            process.terminate()
        assert process.wait(60) == 0
