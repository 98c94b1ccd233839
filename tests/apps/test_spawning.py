"""posix_spawn, as far as the C library has it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.apps.spawning import Spawner, make_spawner


@pytest.fixture
def spawner() -> Spawner:
    made = make_spawner()
    if made is None:
        pytest.skip("this C library cannot do it")
    return made


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def output(spawner: Spawner, pipe: tuple[int, int], command: bytes, directory: Path) -> bytes:
    pid = spawner.spawn([b"/bin/sh", b"-c", command], [b"A=b"], bytes(directory), pipe[1], pipe[1], pipe[1])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return os.read(pipe[0], 65_536)


def test_directory_environment_and_session(spawner: Spawner, pipe: tuple[int, int], tmp_path: Path) -> None:
    told = output(spawner, pipe, b'echo "$A $(pwd) $$"; ps -o sid= -p $$', tmp_path).split()
    assert told[:2] == [b"b", bytes(tmp_path)]
    assert told[2] == told[3]


def test_no_descriptor_is_left_open(spawner: Spawner, pipe: tuple[int, int], tmp_path: Path) -> None:
    os.set_inheritable(pipe[0], True)
    assert output(spawner, pipe, b"cd /proc/$$/fd; echo *", tmp_path).split()[:3] == [b"0", b"1", b"2"]
    assert len(output(spawner, pipe, b"cd /proc/$$/fd; echo *", tmp_path).split()) <= 4


def test_ignored_signals_are_not_passed_on(spawner: Spawner, pipe: tuple[int, int], tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        told = output(spawner, pipe, b"grep SigIgn /proc/self/status", tmp_path).split()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not int(told[1], 16) & 1


def test_the_same_descriptors_in_another_directory(spawner: Spawner, pipe: tuple[int, int], tmp_path: Path) -> None:
    for directory in (tmp_path, Path("/"), tmp_path):
        assert output(spawner, pipe, b"pwd", directory).strip() == bytes(directory)


@pytest.mark.parametrize(
    ("argv", "directory", "error"),
    [
        ([b"/no/such/program"], b"/", FileNotFoundError),
        ([b"/bin/sh"], b"/no/such/directory", FileNotFoundError),
        ([b"/"], b"/", PermissionError),
        ([b"/bin/sh", b"a\0b"], b"/", ValueError),
    ],
)
def test_what_cannot_be_started(
    spawner: Spawner, pipe: tuple[int, int], argv: list[bytes], directory: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        spawner.spawn(argv, [], directory, pipe[1], pipe[1], pipe[1])
