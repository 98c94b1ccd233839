"""The pid file: one server's at a time, and nobody else's is overwritten or removed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from gateways.errors import ConfigError
from gateways.server.pidfile import PidFile
from tests.server.forks import child, ended
from tests.server.processes import gone, run_command, served
from tests.servers import wait_until


def refusal(path: Path) -> str:
    """What another process hears that wants the file; "" where it gets it. It leaves the file."""
    heard, out = os.pipe()

    def body() -> None:
        try:
            PidFile(str(path))
        except ConfigError as error:
            os.write(out, str(error).encode())

    try:
        assert ended(child(body)) == 0
        os.close(out)
        return os.read(heard, 4096).decode()
    finally:
        os.close(heard)


def test_written_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("1234567890\nand more\n")  # of a server that was killed
    file = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    assert not os.get_inheritable(file.fd)
    file.close()
    file.close()
    assert not path.exists()


def test_another_ones(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(str(path))
    assert refusal(path) == (
        f"the pid file {path} is that of process {os.getpid()}, which runs; stop that one, or choose another file"
    )
    assert path.read_text() == f"{os.getpid()}\n"
    os.truncate(path, 0)
    assert "is that of another process, which runs" in refusal(path)
    file.close()
    assert refusal(path) == ""


def test_a_number_that_another_process_has_by_now(tmp_path: Path) -> None:
    """As after a power cut, and in each new container: nobody holds the file."""
    path = tmp_path / "pid"
    path.write_text(f"{os.getppid()}\n")
    PidFile(str(path)).close()
    assert not path.exists()


def test_a_file_that_has_taken_its_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(str(path))
    path.unlink()
    path.write_text("another's\n")
    file.close()
    assert path.read_text() == "another's\n"


def test_a_worker_lets_go_of_it(tmp_path: Path) -> None:
    """Neither its end nor its life is the file's."""
    path = tmp_path / "pid"
    file = PidFile(str(path))
    assert ended(child(file.let_go)) == 0
    assert "which runs" in refusal(path)
    file.close()


def test_handed_over(tmp_path: Path) -> None:
    """The same process, another program: also where that one may not open the file any more."""
    path = tmp_path / "pid"
    file = PidFile(str(path))
    path.chmod(0)
    again = PidFile(str(path), os.dup(file.fd))
    assert path.read_text() == f"{os.getpid()}\n"
    again.close()
    assert not path.exists()
    file.let_go()


def test_a_device_is_written_and_stays() -> None:
    file = PidFile("/dev/null")
    PidFile("/dev/null").close()
    file.close()
    assert Path("/dev/null").exists()


@pytest.mark.parametrize(("name", "why"), [("none/pid", "No such file or directory"), (".", "Is a directory")])
def test_cannot_be_written(tmp_path: Path, name: str, why: str) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigError, match=f"cannot write the pid file {path}: {why}; choose another one"):
        PidFile(str(path))


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int, __: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "pid"
    PidFile(str(path)).close()
    assert not path.exists()


def test_two_servers() -> None:
    """The second one starts nothing; and the file goes with the first one, not with its workers."""
    with served("--pid-file", "pid") as server:
        path = server.directory / "pid"
        other = str(server.directory / "other.sock")
        refused = run_command(
            "serve", "steered_app:app", "--fastcgi", other, "--control", "off", "--pid-file", str(path)
        )
        assert refused.returncode == 2
        assert f"the pid file {path} is that of process {server.pid}, which runs" in refused.stderr
        assert path.read_text() == f"{server.pid}\n"
        (worker,) = server.workers()
        with server.begin("/wait") as peer:
            server.kill()
            assert refusal(path) == "", "the worker is still there"
            server.touch("go")
            assert peer.answer().status == 200
        wait_until(lambda: gone(worker), "the worker has ended")
